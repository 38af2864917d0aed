//! What nodes are expected to hold of a prompt, and what they are told of by being sent one.
//!
//! A prompt is remembered when it is sent and not when it is answered: of two requests that begin alike and come at
//! once, the second is right to follow the first, as the node reads their common part only once. What ends without a
//! first byte has left nothing there, and is taken back.

use std::sync::Arc;

use crate::balancer::Balancer;
use crate::clock::Time;
use crate::fleet::{Fleet, Node};
use crate::learn::features::TARGETS;
use crate::learn::reuse::Chances;
use crate::learn::{Learned, NodeLoad, Predictor};
use crate::outcome::{Recall, Sample};
use crate::policy::{Candidate, rendezvous};
use crate::prefix::{Found, Memory, Use};
use crate::request::RequestShape;

/// No node is taken to be quicker than this, in seconds, when homes are shared out.
const QUICKEST_S: f64 = 1e-3;

impl Balancer {
    /// Bounds the memory of prompts. One of another size starts empty.
    pub fn set_prefix_bytes_max(&self, bytes_max: usize) {
        if self.prefixes.load().bytes_max() != bytes_max {
            self.prefixes.store(Arc::new(Memory::new(bytes_max)));
        }
    }

    /// The memory of prompts.
    pub fn prefixes(&self) -> Arc<Memory> {
        self.prefixes.load_full()
    }

    /// Finds what each node was sent of the prompt.
    #[inline]
    pub(super) fn recall(&self, shape: &RequestShape, now: Time, found: &mut Found) {
        if shape.prefix.blocks().is_empty() {
            found.clear();
        } else {
            self.look(shape, now, found);
        }
    }

    #[inline(never)]
    fn look(&self, shape: &RequestShape, now: Time, found: &mut Found) {
        let learned = self.learned.load();
        let unknown = Chances::default();
        self.prefixes.load().look(&shape.prefix, now, found, |slot, extent| match learned.as_deref() {
            Some(predictor) => predictor.chance(slot, extent),
            None => unknown.of(extent),
        });
    }

    /// The prompt is sent to `node`, which had so many blocks of it.
    pub(super) fn remember(
        &self,
        node: &Node,
        shape: &RequestShape,
        now: Time,
        had: u32,
        recall: &Recall,
    ) -> Option<Use> {
        let uncached = recall.uncached(shape.prompt_tokens) as f32;
        let known = !shape.prefix.blocks().is_empty();
        known.then(|| self.prefixes.load().remember(node, &shape.prefix, now, had, uncached)).flatten()
    }

    /// What was remembered of an attempt, now that it has ended.
    pub(super) fn remember_end(&self, sample: &Sample, node: &Node, used: &Use, now: Time) {
        let prefixes = self.prefixes.load();
        match sample.ttfb {
            None => prefixes.take_back(node, used),
            Some(_) => {
                let tokens = sample.output_tokens.unwrap_or(sample.events) as f32;
                prefixes.answered(node, used, sample.prompt_tokens, tokens, now);
            }
        }
    }
}

/// Tells the candidates what was found.
#[inline]
pub(super) fn note_recall(
    learned: &Learned,
    fleet: &Fleet,
    shape: &RequestShape,
    found: &Found,
    candidates: &mut [Candidate],
) {
    let homes = if found.own().is_some() { learned.knobs().homes } else { 0.0 };
    if found.is_empty() && homes <= 0.0 {
        return;
    }
    let (most, learned) = (shape.prompt_tokens as f32, learned.load());
    for candidate in candidates.iter_mut() {
        let node = &fleet.nodes()[candidate.index as usize];
        let recall = found.at(node.slot).recall;
        if recall.matched_tokens > 0.0 {
            let worth = learned.as_deref().map_or(1.0, |predictor| predictor.node(node.slot, node.id).worth());
            candidate.matched = recall.matched_tokens.min(most);
            candidate.cached = recall.held_tokens.min(candidate.matched) * worth as f32;
        }
    }
    if let Some(predictor) = learned.as_deref().filter(|_| homes > 0.0) {
        note_home(predictor, fleet, shape, found, homes, candidates);
    }
}

/// Expects what this proxy does not know of a prompt at the prompt's home, where other proxies send it for the same reason.
///
/// Nobody has to tell anybody: the home follows from the first block that is the conversation's own, nodes' names and
/// how quick they are. What it is worth is up to the policy: a home that is busy or slow is passed by. Only what is
/// not remembered is expected, and as far as nodes were found to hold what they were sent a short time ago.
fn note_home(
    predictor: &Predictor,
    fleet: &Fleet,
    shape: &RequestShape,
    found: &Found,
    homes: f64,
    candidates: &mut [Candidate],
) {
    let Some(own) = found.own() else { return };
    let typical = predictor.typical();
    let idle = NodeLoad::new(0, 0, 0);
    let mut nearest: Option<(f64, &mut Candidate, &Node)> = None;
    for candidate in candidates {
        let node = &*fleet.nodes()[candidate.index as usize];
        let model = predictor.node(node.slot, node.id);
        // Without correctors, which are each proxy's own.
        let quick = 1.0 / model.predict(&[1.0; TARGETS], &idle, &typical).total_s.max(QUICKEST_S);
        let distance = rendezvous::distance(own.block, node, candidate.weight * quick);
        if nearest.as_ref().is_none_or(|(least, ..)| distance < *least) {
            nearest = Some((distance, candidate, node));
        }
    }
    let Some((_, home, node)) = nearest else { return };
    if found.at(node.slot).blocks <= own.before {
        let model = predictor.node(node.slot, node.id);
        let share = homes * f64::from(model.chances.soon()) * model.worth();
        home.cached += share as f32 * (shape.prompt_tokens as f32 - home.matched).max(0.0);
    }
}

/// What was found for the node of a candidate, no more than its prompt has.
#[inline]
pub(super) fn recall_of(found: &Found, slot: u32, candidate: &Candidate) -> Recall {
    let recall = found.at(slot).recall;
    let Candidate { matched, cached, .. } = *candidate;
    Recall { matched_tokens: matched, held_tokens: recall.held_tokens.min(matched), cached_tokens: cached, ..recall }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::{Scratch, Ticket, Verdict};
    use std::ops::Range;

    use crate::clock::Clock;
    use crate::learn::{Knobs, Learner, test_sample};
    use crate::node::NodeSpec;
    use crate::outcome::{Censor, Failure, Outcome};
    use crate::policy::PolicyId;
    use crate::request::Prefix;

    const DONE: Outcome = Outcome::Completed { status: 200 };

    fn balancer(nodes: usize) -> Arc<Balancer> {
        let specs = (0..nodes).map(|at| NodeSpec::new(format!("http://n{at}")));
        let fleet = specs.fold(Fleet::default(), |fleet, spec| fleet.with(spec).expect("free name"));
        let policy = PolicyId::named("least-connections").expect("known");
        Arc::new(Balancer::new(fleet, policy, Clock::manual(), Vec::new()))
    }

    fn shape(blocks: std::ops::Range<u64>) -> RequestShape {
        let hashes: Vec<u64> = blocks.map(crate::node::scramble).collect();
        let prompt_tokens = hashes.len() as u32 * 64 + 30;
        RequestShape { prompt_tokens, prefix: Prefix::new(hashes, 64.0), ..RequestShape::default() }
    }

    fn send(balancer: &Arc<Balancer>, shape: &RequestShape) -> Ticket {
        match balancer.decide(Time::ZERO, shape, &[], &mut Scratch::with_seed(1)) {
            Verdict::Go(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// What matched at each candidate.
    fn matched(balancer: &Balancer, shape: &RequestShape) -> Vec<f32> {
        balancer.dry_run(Time::ZERO, shape, None).candidates.iter().map(|candidate| candidate.matched).collect()
    }

    #[test]
    fn a_follow_up_is_known_where_the_first_one_went_and_the_ledger_counts_what_is_new() {
        let balancer = balancer(2);
        let mut first = send(&balancer, &shape(0..10));
        let (own, ledger) = (first.node().slot as usize, Arc::clone(&first.node().live));
        assert_eq!(ledger.ledger.waiting_prompt_tokens(), 670, "nothing was known");
        first.first_byte(Time::ZERO);
        let seen = matched(&balancer, &shape(0..12));
        assert_eq!((seen[own], seen[1 - own]), (640.0, 0.0));
        // The other one is idle, and then both are alike.
        let second = send(&balancer, &shape(0..12));
        assert_ne!(second.node().slot as usize, own);
        let third = send(&balancer, &shape(0..12));
        let recall = third.sample().recall;
        assert_eq!(recall.matched_tokens, if third.node().slot as usize == own { 640.0 } else { 768.0 });
        assert!(recall.cached_tokens > 0.9 * recall.matched_tokens, "nothing came in between");
        let waiting: u64 = balancer.fleet().nodes().iter().map(|node| node.live.ledger.waiting_prompt_tokens()).sum();
        assert_eq!(waiting, 798 + recall.uncached(798) as u64);
        for ticket in [first, second, third] {
            ticket.finish(Time::ZERO, DONE);
        }
        let nodes = balancer.fleet();
        assert!(nodes.nodes().iter().all(|node| node.live.ledger.waiting_prompt_tokens() == 0));
    }

    /// A balancer that has learned of nodes without any difference, and where it would expect a conversation.
    fn homes(known: Range<u64>, of: Range<u64>, share: f64) -> Vec<f32> {
        let balancer = balancer(4);
        let learned = balancer.learned();
        learned.set_knobs(Knobs { homes: share, ..learned.knobs() });
        let mut learner = Learner::new(Arc::clone(learned));
        for tick in 0..100 {
            let now = Time::from_secs_f64(f64::from(tick));
            for slot in 0..4 {
                learner.observe(now, &test_sample(slot, 1, 0.1)).expect("a label");
            }
            learner.refit(now);
        }
        // All have the beginning that many conversations share.
        for node in balancer.fleet().nodes() {
            let other = shape(0..4).prefix;
            let more = Prefix::new([other.blocks(), &[u64::from(node.slot)]].concat(), 64.0);
            balancer.prefixes().remember(node, &more, Time::ZERO, 0, 0.0);
        }
        balancer.prefixes().remember(&balancer.fleet().nodes()[1], &shape(known).prefix, Time::ZERO, 0, 0.0);
        let shape = shape(of);
        balancer.dry_run(Time::ZERO, &shape, None).candidates.iter().map(|candidate| candidate.cached).collect()
    }

    #[test]
    fn what_a_proxy_does_not_know_of_a_conversation_is_expected_at_one_home_by_all_who_agree() {
        let home = |cached: &[f32]| (0..4).max_by(|a, b| cached[*a].total_cmp(&cached[*b])).expect("four");
        let (strange, early) = (homes(0..4, 0..10, 0.75), homes(0..4, 0..7, 0.75));
        assert_eq!(home(&strange), home(&early), "all turns have one home");
        let (at, most) = (home(&strange), 4.0 * 64.0);
        assert!(strange[at] > most + 0.5 * 6.0 * 64.0, "{strange:?}");
        assert!((0..4).filter(|node| *node != at).all(|node| strange[node] <= most), "{strange:?}");
        assert!(homes(0..4, 0..10, 0.0).iter().all(|cached| *cached <= most), "alone");
        let known = homes(0..8, 0..10, 0.75);
        assert!(known[1] > 7.0 * 64.0, "what is remembered counts where it is: {known:?}");
    }

    #[test]
    fn what_ended_without_a_first_byte_left_nothing_there() {
        let ends = [Outcome::Failed(Failure::Status(500)), Outcome::Censored(Censor::ClientGone)];
        for outcome in ends {
            let balancer = balancer(1);
            let mut first = send(&balancer, &shape(0..4));
            first.first_byte(Time::ZERO);
            first.finish(Time::ZERO, DONE);
            send(&balancer, &shape(0..10)).finish(Time::ZERO, outcome);
            assert_eq!(matched(&balancer, &shape(0..10)), [256.0], "{outcome:?}");
        }
    }

    #[test]
    fn a_node_that_lost_all_it_was_doing_fell_or_was_replaced_is_forgotten() {
        let told = || {
            let balancer = balancer(1);
            let mut first = send(&balancer, &shape(0..4));
            first.first_byte(Time::ZERO);
            first.finish(Time::ZERO, DONE);
            assert_eq!(matched(&balancer, &shape(0..4)), [256.0]);
            balancer
        };
        let lost = told();
        let (one, other) = (send(&lost, &shape(20..22)), send(&lost, &shape(30..32)));
        one.finish(Time::ZERO, Outcome::Failed(Failure::Broken));
        assert_eq!(matched(&lost, &shape(0..4)), [256.0], "one of two broke");
        other.finish(Time::ZERO, Outcome::Failed(Failure::Broken));
        assert_eq!(matched(&lost, &shape(0..4)), [0.0]);

        let fell = told();
        let node = Arc::clone(&fell.fleet().nodes()[0]);
        (0..9).for_each(|_| _ = fell.checked(&node, false));
        (0..9).for_each(|_| _ = fell.checked(&node, true));
        assert_eq!(matched(&fell, &shape(0..4)), [0.0]);

        let replaced = told();
        let moved = NodeSpec { url: "http://elsewhere".into(), ..NodeSpec::clone(&node.spec) };
        replaced.change_fleet(|fleet| fleet.with_changed(moved)).expect("known");
        assert_eq!(matched(&replaced, &shape(0..4)), [0.0]);
    }

    #[test]
    fn a_request_without_a_known_prefix_touches_no_memory_and_allocates_nothing() {
        let balancer = balancer(4);
        let (unknown, mut scratch) =
            (RequestShape { prompt_tokens: 100, ..RequestShape::default() }, Scratch::with_seed(1));
        let mut decide = || match balancer.decide(Time::ZERO, &unknown, &[], &mut scratch) {
            Verdict::Go(ticket) => drop(ticket.finish(Time::ZERO, DONE)),
            other => panic!("{other:?}"),
        };
        decide();
        let used = allocation_counter::measure(|| (0..100).for_each(|_| decide()));
        assert_eq!(used.count_total, 0);
        assert_eq!(balancer.prefixes().fill().bytes, 0);
    }
}
