//! The memory of prompts: which node was sent a prompt that began like this one, and how long ago.
//!
//! Model servers keep the state of prompts that they have read, so a prompt that continues another is cheap on the node
//! that has the other. What a node holds is not asked but remembered, from what it was sent: no server has to take part,
//! and nothing waits for an answer. Every block of a prompt (a cumulative hash, see [`Prefix`]) is an entry with the nodes
//! that hold it, so that a system prompt which all conversations share is found as well as a whole conversation.
//!
//! Bounded in bytes, the least recently used block goes first. A request looks at one short-lived lock per block, spread
//! over [`SHELVES`]; a lock that another holds right now is passed by rather than waited for. What a match is worth,
//! whether it is still there, is learned elsewhere ([`crate::learn`]).

mod holders;
mod node;
mod shelf;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, TryLockError};

use crate::clock::Time;
use crate::fleet::Node;
use crate::outcome::{Extent, Recall};
use crate::request::Prefix;

use holders::{Stamp, WORDS, slots_in};
use node::{Records, seconds};
use shelf::Shelf;

/// Locks of the memory. With 64 and two microseconds of them per request, a hundred thousand requests per second meet
/// at one in a hundred.
pub const SHELVES: usize = 64;

/// The most blocks of one prompt that are looked at or remembered: 1 MiB of text in blocks of 256 bytes.
pub const BLOCKS_MAX: usize = 4096;

/// How often a lock is tried.
const TRIES: u32 = 16;

/// The memory of prompts. All methods may be called from any thread; none waits.
#[derive(Debug)]
pub struct Memory {
    bytes_max: usize,
    inner: OnceLock<Inner>,
}

#[derive(Debug)]
struct Inner {
    shelves: Box<[Mutex<Shelf>]>,
    records: Records,
    /// Words of a set that has every slot seen.
    words: AtomicU32,
    passed_by: AtomicU64,
}

/// What was found of a prompt at one node.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Match {
    /// Whole blocks that it was sent before.
    pub blocks: u32,
    /// The same in tokens, and what is expected of it.
    pub recall: Recall,
    /// Tokens beyond the last of these blocks that the node may have too, and the chance of it.
    beyond: (f32, f32),
}

/// What was found of a prompt, by slot; reused between requests.
#[derive(Clone, Debug, Default)]
pub struct Found {
    nodes: Vec<Match>,
    own: Option<Own>,
}

/// Where a prompt ceases to be like others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// The first block that at most half as many nodes have as the first one of all: what all prompts of a conversation
    /// have in common, and no other has.
    pub block: u64,
    /// Blocks before it.
    pub before: u32,
}

impl Found {
    /// At the node of that slot.
    #[inline]
    pub fn at(&self, slot: u32) -> Match {
        self.nodes.get(slot as usize).copied().unwrap_or_default()
    }

    /// Whether there is nothing anywhere.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Nothing anywhere.
    pub fn clear(&mut self) {
        self.nodes.clear();
        self.own = None;
    }

    /// Where the prompt ceases to be like others; `None` for one that is known to all.
    #[inline]
    pub fn own(&self) -> Option<Own> {
        self.own
    }
}

/// A use of a prompt on a node, which may turn out not to have been one.
#[derive(Clone, Debug)]
pub struct Use {
    prefix: Prefix,
    stamp: u32,
    /// Blocks that the node had before.
    had: u32,
}

/// How full the memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Blocks.
    pub entries: u64,
    /// Bytes in use.
    pub bytes: u64,
    /// Bytes that it may use.
    pub bytes_max: u64,
    /// Blocks that had to go for others since the start.
    pub evicted: u64,
    /// Blocks that were passed by because another request held the lock.
    pub passed_by: u64,
}

/// What a memory may use unless somebody says otherwise: some 200 MB of text in blocks of 256 bytes.
pub const BYTES_MAX_DEFAULT: usize = 64 << 20;

impl Default for Memory {
    fn default() -> Self {
        Memory::new(BYTES_MAX_DEFAULT)
    }
}

impl Memory {
    /// A memory of at most so many bytes, which takes none until something is remembered.
    pub fn new(bytes_max: usize) -> Memory {
        Memory { bytes_max, inner: OnceLock::new() }
    }

    /// The most bytes that it may use.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn inner(&self) -> &Inner {
        self.inner.get_or_init(|| Inner {
            shelves: (0..SHELVES).map(|_| Mutex::new(Shelf::new(self.bytes_max / SHELVES))).collect(),
            records: Records::default(),
            words: AtomicU32::new(1),
            passed_by: AtomicU64::new(0),
        })
    }

    /// Finds how much of a prompt each node was sent before. `chance` says how probable it is that what a node used so
    /// long ago is still there.
    ///
    /// Walks along the blocks with the set of nodes that had all so far. Ages are looked up only where the set becomes
    /// smaller and at the end: what lies between was used together.
    pub fn look(&self, prefix: &Prefix, now: Time, found: &mut Found, chance: impl Fn(u32, Extent) -> f32) {
        found.clear();
        let Some(inner) = self.inner.get() else { return };
        let words = inner.words.load(Ordering::Relaxed) as usize;
        let (mut alive, mut held) = ([u64::MAX; WORDS], [0; WORDS]);
        let (alive, held) = (&mut alive[..words], &mut held[..words]);
        let (now_s, tokens) = (seconds(now), prefix.tokens_per_block());
        let mut walk = Walk { inner, now_s, tokens, from: 0, common: 0, found, chance };
        let mut last = None;
        for (at, block) in prefix.blocks().iter().take(BLOCKS_MAX).enumerate() {
            let Some(shelf) = inner.shelf(*block) else { continue };
            let fewer = match shelf.holders(*block) {
                Some(holders) => holders.among(alive, held),
                None => {
                    held.fill(0);
                    true
                }
            };
            drop(shelf);
            if fewer || at == 0 {
                walk.parts(*block, at as u32, held);
            }
            if fewer {
                if let Some((before, depth)) = last {
                    walk.mark(before, depth, alive);
                }
                alive.iter_mut().zip(&*held).for_each(|(alive, held)| *alive &= held);
                if alive.iter().all(|word| *word == 0) {
                    last = None;
                    break;
                }
            }
            last = Some((*block, at as u32 + 1));
        }
        if let Some((block, depth)) = last {
            walk.mark(block, depth, alive);
        }
        for Match { recall, beyond: (tokens, chance), .. } in &mut found.nodes {
            recall.matched_tokens += *tokens;
            recall.held_tokens += *tokens * *chance;
        }
    }

    /// The node is sent a prompt, of which it had so many blocks and has to put so many tokens into its cache.
    pub fn remember(&self, node: &Node, prefix: &Prefix, now: Time, had: u32, uncached: f32) -> Option<Use> {
        let inner = self.inner();
        let record = inner.records.own(node)?;
        inner.words.fetch_max(node.slot / 64 + 1, Ordering::Relaxed);
        let stamp = record.send(uncached, now);
        let since = |slot: u32, stamp: Stamp| inner.records.of(slot).since(stamp);
        // From the end: what a prompt begins with is the last that should be forgotten.
        for block in prefix.blocks().iter().take(BLOCKS_MAX).rev() {
            if let Some(mut shelf) = inner.shelf(*block) {
                shelf.put(*block, node.slot, stamp, since);
            }
        }
        Some(Use { prefix: prefix.clone(), stamp: stamp.sent, had })
    }

    /// The prompt never got there: what it did not have before, it does not have now.
    pub fn take_back(&self, node: &Node, used: &Use) {
        let Some(inner) = self.inner.get().filter(|inner| inner.records.own(node).is_some()) else { return };
        for block in used.prefix.blocks().iter().take(BLOCKS_MAX).skip(used.had as usize) {
            if let Some(mut shelf) = inner.shelf(*block) {
                shelf.take(*block, node.slot, used.stamp);
            }
        }
    }

    /// The node has answered a prompt of so many tokens with so many, which are in its cache as well.
    ///
    /// The next prompt of a conversation contains them. Their text is not looked at; that much followed the last block of
    /// the prompt is enough, as who ends there went on from there.
    pub fn answered(&self, node: &Node, used: &Use, prompt_tokens: u32, tokens: f32, now: Time) {
        let Some(inner) = self.inner.get() else { return };
        let Some(record) = inner.records.own(node) else { return };
        record.send(tokens, now);
        let blocks = used.prefix.blocks();
        if let Some(last) = blocks.last().filter(|_| tokens > 0.0 && blocks.len() <= BLOCKS_MAX)
            && let Some(mut shelf) = inner.shelf(*last)
        {
            let rest = prompt_tokens as f32 - blocks.len() as f32 * used.prefix.tokens_per_block();
            // A cast saturates.
            shelf.follow(*last, (rest.max(0.0) + tokens) as u32);
        }
    }

    /// The node belongs to the fleet: if another had its slot, what that one held is forgotten.
    pub fn own(&self, node: &Node) {
        if let Some(inner) = self.inner.get() {
            inner.records.own(node);
        }
    }

    /// The node holds nothing any more.
    pub fn forget(&self, node: &Node) {
        if let Some(record) = self.inner.get().and_then(|inner| inner.records.own(node)) {
            record.forget();
        }
    }

    /// How full it is.
    pub fn fill(&self) -> Fill {
        let mut fill = Fill { bytes_max: self.bytes_max as u64, ..Fill::default() };
        let Some(inner) = self.inner.get() else { return fill };
        fill.passed_by = inner.passed_by.load(Ordering::Relaxed);
        for shelf in &inner.shelves {
            let shelf = shelf.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            fill.entries += shelf.len() as u64;
            fill.bytes += shelf.bytes() as u64;
            fill.evicted += shelf.evicted();
        }
        fill
    }
}

impl Inner {
    /// The shelf of a block, unless somebody else holds it.
    #[inline]
    fn shelf(&self, block: u64) -> Option<MutexGuard<'_, Shelf>> {
        let shelf = &self.shelves[block as usize % SHELVES];
        for _ in 0..TRIES {
            match shelf.try_lock() {
                Ok(shelf) => return Some(shelf),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        self.passed_by.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// A look along the blocks of a prompt.
struct Walk<'a, C> {
    inner: &'a Inner,
    now_s: u32,
    /// Per block.
    tokens: f32,
    /// Blocks up to the last mark.
    from: u32,
    /// Nodes that had the first block.
    common: u32,
    found: &'a mut Found,
    chance: C,
}

impl<C: Fn(u32, Extent) -> f32> Walk<'_, C> {
    /// So many nodes have all blocks up to this one, the block `at`.
    fn parts(&mut self, block: u64, at: u32, held: &[u64]) {
        let count: u32 = held.iter().map(|word| word.count_ones()).sum();
        if at == 0 {
            self.common = count;
        }
        if self.found.own.is_none() && (count == 0 || 2 * count <= self.common) {
            self.found.own = Some(Own { block, before: at });
        }
    }

    /// All nodes of `set` had the blocks up to `depth`, which ends with `block`. Those for which it is too long ago
    /// leave the set.
    fn mark(&mut self, block: u64, depth: u32, set: &mut [u64]) {
        let Some(shelf) = self.inner.shelf(block) else { return };
        let Some(holders) = shelf.holders(block) else { return };
        let followed = shelf.followed(block) as f32;
        let tokens = (depth - self.from) as f32 * self.tokens;
        self.from = depth;
        for (at, word) in set.iter_mut().enumerate() {
            for slot in slots_in(&[*word]).map(|bit| at as u32 * 64 + bit) {
                let stamp = holders.stamp(slot);
                let Some(extent) = stamp.and_then(|stamp| self.inner.records.of(slot).extent(stamp, self.now_s)) else {
                    *word &= !(1 << (slot % 64));
                    continue;
                };
                let all = &mut self.found.nodes;
                if all.len() <= slot as usize {
                    all.resize(slot as usize + 1, Match::default());
                }
                let own = &mut all[slot as usize];
                own.blocks = depth;
                let chance = (self.chance)(slot, extent);
                own.recall.matched_tokens += tokens;
                own.recall.held_tokens += tokens * chance;
                own.recall.extent = extent;
                own.beyond = (followed, chance);
            }
        }
    }
}
