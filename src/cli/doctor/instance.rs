//! What an instance says of itself, judged.

use serde_json::Value;

use super::finding::{Findings, Severity};
use super::{Asked, check_clock};
use crate::admin::span;
use crate::cli::remote::shown;

/// File descriptors for everything that is not a proxied connection, as the instance itself reckons.
const FILES_BESIDE: f64 = 256.0;

/// Share of the file descriptors from which on it is a matter of time.
const FILES_SHARE_MAX: f64 = 0.8;

pub(super) fn examine(asked: &Asked, findings: &mut Findings) {
    let about = "instance";
    if asked.ready.status.is_success() {
        let up = asked.metric("bellwether_start_time_seconds").map(|start| {
            let now = asked.asked.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            format!(", up for {}", span((now - start).max(0.0)))
        });
        findings.fine(about, format!("answers and takes requests{}", up.unwrap_or_default()));
    } else {
        let problem: Value = serde_json::from_slice(&asked.ready.body).unwrap_or_default();
        let what = format!("takes no requests: {}", shown(&problem["detail"]));
        findings.add(Severity::Problem, about, what, "see the findings about its nodes");
    }
    check_clock(about, asked.ready.date, asked.asked, findings);
    files(asked, findings);
    policy(asked, findings);
    learning(asked, findings);
    let admin =
        if asked.config["admin"]["tls"]["certificate"] == "off" { "and operators" } else { "and TLS to operators" };
    findings.fine("certificates", format!("the instance speaks HTTP to clients and nodes, {admin}"));
}

fn files(asked: &Asked, findings: &mut Findings) {
    let about = "file descriptors";
    let (Some(most), Some(open)) = (asked.metric("process_max_fds"), asked.metric("process_open_fds")) else { return };
    let connections = asked.config["limits"]["connections_max"].as_f64().unwrap_or_default();
    let wanted = 2.0 * connections + FILES_BESIDE;
    let fix = format!(
        "raise the hard limit to {wanted:.0} (ulimit -Hn, LimitNOFILE=) and restart, or lower limits.connections_max"
    );
    if open > FILES_SHARE_MAX * most {
        findings.add(Severity::Problem, about, format!("{open:.0} of {most:.0} are open"), fix);
    } else if most < wanted {
        let what = format!("{most:.0} may be open, {connections:.0} connections may need {wanted:.0}");
        findings.add(Severity::Warning, about, what, fix);
    } else {
        findings.fine(about, format!("{open:.0} of {most:.0} are open"));
    }
}

fn policy(asked: &Asked, findings: &mut Findings) {
    let about = "policy";
    let (in_force, configured) = (&asked.policy["policy"], &asked.config["policy"]);
    if in_force != configured {
        let what = format!("{} is in force, configured is {}", shown(in_force), shown(configured));
        findings.add(Severity::Note, about, what, "put it into the configuration, or a restart takes it back");
    }
    let standing = &asked.model["standing"];
    let detail = shown(&standing["detail"]);
    match standing["state"].as_str() {
        Some("routes" | "other-policy") => findings.fine(about, detail),
        Some("shadow") => findings.add(Severity::Note, about, detail, "adaptive.shadow = false lets the model route"),
        Some("missing") => {
            findings.add(Severity::Note, about, detail, "send requests: a model takes some hundred of them");
        }
        _ => {
            let fix = "see `bellwether model show`; if the fleet has changed for good: `bellwether model reset`";
            findings.add(Severity::Warning, about, detail, fix);
        }
    }
}

fn learning(asked: &Asked, findings: &mut Findings) {
    let about = "learning";
    let model = &asked.model;
    if model["trainer"]["up"] == false {
        let fix = "restart the instance, and report what its log says of the trainer";
        findings.add(Severity::Problem, about, "the trainer does not work: nothing is learned", fix);
    }
    let dropped = model["samples"]["dropped"].as_u64().unwrap_or_default();
    let labels = model["samples"]["labels"].as_u64().unwrap_or_default();
    if dropped > 0 {
        let what = format!("{dropped} samples were dropped, {labels} learned from");
        findings.add(
            Severity::Note,
            about,
            what,
            "the trainer is short of processor time: give the machine more cores",
        );
    }
    if asked.config["adaptive"]["state_dir"] == "off" {
        let fix = "set adaptive.state_dir to a directory that stays";
        findings.add(Severity::Note, about, "a restart forgets what was learned", fix);
    }
}
