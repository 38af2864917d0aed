//! The table of `simulate`: one block per load, and one for the events of the scenario if it has any.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};

use crate::sim::figures::WINDOWS;
use crate::sim::report::{Report, Row};
use crate::sim::statistics::Ratio;

/// Events that are told one by one.
const EVENTS_MAX: usize = 16;

pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let seeds = report.seeds.len();
    let plural = if seeds == 1 { "" } else { "s" };
    writeln!(out, "{}: {}", report.scenario, report.about)?;
    let (capacity, seconds) = (report.capacity_rps, report.seconds);
    writeln!(
        out,
        "{capacity:.1} requests/s capacity, {seconds:.0} s of arrivals, {seeds} seed{plural}; times are of answered requests"
    )?;
    for of_load in report.rows.chunk_by(|a, b| a.load == b.load) {
        let Some(first) = of_load.first() else { continue };
        writeln!(out, "\nload {:.0} %, ratios to {} with their 95 % confidence", first.load * 100.0, first.policy)?;
        writeln!(out, "{}", figures(of_load).trim_fmt())?;
        let events = first.incidents.len();
        if events > EVENTS_MAX {
            writeln!(out, "\n{events} events, too many to be told one by one: --output json tells them")?;
        } else if events > 0 {
            writeln!(
                out,
                "\nshare of attempts around events, seconds from then; in flight then; errors until the next"
            )?;
            writeln!(out, "{}", incidents(of_load).trim_fmt())?;
        }
    }
    Ok(())
}

pub(in crate::cli) fn figures(rows: &[Row]) -> Table {
    let columns =
        ["policy", "mean", "p50", "p90", "p99", "p99.9", "TTFB", "TTFB p99", "errors", "mean ratio", "p99 ratio"];
    let mut table = table(columns.map(str::to_owned).to_vec(), 1);
    for row in rows {
        let times =
            [row.mean_s, row.p50_s, row.p90_s, row.p99_s, row.p999_s, row.ttfb_mean_s, row.ttfb_p99_s].map(time);
        let mut cells = vec![row.policy.clone()];
        cells.extend(times);
        cells.push(percent(row.error_share, 2));
        cells.extend([ratio(row.mean_ratio), ratio(row.p99_ratio)]);
        table.add_row(cells);
    }
    table
}

fn incidents(rows: &[Row]) -> Table {
    let windows = WINDOWS.iter().map(|(from, to)| format!("{from}..{to}"));
    let mut columns = vec!["policy".to_owned(), "node".to_owned(), "at".to_owned(), "fair".to_owned()];
    columns.extend(windows.chain(["in flight".to_owned(), "errors".to_owned()]));
    let mut table = table(columns, 2);
    for row in rows {
        for incident in &row.incidents {
            let mut cells = vec![row.policy.clone(), incident.node.clone(), format!("{} s", incident.at_s)];
            cells.push(percent(incident.fair_share, 1));
            cells.extend(incident.shares.iter().map(|share| percent(*share, 1)));
            cells.extend([format!("{:.1}", incident.in_flight), format!("{:.1}", incident.errors)]);
            table.add_row(cells);
        }
    }
    table
}

/// The first `words` columns to the left, figures to the right.
fn table(columns: Vec<String>, words: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns);
    for column in table.column_iter_mut().skip(words) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A table with these columns.
pub(in crate::cli) fn listing(columns: &[&str], words: usize) -> Table {
    table(columns.iter().map(|column| (*column).to_owned()).collect(), words)
}

/// Three digits with their unit; a dash where nothing was measured.
pub(in crate::cli) fn time(seconds: f64) -> String {
    match seconds {
        s if s.is_nan() => "-".to_owned(),
        s if s >= 99.95 => format!("{s:.0} s"),
        s if s >= 9.995 => format!("{s:.1} s"),
        s if s >= 0.9995 => format!("{s:.2} s"),
        s if s >= 0.09995 => format!("{:.0} ms", s * 1e3),
        s => format!("{:.1} ms", s * 1e3),
    }
}

pub(in crate::cli) fn percent(share: f64, digits: usize) -> String {
    format!("{:.digits$} %", share * 100.0)
}

pub(in crate::cli) fn ratio(ratio: Option<Ratio>) -> String {
    match ratio {
        None => "-".to_owned(),
        Some(Ratio { value, low: Some(low), high: Some(high) }) => format!("{value:.3} [{low:.3} {high:.3}]"),
        Some(Ratio { value, .. }) => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let shown = [0.0527, 0.4032, 0.99951, 6.412, 49.56, 153.2, f64::NAN].map(time);
        assert_eq!(shown, ["52.7 ms", "403 ms", "1.00 s", "6.41 s", "49.6 s", "153 s", "-"]);
    }
}
