//! Sending spans: batches over HTTP to the collector of the settings in force.
//!
//! A collector that is away or slow costs spans, never requests: the queue in front of this is bounded. What OTLP calls
//! retryable (and a connection that failed) is tried again a little later, twice; then the batch is lost and counted,
//! for the next ones are newer. The log tells when sending begins to fail and when it works again, not each time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::{RequestSpan, Spans, encode};
use crate::app::App;
use crate::node::NodeSpec;

/// Requests in one batch.
const BATCH_MAX: usize = 512;

/// How long the first request of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// How long the collector may take for one batch.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pauses before a batch is tried again.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// How long the last batch may take when the process stops.
const LAST: Duration = Duration::from_secs(2);

/// The longest answer that is read; what is in it does not matter.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Sends spans until `ending` says so, and then what is left.
pub async fn export(app: Arc<App>, mut ending: watch::Receiver<bool>) {
    let Some(mut waiting) = app.spans.take_waiting() else { return };
    let mut works = true;
    // Out here, so that what was gathered and not delivered is there at the end.
    let mut batch = Vec::new();
    let sending = async {
        loop {
            gather(&mut waiting, &mut batch).await;
            let sent = deliver(&app, &batch).await;
            batch.clear();
            if sent != works {
                match sent {
                    true => tracing::info!("the collector takes spans again"),
                    false => {
                        tracing::warn!("the collector does not take spans (trace.endpoint): they are lost and counted")
                    }
                }
                works = sent;
            }
        }
    };
    tokio::select! {
        () = sending => {}
        _ = ending.wait_for(|end| *end) => {}
    }
    while let Ok(request) = waiting.try_recv() {
        batch.push(request);
    }
    if !batch.is_empty() {
        let sent = tokio::time::timeout(LAST, send(&app, &batch)).await.is_ok_and(|sent| sent == Sent::Taken);
        count(&app.spans, &batch, sent);
    }
}

/// Waits for a request, and then a moment for others.
#[expect(clippy::vec_box, reason = "they come in boxes and are only passed on")]
async fn gather(waiting: &mut mpsc::Receiver<Box<RequestSpan>>, batch: &mut Vec<Box<RequestSpan>>) {
    if waiting.recv_many(batch, BATCH_MAX).await == 0 {
        // Nobody can send any more: there is nothing left to wait for.
        std::future::pending::<()>().await;
    }
    let gathering = async {
        while batch.len() < BATCH_MAX {
            waiting.recv_many(batch, BATCH_MAX - batch.len()).await;
        }
    };
    let _ = tokio::time::timeout(GATHER, gathering).await;
}

/// What became of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Taken,
    /// Not now.
    Later,
    /// Not at all.
    Refused,
}

/// Sends a batch, with patience; whether it was taken.
async fn deliver(app: &App, batch: &[Box<RequestSpan>]) -> bool {
    let mut sent = send(app, batch).await;
    for pause in PAUSES {
        if sent != Sent::Later {
            break;
        }
        tokio::time::sleep(pause).await;
        sent = send(app, batch).await;
    }
    count(&app.spans, batch, sent == Sent::Taken);
    sent == Sent::Taken
}

fn count(spans: &Spans, batch: &[Box<RequestSpan>], sent: bool) {
    let counter = if sent { &spans.sent } else { &spans.lost };
    counter.fetch_add(batch.iter().map(|request| request.spans()).sum(), Ordering::Relaxed);
}

/// Tries once. Without an endpoint, as after a reload that took it away, there is nobody to take them.
async fn send(app: &App, batch: &[Box<RequestSpan>]) -> Sent {
    let settings = app.settings.load_full();
    let Some(endpoint) = &settings.trace.endpoint else { return Sent::Refused };
    let body = encode::batch(&app.spans, &settings.trace.service, batch).to_string();
    let collector = NodeSpec::new(endpoint);
    match tokio::time::timeout(PATIENCE, post(&collector, body)).await {
        Ok(Ok(status)) if status.is_success() => Sent::Taken,
        // The statuses that OTLP calls retryable.
        Ok(Ok(
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT,
        )) => Sent::Later,
        Ok(Ok(status)) => {
            tracing::debug!(%status, "the collector refuses spans");
            Sent::Refused
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "spans cannot be sent");
            Sent::Later
        }
        Err(_) => Sent::Later,
    }
}

/// Posts to `/v1/traces` below the endpoint.
async fn post(to: &NodeSpec, body: String) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(to.host_port()).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::post(format!("{}/v1/traces", to.base_path()))
        .header(header::HOST, to.authority())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("bellwether/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(body)))?;
    let answering = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        // Read to its end, as a connection that is closed before looks like a failure over there.
        let _ = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(status)
    };
    let mut answering = std::pin::pin!(answering);
    tokio::select! {
        answer = answering.as_mut() => answer,
        ended = connection => {
            ended?;
            // The answer came before the end, or nothing comes any more; it is known by now which.
            answering.await
        }
    }
}
