//! `simulate --record`, then `advise` and `simulate --from-recording` of it, through the binary.

use std::path::Path;

use serde_json::Value as Json;

use crate::{bellwether, run};

/// Records a run and returns the path.
fn recorded(dir: &Path, scenario: &str, policy: &str, load: &str, seconds: &str) -> String {
    let path = dir.join("samples.jsonl").display().to_string();
    let what = ["--policies", policy, "--load", load, "--seconds", seconds, "--seeds", "1", "--record", &path];
    let ran = run(bellwether(&["simulate", "--scenario", scenario]).args(what));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    path
}

#[test]
fn advice_of_a_recorded_run_is_one_page_of_text_one_object_and_one_document() {
    let dir = tempfile::tempdir().unwrap();
    let path = recorded(dir.path(), "plain-mixed", "adaptive", "0.3", "20");
    let page = dir.path().join("advice.html");
    let asked = ["--policies", "least-connections,round-robin", "--seeds", "2"];
    let text =
        run(bellwether(&["advise", "--from-recording", &path, "--slo", "p99=2s", "--report"]).arg(&page).args(asked));
    assert_eq!(text.code, Some(0), "{}", text.err);
    for said in [
        "1. How well does the emulation repeat the recording",
        "3. Best for this traffic:",
        "4. Capacity for requests of this mix",
        "5. How far does it reach (",
        "6. What one more node would bring",
        "7. What the logged chances say by themselves",
        "Not seen here: a policy changes the loads that it meets.",
    ] {
        assert!(text.out.contains(said), "{said}: {}", text.out);
    }
    let html = std::fs::read_to_string(page).unwrap();
    assert!(html.contains("Best for this traffic") && html.contains("<svg ") && html.contains("--slo p99=2s"));
    let ran = run(bellwether(&["advise", "--output", "json", "--from-recording", &path]).args(asked));
    let advice: Json = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(advice["present"], "adaptive");
    assert_eq!(advice["capacities"].as_array().map(Vec::len), Some(8));
    assert_eq!(advice["report"]["rows"].as_array().map(Vec::len), Some(3));
    let off_policy = &advice["off_policy"];
    assert!(off_policy["attempts"].as_u64() > Some(2_500) && off_policy["untold"] == 0, "{off_policy}");
    assert!(off_policy["explored"].as_u64() > Some(5), "{off_policy}");
}

#[test]
fn a_target_of_first_bytes_is_what_policies_are_ranked_by() {
    let dir = tempfile::tempdir().unwrap();
    let path = recorded(dir.path(), "plain-mixed", "round-robin", "0.2", "20");
    let asked = ["--policies", "least-connections,weighted-round-robin", "--seeds", "2", "--output", "json"];
    for (slo, by, figure) in [
        ("first-byte-p99=500ms", "first-byte p99", "ttfb_p99_s"),
        ("p999=2s", "p999", "p999_s"),
        ("mean=1s", "mean", "mean_s"),
    ] {
        let ran = run(bellwether(&["advise", "--from-recording", &path, "--slo", slo]).args(asked));
        let advice: Json = serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}", ran.err));
        let rows = advice["report"]["rows"].as_array().unwrap();
        assert!(rows.iter().all(|row| row["promised"]["value_s"] == row[figure]), "{slo}: {rows:?}");
        let of = |row: &&Json| row[figure].as_f64().unwrap();
        let least = rows.iter().min_by(|a, b| of(a).total_cmp(&of(b))).unwrap();
        assert_eq!((&advice["best"]["policy"], &advice["best"]["by"]), (&least["policy"], &Json::from(by)), "{slo}");
        assert_eq!(advice["slo"]["first_byte"], slo.starts_with("first"));
    }
    let text =
        run(&mut bellwether(&["advise", "--from-recording", &path, "--slo", "first-byte-p99=500ms", "--seeds", "2"]));
    assert!(text.out.contains("Against the target, first-byte p99 = 500ms:"), "{}", text.out);
}

#[test]
fn a_simulation_from_a_recording_answers_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = recorded(dir.path(), "plain-mixed", "least-connections", "0.2", "20");
    let asked = ["--policies", "least-connections,round-robin", "--seeds", "2"];
    let [advised, simulated] = [vec!["advise"], vec!["simulate"]].map(|verb| {
        let ran = run(bellwether(&verb).args(["--from-recording", &path]).args(asked));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        ran.out
    });
    assert_eq!(advised, simulated);
    assert!(advised.contains("weight of") && !advised.contains("Explored:"), "ties are no exploration: {advised}");
}

#[test]
fn the_textbook_fleet_is_at_a_twentieth_of_what_it_can_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = recorded(dir.path(), "textbook", "weighted-round-robin", "0.05", "300");
    let asked =
        ["advise", "--policies", "least-connections", "--seeds", "2", "--output", "json", "--from-recording", &path];
    let fleet = crate::example("scenarios/textbook.toml");
    let told = run(bellwether(&asked).args(["--fleet", &fleet]));
    let told: Json = serde_json::from_str(&told.out).unwrap_or_else(|error| panic!("{error}: {}", told.err));
    assert_eq!((told["capacity_rps"].as_f64(), &told["capacity_at_least"]), (Some(200.0), &Json::Bool(false)));
    let utilization = told["utilization"].as_f64().unwrap();
    assert!((utilization - 0.05).abs() < 0.003, "{utilization}");
    let shares: Vec<f64> =
        told["capacities"].as_array().unwrap().iter().map(|node| node["share"].as_f64().unwrap()).collect();
    assert!(shares.iter().zip([0.25, 0.35, 0.4]).all(|(share, wanted)| (share - wanted).abs() < 0.005), "{shares:?}");
    let blind = run(&mut bellwether(&asked));
    let blind: Json = serde_json::from_str(&blind.out).unwrap();
    assert_eq!(blind["capacity_at_least"], true);
}

#[test]
fn what_cannot_be_advised_on_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("few.jsonl").display().to_string();
    std::fs::write(&path, "").unwrap();
    let few = run(&mut bellwether(&["advise", "--from-recording", &path]));
    assert!(few.code == Some(2) && few.err.contains("only 0 completed attempts"), "{}", few.err);
    let gone = run(&mut bellwether(&["advise", "--from-recording", "/nowhere.jsonl"]));
    assert!(gone.code == Some(2) && gone.err.contains("/nowhere.jsonl"), "{}", gone.err);
    let slo = run(&mut bellwether(&["advise", "--from-recording", &path, "--slo", "p99=fast"]));
    assert!(slo.code == Some(2) && slo.err.contains("--slo"), "{}", slo.err);
    let slo = run(&mut bellwether(&["advise", "--from-recording", &path, "--slo", "firstbyte-p99=1s"]));
    assert!(slo.code == Some(2) && slo.err.contains("such as first-byte-p99=500ms"), "{}", slo.err);
}
