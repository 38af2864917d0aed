//! Histograms for Prometheus: a fixed row of counters.
//!
//! The exporter's own histograms keep every raw sample until somebody calls their upkeep: memory without a bound if
//! nobody does, an allocation now and then on the request path, and most of the time that telemetry took there. Here
//! recording is a search in a short table and two atomic additions. The count is not kept: it is the sum of the
//! buckets, so that one rendering always agrees with itself.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Response times: a cached answer takes a millisecond, a long generation ten minutes.
pub(super) const LONG: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Closing a connection takes microseconds unless something is wrong.
pub(super) const SHORT: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// Something observed over what was predicted: even steps of a factor, with a finer grid around 1.
pub(super) const RATIOS: &[f64] =
    &[0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0];

/// The largest number that is recorded; ten million seconds or a ratio of that.
const NUMBER_MAX: f64 = 1e7;

/// Durations counted by upper bounds in seconds; or other positive numbers, see [`Histogram::record_number`].
pub(super) struct Histogram {
    name: &'static str,
    bounds_s: &'static [f64],
    bounds_ns: Box<[u64]>,
    /// One per bound, and one for what is above all of them.
    counts: Box<[AtomicU64]>,
    /// 2^64 nanoseconds are 584 years of response times.
    sum_ns: AtomicU64,
}

impl Histogram {
    /// An empty histogram with upper bounds in seconds, rising.
    pub(super) fn new(name: &'static str, bounds_s: &'static [f64]) -> Histogram {
        Histogram {
            name,
            bounds_s,
            bounds_ns: bounds_s.iter().map(|bound| (bound * 1e9).round() as u64).collect(),
            counts: (0..=bounds_s.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_ns: AtomicU64::new(0),
        }
    }

    pub(super) fn record(&self, value: Duration) {
        self.record_ns(value.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(value.subsec_nanos())));
    }

    fn record_ns(&self, value_ns: u64) {
        let bucket = self.bounds_ns.partition_point(|bound| *bound < value_ns);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(value_ns, Ordering::Relaxed);
    }

    /// Records a number that is no duration, to nine decimals; negative or not a number counts as 0.
    pub(super) fn record_number(&self, value: f64) {
        // Rounded; what is not a number becomes 0.
        self.record_ns((value.clamp(0.0, NUMBER_MAX) * 1e9 + 0.5) as u64);
    }

    /// Appends the samples in the text format, with `node` as their label if given.
    pub(super) fn render(&self, node: Option<&str>, text: &mut String) {
        let node = node.map(|node| format!("node=\"{}\"", escaped(node)));
        let braces = node.as_ref().map(|node| format!("{{{node}}}")).unwrap_or_default();
        let before = node.map(|node| node + ",").unwrap_or_default();
        let name = self.name;
        let mut count = 0;
        let bounds = self.bounds_s.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        text.push_str(&format!("# TYPE {name} histogram\n"));
        for (bound, bucket) in bounds.zip(&self.counts) {
            count += bucket.load(Ordering::Relaxed);
            // Writing into a string cannot fail.
            let _ = writeln!(text, "{name}_bucket{{{before}le=\"{bound}\"}} {count}");
        }
        let sum_s = self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
        let _ = writeln!(text, "{name}_sum{braces} {sum_s}\n{name}_count{braces} {count}");
    }
}

/// A label value as the text format wants it.
pub(super) fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_rise_and_include_their_own_value() {
        assert!(LONG.is_sorted() && SHORT.is_sorted() && RATIOS.is_sorted());
        let histogram = Histogram::new("x_seconds", &[0.001, 1.0]);
        let mut text = String::new();
        for micros in [0, 1_000, 1_001, 1_000_000, 1_000_001] {
            histogram.record(Duration::from_micros(micros));
        }
        histogram.render(None, &mut text);
        let expected = "# TYPE x_seconds histogram\nx_seconds_bucket{le=\"0.001\"} 2\nx_seconds_bucket{le=\"1\"} 4\n\
                        x_seconds_bucket{le=\"+Inf\"} 5\nx_seconds_sum 2.002002\nx_seconds_count 5\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn labels_are_escaped() {
        let histogram = Histogram::new("x_seconds", &[1.0]);
        let mut text = String::new();
        histogram.render(Some("a\"\\\n"), &mut text);
        assert!(text.contains("x_seconds_count{node=\"a\\\"\\\\\\n\"} 0\n"), "{text}");
    }
}
