//! What a router that is aware of caches believes that each node holds: what it sent there.
//!
//! As the routers that these yardsticks stand for, it hears nothing of the nodes' caches and goes by its own record, one
//! cache of blocks for each node. The record is as large as the caches are in truth, which an operator would have to find out.

use std::sync::{Mutex, PoisonError};

use crate::fleet::{Node, PerNode, Resettable};
use crate::policy::{Candidate, Context};
use crate::sim::PrefixCache;

/// The record of one router.
#[derive(Debug)]
pub(super) struct Remembered {
    tokens: u64,
    nodes: PerNode<Record>,
}

#[derive(Debug, Default)]
struct Record(Mutex<PrefixCache>);

impl Resettable for Record {
    fn reset(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Remembered {
    /// Of nodes that hold so many tokens each.
    pub(super) fn new(tokens: u64) -> Remembered {
        Remembered { tokens, nodes: PerNode::default() }
    }

    /// Tokens of the request's prompt that the candidate is believed to hold.
    pub(super) fn held(&self, ctx: &Context<'_>, candidate: &Candidate) -> f64 {
        let prefix = &ctx.shape.prefix;
        let record = self.nodes.of(ctx.node(candidate)).0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = record.held(prefix.blocks()) as f64 * f64::from(prefix.tokens_per_block());
        held.min(f64::from(ctx.shape.prompt_tokens))
    }

    /// The request goes there.
    pub(super) fn sent(&self, ctx: &Context<'_>, node: &Node) {
        let prefix = &ctx.shape.prefix;
        let mut record = self.nodes.of(node).0.lock().unwrap_or_else(PoisonError::into_inner);
        if record.blocks_max() == 0 {
            *record = PrefixCache::of_tokens(self.tokens, prefix.tokens_per_block());
        }
        record.take_in(prefix.blocks());
    }
}
