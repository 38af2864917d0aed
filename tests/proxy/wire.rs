//! HTTP/1.1 by hand, for either end of a connection.
//!
//! Deliberately literal: it shows what came over the socket, in the order in which it came, and says whether a message
//! ended as its framing promised. It corrects nothing and sends what it is given.

use std::fmt::Debug;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What has not happened by then never will; only turns a test that hangs into one that fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for `future`, which ends at once or not at all.
pub(crate) async fn soon<T>(what: impl Debug, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what:?}: nothing happened"))
}

/// A request or response head as it came.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// The first line.
    pub(crate) line: String,
    /// Names as they were written, values without white space around them.
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Head {
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let fields = lines.filter_map(|line| line.split_once(':'));
        Head { line, fields: fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect() }
    }

    pub(crate) fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{self:?}"))
    }

    /// The values of every field of that name, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a field that occurs at most once.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} occurs more than once: {self:?}");
        all.first().copied()
    }

    pub(crate) fn framing(&self) -> Framing {
        let bodiless = self.line.starts_with("HTTP/") && matches!(self.status(), 100..200 | 204 | 304);
        match (self.get("transfer-encoding"), self.get("content-length")) {
            _ if bodiless => Framing::Length(0),
            (Some("chunked"), None) => Framing::Chunked,
            (None, Some(length)) => Framing::Length(length.parse().expect("a length")),
            (None, None) if self.line.starts_with("HTTP/") => Framing::UntilClose,
            (None, None) => Framing::Length(0),
            framing => panic!("{framing:?}"),
        }
    }
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// What comes next of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Vec<u8>),
    /// The end, as the framing promised, with the trailers.
    End(Vec<(String, String)>),
    /// The connection ended before that.
    Broken,
}

/// A whole message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// Whether it ended as its framing promised.
    pub(crate) clean: bool,
}

impl Message {
    pub(crate) fn status(&self) -> u16 {
        self.head.status()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    /// Read and not used yet.
    buffer: Vec<u8>,
}

impl From<TcpStream> for Wire {
    fn from(stream: TcpStream) -> Wire {
        stream.set_nodelay(true).expect("an option of every socket");
        Wire { stream, buffer: Vec::new() }
    }
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Wire {
        Wire::from(soon("a connection", TcpStream::connect(address)).await.expect("a connection"))
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon("sent", self.stream.write_all(bytes.as_ref())).await.expect("the other side reads");
    }

    /// Sends to somebody who may have closed the connection.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<usize> {
        soon("sent", self.stream.write(bytes.as_ref())).await
    }

    /// Takes in what comes; `false` when the connection has ended, in whichever way.
    async fn fill(&mut self) -> bool {
        matches!(soon(&self.buffer.len(), self.stream.read_buf(&mut self.buffer)).await, Ok(n) if n > 0)
    }

    /// The next head; `None` if the connection ends before one is whole.
    pub(crate) async fn try_head(&mut self) -> Option<Head> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                let head = String::from_utf8(self.buffer[..end].to_vec()).expect("UTF-8");
                self.buffer.drain(..end + 4);
                return Some(Head::parse(&head));
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    pub(crate) async fn head(&mut self) -> Head {
        self.try_head().await.unwrap_or_else(|| panic!("the connection ended: {self:?}"))
    }

    /// Exactly so many bytes.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.fill().await, "the connection ended after {:?}", String::from_utf8_lossy(&self.buffer));
        }
        self.buffer.drain(..count).collect()
    }

    /// A line without its end.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n") {
                let line = String::from_utf8(self.buffer[..end].to_vec()).expect("UTF-8");
                self.buffer.drain(..end + 2);
                return Some(line);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// What comes next of a body: of a chunked one exactly a chunk.
    pub(crate) async fn piece(&mut self, framing: &mut Framing) -> Piece {
        match framing {
            Framing::Length(0) => Piece::End(Vec::new()),
            Framing::Length(left) => {
                if self.buffer.is_empty() && !self.fill().await {
                    return Piece::Broken;
                }
                let here = self.buffer.len().min(usize::try_from(*left).expect("fits"));
                *left -= here as u64;
                Piece::Data(self.buffer.drain(..here).collect())
            }
            Framing::UntilClose if !self.buffer.is_empty() || self.fill().await => {
                Piece::Data(std::mem::take(&mut self.buffer))
            }
            Framing::UntilClose => Piece::End(Vec::new()),
            Framing::Chunked => self.chunk().await.unwrap_or(Piece::Broken),
        }
    }

    async fn chunk(&mut self) -> Option<Piece> {
        let line = self.line().await?;
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16).expect("a chunk size");
        if size > 0 {
            while self.buffer.len() < size + 2 {
                if !self.fill().await {
                    return None;
                }
            }
            let data = self.buffer.drain(..size).collect();
            assert_eq!(self.take(2).await, b"\r\n");
            return Some(Piece::Data(data));
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.line().await?;
            match line.split_once(':') {
                Some((name, value)) => trailers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
                None => return Some(Piece::End(trailers)),
            }
        }
    }

    /// The rest of a message whose head has been read.
    pub(crate) async fn rest_of(&mut self, head: Head) -> Message {
        let mut framing = head.framing();
        let mut body = Vec::new();
        loop {
            match self.piece(&mut framing).await {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::End(trailers) => return Message { head, body, trailers, clean: true },
                Piece::Broken => return Message { head, body, trailers: Vec::new(), clean: false },
            }
        }
    }

    /// The next message.
    pub(crate) async fn message(&mut self) -> Message {
        let head = self.head().await;
        self.rest_of(head).await
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request).await;
        self.message().await
    }

    /// Everything until the connection ends.
    pub(crate) async fn until_closed(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    /// The same connection twice: to read from while writing. It is closed when both are dropped.
    pub(crate) fn twins(self) -> (Wire, Wire) {
        let first = self.stream.into_std().expect("a socket");
        let second = first.try_clone().expect("another descriptor");
        let again = |stream| TcpStream::from_std(stream).expect("a socket");
        (Wire { stream: again(first), buffer: self.buffer }, Wire { stream: again(second), buffer: Vec::new() })
    }

    /// Says that nothing more follows, and goes on reading.
    pub(crate) async fn end(&mut self) {
        soon("closed", self.stream.shutdown()).await.expect("the connection is open");
    }

    /// Closes with a TCP reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().expect("an option of every socket");
    }
}

/// A GET for the proxy.
pub(crate) fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: proxy.test\r\n\r\n")
}

/// A POST of JSON for the proxy.
pub(crate) fn post(target: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nhost: proxy.test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The head of a chat completion whose body has 4 GB of this kind.
pub(crate) fn chatty_head(kind: &str) -> String {
    let length = 1_u64 << 32;
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\ncontent-type: {kind}\r\n\r\n")
}

/// A 200 with a body.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}
