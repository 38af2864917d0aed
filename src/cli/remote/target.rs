//! Where the admin API of a running proxy is, and a connection to it.

use std::fmt;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::RemoteError;
use crate::config::AdminListen;
use crate::tls::ClientTls;

/// Where the admin API is.
#[derive(Clone, Debug)]
pub(in crate::cli) enum Target {
    /// `HOST:PORT`.
    Tcp(String),
    /// The same by TLS.
    Tls(String, ClientTls),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl Target {
    /// Reads what `--admin` says; `tls` is what other flags say of trust.
    ///
    /// # Errors
    /// What is wrong with it, and what is allowed.
    pub(super) fn parse(given: &str, tls: Option<ClientTls>) -> Result<Target, &'static str> {
        let none = "is no address of an admin API; allowed: HOST:PORT, https://HOST:PORT, or unix:/PATH";
        let secure = given.strip_prefix("https://");
        if secure.is_none() && tls.is_some() {
            return Err("speaks no TLS, for which --ca, --cert and --key are; allowed with them: https://HOST:PORT");
        }
        if given.starts_with("unix:") {
            return match given.parse() {
                Ok(AdminListen::Unix(path)) => Ok(Target::Unix(path)),
                _ => Err(none),
            };
        }
        let address = secure.or(given.strip_prefix("http://")).unwrap_or(given).trim_end_matches('/');
        let port = address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !port || address.contains(['/', '@', ' ']) {
            return Err(none);
        }
        match (secure, tls) {
            (None, _) => Ok(Target::Tcp(address.to_owned())),
            (Some(_), Some(tls)) => Ok(Target::Tls(address.to_owned(), tls)),
            (Some(_), None) => Err("needs --ca FILE: the authority of its certificate"),
        }
    }

    /// What the request says in `Host`.
    pub(super) fn host(&self) -> &str {
        match self {
            Target::Tcp(address) | Target::Tls(address, _) => address,
            Target::Unix(_) => "localhost",
        }
    }

    /// Connects to it.
    ///
    /// # Errors
    /// Nobody is there, or nobody to be trusted.
    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, RemoteError> {
        let unreachable = |source| RemoteError::Unreachable { target: self.clone(), source };
        Ok(match self {
            Target::Tcp(address) => Box::new(TcpStream::connect(address).await.map_err(unreachable)?),
            Target::Tls(address, tls) => {
                let stream = TcpStream::connect(address).await.map_err(unreachable)?;
                let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
                let secured = tls.connect(host.trim_matches(['[', ']']), stream).await;
                Box::new(secured.map_err(|source| RemoteError::Untrusted { target: self.clone(), source })?)
            }
            Target::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(unreachable)?),
        })
    }
}

/// For messages: where to point `curl`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(address) => write!(f, "http://{address}"),
            Target::Tls(address, _) => write!(f, "https://{address}"),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connection, whatever carries it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}
