//! Clients that know what they were promised: each says whether it got the right answer, a clear error, an answer that
//! was honestly cut, or nothing at all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Whoever has heard nothing by then was left without an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tokens of every answer.
pub(crate) const TOKENS: usize = 5;

/// How a request ended for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Complete, and what was asked for.
    Correct,
    /// A status of 400 or above with a reason that a program can read.
    ClearError,
    /// It began and was cut, which the framing shows.
    Cut,
    /// Nothing came.
    Silent,
    /// It looks complete and is not what was asked for.
    Wrong,
}

/// What became of many requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) correct: u64,
    pub(crate) clear: u64,
    pub(crate) cut: u64,
    pub(crate) silent: u64,
    pub(crate) wrong: u64,
    /// When the last one ended that was not answered correctly.
    pub(crate) last_failure: Option<Instant>,
    /// Seconds that the correct ones took.
    pub(crate) took_s: Vec<f64>,
}

impl Tally {
    fn add(&mut self, ending: Ending, began: Instant) {
        self.sent += 1;
        let count = match ending {
            Ending::Correct => &mut self.correct,
            Ending::ClearError => &mut self.clear,
            Ending::Cut => &mut self.cut,
            Ending::Silent => &mut self.silent,
            Ending::Wrong => &mut self.wrong,
        };
        *count += 1;
        if ending == Ending::Correct {
            self.took_s.push(began.elapsed().as_secs_f64());
        } else {
            self.last_failure = Some(Instant::now());
        }
    }

    /// Not answered correctly.
    pub(crate) fn failed(&self) -> u64 {
        self.sent - self.correct
    }

    /// 99th percentile of what was answered correctly; 0 without any.
    pub(crate) fn p99_s(&self) -> f64 {
        let mut sorted = self.took_s.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get((sorted.len() * 99 / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
    }
}

/// A request for [`TOKENS`] tokens.
pub(crate) fn request(stream: bool, tokens: usize) -> String {
    let content = format!("[output={tokens}]");
    let body = serde_json::json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": content}]});
    let (body, path) = (body.to_string(), "/v1/chat/completions");
    format!(
        "POST {path} HTTP/1.1\r\nhost: proxy.test\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Asks once, on a connection of its own.
pub(crate) async fn ask(proxy: SocketAddr, stream: bool) -> Ending {
    let exchange = async {
        let mut wire = TcpStream::connect(proxy).await.ok()?;
        wire.write_all(request(stream, TOKENS).as_bytes()).await.ok()?;
        let mut came = Vec::new();
        // A reset after a part of an answer leaves that part.
        let _ = wire.read_to_end(&mut came).await;
        Some(came)
    };
    match timeout(PATIENCE, exchange).await {
        Ok(Some(came)) => judge(&came, stream),
        Ok(None) | Err(_) => Ending::Silent,
    }
}

/// What these bytes are to a client that asked for [`TOKENS`] tokens.
fn judge(came: &[u8], stream: bool) -> Ending {
    let text = String::from_utf8_lossy(came);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ending::Silent };
    let Some(status) = head.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()) else {
        return Ending::Wrong;
    };
    let Some(body) = whole(head, body) else { return Ending::Cut };
    let json = serde_json::from_str::<Value>(&body);
    if status >= 400 {
        let says = json.is_ok_and(|json| json["error"]["message"].is_string());
        return if says { Ending::ClearError } else { Ending::Wrong };
    }
    let right = match stream {
        true => body.matches("data: {").count() == TOKENS && body.trim_end().ends_with("data: [DONE]"),
        false => json.is_ok_and(|json| json["usage"]["completion_tokens"] == TOKENS),
    };
    if status == 200 && right { Ending::Correct } else { Ending::Wrong }
}

/// The body, if it is as long as its framing says.
fn whole(head: &str, body: &str) -> Option<String> {
    let head = head.to_ascii_lowercase();
    if !head.contains("transfer-encoding: chunked") {
        let length: usize = head.split("content-length: ").nth(1)?.lines().next()?.trim().parse().ok()?;
        return (body.len() == length).then(|| body.to_owned());
    }
    let (mut rest, mut all) = (body, String::new());
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(all);
        }
        all.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
}

/// Clients that come at a steady rate, whatever becomes of those before them.
#[derive(Debug)]
pub(crate) struct Crowd {
    proxy: SocketAddr,
    pause: Duration,
    asked: AtomicU64,
    tally: Arc<Mutex<Tally>>,
    running: Mutex<JoinSet<()>>,
}

impl Crowd {
    pub(crate) fn before(proxy: SocketAddr, rate: f64) -> Crowd {
        let pause = Duration::from_secs_f64(1.0 / rate);
        Crowd { proxy, pause, asked: AtomicU64::new(0), tally: Arc::default(), running: Mutex::default() }
    }

    /// So many more, every second one a stream; returns when the last has been sent.
    pub(crate) async fn come(&self, count: u64) {
        let mut pace = interval(self.pause);
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for _ in 0..count {
            pace.tick().await;
            let stream = self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
            let (proxy, tally) = (self.proxy, Arc::clone(&self.tally));
            self.running.lock().await.spawn(async move {
                let began = Instant::now();
                let ending = ask(proxy, stream).await;
                tally.lock().await.add(ending, began);
            });
        }
    }

    /// What became of all of them, once the last has ended.
    pub(crate) async fn gone(self) -> Tally {
        let asked = self.asked.load(Ordering::Relaxed);
        let mut running = self.running.into_inner();
        while let Some(ended) = running.join_next().await {
            ended.expect("a client does not panic");
        }
        let tally = self.tally.lock().await.clone();
        assert_eq!(tally.sent, asked, "every client says how it ended");
        tally
    }
}
