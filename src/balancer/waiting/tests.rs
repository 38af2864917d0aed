//! Waiting in virtual time, and by many threads at once.

use std::sync::atomic::AtomicU32;
use std::task::Wake;
use std::thread::Thread;

use super::*;
use crate::admission::Priority;
use crate::balancer::Verdict;
use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::node::NodeSpec;
use crate::outcome::Outcome;
use crate::policy::PolicyId;

const WELL: Outcome = Outcome::Completed { status: 200 };

/// Nodes with so much room, the first half of which serves only the model `a`, the others only `b`.
fn balancer(limits: &[u32], length_max: usize) -> Arc<Balancer> {
    let fleet = limits.iter().enumerate().fold(Fleet::default(), |fleet, (at, limit)| {
        let spec = NodeSpec::new(format!("http://n{at}"));
        let model = if at * 2 < limits.len() { "a" } else { "b" };
        let models = vec![model.to_owned()];
        fleet.with(NodeSpec { max_in_flight: Some(*limit), models, ..spec }).expect("free name")
    });
    let policy = PolicyId::named("least-connections").expect("known");
    let balancer = Balancer::new(fleet, policy, Clock::manual(), Vec::new());
    balancer.set_queue(QueueRules { length_max, ..QueueRules::default() });
    Arc::new(balancer)
}

fn at(seconds: f64) -> Time {
    Time::from_secs_f64(seconds)
}

fn terms(deadline: f64) -> Terms {
    Terms { priority: Priority::Default, bytes: 0, deadline: at(deadline) }
}

fn ask(balancer: &Arc<Balancer>, model: Option<&str>, now: f64) -> Verdict {
    let shape = RequestShape { model: model.map(Arc::from), ..RequestShape::default() };
    balancer.decide(at(now), &shape, &[], &mut Scratch::with_seed(1))
}

fn go(balancer: &Arc<Balancer>, model: Option<&str>, now: f64) -> Ticket {
    match ask(balancer, model, now) {
        Verdict::Go(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

fn wait(balancer: &Arc<Balancer>, model: Option<&str>, now: f64) -> Place {
    let Verdict::Wait(mut place) = ask(balancer, model, now) else { panic!("there is no room") };
    place.join(at(now), terms(now + 30.0)).expect("room to wait");
    place
}

fn got(place: &mut Place) -> Option<Ticket> {
    place.answer().map(|answer| *answer.expect("a place"))
}

#[test]
fn a_place_that_frees_goes_to_the_first_who_waits_with_the_time_that_it_waited() {
    let balancer = balancer(&[1], 8);
    let running = go(&balancer, None, 1.0);
    let (mut first, mut second) = (wait(&balancer, None, 1.0), wait(&balancer, None, 2.0));
    assert!(got(&mut first).is_none());
    running.finish(at(4.0), WELL);
    let ticket = got(&mut first).expect("handed over");
    assert_eq!((ticket.time_waited(), ticket.started()), (Duration::from_secs(3), at(4.0)));
    assert!(got(&mut second).is_none() && balancer.queued().0 == [0, 1, 0]);
    drop(ticket);
    assert_eq!(got(&mut second).expect("handed over").node().live.ledger.in_flight(), 1);
    assert!(!balancer.is_awaited());
}

#[test]
fn newcomers_do_not_overtake_those_who_wait() {
    let balancer = balancer(&[1], 8);
    let running = go(&balancer, None, 1.0);
    let mut first = wait(&balancer, None, 1.0);
    // The place frees without a word, as it does when a limit is raised.
    let spec = NodeSpec { max_in_flight: Some(2), ..NodeSpec::clone(&balancer.fleet().nodes()[0].spec) };
    let fleet = balancer.fleet().with_changed(spec).expect("known");
    balancer.fleet.store(Arc::new(fleet));
    let newcomer = ask(&balancer, None, 2.0);
    assert!(matches!(newcomer, Verdict::Wait(_)), "{newcomer:?}");
    assert!(got(&mut first).is_some());
    drop(running);
}

#[test]
fn a_place_goes_to_the_first_whose_model_is_served_there() {
    let balancer = balancer(&[1, 1], 8);
    let (on_a, on_b) = (go(&balancer, Some("a"), 1.0), go(&balancer, Some("b"), 1.0));
    let mut waiting_a = wait(&balancer, Some("a"), 1.0);
    let mut waiting_b = wait(&balancer, Some("b"), 2.0);
    let mut waiting_any = wait(&balancer, None, 3.0);
    on_b.finish(at(4.0), WELL);
    let ticket = got(&mut waiting_b).expect("the second is the first who can");
    assert!(got(&mut waiting_a).is_none());
    drop(ticket);
    assert!(got(&mut waiting_any).is_some());
    drop(on_a);
    assert!(got(&mut waiting_a).is_some());
}

#[test]
fn who_leaves_frees_the_place_in_the_queue_and_one_that_was_just_handed_over() {
    let balancer = balancer(&[1], 2);
    let running = go(&balancer, None, 1.0);
    let first = wait(&balancer, None, 1.0);
    let (second, mut third) = (wait(&balancer, None, 1.0), {
        drop(first);
        wait(&balancer, None, 1.0)
    });
    assert_eq!(balancer.queued().0, [0, 2, 0]);
    running.finish(at(2.0), WELL);
    // The second has its ticket and never looks.
    drop(second);
    assert!(got(&mut third).is_some());
    assert!(!balancer.is_awaited());
}

#[test]
fn a_full_queue_and_a_wait_that_is_over_are_refusals_that_know_when_to_come_back() {
    let balancer = balancer(&[1], 1);
    let _running = go(&balancer, None, 1.0);
    let place = wait(&balancer, None, 1.0);
    let Verdict::Wait(mut other) = ask(&balancer, None, 1.0) else { panic!("full") };
    let refused = other.join(at(1.0), terms(30.0)).expect_err("no room");
    assert_eq!((refused.reason, refused.retry_after), (Reason::QueueFull, Some(Duration::from_secs(1))));
    let refused = place.give_up(at(31.0)).expect_err("nothing came");
    assert_eq!(refused.reason, Reason::QueueTimeout);
    assert!(refused.retry_after.is_some() && !balancer.is_awaited());
    balancer.set_queue(QueueRules::OFF);
    let refused = ask(&balancer, None, 32.0);
    assert!(matches!(refused, Verdict::Refuse(Rejection { reason: Reason::AllFull, .. })), "{refused:?}");
}

#[test]
fn nodes_that_are_full_for_longer_than_one_can_wait_are_not_waited_for() {
    let balancer = balancer(&[9], 8);
    let full = |seconds| Outcome::Full { status: 429, retry_after: Some(Duration::from_secs(seconds)) };
    go(&balancer, None, 1.0).finish(at(1.0), full(40));
    let Verdict::Wait(mut place) = ask(&balancer, None, 2.0) else { panic!("full") };
    let refused = place.join(at(2.0), terms(32.0)).expect_err("39 s are too long");
    assert_eq!((refused.reason, refused.retry_after), (Reason::AllFull, Some(Duration::from_secs(39))));
    let mut place = wait(&balancer, None, 15.0);
    balancer.tend(at(40.9));
    assert!(got(&mut place).is_none());
    balancer.tend(at(41.0));
    assert!(got(&mut place).is_some(), "time alone has made a place");
}

#[test]
fn the_late_are_refused_when_somebody_tends_and_a_new_node_is_used_at_once() {
    let balancer = balancer(&[1], 8);
    let _running = go(&balancer, None, 1.0);
    let (mut late, mut early) = (wait(&balancer, None, 1.0), wait(&balancer, None, 10.0));
    balancer.tend(at(31.0));
    assert!(matches!(late.answer(), Some(Err(Rejection { reason: Reason::QueueTimeout, .. }))));
    balancer.clock().set(at(32.0));
    balancer.change_fleet(|fleet| fleet.with(NodeSpec::new("http://new"))).expect("free name");
    assert_eq!(got(&mut early).expect("handed over").node().spec.name, "new");
}

#[test]
fn tokens_in_flight_are_limited_and_a_request_larger_than_the_limit_goes_alone() {
    let balancer = balancer(&[9], 8);
    let spec = NodeSpec::clone(&balancer.fleet().nodes()[0].spec);
    let spec = NodeSpec { max_in_flight_tokens: Some(500), ..spec };
    balancer.change_fleet(|fleet| fleet.with_changed(spec)).expect("known");
    let ask = |prompt_tokens, output_tokens_max| {
        let shape = RequestShape { prompt_tokens, output_tokens_max, ..RequestShape::default() };
        let verdict = balancer.decide(at(1.0), &shape, &[], &mut Scratch::with_seed(1));
        match verdict {
            Verdict::Wait(mut place) => {
                place.join(at(1.0), terms(30.0)).expect("room to wait");
                Err(place)
            }
            Verdict::Go(ticket) => Ok(ticket),
            Verdict::Refuse(rejection) => panic!("{rejection:?}"),
        }
    };
    let ledger = || balancer.fleet().nodes()[0].live.ledger.tokens();
    // A hundred of output are expected of each, unless the client wants fewer.
    let first = ask(300, None).expect("400 of 500");
    let second = ask(50, Some(10)).expect("460 of 500");
    assert_eq!(ledger(), 460);
    let (mut small, mut large) = (ask(50, None).expect_err("610"), ask(10_000, None).expect_err("far too many"));
    drop(second);
    assert!(got(&mut small).is_none());
    drop(first);
    let small = got(&mut small).expect("there is room");
    assert_eq!(ledger(), 150);
    assert!(got(&mut large).is_none());
    drop(small);
    let large = got(&mut large).expect("it is alone");
    assert_eq!(ledger(), 10_100);
    drop(large);
    assert_eq!(ledger(), 0);
}

#[test]
fn a_large_request_finds_room_under_a_stream_of_small_ones_that_would_always_fit() {
    let balancer = balancer(&[100], 64);
    let spec = NodeSpec::clone(&balancer.fleet().nodes()[0].spec);
    let spec = NodeSpec { max_in_flight_tokens: Some(8_000), ..spec };
    balancer.change_fleet(|fleet| fleet.with_changed(spec)).expect("known");
    let ask = |now: f64, prompt_tokens| {
        let shape = RequestShape { prompt_tokens, output_tokens_max: Some(0), ..RequestShape::default() };
        match balancer.decide(at(now), &shape, &[], &mut Scratch::with_seed(1)) {
            Verdict::Go(ticket) => Ok(ticket),
            Verdict::Wait(mut place) => {
                place.join(at(now), terms(now + 30.0)).expect("room to wait");
                Err(place)
            }
            Verdict::Refuse(rejection) => panic!("{rejection:?}"),
        }
    };
    let mut small: Vec<Ticket> = (0..3).map(|_| ask(1.0, 1_000).expect("room")).collect();
    let mut large = ask(1.0, 7_000).expect_err("3,000 are held");
    let mut late = Vec::new();
    let mut served_s = None;
    for step in 0..200u32 {
        let now = 1.0 + 0.1 * f64::from(step);
        // Each runs for 0.3 s, and one comes for one that ends.
        if !small.is_empty() {
            small.remove(0).finish(at(now), WELL);
        }
        match ask(now, 1_000) {
            Ok(ticket) => small.push(ticket),
            Err(place) => late.push(place),
        }
        if let Some(ticket) = got(&mut large) {
            served_s = Some(now - 1.0);
            drop(ticket);
            break;
        }
    }
    assert!(served_s.is_some_and(|waited| (2.0..3.0).contains(&waited)), "{served_s:?}");
    // Nothing is kept any more: the small ones go on.
    assert!(late.iter_mut().all(|place| got(place).is_some()));
}

#[test]
fn room_is_not_kept_for_a_large_request_that_has_left() {
    let balancer = balancer(&[100], 64);
    let spec = NodeSpec::clone(&balancer.fleet().nodes()[0].spec);
    let spec = NodeSpec { max_in_flight_tokens: Some(8_000), ..spec };
    balancer.change_fleet(|fleet| fleet.with_changed(spec)).expect("known");
    let shape = |prompt_tokens| RequestShape { prompt_tokens, output_tokens_max: Some(0), ..RequestShape::default() };
    let decide = |now: f64, tokens| balancer.decide(at(now), &shape(tokens), &[], &mut Scratch::with_seed(1));
    let Verdict::Go(_running) = decide(1.0, 2_000) else { panic!("room") };
    let Verdict::Wait(mut large) = decide(1.0, 7_000) else { panic!("9,000") };
    large.join(at(1.0), terms(31.0)).expect("room to wait");
    balancer.tend(at(4.0));
    assert!(matches!(decide(4.0, 1_000), Verdict::Wait(_)), "it is kept");
    drop(large);
    assert!(matches!(decide(4.0, 1_000), Verdict::Go(_)));
}

#[test]
fn a_node_that_finds_its_own_limit_is_held_to_it_and_shrinks_when_it_says_full() {
    let balancer = balancer(&[9], 8);
    let spec = NodeSpec::clone(&balancer.fleet().nodes()[0].spec);
    let spec = NodeSpec { max_in_flight: None, auto_limit: true, ..spec };
    balancer.change_fleet(|fleet| fleet.with_changed(spec)).expect("known");
    let limit = || balancer.fleet().nodes()[0].limit();
    let mut running: Vec<Ticket> = (0..limit()).map(|_| go(&balancer, None, 1.0)).collect();
    assert!(matches!(ask(&balancer, None, 1.0), Verdict::Wait(_)), "{}", limit());
    let before = limit();
    let full = Outcome::Full { status: 429, retry_after: None };
    running.pop().expect("runs").finish(at(1.1), full);
    assert!(limit() < before, "{} of {before}", limit());
    // Answers while it is hardly used raise nothing.
    running.clear();
    let after = limit();
    (0..100).for_each(|_| _ = go(&balancer, None, 5.0).finish(at(5.1), WELL));
    assert_eq!(limit(), after);
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits on this thread; panics if nothing comes.
fn block_on(mut place: Place) -> Handed {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = TaskContext::from_waker(&waker);
    for _ in 0..600 {
        match Pin::new(&mut place).poll(&mut cx) {
            Poll::Ready(handed) => return handed,
            Poll::Pending => std::thread::park_timeout(Duration::from_millis(100)),
        }
    }
    panic!("forgotten in the queue: {:?}", place.balancer.queued());
}

#[test]
fn under_any_concurrency_no_limit_is_exceeded_and_nobody_is_forgotten() {
    let balancer = balancer(&[2, 1, 1, 2], 64);
    let running = [const { AtomicU32::new(0) }; 4];
    std::thread::scope(|scope| {
        for seed in 0..8u64 {
            let (balancer, running) = (&balancer, &running);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(seed);
                let mut scratch = Scratch::with_seed(seed);
                for step in 0..400u32 {
                    let model = [Some(Arc::from("a")), Some(Arc::from("b")), None][rng.usize(..3)].clone();
                    let shape = RequestShape { model, ..RequestShape::default() };
                    let now = at(1.0 + f64::from(step) * 1e-3);
                    let ticket = match balancer.decide(now, &shape, &[], &mut scratch) {
                        Verdict::Go(ticket) => ticket,
                        Verdict::Wait(mut place) => {
                            place.join(now, terms(1e6)).expect("room to wait");
                            if rng.u8(..8) == 0 {
                                continue;
                            }
                            *block_on(place).expect("nobody is refused")
                        }
                        Verdict::Refuse(rejection) => panic!("{rejection:?}"),
                    };
                    let slot = ticket.node().slot as usize;
                    let limit = ticket.node().spec.limit();
                    assert!(running[slot].fetch_add(1, Ordering::SeqCst) < limit, "node {slot}");
                    std::thread::yield_now();
                    running[slot].fetch_sub(1, Ordering::SeqCst);
                    ticket.finish(now, WELL);
                }
            });
        }
    });
    assert!(!balancer.is_awaited());
    assert!(balancer.fleet().nodes().iter().all(|node| node.live.ledger.in_flight() == 0));
}
