//! `simulate --suite`: promises with what came of them, and policies side by side.
//!
//! A bound that is missed is an error, but only after everything was written: who runs this wants to see all of it, and
//! a script wants an exit code.

use std::fs;
use std::io::{self, Write};

use comfy_table::{CellAlignment, Table as Grid, presets};

use crate::sim::statistics::Ratio;
use crate::sim::suite::{Compared, Figure, Suite, SuiteError, SuiteReport, Table, Verdict};

use super::table::ratio;
use super::{SimulateArgs, SimulateError, SimulateOutput, json, load, seeds, threads, watched};

/// Runs the suite of that name, or in that file.
pub(super) fn run(args: &SimulateArgs, name: &str, out: &mut dyn Write) -> Result<(), SimulateError> {
    let wrong = |error| SimulateError::Suite { name: name.to_owned(), error };
    let text = match Suite::shipped(name) {
        Some(text) => text.to_owned(),
        None => fs::read_to_string(name).map_err(|error| {
            let known = Suite::names().join(", ");
            let reason = format!("{error}, and no suite of that name ships with the program; those are {known}");
            wrong(SuiteError::Text(reason))
        })?,
    };
    let suite = parse(&text).map_err(wrong)?;
    let report = watched(|progress| suite.execute(&seeds(args), threads(args), progress))?;
    match args.output {
        SimulateOutput::Table => write(&report, out)?,
        SimulateOutput::Json => json(&report, out)?,
    }
    out.flush()?;
    match report.missed() {
        0 => Ok(()),
        missed => Err(SimulateError::Missed { missed, all: report.verdicts.len() }),
    }
}

/// The suites in the binary with their one line.
pub(super) fn list(out: &mut dyn Write) -> io::Result<()> {
    for name in Suite::names() {
        if let Some(Ok(suite)) = Suite::shipped(name).map(parse) {
            writeln!(out, "  {name:18} {}", suite.about)?;
        }
    }
    Ok(())
}

fn parse(text: &str) -> Result<Suite, SuiteError> {
    Suite::parse(text, &|name| load(name).map_err(|error| error.to_string()))
}

fn write(report: &SuiteReport, out: &mut dyn Write) -> io::Result<()> {
    let seeds = report.seeds.len();
    let plural = if seeds == 1 { "" } else { "s" };
    writeln!(out, "{}; {seeds} seed{plural}, 95 % confidence", report.about)?;
    for row in report.verdicts.chunk_by(|a, b| a.about == b.about) {
        let Some(first) = row.first() else { continue };
        writeln!(out, "\n{} ({}, {})", first.about, first.policy, first.scenario)?;
        writeln!(out, "{}", verdicts(row).trim_fmt())?;
    }
    for table in &report.tables {
        writeln!(out, "\n{}: mean / p99 as ratios to {}, and errors", table.about, first_of(table))?;
        writeln!(out, "{}", side_by_side(table).trim_fmt())?;
    }
    if !report.verdicts.is_empty() {
        let (all, missed) = (report.verdicts.len(), report.missed());
        writeln!(out, "\n{} of {all} bounds met, {missed} missed", all - missed)?;
    }
    Ok(())
}

fn verdicts(row: &[Verdict]) -> Grid {
    let mut grid = grid(&["load", "figure", "against", "value", "at most", ""].map(str::to_owned), 3);
    for verdict in row {
        let interval = Ratio { value: verdict.value, low: verdict.low, high: verdict.high };
        let value = match verdict.figure {
            Figure::Mean | Figure::P99 => ratio(Some(interval)),
            figure => plain(figure, verdict.value),
        };
        grid.add_row([
            format!("{:.0} %", verdict.load * 100.0),
            verdict.figure.word().to_owned(),
            verdict.against.clone().unwrap_or_default(),
            value,
            plain(verdict.figure, verdict.at_most),
            if verdict.met { "met" } else { "MISSED" }.to_owned(),
        ]);
    }
    grid
}

fn plain(figure: Figure, value: f64) -> String {
    match figure {
        Figure::Mean | Figure::P99 | Figure::ExcessLeft => format!("{value:.2}"),
        Figure::Errors => format!("{:.2} %", value * 100.0),
        Figure::LostBeyond => format!("{value:.0}"),
        Figure::SecondsToFairShare => format!("{value:.0} s"),
    }
}

fn side_by_side(table: &Table) -> Grid {
    let places = table.columns.iter().map(|(scenario, load)| format!("{scenario} {:.0} %", load * 100.0));
    let columns: Vec<String> = std::iter::once("policy".to_owned()).chain(places).collect();
    let mut grid = grid(&columns, 1);
    for (policy, cells) in &table.rows {
        grid.add_row(std::iter::once(policy.clone()).chain(cells.iter().map(cell)));
    }
    grid
}

fn cell(cell: &Compared) -> String {
    let value = |ratio: Option<Ratio>| ratio.map_or("-".to_owned(), |ratio| format!("{:.2}", ratio.value));
    let times = format!("{} / {}", value(cell.mean_ratio), value(cell.p99_ratio));
    if cell.error_share > 0.0 { format!("{times}, {:.2} %", cell.error_share * 100.0) } else { times }
}

fn first_of(table: &Table) -> &str {
    table.rows.first().map_or("", |(policy, _)| policy)
}

/// The first `words` columns to the left, figures to the right.
fn grid(columns: &[String], words: usize) -> Grid {
    let mut grid = Grid::new();
    grid.load_style(presets::NOTHING).set_header(columns.to_vec());
    for column in grid.column_iter_mut().skip(words) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    grid
}
