//! The body of a response out of the bytes that were read.
//!
//! Pieces are slices of the read buffer, as long as what is there: a chunk that has come in part is delivered in part,
//! so that nothing waits and nothing is copied. The sizes of chunks are read strictly: a number, perhaps extensions,
//! and CR LF.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body::SizeHint;

use crate::proxy::wire::head::{FIELDS_MAX, Fault, Framing, Lines, field, find_end};

/// The longest line with the size of a chunk and its extensions.
const CHUNK_LINE_MAX: usize = 4 * 1024;
/// The longest trailers.
const TRAILER_BYTES_MAX: usize = 16 * 1024;

/// Where in the body we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoder {
    /// So many bytes are left.
    Length(u64),
    /// Whatever comes until the connection ends.
    UntilClose,
    /// A chunk's size comes next.
    Size,
    /// So many bytes are left of a chunk, and its CR LF.
    Chunk(u64),
    /// Trailers or the last empty line come next.
    Trailers,
    /// The body has ended.
    Ended,
}

/// What the bytes at hand are.
#[derive(Debug)]
pub(super) enum Step {
    /// A piece.
    Data(Bytes),
    /// The trailers; the body has ended.
    Trailers(HeaderMap),
    /// The body has ended.
    End,
    /// Not enough to tell.
    More,
}

impl Decoder {
    pub(super) fn new(framing: Framing) -> Decoder {
        match framing {
            Framing::Length(length) if length > 0 => Decoder::Length(length),
            Framing::Chunked => Decoder::Size,
            Framing::UntilClose => Decoder::UntilClose,
            Framing::None | Framing::Length(_) | Framing::Switched => Decoder::Ended,
        }
    }

    pub(super) fn is_ended(self) -> bool {
        self == Decoder::Ended
    }

    pub(super) fn size_hint(self) -> SizeHint {
        match self {
            Decoder::Length(left) => SizeHint::with_exact(left),
            Decoder::Ended => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }

    /// Whether the body may end here, where the connection does.
    pub(super) fn may_end(self) -> bool {
        matches!(self, Decoder::UntilClose | Decoder::Ended)
    }

    /// Takes the next thing out of `read`.
    pub(super) fn decode(&mut self, read: &mut BytesMut) -> Result<Step, Fault> {
        loop {
            match *self {
                Decoder::Ended => return Ok(Step::End),
                Decoder::Length(_) | Decoder::UntilClose if read.is_empty() => return Ok(Step::More),
                Decoder::Length(left) => {
                    let piece = take(read, left);
                    let left = left - piece.len() as u64;
                    *self = if left == 0 { Decoder::Ended } else { Decoder::Length(left) };
                    return Ok(Step::Data(piece));
                }
                Decoder::UntilClose => return Ok(Step::Data(read.split().freeze())),
                Decoder::Size => match chunk_size(read)? {
                    None => return Ok(Step::More),
                    Some((line, 0)) => {
                        read.advance(line);
                        *self = Decoder::Trailers;
                    }
                    Some((line, size)) => {
                        read.advance(line);
                        *self = Decoder::Chunk(size);
                    }
                },
                Decoder::Chunk(0) => {
                    if read.len() < 2 {
                        return Ok(Step::More);
                    }
                    if !read.starts_with(b"\r\n") {
                        return Err(Fault::Chunk("longer than its size"));
                    }
                    read.advance(2);
                    *self = Decoder::Size;
                }
                Decoder::Chunk(_) if read.is_empty() => return Ok(Step::More),
                Decoder::Chunk(left) => {
                    let piece = take(read, left);
                    *self = Decoder::Chunk(left - piece.len() as u64);
                    if *self == Decoder::Chunk(0) && read.starts_with(LAST) {
                        // The end is here already: who knows that need not ask again.
                        read.advance(LAST.len());
                        *self = Decoder::Ended;
                    }
                    return Ok(Step::Data(piece));
                }
                Decoder::Trailers => return self.trailers(read),
            }
        }
    }

    fn trailers(&mut self, read: &mut BytesMut) -> Result<Step, Fault> {
        if read.starts_with(b"\r\n") {
            read.advance(2);
            *self = Decoder::Ended;
            return Ok(Step::End);
        }
        let end = match find_end(read, 0) {
            Ok(end) if end <= TRAILER_BYTES_MAX => end,
            Err(_) if read.len() <= TRAILER_BYTES_MAX => return Ok(Step::More),
            _ => return Err(Fault::Chunk("trailers too long")),
        };
        let section = read.split_to(end).freeze();
        // As strict as with the sizes of chunks: whoever reads a bare LF differently would see another end.
        if memchr::memchr_iter(b'\n', &section).any(|at| !section[..at].ends_with(b"\r")) {
            return Err(Fault::Chunk("trailer line without CR"));
        }
        let trailers = parse_trailers(&section)?;
        *self = Decoder::Ended;
        Ok(Step::Trailers(trailers))
    }
}

/// The end of a chunk and of the body, without trailers.
const LAST: &[u8] = b"\r\n0\r\n\r\n";

fn take(read: &mut BytesMut, most: u64) -> Bytes {
    let length = usize::try_from(most).unwrap_or(usize::MAX).min(read.len());
    read.split_to(length).freeze()
}

/// The length of a chunk's size line and the size in it, if the line is there.
fn chunk_size(read: &[u8]) -> Result<Option<(usize, u64)>, Fault> {
    let within = &read[..read.len().min(CHUNK_LINE_MAX)];
    let Some(end) = memchr::memchr(b'\n', within) else {
        let too_long = read.len() >= CHUNK_LINE_MAX;
        return if too_long { Err(Fault::Chunk("size line too long")) } else { Ok(None) };
    };
    let line = read[..end].strip_suffix(b"\r").ok_or(Fault::Chunk("size line without CR"))?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits == 0 || digits > 16 {
        return Err(Fault::Chunk("bad size"));
    }
    let size = line[..digits].iter().fold(0, |size, digit| size << 4 | u64::from(hex_value(*digit)));
    let rest = line[digits..].trim_ascii_start();
    if !(rest.is_empty() || rest.starts_with(b";")) || rest.iter().any(|byte| is_control(*byte)) {
        return Err(Fault::Chunk("bad size"));
    }
    Ok(Some((end + 1, size)))
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

fn parse_trailers(bytes: &Bytes) -> Result<HeaderMap, Fault> {
    let mut trailers = HeaderMap::new();
    for (count, line) in Lines(bytes).enumerate() {
        if count == FIELDS_MAX {
            return Err(Fault::Fields);
        }
        let (name, value) = field(line)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(value));
        trailers.append(name, value.map_err(|_| Fault::Syntax("trailer"))?);
    }
    Ok(trailers)
}
