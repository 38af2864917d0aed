//! An attempt from its decision to its end.
//!
//! A ticket counts in its node's ledger until it is finished or dropped, exactly once, and ends with a [`Sample`] that
//! everybody hears of. It holds its node, so a node that is removed in mid-flight ends its attempts properly, and asks
//! for the active policy only at the end, so a switch in mid-flight tells the new one. It knows nothing of HTTP.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use crate::balancer::hedge::Foresight;
use crate::balancer::{Balancer, Decision};
use crate::clock::Time;
use crate::fleet::Node;
use crate::outcome::{Censor, Outcome, Sample};
use crate::policy::Expected;
use crate::policy::considered::Considered;
use crate::prefix::Use;
use crate::request::RequestShape;

/// An attempt in flight. Finish it with [`Ticket::finish`]; a dropped one counts as [`Censor::Dropped`] unless
/// [`Ticket::dropped_means`] said otherwise.
pub struct Ticket {
    balancer: Arc<Balancer>,
    decision: Decision,
    sample: Sample,
    last_event: Option<Time>,
    if_dropped: fn() -> Censor,
    /// Under which number somebody remembers the decision.
    remembered: Option<NonZeroU64>,
    /// What the decision was made from, if somebody wants to hear of it.
    considered: Option<Arc<Considered>>,
    /// How long the request waited for this place.
    waited: Duration,
    /// Tokens that are set aside in the node's ledger.
    reserved: u64,
    /// What of the prompt the node's memory was told.
    used: Option<Use>,
    /// When its first byte is expected, if it may be hedged.
    foreseen: Option<Foresight>,
    ended: bool,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("decision", &self.decision).field("sample", &self.sample).finish()
    }
}

impl Ticket {
    pub(super) fn new(balancer: Arc<Balancer>, decision: Decision, now: Time, shape: &RequestShape) -> Ticket {
        let sample = Sample {
            node: decision.node.id,
            slot: decision.node.slot,
            kind: shape.kind,
            streaming: shape.streaming,
            prompt_tokens: shape.prompt_tokens,
            output_tokens_max: shape.output_tokens_max,
            in_flight: decision.before.in_flight,
            waiting: decision.before.waiting,
            waiting_prompt_tokens: decision.before.waiting_prompt_tokens,
            recall: decision.recall,
            propensity: decision.propensity,
            policy: decision.policy.0,
            predictor_version: decision.predictor_version,
            predicted_s: decision.predicted_s,
            started: now,
            ttfb: None,
            total: Duration::ZERO,
            mean_in_flight: f64::from(decision.before.in_flight + 1),
            events: 0,
            gaps: Duration::ZERO,
            output_tokens: None,
            usage_prompt_tokens: None,
            usage_cached_tokens: None,
            outcome: Outcome::Censored(Censor::Dropped),
        };
        Ticket {
            balancer,
            decision,
            sample,
            last_event: None,
            if_dropped: || Censor::Dropped,
            remembered: None,
            considered: None,
            waited: Duration::ZERO,
            reserved: 0,
            used: None,
            foreseen: None,
            ended: false,
        }
    }

    /// What the policy expects of it.
    pub(super) fn expect(&mut self, expected: Expected) {
        self.decision.predicted_s = expected.seconds;
        self.decision.predictor_version = expected.version;
        self.sample.predicted_s = expected.seconds;
        self.sample.predictor_version = expected.version;
    }

    /// Somebody remembers the decision; the first who does counts.
    pub(super) fn remember(&mut self, number: Option<NonZeroU64>) {
        self.remembered = self.remembered.or(number);
    }

    /// What it was decided from; the first who wants it counts.
    pub(super) fn consider(&mut self, considered: Option<Arc<Considered>>) {
        if self.considered.is_none() {
            self.considered = considered;
        }
    }

    /// So many tokens are set aside for it.
    pub(super) fn reserved(&mut self, tokens: u64) {
        self.reserved = tokens;
    }

    /// The memory of prompts was told of it.
    pub(super) fn used(&mut self, used: Option<Use>) {
        self.used = used;
    }

    /// Prompt tokens that the node's ledger has for it.
    fn pending_tokens(&self) -> u32 {
        self.sample.recall.uncached(self.sample.prompt_tokens) as u32
    }

    /// Its first byte is expected so.
    pub(super) fn foresee(&mut self, foreseen: Foresight) {
        self.foreseen = Some(foreseen);
    }

    /// The request waited so long for it.
    pub(super) fn waited(&mut self, waited: Duration) {
        self.waited = waited;
    }

    /// How long the request waited in the queue for this attempt.
    pub fn time_waited(&self) -> Duration {
        self.waited
    }

    /// What was decided.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// The sample as it stands.
    #[cfg(test)]
    pub(super) fn sample(&self) -> &Sample {
        &self.sample
    }

    /// Where it runs.
    pub fn node(&self) -> &Arc<Node> {
        &self.decision.node
    }

    /// When the attempt started.
    pub fn started(&self) -> Time {
        self.sample.started
    }

    /// The first byte of the response body came. Only the first call counts.
    pub fn first_byte(&mut self, now: Time) {
        if self.sample.ttfb.is_none() {
            self.sample.ttfb = Some(now.since(self.sample.started));
            self.decision.node.live.ledger.first_byte(now, self.pending_tokens());
        }
    }

    /// `events` streamed events came in one read. The first read of events starts the measurement of gaps.
    pub fn events(&mut self, now: Time, events: u32) {
        if events == 0 {
            return;
        }
        if let Some(last) = self.last_event {
            let gap = now.since(last);
            self.sample.gaps += gap;
            self.decision.node.live.ledger.events(now, events, gap);
        }
        self.last_event = Some(now);
        self.sample.events = self.sample.events.saturating_add(events);
    }

    /// The response told its tokens.
    pub fn usage(&mut self, prompt_tokens: Option<u32>, output_tokens: Option<u32>) {
        self.sample.usage_prompt_tokens = prompt_tokens.or(self.sample.usage_prompt_tokens);
        self.sample.output_tokens = output_tokens.or(self.sample.output_tokens);
    }

    /// The response told how many tokens of the prompt came from the node's cache.
    pub fn usage_cached(&mut self, tokens: Option<u32>) {
        self.sample.usage_cached_tokens = tokens.or(self.sample.usage_cached_tokens);
    }

    /// Says what it means if the ticket is dropped from now on: asked when it is, as a client that leaves and a panic of
    /// the caller look the same from here.
    pub fn dropped_means(&mut self, meaning: fn() -> Censor) {
        self.if_dropped = meaning;
    }

    /// Ends the attempt and returns its sample.
    pub fn finish(mut self, now: Time, outcome: Outcome) -> Sample {
        self.end(now, outcome);
        self.sample
    }

    fn end(&mut self, now: Time, outcome: Outcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let node = &self.decision.node;
        let waiting = self.sample.ttfb.is_none().then(|| self.pending_tokens());
        if self.reserved > 0 {
            node.live.ledger.release(self.reserved);
        }
        let load = node.live.ledger.end(now, waiting);
        self.sample.total = now.since(self.sample.started);
        self.sample.mean_in_flight = load.mean_since(self.decision.before.load, self.sample.total);
        self.sample.outcome = outcome;
        if matches!(outcome, Outcome::Completed { .. }) {
            node.live.ledger.sign_of_life(now);
        }
        if let Some(used) = self.used.take() {
            self.balancer.remember_end(&self.sample, node, &used, now);
        }
        self.balancer.attend(node, &outcome, self.sample.started, now);
        self.balancer.learned.ended(node, &self.sample);
        if let Some(foreseen) = &self.foreseen {
            self.balancer.punctuality.ended(node, foreseen, &self.sample);
        }
        if node.spec.auto_limit {
            self.balancer.adjust(node, &self.sample, now, load);
        }
        self.balancer.policy.load().policy.observe(node, &self.sample);
        for observer in &self.balancer.observers {
            observer.finished_considering(node, &self.sample, self.considered.as_ref());
            if let Some(number) = self.remembered {
                observer.came_of(number, &self.sample);
            }
        }
        self.balancer.hand_over(now);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ended {
            let now = self.balancer.clock.now();
            self.end(now, Outcome::Censored((self.if_dropped)()));
        }
    }
}
