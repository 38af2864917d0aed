//! Writing a recording: a bounded queue, a thread, and files that are bounded in size and number.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::recording::Row;

/// A file that is larger is moved to `FILE.1`, that one to `FILE.2`, and so on.
pub const FILE_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Former files that are kept: with the present one at most 640 MB: some 1.4 million attempts, or one million among eight nodes.
pub const FILES_KEPT: u32 = 4;

/// Rows that may wait for the disk; some 6 MB among eight nodes.
const QUEUE_MAX: usize = 8_192;

/// How long a row may wait in memory while nothing follows it.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// After a failed write nothing is tried for so long.
const PAUSE: Duration = Duration::from_secs(10);

/// Files of a bounded size, of which a bounded number is kept.
#[derive(Debug)]
pub struct Rotating {
    path: PathBuf,
    bytes_max: u64,
    file: BufWriter<File>,
    written: u64,
}

fn ends_in_newline(file: &mut File) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

impl Rotating {
    /// Opens `path` to write on at its end.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path, bytes_max: u64) -> io::Result<Rotating> {
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let mut written = file.metadata()?.len();
        // A disk that was full may have left half a row, which would spoil the next one too.
        if written > 0 && !ends_in_newline(&mut file)? {
            file.write_all(b"\n")?;
            written += 1;
        }
        Ok(Rotating { path: path.to_path_buf(), bytes_max, file: BufWriter::new(file), written })
    }

    /// Writes what is still in memory.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(self.path.as_os_str());
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.flush()?;
        for number in (1..FILES_KEPT).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.numbered(1))?;
        *self = Rotating::open(&self.path, self.bytes_max)?;
        Ok(())
    }

    /// Writes a row; it may stay in memory until [`flush`](Rotating::flush).
    ///
    /// # Errors
    /// It cannot be written.
    pub fn record(&mut self, row: &Row) -> io::Result<()> {
        let mut line = serde_json::to_vec(row)?;
        line.push(b'\n');
        if self.written > 0 && self.written + line.len() as u64 > self.bytes_max {
            self.rotate()?;
        }
        self.file.write_all(&line)?;
        self.written += line.len() as u64;
        Ok(())
    }
}

/// The thread that writes, and its queue.
#[derive(Debug)]
pub struct Recorder {
    /// `None` once it stops.
    rows: Mutex<Option<SyncSender<Row>>>,
    lost: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Recorder {
    /// Starts to record to `path`, at the end of what is there.
    ///
    /// # Errors
    /// The file cannot be opened, or there is no thread to be had.
    pub fn start(path: &Path) -> io::Result<Recorder> {
        let file = Rotating::open(path, FILE_BYTES_MAX)?;
        let (rows, queue) = sync_channel(QUEUE_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        let thread = Builder::new().name("recorder".to_owned()).spawn(move || write_all(file, &queue, &counted))?;
        Ok(Recorder { rows: Mutex::new(Some(rows)), lost, thread: Mutex::new(Some(thread)) })
    }

    /// Takes a row; where there is no room it is dropped and counted. Never waits for the disk.
    pub fn record(&self, row: Row) {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.as_ref().is_none_or(|rows| rows.try_send(row).is_err()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Rows that found no room or could not be written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Writes what was taken and ends. Blocks for as long as that takes.
    pub fn stop(&self) {
        drop(self.rows.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the recorder panicked");
        }
    }
}

fn write_all(mut file: Rotating, rows: &Receiver<Row>, lost: &AtomicU64) {
    let mut paused: Option<Instant> = None;
    let check = |written: io::Result<()>, paused: &mut Option<Instant>| {
        if let Err(error) = written {
            tracing::error!(%error, "samples cannot be recorded, trying again in {PAUSE:?}");
            *paused = Some(Instant::now());
        }
    };
    loop {
        match rows.recv_timeout(FLUSH_EVERY) {
            Ok(_) if paused.is_some_and(|since| since.elapsed() < PAUSE) => _ = lost.fetch_add(1, Ordering::Relaxed),
            Ok(row) => {
                paused = None;
                check(file.record(&row), &mut paused);
                if paused.is_some() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(RecvTimeoutError::Timeout) if paused.is_none() => check(file.flush(), &mut paused),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                check(file.flush(), &mut paused);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::test_sample;
    use crate::recording::read;

    fn row(node: &str) -> Row {
        Row::of(&test_sample(0, 1, 0.1), node, "k".to_owned())
    }

    #[test]
    fn files_are_bounded_in_size_and_number_and_lose_the_oldest_rows() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s.jsonl");
        let mut file = Rotating::open(&path, 1_000).expect("opened");
        (0..100).for_each(|i| file.record(&row(&i.to_string())).expect("written"));
        file.flush().expect("written");
        let mut sizes: Vec<u64> = Vec::new();
        for entry in fs::read_dir(dir.path()).expect("there") {
            sizes.push(entry.and_then(|entry| entry.metadata()).expect("a file").len());
        }
        assert_eq!(sizes.len() as u32, FILES_KEPT + 1);
        assert!(sizes.iter().all(|size| *size <= 1_000), "{sizes:?}");
        let last = read(&path).expect("there").last().expect("rows").expect("sound").1;
        assert_eq!(last.node, "99");
        let next = read(&dir.path().join("s.jsonl.1")).expect("there").last().expect("rows").expect("sound").1;
        let first = read(&path).expect("there").next().expect("rows").expect("sound").1;
        assert_eq!(next.node.parse::<u32>().expect("a number") + 1, first.node.parse::<u32>().expect("a number"));
    }

    #[test]
    fn half_a_row_of_a_former_process_costs_no_other_row() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s.jsonl");
        fs::write(&path, "{\"node\":\"ha").expect("written");
        let mut file = Rotating::open(&path, 100_000).expect("opened");
        file.record(&row("whole")).and_then(|()| file.flush()).expect("written");
        let rows: Vec<_> = read(&path).expect("there").collect();
        assert!(rows[0].is_err() && rows[1].as_ref().is_ok_and(|(_, row)| row.node == "whole"), "{rows:?}");
    }

    #[test]
    fn a_recorder_writes_all_that_it_took_before_it_ends_and_goes_on_at_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s.jsonl");
        for _ in 0..2 {
            let recorder = Recorder::start(&path).expect("opened");
            (0..100).for_each(|_| recorder.record(row("a")));
            recorder.stop();
            assert_eq!(recorder.lost(), 0);
            recorder.record(row("late"));
            assert_eq!(recorder.lost(), 1);
        }
        assert_eq!(read(&path).expect("there").filter(Result::is_ok).count(), 200);
        assert!(Recorder::start(&dir.path().join("no/such/dir")).is_err());
    }
}
