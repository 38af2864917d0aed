//! The last bytes of a stream, in bounded memory.
//!
//! A ring: once full, new bytes overwrite the oldest in place, so that a long stream of small chunks costs one small
//! copy for each and never moves what is already there. It starts empty and grows with the stream, since most answers
//! that are not streamed are shorter than the bound.

/// How much of a response is kept, in bytes. Token counts stand within the last few hundred bytes of every known
/// server's answer; log probabilities or the echo of a request behind them fit into the rest.
pub const TAIL_BYTES: usize = 4096;

/// The last [`TAIL_BYTES`] bytes pushed.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    /// Once full: where the oldest byte is.
    oldest: usize,
}

impl Tail {
    /// Adds what fits without losing anything, and returns the rest.
    pub(super) fn fill<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let (fits, rest) = chunk.split_at(chunk.len().min(TAIL_BYTES - self.bytes.len()));
        self.bytes.extend_from_slice(fits);
        rest
    }

    /// Adds `chunk` to a full tail, in place of the oldest bytes.
    pub(super) fn overwrite(&mut self, chunk: &[u8]) {
        debug_assert_eq!(self.bytes.len(), TAIL_BYTES);
        let chunk = &chunk[chunk.len().saturating_sub(TAIL_BYTES)..];
        let (first, second) = chunk.split_at(chunk.len().min(TAIL_BYTES - self.oldest));
        self.bytes[self.oldest..self.oldest + first.len()].copy_from_slice(first);
        self.bytes[..second.len()].copy_from_slice(second);
        self.oldest = (self.oldest + chunk.len()) % TAIL_BYTES;
    }

    /// Calls `read` with the bytes in order.
    pub(super) fn read<T>(&self, read: impl FnOnce(&[u8]) -> T) -> T {
        if self.oldest == 0 {
            return read(&self.bytes);
        }
        let mut ordered = [0; TAIL_BYTES];
        let (newer, older) = self.bytes.split_at(self.oldest);
        ordered[..older.len()].copy_from_slice(older);
        ordered[older.len()..].copy_from_slice(newer);
        read(&ordered)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_the_last_bytes_in_order(lens in prop::collection::vec(0usize..3 * TAIL_BYTES, 0..12)) {
            let mut tail = Tail::default();
            let mut all = Vec::new();
            for len in lens {
                let chunk: Vec<u8> = (all.len()..all.len() + len).map(|i| (i % 251) as u8).collect();
                let rest = tail.fill(&chunk);
                if !rest.is_empty() {
                    tail.overwrite(rest);
                }
                all.extend_from_slice(&chunk);
                let expected = &all[all.len().saturating_sub(TAIL_BYTES)..];
                prop_assert!(tail.read(|bytes| bytes == expected));
                prop_assert!(tail.bytes.len() <= TAIL_BYTES);
            }
        }
    }
}
