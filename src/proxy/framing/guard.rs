//! The state machine over everything one client sends: head, body, next head, until a tunnel or a refusal.
//!
//! It owns no bytes. [`RequestGuard::scan`] is shown what has not been handed on yet and says how much of it may be; a head
//! may only be handed on whole, so that a refused one can still be replaced, a body as it comes. It must come to the same
//! boundaries as hyper, and does so by letting nothing through on which two readers could differ.

use super::Limits;
use super::chunked::{self, ChunkScan};
use super::head::{self, Framing, HeadScan, Leaves};
use super::refusal::Refusal;

/// What [`RequestGuard::scan`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// How many of the bytes may be handed on. The others must be shown again, with what follows them.
    pub passed: usize,
    /// What stands after those.
    pub next: Next,
}

/// What stands after the bytes that may be handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing, or the incomplete head of a request: more bytes are needed.
    More,
    /// Bytes that are HTTP or not, depending on the answer to the last request, which asked to leave HTTP:
    /// [`RequestGuard::decide`] must be told first.
    Undecided,
    /// A head that is refused; not one byte of it was handed on.
    RefusedHead(Refusal),
    /// The rest of a body that is refused; its head was handed on.
    RefusedBody(Refusal),
}

/// How the request that asked to leave HTTP was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With 101.
    Switching,
    /// With any 2xx, which makes a tunnel of a CONNECT.
    Success,
    /// With anything else, or it is not the last answer any more.
    Other,
}

#[derive(Debug)]
enum Phase {
    Head,
    Length(u64),
    Chunked,
    Undecided,
    Tunnel,
    Refused(Next),
}

/// Tracks message boundaries in the bytes that arrive from one client, and refuses what RFC 9112 calls ambiguous.
#[derive(Debug)]
pub struct RequestGuard {
    limits: Limits,
    phase: Phase,
    head: HeadScan,
    chunks: ChunkScan,
    heads: u64,
    leaves: Leaves,
}

impl RequestGuard {
    /// A guard at the start of a connection.
    pub fn new(limits: Limits) -> RequestGuard {
        let (head, chunks) = (HeadScan::default(), ChunkScan::default());
        RequestGuard { limits, phase: Phase::Head, head, chunks, heads: 0, leaves: Leaves::Never }
    }

    /// Judges `pending`: all bytes that arrived and were not handed on. The verdict on a stream does not depend on how it
    /// was cut into calls. After a refusal nothing passes any more and the refusal is repeated.
    pub fn scan(&mut self, pending: &[u8]) -> Scan {
        let mut passed = 0;
        loop {
            let rest = &pending[passed..];
            match self.phase {
                Phase::Head if rest.is_empty() => return Scan { passed, next: Next::More },
                Phase::Head => match self.head.advance(rest, &self.limits) {
                    head::Progress::More => return Scan { passed, next: Next::More },
                    head::Progress::Refused(refusal) => self.phase = Phase::Refused(Next::RefusedHead(refusal)),
                    head::Progress::Complete { len, framing, leaves } => {
                        passed += len;
                        self.begin_body(framing, leaves);
                    }
                },
                Phase::Length(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    passed += here;
                    let left = left - here as u64;
                    self.phase = Phase::Length(left);
                    if left > 0 {
                        return Scan { passed, next: Next::More };
                    }
                    self.end_message();
                }
                Phase::Chunked => match self.chunks.advance(rest, &self.limits) {
                    chunked::Progress::More => return Scan { passed: pending.len(), next: Next::More },
                    chunked::Progress::Complete(len) => {
                        passed += len;
                        self.end_message();
                    }
                    chunked::Progress::Refused(at, refusal) => {
                        passed += at;
                        self.phase = Phase::Refused(Next::RefusedBody(refusal));
                    }
                },
                Phase::Undecided => return Scan { passed, next: Next::Undecided },
                Phase::Tunnel => return Scan { passed: pending.len(), next: Next::More },
                Phase::Refused(next) => return Scan { passed, next },
            }
        }
    }

    fn begin_body(&mut self, framing: Framing, leaves: Leaves) {
        self.heads += 1;
        self.leaves = leaves;
        match framing {
            Framing::Length(0) => self.end_message(),
            Framing::Length(left) => self.phase = Phase::Length(left),
            Framing::Chunked => {
                self.chunks = ChunkScan::default();
                self.phase = Phase::Chunked;
            }
        }
    }

    fn end_message(&mut self) {
        self.head = HeadScan::default();
        self.phase = if self.leaves == Leaves::Never { Phase::Head } else { Phase::Undecided };
    }

    /// After [`Next::Undecided`]: how the last request was answered. Ignored at any other time.
    pub fn decide(&mut self, answer: Answer) {
        if !self.is_undecided() {
            return;
        }
        match (answer, self.leaves) {
            (Answer::Switching, _) | (Answer::Success, Leaves::ByConnect) => self.tunnel(),
            _ => self.phase = Phase::Head,
        }
    }

    /// From here on every byte passes unseen.
    pub fn tunnel(&mut self) {
        self.phase = Phase::Tunnel;
    }

    /// Whether [`decide`](RequestGuard::decide) must be called before more bytes can be judged.
    pub fn is_undecided(&self) -> bool {
        matches!(self.phase, Phase::Undecided)
    }

    /// Whether the next byte belongs to a request body.
    pub fn is_in_body(&self) -> bool {
        matches!(self.phase, Phase::Length(_) | Phase::Chunked)
    }

    /// Whether the next byte belongs to a request head.
    pub fn is_in_head(&self) -> bool {
        matches!(self.phase, Phase::Head)
    }

    /// Complete heads that were let through: the index of the next request on this connection.
    pub fn heads(&self) -> u64 {
        self.heads
    }
}
