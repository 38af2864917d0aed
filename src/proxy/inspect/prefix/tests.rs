//! Same prompts have the same hashes, other prompts other ones.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Api, look};
use super::*;

fn blocks_of(body: &str, complete: bool) -> Vec<u64> {
    let look = look(body.as_bytes(), complete, Api::Chat);
    let model = look.model.clone();
    prefix_blocks(body.as_bytes(), &look, model.as_deref(), &PrefixKey::of_secret("for tests"))
}

fn blocks(body: &Value) -> Vec<u64> {
    blocks_of(&body.to_string(), true)
}

/// How many blocks two prompts have in common.
fn common(a: &Value, b: &Value) -> usize {
    let (a, b) = (blocks(a), blocks(b));
    a.iter().zip(&b).take_while(|(a, b)| a == b).count()
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn words(seed: u32, count: u32) -> String {
    (0..count)
        .map(|i| format!("word{} ", crate::node::scramble(u64::from(seed) << 32 | u64::from(i)) % 10_000))
        .collect()
}

#[test]
fn a_conversation_that_goes_on_keeps_its_beginning() {
    let (system, first, answer) = (words(1, 200), words(2, 100), words(3, 300));
    let one = json!({"model": "m", "messages": [message("system", &system), message("user", &first)]});
    let two = json!({"model": "m", "temperature": 0.5, "messages": [
        message("system", &system), message("user", &first), message("assistant", &answer), message("user", "and then?")
    ]});
    let other = json!({"model": "m", "messages": [message("system", &system), message("user", &words(4, 100))]});
    assert_eq!(common(&one, &two), blocks(&one).len());
    assert!(blocks(&one).len() >= 9 && blocks(&two).len() > blocks(&one).len());
    // Two marks with each role, one before both, and the two roles themselves.
    assert_eq!(common(&one, &other), (2 + 4 + 6 + system.len() + 4 + 4) / BLOCK_BYTES);
    let mut said_by_another = one.clone();
    said_by_another["messages"][0]["role"] = json!("user");
    assert_eq!(common(&one, &said_by_another), 0);
}

#[test]
fn models_adapters_and_salts_never_share() {
    let messages = json!([message("user", &words(1, 400))]);
    let one = json!({"model": "m", "messages": messages});
    for (key, value) in [("model", "n"), ("lora_path", "a"), ("cache_salt", "s")] {
        let mut other = one.clone();
        other[key] = json!(value);
        assert_eq!(common(&one, &other), 0, "{key}");
        assert_eq!(common(&other, &other.clone()), blocks(&one).len(), "{key}");
    }
    assert_eq!(
        common(&json!({"inputs": words(1, 400), "parameters": {"adapter_id": "a"}}), &json!({"inputs": words(1, 400)})),
        0
    );
    let body = one.to_string();
    let seen = look(body.as_bytes(), true, Api::Chat);
    let by = |key| prefix_blocks(body.as_bytes(), &seen, Some("m"), &key);
    assert_ne!(by(PrefixKey::random())[0], by(PrefixKey::random())[0], "nobody knows the key");
    assert_eq!(by(PrefixKey::of_secret("x")), by(PrefixKey::of_secret("x")));
    assert_ne!(by(PrefixKey::of_secret("x")), by(PrefixKey::of_secret("y")));
}

#[test]
fn every_api_that_has_a_prompt_has_blocks() {
    let text = words(1, 200);
    for body in [
        json!({"prompt": text}),
        json!({"prompt": [text]}),
        json!({"prompt": (0..400).collect::<Vec<_>>()}),
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}),
        json!({"system": [{"type": "text", "text": text}], "messages": []}),
        json!({"instructions": text, "input": "hello"}),
        json!({"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}]}),
        json!({"inputs": text}),
        json!({"text_input": text}),
        json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": text}}]}]}),
        json!({"tools": [{"type": "function", "function": {"name": "f", "description": text}}], "messages": []}),
    ] {
        let found = blocks(&body);
        assert!(found.len() >= 5, "{body}");
        let mut last: Vec<u64> = found.clone();
        last.dedup();
        assert_eq!(last.len(), found.len());
    }
    assert_eq!(blocks(&json!({"messages": [message("user", "hi")]})), Vec::<u64>::new());
}

#[test]
fn what_comes_first_in_the_prompt_comes_first_here_wherever_it_stands_in_the_body() {
    let (text, tool) = (words(1, 200), words(2, 100));
    let before =
        format!(r#"{{"tools":[{{"a":"{tool}"}}],"system":"s","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let after =
        format!(r#"{{"messages":[{{"content":"{text}","role":"user"}}],"system":"s","tools":[{{"a":"{tool}"}}]}}"#);
    assert_eq!(blocks_of(&before, true), blocks_of(&after, true));
    let other_tools = after.replace(&tool, &words(3, 100));
    assert_ne!(blocks_of(&after, true)[0], blocks_of(&other_tools, true)[0]);
}

#[test]
fn pictures_count_by_what_they_are_and_not_by_their_bytes() {
    let with = |picture: &str| {
        let parts = json!([
            {"type": "image_url", "image_url": {"url": format!("data:{picture}{}", "A".repeat(20_000))}},
            {"type": "text", "text": words(1, 100)}
        ]);
        json!({"messages": [{"role": "user", "content": parts}]})
    };
    assert_eq!(common(&with("a"), &with("b")), 0);
    assert!(blocks(&with("a")).len() < 5);
}

#[test]
fn of_a_body_that_is_cut_what_was_seen_is_matched() {
    let whole = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{}"}}]}}"#, words(1, 2_000));
    let all = blocks_of(&whole, true);
    for cut in [whole.len() / 3, whole.len() / 2, whole.len() - 5] {
        let part = blocks_of(&whole[..cut], false);
        assert_eq!(part, all[..part.len()]);
        assert!(part.len() * BLOCK_BYTES + 2 * BLOCK_BYTES > cut);
    }
}

/// The same value written with other spaces and other escapes.
fn rewritten(value: &Value, spaces: bool, escapes: bool) -> String {
    let space = if spaces { " \n" } else { "" };
    let text = |text: &str| match escapes {
        true => format!("\"{}\"", text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<String>()),
        false => Value::from(text).to_string(),
    };
    match value {
        Value::String(string) => text(string),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| rewritten(item, spaces, escapes)).collect();
            format!("[{space}{}{space}]", items.join(&format!("{space},{space}")))
        }
        Value::Object(members) => {
            let member = |(key, value): (&String, &Value)| {
                format!("{key:?}{space}:{space}{}", rewritten(value, spaces, escapes))
            };
            let members: Vec<String> = members.iter().map(member).collect();
            format!("{{{space}{}{space}}}", members.join(&format!("{space},{space}")))
        }
        other => other.to_string(),
    }
}

proptest! {
    #[test]
    fn the_way_the_json_is_written_does_not_matter(
        texts in prop::collection::vec("[a-z \"\\\\/\n\té語😀]{0,300}", 1..5), spaces: bool, escapes: bool,
    ) {
        let messages: Vec<Value> = texts.iter().map(|text| json!({
            "role": "user", "content": [{"type": "text", "text": text}],
            "tool_calls": [{"function": {"name": "f", "arguments": {"a": [text, 1, null]}}}],
        })).collect();
        let body = json!({"model": "m", "messages": messages, "tools": [{"x": texts[0]}]});
        prop_assert_eq!(blocks_of(&rewritten(&body, spaces, escapes), true), blocks(&body));
    }

    #[test]
    fn a_change_anywhere_changes_every_hash_from_there_on(at in 0usize..3_000, len in 3_000usize..4_000) {
        let text = "x".repeat(len);
        let mut other = text.clone();
        other.replace_range(at..=at, "y");
        let (a, b) = (blocks(&json!({"prompt": text})), blocks(&json!({"prompt": other})));
        let common = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
        // Two bytes of a mark come before the text.
        prop_assert_eq!(common, ((at + 2) / BLOCK_BYTES).min(a.len()));
        prop_assert!(a.iter().skip(common).zip(b.iter().skip(common)).all(|(a, b)| a != b));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), complete: bool) {
        let seen = look(&bytes, complete, Api::Other);
        let found = prefix_blocks(&bytes, &seen, None, &PrefixKey::of_secret(""));
        prop_assert!(found.len() <= bytes.len() * 2 / BLOCK_BYTES + 8);
    }
}
