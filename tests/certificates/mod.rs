//! An authority that lives as long as a test, and certificates of it.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Not that of its certificates, which would look as if they had signed themselves.
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// Writes its certificate.
    pub(crate) fn write(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, self.0.pem()).expect("written");
        path
    }

    /// Writes a new certificate for this machine, as `NAME.pem`, and its key, as `NAME.key`.
    pub(crate) fn issue(&self, dir: &Path, name: &str) -> [PathBuf; 2] {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost", "127.0.0.1"].map(str::to_owned)).expect("names");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let files = ["pem", "key"].map(|end| dir.join(format!("{name}.{end}")));
        fs::write(&files[0], certificate.pem()).expect("written");
        fs::write(&files[1], key.serialize_pem()).expect("written");
        files
    }
}
