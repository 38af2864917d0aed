//! Server-sent events: a bounded number of streams, each with an end.
//!
//! A stream is filled by a task of its own through a short queue, so a reader that is slow or gone holds up nobody. It
//! ends when its filler is done, its reader has left, or the listener stops. What is told, and what becomes of events
//! that the queue has no room for, is the filler's business.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Frame;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::problem::Problem;

/// Streams at once; a person has one or two, a team a handful.
pub(super) const STREAMS_MAX: usize = 16;

/// The listener stops: the accept loop puts it into each request, so that a stream does not hold up the stop.
#[derive(Clone, Debug)]
pub(super) struct Ending(pub(super) watch::Receiver<bool>);

/// Room for streams.
#[derive(Debug)]
pub(super) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Places(Arc::new(Semaphore::new(STREAMS_MAX)))
    }
}

impl Places {
    /// A place for one more stream.
    ///
    /// # Errors
    /// All are taken.
    pub(super) fn take(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            let detail = format!("{STREAMS_MAX} streams are open, which is the most: close another dashboard or tap");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        })
    }
}

/// An event in the text format.
pub(super) fn event(name: &str, data: &impl Serialize) -> Bytes {
    // Figures are numbers and strings, which JSON can hold, on one line.
    let data = serde_json::to_string(data).unwrap_or_default();
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

/// A response whose body is what `fill` sends, through a queue of `room` events.
pub(super) fn respond<F>(
    place: OwnedSemaphorePermit,
    ending: Option<Ending>,
    room: usize,
    fill: impl FnOnce(mpsc::Sender<Bytes>) -> F,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(room);
    let gone = sender.clone();
    let filling = fill(sender);
    tokio::spawn(async move {
        let _place = place;
        let stopping = async {
            match ending {
                // An error means that nobody can stop it any more, which is a stop too.
                Some(Ending(mut stopping)) => drop(stopping.wait_for(|stopping| *stopping).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = filling => {}
            () = stopping => {}
            () = gone.closed() => {}
        }
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, Body::new(Events(receiver))).into_response()
}

/// The body of a stream.
struct Events(mpsc::Receiver<Bytes>);

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}
