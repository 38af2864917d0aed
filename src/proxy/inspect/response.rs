//! Watches a response pass: counts its streamed events and reads the token counts at its end.
//!
//! Buffering an answer to parse it would take away what streaming is for, and memory without bound. So each chunk is
//! seen once, in place; what stays is the state of a line counter and the last [`TAIL_BYTES`](super::TAIL_BYTES) bytes. Token counts are
//! in there for all known servers; only Anthropic's streams tell the prompt tokens at the beginning, and therefore
//! the first `TAIL_BYTES` bytes are read too, before they are overwritten.
//!
//! Compressed bodies are not looked into: decompressing for two numbers costs more than everything else here. Types
//! that are not JSON or streams of it (audio, images, text) have no counts.

use super::sse::{LineCount, SseCount};
use super::tail::Tail;
use super::usage::Usage;

/// The state of watching one response body. Feed it every chunk of data, in order.
#[derive(Clone, Debug)]
pub struct ResponseScan {
    form: Form,
    events: u32,
    tail: Tail,
    /// Counts in the first `TAIL_BYTES` bytes, read when these had to make room.
    early: Option<Usage>,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    /// Not looked into.
    Opaque,
    /// One JSON document.
    Json,
    EventStream(SseCount),
    JsonLines(LineCount),
}

impl Form {
    /// An answer without a type is taken for JSON: looking for counts in something else does no harm.
    fn of_type(content_type: &[u8]) -> Form {
        let media = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let is = |name: &[u8]| media.eq_ignore_ascii_case(name);
        let is_json_suffix = media.len() > 5 && media[media.len() - 5..].eq_ignore_ascii_case(b"+json");
        if is(b"text/event-stream") {
            Form::EventStream(SseCount::default())
        } else if is(b"application/x-ndjson") || is(b"application/ndjson") || is(b"application/jsonl") {
            Form::JsonLines(LineCount::default())
        } else if media.is_empty() || is(b"application/json") || is_json_suffix {
            Form::Json
        } else {
            Form::Opaque
        }
    }
}

impl ResponseScan {
    /// A scan for a response with these header values (`Content-Type`, `Content-Encoding`). Allocates nothing.
    pub fn new(content_type: Option<&[u8]>, content_encoding: Option<&[u8]>) -> ResponseScan {
        let plain = content_encoding.is_none_or(|coding| {
            let coding = coding.trim_ascii();
            coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
        });
        let form = if plain { Form::of_type(content_type.unwrap_or_default()) } else { Form::Opaque };
        ResponseScan { form, events: 0, tail: Tail::default(), early: None }
    }

    /// Whether [`ResponseScan::feed`] counts events: only in streams that are not compressed.
    pub fn counts_events(&self) -> bool {
        matches!(self.form, Form::EventStream(_) | Form::JsonLines(_))
    }

    /// Takes the next chunk; returns how many output events ended in it (0 always for what is not a stream).
    pub fn feed(&mut self, chunk: &[u8]) -> u32 {
        let events = match &mut self.form {
            Form::Opaque => return 0,
            Form::Json => 0,
            Form::EventStream(count) => count.feed(chunk),
            Form::JsonLines(count) => count.feed(chunk),
        };
        self.events = self.events.saturating_add(events);
        self.keep(chunk);
        events
    }

    fn keep(&mut self, chunk: &[u8]) {
        let rest = self.tail.fill(chunk);
        if rest.is_empty() {
            return;
        }
        if self.early.is_none() {
            self.early = Some(self.early_usage());
        }
        self.tail.overwrite(rest);
    }

    /// What the first bytes tell. A stream that repeats its counts with every event has not said its last there.
    fn early_usage(&self) -> Usage {
        let usage = self.tail.read(Usage::read);
        if self.counts_events() { Usage { output_tokens: None, ..usage } } else { usage }
    }

    /// Output events so far.
    pub fn events(&self) -> u32 {
        self.events
    }

    /// Whether the stream said that it is complete (`data: [DONE]`).
    pub fn saw_done(&self) -> bool {
        matches!(&self.form, Form::EventStream(count) if count.done())
    }

    /// The token counts in what was fed so far: complete once the body has ended.
    pub fn finish(&self) -> Usage {
        match self.form {
            Form::Opaque => Usage::default(),
            _ => self.tail.read(Usage::read).or(self.early.unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests;
