//! Emulated model servers to point a proxy at, without a GPU:
//!
//! ```text
//! cargo run --release --example emulator -- --port 9001 --speed fast
//! cargo run --release --example emulator -- --port 9001 --fleet study --faster 10 --slots 64
//! curl -N localhost:9001/v1/chat/completions -d '{"stream":true,"messages":[{"role":"user","content":"hi [output=5]"}]}'
//! ```
//!
//! A request tells its length in its text (`[output=37]` tokens, `[work_ms=120]` for plain servers), otherwise one is
//! drawn. `GET /emulator/counters` tells what a server did.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bellwether::emulator::{Emulator, EmulatorSpec};
use bellwether::sim::{PlainSpec, ServerSpec, SimFleet, SimNode, fleets};
use clap::{Parser, ValueEnum};

#[derive(Parser)]
#[command(about = "Emulated model servers on real sockets")]
struct Args {
    /// Port of the first node, the others follow; 0 takes free ones
    #[arg(long, default_value_t = 9001)]
    port: u16,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// A fleet of eight nodes instead of one node
    #[arg(long, value_parser = fleets::NAMES.to_vec())]
    fleet: Option<String>,
    /// What the one node is like
    #[arg(long, value_enum, default_value_t = Speed::Fast, conflicts_with = "fleet")]
    speed: Speed,
    /// How many times faster than its definition everything runs
    #[arg(long, default_value_t = 1.0)]
    faster: f64,
    /// Sequences at once per node at most
    #[arg(long, default_value_t = 256)]
    slots: u32,
    /// Tokens of each node's prefix cache; without it nodes remember nothing
    #[arg(long, value_name = "TOKENS")]
    cache_tokens: Option<u64>,
    /// Seed of the lengths that requests do not tell
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Speed {
    Fast,
    Middle,
    Slow,
    /// Four plain workers, 100 ms of work by default
    Plain,
}

impl Args {
    fn nodes(&self) -> Vec<SimNode> {
        let (name, server) = match self.speed {
            Speed::Fast => ("fast", ServerSpec::Batch(fleets::FAST)),
            Speed::Middle => ("middle", ServerSpec::Batch(fleets::MIDDLE)),
            Speed::Slow => ("slow", ServerSpec::Batch(fleets::SLOW)),
            Speed::Plain => ("plain", ServerSpec::Plain(PlainSpec { workers: 4, speed: 1.0 })),
        };
        let one = SimFleet { nodes: vec![SimNode { name: name.to_owned(), server }] };
        let fleet = self.fleet.as_deref().and_then(SimFleet::named).unwrap_or(one);
        fleet.faster(self.faster).with_slots_at_most(self.slots).nodes
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    if !(args.faster.is_finite() && args.faster > 0.0) {
        return Err("--faster must be above 0".into());
    }
    let mut running = Vec::new();
    for (index, node) in (0u16..).zip(args.nodes()) {
        let port = if args.port == 0 { 0 } else { args.port.checked_add(index).ok_or("ports end at 65535")? };
        let listen = SocketAddr::new(args.listen, port);
        let cache_tokens = args.cache_tokens;
        let spec = EmulatorSpec { listen, cache_tokens, ..EmulatorSpec::new(node.name, node.server) };
        let emulator = Emulator::start(spec, args.seed.wrapping_add(u64::from(index))).await?;
        println!("{:<10} {}  {:.2} requests/s", emulator.name(), emulator.url(), node.server.capacity_rps());
        running.push(emulator);
    }
    tokio::signal::ctrl_c().await?;
    Ok(())
}
