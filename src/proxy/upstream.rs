//! Connections to the nodes: a bounded pool per worker, and one exchange of a request for a response.
//!
//! The stock client of the ecosystem keeps one pool behind one mutex for all hosts, without a cap, a lifetime or
//! eviction per node, and drives every connection as a task of its own, so that each response wakes two tasks. Here a
//! pooled connection is a *value*: whoever uses it polls it ([`Upstream::exchange`], then the response body), and
//! dropping it closes the socket in the same instant. That is how a client that leaves stops the node from computing,
//! without a message between tasks that could be late. What it speaks is in [`wire`](crate::proxy::wire); another
//! protocol to the nodes would be another kind of connection in here.
//!
//! A node that writes head and body one after the other, without `TCP_NODELAY` (Python's `http.server`, werkzeug), sends
//! the body once the head is acknowledged, which the kernel puts off for 40 ms on a kept connection. So a body that has to
//! be waited for has the head acknowledged first; one that comes with its head costs no system call. Pieces of a
//! stream are not acknowledged one by one: that would cost every well-behaved node a packet for each event.
//!
//! A connection returns to the pool only after the response body has ended, and is looked at again before it is used:
//! one that the node closed meanwhile is thrown away, and a request of which nothing was written is sent once more on
//! a fresh one.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::response::Parts;
use http_body::{Frame, SizeHint};
use tokio::net::TcpStream;

use crate::clock::Time;
use crate::config::{Limits, Settings};
use crate::fleet::{Fleet, Node, PerNode, Resettable};
use crate::node::NodeId;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::wire::{Wire, WireError};

/// Connections open to each node, from all workers together.
#[derive(Debug, Default)]
pub struct OpenConnections {
    counts: PerNode<OpenCount>,
    /// Every worker's idle ones: who finds the bound reached may close one of anybody's.
    pools: Mutex<Vec<Weak<Pool>>>,
}

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
        self.counts.of(node).0.load(Ordering::Relaxed)
    }

    /// A worker's pool is among those that make room. One that is gone is forgotten.
    pub(super) fn join(&self, pool: &Arc<Pool>) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    fn lease(&self, node: &Node, most: usize) -> Option<Lease> {
        loop {
            let count = &self.counts.of(node).0;
            let taken = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < most).then_some(n + 1));
            if taken.is_ok() {
                return Some(Lease(Arc::clone(count)));
            }
            if !self.make_room(node) {
                return None;
            }
        }
    }

    /// Closes an idle connection to `node`, whichever worker keeps it; `false` if there is none.
    #[cold]
    fn make_room(&self, node: &Node) -> bool {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().filter_map(Weak::upgrade).any(|pool| pool.close_one(node))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection to a node. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Upstream {
    /// Boxed since connections are moved about more often than opened.
    wire: Box<Wire<TcpStream>>,
    node: NodeId,
    slot: u32,
    born: Time,
    idle_since: Time,
    /// Whether it carried a request before: only then can it be stale.
    used: bool,
    /// The first piece of the body, if it was waited for before anybody asked for it.
    begun: Option<Box<Piece>>,
    /// What opening it took, until its first response.
    connecting: Option<Duration>,
    /// Whether what came of the present response was acknowledged as soon as more of it was waited for.
    acknowledged: bool,
    lease: Lease,
}

/// A piece of a response body: data or trailers, an error, or the end.
type Piece = Option<Result<Frame<Bytes>, WireError>>;

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
    /// What went wrong.
    pub(super) source: WireError,
    /// The request, if nothing of it was written.
    pub(super) unsent: Option<Box<Outgoing>>,
    /// Whether the connection had carried a request before.
    pub(super) reused: bool,
}

impl Upstream {
    /// Opens a connection to `node`.
    pub(super) async fn connect(
        node: &Node,
        open: &OpenConnections,
        settings: &Settings,
        timeout: Duration,
        now: Time,
    ) -> Result<Upstream, ConnectError> {
        let lease = open.lease(node, settings.limits.node_connections_max).ok_or(ConnectError::TooMany)?;
        let reach = settings.reach();
        let began = std::time::Instant::now();
        let connecting = reach.connect(&node.spec);
        let stream = match tokio::time::timeout(timeout, connecting).await {
            Ok(connected) => connected.map_err(ConnectError::Io)?,
            Err(_) => return Err(ConnectError::Timeout),
        };
        // Small writes must not wait for acknowledgements; a socket that refuses the option still works.
        let _ = stream.set_nodelay(true);
        let wire = Box::new(Wire::new(stream));
        let connecting = Some(began.elapsed());
        Ok(Upstream {
            wire,
            node: node.id,
            slot: node.slot,
            born: now,
            idle_since: now,
            used: false,
            begun: None,
            connecting,
            acknowledged: false,
            lease,
        })
    }

    /// Sends `request` and waits for the response head; the body follows by [`Upstream::poll_frame`].
    pub(super) async fn exchange(&mut self, request: Box<Outgoing>) -> Result<Parts, ExchangeError> {
        let reused = std::mem::replace(&mut self.used, true);
        self.acknowledged = false;
        self.wire.begin(&request);
        let mut unsent = Some(request);
        let answer = std::future::poll_fn(|cx| self.wire.poll_head(cx, &mut unsent)).await;
        answer.map_err(|source| ExchangeError { source, unsent, reused })
    }

    /// The request once more, where the response may say that the node is full (429, 503) and the request is one that
    /// returns ([`Outgoing::may_return`]).
    pub(super) fn returned(&mut self) -> Option<Box<Outgoing>> {
        self.wire.returned()
    }

    /// Waits until the first piece of the response body is there; it is kept for [`Upstream::poll_frame`].
    pub(super) async fn body_begins(&mut self) {
        if !self.is_end_stream() {
            let piece = std::future::poll_fn(|cx| self.poll_frame(cx)).await;
            self.begun = Some(Box::new(piece));
        }
    }

    /// What opening it took, if that was for the present response.
    pub(super) fn connecting(&mut self) -> Option<Duration> {
        self.connecting.take()
    }

    /// The next piece of the response body, or its trailers.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        if let Some(begun) = self.begun.take() {
            return Poll::Ready(*begun);
        }
        let polled = self.wire.poll_frame(cx);
        if polled.is_pending() && !self.acknowledged {
            self.acknowledge();
        }
        polled
    }

    /// Tells the node at once that what it has sent so far has come.
    #[cold]
    fn acknowledge(&mut self) {
        self.acknowledged = true;
        // Where the system does not know the option, or refuses it, the node waits as it does elsewhere.
        #[cfg(target_os = "linux")]
        let _ = rustix::net::sockopt::set_tcp_quickack(self.wire.io(), true);
    }

    /// Whether the response has been read whole.
    pub(super) fn is_end_stream(&self) -> bool {
        self.begun.is_none() && self.wire.is_end_stream()
    }

    /// Bytes of the response body that are left.
    pub(super) fn size_hint(&self) -> SizeHint {
        let rest = self.wire.size_hint();
        let begun = match self.begun.as_deref() {
            Some(Some(Ok(frame))) => frame.data_ref().map_or(0, |data| data.len() as u64),
            _ => 0,
        };
        rest.exact().map_or(rest, |rest| SizeHint::with_exact(rest + begun))
    }

    /// Sends `request` and reads the whole response; `None` if it fails or has more than `most` bytes.
    pub(super) async fn fetch(&mut self, request: Box<Outgoing>, most: usize) -> Option<(StatusCode, Bytes)> {
        let head = self.exchange(request).await.ok()?;
        let mut body = BytesMut::new();
        while let Some(frame) = std::future::poll_fn(|cx| self.poll_frame(cx)).await {
            if let Ok(data) = frame.ok()?.into_data() {
                body.extend_from_slice(&data);
            }
            if body.len() > most {
                return None;
            }
        }
        Some((head.status, body.freeze()))
    }

    fn is_too_old(&self, limits: &Limits, now: Time) -> bool {
        now.since(self.born) >= limits.node_lifetime
    }

    fn is_idle_too_long(&self, limits: &Limits, now: Time) -> bool {
        now.since(self.idle_since) >= limits.node_idle_timeout
    }

    /// The socket and what the node sent behind its head, if it has switched protocols.
    pub(super) fn into_switched(self) -> Option<Switched> {
        let Upstream { wire, lease, .. } = self;
        let (stream, begun) = wire.into_switched()?;
        Some(Switched { stream, begun, _lease: lease })
    }
}

/// A connection that speaks another protocol now.
#[derive(Debug)]
pub(super) struct Switched {
    pub(super) stream: TcpStream,
    /// What the node has sent in it already.
    pub(super) begun: Bytes,
    /// It counts among the node's connections until it is closed.
    _lease: Lease,
}

/// The idle connections of one worker, by node.
///
/// The mutex is nearly a formality: a pool belongs to one thread, and another takes from it only when there are as many
/// connections to a node as there may be.
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
            if found.node == node.id && fresh && found.wire.is_quiet() {
                return Some(found);
            }
        }
    }

    /// Keeps a connection whose response has ended well, unless enough are kept already.
    pub(super) fn put(&self, mut upstream: Upstream, limits: &Limits, now: Time) {
        if upstream.is_too_old(limits, now) || !upstream.wire.settle() {
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
                !old && fleet.nodes().iter().any(|node| node.id == upstream.node) && upstream.wire.is_quiet()
            });
        }
    }

    /// Closes the connection to `node` that has been idle for longest; `false` if there is none.
    fn close_one(&self, node: &Node) -> bool {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(connections) = idle.get_mut(node.slot as usize).filter(|idle| !idle.is_empty()) else { return false };
        connections.remove(0);
        true
    }

    /// Closes every idle connection.
    pub(super) fn clear(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests;
