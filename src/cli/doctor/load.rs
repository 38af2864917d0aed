//! What a node says of its own load, against what the instance has in flight there.
//!
//! The two are never of the same instant, so the instance is asked before and after the node and the larger figure counts,
//! and small differences say nothing. A finding must be worth an operator's time: a server that lets a few requests wait
//! keeps its batch full, which is as it should be.

use serde_json::Value;

use super::finding::{Findings, Severity};
use crate::probe::engine::EngineLoad;

/// Requests of others that are more than a matter of when somebody looked.
const OTHERS_MIN: u64 = 2;

/// Share of the requests within a node from which on it is worth saying that others sent them, or that they wait.
const SHARE_MIN: f64 = 0.25;

/// Share of a KV cache from which on the next long answer has no room.
const KV_FULL: f64 = 0.95;

/// Judges `load`; `ours` is what the instance has in flight at the node that `node` describes.
pub(super) fn judge(about: &str, node: &Value, ours: u64, load: &EngineLoad, findings: &mut Findings) {
    findings.fine(about, described(load));
    let share = |part: u64, whole: u64| part as f64 >= SHARE_MIN * whole as f64;
    let others = load.requests().saturating_sub(ours);
    let is_shared = others >= OTHERS_MIN && share(others, load.requests());
    if is_shared {
        let what = format!("has {} requests, {ours} of them from here: others send to it as well", load.requests());
        let fix = "if those are not other instances of this proxy, let them come through it: load that it does not see \
                   makes its predictions wrong and its limits too high";
        findings.add(Severity::Note, about, what, fix);
    }
    let waiting = load.waiting.unwrap_or_default();
    if waiting > 0 && share(waiting, load.running.unwrap_or_default()) {
        // What others sent, no limit here holds back.
        let severity = if is_shared || load.running.is_none() { Severity::Note } else { Severity::Warning };
        let what = format!("lets {waiting} requests wait within it, where they can go to no other node");
        findings.add(severity, about, what, limit(node, load));
    }
    if let Some(used) = load.kv_used.filter(|used| *used >= KV_FULL && load.requests() > 0) {
        let what =
            format!("its KV cache is full ({:.0} %): it will stop requests and compute them again", 100.0 * used);
        let fix =
            "set max_in_flight_tokens of the node, or a lower max_in_flight, or give the server more memory for it";
        findings.add(Severity::Warning, about, what, fix);
    }
}

fn described(load: &EngineLoad) -> String {
    let counts = [(load.running, "running"), (load.waiting, "waiting")];
    let counts = counts.into_iter().filter_map(|(count, word)| Some(format!("{} {word}", count?)));
    let kv = load.kv_used.map(|used| format!("{:.0} % of the KV cache in use", 100.0 * used));
    format!("{}: {}", load.engine, counts.chain(kv).collect::<Vec<_>>().join(", "))
}

/// How requests wait here instead.
fn limit(node: &Value, load: &EngineLoad) -> String {
    let running = load.running.filter(|running| *running > 0);
    let about = running.map(|running| format!(" (it computes {running} now)")).unwrap_or_default();
    let why = "what is more then waits in the proxy, and goes to whichever node frees first";
    match (node["auto_limit"] == true, node["max_in_flight"].as_u64()) {
        (true, _) => {
            format!("its limit is found out and is {} now; set max_in_flight yourself{about}: {why}", node["limit"])
        }
        (false, Some(limit)) => format!("lower its max_in_flight from {limit}{about}: {why}"),
        (false, None) => format!("set its max_in_flight, to a number{about} or \"auto\": {why}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(node: &Value, ours: u64, load: EngineLoad) -> Vec<[String; 3]> {
        let mut findings = Findings::default();
        judge("node n", node, ours, &load, &mut findings);
        let all = findings.to_json()["findings"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        all.iter().map(|one| ["severity", "what", "fix"].map(|key| text(&one[key]))).collect()
    }

    fn load(running: u64, waiting: u64, kv_used: f64) -> EngineLoad {
        EngineLoad { engine: "vLLM", running: Some(running), waiting: Some(waiting), kv_used: Some(kv_used) }
    }

    #[test]
    fn a_node_that_does_what_it_was_sent_is_fine() {
        for (ours, load) in [(0, load(0, 0, 0.0)), (3, load(4, 0, 0.9)), (8, load(8, 1, 0.5)), (50, load(60, 0, 0.2))] {
            let all = found(&json!({}), ours, load);
            assert_eq!(all.len(), 1, "{all:?}");
            assert_eq!(all[0][0], "fine");
        }
        let shown = &found(&json!({}), 3, load(3, 0, 0.414))[0][1];
        assert_eq!(shown, "vLLM: 3 running, 0 waiting, 41 % of the KV cache in use");
    }

    #[test]
    fn load_that_comes_past_the_proxy_is_noticed() {
        let all = found(&json!({}), 4, load(9, 0, 0.5));
        assert_eq!(all[1][..2], ["note", "has 9 requests, 4 of them from here: others send to it as well"]);
        assert_eq!(all.len(), 2);
        // Its queue is not of our making.
        assert_eq!(found(&json!({}), 1, load(4, 4, 0.5))[2][0], "note");
    }

    #[test]
    fn a_queue_within_the_node_has_a_fix_that_fits_its_limit() {
        let fix = |node: &Value| {
            let [_, waits] = &found(node, 12, load(8, 4, 0.5))[..] else { panic!("one finding") };
            assert_eq!(waits[0], "warning");
            waits[2].clone()
        };
        assert!(
            fix(&json!({"max_in_flight": null, "auto_limit": false}))
                .starts_with("set its max_in_flight, to a number (it computes 8 now) or \"auto\"")
        );
        assert!(
            fix(&json!({"max_in_flight": 16, "auto_limit": false})).starts_with("lower its max_in_flight from 16 (it")
        );
        assert!(fix(&json!({"max_in_flight": null, "auto_limit": true, "limit": 14})).contains("is 14 now"));
    }

    #[test]
    fn a_full_cache_matters_only_while_somebody_uses_it() {
        let full = found(&json!({}), 5, load(5, 0, 0.97));
        assert_eq!((full.len(), full[1][0].as_str()), (2, "warning"), "{full:?}");
        assert_eq!(found(&json!({}), 0, load(0, 0, 1.0)).len(), 1);
    }
}
