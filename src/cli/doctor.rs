//! `bellwether doctor`: what is wrong with a running instance, its nodes and the machine, and what to do about it.
//!
//! It asks what an operator asks first, in that order: does it answer, does it route as it should, may it open enough
//! files, does it run the configuration that lies there, and do the nodes look from here as they do from there. It
//! changes nothing. Each finding comes with its fix. It does not watch: alerts are Prometheus's work.

mod finding;
mod instance;
mod load;
mod nodes;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::Value;

use self::finding::{Findings, Severity};
use super::remote::{Look, Remote, RemoteArgs, RemoteError};
use super::{Exit, Output, Screen};
use crate::config::{Env, Sources, changes_shown};

/// How long the instance may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer that is read.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Clocks that differ by less do not matter to anything here; `Date` has whole seconds.
const SKEW_MAX: Duration = Duration::from_secs(3);

/// Find out what is wrong with a running proxy, its nodes and the machine
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bellwether doctor
  bellwether doctor --config bellwether.toml
  bellwether doctor --admin 10.0.0.5:8081 --token-env BELLWETHER_ADMIN_TOKEN --output json

The nodes are asked from where this runs: /health, /v1/models and /metrics, nothing that computes.

Exit codes: 0 nothing to do, 1 a problem or a warning, 2 wrong usage.")]
pub(super) struct Doctor {
    #[command(flatten)]
    remote: RemoteArgs,
    /// The configuration file that the instance should run
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long a node may take for one answer
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// For people or for programs
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Doctor {
    pub(super) fn execute(self, env: Env, screen: &mut Screen<'_>) -> io::Result<Exit> {
        let remote = match self.remote.remote(&env) {
            Ok(remote) => remote,
            Err(error) => return Ok(error.show(screen)),
        };
        let mut findings = Findings::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match runtime.block_on(Asked::of(&remote)) {
            Ok(asked) => {
                instance::examine(&asked, &mut findings);
                asked.compare(self.config, env, &mut findings);
                runtime.block_on(nodes::examine(&remote, &asked, self.timeout, &mut findings));
            }
            Err(error) => {
                let fix = "start it, or name the address with --admin and a token with --token-env or --token-file";
                findings.add(Severity::Problem, "instance", error, fix);
                check_file(self.config, env, &mut findings);
            }
        }
        match self.output {
            Output::Text => findings.write(screen.out)?,
            Output::Json => writeln!(screen.out, "{:#}", findings.to_json())?,
        }
        Ok(if findings.worst() >= Severity::Warning { Exit::Failed } else { Exit::Fine })
    }
}

/// What the instance says of itself.
struct Asked {
    ready: Look,
    /// When `ready` came, by our clock.
    asked: SystemTime,
    config: Value,
    nodes: Value,
    policy: Value,
    model: Value,
    /// Metrics in the text format.
    metrics: String,
}

impl Asked {
    async fn of(remote: &Remote) -> Result<Asked, RemoteError> {
        let ready = remote.look("/readyz", PATIENCE, BYTES_MAX).await?;
        let asked = SystemTime::now();
        let metrics = remote.look("/metrics", PATIENCE, BYTES_MAX).await?;
        Ok(Asked {
            ready,
            asked,
            config: remote.get("/api/v1/config").await?,
            nodes: remote.get("/api/v1/nodes").await?,
            policy: remote.get("/api/v1/policy").await?,
            model: remote.get("/api/v1/model").await?,
            metrics: String::from_utf8_lossy(&metrics.body).into_owned(),
        })
    }

    /// The value of a metric without labels.
    fn metric(&self, name: &str) -> Option<f64> {
        let value = self.metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.trim().parse().ok()
    }

    /// The file against what runs.
    fn compare(&self, file: Option<PathBuf>, env: Env, findings: &mut Findings) {
        let about = "configuration";
        let Some(settings) = check_file(file, env, findings) else { return };
        let differing = changes_shown(self.config.clone(), settings);
        if differing.is_empty() {
            findings.fine(about, "the instance runs what the file says");
        }
        for changed in differing {
            let fix = match changed.restart {
                true => {
                    "restart the instance, or correct the file; a flag or a variable of the instance counts before it"
                }
                false => {
                    "reload it (kill -HUP, or POST /api/v1/reload), or correct the file; a flag or a variable of the instance counts before it"
                }
            };
            let value = |value: &Option<Value>| value.as_ref().map_or("nothing".to_owned(), Value::to_string);
            let what = format!("{}: {} runs, the file has {}", changed.key, value(&changed.from), value(&changed.to));
            findings.add(Severity::Warning, about, what, fix);
        }
    }
}

/// The settings of the file as they are shown; `None` if there is no file, or mistakes in it.
fn check_file(file: Option<PathBuf>, env: Env, findings: &mut Findings) -> Option<Value> {
    let file = file?;
    match Sources::new(Some(file.clone()), Vec::new(), env).load() {
        Ok(loaded) => Some(loaded.settings.to_json()),
        Err(errors) => {
            let fix = format!("bellwether check {}", file.display());
            findings.add(Severity::Problem, "configuration", errors, fix);
            None
        }
    }
}

/// A finding about a clock, if it is off.
fn check_clock(about: &str, theirs: Option<SystemTime>, ours: SystemTime, findings: &mut Findings) {
    let Some(theirs) = theirs else { return };
    let skew = theirs.duration_since(ours).unwrap_or_else(|before| before.duration());
    if skew > SKEW_MAX {
        let what = format!("its clock and the one here differ by {} s", skew.as_secs());
        findings.add(Severity::Warning, about, what, "synchronize both clocks (chrony, systemd-timesyncd)");
    }
}
