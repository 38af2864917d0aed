//! The admin listener: where it is and who may do what.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use secrecy::SecretString;

use crate::address::NodeAllow;
use crate::tls::{Certified, Fingerprint, ServerTls};

/// Before the path of a socket.
const UNIX_PREFIX: &str = "unix:";
/// The longest path of a socket that the kernel takes (`sun_path` with its final NUL has 108 bytes).
const UNIX_PATH_MAX: usize = 107;

/// The admin listener.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it listens.
    pub listen: AdminListen,
    /// Host names, besides `localhost` and IP addresses, under which the admin API may be called.
    pub hosts: Vec<String>,
    /// Where nodes that are added by the admin API may be.
    pub node_allow: NodeAllow,
    /// Whether `/metrics` needs no token.
    pub metrics_public: bool,
    /// TLS, if it is spoken.
    pub tls: Option<AdminTls>,
    /// Who may do what.
    pub tokens: Vec<Token>,
}

impl Admin {
    /// Whether who comes must show something: a token, or a certificate. Without, only this machine may reach it.
    pub fn is_guarded(&self) -> bool {
        !self.tokens.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
    }

    /// Whether strangers would be let in.
    pub fn is_open(&self) -> bool {
        !self.listen.is_private() && !self.is_guarded()
    }

    /// The certificate that `shown` has, and what it allows without a token; `None` for one of authorities that are not
    /// trusted any more.
    pub fn certified(&self, shown: &Certified) -> Option<(Fingerprint, Option<Role>)> {
        let tls = self.tls.as_ref().filter(|tls| tls.server.authorities() == Some(&shown.authorities))?;
        Some((shown.certificate.clone(), tls.client_role))
    }
}

/// TLS as the admin listener speaks it.
#[derive(Clone, Debug)]
pub struct AdminTls {
    /// The file of its certificate.
    pub certificate: PathBuf,
    /// The file of its key.
    pub key: PathBuf,
    /// The file of those of whom every client must show a certificate.
    pub client_ca: Option<PathBuf>,
    /// What such a certificate allows without a token.
    pub client_role: Option<Role>,
    /// Made of what the files contained when the settings were read.
    pub server: ServerTls,
}

/// Where the admin API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminListen {
    /// On an address.
    Tcp(SocketAddr),
    /// On a socket in the file system, which only the user of the process (and root) can open.
    Unix(PathBuf),
}

impl AdminListen {
    /// Its address; `None` for a socket in the file system.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            AdminListen::Tcp(address) => Some(*address),
            AdminListen::Unix(_) => None,
        }
    }

    /// Whether only this machine reaches it.
    pub fn is_private(&self) -> bool {
        self.address().is_none_or(|address| address.ip().to_canonical().is_loopback())
    }

    /// Another port, where there is one.
    pub fn set_port(&mut self, port: u16) {
        if let AdminListen::Tcp(address) = self {
            address.set_port(port);
        }
    }
}

impl From<SocketAddr> for AdminListen {
    fn from(address: SocketAddr) -> AdminListen {
        AdminListen::Tcp(address)
    }
}

/// As it is written in the configuration: `127.0.0.1:8081` or `unix:/run/bellwether.sock`.
impl fmt::Display for AdminListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminListen::Tcp(address) => address.fmt(f),
            AdminListen::Unix(path) => write!(f, "{UNIX_PREFIX}{}", path.display()),
        }
    }
}

impl FromStr for AdminListen {
    type Err = String;

    fn from_str(text: &str) -> Result<AdminListen, String> {
        let Some(path) = text.strip_prefix(UNIX_PREFIX) else {
            let address = text.parse::<SocketAddr>();
            return address.map(AdminListen::Tcp).map_err(|_| "is not an IP address with a port".to_owned());
        };
        if !Path::new(path).is_absolute() || path.ends_with('/') || path.contains('\0') {
            return Err("is not the absolute path of a socket".to_owned());
        }
        if path.len() > UNIX_PATH_MAX {
            return Err(format!("is longer than the {UNIX_PATH_MAX} bytes that the path of a socket may have"));
        }
        Ok(AdminListen::Unix(PathBuf::from(path)))
    }
}

/// A bearer token of the admin API.
#[derive(Clone, Debug)]
pub struct Token {
    /// The token itself.
    pub secret: SecretString,
    /// What it allows.
    pub role: Role,
}

/// What a token allows. `Operate` includes `Read`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Read,
    /// Change.
    Operate,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_an_address_or_an_absolute_path_and_shows_as_it_is_written() {
        for text in ["127.0.0.1:8081", "[::1]:1", "unix:/run/b.sock"] {
            assert_eq!(text.parse::<AdminListen>().map(|listen| listen.to_string()).as_deref(), Ok(text));
        }
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH_MAX));
        for text in ["", "8081", "unix:", "unix:run/b.sock", "unix:/run/", "unix:/a\0b", long.as_str()] {
            assert!(text.parse::<AdminListen>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_loopback_and_sockets_are_private() {
        let private = |text: &str| text.parse::<AdminListen>().map(|listen| listen.is_private());
        for text in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "unix:/b"] {
            assert_eq!(private(text), Ok(true), "{text}");
        }
        for text in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "192.0.2.1:1"] {
            assert_eq!(private(text), Ok(false), "{text}");
        }
    }
}
