//! What no model server does on purpose: a tunnel to one that garbles, cuts or swallows what goes through it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How the tunnel treats requests from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Manner {
    /// Passes everything.
    Honest,
    /// Answers what is no HTTP.
    Garbage,
    /// Resets the connection in the middle of the response head.
    ResetInHead,
    /// Resets it in the middle of the response body.
    ResetInBody,
    /// Reads nothing any more and says nothing, as a machine that lost its power.
    Deaf,
}

const MANNERS: [Manner; 5] = [Manner::Honest, Manner::Garbage, Manner::ResetInHead, Manner::ResetInBody, Manner::Deaf];

/// A tunnel.
#[derive(Debug)]
pub(crate) struct Rogue {
    pub(crate) address: SocketAddr,
    manner: Arc<AtomicU8>,
    accepting: JoinHandle<()>,
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Rogue {
    pub(crate) async fn before(server: SocketAddr) -> Rogue {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let manner = Arc::new(AtomicU8::new(Manner::Honest as u8));
        let shared = Arc::clone(&manner);
        let accepting = tokio::spawn(async move {
            while let Ok((proxy, _)) = listener.accept().await {
                tokio::spawn(carry(proxy, server, Arc::clone(&shared)));
            }
        });
        Rogue { address, manner, accepting }
    }

    pub(crate) fn behave(&self, manner: Manner) {
        self.manner.store(manner as u8, Ordering::SeqCst);
    }
}

/// One connection, to its end. How it ends is what the proxy has to cope with, so no error here is one.
async fn carry(mut proxy: TcpStream, server: SocketAddr, manner: Arc<AtomicU8>) {
    let manner = || MANNERS[usize::from(manner.load(Ordering::SeqCst)) % MANNERS.len()];
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let _ = (proxy.set_nodelay(true), server.set_nodelay(true));
    let (mut asked, mut said) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        tokio::select! {
            read = proxy.read(&mut asked) => {
                let Some(count) = read.ok().filter(|count| *count > 0) else { return };
                match manner() {
                    Manner::Deaf => return std::future::pending().await,
                    Manner::Garbage => {
                        let _ = proxy.write_all(b"\x16\x03\x01 220 this is not the server you want\r\n\r\n").await;
                        return;
                    }
                    Manner::ResetInHead => return reset(proxy, b"HTTP/1.1 200 OK\r\ncontent-ty").await,
                    Manner::ResetInBody => {
                        let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{\"id\":";
                        return reset(proxy, head).await;
                    }
                    Manner::Honest => {
                        if server.write_all(&asked[..count]).await.is_err() {
                            return;
                        }
                    }
                }
            }
            read = server.read(&mut said) => {
                let Some(count) = read.ok().filter(|count| *count > 0) else { return };
                if proxy.write_all(&said[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn reset(mut proxy: TcpStream, first: &[u8]) {
    let _ = proxy.write_all(first).await;
    let _ = proxy.set_zero_linger();
}
