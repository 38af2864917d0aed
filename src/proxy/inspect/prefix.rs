//! Hashes of a prompt's beginnings: the same for the same prompt, however its JSON is written.
//!
//! Two requests share a model server's cached work as far as their prompts, rendered by the chat template, begin alike. The
//! template is the node's; so what is hashed is the text in the order in which templates print it: instructions and tools,
//! then message by message role, content and calls. Escapes are undone and the space of JSON is left out. Blocks are cut
//! by bytes, not by messages, so that a long message that grows is matched too. What does not fill a block, and what lies
//! beyond the part of a body that is looked at, is not matched.
//!
//! The hash is NH (Black, Halevi, Krawczyk, Krovetz and Rogaway, "UMAC", 1999) over words of the block with a secret key,
//! chained by a multiplication: two products per 32 bytes, and without the key nobody can look for text that collides or
//! confirm a guess of somebody's prompt.

use std::hash::{BuildHasher, RandomState};

use super::json::{Cursor, Read, Stop, Text};
use super::request::{Look, PLACES, Place};
use crate::node::{name_hash, scramble};
use crate::prefix::BLOCKS_MAX;

/// Bytes of rendered prompt in a block.
pub const BLOCK_BYTES: usize = 256;

/// Bytes of one token that was given as an id: about what its text would have.
const ID_BYTES: usize = 4;

/// Words of a block.
const WORDS: usize = BLOCK_BYTES / 8;

/// Wrappings followed, as for measuring.
const WRAPPED_MAX: u32 = 16;

/// Nesting of JSON followed in tools and arguments; what is nested deeper is passed over.
const NESTED_MAX: u32 = 32;

/// The key of the hashes.
#[derive(Clone)]
pub struct PrefixKey {
    words: [u64; WORDS],
    chain: u64,
}

impl std::fmt::Debug for PrefixKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrefixKey")
    }
}

impl PrefixKey {
    /// A key that nobody knows, by the randomness that maps of the standard library are protected with.
    pub fn random() -> PrefixKey {
        let random = RandomState::new();
        PrefixKey::of(|at| random.hash_one(at))
    }

    /// The key of a secret: the same in every process that knows it.
    pub fn of_secret(secret: &str) -> PrefixKey {
        let seed = name_hash(secret);
        PrefixKey::of(|at| scramble(seed.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
    }

    fn of(word: impl Fn(u64) -> u64) -> PrefixKey {
        // An even multiplier would lose bits.
        PrefixKey { words: std::array::from_fn(|at| word(at as u64)), chain: word(WORDS as u64) | 1 }
    }

    /// What follows `before` by a block.
    fn chained(&self, before: u64, block: &[u8; BLOCK_BYTES]) -> u64 {
        let (words, _) = block.as_chunks::<8>();
        let keyed = |at: usize| u64::from_le_bytes(words[at]).wrapping_add(self.words[at]);
        let nh = (0..WORDS / 2)
            .map(|pair| u128::from(keyed(2 * pair)) * u128::from(keyed(2 * pair + 1)))
            .fold(0u128, u128::wrapping_add);
        let mixed = u128::from(before ^ nh as u64).wrapping_mul(u128::from(self.chain));
        scramble(mixed as u64 ^ (mixed >> 64) as u64 ^ ((nh >> 64) as u64).rotate_left(32))
    }
}

/// The cumulative hashes of the prompt in `body`, as [`look`](super::look) saw it, for `model`; first block first.
pub fn prefix_blocks(body: &[u8], look: &Look<'_>, model: Option<&str>, key: &PrefixKey) -> Vec<u64> {
    if look.prompt_bytes + ID_BYTES as u64 * u64::from(look.prompt_token_ids) < BLOCK_BYTES as u64 / 2 {
        return Vec::new();
    }
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut blocks = Blocks::new(key);
    blocks.start(model.unwrap_or_default().as_bytes(), look.apart);
    for place in RENDERED {
        let start = look.starts[place as usize] as usize;
        if start > 0 {
            blocks.mark(place as u8);
            let mut cursor = Cursor::starting(body, start);
            // Where it ends early, what came before counts.
            let _end = match place {
                Place::Tools | Place::Inputs => blocks.json(&mut cursor, NESTED_MAX),
                _ => blocks.value(&mut cursor, WRAPPED_MAX),
            };
        }
    }
    blocks.hashes
}

/// The places of a prompt in the order in which a template prints them.
const RENDERED: [Place; PLACES] = [
    Place::System,
    Place::Tools,
    Place::Messages,
    Place::Prompt,
    Place::Input,
    Place::Inputs,
    Place::TextInput,
    Place::InputIds,
    Place::Images,
    Place::Suffix,
];

/// What an object of a prompt may have, in the order in which it is printed.
const PARTS: [&[u8]; 24] = [
    b"role",
    b"name",
    b"tool_call_id",
    b"call_id",
    b"reasoning_content",
    b"thinking",
    b"content",
    b"text",
    b"tool_calls",
    b"function",
    b"arguments",
    b"input",
    b"output",
    b"image_url",
    b"images",
    b"image",
    b"input_audio",
    b"audio",
    b"audio_url",
    b"video_url",
    b"video",
    b"file_id",
    b"file_data",
    b"source",
];

const ARGUMENTS: usize = 10;
const INPUT: usize = 11;
/// The first part that is not text.
const MEDIA: usize = 13;

/// A prompt on its way through the blocks.
struct Blocks<'k> {
    key: &'k PrefixKey,
    state: u64,
    block: [u8; BLOCK_BYTES],
    filled: usize,
    hashes: Vec<u64>,
}

impl<'k> Blocks<'k> {
    fn new(key: &'k PrefixKey) -> Blocks<'k> {
        Blocks { key, state: 0, block: [0; BLOCK_BYTES], filled: 0, hashes: Vec::new() }
    }

    /// What no two prompts share unless they have it in common: the model, and a hash of what else keeps caches apart.
    fn start(&mut self, model: &[u8], apart: u64) {
        let mut name = [0; BLOCK_BYTES];
        let shown = model.len().min(BLOCK_BYTES - 8);
        name[..shown].copy_from_slice(&model[..shown]);
        name[BLOCK_BYTES - 8..].copy_from_slice(&(model.len() as u64).to_le_bytes());
        self.state = self.key.chained(apart, &name);
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.hashes.len() < BLOCKS_MAX {
            let fits = bytes.len().min(BLOCK_BYTES - self.filled);
            self.block[self.filled..self.filled + fits].copy_from_slice(&bytes[..fits]);
            self.filled += fits;
            bytes = &bytes[fits..];
            if self.filled == BLOCK_BYTES {
                self.state = self.key.chained(self.state, &self.block);
                self.hashes.push(self.state);
                self.filled = 0;
            }
        }
    }

    /// A boundary, told from text by a byte that UTF-8 never has.
    fn mark(&mut self, which: u8) {
        self.feed(&[0xff, which]);
    }

    fn text(&mut self, text: Text<'_>) -> Read<()> {
        if text.escaped {
            super::escape::unescaped(text.raw, |piece| self.feed(piece));
        } else {
            self.feed(text.raw);
        }
        text.whole().map(drop)
    }

    fn value(&mut self, cursor: &mut Cursor<'_>, wrapped: u32) -> Read<()> {
        match cursor.peek()? {
            b'"' => {
                let text = cursor.text()?;
                self.text(text)
            }
            b'[' | b'{' if wrapped == 0 => cursor.skip(),
            b'[' => match cursor.flat_array() {
                Some(flat) => {
                    self.ids(flat.inner);
                    if flat.closed { Ok(()) } else { Err(Stop::End) }
                }
                None => cursor.array(|cursor| self.value(cursor, wrapped - 1)),
            },
            b'{' => self.object(cursor, wrapped - 1),
            b'0'..=b'9' | b'-' => {
                let number = cursor.scalar()?;
                self.ids(number);
                Ok(())
            }
            _ => cursor.skip(),
        }
    }

    /// A message or a part of one: its parts in their order, whatever the order in the body.
    fn object(&mut self, cursor: &mut Cursor<'_>, wrapped: u32) -> Read<()> {
        let mut starts = [0; PARTS.len()];
        let ahead = cursor.clone();
        let read = cursor.object(|cursor, key| {
            if let Some(part) = PARTS.iter().position(|part| *part == key) {
                cursor.peek()?;
                starts[part] = cursor.position();
            }
            cursor.skip()
        });
        for (part, start) in starts.into_iter().enumerate().filter(|(_, start)| *start > 0) {
            self.mark(0x40 + part as u8);
            let mut cursor = ahead.clone_at(start);
            match part {
                ARGUMENTS | INPUT => self.json(&mut cursor, NESTED_MAX)?,
                MEDIA.. => self.digest(&mut cursor)?,
                _ => self.value(&mut cursor, wrapped)?,
            }
        }
        read
    }

    /// A value that the prompt repeats as JSON: as it stands, but for the space.
    fn json(&mut self, cursor: &mut Cursor<'_>, wrapped: u32) -> Read<()> {
        match cursor.peek()? {
            b'[' | b'{' if wrapped == 0 => cursor.skip(),
            b'"' => {
                let text = cursor.text()?;
                self.feed(b"\"");
                self.text(text)
            }
            b'[' => {
                self.feed(b"[");
                cursor.array(|cursor| self.json_nested(cursor, wrapped - 1))?;
                self.feed(b"]");
                Ok(())
            }
            b'{' => {
                self.feed(b"{");
                cursor.object(|cursor, key| {
                    self.feed(key);
                    self.feed(b":");
                    self.json_nested(cursor, wrapped - 1)
                })?;
                self.feed(b"}");
                Ok(())
            }
            _ => {
                let scalar = cursor.scalar()?;
                self.feed(scalar);
                Ok(())
            }
        }
    }

    fn json_nested(&mut self, cursor: &mut Cursor<'_>, wrapped: u32) -> Read<()> {
        self.json(cursor, wrapped)?;
        self.feed(b",");
        Ok(())
    }

    /// A picture or a sound: its bytes are many, its tokens are few and not known.
    fn digest(&mut self, cursor: &mut Cursor<'_>) -> Read<()> {
        let mut inner = Blocks::new(self.key);
        let read = inner.json(cursor, NESTED_MAX);
        inner.feed(&[0; BLOCK_BYTES]);
        self.feed(&inner.state.to_le_bytes());
        read
    }

    /// Token ids between commas.
    fn ids(&mut self, numbers: &[u8]) {
        let numbers = numbers.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        for number in numbers.filter(|number| !number.is_empty()) {
            let id = number.iter().fold(0u32, |id, digit| id.wrapping_mul(10).wrapping_add(u32::from(*digit)));
            self.feed(&id.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
