//! What a check found, how bad it is, and what to do about it.

use std::fmt::Display;
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::cli::remote::shown;

/// How many of those of whom the same is said are named; programs are told all of them.
const NAMED_MAX: usize = 8;

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// As it should be.
    #[default]
    Fine,
    /// Could be better; nothing suffers from it now.
    Note,
    /// Will hurt.
    Warning,
    /// Hurts.
    Problem,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Severity::Fine => "fine",
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Problem => "problem",
        }
    }
}

#[derive(Debug)]
struct Finding {
    severity: Severity,
    about: String,
    what: String,
    fix: Option<String>,
}

/// Everything that was found, in the order of the checks.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    /// Something is as it should be.
    pub(super) fn fine(&mut self, about: impl Into<String>, what: impl Display) {
        self.0.push(Finding { severity: Severity::Fine, about: about.into(), what: what.to_string(), fix: None });
    }

    /// Something is not, and what to do.
    pub(super) fn add(
        &mut self,
        severity: Severity,
        about: impl Into<String>,
        what: impl Display,
        fix: impl Into<String>,
    ) {
        self.0.push(Finding { severity, about: about.into(), what: what.to_string(), fix: Some(fix.into()) });
    }

    /// Those of another.
    pub(super) fn extend(&mut self, others: Findings) {
        self.0.extend(others.0);
    }

    pub(super) fn worst(&self) -> Severity {
        self.0.iter().map(|finding| finding.severity).max().unwrap_or_default()
    }

    fn count(&self, severity: Severity) -> usize {
        self.0.iter().filter(|finding| finding.severity == severity).count()
    }

    /// By severity, each with all of whom it is said: on a large fleet much of it is said of every node.
    fn alike(&self) -> Vec<(&Finding, Vec<&str>)> {
        let mut alike: Vec<(&Finding, Vec<&str>)> = Vec::new();
        for one in &self.0 {
            let same = |had: &Finding| (had.severity, &had.what, &had.fix) == (one.severity, &one.what, &one.fix);
            match alike.iter_mut().find(|(had, _)| one.fix.is_some() && same(had)) {
                Some((_, about)) => about.push(&one.about),
                None => alike.push((one, vec![&one.about])),
            }
        }
        alike.sort_by_key(|(finding, _)| finding.severity);
        alike
    }

    /// For people: the worst last, where it is seen. What is wrong with many in the same way is said once.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        // Lines of a finding are ours; what is in them may come from a node.
        let text = |text: &str| text.lines().map(|line| shown(&Value::from(line))).collect::<Vec<_>>().join("\n    ");
        for (Finding { severity, what, fix, .. }, about) in self.alike() {
            let mut named = about.iter().take(NAMED_MAX).map(|about| text(about)).collect::<Vec<_>>().join(", ");
            if about.len() > NAMED_MAX {
                named.push_str(&format!(" and {} more", about.len() - NAMED_MAX));
            }
            writeln!(out, "{:<8} {named}: {}", severity.word(), text(what))?;
            if let Some(fix) = fix {
                writeln!(out, "         fix: {}", text(fix))?;
            }
        }
        let [problems, warnings, notes] =
            [Severity::Problem, Severity::Warning, Severity::Note].map(|severity| self.count(severity));
        writeln!(out, "\nproblems {problems}, warnings {warnings}, notes {notes}")
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        let of = |finding: &Finding| {
            let Finding { severity, about, what, fix } = finding;
            json!({ "severity": severity.word(), "about": about, "what": what, "fix": fix })
        };
        json!({
            "worst": self.worst().word(),
            "findings": self.0.iter().map(of).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_last_and_cannot_move_the_cursor() {
        let mut findings = Findings::default();
        findings.add(Severity::Problem, "node a\u{1b}[2J", "is\ndown", "start it");
        findings.fine("clock", "right");
        let mut out = Vec::new();
        findings.write(&mut out).expect("written");
        let text = String::from_utf8(out).expect("UTF-8");
        let expected = "fine     clock: right\nproblem  node a\\u{1b}[2J: is\n    down\n         fix: start it\n\n\
                        problems 1, warnings 0, notes 0\n";
        assert_eq!((text.as_str(), findings.worst()), (expected, Severity::Problem));
        assert_eq!(findings.to_json()["findings"][0]["fix"], "start it");
        assert_eq!(Findings::default().worst(), Severity::Fine);
    }

    #[test]
    fn what_is_wrong_with_many_nodes_is_said_once_and_each_is_counted() {
        let mut findings = Findings::default();
        (0..10).for_each(|node| findings.add(Severity::Note, format!("node {node}"), "no limit", "set one"));
        findings.add(Severity::Note, "node 1", "no limit", "set another");
        findings.add(Severity::Warning, "node 1", "no limit", "set one");
        findings.fine("node 1", "right");
        findings.fine("node 2", "right");
        let mut out = Vec::new();
        findings.write(&mut out).expect("written");
        let expected = "fine     node 1: right\nfine     node 2: right\n\
            note     node 0, node 1, node 2, node 3, node 4, node 5, node 6, node 7 and 2 more: no limit\n         \
            fix: set one\nnote     node 1: no limit\n         fix: set another\n\
            warning  node 1: no limit\n         fix: set one\n\nproblems 0, warnings 1, notes 11\n";
        assert_eq!(String::from_utf8(out).expect("UTF-8"), expected);
        assert_eq!(findings.to_json()["findings"].as_array().map(Vec::len), Some(14), "programs are told of each");
    }
}
