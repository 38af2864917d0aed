//! The learner: takes samples, refits twice a second, publishes.
//!
//! It is driven from outside (a background task in the proxy, a virtual clock in the simulator) and owned by one
//! driver, so nothing here locks. [`Learner::observe`] is cheap and only gathers; [`Learner::refit`] does the work.
//! What was gathered since the last fit is held back from the next one and used to check it, and only then added: a
//! fit is never judged by samples that it has seen.

mod judge;
mod publish;
mod recall;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Time;
use crate::fleet::{Fleet, Node};
use crate::learn::check::Check;
use crate::learn::entry::Entry;
use crate::learn::expect::Expectations;
use crate::learn::features::{Row, TARGETS, Target, dot};
use crate::learn::fit::{self, TargetFit};
use crate::learn::guard::Guard;
use crate::learn::learned::Learned;
use crate::learn::method::Method;
use crate::learn::reading::settled;
use crate::learn::report::{Counts, FitReport, FitResult};
use crate::learn::sample::{self, Unfit};
use crate::learn::stats::Stats;
use crate::node::{NODES_MAX, NodeId};
use crate::outcome::Sample;

/// Observations held back between two fits at most; further ones are dropped and counted.
pub const PENDING_MAX: usize = 65_536;

/// Sum of weights in the whole fleet below which evidence of a target no longer fades.
const HOLD: f64 = 50.0;

/// A response time counts as at most so many times what was expected: one absurd sample must not outweigh a window.
const CLIP: f64 = 50.0;

/// An observation held back until the next fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) slot: u32,
    pub(super) id: NodeId,
    pub(super) target: Target,
    pub(super) row: Row,
    pub(super) observed: f64,
}

/// What model and baseline said of a completed attempt, and what it took; seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// The model as it stood before the attempt's end was known, with the true output length put in.
    pub model_s: f64,
    /// The simple baseline; see [`guard`](crate::learn::guard).
    pub baseline_s: f64,
    /// Observed.
    pub observed_s: f64,
}

/// The learner. One driver owns it.
#[derive(Debug)]
pub struct Learner {
    pub(super) learned: Arc<Learned>,
    method: Method,
    /// By slot.
    pub(super) nodes: Vec<Option<Box<Entry>>>,
    pub(super) expectations: Expectations,
    /// Learning time by target: stands still while evidence is scarce.
    pub(super) clock_s: [f64; TARGETS],
    /// Evidence from elsewhere.
    pub(super) prior: Option<[Stats; TARGETS]>,
    pending: Vec<Pending>,
    guard: Guard,
    checks: [Check; TARGETS],
    refitted: Option<Time>,
    relearned: Option<Time>,
    version: u32,
    counts: Counts,
    scored: Option<Scored>,
}

impl Learner {
    /// A learner that knows nothing and publishes to `learned`.
    pub fn new(learned: Arc<Learned>) -> Learner {
        Learner {
            // A learner that takes the place of another goes on counting: a version names one predictor.
            version: learned.predictor().map_or(0, |predictor| predictor.version),
            learned,
            method: Method::default(),
            nodes: Vec::new(),
            expectations: Expectations::default(),
            clock_s: [0.0; TARGETS],
            prior: None,
            pending: Vec::new(),
            guard: Guard::default(),
            checks: [Check::default(); TARGETS],
            refitted: None,
            relearned: None,
            counts: Counts::default(),
            scored: None,
        }
    }

    /// The same by another method; for comparisons.
    #[must_use]
    pub fn by(self, method: Method) -> Learner {
        Learner { method, ..self }
    }

    /// Goes on from the counters of a learner whose place it takes.
    pub fn carry_on(&mut self, counts: Counts) {
        self.counts = counts;
    }

    /// What was said of the attempt observed last; `None` if nothing could be, or it was taken before.
    pub fn take_scored(&mut self) -> Option<Scored> {
        self.scored.take()
    }

    /// Counters.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Model against baseline.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Where it publishes.
    pub fn learned(&self) -> &Arc<Learned> {
        &self.learned
    }

    /// The raw samples that are kept of a node, light load first.
    pub fn samples(&self, slot: u32) -> impl Iterator<Item = &Sample> {
        self.nodes.get(slot as usize).and_then(Option::as_ref).into_iter().flat_map(|entry| entry.store.samples())
    }

    /// Raw samples of a node that had to go before they were old.
    pub fn samples_dropped(&self, slot: u32) -> u64 {
        self.nodes.get(slot as usize).and_then(Option::as_ref).map_or(0, |entry| entry.store.dropped())
    }

    /// An attempt ended. `now` is the time at which the sample is taken in.
    ///
    /// # Errors
    /// Why it is not a label; it is counted.
    pub fn observe(&mut self, now: Time, sample: &Sample) -> Result<(), Unfit> {
        self.scored = None;
        let taken = sample::admit(sample).and_then(|()| self.take(now, sample));
        match taken {
            Ok(()) => self.counts.labels += 1,
            Err(why) => self.counts.refuse(why),
        }
        taken
    }

    fn take(&mut self, now: Time, sample: &Sample) -> Result<(), Unfit> {
        let entry = entry_of(&mut self.nodes, sample.slot, sample.node, now).ok_or(Unfit::Gone)?;
        entry.largest = entry.largest.max(f64::from(sample.in_flight) + 1.0);
        entry.store.push(now, *sample);
        let slots = entry.slots.limit();
        self.expectations.add(sample);
        self.score(now, sample);
        self.recall(now, sample);
        if let Some((target, row, observed)) = sample::label(sample, slots) {
            self.note(now, Pending { slot: sample.slot, id: sample.node, target, row, observed });
        }
        Ok(())
    }

    /// How many prompt tokens a node has read since the last look, so long ago. Tell it before the gaps.
    pub(super) fn read(&mut self, now: Time, node: &Node, tokens: u64, elapsed: Duration) {
        if let Some(entry) = entry_of(&mut self.nodes, node.slot, node.id, now) {
            entry.gaps.read(tokens, elapsed.as_secs_f64());
        }
    }

    /// What a node streamed since the last look, every 50 to 100 ms: the sum of the gaps and the number of events
    /// (as `Ledger::take_gaps` gives them), the mean number in flight over that time, and how many wait for their first
    /// byte and how many stream now.
    #[expect(clippy::too_many_arguments, reason = "one reading of one ledger; a struct would only rename it")]
    pub fn gaps(
        &mut self,
        now: Time,
        node: &Node,
        mean_in_flight: f64,
        waiting: u32,
        streaming: u32,
        sum_s: f64,
        events: u64,
    ) {
        let Some(entry) = entry_of(&mut self.nodes, node.slot, node.id, now) else { return };
        entry.limit = node.spec.limit();
        if events == 0 {
            return;
        }
        let Some((row, observed)) = sample::gap(mean_in_flight, 0.0, sum_s, events) else {
            self.counts.refuse(Unfit::Absurd);
            return;
        };
        if self.method.learns_slots {
            entry.slots.observe(f64::from(waiting), f64::from(streaming));
        }
        entry.largest = entry.largest.max(mean_in_flight);
        entry.gaps.add(mean_in_flight, sum_s, events);
        self.correct(now, &mut Pending { slot: node.slot, id: node.id, target: Target::Gap, row, observed });
    }

    /// Holds an observation back for the next fit, and corrects the node's drift by it.
    fn note(&mut self, now: Time, mut pending: Pending) {
        self.correct(now, &mut pending);
        self.hold(pending);
    }

    fn hold(&mut self, pending: Pending) {
        if self.pending.len() < PENDING_MAX {
            self.pending.push(pending);
        } else {
            self.counts.dropped += 1;
        }
    }

    /// Holds back what nodes streamed since the last fit: one row each.
    fn hold_gaps(&mut self) {
        for slot in 0..self.nodes.len() {
            let Some(entry) = &mut self.nodes[slot] else { continue };
            let (id, gathered) = (entry.id, entry.gaps.take());
            let labelled = gathered.and_then(|seen| sample::gap(seen.in_flight, seen.read, seen.sum_s, seen.events));
            if let Some((row, observed)) = labelled {
                self.hold(Pending { slot: slot as u32, id, target: Target::Gap, row, observed });
            }
        }
    }

    /// Corrects the node's drift by an observation, which is cut to a believable size.
    fn correct(&mut self, now: Time, pending: &mut Pending) {
        let target = pending.target.index();
        let loaded = self.learned.load();
        if let Some(predictor) = loaded.as_deref().filter(|predictor| predictor.has[target]) {
            let Some(entry) = entry_of(&mut self.nodes, pending.slot, pending.id, now) else { return };
            let predicted = dot(&predictor.node(pending.slot, pending.id).beta[target], &pending.row);
            let live = self.learned.node_at(pending.slot, pending.id);
            let believable = CLIP * (predicted * live.factors()[target]).max(predictor.means[target]);
            if pending.observed > believable {
                pending.observed = believable;
                self.counts.clipped += 1;
            }
            entry.fade(now);
            entry.drifted(target, pending.observed, predicted);
            if self.method.corrects {
                live.set_factors(&entry.factors(&predictor.means));
            }
        }
    }

    /// Forgets nodes that are no longer in `fleet`.
    pub fn retain(&mut self, fleet: &Fleet) {
        let mut present = vec![None; self.nodes.len()];
        for node in fleet.nodes() {
            if let Some(place) = present.get_mut(node.slot as usize) {
                *place = Some(node.id);
            }
        }
        for (entry, present) in self.nodes.iter_mut().zip(present) {
            if entry.as_ref().is_some_and(|entry| present != Some(entry.id)) {
                *entry = None;
            }
        }
    }

    /// Forgets everything; the fallback routes until enough was learned anew.
    pub fn reset(&mut self) {
        let learned = Arc::clone(&self.learned);
        learned.publish(None);
        *self = Learner { version: self.version, counts: self.counts, method: self.method, ..Learner::new(learned) };
    }

    /// Refits, checks and publishes; call it every [`REFIT_EVERY`](crate::learn::REFIT_EVERY).
    pub fn refit(&mut self, now: Time) -> FitReport {
        let elapsed_s = self.refitted.map_or(0.0, |at| now.seconds_since(at));
        self.refitted = Some(now);
        let slots: Vec<usize> = (0..self.nodes.len()).filter(|slot| self.nodes[*slot].is_some()).collect();
        self.hold_gaps();
        let running = self.learned.predictor();
        let mut fits: [Option<TargetFit>; TARGETS] = Default::default();
        let mut results = [FitResult::NoEvidence; TARGETS];
        for target in Target::ALL {
            let at = target.index();
            let stats = self.aged(at, elapsed_s, &slots);
            let prior = self.prior.as_ref().map(|prior| &prior[at]);
            let speeds: Vec<f64> = self.entries(&slots).map(|entry| entry.speed[at]).collect();
            let (result, fit) = match fit::fit(target, &stats, &speeds, prior, self.method.shrinks) {
                Ok(None) => (FitResult::NoEvidence, None),
                Err(_) => (FitResult::Failed, None),
                Ok(Some(fit)) => self.check(elapsed_s, target, fit, &slots, running.as_deref()),
            };
            let fit = fit.map(|fit| if target == Target::Gap { settled(fit, &stats) } else { fit });
            results[at] = result;
            fits[at] = fit;
            self.counts.fits[at][result as usize] += 1;
        }
        let held_back = self.pending.len();
        let version = fits.iter().any(Option::is_some).then(|| self.publish(now, &slots, &fits, running.as_deref()));
        self.add_pending();
        let fallback = self.stand(now);
        FitReport { version, targets: results, held_back, fallback }
    }

    fn entries<'a>(&'a self, slots: &'a [usize]) -> impl Iterator<Item = &'a Entry> {
        slots.iter().filter_map(|slot| self.nodes[*slot].as_deref())
    }

    /// Adds what was held back.
    fn add_pending(&mut self) {
        for pending in self.pending.drain(..) {
            let entry = self.nodes.get_mut(pending.slot as usize).and_then(Option::as_mut);
            if let Some(entry) = entry.filter(|entry| entry.id == pending.id) {
                let at = pending.target.index();
                entry.stats[at].add(self.clock_s[at], &pending.row, pending.observed);
            }
        }
    }
}

/// The entry of a node, made on first sight; `None` if the slot belongs to a younger node.
fn entry_of(nodes: &mut Vec<Option<Box<Entry>>>, slot: u32, id: NodeId, now: Time) -> Option<&mut Entry> {
    let slot = slot as usize;
    if slot >= NODES_MAX {
        return None;
    }
    if nodes.len() <= slot {
        nodes.resize_with(slot + 1, || None);
    }
    let place = &mut nodes[slot];
    if place.as_ref().is_none_or(|entry| entry.id < id) {
        *place = Some(Box::new(Entry::new(id, now)));
    }
    place.as_deref_mut().filter(|entry| entry.id == id)
}
