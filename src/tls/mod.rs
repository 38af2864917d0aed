//! TLS of the admin API, at both ends: what a listener shows and asks for, and whom the verbs of the command line trust.
//!
//! rustls with the provider `ring`: no C library to keep up to date beside the program, and it builds with what
//! builds the rest. TLS 1.3 only, as both ends are new. The roots of the web are not built in: who may operate a proxy
//! is said by an authority of the operator's own. No session is resumed, so that every connection shows a certificate that
//! is valid now. Certificates are told apart by their fingerprints; names in them are not read, and
//! revocation is to take an authority away. The clients' side and nodes are not meant here: their TLS ends in front.

mod client;
#[cfg(test)]
#[path = "../../tests/certificates/mod.rs"]
pub(crate) mod issued;
mod server;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, SupportedCipherSuite};

pub use client::ClientTls;
pub use server::{Certified, ServerTls};

/// The largest file of certificates: some hundred authorities.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why files make no TLS. Nothing of a key is ever in it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// A file without what is looked for.
    #[error("has no {0} in PEM form")]
    Nothing(&'static str),
    /// Two files that do not belong together.
    #[error("is not the key of the certificate")]
    OtherKey,
    /// Something that rustls does not take.
    #[error("cannot be used: {0}")]
    Unusable(String),
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> TlsError {
        match error {
            rustls::Error::InconsistentKeys(_) => TlsError::OtherKey,
            other => TlsError::Unusable(other.to_string()),
        }
    }
}

/// The certificates of a PEM file, in its order.
///
/// # Errors
/// It cannot be read, or has none, or a broken one.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content(file)?).collect();
    read.ok().filter(|chain| !chain.is_empty()).ok_or(TlsError::Nothing("certificate"))
}

/// The private key of a PEM file: the first that there is.
///
/// # Errors
/// It cannot be read, or has none.
pub fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&content(file)?).map_err(|_| TlsError::Nothing("private key"))
}

/// Whose certificates are trusted: those of a PEM file, and what they have signed.
#[derive(Clone, Debug)]
pub struct Authorities {
    roots: Arc<RootCertStore>,
    fingerprint: Fingerprint,
}

impl Authorities {
    /// The authorities of a PEM file.
    ///
    /// # Errors
    /// It cannot be read, has no certificate, or one that can be no authority.
    pub fn of(file: &Path) -> Result<Authorities, TlsError> {
        let certificates = certificates(file)?;
        let whole: Vec<u8> = certificates.iter().flat_map(|certificate| certificate.iter().copied()).collect();
        let fingerprint = Fingerprint::of(&whole);
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate)?;
        }
        Ok(Authorities { roots: Arc::new(roots), fingerprint })
    }

    /// What tells them from others.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}

/// The SHA-256 of something public, as `openssl x509 -fingerprint -sha256` shows it, but in lower case and without colons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(Arc<str>);

impl Fingerprint {
    fn of(bytes: &[u8]) -> Fingerprint {
        let SupportedCipherSuite::Tls13(suite) = ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
        let hash = suite.common.hash_provider.hash(bytes);
        Fingerprint(hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn content(file: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(TlsError::Unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::Unreadable(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}
