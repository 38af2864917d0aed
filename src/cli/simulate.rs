//! `bellwether simulate`: policies compared in virtual time, on the same requests, in seconds.
//!
//! Where the demo shows that it works, this shows how much it is worth: hours of traffic under several seeds, with
//! confidence intervals, failures on cue, and yardsticks that no real proxy could have. The result goes to standard
//! output and depends on nothing but scenario, seeds and binary; progress goes to standard error.

mod record;
mod table;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::sim::report::{Plan, Report, execute};
use crate::sim::roster::{self, RosterError};
use crate::sim::scenario::{REQUESTS_MAX, Scenario, ScenarioError, shipped};
use crate::sim::trace::{Trace, TraceError};

/// Who competes unless told otherwise: the strongest of the classic policies, and what could be had by hand.
const DEFAULT_POLICIES: &str =
    "least-connections,round-robin,power-of-two,peak-ewma-scan,oracle-weighted-least-connections";

/// Arguments of `simulate`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct SimulateArgs {
    /// A scenario that ships with the program (see --list), or the path of a file
    #[arg(long, value_name = "NAME|FILE", required_unless_present = "list")]
    pub scenario: Option<String>,
    /// Policies to compare; ratios are to the first
    #[arg(long, value_delimiter = ',', default_value = DEFAULT_POLICIES)]
    pub policies: Vec<String>,
    /// How many seeds, from --seed on
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Loads as shares of the fleet's capacity, in place of the scenario's
    #[arg(long, value_delimiter = ',')]
    pub load: Vec<f64>,
    /// Seconds during which requests arrive, in place of the scenario's
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Leave out the scenario's events; nodes that would join never do
    #[arg(long)]
    pub without_events: bool,
    /// Requests of a production trace (rows of TIMESTAMP,ContextTokens,GeneratedTokens) in place of drawn ones, at the
    /// trace's own rhythm, stretched to the load
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Write every attempt of the one run that is asked for (one policy, load and seed) to this file, for `train`, in
    /// place of a table
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Runs at the same time
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub threads: u64,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = SimulateOutput::Table)]
    pub output: SimulateOutput,
    /// List scenarios and policies, and do nothing else
    #[arg(long)]
    pub list: bool,
}

const EXAMPLES: &str = "\
Examples:
  bellwether simulate --list
  bellwether simulate --scenario llm-mixed --load 0.5,0.8 --seeds 3
  bellwether simulate --scenario mine.toml --policies least-connections,peak-ewma --output json";

/// How the result of `simulate` is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SimulateOutput {
    /// For people.
    Table,
    /// One JSON object.
    Json,
}

/// Why nothing was simulated.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// Neither shipped nor a file.
    #[error("{name}: {error}, and no scenario of that name ships with the program; those are {known}")]
    NoScenario {
        /// As given.
        name: String,
        /// What opening it as a file said.
        error: io::Error,
        /// Shipped ones.
        known: String,
    },
    /// The file is wrong.
    #[error("{name}: {error}")]
    Scenario {
        /// Which file.
        name: String,
        /// What is wrong.
        error: ScenarioError,
    },
    /// An argument is out of its range.
    #[error("--{name} {value}: {allowed}")]
    Range {
        /// Of which argument.
        name: &'static str,
        /// What it was.
        value: f64,
        /// What it may be.
        allowed: String,
    },
    /// The trace is wrong.
    #[error("--trace {}: {error}", path.display())]
    Trace {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        error: TraceError,
    },
    /// A trace has tokens, and the servers know none.
    #[error("--trace: {0} has servers without tokens")]
    TraceOnPlain(String),
    /// The recording cannot be written.
    #[error("--record {}: {error}", path.display())]
    Record {
        /// Which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// More than one run cannot be one recording.
    #[error("--record: takes one policy, one load and one seed (--policies NAME --load X --seeds 1)")]
    NotOne,
    /// A policy is wrong.
    #[error("--policies: {0}")]
    Policy(#[from] RosterError),
    /// The result could not be written.
    #[error("cannot write the result: {0}")]
    Io(#[from] io::Error),
}

/// Runs the verb; the result goes to `out`.
///
/// # Errors
/// What was asked cannot be, or the output cannot be written.
pub fn simulate(args: &SimulateArgs, out: &mut dyn Write) -> Result<(), SimulateError> {
    if args.list {
        return Ok(list(out)?);
    }
    let plan = plan(args)?;
    if let Some(path) = &args.record {
        record::record(&plan, path, out)?;
        return Ok(out.flush()?);
    }
    let report = run(&plan)?;
    match args.output {
        SimulateOutput::Table => table::write(&report, out)?,
        SimulateOutput::Json => {
            serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
            writeln!(out)?;
        }
    }
    Ok(out.flush()?)
}

fn list(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "Scenarios:")?;
    for name in shipped() {
        if let Some(Ok(scenario)) = Scenario::named(name) {
            writeln!(out, "  {name:18} {}", scenario.about)?;
        }
    }
    writeln!(out, "Policies:\n  {}", roster::names().join(", "))
}

fn plan(args: &SimulateArgs) -> Result<Plan, SimulateError> {
    let mut scenario = load(args.scenario.as_deref().unwrap_or_default())?;
    let out_of_range =
        |name, value, allowed: &str| Err(SimulateError::Range { name, value, allowed: allowed.to_owned() });
    if let Some(seconds) = args.seconds {
        if !(seconds > 0.0 && seconds <= 1e6) {
            return out_of_range("seconds", seconds, "above 0 and at most 1,000,000");
        }
        scenario = scenario.lasting(Duration::from_secs_f64(seconds));
    }
    if args.without_events {
        scenario = scenario.without_incidents();
    }
    if let Some(path) = &args.trace {
        let trace = Trace::read(path).map_err(|error| SimulateError::Trace { path: path.clone(), error })?;
        let name = scenario.name.clone();
        scenario = scenario.replaying(Arc::new(trace)).ok_or(SimulateError::TraceOnPlain(name))?;
    }
    let loads = if args.load.is_empty() { scenario.loads.clone() } else { args.load.clone() };
    for load in &loads {
        if !(*load > 0.0 && *load <= 10.0) {
            return out_of_range("load", *load, "above 0 and at most 10");
        }
        let requests = scenario.expected_requests(*load);
        if requests > REQUESTS_MAX {
            let seconds = scenario.length.as_secs_f64();
            return out_of_range("seconds", seconds, &format!("a run has at most {REQUESTS_MAX:.0} requests"));
        }
    }
    let seeds = (0..args.seeds).map(|at| args.seed.wrapping_add(at)).collect();
    let policies = args.policies.iter().map(|name| name.trim().to_owned()).collect();
    Ok(Plan { scenario, loads, policies, seeds, threads: args.threads as usize })
}

/// A shipped scenario, or a file.
fn load(name: &str) -> Result<Scenario, SimulateError> {
    let wrong = |error| SimulateError::Scenario { name: name.to_owned(), error };
    if let Some(scenario) = Scenario::named(name) {
        return scenario.map_err(wrong);
    }
    let text = fs::read_to_string(name).map_err(|error| SimulateError::NoScenario {
        name: name.to_owned(),
        error,
        known: shipped().join(", "),
    })?;
    let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy();
    Scenario::parse(&stem, &text).map_err(wrong)
}

/// Runs the plan, with a progress line where somebody watches.
fn run(plan: &Plan) -> Result<Report, RosterError> {
    const WIDTH: usize = 40;
    let watched = io::stderr().is_terminal();
    let report = execute(plan, &|done, all| {
        if watched {
            let filled = done * WIDTH / all.max(1);
            // That a progress line cannot be written is no reason to stop.
            let _ = write!(io::stderr(), "\r[{:<WIDTH$}] {done}/{all} runs", "#".repeat(filled));
        }
    });
    if watched {
        let _ = write!(io::stderr(), "\r{:80}\r", "");
    }
    report
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn output(line: &str) -> Result<String, String> {
        let args = Line::try_parse_from(std::iter::once("simulate").chain(line.split_whitespace()));
        let args = args.map_err(|error| error.to_string())?.args;
        let mut out = Vec::new();
        simulate(&args, &mut out).map_err(|error| error.to_string())?;
        String::from_utf8(out).map_err(|error| error.to_string())
    }

    #[test]
    fn one_line_gives_a_table_and_the_same_line_the_same_bytes() {
        let line = "--scenario plain-mixed --policies least-connections,greedy-oracle --load 0.3 --seconds 3 --seeds 2";
        let table = output(line).expect("sound");
        for word in ["plain-mixed", "30 %", "least-connections", "greedy-oracle", "p99.9", "errors", "0.00 %"] {
            assert!(table.contains(word), "{word} in\n{table}");
        }
        assert_eq!(output(&format!("{line} --threads 1")), Ok(table));
    }

    #[test]
    fn json_has_the_interval_of_the_ratio() {
        let line = "--scenario fail-fast --policies round-robin,c3 --load 0.3 --seconds 3 --seeds 2 --output json";
        let report: serde_json::Value = serde_json::from_str(&output(line).expect("sound")).expect("JSON");
        let ratio = &report["rows"][1]["mean_ratio"];
        let part = |name: &str| ratio[name].as_f64().expect("a number");
        assert!(part("low") <= part("value") && part("value") <= part("high"), "{ratio}");
        assert_eq!(report["rows"][0]["mean_ratio"]["value"], 1.0);
    }

    #[test]
    fn what_cannot_be_simulated_is_refused_with_what_can() {
        assert!(output("").expect_err("refused").contains("--scenario"));
        assert!(output("--scenario no-such").expect_err("refused").contains("llm-mixed"));
        assert!(output("--scenario llm-mixed --policies nobody").expect_err("refused").contains("prequal"));
        assert!(output("--scenario llm-mixed --policies greedy-oracle").expect_err("refused").contains("plain"));
        assert!(output("--scenario llm-mixed --load 0").expect_err("refused").contains("above 0"));
        assert!(output("--scenario llm-mixed --seconds 900000").expect_err("refused").contains("requests"));
    }

    #[test]
    fn a_run_on_a_trace_is_recorded_and_a_model_is_made_of_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name).display().to_string();
        let rows = (0..60).map(|i| format!("2023-11-16 18:00:{i:02}.25,{},{}\n", 200 + 40 * i, 40 + i));
        fs::write(path("trace.csv"), rows.collect::<String>()).expect("written");
        let line = format!(
            "--scenario llm-mixed --policies adaptive --load 0.3 --seconds 90 --seeds 1 --trace {} --record {}",
            path("trace.csv"),
            path("samples.jsonl")
        );
        assert!(output(&line).expect("sound").contains("attempts of adaptive at 30 % load"));
        let rows: Vec<_> = crate::recording::read(dir.path().join("samples.jsonl").as_path()).expect("there").collect();
        let lengths = rows.iter().map(|row| row.as_ref().expect("sound").1.prompt_tokens);
        assert!(rows.len() > 500 && lengths.into_iter().all(|tokens| tokens % 40 == 0), "{}", rows.len());
        let trained = crate::training::train(rows.into_iter(), None).expect("enough");
        assert!(trained.report.model_error < trained.report.baseline_error, "{:?}", trained.report);
        let several = line.replace("--load 0.3", "--load 0.3,0.5");
        assert!(output(&several).expect_err("refused").contains("one load"));
        let plain = line.replace("llm-mixed", "plain-mixed");
        assert!(output(&plain).expect_err("refused").contains("without tokens"));
        let lines = line.replace("trace.csv", "samples.jsonl");
        assert!(output(&lines).expect_err("refused").contains("line 1"));
    }

    #[test]
    fn the_list_names_everything() {
        let list = output("--list").expect("no scenario needed");
        assert!(shipped().iter().chain(&roster::names()).all(|name| list.contains(name)), "{list}");
    }
}
