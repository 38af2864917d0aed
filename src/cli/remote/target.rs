//! Where the admin API of a running proxy is, and a connection to it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::config::AdminListen;

/// What can be written, for messages.
pub(super) const ALLOWED: &str = "HOST:PORT, or unix:/PATH";

/// Where the admin API is.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) enum Target {
    /// `HOST:PORT`.
    Tcp(String),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl Target {
    /// Reads what `--admin` says; `None` if it is nothing of the kind.
    pub(super) fn parse(given: &str) -> Option<Target> {
        if given.starts_with("unix:") {
            return match given.parse() {
                Ok(AdminListen::Unix(path)) => Some(Target::Unix(path)),
                _ => None,
            };
        }
        let address = given.strip_prefix("http://").unwrap_or(given).trim_end_matches('/');
        let port = address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        (port && !address.contains(['/', '@', ' '])).then(|| Target::Tcp(address.to_owned()))
    }

    /// What the request says in `Host`.
    pub(super) fn host(&self) -> &str {
        match self {
            Target::Tcp(address) => address,
            Target::Unix(_) => "localhost",
        }
    }

    /// Connects to it.
    pub(super) async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Target::Tcp(address) => Box::new(TcpStream::connect(address).await?),
            Target::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

/// For messages: where to point `curl`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(address) => write!(f, "http://{address}"),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connection, whatever carries it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}
