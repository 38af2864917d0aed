//! Arrivals from a production trace: real lengths in their real order, at the trace's own rhythm.
//!
//! Read are rows of `TIMESTAMP,ContextTokens,GeneratedTokens`, as the Azure LLM inference traces of 2023 and 2024 have
//! them (Patel et al., Splitwise, ISCA 2024). The rhythm is stretched or pressed as a whole so that the mean rate is
//! the load that was asked for: bursts stay bursts. A trace that ends before the run does begins anew. The file is given
//! by its path; none ships.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

/// Rows that are read at most: more than any published trace of this form has by an order of magnitude.
const ROWS_MAX: usize = 50_000_000;

/// The header of the file.
const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";

/// One request of a trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceRow {
    /// Seconds after the first.
    pub at_s: f64,
    /// Tokens in.
    pub prompt_tokens: u32,
    /// Tokens out, at least 1.
    pub output_tokens: u32,
}

/// A trace in order of time. At least two requests, not all at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    rows: Vec<TraceRow>,
}

/// Why a file is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A line is not what it should be.
    #[error("line {line}: {reason}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// Why not.
        reason: String,
    },
    /// There is nothing to repeat.
    #[error("fewer than two requests, or all at one time")]
    Empty,
}

impl Trace {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or a line is wrong.
    pub fn read(path: &Path) -> Result<Trace, TraceError> {
        Trace::parse(BufReader::new(File::open(path)?))
    }

    fn parse(lines: impl BufRead) -> Result<Trace, TraceError> {
        let mut rows: Vec<TraceRow> = Vec::new();
        let mut first = None;
        for (at, line) in lines.lines().enumerate() {
            let (line, number) = (line?, at + 1);
            let line = line.trim().trim_start_matches('\u{feff}');
            if line.is_empty() || (at == 0 && line == HEADER) {
                continue;
            }
            let wrong = |reason: &str| TraceError::Line { line: number, reason: reason.to_owned() };
            if rows.len() >= ROWS_MAX {
                return Err(wrong("more rows than a trace may have"));
            }
            let mut fields = line.split(',').map(str::trim);
            let (Some(time), Some(prompt), Some(output), None) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                return Err(wrong(&format!("expected {HEADER}")));
            };
            let seconds = seconds_of(time).ok_or_else(|| wrong("the timestamp is not YYYY-MM-DD HH:MM:SS"))?;
            let count =
                |text: &str| text.parse::<u32>().map_err(|_| wrong(&format!("{text:?} is no number of tokens")));
            let at_s = seconds - *first.get_or_insert(seconds);
            rows.push(TraceRow { at_s, prompt_tokens: count(prompt)?, output_tokens: count(output)?.max(1) });
        }
        rows.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        let began_s = rows.first().map_or(0.0, |row| row.at_s);
        rows.iter_mut().for_each(|row| row.at_s -= began_s);
        match rows.last() {
            Some(last) if last.at_s > 0.0 => Ok(Trace { rows }),
            _ => Err(TraceError::Empty),
        }
    }

    /// How many requests.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Never: an empty one is refused.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Mean tokens in and out.
    pub fn mean_tokens(&self) -> (f64, f64) {
        let mean = |of: fn(&TraceRow) -> u32| {
            self.rows.iter().map(|row| f64::from(of(row))).sum::<f64>() / self.rows.len() as f64
        };
        (mean(|row| row.prompt_tokens), mean(|row| row.output_tokens))
    }

    /// The request `number`, counted from 0 and beyond the end from the start again, when the mean rate is `per_s`.
    pub fn row(&self, number: usize, per_s: f64) -> TraceRow {
        let (round, place) = (number / self.rows.len(), number % self.rows.len());
        let row = self.rows[place];
        // One round lasts until the next one's first request: a mean interval after its own last.
        let last_s = self.rows[self.rows.len() - 1].at_s;
        let round_s = last_s * self.rows.len() as f64 / (self.rows.len() - 1) as f64;
        let stretch = self.rows.len() as f64 / per_s / round_s;
        TraceRow { at_s: (round as f64 * round_s + row.at_s) * stretch, ..row }
    }
}

/// Seconds since 1970 of `YYYY-MM-DD HH:MM:SS.fff`, in whatever zone the trace is.
fn seconds_of(text: &str) -> Option<f64> {
    let (date, time) = text.split_once([' ', 'T'])?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    // Newer traces carry a zone, "+00:00".
    let time = time.split_once('+').map_or(time, |(time, _)| time).trim_end_matches('Z');
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (time.next()?.parse::<i64>().ok()?, time.next()?.parse::<i64>().ok()?);
    let second: f64 = time.next()?.parse().ok()?;
    let sound = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (1970..=9999).contains(&year)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0.0..61.0).contains(&second);
    // Days since 1970 in the proleptic Gregorian calendar, the year counted from March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 719_469;
    sound.then(|| (days * 86_400 + hour * 3_600 + minute * 60) as f64 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 23:59:59.5000000,374,44\r\n\
                        2023-11-17 00:00:00.5000000,396,109\r\n2023-11-17 00:00:03.5000000,100,0\r\n";

    #[test]
    fn rows_are_read_over_midnight() {
        let trace = Trace::parse(TEXT.as_bytes()).expect("a trace");
        assert_eq!(trace.len(), 3);
        assert_eq!(trace.mean_tokens(), (290.0, (44.0 + 109.0 + 1.0) / 3.0));
        assert_eq!(trace.rows[1], TraceRow { at_s: 1.0, prompt_tokens: 396, output_tokens: 109 });
        assert_eq!(seconds_of("1970-01-01 00:00:01"), Some(1.0));
        assert_eq!(seconds_of("2024-05-10 00:00:00.009930+00:00"), Some(1_715_299_200.009_93));
    }

    #[test]
    fn the_rhythm_is_stretched_to_the_rate_and_repeats() {
        let trace = Trace::parse(TEXT.as_bytes()).expect("a trace");
        let at = |number| trace.row(number, 2.0).at_s;
        assert!((at(3) - 1.5).abs() < 1e-9, "three requests take a second and a half at two a second");
        assert!((at(1) - at(0)) * 2.9 < at(2) - at(1), "the burst at the start stays one");
        assert_eq!(trace.row(4, 2.0).prompt_tokens, 396);
    }

    #[test]
    fn what_is_no_trace_is_refused_with_the_line() {
        let refused = |text: &str| Trace::parse(text.as_bytes()).expect_err("refused").to_string();
        assert!(refused("2023-11-16 18:15:46,1\n").starts_with("line 1: expected TIMESTAMP"));
        assert!(refused("2023-11-16 18:15:46,1,x\n").contains("\"x\""));
        assert!(refused("yesterday,1,1\n").contains("timestamp"));
        assert!(refused("2023-11-16 18:15:46,1,1\n").contains("fewer than two"));
    }
}
