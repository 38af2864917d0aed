//! TLS of the admin listener: files that are read when settings are, so that a mistake has its place.

use std::path::Path;

use super::super::checked::{AdminTls, Role};
use super::super::error::{Complaint, quoted};
use super::super::raw::{RawClientRole, RawTls};
use super::Check;
use crate::tls::{Authorities, ServerTls, TlsError, certificates, private_key};

/// What each file must be.
const CERTIFICATE: &str = "a PEM file with the certificate, and behind it those between it and an authority";
const KEY: &str = "a PEM file with the private key of admin.tls.certificate";
const AUTHORITIES: &str = "a PEM file with the certificates of authorities";

impl Check<'_> {
    pub(super) fn tls(&mut self, raw: &RawTls) -> Option<AdminTls> {
        let [certificate, key, client_ca] =
            [&raw.certificate, &raw.key, &raw.client_ca].map(|file| file.0.as_ref().map(|file| self.dir.join(&file.0)));
        if self.broken(&["admin.tls"]) {
            return None;
        }
        let (certificate, key) = match (certificate, key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => {
                if client_ca.is_some() {
                    let complaint = Complaint::new("clients show certificates only where TLS is spoken");
                    self.complain(
                        "admin.tls.client_ca",
                        complaint.allowed("\"off\", or admin.tls.certificate and key"),
                    );
                }
                return None;
            }
            (Some(_), None) => return self.lone("admin.tls.certificate", "needs its key", "admin.tls.key"),
            (None, Some(_)) => return self.lone("admin.tls.key", "needs its certificate", "admin.tls.certificate"),
        };
        let chain = self.read("admin.tls.certificate", &certificate, CERTIFICATE, certificates);
        let secret = self.read("admin.tls.key", &key, KEY, private_key);
        let authorities = match &client_ca {
            Some(file) => Some(self.read("admin.tls.client_ca", file, AUTHORITIES, Authorities::of)?),
            None => None,
        };
        let server = match ServerTls::new(chain?, secret?, authorities.as_ref()) {
            Ok(server) => server,
            Err(error) => {
                let (at, file, allowed) = match error {
                    TlsError::OtherKey => ("admin.tls.key", &key, KEY),
                    _ => ("admin.tls.certificate", &certificate, CERTIFICATE),
                };
                self.complain(at, unfit(file, &error, allowed));
                return None;
            }
        };
        let client_role = match raw.client_role {
            RawClientRole::None => None,
            RawClientRole::Read => Some(Role::Read),
            RawClientRole::Operate => Some(Role::Operate),
        };
        Some(AdminTls { certificate, key, client_ca, client_role, server })
    }

    fn lone(&mut self, at: &str, problem: &str, other: &str) -> Option<AdminTls> {
        self.complain(at, Complaint::new(problem).allowed(format!("{other} beside it, or \"off\"")));
        None
    }

    fn read<T>(
        &mut self,
        at: &str,
        file: &Path,
        allowed: &str,
        read: impl Fn(&Path) -> Result<T, TlsError>,
    ) -> Option<T> {
        match read(file) {
            Ok(content) => Some(content),
            Err(error) => {
                self.complain(at, unfit(file, &error, allowed));
                None
            }
        }
    }
}

fn unfit(file: &Path, error: &TlsError, allowed: &str) -> Complaint {
    Complaint::new(format!("{} {error}", quoted(&file.display().to_string()))).allowed(allowed)
}
