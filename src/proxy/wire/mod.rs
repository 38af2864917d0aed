//! HTTP/1.1 on one connection to a node, as a value that its user polls.
//!
//! A general client is two halves that talk through channels, since anybody may hold either; here one task does
//! everything with a connection, and the channels, wakers and buffers between the halves were a fifth of the cost of a
//! small request. So: [`Wire::begin`] encodes, [`Wire::poll_head`] writes and reads up to the response head,
//! [`Wire::poll_frame`] reads the body, while what is left of the upload goes on.
//!
//! A node may answer before it has read the request, and even refuse to read it: its response counts, and the
//! connection is not used again. There is no pipelining; bytes that nobody asked for end a connection.

mod decode;
mod encode;
mod head;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod with_hyper;

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::response::Parts;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::proxy::outgoing::Outgoing;
use crate::proxy::upload::{RequestBody, UploadError};
use decode::{Decoder, Step};
use encode::{SendError, Sending};
use head::{Asked, Framing, Head};

/// Room for one read at first and while idle; a usual response fits.
const READ_MIN: usize = 8 * 1024;
/// Room for one read of a long response: more does not make it faster.
const READ_MAX: usize = 64 * 1024;

/// Why a response did not come, or did not come whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The node closed the connection too early.
    #[error("the connection was closed before the response ended")]
    Closed,
    /// What the node sent is not HTTP/1 as it should be.
    #[error(transparent)]
    Protocol(#[from] head::Fault),
    /// The client did not deliver the request.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// The client delivered another length than it announced.
    #[error("the request body has another length than was announced")]
    Length,
}

impl WireError {
    /// Whether the node broke the protocol.
    pub(super) fn is_parse(&self) -> bool {
        matches!(self, WireError::Protocol(_))
    }

    /// Whether the client is the cause.
    pub(super) fn is_upload(&self) -> bool {
        matches!(self, WireError::Upload(_) | WireError::Length)
    }
}

/// What the connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing: a request may begin.
    Idle,
    /// Waiting for a head, after so many interim ones.
    Head(u32),
    /// Reading a body.
    Body,
    /// Speaking another protocol.
    Switched,
    /// Not usable any more.
    Broken,
}

/// A connection that speaks HTTP/1.1 as a client.
#[derive(Debug)]
pub(super) struct Wire<S> {
    io: S,
    phase: Phase,
    sending: Sending,
    /// The request, as long as the node may say that it is full and has not begun on it.
    sent: Option<Box<Outgoing>>,
    /// What was read and not yet understood.
    read: BytesMut,
    /// Bytes of it that have no end of a head in them.
    searched: usize,
    /// Room for the next read.
    room: usize,
    body: Decoder,
    asked: Asked,
    keep_alive: bool,
    /// The map of the last request's fields, empty, for the response's.
    fields: HeaderMap,
    /// Why the rest of the request was not written.
    lost: Option<io::Error>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(io: S) -> Wire<S> {
        Wire {
            io,
            phase: Phase::Idle,
            sending: Sending::default(),
            sent: None,
            read: BytesMut::new(),
            searched: 0,
            room: READ_MIN,
            body: Decoder::Ended,
            asked: Asked::default(),
            keep_alive: true,
            fields: HeaderMap::new(),
            lost: None,
        }
    }

    /// Encodes a request, to be passed to [`Wire::poll_head`] next.
    pub(super) fn begin(&mut self, request: &Outgoing) {
        self.phase = Phase::Head(0);
        self.sent = None;
        self.asked = self.sending.begin(request);
    }

    /// Writes the request and reads up to the head of its response. As long as `unsent` holds the request, nothing of
    /// it was written.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        unsent: &mut Option<Box<Outgoing>>,
    ) -> Poll<Result<Parts, WireError>> {
        let polled = self.poll_head_inner(cx, unsent);
        if let Poll::Ready(Err(_)) = polled {
            self.phase = Phase::Broken;
        }
        polled
    }

    fn poll_head_inner(
        &mut self,
        cx: &mut Context<'_>,
        unsent: &mut Option<Box<Outgoing>>,
    ) -> Poll<Result<Parts, WireError>> {
        if unsent.is_some() {
            ready!(self.sending.poll_write(cx, &mut self.io))?;
        }
        if let Some(mut sent) = unsent.take() {
            if sent.returns() {
                self.sent = Some(sent);
            } else {
                self.sending.commit(std::mem::replace(&mut sent.body, RequestBody::Empty));
                self.fields = emptied(sent);
            }
        }
        self.poll_upload(cx)?;
        loop {
            if let Some(parts) = self.take_head()? {
                return Poll::Ready(Ok(parts));
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) => return Poll::Ready(Err(self.lost.take().map_or(WireError::Closed, WireError::Io))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(WireError::Io(self.lost.take().unwrap_or(error)))),
            }
        }
    }

    /// Goes on with the request. That the node takes no more of it is no error: it may still answer.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), WireError> {
        if self.sending.is_done() {
            return Ok(());
        }
        match self.sending.poll_send(cx, &mut self.io) {
            Poll::Pending | Poll::Ready(Ok(())) => Ok(()),
            Poll::Ready(Err(SendError::Io(error))) => {
                self.sending.abandon();
                self.keep_alive = false;
                self.lost = Some(error);
                Ok(())
            }
            Poll::Ready(Err(SendError::Upload(error))) => Err(WireError::Upload(error)),
            Poll::Ready(Err(SendError::Length)) => Err(WireError::Length),
        }
    }

    /// The head of the response, if it is there.
    fn take_head(&mut self) -> Result<Option<Parts>, head::Fault> {
        loop {
            let Phase::Head(interim) = self.phase else { return Ok(None) };
            if !head::may_begin(&self.read) {
                return Err(head::Fault::NotHttp);
            }
            let end = match head::find_end(&self.read, self.searched) {
                Ok(end) if end <= head::HEAD_BYTES_MAX => end,
                Err(searched) if self.read.len() <= head::HEAD_BYTES_MAX => {
                    self.searched = searched;
                    return Ok(None);
                }
                _ => return Err(head::Fault::HeadTooLong),
            };
            self.searched = 0;
            let bytes = self.read.split_to(end).freeze();
            let fields = match self.sent.take_if(|_| !head::may_refuse(&bytes)) {
                Some(sent) => emptied(sent),
                None => std::mem::take(&mut self.fields),
            };
            let Head { parts, framing, keep_alive } = head::parse(&bytes, fields, self.asked)?;
            if parts.status.is_informational() && framing != Framing::Switched {
                if interim == head::INTERIM_MAX {
                    return Err(head::Fault::Interim);
                }
                self.phase = Phase::Head(interim + 1);
                continue;
            }
            if framing == Framing::Switched {
                if !self.sending.is_done() {
                    return Err(head::Fault::Switch);
                }
                self.phase = Phase::Switched;
            } else {
                self.phase = Phase::Body;
            }
            self.keep_alive &= keep_alive;
            self.body = Decoder::new(framing);
            return Ok(Some(parts));
        }
    }

    /// The request whose response begins with 429 or 503, if it is one that returns.
    pub(super) fn returned(&mut self) -> Option<Box<Outgoing>> {
        self.sent.take()
    }

    /// The next piece of the response body, or its trailers.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        let polled = self.poll_frame_inner(cx);
        if let Poll::Ready(Some(Err(_))) = polled {
            self.phase = Phase::Broken;
            self.body = Decoder::Ended;
        }
        polled
    }

    fn poll_frame_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        if self.body.is_ended() {
            return Poll::Ready(None);
        }
        self.poll_upload(cx)?;
        loop {
            match self.body.decode(&mut self.read)? {
                Step::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Step::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Step::End => return Poll::Ready(None),
                Step::More => {}
            }
            if ready!(self.poll_read(cx))? == 0 {
                if !self.body.may_end() {
                    return Poll::Ready(Some(Err(WireError::Closed)));
                }
                self.body = Decoder::Ended;
            }
        }
    }

    /// Whether the response body has been delivered whole.
    pub(super) fn is_end_stream(&self) -> bool {
        self.body.is_ended()
    }

    /// Bytes of the body that are left. A response without a body says nothing about the length that one would have.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut spare = self.read.capacity() - self.read.len();
        if spare < self.room / 4 {
            self.read.reserve(self.room);
            spare = self.read.capacity() - self.read.len();
        }
        let count = ready!(pin!(self.io.read_buf(&mut self.read)).poll(cx))?;
        if count == spare {
            self.room = (self.room * 2).min(READ_MAX);
        }
        Poll::Ready(Ok(count))
    }

    /// Makes it ready for the next request; `false` if there can be none.
    pub(super) fn settle(&mut self) -> bool {
        let whole = self.phase == Phase::Body && self.body.is_ended() && self.sending.is_done();
        if !(whole && self.keep_alive && self.read.is_empty()) {
            self.phase = Phase::Broken;
            return false;
        }
        self.phase = Phase::Idle;
        self.sending.settle();
        if self.room > READ_MIN {
            self.read = BytesMut::new();
            self.room = READ_MIN;
        }
        true
    }

    /// Whether nothing has happened on an idle connection: a node that closed it, or said something, shows here. Costs
    /// no system call as long as nothing has.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        let cx = &mut Context::from_waker(Waker::noop());
        self.phase == Phase::Idle && Pin::new(&mut self.io).poll_read(cx, &mut byte).is_pending()
    }

    /// The socket.
    pub(super) fn io(&self) -> &S {
        &self.io
    }

    /// The socket, and what was read beyond the head, after a switch of protocols.
    pub(super) fn into_switched(self) -> Option<(S, Bytes)> {
        (self.phase == Phase::Switched).then(|| (self.io, self.read.freeze()))
    }
}

/// The map of a request that is not needed any more.
fn emptied(mut request: Box<Outgoing>) -> HeaderMap {
    let mut fields = std::mem::take(&mut request.head.headers);
    fields.clear();
    fields
}
