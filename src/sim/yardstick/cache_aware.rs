//! Cache-aware routing with a switch, as in the SGLang router (`cache_aware`, its defaults).
//!
//! ```text
//! out of balance:  most - least in flight > 32  and  most > 1.5 * least      -> fewest in flight
//! otherwise:       best match > 0.5 of the prompt                            -> there
//!                  otherwise                                                 -> where least is held
//! ```
//!
//! Left out: the match is by blocks and not by characters, and what a node holds is bounded for each node and not for all
//! together. Where nothing is held anywhere, the fewest in flight are asked.

use super::remembered::Remembered;
use crate::policy::{Context, Expected, Policy};

/// How much more may be in flight at one node than at another.
const BALANCE_ABS: u32 = 32;
/// How many times more.
const BALANCE_REL: f64 = 1.5;
/// Share of the prompt from which on a match counts.
const MATCH_MIN: f64 = 0.5;

/// Best match unless out of balance.
#[derive(Debug)]
pub struct CacheAware {
    remembered: Remembered,
}

impl CacheAware {
    /// Before nodes that hold so many tokens each.
    pub fn new(tokens: u64) -> CacheAware {
        CacheAware { remembered: Remembered::new(tokens) }
    }
}

impl Policy for CacheAware {
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        let loads = || ctx.candidates.iter().map(|candidate| candidate.in_flight);
        let (least, most) = (loads().min().unwrap_or_default(), loads().max().unwrap_or_default());
        let out_of_balance = most - least > BALANCE_ABS && f64::from(most) > BALANCE_REL * f64::from(least);
        let held: Vec<f64> = ctx.candidates.iter().map(|candidate| self.remembered.held(ctx, candidate)).collect();
        let best = held.iter().copied().fold(0.0, f64::max);
        let matches = best > MATCH_MIN * f64::from(ctx.shape.prompt_tokens);
        for (at, out) in out.iter_mut().enumerate() {
            let chosen = match !out_of_balance && matches {
                true => held[at] == best,
                false => ctx.candidates[at].in_flight == least,
            };
            *out = f64::from(u8::from(chosen));
        }
    }

    fn chosen(&self, ctx: &Context<'_>, at: usize) -> Expected {
        self.remembered.sent(ctx, ctx.node(&ctx.candidates[at]));
        Expected::NOTHING
    }
}
