//! Response bodies of an emulated server: whole ones, streams of tokens, and ones that break.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::engine::Place;
use super::fault::Fault;
use super::openai::Events;

/// Set when the connection that carries a response shall end with a TCP reset.
pub(super) type ResetFlag = Arc<AtomicBool>;

/// Where a response breaks.
#[derive(Clone, Debug)]
pub(super) struct Break {
    after_events: u32,
    reset: Option<ResetFlag>,
    /// hyper flushes only when a body has nothing more for now: what came before the break is let out first.
    flushed: bool,
}

impl Break {
    /// What `fault` does to a response on a connection with that flag.
    pub(super) fn of(fault: Fault, reset: &ResetFlag) -> Option<Break> {
        match fault {
            Fault::Break { after_events } => Some(Break { after_events, reset: None, flushed: false }),
            Fault::Reset { after_events } => {
                Some(Break { after_events, reset: Some(Arc::clone(reset)), flushed: false })
            }
            _ => None,
        }
    }

    /// Whether nothing of the response is to be sent.
    pub(super) fn before_the_head(&self) -> bool {
        self.reset.is_some() && self.after_events == 0
    }

    /// The error that makes the connection end without a proper end of the body.
    pub(super) fn error(&self) -> io::Error {
        if let Some(reset) = &self.reset {
            reset.store(true, Ordering::Relaxed);
        }
        io::Error::new(io::ErrorKind::ConnectionAborted, "the emulated server breaks here")
    }

    fn poll_break(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if std::mem::replace(&mut self.flushed, true) {
            return Poll::Ready(self.error());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A response body.
#[derive(Debug)]
pub(super) enum Reply {
    /// All at once.
    Whole(Option<Bytes>),
    /// Events as they are computed.
    Stream(Box<TokenStream>),
    /// A piece of a body that promises `rest` bytes more, then an unclean end.
    Cut { piece: Option<Bytes>, rest: u64, cut: Break },
}

impl Reply {
    pub(super) fn cut(whole: &Bytes, cut: Break) -> Reply {
        let half = whole.len() / 2;
        Reply::Cut { piece: Some(whole.slice(..half)), rest: (whole.len() - half) as u64, cut }
    }
}

impl From<Bytes> for Reply {
    fn from(bytes: Bytes) -> Reply {
        Reply::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

/// Events of one request; owns its place in the engine, so that dropping the body cancels it.
#[derive(Debug)]
pub(super) struct TokenStream {
    place: Place,
    events: Events,
    sent: u32,
    ended: bool,
    cut: Option<Break>,
}

impl TokenStream {
    pub(super) fn new(place: Place, events: Events, cut: Option<Break>) -> TokenStream {
        TokenStream { place, events, sent: 0, ended: false, cut }
    }

    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let bound = self.cut.as_ref().map_or(u32::MAX, |cut| cut.after_events);
        if let Some(cut) = self.cut.as_mut().filter(|cut| self.sent >= cut.after_events) {
            let error = ready!(cut.poll_break(cx));
            self.ended = true;
            self.place.fail();
            return Poll::Ready(Some(Err(error)));
        }
        let (tokens, done) = ready!(self.place.progress().poll_beyond(self.sent, cx));
        let (from, to) = (self.sent, tokens.min(bound));
        let complete = done && to == tokens;
        self.sent = to;
        if complete {
            self.ended = true;
            self.place.finish();
        }
        Poll::Ready(Some(Ok(self.events.range(from, to, complete))))
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Reply::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Reply::Stream(stream) => stream.poll_events(cx).map_ok(Frame::data),
            Reply::Cut { piece, cut, .. } => match piece.take() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                None => cut.poll_break(cx).map(|error| Some(Err(error))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Reply::Whole(bytes) => bytes.is_none(),
            Reply::Stream(stream) => stream.ended && stream.cut.is_none(),
            Reply::Cut { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Reply::Stream(_) => SizeHint::default(),
            Reply::Cut { piece, rest, .. } => {
                SizeHint::with_exact(rest + piece.as_ref().map_or(0, |piece| piece.len() as u64))
            }
        }
    }
}
