//! What the trainer's thread does in production, called in virtual time: drain samples, read gaps, refit.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::balancer::{Balancer, Observer};
use crate::clock::Time;
use crate::fleet::{Load, Node};
use crate::learn::{Learner, REFIT_S};
use crate::node::NodeId;
use crate::outcome::Sample;
use crate::sim::roster::Hook;

/// How often gaps are read.
const GAPS_EVERY: Duration = Duration::from_millis(50);

/// Samples between two drains at most, as the production queue is bounded.
const QUEUE_MAX: usize = 65_536;

/// The queue between the balancer and the learner.
#[derive(Debug, Default)]
pub(super) struct Samples(Mutex<Vec<Sample>>);

impl Observer for Samples {
    fn finished(&self, _node: &Node, sample: &Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() < QUEUE_MAX {
            samples.push(*sample);
        }
    }
}

/// The hooks that teach `balancer` from `samples`.
pub(super) fn hooks(balancer: &Arc<Balancer>, samples: Arc<Samples>) -> Vec<Hook> {
    let learner = Rc::new(RefCell::new(Learner::new(Arc::clone(balancer.learned()))));
    let (gathering, refitting) = (Rc::clone(&learner), learner);
    let fleet_of = Arc::clone(balancer);
    let mut last: HashMap<NodeId, (Time, Load)> = HashMap::new();
    let mut version = 0;
    let gather = move |now: Time| {
        let mut learner = gathering.borrow_mut();
        let drained = std::mem::take(&mut *samples.0.lock().unwrap_or_else(PoisonError::into_inner));
        for sample in &drained {
            // The learner counts what it refuses.
            let _ = learner.observe(now, sample);
        }
        let fleet = fleet_of.fleet();
        if fleet.version() != version {
            version = fleet.version();
            learner.retain(&fleet);
            last.retain(|id, _| fleet.nodes().iter().any(|node| node.id == *id));
        }
        for node in fleet.nodes() {
            let ledger = &node.live.ledger;
            let load = ledger.read(now);
            let (before, earlier) = last.insert(node.id, (now, load)).unwrap_or((now, load));
            let (sum_s, events) = ledger.take_gaps();
            let waiting = ledger.waiting();
            let streaming = load.in_flight.saturating_sub(waiting);
            let mean = load.mean_since(earlier, now.since(before));
            learner.gaps(now, node, mean, waiting, streaming, sum_s, events);
        }
    };
    let refit = move |now: Time| {
        refitting.borrow_mut().refit(now);
    };
    vec![
        Hook { every: GAPS_EVERY, call: Box::new(gather) },
        Hook { every: Duration::from_secs_f64(REFIT_S), call: Box::new(refit) },
    ]
}
