//! What a check found, how bad it is, and what to do about it.

use std::fmt::Display;
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::cli::remote::shown;

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

    /// For people: the worst last, where it is seen.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut sorted: Vec<&Finding> = self.0.iter().collect();
        sorted.sort_by_key(|finding| finding.severity);
        for Finding { severity, about, what, fix } in sorted {
            // Lines of a finding are ours; what is in them may come from a node.
            let text =
                |text: &str| text.lines().map(|line| shown(&Value::from(line))).collect::<Vec<_>>().join("\n    ");
            writeln!(out, "{:<8} {}: {}", severity.word(), text(about), text(what))?;
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
}
