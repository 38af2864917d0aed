//! The client side: keep-alive connections, the small request, and a closed loop of load over many connections.
//!
//! The loop is ours rather than a load generator's so that nothing needs to be installed, a count is exact at both ends
//! of a window, and any answer but a whole 200 stops the benchmark. It parses just enough to know where an answer ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Failure;

/// Body of the small request, about 250 bytes.
const QUESTION: &str = r#"{"model":"llama-3.1-8b","messages":[{"role":"system","content":"You are a helpful assistant. Answer in one sentence."},{"role":"user","content":"What is the capital of France, and on which river is it?"}],"temperature":0.7,"max_tokens":64}"#;
/// Large bodies are written in such pieces.
pub(crate) static PIECE: [u8; 256 * 1024] = [b'x'; 256 * 1024];
/// Without an answer for so long, something is broken.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// The small request: a chat completion.
pub(crate) fn small_request() -> Arc<[u8]> {
    post("/v1/chat/completions", QUESTION)
}

/// A POST with a JSON body.
pub(crate) fn post(path: &str, body: &str) -> Arc<[u8]> {
    let head = "Host: models.test\r\nUser-Agent: bench/1\r\nAccept: application/json\r\nContent-Type: application/json";
    Arc::from(format!("POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

/// A GET.
pub(crate) fn get(path: &str) -> Arc<[u8]> {
    Arc::from(format!("GET {path} HTTP/1.1\r\nHost: models.test\r\nUser-Agent: bench/1\r\n\r\n").into_bytes())
}

/// What must be known of a message head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// Length, with the empty line.
    pub(crate) bytes: usize,
    length: Option<u64>,
    chunked: bool,
}

impl Head {
    /// Of a message that begins so; `None` as long as its head is not complete.
    pub(crate) fn of(message: &[u8]) -> Option<Head> {
        let bytes = memmem::find(message, b"\r\n\r\n")? + 4;
        let mut head = Head { bytes, length: None, chunked: false };
        for line in message[..bytes].split(|&byte| byte == b'\n') {
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                head.length = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                head.chunked = true;
            }
        }
        Some(head)
    }

    /// Length of the body, `absent` where the head does not tell; `None` where chunks tell.
    pub(crate) fn body_bytes(&self, absent: u64) -> Option<u64> {
        (!self.chunked).then(|| self.length.unwrap_or(absent))
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, buffer: Vec::with_capacity(1024) })
    }

    /// Sends a request and reads the head of the answer, with as much of the body as comes along.
    async fn ask_head(&mut self, request: &[u8]) -> Result<Head, Failure> {
        self.stream.write_all(request).await?;
        self.read_head().await
    }

    /// Sends a request and waits for nothing.
    pub(crate) async fn send(&mut self, request: &[u8]) -> Result<(), Failure> {
        Ok(self.stream.write_all(request).await?)
    }

    /// Sends a request and reads the answer up to the first `mark`.
    pub(crate) async fn ask_until(&mut self, request: &[u8], mark: &[u8]) -> Result<(), Failure> {
        self.ask_head(request).await?;
        while memmem::find(&self.buffer, mark).is_none() {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("an answer ended early".into());
            }
        }
        Ok(())
    }

    async fn read_head(&mut self) -> Result<Head, Failure> {
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the connection was closed instead of an answer".into());
            }
            let Some(head) = Head::of(&self.buffer) else { continue };
            if !self.buffer.starts_with(b"HTTP/1.1 200 ") {
                return Err(format!("not a 200: {}", String::from_utf8_lossy(&self.buffer)).into());
            }
            return Ok(head);
        }
    }

    /// Reads the body that belongs to `head`.
    async fn read_body(&mut self, head: Head) -> Result<u64, Failure> {
        let body = head.body_bytes(0).ok_or("an answer in chunks, where none was sent so")?;
        let mut missing = (head.bytes as u64 + body).saturating_sub(self.buffer.len() as u64);
        while missing > 0 {
            self.buffer.clear();
            self.buffer.reserve(PIECE.len().min(usize::try_from(missing)?));
            match self.stream.read_buf(&mut self.buffer).await? {
                0 => return Err(format!("an answer ended {missing} bytes early").into()),
                read => missing = missing.saturating_sub(read as u64),
            }
        }
        Ok(body)
    }

    /// Sends a request and reads the whole answer, which must be a 200. Returns the bytes of its body.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<u64, Failure> {
        let head = self.ask_head(request).await?;
        self.read_body(head).await
    }

    /// Sends a POST with a body of so many bytes and reads the whole answer.
    pub(crate) async fn upload(&mut self, bytes: u64) -> Result<(), Failure> {
        let head = format!(
            "POST /upload HTTP/1.1\r\nHost: models.test\r\nContent-Type: application/octet-stream\r\n\
             Content-Length: {bytes}\r\n\r\n"
        );
        self.stream.write_all(head.as_bytes()).await?;
        write_bytes(&mut self.stream, bytes).await?;
        let head = self.read_head().await?;
        self.read_body(head).await?;
        Ok(())
    }
}

/// Writes so many bytes.
pub(crate) async fn write_bytes(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE.len());
        stream.write_all(&PIECE[..piece]).await?;
        left -= piece as u64;
    }
    Ok(())
}

/// When load ends: whichever comes first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until {
    pub(crate) time: Duration,
    pub(crate) requests: u64,
}

/// Connections that each send the small request again as soon as it is answered.
#[derive(Debug)]
pub(crate) struct Load {
    clients: Vec<Client>,
    request: Arc<[u8]>,
}

impl Load {
    /// Opens the connections; each has been answered once when this returns.
    pub(crate) async fn connect(address: SocketAddr, connections: usize) -> Result<Load, Failure> {
        let request = small_request();
        let mut clients = Vec::with_capacity(connections);
        for _ in 0..connections {
            let mut client = Client::connect(address).await?;
            timeout(ANSWER_WAIT, client.ask(&request)).await??;
            clients.push(client);
        }
        Ok(Load { clients, request })
    }

    /// Makes so many requests per second, of which each goes out when it is due or, where the proxy is slower than that, as
    /// soon as it can. Returns as [`Load::run`] does.
    pub(crate) async fn run_at(&mut self, per_s: f64, time: Duration) -> Result<(u64, Duration), Failure> {
        let (start, total) = (tokio::time::Instant::now(), (per_s * time.as_secs_f64()) as usize);
        let connections = self.clients.len();
        let mut loops = JoinSet::new();
        for (first, mut client) in self.clients.drain(..).enumerate() {
            let request = Arc::clone(&self.request);
            loops.spawn(async move {
                for number in (first..total).step_by(connections) {
                    tokio::time::sleep_until(start + Duration::from_secs_f64(number as f64 / per_s)).await;
                    timeout(ANSWER_WAIT, client.ask(&request)).await??;
                }
                Ok::<_, Failure>(client)
            });
        }
        while let Some(ended) = loops.join_next().await {
            self.clients.push(ended??);
        }
        Ok((total as u64, start.elapsed()))
    }

    /// Makes load and returns the number of requests, all of which were answered, and how long it took.
    pub(crate) async fn run(&mut self, until: Until) -> Result<(u64, Duration), Failure> {
        let sent = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        let mut loops = JoinSet::new();
        for mut client in self.clients.drain(..) {
            let (sent, request) = (Arc::clone(&sent), Arc::clone(&self.request));
            loops.spawn(async move {
                let mut answered = 0;
                while start.elapsed() < until.time && sent.fetch_add(1, Ordering::Relaxed) < until.requests {
                    client.ask(&request).await?;
                    answered += 1;
                }
                Ok::<_, Failure>((client, answered))
            });
        }
        let mut total = 0;
        while let Some(ended) = timeout(until.time + ANSWER_WAIT, loops.join_next()).await? {
            let (client, answered) = ended??;
            self.clients.push(client);
            total += answered;
        }
        Ok((total, start.elapsed()))
    }
}
