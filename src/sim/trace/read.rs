//! Reading a trace line by line, in order of time, within bounded memory.
//!
//! A file is opened anew for every run and never held: what is in memory is one window of rows, in which those that
//! are out of order find their place. A recording needs it, as its rows stand in the order in which attempts ended. A row
//! that is later than the window allows keeps its size and comes at the time of the row before it, and is counted.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use super::row::{Format, Line, Parser, TraceRow};

/// The longest line: 256 times the longest of a published trace.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Rows that wait for others that may come before them; some 4 MB. More than attempts are in flight at once anywhere.
pub(super) const WINDOW: usize = 65_536;

/// Bad lines that are kept to be shown.
const SHOWN_MAX: usize = 10;

/// A line that is no request.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BadLine {
    /// Which, from 1.
    pub line: u64,
    /// Why not.
    pub reason: String,
}

/// What was read so far.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Tally {
    /// Requests.
    pub rows: u64,
    /// Attempts of a recording that say nothing about a request's size.
    pub left_out: u64,
    /// Requests that stood so far from their place that they were moved.
    pub moved: u64,
    /// How often the recorder of a recording was started anew: its runs come one behind the other.
    pub restarts: u32,
    /// Lines that are no request.
    pub bad: u64,
    /// The first of them.
    pub bad_lines: Vec<BadLine>,
}

/// A row that waits; ordered so that a heap gives the earliest first, and of equals the one that came first.
#[derive(Debug)]
struct Waiting {
    number: u64,
    row: TraceRow,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> Ordering {
        other.row.at_s.total_cmp(&self.row.at_s).then(other.number.cmp(&self.number))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting {}

/// The rows of a file in order of time.
#[derive(Debug)]
pub(super) struct Reader<R> {
    lines: R,
    buffer: Vec<u8>,
    line: u64,
    ended: bool,
    parser: Option<Parser>,
    waiting: BinaryHeap<Waiting>,
    window: usize,
    last_s: f64,
    tally: Tally,
    trouble: Option<io::Error>,
}

impl Reader<BufReader<File>> {
    pub(super) fn open(path: &Path) -> io::Result<Reader<BufReader<File>>> {
        Ok(Reader::new(BufReader::new(File::open(path)?), WINDOW))
    }
}

impl<R: BufRead> Reader<R> {
    pub(super) fn new(lines: R, window: usize) -> Reader<R> {
        Reader {
            lines,
            buffer: Vec::new(),
            line: 0,
            ended: false,
            parser: None,
            waiting: BinaryHeap::new(),
            window,
            last_s: f64::NEG_INFINITY,
            tally: Tally::default(),
            trouble: None,
        }
    }

    /// What was read, and the error that ended it.
    pub(super) fn close(self) -> (Tally, Option<Format>, Option<io::Error>) {
        (self.tally, self.parser.map(|parser| parser.format()), self.trouble)
    }

    /// What was read so far.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    fn bad(&mut self, reason: String) {
        self.tally.bad += 1;
        if self.tally.bad_lines.len() < SHOWN_MAX {
            self.tally.bad_lines.push(BadLine { line: self.line, reason });
        }
    }

    /// Takes the next line in; at the end of the file nothing more comes.
    fn take_line(&mut self) {
        self.buffer.clear();
        self.line += 1;
        match (&mut self.lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.buffer) {
            Ok(0) => self.ended = true,
            Ok(count) if count as u64 == LINE_BYTES_MAX => {
                self.ended = true;
                self.bad(format!("longer than {LINE_BYTES_MAX} bytes: nothing after it is read"));
            }
            Ok(_) => self.take_text(),
            Err(error) => {
                self.ended = true;
                self.trouble = Some(error);
            }
        }
    }

    fn take_text(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        match std::str::from_utf8(&buffer) {
            Err(_) => self.bad("not UTF-8".to_owned()),
            Ok(text) if text.trim().is_empty() => {}
            Ok(text) => {
                let parser = self.parser.get_or_insert_with(|| Parser::new(Format::of(text)));
                match parser.parse(text) {
                    Ok(Line::Row(row)) => {
                        self.tally.rows += 1;
                        self.waiting.push(Waiting { number: self.line, row });
                    }
                    Ok(Line::LeftOut) => self.tally.left_out += 1,
                    Ok(Line::Nothing) => {}
                    Err(reason) => self.bad(reason),
                }
            }
        }
        self.tally.restarts = self.parser.as_ref().map_or(0, Parser::restarts);
        self.buffer = buffer;
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = TraceRow;

    fn next(&mut self) -> Option<TraceRow> {
        while !self.ended && self.waiting.len() < self.window {
            self.take_line();
        }
        let mut row = self.waiting.pop()?.row;
        if row.at_s < self.last_s {
            self.tally.moved += 1;
            row.at_s = self.last_s;
        }
        self.last_s = row.at_s;
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::test_sample;
    use crate::recording::Row as Recorded;

    /// A stream of five events.
    fn recorded(node: &str) -> Recorded {
        Recorded { streaming: true, events: 5, ..Recorded::of(&test_sample(0, 1, 0.1), node, "k".to_owned()) }
    }

    fn line(second: u32) -> String {
        format!("2023-11-16 18:00:{second:02},{second},1\n")
    }

    fn read(text: &str, window: usize) -> (Vec<u32>, Tally) {
        let mut reader = Reader::new(text.as_bytes(), window);
        let rows = reader.by_ref().map(|row| row.prompt_tokens).collect();
        (rows, reader.close().0)
    }

    #[test]
    fn rows_find_their_place_within_the_window_and_are_counted_beyond_it() {
        let text: String = [3, 1, 2, 5, 4, 0].map(line).concat();
        assert_eq!(read(&text, 6).0, [0, 1, 2, 3, 4, 5]);
        let (rows, tally) = read(&text, 2);
        assert_eq!((rows, tally.moved), (vec![1, 2, 3, 4, 0, 5], 1));
    }

    #[test]
    fn bad_lines_are_counted_and_the_first_are_kept_with_their_number() {
        let text = format!("{}nonsense\n\n{}\u{1},2\n{}", line(1), line(2), "x\n".repeat(20));
        let (rows, tally) = read(&text, 10);
        assert_eq!((rows, tally.rows, tally.bad), (vec![1, 2], 2, 22));
        assert_eq!(tally.bad_lines.len(), SHOWN_MAX);
        assert_eq!((tally.bad_lines[0].line, tally.bad_lines[1].line), (2, 5));
    }

    #[test]
    fn the_runs_of_a_recording_come_one_behind_the_other() {
        let row = |i: u32| Recorded { started_s: f64::from(i), prompt_tokens: i, ..recorded("a") };
        let line = |i| serde_json::to_string(&row(i)).expect("plain data") + "\n";
        let text: String = [100, 200, 1, 2].map(line).concat();
        let mut reader = Reader::new(text.as_bytes(), 10);
        let rows: Vec<(u32, i64)> = reader.by_ref().map(|row| (row.prompt_tokens, row.at_s.round() as i64)).collect();
        assert_eq!(rows, [(100, 100), (200, 200), (1, 201), (2, 202)]);
        assert_eq!(reader.tally().restarts, 1);
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let text = format!("{}{}", line(1), "y".repeat(LINE_BYTES_MAX as usize + 5));
        let (rows, tally) = read(&text, 10);
        assert_eq!((rows, tally.bad), (vec![1], 1));
        assert!(tally.bad_lines[0].reason.contains("longer"));
    }
}
