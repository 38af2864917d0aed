//! A part of the memory under one lock: a table of blocks with the least recently used out first.
//!
//! Of fixed size from the start, so that no insertion ever moves others and the bound is exact: buckets of chains, an
//! arena of entries, and a list through them in the order of use. Its pages are touched as they are used. A map of the
//! standard library would need as much again for growing, and a second structure for the order.

use super::holders::{Holders, Stamp};

/// No entry. Others are one more than their place.
const NONE: u32 = 0;

/// Entries get so much of a shelf; tables of blocks that many nodes hold get the rest.
const ENTRIES_SHARE: f64 = 0.75;

/// One block.
#[derive(Debug)]
struct Entry {
    block: u64,
    /// The next in the bucket, or the next free one.
    chain: u32,
    newer: u32,
    older: u32,
    /// Tokens that followed where a prompt ended with it, as far as they are known.
    followed: u32,
    holders: Holders,
}

/// Bytes of a block that few nodes hold.
pub(super) const ENTRY_BYTES: usize = size_of::<Entry>() + size_of::<u32>();

/// A part of the memory.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    buckets: Vec<u32>,
    entries: Vec<Entry>,
    entries_max: usize,
    tables_max: usize,
    /// Bytes of tables.
    tables: usize,
    newest: u32,
    oldest: u32,
    free: u32,
    len: usize,
    evicted: u64,
}

impl Shelf {
    /// A shelf of at most so many bytes.
    pub(super) fn new(bytes_max: usize) -> Shelf {
        let entries_max = ((bytes_max as f64 * ENTRIES_SHARE) as usize / ENTRY_BYTES).min(u32::MAX as usize - 1);
        Shelf { entries_max, tables_max: bytes_max - entries_max * ENTRY_BYTES, ..Shelf::default() }
    }

    /// How many blocks it holds.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> usize {
        self.len * ENTRY_BYTES + self.tables
    }

    /// Blocks that had to go for others.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Who holds a block.
    #[inline]
    pub(super) fn holders(&self, block: u64) -> Option<&Holders> {
        self.find(block).map(|place| &self.entries[place].holders)
    }

    /// Tokens that followed the block where a prompt ended with it.
    pub(super) fn followed(&self, block: u64) -> u32 {
        self.find(block).map_or(0, |place| self.entries[place].followed)
    }

    /// So many tokens followed the block, with which a prompt ended: the rest of that prompt, and its answer.
    pub(super) fn follow(&mut self, block: u64, tokens: u32) {
        if let Some(place) = self.find(block) {
            self.entries[place].followed = tokens;
        }
    }

    /// The node of that slot has the block now, which becomes the one used last. What followed it is known no longer: a
    /// block that prompts go beyond, as those that many share, is no end.
    pub(super) fn put(&mut self, block: u64, slot: u32, stamp: Stamp, since: impl Fn(u32, Stamp) -> Option<u32>) {
        if self.entries_max == 0 {
            return;
        }
        let place = match self.find(block) {
            Some(place) => {
                self.unlink(place);
                place
            }
            None => self.add(block),
        };
        self.link(place);
        let room = self.tables_max - self.tables;
        let Entry { holders, followed, .. } = &mut self.entries[place];
        *followed = 0;
        let before = holders.bytes();
        holders.put(slot, stamp, room, since);
        self.tables = self.tables + holders.bytes() - before;
    }

    /// The node of that slot does not have the block after all, unless it was used since.
    pub(super) fn take(&mut self, block: u64, slot: u32, stamp: u32) {
        let Some(place) = self.find(block) else { return };
        let holders = &mut self.entries[place].holders;
        holders.take(slot, stamp);
        if holders.is_empty() {
            self.remove(place);
        }
    }

    fn bucket(&self, block: u64) -> usize {
        // The upper bits, as the lower ones choose the shelf; scaled, so that any number of buckets will do.
        ((u128::from(block) * self.buckets.len() as u128) >> 64) as usize
    }

    #[inline]
    fn find(&self, block: u64) -> Option<usize> {
        let mut at = *self.buckets.get(self.bucket(block))?;
        while at != NONE {
            let entry = &self.entries[at as usize - 1];
            if entry.block == block {
                return Some(at as usize - 1);
            }
            at = entry.chain;
        }
        None
    }

    /// A place for a new block, in its bucket but not yet in the order of use.
    fn add(&mut self, block: u64) -> usize {
        if self.buckets.is_empty() {
            self.buckets = vec![NONE; self.entries_max];
            self.entries = Vec::with_capacity(self.entries_max);
        }
        if self.free == NONE && self.entries.len() == self.entries_max {
            self.remove(self.oldest as usize - 1);
            self.evicted += 1;
        }
        let bucket = self.bucket(block);
        let (chain, holders) = (self.buckets[bucket], Holders::default());
        let entry = Entry { block, chain, newer: NONE, older: NONE, followed: 0, holders };
        let place = match self.free {
            NONE => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
            free => {
                let place = free as usize - 1;
                self.free = self.entries[place].chain;
                self.entries[place] = entry;
                place
            }
        };
        self.buckets[bucket] = place as u32 + 1;
        self.len += 1;
        place
    }

    fn remove(&mut self, place: usize) {
        self.unlink(place);
        let bucket = self.bucket(self.entries[place].block);
        let (own, next) = (place as u32 + 1, self.entries[place].chain);
        let mut at = self.buckets[bucket];
        if at == own {
            self.buckets[bucket] = next;
        } else {
            while self.entries[at as usize - 1].chain != own {
                at = self.entries[at as usize - 1].chain;
            }
            self.entries[at as usize - 1].chain = next;
        }
        let entry = &mut self.entries[place];
        self.tables -= std::mem::take(&mut entry.holders).bytes();
        entry.chain = self.free;
        self.free = own;
        self.len -= 1;
    }

    /// Takes an entry out of the order of use.
    fn unlink(&mut self, place: usize) {
        let (newer, older) = (self.entries[place].newer, self.entries[place].older);
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize - 1].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize - 1].newer = newer,
        }
    }

    /// Makes an entry the one used last.
    fn link(&mut self, place: usize) {
        let own = place as u32 + 1;
        let older = std::mem::replace(&mut self.newest, own);
        self.entries[place].newer = NONE;
        self.entries[place].older = older;
        match older {
            NONE => self.oldest = own,
            older => self.entries[older as usize - 1].newer = own,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamp(at: u32) -> Stamp {
        Stamp { sent: at, at_s: at }
    }

    /// The blocks in the order of use, latest first.
    fn order(shelf: &Shelf) -> Vec<u64> {
        let mut at = shelf.newest;
        std::iter::from_fn(|| {
            let entry = (at != NONE).then(|| &shelf.entries[at as usize - 1])?;
            at = entry.older;
            Some(entry.block)
        })
        .collect()
    }

    proptest! {
        #[test]
        fn exactly_the_blocks_used_last_are_kept_within_the_bound(
            steps in prop::collection::vec((0u64..60, 0u32..80, 0u32..8), 1..400), kilobytes in 1usize..6,
        ) {
            let bytes_max = kilobytes * 1024;
            let mut shelf = Shelf::new(bytes_max);
            let mut expected: Vec<u64> = Vec::new();
            for (at, (block, slot, what)) in steps.iter().enumerate() {
                // Blocks that share buckets and some that do not.
                let block = block << 58 | block;
                if *what == 0 {
                    let found = shelf.holders(block).and_then(|holders| holders.stamp(*slot));
                    if let Some(found) = found {
                        shelf.take(block, *slot, found.sent);
                        if shelf.holders(block).is_none() {
                            expected.retain(|kept| *kept != block);
                        }
                    }
                } else {
                    shelf.put(block, *slot, stamp(at as u32), |_, _| Some(0));
                    expected.retain(|kept| *kept != block);
                    expected.insert(0, block);
                    expected.truncate(shelf.entries_max);
                }
                prop_assert!(shelf.bytes() <= bytes_max);
                prop_assert_eq!(order(&shelf), expected.clone());
                prop_assert_eq!(shelf.len(), expected.len());
                prop_assert!(expected.iter().all(|block| shelf.holders(*block).is_some()));
                let tables: usize = expected.iter().filter_map(|block| shelf.holders(*block)).map(Holders::bytes).sum();
                prop_assert_eq!(tables, shelf.tables);
            }
        }
    }

    #[test]
    fn a_shelf_without_room_keeps_nothing() {
        let mut shelf = Shelf::new(50);
        shelf.put(1, 0, stamp(0), |_, _| Some(0));
        assert!(shelf.holders(1).is_none() && shelf.bytes() == 0);
    }

    #[test]
    fn an_entry_is_one_cache_line() {
        assert_eq!(size_of::<Entry>(), 64);
    }
}
