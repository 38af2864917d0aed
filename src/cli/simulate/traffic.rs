//! `simulate --trace`: which requests come instead of drawn ones, how fast, and on which fleet.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::SimulateError;
use crate::sim::scenario::{FleetFile, Scenario};
use crate::sim::trace::{PROFILES, Profile, Trace, Window};

/// What `--trace builtin:NAME` begins with.
const BUILTIN: &str = "builtin:";

/// The fleet that a trace is replayed on unless told otherwise: eight nodes of three hardware classes.
const FLEET: &str = "study";

/// Arguments about a trace.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct TraceArgs {
    /// Requests of a production trace in place of drawn ones, at the trace's own rhythm: rows of
    /// TIMESTAMP,ContextTokens,GeneratedTokens (Azure), JSON lines with timestamp, input_length and output_length
    /// (Mooncake), or what --record writes; or builtin:azure-conversation, builtin:azure-code, drawn with the
    /// statistics of those traces
    #[arg(long, value_name = "FILE|builtin:NAME")]
    pub(super) trace: Option<String>,
    /// Replay at this mean rate, requests per second; otherwise at 60 % of the fleet's capacity or at --load
    #[arg(long, value_name = "PER_SECOND", requires = "trace", conflicts_with_all = ["speedup", "load"])]
    pub(super) rate: Option<f64>,
    /// Replay so many times as fast as recorded
    #[arg(long, value_name = "FACTOR", requires = "trace", conflicts_with = "load")]
    pub(super) speedup: Option<f64>,
    /// Leave out what came earlier after the trace's first request, such as 10m
    #[arg(long, value_name = "DURATION", requires = "trace", value_parser = duration)]
    pub(super) from: Option<Duration>,
    /// Leave out what came later after the trace's first request
    #[arg(long, value_name = "DURATION", requires = "trace", value_parser = duration)]
    pub(super) to: Option<Duration>,
    /// Where a trace is replayed without a scenario: a file with [[node]] entries, a scenario, or a fleet by name
    /// [default: study, two fast, two middle and four slow servers of language models]
    #[arg(long, value_name = "FILE|NAME", conflicts_with = "scenario")]
    pub(in crate::cli) fleet: Option<String>,
    /// Lines of a trace that may be wrong; they are left out and told
    #[arg(long, value_name = "LINES", default_value_t = 100, requires = "trace")]
    pub(super) bad_rows_max: u64,
}

/// Seconds, or a number with a unit such as 10m.
fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().map(Duration::try_from_secs_f64);
    match seconds {
        Some(seconds) => seconds.map_err(|error| error.to_string()),
        None => humantime::parse_duration(text).map_err(|error| format!("{error}; for example 90, 90s or 1h30m")),
    }
}

impl TraceArgs {
    /// The trace, surveyed; `None` without one.
    pub(super) fn read(&self) -> Result<Option<Trace>, SimulateError> {
        let Some(name) = &self.trace else { return Ok(None) };
        if self.from.zip(self.to).is_some_and(|(from, to)| from >= to) {
            let (name, value) = ("to", self.to.unwrap_or_default().as_secs_f64());
            return Err(SimulateError::Range { name, value, allowed: "later than --from, in seconds".to_owned() });
        }
        if let Some(name) = name.strip_prefix(BUILTIN) {
            if self.from.or(self.to).is_some() {
                return Err(SimulateError::NoWindow);
            }
            let known = || PROFILES.iter().map(|profile| format!("{BUILTIN}{}", profile.name)).collect::<Vec<_>>();
            let profile = Profile::named(name).ok_or_else(|| SimulateError::NoTrace(known().join(", ")))?;
            return Ok(Some(Trace::profile(profile)));
        }
        let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64());
        let window =
            Window { from_s: seconds(self.from).unwrap_or(0.0), to_s: seconds(self.to).unwrap_or(f64::INFINITY) };
        let path = PathBuf::from(name);
        let trace = Trace::read(&path, window, self.bad_rows_max);
        trace.map(Some).map_err(|error| SimulateError::Trace { path, error })
    }

    /// Whether `path` is the file of the trace.
    pub(super) fn is_from(&self, path: &Path) -> bool {
        let real = |path: &Path| path.canonicalize().ok();
        self.trace.as_deref().is_some_and(|trace| real(Path::new(trace)).is_some_and(|own| real(path) == Some(own)))
    }

    /// The fleet as a scenario that waits for a trace.
    pub(super) fn scenario(&self) -> Result<Scenario, SimulateError> {
        let name = self.fleet.as_deref().unwrap_or(FLEET);
        let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy();
        let about = format!("{} on the fleet {stem}", self.trace.as_deref().unwrap_or_default());
        Ok(fleet(name)?.scenario("trace", &about))
    }

    /// The scenario with the trace in it and the loads that were asked for: by rate, by speed, or as they are. A
    /// scenario without a length of its own takes the trace once.
    pub(super) fn apply(&self, scenario: Scenario, trace: Trace, loads: &[f64]) -> Result<Scenario, SimulateError> {
        let survey = trace.survey().clone();
        let name = scenario.name.clone();
        let mut scenario = scenario.replaying(Arc::new(trace)).ok_or(SimulateError::TraceOnPlain(name))?;
        let capacity = scenario.capacity_rps();
        if let Some(rate) = self.rate {
            scenario.loads = vec![rate / capacity];
        } else if let Some(speedup) = self.speedup {
            scenario.loads = vec![speedup * survey.rate / capacity];
        } else if !loads.is_empty() {
            scenario.loads = loads.to_vec();
        }
        for (flag, value) in [("rate", self.rate), ("speedup", self.speedup)] {
            let load = scenario.loads[0];
            if value.is_some_and(|value| !(value > 0.0 && load <= 10.0)) {
                let most = if flag == "rate" { 10.0 * capacity } else { 10.0 * capacity / survey.rate };
                let allowed = format!("above 0 and at most {most:.1}, ten times what the fleet can do");
                return Err(SimulateError::Range { name: flag, value: value.unwrap_or_default(), allowed });
            }
        }
        Ok(scenario)
    }

    /// How long a trace takes once at the highest of those loads.
    pub(super) fn once(scenario: &Scenario) -> Option<Duration> {
        let survey = scenario.trace.as_ref()?.survey();
        let most = scenario.loads.iter().copied().fold(0.0, f64::max) * scenario.capacity_rps();
        Duration::try_from_secs_f64(survey.requests as f64 / most).ok()
    }
}

/// A fleet by its name, or from a file.
pub(super) fn fleet(name: &str) -> Result<FleetFile, SimulateError> {
    let wrong = |error| SimulateError::Scenario { name: name.to_owned(), error };
    if let Some(fleet) = FleetFile::named(name) {
        return fleet.map_err(wrong);
    }
    let text = fs::read_to_string(name).map_err(|error| SimulateError::NoScenario {
        name: name.to_owned(),
        error,
        known: FleetFile::names().join(", "),
    })?;
    FleetFile::parse(&text).map_err(wrong)
}
