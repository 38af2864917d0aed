//! Connections to the nodes: a bounded pool per worker, and one exchange of a request for a response.
//!
//! The stock client of the ecosystem keeps one pool behind one mutex for all hosts, without a cap, a lifetime or
//! eviction per node, and drives every connection as a task of its own, so that each response wakes two tasks. Here a
//! pooled connection is a *value*: whoever uses it polls it ([`Upstream::exchange`], then the response body), and
//! dropping it closes the socket in the same instant. That is how a client that leaves stops the node from computing,
//! without a message between tasks that could be late.
//!
//! A connection returns to the pool only after the response body has ended, and is looked at again before it is used:
//! one that the node closed meanwhile is thrown away, and a request of which nothing was written is sent once more on
//! a fresh one.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::clock::Time;
use crate::config::Limits;
use crate::fleet::{Fleet, Node, PerNode, Resettable};
use crate::node::NodeId;
use crate::proxy::upload::RequestBody;

/// Connections open to each node, from all workers together.
#[derive(Debug, Default)]
pub struct OpenConnections(PerNode<OpenCount>);

#[derive(Debug, Default)]
struct OpenCount(Arc<AtomicUsize>);

impl Resettable for OpenCount {
    /// Nothing to do: the connections of a slot's former owner count themselves down when they close.
    fn reset(&self) {}
}

/// A place among a node's connections, given back when dropped.
#[derive(Debug)]
struct Lease(Arc<AtomicUsize>);

impl OpenConnections {
    /// Connections open to `node` now.
    pub fn count(&self, node: &Node) -> usize {
        self.0.of(node).0.load(Ordering::Relaxed)
    }

    fn lease(&self, node: &Node, most: usize) -> Option<Lease> {
        let count = &self.0.of(node).0;
        let taken = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < most).then_some(n + 1));
        taken.is_ok().then(|| Lease(Arc::clone(count)))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Driver = Connection<TokioIo<TcpStream>, RequestBody>;

/// One connection to a node. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Upstream {
    sender: SendRequest<RequestBody>,
    driver: Box<Driver>,
    node: NodeId,
    slot: u32,
    born: Time,
    idle_since: Time,
    /// Whether it carried a request before: only then can it be stale.
    used: bool,
    lease: Lease,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// The connection attempt failed.
    Io(io::Error),
    /// It took too long.
    Timeout,
    /// The bound of connections to this node is reached.
    TooMany,
}

/// Why there is no response.
#[derive(Debug)]
pub(super) struct ExchangeError {
    /// What hyper says.
    pub(super) source: hyper::Error,
    /// The request, if nothing of it was written.
    pub(super) unsent: Option<Request<RequestBody>>,
    /// Whether the connection had carried a request before.
    pub(super) reused: bool,
}

impl Upstream {
    /// Opens a connection to `node`.
    pub(super) async fn connect(
        node: &Node,
        open: &OpenConnections,
        limits: &Limits,
        timeout: Duration,
        now: Time,
    ) -> Result<Upstream, ConnectError> {
        let lease = open.lease(node, limits.node_connections_max).ok_or(ConnectError::TooMany)?;
        let connecting = TcpStream::connect(node.spec.host_port());
        let stream = match tokio::time::timeout(timeout, connecting).await {
            Ok(connected) => connected.map_err(ConnectError::Io)?,
            Err(_) => return Err(ConnectError::Timeout),
        };
        // Small writes must not wait for acknowledgements; a socket that refuses the option still works.
        let _ = stream.set_nodelay(true);
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| ConnectError::Io(io::Error::other(error)))?;
        let (node, slot) = (node.id, node.slot);
        Ok(Upstream { sender, driver: Box::new(driver), node, slot, born: now, idle_since: now, used: false, lease })
    }

    /// Drives the connection; `true` once it has ended.
    pub(super) fn poll_driver(&mut self, cx: &mut Context<'_>) -> bool {
        Pin::new(&mut *self.driver).poll(cx).is_ready()
    }

    /// Sends `request` and waits for the response head.
    pub(super) async fn exchange(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, ExchangeError> {
        let reused = std::mem::replace(&mut self.used, true);
        let mut answer = pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        let mut ended = false;
        std::future::poll_fn(|cx| {
            // The answer can only come from the driver, which this very call polls: it needs no waker of its own,
            // and without one it does not wake this task a second time.
            ended = ended || Pin::new(&mut **driver).poll(cx).is_ready();
            match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
                Poll::Ready(Err(mut error)) => {
                    let unsent = error.take_message();
                    Poll::Ready(Err(ExchangeError { source: error.into_error(), unsent, reused }))
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Sends `request` and reads the whole response; `None` if it fails or has more than `most` bytes.
    pub(super) async fn fetch(&mut self, request: Request<RequestBody>, most: usize) -> Option<(StatusCode, Bytes)> {
        let response = self.exchange(request).await.ok()?;
        let status = response.status();
        let mut incoming = response.into_body();
        let mut body = BytesMut::new();
        while !incoming.is_end_stream() {
            let frame = std::future::poll_fn(|cx| {
                self.poll_driver(cx);
                Pin::new(&mut incoming).poll_frame(cx)
            });
            let Some(frame) = frame.await else { break };
            if let Ok(data) = frame.ok()?.into_data() {
                body.extend_from_slice(&data);
            }
            if body.len() > most {
                return None;
            }
        }
        Some((status, body.freeze()))
    }

    /// Whether a request can be sent now. Notices a node that has closed the connection meanwhile.
    fn is_usable(&mut self) -> bool {
        let ended = self.poll_driver(&mut Context::from_waker(Waker::noop()));
        !ended && self.sender.is_ready()
    }

    fn is_too_old(&self, limits: &Limits, now: Time) -> bool {
        now.since(self.born) >= limits.node_lifetime
    }

    fn is_idle_too_long(&self, limits: &Limits, now: Time) -> bool {
        now.since(self.idle_since) >= limits.node_idle_timeout
    }

    /// Turns it into a connection that can be upgraded, driven by a task of its own.
    pub(super) fn into_tunnel(self) -> SendRequest<RequestBody> {
        let Upstream { sender, driver, lease, .. } = self;
        let driver = driver.with_upgrades();
        tokio::spawn(async move {
            // How it ends shows at the two ends of the tunnel.
            let _ = driver.await;
            drop(lease);
        });
        sender
    }
}

/// The idle connections of one worker, by node.
///
/// The mutex is a formality: a pool belongs to one thread, and only the bounds of the web framework ask for `Sync`.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<Vec<Upstream>>>,
}

impl Pool {
    /// The connection to `node` that was used last, if one is left that still works.
    pub(super) fn take(&self, node: &Node, limits: &Limits, now: Time) -> Option<Upstream> {
        loop {
            let mut found = {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.get_mut(node.slot as usize)?.pop()?
            };
            let fresh = !found.is_too_old(limits, now) && !found.is_idle_too_long(limits, now);
            if found.node == node.id && fresh && found.is_usable() {
                return Some(found);
            }
        }
    }

    /// Keeps a connection whose response has ended, unless enough are kept already.
    pub(super) fn put(&self, mut upstream: Upstream, limits: &Limits, now: Time) {
        if upstream.is_too_old(limits, now) {
            return;
        }
        upstream.idle_since = now;
        let slot = upstream.slot as usize;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() <= slot {
            idle.resize_with(slot + 1, Vec::new);
        }
        if idle[slot].len() < limits.node_idle_max {
            idle[slot].push(upstream);
        }
    }

    /// Closes what is too old, what the node has closed, and what belongs to nodes that are gone.
    pub(super) fn sweep(&self, fleet: &Fleet, limits: &Limits, now: Time) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        for connections in idle.iter_mut() {
            connections.retain_mut(|upstream| {
                let old = upstream.is_too_old(limits, now) || upstream.is_idle_too_long(limits, now);
                !old && fleet.nodes().iter().any(|node| node.id == upstream.node) && upstream.is_usable()
            });
        }
    }

    /// Closes every idle connection.
    pub(super) fn clear(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
