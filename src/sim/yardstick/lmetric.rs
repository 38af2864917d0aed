//! LMetric: prompt tokens to be computed, times the size of the batch.
//!
//! Zhang et al., "LMetric: Simple is better - multiplication may be all you need for LLM request scheduling" (2026):
//!
//! ```text
//! score = (uncached prompt tokens that wait there + the request's own) * (in flight + 1)        lowest wins
//! ```
//!
//! Adapted: the published scheduler hears both from the servers. Here the batch is what this proxy has in flight, and
//! what waits are the last requests that it sent there, as many as have no first byte yet: servers take prompts in turn.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::remembered::Remembered;
use crate::fleet::{Node, PerNode, Resettable};
use crate::policy::{Candidate, Context, Expected, Policy};

/// Fewest uncached prompt tokens times requests.
#[derive(Debug)]
pub struct LMetric {
    remembered: Remembered,
    sent: PerNode<Sent>,
}

/// Uncached prompt tokens of the latest requests.
#[derive(Debug, Default)]
struct Sent(Mutex<VecDeque<f64>>);

impl Resettable for Sent {
    fn reset(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl LMetric {
    /// Before nodes that hold so many tokens each.
    pub fn new(tokens: u64) -> LMetric {
        LMetric { remembered: Remembered::new(tokens), sent: PerNode::default() }
    }

    fn uncached(&self, ctx: &Context<'_>, candidate: &Candidate) -> f64 {
        f64::from(ctx.shape.prompt_tokens) - self.remembered.held(ctx, candidate)
    }

    fn waiting(&self, node: &Node) -> f64 {
        let sent = self.sent.of(node).0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.iter().rev().take(node.live.ledger.waiting() as usize).sum()
    }
}

impl Policy for LMetric {
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        let score = |candidate: &Candidate| {
            let prefill = self.waiting(ctx.node(candidate)) + self.uncached(ctx, candidate).max(1.0);
            prefill * f64::from(candidate.in_flight + 1)
        };
        let scores: Vec<f64> = ctx.candidates.iter().map(score).collect();
        let least = scores.iter().copied().fold(f64::INFINITY, f64::min);
        for (out, score) in out.iter_mut().zip(scores) {
            *out = f64::from(u8::from(score == least));
        }
    }

    fn chosen(&self, ctx: &Context<'_>, at: usize) -> Expected {
        let candidate = &ctx.candidates[at];
        let (node, uncached) = (ctx.node(candidate), self.uncached(ctx, candidate));
        let mut sent = self.sent.of(node).0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push_back(uncached);
        // The attempt itself waits by now.
        while sent.len() > (node.live.ledger.waiting() as usize).max(1) {
            sent.pop_front();
        }
        drop(sent);
        self.remembered.sent(ctx, node);
        Expected::NOTHING
    }
}
