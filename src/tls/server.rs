//! The listener's end.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Authorities, Fingerprint, TlsError};

/// What a client has shown, and whom one trusted then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// Of its certificate.
    pub certificate: Fingerprint,
    /// Of those who may have signed it.
    pub authorities: Fingerprint,
}

/// A certificate to show, and perhaps authorities of which clients must show one.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    certificate: Fingerprint,
    authorities: Option<Fingerprint>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServerTls { certificate, authorities, .. } = self;
        f.debug_struct("ServerTls").field("certificate", certificate).field("authorities", authorities).finish()
    }
}

/// Whether they show and ask for the same.
impl PartialEq for ServerTls {
    fn eq(&self, other: &ServerTls) -> bool {
        (&self.certificate, &self.authorities) == (&other.certificate, &other.authorities)
    }
}

impl ServerTls {
    /// With this certificate and those between it and an authority, and its key; `clients` says who may connect at all.
    ///
    /// # Errors
    /// [`TlsError::OtherKey`] for the key of another certificate; what rustls cannot use.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        clients: Option<&Authorities>,
    ) -> Result<ServerTls, TlsError> {
        let certificate = Fingerprint::of(chain.first().ok_or(TlsError::Nothing("certificate"))?);
        let provider = Arc::new(ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::clone(&authorities.roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| TlsError::Unusable(error.to_string()))?)
            }
        };
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(ServerTls {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificate,
            authorities: clients.map(|authorities| authorities.fingerprint.clone()),
        })
    }

    /// Those of whom clients must show a certificate.
    pub fn authorities(&self) -> Option<&Fingerprint> {
        self.authorities.as_ref()
    }

    /// The handshake. It takes as long as the other end likes: give it a deadline.
    ///
    /// # Errors
    /// The other end speaks no TLS 1.3, has no certificate that is asked for, does not trust this one, or leaves.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<(TlsStream<S>, Option<Certified>)> {
        let stream = self.acceptor.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certified = self.authorities.as_ref().zip(shown).map(|(authorities, shown)| Certified {
            certificate: Fingerprint::of(shown),
            authorities: authorities.clone(),
        });
        Ok((stream, certified))
    }
}
