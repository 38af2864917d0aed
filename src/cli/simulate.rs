//! `bellwether simulate`: policies compared in virtual time, on the same requests, in seconds.
//!
//! Where the demo shows that it works, this shows how much it is worth: hours of traffic under several seeds, with
//! confidence intervals, failures on cue, and yardsticks that no real proxy could have. The result goes to standard
//! output and depends on nothing but scenario, seeds and binary; progress goes to standard error.

pub(super) mod html;
mod record;
mod suite;
pub(super) mod table;
mod traffic;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::sim::report::{Plan, execute};
use crate::sim::roster::{self, RosterError};
use crate::sim::scenario::{REQUESTS_MAX, Scenario, ScenarioError, shipped};
use crate::sim::suite::SuiteError;
use crate::sim::trace::{PROFILES, Tally, TraceError};

use self::traffic::TraceArgs;

/// Who competes unless told otherwise: the strongest of the classic policies, and what could be had by hand.
const DEFAULT_POLICIES: &str =
    "least-connections,round-robin,power-of-two,peak-ewma-scan,oracle-weighted-least-connections";

/// Arguments of `simulate`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct SimulateArgs {
    /// A scenario that ships with the program (see --list), or the path of a file
    #[arg(long, value_name = "NAME|FILE", required_unless_present_any = ["list", "trace", "suite", "from_recording"])]
    pub scenario: Option<String>,
    /// Many scenarios with bounds that must be met (see --list), or the path of a file; exit code 1 if one is missed
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["scenario", "policies", "load", "seconds",
        "without_events", "trace", "record"])]
    pub suite: Option<String>,
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
    #[command(flatten)]
    pub(in crate::cli) traffic: TraceArgs,
    /// Write every attempt of the one run that is asked for (one policy, load and seed) to this file, for `train`, in
    /// place of a table
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Write a page with charts to this file, beside the result; greedy-oracle joins the policies, to measure regret
    #[arg(long, value_name = "FILE.html", conflicts_with_all = ["record", "suite"])]
    pub report: Option<PathBuf>,
    /// Answer `advise` from this recording: fit its nodes, show how well the emulation repeats it, try the policies
    #[arg(long, value_name = "FILE",
        conflicts_with_all = ["scenario", "trace", "record", "load", "seconds", "suite"])]
    pub from_recording: Option<PathBuf>,
    /// Runs at the same time [default: one for each core]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub threads: Option<u64>,
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
  bellwether simulate --scenario mine.toml --policies least-connections,peak-ewma --output json
  bellwether simulate --trace AzureLLMInferenceTrace_conv.csv --policies least-connections,adaptive
  bellwether simulate --trace builtin:azure-code --rate 20 --fleet mine.toml
  bellwether simulate --trace samples.jsonl --from 10m --to 30m --speedup 2
  bellwether simulate --suite evidence

Exit codes: 0 fine, 1 a bound of the suite is missed or the output cannot be written, 2 what was asked cannot be.";

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
    /// The suite is wrong, or there is none.
    #[error("--suite {name}: {error}")]
    Suite {
        /// As given.
        name: String,
        /// What is wrong.
        error: SuiteError,
    },
    /// Bounds of the suite were missed; the result was written.
    #[error("{missed} of {all} bounds missed")]
    Missed {
        /// How many.
        missed: usize,
        /// Of how many.
        all: usize,
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
    /// No built-in workload of that name.
    #[error("--trace: no such workload is built in; those are {0}")]
    NoTrace(String),
    /// A part was asked for of what is drawn.
    #[error("--from, --to: a built-in workload is drawn and has no parts; --seconds says how long it is")]
    NoWindow,
    /// Writing it would destroy it.
    #[error("--record {}: that is the trace itself", .0.display())]
    RecordOverTrace(PathBuf),
    /// The file of the trace changed while it was replayed.
    #[error("--trace: {0}; the result would be worthless")]
    TraceChanged(String),
    /// The recording cannot be written.
    #[error("--record {}: {error}", path.display())]
    Record {
        /// Which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The page cannot be written.
    #[error("--report {}: {error}", path.display())]
    Page {
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
pub fn simulate(args: &SimulateArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), SimulateError> {
    if args.list {
        return Ok(list(out)?);
    }
    if let Some(name) = &args.suite {
        return suite::run(args, name, out);
    }
    let plan = plan(args)?;
    if let Some(trace) = &plan.scenario.trace {
        // That a remark cannot be written is no reason to stop.
        let _ = remark(&trace.survey().read, err);
    }
    if let Some(path) = &args.record {
        if args.traffic.is_from(path) {
            return Err(SimulateError::RecordOverTrace(path.clone()));
        }
        record::record(&plan, path, out)?;
        return Ok(out.flush()?);
    }
    let report = watched(|progress| match &args.report {
        Some(path) => html::run(&plan, path, progress),
        None => execute(&plan, progress).map_err(SimulateError::Policy),
    })?;
    if let Some(trouble) = plan.scenario.trace.as_ref().and_then(|trace| trace.trouble()) {
        return Err(SimulateError::TraceChanged(trouble.to_owned()));
    }
    match args.output {
        SimulateOutput::Table => table::write(&report, out)?,
        SimulateOutput::Json => json(&report, out)?,
    }
    Ok(out.flush()?)
}

/// Tells what of a trace was left out.
fn remark(read: &Tally, err: &mut dyn Write) -> io::Result<()> {
    if read.bad > 0 {
        writeln!(err, "left out {} lines of the trace that are no requests:", read.bad)?;
        for bad in &read.bad_lines {
            writeln!(err, "  line {}: {}", bad.line, bad.reason)?;
        }
        if read.bad > read.bad_lines.len() as u64 {
            writeln!(err, "  ...")?;
        }
    }
    if read.left_out > 0 {
        writeln!(err, "left out {} attempts of the recording that failed or told no output tokens", read.left_out)?;
    }
    if read.restarts > 0 {
        writeln!(err, "the recorder was started anew {} times; its runs follow each other", read.restarts)?;
    }
    if read.moved > 0 {
        writeln!(err, "{} requests of the trace were too far out of order and come later", read.moved)?;
    }
    Ok(())
}

fn json(report: &impl serde::Serialize, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}

fn seeds(args: &SimulateArgs) -> Vec<u64> {
    (0..args.seeds).map(|at| args.seed.wrapping_add(at)).collect()
}

pub(super) fn threads(args: &SimulateArgs) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    args.threads.map_or_else(cores, |threads| threads as usize)
}

fn list(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "Scenarios:")?;
    for name in shipped() {
        if let Some(Ok(scenario)) = Scenario::named(name) {
            writeln!(out, "  {name:18} {}", scenario.about)?;
        }
    }
    writeln!(out, "Suites:")?;
    suite::list(out)?;
    writeln!(out, "Workloads for --trace:")?;
    for profile in PROFILES {
        writeln!(out, "  builtin:{:18} {}", profile.name, profile.about)?;
    }
    writeln!(out, "Policies:\n  {}", roster::names().join(", "))
}

fn plan(args: &SimulateArgs) -> Result<Plan, SimulateError> {
    let out_of_range =
        |name, value, allowed: &str| Err(SimulateError::Range { name, value, allowed: allowed.to_owned() });
    let trace = args.traffic.read()?;
    let mut scenario = match (&args.scenario, &trace) {
        (None, Some(_)) => args.traffic.scenario()?,
        (name, _) => load(name.as_deref().unwrap_or_default())?,
    };
    if let Some(trace) = trace {
        scenario = args.traffic.apply(scenario, trace, &args.load)?;
    } else if !args.load.is_empty() {
        scenario.loads.clone_from(&args.load);
    }
    if let Some(seconds) = args.seconds {
        if !(seconds > 0.0 && seconds <= 1e6) {
            return out_of_range("seconds", seconds, "above 0 and at most 1,000,000");
        }
        scenario = scenario.lasting(Duration::from_secs_f64(seconds));
    }
    if args.without_events {
        scenario = scenario.without_incidents();
    }
    if let (None, None, Some(once)) = (args.seconds, &args.scenario, TraceArgs::once(&scenario)) {
        scenario = scenario.lasting(once);
    }
    let loads = scenario.loads.clone();
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
    let mut policies: Vec<String> = args.policies.iter().map(|name| name.trim().to_owned()).collect();
    if args.report.is_some() && !policies.iter().any(|policy| policy == roster::GREEDY) {
        policies.push(roster::GREEDY.to_owned());
    }
    Ok(Plan { scenario, loads, policies, seeds: seeds(args), threads: threads(args), promise: None })
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

/// Runs something with a progress line where somebody watches.
fn watched<T>(run: impl FnOnce(&(dyn Fn(usize, usize) + Sync)) -> T) -> T {
    const WIDTH: usize = 40;
    let watched = io::stderr().is_terminal();
    let done = run(&|done, all| {
        if watched {
            let filled = done * WIDTH / all.max(1);
            // That a progress line cannot be written is no reason to stop.
            let _ = write!(io::stderr(), "\r[{:<WIDTH$}] {done}/{all} runs", "#".repeat(filled));
        }
    });
    if watched {
        let _ = write!(io::stderr(), "\r{:80}\r", "");
    }
    done
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
        simulate(&args, &mut out, &mut io::sink()).map_err(|error| error.to_string())?;
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
        let onto_itself = line.replace("trace.csv", "samples.jsonl");
        assert!(output(&onto_itself).expect_err("refused").contains("the trace itself"));
        let again = onto_itself.replacen("samples.jsonl --record", "samples.jsonl --bad-rows-max 0 --record", 1);
        let again = again.replace(&format!("--record {}", path("samples.jsonl")), "--output json");
        let report: serde_json::Value = serde_json::from_str(&output(&again).expect("sound")).expect("JSON");
        assert!(report["rows"][0]["requests"].as_u64() > Some(400), "a recording is a trace too: {report}");
    }

    #[test]
    fn a_page_is_written_beside_the_table_with_the_oracle_in_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("out.html");
        let line = "--scenario llm-mixed --policies least-connections --load 0.2 --seconds 20 --seeds 1 --report";
        let table = output(&format!("{line} {}", path.display())).expect("sound");
        assert!(table.contains("greedy-oracle"), "{table}");
        let html = fs::read_to_string(&path).expect("written");
        assert!(html.contains("Regret") && html.contains("least-connections"), "{}", html.len());
        assert!(output(&format!("{line} {}/no/such", path.display())).expect_err("refused").contains("--report"));
    }

    #[test]
    fn the_list_names_everything() {
        let list = output("--list").expect("no scenario needed");
        assert!(shipped().iter().chain(&roster::names()).all(|name| list.contains(name)), "{list}");
    }
}
