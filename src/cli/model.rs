//! `bellwether model`: what a running proxy has learned, as tables; making it forget or save that.

use std::io;

use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, Table, presets};
use http::Method;
use serde_json::Value;

use super::remote::{RemoteArgs, shown};
use super::{Exit, Output, Screen};
use crate::admin::span;
use crate::config::Env;

/// A coefficient below this, in seconds, is not put into words: the table is about what matters.
const TELLING_S: f64 = 1e-6;

/// Show, forget or save what a running proxy has learned
#[derive(Debug, Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  bellwether model show
  bellwether model show --admin 10.0.0.5:8081 --token-env BELLWETHER_ADMIN_TOKEN --output json
  bellwether model reset --token-file /run/secrets/operate

Exit codes: 0 fine, 1 the proxy does not answer or refuses, 2 wrong usage."
)]
pub(super) struct Model {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Coefficients, evidence, capacity and state per node, and whether the model routes
    Show(Ask),
    /// Forget everything that was learned; the fallback routes until enough was learned anew
    Reset(Ask),
    /// Save what was learned now
    Snapshot(Ask),
}

#[derive(Debug, Args)]
struct Ask {
    #[command(flatten)]
    remote: RemoteArgs,
    /// For people or for programs
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Model {
    pub(super) fn execute(&self, env: &Env, screen: &mut Screen<'_>) -> io::Result<Exit> {
        let (ask, method, path) = match &self.what {
            What::Show(ask) => (ask, Method::GET, "/api/v1/model"),
            What::Reset(ask) => (ask, Method::POST, "/api/v1/model/reset"),
            What::Snapshot(ask) => (ask, Method::POST, "/api/v1/model/snapshot"),
        };
        let answer = match ask.remote.remote(env).and_then(|remote| remote.ask(method, path, None)) {
            Ok(answer) => answer,
            Err(error) => return Ok(error.show(screen)),
        };
        match (ask.output, &self.what) {
            (Output::Json, _) => writeln!(screen.out, "{answer:#}")?,
            (Output::Text, What::Show(_)) => write_model(&answer, screen)?,
            (Output::Text, What::Reset(_)) => {
                writeln!(screen.out, "forgotten; the fallback routes until enough was learned")?
            }
            (Output::Text, What::Snapshot(_)) => match answer["path"].as_str() {
                Some(_) => writeln!(screen.out, "saved {} nodes to {}", answer["nodes"], shown(&answer["path"]))?,
                None => writeln!(screen.out, "kept in memory only: adaptive.state_dir is off")?,
            },
        }
        Ok(Exit::Fine)
    }
}

fn write_model(model: &Value, screen: &mut Screen<'_>) -> io::Result<()> {
    let out = &mut *screen.out;
    let (standing, knobs, samples) = (&model["standing"], &model["knobs"], &model["samples"]);
    let detail = shown(&standing["detail"]);
    match model["age_s"].as_f64() {
        Some(age_s) if age_s < 0.001 => writeln!(out, "model version {}, made just now: {detail}", model["version"])?,
        Some(age_s) => writeln!(out, "model version {}, made {} ago: {detail}", model["version"], span(age_s))?,
        None => writeln!(out, "no model yet: {detail}")?,
    }
    if let (Some(own), Some(baseline)) = (standing["model_error"].as_f64(), standing["baseline_error"].as_f64()) {
        writeln!(out, "mean error |ln(predicted / observed)|: {own:.3}, of a simple moving average: {baseline:.3}")?;
    }
    let unfit: u64 = samples["unfit"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
    writeln!(
        out,
        "learned from {} attempts, {unfit} said nothing, {} were dropped",
        samples["labels"], samples["dropped"]
    )?;
    writeln!(
        out,
        "objective {}, social {}, explore {}, shadow {}, fallback {}",
        shown(&knobs["objective"]),
        knobs["social"],
        knobs["explore"],
        knobs["shadow"],
        shown(&knobs["fallback"])
    )?;
    if model["trainer"]["up"] == false {
        writeln!(out, "the trainer does not work: nothing is learned")?;
    }
    let nodes = model["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if nodes.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", node_table(nodes).trim_fmt())?;
    writeln!(out, "\n{}", target_table(model, nodes).trim_fmt())
}

fn node_table(nodes: &[Value]) -> Table {
    let mut table = table(&["node", "typical now", "capacity", "slots", "penalty", "ramp", "silent"], 1);
    for node in nodes {
        let capacity = match (node["capacity"]["rps"].as_f64(), &node["capacity"]["is_lower_bound"]) {
            (Some(rps), Value::Bool(true)) => format!(">= {rps:.1}/s"),
            (Some(rps), _) => format!("{rps:.1}/s"),
            (None, _) => "-".to_owned(),
        };
        table.add_row([
            shown(&node["name"]),
            time(&node["predicted_s"]),
            capacity,
            number(&node["slot_limit"], 1),
            number(&node["penalty"], 2),
            node["ramp_limit"].as_u64().map_or("-".to_owned(), |limit| format!("<= {limit}")),
            shown(&node["silent"]),
        ]);
    }
    table
}

fn target_table(model: &Value, nodes: &[Value]) -> Table {
    let mut table = table(&["node", "target", "speed", "drift", "evidence", "in words"], 2);
    if let Some(words) = table.column_mut(5) {
        words.set_cell_alignment(CellAlignment::Left);
    }
    let fleet = (Value::from("(fleet)"), &model["fleet"]);
    for (name, targets) in
        std::iter::once(fleet).chain(nodes.iter().map(|node| (node["name"].clone(), &node["targets"])))
    {
        for target in targets.as_array().into_iter().flatten() {
            let coefficients = target["coefficients"].as_array().into_iter().flatten();
            let telling = coefficients.filter(|one| one["value"].as_f64().is_some_and(|value| value >= TELLING_S));
            let words: Vec<String> = telling.map(|one| shown(&one["words"])).collect();
            table.add_row([
                shown(&name),
                shown(&target["target"]),
                number(&target["speed_factor"], 2),
                number(&target["drift_factor"], 2),
                number(&target["evidence"], 0),
                words.join("\n"),
            ]);
        }
    }
    table
}

/// The first `words` columns to the left, figures to the right.
pub(super) fn table(columns: &[&str], words: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns);
    for column in table.column_iter_mut().skip(words) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Seconds with a unit; a dash for what is not known.
pub(super) fn time(value: &Value) -> String {
    value.as_f64().map_or("-".to_owned(), span)
}

/// So many digits behind the point; a dash for what is not known.
pub(super) fn number(value: &Value, digits: usize) -> String {
    value.as_f64().map_or("-".to_owned(), |number| format!("{number:.digits$}"))
}
