//! `adaptive` with one part left out: what each part is worth, by simulation.
//!
//! Where a part can be left out from outside, it is: by a knob, by what the learner is told, or by taking back what the
//! part did before the next decision. So the code that routes in production has no switches for this, except three in
//! the learner ([`Method`]), and what is compared is that code. Not for use: each of these is worse somewhere.

use std::sync::{Arc, OnceLock};

use crate::balancer::Observer;
use crate::clock::Time;
use crate::fleet::{Fleet, Node};
use crate::learn::{Knobs, Learned, Learner, Method};
use crate::outcome::Sample;

/// The part that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// Nodes are fitted alone, and speeds are believed as measured.
    Shrinkage,
    /// The lowest own response time wins, whatever it costs the others.
    MarginalCost,
    /// What a request costs the others is counted for one round.
    Echo,
    /// Answers are learned with the load that they found, and the gaps of a stream with its end.
    LifeAverage,
    /// Nothing moves between fits and their window of a minute.
    Corrector,
    /// A failure costs a node nothing.
    FailurePenalty,
    /// A node that says nothing goes on getting work.
    Silence,
    /// No decision is made to learn from it.
    Exploration,
    /// A new node may get everything at once.
    Ramp,
    /// How much a node works on at once is not learned.
    SlotLimit,
    /// What repeats in prompts is not looked at.
    Prefixes,
}

impl Without {
    /// The name of `adaptive` without it.
    pub const NAMES: [(&'static str, Without); 11] = [
        ("adaptive-without-shrinkage", Without::Shrinkage),
        ("adaptive-without-marginal-cost", Without::MarginalCost),
        ("adaptive-without-echo", Without::Echo),
        ("adaptive-without-life-average", Without::LifeAverage),
        ("adaptive-without-corrector", Without::Corrector),
        ("adaptive-without-failure-penalty", Without::FailurePenalty),
        ("adaptive-without-silence", Without::Silence),
        ("adaptive-without-exploration", Without::Exploration),
        ("adaptive-without-ramp", Without::Ramp),
        ("adaptive-without-slot-limit", Without::SlotLimit),
        ("adaptive-without-prefixes", Without::Prefixes),
    ];

    /// The part that the policy of that name lacks; `None` for every other policy.
    pub fn named(name: &str) -> Option<Without> {
        Without::NAMES.iter().find(|(known, _)| *known == name).map(|(_, without)| *without)
    }

    /// How the learner is to work.
    pub(super) fn method(self) -> Method {
        let all = Method::default();
        match self {
            Without::Shrinkage => Method { shrinks: false, ..all },
            Without::Corrector => Method { corrects: false, ..all },
            Without::SlotLimit => Method { learns_slots: false, ..all },
            _ => all,
        }
    }

    /// Turns the knobs that leave it out.
    pub(super) fn turn(self, learned: &Learned) {
        match self {
            Without::MarginalCost => learned.set_knobs(Knobs { social: 0.0, ..learned.knobs() }),
            Without::Echo => learned.set_knobs(Knobs { echo: 0.0, ..learned.knobs() }),
            Without::Exploration => learned.set_knobs(Knobs { explore: 0.0, ..learned.knobs() }),
            _ => {}
        }
    }

    /// What the learner is told of an ended attempt.
    pub(super) fn tell(self, sample: &Sample) -> Sample {
        match self {
            Without::LifeAverage => Sample { mean_in_flight: f64::from(sample.in_flight) + 1.0, ..*sample },
            _ => *sample,
        }
    }

    /// Whether gaps are told attempt by attempt instead of by the clock.
    pub(super) fn tells_gaps_late(self) -> bool {
        self == Without::LifeAverage
    }

    /// Before anybody decides anew: takes back what the part did.
    pub(super) fn undo(self, learned: &Learned, fleet: &Fleet, now: Time) {
        for node in fleet.nodes() {
            match self {
                Without::Silence => node.live.ledger.sign_of_life(now),
                Without::Ramp => learned.node(node).trust(),
                _ => {}
            }
        }
    }
}

/// Tells the gaps of an ended stream with the load that it found.
pub(super) fn tell_gaps(learner: &mut Learner, now: Time, fleet: &Fleet, sample: &Sample) {
    if let Some(node) = fleet.nodes().iter().find(|node| node.id == sample.node) {
        let ledger = &node.live.ledger;
        let streaming = ledger.in_flight().saturating_sub(ledger.waiting());
        let (load, gaps_s) = (f64::from(sample.in_flight) + 1.0, sample.gaps.as_secs_f64());
        learner.gaps(now, node, load, ledger.waiting(), streaming, gaps_s, u64::from(sample.events));
    }
}

/// Forgives every failure at once, in what it is given when there is a balancer.
#[derive(Debug, Default)]
pub(super) struct Forgiving(pub(super) OnceLock<Arc<Learned>>);

impl Observer for Forgiving {
    fn finished(&self, node: &Node, _sample: &Sample) {
        if let Some(learned) = self.0.get() {
            learned.node(node).penalty.reset();
        }
    }
}
