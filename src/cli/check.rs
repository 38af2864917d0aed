//! `bellwether check FILE`: would `run` take this file here and now?
//!
//! "Here and now" includes the environment and the files that tokens are kept in, because a start would fail for them
//! just the same.

use std::io;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::settings::count;
use super::{Exit, Output, Screen};
use crate::config::{Env, Sources};

/// Check a configuration file: all mistakes at once, each with its place
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bellwether check bellwether.toml
  bellwether check bellwether.toml --output json

The environment is looked at too, as `run` would.

Exit codes: 0 the file is fine, 1 failure at run time, 2 mistakes.")]
pub(super) struct Check {
    /// The configuration file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// For people or for programs
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Check {
    pub(super) fn execute(self, env: Env, screen: &mut Screen<'_>) -> io::Result<Exit> {
        let shown = self.file.display().to_string();
        let result = Sources::new(Some(self.file), Vec::new(), env).load();
        let exit = if result.is_ok() { Exit::Fine } else { Exit::Refused };
        match (self.output, result) {
            (Output::Json, result) => {
                let errors = result.err().map(|errors| json!(errors)).unwrap_or_else(|| json!([]));
                let report = json!({ "file": shown, "valid": exit == Exit::Fine, "errors": errors });
                writeln!(screen.out, "{report:#}")?;
            }
            (Output::Text, Ok(loaded)) => {
                let settings = &loaded.settings;
                let (nodes, routes) = (count(settings.nodes.len(), "node"), count(settings.routes.len(), "route"));
                writeln!(screen.out, "{shown}: fine ({nodes}, {routes}, policy {})", settings.policy.name())?;
            }
            (Output::Text, Err(errors)) => {
                writeln!(screen.err, "{errors}\n{shown}: {}", count(errors.iter().count(), "mistake"))?;
            }
        }
        Ok(exit)
    }
}
