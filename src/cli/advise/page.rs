//! The page of `advise`: first whether to believe it, then what to do, then how far the fleet reaches.

use std::io::{self, Write};

use comfy_table::Table;

use crate::advise::advice::{Advice, Best, NodeCapacity, OneMore};
use crate::advise::headroom::{Headroom, Slo};
use crate::advise::offpolicy::OffPolicy;
use crate::advise::replay::NodeCheck;
use crate::cli::simulate::table::{figures, listing, percent, ratio, time};
use crate::sim::report::Row;

pub(super) fn write(advice: &Advice, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "{} completed attempts in {:.0} s, routed by {}, {:.1} requests/s",
        advice.attempts, advice.seconds, advice.present, advice.rate_rps
    )?;
    checks(advice, out)?;
    policies(advice, out)?;
    capacities(advice, out)?;
    if let Some(slo) = &advice.slo {
        let policy = &advice.best.policy;
        writeln!(
            out,
            "\n5. How far does it reach ({slo}, under {policy})\n{}",
            reach(advice.headroom, advice.rate_rps)
        )?;
    }
    one_more(advice, out)?;
    logged(advice, out)?;
    writeln!(
        out,
        "\nNot emulated: nodes that changed their speed during the recording, failures, and caches of prompts.\n\
         A policy was given the same requests, but not the same luck: each seed puts the recording together anew."
    )
}

fn checks(advice: &Advice, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\n1. How well does the emulation repeat the recording (same requests on the same nodes)")?;
    let columns = ["node", "attempts", "recorded p50", "p90", "p99", "emulated p50", "p90", "p99", "off by"];
    let mut table = listing(&columns, 1);
    for check in &advice.checks {
        let NodeCheck { node, attempts, recorded_s, emulated_s, .. } = check;
        let mut cells = vec![node.clone(), attempts.to_string()];
        cells.extend(recorded_s.iter().chain(emulated_s).map(|seconds| time(*seconds)));
        cells.push(percent(check.off_by() - 1.0, 0));
        table.add_row(cells);
    }
    writeln!(out, "{}", table.trim_fmt())?;
    match advice.doubtful.as_slice() {
        [] => writeln!(out, "No percentile is off by more than half: the rest of this page can be taken seriously."),
        nodes => writeln!(
            out,
            "Doubtful: {}. Their recorded percentiles are missed by more than half, so take the rest with care.",
            nodes.join(", ")
        ),
    }
}

fn policies(advice: &Advice, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\n2. What each policy would have done (ratios to {}, 95 % confidence)", advice.present)?;
    writeln!(out, "{}", figures(&advice.report.rows).trim_fmt())?;
    if let Some(slo) = &advice.slo {
        writeln!(out, "Against the target, {slo}:\n{}", promised(&advice.report.rows, slo).trim_fmt())?;
    }
    writeln!(out, "\n3. Best for this traffic: {}", verdict(&advice.best, &advice.present))
}

/// What each policy makes of the target.
fn promised(rows: &[Row], slo: &Slo) -> Table {
    let figure = slo.figure();
    let mut table = listing(&["policy", &figure, "ratio", "target"], 1);
    for (row, promised) in rows.iter().filter_map(|row| Some((row, row.promised?))) {
        let held = if promised.value_s <= slo.target_s { "held" } else { "missed" };
        table.add_row(vec![row.policy.clone(), time(promised.value_s), ratio(promised.ratio), held.to_owned()]);
    }
    table
}

fn verdict(best: &Best, present: &str) -> String {
    let rivals = match best.rivals.as_slice() {
        [] => String::new(),
        rivals => format!("\nNot to be told from it by this recording: {}.", rivals.join(", ")),
    };
    let (Some(ratio), true) = (best.ratio, best.policy != present) else {
        return format!("{present}, as it is.{rivals}");
    };
    let range = match (ratio.low, ratio.high) {
        (Some(low), Some(high)) => format!(" (95 % confidence: {low:.2} to {high:.2})"),
        _ => String::new(),
    };
    let sure = if best.sure { "surely" } else { "perhaps" };
    let Best { policy, by, .. } = best;
    format!("{policy}\nIts {by} is {sure} {:.2} times that of {present}{range}.{rivals}", ratio.value)
}

fn capacities(advice: &Advice, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\n4. Capacity for requests of this mix")?;
    let columns = ["node", "requests/s", "known from", "most at once", "share", "fair share"];
    let mut table = listing(&columns, 1);
    for node in &advice.capacities {
        let NodeCapacity { node, capacity_rps, known_from, at_once, share, fair_share, .. } = node;
        let capacity = format!("{}{capacity_rps:.1}", if *known_from == "never full" { "at least " } else { "" });
        table.add_row(vec![
            node.clone(),
            capacity,
            (*known_from).to_owned(),
            at_once.to_string(),
            percent(*share, 1),
            percent(*fair_share, 1),
        ]);
    }
    writeln!(out, "{}", table.trim_fmt())?;
    let (least, most) = if advice.capacity_at_least { ("at least ", "at most ") } else { ("", "") };
    writeln!(
        out,
        "P = {least}{:.1} requests/s, r = {:.1} requests/s, r/P = {most}{:.3}",
        advice.capacity_rps, advice.rate_rps, advice.utilization
    )?;
    if advice.capacity_at_least {
        writeln!(
            out,
            "Where a node was never full it says \"at least\": no request ever queued there, and a limit that was never\n\
             reached leaves no trace in what was recorded. Record under more load, or declare capacity_rps (--fleet)."
        )?;
    }
    Ok(())
}

fn reach(headroom: Option<Headroom>, rate_rps: f64) -> String {
    match headroom {
        None => "not searched".to_owned(),
        Some(Headroom { holds_rps, at_least }) => {
            let more = holds_rps - rate_rps;
            let least = if at_least { "at least " } else { "" };
            if holds_rps == 0.0 {
                "The target does not hold at any rate.".to_owned()
            } else if more < 0.0 {
                format!("The target does not hold now: it would up to {holds_rps:.1} requests/s, {:.1} less.", -more)
            } else {
                format!("The target holds up to {least}{holds_rps:.1} requests/s: {more:.1} more than now.")
            }
        }
    }
}

fn one_more(advice: &Advice, out: &mut dyn Write) -> io::Result<()> {
    let number = if advice.slo.is_some() { 6 } else { 5 };
    writeln!(out, "\n{number}. What one more node would bring (same traffic, under {})", advice.best.policy)?;
    let mut columns = vec!["one more like", "mean", "p99"];
    if advice.slo.is_some() {
        columns.push("requests/s at the target");
    }
    let mut table = listing(&columns, 1);
    for OneMore { like, mean_s, p99_s, headroom } in &advice.one_more {
        let mut cells = vec![like.clone(), time(*mean_s), time(*p99_s)];
        let least = |at_least| if at_least { "at least " } else { "" };
        cells.extend(headroom.map(|reach| format!("{}{:.1}", least(reach.at_least), reach.holds_rps)));
        table.add_row(cells);
    }
    writeln!(out, "{}", table.trim_fmt())
}

fn logged(advice: &Advice, out: &mut dyn Write) -> io::Result<()> {
    let number = if advice.slo.is_some() { 7 } else { 6 };
    let OffPolicy { attempts, explored, untold, unlike, mean_s, estimates, refusals } = &advice.off_policy;
    writeln!(out, "\n{number}. What the logged chances say by themselves ({attempts} attempts)")?;
    if *explored > 0 {
        writeln!(out, "Explored: {explored}. The others went to a node of the least score.")?;
    }
    if *untold + *unlike > 0 {
        writeln!(
            out,
            "Left out: {untold} attempts whose row does not tell the candidates, {unlike} whose logged chance does not come out again."
        )?;
    }
    if !estimates.is_empty() {
        let columns = ["change", "mean, reweighted", "+-", "doubly robust", "+-", "effective attempts", "moved"];
        let mut table = listing(&columns, 1);
        for estimate in estimates {
            table.add_row(vec![
                estimate.change.clone(),
                time(estimate.weighted_s),
                time(estimate.weighted_half_s),
                time(estimate.robust_s),
                time(estimate.robust_half_s),
                format!("{:.0}", estimate.effective),
                percent(estimate.moved_share, 1),
            ]);
        }
        writeln!(out, "{}", table.trim_fmt())?;
        writeln!(out, "As recorded: {}. \"+-\" is half of a 95 % interval.", time(*mean_s))?;
    }
    for refusal in refusals {
        writeln!(out, "No estimate. {refusal}")?;
    }
    if refusals.iter().any(|refusal| refusal.contains("decisions would have gone elsewhere")) {
        writeln!(
            out,
            "That is the usual answer to a policy that takes the least score but for 1 % exploration: the log hardly ever\n\
             tried what the change would prefer. Use the replay above."
        )?;
    }
    writeln!(out, "Not seen here: a policy changes the loads that it meets. The replay above sees it.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::statistics::Ratio;

    #[test]
    fn a_verdict_says_how_sure_it_is() {
        let ratio = Some(Ratio { value: 0.7, low: Some(0.6), high: Some(0.8) });
        let best = Best { policy: "adaptive".into(), by: "p99".into(), ratio, sure: true, rivals: Vec::new() };
        let said = verdict(&best, "round-robin");
        assert_eq!(said, "adaptive\nIts p99 is surely 0.70 times that of round-robin (95 % confidence: 0.60 to 0.80).");
        let doubt = Best { sure: false, rivals: vec!["random".into()], ..best.clone() };
        assert!(verdict(&doubt, "round-robin").contains("perhaps") && verdict(&doubt, "x").ends_with("random."));
        assert_eq!(verdict(&best, "adaptive"), "adaptive, as it is.");
    }

    #[test]
    fn a_reach_is_told_in_both_directions() {
        let reach = |holds_rps, at_least| reach(Some(Headroom { holds_rps, at_least }), 10.0);
        assert!(reach(25.0, false).ends_with("up to 25.0 requests/s: 15.0 more than now."));
        assert!(reach(25.0, true).contains("at least 25.0"));
        assert!(reach(4.0, false).contains("4.0 requests/s, 6.0 less"));
        assert!(reach(0.0, false).contains("at any rate"));
    }
}
