//! `bellwether advise`: one page about a fleet, from what was recorded of it.

mod page;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::simulate::{SimulateArgs, SimulateOutput, html, threads};
use super::{Exit, Screen};
use crate::advise::advice::{Question, advise};
use crate::advise::headroom::Slo;
use crate::advise::history::History;
use crate::sim::roster::GREEDY;
use crate::sim::scenario::FleetFile;

/// Who is tried unless told otherwise.
const DEFAULT_POLICIES: &str = "adaptive,least-connections,round-robin,weighted-round-robin,power-of-two,peak-ewma,oracle-weighted-least-connections";

/// Say which policy suits recorded traffic best, and how far the fleet reaches
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Advise {
    /// What `run --record` or `simulate --record` has written
    #[arg(long, value_name = "FILE")]
    pub(super) from_recording: PathBuf,
    /// Nodes by name with their capacity_rps, as far as you know it: a file with [[node]] entries, or a scenario
    #[arg(long, value_name = "FILE")]
    pub(super) fleet: Option<PathBuf>,
    /// What users were promised, such as p99=2s or first-byte-p99=500ms: p50 to p999, or mean, of whole answers, or with
    /// first-byte- of first bytes; policies are ranked by it
    #[arg(long, value_name = "TARGET")]
    pub(super) slo: Option<Slo>,
    /// Policies to try beside the recorded one
    #[arg(long, value_delimiter = ',', default_value = DEFAULT_POLICIES)]
    pub(super) policies: Vec<String>,
    /// How many seeds, each with its own choice of blocks of the recording
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=1_000))]
    pub(super) seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Runs at the same time
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(super) threads: u64,
    /// Write a page with this text and with charts to this file, beside the result; greedy-oracle joins the policies
    #[arg(long, value_name = "FILE.html")]
    pub(super) report: Option<PathBuf>,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = AdviseOutput::Text)]
    pub(super) output: AdviseOutput,
}

const EXAMPLES: &str = "\
Examples:
  bellwether run --config bellwether.toml --record samples.jsonl
  bellwether advise --from-recording samples.jsonl --slo p99=2s
  bellwether advise --from-recording samples.jsonl --slo first-byte-p99=500ms
  bellwether advise --from-recording samples.jsonl --fleet capacities.toml --output json
  bellwether advise --from-recording samples.jsonl --report advice.html

Exit codes: 0 fine, 1 failure at run time, 2 the recording or what was asked is refused.";

/// How the result of `advise` is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum AdviseOutput {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

impl Advise {
    /// What `simulate --from-recording` asks: the same, with its own policies and seeds.
    pub(super) fn of_simulate(args: &SimulateArgs, recording: &Path) -> Advise {
        Advise {
            from_recording: recording.to_path_buf(),
            fleet: args.traffic.fleet.as_ref().map(PathBuf::from),
            slo: None,
            policies: args.policies.clone(),
            seeds: args.seeds,
            seed: args.seed,
            threads: threads(args) as u64,
            report: args.report.clone(),
            output: match args.output {
                SimulateOutput::Table => AdviseOutput::Text,
                SimulateOutput::Json => AdviseOutput::Json,
            },
        }
    }

    pub(super) fn execute(self, screen: &mut Screen<'_>) -> io::Result<Exit> {
        let refused = |screen: &mut Screen<'_>, what: String| {
            screen.failed(&what);
            Ok(Exit::Refused)
        };
        let declared = match &self.fleet {
            None => Vec::new(),
            Some(path) => {
                let text = match fs::read_to_string(path) {
                    Ok(text) => text,
                    Err(error) => return refused(screen, format!("--fleet {}: {error}", path.display())),
                };
                match FleetFile::declared(&text) {
                    Ok(declared) => declared,
                    Err(error) => return refused(screen, format!("--fleet {}: {error}", path.display())),
                }
            }
        };
        let history = match History::read(&self.from_recording) {
            Ok(history) => history,
            Err(error) => {
                return refused(screen, format!("--from-recording {}: {error}", self.from_recording.display()));
            }
        };
        for bad in &history.bad {
            writeln!(screen.err, "left out: {bad}")?;
        }
        if history.restarts > 0 {
            writeln!(screen.err, "the proxy was started anew in the recording; only its last run counts")?;
        }
        let mut policies: Vec<String> = self.policies.iter().map(|name| name.trim().to_owned()).collect();
        if self.report.is_some() && !policies.iter().any(|policy| policy == GREEDY) {
            policies.push(GREEDY.to_owned());
        }
        let question = Question {
            policies,
            seeds: (0..self.seeds).map(|at| self.seed.wrapping_add(at)).collect(),
            slo: self.slo,
            declared,
            threads: self.threads as usize,
        };
        let watched = io::stderr().is_terminal();
        let progress = |done: usize, all: usize| {
            if watched {
                // That a progress line cannot be written is no reason to stop.
                let _ = write!(io::stderr(), "\r{done}/{all} runs ");
            }
        };
        let (advice, plan) = match advise(&history, &question, &progress) {
            Ok(answer) => answer,
            Err(error) => return refused(screen, error.to_string()),
        };
        if watched {
            let _ = write!(io::stderr(), "\r{:40}\r", "");
        }
        if let Some(path) = &self.report {
            let mut text = Vec::new();
            page::write(&advice, &mut text)?;
            let text = String::from_utf8_lossy(&text).into_owned();
            if let Err(error) = html::advised(&plan, advice.report.clone(), text, path) {
                return refused(screen, error.to_string());
            }
        }
        match self.output {
            AdviseOutput::Text => page::write(&advice, screen.out)?,
            AdviseOutput::Json => {
                serde_json::to_writer_pretty(&mut *screen.out, &advice).map_err(io::Error::from)?;
                writeln!(screen.out)?;
            }
        }
        screen.out.flush()?;
        Ok(Exit::Fine)
    }
}
