//! How much of the proxy one client may hold at once.
//!
//! A client of our own has connections, and each carries one request at a time. A trusted proxy's connections carry the
//! requests of many, so those are not counted; its clients' requests under way are, by the address that it forwards, against
//! the same number. Refused connections get a short answer and are closed at once: to serve them would cost what the
//! limit is to save.

use std::hash::BuildHasher;
use std::net::IpAddr;

use tokio::net::TcpStream;

use crate::address::household;
use crate::admission::Place;
use crate::app::App;
use crate::proxy::connection::Conn;
use crate::proxy::forward::Passage;
use crate::proxy::headers::is_trusted;
use crate::proxy::reply::ProxyError;

/// Counts refusals of either kind.
const REFUSED: &str = "client_connections";

const BODY: &str = "{\"error\":{\"message\":\"this client has as many connections as it may have\",\
    \"type\":\"rate_limit_error\",\"param\":null,\"code\":\"too_many_connections\"}}\n";

/// A place for a connection of `peer`; the outer `None` says that it has none left.
pub(super) fn admit(app: &App, peer: IpAddr) -> Option<Option<Place>> {
    let settings = app.settings.load();
    if is_trusted(peer, &settings.forward.trusted_proxies) {
        return Some(None);
    }
    let place = app.places.take(key(app, peer), settings.limits.client_connections_max);
    if place.is_none() {
        app.telemetry.refused(REFUSED);
    }
    place.map(Some)
}

/// Says why a connection is closed, as far as that can be said without waiting.
pub(super) fn turn_away(stream: &TcpStream) {
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\nproxy-status: bellwether; error=connection_limit_reached\r\n\
         retry-after: 1\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    // A fresh connection has room for it; if not, it is closed without a word.
    let _ = stream.try_write(answer.as_bytes());
}

impl Passage {
    /// Takes a place for a client behind a trusted proxy, held until its response has ended.
    ///
    /// # Errors
    /// It has as many requests under way as it may have.
    pub(super) fn join_crowd(&mut self, conn: &Conn, client: IpAddr) -> Result<(), ProxyError> {
        // Who comes himself is counted by his connections.
        if client == conn.peer.ip() {
            return Ok(());
        }
        let app = &self.worker.app;
        let Some(place) = app.places.take(key(app, client), self.settings.limits.client_connections_max) else {
            app.telemetry.refused(REFUSED);
            return Err(ProxyError::crowded());
        };
        if let Some(busy) = &mut self.busy {
            busy.hold(place);
        }
        Ok(())
    }
}

fn key(app: &App, client: IpAddr) -> u64 {
    app.rate_hash.hash_one(household(client))
}
