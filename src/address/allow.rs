//! Which hosts a node from the admin API may be on.
//!
//! Who may add nodes could otherwise make the proxy fetch anything that it can reach: the credentials that a cloud gives
//! to its machines on link-local addresses, a router's admin page. An allow-list and not a list of what is bad, since
//! nobody knows all of that. A host that is listed by name may have any address but those that no node has (link-local,
//! metadata); any other is judged by its addresses, each time that they are looked up. Those that no node has are
//! allowed only by an entry that is as narrow, so that `0.0.0.0/0` is not how they get in.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// Link-local networks, and where clouds keep metadata and credentials outside of them: Amazon (IPv6), Google (IPv6),
/// Alibaba, Oracle Classic, Azure's agent.
const FORBIDDEN: [&str; 8] = [
    "169.254.0.0/16",
    "fe80::/10",
    "fd00:ec2::254/128",
    "fd20:ce::254/128",
    "100.100.100.200/32",
    "192.0.0.192/32",
    "168.63.129.16/32",
    "0.0.0.0/8",
];

/// Names under which machines in clouds find the same.
const FORBIDDEN_NAMES: [&str; 5] =
    ["metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"];

/// The prefix under which gateways of IPv6 networks embed IPv4 addresses (RFC 6052).
const NAT64: u128 = 0x0064_ff9b << 96;

/// An entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Every address of a network.
    Network(IpNet),
    /// A host name, in lower case and without a dot at the end.
    Host(String),
    /// Every host below a domain; the domain with its leading dot.
    Below(String),
}

impl FromStr for Allowed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Allowed, &'static str> {
        if let Some(network) = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) {
            return Ok(Allowed::Network(network));
        }
        let name = plain(text);
        let (below, host) = match name.strip_prefix('*') {
            Some(rest) => (true, rest.strip_prefix('.').ok_or("has a * that is not followed by a dot")?),
            None => (false, name.as_str()),
        };
        let label = |label: &str| {
            !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        };
        // What ends in a number is an address gone wrong, also in the spellings that resolvers take for one.
        let numeric = host.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_digit()));
        if host.len() > 253 || numeric || !host.split('.').all(label) {
            return Err("is neither a network nor a host name");
        }
        Ok(if below { Allowed::Below(format!(".{host}")) } else { Allowed::Host(host.to_owned()) })
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Network(network) => network.fmt(f),
            Allowed::Host(host) => f.write_str(host),
            Allowed::Below(domain) => write!(f, "*{domain}"),
        }
    }
}

/// Where nodes from the admin API may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAllow(pub Vec<Allowed>);

/// How a host stands to the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Allowed by its name: its addresses matter only as far as no node has them.
    Named,
    /// Each of its addresses must be in a listed network.
    ByAddress,
}

/// Why a node may not be there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A name of a metadata service.
    #[error("{0:?} is where a cloud tells its machines their credentials, and no model server")]
    Metadata(String),
    /// A link-local address, or another of those that no node has.
    #[error("{0} is link-local or a cloud's own, where machines find their credentials, and no model server")]
    Forbidden(IpAddr),
    /// Nothing allows it.
    #[error("{0} is outside of admin.node_allow")]
    Outside(IpAddr),
    /// It is us.
    #[error("{0} is this proxy itself")]
    Ourselves(std::net::SocketAddr),
}

impl NodeAllow {
    /// How `host` (a name or an address) stands; `known` are hosts that are allowed besides the list.
    ///
    /// # Errors
    /// The name of a metadata service that is not listed word by word.
    pub fn standing<'a>(&self, host: &str, known: impl IntoIterator<Item = &'a str>) -> Result<Standing, Refused> {
        let name = plain(host);
        let listed = |entry: &Allowed| matches!(entry, Allowed::Host(host) if *host == name);
        let below = |entry: &Allowed| matches!(entry, Allowed::Below(domain) if name.ends_with(domain.as_str()));
        let exact = self.0.iter().any(listed) || known.into_iter().any(|known| plain(known) == name);
        if FORBIDDEN_NAMES.contains(&name.as_str()) && !exact {
            return Err(Refused::Metadata(host.to_owned()));
        }
        Ok(if exact || self.0.iter().any(below) { Standing::Named } else { Standing::ByAddress })
    }

    /// Whether a host of that standing may have `address`.
    ///
    /// # Errors
    /// It may not.
    pub fn admits(&self, standing: Standing, address: IpAddr) -> Result<(), Refused> {
        let address = reached(address);
        let networks =
            || self.0.iter().filter_map(|entry| if let Allowed::Network(net) = entry { Some(net) } else { None });
        let forbidden = FORBIDDEN.iter().filter_map(|net| net.parse::<IpNet>().ok()).find(|net| net.contains(&address));
        match forbidden {
            Some(net) if networks().any(|listed| net.contains(listed) && listed.contains(&address)) => Ok(()),
            Some(_) => Err(Refused::Forbidden(address)),
            None if standing == Standing::Named || networks().any(|listed| listed.contains(&address)) => Ok(()),
            None => Err(Refused::Outside(address)),
        }
    }
}

/// The machine that an address reaches: an IPv4 address inside of an IPv6 one is that.
fn reached(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if address.to_bits() >> 32 == NAT64 >> 32 => {
            let [.., a, b, c, d] = Ipv6Addr::octets(&address);
            Ipv4Addr::new(a, b, c, d).into()
        }
        address => address,
    }
}

/// A host name as it is compared.
fn plain(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Settings;

    fn list(entries: &[&str]) -> NodeAllow {
        NodeAllow(entries.iter().map(|entry| entry.parse().expect(entry)).collect())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn by_default_nodes_are_in_private_networks_and_never_where_clouds_keep_credentials() {
        let allow = Settings::default().admin.node_allow;
        for address in ["127.0.0.1", "::1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "fd12::1", "::ffff:10.0.0.1"] {
            assert_eq!(allow.admits(Standing::ByAddress, ip(address)), Ok(()), "{address}");
        }
        for address in ["8.8.8.8", "172.32.0.1", "100.64.0.1", "2001:db8::1", "64:ff9b::808:808"] {
            assert!(matches!(allow.admits(Standing::ByAddress, ip(address)), Err(Refused::Outside(_))), "{address}");
            assert_eq!(allow.admits(Standing::Named, ip(address)), Ok(()), "{address}");
        }
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fe80::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "0.0.0.0",
        ] {
            for standing in [Standing::ByAddress, Standing::Named] {
                assert!(matches!(allow.admits(standing, ip(address)), Err(Refused::Forbidden(_))), "{address}");
            }
        }
        for name in ["metadata.google.internal", "METADATA.google.internal.", "metadata", "instance-data"] {
            assert!(matches!(allow.standing(name, []), Err(Refused::Metadata(_))), "{name}");
        }
    }

    #[test]
    fn what_no_node_has_is_allowed_only_by_an_entry_as_narrow() {
        let wide = list(&["0.0.0.0/0", "::/0", "*.internal"]);
        assert!(wide.admits(Standing::ByAddress, ip("8.8.8.8")).is_ok());
        assert!(wide.admits(Standing::ByAddress, ip("169.254.169.254")).is_err());
        assert!(wide.admits(Standing::ByAddress, ip("fd00:ec2::254")).is_err());
        assert!(wide.standing("metadata.google.internal", []).is_err());
        let narrow = list(&["169.254.10.0/24", "metadata.google.internal"]);
        assert!(narrow.admits(Standing::ByAddress, ip("169.254.10.1")).is_ok());
        assert!(narrow.admits(Standing::ByAddress, ip("169.254.169.254")).is_err());
        assert_eq!(narrow.standing("metadata.google.internal", []), Ok(Standing::Named));
    }

    #[test]
    fn a_name_is_allowed_word_by_word_or_below_a_domain_or_because_a_configured_node_has_it() {
        let allow = list(&["gpu-1.example", "*.gpu.example"]);
        for name in ["gpu-1.example", "GPU-1.example.", "a.gpu.example", "b.a.gpu.example", "known"] {
            assert_eq!(allow.standing(name, ["known"]), Ok(Standing::Named), "{name}");
        }
        for name in ["gpu.example", "xgpu.example", "gpu-1.example.evil", "agpu.example", "10.0.0.1"] {
            assert_eq!(allow.standing(name, ["known"]), Ok(Standing::ByAddress), "{name}");
        }
    }

    #[test]
    fn an_entry_is_a_network_an_address_or_a_name_and_shows_as_it_is_read() {
        for text in ["10.0.0.0/8", "10.0.0.1/32", "fd00::/8", "gpu-1.example", "*.gpu.example", "localhost"] {
            assert_eq!(text.parse::<Allowed>().map(|entry| entry.to_string()).as_deref(), Ok(text));
        }
        for text in
            ["", "*", "*gpu.example", "a.*.b", "10.0.0.0/33", "10.0.0", "0xa9fea9fe", "http://a", "a:80", "a b", "."]
        {
            assert!(text.parse::<Allowed>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_spelling_of_a_link_local_address_passes_the_widest_list(low in 0u32..0x1_0000, spelling in 0usize..3) {
            let address = Ipv4Addr::from_bits(0xa9fe_0000 | low);
            let spelled = match spelling {
                0 => IpAddr::V4(address),
                1 => address.to_ipv6_mapped().into(),
                _ => Ipv6Addr::from_bits(NAT64 | u128::from(address.to_bits())).into(),
            };
            let wide = list(&["0.0.0.0/0", "::/0"]);
            prop_assert!(wide.admits(Standing::ByAddress, spelled).is_err());
            prop_assert!(wide.admits(Standing::Named, spelled).is_err());
        }
    }
}
