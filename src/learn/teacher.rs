//! The rhythm of learning: samples as they come, gaps every 50 ms, a fit every half second.
//!
//! The trainer's thread and the simulator both drive this, so that what the simulator measures is what production
//! does. It reads ledgers and knows the fleet; the mathematics is the [`Learner`]'s. It owns no clock and no queue:
//! whoever drives it says what time it is and hands over what has come.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Time;
use crate::fleet::{Fleet, Load};
use crate::learn::learned::Learned;
use crate::learn::learner::Learner;
use crate::learn::method::Method;
use crate::learn::pace::Pace;
use crate::learn::sample::Unfit;
use crate::node::NodeId;
use crate::outcome::Sample;

/// How often gaps are read: often enough that a fit sees them fresh, seldom enough that a reading is a mean.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often to refit.
pub const REFIT_EVERY: Duration = Duration::from_millis(500);

/// When a node's ledger was read last.
#[derive(Clone, Copy, Debug)]
struct Reading {
    id: NodeId,
    at: Time,
    load: Load,
}

/// A learner with its senses.
#[derive(Debug)]
pub struct Teacher {
    learner: Learner,
    pace: Pace,
    /// By slot.
    readings: Vec<Option<Reading>>,
    fleet_version: Option<u64>,
}

impl Teacher {
    /// A teacher that knows nothing and publishes to `learned`.
    pub fn new(learned: Arc<Learned>) -> Teacher {
        Teacher { learner: Learner::new(learned), pace: Pace::default(), readings: Vec::new(), fleet_version: None }
    }

    /// The same by another method; for comparisons.
    #[must_use]
    pub fn by(self, method: Method) -> Teacher {
        Teacher { learner: self.learner.by(method), ..self }
    }

    /// What was learned.
    pub fn learner(&self) -> &Learner {
        &self.learner
    }

    /// What was learned, to reset, restore or refit it.
    pub fn learner_mut(&mut self) -> &mut Learner {
        &mut self.learner
    }

    /// How fast attempts end, node by node.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// An attempt ended; `now` is when that is taken in.
    ///
    /// # Errors
    /// Why it is not a label; the learner counts it.
    pub fn observe(&mut self, now: Time, sample: &Sample) -> Result<(), Unfit> {
        self.pace.ended(now, sample.slot, sample.node);
        self.learner.observe(now, sample)
    }

    /// Reads the ledgers; call it every [`LOOK_EVERY`].
    pub fn look(&mut self, now: Time, fleet: &Fleet) {
        if self.fleet_version != Some(fleet.version()) {
            self.fleet_version = Some(fleet.version());
            self.learner.retain(fleet);
        }
        for node in fleet.nodes() {
            let slot = node.slot as usize;
            if self.readings.len() <= slot {
                self.readings.resize(slot + 1, None);
            }
            let ledger = &node.live.ledger;
            let load = ledger.read(now);
            let reading = Reading { id: node.id, at: now, load };
            let former = self.readings[slot].replace(reading).filter(|former| former.id == node.id).unwrap_or(reading);
            let (sum_s, events) = ledger.take_gaps();
            self.learner.read(now, node, ledger.take_read_prompt_tokens(), now.since(former.at));
            let waiting = ledger.waiting();
            let streaming = load.in_flight.saturating_sub(waiting);
            let mean = load.mean_since(former.load, now.since(former.at));
            self.learner.gaps(now, node, mean, waiting, streaming, sum_s, events);
        }
    }
}
