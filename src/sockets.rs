//! Listening sockets that somebody else has opened: systemd, or the process that this one takes over from.
//!
//! A socket that outlives the process keeps its queue: a client that connects while nobody accepts waits for a moment and
//! notices nothing. `SO_REUSEPORT` is the obvious other way and loses connections, as closing one listener of a group
//! resets what waits in its queue. Inherited sockets are told apart by their addresses and not by their order, so
//! that a mistake in a unit file is found at the start and not by clients who get the admin API. A socket in the file
//! system is not among them: its file goes with the process that made it, so of two that share it neither could tell
//! whether to remove it, and an operator who finds no proxy for a moment loses nothing, as a client would.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

use crate::config::Settings;

/// Sockets to serve on; where one is missing, it has yet to be opened.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Where clients connect.
    pub clients: Option<TcpListener>,
    /// The admin API's.
    pub admin: Option<TcpListener>,
}

/// Why inherited sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// One listens where no setting says so.
    #[error("the inherited socket listens on {0}, which is neither listen nor admin.listen: change either")]
    Stray(SocketAddr),
    /// One is no TCP listener.
    #[error("an inherited file descriptor is no listening TCP socket: {0}")]
    Unfit(#[source] io::Error),
}

impl Sockets {
    /// What systemd (or whoever speaks its protocol, `LISTEN_FDS`) has handed to this process; nothing for others.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn inherited(settings: &Settings) -> Result<Sockets, SocketError> {
        let mut handed = ListenFd::from_env();
        let mut sockets = Sockets::default();
        for at in 0..handed.len() {
            let Some(listener) = handed.take_tcp_listener(at).map_err(SocketError::Unfit)? else { continue };
            let address = listener.local_addr().map_err(SocketError::Unfit)?;
            let place = match address {
                _ if address == settings.listen && sockets.clients.is_none() => &mut sockets.clients,
                _ if Some(address) == settings.admin.listen.address() && sockets.admin.is_none() => &mut sockets.admin,
                _ => return Err(SocketError::Stray(address)),
            };
            *place = Some(listener);
        }
        Ok(sockets)
    }

    /// Without those that listen elsewhere than the settings say: they have changed since the sockets were opened.
    #[must_use]
    pub fn fitting(self, settings: &Settings) -> Sockets {
        let is_at = |listener: &TcpListener, fits: &dyn Fn(SocketAddr) -> bool| listener.local_addr().is_ok_and(fits);
        let clients = self.clients.filter(|listener| is_at(listener, &|address| fits(settings.listen, address)));
        let admin = self.admin.filter(|listener| is_at(listener, &|address| admin_fits(settings, address)));
        Sockets { clients, admin }
    }

    /// Those of `other` where there is none here.
    #[must_use]
    pub fn or(self, other: Sockets) -> Sockets {
        Sockets { clients: self.clients.or(other.clients), admin: self.admin.or(other.admin) }
    }
}

/// Whether a socket at `address` is the one that is wanted; port 0 is any.
fn fits(wanted: SocketAddr, address: SocketAddr) -> bool {
    wanted == address || (wanted.port() == 0 && wanted.ip() == address.ip())
}

fn admin_fits(settings: &Settings, address: SocketAddr) -> bool {
    settings.admin.listen.address().is_some_and(|wanted| fits(wanted, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    #[test]
    fn only_sockets_at_the_configured_addresses_are_kept() {
        let ((clients, at), (admin, admin_at)) = (open(), open());
        let mut settings = Settings { listen: at, ..Settings::default() };
        settings.admin.listen = admin_at.into();
        let kept = Sockets { clients: Some(clients), admin: Some(admin) }.fitting(&settings);
        assert!(kept.clients.is_some() && kept.admin.is_some());
        settings.listen.set_port(0);
        settings.admin.listen = SocketAddr::from(([127, 0, 0, 1], 1)).into();
        let kept = kept.fitting(&settings);
        assert!(kept.clients.is_some(), "any port");
        assert!(kept.admin.is_none());
        let more = kept.or(Sockets { clients: None, admin: Some(open().0) });
        assert!(
            more.clients.is_some_and(|kept| kept.local_addr().is_ok_and(|kept| kept == at)) && more.admin.is_some()
        );
    }

    #[test]
    fn who_inherits_nothing_has_nothing() {
        let sockets = Sockets::inherited(&Settings::default()).expect("nothing is no mistake");
        assert!(sockets.clients.is_none() && sockets.admin.is_none());
    }
}
