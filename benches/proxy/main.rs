//! What the data path costs: the real `bellwether` binary as a process, beside real HAProxy and nginx where installed.
//!
//! `cargo bench --bench proxy` measures four things and prints targets beside figures: `cost` (instructions or CPU time
//! per small request), `idle` (memory of 10,000 idle clients), `bulk` (1 GB down and up), `disconnect` (how soon a node
//! hears that its client is gone); `--only watching` a fifth, what it costs to be watched. Options go after `--`: `--seconds`, `--rounds`, `--only cost,idle`, `--peers haproxy,nginx`,
//! `--callgrind`, `--output json`, `--show-configs`. What peers and tools need: `apt install haproxy nginx-light
//! linux-perf strace valgrind`; `taskset` is in util-linux.
//!
//! Every proxy has one thread, round robin, keep-alive on both sides and no access log; `--show-configs` prints the
//! configurations. The order of proxies rotates through the rounds, and ratios are taken within a round, because a shared
//! machine changes from minute to minute. It judges nothing by the clock: a missed target is a word in a table, only
//! a wrong answer or a process that does not start is a failure. What several threads gain, TLS and HTTP/2 are not
//! measured here.

mod bulk;
mod callgrind;
mod client;
mod cost;
mod disconnect;
mod idle;
mod node;
mod peer;
mod perf;
mod process;
mod profile;
mod program;
mod section;
mod watching;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use self::peer::Kind;
use self::program::told_to_stop;
use self::section::{Section, print_json, print_text};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the data path of Bellwether costs, beside HAProxy and nginx
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench proxy --")]
struct Args {
    /// Seconds of load per proxy and round
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Rounds, of which the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Measure only these
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Compare with these; `--peers none` with nobody
    #[arg(long, value_enum, value_delimiter = ',', default_value = "haproxy,nginx")]
    peers: Vec<Peer>,
    /// Also count user instructions per request under callgrind and system calls under strace, where perf does not count
    #[arg(long)]
    callgrind: bool,
    /// Idle clients to hold
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=25_000))]
    clients: u32,
    /// Size of the large bodies, in MB of 1,000,000 bytes
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    bulk_mb: u64,
    /// How results are written
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    /// Print the configurations of all proxies and measure nothing
    #[arg(long)]
    show_configs: bool,
    /// Given by `cargo bench`; without it, as under `cargo test --benches`, nothing is measured
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Cost,
    Idle,
    Bulk,
    Disconnect,
    /// What metrics, decisions, traces, a dashboard and a Prometheus cost; only if named, as it takes minutes
    Watching,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peer {
    Haproxy,
    Nginx,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

impl Args {
    fn wants(&self, part: Part) -> bool {
        (self.only.is_empty() && part != Part::Watching) || self.only.contains(&part)
    }

    /// The proxies to measure, ours first, and how to get those that are missing.
    fn kinds(&self) -> (Vec<Kind>, Vec<String>) {
        let (mut kinds, mut missing) = (vec![Kind::Bellwether], Vec::new());
        for (peer, kind) in [(Peer::Haproxy, Kind::Haproxy), (Peer::Nginx, Kind::Nginx)] {
            if !self.peers.contains(&peer) {
                continue;
            }
            match kind.program() {
                Some(_) => kinds.push(kind),
                None => missing.push(format!("{kind} is not installed: apt install {}", kind.package())),
            }
        }
        (kinds, missing)
    }
}

/// Measures what was asked for; `tell` gets each section when it is done.
async fn measure(args: &Args, kinds: &[Kind], mut tell: impl FnMut(Section)) -> Result<(), Failure> {
    if args.wants(Part::Cost) {
        tell(cost::measure(kinds, args.rounds, args.seconds).await?);
        if args.callgrind {
            tell(callgrind::measure(kinds).await?);
        }
    }
    if args.wants(Part::Idle) {
        tell(idle::measure(kinds, args.clients as usize).await?);
    }
    if args.wants(Part::Bulk) {
        tell(bulk::measure(kinds, args.rounds, args.bulk_mb * 1_000_000).await?);
    }
    if args.wants(Part::Disconnect) {
        tell(disconnect::measure(kinds).await?);
    }
    if args.wants(Part::Watching) {
        tell(watching::measure().await?);
    }
    Ok(())
}

fn run(args: &Args) -> Result<(), Failure> {
    let (kinds, missing) = args.kinds();
    for line in &missing {
        eprintln!("note: {line}");
    }
    process::raise_file_limit(args.clients)?;
    let mut sections = Vec::new();
    let tell = |section: Section| {
        if args.output == Output::Text {
            print_text(&section);
        }
        sections.push(section);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Whoever wins, the other future is dropped, and with it every process that it started.
    runtime.block_on(async {
        tokio::select! {
            done = measure(args, &kinds, tell) => done,
            stopped = told_to_stop() => stopped,
        }
    })?;
    if args.output == Output::Json {
        print_json(&sections);
    }
    Ok(())
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.show_configs {
        print!("{}", peer::show_configs());
        return ExitCode::SUCCESS;
    }
    if !args.bench {
        println!("nothing measured; this benchmark starts real processes: cargo bench --bench proxy");
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
