//! A connection against a scripted node, polled by hand: no sockets, no time.

mod reading;
mod writing;

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::body::Body as AnyBody;
use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Request};
use http_body::{Body, Frame, SizeHint};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Wire, WireError};
use crate::proxy::outgoing::Outgoing;
use crate::proxy::pace::Pace;
use crate::proxy::upload::{RequestBody, Streaming, UploadState};

/// What the node does when it is read from. After the last step there is silence.
#[derive(Clone, Debug)]
enum Step {
    Says(Bytes),
    Waits,
    Closes,
    Breaks,
}

/// A node that follows a script.
#[derive(Debug)]
struct Script {
    steps: VecDeque<Step>,
    heard: Vec<u8>,
    /// How much each write takes.
    gulp: usize,
    /// After how many bytes it takes no more, and whether writing then fails or blocks.
    takes: usize,
    then_fails: bool,
}

impl Script {
    fn new(steps: impl IntoIterator<Item = Step>) -> Script {
        let steps = steps.into_iter().collect();
        Script { steps, heard: Vec::new(), gulp: usize::MAX, takes: usize::MAX, then_fails: false }
    }

    fn saying(bytes: &[u8]) -> Script {
        Script::new([Step::Says(Bytes::copy_from_slice(bytes))])
    }
}

impl AsyncRead for Script {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.steps.pop_front() {
            None => return Poll::Pending,
            Some(Step::Waits) => return Poll::Pending,
            Some(Step::Breaks) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Some(Step::Closes) => self.steps.push_front(Step::Closes),
            Some(Step::Says(mut bytes)) => {
                let now = bytes.split_to(bytes.len().min(buf.remaining()));
                buf.put_slice(&now);
                if !bytes.is_empty() {
                    self.steps.push_front(Step::Says(bytes));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let left = self.takes - self.heard.len().min(self.takes);
        let taken = buf.len().min(self.gulp).min(left);
        match (taken, self.then_fails) {
            (0, true) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            (0, false) => return Poll::Pending,
            _ => self.heard.extend_from_slice(&buf[..taken]),
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().flat_map(|slice| slice.iter().copied());
        let some: Vec<u8> = all.take(self.gulp).collect();
        self.poll_write(cx, &some)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A client's body: pieces, pauses, trailers.
struct Pieces {
    frames: VecDeque<Option<Frame<Bytes>>>,
    length: Option<u64>,
    /// Bytes that were asked for.
    given: Arc<AtomicUsize>,
    endless: bool,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let frame = match self.frames.pop_front() {
            Some(Some(frame)) => frame,
            Some(None) => return Poll::Pending,
            None if self.endless => Frame::data(Bytes::from_static(&[b'x'; 1000])),
            None => return Poll::Ready(None),
        };
        self.given.fetch_add(frame.data_ref().map_or(0, Bytes::len), Ordering::Relaxed);
        Poll::Ready(Some(Ok(frame)))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn streaming(begun: &'static [u8], rest: Pieces) -> RequestBody {
    RequestBody::Streaming(Box::new(Streaming {
        begun: Bytes::from_static(begun),
        rest: AnyBody::new(rest),
        state: Arc::new(UploadState::default()),
        allowance: u64::MAX,
        pace: Pace::new(Duration::from_secs(3600), 0),
        wait: None,
    }))
}

fn pieces(frames: &[Option<&'static [u8]>], length: Option<u64>) -> Pieces {
    let frames = frames.iter().map(|piece| piece.map(|bytes| Frame::data(Bytes::from_static(bytes)))).collect();
    Pieces { frames, length, given: Arc::default(), endless: false }
}

fn request(method: &str, fields: &[(&'static str, &'static str)], body: RequestBody) -> Box<Outgoing> {
    let mut request = Request::builder().method(method).uri("/v1/x?y=1");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    Box::new(Outgoing::from(request.body(body).expect("a valid request")))
}

fn get() -> Box<Outgoing> {
    request("GET", &[("host", "node")], RequestBody::Empty)
}

/// A response as its user sees it.
#[derive(Debug)]
struct Seen {
    head: Parts,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// Whether another request may follow.
    reusable: bool,
}

/// More polls than any script here has pauses.
const POLLS_MAX: usize = 5_000;

fn drive<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    let cx = &mut Context::from_waker(Waker::noop());
    (0..POLLS_MAX).find_map(|_| match poll(cx) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    })
}

/// Sends a request and reads the whole response; `None` if it does not end.
fn exchange(wire: &mut Wire<Script>, request: Box<Outgoing>) -> Option<Result<Seen, WireError>> {
    wire.begin(&request);
    let mut unsent = Some(request);
    let mut body = Vec::new();
    let mut trailers = None;
    let head = match drive(|cx| wire.poll_head(cx, &mut unsent))? {
        Ok(head) => head,
        Err(error) => return Some(Err(error)),
    };
    let ended = drive(|cx| {
        while let Some(frame) = ready!(wire.poll_frame(cx)) {
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => body.extend_from_slice(&data),
                Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    })?;
    Some(ended.map(|()| Seen { head, body, trailers, reusable: wire.settle() }))
}

fn asks(script: Script, request: Box<Outgoing>) -> Result<Seen, WireError> {
    exchange(&mut Wire::new(script), request).expect("the response ends")
}

/// A response that ends with the connection, if nothing else ends it.
fn closing(response: &[u8]) -> Script {
    let mut script = Script::saying(response);
    script.steps.push_back(Step::Closes);
    script
}

fn is_fault(answer: &Result<Seen, WireError>) -> bool {
    answer.as_ref().is_err_and(WireError::is_parse)
}
