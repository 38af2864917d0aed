mod reference;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use reference::{Reference, any_json, as_python, limit, text};

fn chat(body: &str) -> Look<'_> {
    look(body.as_bytes(), true, Api::Chat)
}

#[test]
fn a_chat_completion_of_the_openai_client() {
    let look = chat(
        r#"{"messages":[{"role":"system","content":"You are brief."},{"role":"user","content":"Why is the sky blue?"}],"model":"meta-llama/Llama-3.1-8B-Instruct","max_tokens":128,"stream":true,"stream_options":{"include_usage":true},"temperature":0.7}"#,
    );
    assert_eq!(look.model.as_deref(), Some("meta-llama/Llama-3.1-8B-Instruct"));
    assert!(matches!(look.model, Some(Cow::Borrowed(_))));
    assert!(look.streaming && look.include_usage && look.is_all_text());
    assert!(!look.truncated && !look.malformed && !look.has_media);
    assert_eq!(look.output_tokens_max, Some(128));
    assert_eq!(look.prompt_bytes, 14 + 20);
}

#[test]
fn every_known_shape_gives_its_prompt() {
    for (api, body, bytes, ids) in [
        (Api::Completions, r#"{"model":"m","prompt":"Once upon"}"#, 9, 0),
        (Api::Completions, r#"{"model":"m","prompt":["Once","upon"]}"#, 8, 0),
        (Api::Completions, r#"{"model":"m","prompt":[1,2,3,4]}"#, 0, 4),
        (Api::Completions, r#"{"model":"m","prompt":[[1,2],[3,4,5]]}"#, 0, 5),
        (Api::Embeddings, r#"{"model":"m","input":"text","encoding_format":"float"}"#, 4, 0),
        (Api::Embeddings, r#"{"model":"m","input":["text","more"]}"#, 8, 0),
        (Api::Embeddings, r#"{"model":"m","input":[101,102]}"#, 0, 2),
        (Api::Responses, r#"{"model":"m","instructions":"Be brief","input":"Hello"}"#, 13, 0),
        (
            Api::Responses,
            r#"{"model":"m","text":{"format":{"type":"text"}},"input":[{"role":"user","content":[{"type":"input_text","text":"Hello"}]}]}"#,
            5,
            0,
        ),
        (
            Api::Messages,
            r#"{"model":"m","max_tokens":9,"system":[{"type":"text","text":"Be brief"}],"messages":[{"role":"user","content":"Hello"}]}"#,
            13,
            0,
        ),
        (Api::GenerateStream, r#"{"text_input":"Hello","parameters":{"max_tokens":9,"stream":true}}"#, 5, 0),
        (Api::Generate, r#"{"inputs":"Hello","parameters":{"max_new_tokens":9}}"#, 5, 0),
        (Api::Generate, r#"{"input_ids":[1,2,3],"sampling_params":{"max_new_tokens":9}}"#, 0, 3),
        (Api::OllamaGenerate, r#"{"model":"m","prompt":"Hello","options":{"num_predict":9}}"#, 5, 0),
        (Api::OllamaChat, r#"{"model":"m","messages":[{"role":"user","content":"Hello"}]}"#, 5, 0),
        (Api::Completions, r#"{"prompt":"Hello","n_predict":9,"cache_prompt":true}"#, 5, 0),
        (
            Api::Chat,
            r#"{"model":"m","messages":[{"role":"user","content":"Hello"}],"tools":[{"type":"function"}]}"#,
            26,
            0,
        ),
        (Api::Other, r#"{"sepal_length":5.1,"x":[1,2,3]}"#, 0, 0),
    ] {
        let look = look(body.as_bytes(), true, api);
        assert!(!look.malformed && !look.truncated, "{body}");
        assert_eq!((look.prompt_bytes, look.prompt_token_ids), (bytes, ids), "{body}");
    }
}

#[test]
fn kserve_tensors_are_sized_without_a_model_in_the_body() {
    let body = r#"{"id":"1","inputs":[{"name":"input-0","shape":[2,4],"datatype":"FP32","data":[[6.8,2.8,4.8,1.4],[6,3.4,4.5,1.6]]}],"parameters":{"max_tokens":5}}"#;
    let look = look(body.as_bytes(), true, Api::Infer);
    assert_eq!(look.model, None);
    assert_eq!((look.tensor_elements, look.prompt_bytes, look.prompt_token_ids), (8, 0, 0));
    assert_eq!(look.output_tokens_max, Some(5));
    assert!(!look.streaming);
}

#[test]
fn the_output_limit_has_many_names_and_an_order() {
    for (body, limit) in [
        (r#"{"max_tokens":1}"#, Some(1)),
        (r#"{"max_completion_tokens":2,"max_tokens":1}"#, Some(2)),
        (r#"{"max_tokens":1,"max_completion_tokens":2}"#, Some(2)),
        (r#"{"max_tokens":1,"max_completion_tokens":null}"#, Some(1)),
        (r#"{"max_output_tokens":3}"#, Some(3)),
        (r#"{"n_predict":-1}"#, None),
        (r#"{"options":{"num_predict":4}}"#, Some(4)),
        (r#"{"parameters":{"max_tokens":5},"max_tokens":6}"#, Some(6)),
        (r#"{"max_tokens":null}"#, None),
        (r#"{"max_tokens":"7"}"#, Some(7)),
        (r#"{"max_tokens":8.0}"#, Some(8)),
        (r#"{"max_tokens":99999999999}"#, Some(u32::MAX)),
        (r#"{"max_tokens":{"a":1}}"#, None),
        (r#"{"metadata":{"max_tokens":1}}"#, None),
    ] {
        assert_eq!(chat(body).output_tokens_max, limit, "{body}");
    }
}

#[test]
fn streaming_follows_the_body_and_then_the_api() {
    for (api, body, streaming) in [
        (Api::Chat, r#"{"stream":true}"#, true),
        (Api::Chat, r#"{"stream":false}"#, false),
        (Api::Chat, r#"{"stream":null}"#, false),
        (Api::Chat, r#"{"stream":"yes"}"#, false),
        (Api::Chat, r#"{"messages":[{"stream":true}]}"#, false),
        (Api::OllamaChat, "{}", true),
        (Api::OllamaChat, r#"{"stream":false}"#, false),
        (Api::Generate, r#"{"parameters":{"stream":true}}"#, true),
        (Api::Embeddings, r#"{"stream":true}"#, false),
    ] {
        assert_eq!(look(body.as_bytes(), true, api).streaming, streaming, "{api:?} {body}");
    }
}

#[test]
fn the_last_of_equal_keys_counts() {
    let look = chat(
        r#"{"model":"a","stream":true,"max_tokens":1,"prompt":"long text","stream_options":{"include_usage":true},"model":"b","stream":false,"max_tokens":2,"prompt":"x","stream_options":null}"#,
    );
    assert_eq!(look.model.as_deref(), Some("b"));
    assert_eq!((look.streaming, look.output_tokens_max, look.prompt_bytes), (false, Some(2), 1));
    assert!(!look.include_usage);
}

#[test]
fn escapes_in_names_are_undone() {
    assert_eq!(chat(r#"{"model":"org\/name\u002d7b"}"#).model.as_deref(), Some("org/name-7b"));
    assert_eq!(chat(r#"{"\u006dodel":"m"}"#).model.as_deref(), Some("m"));
    assert_eq!(chat(r#"{"model":"\ud800"}"#).model, None);
    assert_eq!(chat(r#"{"model":""}"#).model, None);
    assert_eq!(chat(r#"{"model":7}"#).model, None);
    assert_eq!(look(b"{\"model\":\"\xff\"}", true, Api::Chat).model, None);
}

#[test]
fn a_name_without_bound_is_cut_not_forgotten() {
    for letter in ["a", "é", "\\u00e9", "😀"] {
        let body = format!(r#"{{"model":"x{}"}}"#, letter.repeat(10_000));
        let look = chat(&body);
        let model = look.model.expect("as written above");
        assert!((MODEL_BYTES_MAX - 3..=MODEL_BYTES_MAX).contains(&model.len()), "{letter}");
    }
}

#[test]
fn broken_bodies_give_what_came_before() {
    for body in [
        "",
        "nonsense",
        "[1,2]",
        "\"text\"",
        r#"{"model":"m"} extra"#,
        r#"{"model":"m",}"#,
        r#"{"model":"m" "x":1}"#,
        r#"{"model":"m","a":[}"#,
        r#"{"model":"m","a":"#,
        r#"{"model":"m","stream":tru}"#,
        "{\"model\":\"m\"\0",
    ] {
        let look = chat(body);
        assert!(look.malformed && !look.truncated, "{body}");
        assert_eq!(look.model.as_deref(), body.contains("model").then_some("m"), "{body}");
    }
    assert!(!chat(" \r\n{ } \n").malformed);
    assert!(!chat("\u{feff}{}").malformed);
}

#[test]
fn a_cut_body_is_truncated_and_its_size_scaled() {
    let text = "x".repeat(9_000);
    let body = format!(r#"{{"model":"m","stream":true,"messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let part = look(&body.as_bytes()[..1_000], false, Api::Chat);
    assert!(part.truncated && !part.malformed && !part.is_all_text());
    assert_eq!(part.model.as_deref(), Some("m"));
    assert!(part.streaming);
    let whole = part.prompt_bytes_of(Some(body.len() as u64));
    assert!((8_000..9_100).contains(&whole), "{whole}");
    assert_eq!(part.prompt_bytes_of(None), part.prompt_bytes);
    assert_eq!(chat(&body).prompt_bytes_of(Some(1 << 40)), 9_000);
    let ids = look(br#"{"prompt":[1,2,3,4,5,6"#, false, Api::Completions);
    assert_eq!(ids.prompt_token_ids_of(Some(220)), 60);
}

#[test]
fn every_cut_of_a_body_is_either_truncated_or_malformed_and_never_more_than_the_whole() {
    let body = r#"{"model":"m\n","max_tokens":12,"messages":[{"role":"user","content":[{"type":"text","text":"a\u00e9b"},{"image_url":{"url":"d"}}]}],"prompt":[[1,2],[3]],"stream":true}"#;
    let whole = chat(body);
    for cut in 0..body.len() {
        let part = look(&body.as_bytes()[..cut], false, Api::Chat);
        assert!(part.truncated && !part.malformed, "{cut}");
        assert!(look(&body.as_bytes()[..cut], true, Api::Chat).malformed, "{cut}");
        assert!(part.prompt_bytes <= whole.prompt_bytes + 6, "{cut}");
        assert!(part.prompt_token_ids <= whole.prompt_token_ids, "{cut}");
        assert!(part.output_tokens_max.is_none_or(|limit| limit == 12), "{cut}");
        assert!(part.model.is_none_or(|model| model == "m\n"), "{cut}");
    }
}

fn body() -> impl Strategy<Value = Value> {
    let known = prop_oneof![
        (Just("model"), text().prop_map(Value::from)),
        (Just("stream"), any::<bool>().prop_map(Value::from)),
        (Just("max_tokens"), any::<u32>().prop_map(Value::from)),
        (Just("max_completion_tokens"), "[0-9]{1,8}".prop_map(Value::from)),
        (Just("stream_options"), any::<bool>().prop_map(|usage| json!({"include_usage": usage, "x": [usage]}))),
        (
            Just("messages"),
            prop::collection::vec(text(), 0..4)
                .prop_map(|texts| texts.iter().map(|text| json!({"role": "user", "content": text})).collect())
        ),
        (
            prop::sample::select(vec![
                "model",
                "stream",
                "max_tokens",
                "messages",
                "prompt",
                "input",
                "tools",
                "text_input",
                "system",
                "suffix",
                "input_ids",
                "stream_options",
                "n_predict",
            ]),
            any_json()
        ),
    ];
    let known = known.prop_map(|(key, value)| (key.to_owned(), value));
    let member = prop_oneof![3 => known, 1 => (text(), any_json())];
    // `text` as a key of the top level comes from nowhere above; any other key that is none of ours must not matter.
    prop::collection::vec(member, 0..12).prop_map(|members| members.into_iter().collect())
}

proptest! {
    #[test]
    fn it_agrees_with_a_real_parser(body in body(), python in any::<bool>()) {
        let write: fn(&Value) -> String = if python { as_python } else { Value::to_string };
        let written = write(&body);
        let look = look(written.as_bytes(), true, Api::Chat);
        prop_assert!(!look.malformed && !look.truncated, "{}", written);

        let model = body["model"].as_str().filter(|model| !model.is_empty());
        prop_assert_eq!(look.model.as_deref(), model);
        prop_assert_eq!(look.streaming, body["stream"].as_bool().unwrap_or(false));
        prop_assert_eq!(look.include_usage, body["stream_options"]["include_usage"].as_bool().unwrap_or(false));
        let limits = ["max_completion_tokens", "max_tokens", "n_predict"];
        prop_assert_eq!(look.output_tokens_max, limits.iter().find_map(|key| limit(body.get(key))));

        let mut reference = Reference { write, size: Size::default() };
        for key in ["messages", "prompt", "input", "text_input", "system", "suffix", "input_ids"] {
            reference.prompt(&body[key]);
        }
        reference.json(&body["tools"]);
        prop_assert_eq!(look.prompt_bytes, reference.size.bytes);
        prop_assert_eq!(u64::from(look.prompt_token_ids), reference.size.token_ids);
        prop_assert_eq!(look.tensor_elements, reference.size.elements);
        prop_assert_eq!(look.has_media, reference.size.media);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), complete in any::<bool>()) {
        let look = look(&bytes, complete, Api::Other);
        prop_assert!(look.prompt_bytes <= bytes.len() as u64);
    }

    #[test]
    fn damaged_bodies_never_panic(body in body(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), cut in any::<prop::sample::Index>()) {
        let mut bytes = body.to_string().into_bytes();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let look = look(&bytes, false, Api::Chat);
        prop_assert!(look.prompt_bytes <= bytes.len() as u64);
        prop_assert!(look.model.is_none_or(|model| model.len() <= MODEL_BYTES_MAX));
    }
}
