use proptest::prelude::*;

use super::super::TAIL_BYTES;
use super::*;

const SSE: Option<&[u8]> = Some(b"text/event-stream; charset=utf-8");
const NDJSON: Option<&[u8]> = Some(b"application/x-ndjson");
const JSON: Option<&[u8]> = Some(b"application/json");

fn usage(prompt: u32, output: u32, cached: Option<u32>) -> Usage {
    Usage { prompt_tokens: Some(prompt), output_tokens: Some(output), cached_tokens: cached }
}

const OPENAI: &str = concat!(
    r#"data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":null}"#,
    "\n\n",
    r#"data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hel"}}],"usage":null}"#,
    "\n\n",
    ": keep-alive\n\n",
    r#"data: {"id":"c","choices":[{"index":0,"delta":{"content":"lo\n\ndata: x"}}],"usage":null}"#,
    "\n\n",
    r#"data: {"id":"c","choices":[],"usage":{"prompt_tokens":11,"total_tokens":13,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":8}}}"#,
    "\n\n",
    "data: [DONE]\n\n",
);

const CLAUDE: &str = concat!(
    "event: message_start\r\n",
    r#"data: {"type":"message_start","message":{"content":[],"usage":{"input_tokens":25,"cache_read_input_tokens":100,"output_tokens":1}}}"#,
    "\r\n\r\n",
    "event: ping\r\ndata: {\"type\": \"ping\"}\r\n\r\n",
    "event: content_block_delta\r\n",
    r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}"#,
    "\r\n\r\n",
    "event: message_delta\r\n",
    r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}"#,
    "\r\n\r\n",
    "event: message_stop\r\ndata: {\"type\":\"message_stop\"}\r\n\r\n",
);

const OLLAMA: &str = concat!(
    r#"{"model":"gemma","message":{"role":"assistant","content":"The"},"done":false}"#,
    "\n",
    r#"{"model":"gemma","message":{"role":"assistant","content":" sky"},"done":false}"#,
    "\n",
    r#"{"model":"gemma","message":{"role":"assistant","content":""},"done":true,"total_duration":48,"prompt_eval_count":26,"prompt_eval_duration":3,"eval_count":298,"eval_duration":45}"#,
    "\n",
);

const PLAIN: &str = r#"{"id":"x","choices":[{"message":{"role":"assistant","content":"Say \"usage\": {\"prompt_tokens\": 1}"}}],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}"#;

/// Body, its type, output events, whether it says that it is done, its counts.
type Case = (&'static str, Option<&'static [u8]>, u32, bool, Usage);

fn cases() -> [Case; 4] {
    [
        (OPENAI, SSE, 4, true, usage(11, 2, Some(8))),
        (CLAUDE, SSE, 4, false, usage(125, 15, Some(100))),
        (OLLAMA, NDJSON, 3, false, usage(26, 298, None)),
        (PLAIN, JSON, 0, false, usage(9, 12, None)),
    ]
}

#[test]
fn whole_bodies_of_each_form_are_read() {
    for (body, content_type, events, done, counts) in cases() {
        let mut scan = ResponseScan::new(content_type, None);
        assert_eq!(scan.feed(body.as_bytes()), events, "{body}");
        assert_eq!((scan.events(), scan.saw_done(), scan.finish()), (events, done, counts), "{body}");
    }
}

#[test]
fn every_split_into_two_or_three_gives_the_same() {
    for (body, content_type, events, done, counts) in cases() {
        let bytes = body.as_bytes();
        for first in 0..=bytes.len() {
            for second in [first, (first + 1).min(bytes.len()), (first + 37).min(bytes.len())] {
                let mut scan = ResponseScan::new(content_type, None);
                let fed = scan.feed(&bytes[..first]) + scan.feed(&bytes[first..second]) + scan.feed(&bytes[second..]);
                assert_eq!((fed, scan.events()), (events, events), "{first} {second}");
                assert_eq!((scan.saw_done(), scan.finish()), (done, counts), "{first} {second}");
            }
        }
    }
}

#[test]
fn an_event_counts_in_the_chunk_that_ends_it() {
    let mut scan = ResponseScan::new(SSE, None);
    assert_eq!(scan.feed(b"data: {\"a\":1}"), 0);
    assert_eq!(scan.feed(b"\n"), 0);
    assert_eq!(scan.feed(b"\n"), 1);
    assert_eq!(scan.feed(b"data: {}\n\ndata: {}\n\ndata"), 2);
    assert_eq!(scan.feed(b": {}\r\n\r"), 1);
    assert_eq!(scan.feed(b"\ndata: {}\r\n\r\n"), 1);
    assert_eq!(scan.feed(b""), 0);
    assert_eq!(scan.events(), 5);
}

#[test]
fn counts_at_the_end_of_a_long_body_are_found() {
    let mut scan = ResponseScan::new(JSON, None);
    scan.feed(br#"{"object":"list","data":[{"embedding":["#);
    for _ in 0..1000 {
        scan.feed("0.0123,".repeat(100).as_bytes());
    }
    scan.feed(br#"0]}],"model":"m","usage":{"prompt_tokens":8,"total_tokens":8}}"#);
    assert_eq!(scan.finish(), Usage { prompt_tokens: Some(8), ..Usage::default() });
}

#[test]
fn counts_at_the_beginning_of_a_long_body_are_found() {
    let mut scan = ResponseScan::new(JSON, None);
    scan.feed(br#"{"usage":{"prompt_tokens":8,"completion_tokens":5000},"choices":[{"text":""#);
    scan.feed("x".repeat(5 * TAIL_BYTES).as_bytes());
    scan.feed(br#""}]}"#);
    assert_eq!(scan.finish(), usage(8, 5000, None));
}

#[test]
fn a_long_stream_keeps_the_prompt_count_of_its_first_event_but_not_the_output_count() {
    let start = CLAUDE.split_inclusive("\r\n\r\n").next().expect("as written above");
    let end = CLAUDE.rsplit_once("event: message_delta").expect("as written above").1;
    let delta = "event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\"}\r\n\r\n";
    let mut scan = ResponseScan::new(SSE, None);
    scan.feed(start.as_bytes());
    for _ in 0..500 {
        assert_eq!(scan.feed(delta.as_bytes()), 1);
    }
    assert_eq!(scan.finish(), Usage { prompt_tokens: Some(125), output_tokens: None, cached_tokens: Some(100) });
    scan.feed(b"event: message_delta");
    scan.feed(end.as_bytes());
    assert_eq!(scan.finish(), usage(125, 15, Some(100)));
}

#[test]
fn compressed_and_foreign_bodies_are_left_alone() {
    for (content_type, coding) in [
        (SSE, Some(&b"gzip"[..])),
        (JSON, Some(&b"br"[..])),
        (Some(&b"audio/mpeg"[..]), None),
        (Some(&b"text/plain"[..]), None),
    ] {
        let mut scan = ResponseScan::new(content_type, coding);
        assert!(!scan.counts_events());
        assert_eq!(scan.feed(OPENAI.as_bytes()), 0);
        assert_eq!(scan.finish(), Usage::default());
    }
    for (content_type, coding) in [
        (Some(&b"TEXT/Event-Stream"[..]), Some(&b" identity "[..])),
        (Some(&b"text/event-stream;charset=UTF-8"[..]), Some(&b""[..])),
    ] {
        assert!(ResponseScan::new(content_type, coding).counts_events());
    }
    for content_type in [None, Some(&b"application/problem+JSON"[..]), Some(&b"application/json; charset=utf-8"[..])] {
        let mut scan = ResponseScan::new(content_type, None);
        scan.feed(PLAIN.as_bytes());
        assert_eq!(scan.finish(), usage(9, 12, None));
    }
}

/// Pieces that event streams are made of, right and wrong.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "data: {\"x\":1}", "data: [DONE]", "data:", ": ping", "event: ping", "event: message", "\n", "\r\n", "\r", "\n\n",
            "\"usage\":{\"prompt_tokens\":3,", "\"completion_tokens\":4}", "{\"eval_count\":7,", "\\", "\"",
        ]).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (1000usize..3000).prop_map(|len| vec![b'x'; len]),
    ]
}

proptest! {
    #[test]
    fn the_result_does_not_depend_on_the_chunks(
        pieces in prop::collection::vec(piece(), 0..30),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        form in prop::sample::select(vec![SSE, NDJSON, JSON]),
    ) {
        let body = pieces.concat();
        let mut whole = ResponseScan::new(form, None);
        let events = whole.feed(&body);

        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(body.len());
        let mut parts = ResponseScan::new(form, None);
        let (mut from, mut fed) = (0, 0);
        for cut in cuts {
            fed += parts.feed(&body[from..cut]);
            from = cut;
        }
        let mut bytewise = ResponseScan::new(form, None);
        let one_by_one: u32 = body.chunks(1).map(|byte| bytewise.feed(byte)).sum();

        prop_assert_eq!((fed, one_by_one), (events, events));
        prop_assert_eq!((parts.saw_done(), bytewise.saw_done()), (whole.saw_done(), whole.saw_done()));
        prop_assert_eq!((parts.finish(), bytewise.finish()), (whole.finish(), whole.finish()));
    }
}
