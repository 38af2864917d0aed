//! A client's stream with the guard between it and hyper.
//!
//! A read that holds only whole heads and bodies goes straight into hyper's buffer and is judged in place. Only the tail of
//! an incomplete head is held back, in a buffer bounded by the head limit, and given up as soon as that head is through: an
//! idle connection has none. A refused head is replaced by a minimal request that makes hyper call the handler once more;
//! what follows it is read and thrown away, because closing a socket with unread bytes resets it and can take the answer with
//! it; and likewise the rest of a body whose request was answered before it was read. A refused body ends in an error of the read, because hyper has its head already.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::guard::{Next, RequestGuard};
use super::refusal::Refusal;
use super::{ConnState, Limits};

/// Stands in for a refused head; what hyper makes of it is the handler's call with the request's number.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// Bytes per read while a head is held back.
const PIECE_BYTES: usize = 4 * 1024;
/// Bytes kept of what follows a request for a tunnel before its answer; more wait in the socket.
const UNDECIDED_BYTES_MAX: usize = 16 * 1024;
/// How long a client that was answered before it had sent its whole body may go on sending, so that it gets to reading
/// the answer: closing at once would reset the connection, and most clients that write then never look at what came.
const LINGER_MAX: Duration = Duration::from_secs(2);
/// Bytes thrown away in that time; they cost no memory.
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes per read of those.
const LINGER_PIECE_BYTES: usize = 16 * 1024;
/// Bytes thrown away after a refusal before reading stops: enough for what was under way when the client saw the answer.
const DISCARDED_BYTES_MAX: usize = 256 * 1024;

#[derive(Clone, Copy, Debug)]
enum End {
    None,
    /// The client has closed its side.
    Closed,
    /// A head was refused: nothing follows the stand-in, not even the end.
    RefusedHead,
    RefusedBody(Refusal),
}

/// `io`, of which hyper reads only what [`RequestGuard`] lets through. Writes pass unchanged.
#[derive(Debug)]
pub struct GuardedIo<T> {
    io: T,
    guard: RequestGuard,
    state: Arc<ConnState>,
    /// What was read and not handed on: up to `passed` it may be, from there on it may not yet.
    held: Vec<u8>,
    handed_on: usize,
    passed: usize,
    end: End,
    discarded_bytes: usize,
    /// Runs from the end of the last answer, if it came too early.
    linger: Option<Pin<Box<Sleep>>>,
    /// Whether the client has left, as far as that shows without reading.
    has_left: fn(&T) -> bool,
}

impl<T> GuardedIo<T> {
    /// Guards a connection from its first byte on.
    pub fn new(io: T, limits: Limits, state: Arc<ConnState>) -> GuardedIo<T> {
        let guard = RequestGuard::new(limits);
        let (held, end) = (Vec::new(), End::None);
        let has_left = |_: &T| false;
        let (handed_on, passed, discarded_bytes) = (0, 0, 0);
        GuardedIo { io, guard, state, held, handed_on, passed, end, discarded_bytes, linger: None, has_left }
    }

    /// Asks the stream itself whether the client has left, while its request waits and nobody reads the rest of it.
    pub fn asking(self, has_left: fn(&T) -> bool) -> GuardedIo<T> {
        GuardedIo { has_left, ..self }
    }

    /// The guarded stream.
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// Hands on what may be, as much as fits; frees the buffer when all of it was.
    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.handed_on == self.passed {
            return false;
        }
        let n = (self.passed - self.handed_on).min(buf.remaining());
        buf.put_slice(&self.held[self.handed_on..self.handed_on + n]);
        self.handed_on += n;
        if self.handed_on == self.passed {
            self.held.drain(..self.passed);
            (self.handed_on, self.passed) = (0, 0);
            if self.held.is_empty() {
                self.held = Vec::new();
            }
        }
        true
    }

    /// Acts on what the guard found behind the bytes that it let through.
    fn apply(&mut self, next: Next) {
        let index = self.guard.heads();
        match next {
            Next::More | Next::Undecided => {
                let head_begun = self.guard.is_in_head() && self.held.len() > self.passed;
                self.state.publish_progress(index, head_begun);
            }
            Next::RefusedHead(refusal) => {
                self.held.truncate(self.passed);
                self.held.extend_from_slice(STAND_IN);
                self.passed = self.held.len();
                self.end = End::RefusedHead;
                self.state.refuse_head(index, refusal);
            }
            Next::RefusedBody(refusal) => {
                self.held.truncate(self.passed);
                self.end = End::RefusedBody(refusal);
                self.state.publish_progress(index, false);
                self.state.refuse_body(refusal);
            }
        }
    }

    fn judge_held(&mut self) {
        let scan = self.guard.scan(&self.held[self.passed..]);
        self.passed += scan.passed;
        self.apply(scan.next);
    }
}

impl<T: AsyncRead + Unpin> GuardedIo<T> {
    /// Reads into hyper's buffer and judges there; `Ready(false)` where nothing of it may be handed on.
    fn poll_direct(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let start = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let fresh = &buf.filled()[start..];
        if fresh.is_empty() {
            self.end = End::Closed;
            return Poll::Ready(Ok(true));
        }
        self.state.count_bytes(fresh.len());
        let scan = self.guard.scan(fresh);
        self.held.extend_from_slice(&fresh[scan.passed..]);
        buf.set_filled(start + scan.passed);
        self.apply(scan.next);
        Poll::Ready(Ok(scan.passed > 0))
    }

    /// Reads behind the bytes that are held; at the end of the stream those are worthless.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let len = self.held.len();
        self.held.resize(len + PIECE_BYTES, 0);
        let mut piece = ReadBuf::new(&mut self.held[len..]);
        let polled = Pin::new(&mut self.io).poll_read(cx, &mut piece);
        let n = piece.filled().len();
        self.held.truncate(len + n);
        ready!(polled)?;
        self.state.count_bytes(n);
        if n == 0 {
            self.held = Vec::new();
            self.end = End::Closed;
            self.state.publish_progress(self.guard.heads(), false);
        }
        Poll::Ready(Ok(()))
    }

    /// After the last request that asked to leave HTTP: waits for the answer, and watches meanwhile for the client leaving.
    fn poll_undecided(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let asked = self.guard.heads().saturating_sub(1);
        if let Some(answer) = self.state.answer_to(asked, cx.waker()) {
            self.guard.decide(answer);
            self.judge_held();
            return Poll::Ready(Ok(()));
        }
        if self.held.len() >= UNDECIDED_BYTES_MAX {
            return Poll::Pending;
        }
        self.poll_held(cx)
    }

    /// Reads and forgets the rest of a body that nobody wants, until the client has closed its side or for a while.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.state.publish_closing();
        let timer = self.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER_MAX)));
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut space = [0; LINGER_PIECE_BYTES];
        while self.discarded_bytes < LINGER_BYTES_MAX {
            let mut piece = ReadBuf::new(&mut space);
            let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut piece));
            let n = piece.filled().len();
            if read.is_err() || n == 0 {
                break;
            }
            self.state.count_bytes(n);
            self.discarded_bytes += n;
        }
        Poll::Ready(())
    }

    /// Reads and forgets what comes after a refusal, up to a bound; ends only with an error of the stream.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; PIECE_BYTES];
        while self.discarded_bytes < DISCARDED_BYTES_MAX {
            let mut piece = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut piece))?;
            let n = piece.filled().len();
            self.state.count_bytes(n);
            // The end of the stream counts as the bound: there is nothing left to read.
            self.discarded_bytes = if n == 0 { DISCARDED_BYTES_MAX } else { self.discarded_bytes + n };
        }
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for GuardedIo<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.hand_on(buf) {
                return Poll::Ready(Ok(()));
            }
            match this.end {
                End::None if this.guard.is_undecided() => ready!(this.poll_undecided(cx))?,
                End::None if this.held.is_empty() => {
                    if ready!(this.poll_direct(cx, buf))? {
                        return Poll::Ready(Ok(()));
                    }
                }
                End::None => {
                    ready!(this.poll_held(cx))?;
                    this.judge_held();
                }
                End::Closed => return Poll::Ready(Ok(())),
                End::RefusedHead => return this.poll_discard(cx),
                End::RefusedBody(refusal) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal)));
                }
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for GuardedIo<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.state.publish_write(&written);
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever drives the connection flushes whenever it is woken, but reads only what somebody wants.
        if this.state.is_awaiting() && (this.has_left)(&this.io) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        }
        if matches!(this.end, End::None) && this.guard.is_in_body() {
            return this.poll_linger(cx).map(Ok);
        }
        if matches!(this.end, End::RefusedHead | End::RefusedBody(_)) {
            // What has arrived by now is taken out of the socket, so that closing it does not reset the connection.
            let _ = this.poll_discard(cx)?;
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.state.publish_write(&written);
        written
    }
}
