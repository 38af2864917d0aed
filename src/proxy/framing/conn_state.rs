//! What the reader of a connection and its request handler tell each other.
//!
//! hyper stands between them and carries bytes only, so a refused head is replaced by a minimal request, and the handler
//! recognises it here by its number. In the other direction the handler reports each answer, because only it knows whether a
//! request for a tunnel was granted. Atomics, written once per read or answer; the one lock guards a waker and is
//! touched only around a request that asks to leave HTTP.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Poll, Waker};

use http::StatusCode;

use super::guard::Answer;
use super::refusal::Refusal;

/// The shared state of one client connection. Requests are numbered from 0 in the order in which hyper's service is called.
#[derive(Debug, Default)]
pub struct ConnState {
    head_refusal: OnceLock<(u64, Refusal)>,
    body_refusal: OnceLock<Refusal>,
    bytes_read: AtomicU64,
    heads: AtomicU64,
    head_begun: AtomicBool,
    write_blocked: AtomicBool,
    bytes_written: AtomicU64,
    /// The number of answers, shifted left by 2, and how the last one stands to tunnels.
    answers: AtomicU64,
    waiting: AtomicBool,
    awaiting: AtomicBool,
    closing: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl ConnState {
    /// The state of a connection on which nothing has happened.
    pub fn new() -> ConnState {
        ConnState::default()
    }

    /// Why request `request_index` was refused; such a request is a stand-in, and the answer is the refusal's status with
    /// `Connection: close`.
    pub fn refusal_of(&self, request_index: u64) -> Option<Refusal> {
        self.head_refusal.get().filter(|(index, _)| *index == request_index).map(|&(_, refusal)| refusal)
    }

    /// Why reading a request body failed, if it was refused here; to be asked after the body's error only. The same
    /// [`Refusal`] is the source of that error.
    pub fn body_refusal(&self) -> Option<Refusal> {
        self.body_refusal.get().copied()
    }

    /// To be called with every answer before it is given to hyper. Until it is, nothing that follows a request with
    /// `Upgrade` or a CONNECT is looked at: a 101 (or, for CONNECT, a 2xx) makes it the tunnel's, anything else the
    /// next request.
    pub fn answered(&self, request_index: u64, status: StatusCode) {
        let answer = match status {
            StatusCode::SWITCHING_PROTOCOLS => 1,
            _ if status.is_success() => 2,
            _ => 0,
        };
        // Sequential consistency here and in `answer_to`: one of the two must see the other, or a wake-up is lost.
        self.answers.store((request_index + 1) << 2 | answer, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) {
            self.waiting.store(false, Ordering::SeqCst);
            let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Says whether a request waits for a node, and so does not read its body: that the client leaves does not show by
    /// itself then.
    pub fn set_awaiting(&self, awaiting: bool) {
        self.awaiting.store(awaiting, Ordering::Relaxed);
    }

    /// Whether a request waits for a node.
    pub fn is_awaiting(&self) -> bool {
        self.awaiting.load(Ordering::Relaxed)
    }

    /// Whether the last answer is written and only what the client still sends is waited for.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    pub(super) fn publish_closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Bytes received from the client.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Request heads that were received whole, a refused one included. Zero: the deadline of the first request still runs.
    pub fn heads_complete(&self) -> u64 {
        self.heads.load(Ordering::Acquire)
    }

    /// Whether a head has begun to arrive and is not complete: a slow one, if it stays so, and not an idle connection.
    pub fn is_head_begun(&self) -> bool {
        self.head_begun.load(Ordering::Acquire)
    }

    /// Whether the client did not take what was last written to it: some of a response is still with us.
    pub fn is_write_blocked(&self) -> bool {
        self.write_blocked.load(Ordering::Acquire)
    }

    /// Bytes that the client's connection took; only its writer changes it.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }

    pub(super) fn publish_write(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.bytes_written.store(self.bytes_written() + *bytes as u64, Ordering::Relaxed);
        }
        self.write_blocked.store(written.is_pending(), Ordering::Release);
    }

    pub(super) fn count_bytes(&self, n: usize) {
        // One writer, the reader of the connection: no read-modify-write is needed.
        self.bytes_read.store(self.bytes_read.load(Ordering::Relaxed) + n as u64, Ordering::Relaxed);
    }

    pub(super) fn publish_progress(&self, heads: u64, head_begun: bool) {
        self.heads.store(heads, Ordering::Release);
        self.head_begun.store(head_begun, Ordering::Release);
    }

    pub(super) fn refuse_head(&self, request_index: u64, refusal: Refusal) {
        self.head_refusal.get_or_init(|| (request_index, refusal));
        self.publish_progress(request_index + 1, false);
    }

    pub(super) fn refuse_body(&self, refusal: Refusal) {
        self.body_refusal.get_or_init(|| refusal);
    }

    /// How request `request_index` was answered; `None` if it was not yet, and then `waker` is woken when it is.
    pub(super) fn answer_to(&self, request_index: u64, waker: &Waker) -> Option<Answer> {
        if let Some(answer) = self.known_answer(request_index) {
            return Some(answer);
        }
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
        self.waiting.store(true, Ordering::SeqCst);
        self.known_answer(request_index)
    }

    fn known_answer(&self, request_index: u64) -> Option<Answer> {
        let word = self.answers.load(Ordering::SeqCst);
        let (answers, last) = (word >> 2, word & 3);
        if answers <= request_index {
            return None;
        }
        Some(match last {
            1 if answers == request_index + 1 => Answer::Switching,
            2 if answers == request_index + 1 => Answer::Success,
            _ => Answer::Other,
        })
    }
}
