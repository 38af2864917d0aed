//! Reading a recording: row by row, in bounded memory, each mistake with its line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::recording::Row;

/// The longest line: a hundred times a row.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// A line that is no row.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {reason}", path.display())]
pub struct BadRow {
    /// Which file.
    pub path: PathBuf,
    /// Which line, from 1.
    pub line: u64,
    /// Why not.
    pub reason: String,
}

/// The rows of a file, with their lines. After a read error there is nothing more.
#[derive(Debug)]
pub struct Rows {
    path: PathBuf,
    lines: BufReader<File>,
    line: u64,
    ended: bool,
}

/// Opens a recording.
///
/// # Errors
/// The file cannot be opened.
pub fn read(path: &Path) -> io::Result<Rows> {
    Ok(Rows { path: path.to_path_buf(), lines: BufReader::new(File::open(path)?), line: 0, ended: false })
}

impl Rows {
    fn bad(&self, reason: &dyn ToString) -> BadRow {
        BadRow { path: self.path.clone(), line: self.line, reason: reason.to_string() }
    }

    fn next_line(&mut self) -> Option<Result<Vec<u8>, BadRow>> {
        let mut bytes = Vec::new();
        self.line += 1;
        match (&mut self.lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes) {
            Ok(0) => None,
            Ok(count) if count as u64 == LINE_BYTES_MAX && bytes.last() != Some(&b'\n') => {
                self.ended = true;
                Some(Err(self.bad(&format!("longer than {LINE_BYTES_MAX} bytes: not a recording"))))
            }
            Ok(_) => Some(Ok(bytes)),
            Err(error) => {
                self.ended = true;
                Some(Err(self.bad(&error)))
            }
        }
    }
}

impl Iterator for Rows {
    type Item = Result<(u64, Row), BadRow>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            match self.next_line()? {
                Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => {}
                Ok(bytes) => {
                    let row = serde_json::from_slice(&bytes).map_err(|error| self.bad(&error));
                    return Some(row.map(|row| (self.line, row)));
                }
                Err(bad) => return Some(Err(bad)),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::learn::test_sample;

    #[test]
    fn every_bad_line_is_named_and_the_good_ones_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("samples.jsonl");
        let row = serde_json::to_string(&Row::of(&test_sample(0, 1, 0.1), "a", "k".to_owned())).expect("plain data");
        let long = "x".repeat(LINE_BYTES_MAX as usize + 10);
        let odd = row.replacen("\"node\"", "\"nod\"", 1);
        fs::write(&path, format!("{row}\n\n{{\"node\": 1}}\n{odd}\n{row}\n{long}\n{row}\n")).expect("written");
        let seen: Vec<_> = read(&path).expect("there").collect();
        let lines: Vec<_> =
            seen.iter().map(|row| row.as_ref().map(|(line, _)| *line).map_err(|bad| bad.line)).collect();
        assert_eq!(lines, [Ok(1), Err(3), Err(4), Ok(5), Err(6)]);
        let said = seen[2].as_ref().expect_err("bad").to_string();
        assert!(said.contains("samples.jsonl:4: unknown field `nod`"), "{said}");
        assert!(read(&dir.path().join("nope")).is_err());
    }
}
