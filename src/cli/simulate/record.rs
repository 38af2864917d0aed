//! `simulate --record`: the attempts of one run as lines of JSON, as a proxy in production records them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use crate::balancer::Observer;
use crate::recording::Scribe;
use crate::sim::driver::run_with;
use crate::sim::report::Plan;
use crate::sim::roster;

use super::SimulateError;

/// Runs the one run of `plan` and records it to `path`; what it did goes to `out`.
pub(super) fn record(plan: &Plan, path: &Path, out: &mut dyn Write) -> Result<(), SimulateError> {
    let ([load], [policy], [seed]) = (plan.loads.as_slice(), plan.policies.as_slice(), plan.seeds.as_slice()) else {
        return Err(SimulateError::NotOne);
    };
    let failed = |error| SimulateError::Record { path: path.to_path_buf(), error };
    let scribe = Arc::new(Scribe::new(BufWriter::new(File::create(path).map_err(failed)?)));
    let observer = || vec![Arc::clone(&scribe) as Arc<dyn Observer>];
    run_with(&plan.scenario, *load, *seed, |setup| roster::make_observed(policy, setup, observer()))?;
    let rows = scribe.finish().map_err(failed)?;
    let percent = load * 100.0;
    Ok(writeln!(out, "{rows} attempts of {policy} at {percent:.0} % load (seed {seed}) in {}", path.display())?)
}
