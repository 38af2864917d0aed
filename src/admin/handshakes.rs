//! TLS handshakes of operators, with bounds of their own.
//!
//! Who has not shown a certificate yet is a stranger, so what strangers may hold is little: a handshake has a deadline, and
//! there are so many at once, in all and per client. Who comes beyond that is cut, not made to wait: waiting would hold a
//! connection, and fill the listener for operators just as well. Each handshake runs in the task of its connection,
//! never in that of the listener.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use super::door::{Peer, Stream};
use crate::address::household;
use crate::tls::{Certified, ServerTls};

/// How many handshakes there may be, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct HandshakeBounds {
    /// At once.
    pub(super) most: usize,
    /// Of those, from one client.
    pub(super) per_client: usize,
    /// For each.
    pub(super) deadline: Duration,
}

/// Those that run, by client.
#[derive(Clone, Debug, Default)]
pub(super) struct Handshakes(Arc<Mutex<HashMap<Option<IpAddr>, usize>>>);

/// One of them; it ends when dropped.
#[derive(Debug)]
struct Running {
    all: Handshakes,
    client: Option<IpAddr>,
}

impl Handshakes {
    /// Makes `stream` secret, and says what the client has shown. `None` if that failed, after telling the log.
    pub(super) async fn secure(
        &self,
        bounds: HandshakeBounds,
        tls: &ServerTls,
        stream: Box<dyn Stream>,
        peer: Peer,
    ) -> Option<(Box<dyn Stream>, Option<Certified>)> {
        let Some(_running) = self.begin(bounds, peer) else {
            tracing::warn!(%peer, "too many TLS handshakes with the admin API at once, one was cut");
            return None;
        };
        match timeout(bounds.deadline, tls.accept(stream)).await {
            Ok(Ok((stream, certified))) => Some((Box::new(stream), certified)),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a TLS handshake with the admin API failed");
                None
            }
            Err(_) => {
                tracing::debug!(%peer, "a TLS handshake with the admin API took too long");
                None
            }
        }
    }

    fn begin(&self, bounds: HandshakeBounds, peer: Peer) -> Option<Running> {
        let client = match peer {
            Peer::Address(address) => Some(household(address.ip())),
            Peer::User(_) => None,
        };
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = running.values().sum();
        let of_client = running.get(&client).copied().unwrap_or_default();
        if all >= bounds.most || of_client >= bounds.per_client {
            return None;
        }
        running.insert(client, of_client + 1);
        Some(Running { all: self.clone(), client })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        match running.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(running.remove(&self.client)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_take_the_places_of_all() {
        let bounds = HandshakeBounds { most: 3, per_client: 2, deadline: Duration::ZERO };
        let handshakes = Handshakes::default();
        let begin = |peer: &str| handshakes.begin(bounds, Peer::Address(peer.parse().expect("an address")));
        let first = begin("192.0.2.1:1").expect("a place");
        let _second = begin("192.0.2.1:2").expect("a place");
        assert!(begin("192.0.2.1:3").is_none(), "two are its share");
        // Addresses of one network are one client.
        let third = begin("[2001:db8::1]:1").expect("a place");
        assert!(begin("[2001:db8:1::1]:1").is_none(), "three are all");
        drop(third);
        drop(first);
        let _again = begin("192.0.2.1:3").expect("what ended makes room");
        drop(begin("192.0.2.2:1").expect("a place"));
        assert_eq!(handshakes.0.lock().expect("sound").len(), 1, "who has none is forgotten");
    }
}
