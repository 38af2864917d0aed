//! Values that are amounts: durations, sizes, numbers of threads.

use std::time::Duration;

use super::super::error::{Complaint, closest, quoted};
use super::{InFlight, OrOff, Scalar, Size, Span, Workers};
use crate::node::{IN_FLIGHT_MAX, MaxInFlight};

/// The shortest duration: what is shorter was meant in another unit.
const SPAN_MIN: Duration = Duration::from_millis(1);
/// The longest duration: longer than any request, and far from where adding it to a clock could overflow.
const SPAN_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
impl Scalar for Span {
    const FORMAT: &'static str = "time-span";
    const ALLOWED: &'static str = "a duration such as \"250ms\", \"10s\" or \"1h 30m\", from 1ms to 7days";

    fn parse(text: &str) -> Result<Self, Complaint> {
        match humantime::parse_duration(text) {
            Ok(span) if (SPAN_MIN..=SPAN_MAX).contains(&span) => Ok(Span(span)),
            Ok(_) => Err(Complaint::new(format!("{} is out of range", quoted(text)))),
            Err(_) => {
                let bare = text.parse::<u32>().is_ok();
                let suggestion = bare.then(|| format!("\"{text}s\""));
                Err(Complaint::new(format!("{} is not a duration", quoted(text))).suggest(suggestion))
            }
        }
    }

    fn show(&self) -> String {
        humantime::format_duration(self.0).to_string()
    }
}

/// Binary units first: what divides evenly is shown in them.
const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Scalar for Size {
    const FORMAT: &'static str = "size";
    const ALLOWED: &'static str = "a size such as 65536, \"64KiB\" or \"64kB\"";
    const INTEGER: bool = true;

    fn parse(text: &str) -> Result<Self, Complaint> {
        let digits = text.trim().trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &text.trim()[digits.len()..];
        let factor = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor);
        let factor = if unit.is_empty() { Some(1) } else { factor };
        let number = digits.trim_end().parse::<u64>().ok();
        match number.zip(factor) {
            Some((number, factor)) => number
                .checked_mul(factor)
                .filter(|bytes| i64::try_from(*bytes).is_ok())
                .map(Size)
                .ok_or_else(|| Complaint::new(format!("{} is out of range", quoted(text)))),
            None => {
                let meant = number.and(closest(unit, UNITS.iter().map(|(name, _)| *name)));
                let suggestion = meant.map(|unit| format!("\"{}{unit}\"", digits.trim_end()));
                Err(Complaint::new(format!("{} is not a size", quoted(text))).suggest(suggestion))
            }
        }
    }

    fn show(&self) -> String {
        let even = UNITS.iter().take(3).find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        even.map_or_else(|| self.0.to_string(), |(name, factor)| format!("{}{name}", self.0 / factor))
    }

    fn number(&self) -> Option<u64> {
        self.show().parse().ok()
    }
}

/// More threads than any machine that this runs on has cores.
const WORKERS_MAX: usize = 1_024;

impl Scalar for Workers {
    const FORMAT: &'static str = "workers";
    const ALLOWED: &'static str = "\"auto\" (one per core) or an integer from 1 to 1024";
    const INTEGER: bool = true;

    fn parse(text: &str) -> Result<Self, Complaint> {
        match text.trim().parse::<usize>() {
            Ok(count) if (1..=WORKERS_MAX).contains(&count) => Ok(Workers(Some(count))),
            _ if text.trim() == "auto" => Ok(Workers(None)),
            Ok(_) => Err(Complaint::new(format!("{text} is out of range"))),
            Err(_) => {
                let suggestion = closest(text, ["auto"]).map(quoted);
                Err(Complaint::new(format!("{} is not a number of threads", quoted(text))).suggest(suggestion))
            }
        }
    }

    fn show(&self) -> String {
        self.0.map_or_else(|| "auto".to_owned(), |count| count.to_string())
    }

    fn number(&self) -> Option<u64> {
        self.0.map(|count| count as u64)
    }
}

impl Scalar for InFlight {
    const FORMAT: &'static str = "in-flight";
    const ALLOWED: &'static str = "\"auto\" (by the node's response times) or an integer from 1 to 60000";
    const INTEGER: bool = true;

    fn parse(text: &str) -> Result<Self, Complaint> {
        match text.trim().parse::<u32>() {
            Ok(count) if (1..=IN_FLIGHT_MAX).contains(&count) => Ok(InFlight(Some(count))),
            _ if text.trim() == "auto" => Ok(InFlight(None)),
            Ok(_) => Err(Complaint::new(format!("{text} is out of range"))),
            Err(_) => {
                let suggestion = closest(text, ["auto"]).map(quoted);
                Err(Complaint::new(format!("{} is not a number of attempts", quoted(text))).suggest(suggestion))
            }
        }
    }

    fn show(&self) -> String {
        self.0.map_or_else(|| "auto".to_owned(), |count| count.to_string())
    }

    fn number(&self) -> Option<u64> {
        self.0.map(u64::from)
    }
}

impl OrOff<InFlight> {
    /// What it means.
    pub(in crate::config) fn limit(&self) -> MaxInFlight {
        match &self.0 {
            None => MaxInFlight::Off,
            Some(InFlight(None)) => MaxInFlight::Auto,
            Some(InFlight(Some(limit))) => MaxInFlight::Fixed(*limit),
        }
    }
}

impl From<MaxInFlight> for OrOff<InFlight> {
    fn from(limit: MaxInFlight) -> Self {
        OrOff(match limit {
            MaxInFlight::Off => None,
            MaxInFlight::Auto => Some(InFlight(None)),
            MaxInFlight::Fixed(limit) => Some(InFlight(Some(limit))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_a_range() {
        assert_eq!(Span::parse("250ms"), Ok(Span(Duration::from_millis(250))));
        assert_eq!(Span::parse("1h 30m"), Ok(Span(Duration::from_secs(5400))));
        assert_eq!(Span::parse("10").expect_err("no unit").suggestion.as_deref(), Some("\"10s\""));
        for bad in ["", "0s", "8days", "-1s", "10 parsecs", "999999999999999999999s"] {
            assert!(Span::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_in_both_systems_and_shown_exactly() {
        for (text, bytes) in [("0", 0), ("256KiB", 262_144), ("256kB", 256_000), ("1 MiB", 1 << 20), ("7", 7)] {
            assert_eq!(Size::parse(text), Ok(Size(bytes)));
            assert_eq!(Size::parse(&Size(bytes).show()), Ok(Size(bytes)));
        }
        assert_eq!(Size::parse("64KiBs").expect_err("typo").suggestion.as_deref(), Some("\"64KiB\""));
        for bad in ["", "KiB", "-1", "1.5MiB", "99999999999GiB", "18446744073709551615"] {
            assert!(Size::parse(bad).is_err(), "{bad}");
        }
    }
}
