//! The `bellwether` binary: arguments in, exit code out. What a verb does is in the library's `cli`.

use std::io::{ErrorKind, IsTerminal};
use std::process::ExitCode;

use bellwether::cli::{Cli, Exit, Process, Screen};
use bellwether::config::Env;
use bellwether::telemetry::logging;
use clap::Parser;

/// Saves a request some thousand of instructions over the C library's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A wrong command line ends here, with exit code 2.
    let cli = Cli::parse();
    let process = Process { env: Env::of_process(), start_log: logging::init };
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let terminal = out.is_terminal();
    let mut screen = Screen { out: &mut out, err: &mut err, terminal };
    let exit = match cli.execute(process, &mut screen) {
        Ok(exit) => exit,
        // Whoever read our output has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Exit::Fine,
        Err(error) => screen.failed(&error),
    };
    exit.into()
}
