//! One request head, line by line: the request line, the fields, the empty line.
//!
//! The verdict is a function of the bytes alone, not of how they were cut into reads: a line that is judged before its end
//! has arrived can only be judged by an offence that the rest of it could not undo, and the limit is applied to what
//! stands before it, whatever else has arrived. A field value that comes in pieces is not searched again; names, methods
//! and targets are, and have bounds of their own, so that a client that sends single bytes buys little work with each.

use super::Limits;
use super::alphabet::{self, PATH, QUERY};
use super::refusal::{self as no, Refusal};
use super::target::{self, Port};

/// The longest method in the registry has 17.
const METHOD_BYTES_MAX: usize = 64;
/// No field name in use is half as long; hyper's bound is 65,535.
const FIELD_NAME_BYTES_MAX: usize = 256;
/// `HTTP/1.1`.
const VERSION_BYTES: usize = 8;
/// What hyper's `Uri` can hold.
const URI_BYTES_MAX: usize = 65_534;

/// How the body after a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// Whether the connection may stop being HTTP after this request, if the handler says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Leaves {
    #[default]
    Never,
    /// The request has an `Upgrade` field: a 101 makes a tunnel.
    ByUpgrade,
    /// The method is CONNECT: any 2xx makes a tunnel, too.
    ByConnect,
}

/// What is known of a head after another piece of it.
pub(super) enum Progress {
    More,
    Complete { len: usize, framing: Framing, leaves: Leaves },
    Refused(Refusal),
}

enum Line {
    More,
    Next(usize),
    End(usize),
    Refused(Refusal),
}

/// The end of a line found at a control character, or why it is none.
enum LineEnd {
    More,
    At(usize),
    Refused(Refusal),
}

/// The position in one head and what its lines said so far.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    /// Where the current line begins.
    line: usize,
    /// No control character stands in the current field value before here.
    searched: usize,
    fields: usize,
    in_fields: bool,
    after_empty_line: bool,
    http11: bool,
    host: bool,
    chunked: bool,
    length: Option<u64>,
    leaves: Leaves,
}

impl HeadScan {
    /// Judges what has become complete. `head` is the whole head so far, from its first byte on.
    pub(super) fn advance(&mut self, head: &[u8], limits: &Limits) -> Progress {
        let over = head.len() > limits.head_bytes_max;
        let view = &head[..head.len().min(limits.head_bytes_max)];
        loop {
            let line = if self.in_fields { self.field(view, limits) } else { self.request_line(view, limits) };
            match line {
                Line::Next(at) => {
                    self.line = at;
                    self.searched = at;
                }
                Line::End(len) => return self.complete(len),
                Line::Refused(refusal) => return Progress::Refused(refusal),
                Line::More if over => {
                    return Progress::Refused(if self.in_fields { no::HEAD_TOO_LARGE } else { no::URI_TOO_LONG });
                }
                Line::More => return Progress::More,
            }
        }
    }

    fn request_line(&mut self, view: &[u8], limits: &Limits) -> Line {
        let Some(&first) = view.get(self.line) else { return Line::More };
        if first == b'\r' || first == b'\n' {
            return self.empty_line(view);
        }
        let method_end = alphabet::token(view, self.line);
        match view.get(method_end) {
            _ if method_end - self.line > METHOD_BYTES_MAX => return Line::Refused(no::BAD_METHOD),
            None => return Line::More,
            Some(b' ') if method_end > self.line => {}
            Some(b'\n') => return Line::Refused(no::BARE_LF),
            Some(b'\r' | b' ') => return Line::Refused(no::BAD_REQUEST_LINE),
            Some(_) => return Line::Refused(no::BAD_METHOD),
        }
        let target_at = method_end + 1;
        let mut target_end = alphabet::run(view, target_at, PATH);
        if view.get(target_end) == Some(&b'?') {
            target_end = alphabet::run(view, target_end, QUERY);
        }
        match view.get(target_end) {
            _ if target_end - target_at > limits.uri_bytes_max.min(URI_BYTES_MAX) => {
                return Line::Refused(no::URI_TOO_LONG);
            }
            None => return Line::More,
            Some(b' ') if target_end > target_at => {}
            Some(b'\n') => return Line::Refused(no::BARE_LF),
            Some(b'\r' | b' ') => return Line::Refused(no::BAD_REQUEST_LINE),
            Some(_) => return Line::Refused(no::BAD_TARGET),
        }
        let version_at = target_end + 1;
        let version_end = version_at + view[version_at..].iter().take_while(|b| b.is_ascii_graphic()).count();
        if version_end - version_at > VERSION_BYTES {
            return Line::Refused(no::BAD_REQUEST_LINE);
        }
        let next = match line_end(view, version_end, no::BAD_REQUEST_LINE) {
            LineEnd::More => return Line::More,
            LineEnd::Refused(refusal) => return Line::Refused(refusal),
            LineEnd::At(next) => next,
        };
        let method = &view[self.line..method_end];
        match self.judge_request(method, &view[target_at..target_end], &view[version_at..version_end]) {
            Some(refusal) => Line::Refused(refusal),
            None => {
                self.in_fields = true;
                Line::Next(next)
            }
        }
    }

    /// RFC 9112, 2.2: an empty line before the request line is skipped; more than one is no client's habit.
    fn empty_line(&mut self, view: &[u8]) -> Line {
        match line_end(view, self.line, no::BAD_REQUEST_LINE) {
            LineEnd::More => Line::More,
            LineEnd::Refused(refusal) => Line::Refused(refusal),
            LineEnd::At(_) if self.after_empty_line => Line::Refused(no::EMPTY_LINES),
            LineEnd::At(next) => {
                self.after_empty_line = true;
                Line::Next(next)
            }
        }
    }

    fn judge_request(&mut self, method: &[u8], target: &[u8], version: &[u8]) -> Option<Refusal> {
        match version {
            b"HTTP/1.1" => self.http11 = true,
            b"HTTP/1.0" => {}
            b"HTTP/2.0" if method == b"PRI" => return Some(no::HTTP2_PREFACE),
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Some(no::UNSUPPORTED_VERSION),
            _ => return Some(no::BAD_REQUEST_LINE),
        }
        let readable = target.is_ascii() || std::str::from_utf8(target).is_ok();
        if !readable || !target::is_target(method, target) {
            return Some(no::BAD_TARGET);
        }
        if method == b"CONNECT" {
            self.leaves = Leaves::ByConnect;
        }
        None
    }

    fn field(&mut self, view: &[u8], limits: &Limits) -> Line {
        let at = self.line;
        let name_end = alphabet::token(view, at);
        match view.get(name_end) {
            _ if name_end - at > FIELD_NAME_BYTES_MAX => return Line::Refused(no::BAD_FIELD_NAME),
            None => return Line::More,
            Some(b':') if name_end > at => {}
            Some(b'\r') if name_end == at => {
                return match line_end(view, at, no::BARE_CR) {
                    LineEnd::More => Line::More,
                    LineEnd::At(end) => Line::End(end),
                    LineEnd::Refused(refusal) => Line::Refused(refusal),
                };
            }
            Some(b'\n') => return Line::Refused(no::BARE_LF),
            Some(b' ' | b'\t') if name_end == at => return Line::Refused(no::OBS_FOLD),
            Some(b' ' | b'\t') => return Line::Refused(no::SPACE_BEFORE_COLON),
            Some(_) => return Line::Refused(no::BAD_FIELD_NAME),
        }
        let Some(value_end) = alphabet::control(view, self.searched.max(name_end + 1)) else {
            self.searched = view.len();
            return Line::More;
        };
        let next = match line_end(view, value_end, no::BAD_FIELD_VALUE) {
            LineEnd::More => return Line::More,
            LineEnd::Refused(refusal) => return Line::Refused(refusal),
            LineEnd::At(next) => next,
        };
        self.fields += 1;
        if self.fields > limits.headers_max {
            return Line::Refused(no::TOO_MANY_FIELDS);
        }
        match self.judge_field(&view[at..name_end], &view[name_end + 1..value_end]) {
            Some(refusal) => Line::Refused(refusal),
            None => Line::Next(next),
        }
    }

    /// Looks at the few fields that decide where the message ends, and at no others.
    fn judge_field(&mut self, name: &[u8], value: &[u8]) -> Option<Refusal> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                if std::mem::replace(&mut self.host, true) {
                    return Some(no::REPEATED_HOST);
                }
                (!target::is_host(trim(value), Port::Optional)).then_some(no::BAD_HOST)
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                if self.http11 && self.leaves == Leaves::Never {
                    self.leaves = Leaves::ByUpgrade;
                }
                None
            }
            14 if matches!(name[7], b'-' | b'_') => match Spelling::of(name, b"content-length") {
                Spelling::Other => None,
                Spelling::Underscore => Some(no::UNDERSCORE_FRAMING),
                Spelling::Exact if self.length.is_some() => Some(no::REPEATED_CONTENT_LENGTH),
                Spelling::Exact => {
                    self.length = decimal(trim(value));
                    self.length.is_none().then_some(no::BAD_CONTENT_LENGTH)
                }
            },
            17 if matches!(name[8], b'-' | b'_') => match Spelling::of(name, b"transfer-encoding") {
                Spelling::Other => None,
                Spelling::Underscore => Some(no::UNDERSCORE_FRAMING),
                Spelling::Exact if !self.http11 => Some(no::TRANSFER_ENCODING_IN_HTTP10),
                Spelling::Exact => {
                    let repeated = std::mem::replace(&mut self.chunked, true);
                    (repeated || !trim(value).eq_ignore_ascii_case(b"chunked")).then_some(no::BAD_TRANSFER_ENCODING)
                }
            },
            _ => None,
        }
    }

    fn complete(&self, len: usize) -> Progress {
        match (self.chunked, self.length) {
            (true, Some(_)) => Progress::Refused(no::LENGTH_AND_ENCODING),
            _ if self.http11 && !self.host => Progress::Refused(no::MISSING_HOST),
            (true, None) => Progress::Complete { len, framing: Framing::Chunked, leaves: self.leaves },
            (false, length) => {
                let framing = Framing::Length(length.unwrap_or(0));
                Progress::Complete { len, framing, leaves: self.leaves }
            }
        }
    }
}

/// How a field name is spelled: servers behind us that map names to variables (CGI, WSGI) read `-` and `_` as one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    Exact,
    Underscore,
    Other,
}

impl Spelling {
    /// `canonical` is in lower case, with dashes, and as long as `name`.
    pub(super) fn of(name: &[u8], canonical: &[u8]) -> Spelling {
        let mut spelling = Spelling::Exact;
        for (&is, &want) in name.iter().zip(canonical) {
            match is {
                b'_' if want == b'-' => spelling = Spelling::Underscore,
                _ if is.eq_ignore_ascii_case(&want) => {}
                _ => return Spelling::Other,
            }
        }
        spelling
    }
}

/// Whether the line ends properly at `at`; `otherwise` is said of a byte that is neither CR nor LF.
fn line_end(view: &[u8], at: usize, otherwise: Refusal) -> LineEnd {
    match (view.get(at), view.get(at + 1)) {
        (None, _) | (Some(b'\r'), None) => LineEnd::More,
        (Some(b'\r'), Some(b'\n')) => LineEnd::At(at + 2),
        (Some(b'\r'), Some(_)) => LineEnd::Refused(no::BARE_CR),
        (Some(b'\n'), _) => LineEnd::Refused(no::BARE_LF),
        (Some(_), _) => LineEnd::Refused(otherwise),
    }
}

/// Without the optional white space around a field value (RFC 9110, 5.6.3: spaces and tabs only).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A `Content-Length`: decimal digits alone, below 2^63.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Nineteen digits stay below 2^64.
    let n = digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0'));
    (n <= i64::MAX as u64).then_some(n)
}
