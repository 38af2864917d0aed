//! What a node is: its name, its address and the settings that an operator gave it.
//!
//! A [`NodeSpec`] is plain, checked data. What a node is *doing* (load, health) lives in [`crate::fleet`], so that a
//! changed weight is a new spec around the same live state, and a request that runs on a removed node still has
//! everything it needs to end properly.

use std::fmt;

/// Identity of a node for the life of the process; never given twice, even if a node of the same name returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// What no node may be called: metrics show the proxy's own answers under it.
pub const NO_NODE: &str = "none";

/// The largest number of nodes in a fleet.
///
/// Bounds every per-node table; the decision stays under 25 microseconds up to 1,000 nodes and linear above.
pub const NODES_MAX: usize = 4096;

/// The hard bound of requests in flight at one node: the ledger counts in 16 bits, and a margin keeps a burst of
/// concurrent starts from ever wrapping them.
pub const IN_FLIGHT_MAX: u32 = 60_000;

/// Where an automatic limit starts: most batching servers take as much, and it doubles within seconds where it is used.
pub const AUTO_LIMIT_START: u32 = 16;

/// How many attempts a node may have in flight at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxInFlight {
    /// As many as the proxy can count, [`IN_FLIGHT_MAX`].
    #[default]
    Off,
    /// Found out from the node's response times.
    Auto,
    /// 1..=[`IN_FLIGHT_MAX`].
    Fixed(u32),
}

/// A node as an operator describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSpec {
    /// Unique in the fleet; what metrics, logs and the admin API call it.
    pub name: String,
    /// `http://host:port` with an optional base path and without a trailing slash.
    pub url: String,
    /// Relative capacity for the weighted policies, greater than 0 and at most 1,000; 1 unless set.
    pub weight: f64,
    /// Attempts in flight at once, 1..=[`IN_FLIGHT_MAX`]; `None` means [`IN_FLIGHT_MAX`].
    pub max_in_flight: Option<u32>,
    /// Whether the limit of attempts in flight is found out from the node's response times; then `max_in_flight` is `None`.
    pub auto_limit: bool,
    /// Whether that limit, or that there is none, was said of this node; if not, it follows the default of all nodes.
    pub own_limit: bool,
    /// Prompt and expected output tokens in flight at once; `None` is no limit.
    pub max_in_flight_tokens: Option<u64>,
    /// Models that it serves; empty means every model.
    pub models: Vec<String>,
    /// Whether it came by the admin API: then each address that it is connected to must be allowed.
    pub guarded: bool,
}

impl NodeSpec {
    /// A node with default settings, named by its address without the scheme.
    pub fn new(url: impl Into<String>) -> NodeSpec {
        let url = url.into();
        let name = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest).to_owned();
        NodeSpec {
            name,
            url,
            weight: 1.0,
            max_in_flight: None,
            auto_limit: false,
            own_limit: false,
            max_in_flight_tokens: None,
            models: Vec::new(),
            guarded: false,
        }
    }

    /// The same node under another name.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> NodeSpec {
        NodeSpec { name: name.into(), ..self }
    }

    /// What limits its attempts in flight.
    pub fn max_in_flight(&self) -> MaxInFlight {
        match (self.auto_limit, self.max_in_flight) {
            (true, _) => MaxInFlight::Auto,
            (false, Some(limit)) => MaxInFlight::Fixed(limit),
            (false, None) => MaxInFlight::Off,
        }
    }

    /// The same node where nodes that have no limit of their own have this one.
    #[must_use]
    pub fn or_limited(self, default: MaxInFlight) -> NodeSpec {
        if self.own_limit { self } else { self.limited(default) }
    }

    /// The same node with this limit.
    fn limited(self, limit: MaxInFlight) -> NodeSpec {
        let (max_in_flight, auto_limit) = match limit {
            MaxInFlight::Off => (None, false),
            MaxInFlight::Auto => (None, true),
            MaxInFlight::Fixed(limit) => (Some(limit), false),
        };
        NodeSpec { max_in_flight, auto_limit, ..self }
    }

    /// The same node with this limit of its own.
    #[must_use]
    pub fn own_limited(self, limit: MaxInFlight) -> NodeSpec {
        NodeSpec { own_limit: true, ..self.limited(limit) }
    }

    /// What follows `http://`: host, port and base path.
    fn address(&self) -> &str {
        self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest)
    }

    /// `host:port` as in the URL, for a `Host` field.
    pub fn authority(&self) -> &str {
        let address = self.address();
        address.find('/').map_or(address, |at| &address[..at])
    }

    /// Host (an IPv6 address without its brackets) and port (80 unless given), for connecting.
    pub fn host_port(&self) -> (&str, u16) {
        let authority = self.authority();
        let bare = |host| str::trim_end_matches(str::trim_start_matches(host, '['), ']');
        match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (bare(host), port.parse().unwrap_or(80)),
            _ => (bare(authority), 80),
        }
    }

    /// The path that every request's path is appended to; empty for most nodes.
    pub fn base_path(&self) -> &str {
        let address = self.address();
        address.find('/').map_or("", |at| address[at..].trim_end_matches('/'))
    }

    /// The operator's limit of attempts in flight.
    pub fn limit(&self) -> u32 {
        self.max_in_flight.map_or(IN_FLIGHT_MAX, |limit| limit.min(IN_FLIGHT_MAX))
    }

    /// Whether it serves `model`. A request that names none can go anywhere.
    pub fn serves(&self, model: Option<&str>) -> bool {
        match model {
            Some(model) if !self.models.is_empty() => self.models.iter().any(|served| served == model),
            _ => true,
        }
    }
}

/// A hash of a node's name that is the same in every process, version and architecture, so that several proxies agree.
///
/// FNV-1a (64 bits) with the finalizer of splitmix64: FNV alone leaves names that differ in their last letter close
/// together. Not made for names that an attacker chooses; names are the operator's.
pub fn name_hash(name: &str) -> u64 {
    let fnv = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    scramble(fnv)
}

/// The finalizer of splitmix64 (Steele, Lea and Flood 2014): every bit of the input changes half of the output's.
pub fn scramble(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_name_never_changes() {
        // Pinned: a new value would move every client of every operator to another node.
        assert_eq!(name_hash("gpu-1"), 0x77dc_0209_5c8b_b461);
        let mut hashes: Vec<u64> = (0..10_000).map(|i| name_hash(&format!("node-{i}"))).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 10_000);
    }

    #[test]
    fn the_parts_of_a_url_are_found() {
        let parts = |url: &str| {
            let spec = NodeSpec::new(url);
            let (host, port) = spec.host_port();
            (host.to_owned(), port, spec.authority().to_owned(), spec.base_path().to_owned())
        };
        let expect = |host: &str, port, authority: &str, base: &str| {
            (host.to_owned(), port, authority.to_owned(), base.to_owned())
        };
        assert_eq!(parts("http://10.0.0.1:8000"), expect("10.0.0.1", 8000, "10.0.0.1:8000", ""));
        assert_eq!(parts("http://gpu.example/llm/"), expect("gpu.example", 80, "gpu.example", "/llm"));
        assert_eq!(parts("http://[::1]:9/a/b"), expect("::1", 9, "[::1]:9", "/a/b"));
        assert_eq!(parts("http://[::1]"), expect("::1", 80, "[::1]", ""));
    }

    #[test]
    fn a_limit_of_its_own_counts_before_the_default_and_so_does_none() {
        let node = || NodeSpec::new("http://a");
        for default in [MaxInFlight::Off, MaxInFlight::Auto, MaxInFlight::Fixed(3)] {
            assert_eq!(node().or_limited(default).max_in_flight(), default);
            assert_eq!(node().or_limited(MaxInFlight::Fixed(9)).or_limited(default).max_in_flight(), default);
            for own in [MaxInFlight::Off, MaxInFlight::Auto, MaxInFlight::Fixed(7)] {
                assert_eq!(node().own_limited(own).or_limited(default).max_in_flight(), own);
            }
        }
        assert_eq!(node().or_limited(MaxInFlight::Fixed(3)).limit(), 3);
    }

    #[test]
    fn a_node_serves_what_it_lists_or_everything() {
        let all = NodeSpec::new("http://a");
        assert!(all.serves(Some("llama")) && all.serves(None));
        let one = NodeSpec { models: vec!["llama".into()], ..all };
        assert!(one.serves(Some("llama")) && one.serves(None) && !one.serves(Some("qwen")));
    }
}
