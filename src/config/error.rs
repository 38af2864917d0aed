//! Where a value came from, and what is wrong with it.
//!
//! One [`Origin`] serves both questions that operators ask: "where is this set?" (`config print`) and "where is the
//! mistake?" (an error). Errors are collected, never thrown at the first: a file with five mistakes takes one round
//! to repair, not five. An error shows the value that it is about only where that value cannot be a secret.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// Where a value was set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "source")]
pub enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// In the configuration file.
    File {
        /// The path as the operator gave it.
        #[serde(serialize_with = "as_text")]
        path: Arc<str>,
        /// From 1; 0 means the file as a whole.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    /// In an environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// On the command line.
    Flag {
        /// With its dashes.
        flag: &'static str,
    },
}

fn as_text<S: serde::Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line: 0, .. } => f.write_str(path),
            Origin::File { path, line, column } => write!(f, "{path}:{line}:{column}"),
            Origin::Environment { variable } => write!(f, "environment {variable}"),
            Origin::Flag { flag } => write!(f, "flag {flag}"),
        }
    }
}

/// What is wrong, without where: what a parser of one value knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) problem: String,
    pub(super) allowed: Option<String>,
    pub(super) suggestion: Option<String>,
}

impl Complaint {
    pub(super) fn new(problem: impl Into<String>) -> Complaint {
        Complaint { problem: problem.into(), ..Complaint::default() }
    }

    pub(super) fn allowed(self, allowed: impl Into<String>) -> Complaint {
        Complaint { allowed: Some(allowed.into()), ..self }
    }

    pub(super) fn suggest(self, suggestion: Option<String>) -> Complaint {
        Complaint { suggestion, ..self }
    }

    pub(super) fn at(self, origin: Origin, key: impl Into<String>) -> ConfigError {
        let Complaint { problem, allowed, suggestion } = self;
        ConfigError { origin, key: key.into(), problem, allowed, suggestion }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        if let Some(allowed) = &self.allowed {
            write!(f, "; allowed: {allowed}")?;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean {suggestion}?")?;
        }
        Ok(())
    }
}

/// One mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// Where it is.
    #[serde(flatten)]
    pub origin: Origin,
    /// The key as a path, such as `node[0].url`; empty where no single key is at fault.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
    /// What was probably meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(f, "{}: ", self.origin)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        let (allowed, suggestion) = (self.allowed.clone(), self.suggestion.clone());
        write!(f, "{}", Complaint { problem: self.problem.clone(), allowed, suggestion })
    }
}

/// Every mistake that was found, in the order: file by line, environment, flags, the whole. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// `None` for an empty list.
    pub(super) fn of(mut errors: Vec<ConfigError>) -> Option<ConfigErrors> {
        errors.sort_by_key(|error| match &error.origin {
            Origin::File { line, column, .. } => (0, *line, *column),
            Origin::Environment { .. } => (1, 0, 0),
            Origin::Flag { .. } => (2, 0, 0),
            Origin::Default => (3, 0, 0),
        });
        (!errors.is_empty()).then_some(ConfigErrors(errors))
    }

    pub(super) fn one(error: ConfigError) -> ConfigErrors {
        ConfigErrors(vec![error])
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The candidate that `typed` was probably meant to be: at most a third of its characters are wrong.
pub(super) fn closest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed: String = typed.chars().take(64).collect::<String>().to_lowercase();
    let bound = (typed.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&typed, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A value for people: quoted, escaped, and not longer than a line.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_MAX: usize = 80;
    if text.chars().nth(SHOWN_MAX).is_none() {
        return format!("{text:?}");
    }
    let shown: String = text.chars().take(SHOWN_MAX).collect();
    format!("{:?}...", shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suggestion_is_close_or_absent() {
        assert_eq!(closest("listne", ["listen", "policy"]), Some("listen"));
        assert_eq!(closest("LISTEN", ["listen", "policy"]), Some("listen"));
        assert_eq!(closest("colour", ["listen", "policy"]), None);
        assert_eq!(closest("", ["listen"]), None);
    }

    #[test]
    fn an_error_says_where_what_and_what_instead() {
        let file = Origin::File { path: "a.toml".into(), line: 3, column: 7 };
        let error = Complaint::new("\"fast\" is not a policy").allowed("x, y").suggest(Some("\"x\"".to_owned()));
        let text = error.at(file, "policy").to_string();
        assert_eq!(text, "a.toml:3:7: policy: \"fast\" is not a policy; allowed: x, y; did you mean \"x\"?");
    }

    #[test]
    fn long_and_odd_values_stay_on_one_line() {
        let text = quoted(&"a\nb".repeat(100));
        assert!(text.len() < 200 && !text.contains('\n') && text.ends_with("..."), "{text}");
    }
}
