//! Tests of the driver: small simulations with seeds, and margins where a figure is random.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::*;
use crate::sim::roster::{self, Hook};

fn scenario(fleet: &str, seconds: u32, more: &str) -> Scenario {
    let text = format!("about = 'x'\nfleet = '{fleet}'\nloads = [0.5]\nseconds = {seconds}\nwarm_up = 0\n{more}");
    Scenario::parse("test", &text).expect("sound")
}

fn result(scenario: &Scenario, load: f64, policy: &str, seed: u64) -> RunResult {
    let result = run(scenario, load, policy, seed).expect("known policy");
    assert_eq!(result.in_flight_at_end, 0, "{policy}");
    assert_eq!(result.offered, result.total_s.len() + result.errors(), "{policy}");
    result
}

/// Few conversations that ask soon again, on servers that remember.
const TALKING: &str = "[cache]\ntokens = 300000\n[conversations]\nlive = 60\nthink_s = 1\n";

fn mean_s(result: &RunResult) -> f64 {
    result.total_s.mean()
}

fn at(seconds: f64) -> Time {
    Time::from_secs_f64(seconds)
}

#[test]
fn every_policy_sees_the_same_requests_and_loses_none() {
    let talking = scenario("study", 6, &format!("streamed = true\n{TALKING}"));
    for scenario in [scenario("plain", 2, ""), scenario("study", 6, "streamed = true"), talking] {
        let base = result(&scenario, 0.5, "round-robin", 3);
        for name in roster::names().into_iter().filter(|name| roster::check(name, &scenario).is_ok()) {
            let other = result(&scenario, 0.5, name, 3);
            assert_eq!(other.fingerprint, base.fingerprint, "{name}");
            assert_eq!((other.offered, other.errors()), (base.offered, 0), "{name}");
        }
        assert_ne!(result(&scenario, 0.5, "round-robin", 4).fingerprint, base.fingerprint);
    }
}

#[test]
fn who_returns_to_a_cache_computes_less_and_a_cache_that_is_not_there_spares_nobody() {
    let cached = |policy: &str, more: &str| {
        let result = result(&scenario("middle", 60, &format!("streamed = true\n{more}")), 0.3, policy, 1);
        (result.cached_tokens as f64 / result.prompt_tokens as f64, mean_s(&result))
    };
    // Three quarters of the prompts were said before. A conversation's first turn finds at most its beginning anywhere.
    let (home, home_s) = cached("session-hash", TALKING);
    let (aware, _) = cached("cache-aware", TALKING);
    let (away, away_s) = cached("least-connections", TALKING);
    assert!(home > 0.6 && aware > 0.6 && away < 0.6 * home, "{home} {aware} {away}");
    assert!(home_s < 0.9 * away_s, "{home_s} {away_s}");
    let forgetful = TALKING.replace("[cache]\ntokens = 300000\n", "");
    assert_eq!(cached("session-hash", &forgetful).0, 0.0);
    let small = TALKING.replace("300000", "3000");
    assert!(cached("session-hash", &small).0 < 0.5 * home);
}

#[test]
fn the_same_seed_gives_the_same_run_to_the_last_bit() {
    let scenario = scenario("study", 8, "streamed = true\nproxies = 2");
    for policy in ["least-connections", "random", "power-of-two", "prequal", "adaptive"] {
        assert_eq!(result(&scenario, 0.5, policy, 9), result(&scenario, 0.5, policy, 9), "{policy}");
        assert_ne!(result(&scenario, 0.5, policy, 9), result(&scenario, 0.5, policy, 10), "{policy}");
    }
}

#[test]
fn the_order_of_the_study_holds_on_mixed_hardware() {
    // Over full runs the means are 6.4 s and 3.9 s, a ratio of 0.61; the short run adds some noise.
    let scenario = scenario("study", 60, "streamed = true");
    let least = result(&scenario, 0.5, "least-connections", 1);
    let weighted = result(&scenario, 0.5, "oracle-weighted-least-connections", 1);
    assert!(mean_s(&weighted) < 0.8 * mean_s(&least), "{} against {}", mean_s(&weighted), mean_s(&least));
}

#[test]
fn perfect_knowledge_beats_least_connections_on_servers_of_either_kind() {
    let plain = scenario("plain", 20, "");
    let (greedy, least) = (result(&plain, 0.3, "greedy-oracle", 1), result(&plain, 0.3, "least-connections", 1));
    assert!(mean_s(&greedy) < 0.7 * mean_s(&least), "{} against {}", mean_s(&greedy), mean_s(&least));
    let llm = scenario("study", 20, "streamed = true");
    let (greedy, least) = (result(&llm, 0.2, "greedy-oracle", 1), result(&llm, 0.2, "least-connections", 1));
    assert!(mean_s(&greedy) < 0.7 * mean_s(&least), "{} against {}", mean_s(&greedy), mean_s(&least));
}

#[test]
fn what_is_learned_beats_least_connections_on_mixed_servers() {
    // Over full runs the ratio is 0.50.
    let plain = scenario("plain", 30, "");
    let (learned, least) = (result(&plain, 0.3, "adaptive", 1), result(&plain, 0.3, "least-connections", 1));
    assert!(mean_s(&learned) < 0.75 * mean_s(&least), "{} against {}", mean_s(&learned), mean_s(&least));
}

#[test]
fn an_idle_server_takes_as_long_as_its_arithmetic_says() {
    // One worker of speed 2, work of 100 ms without variance, 1 % load: 50 ms unless two requests meet.
    let text = "about = 'x'\nloads = [0.01]\nseconds = 200\nwarm_up = 0\n[[node]]\nname = 'a'\nworkers = 1\nspeed = 2\n\
        [[kind]]\nshare = 1\nwork_s = { mean = 0.1, sigma = 0.0 }";
    let scenario = Scenario::parse("test", text).expect("sound");
    let mut result = result(&scenario, 0.01, "round-robin", 1);
    assert!(result.offered > 10);
    assert!((result.total_s.quantile(0.5) - 0.05).abs() < 1e-6);
}

#[test]
fn the_first_byte_of_a_stream_comes_before_its_end_and_of_a_whole_answer_with_it() {
    let (streamed, whole) = (scenario("study", 20, "streamed = true"), scenario("study", 20, ""));
    let (streamed, whole) =
        (result(&streamed, 0.3, "least-connections", 1), result(&whole, 0.3, "least-connections", 1));
    assert_eq!(whole.ttfb_s, whole.total_s);
    assert_eq!(streamed.total_s, whole.total_s, "this policy does not look at first bytes");
    let early = streamed
        .ttfb_s
        .values()
        .iter()
        .zip(streamed.total_s.values())
        .filter(|(ttfb, total)| *ttfb * 2.0 < **total)
        .count();
    assert!(early as f64 > 0.9 * streamed.total_s.len() as f64);
}

#[test]
fn a_refused_connection_is_retried_elsewhere_and_three_take_the_node_out() {
    let crash = "[[event]]\nat_s = 5\nnode = 'speed1-1'\naction = 'crash'\n\
        [[event]]\nat_s = 20\nnode = 'speed1-1'\naction = 'recover'";
    let scenario = scenario("plain", 60, crash);
    let result = result(&scenario, 0.3, "round-robin", 1);
    assert_eq!(result.errors(), result.incidents[0].in_flight, "what ran there breaks off, the rest is retried");
    assert!(result.retries >= 3);
    assert_eq!(result.share_of(0, at(6.0), at(20.0)), 0.0);
    // Two checks, at most 5.5 s apart, bring it back.
    assert!((result.share_of(0, at(32.0), at(60.0)) - 0.125).abs() < 0.01);
}

#[test]
fn a_failing_node_fails_its_share_of_requests() {
    let fail = "[[event]]\nat_s = 0\nnode = 'speed1-1'\naction = 'fail'\nshare = 0.5";
    let result = result(&scenario("plain", 20, fail), 0.3, "random", 1);
    // Half of an eighth of some 3,800: the standard deviation is 0.004.
    assert!((result.error_share() - 0.0625).abs() < 0.015, "{}", result.error_share());
    assert_eq!((result.errors(), result.incidents[0].errors), (result.failed, result.failed));
}

#[test]
fn clients_give_up_on_a_node_that_hangs() {
    let hang = "client_deadline_s = 10\n[[event]]\nat_s = 5\nnode = 'speed1-1'\naction = 'hang'\n\
        [[event]]\nat_s = 20\nnode = 'speed1-1'\naction = 'recover'";
    // The deadline is a key of the whole file and must come before the tables.
    let result = result(&scenario("plain", 30, hang), 0.3, "round-robin", 1);
    assert!(result.abandoned > 0 && result.abandoned == result.errors());
    let longest = result.total_s.values().iter().copied().fold(0.0, f32::max);
    assert!(longest <= 10.0, "{longest}");
}

#[test]
fn a_stuck_node_is_given_up_by_the_proxy_even_if_clients_would_wait_for_ever() {
    let hang = "streamed = true\n[[event]]\nat_s = 5\nnode = 'slow-1'\naction = 'hang'";
    let result = result(&scenario("study", 10, hang), 0.3, "round-robin", 1);
    assert!(result.failed >= result.incidents[0].in_flight && result.incidents[0].in_flight > 0);
    assert_eq!((result.failed, result.lost), (result.errors(), 0));
}

#[test]
fn a_slow_node_hurts_those_who_do_not_notice() {
    let slow = "[[event]]\nat_s = 0\nnode = 'speed4-1'\naction = 'speed'\nspeed = 0.1";
    let (sound, slow) = (scenario("plain", 30, ""), scenario("plain", 30, slow));
    let (sound, slow) = (result(&sound, 0.1, "round-robin", 1), result(&slow, 0.1, "round-robin", 1));
    assert!(mean_s(&slow) > 1.2 * mean_s(&sound), "{} against {}", mean_s(&slow), mean_s(&sound));
}

#[test]
fn nodes_join_and_leave_without_losing_a_request() {
    let change = "[[event]]\nat_s = 5\nnode = 'speed4-2'\naction = 'join'\n\
        [[event]]\nat_s = 10\nnode = 'speed4-1'\naction = 'leave'";
    let result = result(&scenario("plain", 15, change), 0.5, "least-connections", 1);
    assert_eq!(result.errors(), 0);
    assert_eq!(result.share_of(7, at(0.0), at(5.0)), 0.0);
    assert!(result.share_of(7, at(5.0), at(10.0)) > 0.05);
    assert!(result.share_of(6, at(0.0), at(10.0)) > 0.05);
    assert_eq!(result.share_of(6, at(10.0), at(15.0)), 0.0);
}

#[test]
fn hooks_run_on_time_and_see_what_servers_did_by_then() {
    let scenario = scenario("study", 10, "streamed = true\nproxies = 2");
    let (calls, gaps) = (Rc::new(Cell::new(0u32)), Rc::new(Cell::new(0u64)));
    let result = run_with(&scenario, 0.5, 1, |setup| {
        let mut instance = roster::make("least-connections", setup)?;
        let (calls, gaps, balancer) = (Rc::clone(&calls), Rc::clone(&gaps), Arc::clone(&instance.balancer));
        let call = move |now: Time| {
            assert_eq!(now.as_micros() % 500_000, 0);
            calls.set(calls.get() + 1);
            let fleet = balancer.fleet();
            gaps.set(gaps.get() + fleet.nodes().iter().map(|node| node.live.ledger.take_gaps().1).sum::<u64>());
        };
        instance.hooks.push(Hook { every: Duration::from_millis(500), call: Box::new(call) });
        Ok(instance)
    });
    let result = result.expect("known policy");
    assert!(calls.get() >= 40, "two proxies for at least ten seconds");
    // Answers have 210 tokens; the gaps after the last call are not seen.
    assert!(gaps.get() > 150 * result.offered, "{} gaps in {} answers", gaps.get(), result.offered);
}
