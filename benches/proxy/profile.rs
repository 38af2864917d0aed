//! What callgrind wrote of one thread, and how much of it was spent for whom.
//!
//! A function's own cost says little where most of the work is in calls, and inclusive costs cannot be added up as they
//! overlap. So costs are counted where they enter: at calls from code of nobody in particular into code that is somebody's,
//! by its module, and lines that were inlined by their source file. Where code that both use calls on (an iterator's),
//! the cost is shared out as that code itself was, which is what gprof does too. It reads no other tool's files.

use std::collections::HashMap;

use crate::Failure;

/// Rounds over the calls until shares have settled; chains of shared code are a handful long.
const ROUNDS: usize = 24;

/// A call from a line of a source file.
#[derive(Debug)]
struct Call {
    from: usize,
    file: usize,
    to: usize,
    cost: f64,
}

/// One thread.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    functions: Names,
    files: Names,
    /// Own cost, by function and source file.
    own: HashMap<(usize, usize), f64>,
    calls: Vec<Call>,
}

/// Names as callgrind shortens them: written once, a number from then on.
#[derive(Debug, Default)]
struct Names {
    by_number: HashMap<String, usize>,
    names: Vec<String>,
}

impl Names {
    /// The index of `(7) name` or `(7)`.
    fn index(&mut self, text: &str) -> usize {
        let (number, name) = text.split_once(' ').unwrap_or((text, ""));
        *self.by_number.entry(number.to_owned()).or_insert_with(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        })
    }
}

impl Profile {
    /// Reads what `--separate-threads=yes` writes for one thread.
    pub(crate) fn parse(text: &str) -> Result<Profile, Failure> {
        let mut profile = Profile::default();
        let (mut function, mut file, mut callee, mut calls) = (None, None, None, false);
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else {
                // A line number, absolute or relative, and the cost.
                let mut words = line.split(' ');
                let is_cost =
                    words.next().is_some_and(|at| at.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)));
                let cost: Option<f64> = words.next().filter(|_| is_cost).and_then(|cost| cost.parse().ok());
                let (Some(cost), Some(from), Some(file)) = (cost, function, file) else { continue };
                match (std::mem::take(&mut calls), callee) {
                    (true, Some(to)) => profile.calls.push(Call { from, file, to, cost }),
                    (true, None) => return Err("callgrind's file has a call of nobody".into()),
                    (false, _) => *profile.own.entry((from, file)).or_default() += cost,
                }
                continue;
            };
            match key {
                "fl" | "fi" | "fe" => file = Some(profile.files.index(value)),
                // Defines a name that others may refer to.
                "cfi" | "cfl" => _ = profile.files.index(value),
                "fn" => function = Some(profile.functions.index(value)),
                "cfn" => callee = Some(profile.functions.index(value)),
                "calls" => calls = true,
                _ => {}
            }
        }
        Ok(profile)
    }

    /// All instructions.
    pub(crate) fn total(&self) -> f64 {
        self.own.values().sum()
    }

    /// Whether code of this source file ran.
    pub(crate) fn ran(&self, file: &str) -> bool {
        self.own.keys().any(|(_, at)| self.files.names[*at].contains(file))
    }

    /// Instructions spent for each of `parts`, which are recognized in names of functions and of source files.
    pub(crate) fn spent<const N: usize>(&self, parts: &[(&str, &[&str]); N]) -> [f64; N] {
        let part_of = |name: &String| parts.iter().position(|(_, marks)| marks.iter().any(|mark| name.contains(mark)));
        let functions: Vec<Option<usize>> = self.functions.names.iter().map(part_of).collect();
        let files: Vec<Option<usize>> = self.files.names.iter().map(part_of).collect();
        let shared = self.shares(&functions, &files);
        let mut spent = [0.0; N];
        for ((function, file), cost) in &self.own {
            if let (None, Some(part)) = (functions[*function], files[*file]) {
                spent[part] += cost * shared[*function];
            }
        }
        for call in self.calls.iter().filter(|call| functions[call.from].is_none()) {
            if let Some(part) = functions[call.to].or(files[call.file]) {
                spent[part] += call.cost * shared[call.from];
            }
        }
        spent
    }

    /// Of each function that is nobody's, the share of its cost that was not spent within calls from somebody's code.
    fn shares(&self, functions: &[Option<usize>], files: &[Option<usize>]) -> Vec<f64> {
        let mut shares: Vec<f64> = functions.iter().map(|owner| f64::from(u8::from(owner.is_none()))).collect();
        for _ in 0..ROUNDS {
            let mut sums = vec![(0.0, 0.0); functions.len()];
            for call in self.calls.iter().filter(|call| call.from != call.to) {
                let unowned = files[call.file].map_or(shares[call.from], |_| 0.0);
                sums[call.to].0 += call.cost * unowned;
                sums[call.to].1 += call.cost;
            }
            for (at, (own, all)) in sums.into_iter().enumerate() {
                if functions[at].is_none() && all > 0.0 {
                    shares[at] = own / all;
                }
            }
        }
        shares
    }
}
