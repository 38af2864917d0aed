//! The access log: one line per request.
//!
//! A line is one `tracing` event, so that its format, destination and filter are those of every other log line and a
//! subscriber of an embedding program gets it as fields. What a client sends (path, model, request id) goes in as
//! string fields only, which the text format quotes and escapes and the JSON format escapes: no client can forge a
//! line or move an operator's cursor. There is no sampling; who does not want it turns it off.

use std::net::IpAddr;
use std::time::Duration;

use tracing::Level;

/// The target of the events: `bellwether::access=off` in a filter silences them.
const TARGET: &str = "bellwether::access";

/// What one line tells. No bodies, no credentials, no query strings.
#[derive(Clone, Copy, Debug)]
pub struct AccessRecord<'a> {
    /// The client, as far as it can be believed.
    pub client: IpAddr,
    /// Method of the request.
    pub method: &'a str,
    /// Path without the query.
    pub path: &'a str,
    /// Status of the answer.
    pub status: u16,
    /// Name of the node that answered.
    pub node: Option<&'a str>,
    /// Policy that chose it.
    pub policy: Option<&'a str>,
    /// Model that the request names.
    pub model: Option<&'a str>,
    /// How the last attempt ended.
    pub outcome: &'a str,
    /// From the request head to the first byte of the response body.
    pub ttfb: Option<Duration>,
    /// From the request head to the end.
    pub total: Duration,
    /// Bytes of the response body that reached the client's connection.
    pub bytes: u64,
    /// In the queue, as far as it got a node.
    pub waited: Duration,
    /// Attempts made.
    pub attempts: u32,
    /// Whether one of them was a hedge.
    pub hedged: bool,
    /// The id that the node saw in `X-Request-Id`.
    pub request_id: &'a str,
}

impl AccessRecord<'_> {
    /// Whether anybody would see the line: one atomic load, to be asked before a record is built.
    pub fn enabled() -> bool {
        tracing::enabled!(target: TARGET, Level::INFO)
    }

    /// Writes the line. Absent fields are left out.
    pub fn log(&self) {
        tracing::info!(
            target: TARGET,
            client = %self.client,
            method = self.method,
            path = self.path,
            status = self.status,
            node = self.node,
            policy = self.policy,
            model = self.model,
            outcome = self.outcome,
            ttfb_s = self.ttfb.map(seconds),
            waited_s = (!self.waited.is_zero()).then(|| seconds(self.waited)),
            total_s = seconds(self.total),
            bytes = self.bytes,
            attempts = self.attempts,
            hedged = self.hedged.then_some(true),
            request_id = self.request_id,
            "request"
        );
    }
}

/// Whole microseconds, by one division: the nearest number to what people read, `1.595295` and not
/// `1.5952950000000001`, which is what adding seconds and their fraction gives.
fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_they_were_measured() {
        for (micros, text) in [(1_595_295, "1.595295"), (0, "0"), (1, "0.000001"), (86_400_000_001, "86400.000001")] {
            assert_eq!(seconds(Duration::from_micros(micros)).to_string(), text);
        }
    }
}
