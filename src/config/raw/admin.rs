//! The admin table: who may look at and change a running proxy, and from where.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::value::{AdminAddress, FilePath, HostName, NodePlace, OrOff, Variable};
use crate::address::Allowed;

/// The admin API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawAdmin {
    /// Where the admin API listens: IP:PORT, or "unix:/PATH" for a socket that only this user can open. What other
    /// machines can reach needs a token, or TLS with `client_ca`. Change needs a restart.
    pub listen: AdminAddress,
    /// Host names under which the admin API may be called, besides `localhost` and IP addresses.
    #[schemars(length(max = 64))]
    pub hosts: Vec<HostName>,
    /// Where nodes that are added by the admin API may be: networks, host names, or "*.DOMAIN"; hosts of configured nodes
    /// always may. Link-local and metadata addresses need an entry of their own.
    #[schemars(length(max = 256))]
    pub node_allow: Vec<NodePlace>,
    /// Whether `/metrics` can be read without a token.
    pub metrics_public: bool,
    /// TLS of the admin listener.
    pub tls: RawTls,
    /// Who may use the admin API.
    #[serde(rename = "token", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tokens: Vec<RawToken>,
}

impl Default for RawAdmin {
    fn default() -> Self {
        let listen = AdminAddress(SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)).into());
        RawAdmin {
            listen,
            hosts: Vec::new(),
            node_allow: private_networks(),
            metrics_public: false,
            tls: RawTls::default(),
            tokens: Vec::new(),
        }
    }
}

/// Loopback and private networks (RFC 1918, RFC 4193).
fn private_networks() -> Vec<NodePlace> {
    let networks = [
        (Ipv4Addr::LOCALHOST.into(), 8),
        (Ipv6Addr::LOCALHOST.into(), 128),
        (Ipv4Addr::new(10, 0, 0, 0).into(), 8),
        (Ipv4Addr::new(172, 16, 0, 0).into(), 12),
        (Ipv4Addr::new(192, 168, 0, 0).into(), 16),
        (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0).into(), 7),
    ];
    let network = |(address, length): (IpAddr, u8)| IpNet::new_assert(address, length).trunc();
    networks.map(|network_of| NodePlace(Allowed::Network(network(network_of)))).into()
}

/// TLS of the admin listener: PEM files, relative to the configuration file, that a reload reads again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawTls {
    /// The certificate of the listener, and behind it those between it and an authority; "off" speaks plain HTTP.
    pub certificate: OrOff<FilePath>,
    /// Its private key.
    pub key: OrOff<FilePath>,
    /// Authorities of whom every client must show a certificate; "off" asks for none.
    pub client_ca: OrOff<FilePath>,
    /// What such a certificate allows without a token: "read" to look, "operate" also to change, "none" for nothing but to
    /// show a token.
    pub client_role: RawClientRole,
}

impl Default for RawTls {
    fn default() -> Self {
        RawTls {
            certificate: OrOff(None),
            key: OrOff(None),
            client_ca: OrOff(None),
            client_role: RawClientRole::default(),
        }
    }
}

/// What a client certificate allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "described once at the field; a description per word would turn the enum into a oneOf")]
pub enum RawClientRole {
    None,
    #[default]
    Read,
    Operate,
}

/// A bearer token: where it is kept, never the token itself. Exactly one of `file` and `env`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawToken {
    /// A file that contains the token, relative to the configuration file; space around the token is cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FilePath>,
    /// An environment variable that contains the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Variable>,
    /// What the token allows: "read" to look, "operate" also to change.
    pub role: RawRole,
}

/// What a token allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "described once at the field; a description per word would turn the enum into a oneOf")]
pub enum RawRole {
    #[default]
    Read,
    Operate,
}
