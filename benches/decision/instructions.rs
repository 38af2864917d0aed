//! Instructions of one decision, counted by valgrind: they repeat to the last digit on a machine that others use too.
//!
//! The program runs itself under callgrind twice, with one number of calls and with three times as many: the difference
//! is what the calls alone cost.

use std::process::Command;

use crate::subject::subjects;
use crate::{FLEETS, fleet, prefix};

/// Tells the program that it is the one under valgrind.
pub(crate) const MODE: &str = "--under-valgrind";
/// Calls of the shorter run, for one node; fewer for more, and at least [`CALLS_MIN`].
const CALLS: u32 = 40_000;
const CALLS_MIN: u32 = 200;
/// The same for prompts.
const PROMPTS: u32 = 500;

/// The loop that is counted.
pub(crate) fn run(name: &str, nodes: &str, calls: &str) {
    let (nodes, calls) = (nodes.parse().expect("a number"), calls.parse::<u64>().expect("a number"));
    if prefix::ROWS.iter().any(|(row, _)| *row == name) {
        return prefix::run(name, |call| (0..calls).for_each(|_| call()));
    }
    let subject = subjects().find(|subject| subject.name() == name).expect("a subject");
    subject.decide(&fleet(nodes), |call| (0..calls).for_each(|_| call()));
}

fn count(name: &str, nodes: u32, calls: u32) -> Result<f64, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let arguments = ["--tool=callgrind", "--callgrind-out-file=/dev/null"];
    let mut command = Command::new("valgrind");
    let told = [MODE, name, &nodes.to_string(), &calls.to_string()].map(str::to_owned);
    let output = command.args(arguments).arg(own).args(told).output();
    let output = output.map_err(|error| format!("valgrind: {error} (apt install valgrind)"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected : "));
    collected
        .and_then(|(_, count)| count.trim().parse().ok())
        .ok_or_else(|| format!("valgrind counted nothing: {text}"))
}

/// The table.
pub(crate) fn print(wanted: &str) {
    println!("{:<34}{:>22}", "prompts", "instructions");
    for (name, _) in prefix::ROWS.iter().filter(|(name, _)| name.contains(wanted)) {
        match count(name, 0, PROMPTS).and_then(|few| Ok((few, count(name, 0, 3 * PROMPTS)?))) {
            Ok((few, many)) => println!("{name:<34}{:>22.0}", (many - few) / f64::from(2 * PROMPTS)),
            Err(error) => return eprintln!("error: {error}"),
        }
    }
    println!("{:<22}{:>7}{:>22}", "policy", "nodes", "instructions, decide");
    for (nodes, _) in FLEETS {
        for subject in subjects().filter(|subject| subject.name().contains(wanted)) {
            let (name, calls) = (subject.name(), (CALLS / nodes).max(CALLS_MIN));
            let counted = count(&name, nodes, calls).and_then(|few| Ok((few, count(&name, nodes, 3 * calls)?)));
            match counted {
                Ok((few, many)) => println!("{name:<22}{nodes:>7}{:>22.0}", (many - few) / f64::from(2 * calls)),
                Err(error) => return eprintln!("error: {error}"),
            }
        }
    }
}
