//! What the demo says before and after: what is about to run, and how the policies compare.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{DemoArgs, SLOTS_MAX, Stage};
use crate::load::Summary;

/// Sending later than this means that the machine is too slow for the load: its own delay shows in the figures.
const LATE_S: f64 = 0.020;

/// What one policy reached.
#[derive(Debug, Serialize)]
pub(super) struct Round {
    pub(super) policy: &'static str,
    pub(super) nodes: Vec<Share>,
    pub(super) summary: Summary,
}

/// A node's part in the answers.
#[derive(Debug, Serialize)]
pub(super) struct Share {
    pub(super) node: String,
    /// 0..=1.
    pub(super) share: f64,
}

/// A table in the style of all of ours: first column to the left, figures to the right.
pub(super) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns.iter().copied());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Seconds as milliseconds; a dash where nothing was measured.
pub(super) fn milliseconds(seconds: f64) -> String {
    if seconds.is_nan() { "-".to_owned() } else { format!("{:.0}", seconds * 1e3) }
}

pub(super) fn opening(out: &mut dyn Write, stage: &Stage, args: &DemoArgs) -> io::Result<()> {
    writeln!(out, "8 emulated model servers: 2 fast, 2 middle, 4 slow, {SLOTS_MAX} sequences each at most (slow: 32)")?;
    writeln!(out, "proxy    http://{}", stage.server.address())?;
    writeln!(out, "metrics  http://{}/metrics", stage.server.admin_address())?;
    writeln!(
        out,
        "load     {:.0} streamed chat completions a second: {:.0} % of the {:.0} that the fleet can compute",
        stage.load.rate_rps,
        args.load * 100.0,
        stage.capacity_rps,
    )?;
    writeln!(
        out,
        "         prompts 1,100 and outputs 210 tokens in the mean, lognormal; {} in flight at most\n",
        stage.load.outstanding_max
    )?;
    out.flush()
}

pub(super) fn closing(out: &mut dyn Write, args: &DemoArgs, rounds: &[Round]) -> io::Result<()> {
    let mut rows = table(&[
        "policy",
        "requests",
        "mean ms",
        "p50 ms",
        "p99 ms",
        "TTFB p50 ms",
        "TTFB p99 ms",
        "errors",
        "unfinished",
        "not sent",
        "mean x",
        "p99 x",
    ]);
    let first = rounds.first().map(|round| round.summary);
    for Round { policy, summary, .. } in rounds {
        // Requests that still wait when it ends count with the time so far.
        let at_least = |seconds: f64, exact: bool| format!("{}{}", if exact { "" } else { ">" }, milliseconds(seconds));
        let time = |seconds: f64| at_least(seconds, seconds <= summary.exact_to_s);
        let ratio = |of: fn(&Summary) -> f64| {
            first.map_or_else(String::new, |first| format!("{:.2}", of(summary) / of(&first)))
        };
        rows.add_row([
            (*policy).to_owned(),
            summary.requests.to_string(),
            at_least(summary.mean_s, !summary.is_lower_bound()),
            time(summary.p50_s),
            time(summary.p99_s),
            time(summary.ttfb_p50_s),
            time(summary.ttfb_p99_s),
            summary.errors.to_string(),
            summary.unfinished.to_string(),
            summary.not_sent.to_string(),
            ratio(|summary| summary.mean_s),
            ratio(|summary| summary.p99_s),
        ]);
    }
    writeln!(out, "\n{rows}")?;
    if rounds.iter().any(|round| round.summary.is_lower_bound()) {
        writeln!(
            out,
            "\n> at least: requests still waited when this policy's turn ended, and count with the time until then"
        )?;
    }
    let late_s = rounds.iter().map(|round| round.summary.late_p99_s).fold(0.0, f64::max);
    if late_s > LATE_S {
        writeln!(
            out,
            "\nThis machine is too busy for this load: 1 % of requests were sent {} ms late or more. Try --faster {}.",
            milliseconds(late_s),
            args.faster / 2.0,
        )?;
    }
    out.flush()
}
