//! The learned state as a document: what a restart or another proxy may start from.
//!
//! JSON with a format mark, the schema of the columns and a checksum over the state. It holds the decayed sums rather
//! than coefficients, so that learning goes on where it stopped, plus the pooled sums of the fleet, so that a fleet of
//! other nodes can start from the same curve. This module turns it into bytes and back; files are the shell's.

use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::learn::entry::Entry;
use crate::learn::expect::Expect;
use crate::learn::features::{SCHEMA, TARGETS};
use crate::learn::fit;
use crate::learn::learner::Learner;
use crate::learn::reuse::Seen;
use crate::learn::slots::Slots;
use crate::learn::stats::Stats;
use crate::node::NODES_MAX;
use crate::request::{KINDS_MAX, KindId};

/// Mark of the format.
const FORMAT: &str = "bellwether-model";

/// What the pooled sums of another fleet count as, per target: the evidence of twenty samples.
const PRIOR_WEIGHT: f64 = 20.0;

/// Why a snapshot is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Not the JSON that it should be.
    #[error("not a snapshot: {0}")]
    Unreadable(String),
    /// Another document.
    #[error("the format is {0:?}, expected {FORMAT:?}")]
    Foreign(String),
    /// Other columns.
    #[error("the schema is {0}, this version reads {SCHEMA}")]
    Schema(u32),
    /// Changed after it was written.
    #[error("the checksum is {found}, expected {expected}")]
    Checksum {
        /// As written.
        found: String,
        /// Of the state as read.
        expected: String,
    },
    /// Numbers that cannot have been learned, or too many of them.
    #[error("unsound state: {0}")]
    Unsound(&'static str),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    schema: u32,
    checksum: String,
    state: Snapshot,
}

/// The learned state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Node by node.
    pub nodes: Vec<NodeState>,
    /// All nodes at the fleet's speed, by target.
    pub fleet: [Stats; TARGETS],
    /// Expected outputs by name of the kind.
    pub kinds: Vec<KindState>,
    /// Expected output over all kinds.
    pub overall: Expect,
}

/// What was learned of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// Its URL; a name with another URL is another node.
    pub url: String,
    /// Decayed sums by target.
    pub stats: [Stats; TARGETS],
    /// Speed factors by target.
    pub speed: [f64; TARGETS],
    /// Learned slot limit, if known.
    pub slots: Option<f64>,
    /// Largest load seen.
    pub largest: f64,
    /// What was seen of its cache. What it was sent is not kept, but how long it holds such things is.
    #[serde(default, skip_serializing_if = "Seen::is_empty")]
    pub reuse: Seen,
}

/// What was learned of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindState {
    /// Its name.
    pub name: String,
    /// Expected output.
    pub expect: Expect,
}

/// 64-bit FNV-1a: finds accidents, which is all that a checksum is for.
fn checksum(state: &[u8]) -> String {
    let hash = state
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

impl Snapshot {
    /// The document.
    ///
    /// # Errors
    /// A number that JSON cannot hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SnapshotError> {
        let unreadable = |error: serde_json::Error| SnapshotError::Unreadable(error.to_string());
        self.sound()?;
        let state = serde_json::to_vec(self).map_err(unreadable)?;
        let document =
            Document { format: FORMAT.into(), schema: SCHEMA, checksum: checksum(&state), state: self.clone() };
        let mut bytes = serde_json::to_vec_pretty(&document).map_err(unreadable)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// It is not one, of another schema, damaged, or unsound.
    pub fn from_bytes(bytes: &[u8]) -> Result<Snapshot, SnapshotError> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
            schema: u32,
        }
        let unreadable = |error: serde_json::Error| SnapshotError::Unreadable(error.to_string());
        // The head first: another schema has another state, and should say so instead of "unknown field".
        let head: Head = serde_json::from_slice(bytes).map_err(unreadable)?;
        if head.format != FORMAT {
            return Err(SnapshotError::Foreign(head.format));
        }
        if head.schema != SCHEMA {
            return Err(SnapshotError::Schema(head.schema));
        }
        let document: Document = serde_json::from_slice(bytes).map_err(unreadable)?;
        let expected = checksum(&serde_json::to_vec(&document.state).map_err(unreadable)?);
        if expected != document.checksum {
            return Err(SnapshotError::Checksum { found: document.checksum, expected });
        }
        document.state.sound()?;
        Ok(document.state)
    }

    /// Without what only its own fleet can use: what another one may start from.
    #[must_use]
    pub fn general(&self) -> Snapshot {
        Snapshot { nodes: Vec::new(), fleet: self.fleet, kinds: Vec::new(), overall: self.overall }
    }

    fn sound(&self) -> Result<(), SnapshotError> {
        let positive = |x: f64| x.is_finite() && x >= 0.0;
        let stats_sound = |stats: &Stats| stats.is_finite() && (0..stats.g.len()).all(|j| stats.g2[j][j] >= 0.0);
        let refuse = |what| Err(SnapshotError::Unsound(what));
        if self.nodes.len() > NODES_MAX || self.kinds.len() > KINDS_MAX {
            return refuse("too many nodes or kinds");
        }
        if !self.nodes.iter().flat_map(|node| &node.stats).chain(&self.fleet).all(stats_sound) {
            return refuse("sums that are not finite or negative");
        }
        let numbers = |node: &NodeState| {
            node.speed.iter().all(|s| positive(*s) && *s > 0.0)
                && node.slots.is_none_or(|slots| positive(slots) && slots > 0.0)
                && positive(node.largest)
                && node.reuse.is_sound()
        };
        if !self.nodes.iter().all(numbers) {
            return refuse("a factor or limit that is not a positive number");
        }
        if !self.kinds.iter().map(|kind| &kind.expect).chain([&self.overall]).all(Expect::is_sound) {
            return refuse("an expectation that is not finite or negative");
        }
        Ok(())
    }
}

impl Learner {
    /// The learned state of the nodes of `fleet`; `kind_name` names kinds as `Kinds::name` does.
    pub fn snapshot(&self, fleet: &Fleet, kind_name: impl Fn(KindId) -> String) -> Snapshot {
        let known = fleet.nodes().iter().filter_map(|node| {
            let entry = self.nodes.get(node.slot as usize)?.as_deref().filter(|entry| entry.id == node.id)?;
            Some(NodeState {
                name: node.spec.name.clone(),
                url: node.spec.url.clone(),
                stats: entry.stats,
                speed: entry.speed,
                slots: Some(entry.slots.limit()).filter(|slots| slots.is_finite()),
                largest: entry.largest,
                reuse: entry.reuse,
            })
        });
        let nodes: Vec<NodeState> = known.collect();
        let fleet = std::array::from_fn(|at| {
            let stats: Vec<Stats> = nodes.iter().map(|node| node.stats[at]).collect();
            let speeds: Vec<f64> = nodes.iter().map(|node| node.speed[at]).collect();
            fit::pool(&stats, &speeds, self.prior.as_ref().map(|prior| &prior[at]))
        });
        let kinds = self.expectations.kinds();
        let kinds = kinds.map(|(kind, expect)| KindState { name: kind_name(kind), expect: *expect }).collect();
        Snapshot { nodes, fleet, kinds, overall: *self.expectations.overall() }
    }

    /// Starts from `snapshot`: nodes of the same name and URL go on where they were, and if there is none, the fleet's
    /// curve becomes a prior that new evidence soon outweighs. Returns how many nodes were recognized.
    pub fn restore(&mut self, snapshot: &Snapshot, fleet: &Fleet, kind_of: impl Fn(&str) -> Option<KindId>) -> usize {
        let mut recognized = 0;
        let now = crate::clock::Time::ZERO;
        for state in &snapshot.nodes {
            let same = |node: &&std::sync::Arc<crate::fleet::Node>| {
                node.spec.name == state.name && node.spec.url == state.url && (node.slot as usize) < NODES_MAX
            };
            let Some(node) = fleet.nodes().iter().find(same) else { continue };
            recognized += 1;
            let slot = node.slot as usize;
            if self.nodes.len() <= slot {
                self.nodes.resize_with(slot + 1, || None);
            }
            let mut entry = Entry::new(node.id, now);
            entry.stats = std::array::from_fn(|at| Stats { at_s: self.clock_s[at], ..state.stats[at] });
            entry.speed = state.speed;
            entry.slots = Slots::known(state.slots.unwrap_or(f64::INFINITY));
            entry.largest = state.largest;
            entry.reuse = state.reuse;
            entry.limit = node.spec.limit();
            self.nodes[slot] = Some(Box::new(entry));
        }
        if recognized == 0 {
            self.prior = Some(snapshot.fleet.map(|stats| {
                let mut prior = stats;
                prior.scale(if stats.weight() > PRIOR_WEIGHT { PRIOR_WEIGHT / stats.weight() } else { 1.0 });
                prior
            }));
        }
        self.expectations.put(None, snapshot.overall);
        for kind in &snapshot.kinds {
            if let Some(id) = kind_of(&kind.name) {
                self.expectations.put(Some(id), kind.expect);
            }
        }
        recognized
    }
}
