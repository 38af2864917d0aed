//! Tests of suites: what a bound means, what is refused, and the promises of `adaptive` in minutes of virtual time.

use super::*;
use crate::sim::ablation::Without;

/// Small places with the shape of the shipped ones.
fn find(name: &str) -> Result<Scenario, String> {
    let text = match name {
        "plain" => "fleet = 'plain'\nloads = [0.3, 0.6]\nseconds = 30",
        "equal" => "fleet = 'plain-equal'\nloads = [0.85]\nseconds = 100\nwarm_up = 0.3",
        "mixed" => "fleet = 'study'\nloads = [0.5]\nseconds = 150\nstreamed = true",
        "slow" => {
            "fleet = 'study'\nloads = [0.5]\nseconds = 150\nstreamed = true\n\
             [[event]]\nat_s = 60\nnode = 'fast-1'\naction = 'speed'\nspeed = 0.2"
        }
        "failing" => {
            "fleet = 'plain'\nloads = [0.6]\nseconds = 40\n\
             [[event]]\nat_s = 15\nnode = 'speed1-1'\naction = 'fail'\nshare = 1.0"
        }
        "hang" => {
            "fleet = 'study'\nloads = [0.5]\nseconds = 150\nstreamed = true\nclient_deadline_s = 60\n\
             [[event]]\nat_s = 60\nnode = 'middle-1'\naction = 'hang'"
        }
        "join" => {
            "fleet = 'study'\nloads = [0.7]\nseconds = 120\nstreamed = true\n\
             [[event]]\nat_s = 60\nnode = 'fast-2'\naction = 'join'"
        }
        "forgetful" => "fleet = 'study'\nloads = [0.138]\nseconds = 300\nstreamed = true\n[conversations]\nlive = 500",
        _ => return Err(format!("{name}: no such place")),
    };
    Scenario::parse(name, &format!("about = 'x'\n{text}")).map_err(|error| error.to_string())
}

fn suite(text: &str) -> Result<Suite, String> {
    Suite::parse(&format!("about = 'x'\n{text}"), &find).map_err(|error| error.to_string())
}

fn report(text: &str, seeds: &[u64]) -> SuiteReport {
    suite(text).expect("sound").execute(seeds, 1, &|_, _| ()).expect("known policies")
}

#[test]
fn the_shipped_suites_are_sound() {
    for name in Suite::names() {
        let text = Suite::shipped(name).expect("shipped");
        let find = |name: &str| Scenario::named(name).ok_or(format!("{name}: not shipped"))?.map_err(|e| e.to_string());
        let suite = Suite::parse(text, &find).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!suite.about.is_empty() && suite.checks.len() + suite.tables.len() > 0, "{name}");
    }
}

#[test]
fn a_run_that_several_lines_need_is_done_once() {
    let text = "sets.all = ['least-connections', 'round-robin']\n[[row]]\nabout = 'a'\nscenario = 'plain'\n\
        policy = 'random'\ncheck = [{ figure = 'mean', against = 'all', at_most = 1 },\n\
        { figure = 'p99', against = 'least-connections', loads = [0.3], at_most = 1 }]";
    let suite = suite(text).expect("sound");
    assert_eq!((suite.checks.len(), suite.places().len()), (3, 6));
}

#[test]
fn a_ratio_is_taken_to_the_best_and_judged_by_its_bound() {
    let row = |bound: f64| {
        format!(
            "sets.all = ['round-robin', 'least-connections']\n[[row]]\nabout = 'a'\nscenario = 'plain'\nloads = [0.6]\n\
            policy = 'least-connections'\ncheck = [{{ figure = 'mean', against = 'all', at_most = {bound} }}]"
        )
    };
    let kept = report(&row(1.0), &[1, 2]);
    let verdict = &kept.verdicts[0];
    assert_eq!((verdict.against.as_deref(), verdict.value), (Some("least-connections"), 1.0));
    assert_eq!((kept.missed(), report(&row(0.99), &[1, 2]).missed()), (0, 1));
}

#[test]
fn what_a_suite_cannot_mean_is_refused() {
    let row = |check: &str| {
        let text = format!("[[row]]\nabout = 'a'\nscenario = 'plain'\ncheck = [{{ {check}, at_most = 1 }}]");
        suite(&text).expect_err("refused")
    };
    assert!(row("figure = 'mean'").contains("a reference"));
    assert!(row("figure = 'errors', against = 'random'").contains("no reference"));
    assert!(row("figure = 'p99', against = 'nobody'").contains("nobody"));
    assert!(row("figure = 'mean', scenario = 'nowhere'").contains("no such place"));
    assert!(row("figure = 'lost-beyond'").contains("with events"));
    assert!(row("figure = 'mean', against = 'random', loads = [0.4]").contains("loads of the row"));
    assert!(row("figure = 'median', against = 'random'").contains("figure"));
    assert!(suite("").expect_err("refused").contains("nothing to do"));
}

#[test]
fn a_comparison_has_a_row_for_each_policy_and_a_cell_for_each_place() {
    let text = "[[table]]\nabout = 'a'\npolicies = ['adaptive', 'adaptive-without-failure-penalty']\n\
        cell = [{ scenario = 'failing' }, { scenario = 'plain', loads = [0.3] }]";
    let report = report(text, &[1]);
    let table = &report.tables[0];
    assert_eq!(table.columns, [("failing".to_owned(), 0.6), ("plain".to_owned(), 0.3)]);
    let errors = |row: usize| table.rows[row].1[0].error_share;
    assert_eq!(table.rows[0].1[0].mean_ratio.map(|ratio| ratio.value), Some(1.0));
    assert!(errors(0) < 0.005 && errors(1) > 5.0 * errors(0), "{} {}", errors(0), errors(1));
}

#[test]
fn every_part_that_can_be_left_out_is_compared_in_a_shipped_suite() {
    let text: String = Suite::names().into_iter().filter_map(Suite::shipped).collect();
    for (name, without) in Without::NAMES {
        assert!(text.contains(&format!("\"{name}\"")), "{name}");
        assert_eq!(Without::named(name), Some(without));
    }
    assert_eq!(Without::named("adaptive"), None);
}

/// What matches is worth nothing there, and that is learned before it costs anything.
#[test]
fn before_servers_without_caches_looking_at_prompts_changes_no_mean_by_more_than_two_percent() {
    let text = "[[row]]\nabout = 'forgetful'\nscenario = 'forgetful'\n\
        check = [{ figure = 'mean', against = 'adaptive-without-prefixes', at_most = 1.02 }]";
    let verdict = &report(text, &[1, 2, 3]).verdicts[0];
    assert!((0.98..=1.02).contains(&verdict.value), "{verdict:#?}");
}

/// The shape of the shipped suite `evidence`, in minutes and with wide margins: its own bounds want hours and five seeds.
#[test]
fn adaptive_keeps_its_promises_in_small() {
    let text = "sets.classic = ['round-robin', 'least-connections', 'power-of-two', 'peak-ewma-scan']\n\
        [[row]]\nabout = 'plain'\nscenario = 'plain'\nloads = [0.3]\n\
        check = [{ figure = 'mean', against = 'classic', at_most = 0.9 }]\n\
        [[row]]\nabout = 'equal'\nscenario = 'equal'\n\
        check = [{ figure = 'mean', against = 'least-connections', at_most = 1.1 }]\n\
        [[row]]\nabout = 'mixed'\nscenario = 'mixed'\n\
        check = [{ figure = 'mean', against = 'classic', at_most = 0.85 },\n\
        { figure = 'p99', against = 'classic', at_most = 0.8 }]\n\
        [[row]]\nabout = 'slow'\nscenario = 'slow'\n\
        check = [{ figure = 'p99', against = 'classic', at_most = 0.8 }, { figure = 'excess-left', at_most = 0.5 }]\n\
        [[row]]\nabout = 'failing'\nscenario = 'failing'\ncheck = [{ figure = 'errors', at_most = 0.005 }]\n\
        [[row]]\nabout = 'hang'\nscenario = 'hang'\ncheck = [{ figure = 'lost-beyond', at_most = 5 }]\n\
        [[row]]\nabout = 'join'\nscenario = 'join'\ncheck = [{ figure = 'seconds-to-fair-share', at_most = 20 }]";
    let report = report(text, &[1]);
    let missed: Vec<&Verdict> = report.verdicts.iter().filter(|verdict| !verdict.met).collect();
    assert!(missed.is_empty(), "{missed:#?}");
}
