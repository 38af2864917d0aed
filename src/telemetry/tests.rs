use std::sync::Arc;

use super::*;
use crate::clock::Clock;
use crate::node::NodeSpec;
use crate::outcome::{Censor, Failure, Outcome, Recall};
use crate::request::KindId;

fn fleet(names: &[&str]) -> Fleet {
    names.iter().fold(Fleet::default(), |fleet, name| {
        fleet.with(NodeSpec::new(format!("http://{name}:1")).named(*name)).expect("free name")
    })
}

fn text(telemetry: &Telemetry, fleet: &Fleet) -> String {
    let (balancer, trainer) = idle();
    let scrape = Scrape {
        now: Time::ZERO,
        fleet,
        balancer: &balancer,
        trainer: &trainer,
        spans: SpanCounts::default(),
        connections: 3,
        node_connections: &|_| 5,
    };
    telemetry.render(&scrape)
}

/// Somebody who decides by round-robin, and somebody who learns nothing.
fn idle() -> (Balancer, Trainer) {
    (Balancer::new(Fleet::default(), PolicyId(0), Clock::manual(), Vec::new()), Trainer::default())
}

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn every_family_has_help_and_every_help_a_family() {
    let telemetry = Telemetry::default();
    telemetry.expect_refusals(["too_early"]);
    let text = text(&telemetry, &fleet(&["a"]));
    for (name, help) in series::HELP {
        let linux_only = name.starts_with("process_") && !cfg!(target_os = "linux");
        assert!(linux_only || text.contains(&format!("# HELP {name} {help}\n# TYPE {name} ")), "{name}\n{text}");
    }
    assert_eq!(text.matches("# HELP ").count(), text.matches("# TYPE ").count());
    assert!(!text.lines().any(|line| line.starts_with("# HELP") && line.split(' ').count() < 4), "{text}");
}

#[test]
fn series_exist_with_zero_before_the_first_request() {
    let text = text(&Telemetry::default(), &fleet(&["a"]));
    for series in [
        "bellwether_requests_total{node=\"a\",code=\"200\"}",
        "bellwether_requests_total{node=\"none\",code=\"503\"}",
        "bellwether_attempts_total{node=\"a\",outcome=\"client_gone\"}",
        "bellwether_decisions_total{node=\"a\",policy=\"least-connections\"}",
        "bellwether_request_seconds_count{node=\"a\"}",
        "bellwether_ttfb_seconds_bucket{node=\"a\",le=\"600\"}",
        "bellwether_retries_total{reason=\"unsent\"}",
        "bellwether_rejected_total{reason=\"no_healthy_node\"}",
        "bellwether_in_flight{node=\"a\"}",
        "bellwether_config_reloads_total{result=\"failure\"}",
        "bellwether_model_fits_total{result=\"worse\"}",
        "bellwether_model_samples{node=\"a\"}",
        "bellwether_fallback_active{reason=\"stale\"}",
        "bellwether_shadow_decisions_total{agree=\"false\"}",
        "bellwether_shadow_response_seconds_total{choice=\"adaptive\"}",
        "bellwether_explorations_total",
        "bellwether_prediction_error_ratio_count",
        "bellwether_fit_seconds_count",
        "bellwether_samples_dropped_total",
        "bellwether_trainer_up",
    ] {
        assert_eq!(value(&text, series), Some(0.0), "{series}\n{text}");
    }
    for unknown in ["predicted_seconds", "model_speed_factor", "node_capacity_rps", "node_fair_share"] {
        assert!(text.contains(&format!("bellwether_{unknown}{{node=\"a\"}} NaN\n")), "{unknown}\n{text}");
    }
    assert!(text.contains("bellwether_model_slope{node=\"a\",target=\"gap\"} NaN\n"), "{text}");
    assert_eq!(value(&text, "bellwether_fallback_active{reason=\"missing\"}"), Some(1.0));
    assert_eq!(value(&text, "bellwether_connections"), Some(3.0));
    assert_eq!(value(&text, "bellwether_node_connections{node=\"a\"}"), Some(5.0));
    assert_eq!(value(&text, "bellwether_node_state{node=\"a\",state=\"up\"}"), Some(1.0));
    assert_eq!(value(&text, "bellwether_policy_active{policy=\"round-robin\"}"), Some(1.0));
    assert_eq!(value(&text, "bellwether_policy_active{policy=\"least-connections\"}"), Some(0.0));
}

#[test]
fn only_completed_attempts_are_timed() {
    let telemetry = Telemetry::default();
    let fleet = fleet(&["a"]);
    let node = &fleet.nodes()[0];
    let second = Duration::from_secs(1);
    let outcomes = [
        Outcome::Completed { status: 200 },
        Outcome::Completed { status: 101 },
        Outcome::Full { status: 429, retry_after: None },
        Outcome::Failed(Failure::Status(500)),
        Outcome::Censored(Censor::ClientGone),
    ];
    for outcome in outcomes {
        telemetry.finished(node, &sample_of(node, outcome, Some(second / 2), second));
    }
    let text = text(&telemetry, &fleet);
    assert_eq!(value(&text, "bellwether_request_seconds_count{node=\"a\"}"), Some(1.0));
    assert_eq!(value(&text, "bellwether_request_seconds_sum{node=\"a\"}"), Some(1.0));
    assert_eq!(value(&text, "bellwether_ttfb_seconds_sum{node=\"a\"}"), Some(0.5));
    assert_eq!(value(&text, "bellwether_attempts_total{node=\"a\",outcome=\"failed_status\"}"), Some(1.0));
    let report = telemetry.report(node, Time::from_secs_f64(1.0));
    assert_eq!(report.counts, Counts { completed: 2, full: 1, failed: 1, censored: 1 });
    assert_eq!(report.total.map(|total| total.count), Some(1));
    assert!(report.ttfb.is_some_and(|ttfb| (ttfb.p50_s / 0.5 - 1.0).abs() < 0.07), "{report:?}");
}

#[test]
fn a_removed_node_leaves_no_series_and_its_successor_starts_at_zero() {
    let telemetry = Telemetry::default();
    let before = fleet(&["a", "b"]);
    let old = Arc::clone(&before.nodes()[0]);
    telemetry.answered(Some(&old), 200);
    assert_eq!(value(&text(&telemetry, &before), "bellwether_requests_total{node=\"a\",code=\"200\"}"), Some(1.0));
    let after = before.without("a").expect("known");
    assert!(!text(&telemetry, &after).contains("node=\"a\""));
    let again = after.with(NodeSpec::new("http://a:2").named("a")).expect("free");
    assert_eq!(again.by_name("a").map(|node| node.slot), Some(old.slot));
    assert_eq!(value(&text(&telemetry, &again), "bellwether_requests_total{node=\"a\",code=\"200\"}"), Some(0.0));
    // The last words of the old one do not count for the new one.
    telemetry.answered(Some(&old), 200);
    assert_eq!(value(&text(&telemetry, &again), "bellwether_requests_total{node=\"a\",code=\"200\"}"), Some(0.0));
}

#[test]
fn the_fleets_answers_stay_counted_when_a_node_leaves() {
    let telemetry = Telemetry::default();
    let before = fleet(&["a", "b"]);
    before.nodes().iter().for_each(|node| telemetry.answered(Some(node), 200));
    telemetry.answered(Some(&before.nodes()[1]), 502);
    telemetry.answered(None, 503);
    let counted = |fleet: &Fleet| {
        let FleetReport { answers, errors, .. } = telemetry.fleet_report(fleet.nodes(), Time::ZERO);
        (answers, errors)
    };
    assert_eq!(counted(&before), (4, 2));
    assert_eq!(counted(&before.without("b").expect("known")), (4, 2));
}

#[test]
fn a_hostile_node_name_cannot_break_the_exposition() {
    let telemetry = Telemetry::default();
    let name = "a\"} 1\nevil{x=\"\\";
    let fleet = fleet(&[name]);
    telemetry.answered(Some(&fleet.nodes()[0]), 200);
    let text = text(&telemetry, &fleet);
    assert!(!text.lines().any(|line| line.starts_with("evil")), "{text}");
    // Both ways in which a label is written agree, also about backslashes.
    let label = "node=\"a\\\"} 1\\nevil{x=\\\"\\\\\"";
    assert_eq!(value(&text, &format!("bellwether_in_flight{{{label}}}")), Some(0.0), "{text}");
    assert_eq!(value(&text, &format!("bellwether_request_seconds_count{{{label}}}")), Some(0.0), "{text}");
}

#[test]
fn threads_that_meet_a_node_first_count_into_the_same_meters() {
    let telemetry = Telemetry::default();
    let fleet = fleet(&["a"]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..100).for_each(|_| telemetry.answered(Some(&fleet.nodes()[0]), 200)));
        }
    });
    assert_eq!(value(&text(&telemetry, &fleet), "bellwether_requests_total{node=\"a\",code=\"200\"}"), Some(800.0));
}

fn sample_of(node: &Node, outcome: Outcome, ttfb: Option<Duration>, total: Duration) -> Sample {
    Sample {
        node: node.id,
        slot: node.slot,
        kind: KindId::OTHER,
        streaming: false,
        prompt_tokens: 0,
        output_tokens_max: None,
        in_flight: 0,
        waiting: 0,
        waiting_prompt_tokens: 0,
        recall: Recall::default(),
        propensity: 1.0,
        policy: 0,
        predictor_version: 0,
        predicted_s: f64::NAN,
        started: Time::ZERO,
        ttfb,
        total,
        mean_in_flight: 1.0,
        events: 0,
        gaps: Duration::ZERO,
        output_tokens: None,
        usage_prompt_tokens: None,
        usage_cached_tokens: None,
        outcome,
    }
}
