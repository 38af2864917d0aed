//! How figures are shown: a table with notes for people, one JSON object for programs.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};

/// The result of one part.
#[derive(Debug)]
pub(crate) struct Section {
    /// Key in the JSON output.
    pub(crate) name: &'static str,
    /// What was measured, in one line.
    pub(crate) title: String,
    /// What a reader must know to believe the figures.
    pub(crate) notes: Vec<String>,
    /// Heads of the columns; the first column names the row.
    pub(crate) columns: Vec<&'static str>,
    /// Cells as shown.
    pub(crate) rows: Vec<Vec<String>>,
    /// The same with full precision.
    pub(crate) data: Value,
}

pub(crate) fn print_text(section: &Section) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(section.columns.iter().copied());
    for row in &section.rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("\n{}: {}\n{table}", section.name, section.title);
    for note in &section.notes {
        println!("  {note}");
    }
}

pub(crate) fn print_json(sections: &[Section]) {
    let of = |section: &Section| {
        let Section { name, title, notes, data, .. } = section;
        ((*name).to_owned(), json!({"title": title, "notes": notes, "figures": data}))
    };
    let all: Map<String, Value> = sections.iter().map(of).collect();
    println!("{:#}", Value::Object(all));
}

/// The middle of the values; of an even number the mean of the two in the middle. `None` of no values.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get(sorted.len().saturating_sub(1) / 2)?, sorted.get(sorted.len() / 2)?);
    Some((low + high) / 2.0)
}

/// A figure with so many decimals, or a dash.
pub(crate) fn cell(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}

/// Lowest and highest, as one cell.
pub(crate) fn range(values: &[f64], decimals: usize) -> String {
    let low = values.iter().copied().reduce(f64::min);
    let high = values.iter().copied().reduce(f64::max);
    format!("{} .. {}", cell(low, decimals), cell(high, decimals))
}

/// A target and whether it was met.
pub(crate) fn verdict(value: Option<f64>, target: f64) -> &'static str {
    match value {
        Some(value) if value <= target => "met",
        Some(_) => "MISSED",
        None => "-",
    }
}
