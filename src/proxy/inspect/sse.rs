//! Counts the events in a `text/event-stream`, or the lines in a stream of JSON lines, cut anywhere.
//!
//! Follows the rules for event streams in the HTML standard: lines end with CRLF, LF or CR, a blank line ends an
//! event, an event without data is none. A new event is counted when its blank line arrives, not with each read: one
//! read may bring several events, or a third of one. Keep-alives (comments, `event: ping`) and the closing
//! `data: [DONE]` are not output. Of each line only the first few bytes are looked at.

use memchr::{memchr, memchr2};

/// Enough of a line to tell what it is, and one byte more to see that it does not go on.
const START_BYTES: usize = 16;

/// Where the reading of an event stream stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SseCount {
    /// The beginning of the line that is being read.
    start: [u8; START_BYTES],
    start_len: usize,
    /// The last byte was a CR: an LF now belongs to it.
    after_cr: bool,
    /// The event that is being read has data that are output.
    has_output: bool,
    /// It is a keep-alive.
    is_ping: bool,
    /// `data: [DONE]` was seen.
    done: bool,
}

impl SseCount {
    /// Reads on; returns how many output events ended within `chunk`.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> u32 {
        let mut rest = chunk;
        let mut events = 0u32;
        if self.after_cr && !rest.is_empty() {
            self.after_cr = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = memchr2(b'\n', b'\r', rest) {
            self.keep_start(&rest[..end]);
            events = events.saturating_add(self.line_ends());
            let after = &rest[end + 1..];
            if rest[end] == b'\r' {
                self.after_cr = after.is_empty();
                rest = after.strip_prefix(b"\n").unwrap_or(after);
            } else {
                rest = after;
            }
        }
        self.keep_start(rest);
        events
    }

    /// Whether the stream said that it is complete.
    pub(super) fn done(&self) -> bool {
        self.done
    }

    fn keep_start(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(START_BYTES - self.start_len);
        self.start[self.start_len..self.start_len + len].copy_from_slice(&bytes[..len]);
        self.start_len += len;
    }

    fn line_ends(&mut self) -> u32 {
        let line = &self.start[..self.start_len];
        self.start_len = 0;
        if line.is_empty() {
            let event = self.has_output && !self.is_ping;
            (self.has_output, self.is_ping) = (false, false);
            return u32::from(event);
        }
        match line.strip_prefix(b"data").map(field_value) {
            Some(Some(b"[DONE]")) => self.done = true,
            Some(Some(value)) => self.has_output |= !value.is_empty(),
            _ => {
                if line.strip_prefix(b"event").and_then(field_value) == Some(b"ping") {
                    self.is_ping = true;
                }
            }
        }
        0
    }
}

/// What follows a field's name: a colon and the value, without spaces around it. `None` if the name went on.
fn field_value(after_name: &[u8]) -> Option<&[u8]> {
    match after_name {
        [] => Some(b""),
        [b':', value @ ..] => Some(value.trim_ascii()),
        _ => None,
    }
}

/// Where the reading of JSON lines stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LineCount {
    /// The line that is being read has something in it.
    has_content: bool,
}

impl LineCount {
    /// Reads on; returns how many lines that are not blank ended within `chunk`.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> u32 {
        let mut rest = chunk;
        let mut lines = 0u32;
        while let Some(end) = memchr(b'\n', rest) {
            let content = self.has_content || has_content(&rest[..end]);
            lines = lines.saturating_add(u32::from(content));
            self.has_content = false;
            rest = &rest[end + 1..];
        }
        self.has_content |= has_content(rest);
        lines
    }
}

fn has_content(line: &[u8]) -> bool {
    !line.iter().all(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(stream: &str) -> u32 {
        SseCount::default().feed(stream.as_bytes())
    }

    #[test]
    fn events_are_what_blank_lines_end() {
        assert_eq!(events("data: {}\n\n"), 1);
        assert_eq!(events("data: {}\n\ndata: {}\n\n"), 2);
        assert_eq!(events("data: {}\r\n\r\ndata: {}\r\n\r\n"), 2);
        assert_eq!(events("data: {}\r\rdata: {}\r\r"), 2);
        assert_eq!(events("data: a\ndata: b\n\n"), 1);
        assert_eq!(events("event: x\nid: 1\ndata:{}\n\n"), 1);
        assert_eq!(events("data: {}\n"), 0);
        assert_eq!(events("data: {}\n\n\n\n\n"), 1);
        assert_eq!(events("\n\n\n"), 0);
    }

    #[test]
    fn keep_alives_are_no_events() {
        assert_eq!(events(": ping\n\n"), 0);
        assert_eq!(events(":\n\n: x\n\n"), 0);
        assert_eq!(events("event: ping\ndata: {\"type\": \"ping\"}\n\n"), 0);
        assert_eq!(events("data:\n\n"), 0);
        assert_eq!(events("retry: 100\n\n"), 0);
        assert_eq!(events("event: ping\ndata: {}\n\ndata: {}\n\n"), 1);
        assert_eq!(events("data: {}\n: between\n\n"), 1);
        assert_eq!(events("database: {}\n\n"), 0);
    }

    #[test]
    fn done_is_seen_and_is_no_output() {
        let mut count = SseCount::default();
        assert_eq!(count.feed(b"data: {\"a\":\"[DONE]\"}\n\n"), 1);
        assert!(!count.done());
        assert_eq!(count.feed(b"data: [DONE]or not\n\n"), 1);
        assert!(!count.done());
        assert_eq!(count.feed(b"data: [DONE]\n\n"), 0);
        assert!(count.done());
    }

    #[test]
    fn lines_that_are_not_blank_are_counted() {
        let mut count = LineCount::default();
        assert_eq!(count.feed(b"{}\n{}\r\n\n  \n{"), 2);
        assert_eq!(count.feed(b""), 0);
        assert_eq!(count.feed(b"}\n"), 1);
        assert_eq!(count.feed(b"\n"), 0);
    }
}
