//! `bellwether demo`: a fleet of emulated model servers, the real proxy before it, and load, in one process.
//!
//! Each policy routes the same requests at the same times over real sockets; the closing table compares what clients
//! saw. The fleet is the study's, faster, so that half a minute shows a steady state. Emulators, proxy and load
//! have threads of their own, as separate machines would. What this is not: a benchmark. Everything shares the cores
//! of one machine; how late the load itself was is printed with the result, so that a machine too slow for it shows.

mod board;
mod report;

use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::time::Instant;

use self::board::Board;
use self::report::Round;
use crate::config::Settings;
use crate::emulator::{EmulatedFleet, Emulator};
use crate::load::{self, LoadSpec, Recorder, Stop, Summary};
use crate::node::NodeSpec;
use crate::policy::{self, PolicyId};
use crate::server::{Server, StartError};
use crate::sim::SimFleet;

/// Sequences at once per emulated node: few enough that half a minute fills them.
const SLOTS_MAX: u32 = 64;
/// Share of a run that is left out of its figures: an empty fleet flatters every policy.
const WARM_UP: f64 = 0.1;
/// How long after the last request answers are waited for; a policy that overloads nodes would wait for minutes.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the fleet may take to notice that the clients of the last policy are gone.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);
/// Requests in flight at most; the proxy's own bound per node is the same.
const OUTSTANDING_MAX: usize = 4_096;
/// File descriptors per request in flight: one of the load, two of the proxy, one of the node, and one to spare.
const FILES_PER_REQUEST: u64 = 5;
/// Seconds per policy under `--quick`.
const QUICK_SECONDS: u64 = 8;
/// Redrawing the table on a terminal.
const REDRAW_EVERY: Duration = Duration::from_millis(500);
/// A line where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Arguments of `demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Seconds of load per policy
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    /// Load as a share of what the fleet can compute, above 0 and at most 2
    #[arg(long, default_value_t = 0.6)]
    pub load: f64,
    /// Policies to compare, in this order
    #[arg(long, value_delimiter = ',', value_parser = policy::names(), default_values = DEFAULT_POLICIES)]
    pub policies: Vec<String>,
    /// Seed of arrivals, prompt and output lengths
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How many times faster than the study's the fleet is, above 0 and at most 100
    #[arg(long, default_value_t = 10.0)]
    pub faster: f64,
    /// Eight seconds per policy: enough to see it work, too short for its figures to mean much
    #[arg(long)]
    pub quick: bool,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = DemoOutput::Table)]
    pub output: DemoOutput,
}

/// What `demo` compares unless told otherwise.
const DEFAULT_POLICIES: [&str; 3] = ["round-robin", "least-connections", "adaptive"];

/// How the result of `demo` is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DemoOutput {
    /// Tables for people, live on a terminal.
    Table,
    /// One JSON object at the end; progress goes to standard error.
    Json,
}

/// Why there was no demo.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// An argument is out of its range.
    #[error("--{name} must be above 0 and at most {max}, not {value}")]
    Range {
        /// Of which argument.
        name: &'static str,
        /// What it was.
        value: f64,
        /// What it may be.
        max: f64,
    },
    /// No such policy.
    #[error("no policy is named {0:?}")]
    Policy(String),
    /// Emulators, load, or the terminal.
    #[error("the demo failed: {0}")]
    Io(#[from] io::Error),
    /// The proxy did not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl DemoArgs {
    fn check(&self) -> Result<Vec<PolicyId>, DemoError> {
        for (name, value, max) in [("load", self.load, 2.0), ("faster", self.faster, 100.0)] {
            if !(value > 0.0 && value <= max) {
                return Err(DemoError::Range { name, value, max });
            }
        }
        let named = |name: &String| PolicyId::named(name).ok_or_else(|| DemoError::Policy(name.clone()));
        self.policies.iter().map(named).collect()
    }

    fn duration(&self) -> Duration {
        Duration::from_secs(if self.quick { self.seconds.min(QUICK_SECONDS) } else { self.seconds })
    }
}

/// Everything that runs through all policies.
struct Stage {
    emulators: EmulatedFleet,
    server: Server,
    load: LoadSpec,
    capacity_rps: f64,
}

/// Runs the demo and prints it. Ctrl-C ends it early, with what there is.
///
/// # Errors
/// See [`DemoError`].
pub fn demo(args: &DemoArgs) -> Result<(), DemoError> {
    let policies = args.check()?;
    let stage = Stage::set_up(args, policies.first().copied())?;
    let mut out: Box<dyn Write> = match args.output {
        DemoOutput::Table => Box::new(io::stdout()),
        DemoOutput::Json => Box::new(io::stderr()),
    };
    let live = args.output == DemoOutput::Table && io::stdout().is_terminal();
    report::opening(&mut out, &stage, args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rounds = runtime.block_on(stage.play_all(&policies, live, &mut out))?;
    match args.output {
        DemoOutput::Table => report::closing(&mut out, args, &rounds)?,
        DemoOutput::Json => serde_json::to_writer_pretty(io::stdout(), &rounds).map_err(io::Error::from)?,
    }
    stage.server.stop(Duration::from_secs(1));
    Ok(())
}

impl Stage {
    fn set_up(args: &DemoArgs, policy: Option<PolicyId>) -> Result<Stage, DemoError> {
        // Fewer files than wanted means fewer requests in flight, no more.
        let files = rlimit::increase_nofile_limit(FILES_PER_REQUEST * OUTSTANDING_MAX as u64 + 1_000).unwrap_or(1_024);
        let outstanding_max = OUTSTANDING_MAX.min((files.saturating_sub(500) / FILES_PER_REQUEST) as usize).max(1);
        let study = SimFleet::named("study").unwrap_or_default();
        let fleet = study.faster(args.faster).with_slots_at_most(SLOTS_MAX);
        let emulators = EmulatedFleet::start(&fleet, args.seed)?;
        let node = |emulator: &Emulator| NodeSpec::new(emulator.url()).named(emulator.name());
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut settings = Settings { listen: any_port, ..Settings::default() };
        settings.admin.listen = any_port.into();
        settings.policy = policy.unwrap_or(settings.policy);
        settings.nodes = emulators.nodes().iter().map(node).collect();
        settings.log.access = false;
        let server = Server::start(settings)?;
        let capacity_rps = fleet.capacity_rps();
        let load = LoadSpec {
            outstanding_max,
            drain: DRAIN,
            seed: args.seed,
            ..LoadSpec::new(server.address(), args.load * capacity_rps, args.duration())
        };
        Ok(Stage { emulators, server, load, capacity_rps })
    }

    /// Every policy's turn, until interrupted.
    async fn play_all(&self, policies: &[PolicyId], live: bool, out: &mut dyn Write) -> Result<Vec<Round>, DemoError> {
        let stop = Stop::default();
        let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
        let mut rounds = Vec::new();
        for policy in policies {
            let round = {
                let mut turn = std::pin::pin!(self.play(*policy, live, out, &stop));
                tokio::select! {
                    round = &mut turn => round?,
                    signal = &mut interrupt => {
                        signal?;
                        stop.stop();
                        turn.await?
                    }
                }
            };
            rounds.push(round);
            if stop.is_stopped() {
                writeln!(out, "\nInterrupted: the last policy's figures are those until then.")?;
                break;
            }
        }
        Ok(rounds)
    }

    /// One policy's turn.
    async fn play(&self, policy: PolicyId, live: bool, out: &mut dyn Write, stop: &Stop) -> Result<Round, DemoError> {
        let app = self.server.app();
        app.balancer.set_policy(policy);
        let recorder = Arc::new(Recorder::default());
        let mut running = start_load(self.load.clone(), Arc::clone(&recorder), stop.clone())?;
        let mut board = Board::new(policy.name(), self.load.duration, live, app);
        let mut look = tokio::time::interval(if live { REDRAW_EVERY } else { LINE_EVERY });
        look.tick().await;
        loop {
            tokio::select! {
                _ = &mut running => break,
                _ = look.tick() => board.show(out, app, &recorder)?,
            }
        }
        self.wait_until_empty().await;
        board.show(out, app, &recorder)?;
        let summary = Summary::of(&recorder.since(0), self.load.duration.mul_f64(WARM_UP));
        Ok(Round { policy: policy.name(), nodes: board.shares(app), summary })
    }

    /// Waits, within bounds, until nothing of this policy's requests is left to disturb the next one's.
    async fn wait_until_empty(&self) {
        let until = Instant::now() + EMPTY_WITHIN;
        for node in self.emulators.nodes() {
            let empty = node.wait_until(|counters| counters.live == 0);
            if tokio::time::timeout_at(until, empty).await.is_err() {
                tracing::warn!(node = node.name(), "still computes for clients that are gone");
            }
        }
    }
}

/// Runs a load on a thread and runtime of its own; resolves when it is over.
fn start_load(spec: LoadSpec, recorder: Arc<Recorder>, stop: Stop) -> io::Result<tokio::sync::oneshot::Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ended, over) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("load".to_owned()).spawn(move || {
        runtime.block_on(load::run(spec, &recorder, &stop));
        drop(runtime);
        // Nobody waits any more if the demo failed meanwhile.
        let _ = ended.send(());
    })?;
    Ok(over)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        args: DemoArgs,
    }

    fn parse(line: &str) -> Result<DemoArgs, clap::Error> {
        Alone::try_parse_from(std::iter::once("demo").chain(line.split_whitespace())).map(|alone| alone.args)
    }

    #[test]
    fn the_default_compares_policies_that_exist() {
        let args = parse("").expect("defaults");
        assert_eq!(args.check().expect("policies").len(), DEFAULT_POLICIES.len());
        assert_eq!((args.duration(), args.output), (Duration::from_secs(30), DemoOutput::Table));
        assert_eq!(parse("--quick").expect("quick").duration(), Duration::from_secs(QUICK_SECONDS));
    }

    #[test]
    fn nonsense_is_refused_before_anything_starts() {
        assert!(parse("--policies best").is_err());
        assert!(parse("--seconds 0").is_err());
        for line in ["--load 0", "--load 3", "--faster NaN", "--load=-1"] {
            assert!(matches!(parse(line).expect("a number").check(), Err(DemoError::Range { .. })), "{line}");
        }
    }
}
