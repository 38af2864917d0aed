//! The text of requests: what a length in tokens is made of.

use std::fmt::Write as _;

use bytes::Bytes;

use crate::sim::conversations::{Exchange, Turn};

/// Text of prompts; ASCII, so that it can be cut anywhere.
const FILLER: &str = "lorem ipsum dolor sit amet, consectetur adipiscing elit, ";

/// A chat request whose text has four bytes per prompt token, the order for its output length included.
pub(super) fn chat_body(prompt_tokens: u32, output_tokens: u32, stream: bool) -> Bytes {
    let order = format!("[output={output_tokens}]");
    let filler = (prompt_tokens as usize * 4).saturating_sub(order.len());
    let options = if stream { r#""stream":true,"stream_options":{"include_usage":true},"# } else { "" };
    let mut text = FILLER.repeat(filler / FILLER.len() + 1);
    text.truncate(filler);
    let body = format!(r#"{{"model":"emulated",{options}"messages":[{{"role":"user","content":"{text}{order}"}}]}}"#);
    Bytes::from(body)
}

/// Bytes of text per token, as emulated servers count.
const BYTES_PER_TOKEN: usize = 4;

/// What an emulated server's token is in text; answers are repeated as they were given.
const TOKEN: &str = " tok";

/// The prompt of a turn as messages: what all conversations of its kind begin with, then questions and answers.
///
/// A question begins with a number that no other conversation has, so that texts part at their first own byte, and ends
/// with the order for the length of its answer.
pub(super) fn talk_body(turn: &Turn) -> Bytes {
    let mut messages = String::new();
    // That a string grows cannot fail.
    let mut message = |role: &str, text: &str| {
        let comma = if messages.is_empty() { "" } else { "," };
        let _ = write!(messages, r#"{comma}{{"role":"{role}","content":"{text}"}}"#);
    };
    let opening = |of: u64| format!("{of:016x} ");
    message("system", &filled(&opening(turn.system), turn.system_tokens, ""));
    for (number, Exchange { question, answer }) in (0u64..).zip(&turn.said) {
        let order = format!("[output={answer}]");
        message("user", &filled(&opening(turn.session ^ number), *question, &order));
        if number + 1 < turn.said.len() as u64 {
            message("assistant", &TOKEN.repeat(*answer as usize));
        }
    }
    let options = r#""stream":true,"stream_options":{"include_usage":true}"#;
    Bytes::from(format!(r#"{{"model":"emulated",{options},"messages":[{messages}]}}"#))
}

/// A text of so many tokens between a beginning and an end; longer if these are.
fn filled(beginning: &str, tokens: u32, end: &str) -> String {
    let filler = (tokens as usize * BYTES_PER_TOKEN).saturating_sub(beginning.len() + end.len());
    let mut text = beginning.to_owned();
    text.extend(FILLER.chars().cycle().take(filler));
    text + end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::conversations::{Conversations, Talk};

    #[test]
    fn the_text_of_a_prompt_has_four_bytes_per_token() {
        let body: serde_json::Value = serde_json::from_slice(&chat_body(50, 7, true)).expect("JSON");
        let text = body["messages"][0]["content"].as_str().expect("text");
        assert_eq!((text.len(), text.ends_with("[output=7]")), (200, true));
    }

    #[test]
    fn the_text_of_a_turn_begins_with_that_of_the_turn_before() {
        let talk = Talk { live: 1, turns_max: 50, think_s: 0.0, system_tokens: 20, ..Talk::default() };
        let said = Exchange { question: 30, answer: 5 };
        let mut talks = Conversations::new(&talk, fastrand::Rng::with_seed(1), &mut || said);
        let contents = |turn: &Turn| {
            let body: serde_json::Value = serde_json::from_slice(&talk_body(turn)).expect("JSON");
            let messages = body["messages"].as_array().expect("messages").clone();
            messages.iter().map(|message| message["content"].as_str().expect("text")).collect::<String>()
        };
        let (mut before, mut followed) = (talks.turn(0.0, said), 0);
        for at in 1..100 {
            let turn = talks.turn(f64::from(at), said);
            let text = contents(&turn);
            assert_eq!(text.len(), 4 * turn.prompt_tokens as usize);
            assert!(text.ends_with("[output=5]"));
            if turn.session == before.session {
                assert!(text.starts_with(&(contents(&before) + &TOKEN.repeat(5))));
                followed += 1;
            }
            before = turn;
        }
        assert!(followed > 50, "{followed}");
    }
}
