//! The `bellwether` binary.

use std::process::ExitCode;

use bellwether::cli::demo::{DemoArgs, demo};
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
}

fn main() -> ExitCode {
    let Verb::Demo(args) = Cli::parse().verb;
    match demo(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bellwether: {error}");
            ExitCode::FAILURE
        }
    }
}
