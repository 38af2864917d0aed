//! What the memory keeps of each node: how much it was sent, and since when it may hold anything.
//!
//! A cache loses what is old by being given new things, so the age of a block that counts is what the node was sent
//! since, not time. A counter per node measures it: every use of a block notes where the counter stood. It also makes
//! forgetting a node one atomic store, whatever the memory holds: what was noted before a mark does not count.

use std::sync::atomic::{AtomicU64, Ordering};

use super::holders::Stamp;
use crate::clock::Time;
use crate::fleet::Node;
use crate::node::NODES_MAX;
use crate::outcome::Extent;

/// Tokens per step of the counter: with 32 bits of it in a stamp, 68 billion tokens pass before two times look alike.
const STEP_TOKENS: f32 = 16.0;

/// One node.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Id plus one; 0 for nobody.
    owner: AtomicU64,
    sent: AtomicU64,
    forgotten: AtomicU64,
}

/// All nodes by slot.
#[derive(Debug)]
pub(super) struct Records(Box<[Record]>);

impl Default for Records {
    fn default() -> Self {
        Records((0..NODES_MAX).map(|_| Record::default()).collect())
    }
}

fn steps(tokens: f32) -> u64 {
    // A use of no tokens is still one use: stamps must differ.
    ((tokens / STEP_TOKENS) as u64).max(1)
}

/// The clock in seconds, as stamps have it.
pub(super) fn seconds(now: Time) -> u32 {
    (now.as_micros() / 1_000_000) as u32
}

impl Records {
    pub(super) fn of(&self, slot: u32) -> &Record {
        &self.0[slot as usize % NODES_MAX]
    }

    /// The record of `node`, which owns the slot from now on: what an older node held there is forgotten. `None` for a
    /// node that is gone, and whose slot another has by now.
    pub(super) fn own(&self, node: &Node) -> Option<&Record> {
        let (record, id) = (self.of(node.slot), u64::from(node.id.0) + 1);
        let present = record.owner.load(Ordering::Acquire);
        if present < id {
            record.forget();
            record.owner.fetch_max(id, Ordering::Release);
        }
        (present <= id).then_some(record)
    }
}

impl Record {
    /// The node gets so many tokens to put into its cache at `now`.
    pub(super) fn send(&self, tokens: f32, now: Time) -> Stamp {
        let steps = steps(tokens);
        let sent = self.sent.fetch_add(steps, Ordering::Relaxed) + steps;
        Stamp { sent: sent as u32, at_s: seconds(now) }
    }

    /// It holds nothing any more.
    pub(super) fn forget(&self) {
        self.forgotten.store(self.sent.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Steps of the counter since the stamp; `None` where all of that time is forgotten.
    pub(super) fn since(&self, stamp: Stamp) -> Option<u32> {
        let sent = self.sent.load(Ordering::Relaxed);
        let since = (sent as u32).wrapping_sub(stamp.sent);
        // It may be forgotten by another thread this moment, with more sent than was seen here.
        let remembered = sent.saturating_sub(self.forgotten.load(Ordering::Relaxed));
        (u64::from(since) < remembered).then_some(since)
    }

    /// How old what was used at the stamp is.
    pub(super) fn extent(&self, stamp: Stamp, now_s: u32) -> Option<Extent> {
        let tokens = self.since(stamp)? as f32 * STEP_TOKENS;
        Some(Extent { tokens, seconds: now_s.saturating_sub(stamp.at_s) as f32 })
    }
}
