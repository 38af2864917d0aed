//! Arrivals from a production trace: real lengths in their real order, at the trace's own rhythm.
//!
//! The rhythm is stretched or pressed as a whole so that the mean rate is what was asked for: bursts stay bursts. A
//! trace that ends before the run does begins anew. A file is read once to learn its mean lengths and rate, and then
//! again line by line by every run: memory does not grow with the trace. Nothing of a trace ships; a [`Profile`] has the
//! statistics of the published ones.

mod feed;
mod profile;
mod read;
mod row;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

pub use feed::Replay;
pub use profile::{PROFILES, Profile};
pub use read::{BadLine, Tally};
pub use row::{Format, TraceRow};

use read::Reader;

/// Seconds of a profile that a run takes unless told otherwise: the length of the originals.
const PROFILE_S: f64 = 3_600.0;

/// Which part of a trace counts, in seconds after its first request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// The first that counts.
    pub from_s: f64,
    /// The first that does not count any more; infinite for none.
    pub to_s: f64,
}

impl Default for Window {
    fn default() -> Window {
        Window { from_s: 0.0, to_s: f64::INFINITY }
    }
}

/// What is known of a trace before it is replayed.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Survey {
    /// How it is written; nothing for one that is no file.
    #[serde(skip)]
    pub format: Option<Format>,
    /// Requests that count.
    pub requests: u64,
    /// From the first to the last of them.
    pub span_s: f64,
    /// Requests per second.
    pub rate: f64,
    /// Mean tokens in.
    pub prompt_tokens: f64,
    /// Mean tokens out.
    pub output_tokens: f64,
    /// Mean work on plain servers; 0 where tokens say it all.
    pub plain_s: f64,
    /// Share of the requests that ask for a stream; nothing where the trace does not say.
    pub streamed: Option<f64>,
    /// What was read, in and outside the window.
    pub read: Tally,
}

#[derive(Clone, Debug, PartialEq)]
enum Source {
    File {
        path: PathBuf,
        first_s: f64,
        window: Window,
    },
    Rows(Arc<[TraceRow]>),
    /// Blocks of so many seconds, drawn anew for each seed.
    Blocks(Arc<[TraceRow]>, f64),
    Profile(&'static Profile),
}

/// A trace in order of time. At least two requests, not all at once.
#[derive(Clone, Debug)]
pub struct Trace {
    source: Source,
    survey: Survey,
    trouble: Arc<OnceLock<String>>,
}

impl PartialEq for Trace {
    fn eq(&self, other: &Trace) -> bool {
        self.source == other.source && self.survey == other.survey
    }
}

/// Why a file is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// More lines are wrong than may be.
    #[error("{} of {} lines are no requests, at most {allowed} may be; {}", tally.bad, tally.bad + tally.rows + tally.left_out, listed(tally))]
    Bad {
        /// What was read.
        tally: Tally,
        /// How many may be.
        allowed: u64,
    },
    /// What there is of it is no trace.
    #[error("fewer than two requests; {} lines are none: {}", .0.bad, listed(.0))]
    None(Tally),
    /// There is nothing to repeat.
    #[error("fewer than two requests, or all at one time{0}")]
    Empty(&'static str),
}

/// The first bad lines, one after the other.
fn listed(tally: &Tally) -> String {
    let line = |bad: &BadLine| format!("line {}: {}", bad.line, bad.reason);
    let listed = tally.bad_lines.iter().map(line).collect::<Vec<_>>().join("; ");
    if tally.bad as usize > tally.bad_lines.len() { format!("{listed}; ...") } else { listed }
}

impl Trace {
    /// Surveys a file.
    ///
    /// # Errors
    /// It cannot be read, more than `bad_max` of its lines are wrong, or fewer than two requests count.
    pub fn read(path: &Path, window: Window, bad_max: u64) -> Result<Trace, TraceError> {
        let mut reader = Reader::open(path)?;
        let (mut sums, mut first_s) = (Sums::default(), None);
        while let Some(row) = reader.next() {
            let at_s = row.at_s - *first_s.get_or_insert(row.at_s);
            if (window.from_s..window.to_s).contains(&at_s) {
                sums.add(&row);
            }
            if reader.tally().bad > bad_max.max(1_000) {
                break;
            }
        }
        let (tally, format, trouble) = reader.close();
        if let Some(error) = trouble {
            return Err(TraceError::Io(error));
        }
        if tally.bad > bad_max {
            return Err(TraceError::Bad { tally, allowed: bad_max });
        }
        if tally.rows < 2 && tally.bad > 0 {
            return Err(TraceError::None(tally));
        }
        let why = match (tally.left_out, sums.requests) {
            (1.., 0) => ": a recording without token counts says nothing about sizes",
            _ if tally.rows > sums.requests => " in that window",
            _ => "",
        };
        let survey = sums.survey(format, tally).ok_or(TraceError::Empty(why))?;
        let source = Source::File { path: path.to_path_buf(), first_s: first_s.unwrap_or_default(), window };
        Ok(Trace { source, survey, trouble: Arc::default() })
    }

    /// A trace that is in memory. `None` for fewer than two requests or all at one time.
    pub fn of_rows(mut rows: Vec<TraceRow>) -> Option<Trace> {
        rows.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        let began_s = rows.first()?.at_s;
        let mut sums = Sums::default();
        for row in &mut rows {
            row.at_s -= began_s;
            sums.add(row);
        }
        let survey = sums.survey(None, Tally { rows: rows.len() as u64, ..Tally::default() })?;
        Some(Trace { source: Source::Rows(rows.into()), survey, trouble: Arc::default() })
    }

    /// A trace in memory whose replays put together blocks of `block_s` seconds that are drawn anew for each seed (a
    /// moving block bootstrap, Kuensch 1989): so differences between seeds are those between comparable hours. Other
    /// traces stay as they are.
    #[must_use]
    pub fn resampled(&self, block_s: f64) -> Trace {
        let source = match &self.source {
            Source::Rows(rows) => Source::Blocks(Arc::clone(rows), block_s),
            other => other.clone(),
        };
        Trace { source, survey: self.survey.clone(), trouble: Arc::default() }
    }

    /// A workload with the statistics of a published trace.
    pub fn profile(profile: &'static Profile) -> Trace {
        let (prompt_tokens, output_tokens) = profile.mean_tokens();
        let rate = profile.rate();
        let survey = Survey {
            format: None,
            requests: (rate * PROFILE_S) as u64,
            span_s: PROFILE_S,
            rate,
            prompt_tokens,
            output_tokens,
            plain_s: 0.0,
            streamed: None,
            read: Tally::default(),
        };
        Trace { source: Source::Profile(profile), survey, trouble: Arc::default() }
    }

    /// What is known of it.
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// What went wrong in a replay: the file changed after the survey, or cannot be read any more.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.get().map(String::as_str)
    }
}

/// Sums over the requests that count.
#[derive(Debug, Default)]
struct Sums {
    requests: u64,
    began_s: f64,
    ended_s: f64,
    prompt_tokens: f64,
    output_tokens: f64,
    plain_s: f64,
    said: u64,
    streamed: u64,
}

impl Sums {
    fn add(&mut self, row: &TraceRow) {
        if self.requests == 0 {
            self.began_s = row.at_s;
        }
        self.ended_s = row.at_s;
        self.requests += 1;
        self.prompt_tokens += f64::from(row.prompt_tokens);
        self.output_tokens += f64::from(row.output_tokens);
        self.plain_s += row.plain_s;
        self.said += u64::from(row.streaming.is_some());
        self.streamed += u64::from(row.streaming == Some(true));
    }

    fn survey(&self, format: Option<Format>, read: Tally) -> Option<Survey> {
        let span_s = self.ended_s - self.began_s;
        let count = self.requests as f64;
        (self.requests > 1 && span_s > 0.0).then(|| Survey {
            format,
            requests: self.requests,
            span_s,
            // Between n requests lie n - 1 gaps.
            rate: (count - 1.0) / span_s,
            prompt_tokens: self.prompt_tokens / count,
            output_tokens: self.output_tokens / count,
            plain_s: self.plain_s / count,
            streamed: (self.said > 0).then(|| self.streamed as f64 / self.said as f64),
            read,
        })
    }
}

/// The rows of a trace with this content, for the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) fn rows_of(bytes: &[u8]) -> Vec<TraceRow> {
    Reader::new(bytes, 16).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn survey(text: &str, window: Window, bad_max: u64) -> Result<Survey, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("trace");
        fs::write(&path, text).expect("written");
        Trace::read(&path, window, bad_max).map(|trace| trace.survey).map_err(|error| error.to_string())
    }

    const TEXT: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 23:59:59.5000000,374,44\r\n\
                        2023-11-17 00:00:00.5000000,396,109\r\n2023-11-17 00:00:03.5000000,100,0\r\n";

    #[test]
    fn a_survey_tells_means_and_rate_over_midnight() {
        let survey = survey(TEXT, Window::default(), 0).expect("a trace");
        assert_eq!((survey.requests, survey.span_s, survey.rate), (3, 4.0, 0.5));
        assert_eq!((survey.prompt_tokens, survey.output_tokens), (290.0, (44.0 + 109.0 + 1.0) / 3.0));
        assert_eq!((survey.format, survey.streamed), (Some(Format::Azure), None));
    }

    #[test]
    fn a_window_counts_from_the_first_request() {
        let survey = survey(TEXT, Window { from_s: 1.0, to_s: 4.5 }, 0).expect("a trace");
        assert_eq!((survey.requests, survey.span_s, survey.read.rows), (2, 3.0, 3));
    }

    #[test]
    fn bad_lines_are_tolerated_up_to_the_limit_and_shown_beyond_it() {
        let text = format!("{TEXT}nonsense\n");
        assert_eq!(survey(&text, Window::default(), 1).expect("tolerated").read.bad, 1);
        let refused = survey(&text, Window::default(), 0).expect_err("refused");
        assert!(refused.contains("1 of 4 lines") && refused.contains("line 5: expected TIMESTAMP"), "{refused}");
        let refused = survey("2023-11-16 18:15:46,1,1\n", Window::default(), 0).expect_err("refused");
        assert!(refused.contains("fewer than two"), "{refused}");
        let refused = survey(TEXT, Window { from_s: 4.0, to_s: 9.0 }, 0).expect_err("refused");
        assert!(refused.contains("in that window"), "{refused}");
    }
}
