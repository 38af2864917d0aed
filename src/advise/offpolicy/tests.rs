//! Coverage on data whose truth is known, chances that come out again on simulated recordings, and refusals.

use super::*;
use crate::advise::tests_support::{attempt, recorded};
use crate::policy::adaptive::grounds::{Ground, Grounds};
use crate::policy::considered::Contestant;

/// What a request on each of three nodes takes on average, as far as the policy does not know.
const HIDDEN: [f64; 3] = [0.8, 1.0, 1.5];

/// Decisions of the learned policy among three nodes in random conditions, and what each change of it would really take.
fn made(seed: u64, count: u32, explore: f64) -> (History, [f64; LEARNED.len()]) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut history =
        History { nodes: vec!["a".into(), "b".into(), "c".into()], policy: "adaptive".into(), ..History::default() };
    let (mut truth_s, mut chances) = ([0.0; LEARNED.len()], Vec::new());
    for i in 0..count {
        let ground = |_| Ground { own_s: 0.5 + rng.f64(), added_s: rng.f64(), level: 4 };
        let nodes: Vec<Ground> = (0..3).map(ground).collect();
        let candidates = (0..3).map(|slot| Contestant { slot, in_flight: 0, weight: 1.0 }).collect();
        let grounds = Some(Grounds { social: 1.0, explore, nodes });
        let policy = PolicyId::named("adaptive").expect("registered");
        let mut seen = Considered { policy, at: 0, candidates, grounds };
        let mean_s = |at: usize| HIDDEN[at] * seen.expected_s(at).expect("judged");
        for (truth_s, (_, altered)) in truth_s.iter_mut().zip(LEARNED) {
            seen.chances(altered, &mut chances).expect("can be said");
            *truth_s += (0..3).map(|at| chances[at] * mean_s(at)).sum::<f64>() / f64::from(count);
        }
        seen.chances(Altered::Nothing, &mut chances).expect("can be said");
        let (at, propensity) = crate::policy::draw(&chances, &mut rng).expect("not empty");
        let total_s = mean_s(at) * (0.25 + 1.5 * rng.f64());
        seen.at = at;
        history.attempts.push(Attempt {
            node: at as u32,
            propensity,
            considered: Some(Box::new(seen)),
            ..attempt(f64::from(i), 0.0, total_s, 1)
        });
    }
    (history, truth_s)
}

#[test]
fn nine_of_ten_intervals_cover_the_truth_of_a_changed_policy() {
    const SEEDS: u64 = 40;
    let mut covered = [[0u64; 3]; LEARNED.len()];
    for seed in 0..SEEDS {
        let (history, truths_s) = made(seed, 6_000, 0.45);
        let result = off_policy(&history);
        assert_eq!((result.unlike, result.untold, result.estimates.len()), (0, 0, LEARNED.len()), "{result:?}");
        for ((covered, estimate), truth_s) in covered.iter_mut().zip(&result.estimates).zip(truths_s) {
            let Estimate { weighted_s, weighted_half_s, robust_s, robust_half_s, .. } = estimate;
            covered[0] += u64::from((weighted_s - truth_s).abs() <= *weighted_half_s);
            covered[1] += u64::from((robust_s - truth_s).abs() <= *robust_half_s);
            // An interval that covers everything says nothing.
            covered[2] += u64::from(weighted_half_s.max(*robust_half_s) < 0.1 * truth_s);
        }
    }
    for ((change, _), covered) in LEARNED.iter().zip(covered) {
        assert!(covered.iter().all(|count| *count >= SEEDS * 9 / 10), "{change}: {covered:?} of {SEEDS}");
    }
}

#[test]
fn the_logged_chance_comes_out_again_whatever_policy_decided() {
    for policy in ["adaptive", "power-of-two", "random", "least-connections"] {
        let history = recorded("llm-mixed", policy, 0.6, 60.0);
        let result = off_policy(&history);
        assert!(result.attempts > 500 && result.untold == 0, "{policy}: {result:?}");
        // A node that is silent is sent one attempt to try it, which no change is asked about.
        assert!(result.unlike * 200 <= result.attempts, "{policy}: {} of {}", result.unlike, result.attempts);
        assert_eq!(result.explored > 0, policy == "adaptive", "{policy}: {}", result.explored);
    }
}

#[test]
fn one_in_a_hundred_explored_says_nothing_of_another_preference() {
    let result = off_policy(&recorded("llm-mixed", "adaptive", 0.6, 150.0));
    assert!(result.estimates.iter().all(|estimate| estimate.change.contains("exploration")), "{result:?}");
    let social: Vec<&String> = result.refusals.iter().filter(|why| why.starts_with("social")).collect();
    assert!(social.len() == 2 && social[0].contains("too few attempts went there"), "{:?}", result.refusals);
    // Made-up decisions, of which a third would go elsewhere: the effective sample of all looks well, as nothing of what
    // changes was tried.
    let (history, _) = made(1, 3_000, 0.0);
    let result = off_policy(&history);
    assert!(result.estimates.is_empty() && result.refusals.len() == LEARNED.len(), "{result:?}");
}

#[test]
fn weights_of_a_random_draw_are_estimated_and_hit_what_the_nodes_take() {
    // Plain servers that are nearly idle: work of 100 ms on average over a speed of 1, 2 or 4, whoever else is there.
    let history = recorded("plain-mixed", "random", 0.02, 1_500.0);
    let speed = |name: &str| {
        if name.contains("speed4") {
            4.0
        } else if name.contains("speed2") {
            2.0
        } else {
            1.0
        }
    };
    let result = off_policy(&history);
    assert_eq!(result.estimates.len(), 8, "{:?}", result.refusals);
    for estimate in &result.estimates {
        let weight = |name: &String| if estimate.change.contains(name.as_str()) { WEIGHT_FACTOR } else { 1.0 };
        let all: f64 = history.nodes.iter().map(weight).sum();
        let truth_s: f64 = history.nodes.iter().map(|name| weight(name) / all * 0.1 / speed(name)).sum();
        // Under a fixed seed; a margin for the little that is queued.
        assert!((estimate.weighted_s - truth_s).abs() < estimate.weighted_half_s + 0.001, "{truth_s}: {estimate:?}");
        assert!((estimate.robust_s - truth_s).abs() < estimate.robust_half_s + 0.001, "{truth_s}: {estimate:?}");
        assert!(estimate.robust_half_s < 0.004, "{estimate:?}");
    }
}

#[test]
fn what_cannot_be_said_is_refused_in_words() {
    let in_turn = off_policy(&recorded("plain-mixed", "round-robin", 0.3, 30.0));
    assert!(in_turn.refusals.len() == 1 && in_turn.refusals[0].contains("neither explores nor draws"), "{in_turn:?}");
    let (mut history, _) = made(1, 1_000, 0.1);
    history.attempts.iter_mut().for_each(|attempt| attempt.considered = None);
    let older = off_policy(&history);
    assert!(older.refusals[0].contains("older recording") && older.untold == 1_000, "{older:?}");
    let (mut history, _) = made(1, 1_000, 0.1);
    history.attempts.iter_mut().for_each(|attempt| attempt.propensity *= 0.9);
    let other = off_policy(&history);
    assert!(other.refusals[0].contains("something else than adaptive decided") && other.unlike == 1_000, "{other:?}");
}
