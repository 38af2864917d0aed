//! `bellwether train`: from a recording to a snapshot that other proxies may start from.
//!
//! What is written is the fleet's curve and what is expected of a request, not the recorded nodes: a prior is for nodes
//! that nobody knows. It takes the place of nothing that was learned on the spot, and is worth twenty samples.

use std::io;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Exit, Screen};
use crate::priors;
use crate::recording;
use crate::state;
use crate::training::{TrainReport, Trained, WARM_UP, train};

/// Make a model to start from out of recorded attempts
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bellwether run --config bellwether.toml --record samples.jsonl
  bellwether train --samples samples.jsonl --out models/mine.json
  bellwether simulate --scenario llm-mixed --policies adaptive --load 0.7 --seeds 1 --record samples.jsonl

In the configuration: [adaptive] prior = \"models/mine.json\"

Exit codes: 0 written, 1 failure at run time, 2 the recording is refused.")]
pub(super) struct Train {
    /// What `run --record` or `simulate --record` has written
    #[arg(long, value_name = "FILE")]
    samples: PathBuf,
    /// Where to write the snapshot
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Start from this snapshot: a path, or one that ships with the program (builtin:NAME)
    #[arg(long, value_name = "FILE|NAME")]
    prior: Option<String>,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = TrainOutput::Text)]
    output: TrainOutput,
}

/// How the result of `train` is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TrainOutput {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

impl Train {
    pub(super) fn execute(self, screen: &mut Screen<'_>) -> io::Result<Exit> {
        let rows = match recording::read(&self.samples) {
            Ok(rows) => rows,
            Err(error) => return Ok(screen.failed(&format!("{}: {error}", self.samples.display()))),
        };
        let prior = match self.prior.as_deref().map(priors::load).transpose() {
            Ok(prior) => prior,
            Err(error) => {
                screen.failed(&error);
                return Ok(Exit::Refused);
            }
        };
        let Trained { snapshot, report } = match train(rows, prior.as_ref()) {
            Ok(trained) => trained,
            Err(error) => {
                screen.failed(&error);
                return Ok(Exit::Refused);
            }
        };
        if let Err(error) = state::write(&self.out, &snapshot.general()) {
            return Ok(screen.failed(&error));
        }
        match self.output {
            TrainOutput::Text => writeln!(screen.out, "{}\nwritten to {}", text(&report), self.out.display())?,
            TrainOutput::Json => writeln!(
                screen.out,
                "{}",
                json!({
                    "rows": report.rows,
                    "labels": report.counts.labels,
                    "nodes": report.nodes,
                    "seconds": report.seconds,
                    "predicted": report.predicted,
                    "model_error": report.model_error,
                    "baseline_error": report.baseline_error,
                    "early_error": report.early_error,
                    "out": self.out.display().to_string(),
                })
            )?,
        }
        Ok(Exit::Fine)
    }
}

fn text(report: &TrainReport) -> String {
    // A mean |ln ratio| of e is a typical factor of exp(e).
    let off = |error: f64| (error.exp() - 1.0) * 100.0;
    format!(
        "{} attempts on {} nodes over {:.0} s, {} of them labels\n\
         predicted before they were learned, without the first {WARM_UP}: {} attempts\n\
         mean |ln(predicted / observed)|: model {:.3} (off by {:.0} %), moving average {:.3} (off by {:.0} %)\n\
         the model on the first {WARM_UP}: {:.3} (off by {:.0} %)",
        report.rows,
        report.nodes,
        report.seconds,
        report.counts.labels,
        report.predicted,
        report.model_error,
        off(report.model_error),
        report.baseline_error,
        off(report.baseline_error),
        report.early_error,
        off(report.early_error),
    )
}
