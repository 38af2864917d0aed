//! Response times behind this project and behind other proxies: the same emulated fleet, the same arrivals, real sockets.
//!
//! `cargo bench --bench peers` runs every contender that is installed through every scenario and prints a table each:
//! this project's binary under its policies, nginx, HAProxy, Envoy, Traefik, Pingora, the SGLang router, LiteLLM
//! (`--list` tells how to install what is missing; programs are looked for in `PATH`). Options go after `--`:
//! `--scenarios llm-mixed,faults`, `--only adaptive,nginx`, `--seeds 2`, `--seconds 75`, `--json FILE` (extended, so that
//! a long table is made in pieces), `--report FILE` (a page with charts), `--parallel 3`, `--binary` (another build of ours), `--show-configs`, `--idle` and
//! `--cost` (what a connection and a request cost each program), `--build-pingora`.
//!
//! Load is open-loop and timed from the intended sending; servers take their output length from the prompt, so nothing
//! that a proxy drops changes the work. It judges no one by the clock: a target that was missed is a word in a table.
//! Not measured here: TLS, HTTP/2, several proxies before one fleet.
//!
//! Without `--bench`, as under `cargo test`, it checks its own parts, for which nobody else's program is needed.

#[path = "../proxy/callgrind.rs"]
mod callgrind;
mod cell;
mod check;
#[path = "../proxy/client.rs"]
#[expect(dead_code, reason = "the other benchmark uses the rest")]
mod client;
mod config;
mod contender;
#[path = "../proxy/cost.rs"]
mod cost;
#[path = "../proxy/idle.rs"]
mod idle;
mod machine;
#[path = "../proxy/node.rs"]
#[expect(dead_code, reason = "the other benchmark uses the rest")]
mod node;
mod page;
mod peer;
#[path = "../proxy/perf.rs"]
mod perf;
#[path = "../proxy/process.rs"]
#[expect(dead_code, reason = "the other benchmark uses the rest")]
mod process;
#[path = "../proxy/program.rs"]
mod program;
mod results;
mod scenario;
#[path = "../proxy/section.rs"]
#[expect(dead_code, reason = "the other benchmark uses the rest")]
mod section;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio::task::JoinSet;

use self::cell::{FILES_MAX, Order};
use self::contender::Contender;
use self::peer::Kind;
use self::program::told_to_stop;
use self::results::Results;
use self::scenario::Scenario;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Idle clients that `--idle` holds.
const IDLE_CLIENTS: usize = 10_000;

/// Response times behind this project and behind other proxies
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench peers --")]
struct Args {
    /// Seconds of load per run; answers are waited for 30 s more
    #[arg(long, default_value_t = 75, value_parser = clap::value_parser!(u64).range(5..=3_600))]
    seconds: u64,
    /// Runs of each contender in each scenario, under seeds from 1 on
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// Measure only in these scenarios
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// Measure only contenders whose name contains one of these
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Whom ratios are taken to
    #[arg(long, default_value = "bellwether/least-connections")]
    reference: String,
    /// Runs at the same time, each with a fleet of its own; more than the machine carries makes them invalid
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=16))]
    parallel: u64,
    /// A file of results that is extended; tables show all that is in it
    #[arg(long)]
    json: Option<PathBuf>,
    /// Measure nothing and print the tables of `--json`
    #[arg(long, requires = "json")]
    tables: bool,
    /// Skip what `--json` has already
    #[arg(long, requires = "json")]
    resume: bool,
    /// Instead, the memory that 10,000 idle clients cost each program
    #[arg(long)]
    idle: bool,
    /// Instead, what a small request costs each program on one core
    #[arg(long)]
    cost: bool,
    /// Write the tables as a page with charts to this file, too
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Instead, make the program of Pingora's parts, which needs cmake and some minutes
    #[arg(long)]
    build_pingora: bool,
    /// Measure this program of ours in place of the one that was just built
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Print scenarios and contenders, and how to install those that are missing
    #[arg(long)]
    list: bool,
    /// Print what each contender is told, and measure nothing
    #[arg(long)]
    show_configs: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    fn scenarios(&self) -> Result<Vec<Scenario>, Failure> {
        if self.scenarios.is_empty() {
            return Ok(scenario::all());
        }
        let named =
            |name: &String| Scenario::named(name).ok_or_else(|| format!("no scenario is named {name:?}").into());
        self.scenarios.iter().map(named).collect()
    }

    /// What is to be measured, seed by seed so that contenders of a pair are close in time; and what cannot be.
    fn orders(&self, results: &mut Results) -> Result<Vec<Order>, Failure> {
        let scenarios = self.scenarios()?;
        let contenders = Contender::select(&self.only);
        let version = |kind: Kind| (kind, kind.version());
        let versions: Vec<_> = Kind::ALL.map(version).into();
        let mut orders = Vec::new();
        for scenario in scenarios {
            results.scenarios.push((scenario.name.to_owned(), scenario.about.to_owned()));
            for seed in 1..=self.seeds {
                for contender in &contenders {
                    if let Some((name, why)) = absent(contender, &scenario) {
                        if seed == 1 && !results.skipped.iter().any(|(known, _)| *known == name) {
                            results.skipped.push((name, why));
                        }
                        continue;
                    }
                    let version = versions.iter().find(|(kind, _)| *kind == contender.kind);
                    let version = version.map(|(_, version)| version.clone()).unwrap_or_default();
                    let (contender, seconds) = (*contender, self.seconds);
                    orders.push(Order { scenario: scenario.clone(), contender, version, seed, seconds });
                }
            }
        }
        Ok(orders)
    }
}

/// What to call an absence, and why it is one.
fn absent(contender: &Contender, scenario: &Scenario) -> Option<(String, String)> {
    let why = contender.absent(scenario)?;
    let everywhere = contender.kind.program().is_none();
    let name = contender.name();
    Some((if everywhere { name } else { format!("{name} in {}", scenario.name) }, why))
}

/// Runs the orders, so many at a time; each cell goes to the file at once.
async fn measure(args: &Args, orders: Vec<Order>, mut results: Results) -> Result<Results, Failure> {
    let known = match &args.json {
        Some(path) if args.resume => Results::read(path)?.cells,
        _ => Vec::new(),
    };
    let is_known = |order: &Order| {
        known.iter().any(|cell| {
            (cell.scenario.as_str(), cell.seed, cell.seconds) == (order.scenario.name, order.seed, order.seconds)
                && cell.contender == order.contender.name()
                && cell.invalid.is_none()
        })
    };
    let mut waiting = orders.into_iter().filter(|order| !is_known(order));
    let mut running = JoinSet::new();
    loop {
        while running.len() < args.parallel as usize {
            let Some(order) = waiting.next() else { break };
            eprintln!("{} ...", order.words());
            let words = order.words();
            running.spawn(async move { (words, order.run().await) });
        }
        let Some(ended) = running.join_next().await else { return Ok(results) };
        match ended? {
            (words, Ok(cell)) => {
                eprintln!(
                    "{words}: mean {:.3} s, p99 {:.3} s, {} errors, machine {:.0} %{}",
                    cell.mean_s.unwrap_or(f64::NAN),
                    cell.p99_s.unwrap_or(f64::NAN),
                    cell.errors,
                    cell.machine_busy * 100.0,
                    cell.invalid.as_ref().map_or(String::new(), |why| format!("; INVALID: {why}")),
                );
                results.add(cell);
            }
            // One that does not start must not end a long table.
            (words, Err(error)) => {
                eprintln!("{words} failed: {error}");
                let why = error.to_string().lines().next().unwrap_or_default().to_owned();
                results.skipped.push((words, why));
            }
        }
        if let Some(path) = &args.json {
            results.save(path)?;
        }
    }
}

/// Programs that are installed, for what is not compared by response times.
fn installed(args: &Args) -> Vec<Kind> {
    let wanted = Contender::select(&args.only);
    let known = |kind: &Kind| kind.program().is_some() && wanted.iter().any(|contender| contender.kind == *kind);
    Kind::ALL.into_iter().filter(known).collect()
}

async fn run(args: &Args) -> Result<(), Failure> {
    if args.idle || args.cost {
        let kinds = installed(args);
        if args.cost {
            section::print_text(&cost::measure(&kinds, 3, 3).await?);
            let countable: Vec<Kind> = kinds.iter().copied().filter(|kind| kind.is_countable()).collect();
            match peer::find_program("valgrind") {
                Some(_) => section::print_text(&callgrind::measure(&countable).await?),
                None => println!("\nno instructions are counted without perf or valgrind: apt install valgrind"),
            }
            println!(
                "\nAt a fixed rate, with memory: --scenarios cost (columns CPU us and RSS MB). What idle clients cost: --idle."
            );
        }
        if args.idle {
            section::print_text(&idle::measure(&kinds, IDLE_CLIENTS).await?);
        }
        return Ok(());
    }
    let mut results = Results { machine: results::machine(), ..Results::default() };
    if !args.tables {
        let orders = args.orders(&mut results)?;
        for (name, why) in &results.skipped {
            eprintln!("skipped: {name}: {why}");
        }
        results = measure(args, orders, results).await?;
    }
    if let Some(path) = &args.json {
        results = Results::read(path)?;
    }
    print!("{}", table::render(&results, &args.reference));
    if let Some(path) = &args.report {
        let command = std::env::args().skip(1).filter(|word| word != "--bench").collect::<Vec<_>>().join(" ");
        let page = page::of(&results, &args.reference, &format!("cargo bench --bench peers -- {command}"));
        std::fs::write(path, page.html()).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn list() {
    for scenario in scenario::all() {
        println!("{:<14} {}; {:.1} requests/s", scenario.name, scenario.about, scenario.rate_rps());
    }
    println!();
    for contender in contender::ALL {
        let kind = contender.kind;
        let state = kind.program().map_or_else(|| format!("missing: {}", kind.install()), |_| kind.version());
        println!("{:<40} {state}", contender.name());
    }
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        // `cargo test` hands its own options and filters to every program that it runs.
        Err(error) if error.use_stderr() && !std::env::args().any(|word| word == "--bench") => {
            Args::parse_from(["peers"])
        }
        Err(error) => error.exit(),
    };
    if let Some(binary) = &args.binary {
        // Nobody has asked for it yet; programs are started at home in directories of their own.
        let _ = peer::OWN.set(std::path::absolute(binary).unwrap_or_else(|_| binary.clone()));
    }
    if args.list {
        list();
        return ExitCode::SUCCESS;
    }
    if args.show_configs {
        print!("{}", config::show());
        return ExitCode::SUCCESS;
    }
    let outcome = if args.build_pingora {
        peer::build_pingora()
    } else if args.bench {
        start(&args)
    } else {
        check::everything()
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> Result<(), Failure> {
    // Fewer files than wanted means fewer requests in flight, which the figures would show as broken answers.
    let clients = if args.idle { IDLE_CLIENTS as u64 * 2 } else { FILES_MAX * args.parallel };
    process::raise_file_limit(u32::try_from(clients)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Whoever wins, the other future is dropped, and with it every process that it started.
    runtime.block_on(async {
        tokio::select! {
            done = run(args) => done,
            stopped = told_to_stop() => stopped,
        }
    })
}
