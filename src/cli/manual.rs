//! `bellwether completions` and `bellwether man`: what shells and `man` want to know of the command line.
//!
//! Made from the command line itself when asked for, so neither can be older than the binary; nothing is built or
//! shipped beside it.

use std::io;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Exit, Screen};

/// Print what a shell needs to complete this command line
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bellwether completions bash > /etc/bash_completion.d/bellwether
  bellwether completions zsh > \"${fpath[1]}/_bellwether\"
  bellwether completions fish > ~/.config/fish/completions/bellwether.fish")]
pub(super) struct Completions {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn execute(&self, screen: &mut Screen<'_>) -> io::Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "bellwether", &mut script);
        screen.out.write_all(&script)?;
        Ok(Exit::Fine)
    }
}

/// Print the manual page, or write one per verb into a directory
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bellwether man | man -l -
  bellwether man --dir /usr/local/share/man/man1

Exit codes: 0 fine, 1 the pages could not be written.")]
pub(super) struct Man {
    /// Write bellwether.1, bellwether-run.1 and so on into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    pub(super) fn execute(&self, screen: &mut Screen<'_>) -> io::Result<Exit> {
        let Some(dir) = &self.dir else {
            clap_mangen::Man::new(Cli::command()).render(&mut *screen.out)?;
            return Ok(Exit::Fine);
        };
        match clap_mangen::generate_to(Cli::command(), dir) {
            Ok(()) => Ok(Exit::Fine),
            Err(error) => Ok(screen.failed(&format!("cannot write to {}: {error}", dir.display()))),
        }
    }
}
