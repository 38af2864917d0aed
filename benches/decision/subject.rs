//! Who is measured: every policy, the learned one also with a model of each kind of answer.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bellwether::balancer::{Balancer, Observer, Scratch, Ticket, Verdict};
use bellwether::clock::{Clock, Time};
use bellwether::fleet::Fleet;
use bellwether::learn::{Learned, Learner};
use bellwether::outcome::{Outcome, Sample};
use bellwether::policy::{Candidate, Context, PolicyId, REGISTRY};
use bellwether::request::RequestShape;

const DONE: Outcome = Outcome::Completed { status: 200 };
/// Fits before anything is measured, and answers of each node before each: more than the ramp of a new node asks for.
const FITS: u32 = 10;
const ANSWERS: u32 = 8;
/// When the first decision is made, in microseconds: half a second after the last fit. A microsecond between two
/// decisions keeps all that are measured within the ten seconds that a model is trusted.
pub(crate) const START_MICROS: u64 = FITS as u64 * 500_000;

/// What a model was taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// Whole, without a word on their tokens.
    Plain,
    /// Whole, and they tell their tokens.
    Tokens,
    /// Streamed.
    Streamed,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    pub(crate) policy: PolicyId,
    /// `None` routes without a model.
    pub(crate) taught: Option<Answers>,
}

/// All of them, in the order of the registry.
pub(crate) fn subjects() -> impl Iterator<Item = Subject> {
    let classic = REGISTRY.iter().filter_map(|entry| PolicyId::named(entry.name));
    let all = [None, Some(Answers::Plain), Some(Answers::Tokens), Some(Answers::Streamed)];
    let of = move |policy: PolicyId| if policy.is_learned() { all.as_slice().to_vec() } else { vec![None] };
    classic.flat_map(move |policy| of(policy).into_iter().map(move |taught| Subject { policy, taught }))
}

impl Subject {
    pub(crate) fn name(&self) -> String {
        match self.taught {
            None if self.policy.is_learned() => format!("{}, untaught", self.policy.name()),
            None => self.policy.name().to_owned(),
            Some(Answers::Plain) => format!("{}, plain", self.policy.name()),
            Some(Answers::Tokens) => format!("{}, tokens", self.policy.name()),
            Some(Answers::Streamed) => format!("{}, streamed", self.policy.name()),
        }
    }

    pub(crate) fn shape(&self) -> RequestShape {
        let streaming = self.taught == Some(Answers::Streamed);
        RequestShape { prompt_tokens: 100, streaming, ..RequestShape::default() }
    }

    /// A balancer that has learned what there is to learn.
    pub(crate) fn balancer(&self, fleet: &Fleet, observers: Vec<Arc<dyn Observer>>) -> Arc<Balancer> {
        let balancer = Arc::new(Balancer::new(fleet.clone(), self.policy, Clock::manual(), observers));
        if let Some(answers) = self.taught {
            let mut scratch = Scratch::with_seed(1);
            let Verdict::Go(ticket) = balancer.decide(Time::ZERO, &self.shape(), &[], &mut scratch) else {
                unreachable!("nothing is full")
            };
            teach(balancer.learned(), fleet, &ticket.finish(Time::from_micros(1), DONE), answers);
        }
        balancer
    }

    /// A decision and the end of its attempt, with two attempts per node in flight on average. `measure` calls what it
    /// is given.
    pub(crate) fn decide<T>(&self, fleet: &Fleet, measure: impl FnOnce(&mut dyn FnMut()) -> T) -> T {
        let balancer = self.balancer(fleet, Vec::new());
        let mut scratch = Scratch::with_seed(1);
        let mut shape = self.shape();
        let mut decide = |step: u64| -> Ticket {
            shape.client_hash = step;
            match balancer.decide(Time::from_micros(START_MICROS + step), &shape, &[], &mut scratch) {
                Verdict::Go(ticket) => ticket,
                _ => unreachable!("nothing is full"),
            }
        };
        let in_flight = 2 * fleet.nodes().len() as u64;
        let mut held: Vec<_> = (0..in_flight).map(|step| Some(decide(step))).collect();
        let mut step = in_flight;
        measure(&mut || {
            let ticket = decide(step);
            if let Some(mut ended) = held[(step % in_flight) as usize].replace(ticket) {
                let now = Time::from_micros(START_MICROS + step);
                ended.first_byte(now);
                black_box(ended.finish(now, DONE));
            }
            step += 1;
        })
    }

    /// The policy alone, over loads that differ and have been served for a while.
    pub(crate) fn weigh<T>(&self, fleet: &Fleet, measure: impl FnOnce(&mut dyn FnMut()) -> T) -> T {
        let balancer = self.balancer(fleet, Vec::new());
        let policy = self.policy.make_with(balancer.learned());
        let mut scratch = Scratch::with_seed(1);
        let mut shape = self.shape();
        for step in 0..10 * fleet.nodes().len() as u64 {
            let now = Time::from_micros(START_MICROS + step);
            if let Verdict::Go(ticket) = balancer.decide(now, &shape, &[], &mut scratch) {
                let node = Arc::clone(ticket.node());
                policy.observe(&node, &ticket.finish(Time::from_micros(START_MICROS + step * 2), DONE));
            }
        }
        let mut rng = fastrand::Rng::with_seed(2);
        let start = START_MICROS + 20 * fleet.nodes().len() as u64;
        let loaded = fleet.nodes().iter().zip(0..).map(|(node, index)| {
            let (in_flight, ledger) = (rng.u32(0..64), &node.live.ledger);
            for started in 0..in_flight {
                ledger.try_start(Time::from_micros(start), node.spec.limit(), 100).expect("room");
                if started % 4 != 0 {
                    ledger.first_byte(Time::from_micros(start), 100);
                }
            }
            Candidate::new(index, in_flight, node.spec.weight)
        });
        let candidates: Vec<Candidate> = loaded.collect();
        let mut out = vec![0.0; candidates.len()];
        let mut step = start;
        let measured = measure(&mut || {
            step += 1;
            shape.client_hash = step;
            out.fill(0.0);
            let now = Time::from_micros(step);
            policy.weigh(&Context { now, shape: &shape, fleet, candidates: &candidates }, &mut out);
            black_box(&mut out);
        });
        // The ledgers are the fleet's, and others measure with them.
        for (node, candidate) in fleet.nodes().iter().zip(&candidates) {
            for started in 0..candidate.in_flight {
                node.live.ledger.end(Time::from_micros(step), (started % 4 == 0).then_some(100));
            }
        }
        measured
    }
}

/// Teaches a model of every node, with samples made of `like`, and fits it.
pub(crate) fn teach(learned: &Arc<Learned>, fleet: &Fleet, like: &Sample, answers: Answers) {
    let (mut learner, mut rng) = (Learner::new(Arc::clone(learned)), fastrand::Rng::with_seed(3));
    for fit in 0..FITS {
        let now = Time::from_micros(u64::from(fit) * 500_000);
        for node in fleet.nodes() {
            let speed = 1.0 + f64::from(node.slot % 4);
            for _ in 0..ANSWERS {
                let (n, tokens) = (rng.u32(1..40), rng.u32(1..800));
                let gap_s = speed * (0.01 + 0.001 * f64::from(n));
                if answers == Answers::Streamed {
                    learner.gaps(now, node, f64::from(n), 1, n, gap_s * 20.0, 20);
                }
                let sample = Sample {
                    node: node.id,
                    slot: node.slot,
                    streaming: answers == Answers::Streamed,
                    events: tokens,
                    prompt_tokens: rng.u32(1..5_000),
                    output_tokens: (answers == Answers::Tokens).then_some(tokens),
                    in_flight: n - 1,
                    mean_in_flight: f64::from(n),
                    ttfb: Some(Duration::from_secs_f64(0.1 * speed)),
                    total: Duration::from_secs_f64(0.1 * speed + gap_s * f64::from(tokens)),
                    ..*like
                };
                learned.ended(node, &sample);
                learner.observe(now, &sample).expect("a label");
            }
        }
        learner.refit(now);
    }
    assert_eq!(learned.fallback(Time::from_micros(START_MICROS)), None, "the model is not trusted");
}
