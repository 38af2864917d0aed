//! Weighted rendezvous hashing: always the same node for a key, while the nodes stay.
//!
//! Every node gets a number in 0..1 from the hash of key and node name; the least `-ln(number) / weight` wins, so
//! that a node's share is in proportion to its weight (Thaler and Ravishankar 1998; weights by Schindelhauer and
//! Schomaker 2005). A node that comes or goes moves only its own share; `hash modulo count` would move nearly everybody.
//! A ring would need a table and a hundred points per node for the evenness that this has by itself. Only candidates
//! count: keys of a node that is down or full spread over the others, and come back with it. The hash is the same in
//! every process, so several proxies agree.

use crate::fleet::Node;
use crate::node::scramble;
use crate::policy::{Context, share_minimum};

/// Writes 1 for the node that `key` belongs to, and 0 for the others.
pub(super) fn weigh(ctx: &Context<'_>, key: u64, out: &mut [f64]) {
    share_minimum(out, |at| {
        let candidate = &ctx.candidates[at];
        distance(key, ctx.node(candidate), candidate.weight)
    });
}

/// How far `node` is from `key`: who is nearest is its home.
pub(crate) fn distance(key: u64, node: &Node, weight: f64) -> f64 {
    let hash = scramble(scramble(key) ^ node.name_hash);
    // The upper 52 bits, moved by half a step: never 0 and never 1.
    let number = ((hash >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
    -number.ln() / weight
}
