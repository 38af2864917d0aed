use super::*;
use crate::balancer::{Balancer, Scratch, Ticket, Verdict};
use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::learn::{Fallback, Knobs, Learner};
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
fn fifty_a_second_are_remembered_whatever_the_load_and_each_learns_what_came_of_it() {
    let mut scene = Scene::new(3, "round-robin");
    for millis in 0..1_000 {
        let at_s = f64::from(millis) / 1e3;
        for _ in 0..5 {
            let ticket = scene.decide(at_s);
            ticket.finish(Time::from_secs_f64(at_s + 0.25), OK);
        }
    }
    let seen = scene.decisions.latest(usize::MAX);
    assert_eq!(seen.len(), 50);
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
    let compared = scene.decisions.against().decisions;
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
    assert!(scene.decisions.against().decisions - compared <= 1, "what was explored is no fair sample");
    assert!(explored.iter().all(|one| one.against.is_some()), "each by itself is compared");
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

#[test]
fn a_decision_that_somebody_follows_learns_its_end_after_it_has_left_the_ring_and_others_are_not_noted() {
    let mut scene = Scene::new(3, "round-robin");
    let (slow, unfollowed) = (scene.decide(0.0), scene.decide(0.02));
    let followed = scene.decisions.find(1).expect("remembered");
    for round in 0..DECISIONS_MAX as u32 + 5 {
        scene.decide(0.04 + 0.02 * f64::from(round)).finish(Time::from_secs_f64(30.0), OK);
    }
    assert!(scene.decisions.find(1).is_none() && scene.decisions.find(2).is_none());
    assert_eq!(scene.decisions.overtaken().len(), 1);
    slow.finish(Time::from_secs_f64(40.0), OK);
    unfollowed.finish(Time::from_secs_f64(40.0), OK);
    assert_eq!(followed.ended.get().map(|sample| sample.total), Some(Duration::from_secs(40)));
    assert!(scene.decisions.overtaken().is_empty());
}
