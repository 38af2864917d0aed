//! What a decision by the model was made from, and what the same grounds would have led to with other knobs.
//!
//! A score is linear in `social`: the cost for the request itself plus `social` times the cost for the others, both times
//! one more than the failure penalty. So two numbers and a level of evidence per candidate are enough to work out the
//! exact chance of every candidate for another `social` and another rate of exploration. Nothing is predicted anew
//! then: what was thought of the nodes stays as it was.

use super::{SCORE_MIN_S, ask, assess_all, explored_share, knobs, share};
use crate::learn::explore::UNEXPLORED;
use crate::learn::{Knobs, Learned, Prediction};
use crate::policy::{Context, least_of};

/// What counted for one candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ground {
    /// What it would cost the request itself, in seconds, the failure penalty included; infinite if it was left out.
    pub own_s: f64,
    /// What it would cost the others, likewise, at `social` 1.
    pub added_s: f64,
    /// Its level of evidence, [`UNEXPLORED`] where it could not be explored.
    pub level: u8,
}

/// What counted for a decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Grounds {
    /// Weight of what a request costs the others.
    pub social: f64,
    /// Probability with which this request was to explore.
    pub explore: f64,
    /// The candidates, in their order.
    pub nodes: Vec<Ground>,
}

impl Grounds {
    /// Those of a decision that was just made; `None` where the fallback decided.
    ///
    /// `started` is the candidate on which the attempt itself already counts.
    pub fn of(learned: &Learned, ctx: &Context<'_>, started: usize) -> Option<Grounds> {
        let loaded = learned.load();
        let predictor = loaded.as_deref()?;
        if learned.fallback_of(Some(predictor), ctx.now).is_some() {
            return None;
        }
        let knobs = knobs(learned, &ask(learned, predictor, ctx));
        let nodes = assess_all(learned, ctx, Some(started)).into_iter().map(|seen| {
            let (own_s, added_s) = parts(&seen.prediction, &knobs);
            let factor = 1.0 + seen.penalty;
            let own_s = if seen.held.is_none() { own_s * factor } else { f64::INFINITY };
            let level = if seen.explorable { seen.level } else { UNEXPLORED };
            Ground { own_s, added_s: added_s * factor, level }
        });
        let nodes: Vec<Ground> = nodes.collect();
        if nodes.iter().all(|node| node.own_s.is_infinite()) {
            return None;
        }
        let explore = explored_share(predictor, &knobs, ctx);
        Some(Grounds { social: knobs.social, explore, nodes })
    }

    /// Writes each candidate's score with that `social` into `out`.
    pub fn scores(&self, social: f64, out: &mut Vec<f64>) {
        out.clear();
        out.extend(self.nodes.iter().map(|node| (node.own_s + social * node.added_s).max(SCORE_MIN_S)));
    }

    /// Writes each candidate's chance with that `social` and that probability of exploring into `out`.
    pub fn chances(&self, social: f64, explore: f64, out: &mut Vec<f64>) {
        self.scores(social, out);
        let levels: Vec<u8> = self.nodes.iter().map(|node| node.level).collect();
        let least = least_of(out);
        share(out, least, explore, &levels);
    }
}

/// The two parts of the score, before the penalty: its own, and the one that `social` weighs.
fn parts(prediction: &Prediction, knobs: &Knobs) -> (f64, f64) {
    let echo = (prediction.marginal_s / prediction.total_s.max(SCORE_MIN_S)).min(knobs.echo);
    let mix = |whole: f64, first: f64| (1.0 - knobs.first_byte) * whole + knobs.first_byte * first;
    let own_s = mix(prediction.total_s, prediction.first_byte_s);
    (own_s, mix(prediction.marginal_s / (1.0 - echo), prediction.marginal_first_byte_s))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::adaptive::score;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn the_parts_add_up_to_the_score(
            seconds in prop::array::uniform4(0.0..1e3f64), social in 0.0..10.0f64, first_byte in 0.0..=1.0f64,
        ) {
            let [total_s, marginal_s, first_byte_s, marginal_first_byte_s] = seconds;
            let prediction = Prediction { first_byte_s, gap_s: 0.0, total_s, marginal_s, marginal_first_byte_s };
            let knobs = Knobs { social, first_byte, ..Knobs::default() };
            let (own_s, added_s) = parts(&prediction, &knobs);
            let whole = score(&prediction, &knobs);
            prop_assert!(((own_s + social * added_s).max(SCORE_MIN_S) - whole).abs() <= 1e-9 * whole);
        }
    }
}
