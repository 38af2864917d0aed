//! The nodes behind every proxy that is measured: an HTTP/1.1 server that does as little as it can.
//!
//! It must be cheaper than any proxy, or the proxy would wait for it, so it reads a head, drops the body and writes
//! an answer that was made beforehand. It knows `Content-Length` only: a proxy that re-frames a request as chunked gets
//! a 501, which fails the benchmark. `GET /bytes/N` is answered with N bytes, everything else with a short completion.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::Failure;
use crate::client::{Head, PIECE};

/// An answer as a model server gives it, about 350 bytes.
const ANSWER: &str = r#"{"id":"chatcmpl-8c1f0a4be2d94f0c","object":"chat.completion","created":1760000000,"model":"llama-3.1-8b","choices":[{"index":0,"message":{"role":"assistant","content":"Paris is the capital of France, on the Seine."},"finish_reason":"stop"}],"usage":{"prompt_tokens":38,"completion_tokens":12,"total_tokens":50},"system_fingerprint":"fp_b0c1d2"}"#;
/// A request head that is longer is not ours.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Nodes that listen; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Nodes {
    /// Where.
    pub(crate) addresses: Vec<SocketAddr>,
    _tasks: JoinSet<io::Result<()>>,
}

impl Nodes {
    /// Starts so many nodes on this runtime, that is on the thread that also makes the load.
    pub(crate) async fn start(count: usize) -> Result<Nodes, Failure> {
        let answer: Arc<[u8]> = Arc::from(
            format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{ANSWER}",
                ANSWER.len()
            )
            .into_bytes(),
        );
        let (mut addresses, mut tasks) = (Vec::new(), JoinSet::new());
        for _ in 0..count {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            addresses.push(listener.local_addr()?);
            tasks.spawn(accept(listener, Arc::clone(&answer)));
        }
        Ok(Nodes { addresses, _tasks: tasks })
    }
}

/// A node on a thread of its own, for bodies so large that sender and receiver should not share one.
#[derive(Debug)]
pub(crate) struct NodeThread {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _end: oneshot::Sender<()>,
}

impl NodeThread {
    pub(crate) async fn start() -> Result<NodeThread, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (tell, told) = oneshot::channel();
        let (end, ended) = oneshot::channel::<()>();
        std::thread::Builder::new().name("node".to_owned()).spawn(move || {
            runtime.block_on(async {
                let nodes = Nodes::start(1).await;
                let address = nodes.as_ref().map(|nodes| nodes.addresses[0]).map_err(ToString::to_string);
                if tell.send(address).is_ok() {
                    // The other end is never used, only dropped.
                    let _ = ended.await;
                }
            });
        })?;
        Ok(NodeThread { address: told.await??, _end: end })
    }
}

async fn accept(listener: TcpListener, answer: Arc<[u8]>) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                connections.spawn(serve(stream, Arc::clone(&answer)));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn serve(mut stream: TcpStream, answer: Arc<[u8]>) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(4 * 1024);
    loop {
        buffer.clear();
        let head = loop {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            if let Some(head) = Head::of(&buffer) {
                break head;
            }
            if buffer.len() > HEAD_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
        };
        let Some(body) = head.body_bytes(0) else {
            return stream.write_all(b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n").await;
        };
        let wanted = path_bytes(&buffer);
        drain(&mut stream, &mut buffer, (head.bytes as u64).saturating_add(body)).await?;
        match wanted {
            None => stream.write_all(&answer).await?,
            Some(bytes) => fill(&mut stream, bytes).await?,
        }
    }
}

/// The number of bytes that a request for `/bytes/N` wants.
fn path_bytes(request: &[u8]) -> Option<u64> {
    let digits = request.strip_prefix(b"GET /bytes/")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// Reads until `total` bytes have arrived, of which the buffer has the first.
async fn drain(stream: &mut TcpStream, buffer: &mut Vec<u8>, total: u64) -> io::Result<()> {
    let mut seen = buffer.len() as u64;
    while seen < total {
        buffer.clear();
        buffer.reserve(PIECE.len());
        match stream.read_buf(buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => seen += read as u64,
        }
    }
    Ok(())
}

async fn fill(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {bytes}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    crate::client::write_bytes(stream, bytes).await
}
