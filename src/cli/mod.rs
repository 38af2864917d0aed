//! The command line: one file per verb.
//!
//! A verb gets its arguments and a [`Screen`], and gives an [`Exit`]; it prints nowhere else and never ends the process.
//! What is global to a process, its environment and its logger, the binary hands in. Flags that set a key carry
//! the text to the configuration as it was typed: there, and not in clap, it is judged, so that a mistake reads the
//! same wherever it was made.

mod advise;
mod check;
mod config;
pub mod demo;
mod doctor;
mod explain;
mod manual;
mod model;
mod remote;
mod run;
mod settings;
pub mod simulate;
mod tap;
mod top;
mod train;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use self::demo::DemoError;
use self::simulate::SimulateError;
use crate::config::{Env, Log};
use crate::telemetry::logging::{LogControl, LogError};

const EXAMPLES: &str = "\
Examples:
  bellwether demo
  bellwether run --node http://10.0.0.1:8000 --node http://10.0.0.2:8000
  bellwether run --config bellwether.toml
  bellwether check bellwether.toml
  bellwether config print --config bellwether.toml
  bellwether model show
  bellwether explain --streaming --prompt-tokens 1200
  bellwether top
  bellwether doctor --config bellwether.toml

Every key of the configuration can be set by environment: timeouts.first_byte is BELLWETHER_TIMEOUTS_FIRST_BYTE.
A flag counts before the environment, that before the file, that before the default.

Exit codes: 0 fine, 1 failure at run time, 2 wrong configuration or usage.";

/// A load balancer for AI model servers that learns how each node answers and routes by it
#[derive(Debug, Parser)]
#[command(name = "bellwether", version, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::Run),
    /// Emulated model servers, the proxy before them, and load, in one process
    Demo(demo::DemoArgs),
    /// Policies compared in virtual time, on the same requests, in seconds
    Simulate(simulate::SimulateArgs),
    Advise(advise::Advise),
    Train(train::Train),
    Check(check::Check),
    Config(config::Config),
    Model(model::Model),
    Explain(explain::Explain),
    Top(top::Top),
    Tap(tap::Tap),
    Doctor(doctor::Doctor),
    Completions(manual::Completions),
    Man(manual::Man),
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// Output could not be written.
    pub fn execute(self, process: Process, screen: &mut Screen<'_>) -> io::Result<Exit> {
        match self.verb {
            Verb::Run(run) => run.execute(process, screen),
            Verb::Demo(args) => Ok(run_demo(&args, screen)),
            Verb::Simulate(args) => run_simulate(&args, screen),
            Verb::Advise(advise) => advise.execute(screen),
            Verb::Train(train) => train.execute(screen),
            Verb::Check(check) => check.execute(process.env, screen),
            Verb::Config(config) => config.execute(process.env, screen),
            Verb::Model(model) => model.execute(&process.env, screen),
            Verb::Explain(explain) => explain.execute(&process.env, screen),
            Verb::Top(top) => top.execute(&process.env, screen),
            Verb::Tap(tap) => tap.execute(&process.env, screen),
            Verb::Doctor(doctor) => doctor.execute(process.env, screen),
            Verb::Completions(completions) => completions.execute(screen),
            Verb::Man(man) => man.execute(screen),
        }
    }
}

fn run_demo(args: &demo::DemoArgs, screen: &mut Screen<'_>) -> Exit {
    match demo::demo(args) {
        Ok(()) => Exit::Fine,
        Err(error) => match error {
            DemoError::Range { .. } | DemoError::Policy(_) => {
                screen.failed(&error);
                Exit::Refused
            }
            DemoError::Io(_) | DemoError::Start(_) => screen.failed(&error),
        },
    }
}

fn run_simulate(args: &simulate::SimulateArgs, screen: &mut Screen<'_>) -> io::Result<Exit> {
    if let Some(recording) = &args.from_recording {
        return advise::Advise::of_simulate(args, recording).execute(screen);
    }
    match simulate::simulate(args, &mut *screen.out, &mut *screen.err) {
        Ok(()) => Ok(Exit::Fine),
        Err(SimulateError::Io(error)) => Err(error),
        Err(missed @ SimulateError::Missed { .. }) => Ok(screen.failed(&missed)),
        // Everything else is an argument or a scenario that cannot be.
        Err(error) => {
            screen.failed(&error);
            Ok(Exit::Refused)
        }
    }
}

/// What is global to a process and therefore the binary's to give.
#[derive(Debug)]
pub struct Process {
    /// The environment.
    pub env: Env,
    /// Sets up logging, at most once.
    pub start_log: fn(&Log) -> Result<LogControl, LogError>,
}

/// Where verbs write: results to `out`, everything else to `err`.
pub struct Screen<'a> {
    /// Results.
    pub out: &'a mut dyn Write,
    /// Everything else.
    pub err: &'a mut dyn Write,
    /// Whether `out` is a terminal, on which a verb may draw.
    pub terminal: bool,
}

impl Screen<'_> {
    /// Tells of a failure at run time. That this cannot be written either changes nothing.
    pub fn failed(&mut self, error: &dyn Display) -> Exit {
        let _ = writeln!(self.err, "error: {error}");
        Exit::Failed
    }
}

/// How a run of the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// As asked.
    Fine,
    /// Something failed at run time.
    Failed,
    /// The configuration or the usage is wrong.
    Refused,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Fine => 0,
            Exit::Failed => 1,
            Exit::Refused => 2,
        })
    }
}

/// For whom a result is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
