//! The shapes of the OpenAI API as far as clients and proxies look at them, and how lengths are read from a request.
//!
//! A request tells its cost in its text, `[output=37]` for tokens and `[work_ms=120]` for a plain server, because
//! whatever stands between client and server must pass a body on as it is, whereas headers are dropped and renamed.

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memmem;
use serde::Deserialize;
use serde_json::{Value, json};

use super::text::{BYTES_PER_TOKEN, each_text};

/// What a generated token is in text.
pub(super) const TOKEN: &str = " tok";

/// The fields of a request that matter here; everything else is ignored.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    pub(super) model: Option<String>,
    #[serde(default)]
    pub(super) stream: bool,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    messages: Value,
    #[serde(default)]
    prompt: Value,
    #[serde(default)]
    input: Value,
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl Asked {
    pub(super) fn include_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage)
    }

    /// Tokens of the prompt: a token per four bytes of text, at least one.
    pub(super) fn prompt_tokens(&self) -> u32 {
        let mut bytes = 0;
        self.each_text(&mut |text| bytes += text.len());
        u32::try_from(bytes / BYTES_PER_TOKEN).unwrap_or(u32::MAX).max(1)
    }

    /// Calls `each` for every piece of text in the prompt.
    pub(super) fn each_text(&self, each: &mut dyn FnMut(&[u8])) {
        [&self.messages, &self.prompt, &self.input].into_iter().for_each(|value| each_text(value, each));
    }

    /// The limit on output tokens.
    pub(super) fn output_limit(&self) -> u32 {
        self.max_completion_tokens.or(self.max_tokens).unwrap_or(u32::MAX)
    }

    /// How many embeddings are asked for.
    pub(super) fn inputs(&self) -> usize {
        self.input.as_array().map_or(1, Vec::len)
    }
}

/// The number in the last `[name=number]` of the body; the last, as a chat repeats its earlier turns.
pub(super) fn marker(body: &[u8], name: &str) -> Option<f64> {
    let opening = format!("[{name}=");
    let from = memmem::rfind(body, opening.as_bytes())? + opening.len();
    let length = body[from..].iter().take(20).position(|byte| *byte == b']')?;
    std::str::from_utf8(&body[from..from + length]).ok()?.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Which of the two text endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    Chat,
    Text,
}

/// The answer to one request, known from its start.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) flavour: Flavour,
    pub(super) id: u64,
    pub(super) model: String,
    pub(super) prompt_tokens: u32,
    /// Those of them that were cached; nothing where the server has no cache.
    pub(super) cached_tokens: Option<u32>,
    pub(super) output_tokens: u32,
    /// Seconds since 1970.
    pub(super) created: u64,
}

impl Answer {
    fn head(&self, streamed: bool) -> (String, &'static str) {
        match (self.flavour, streamed) {
            (Flavour::Chat, true) => (format!("chatcmpl-{}", self.id), "chat.completion.chunk"),
            (Flavour::Chat, false) => (format!("chatcmpl-{}", self.id), "chat.completion"),
            (Flavour::Text, _) => (format!("cmpl-{}", self.id), "text_completion"),
        }
    }

    fn usage(&self) -> Value {
        let mut usage = json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": u64::from(self.prompt_tokens) + u64::from(self.output_tokens),
        });
        if let Some(cached) = self.cached_tokens {
            usage["prompt_tokens_details"] = json!({"cached_tokens": cached});
        }
        usage
    }

    fn event(&self, choices: &Value, usage: Option<Value>) -> Bytes {
        let (id, object) = self.head(true);
        let mut event =
            json!({"id": id, "object": object, "created": self.created, "model": self.model, "choices": choices});
        if let Some(usage) = usage {
            event["usage"] = usage;
        }
        Bytes::from(format!("data: {event}\n\n"))
    }

    fn token(&self, first: bool, last: bool) -> Bytes {
        let finish = last.then_some("stop");
        let choice = match self.flavour {
            Flavour::Chat if first => {
                json!({"index": 0, "delta": {"role": "assistant", "content": TOKEN}, "finish_reason": finish})
            }
            Flavour::Chat => json!({"index": 0, "delta": {"content": TOKEN}, "finish_reason": finish}),
            Flavour::Text => json!({"index": 0, "text": TOKEN, "logprobs": null, "finish_reason": finish}),
        };
        self.event(&json!([choice]), None)
    }

    /// The events of the answer, made once per request: a step of hundreds of sequences only clones references.
    pub(super) fn events(&self, include_usage: bool) -> Events {
        let mut tail = BytesMut::new();
        if include_usage {
            tail.put(self.event(&json!([]), Some(self.usage())));
        }
        tail.put_slice(b"data: [DONE]\n\n");
        Events {
            first: self.token(true, self.output_tokens <= 1),
            middle: self.token(false, false),
            last: self.token(false, true),
            tail: tail.freeze(),
            count: self.output_tokens,
        }
    }

    /// The answer in one piece.
    pub(super) fn whole(&self) -> Bytes {
        let (id, object) = self.head(false);
        let text = TOKEN.repeat(self.output_tokens as usize);
        let choice = match self.flavour {
            Flavour::Chat => {
                json!({"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"})
            }
            Flavour::Text => json!({"index": 0, "text": text, "logprobs": null, "finish_reason": "stop"}),
        };
        let (created, model, usage) = (self.created, &self.model, self.usage());
        let whole = json!({"id": id, "object": object, "created": created, "model": model, "choices": [choice],
            "usage": usage});
        Bytes::from(whole.to_string())
    }

    /// The answer to `/v1/embeddings`.
    pub(super) fn embeddings(&self, inputs: usize) -> Bytes {
        let embedding = |index| json!({"object": "embedding", "index": index, "embedding": [0.5, -0.25, 0.125, 0.0]});
        let data: Vec<Value> = (0..inputs).map(embedding).collect();
        let usage = json!({"prompt_tokens": self.prompt_tokens, "total_tokens": self.prompt_tokens});
        Bytes::from(json!({"object": "list", "data": data, "model": self.model, "usage": usage}).to_string())
    }
}

/// The server-sent events of one answer.
#[derive(Clone, Debug)]
pub(super) struct Events {
    first: Bytes,
    middle: Bytes,
    last: Bytes,
    /// Usage if asked for, and `[DONE]`.
    tail: Bytes,
    count: u32,
}

impl Events {
    fn at(&self, index: u32) -> &Bytes {
        match index {
            0 => &self.first,
            _ if index + 1 >= self.count => &self.last,
            _ => &self.middle,
        }
    }

    /// Events `from..to`, one per token, and the tail if they are the last.
    pub(super) fn range(&self, from: u32, to: u32, with_tail: bool) -> Bytes {
        if to == from + 1 && !with_tail {
            return self.at(from).clone();
        }
        let mut bytes = BytesMut::with_capacity((to - from) as usize * self.first.len() + self.tail.len());
        (from..to).for_each(|index| bytes.put_slice(self.at(index)));
        if with_tail {
            bytes.put_slice(&self.tail);
        }
        bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(body: &Value) -> Asked {
        serde_json::from_value(body.clone()).expect("a request")
    }

    #[test]
    fn prompts_are_measured_in_every_shape_that_clients_send() {
        let parts = json!([{"type": "text", "text": "12345678"}, {"type": "image_url", "image_url": {"url": "x"}}]);
        for (body, tokens) in [
            (json!({"messages": [{"role": "user", "content": "x".repeat(40)}]}), 10),
            (json!({"messages": [{"role": "user", "content": parts}]}), 2),
            (json!({"prompt": "x".repeat(44)}), 11),
            (json!({"prompt": [1, 2, 3]}), 3),
            (json!({"input": ["12345678", "12345678"]}), 4),
            (json!({}), 1),
        ] {
            assert_eq!(asked(&body).prompt_tokens(), tokens, "{body}");
        }
    }

    #[test]
    fn the_last_marker_counts_and_a_broken_one_does_not() {
        assert_eq!(marker(b"[output=5] said, then [output=37] is asked", "output"), Some(37.0));
        assert_eq!(marker(b"[work_ms=2.5]", "work_ms"), Some(2.5));
        for broken in ["[output=", "[output=x]", "[output=]", "[output=inf]", "output=3"] {
            assert_eq!(marker(broken.as_bytes(), "output"), None, "{broken}");
        }
    }

    #[test]
    fn a_stream_has_one_event_per_token_then_usage_and_done() {
        let answer = Answer {
            flavour: Flavour::Chat,
            id: 4,
            model: "m".to_owned(),
            prompt_tokens: 9,
            cached_tokens: Some(8),
            output_tokens: 3,
            created: 1,
        };
        let events = answer.events(true);
        let text = [events.range(0, 1, false), events.range(1, 3, true)].concat();
        let text = String::from_utf8(text).expect("text");
        let data: Vec<&str> = text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
        assert_eq!(data.len(), 5);
        let parsed: Vec<Value> = data[..4].iter().map(|event| serde_json::from_str(event).expect("JSON")).collect();
        assert_eq!(parsed[0]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(parsed[1]["choices"][0]["finish_reason"], Value::Null);
        assert_eq!(parsed[2]["choices"][0]["finish_reason"], "stop");
        assert_eq!((&parsed[3]["choices"], &parsed[3]["usage"]["completion_tokens"]), (&json!([]), &json!(3)));
        assert_eq!(parsed[3]["usage"]["prompt_tokens_details"]["cached_tokens"], 8);
        assert_eq!(data[4], "[DONE]");
    }
}
