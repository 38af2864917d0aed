//! One request and its answer, over connections that are kept for the next.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::SESSION_HEADER;
use super::measure::{Ending, Measured, Recorder};
use super::plan::{Planned, Whole};
use crate::emulator::NODE_HEADER;

type Sender = SendRequest<Full<Bytes>>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Idle connections to one address; the last one used is used first.
#[derive(Debug)]
pub(super) struct Pool {
    target: SocketAddr,
    host: HeaderValue,
    idle: Mutex<Vec<Sender>>,
    idle_max: usize,
}

impl Pool {
    pub(super) fn new(target: SocketAddr, idle_max: usize) -> Pool {
        let host = HeaderValue::from_str(&target.to_string()).unwrap_or(HeaderValue::from_static("localhost"));
        Pool { target, host, idle: Mutex::new(Vec::new()), idle_max }
    }

    fn take(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(Sender::is_ready)
    }

    fn give_back(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.idle_max {
            idle.push(sender);
        }
    }

    async fn connect(&self) -> Result<Sender, Failure> {
        let stream = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Whatever ends the connection, its request hears of it.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Sends on a kept connection, or on a new one if there is none or the other side has closed it meanwhile.
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<(Sender, Response<Incoming>), Failure> {
        let request = match self.take() {
            None => request,
            Some(mut sender) => match sender.try_send_request(request).await {
                Ok(response) => return Ok((sender, response)),
                Err(mut error) => match error.take_message() {
                    // Nothing of it was written.
                    Some(request) => request,
                    None => return Err(error.into_error().into()),
                },
            },
        };
        let mut sender = self.connect().await?;
        let response = sender.send_request(request).await?;
        Ok((sender, response))
    }
}

/// What came of a stream.
#[derive(Debug, Default)]
struct Seen {
    newlines: u64,
    /// Its last bytes.
    end: Vec<u8>,
}

/// The event that ends a stream.
const DONE: &[u8] = b"data: [DONE]";

impl Seen {
    fn take_in(&mut self, data: &[u8]) {
        self.newlines += memchr::memchr_iter(b'\n', data).count() as u64;
        // Line ends may follow it.
        let most = DONE.len() + 4;
        self.end.extend_from_slice(&data[data.len().saturating_sub(most)..]);
        self.end.drain(..self.end.len().saturating_sub(most));
    }

    fn is(&self, whole: Whole) -> bool {
        match whole {
            // An event ends with an empty line, so two line ends are one event, however the pieces are cut.
            Whole::Events(events) => self.newlines == 2 * events,
            Whole::Done => self.end.trim_ascii_end().ends_with(DONE),
        }
    }
}

/// A request on its way. Dropped before it ends, it is recorded as unfinished.
#[derive(Debug)]
pub(super) struct Exchange {
    recorder: Arc<Recorder>,
    outstanding: Arc<AtomicUsize>,
    planned: Planned,
    intended: Instant,
    late: Duration,
    ttfb: Option<Duration>,
    node: Option<String>,
    ending: Ending,
}

impl Exchange {
    pub(super) fn begin(
        recorder: Arc<Recorder>,
        outstanding: Arc<AtomicUsize>,
        planned: Planned,
        intended: Instant,
    ) -> Exchange {
        let late = intended.elapsed();
        Exchange { recorder, outstanding, planned, intended, late, ttfb: None, node: None, ending: Ending::Unfinished }
    }

    pub(super) async fn run(mut self, pool: Arc<Pool>) {
        self.ending = self.ask(&pool).await.unwrap_or(Ending::Broken);
    }

    async fn ask(&mut self, pool: &Pool) -> Result<Ending, Failure> {
        let mut request = Request::post(self.planned.path.as_str())
            .header(header::HOST, pool.host.clone())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(session) = self.planned.session {
            request = request.header(SESSION_HEADER, format!("{session:016x}"));
        }
        let request = request.body(Full::new(self.planned.body.clone()))?;
        let (mut sender, mut response) = pool.send(request).await?;
        self.node = response.headers().get(NODE_HEADER).and_then(|name| name.to_str().ok()).map(str::to_owned);
        let mut seen = Seen::default();
        while let Some(frame) = response.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if !data.is_empty() && self.ttfb.is_none() {
                self.ttfb = Some(self.intended.elapsed());
            }
            if self.planned.whole.is_some() {
                seen.take_in(&data);
            }
        }
        let status = response.status();
        if sender.ready().await.is_ok() {
            pool.give_back(sender);
        }
        if !status.is_success() {
            return Ok(Ending::Status(status.as_u16()));
        }
        Ok(if self.planned.whole.is_none_or(|whole| seen.is(whole)) { Ending::Answered } else { Ending::Broken })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
        let measured = Measured {
            at: self.planned.at,
            node: None,
            late_s: self.late.as_secs_f64(),
            ttfb_s: self.ttfb.map_or(f64::NAN, |ttfb| ttfb.as_secs_f64()),
            total_s: self.intended.elapsed().as_secs_f64(),
            ending: self.ending,
        };
        self.recorder.add(self.node.as_deref(), measured);
    }
}
