//! Where the time of a request went, told to a client that asks, in `Server-Timing` (W3C).
//!
//! It goes out with the response head, so it ends with the node's: what the rest of the answer takes, the client sees
//! itself. Who does not ask pays for one look at the header that asks.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::balancer::Ticket;
use crate::clock::Time;
use crate::config::ServerTiming;

/// Where the times are told.
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What is known before the node's answer.
#[derive(Debug, Default)]
pub(super) struct Timing {
    queue: Duration,
    decision: Duration,
}

impl Timing {
    /// Begins, if the times are wanted. `asked` is whether the request has `x-bellwether-timing`.
    pub(super) fn wanted(when: ServerTiming, asked: bool) -> Option<Box<Timing>> {
        let wanted = when == ServerTiming::Always || (when == ServerTiming::Asked && asked);
        wanted.then(Box::default)
    }

    /// There is a node for an attempt.
    pub(super) fn decided(&mut self, ticket: &Ticket, now: Time) {
        self.queue += ticket.time_waited();
        self.decision += now.since(ticket.started());
    }

    /// Tells it, beside what the node tells of itself. `connecting` is what a new connection took.
    pub(super) fn tell(&self, headers: &mut HeaderMap, ticket: &Ticket, connecting: Option<Duration>, now: Time) {
        let mut times = vec![("queue", self.queue.as_secs_f64()), ("decision", self.decision.as_secs_f64())];
        times.extend(connecting.map(|took| ("connect", took.as_secs_f64())));
        times.push(("upstream", now.since(ticket.started()).as_secs_f64()));
        times.extend(Some(ticket.decision().predicted_s).filter(|s| s.is_finite()).map(|s| ("predicted", s)));
        let each: Vec<String> = times.iter().map(|(name, s)| format!("{name};dur={:.3}", s * 1e3)).collect();
        if let Ok(value) = HeaderValue::try_from(each.join(", ")) {
            headers.append(SERVER_TIMING, value);
        }
    }
}
