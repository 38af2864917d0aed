//! Recent decisions, for people who ask why a request went where it went: a bounded sample, not a log.
//!
//! At most a hundred decisions a second are remembered, and every explored one; the others pay one load of a word that
//! changes a hundred times a second. A remembered decision is worked out anew (what the learned policy thinks of each
//! candidate, whichever policy decided), put into the next place of a ring, and gets its outcome when the attempt ends.
//! The ring is a row of `ArcSwap`s, so neither writer nor reader ever waits for the other; a lock would have to be
//! tried and given up, and explored decisions would be lost when they matter. It holds no text of requests.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::balancer::{Choice, Decision, Observer};
use crate::clock::Time;
use crate::learn::{Fallback, Learned};
use crate::node::NodeSpec;
use crate::outcome::Sample;
use crate::policy::adaptive::{self, Assessment};
use crate::policy::{self, Context, Policy, PolicyId};
use crate::request::KindId;

/// Decisions that are remembered; at a hundred a second, the last ten seconds.
pub const DECISIONS_MAX: usize = 1_000;

/// The least time between two that are remembered without having been explored.
const EVERY: Duration = Duration::from_millis(10);

/// Candidates that are remembered of a decision, the likeliest first: a large fleet must not fill the memory.
pub const CANDIDATES_MAX: usize = 32;

/// Why a candidate has the probability that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There was no other.
    Only,
    /// It has the least score.
    LeastScore,
    /// It shares the least score with others.
    Tie,
    /// It is not the best, but less is known of it.
    Explored,
    /// The fallback of the learned policy chose it, for that reason; `None` where every node was left out.
    Fallback(Option<Fallback>),
    /// A classic policy was sure.
    Sure,
    /// A classic policy found it as good as others.
    Equal,
    /// A classic policy drew it.
    Drawn,
    /// It could not be chosen this time.
    Passed,
}

impl Why {
    /// The word for programs.
    pub fn word(self) -> &'static str {
        match self {
            Why::Only => "only-one",
            Why::LeastScore => "least-score",
            Why::Tie => "tie",
            Why::Explored => "explored",
            Why::Fallback(_) => "fallback",
            Why::Sure => "policy-sure",
            Why::Equal => "policy-tie",
            Why::Drawn => "policy-draw",
            Why::Passed => "passed",
        }
    }

    /// The same for people.
    pub fn sentence(self) -> &'static str {
        match self {
            Why::Only => "it was the only candidate",
            Why::LeastScore => "it has the least score",
            Why::Tie => "it shares the least score with others",
            Why::Explored => "it is explored: another has the least score, but less is known of this one",
            Why::Fallback(Some(fallback)) => fallback.reason(),
            Why::Fallback(None) => "every candidate is silent or ramping, so the fallback chose",
            Why::Sure => "the policy chose it with certainty",
            Why::Equal => "the policy found it as good as others",
            Why::Drawn => "the policy drew it with this probability",
            Why::Passed => "the policy did not consider it this time",
        }
    }
}

/// How a distribution came about.
#[derive(Clone, Copy, Debug)]
pub struct Reasons<'a> {
    policy: PolicyId,
    fallback: Option<Fallback>,
    probabilities: &'a [f64],
    most: f64,
    /// What the best have at least.
    floor: f64,
    routed: bool,
}

impl<'a> Reasons<'a> {
    /// Of what `policy` wrote for the candidates, given what the learned policy thinks of each.
    pub fn of(
        policy: PolicyId,
        learned: &Learned,
        now: Time,
        probabilities: &'a [f64],
        assessments: &[Assessment],
    ) -> Reasons<'a> {
        let most = probabilities.iter().copied().fold(0.0, f64::max);
        let fallback = learned.fallback(now);
        let routed = fallback.is_none() && assessments.iter().any(|seen| seen.held.is_none());
        Reasons { policy, fallback, probabilities, most, floor: most * adaptive::best_floor(learned), routed }
    }

    /// Why the candidate `at` has its probability.
    pub fn why(&self, at: usize) -> Why {
        let own = self.probabilities[at];
        let learned = self.policy.is_learned();
        let as_good = |least: f64| self.probabilities.iter().filter(|p| **p >= least).count();
        match () {
            () if self.probabilities.len() == 1 => Why::Only,
            () if own <= 0.0 => Why::Passed,
            () if learned && !self.routed => Why::Fallback(self.fallback),
            () if learned && own < self.floor => Why::Explored,
            () if learned && as_good(self.floor) > 1 => Why::Tie,
            () if learned => Why::LeastScore,
            () if as_good(f64::MIN_POSITIVE) == 1 => Why::Sure,
            () if own >= self.most * (1.0 - 1e-9) && as_good(own * (1.0 - 1e-9)) == as_good(f64::MIN_POSITIVE) => {
                Why::Equal
            }
            () => Why::Drawn,
        }
    }
}

/// One candidate of a remembered decision.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Which node.
    pub node: Arc<NodeSpec>,
    /// In flight there.
    pub in_flight: u32,
    /// The probability of its choice.
    pub probability: f64,
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

/// [`Against`] of all remembered decisions of the learned policy, in all.
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
    /// Against the plain policy, where the learned one decided.
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
}

impl Default for Decisions {
    fn default() -> Self {
        Decisions {
            plain: PolicyId::named(policy::FALLBACK).unwrap_or(PolicyId(0)).make(),
            against: Sums::default(),
            ring: (0..DECISIONS_MAX).map(|_| ArcSwapOption::empty()).collect(),
            count: AtomicU64::new(0),
            due: AtomicU64::new(0),
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

    /// The learned policy's decisions against the plain one's, of those that were remembered since the start.
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
        let cost = |one: &Contender| one.assessment.map(|seen| seen.prediction.total_s + seen.prediction.marginal_s);
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

    fn find(&self, number: u64) -> Option<Arc<Remembered>> {
        self.place(number).load_full().filter(|remembered| remembered.number == number)
    }

    /// Whether this decision is to be remembered.
    fn is_wanted(&self, choice: &Choice<'_>, policy: PolicyId) -> bool {
        let now = choice.context.now;
        let due = self.due.load(Ordering::Relaxed);
        if now.as_micros() >= due {
            let next = now.after(EVERY).as_micros();
            // Of several that come at once, one.
            if self.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return true;
            }
        }
        policy.is_learned() && adaptive::is_explored(choice.learned, now, choice.weights, choice.at)
    }

    fn remember(&self, choice: &Choice<'_>, decision: &Decision) -> u64 {
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
        against.iter().for_each(|against| self.against.add(against));
        let (contenders, chosen) = likeliest(&all, at);
        let number = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        self.place(number).store(Some(Arc::new(Remembered {
            number,
            at: context.now,
            kind: context.shape.kind,
            streaming: context.shape.streaming,
            prompt_tokens: context.shape.prompt_tokens,
            output_tokens_max: context.shape.output_tokens_max,
            policy: decision.policy,
            version: learned.predictor().map_or(0, |predictor| predictor.version),
            predicted_s: decision.predicted_s,
            chosen,
            contenders,
            candidates,
            preferred,
            against,
            ended: OnceLock::new(),
        })));
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
        if !self.is_wanted(choice, decision.policy) {
            return None;
        }
        NonZeroU64::new(self.remember(choice, decision))
    }

    fn came_of(&self, number: NonZeroU64, sample: &Sample) {
        if let Some(remembered) = self.find(number.get()) {
            // An attempt ends once, so it is empty.
            let _ = remembered.ended.set(*sample);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::{Balancer, Scratch, Ticket, Verdict};
    use crate::clock::Clock;
    use crate::fleet::Fleet;
    use crate::learn::{Knobs, Learner};
    use crate::outcome::Outcome;
    use crate::request::RequestShape;

    const OK: Outcome = Outcome::Completed { status: 200 };

    /// A balancer that remembers.
    struct Scene {
        balancer: Arc<Balancer>,
        decisions: Arc<Decisions>,
        scratch: Scratch,
    }

    impl Scene {
        fn new(nodes: u32, policy: &str) -> Scene {
            let specs = (0..nodes).map(|i| NodeSpec::new(format!("http://h:1/{i}")).named(format!("n{i}")));
            let fleet = specs.fold(Fleet::default(), |fleet, spec| fleet.with(spec).expect("free"));
            let decisions = Arc::new(Decisions::default());
            let observers = vec![Arc::clone(&decisions) as Arc<dyn Observer>];
            let policy = PolicyId::named(policy).expect("known");
            let balancer = Arc::new(Balancer::new(fleet, policy, Clock::manual(), observers));
            Scene { balancer, decisions, scratch: Scratch::with_seed(1) }
        }

        fn decide(&mut self, at_s: f64) -> Ticket {
            let (now, shape) = (Time::from_secs_f64(at_s), RequestShape::default());
            match self.balancer.decide(now, &shape, &[], &mut self.scratch) {
                Verdict::Go(ticket) => ticket,
                other => panic!("{other:?}"),
            }
        }

        /// Lets node `i` answer in `services[i]` seconds for 20 seconds, and whoever learns learn of it.
        fn teach(&mut self, services: &[f64]) {
            let learned = Arc::clone(self.balancer.learned());
            let mut learner = Learner::new(learned);
            let mut rng = fastrand::Rng::with_seed(3);
            for tick in 0..40 {
                let at_s = f64::from(tick) * 0.5;
                for _ in 0..10 * services.len() {
                    let ticket = self.decide(at_s);
                    let service: f64 = services[ticket.node().slot as usize];
                    let ended = Time::from_secs_f64(at_s + service * (0.8 + 0.4 * rng.f64()));
                    let sample = ticket.finish(ended, OK);
                    learner.observe(ended, &sample).expect("a label");
                }
                learner.refit(Time::from_secs_f64(at_s));
            }
        }
    }

    fn named(name: &str) -> PolicyId {
        PolicyId::named(name).expect("known")
    }

    #[test]
    fn a_hundred_a_second_are_remembered_whatever_the_load_and_each_learns_what_came_of_it() {
        let mut scene = Scene::new(3, "round-robin");
        for millis in 0..1_000 {
            let at_s = f64::from(millis) / 1e3;
            for _ in 0..5 {
                let ticket = scene.decide(at_s);
                ticket.finish(Time::from_secs_f64(at_s + 0.25), OK);
            }
        }
        let seen = scene.decisions.latest(usize::MAX);
        assert_eq!(seen.len(), 100);
        assert!(seen.windows(2).all(|pair| pair[0].number == pair[1].number + 1), "newest first");
        for one in &seen {
            let total = one.ended.get().expect("it ended").total;
            assert!((total.as_secs_f64() - 0.25).abs() < 1e-5, "{total:?}");
            assert_eq!((one.contenders.len(), one.candidates, one.chosen), (3, 3, 0));
            assert_eq!(one.contenders[0].why, Why::Sure);
            assert_eq!(one.contenders[1].why, Why::Passed);
        }
        assert_eq!(scene.decisions.latest(2).len(), 2);
    }

    #[test]
    fn the_ring_is_bounded_and_an_outcome_that_comes_too_late_changes_nothing() {
        let mut scene = Scene::new(2, "least-connections");
        let late = scene.decide(0.0);
        for i in 1..=DECISIONS_MAX as u32 {
            scene.decide(f64::from(i));
        }
        late.finish(Time::from_secs_f64(2_000.0), Outcome::Completed { status: 418 });
        let seen = scene.decisions.latest(usize::MAX);
        assert_eq!((seen.len(), seen.last().map(|oldest| oldest.number)), (DECISIONS_MAX, Some(2)));
        assert!(
            seen.iter().all(|one| one.ended.get().is_some_and(|end| end.outcome != Outcome::Completed { status: 418 }))
        );
    }

    #[test]
    fn every_explored_decision_is_remembered_with_what_was_better() {
        let mut scene = Scene::new(4, "random");
        scene.teach(&[0.05, 0.3, 0.3, 0.3]);
        scene.balancer.set_policy(named("adaptive"));
        scene.balancer.learned().set_knobs(Knobs { explore: 0.2, ..Knobs::default() });
        let before = scene.decisions.count.load(Ordering::Relaxed);
        let mut off_best = 0;
        for _ in 0..400 {
            // All at one time: at most one of them is remembered without having been explored.
            let ticket = scene.decide(20.0);
            off_best += u64::from(ticket.node().spec.name != "n0");
            ticket.finish(Time::from_secs_f64(20.01), OK);
        }
        let seen = scene.decisions.latest(400);
        let explored: Vec<_> = seen.iter().filter(|one| one.contenders[one.chosen].why == Why::Explored).collect();
        assert!(off_best > 0);
        assert_eq!(explored.len() as u64, off_best);
        assert!(scene.decisions.count.load(Ordering::Relaxed) - before <= off_best + 1);
        for one in explored {
            assert_eq!(one.preferred.as_ref().map(|node| node.name.as_str()), Some("n0"));
            let (best, own) = (&one.contenders[0], &one.contenders[one.chosen]);
            assert_eq!((best.node.name.as_str(), best.why), ("n0", Why::LeastScore));
            let score = |contender: &Contender| contender.assessment.expect("a model").score;
            assert!(score(best) < score(own) && own.probability < best.probability);
        }
    }

    #[test]
    fn a_remembered_decision_of_the_model_says_what_least_connections_would_have_cost() {
        let mut scene = Scene::new(2, "random");
        scene.teach(&[0.05, 0.5]);
        scene.balancer.set_policy(named("least-connections"));
        scene.decide(20.0);
        assert_eq!(scene.decisions.latest(1)[0].against, None, "its own decision");
        scene.balancer.set_policy(named("adaptive"));
        scene.balancer.learned().set_knobs(Knobs { explore: 0.0, ..Knobs::default() });
        let before = scene.decisions.against();
        assert_eq!(before, AgainstSum::default());
        // Both are idle: the plain policy would toss a coin, the model knows which is ten times faster.
        scene.decide(20.5);
        let against = scene.decisions.latest(1)[0].against.expect("compared");
        assert!((0.02..0.1).contains(&against.chosen_s), "{against:?}");
        assert!((against.plain_s / against.chosen_s - 5.5).abs() < 1.5, "{against:?}");
        let sum = scene.decisions.against();
        assert_eq!(sum.decisions, 1);
        assert!((sum.plain_s - against.plain_s).abs() < 1e-5 && (sum.chosen_s - against.chosen_s).abs() < 1e-5);
    }

    #[test]
    fn a_decision_that_is_not_remembered_allocates_nothing() {
        let mut scene = Scene::new(8, "random");
        scene.teach(&[0.1; 8]);
        scene.balancer.set_policy(named("adaptive"));
        scene.balancer.learned().set_knobs(Knobs { explore: 0.0, ..Knobs::default() });
        scene.decide(20.0);
        let before = scene.decisions.count.load(Ordering::Relaxed);
        let used = allocation_counter::measure(|| (0..100).for_each(|_| drop(scene.decide(20.0))));
        assert_eq!((used.count_total, scene.decisions.count.load(Ordering::Relaxed)), (0, before));
    }

    #[test]
    fn the_reason_names_policy_fallback_and_ties() {
        let learned = Learned::default();
        let why = |policy: &str, probabilities: &[f64], at: usize| {
            Reasons::of(named(policy), &learned, Time::ZERO, probabilities, &[]).why(at)
        };
        assert_eq!(why("random", &[1.0], 0), Why::Only);
        assert_eq!(why("random", &[0.75, 0.25], 1), Why::Drawn);
        assert_eq!(why("least-connections", &[0.5, 0.0, 0.5], 2), Why::Equal);
        assert_eq!(why("least-connections", &[0.5, 0.0, 0.5], 1), Why::Passed);
        assert_eq!(why("ip-hash", &[0.0, 1.0], 1), Why::Sure);
        assert_eq!(why("adaptive", &[0.5, 0.5], 0), Why::Fallback(Some(Fallback::Missing)));
        let mut scene = Scene::new(2, "random");
        scene.teach(&[0.1, 0.1]);
        let learned = Arc::clone(scene.balancer.learned());
        learned.set_knobs(Knobs { explore: 0.0, ..Knobs::default() });
        let fleet = scene.balancer.fleet();
        let candidates = scene.balancer.dry_run(Time::from_secs_f64(20.0), &RequestShape::default(), None).candidates;
        let shape = RequestShape::default();
        let context = Context { now: Time::from_secs_f64(20.0), shape: &shape, fleet: &fleet, candidates: &candidates };
        let (tied, _) = contenders(&context, named("adaptive"), &learned, &[0.5, 0.5], None);
        assert!(tied.iter().all(|contender| contender.why == Why::Tie), "{tied:?}");
    }

    #[test]
    fn of_a_large_fleet_the_likeliest_are_kept_and_the_chosen_one_with_them() {
        let mut scene = Scene::new(100, "random");
        for i in 0..50 {
            let ticket = scene.decide(f64::from(i));
            let seen = &scene.decisions.latest(1)[0];
            assert_eq!((seen.candidates, seen.contenders.len()), (100, CANDIDATES_MAX));
            assert_eq!(seen.contenders[seen.chosen].node.name, ticket.node().spec.name);
            assert_eq!(seen.contenders[seen.chosen].probability, ticket.decision().propensity);
        }
    }
}
