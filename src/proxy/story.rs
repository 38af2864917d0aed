//! What the access log will tell of one request, gathered while it runs. Exists only if there is an access log.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Uri};

use crate::balancer::Decision;
use crate::clock::Time;
use crate::fleet::Node;
use crate::policy::PolicyId;
use crate::telemetry::AccessRecord;

/// The story of one request so far.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) started: Time,
    pub(super) client: IpAddr,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) request_id: Option<HeaderValue>,
    pub(super) model: Option<Arc<str>>,
    pub(super) node: Option<Arc<Node>>,
    pub(super) policy: Option<PolicyId>,
    /// Attempts, one after the other.
    pub(super) attempts: u32,
    /// Of those beside late ones; they are told while the request is lent to both.
    pub(super) hedges: AtomicU32,
    /// In the queue, over all attempts.
    pub(super) waited: Duration,
    pub(super) status: u16,
    pub(super) first_byte: Option<Time>,
    pub(super) bytes: u64,
}

impl Story {
    pub(super) fn new(started: Time, client: IpAddr, method: Method, uri: Uri) -> Story {
        Story {
            started,
            client,
            method,
            uri,
            request_id: None,
            model: None,
            node: None,
            policy: None,
            attempts: 0,
            hedges: AtomicU32::new(0),
            waited: Duration::ZERO,
            status: 0,
            first_byte: None,
            bytes: 0,
        }
    }

    /// Another attempt starts.
    pub(super) fn attempt(&mut self, decision: &Decision, waited: Duration) {
        self.waited += waited;
        self.attempts += 1;
        self.answers(decision);
    }

    /// That attempt is the one whose answer counts.
    pub(super) fn answers(&mut self, decision: &Decision) {
        self.node = Some(Arc::clone(&decision.node));
        self.policy = Some(decision.policy);
    }

    /// A piece of the response body came.
    pub(super) fn received(&mut self, now: Time, bytes: usize) {
        self.first_byte.get_or_insert(now);
        self.bytes += bytes as u64;
    }

    /// Writes the line.
    pub(super) fn tell(&self, now: Time, outcome: &str) {
        let hedges = self.hedges.load(Ordering::Relaxed);
        AccessRecord {
            client: self.client,
            method: self.method.as_str(),
            path: self.uri.path(),
            status: self.status,
            node: self.node.as_ref().map(|node| node.spec.name.as_str()),
            policy: self.policy.map(PolicyId::name),
            model: self.model.as_deref(),
            outcome,
            ttfb: self.first_byte.map(|at| at.since(self.started)),
            total: now.since(self.started),
            bytes: self.bytes,
            attempts: self.attempts + hedges,
            hedged: hedges > 0,
            waited: self.waited,
            request_id: self.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default(),
        }
        .log();
    }
}
