//! Least `estimate * (in flight + 1)`, the estimate being a moving average of response times that rises at once.
//!
//! The peak-sensitive moving average of Finagle and Linkerd (decay 10 s; its failure penalty is the one of Linkerd's
//! load biaser):
//!
//! ```text
//! at time t, dt after the last sample, w = exp(-dt / 10 s)
//! read:          estimate * w                            (time alone makes a node cheaper, until it is tried again)
//! a response r:  r >= estimate * w ?  r  :  estimate * w + r * (1 - w)
//! a failure:     as a response of max(5 s, Retry-After up to 300 s, the time it took, estimate * w)
//! ```
//!
//! A node without a sample counts as 1 s, as in tower and that load biaser. `r` is the time to the end of the
//! response, as in Finagle; Linkerd stops the watch at the first data, but what we hear comes when an attempt ends, and
//! a busy model server slows the tokens rather than the first byte. Censored attempts and 4xx say nothing. Weights are
//! ignored: the measured time takes their place.
//!
//! Two forms: the choice of two, as both projects run it, and the scan of all nodes, which is the stronger yardstick.
//! Neither learns what a request costs or what load does to a node; that is the business of the learned policy.

use crate::clock::{Time, Timed};
use crate::fleet::{Node, PerNode, Resettable};
use crate::outcome::{Outcome, Sample};
use crate::policy::draw::costs_to_minimum;
use crate::policy::pairs::costs_to_better_of_two;
use crate::policy::{Context, Policy};

/// Time constant of the decay, in seconds.
const DECAY_S: f64 = 10.0;
/// What a node counts as before its first sample, in seconds.
const INITIAL_S: f64 = 1.0;
/// The least that a failure counts as, in seconds.
const PENALTY_S: f64 = 5.0;
/// The longest `Retry-After` that counts, in seconds.
const RETRY_AFTER_MAX_S: f64 = 300.0;
/// A sample that is older than this (11.5 minutes) decays no further, in seconds: at 2^-100 of it, load should still count.
const ELAPSED_MAX_S: f64 = 100.0 * std::f64::consts::LN_2 * DECAY_S;
/// The least response time, in seconds: zero means "no sample yet".
const LEAST_S: f64 = 1e-6;

/// Peak-sensitive moving average of response times.
#[derive(Debug)]
pub(super) struct PeakEwma {
    estimates: PerNode<Estimate>,
    form: Form,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    ChoiceOfTwo,
    Scan,
}

impl PeakEwma {
    /// The better of two random nodes.
    pub(super) fn choice_of_two() -> PeakEwma {
        PeakEwma { estimates: PerNode::default(), form: Form::ChoiceOfTwo }
    }

    /// The best of all nodes.
    pub(super) fn scan() -> PeakEwma {
        PeakEwma { estimates: PerNode::default(), form: Form::Scan }
    }
}

impl Policy for PeakEwma {
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        for (out, candidate) in out.iter_mut().zip(ctx.candidates) {
            *out = self.estimates.of(ctx.node(candidate)).packed(ctx.now);
        }
        // In a loop of its own, so that the compiler can work on several nodes at once.
        for out in out.iter_mut() {
            *out = unpacked(*out);
        }
        for (out, candidate) in out.iter_mut().zip(ctx.candidates) {
            *out *= f64::from(candidate.in_flight + 1);
        }
        match self.form {
            Form::ChoiceOfTwo => costs_to_better_of_two(out),
            Form::Scan => costs_to_minimum(out),
        }
    }

    fn observe(&self, node: &Node, sample: &Sample) {
        let now = sample.started.after(sample.total);
        let took_s = sample.total.as_secs_f64();
        let estimate = self.estimates.of(node);
        match sample.outcome {
            Outcome::Completed { .. } if sample.outcome.is_latency_label() => estimate.response(now, took_s),
            Outcome::Failed(_) => estimate.failure(now, took_s),
            Outcome::Full { retry_after, .. } => {
                let wait_s = retry_after.map_or(0.0, |wait| wait.as_secs_f64().min(RETRY_AFTER_MAX_S));
                estimate.failure(now, wait_s.max(took_s));
            }
            Outcome::Completed { .. } | Outcome::Censored(_) => {}
        }
    }
}

/// The moving average of one node, in seconds; zero before its first sample.
#[derive(Debug, Default)]
struct Estimate(Timed);

impl Resettable for Estimate {
    fn reset(&self) {
        self.0.clear();
    }
}

impl Estimate {
    /// What is needed to know what the node counts as at `now`, in the place of a number: [`unpacked`] does the rest.
    #[inline]
    fn packed(&self, now: Time) -> f64 {
        let (value, elapsed_ms) = self.0.read_ms(now);
        let (value, elapsed_ms) = if value == 0.0 { (INITIAL_S as f32, 0) } else { (value, elapsed_ms) };
        f64::from_bits(u64::from(value.to_bits()) << 32 | u64::from(elapsed_ms))
    }

    fn response(&self, now: Time, seconds: f64) {
        let seconds = seconds.max(LEAST_S);
        self.0.update(now, |value, elapsed_s| {
            let before = decayed(value, elapsed_s);
            if seconds >= before {
                return Some(seconds as f32);
            }
            // Several samples in one millisecond: the first counts, as time has not passed for the others.
            (elapsed_s > 0.0).then(|| (before + seconds * (1.0 - (-elapsed_s / DECAY_S).exp())) as f32)
        });
    }

    fn failure(&self, now: Time, seconds: f64) {
        self.0.update(now, |value, elapsed_s| Some(seconds.max(PENALTY_S).max(decayed(value, elapsed_s)) as f32));
    }
}

/// What a node counts as, in seconds.
#[inline]
fn unpacked(packed: f64) -> f64 {
    let bits = packed.to_bits();
    f64::from(f32::from_bits((bits >> 32) as u32) * decay(bits as u32))
}

fn decayed(value: f32, elapsed_s: f64) -> f64 {
    f64::from(value) * (-elapsed_s.min(ELAPSED_MAX_S) / DECAY_S).exp()
}

/// `exp(-elapsed / DECAY_S)` to 6 digits, exactly 1 for no time at all, and no less than 2^-100 (after 11 minutes).
///
/// Written out because it runs for every node in every decision: the library's function is a call per node, which was
/// most of what a look at a node cost, and this is a handful of instructions for four nodes. `2^y` is a power of two
/// put together from its exponent, times the series of `exp` for what is left, at most half a power.
#[inline]
fn decay(elapsed_ms: u32) -> f32 {
    const POWERS_PER_MS: f32 = (-std::f64::consts::LOG2_E / DECAY_S / 1e3) as f32;
    const ELAPSED_MAX_MS: u32 = (ELAPSED_MAX_S * 1e3) as u32;
    /// Adding it rounds to a whole number and leaves that in the last bits.
    const ROUND: f32 = 1.5 * (1u32 << 23) as f32;
    // Signed, as only signed numbers become floats in one instruction.
    let elapsed_ms = elapsed_ms.min(ELAPSED_MAX_MS) as i32 as f32;
    let y = elapsed_ms * POWERS_PER_MS;
    let rounded = y + ROUND;
    let x = (y - (rounded - ROUND)) * std::f32::consts::LN_2;
    let series = 1.0 / 720.0;
    let series = series * x + 1.0 / 120.0;
    let series = series * x + 1.0 / 24.0;
    let series = series * x + 1.0 / 6.0;
    let series = series * x + 0.5;
    let series = (series * x + 1.0) * x + 1.0;
    series * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Censor, Failure};
    use crate::policy::tests_support::{Scene, sample_of};
    use proptest::prelude::*;
    use std::time::Duration;

    const DONE: Outcome = Outcome::Completed { status: 200 };

    fn at(seconds: f64) -> Time {
        Time::from_secs_f64(seconds)
    }

    /// An attempt on the node `index` that took until `end_s`.
    fn hear(policy: &PeakEwma, scene: &Scene, index: usize, (start_s, end_s): (f64, f64), outcome: Outcome) {
        let node = &scene.fleet.nodes()[index];
        policy.observe(node, &sample_of(node, at(start_s), at(end_s), outcome));
    }

    fn estimate(policy: &PeakEwma, scene: &Scene, index: usize, now_s: f64) -> f64 {
        unpacked(policy.estimates.of(&scene.fleet.nodes()[index]).packed(at(now_s)))
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-4 * b.abs()
    }

    #[test]
    fn it_rises_at_once_sinks_slowly_and_reading_changes_nothing() {
        let (policy, scene) = (PeakEwma::scan(), Scene::new(1));
        assert_eq!(estimate(&policy, &scene, 0, 7.0), INITIAL_S);
        hear(&policy, &scene, 0, (0.0, 2.0), DONE);
        hear(&policy, &scene, 0, (0.0, 8.0), DONE);
        assert!(near(estimate(&policy, &scene, 0, 8.0), 8.0));
        for _ in 0..3 {
            assert!(near(estimate(&policy, &scene, 0, 18.0), 8.0 / std::f64::consts::E));
        }
        hear(&policy, &scene, 0, (17.0, 18.0), DONE);
        let weight = (-1.0f64).exp();
        assert!(near(estimate(&policy, &scene, 0, 18.0), 8.0 * weight + (1.0 - weight)));
    }

    #[test]
    fn full_counts_as_long_as_it_says_between_the_penalty_and_the_cap() {
        for (said_s, counts_s) in [(None, 5.0), (Some(1), 5.0), (Some(60), 60.0), (Some(86_400), 300.0)] {
            let (policy, scene) = (PeakEwma::scan(), Scene::new(1));
            let full = Outcome::Full { status: 429, retry_after: said_s.map(Duration::from_secs) };
            hear(&policy, &scene, 0, (1.0, 1.1), full);
            assert!(near(estimate(&policy, &scene, 0, 1.1), counts_s), "{said_s:?}");
        }
    }

    #[test]
    fn who_walks_away_and_who_asks_wrongly_say_nothing() {
        let (policy, scene) = (PeakEwma::scan(), Scene::new(1));
        hear(&policy, &scene, 0, (0.0, 30.0), Outcome::Censored(Censor::ClientGone));
        hear(&policy, &scene, 0, (0.0, 0.001), Outcome::Completed { status: 404 });
        assert_eq!(estimate(&policy, &scene, 0, 30.0), INITIAL_S);
    }

    #[test]
    fn the_scan_takes_the_least_cost_and_the_choice_of_two_never_the_greatest() {
        for policy in [PeakEwma::scan(), PeakEwma::choice_of_two()] {
            let mut scene = Scene::new(3).load(0, 1).load(1, 5).load(2, 3);
            for (index, took_s) in [(0, 4.0), (1, 0.1), (2, 4.0)] {
                hear(&policy, &scene, index, (0.0, took_s), DONE);
            }
            scene.now = at(4.0);
            let shares = scene.weigh(&policy);
            match policy.form {
                Form::Scan => assert_eq!(shares, [0.0, 1.0, 0.0]),
                Form::ChoiceOfTwo => assert_eq!(shares, [1.0 / 3.0, 2.0 / 3.0, 0.0]),
            }
        }
    }

    #[test]
    fn the_decay_is_the_exponential() {
        assert_eq!(decay(0), 1.0);
        for ms in (0..690_000u32).step_by(37) {
            let exact = (-f64::from(ms) / 1e3 / DECAY_S).exp();
            // An error of 1e-7 in the exponent of up to 69.
            assert!((f64::from(decay(ms)) - exact).abs() <= 1e-5 * exact, "{ms}");
        }
        let least = 2f32.powi(-100);
        assert!([700_000, 1 << 31, u32::MAX].iter().all(|ms| (decay(*ms) / least - 1.0).abs() < 1e-4));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_fast_failure_never_lowers_the_estimate(
            history in prop::collection::vec((0.0..5.0f64, 0.001..400.0f64, any::<bool>()), 0..20),
            took_s in 0.0..0.01f64,
            status in 500u16..512,
        ) {
            let (policy, scene) = (PeakEwma::scan(), Scene::new(1));
            let mut now_s = 400.0;
            for (pause_s, took_s, fails) in history {
                now_s += pause_s;
                let outcome = if fails { Outcome::Failed(Failure::Broken) } else { DONE };
                hear(&policy, &scene, 0, (now_s - took_s, now_s), outcome);
            }
            let now_s = now_s + took_s;
            let before = estimate(&policy, &scene, 0, now_s);
            hear(&policy, &scene, 0, (now_s - took_s, now_s), Outcome::Failed(Failure::Status(status)));
            let after = estimate(&policy, &scene, 0, now_s);
            prop_assert!(after >= before * (1.0 - 1e-5) && after >= PENALTY_S, "{before} {after}");
        }

        #[test]
        fn it_stays_between_what_was_heard_and_is_never_below_what_decay_leaves(
            heard in prop::collection::vec((0..3_000u32, 1..50_000u32), 1..30),
        ) {
            // Whole milliseconds, which is what the policy tells apart: a start plus a duration is then the same
            // millisecond as the end that is read.
            let seconds = |ms: u32| f64::from(ms) / 1e3;
            let (policy, scene) = (PeakEwma::scan(), Scene::new(1));
            let node = &scene.fleet.nodes()[0];
            let (mut now_ms, mut most_ms) = (100_000, 0);
            for (pause_ms, took_ms) in heard {
                now_ms += pause_ms;
                let before = estimate(&policy, &scene, 0, seconds(now_ms));
                let first = most_ms == 0;
                let at = |ms: u32| Time::from_micros(u64::from(ms) * 1_000);
                policy.observe(node, &sample_of(node, at(now_ms - took_ms), at(now_ms), DONE));
                most_ms = most_ms.max(took_ms);
                let after = estimate(&policy, &scene, 0, seconds(now_ms));
                prop_assert!(after <= seconds(most_ms) * (1.0 + 1e-5));
                prop_assert!(first || after >= before * (1.0 - 1e-5));
                prop_assert!(!first || near(after, seconds(took_ms)));
            }
        }
    }
}
