//! The learner as a whole, on synthetic nodes with known behaviour.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::clock::Time;
use crate::fleet::Fleet;
use crate::learn::predictor::{Ask, How, NodeLoad};
use crate::learn::sample::tests::plain;
use crate::learn::{Fallback, FitReport, FitResult, Learned, Learner, Predictor, Snapshot, SnapshotError, Target};
use crate::node::{NodeId, NodeSpec};
use crate::outcome::{Failure, Outcome, Sample};
use crate::request::KindId;

const PLAIN: Ask = Ask { prompt: 0.0, output: 0.0, how: How::Plain, proxies: 1.0 };

fn fleet(count: u32) -> Fleet {
    (0..count).fold(Fleet::default(), |fleet, i| fleet.with(NodeSpec::new(format!("http://n{i}"))).expect("free"))
}

fn learner() -> Learner {
    Learner::new(Arc::new(Learned::default()))
}

/// Response time of a server with four workers and this service time, at `n` in flight.
fn four_workers(service_s: f64, n: u32) -> f64 {
    service_s * (f64::from(n) / 4.0).max(1.0)
}

/// Ten samples a node and refit every half second, for `seconds` from `from_s`, at loads drawn from 1 to 12.
fn run(learner: &mut Learner, rng: &mut fastrand::Rng, from_s: f64, seconds: f64, services: &[f64]) -> FitReport {
    run_every(0.5, learner, rng, from_s, seconds, services)
}

/// The same with a step of `step_s`.
fn run_every(
    step_s: f64,
    learner: &mut Learner,
    rng: &mut fastrand::Rng,
    from_s: f64,
    seconds: f64,
    services: &[f64],
) -> FitReport {
    let mut report = None;
    for tick in 0..(seconds / step_s) as u32 {
        let now = Time::from_secs_f64(from_s + f64::from(tick) * step_s);
        for (slot, service) in services.iter().enumerate() {
            for _ in 0..10 {
                let n = rng.u32(1..=12);
                let noise = 0.5 + rng.f64();
                let _ = learner.observe(now, &plain(slot as u32, n, noise * four_workers(*service, n)));
            }
        }
        report = Some(learner.refit(now));
    }
    report.expect("at least one fit")
}

fn predict(predictor: &Predictor, slot: u32, m: u32) -> f64 {
    let load = NodeLoad::new(m, m, 0);
    predictor.node(slot, NodeId(slot)).predict(&[1.0; 4], &load, &PLAIN).total_s
}

#[test]
fn known_nodes_are_predicted_at_all_loads() {
    let (mut learner, mut rng) = (learner(), fastrand::Rng::with_seed(1));
    let services = [0.1, 0.1, 0.05, 0.025];
    let report = run(&mut learner, &mut rng, 0.0, 30.0, &services);
    assert_eq!(report.targets[Target::Total.index()], FitResult::Published);
    assert_eq!(report.fallback, None);
    let predictor = learner.learned().predictor().expect("published");
    for (slot, service) in services.iter().enumerate() {
        for n in [1, 4, 8, 12] {
            let ratio = predict(&predictor, slot as u32, n - 1) / four_workers(*service, n);
            assert!((ratio - 1.0).abs() < 0.12, "node {slot} at {n}: {ratio}");
        }
    }
}

#[test]
fn equal_nodes_have_speed_factors_near_one() {
    let (mut learner, mut rng) = (learner(), fastrand::Rng::with_seed(2));
    run(&mut learner, &mut rng, 0.0, 20.0, &[0.1; 8]);
    let predictor = learner.learned().predictor().expect("published");
    for node in predictor.nodes.iter().flatten() {
        assert!((node.speed[Target::Total.index()] - 1.0).abs() < 0.05, "{:?}", node.speed);
    }
}

#[test]
fn a_fast_failure_never_lowers_the_prediction() {
    let (mut learner, mut rng) = (learner(), fastrand::Rng::with_seed(3));
    run(&mut learner, &mut rng, 0.0, 10.0, &[0.1, 0.1]);
    let before = predict(&learner.learned().predictor().expect("published"), 0, 3);
    let now = Time::from_secs_f64(10.0);
    for outcome in [
        Outcome::Failed(Failure::Status(500)),
        Outcome::Completed { status: 404 },
        Outcome::Full { status: 429, retry_after: None },
    ] {
        (0..5_000).for_each(|_| assert!(learner.observe(now, &Sample { outcome, ..plain(0, 1, 1e-4) }).is_err()));
    }
    learner.refit(now);
    learner.refit(Time::from_secs_f64(10.5));
    let after = predict(&learner.learned().predictor().expect("published"), 0, 3);
    assert!((after / before - 1.0).abs() < 0.05, "{before} {after}");
    assert_eq!(learner.counts().unfit.iter().sum::<u64>(), 15_000);
}

#[test]
fn a_slowed_node_is_corrected_before_the_fit_follows() {
    let (mut learner, mut rng) = (learner(), fastrand::Rng::with_seed(4));
    run(&mut learner, &mut rng, 0.0, 60.0, &[0.1, 0.1]);
    run(&mut learner, &mut rng, 60.0, 3.0, &[0.5, 0.1]);
    let learned = learner.learned();
    let factors = |slot| learned.node_at(slot, NodeId(slot)).factors()[Target::Total.index()];
    assert!(factors(0) > 2.0, "{}", factors(0));
    assert!(factors(1) < 1.3, "{}", factors(1));
}

#[test]
fn streams_are_learned_by_first_byte_and_gap() {
    let mut learner = learner();
    let fleet = fleet(2);
    let mut rng = fastrand::Rng::with_seed(5);
    for tick in 0..120u32 {
        let now = Time::from_secs_f64(f64::from(tick) * 0.5);
        for (node, speed) in fleet.nodes().iter().zip([1.0, 4.0]) {
            let n = rng.u32(2..30);
            let gap_s = speed * (0.01 + 0.001 * f64::from(n));
            learner.gaps(now, node, f64::from(n), 1, n - 1, gap_s * 50.0, 50);
            let prompt = rng.u32(100..3_000);
            let ttfb_s = speed * (0.05 + 0.1 * f64::from(prompt) / 1000.0);
            let sample = Sample {
                streaming: true,
                prompt_tokens: prompt,
                events: 200,
                ttfb: Some(Duration::from_secs_f64(ttfb_s)),
                kind: KindId(1),
                ..plain(node.slot, n, ttfb_s + 200.0 * gap_s)
            };
            learner.observe(now, &sample).expect("a label");
        }
        learner.refit(now);
    }
    let predictor = learner.learned().predictor().expect("published");
    let ask = predictor.ask(KindId(1), true, 1_000, None);
    assert_eq!(ask.how, How::Streamed);
    assert!((ask.output - 200.0).abs() < 20.0, "{}", ask.output);
    for (slot, speed) in [(0u32, 1.0), (1, 4.0)] {
        let p = predictor.node(slot, NodeId(slot)).predict(&[1.0; 4], &NodeLoad::new(9, 0, 0), &ask);
        assert!((p.first_byte_s / (speed * 0.15) - 1.0).abs() < 0.1, "{slot} {p:?}");
        assert!((p.gap_s / (speed * 0.02) - 1.0).abs() < 0.1, "{slot} {p:?}");
        assert!(p.marginal_s > 0.0);
    }
}

#[test]
fn a_fleet_that_sleeps_does_not_forget() {
    let (mut learner, mut rng) = (learner(), fastrand::Rng::with_seed(6));
    run(&mut learner, &mut rng, 0.0, 30.0, &[0.1, 0.4]);
    for minute in 1..600u32 {
        learner.refit(Time::from_secs_f64(f64::from(minute) * 60.0));
    }
    assert_eq!(learner.learned().fallback(Time::from_secs_f64(35_945.0)), None);
    let predictor = learner.learned().predictor().expect("published");
    assert!(predict(&predictor, 1, 0) > 3.0 * predict(&predictor, 0, 0));
}

#[test]
fn a_snapshot_brings_everything_back() {
    let (mut first, mut rng) = (learner(), fastrand::Rng::with_seed(7));
    let fleet = fleet(3);
    run(&mut first, &mut rng, 0.0, 30.0, &[0.1, 0.2, 0.4]);
    let bytes = first.snapshot(&fleet, |kind| format!("kind {}", kind.0)).to_bytes().expect("sound");
    let snapshot = Snapshot::from_bytes(&bytes).expect("its own bytes");
    let mut second = learner();
    assert_eq!(second.restore(&snapshot, &fleet, |_| None), 3);
    second.refit(Time::ZERO);
    assert_eq!(second.learned().fallback(Time::ZERO), None);
    let (a, b) = (first.learned().predictor().expect("one"), second.learned().predictor().expect("one"));
    for slot in 0..3 {
        let ratio = predict(&b, slot, 5) / predict(&a, slot, 5);
        assert!((ratio - 1.0).abs() < 0.05, "{slot} {ratio}");
    }
}

#[test]
fn another_fleet_starts_from_the_same_curve() {
    let (mut first, mut rng) = (learner(), fastrand::Rng::with_seed(8));
    run(&mut first, &mut rng, 0.0, 30.0, &[0.1, 0.1]);
    let snapshot = first.snapshot(&fleet(2), |_| String::new());
    let strangers = Fleet::default().with(NodeSpec::new("http://other")).expect("free");
    let mut second = learner();
    assert_eq!(second.restore(&snapshot, &strangers, |_| None), 0);
    second.refit(Time::ZERO);
    let predictor = second.learned().predictor().expect("from the prior");
    assert!(predict(&predictor, 0, 11) > 2.0 * predict(&predictor, 0, 0));
    assert_eq!(second.learned().fallback(Time::ZERO), Some(Fallback::TooFew));
}

#[test]
fn a_damaged_or_foreign_snapshot_is_refused() {
    let (mut learner, mut rng) = (learner(), fastrand::Rng::with_seed(9));
    run(&mut learner, &mut rng, 0.0, 5.0, &[0.1, 0.2]);
    let bytes = learner.snapshot(&fleet(2), |_| String::new()).to_bytes().expect("sound");
    let text = String::from_utf8(bytes).expect("JSON");
    let read = |text: &str| Snapshot::from_bytes(text.as_bytes());
    assert!(matches!(read("{}"), Err(SnapshotError::Unreadable(_))));
    assert!(matches!(read(&text[..text.len() / 2]), Err(SnapshotError::Unreadable(_))));
    let foreign = text.replacen("bellwether-model", "another", 1);
    assert_eq!(read(&foreign), Err(SnapshotError::Foreign("another".into())));
    assert_eq!(read(&text.replacen("\"schema\": 1", "\"schema\": 99", 1)), Err(SnapshotError::Schema(99)));
    let changed = text.replacen("\"at_s\": ", "\"at_s\": 1", 1);
    assert!(matches!(read(&changed), Err(SnapshotError::Checksum { .. })));
}

#[test]
fn learning_is_deterministic() {
    let once = || {
        let (mut learner, mut rng) = (learner(), fastrand::Rng::with_seed(10));
        run(&mut learner, &mut rng, 0.0, 10.0, &[0.1, 0.2, 0.3]);
        format!("{:?}", learner.learned().predictor())
    };
    assert_eq!(once(), once());
}

/// Plausible lies: an hour for a request that takes a tenth of a second, at cold start, when nothing can clip them.
#[test]
fn a_poisoned_start_is_outgrown() {
    let (mut learner, mut rng) = (learner(), fastrand::Rng::with_seed(11));
    for _ in 0..200 {
        learner.observe(Time::ZERO, &plain(0, 1, 3_600.0)).expect("a label");
    }
    run_every(2.0, &mut learner, &mut rng, 0.5, 400.0, &[0.1, 0.1]);
    let predictor = learner.learned().predictor().expect("published");
    let ratio = predict(&predictor, 0, 0) / four_workers(0.1, 1);
    assert!((0.7..1.4).contains(&ratio), "{ratio}");
    assert_eq!(learner.learned().fallback(Time::from_secs_f64(400.5)), None);
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Completed { status: 200 }),
        1 => Just(Outcome::Failed(Failure::Timeout)),
    ];
    let seconds = prop_oneof![Just(0.0), 1e-6..1e-3f64, 0.001..10.0f64, Just(86_400.0), Just(1e9)];
    let load = prop_oneof![1.0..50.0f64, prop::num::f64::ANY, Just(1e300)];
    (
        (0u32..6, seconds, load, any::<bool>(), outcome),
        (any::<u32>(), any::<u32>(), any::<u64>(), any::<u32>(), any::<u64>()),
    )
        .prop_map(|((slot, total_s, load, streaming, outcome), (m, prompt, waiting_prompt, events, started))| {
            Sample {
                streaming,
                mean_in_flight: load,
                in_flight: m % 70_000,
                waiting: m % 100,
                prompt_tokens: prompt,
                waiting_prompt_tokens: waiting_prompt,
                events: events % 2_000,
                output_tokens: (events % 2 == 0).then_some(events),
                started: Time::from_micros(started),
                outcome,
                ..plain(slot, 1, total_s)
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever comes in, under whatever clock: predictions stay finite, and a window later the truth is back.
    #[test]
    fn nothing_stops_routing_or_poisons_the_model_for_longer_than_the_window(
        samples in prop::collection::vec((any_sample(), prop::num::f64::ANY), 1..200),
        seed: u64,
    ) {
        let (mut learner, mut rng) = (learner(), fastrand::Rng::with_seed(seed));
        let fleet = fleet(6);
        run(&mut learner, &mut rng, 100.0, 5.0, &[0.1, 0.2, 0.1]);
        for (at, (sample, clock)) in samples.iter().enumerate() {
            // Any clock, also one that runs backwards.
            let now = Time::from_secs_f64(clock.abs() % 1e6);
            let _ = learner.observe(now, sample);
            let node = &fleet.nodes()[sample.slot as usize];
            learner.gaps(now, node, sample.mean_in_flight, sample.waiting, sample.in_flight, *clock, at as u64 % 3);
            if at % 10 == 0 {
                learner.refit(now);
            }
            if let Some(predictor) = learner.learned().predictor() {
                for node in fleet.nodes() {
                    let ask = predictor.ask(sample.kind, sample.streaming, sample.prompt_tokens, sample.output_tokens_max);
                    let factors = learner.learned().node(node).factors();
                    let p = predictor.node(node.slot, node.id).predict(&factors, &NodeLoad::new(9, 3, 500), &ask);
                    prop_assert!(p.total_s.is_finite() && p.total_s >= 0.0 && p.marginal_s.is_finite());
                }
            }
        }
        // One window of ordinary traffic, from wherever the clock is now.
        run_every(3.0, &mut learner, &mut rng, 1e6, 300.0, &[0.1, 0.2, 0.1]);
        let predictor = learner.learned().predictor().expect("published");
        for (slot, service) in [(0u32, 0.1), (1, 0.2)] {
            let ratio = predict(&predictor, slot, 3) / four_workers(service, 4);
            prop_assert!((0.6..1.6).contains(&ratio), "node {} is off by {}", slot, ratio);
        }
    }
}
