//! One attempt of a request on one node: a connection, the request, and the wait for the response head.
//!
//! What goes wrong here is told with its outcome and with whether the request can still be sent elsewhere; whether it
//! should be is decided by whoever asked for the attempt.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{header, response};
use tokio::time::Instant;

use crate::clock::Time;
use crate::fleet::Node;
use crate::outcome::{Censor, Failure, Outcome};
use crate::proxy::alarm::Alarm;
use crate::proxy::forward::Passage;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::reply::ProxyError;
use crate::proxy::upload::{UploadFault, UploadState};
use crate::proxy::upstream::{ConnectError, ExchangeError, Upstream};

/// The part of a request's total time that a node must have had to be blamed when that is over.
const FAIR: f64 = 0.9;

/// Why an attempt brought no response.
pub(super) struct Failed {
    pub(super) error: ProxyError,
    pub(super) outcome: Outcome,
    /// The request, if nothing of it was written and it can be sent again.
    pub(super) unsent: Option<Box<Outgoing>>,
}

impl Passage {
    /// One attempt, up to the response head.
    pub(super) async fn attempt(
        &self,
        node: &Arc<Node>,
        now: Time,
        mut request: Box<Outgoing>,
        upload: Option<&UploadState>,
        alarm: &mut Alarm,
    ) -> Result<(Upstream, response::Parts), Failed> {
        request.address(node, self.settings.forward.preserve_host);
        if let Some(story) = &self.story {
            story.pass_on(node.id, &mut request.told);
        }
        let timeouts = self.timeouts();
        let limits = &self.settings.limits;
        let mut kept = self.worker.pool.take(node, limits, now);
        loop {
            let mut upstream = match kept.take() {
                Some(upstream) => upstream,
                None => {
                    let open = &self.worker.app.open_connections;
                    match Box::pin(Upstream::connect(node, open, &self.settings, timeouts.connect, now)).await {
                        Ok(upstream) => upstream,
                        Err(error) => return Err(not_connected(error, &node.spec.name, request)),
                    }
                }
            };
            let patience = self.first_byte_patience(timeouts.first_byte);
            let (first_byte, deadline) = (timeouts.first_byte, self.deadline);
            let waited = wait_for_head(&mut upstream, request, first_byte, deadline, upload, alarm).await;
            match waited {
                Some(Ok(response)) => return Ok((upstream, response)),
                Some(Err(ExchangeError { unsent: Some(unsent), reused: true, .. })) => request = unsent,
                Some(Err(error)) => {
                    return Err(no_response(error, upload, &node.spec.name, self.settings.limits.body_bytes_max));
                }
                None => return Err(self.late(&node.spec.name, now, patience, upload)),
            }
        }
    }

    /// There was no response within `patience`.
    pub(super) fn late(&self, node: &str, started: Time, patience: Duration, upload: Option<&UploadState>) -> Failed {
        let detail = format!("the node {node} sent no response within {patience:?}");
        let error = ProxyError::failed(Failure::Timeout, "http_response_timeout", detail);
        let is_over = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let outcome = match is_over && !self.had_its_time(started, upload) {
            true => Outcome::Censored(Censor::Dropped),
            false => Outcome::Failed(Failure::Timeout),
        };
        Failed { error, outcome, unsent: None }
    }

    /// Whether a request that is cut when its time is over was with the node for nearly all of that: what the queue, a
    /// slow client or another node has used up is no fault of this one.
    pub(super) fn had_its_time(&self, started: Time, upload: Option<&UploadState>) -> bool {
        let (Some(total), Some(deadline)) = (self.timeouts().total, self.deadline) else { return true };
        let before = started.since(self.arrived);
        let whole =
            upload.is_none_or(|upload| upload.ended().is_some_and(|ended| ended + total.mul_f64(FAIR) <= deadline));
        whole && before <= total.mul_f64(1.0 - FAIR)
    }

    fn first_byte_patience(&self, first_byte: Duration) -> Duration {
        self.deadline.map_or(first_byte, |deadline| first_byte.min(deadline.saturating_duration_since(Instant::now())))
    }
}

/// Sends the request and waits for the response head; `None` if it did not come in time.
async fn wait_for_head(
    upstream: &mut Upstream,
    request: Box<Outgoing>,
    first_byte: Duration,
    deadline: Option<Instant>,
    upload: Option<&UploadState>,
    alarm: &mut Alarm,
) -> Option<Result<response::Parts, ExchangeError>> {
    let mut exchange = std::pin::pin!(upstream.exchange(request));
    let (mut patience, mut pieces) = (first_byte, 0);
    loop {
        match alarm.within(patience, deadline, exchange.as_mut()).await {
            Some(exchanged) => return Some(exchanged),
            None if deadline.is_some_and(|deadline| Instant::now() >= deadline) => return None,
            None => patience = upload?.more_time(Instant::now(), first_byte, &mut pieces)?,
        }
    }
}

/// What a response's head says of the attempt.
pub(super) fn outcome_of(head: &response::Parts) -> Outcome {
    let pause = head.headers.get(header::RETRY_AFTER).map(|value| retry_after(value.as_bytes()));
    Outcome::of_status(head.status.as_u16(), pause)
}

/// `Retry-After` in seconds; a date or nonsense counts as the default pause.
pub(super) fn retry_after(value: &[u8]) -> Duration {
    let seconds = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
    seconds.map_or(crate::fleet::FULL_DEFAULT, Duration::from_secs)
}

/// Whether something of our own ran out: descriptors (EMFILE, ENFILE), memory or local ports.
fn is_ours(error: &io::Error) -> bool {
    let descriptors = matches!(error.raw_os_error(), Some(23 | 24));
    descriptors || matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory)
}

pub(super) fn not_connected(error: ConnectError, node: &str, request: Box<Outgoing>) -> Failed {
    let (error, outcome) = match error {
        // Our own bound: the node has not said that it is full.
        ConnectError::TooMany => (ProxyError::node_full(node), Outcome::Censored(Censor::Dropped)),
        ConnectError::Io(error) if is_ours(&error) => {
            (ProxyError::exhausted(&error), Outcome::Censored(Censor::Dropped))
        }
        ConnectError::Timeout => (ProxyError::connect_timeout(node), Outcome::Failed(Failure::Connect)),
        ConnectError::Io(error) => {
            let refused = error.kind() == std::io::ErrorKind::ConnectionRefused;
            let token = if refused { "connection_refused" } else { "destination_unavailable" };
            let detail = format!("no connection to the node {node}: {error}");
            (ProxyError::failed(Failure::Connect, token, detail), Outcome::Failed(Failure::Connect))
        }
    };
    Failed { error, outcome, unsent: Some(request) }
}

pub(super) fn no_response(error: ExchangeError, upload: Option<&UploadState>, node: &str, most: Option<u64>) -> Failed {
    if let Some(fault) = upload.and_then(UploadState::fault) {
        let error = match fault {
            UploadFault::TooLarge => ProxyError::too_large(most.unwrap_or(u64::MAX)),
            UploadFault::TooSlow => ProxyError::slow_client(),
            UploadFault::Broken => ProxyError::broken_upload(),
        };
        return Failed { error, outcome: Outcome::Censored(Censor::ClientError), unsent: None };
    }
    let ExchangeError { source, unsent, .. } = error;
    let (failure, token) = if source.is_parse() {
        (Failure::Protocol, "http_protocol_error")
    } else {
        (Failure::Broken, "connection_terminated")
    };
    let detail = format!("the node {node} closed the connection without a valid response: {source}");
    Failed { error: ProxyError::failed(failure, token, detail), outcome: Outcome::Failed(failure), unsent }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::proxy::upload::RequestBody;

    #[test]
    fn what_we_lack_ourselves_is_no_evidence_against_a_node() {
        let failed = |error| {
            let request = Box::new(Outgoing::from(Request::new(RequestBody::Empty)));
            not_connected(ConnectError::Io(error), "a", request)
        };
        // EMFILE, ENFILE, ENOMEM, EADDRNOTAVAIL.
        for number in [24, 23, 12, 99] {
            let failed = failed(io::Error::from_raw_os_error(number));
            assert!(!failed.outcome.is_failure(), "{number}");
            assert_eq!((failed.error.status.as_u16(), failed.error.code), (503, "out_of_resources"));
        }
        // ECONNREFUSED, ENETUNREACH, EHOSTUNREACH.
        for number in [111, 101, 113] {
            assert_eq!(failed(io::Error::from_raw_os_error(number)).outcome, Outcome::Failed(Failure::Connect));
        }
    }
}
