//! Requests on their way to a node: head, framing, body.
//!
//! The head is written into a buffer that stays with the connection, and small bodies go behind it, so that a usual
//! request is one buffer and one write. Large pieces are not copied but written as slices beside it. A streamed body is
//! asked for more only while little waits to be written: what the node does not take stays with the client.
//!
//! The framing fields are written here and nowhere else, from what the body is; what the client said about its length
//! is not repeated. Names of fields are written in lower case, as the ecosystem does.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, header};
use http_body::Body as _;
use tokio::io::AsyncWrite;

use crate::proxy::outgoing::Outgoing;
use crate::proxy::upload::{RequestBody, UploadError};
use crate::proxy::wire::head::Asked;

/// Pieces up to this many bytes are copied behind the head: that costs less than one more slice in every write. Nothing
/// more is asked of the client either while as much waits to be written.
const COPY_MAX: usize = 16 * 1024;
/// What the buffer of an idle connection may hold; usual heads with usual prompts fit.
const IDLE_MAX: usize = 8 * 1024;
/// Room for a chunk's size in hexadecimal.
const HEX_DIGITS: usize = 16;

/// How the end of the request body is marked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Framing {
    /// There is none.
    #[default]
    None,
    /// By its length: so many bytes are still to come from the client.
    Length(u64),
    /// By a chunk of size 0.
    Chunked,
}

/// Why a request could not be written whole.
#[derive(Debug)]
pub(super) enum SendError {
    /// The node does not take it any more.
    Io(io::Error),
    /// The client did not deliver it.
    Upload(UploadError),
    /// The body is shorter or longer than was announced.
    Length,
}

/// A request that is being written, and the buffer for the next.
#[derive(Debug)]
pub(super) struct Sending {
    /// Head, sizes of chunks and small pieces.
    buffer: Vec<u8>,
    /// How much of the buffer is written.
    written: usize,
    /// A large piece, to be written after the buffer.
    piece: Bytes,
    /// What is to be written after the piece.
    after: &'static [u8],
    framing: Framing,
    /// What comes after the pieces above.
    body: RequestBody,
    /// Whether nothing comes after the pieces above.
    ended: bool,
    /// The trailer fields that the head announced.
    announced: Vec<HeaderName>,
}

impl Default for Sending {
    fn default() -> Sending {
        Sending {
            buffer: Vec::new(),
            written: 0,
            piece: Bytes::new(),
            after: b"",
            framing: Framing::None,
            body: RequestBody::Empty,
            ended: true,
            announced: Vec::new(),
        }
    }
}

impl Sending {
    /// Encodes the head and what is known of the body, without taking anything out of the request.
    pub(super) fn begin(&mut self, request: &Outgoing) -> Asked {
        self.abandon();
        let body = &request.body;
        self.framing = framing_of(&request.head.method, &request.head.headers, body);
        if self.framing == Framing::Chunked {
            self.announced.extend(announced_trailers(&request.head.headers));
        }
        let asked = write_head(&mut self.buffer, request, self.framing);
        let known = match body {
            RequestBody::Empty => return asked,
            RequestBody::Whole(bytes) => bytes,
            RequestBody::Streaming(streaming) => {
                self.ended = false;
                &streaming.begun
            }
        };
        // The length is the body's own, so this cannot be more than was announced.
        let _ = self.push(known);
        asked
    }

    /// The node has taken a first piece: what follows is read out of `body`.
    pub(super) fn commit(&mut self, body: RequestBody) {
        if let RequestBody::Streaming(mut streaming) = body {
            streaming.begun = Bytes::new();
            self.body = RequestBody::Streaming(streaming);
        }
    }

    /// Whether the request is written whole.
    pub(super) fn is_done(&self) -> bool {
        self.ended && self.is_flushed()
    }

    fn is_flushed(&self) -> bool {
        self.written == self.buffer.len() && self.piece.is_empty() && self.after.is_empty()
    }

    /// Forgets the rest of the request.
    pub(super) fn abandon(&mut self) {
        self.buffer.clear();
        self.written = 0;
        self.piece = Bytes::new();
        self.after = b"";
        self.body = RequestBody::Empty;
        self.ended = true;
        self.announced.clear();
    }

    /// Keeps little memory while the connection is idle.
    pub(super) fn settle(&mut self) {
        if self.buffer.capacity() > IDLE_MAX {
            self.buffer = Vec::new();
        }
    }

    /// Writes all of the request that there is; ready when it is written whole.
    pub(super) fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
    ) -> Poll<Result<(), SendError>> {
        loop {
            if !self.ended {
                self.fill(cx)?;
            }
            if self.is_flushed() {
                return if self.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            match self.poll_write(cx, io) {
                Poll::Ready(written) => written.map_err(SendError::Io)?,
                Poll::Pending => {
                    self.body.waits_for_node();
                    return Poll::Pending;
                }
            }
        }
    }

    /// Writes once.
    pub(super) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
    ) -> Poll<io::Result<()>> {
        let buffer = &self.buffer[self.written..];
        let io = Pin::new(io);
        let taken = if self.piece.is_empty() && self.after.is_empty() {
            ready!(io.poll_write(cx, buffer))?
        } else {
            let slices = [IoSlice::new(buffer), IoSlice::new(&self.piece), IoSlice::new(self.after)];
            ready!(io.poll_write_vectored(cx, &slices))?
        };
        if taken == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(taken);
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, taken: usize) {
        let of_buffer = taken.min(self.buffer.len() - self.written);
        self.written += of_buffer;
        if self.written == self.buffer.len() {
            self.buffer.clear();
            self.written = 0;
        }
        let of_piece = (taken - of_buffer).min(self.piece.len());
        if of_piece > 0 {
            let _ = self.piece.split_to(of_piece);
        }
        self.after = &self.after[taken - of_buffer - of_piece..];
    }

    /// Asks the body for as much as should wait.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), SendError> {
        while !self.ended && self.piece.is_empty() && self.after.is_empty() && self.buffer.len() < COPY_MAX {
            if self.framing == Framing::Length(0) {
                self.body.delivered();
                self.end();
                break;
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else { break };
            match frame.transpose().map_err(SendError::Upload)? {
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.push(&data)?,
                    Err(frame) => self.close(&frame.into_trailers().unwrap_or_default())?,
                },
                None => self.close(&HeaderMap::new())?,
            }
        }
        Ok(())
    }

    /// Puts a piece of the body behind what waits.
    fn push(&mut self, data: &Bytes) -> Result<(), SendError> {
        if data.is_empty() {
            return Ok(());
        }
        let after: &'static [u8] = match &mut self.framing {
            Framing::None => return Err(SendError::Length),
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(SendError::Length)?;
                b""
            }
            Framing::Chunked => {
                write_hex(&mut self.buffer, data.len());
                self.buffer.extend_from_slice(b"\r\n");
                b"\r\n"
            }
        };
        if data.len() <= COPY_MAX {
            self.buffer.extend_from_slice(data);
            self.buffer.extend_from_slice(after);
        } else {
            self.piece = data.clone();
            self.after = after;
        }
        Ok(())
    }

    /// The client's body has ended.
    fn close(&mut self, trailers: &HeaderMap) -> Result<(), SendError> {
        match self.framing {
            Framing::None | Framing::Length(0) => {}
            Framing::Length(_) => return Err(SendError::Length),
            Framing::Chunked => {
                self.buffer.extend_from_slice(b"0\r\n");
                for (name, value) in trailers {
                    if self.announced.contains(name) {
                        write_field(&mut self.buffer, name, value.as_bytes());
                    }
                }
                self.buffer.extend_from_slice(b"\r\n");
            }
        }
        self.end();
        Ok(())
    }

    fn end(&mut self) {
        self.ended = true;
        self.body = RequestBody::Empty;
    }
}

fn framing_of(method: &Method, fields: &HeaderMap, body: &RequestBody) -> Framing {
    match body.size_hint().exact() {
        // Without a body, methods that expect none say nothing about it, unless the client did.
        Some(0) if expects_no_body(method) && !fields.contains_key(header::CONTENT_LENGTH) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}

fn expects_no_body(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS, Method::TRACE].contains(method)
}

/// Writes the head; tells what in it decides how the response is to be read.
fn write_head(out: &mut Vec<u8>, request: &Outgoing, framing: Framing) -> Asked {
    let Outgoing { head, told, .. } = request;
    let mut asked = Asked { is_head: head.method == Method::HEAD, upgrade: false };
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &head.headers {
        if *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING {
            asked.upgrade |= *name == header::UPGRADE;
            write_field(out, name, value.as_bytes());
        }
    }
    out.extend_from_slice(told);
    match framing {
        Framing::None => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            write_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
    asked
}

fn write_field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    let name = name.as_str().as_bytes();
    // One check of the room instead of four.
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    // 2^64 has 20 digits.
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

fn write_hex(out: &mut Vec<u8>, mut number: usize) {
    let mut digits = [0; HEX_DIGITS];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b"0123456789abcdef"[number % 16];
        number /= 16;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

/// The names in `Trailer`, without those that may not come after the body (RFC 9110 section 6.5.1).
fn announced_trailers(fields: &HeaderMap) -> Vec<HeaderName> {
    let lists = fields.get_all(header::TRAILER).iter();
    let names = lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b','));
    let names = names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    names.filter(|name| !NO_TRAILERS.contains(name)).collect()
}

/// Fields that decide about framing, routing, access or the content itself.
const NO_TRAILERS: [HeaderName; 13] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::HOST,
    header::MAX_FORWARDS,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];
