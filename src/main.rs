//! The `bellwether` binary.

use std::process::ExitCode;

use bellwether::cli::demo::{DemoArgs, demo};
use bellwether::cli::simulate::{SimulateArgs, simulate};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Emulated model servers, the proxy before them, and load, in one process
    Demo(DemoArgs),
    /// Policies compared in virtual time, on the same requests, in seconds
    Simulate(SimulateArgs),
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Demo(args) => demo(&args).map_err(|error| error.to_string()),
        Verb::Simulate(args) => simulate(&args, &mut std::io::stdout().lock()).map_err(|error| error.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bellwether: {error}");
            ExitCode::FAILURE
        }
    }
}
