//! An observer that writes what it hears of at once: for simulations, where nobody waits for a disk.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use crate::balancer::{Choice, Decision, Observer};
use crate::fleet::Node;
use crate::outcome::Sample;
use crate::policy::considered::Considered;
use crate::recording::Row;

/// Writes a row per attempt to `W`; the first error ends it.
#[derive(Debug)]
pub struct Scribe<W>(Mutex<(W, io::Result<u64>)>);

impl<W: Write> Scribe<W> {
    /// One that writes to `out`.
    pub fn new(out: W) -> Scribe<W> {
        Scribe(Mutex::new((out, Ok(0))))
    }

    /// Flushes, and tells how many rows were written. Only the first call tells.
    ///
    /// # Errors
    /// The one that ended it.
    pub fn finish(&self) -> io::Result<u64> {
        let mut scribe = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = std::mem::replace(&mut scribe.1, Ok(0))?;
        scribe.0.flush()?;
        Ok(rows)
    }
}

impl<W: Write + Send> Observer for Scribe<W> {
    fn considered(&self, choice: &Choice<'_>, decision: &Decision) -> Option<Arc<Considered>> {
        Considered::of(decision.policy, choice.learned, choice.context, choice.at)
    }

    fn finished_considering(&self, node: &Node, sample: &Sample, considered: Option<&Arc<Considered>>) {
        let mut scribe = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (out, rows) = &mut *scribe;
        let Ok(count) = rows else { return };
        let row = Row::of(sample, &node.spec.name, format!("kind-{}", sample.kind.0));
        let row = row.considering(considered.map(Arc::as_ref));
        let written = serde_json::to_writer(&mut *out, &row).map_err(io::Error::from);
        *rows = written.and_then(|()| out.write_all(b"\n")).map(|()| *count + 1);
    }
}
