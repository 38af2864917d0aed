//! The text of a prompt as a prefix cache sees it: cumulative hashes of its blocks.
//!
//! Only contents count, not roles or names: the next prompt of a conversation then begins with the bytes of the one before
//! it and of its answer. The hash is the emulator's own and has nothing to do with that of a proxy before it, so that a proxy
//! is right about a cache only as far as it would be about a real one.

use serde_json::Value;

use super::openai::{Asked, TOKEN};
use crate::request::Prefix;
use crate::sim::Text;
use crate::sim::cache::BLOCK_TOKENS;

/// Bytes of prompt text per token.
pub(super) const BYTES_PER_TOKEN: usize = 4;

/// Bytes of a block.
const BLOCK_BYTES: usize = BLOCK_TOKENS as usize * BYTES_PER_TOKEN;

/// Cumulative hashes of a text that comes piece by piece: FNV-1a (Fowler, Noll and Vo), whose state is the hash of all
/// there was.
#[derive(Debug)]
struct Chain {
    state: u64,
    filled: usize,
    blocks: Vec<u64>,
}

impl Chain {
    fn of(model: &str) -> Chain {
        let mut chain = Chain { state: 0xcbf2_9ce4_8422_2325, filled: 0, blocks: Vec::new() };
        chain.mix(model.as_bytes());
        chain
    }

    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.state = (self.state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.filled));
            self.mix(now);
            self.filled += now.len();
            if self.filled == BLOCK_BYTES {
                self.blocks.push(self.state);
                self.filled = 0;
            }
            bytes = later;
        }
    }
}

/// Calls `each` for every piece of text in a prompt, list of prompts, or list of messages (`content` as text or as
/// parts), with a place-holder for each token that is a number.
pub(super) fn each_text(value: &Value, each: &mut dyn FnMut(&[u8])) {
    match value {
        Value::String(text) => each(text.as_bytes()),
        Value::Array(items) => items.iter().for_each(|item| each_text(item, each)),
        Value::Object(fields) => {
            ["content", "text"].iter().filter_map(|key| fields.get(*key)).for_each(|value| each_text(value, each));
        }
        // Prompts may be lists of token numbers.
        Value::Number(number) => {
            let token = number.as_u64().unwrap_or_default() as u32;
            each(&token.to_le_bytes());
        }
        Value::Null | Value::Bool(_) => {}
    }
}

/// What a request with an answer of so many tokens says.
pub(super) fn text_of(asked: &Asked, output_tokens: u32) -> Text {
    let mut chain = Chain::of(asked.model.as_deref().unwrap_or_default());
    asked.each_text(&mut |bytes| chain.add(bytes));
    let prompt = Prefix::new(std::mem::take(&mut chain.blocks), BLOCK_TOKENS as f32);
    for _ in 0..output_tokens {
        chain.add(TOKEN.as_bytes());
    }
    Text { prompt, answer: Some(chain.blocks.into()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(messages: &Value, model: &str, output_tokens: u32) -> Text {
        let asked = serde_json::from_value(json!({"model": model, "messages": messages})).expect("a request");
        text_of(&asked, output_tokens)
    }

    #[test]
    fn the_next_prompt_of_a_conversation_begins_with_the_one_before_and_its_answer() {
        let system = json!({"role": "system", "content": "s".repeat(700)});
        let question = json!({"role": "user", "content": [{"type": "text", "text": "q".repeat(300)}]});
        let first = text(&json!([system, question]), "m", 100);
        let answer = json!({"role": "assistant", "content": TOKEN.repeat(100)});
        let second = text(&json!([system, question, answer, {"role": "user", "content": "?".repeat(300)}]), "m", 1);
        // 1,000 bytes are 3 blocks, and 400 bytes of answer make them 5.
        let said = [first.prompt.blocks(), first.answer.as_deref().expect("known")].concat();
        assert_eq!((first.prompt.blocks().len(), said.len(), second.prompt.blocks().len()), (3, 5, 6));
        assert_eq!(second.prompt.blocks()[..5], said);
    }

    #[test]
    fn models_share_nothing() {
        let messages = json!([{"role": "user", "content": "x".repeat(600)}]);
        let (one, other) = (text(&messages, "a", 1), text(&messages, "b", 1));
        assert_eq!(one.prompt.blocks().len(), 2);
        assert!(one.prompt.blocks().iter().zip(other.prompt.blocks()).all(|(one, other)| one != other));
    }
}
