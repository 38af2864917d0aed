//! How far a fleet reaches: the highest rate of the recorded traffic at which a target of its users still holds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::sim::driver::run;
use crate::sim::figures::Promise;
use crate::sim::roster::RosterError;
use crate::sim::scenario::Scenario;

/// Requests of one trial: enough that a 99th percentile means something, few enough that twenty trials take seconds.
const TRIAL_REQUESTS: f64 = 12_000.0;

/// Trials of the bisection: the answer is within 2 % of the range.
const TRIALS: usize = 6;

/// What users were promised, such as `p99=2s` or `first-byte-p90=500ms`.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Slo {
    /// Of what, and for how many.
    #[serde(flatten)]
    pub promise: Promise,
    /// In seconds.
    pub target_s: f64,
}

/// Prefixes of a promise of first bytes; the second is the short word of the tables.
const FIRST_BYTE: [&str; 2] = ["first-byte-", "ttfb-"];

/// What can be asked for.
const HELP: &str = "expected p50 to p999, or mean, of whole answers, such as p99=2s; with first-byte- before it of first \
                    bytes, such as first-byte-p99=500ms";

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Slo, String> {
        let help = HELP;
        let (what, target) = text.split_once('=').ok_or(help)?;
        let stripped = FIRST_BYTE.iter().find_map(|prefix| what.strip_prefix(prefix));
        let (first_byte, what) = stripped.map_or((false, what), |what| (true, what));
        let share = match what.strip_prefix('p') {
            None if what == "mean" => None,
            None => return Err(help.to_owned()),
            Some(digits) => {
                // p999 is 99.9 %.
                let number: f64 = digits.parse().map_err(|_| help)?;
                let share = number / 10f64.powi(digits.len() as i32);
                Some(share).filter(|share| (0.01..1.0).contains(share) && digits.len() >= 2).ok_or(help)?.into()
            }
        };
        let target: Duration =
            humantime::parse_duration(target).map_err(|error| format!("{target:?}: {error}; {help}"))?;
        if target.is_zero() {
            return Err(help.to_owned());
        }
        Ok(Slo { promise: Promise { first_byte, share }, target_s: target.as_secs_f64() })
    }
}

impl Slo {
    /// The figure that it is about, such as `first-byte p99`.
    pub fn figure(&self) -> String {
        let of = if self.promise.first_byte { "first-byte " } else { "" };
        match self.promise.share {
            None => format!("{of}mean"),
            // p50, p99, p999: the digits after the point, two at least.
            Some(share) => {
                let digits = format!("{share:.4}");
                let (percent, beyond) = digits.trim_start_matches("0.").split_at(2);
                format!("{of}p{percent}{}", beyond.trim_end_matches('0'))
            }
        }
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.figure(), humantime::format_duration(Duration::from_secs_f64(self.target_s)))
    }
}

/// The rate that a fleet holds.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Headroom {
    /// Requests per second at which the target still held in a trial; 0 if it did at none.
    pub holds_rps: f64,
    /// Whether it held at all that was tried: the fleet may reach further.
    pub at_least: bool,
}

/// Requests without an answer count as broken promises: above this share nothing holds.
const ERRORS_MAX: f64 = 0.001;

/// Bisects for the highest rate up to `most_rps` at which `slo` holds under `policy`.
///
/// # Errors
/// The policy cannot route this fleet.
pub fn headroom(scenario: &Scenario, policy: &str, slo: &Slo, most_rps: f64) -> Result<Headroom, RosterError> {
    let holds = |rps: f64| -> Result<bool, RosterError> {
        let mut result = run(&trial(scenario, rps), rps / scenario.capacity_rps(), policy, 1)?;
        let share = result.error_share();
        Ok(slo.promise.of(&mut result) <= slo.target_s && share <= ERRORS_MAX)
    };
    if holds(most_rps)? {
        return Ok(Headroom { holds_rps: most_rps, at_least: true });
    }
    let (mut low, mut high) = (0.0, most_rps);
    for _ in 0..TRIALS {
        let middle = (low + high) / 2.0;
        if holds(middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(Headroom { holds_rps: low, at_least: false })
}

/// The scenario, as long as so many requests take at that rate.
fn trial(scenario: &Scenario, rps: f64) -> Scenario {
    scenario.clone().lasting(Duration::from_secs_f64((TRIAL_REQUESTS / rps).min(1e6)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_and_shown() {
        let read = |text: &str| text.parse::<Slo>();
        let slo = |first_byte, share, target_s| Ok(Slo { promise: Promise { first_byte, share }, target_s });
        assert_eq!(read("p99=2s"), slo(false, Some(0.99), 2.0));
        assert_eq!(read("first-byte-p90=500ms"), slo(true, Some(0.9), 0.5));
        assert_eq!(read("ttfb-p90=500ms"), slo(true, Some(0.9), 0.5));
        assert_eq!(read("mean=1s"), slo(false, None, 1.0));
        let shown = ["p99=2s", "first-byte-p999=1s 500ms", "mean=80ms", "p90=1s", "p50=1s", "p05=1s"]
            .map(|text| read(text).expect("sound").to_string());
        assert_eq!(
            shown,
            ["p99 = 2s", "first-byte p999 = 1s 500ms", "mean = 80ms", "p90 = 1s", "p50 = 1s", "p05 = 1s"]
        );
        for wrong in ["p99", "p99=", "firstbyte-p99=1s", "p99=fast", "q99=2s", "p0=2s", "p=2s", "p99=0s"] {
            let told = read(wrong).expect_err(wrong);
            assert!(told.contains("p99=2s") && told.contains("first-byte-p99=500ms"), "{wrong}: {told}");
        }
    }

    #[test]
    fn a_fleet_holds_less_of_a_stricter_target_and_never_more_than_it_can_do() {
        let scenario = Scenario::named("textbook").expect("shipped").expect("sound");
        let holds = |target: &str, most: f64| {
            headroom(&scenario, "least-connections", &target.parse().expect("sound"), most).expect("known")
        };
        let (strict, loose) = (holds("p99=700ms", 300.0), holds("p99=900ms", 300.0));
        assert!(strict.holds_rps < loose.holds_rps && loose.holds_rps < 230.0, "{strict:?} {loose:?}");
        assert!(loose.holds_rps > 100.0 && !loose.at_least, "{loose:?}");
        assert_eq!(holds("mean=1s", 50.0), Headroom { holds_rps: 50.0, at_least: true });
        assert_eq!(holds("mean=1ms", 50.0).holds_rps, 0.0);
    }
}
