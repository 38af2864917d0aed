//! A trace as one run sees it: requests one by one, at the rate that was asked for, for as long as the run goes on.

use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

use fastrand::Rng;

use super::read::Reader;
use super::{Profile, Source, Trace, TraceRow, Window};

/// Where rows come from; times as the source has them, one round only except for a profile.
#[derive(Debug)]
enum Feed {
    File { reader: Box<Reader<BufReader<File>>>, first_s: f64, window: Window },
    Rows { rows: Arc<[TraceRow]>, next: usize },
    Blocks(Blocks),
    Profile { profile: &'static Profile, at_s: f64 },
    Nothing,
}

/// Blocks drawn from a trace, one after the other.
#[derive(Debug)]
struct Blocks {
    rows: Arc<[TraceRow]>,
    length_s: f64,
    span_s: f64,
    /// Number of the next block.
    number: u64,
    /// Where in the trace the present one began, and where in the run.
    origin_s: f64,
    began_s: f64,
    next: usize,
}

impl Blocks {
    fn next(&mut self, rng: &mut Rng) -> TraceRow {
        loop {
            if let Some(row) = self.rows.get(self.next).filter(|row| row.at_s < self.origin_s + self.length_s) {
                self.next += 1;
                return TraceRow { at_s: row.at_s - self.origin_s + self.began_s, ..row.clone() };
            }
            self.began_s = self.number as f64 * self.length_s;
            self.number += 1;
            self.origin_s = rng.f64() * (self.span_s - self.length_s);
            self.next = self.rows.partition_point(|row| row.at_s < self.origin_s);
        }
    }
}

/// The requests of a trace in order of time, without end; see [`Trace::replay`].
#[derive(Debug)]
pub struct Replay {
    trace: Arc<Trace>,
    feed: Feed,
    rng: Rng,
    /// Seconds of the run per second of the trace.
    stretch: f64,
    /// Where the present round began, in seconds of the trace, and how long one takes.
    began_s: f64,
    round_s: f64,
    /// Rows of the present round so far.
    given: u64,
}

impl Trace {
    /// The requests of this trace at a mean rate of `per_s`, whatever is random about them from `rng`.
    pub fn replay(self: &Arc<Trace>, per_s: f64, rng: Rng) -> Replay {
        let survey = &self.survey;
        let mut replay = Replay {
            trace: Arc::clone(self),
            feed: Feed::Nothing,
            rng,
            stretch: survey.rate / per_s,
            began_s: 0.0,
            // One round lasts until the next one's first request: a mean gap after its own last.
            round_s: survey.requests as f64 / survey.rate,
            given: 0,
        };
        replay.open();
        replay
    }

    fn stumbled(&self, what: &str) {
        // Only the first is told.
        let _ = self.trouble.set(what.to_owned());
    }
}

impl Replay {
    fn open(&mut self) {
        self.given = 0;
        self.feed = match &self.trace.source {
            Source::File { path, first_s, window } => match Reader::open(path) {
                Ok(reader) => Feed::File { reader: Box::new(reader), first_s: *first_s, window: *window },
                Err(error) => {
                    self.trace.stumbled(&error.to_string());
                    Feed::Nothing
                }
            },
            Source::Rows(rows) => Feed::Rows { rows: Arc::clone(rows), next: 0 },
            Source::Blocks(rows, length_s) => {
                let span_s = self.round_s;
                let length_s = length_s.min(span_s);
                let (began_s, origin_s) = (0.0, f64::NEG_INFINITY);
                let next = rows.len();
                Feed::Blocks(Blocks { rows: Arc::clone(rows), length_s, span_s, number: 0, origin_s, began_s, next })
            }
            Source::Profile(profile) => Feed::Profile { profile, at_s: 0.0 },
        };
    }

    /// The next row of this round, its time counted from the start of the round.
    fn draw(&mut self) -> Option<TraceRow> {
        match &mut self.feed {
            Feed::File { reader, first_s, window } => {
                let counts = |row: &TraceRow| (window.from_s..window.to_s).contains(&(row.at_s - *first_s));
                let (first_s, from_s) = (*first_s, window.from_s);
                let row = reader.find(counts)?;
                Some(TraceRow { at_s: row.at_s - first_s - from_s, ..row })
            }
            Feed::Rows { rows, next } => {
                *next += 1;
                rows.get(*next - 1).cloned()
            }
            Feed::Blocks(blocks) => Some(blocks.next(&mut self.rng)),
            Feed::Profile { profile, at_s } => {
                let row = profile.draw(*at_s, &mut self.rng);
                *at_s = row.at_s;
                Some(row)
            }
            Feed::Nothing => None,
        }
    }
}

impl Iterator for Replay {
    type Item = TraceRow;

    fn next(&mut self) -> Option<TraceRow> {
        let row = match self.draw() {
            Some(row) => row,
            None => {
                if self.given != self.trace.survey.requests {
                    self.trace.stumbled("it is not the same file any more");
                    return None;
                }
                self.began_s += self.round_s;
                self.open();
                self.draw()?
            }
        };
        self.given += 1;
        Some(TraceRow { at_s: (self.began_s + row.at_s) * self.stretch, ..row })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn rows(seconds: &[f64]) -> Vec<TraceRow> {
        let row = |(at_s, number)| TraceRow { at_s, prompt_tokens: number, ..TraceRow::default() };
        seconds.iter().copied().zip(1..).map(row).collect()
    }

    fn replay(trace: Trace, per_s: f64) -> Replay {
        Arc::new(trace).replay(per_s, Rng::with_seed(1))
    }

    #[test]
    fn the_rhythm_is_stretched_to_the_rate_and_repeats() {
        // Half a request a second, with a burst at the start.
        let seen: Vec<TraceRow> =
            replay(Trace::of_rows(rows(&[0.0, 1.0, 4.0])).expect("a trace"), 2.0).take(300).collect();
        assert!((seen[3].at_s - 1.5).abs() < 1e-9, "three requests take a second and a half at two a second");
        assert!((seen[1].at_s * 2.9) < seen[2].at_s - seen[1].at_s, "the burst at the start stays one");
        assert_eq!(seen[4].prompt_tokens, 2);
        assert!((seen[299].at_s - 149.5).abs() < 1.0, "{}", seen[299].at_s);
    }

    #[test]
    fn a_file_is_streamed_and_a_window_of_it_begins_at_its_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("trace.jsonl");
        let line = |at: u32| {
            format!("{{\"timestamp\": {}, \"input_length\": {at}, \"output_length\": 1}}\n", 5_000 + 1_000 * at)
        };
        fs::write(&path, (0..100).map(line).collect::<String>()).expect("written");
        let trace = Trace::read(&path, Window { from_s: 40.0, to_s: 60.0 }, 0).expect("a trace");
        assert_eq!(trace.survey().requests, 20);
        let trace = Arc::new(trace);
        let seen: Vec<(u32, f64)> =
            trace.replay(2.0, Rng::with_seed(1)).take(41).map(|row| (row.prompt_tokens, row.at_s)).collect();
        assert_eq!((seen[0], seen[19].0, seen[20].0), ((40, 0.0), 59, 40));
        assert!((seen[20].1 - 10.0).abs() < 1e-9 && (seen[40].1 - 20.0).abs() < 1e-9, "{seen:?}");
        assert_eq!(trace.trouble(), None);
        fs::write(&path, (0..50).map(line).collect::<String>()).expect("written");
        assert_eq!(trace.replay(2.0, Rng::with_seed(1)).take(41).count(), 10, "it ends rather than to repeat a part");
        assert_eq!(trace.trouble(), Some("it is not the same file any more"));
    }

    #[test]
    fn blocks_differ_by_seed_and_keep_rate_and_order() {
        let seconds: Vec<f64> = (0..1_000).map(f64::from).collect();
        let trace = Arc::new(Trace::of_rows(rows(&seconds)).expect("a trace").resampled(50.0));
        let take = |seed| trace.replay(1.0, Rng::with_seed(seed)).take(1_000).collect::<Vec<_>>();
        let one = take(1);
        assert_eq!(one, take(1));
        assert_ne!(one, take(2));
        assert!(one.windows(2).all(|pair| pair[0].at_s <= pair[1].at_s));
        assert!((one[999].at_s - 1_000.0).abs() < 60.0, "{}", one[999].at_s);
        let follow = one.windows(2).filter(|pair| pair[1].prompt_tokens == pair[0].prompt_tokens + 1).count();
        assert!(follow > 950, "within a block the order is that of the trace: {follow}");
    }

    #[test]
    fn a_profile_comes_at_any_rate() {
        let trace = Trace::profile(Profile::named("azure-conversation").expect("known"));
        let last = replay(trace, 40.0).nth(39_999).expect("without end");
        assert!((last.at_s / 1_000.0 - 1.0).abs() < 0.05, "{}", last.at_s);
    }
}
