//! The flags that set keys, shared by the verbs that need settings.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, Screen};
use crate::config::{self, Env, FILE_VARIABLE, Flag, Loaded, Sources};
use crate::policy;

/// Flags that set keys of the configuration, and the file.
#[derive(Debug, Args)]
pub(super) struct SettingsArgs {
    #[arg(long, value_name = "FILE", help = format!("Configuration file [env: {FILE_VARIABLE}]"))]
    config: Option<PathBuf>,
    #[arg(long, value_name = "ADDR", help = with_default("Where clients connect", "listen"))]
    listen: Option<String>,
    #[arg(long, value_name = "ADDR", help = with_default("Where the admin API listens", "admin/properties/listen"))]
    admin: Option<String>,
    /// A model server: URL, name=URL, URL@weight or name=URL@weight; repeatable, replaces the nodes of the file
    #[arg(long, value_name = "NODE")]
    node: Vec<String>,
    #[arg(long, value_name = "NAME", help = with_default("How a node is chosen", "policy"), long_help = policies())]
    policy: Option<String>,
    #[arg(long, value_name = "COUNT", help = with_default("Requests in flight at each node that sets no limit itself, a number, auto or off", "max_in_flight"))]
    max_in_flight: Option<String>,
    #[arg(long, value_name = "COUNT", help = with_default("Threads that carry requests", "workers"))]
    workers: Option<String>,
    /// Tell in response headers which node answered, who chose it, and what was predicted
    #[arg(long)]
    debug_headers: bool,
    #[arg(long, value_name = "LEVEL", help = with_default("Which log lines are written", "log/properties/level"))]
    log_level: Option<String>,
    #[arg(long, value_name = "FORMAT", help = with_default("How log lines look, text or json", "log/properties/format"))]
    log_format: Option<String>,
}

/// The default is asked of the configuration, which alone knows it.
fn with_default(about: &str, pointer: &str) -> String {
    let default = config::schema().pointer(&format!("/properties/{pointer}/default"));
    let default = default.and_then(|default| default.as_str()).unwrap_or_default();
    format!("{about} [default: {default}]")
}

fn policies() -> String {
    let lines = policy::REGISTRY.iter().map(|entry| format!("\n  {:<22} {}", entry.name, entry.about));
    format!("{}{}", with_default("How a node is chosen", "policy"), lines.collect::<String>())
}

impl SettingsArgs {
    /// Flags, file and environment.
    pub(super) fn into_sources(self, env: Env) -> Sources {
        let SettingsArgs {
            config,
            listen,
            admin,
            node,
            policy,
            max_in_flight,
            workers,
            debug_headers,
            log_level,
            log_format,
        } = self;
        let one = |flag, key, value: Option<String>| Flag { flag, key, values: value.into_iter().collect() };
        let flags = vec![
            one("--listen", "listen", listen),
            one("--admin", "admin.listen", admin),
            Flag { flag: "--node", key: "node", values: node },
            one("--policy", "policy", policy),
            one("--max-in-flight", "max_in_flight", max_in_flight),
            one("--workers", "workers", workers),
            one("--debug-headers", "debug_headers", debug_headers.then(|| "true".to_owned())),
            one("--log-level", "log.level", log_level),
            one("--log-format", "log.format", log_format),
        ];
        Sources::new(config, flags, env)
    }
}

/// The settings, or every mistake on the screen.
pub(super) fn load(sources: &Sources, screen: &mut Screen<'_>) -> std::io::Result<Result<Loaded, Exit>> {
    match sources.load() {
        Ok(loaded) => Ok(Ok(loaded)),
        Err(errors) => {
            writeln!(screen.err, "{errors}\nerror: the configuration has {}", count(errors.iter().count(), "mistake"))?;
            Ok(Err(Exit::Refused))
        }
    }
}

/// `1 node`, `2 nodes`.
pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
