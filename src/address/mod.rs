//! Addresses of machines: which of them are one client, which are ourselves, and which a node may have.
//!
//! What counts per client (connections, wrong tokens) counts per household: an IPv4 address, or the /64 network that a
//! provider gives to one IPv6 customer, who would otherwise be 2^64 clients. Which addresses a node from the admin API
//! may have is in [`NodeAllow`], and [`Reach`] holds every connection to such a node against it.

mod allow;
mod reach;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

pub use allow::{Allowed, NodeAllow, Refused, Standing};
pub use reach::Reach;

/// The part of an IPv6 address that names a network: the first 64 bits.
const NETWORK: u128 = !(u64::MAX as u128);

/// The address by which a client is known: IPv4 as it is, also inside of IPv6; of IPv6 the first 64 bits.
pub fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
    }
}

/// Whether both cannot be bound, or one reaches the other. As far as the addresses themselves tell: that a listener on
/// all addresses is also reached by the machine's own is not seen.
pub fn meet(a: SocketAddr, b: SocketAddr) -> bool {
    let (ip_a, ip_b) = (a.ip().to_canonical(), b.ip().to_canonical());
    let local = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    let any = ip_a.is_unspecified() && local(ip_b) || ip_b.is_unspecified() && local(ip_a);
    a.port() != 0 && a.port() == b.port() && (ip_a == ip_b || any)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_customer_with_many_addresses_is_one_client() {
        assert_eq!(household(ip("2001:db8:1:2:3::4")), household(ip("2001:db8:1:2:ffff::1")));
        assert_ne!(household(ip("2001:db8:1:2::1")), household(ip("2001:db8:1:3::1")));
        assert_eq!(household(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        assert_ne!(household(ip("192.0.2.1")), household(ip("192.0.2.2")));
    }
}
