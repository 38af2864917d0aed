//! `bellwether tap`: the decisions of a running proxy as their attempts end, one a line.
//!
//! Where the access log tells requests, this tells choices: what was expected, what came, with which probability and
//! why that node. The proxy judges the filter. What is missed is said, on the other stream: a tap that looked complete
//! and was not would mislead.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::sync::oneshot;

use super::model::time;
use super::remote::{RemoteArgs, WatchError, shown};
use super::{Exit, Output, Screen};
use crate::config::Env;

/// Watch decisions of a running proxy: where requests went, why, and what came of it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bellwether tap
  bellwether tap --node gpu-3 --status 5xx
  bellwether tap --slow 10s --model llama-3.1-8b --output json
  bellwether tap --explored --count 20

Told are attempts that begin from now on, each when it has ended; of many a sample: at most fifty a second, and all
that explored. A retry is an attempt of its own.

Exit codes: 0 fine, 1 the proxy does not answer or refuses, 2 wrong usage.")]
pub(super) struct Tap {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Only where this node was chosen
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Only requests that name this model
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Only this status (503), these (5xx), or this end: completed, full, failed, censored
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// Only attempts that took at least so long
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    slow: Option<Duration>,
    /// Only those that explored
    #[arg(long)]
    explored: bool,
    /// Only those that the fallback of the learned policy decided
    #[arg(long)]
    fallback: bool,
    /// End after so many
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// For people, or for programs: one decision of /api/v1/decisions a line
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Tap {
    pub(super) fn execute(&self, env: &Env, screen: &mut Screen<'_>) -> io::Result<Exit> {
        let remote = match self.remote.remote(env) {
            Ok(remote) => remote,
            Err(error) => return Ok(error.show(screen)),
        };
        let (mut told, mut missed) = (0, 0);
        let watched = remote.watch(&self.path(), oneshot::channel().1, |name, event| {
            if name == "tally" {
                let now_missed = event["missed"].as_u64().unwrap_or_default();
                if now_missed > missed {
                    writeln!(
                        screen.err,
                        "missed {} decisions: they come faster than they are read",
                        now_missed - missed
                    )?;
                }
                missed = now_missed;
                return Ok(ControlFlow::Continue(()));
            }
            match self.output {
                Output::Json => writeln!(screen.out, "{event}")?,
                Output::Text => writeln!(screen.out, "{}", line(event))?,
            }
            screen.out.flush()?;
            told += 1;
            Ok(if Some(told) == self.count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        match watched {
            Ok(()) => Ok(Exit::Fine),
            Err(WatchError::Shown(error)) => Err(error),
            Err(WatchError::Remote(error)) => Ok(error.show(screen)),
        }
    }

    fn path(&self) -> String {
        let Tap { node, model, status, slow, .. } = self;
        let mut query = Vec::new();
        for (key, value) in [("node", node), ("model", model), ("status", status)] {
            query.extend(value.as_ref().map(|value| format!("{key}={}", encoded(value))));
        }
        query.extend(slow.map(|slow| format!("slow_s={}", slow.as_secs_f64())));
        query.extend(self.explored.then(|| "explored=true".to_owned()));
        query.extend(self.fallback.then(|| "fallback=true".to_owned()));
        format!("/api/v1/decisions/stream?{}", query.join("&"))
    }
}

/// A value of a query: everything but letters, digits and a few marks is escaped.
pub(super) fn encoded(value: &str) -> String {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    value
        .bytes()
        .map(|byte| if harmless(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// A decision on one line.
fn line(event: &Value) -> String {
    let end = &event["end"];
    let status = match (end["status"].as_u64(), end["failure"].as_str()) {
        (Some(status), _) => status.to_string(),
        (None, Some(_)) => shown(&end["failure"]),
        (None, None) => shown(&end["outcome"]),
    };
    let predicted = event["candidates"].as_array().into_iter().flatten();
    let predicted = predicted.filter(|one| one["node"] == event["node"]).map(|one| time(&one["predicted_s"])).next();
    let clock = shown(&event["time"]);
    let clock = clock.split_once('T').map_or(clock.as_str(), |(_, time)| time);
    format!(
        "{} {} {status} in {} (predicted {}, first byte {})  {}  {} {:.0} %: {}",
        clock.trim_end_matches('Z'),
        shown(&event["node"]),
        time(&end["total_s"]),
        predicted.unwrap_or_else(|| "-".to_owned()),
        time(&end["ttfb_s"]),
        shown(&event["kind"]),
        shown(&event["policy"]),
        event["propensity"].as_f64().unwrap_or_default() * 100.0,
        shown(&event["because"]),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_cannot_add_a_condition_to_the_query() {
        assert_eq!(encoded("a&node=b c/é\u{1b}"), "a%26node%3Db%20c%2F%C3%A9%1B");
    }

    #[test]
    fn a_line_tells_what_was_expected_what_came_and_why() {
        let mut event = json!({
            "time": "2026-11-22T20:06:45.123Z", "node": "b\n", "kind": "chat llama", "policy": "adaptive",
            "propensity": 0.97, "because": "it has the least score",
            "candidates": [{"node": "a", "predicted_s": 9.0}, {"node": "b\n", "predicted_s": 0.25}],
            "end": {"outcome": "completed", "status": 200, "failure": null, "ttfb_s": 0.041, "total_s": 0.312},
        });
        let expected = "20:06:45.123 b\\u{a} 200 in 312 ms (predicted 250 ms, first byte 41.0 ms)  chat llama  \
                        adaptive 97 %: it has the least score";
        assert_eq!(line(&event), expected);
        event["end"] = json!({"outcome": "failed", "status": null, "failure": "connect", "total_s": 0.001});
        assert!(line(&event).contains(" connect in 1.00 ms (predicted 250 ms, first byte -)"), "{}", line(&event));
    }
}
