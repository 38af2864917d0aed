//! `bellwether config`: the settings in force, and the schema of the file.

use std::io;

use clap::{Args, Subcommand};

use super::settings::{SettingsArgs, load};
use super::{Exit, Output, Screen};
use crate::config::{self, Env};

/// Show the effective settings, or the schema of the configuration file
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Config {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Print(Box<Print>),
    Schema(Schema),
}

/// Print the effective settings and where each came from; tokens are never shown
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bellwether config print --config bellwether.toml
  BELLWETHER_LISTEN=0.0.0.0:80 bellwether config print --output json

What is printed as text is a configuration file itself.

Exit codes: 0 fine, 1 failure at run time, 2 wrong configuration.")]
struct Print {
    #[command(flatten)]
    settings: SettingsArgs,
    /// For people or for programs
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Print the JSON Schema of the configuration file, for editors
#[derive(Debug, Args)]
#[command(after_help = "Example:
  bellwether config schema > bellwether.schema.json")]
struct Schema {}

impl Config {
    pub(super) fn execute(self, env: Env, screen: &mut Screen<'_>) -> io::Result<Exit> {
        let print = match self.what {
            What::Schema(Schema {}) => {
                writeln!(screen.out, "{:#}", config::schema())?;
                return Ok(Exit::Fine);
            }
            What::Print(print) => print,
        };
        let loaded = match load(&print.settings.into_sources(env), screen)? {
            Ok(loaded) => loaded,
            Err(exit) => return Ok(exit),
        };
        match print.output {
            Output::Text => write!(screen.out, "{}", loaded.to_toml())?,
            Output::Json => writeln!(screen.out, "{:#}", loaded.to_json())?,
        }
        Ok(Exit::Fine)
    }
}
