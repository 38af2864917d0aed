//! A table of per-node state for layers above the fleet: one array access, no lock, no map.
//!
//! Policies and telemetry keep something per node. A map behind a lock would be shared between cores, and a vector
//! aligned with one view of the fleet breaks when the view changes in mid-decision. Slots do not: a node keeps its
//! slot for life, chunks are made on first use and never move, and an entry that still carries the mark of a former
//! owner is reset before use. A slot is used again at once, while requests of the removed node still run: ids grow, so
//! that their last words are known as such, and count nowhere.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fleet::Node;
use crate::node::{NODES_MAX, NodeId};

const CHUNK: usize = 64;

/// State that can be put back to how it started, through a shared reference.
pub trait Resettable: Default {
    /// Back to the state of `default()`.
    fn reset(&self);
}

/// State of type `T` for every node, found by its slot.
#[derive(Debug)]
pub struct PerNode<T> {
    chunks: Box<[OnceLock<Chunk<T>>]>,
    /// What nodes share that have lost their slot to a younger one; nobody shows it.
    gone: T,
}

type Chunk<T> = Box<[Entry<T>]>;

/// A cache line, or several, that no other node shares.
#[derive(Debug)]
#[repr(align(64))]
struct Entry<T> {
    /// Id of the owning node plus one; 0 for nobody.
    owner: AtomicU64,
    value: T,
}

impl<T: Resettable> Default for PerNode<T> {
    fn default() -> Self {
        PerNode { chunks: (0..NODES_MAX.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect(), gone: T::default() }
    }
}

impl<T: Resettable> PerNode<T> {
    /// The state of `node`; fresh if the slot belonged to an older node before, and of no consequence if it belongs to
    /// a younger one by now.
    #[inline]
    pub fn of(&self, node: &Node) -> &T {
        self.at(node.slot, node.id)
    }

    /// The same for a node of which only slot and id are at hand.
    #[inline]
    pub fn at(&self, slot: u32, id: NodeId) -> &T {
        let slot = slot as usize % NODES_MAX;
        let chunk = self.chunks[slot / CHUNK]
            .get_or_init(|| (0..CHUNK).map(|_| Entry { owner: AtomicU64::new(0), value: T::default() }).collect());
        let entry = &chunk[slot % CHUNK];
        let owner = u64::from(id.0) + 1;
        let present = entry.owner.load(Ordering::Acquire);
        if present == owner { &entry.value } else { self.taken_over(entry, present, owner) }
    }

    #[cold]
    fn taken_over<'a>(&'a self, entry: &'a Entry<T>, present: u64, owner: u64) -> &'a T {
        if present > owner {
            return &self.gone;
        }
        entry.value.reset();
        entry.owner.fetch_max(owner, Ordering::Release);
        &entry.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Fleet;
    use crate::node::NodeSpec;

    #[derive(Default)]
    struct Count(AtomicU64);

    impl Resettable for Count {
        fn reset(&self) {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_new_node_in_an_old_slot_starts_afresh() {
        let table = PerNode::<Count>::default();
        let fleet = Fleet::default().with(NodeSpec::new("http://a")).expect("free");
        table.of(&fleet.nodes()[0]).0.store(7, Ordering::Relaxed);
        assert_eq!(table.of(&fleet.nodes()[0]).0.load(Ordering::Relaxed), 7);
        let next = fleet.without("a").and_then(|f| f.with(NodeSpec::new("http://b"))).expect("free");
        assert_eq!(next.nodes()[0].slot, fleet.nodes()[0].slot);
        assert_eq!(table.of(&next.nodes()[0]).0.load(Ordering::Relaxed), 0);
        // The last words of requests that still ran there change nothing.
        table.of(&next.nodes()[0]).0.store(5, Ordering::Relaxed);
        table.of(&fleet.nodes()[0]).0.store(9, Ordering::Relaxed);
        assert_eq!(table.of(&next.nodes()[0]).0.load(Ordering::Relaxed), 5);
    }
}
