//! The file of results: cells of many runs of this benchmark in one JSON object, which `--json` extends.
//!
//! A long table takes an hour; so cells are measured in pieces and merged. A cell replaces an earlier one of the same
//! scenario, contender, seed and length, unless the new one is invalid and the old one is not.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::cell::Cell;

/// The form of the file; a reader refuses another.
const FORMAT: u32 = 1;

/// Everything that is known so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) format: u32,
    /// Name and description of each scenario that was measured.
    pub(crate) scenarios: Vec<(String, String)>,
    /// Cores, processor and system.
    pub(crate) machine: String,
    /// Contenders that could not take part (also "contender in scenario"), and why.
    pub(crate) skipped: Vec<(String, String)>,
    pub(crate) cells: Vec<Cell>,
}

impl Default for Results {
    fn default() -> Results {
        Results {
            format: FORMAT,
            scenarios: Vec::new(),
            machine: String::new(),
            skipped: Vec::new(),
            cells: Vec::new(),
        }
    }
}

impl Results {
    /// Reads a file; nothing is known where there is none.
    pub(crate) fn read(path: &Path) -> Result<Results, Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Results::default()),
            Err(error) => return Err(format!("{}: {error}", path.display()).into()),
        };
        let mut results: Results =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        results.cells = results.cells.into_iter().map(Cell::judged).collect();
        match results.format {
            FORMAT => Ok(results),
            other => Err(format!("{} has format {other}, not {FORMAT}", path.display()).into()),
        }
    }

    /// Adds what another run of this benchmark may have written meanwhile and writes all, at once or not at all.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        let mut all = Results::read(path)?;
        all.merge(self.clone());
        let beside = path.with_extension(format!("{}.tmp", std::process::id()));
        fs::write(&beside, serde_json::to_string_pretty(&all)? + "\n")?;
        Ok(fs::rename(&beside, path)?)
    }

    /// Takes in `newer`.
    pub(crate) fn merge(&mut self, newer: Results) {
        merge_named(&mut self.scenarios, newer.scenarios);
        merge_named(&mut self.skipped, newer.skipped);
        if !newer.machine.is_empty() {
            self.machine = newer.machine;
        }
        for cell in newer.cells {
            self.add(cell);
        }
        // Who has a cell by now is skipped no longer.
        let ran = |name: &str| self.cells.iter().any(|cell| cell.contender == name);
        let skipped = std::mem::take(&mut self.skipped);
        self.skipped = skipped.into_iter().filter(|(name, _)| !ran(name)).collect();
    }

    /// Takes in a cell.
    pub(crate) fn add(&mut self, cell: Cell) {
        let same = |old: &&mut Cell| {
            (&old.scenario, &old.contender, old.seed, old.seconds)
                == (&cell.scenario, &cell.contender, cell.seed, cell.seconds)
        };
        match self.cells.iter_mut().find(same) {
            None => self.cells.push(cell),
            Some(old) if cell.invalid.is_none() || old.invalid.is_some() => *old = cell,
            Some(_) => {}
        }
    }
}

fn merge_named(into: &mut Vec<(String, String)>, newer: Vec<(String, String)>) {
    for (name, text) in newer {
        match into.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = text,
            None => into.push((name, text)),
        }
    }
}

/// Processor and system in a line.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let cores = info.lines().filter(|line| line.starts_with("processor")).count();
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, name)| name);
    format!("{cores} cores of {model}, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

/// Checks merging on cells that were never measured.
pub(crate) fn check() -> Result<(), Failure> {
    let cell = |contender: &str, seed, mean_s, late_p99_s| {
        let measured = Cell { mean_s: Some(mean_s), late_p99_s, ..crate::table::example("llm-mixed", contender, seed) };
        measured.judged()
    };
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("results.json");
    let mut first = Results { machine: "one".to_owned(), ..Results::default() };
    first.add(cell("a", 1, 1.0, 0.0));
    first.add(cell("a", 2, 2.0, 0.5));
    first.save(&path)?;
    assert_eq!(Results::read(&path)?, first, "a file is read as it was written");
    let mut second = Results::default();
    second.add(cell("a", 1, 9.0, 0.5));
    second.add(cell("a", 2, 3.0, 0.19));
    second.add(cell("b", 1, 4.0, 0.0));
    second.save(&path)?;
    let all = Results::read(&path)?;
    let means: Vec<_> = all.cells.iter().map(|cell| cell.mean_s).collect();
    assert_eq!(means, [Some(1.0), Some(3.0), Some(4.0)], "an invalid cell never replaces a valid one");
    assert_eq!(all.machine, "one");
    fs::write(&path, serde_json::to_string(&Results { format: FORMAT + 1, ..first })?)?;
    assert!(Results::read(&path).is_err(), "another format is refused");
    Ok(())
}
