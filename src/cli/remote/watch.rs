//! Streams of server-sent events of the admin API, read event by event.
//!
//! The admin API ends each stream after some minutes, so that a token that was taken away stops working; the reader
//! opens it again and nobody notices. A signal to stop ends the reading in an orderly way: whoever draws on a terminal
//! must be able to leave it as it was.

use std::io;
use std::ops::ControlFlow;

use http::Method;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::{PATIENCE, Remote, RemoteError};

/// Bytes of one event: some ten times that of the largest fleet.
const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why watching ended before it was enough.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum WatchError {
    /// There is nothing to read.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// What was read could not be shown.
    #[error(transparent)]
    Shown(#[from] io::Error),
}

impl Remote {
    /// Gives every event of the stream at `path` to `each`, name and data, until that has enough, or a signal or `quit` says
    /// stop. A `quit` that nobody can say any more is none.
    ///
    /// # Errors
    /// Nobody answers, or with a refusal; or `each` fails.
    pub(in crate::cli) fn watch(
        &self,
        path: &str,
        quit: oneshot::Receiver<()>,
        mut each: impl FnMut(&str, &Value) -> io::Result<ControlFlow<()>>,
    ) -> Result<(), WatchError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mut stop, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            let reading = async {
                while self.read_once(path, &mut each).await?.is_continue() {}
                Ok(())
            };
            tokio::select! {
                read = reading => read,
                _ = stop.recv() => Ok(()),
                _ = interrupt.recv() => Ok(()),
                Ok(()) = quit => Ok(()),
            }
        })
    }

    /// Reads one stream to its end.
    async fn read_once(
        &self,
        path: &str,
        each: &mut impl FnMut(&str, &Value) -> io::Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>, WatchError> {
        let slow = || RemoteError::Slow(self.target.clone());
        let opened = tokio::time::timeout(PATIENCE, self.send(Method::GET, path, None));
        let mut response = opened.await.map_err(|_| slow())??;
        if !response.status().is_success() {
            self.json(response).await?;
            return Err(self.stranger("no stream of events".to_owned()).into());
        }
        let mut unread = Unread::default();
        loop {
            let frame = tokio::time::timeout(PATIENCE, response.body_mut().frame()).await.map_err(|_| slow())?;
            let Some(frame) = frame else { return Ok(ControlFlow::Continue(())) };
            let Ok(data) = frame.map_err(|error| self.stranger(error.to_string()))?.into_data() else { continue };
            unread.push(&data).map_err(|what| self.stranger(what.to_owned()))?;
            while let Some(event) = unread.next() {
                let (name, data) = event.map_err(|what| self.stranger(what.to_owned()))?;
                if each(&name, &data)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
    }
}

/// What has come of a stream and was not an event yet.
#[derive(Debug, Default)]
struct Unread(Vec<u8>);

impl Unread {
    fn push(&mut self, data: &[u8]) -> Result<(), &'static str> {
        self.0.extend_from_slice(data);
        if self.0.len() > EVENT_BYTES_MAX { Err("an event without end") } else { Ok(()) }
    }

    /// The next whole event.
    fn next(&mut self) -> Option<Result<(String, Value), &'static str>> {
        let end = self.0.windows(2).position(|pair| pair == b"\n\n")?;
        let block: Vec<u8> = self.0.drain(..end + 2).collect();
        let text = String::from_utf8_lossy(&block);
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(str::trim_start).unwrap_or_default()
        };
        let data = serde_json::from_str(field("data")).map_err(|_| "an event that is not JSON");
        Some(data.map(|data| (field("event").to_owned(), data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_whole_however_they_were_cut() {
        let text = b"event: live\ndata: {\"a\": 1}\n\nevent: tally\ndata: [2]\n\nevent: half";
        for size in 1..text.len() {
            let mut unread = Unread::default();
            let mut seen = Vec::new();
            for piece in text.chunks(size) {
                unread.push(piece).expect("short");
                while let Some(event) = unread.next() {
                    seen.push(event.expect("JSON"));
                }
            }
            let expected = [("live".to_owned(), serde_json::json!({"a": 1})), ("tally".to_owned(), [2].into())];
            assert_eq!(seen, expected, "{size}");
        }
        let mut unread = Unread::default();
        unread.push(b"data: no JSON\n\n").expect("short");
        assert!(unread.next().is_some_and(|event| event.is_err()));
        assert!(unread.push(&vec![b'x'; EVENT_BYTES_MAX + 1]).is_err());
    }
}
