//! Recent decisions, for people who ask why a request went where it went: a bounded sample, not a log.
//!
//! At most fifty decisions a second are remembered, and every explored one; the others pay one load of a word that
//! changes fifty times a second. A remembered decision is worked out anew (what the learned policy thinks of each
//! candidate, whichever policy decided), put into the next place of a ring, and gets its outcome when the attempt ends.
//! The ring is a row of `ArcSwap`s, so neither writer nor reader ever waits for the other; a lock would have to be
//! tried and given up, and explored decisions would be lost when they matter. Who follows decisions holds them; one
//! that leaves the ring in mid-flight is noted only if somebody does, so that a slow request has an end for them too.
//! It holds no text of requests.

mod why;

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::balancer::{Choice, Decision, Observer};
use crate::clock::Time;
use crate::learn::Learned;
use crate::node::NodeSpec;
use crate::outcome::Sample;
use crate::policy::adaptive::{self, Assessment};
use crate::policy::{self, Context, Policy, PolicyId};
use crate::request::KindId;

pub use why::{Reasons, Why};

/// Decisions that are remembered; at fifty a second, the last twenty seconds.
pub const DECISIONS_MAX: usize = 1_000;

/// The least time between two that are remembered without having been explored. To remember one costs some 5,000
/// instructions: at 500 requests a second, fifty are 1 % of what the proxy does, and more than anybody reads.
const EVERY: Duration = Duration::from_millis(20);

/// Candidates that are remembered of a decision, the likeliest first: a large fleet must not fill the memory.
pub const CANDIDATES_MAX: usize = 32;

/// Decisions that have left the ring before they ended and whose end somebody waits for; of more, the oldest are let go.
const OVERTAKEN_MAX: usize = 4_096;

/// One candidate of a remembered decision.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Which node.
    pub node: Arc<NodeSpec>,
    /// In flight there.
    pub in_flight: u32,
    /// The probability of its choice.
    pub probability: f64,
    /// Tokens at the beginning of the prompt that it was sent before.
    pub matched: f32,
    /// Tokens of those that it is expected to be spared.
    pub cached: f32,
    /// What the learned policy thinks of it, whichever policy decides; `None` without a predictor.
    pub assessment: Option<Assessment>,
    /// Why it has that probability.
    pub why: Why,
}

/// What a decision was expected to cost, and what one of the plain policy on the same view would have cost.
///
/// The cost is what the learned policy adds up: the expected response time, and what the request adds to the response
/// times of those in flight there; seconds. Both by the model, so it says what the model believes to be its use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Against {
    /// Of the node that was chosen.
    pub chosen_s: f64,
    /// Of what [`policy::FALLBACK`] would have chosen; the mean where it would have drawn.
    pub plain_s: f64,
}

/// Why a decision is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Its turn had come: those of one policy are a fair sample of all of its decisions.
    Due,
    /// It explored.
    Explored,
}

/// [`Against`] of a fair sample of the learned policy's decisions, in all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AgainstSum {
    /// How many decisions that were.
    pub decisions: u64,
    /// Costs of the nodes that were chosen.
    pub chosen_s: f64,
    /// Costs of what the plain policy would have chosen.
    pub plain_s: f64,
}

/// The longest time that is added up, in seconds: an absurd prediction must not drown all others.
const COST_MAX_S: f64 = 86_400.0;

#[derive(Debug, Default)]
struct Sums {
    decisions: AtomicU64,
    chosen_us: AtomicU64,
    plain_us: AtomicU64,
}

impl Sums {
    fn add(&self, against: &Against) {
        let micros = |seconds: f64| (seconds.clamp(0.0, COST_MAX_S) * 1e6) as u64;
        self.chosen_us.fetch_add(micros(against.chosen_s), Ordering::Relaxed);
        self.plain_us.fetch_add(micros(against.plain_s), Ordering::Relaxed);
        self.decisions.fetch_add(1, Ordering::Relaxed);
    }
}

/// A remembered decision.
#[derive(Debug)]
pub struct Remembered {
    /// Grows by one with each that is remembered; from 1.
    pub number: u64,
    /// When it was made.
    pub at: Time,
    /// Route and model.
    pub kind: KindId,
    /// Whether a stream was asked for.
    pub streaming: bool,
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// The client's limit on output tokens.
    pub output_tokens_max: Option<u32>,
    /// Who decided.
    pub policy: PolicyId,
    /// Whether it was for a second attempt beside a late one.
    pub hedge: bool,
    /// Version of the predictor in force; 0 for none.
    pub version: u32,
    /// What the deciding policy expected, in seconds; NaN for nothing.
    pub predicted_s: f64,
    /// Index of the chosen one among the contenders.
    pub chosen: usize,
    /// The likeliest candidates, at most [`CANDIDATES_MAX`], the chosen one among them.
    pub contenders: Vec<Contender>,
    /// How many candidates there were.
    pub candidates: usize,
    /// Which node the learned policy thinks best; `None` without a predictor or where all are left out.
    pub preferred: Option<Arc<NodeSpec>>,
    /// Against the plain policy, where the learned one decided and knew times.
    pub against: Option<Against>,
    /// What came of it, once the attempt has ended.
    pub ended: OnceLock<Sample>,
}

/// The candidates of a decision with what is thought of each, and which the learned policy thinks best.
pub fn contenders(
    context: &Context<'_>,
    policy: PolicyId,
    learned: &Learned,
    probabilities: &[f64],
    started: Option<usize>,
) -> (Vec<Contender>, Option<usize>) {
    let assessments = adaptive::assess_all(learned, context, started);
    let reasons = Reasons::of(policy, learned, context.now, probabilities, &assessments);
    let all = context.candidates.iter().enumerate().map(|(at, candidate)| Contender {
        node: Arc::clone(&context.node(candidate).spec),
        in_flight: candidate.in_flight,
        probability: probabilities[at],
        matched: candidate.matched,
        cached: candidate.cached,
        assessment: assessments.get(at).copied(),
        why: reasons.why(at),
    });
    let best = assessments.iter().enumerate().filter(|(_, seen)| seen.held.is_none());
    let best = best.min_by(|(_, a), (_, b)| a.score.total_cmp(&b.score)).map(|(at, _)| at);
    (all.collect(), best)
}

/// Recent decisions.
#[derive(Debug)]
pub struct Decisions {
    /// What the learned policy is compared with.
    plain: Arc<dyn Policy>,
    against: Sums,
    ring: Box<[ArcSwapOption<Remembered>]>,
    /// How many have been remembered.
    count: AtomicU64,
    /// When the next one is due that was not explored, in microseconds.
    due: AtomicU64,
    /// Those that left the ring in mid-flight while somebody held them, by number.
    overtaken: Mutex<BTreeMap<u64, Weak<Remembered>>>,
}

impl Default for Decisions {
    fn default() -> Self {
        Decisions {
            plain: PolicyId::named(policy::FALLBACK).unwrap_or(PolicyId(0)).make(),
            against: Sums::default(),
            ring: (0..DECISIONS_MAX).map(|_| ArcSwapOption::empty()).collect(),
            count: AtomicU64::new(0),
            due: AtomicU64::new(0),
            overtaken: Mutex::default(),
        }
    }
}

impl Decisions {
    /// The latest `limit` decisions, the newest first.
    pub fn latest(&self, limit: usize) -> Vec<Arc<Remembered>> {
        let newest = self.count.load(Ordering::Acquire);
        let oldest = newest.saturating_sub(limit.min(DECISIONS_MAX) as u64);
        // A place may be one round behind or ahead while it is written.
        (oldest + 1..=newest).rev().filter_map(|number| self.find(number)).collect()
    }

    /// The number of the newest one; 0 for none.
    pub fn newest(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// The learned policy's decisions against the plain one's since the start, of at most fifty a second.
    pub fn against(&self) -> AgainstSum {
        let Sums { decisions, chosen_us, plain_us } = &self.against;
        let seconds = |sum: &AtomicU64| sum.load(Ordering::Relaxed) as f64 / 1e6;
        let decisions = decisions.load(Ordering::Relaxed);
        AgainstSum { decisions, chosen_s: seconds(chosen_us), plain_s: seconds(plain_us) }
    }

    /// What the plain policy would have made of a decision of the learned one.
    fn compare(&self, context: &Context<'_>, all: &[Contender], at: usize) -> Option<Against> {
        let mut shares = vec![0.0; all.len()];
        self.plain.peek(context, &mut shares);
        let cost =
            |one: &Contender| Some(one.assessment.as_ref()?.expected()?).map(|seen| seen.total_s + seen.marginal_s);
        let mut plain_s = 0.0;
        for (share, one) in shares.iter().zip(all).filter(|(share, _)| **share > 0.0) {
            plain_s += share * cost(one)?;
        }
        let shared: f64 = shares.iter().sum();
        let against = Against { chosen_s: cost(&all[at])?, plain_s: plain_s / shared };
        (shared > 0.0).then_some(against)
    }

    fn place(&self, number: u64) -> &ArcSwapOption<Remembered> {
        &self.ring[(number % self.ring.len() as u64) as usize]
    }

    /// The one of that number, if it is still kept.
    pub fn find(&self, number: u64) -> Option<Arc<Remembered>> {
        self.place(number).load_full().filter(|remembered| remembered.number == number)
    }

    fn overtaken(&self) -> MutexGuard<'_, BTreeMap<u64, Weak<Remembered>>> {
        self.overtaken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a decision into its place, and notes the one that was there if somebody waits for its end.
    fn keep(&self, remembered: Remembered) {
        let before = self.place(remembered.number).swap(Some(Arc::new(remembered)));
        let Some(before) = before.filter(|before| before.ended.get().is_none() && Arc::strong_count(before) > 1) else {
            return;
        };
        let mut overtaken = self.overtaken();
        overtaken.insert(before.number, Arc::downgrade(&before));
        if overtaken.len() > OVERTAKEN_MAX {
            overtaken.pop_first();
        }
    }

    /// Whether and why this decision is to be remembered.
    fn wants(&self, choice: &Choice<'_>, policy: PolicyId) -> Option<Wanted> {
        let now = choice.context.now;
        let due = self.due.load(Ordering::Relaxed);
        if now.as_micros() >= due {
            let next = now.after(EVERY).as_micros();
            // Of several that come at once, one.
            if self.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return Some(Wanted::Due);
            }
        }
        let explored = policy.is_learned() && adaptive::is_explored(choice.learned, now, choice.weights, choice.at);
        explored.then_some(Wanted::Explored)
    }

    fn remember(&self, choice: &Choice<'_>, decision: &Decision, wanted: Wanted) -> u64 {
        let Choice { context, weights, at, learned } = *choice;
        // The one that was drawn tells what its weight amounts to, so the others' are known too.
        let scale = if weights[at] > 0.0 { decision.propensity / weights[at] } else { 0.0 };
        let mut probabilities: Vec<f64> = weights.iter().map(|weight| weight * scale).collect();
        probabilities[at] = decision.propensity;
        let (all, best) = contenders(context, decision.policy, learned, &probabilities, Some(at));
        let preferred = best.map(|best| Arc::clone(&all[best].node));
        let candidates = all.len();
        let routed = decision.policy.is_learned() && learned.fallback(context.now).is_none();
        let against = if routed { self.compare(context, &all, at) } else { None };
        // What explores costs more than the rest. Counted with the others, of which a few are seen, it would pass for
        // the use of the policy.
        against.iter().filter(|_| wanted == Wanted::Due).for_each(|against| self.against.add(against));
        let (contenders, chosen) = likeliest(&all, at);
        let number = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        self.keep(Remembered {
            number,
            at: context.now,
            kind: context.shape.kind,
            streaming: context.shape.streaming,
            prompt_tokens: context.shape.prompt_tokens,
            output_tokens_max: context.shape.output_tokens_max,
            policy: decision.policy,
            hedge: decision.hedge,
            version: learned.predictor().map_or(0, |predictor| predictor.version),
            predicted_s: decision.predicted_s,
            chosen,
            contenders,
            candidates,
            preferred,
            against,
            ended: OnceLock::new(),
        });
        number
    }
}

/// The order in which people want to see candidates: the likeliest first, by score where that is the same.
pub fn likelier(a: &Contender, b: &Contender) -> std::cmp::Ordering {
    let score = |c: &Contender| c.assessment.map_or(f64::INFINITY, |seen| seen.score);
    b.probability.total_cmp(&a.probability).then(score(a).total_cmp(&score(b)))
}

/// The likeliest of `all`, by score where the probability is the same, and where the one `at` is among them.
fn likeliest(all: &[Contender], at: usize) -> (Vec<Contender>, usize) {
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|a, b| likelier(&all[*a], &all[*b]));
    if let Some(place) = order.iter().position(|index| *index == at).filter(|place| *place >= CANDIDATES_MAX) {
        order.swap(CANDIDATES_MAX - 1, place);
    }
    order.truncate(CANDIDATES_MAX);
    let chosen = order.iter().position(|index| *index == at).unwrap_or(0);
    (order.into_iter().map(|index| all[index].clone()).collect(), chosen)
}

impl Observer for Decisions {
    fn decided(&self, choice: &Choice<'_>, decision: &Decision) -> Option<NonZeroU64> {
        let wanted = self.wants(choice, decision.policy)?;
        NonZeroU64::new(self.remember(choice, decision, wanted))
    }

    fn came_of(&self, number: NonZeroU64, sample: &Sample) {
        let number = number.get();
        let overtaken = || self.overtaken().remove(&number).and_then(|noted| noted.upgrade());
        if let Some(remembered) = self.find(number).or_else(overtaken) {
            // An attempt ends once, so it is empty.
            let _ = remembered.ended.set(*sample);
        }
    }
}

#[cfg(test)]
mod tests;
