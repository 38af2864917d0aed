//! `simulate --record`: the attempts of one run as lines of JSON, as a proxy in production records them.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::balancer::Observer;
use crate::fleet::Node;
use crate::outcome::Sample;
use crate::recording::Row;
use crate::sim::driver::run_with;
use crate::sim::report::Plan;
use crate::sim::roster;

use super::SimulateError;

/// Writes what it hears of; the first error ends it.
struct Scribe(Mutex<(BufWriter<File>, io::Result<u64>)>);

impl Observer for Scribe {
    fn finished(&self, node: &Node, sample: &Sample) {
        let mut scribe = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, rows) = &mut *scribe;
        let Ok(count) = rows else { return };
        let row = Row::of(sample, &node.spec.name, format!("kind-{}", sample.kind.0));
        let written = serde_json::to_writer(&mut *file, &row).map_err(io::Error::from);
        *rows = written.and_then(|()| file.write_all(b"\n")).map(|()| *count + 1);
    }
}

/// Runs the one run of `plan` and records it to `path`; what it did goes to `out`.
pub(super) fn record(plan: &Plan, path: &Path, out: &mut dyn Write) -> Result<(), SimulateError> {
    let ([load], [policy], [seed]) = (plan.loads.as_slice(), plan.policies.as_slice(), plan.seeds.as_slice()) else {
        return Err(SimulateError::NotOne);
    };
    let failed = |error| SimulateError::Record { path: path.to_path_buf(), error };
    let file = BufWriter::new(File::create(path).map_err(failed)?);
    let scribe = Arc::new(Scribe(Mutex::new((file, Ok(0)))));
    let observer = || vec![Arc::clone(&scribe) as Arc<dyn Observer>];
    run_with(&plan.scenario, *load, *seed, |setup| roster::make_observed(policy, setup, observer()))?;
    let mut scribe = scribe.0.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = std::mem::replace(&mut scribe.1, Ok(0)).map_err(failed)?;
    scribe.0.flush().map_err(failed)?;
    let percent = load * 100.0;
    Ok(writeln!(out, "{rows} attempts of {policy} at {percent:.0} % load (seed {seed}) in {}", path.display())?)
}
