//! Whom a verb trusts at the other end of TLS, and what it shows there.

use std::path::{Path, PathBuf};

use clap::Args;

use super::RemoteError;
use crate::tls::{Authorities, ClientTls, TlsError, certificates, private_key};

/// Files for an address that begins with `https://`.
#[derive(Debug, Default, Args)]
pub(super) struct TrustArgs {
    /// PEM file of authorities: of one of them the API's certificate must be, where ADDR is https://HOST:PORT
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// PEM file of the certificate to show, if the API asks for one
    #[arg(long, value_name = "FILE", requires_all = ["ca", "key"])]
    pub(super) cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(super) key: Option<PathBuf>,
}

impl TrustArgs {
    /// What the files say; `None` without any.
    ///
    /// # Errors
    /// One is not what it should be.
    pub(super) fn tls(&self) -> Result<Option<ClientTls>, RemoteError> {
        let Some(ca) = &self.ca else { return Ok(None) };
        let authorities = Authorities::of(ca).map_err(|error| wrong("--ca", ca, &error))?;
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let chain = certificates(cert).map_err(|error| wrong("--cert", cert, &error))?;
                Some((chain, private_key(key).map_err(|error| wrong("--key", key, &error))?))
            }
            _ => None,
        };
        let tls = ClientTls::new(&authorities, identity);
        let key = self.key.as_deref().unwrap_or(ca);
        tls.map(Some).map_err(|error| wrong("--key", key, &error))
    }
}

fn wrong(flag: &str, file: &Path, error: &TlsError) -> RemoteError {
    RemoteError::Usage(format!("{flag}: {} {error}", file.display()))
}
