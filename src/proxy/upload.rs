//! The request body on its way to a node.
//!
//! Small JSON bodies have been read whole by the time a node is chosen; they are kept so that a retry can send them
//! again. Everything else streams: what was read for the look at its beginning goes first, then whatever the client
//! sends, at the speed at which the node takes it. Nothing is ever collected beyond the bound of the look.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body as AnyBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::proxy::pace::Pace;

/// What became of a streaming upload, for the side that waits for the response.
#[derive(Debug, Default)]
pub(super) struct UploadState {
    stage: AtomicU8,
    /// Whether the client's next piece is waited for, and not the node.
    awaits_client: AtomicBool,
    /// Pieces that went to the node.
    pieces: AtomicU32,
    /// When the last of them did.
    ended: OnceLock<Instant>,
}

/// The body has been handed over whole.
const ENDED: u8 = 4;

/// Why an upload broke off. All are the client's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum UploadFault {
    /// The client's connection broke or its framing was wrong.
    Broken = 1,
    /// More bytes than the bound allows.
    TooLarge = 2,
    /// Nothing came for too long.
    TooSlow = 3,
}

impl UploadState {
    pub(super) fn fail(&self, fault: UploadFault) {
        self.stage.store(fault as u8, Ordering::Relaxed);
    }

    /// Whether the node does not have the whole body yet.
    fn is_running(&self) -> bool {
        self.stage.load(Ordering::Relaxed) == 0
    }

    /// How much longer the node has for its answer, at `now`, after a wait of up to `patience`; `None` if it has had
    /// its time. That counts from when it has the whole body. Until then it has all of it again if that is not for its own
    /// slowness: since the call that left `pieces` as it is it took some, or it waits for the client's next one, for which
    /// there is another timeout.
    pub(super) fn more_time(&self, now: Instant, patience: Duration, pieces: &mut u32) -> Option<Duration> {
        if let Some(ended) = self.ended.get() {
            return Some((*ended + patience).saturating_duration_since(now)).filter(|left| !left.is_zero());
        }
        let seen = self.pieces.load(Ordering::Relaxed);
        let moved = std::mem::replace(pieces, seen) != seen;
        let goes_on = self.is_running() && (moved || self.awaits_client.load(Ordering::Relaxed));
        goes_on.then_some(patience)
    }

    /// Since when the node has the whole body; `None` if it does not.
    pub(super) fn ended(&self) -> Option<Instant> {
        self.ended.get().copied()
    }

    fn end(&self) {
        self.stage.store(ENDED, Ordering::Relaxed);
        self.ended.get_or_init(Instant::now);
    }

    /// What broke it, if anything did.
    pub(super) fn fault(&self) -> Option<UploadFault> {
        match self.stage.load(Ordering::Relaxed) {
            0 | ENDED => None,
            2 => Some(UploadFault::TooLarge),
            3 => Some(UploadFault::TooSlow),
            _ => Some(UploadFault::Broken),
        }
    }
}

/// A request body as the connection to a node sends it.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// None.
    Empty,
    /// Read whole.
    Whole(Bytes),
    /// Read as it is sent.
    Streaming(Box<Streaming>),
}

impl RequestBody {
    /// Bytes that are in memory.
    pub(super) fn held_bytes(&self) -> u64 {
        match self {
            RequestBody::Empty => 0,
            RequestBody::Whole(bytes) => bytes.len() as u64,
            RequestBody::Streaming(streaming) => streaming.begun.len() as u64,
        }
    }
}

/// A body of which at most the beginning has been read.
#[derive(Debug)]
pub(super) struct Streaming {
    /// Read already, goes first.
    pub(super) begun: Bytes,
    /// The rest.
    pub(super) rest: AnyBody,
    /// Where a fault is told.
    pub(super) state: Arc<UploadState>,
    /// Bytes of the rest that may still come.
    pub(super) allowance: u64,
    /// How long the client may still keep us waiting.
    pub(super) pace: Pace,
    /// Runs while the client is waited for.
    pub(super) wait: Option<Wait>,
}

/// A wait for the client.
#[derive(Debug)]
pub(super) struct Wait {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Wait {
    fn of(patience: Duration) -> Wait {
        let since = Instant::now();
        Wait { since, timer: Box::pin(tokio::time::sleep_until(since + patience)) }
    }
}

/// The upload broke off; what broke it is in its [`UploadState`].
#[derive(Debug, thiserror::Error)]
#[error("the client's upload broke off: {0:?}")]
pub(super) struct UploadError(UploadFault);

type Polled = Poll<Option<Result<Frame<Bytes>, UploadError>>>;

impl Streaming {
    fn fail(&self, fault: UploadFault) -> Polled {
        self.state.fail(fault);
        Poll::Ready(Some(Err(UploadError(fault))))
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Polled {
        let Poll::Ready(frame) = Pin::new(&mut self.rest).poll_frame(cx) else {
            let pace = self.pace;
            self.state.awaits_client.store(true, Ordering::Relaxed);
            let wait = self.wait.get_or_insert_with(|| Wait::of(pace.left()));
            ready!(wait.timer.as_mut().poll(cx));
            return self.fail(UploadFault::TooSlow);
        };
        if let Some(wait) = self.wait.take() {
            self.pace.waited(wait.since.elapsed());
        }
        self.state.awaits_client.store(false, Ordering::Relaxed);
        self.state.pieces.fetch_add(1, Ordering::Relaxed);
        match frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                self.pace.received(length);
                match self.allowance.checked_sub(length as u64) {
                    Some(left) => self.allowance = left,
                    None => return self.fail(UploadFault::TooLarge),
                }
                if self.rest.is_end_stream() {
                    self.state.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(_)) => self.fail(UploadFault::Broken),
            None => {
                self.state.end();
                Poll::Ready(None)
            }
        }
    }
}

impl RequestBody {
    /// The node has been sent as many bytes as were announced.
    pub(super) fn delivered(&self) {
        if let RequestBody::Streaming(streaming) = self {
            streaming.state.end();
        }
    }

    /// The node does not take what the client has sent already, so whether the client waits does not matter.
    pub(super) fn waits_for_node(&self) {
        if let RequestBody::Streaming(streaming) = self {
            streaming.state.awaits_client.store(false, Ordering::Relaxed);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        match this {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = RequestBody::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            RequestBody::Streaming(streaming) if !streaming.begun.is_empty() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut streaming.begun)))))
            }
            RequestBody::Streaming(streaming) => streaming.poll_rest(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Whole(bytes) => bytes.is_empty(),
            RequestBody::Streaming(streaming) => streaming.begun.is_empty() && streaming.rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            RequestBody::Streaming(streaming) => match streaming.rest.size_hint().exact() {
                Some(rest) => SizeHint::with_exact(rest + streaming.begun.len() as u64),
                None => SizeHint::default(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_for_an_answer_counts_from_the_end_of_the_upload() {
        let (state, patience) = (UploadState::default(), Duration::from_secs(10));
        let mut pieces = 0;
        let begin = Instant::now();
        state.pieces.store(3, Ordering::Relaxed);
        assert_eq!(state.more_time(begin + patience, patience, &mut pieces), Some(patience), "it took some");
        assert_eq!(state.more_time(begin + 2 * patience, patience, &mut pieces), None, "it took none");
        state.awaits_client.store(true, Ordering::Relaxed);
        assert_eq!(state.more_time(begin + 2 * patience, patience, &mut pieces), Some(patience), "the client's turn");
        state.pieces.store(4, Ordering::Relaxed);
        state.end();
        let ended = state.ended().expect("whole");
        let second = Duration::from_secs(1);
        assert_eq!(state.more_time(ended + second, patience, &mut pieces), Some(9 * second), "and no more than that");
        assert_eq!(state.more_time(ended + patience, patience, &mut pieces), None);
    }
}
