//! Which nodes hold a block: a short list for most, a table by slot for what many share.
//!
//! The blocks of a conversation are on one node or two; those of a system prompt are on all of them. A set of bits for
//! each block would cost the first kind ten times what it needs in a large fleet, and a list would make the second kind
//! slow to look through. So a list of three in place becomes a table with a set of bits when a fourth node comes.

use crate::node::NODES_MAX;

/// Nodes of a block that are kept without a table.
pub(super) const FEW: usize = 3;

/// Words of a set of nodes.
pub(super) const WORDS: usize = NODES_MAX / 64;

/// When a node had a block last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// What the node had been sent by then, itself included; see [`Extent`](crate::outcome::Extent).
    pub(super) sent: u32,
    /// In seconds of the clock.
    pub(super) at_s: u32,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holder {
    slot: u16,
    stamp: Stamp,
}

/// A table for many nodes.
#[derive(Debug)]
pub(super) struct Many {
    set: Box<[u64]>,
    stamps: Box<[Stamp]>,
}

impl Many {
    /// Bytes of a table that has room for `slot`.
    fn bytes_for(slot: u32) -> usize {
        let words = slot as usize / 64 + 1;
        size_of::<Many>() + words * size_of::<u64>() + words * 64 * size_of::<Stamp>()
    }

    fn bytes(&self) -> usize {
        size_of::<Many>() + size_of_val(&*self.set) + size_of_val(&*self.stamps)
    }

    fn with_room_for(slot: u32) -> Many {
        let words = slot as usize / 64 + 1;
        Many { set: vec![0; words].into(), stamps: vec![Stamp::default(); words * 64].into() }
    }

    fn put(&mut self, slot: u32, stamp: Stamp) {
        let slot = slot as usize;
        self.set[slot / 64] |= 1 << (slot % 64);
        self.stamps[slot] = stamp;
    }

    fn slots(&self) -> impl Iterator<Item = u32> {
        slots_in(&self.set)
    }
}

/// The slots in a set of bits, lowest first.
pub(super) fn slots_in(set: &[u64]) -> impl Iterator<Item = u32> {
    set.iter().enumerate().flat_map(|(word, bits)| {
        let mut bits = *bits;
        std::iter::from_fn(move || {
            let slot = (bits != 0).then(|| word as u32 * 64 + bits.trailing_zeros());
            bits &= bits.wrapping_sub(1);
            slot
        })
    })
}

/// The nodes that hold a block.
#[derive(Debug)]
pub(super) enum Holders {
    /// At most [`FEW`].
    Few(u8, [Holder; FEW]),
    /// More than that.
    Many(Box<Many>),
}

impl Default for Holders {
    fn default() -> Self {
        Holders::Few(0, Default::default())
    }
}

impl Holders {
    /// Bytes besides itself.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Holders::Few(..) => 0,
            Holders::Many(many) => many.bytes(),
        }
    }

    /// Whether nobody holds it.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Holders::Few(len, _) => *len == 0,
            Holders::Many(many) => many.set.iter().all(|word| *word == 0),
        }
    }

    /// When the node of that slot had it last.
    pub(super) fn stamp(&self, slot: u32) -> Option<Stamp> {
        match self {
            Holders::Few(len, few) => {
                few[..usize::from(*len)].iter().find(|holder| u32::from(holder.slot) == slot).map(|found| found.stamp)
            }
            Holders::Many(many) => {
                let word = many.set.get(slot as usize / 64)?;
                (word >> (slot % 64) & 1 == 1).then(|| many.stamps[slot as usize])
            }
        }
    }

    /// Writes which nodes of `set` hold it to `held`, of the same length; whether that are fewer.
    pub(super) fn among(&self, set: &[u64], held: &mut [u64]) -> bool {
        held.fill(0);
        match self {
            Holders::Few(len, few) => {
                for holder in &few[..usize::from(*len)] {
                    let (word, bit) = (usize::from(holder.slot) / 64, 1 << (holder.slot % 64));
                    if let (Some(held), Some(set)) = (held.get_mut(word), set.get(word)) {
                        *held |= set & bit;
                    }
                }
            }
            Holders::Many(many) => {
                for ((held, set), own) in held.iter_mut().zip(set).zip(&many.set) {
                    *held = set & own;
                }
            }
        }
        held != set
    }

    /// Notes that a node has it, with at most `room` bytes more than now for a table. Without room the node that had
    /// it longest ago is forgotten instead. `since` says how much a node was sent since a stamp; `None` where it
    /// holds nothing of that time any more.
    pub(super) fn put(&mut self, slot: u32, stamp: Stamp, room: usize, since: impl Fn(u32, Stamp) -> Option<u32>) {
        match self {
            Holders::Many(many) if (slot as usize) < many.stamps.len() => many.put(slot, stamp),
            Holders::Many(many) => {
                if Many::bytes_for(slot) <= many.bytes() + room {
                    let mut wider = Many::with_room_for(slot);
                    many.slots().for_each(|held| wider.put(held, many.stamps[held as usize]));
                    wider.put(slot, stamp);
                    **many = wider;
                }
            }
            Holders::Few(len, few) => {
                let held = usize::from(*len);
                let new = Holder { slot: slot as u16, stamp };
                let own = few[..held].iter().position(|holder| u32::from(holder.slot) == slot);
                let gone = || few[..held].iter().position(|held| since(u32::from(held.slot), held.stamp).is_none());
                if let Some(place) = own.or_else(gone) {
                    few[place] = new;
                } else if held < FEW {
                    few[held] = new;
                    *len += 1;
                } else if let Some(table) = table_of(few, new, room) {
                    *self = Holders::Many(Box::new(table));
                } else {
                    let age = |holder: &Holder| new.stamp.at_s.wrapping_sub(holder.stamp.at_s);
                    let oldest = (0..FEW).max_by_key(|at| age(&few[*at])).unwrap_or(0);
                    few[oldest] = new;
                }
            }
        }
    }

    /// Forgets that a node has it, if its stamp is still that one.
    pub(super) fn take(&mut self, slot: u32, stamp: u32) {
        if self.stamp(slot).is_none_or(|found| found.sent != stamp) {
            return;
        }
        match self {
            Holders::Few(len, few) => {
                if let Some(place) = few.iter().position(|holder| u32::from(holder.slot) == slot) {
                    *len -= 1;
                    few[place] = few[usize::from(*len)];
                }
            }
            Holders::Many(many) => many.set[slot as usize / 64] &= !(1 << (slot % 64)),
        }
    }
}

/// A table of those few and a new one, if it fits into `room` bytes.
fn table_of(few: &[Holder; FEW], new: Holder, room: usize) -> Option<Many> {
    let all = || few.iter().chain(std::iter::once(&new));
    let highest = all().map(|holder| u32::from(holder.slot)).max().unwrap_or(0);
    (Many::bytes_for(highest) <= room).then(|| {
        let mut table = Many::with_room_for(highest);
        all().for_each(|holder| table.put(u32::from(holder.slot), holder.stamp));
        table
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn seconds(at_s: u32) -> Stamp {
        Stamp { sent: at_s, at_s }
    }

    proptest! {
        #[test]
        fn the_set_is_the_one_that_a_map_would_keep(
            steps in prop::collection::vec((0u32..300, any::<bool>()), 1..80),
        ) {
            let (mut holders, mut map) = (Holders::default(), BTreeMap::new());
            for (at, (slot, puts)) in steps.iter().enumerate() {
                let stamp = seconds(at as u32);
                if *puts {
                    holders.put(*slot, stamp, 1 << 20, |_, _| Some(0));
                    map.insert(*slot, stamp);
                } else if let Some(held) = map.remove(slot) {
                    holders.take(*slot, held.sent + 1);
                    prop_assert_eq!(holders.stamp(*slot), Some(held), "another stamp is another use");
                    holders.take(*slot, held.sent);
                }
                prop_assert_eq!(holders.is_empty(), map.is_empty());
                let (all, mut held) = ([u64::MAX; 5], [0; 5]);
                holders.among(&all, &mut held);
                prop_assert_eq!(slots_in(&held).collect::<Vec<_>>(), map.keys().copied().collect::<Vec<_>>());
                for slot in 0..300 {
                    prop_assert_eq!(holders.stamp(slot), map.get(&slot).copied());
                }
            }
        }
    }

    #[test]
    fn without_room_for_a_table_the_latest_are_kept() {
        let mut holders = Holders::default();
        for slot in 0..9 {
            holders.put(slot, seconds(100 + slot), 0, |_, _| Some(0));
        }
        assert_eq!([6, 7, 8].map(|slot| holders.stamp(slot).is_some()), [true; 3]);
        assert_eq!(holders.bytes(), 0);
    }

    #[test]
    fn who_holds_nothing_any_more_makes_room_first() {
        let mut holders = Holders::default();
        for slot in 0..3 {
            holders.put(slot, seconds(slot), 0, |_, _| Some(0));
        }
        holders.put(9, seconds(9), 1 << 20, |slot, _| (slot != 1).then_some(0));
        assert_eq!([0, 1, 2, 9].map(|slot| holders.stamp(slot).is_some()), [true, false, true, true]);
        assert_eq!(holders.bytes(), 0);
    }
}
