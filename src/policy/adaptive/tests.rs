use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::fleet::Fleet;
use crate::learn::Learner;
use crate::node::NodeSpec;
use crate::outcome::{Failure, Outcome};
use crate::policy::tests_support::{Scene, sample_of};
use crate::request::RequestShape;

/// A policy that has learned nodes whose service times are `services`, four workers each.
fn taught(scene: &Scene, services: &[f64]) -> (Adaptive, Learner) {
    let learned = Arc::new(Learned::default());
    let policy = Adaptive::new(Arc::clone(&learned));
    let mut learner = Learner::new(learned);
    let mut rng = fastrand::Rng::with_seed(1);
    for tick in 0..40u32 {
        let now = Time::from_secs_f64(f64::from(tick) * 0.5);
        for (node, service) in scene.fleet.nodes().iter().zip(services) {
            for _ in 0..10 {
                let n = rng.u32(1..=12);
                let took_s = service * (f64::from(n) / 4.0).max(1.0) * (0.8 + 0.4 * rng.f64());
                let ended = now.after(Duration::from_secs_f64(took_s));
                let sample = sample_of(node, now, ended, Outcome::Completed { status: 200 });
                let sample = Sample { in_flight: n - 1, mean_in_flight: f64::from(n), ..sample };
                policy.learned.ended(node, &sample);
                learner.observe(now, &sample).expect("a label");
            }
        }
        learner.refit(now);
    }
    (policy, learner)
}

fn scene(count: u32) -> Scene {
    Scene { now: Time::from_secs_f64(20.0), ..Scene::new(count) }
}

#[test]
fn a_fast_node_is_preferred_until_it_is_full_enough() {
    let scene = scene(2);
    let (policy, _) = taught(&scene, &[0.1, 0.4]);
    assert!(scene.weigh(&policy)[0] > 0.9);
    let scene = scene.load(0, 5);
    assert!(scene.weigh(&policy)[0] > 0.9, "0.15 s and little harm against 0.4 s");
    let scene = scene.load(0, 30);
    assert!(scene.weigh(&policy)[1] > 0.9);
}

#[test]
fn every_propensity_is_exact_and_exploration_is_shared() {
    let scene = scene(4);
    let (policy, _) = taught(&scene, &[0.1, 0.2, 0.2, 0.2]);
    policy.learned.set_knobs(Knobs { explore: 0.08, ..Knobs::default() });
    let weights = scene.weigh(&policy);
    assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    let scores: Vec<f64> = policy.assess_all(&scene.context()).iter().map(|seen| seen.score).collect();
    for (weight, score) in weights.iter().zip(&scores).skip(1) {
        // Four nodes of one level of evidence, each drawn with a quarter, and a cost that is bounded.
        let expected = 0.02 * (EXPLORED_COST * scores[0] / score).min(1.0);
        assert!((weight - expected).abs() < 1e-12, "{weights:?} {scores:?}");
    }
    assert!(weights[0] >= 0.94);
    policy.learned.set_knobs(Knobs { explore: 0.0, ..Knobs::default() });
    assert_eq!(scene.weigh(&policy), [1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn a_node_that_fails_loses_its_traffic_at_once_and_gets_it_back() {
    let mut scene = scene(2);
    let (policy, mut learner) = taught(&scene, &[0.1, 0.4]);
    for _ in 0..3 {
        let node = &scene.fleet.nodes()[0];
        policy.learned.ended(node, &sample_of(node, scene.now, scene.now, Outcome::Failed(Failure::Status(500))));
    }
    assert!(scene.weigh(&policy)[0] < 0.01);
    scene.now = Time::from_secs_f64(60.0);
    learner.refit(scene.now);
    assert!(scene.weigh(&policy)[0] > 0.9);
}

#[test]
fn without_a_fresh_model_it_is_least_connections_that_avoids_failing_nodes() {
    let mut scene = scene(3).load(0, 4).load(1, 1).load(2, 1);
    let cold = Adaptive::new(Arc::default());
    assert_eq!(scene.weigh(&cold), [0.0, 0.5, 0.5]);
    let node = &scene.fleet.nodes()[1];
    cold.learned.ended(node, &sample_of(node, scene.now, scene.now, Outcome::Failed(Failure::Connect)));
    assert_eq!(scene.weigh(&cold), [0.0, 0.0, 1.0]);
    let (policy, _) = taught(&scene, &[0.01, 0.4, 0.4]);
    assert!(scene.weigh(&policy)[0] > 0.9);
    scene.now = Time::from_secs_f64(120.0);
    assert_eq!(policy.fallback(scene.now), Some(Fallback::Stale));
    assert_eq!(scene.weigh(&policy), [0.0, 0.5, 0.5]);
}

#[test]
fn who_is_slowed_slows_others_in_turn_but_not_without_end() {
    let of = |marginal_s| {
        let prediction = Prediction { total_s: 2.0, marginal_s, ..Prediction::default() };
        score(&prediction, &Knobs { echo: 0.25, ..Knobs::default() })
    };
    assert_eq!(of(0.0), 2.0);
    assert!((of(0.4) - (2.0 + 0.4 / 0.8)).abs() < 1e-12, "all rounds of a fifth");
    assert!((of(6.0) - (2.0 + 6.0 / 0.75)).abs() < 1e-12, "at most as if it were a quarter");
}

#[test]
fn another_choice_is_compared_with_its_own() {
    let scene = scene(3);
    let (policy, _) = taught(&scene, &[0.1, 0.4, 0.4]);
    let (context, seen) = (scene.context(), policy.assess_all(&scene.context()));
    let same = policy.compare(&context, 0).expect("a model");
    assert!(same.agrees && same.chosen == same.own);
    let other = policy.compare(&context, 1).expect("a model");
    assert!(!other.agrees);
    assert_eq!(other.chosen.response_s, seen[1].prediction.total_s);
    assert_eq!(other.own.response_s, seen[0].prediction.total_s);
    assert!(other.chosen.response_s > 2.0 * other.own.response_s);
    assert_eq!(Adaptive::new(Arc::default()).compare(&context, 0), None);
}

#[test]
fn a_silent_node_gets_nothing_until_it_answers() {
    let scene = scene(2);
    let (policy, _) = taught(&scene, &[0.1, 0.4]);
    let node = &scene.fleet.nodes()[0];
    let start = Time::from_secs_f64(6.0);
    node.live.ledger.try_start(start, 9, 0).expect("room");
    let scene = scene.load(0, 1);
    let silent = policy.assess_all(&scene.context());
    // Fourteen seconds, where ten times a tenth of a second is long, and ten times that enough for a probe.
    assert_eq!(silent[0].held, None, "a probe is due");
    let earlier = Scene { now: Time::from_secs_f64(12.0), ..scene };
    assert_eq!(policy.assess_all(&earlier.context())[0].held, Some(Held::Silent));
    let node = &earlier.fleet.nodes()[0];
    policy.learned.ended(node, &sample_of(node, start, earlier.now, Outcome::Completed { status: 200 }));
    node.live.ledger.sign_of_life(earlier.now);
    assert_eq!(policy.assess_all(&earlier.context())[0].held, None);
}

/// The distribution as the design words it, one node after the other: what the tables must agree with, to the bit.
fn weigh_plainly(policy: &Adaptive, ctx: &Context<'_>) -> Option<Vec<f64>> {
    let seen = policy.assess_all(ctx);
    let least = seen.iter().map(|seen| seen.score).fold(f64::INFINITY, f64::min);
    if least == f64::INFINITY {
        return None;
    }
    let knobs = policy.learned.knobs();
    let epsilon = explored_share(&*policy.learned.predictor()?, &knobs, ctx);
    let open: Vec<&Assessment> = seen.iter().filter(|seen| seen.explorable).collect();
    let part = |own: &Assessment| {
        if !own.explorable {
            return 0.0;
        }
        let better_known = open.iter().filter(|other| other.level > own.level).count() as f64;
        let alike = open.iter().filter(|other| other.level == own.level).count() as f64;
        let share = (2.0 * better_known + alike) / (open.len() as f64 * open.len() as f64);
        epsilon * share * (EXPLORED_COST * least / own.score).min(1.0)
    };
    let explored: f64 = seen.iter().map(part).sum();
    let ties = seen.iter().filter(|seen| seen.score == least).count() as f64;
    let best = |own: &Assessment| if own.score == least { (1.0 - explored) / ties } else { 0.0 };
    Some(seen.iter().map(|own| best(own) + part(own)).collect())
}

/// A policy that has learned `nodes` (and one that is gone by now), by answers of all kinds or of some.
fn taught_at_random(fleet: &Fleet, kinds: u32, rng: &mut fastrand::Rng) -> (Adaptive, Time) {
    let policy = Adaptive::new(Arc::default());
    let mut learner = Learner::new(Arc::clone(&policy.learned));
    let mut now = Time::ZERO;
    for _ in 0..3 {
        now = now.after(Duration::from_millis(500));
        // Most have no answers, some have few: other levels, ramps, the fleet's curve.
        for node in fleet.nodes().iter().take(7) {
            for _ in 0..rng.u32(0..4) * (2 + 4 * node.slot) {
                let n = rng.u32(1..30);
                let (started, took) = (now, Duration::from_micros(rng.u64(1_000..4_000_000)));
                let sample = sample_of(node, started, started.after(took), Outcome::Completed { status: 200 });
                let streaming = kinds & 1 == 1 && rng.bool();
                let sample = Sample {
                    in_flight: n - 1,
                    mean_in_flight: f64::from(n),
                    prompt_tokens: rng.u32(0..9_000),
                    streaming,
                    events: rng.u32(1..900),
                    ttfb: Some(took / 2),
                    output_tokens: (kinds & 2 == 2 && rng.bool()).then(|| rng.u32(1..900)),
                    ..sample
                };
                policy.learned.ended(node, &sample);
                learner.observe(now, &sample).expect("a label");
                if streaming {
                    learner.gaps(now, node, f64::from(n), rng.u32(0..6), n, f64::from(n) * 0.02, 20);
                }
            }
        }
        learner.refit(now);
    }
    (policy, now)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_tables_say_what_one_node_after_the_other_would(
        seed: u64, nodes in 1u32..160, kinds in 0u32..4, streaming: bool,
        explore in prop_oneof![Just(0.0), 0.0..0.5], social in 0.0..3.0, first_byte in 0.0..1.0,
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut scene = Scene::new(nodes);
        let (policy, taught) = taught_at_random(&scene.fleet, kinds, &mut rng);
        // A node that is new to the predictor, in a slot that another had.
        let gone = scene.spec(0).name;
        scene.fleet = scene.fleet.without(&gone).and_then(|f| f.with(NodeSpec::new("http://new"))).expect("free");
        policy.learned.set_knobs(Knobs { first_byte, social, explore, ..Knobs::default() });
        scene.shape = RequestShape { streaming, prompt_tokens: rng.u32(0..9_000), ..scene.shape };
        scene.now = taught.after(Duration::from_millis(1_500));
        for (candidate, node) in scene.candidates.iter_mut().zip(scene.fleet.nodes()) {
            candidate.in_flight = if rng.bool() { rng.u32(0..3) } else { rng.u32(0..60) };
                candidate.cached = if rng.bool() { 0.0 } else { rng.f32() * scene.shape.prompt_tokens as f32 };
            for _ in 0..candidate.in_flight {
                node.live.ledger.try_start(taught, node.limit_max, 700).expect("room");
            }
            match rng.u32(0..8) {
                0 => policy.learned.ended(node, &sample_of(node, taught, taught, Outcome::Failed(Failure::Connect))),
                1 => {}
                _ => node.live.ledger.sign_of_life(scene.now),
            }
        }
        let context = scene.context();
        prop_assume!(policy.learned.predictor().is_some());
        let mut out = vec![0.0; scene.candidates.len()];
        let loaded = policy.learned.predictor().expect("just seen");
        let routed = policy.weigh_by_model(&loaded, &context, &mut out);
        let expected = weigh_plainly(&policy, &context);
        prop_assert_eq!(routed, expected.is_some());
        for (at, (weight, plain)) in out.iter().zip(expected.iter().flatten()).enumerate() {
            prop_assert_eq!(weight.abs(), *plain, "candidate {} of {}", at, nodes);
        }
    }
}

#[test]
fn a_trained_decision_allocates_nothing() {
    let scene = scene(8);
    let (policy, _) = taught(&scene, &[0.1; 8]);
    let (context, mut out) = (scene.context(), vec![0.0; 8]);
    let used = allocation_counter::measure(|| {
        (0..100).for_each(|_| policy.weigh(&context, &mut out));
        policy.chosen(&context, 3);
    });
    assert_eq!(used.count_total, 0);
}

#[test]
fn a_node_without_successes_is_ramped() {
    let (scene, wider) = (scene(2), scene(3));
    let (policy, _) = taught(&scene, &[0.4, 0.4]);
    let wider = wider.load(0, 9).load(1, 9).load(2, 3);
    assert!(wider.weigh(&policy)[2] > 0.9);
    let wider = wider.load(2, 4);
    assert_eq!(policy.assess_all(&wider.context())[2].held, Some(Held::Ramping));
    assert_eq!(wider.weigh(&policy)[2], 0.0);
}
