//! The head of a response: fields, how the body ends, and whether the connection survives it (RFC 9112).
//!
//! A node's framing decides where one client's response ends and the next one's begins, so whatever can be read in two
//! ways is refused rather than repaired: both kinds of framing at once, lengths that differ, codings that we did not
//! ask for. The values of fields are slices of the one buffer that was read; none is copied. Names and values check
//! themselves when they are made, so lines are only cut here, and a general parser, which would check all again, saves
//! nothing.
//!
//! What concerns only the connection to the node ends here: `Transfer-Encoding`, and `Connection` as far as it says
//! whether the connection stays.

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header};
use hyper::ext::ReasonPhrase;

/// The longest head.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The most fields in a head or in trailers.
pub(super) const FIELDS_MAX: usize = 128;
/// The most interim responses (100, 103) before the response.
pub(super) const INTERIM_MAX: u32 = 16;

/// Where the status begins, behind the version and a space.
const STATUS_AT: usize = 9;

/// What is wrong with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::proxy) enum Fault {
    /// It does not begin as HTTP/1 does.
    #[error("it does not begin with an HTTP/1 status line")]
    NotHttp,
    /// The syntax of its head.
    #[error("malformed {0}")]
    Syntax(&'static str),
    /// Too many fields.
    #[error("more than {FIELDS_MAX} fields")]
    Fields,
    /// The head is too long.
    #[error("the head has more than {HEAD_BYTES_MAX} bytes")]
    HeadTooLong,
    /// Too many interim responses.
    #[error("more than {INTERIM_MAX} interim responses")]
    Interim,
    /// Two framings, or one that cannot be followed.
    #[error("ambiguous framing: {0}")]
    Framing(&'static str),
    /// A malformed chunk.
    #[error("malformed chunk: {0}")]
    Chunk(&'static str),
    /// A switch of protocols that nobody asked for.
    #[error("it switches to a protocol that was not asked for")]
    Switch,
}

/// What decides how a response is to be read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    /// The request was a HEAD.
    pub(super) is_head: bool,
    /// The request asked for another protocol.
    pub(super) upgrade: bool,
}

/// How the end of a response body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is no body, whatever the fields say.
    None,
    /// By its length in bytes.
    Length(u64),
    /// By a chunk of size 0.
    Chunked,
    /// By the end of the connection.
    UntilClose,
    /// What follows is another protocol.
    Switched,
}

/// A head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: Parts,
    pub(super) framing: Framing,
    /// Whether another request may follow on the connection.
    pub(super) keep_alive: bool,
}

/// Finds the end of a head: the length with the empty line, or from where to look when more has come.
pub(super) fn find_end(bytes: &[u8], from: usize) -> Result<usize, usize> {
    let mut again = bytes.len();
    for line in memchr::memchr_iter(b'\n', &bytes[from..]) {
        let next = from + line + 1;
        match &bytes[next..] {
            [b'\n', ..] => return Ok(next + 1),
            [b'\r', b'\n', ..] => return Ok(next + 2),
            [] | [b'\r'] => again = next - 1,
            _ => {}
        }
    }
    Err(again)
}

/// Whether this can be the beginning of a response.
pub(super) fn may_begin(bytes: &[u8]) -> bool {
    let prefix = b"HTTP/1.";
    let known = bytes.len().min(prefix.len());
    bytes[..known] == prefix[..known]
}

/// Whether a head may be a node's word that it has not begun on the request: 429, 503, or an interim one before that.
pub(super) fn may_refuse(head: &[u8]) -> bool {
    matches!(head.get(STATUS_AT..), Some([b'4', b'2', b'9', ..] | [b'5', b'0', b'3', ..] | [b'1', ..]))
}

/// Parses a whole head. `fields` is an empty map whose memory is used again.
pub(super) fn parse(head: &Bytes, mut fields: HeaderMap, asked: Asked) -> Result<Head, Fault> {
    let mut lines = Lines(head);
    let (is_1_0, status, reason) = status_line(lines.next().unwrap_or_default())?;
    let mut hop = Hop::default();
    for (count, line) in lines.enumerate() {
        if count == FIELDS_MAX {
            return Err(Fault::Fields);
        }
        let (name, value) = field(line)?;
        if hop.concerns(&name, value)? {
            continue;
        }
        let value = HeaderValue::from_maybe_shared(head.slice_ref(value));
        fields.append(name, value.map_err(|_| Fault::Syntax("field value"))?);
    }
    match hop.length {
        // To a HEAD there may be both; the length is not that of the body then (RFC 9112 section 6.3).
        Some(_) if hop.codings > 0 => drop(fields.remove(header::CONTENT_LENGTH)),
        Some(length) if hop.is_list => drop(fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length))),
        _ => {}
    }
    let framing = framing_of(status, asked, is_1_0, hop.length, hop.codings)?;
    let survives = !matches!(framing, Framing::UntilClose | Framing::Switched);
    let keep_alive = survives && !hop.close && (hop.keep_alive || !is_1_0);
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = status;
    parts.version = if is_1_0 { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers = fields;
    if !is_usual(status, reason) {
        let phrase = ReasonPhrase::try_from(head.slice_ref(reason)).map_err(|_| Fault::Syntax("reason"))?;
        parts.extensions.insert(phrase);
    }
    Ok(Head { parts, framing, keep_alive })
}

/// The lines of a head or of trailers up to the empty one, without their ends.
pub(super) struct Lines<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(b'\n', self.0)?;
        let line = &self.0[..end];
        self.0 = &self.0[end + 1..];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        (!line.is_empty()).then_some(line)
    }
}

/// Cuts a field into its name and its value. The value is not yet checked.
pub(super) fn field(line: &[u8]) -> Result<(HeaderName, &[u8]), Fault> {
    let colon = memchr::memchr(b':', line).ok_or(Fault::Syntax("field"))?;
    let name = &line[..colon];
    let name = match name {
        // What nearly every response has, as it is usually spelled.
        b"Content-Length" | b"content-length" => header::CONTENT_LENGTH,
        b"Content-Type" | b"content-type" => header::CONTENT_TYPE,
        b"Connection" | b"connection" => header::CONNECTION,
        b"Transfer-Encoding" | b"transfer-encoding" => header::TRANSFER_ENCODING,
        b"Date" | b"date" => header::DATE,
        b"Server" | b"server" => header::SERVER,
        _ => HeaderName::from_bytes(name).map_err(|_| Fault::Syntax("field name"))?,
    };
    Ok((name, trim(&line[colon + 1..])))
}

/// Without the white space that may surround a value; others, like CR, are part of it and will be refused.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// `HTTP/1.1 200 OK`: whether it is 1.0, the status, the reason.
fn status_line(line: &[u8]) -> Result<(bool, StatusCode, &[u8]), Fault> {
    let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ (b'0' | b'1'), b' ', rest @ ..] = line else {
        return Err(Fault::NotHttp);
    };
    let (code, rest) = rest.split_at_checked(3).ok_or(Fault::NotHttp)?;
    let status = StatusCode::from_bytes(code).map_err(|_| Fault::NotHttp)?;
    match rest {
        [] => Ok((*minor == b'0', status, rest)),
        [b' ', reason @ ..] => Ok((*minor == b'0', status, reason)),
        _ => Err(Fault::NotHttp),
    }
}

/// What a head says about the connection and the framing.
#[derive(Default)]
struct Hop {
    length: Option<u64>,
    /// Whether the length came in a list, which is not passed on.
    is_list: bool,
    codings: u32,
    close: bool,
    keep_alive: bool,
}

impl Hop {
    /// Takes note of a field; `true` if it is not for the client.
    fn concerns(&mut self, name: &HeaderName, value: &[u8]) -> Result<bool, Fault> {
        if *name == header::CONTENT_LENGTH {
            let repeated = self.length.is_some();
            self.length = Some(content_length(value, self.length)?);
            self.is_list |= memchr::memchr(b',', value).is_some();
            return Ok(repeated);
        }
        if *name == header::TRANSFER_ENCODING {
            self.codings += 1;
            let chunked = value.eq_ignore_ascii_case(b"chunked");
            return if chunked { Ok(true) } else { Err(Fault::Framing("a transfer coding other than chunked")) };
        }
        if *name != header::CONNECTION {
            return Ok(false);
        }
        let mut more = false;
        for option in value.split(|byte| *byte == b',').map(trim) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else {
                more = true;
            }
        }
        Ok(!more)
    }
}

fn is_usual(status: StatusCode, reason: &[u8]) -> bool {
    reason.is_empty() || status.canonical_reason().is_some_and(|usual| usual.as_bytes() == reason)
}

/// RFC 9112 section 6.3, for responses.
fn framing_of(
    status: StatusCode,
    asked: Asked,
    is_1_0: bool,
    length: Option<u64>,
    codings: u32,
) -> Result<Framing, Fault> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return if asked.upgrade { Ok(Framing::Switched) } else { Err(Fault::Switch) };
    }
    let never = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
    if asked.is_head || status.is_informational() || never {
        return Ok(Framing::None);
    }
    match (codings, length) {
        (0, Some(length)) => Ok(Framing::Length(length)),
        (0, None) => Ok(Framing::UntilClose),
        (_, Some(_)) => Err(Fault::Framing("both Transfer-Encoding and Content-Length")),
        (1, None) if !is_1_0 => Ok(Framing::Chunked),
        (1, None) => Err(Fault::Framing("Transfer-Encoding in an HTTP/1.0 response")),
        (_, None) => Err(Fault::Framing("chunked twice")),
    }
}

/// A length, which may be a list of the same length.
fn content_length(value: &[u8], mut known: Option<u64>) -> Result<u64, Fault> {
    for element in value.split(|byte| *byte == b',').map(trim) {
        let length = decimal(element).ok_or(Fault::Framing("a Content-Length that is no number"))?;
        if known.is_some_and(|known| known != length) {
            return Err(Fault::Framing("two different lengths"));
        }
        known = Some(length);
    }
    known.ok_or(Fault::Framing("an empty Content-Length"))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}
