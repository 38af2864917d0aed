//! Quantiles of the last minute, written from every thread without a lock.
//!
//! Prometheus computes quantiles from its own scrapes; the admin API and the demo's table must tell them without a
//! Prometheus. A sorted reservoir would need a lock on the request path and a decaying sketch a clock per sample, so
//! this is a ring of log-bucketed histograms, each for [`SLICE`] of time: recording is two atomic operations, reading
//! adds up the slices that are still young enough. A value is known to within a sixteenth, which is finer than two
//! minutes of traffic repeat. It keeps no maximum and no mean: those are what a single outlier ruins.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Time;

/// How long one histogram of the ring collects.
const SLICE: Duration = Duration::from_secs(12);

/// Slices in the ring: with the present one only begun, four full ones make 48 s, at its end 60 s.
const SLICES: usize = 5;

/// Sub-buckets per power of two, as a power of two: 8, so that a bucket is an eighth of its lower bound wide.
const SUB_BITS: u32 = 3;

/// Everything below 2^6 = 64 microseconds is one bucket: no network answers faster.
const EXPONENT_MIN: u32 = 6;

/// Everything from 2^34 microseconds (4.8 hours) on counts as just below that.
const EXPONENT_MAX: u32 = 33;

const BUCKETS: usize = 1 + (((EXPONENT_MAX - EXPONENT_MIN + 1) as usize) << SUB_BITS);

/// Three quantiles and the number of values behind them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiles {
    /// Values in the window.
    pub count: u64,
    /// Median in seconds.
    pub p50_s: f64,
    /// 90th percentile in seconds.
    pub p90_s: f64,
    /// 99th percentile in seconds.
    pub p99_s: f64,
}

#[derive(Debug)]
struct Slice {
    /// Number of the slice of time that it holds, counted from 1; 0 for none yet.
    epoch: AtomicU64,
    counts: [AtomicU32; BUCKETS],
}

/// A sliding window over durations.
#[derive(Debug)]
pub(super) struct Window {
    slices: Box<[Slice; SLICES]>,
}

impl Default for Window {
    fn default() -> Self {
        let slice = |_| Slice { epoch: AtomicU64::new(0), counts: [const { AtomicU32::new(0) }; BUCKETS] };
        Window { slices: Box::new([0; SLICES].map(slice)) }
    }
}

fn epoch_of(now: Time) -> u64 {
    now.as_micros() / SLICE.as_micros() as u64 + 1
}

impl Window {
    /// Adds a value that became known at `now`.
    ///
    /// The first value of a new slice empties the histogram that it takes over; values that other threads add in the
    /// same microseconds can be lost with it. A lock would cost every request more than that costs the quantile.
    pub(super) fn record(&self, now: Time, value: Duration) {
        let epoch = epoch_of(now);
        let slice = &self.slices[(epoch % SLICES as u64) as usize];
        let held = slice.epoch.load(Ordering::Acquire);
        if held < epoch && slice.epoch.compare_exchange(held, epoch, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            for count in &slice.counts {
                count.store(0, Ordering::Relaxed);
            }
        }
        slice.counts[bucket_of(value)].fetch_add(1, Ordering::Relaxed);
    }

    /// The quantiles of what was recorded in the last minute; `None` if nothing was.
    pub(super) fn quantiles(&self, now: Time) -> Option<Quantiles> {
        let mut sum = Sum::default();
        sum.add(self, now);
        sum.quantiles()
    }
}

/// What several windows hold together: quantiles of a fleet are not means of its nodes' quantiles.
pub(super) struct Sum([u64; BUCKETS]);

impl Default for Sum {
    fn default() -> Self {
        Sum([0; BUCKETS])
    }
}

impl Sum {
    /// Adds what was recorded in the last minute.
    pub(super) fn add(&mut self, window: &Window, now: Time) {
        let present = epoch_of(now);
        for slice in window.slices.iter() {
            let epoch = slice.epoch.load(Ordering::Acquire);
            if epoch != 0 && epoch + SLICES as u64 > present {
                for (sum, count) in self.0.iter_mut().zip(&slice.counts) {
                    *sum += u64::from(count.load(Ordering::Relaxed));
                }
            }
        }
    }

    /// The quantiles; `None` of nothing.
    pub(super) fn quantiles(&self) -> Option<Quantiles> {
        let count: u64 = self.0.iter().sum();
        if count == 0 {
            return None;
        }
        let [p50_s, p90_s, p99_s] = quantiles(&self.0, count, [0.5, 0.9, 0.99]);
        Some(Quantiles { count, p50_s, p90_s, p99_s })
    }
}

fn bucket_of(value: Duration) -> usize {
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX).min((1 << (EXPONENT_MAX + 1)) - 1);
    if micros < 1 << EXPONENT_MIN {
        return 0;
    }
    let exponent = micros.ilog2();
    let sub = (micros >> (exponent - SUB_BITS)) as usize & ((1 << SUB_BITS) - 1);
    1 + (((exponent - EXPONENT_MIN) as usize) << SUB_BITS) + sub
}

/// Lower bound and width of a bucket in microseconds.
fn bounds(bucket: usize) -> (f64, f64) {
    let Some(at) = bucket.checked_sub(1) else { return (0.0, f64::from(1 << EXPONENT_MIN)) };
    let low = (1_u64 << ((at >> SUB_BITS) as u32 + EXPONENT_MIN)) as f64;
    let width = low / f64::from(1 << SUB_BITS);
    (low + (at & ((1 << SUB_BITS) - 1)) as f64 * width, width)
}

/// The values at rising `shares` of `total`, each spread evenly within its bucket; seconds. In one pass: a dashboard
/// asks for those of every node each second.
fn quantiles<const N: usize>(counts: &[u64], total: u64, shares: [f64; N]) -> [f64; N] {
    let (mut bucket, mut below) = (0, 0);
    shares.map(|share| {
        let rank = share * total as f64;
        while bucket + 1 < counts.len() && ((below + counts[bucket]) as f64) < rank {
            below += counts[bucket];
            bucket += 1;
        }
        let (low, width) = bounds(bucket);
        (low + width * ((rank - below as f64) / counts[bucket].max(1) as f64).clamp(0.0, 1.0)) / 1e6
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Time {
        Time::from_secs_f64(seconds)
    }

    #[test]
    fn quantiles_are_within_a_sixteenth_over_seven_orders_of_magnitude() {
        for scale in [1e-4, 1e-2, 1.0, 100.0, 10_000.0] {
            let window = Window::default();
            for i in 1..=1000 {
                window.record(at(1.0), Duration::from_secs_f64(scale * f64::from(i) / 1000.0));
            }
            let seen = window.quantiles(at(1.0)).expect("values");
            assert_eq!(seen.count, 1000);
            for (got, share) in [(seen.p50_s, 0.5), (seen.p90_s, 0.9), (seen.p99_s, 0.99)] {
                let error = (got / (scale * share) - 1.0).abs();
                assert!(error < 1.0 / 16.0 || scale * share < 64e-6, "{got} at {share} of {scale}");
            }
        }
    }

    #[test]
    fn buckets_cover_the_line_without_gap_or_overlap() {
        for bucket in 0..BUCKETS - 1 {
            let (low, width) = bounds(bucket);
            assert_eq!(low + width, bounds(bucket + 1).0, "bucket {bucket}");
            assert_eq!(bucket_of(Duration::from_micros(low as u64)), bucket);
            assert_eq!(bucket_of(Duration::from_micros((low + width) as u64 - 1)), bucket);
        }
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn what_is_older_than_a_minute_is_forgotten() {
        let window = Window::default();
        window.record(at(0.0), Duration::from_secs(100));
        window.record(at(30.0), Duration::from_secs(1));
        assert_eq!(window.quantiles(at(47.0)).map(|q| q.count), Some(2));
        assert_eq!(window.quantiles(at(61.0)).map(|q| q.count), Some(1));
        assert_eq!(window.quantiles(at(100.0)), None);
        window.record(at(100.0), Duration::from_secs(1));
        assert_eq!(window.quantiles(at(100.0)).map(|q| q.count), Some(1));
        assert_eq!(Window::default().quantiles(at(0.0)), None);
    }

    #[test]
    fn a_sum_has_the_quantiles_of_all_values_together() {
        let (fast, slow) = (Window::default(), Window::default());
        for _ in 0..90 {
            fast.record(at(1.0), Duration::from_millis(10));
        }
        for _ in 0..10 {
            slow.record(at(1.0), Duration::from_secs(10));
        }
        let mut sum = Sum::default();
        sum.add(&fast, at(2.0));
        sum.add(&slow, at(2.0));
        let seen = sum.quantiles().expect("values");
        assert_eq!(seen.count, 100);
        assert!((seen.p50_s / 0.01 - 1.0).abs() < 0.125 && (seen.p99_s / 10.0 - 1.0).abs() < 0.125, "{seen:?}");
        assert_eq!(Sum::default().quantiles(), None);
    }

    #[test]
    fn threads_lose_nothing_within_a_slice() {
        let window = Window::default();
        window.record(at(1.0), Duration::from_millis(5));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5000).for_each(|_| window.record(at(2.0), Duration::from_millis(5))));
            }
        });
        assert_eq!(window.quantiles(at(2.0)).map(|q| q.count), Some(20_001));
    }
}
