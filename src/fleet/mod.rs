//! Who exists: the fleet as an immutable view, swapped whole, around live state that survives the swap.
//!
//! A decision reads one view from start to end and takes no lock. A change of a weight makes a new [`Node`] around
//! the same [`Live`] state; a removed node lives on in the attempts that run on it. Per-node state of other layers
//! goes into a [`PerNode`] table, indexed by the node's slot: a map per decision would cost more than the decision.

mod ejection;
mod health;
mod ledger;
mod per_node;

use std::sync::Arc;

pub use ejection::{Cause, Ejection, Failures, Record};
pub use health::{Change, FULL_DEFAULT, FULL_MAX, Health, Judgement, State, Thresholds};
pub use ledger::{Before, Ledger, Load};
pub use per_node::{PerNode, Resettable};

use crate::node::{NODES_MAX, NodeId, NodeSpec, name_hash};

/// What is alive about a node; shared by every view and every attempt.
///
/// Both parts share a pair of cache lines that belongs to no other node: a decision looks at both.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Live {
    /// Load.
    pub ledger: Ledger,
    /// Condition.
    pub health: Health,
}

/// A node in a view of the fleet.
#[derive(Clone, Debug)]
pub struct Node {
    /// Identity, never reused.
    pub id: NodeId,
    /// Index into per-node tables; below [`NODES_MAX`], reused after the node is gone.
    pub slot: u32,
    /// [`name_hash`] of the name, for policies that hash.
    pub name_hash: u64,
    /// Of the settings, what every decision asks: the operator's limit of attempts in flight,
    pub limit_max: u32,
    /// whether that is found out from its response times instead,
    pub finds_limit: bool,
    /// whether there is a limit of tokens in flight,
    pub limits_tokens: bool,
    /// whether its URL has a base path,
    pub has_base_path: bool,
    /// whether it names the models that it serves,
    pub lists_models: bool,
    /// and the weight.
    pub weight: f64,
    /// Settings.
    pub spec: Arc<NodeSpec>,
    /// Load and condition.
    pub live: Arc<Live>,
}

impl Node {
    fn new(id: NodeId, slot: u32, spec: NodeSpec, live: Arc<Live>) -> Node {
        Node {
            id,
            slot,
            name_hash: name_hash(&spec.name),
            limit_max: spec.limit(),
            finds_limit: spec.auto_limit,
            limits_tokens: spec.max_in_flight_tokens.is_some(),
            has_base_path: !spec.base_path().is_empty(),
            lists_models: !spec.models.is_empty(),
            weight: spec.weight,
            spec: Arc::new(spec),
            live,
        }
    }

    /// The most attempts that it may have in flight now: the limit of the operator or its own, and less while it
    /// returns from an ejection.
    #[inline]
    pub fn limit(&self) -> u32 {
        self.own_limit().min(self.live.health.ramp())
    }

    /// The most attempts that it may have in flight by the operator's word, or its own response times.
    #[inline]
    pub fn own_limit(&self) -> u32 {
        if self.finds_limit { self.live.ledger.own_limit() } else { self.limit_max }
    }

    /// Whether it has room for a request of so many tokens. One that is larger than the limit goes alone.
    #[inline]
    pub fn has_room_for(&self, tokens: u64) -> bool {
        !self.limits_tokens || self.live.ledger.has_room_for(tokens, self.spec.max_in_flight_tokens.unwrap_or(u64::MAX))
    }
}

/// An immutable view of all nodes we know.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    nodes: Vec<Arc<Node>>,
    version: u64,
    next_id: u32,
    lists_models: bool,
    limits_tokens: bool,
}

/// Why a change of the fleet was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// Names are unique.
    #[error("a node named {0:?} exists already")]
    NameTaken(String),
    /// Nothing to change.
    #[error("no node is named {0:?}")]
    Unknown(String),
    /// The bound of the fleet.
    #[error("the fleet has {NODES_MAX} nodes, which is the most it can have")]
    Full,
}

impl Fleet {
    /// The nodes in the order in which they were added.
    #[inline]
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// Grows by one with every change; tables computed from a fleet (a round-robin cycle) are keyed by it.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether any node names the models that it serves.
    pub fn lists_models(&self) -> bool {
        self.lists_models
    }

    /// Whether any node has a limit of tokens in flight.
    pub fn limits_tokens(&self) -> bool {
        self.limits_tokens
    }

    /// The node of that name.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|node| node.spec.name == name)
    }

    /// The models that nodes name, sorted, each once.
    pub fn models(&self) -> Vec<String> {
        let mut models: Vec<String> = self.nodes.iter().flat_map(|node| node.spec.models.iter().cloned()).collect();
        models.sort();
        models.dedup();
        models
    }

    /// A view with one node more.
    ///
    /// # Errors
    /// The name is taken, or the fleet has [`NODES_MAX`] nodes.
    pub fn with(&self, spec: NodeSpec) -> Result<Fleet, FleetError> {
        if self.by_name(&spec.name).is_some() {
            return Err(FleetError::NameTaken(spec.name));
        }
        let slot = self.free_slot().ok_or(FleetError::Full)?;
        let mut next = self.clone();
        next.nodes.push(Arc::new(Node::new(NodeId(self.next_id), slot, spec, Arc::default())));
        next.next_id += 1;
        Ok(next.changed())
    }

    /// A view with the named node's settings replaced; its load and condition stay. A new URL is a new node.
    ///
    /// # Errors
    /// No node has that name.
    pub fn with_changed(&self, spec: NodeSpec) -> Result<Fleet, FleetError> {
        let Some(place) = self.nodes.iter().position(|node| node.spec.name == spec.name) else {
            return Err(FleetError::Unknown(spec.name));
        };
        let old = &self.nodes[place];
        if old.spec.url != spec.url {
            return self.without(&old.spec.name)?.with(spec);
        }
        let mut next = self.clone();
        next.nodes[place] = Arc::new(Node::new(old.id, old.slot, spec, Arc::clone(&old.live)));
        Ok(next.changed())
    }

    /// A view without the named node. What runs on it goes on.
    ///
    /// # Errors
    /// No node has that name.
    pub fn without(&self, name: &str) -> Result<Fleet, FleetError> {
        let mut next = self.clone();
        next.nodes.retain(|node| node.spec.name != name);
        if next.nodes.len() == self.nodes.len() {
            return Err(FleetError::Unknown(name.to_owned()));
        }
        Ok(next.changed())
    }

    fn changed(mut self) -> Fleet {
        self.version += 1;
        self.limits_tokens = self.nodes.iter().any(|node| node.limits_tokens);
        self.lists_models = self.nodes.iter().any(|node| node.lists_models);
        self
    }

    /// The lowest slot that no node of this view has.
    fn free_slot(&self) -> Option<u32> {
        let mut taken = vec![false; NODES_MAX];
        for node in &self.nodes {
            taken[node.slot as usize] = true;
        }
        taken.iter().position(|taken| !taken).and_then(|slot| u32::try_from(slot).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;

    fn fleet(names: &[&str]) -> Fleet {
        names.iter().fold(Fleet::default(), |fleet, name| {
            let spec = NodeSpec { name: (*name).to_owned(), ..NodeSpec::new("http://127.0.0.1:1") };
            fleet.with(spec).expect("free name")
        })
    }

    #[test]
    fn what_a_decision_reads_of_a_node_is_three_cache_lines() {
        // The two counts of an `Arc` come before what it holds.
        assert!(size_of::<Node>() + 16 <= 64, "{}", size_of::<Node>());
        assert_eq!(size_of::<Live>(), 128);
    }

    #[test]
    fn a_changed_weight_keeps_the_load() {
        let fleet = fleet(&["a", "b"]);
        fleet.nodes()[0].live.ledger.try_start(Time::ZERO, 9, 0).expect("room");
        let heavier = NodeSpec { weight: 7.0, ..NodeSpec::clone(&fleet.nodes()[0].spec) };
        let changed = fleet.with_changed(heavier).expect("known");
        assert_eq!(changed.nodes()[0].spec.weight, 7.0);
        assert_eq!(changed.nodes()[0].live.ledger.in_flight(), 1);
        assert_eq!(changed.nodes()[0].id, fleet.nodes()[0].id);
        assert!(changed.version() > fleet.version());
    }

    #[test]
    fn a_returning_name_is_a_new_node_in_a_free_slot() {
        let fleet = fleet(&["a", "b"]);
        let old = fleet.nodes()[0].id;
        let again = fleet.without("a").and_then(|f| f.with(NodeSpec { name: "a".into(), ..NodeSpec::new("http://x") }));
        let again = again.expect("free name");
        let a = again.by_name("a").expect("there");
        assert_ne!(a.id, old);
        assert_eq!(a.slot, 0);
        assert_eq!(again.without("c").err(), Some(FleetError::Unknown("c".into())));
        assert_eq!(again.with(NodeSpec::new("http://y").named("b")).err(), Some(FleetError::NameTaken("b".into())));
    }
}
