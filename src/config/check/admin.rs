//! The admin table: who may come, from where, and the tokens, which are read from files and environment.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::super::checked::{Admin, Role, Settings, Token};
use super::super::error::{Complaint, quoted};
use super::super::raw::{RawAdmin, RawRole, RawToken};
use super::Check;
use crate::address::{NodeAllow, meet};

/// The shortest token: 16 characters of a random token are out of reach of guessing over a network.
const TOKEN_CHARS_MIN: usize = 16;
/// The longest token: it travels in a header.
const TOKEN_BYTES_MAX: usize = 4_096;

impl Check<'_> {
    pub(super) fn admin(&mut self, raw: &RawAdmin) -> Admin {
        Admin {
            listen: raw.listen.0.clone(),
            hosts: raw.hosts.iter().map(|host| host.0.clone()).collect(),
            metrics_public: raw.metrics_public,
            node_allow: NodeAllow(raw.node_allow.iter().map(|entry| entry.0.clone()).collect()),
            tls: self.tls(&raw.tls),
            tokens: self.tokens(&raw.tokens),
        }
    }

    pub(super) fn listeners(&mut self, settings: &Settings, no_tokens: bool) {
        let Admin { listen: admin, tls, .. } = &settings.admin;
        if settings.admin.is_open() && no_tokens && !self.broken(&["admin.token", "admin.tls"]) {
            let complaint =
                Complaint::new(format!("{admin} can be reached from other machines, and there is no token"));
            let allowed =
                "a loopback address such as 127.0.0.1:8081, a socket, [[admin.token]], or admin.tls.client_ca";
            self.complain("admin.listen", complaint.allowed(allowed));
        }
        if tls.is_some() && admin.address().is_none() && !self.broken(&["admin.listen"]) {
            let complaint = Complaint::new("a socket in the file system (admin.listen) speaks no TLS");
            self.complain("admin.tls.certificate", complaint.allowed("\"off\", or an IP and port for admin.listen"));
        }
        let role = tls.as_ref().filter(|tls| tls.client_ca.is_some()).map(|tls| tls.client_role);
        if role == Some(None) && no_tokens && !self.broken(&["admin.token"]) {
            let complaint = Complaint::new("allows nobody anything, as there is no token");
            self.complain("admin.tls.client_role", complaint.allowed("\"read\", \"operate\", or [[admin.token]]"));
        }
        let meets = admin.address().is_some_and(|address| meet(settings.listen, address));
        if meets && !self.broken(&["listen", "admin.listen"]) {
            let complaint = Complaint::new(format!("{admin} is also where clients connect (listen)"));
            self.complain("admin.listen", complaint.allowed("another port"));
        }
    }

    fn tokens(&mut self, raw: &[RawToken]) -> Vec<Token> {
        let mut tokens: Vec<Token> = Vec::new();
        for (at, raw) in raw.iter().enumerate() {
            let path = format!("admin.token[{at}]");
            let (key, text) = match (&raw.file, &raw.env) {
                (Some(file), None) => ("file", read_token(&self.dir.join(&file.0))),
                (None, Some(variable)) => ("env", from_variable(self.env.get(&variable.0), &variable.0)),
                _ if self.broken(&["admin.token"]) => continue,
                _ => {
                    self.complain(&path, Complaint::new("needs exactly one of file and env"));
                    continue;
                }
            };
            let role = match raw.role {
                RawRole::Read => Role::Read,
                RawRole::Operate => Role::Operate,
            };
            match text.and_then(|text| sound_token(&text)) {
                Ok(secret) if tokens.iter().any(|token| token.secret.expose_secret() == secret.expose_secret()) => {
                    self.complain(&path, Complaint::new("the same token as an earlier entry"));
                }
                Ok(secret) => tokens.push(Token { secret, role }),
                Err(complaint) => self.complain(&format!("{path}.{key}"), complaint),
            }
        }
        tokens
    }
}

pub(super) fn read_token(path: &Path) -> Result<String, Complaint> {
    let unreadable = |error: std::io::Error| {
        Complaint::new(format!("{} cannot be read: {error}", quoted(&path.display().to_string())))
            .allowed("a readable file that contains the token")
    };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(TOKEN_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

fn from_variable(value: Option<&OsStr>, name: &str) -> Result<String, Complaint> {
    let value = value.ok_or_else(|| Complaint::new(format!("the environment variable {name} is not set")))?;
    value.to_str().map(str::to_owned).ok_or_else(|| Complaint::new(format!("the content of {name} is not UTF-8")))
}

pub(super) fn sound_token(text: &str) -> Result<SecretString, Complaint> {
    let text = text.trim();
    let allowed = format!("{TOKEN_CHARS_MIN} to {TOKEN_BYTES_MAX} visible ASCII characters");
    if text.len() < TOKEN_CHARS_MIN || text.len() > TOKEN_BYTES_MAX {
        return Err(Complaint::new("the token has a wrong length").allowed(allowed));
    }
    if !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Complaint::new("the token has characters that a header cannot carry").allowed(allowed));
    }
    Ok(SecretString::from(text))
}
