//! Advice on recorded runs of shipped scenarios, whose truth is known.

use std::time::Duration;

use super::*;
use crate::advise::tests_support::recorded;
use crate::sim::report::Promised;

fn question(declared: &[(&str, f64)]) -> Question {
    Question {
        policies: vec!["least-connections".into(), "round-robin".into()],
        seeds: vec![1, 2, 3],
        slo: Some("p99=2s".parse().expect("sound")),
        declared: declared.iter().map(|(name, rps)| ((*name).to_owned(), *rps)).collect(),
        threads: 1,
    }
}

#[test]
fn the_textbook_case_is_answered_with_what_is_declared_and_with_at_least_without_it() {
    let history = recorded("textbook", "weighted-round-robin", 0.05, 400.0);
    let declared = [("a", 50.0), ("b", 70.0), ("c", 80.0)];
    let (advice, _) = advise(&history, &question(&declared), &|_, _| ()).expect("sound");
    assert_eq!((advice.capacity_rps, advice.capacity_at_least), (200.0, false));
    assert!((advice.utilization - 0.05).abs() < 0.003, "{}", advice.utilization);
    for (node, share) in advice.capacities.iter().zip([0.25, 0.35, 0.40]) {
        assert!((node.share - share).abs() < 0.001 && (node.fair_share - share).abs() < 1e-9, "{node:?}");
    }
    assert_eq!(advice.report.rows[0].policy, "weighted-round-robin");
    let (blind, _) = advise(&history, &question(&[]), &|_, _| ()).expect("sound");
    assert!(blind.capacity_at_least && blind.capacity_rps < 200.0, "{}", blind.capacity_rps);
    assert!(blind.capacities.iter().all(|node| node.known_from == "never full"));
    let wrong = advise(&history, &question(&[("a", 1.0), ("x", 2.0)]), &|_, _| ()).expect_err("refused");
    assert!(wrong.to_string().contains('x'));
    let half = advise(&history, &question(&[("a", 1.0)]), &|_, _| ()).expect_err("refused");
    assert!(half.to_string().contains("b, c"), "{half}");
}

#[test]
fn plain_servers_of_different_speed_are_found_again_and_the_better_policy_is_named() {
    let history = recorded("plain-mixed", "round-robin", 0.55, 60.0);
    let (advice, _) = advise(&history, &question(&[]), &|_, _| ()).expect("sound");
    assert!(advice.doubtful.is_empty(), "{:?}", advice.checks);
    assert_eq!((advice.present.as_str(), advice.best.policy.as_str()), ("round-robin", "least-connections"));
    assert!(advice.best.sure && advice.best.ratio.expect("a ratio").value < 0.8, "{:?}", advice.best);
    // The slow nodes are overrun by round robin, so their capacity of 40 requests/s shows.
    let slow = advice.capacities.iter().filter(|node| node.node.starts_with("speed1"));
    for node in slow {
        assert!(!node.at_least && (node.capacity_rps / 40.0 - 1.0).abs() < 0.15, "{node:?}");
    }
    assert_eq!(advice.one_more.len(), 3);
}

#[test]
fn model_servers_are_found_again() {
    let history = recorded("llm-mixed", "least-connections", 0.5, 250.0);
    let fitted = fit::fit(&history);
    let scenario = Scenario::named("llm-mixed").expect("shipped").expect("sound");
    let stage = Stage::new(&history, &fitted, &[]).expect("rates");
    for check in stage.check(&history).expect("a fleet") {
        for (recorded, emulated) in check.recorded_s.iter().zip(&check.emulated_s).take(2) {
            assert!((emulated / recorded - 1.0).abs() < 0.2, "{check:?}");
        }
    }
    for (name, fitted) in history.nodes.iter().zip(&fitted.nodes).filter(|(_, node)| node.limit_seen) {
        let truth = scenario.nodes.iter().find(|node| node.node.name == *name).expect("known").node.server;
        let slots = |server| if let crate::sim::ServerSpec::Batch(spec) = server { spec.slots } else { 0 };
        assert_eq!(slots(fitted.server), slots(truth), "{name}");
    }
}

#[test]
fn policies_are_ranked_by_what_was_promised_and_by_the_mean_where_nothing_was() {
    let scenario = Scenario::named("llm-mixed").expect("shipped").expect("sound").lasting(Duration::from_secs(60));
    let slo: Slo = "first-byte-p99=500ms".parse().expect("sound");
    let policies = ["least-connections", "round-robin"].map(str::to_owned).to_vec();
    let (loads, seeds) = (vec![0.5], vec![1, 2]);
    let plan = Plan { scenario, loads, policies, seeds, threads: 1, promise: Some(slo.promise) };
    let mut report = execute(&plan, &|_, _| ()).expect("known");
    for row in &report.rows {
        assert_eq!(row.promised.map(|promised| promised.value_s), Some(row.ttfb_p99_s), "{row:?}");
    }
    assert!(report.rows[0].mean_s < report.rows[1].mean_s);
    // As if who is slower to the end had been quicker to begin.
    for (row, value_s) in report.rows.iter_mut().zip([0.4, 0.2]) {
        let ratio = Some(Ratio { value: value_s / 0.4, low: Some(value_s / 0.5), high: Some(value_s / 0.3) });
        row.promised = Some(Promised { value_s, ratio });
    }
    let promised = best(&report, Some(&slo));
    assert_eq!((promised.policy.as_str(), promised.by.as_str()), ("round-robin", "first-byte p99"));
    assert_eq!((promised.ratio.map(|ratio| ratio.value), promised.sure), (Some(0.5), true));
    report.rows.iter_mut().for_each(|row| row.promised = None);
    let whole = best(&report, None);
    assert_eq!((whole.policy.as_str(), whole.by.as_str(), whole.sure), ("least-connections", "mean", false));
}
