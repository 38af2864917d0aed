//! Who wants to hear of attempts: metrics, learning, whoever remembers decisions.
//!
//! They hear of everything here, from the balancer, and not in the data path, so that the simulator's attempts and the
//! proxy's are told alike.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use crate::admission::Priority;
use crate::balancer::{Choice, Decision};
use crate::fleet::{Change, Node};
use crate::outcome::Sample;
use crate::policy::PolicyId;
use crate::policy::considered::Considered;

/// Somebody who hears of every attempt. Called on the request path: must be quick and must not block.
pub trait Observer: Send + Sync {
    /// An attempt starts on `node`, chosen by `policy`.
    fn started(&self, node: &Node, policy: PolicyId) {
        let _ = (node, policy);
    }

    /// A node was drawn for an attempt. The number under which the decision is remembered, if it is.
    fn decided(&self, choice: &Choice<'_>, decision: &Decision) -> Option<NonZeroU64> {
        let _ = (choice, decision);
        None
    }

    /// What the decision was made from, for those who want to hear of it at the attempt's end: an allocation for each.
    fn considered(&self, choice: &Choice<'_>, decision: &Decision) -> Option<Arc<Considered>> {
        let _ = (choice, decision);
        None
    }

    /// The attempt ended whose decision is remembered under that number.
    fn came_of(&self, number: NonZeroU64, sample: &Sample) {
        let _ = (number, sample);
    }

    /// An attempt ended. Called exactly once for each.
    fn finished(&self, node: &Node, sample: &Sample) {
        let _ = (node, sample);
    }

    /// The same, with what its decision was made from, if somebody wanted that.
    fn finished_considering(&self, node: &Node, sample: &Sample, considered: Option<&Arc<Considered>>) {
        let _ = considered;
        self.finished(node, sample);
    }

    /// A request was handed a node after it had waited for so long.
    fn waited(&self, priority: Priority, waited: Duration) {
        let _ = (priority, waited);
    }

    /// A node rose or fell, was ejected or readmitted.
    fn health_changed(&self, node: &Node, change: Change) {
        let _ = (node, change);
    }
}
