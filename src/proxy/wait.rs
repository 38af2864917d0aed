//! Waiting for a node: the terms on which a request joins the queue, and the wait itself.
//!
//! Nothing here runs for a request that finds a free node. The terms come from the request (its class, if the operator
//! lets clients say it, and how long the client waits), from its route and from the settings. A client that leaves drops
//! the request, and with it the place.

use std::time::Duration;

use http::HeaderMap;

use crate::admission::{Priority, Terms};
use crate::app::App;
use crate::balancer::{Handed, Place, Ticket, Verdict};
use crate::node::NodeId;
use crate::proxy::alarm::Alarm;
use crate::proxy::forward::Passage;
use crate::proxy::intake::Intake;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::reply::ProxyError;
use crate::proxy::worker::meaning_of_drop;

/// How often it is looked whether time alone has made a place, while somebody waits and while nobody does.
const TEND_EVERY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// How a client says how long it waits: seconds such as `2.5`, or with a unit, `800ms`, `2s`.
const X_REQUEST_TIMEOUT: &str = "x-request-timeout";
/// The same as gRPC says it: at most eight digits and one of `H`, `M`, `S`, `m`, `u`, `n`.
const GRPC_TIMEOUT: &str = "grpc-timeout";

impl Passage {
    /// Asks for a node, and joins the queue if there is none now.
    pub(super) fn decide(&self, intake: &Intake, tried: &[NodeId], request: &Outgoing) -> Verdict {
        let now = self.worker.app.clock.now();
        match self.worker.decide(now, &intake.shape, tried) {
            Verdict::Wait(mut place) => match place.join(now, self.terms(intake, request)) {
                Ok(()) => Verdict::Wait(place),
                Err(rejection) => Verdict::Refuse(rejection),
            },
            verdict => verdict,
        }
    }

    /// The node that was decided for, or handed over after a wait.
    pub(super) async fn settle(
        &mut self,
        verdict: Verdict,
        model: Option<&str>,
        alarm: &mut Alarm,
    ) -> Result<Ticket, ProxyError> {
        let rejection = match verdict {
            Verdict::Go(ticket) => return Ok(self.begin(ticket)),
            Verdict::Refuse(rejection) => rejection,
            Verdict::Wait(place) => match self.wait(place, alarm).await {
                Ok(ticket) => return Ok(self.begin(*ticket)),
                Err(rejection) => rejection,
            },
        };
        let app = &self.worker.app;
        app.telemetry.rejected(rejection.reason);
        Err(ProxyError::rejected(rejection, model, &app.balancer.fleet().models()))
    }

    pub(super) fn begin(&mut self, mut ticket: Ticket) -> Ticket {
        // Whoever answers a client drops the request when the client leaves.
        ticket.dropped_means(meaning_of_drop);
        if let Some(story) = &mut self.story {
            story.attempt(&ticket);
        }
        if let Some(timing) = &mut self.timing {
            timing.decided(&ticket, self.worker.app.clock.now());
        }
        ticket
    }

    fn terms(&self, intake: &Intake, request: &Outgoing) -> Terms {
        let (queue, headers) = (&self.settings.queue, &request.head.headers);
        let named = queue.priority_header.as_ref().and_then(|name| headers.get(name)?.to_str().ok());
        let of_route = || intake.route.map_or(Priority::Default, |route| self.settings.routes[route].priority);
        let priority = named.and_then(|word| Priority::named(word.trim())).unwrap_or_else(of_route);
        let timeout = wished(headers).map_or(queue.rules.timeout, |wish| wish.min(queue.rules.timeout_max));
        Terms { priority, bytes: request.body.held_bytes(), deadline: self.arrived.after(timeout) }
    }

    /// Waits until there is a node, the time is over, or the queue wants the place for somebody else.
    pub(super) async fn wait(&self, mut place: Place, alarm: &mut Alarm) -> Handed {
        if let Some(answer) = place.answer() {
            return answer;
        }
        let clock = &self.worker.app.clock;
        let patience = place.deadline().since(clock.now());
        let waits = |waits| self.busy.iter().for_each(|busy| busy.waits(waits));
        waits(true);
        let handed = alarm.within(patience, self.deadline, &mut place).await;
        waits(false);
        handed.unwrap_or_else(|| place.give_up(clock.now()))
    }
}

/// Looks after those who wait, for what no event tells of.
pub(super) async fn tend(app: &App) {
    let (awaited, idle) = TEND_EVERY;
    loop {
        tokio::time::sleep(if app.balancer.is_awaited() { awaited } else { idle }).await;
        app.balancer.tend(app.clock.now());
    }
}

/// How long the client waits, if it says so.
fn wished(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    text(X_REQUEST_TIMEOUT).and_then(seconds).or_else(|| text(GRPC_TIMEOUT).and_then(grpc))
}

fn seconds(text: &str) -> Option<Duration> {
    let (number, unit_s) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = plain.then(|| number.parse().ok())??;
    Duration::try_from_secs_f64(number * unit_s).ok()
}

fn grpc(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_of_clients_are_read_and_nonsense_is_none() {
        let of = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a value"));
            wished(&headers).map(|wish| wish.as_micros())
        };
        let x = |value| of(X_REQUEST_TIMEOUT, value);
        assert_eq!(
            (x("2"), x(" 2.5 "), x("800ms"), x("3s")),
            (Some(2_000_000), Some(2_500_000), Some(800_000), Some(3_000_000))
        );
        let g = |value| of(GRPC_TIMEOUT, value);
        assert_eq!(
            (g("1H"), g("2S"), g("30m"), g("5u")),
            (Some(3_600_000_000), Some(2_000_000), Some(30_000), Some(5))
        );
        for nonsense in ["", "-1", "soon", "1e9", "inf", "nan", "1.2.3", "99999999999999999999999999", "5x"] {
            let seen = (x(nonsense), g(nonsense));
            assert!(seen.0.is_none_or(|wish| wish > 1 << 60) && seen.1.is_none(), "{nonsense}: {seen:?}");
        }
        assert_eq!((g("123456789S"), g("S"), g("1s")), (None, None, None));
    }
}
