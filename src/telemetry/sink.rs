//! Where log lines go: a bounded queue and a thread that writes.
//!
//! A thread that carries requests must not wait for whoever reads the log: a full pipe would stop a whole core's
//! traffic. So a line is put into a queue of [`LINES_MAX`] and dropped when that is full, and drops are counted
//! (`bellwether_log_lines_dropped_total`). The price: what is still queued is lost if the process is killed. A normal
//! end flushes.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use crate::escape::escaped;

/// Lines that may wait to be written: at 300 bytes a line about 1 MB, or a second of a fast proxy's access log.
const LINES_MAX: usize = 4096;

/// As much is gathered into one write; at most one line longer.
const BATCH_BYTES: usize = 64 * 1024;

/// How long a flush waits for a reader that does not read.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The log is the process's, not an instance's, and so is the count of lines that it lost.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines dropped by this process so far.
pub(super) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The queue's near end; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Sink(SyncSender<Message>);

impl Sink {
    /// A sink whose thread writes to `out` until the last clone is gone.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn to(out: impl Write + Send + 'static) -> io::Result<Sink> {
        let (sender, receiver) = sync_channel(LINES_MAX);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&receiver, out))?;
        Ok(Sink(sender))
    }

    /// Waits until what is queued now has been written; `false` if that took longer than two seconds.
    pub(super) fn flush(&self) -> bool {
        let (done, wait) = sync_channel(1);
        let (end, mut message) = (Instant::now() + FLUSH_TIMEOUT, Message::Flush(done));
        // A queue that is full this instant is not one that stands still.
        loop {
            match self.0.try_send(message) {
                Ok(()) => return wait.recv_timeout(end.saturating_duration_since(Instant::now())).is_ok(),
                Err(TrySendError::Full(back)) if Instant::now() < end => message = back,
                Err(_) => return false,
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn write_all(lines: &Receiver<Message>, mut out: impl Write) {
    let mut batch = Vec::with_capacity(BATCH_BYTES);
    while let Ok(first) = lines.recv() {
        let mut waiting = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => batch.extend_from_slice(&line),
                Message::Flush(done) => waiting.push(done),
            }
            next = if batch.len() < BATCH_BYTES { lines.try_recv().ok() } else { None };
        }
        // A log that cannot be written has nobody who could be told.
        let _ = out.write_all(&batch).and_then(|()| out.flush());
        batch.clear();
        for done in waiting {
            let _ = done.try_send(());
        }
    }
}

/// Takes one line; the subscriber hands over a whole event in one write.
#[derive(Debug)]
pub(super) struct LineWriter<'a>(&'a Sink);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let message = Message::Line(escaped(line).into_owned());
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.0.0.try_send(message) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;

    /// Writes only when the other end allows it.
    struct Gate {
        open: mpsc::Receiver<()>,
        seen: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.open.recv();
            self.seen.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_never_blocks() {
        let (open, gate) = mpsc::channel();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Sink::to(Gate { open: gate, seen: Arc::clone(&seen) }).unwrap();
        let before = dropped();
        // The writer thread may hold at most one batch of lines outside of the queue.
        let lines = LINES_MAX + BATCH_BYTES + 10;
        for _ in 0..lines {
            sink.make_writer().write_all(b"x\n").unwrap();
        }
        assert!(dropped() - before >= 10);
        drop(open);
        drop(sink);
    }

    #[test]
    fn a_flush_returns_after_the_lines_before_it() {
        let (open, gate) = mpsc::channel();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Sink::to(Gate { open: gate, seen: Arc::clone(&seen) }).unwrap();
        drop(open);
        sink.make_writer().write_all(b"one\n").unwrap();
        sink.make_writer().write_all(b"two\n").unwrap();
        assert!(sink.flush());
        assert_eq!(*seen.lock().unwrap(), b"one\ntwo\n");
    }
}
