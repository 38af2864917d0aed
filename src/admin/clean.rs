//! Answers of the admin API, harmless for whoever looks at them in a terminal.
//!
//! Decisions and problems repeat what clients chose: models, paths. Every JSON answer, and every event of a stream, passes
//! here on its way out, so that no route has to think of it. Metrics and the dashboard's files have nothing of clients.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::http::{Response, header};
use http_body::{Body as _, Frame};

use crate::escape::escaped;

/// The answer without characters that do more than show.
pub(super) async fn clean(response: Response<Body>) -> Response<Body> {
    let kind = response.headers().get(header::CONTENT_TYPE).map_or(&[][..], |kind| kind.as_bytes());
    let (is_json, is_stream) = (kind.ends_with(b"json"), kind == b"text/event-stream");
    if !is_json && !is_stream {
        return response;
    }
    let (mut head, body) = response.into_parts();
    if is_stream || body.size_hint().exact().is_none() {
        head.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(head, Body::new(Clean(body)));
    }
    // Whole already: to collect it does not wait. It stays whole, so that its length is known.
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let bytes = cleaned(bytes);
    if head.headers.contains_key(header::CONTENT_LENGTH) {
        head.headers.insert(header::CONTENT_LENGTH, bytes.len().into());
    }
    Response::from_parts(head, Body::from(bytes))
}

fn cleaned(bytes: Bytes) -> Bytes {
    match escaped(&bytes) {
        std::borrow::Cow::Borrowed(_) => bytes,
        std::borrow::Cow::Owned(clean) => clean.into(),
    }
}

/// A stream whose pieces are events, each whole.
struct Clean(Body);

impl http_body::Body for Clean {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.0).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(cleaned))))
    }
}
