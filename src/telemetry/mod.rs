//! What is told to operators: metrics and logs.

mod access;

use std::time::Duration;

pub use access::AccessRecord;

use crate::balancer::{Observer, Reason};
use crate::fleet::{Change, Node};
use crate::outcome::Sample;
use crate::policy::PolicyId;

/// The metrics of one running instance. The data path calls it once or twice per request.
#[derive(Debug, Default)]
pub struct Telemetry {}

impl Telemetry {
    /// A client has its answer: `node` is the one whose response it got, `None` where the proxy itself answered.
    pub fn answered(&self, node: Option<&Node>, status: u16) {
        let _ = (node, status);
    }

    /// Another attempt of the same request follows; `reason` is from a known set of words.
    pub fn retried(&self, reason: &'static str) {
        let _ = reason;
    }

    /// A request was refused for want of a node.
    pub fn rejected(&self, reason: Reason) {
        let _ = reason;
    }

    /// A request or connection was refused before it came to a decision; `reason` is from a known set of words.
    pub fn refused(&self, reason: &'static str) {
        let _ = reason;
    }

    /// A client that left was noticed, and its node's connection closed `after` the client's.
    pub fn disconnected(&self, after: Duration) {
        let _ = after;
    }
}

impl Observer for Telemetry {
    fn started(&self, node: &Node, policy: PolicyId) {
        let _ = (node, policy);
    }

    fn finished(&self, node: &Node, sample: &Sample) {
        let _ = (node, sample);
    }

    fn health_changed(&self, node: &Node, change: Change) {
        let _ = (node, change);
    }
}
