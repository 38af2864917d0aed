//! Connecting to nodes: to what the configuration names as it is, to what the admin API added only where it may be.
//!
//! The name of such a node is looked up and each address judged right before it is connected to: a name that led to a
//! good address when the node was added can lead elsewhere now (DNS rebinding). Nothing else in the program connects to
//! nodes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};

use super::allow::{NodeAllow, Refused};
use super::meet;
use crate::node::NodeSpec;

/// How long the look at a name may take when a node is added; one that takes longer is judged when it is connected to.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(2);

/// What connections to nodes are held against.
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    /// Where nodes from the admin API may be.
    pub allow: &'a NodeAllow,
    /// Nodes of the configuration: their hosts are allowed too.
    pub known: &'a [NodeSpec],
    /// Where this proxy itself listens: requests must not come back to it, least of all to its admin API.
    pub own: [Option<SocketAddr>; 2],
}

impl Reach<'_> {
    /// A connection to `node`.
    ///
    /// # Errors
    /// As for any connection; `PermissionDenied` if the node may not be where it is.
    pub async fn connect(&self, node: &NodeSpec) -> io::Result<TcpStream> {
        let (host, port) = node.host_port();
        if !node.guarded {
            return TcpStream::connect((host, port)).await;
        }
        let mut failed = None;
        for address in self.judged(node, lookup_host((host, port)).await?).map_err(refusal)? {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
    }

    /// Whether `node` may be where it is now. A name that cannot be looked up is not refused: the node stays down
    /// until it can, and is judged then.
    ///
    /// # Errors
    /// It may not.
    pub async fn check(&self, node: &NodeSpec) -> Result<(), Refused> {
        // First without asking anybody, so that a bad name is refused where none can be looked up.
        self.judged(node, [])?;
        match tokio::time::timeout(LOOKUP_PATIENCE, lookup_host(node.host_port())).await {
            Ok(Ok(addresses)) => self.judged(node, addresses).map(drop),
            _ => Ok(()),
        }
    }

    /// The addresses, if `node` may have every one of them.
    fn judged(
        &self,
        node: &NodeSpec,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Refused> {
        let known = self.known.iter().map(|node| node.host_port().0);
        let standing = self.allow.standing(node.host_port().0, known)?;
        let judge = |address: SocketAddr| {
            self.allow.admits(standing, address.ip())?;
            match self.own.iter().flatten().any(|own| meet(*own, address)) {
                true => Err(Refused::Ourselves(address)),
                false => Ok(address),
            }
        };
        addresses.into_iter().map(judge).collect()
    }
}

/// What clients are told of it: not the address, which is ours to know.
#[expect(clippy::needless_pass_by_value, reason = "what map_err calls")]
fn refusal(refused: Refused) -> io::Error {
    tracing::debug!(%refused, "no connection to a node");
    io::Error::new(io::ErrorKind::PermissionDenied, "it is not where admin.node_allow lets nodes be")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_bad_address_among_good_ones_is_enough_to_refuse() {
        let allow = NodeAllow(vec!["10.0.0.0/8".parse().expect("a network")]);
        let reach = Reach { allow: &allow, known: &[], own: [Some(at("10.0.0.9:8080")), None] };
        let node = NodeSpec { guarded: true, ..NodeSpec::new("http://rebound.example:8080") };
        let judged = |addresses: &[&str]| reach.judged(&node, addresses.iter().map(|text| at(text)));
        assert_eq!(judged(&["10.0.0.1:8080"]), Ok(vec![at("10.0.0.1:8080")]));
        assert!(matches!(judged(&["10.0.0.1:8080", "169.254.169.254:8080"]), Err(Refused::Forbidden(_))));
        assert!(matches!(judged(&["192.0.2.1:8080"]), Err(Refused::Outside(_))));
        assert!(matches!(judged(&["10.0.0.9:8080"]), Err(Refused::Ourselves(_))));
    }
}
