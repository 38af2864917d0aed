//! Waiting for a node: who joins the queue, who is handed a place, who leaves.
//!
//! While nobody waits, a decision learns that from one atomic load and takes no lock. Once somebody does, newcomers go
//! through the queue's lock, so that nobody overtakes: first whoever waits is served as far as there are places, then
//! the newcomer. An attempt that ends hands its place over in the same call, with a decision of its own by the policy:
//! the one who waits is woken with a ticket in hand, not to race for it.
//!
//! A place that frees between the look of one who is about to wait and his joining would be nobody's. So he looks again
//! after he has joined, and the end of an attempt looks at the queue after it has left the ledger; both are sequentially
//! consistent, so at least one of them sees the other.
//!
//! There are no timers here: the shell gives up for those whose time is over, and calls [`Balancer::tend`] now and then
//! for what changes by time alone (an ejection that ends, a node that was full).

use std::collections::HashMap;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use crate::admission::{Entry, Position, Queue, QueueRules, Terms, Turned};
use crate::balancer::gather::gather;
use crate::balancer::refusal::RETRY_AFTER_DEFAULT;
use crate::balancer::{Balancer, RACES_MAX, Reason, Rejection, Scratch, Ticket};
use crate::clock::Time;
use crate::node::NodeId;
use crate::outcome::Censor;
use crate::policy::Candidate;
use crate::request::RequestShape;

/// What became of one who waits.
#[derive(Debug)]
enum Fate {
    Waiting(Option<Waker>),
    Given(Box<Ticket>),
    Refused(Rejection),
    /// It was told, or it left.
    Over,
}

/// One who waits, as the queue knows it.
#[derive(Debug)]
struct Waiter {
    shape: RequestShape,
    tried: Vec<NodeId>,
    fate: Mutex<Fate>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Waiter {
    /// Who names the same model waits for the same nodes.
    fn group(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.shape.model.hash(&mut hasher);
        hasher.finish()
    }

    /// Decides its fate; gives it back if it has left already.
    fn meet(&self, fate: Fate) -> Option<Fate> {
        let mut present = lock(&self.fate);
        let Fate::Waiting(waker) = &mut *present else { return Some(fate) };
        let waker = waker.take();
        *present = fate;
        drop(present);
        waker.into_iter().for_each(Waker::wake);
        None
    }
}

/// The queue of a balancer.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// How many wait; what a decision looks at.
    length: AtomicUsize,
    queue: Mutex<Queue<Arc<Waiter>>>,
    /// Buffers of decisions for those who wait.
    scratches: Mutex<Vec<Scratch>>,
    seeds: AtomicU64,
}

/// The right to wait for a node: a future of the answer, once it has [joined](Place::join) the queue. Dropped, it leaves.
#[derive(Debug)]
pub struct Place {
    balancer: Arc<Balancer>,
    waiter: Arc<Waiter>,
    /// Where in the queue.
    joined: Option<Position>,
    deadline: Time,
    /// Why there is no node now, and when there may be one again.
    meanwhile: Rejection,
}

/// What waiting came to.
pub type Handed = Result<Box<Ticket>, Rejection>;

impl Place {
    pub(super) fn new(balancer: &Arc<Balancer>, shape: &RequestShape, tried: &[NodeId], meanwhile: Rejection) -> Place {
        let waiter = Waiter { shape: shape.clone(), tried: tried.to_vec(), fate: Mutex::new(Fate::Waiting(None)) };
        let (balancer, waiter) = (Arc::clone(balancer), Arc::new(waiter));
        Place { balancer, waiter, joined: None, deadline: Time::ZERO, meanwhile }
    }

    /// Joins the queue. The deadline is brought within what the queue allows.
    ///
    /// # Errors
    /// There is no room, or the wait would be too long: come back later.
    pub fn join(&mut self, now: Time, terms: Terms) -> Result<(), Rejection> {
        let waiting = &self.balancer.waiting;
        let displaced = {
            let mut queue = lock(&waiting.queue);
            let deadline = terms.deadline.min(now.after(queue.rules().timeout_max));
            let pause = self.meanwhile.retry_after.unwrap_or_default();
            if pause > RETRY_AFTER_DEFAULT && now.after(pause) > deadline {
                // Every node has said that it is full until then.
                return Err(self.meanwhile);
            }
            let pushed = queue.push(now, Terms { deadline, ..terms }, self.waiter.group(), Arc::clone(&self.waiter));
            waiting.length.store(queue.len(), Ordering::SeqCst);
            match pushed {
                Ok((position, displaced)) => {
                    self.joined = Some(position);
                    self.deadline = deadline;
                    displaced.map(|entry: Entry<Arc<Waiter>>| {
                        let pause = queue.retry_after(now, entry.item.group());
                        (entry, pause)
                    })
                }
                Err((_, turned)) => {
                    let (reason, pause) = match turned {
                        Turned::Full(pause) => (Reason::QueueFull, pause),
                        Turned::Hopeless(pause) => (Reason::QueueTooLong, pause),
                    };
                    return Err(Rejection { reason, retry_after: Some(pause) });
                }
            }
        };
        if let Some((entry, pause)) = displaced {
            entry.item.meet(Fate::Refused(Rejection { reason: Reason::QueueFull, retry_after: Some(pause) }));
        }
        fence(Ordering::SeqCst);
        self.balancer.hand_over(now);
        Ok(())
    }

    /// How long it waits at most; its timer is the caller's.
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// The answer, if it is there.
    pub fn answer(&mut self) -> Option<Handed> {
        let mut fate = lock(&self.waiter.fate);
        if matches!(*fate, Fate::Waiting(_)) {
            return None;
        }
        match std::mem::replace(&mut *fate, Fate::Over) {
            Fate::Given(ticket) => Some(Ok(ticket)),
            Fate::Refused(rejection) => Some(Err(rejection)),
            Fate::Waiting(_) | Fate::Over => None,
        }
    }

    /// Leaves because the time is over; the answer if it came at the last moment.
    ///
    /// # Errors
    /// The refusal to tell the client.
    pub fn give_up(mut self, now: Time) -> Handed {
        if let Some(answer) = self.answer() {
            return answer;
        }
        let retry_after = lock(&self.balancer.waiting.queue).retry_after(now, self.waiter.group());
        Err(Rejection { reason: Reason::QueueTimeout, retry_after: Some(retry_after) })
    }
}

impl Future for Place {
    type Output = Handed;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Handed> {
        let this = self.get_mut();
        if let Some(answer) = this.answer() {
            return Poll::Ready(answer);
        }
        let mut fate = lock(&this.waiter.fate);
        match &mut *fate {
            Fate::Waiting(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => {
                drop(fate);
                this.answer().map_or(Poll::Pending, Poll::Ready)
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // From here on nobody can give it anything; a ticket that it has not looked at ends outside of the locks.
        let fate = std::mem::replace(&mut *lock(&self.waiter.fate), Fate::Over);
        if let (Fate::Waiting(_), Some(position)) = (&fate, self.joined) {
            let waiting = &self.balancer.waiting;
            let mut queue = lock(&waiting.queue);
            drop(queue.remove(position));
            waiting.length.store(queue.len(), Ordering::SeqCst);
        }
        drop(fate);
    }
}

impl Balancer {
    /// The bounds of the queue. A new balancer lets nobody wait.
    pub fn set_queue(&self, rules: QueueRules) {
        lock(&self.waiting.queue).set_rules(rules);
    }

    /// How many wait, by class in the order of [`Priority::ALL`](crate::admission::Priority::ALL), and the bytes that are kept for them.
    pub fn queued(&self) -> ([usize; 3], u64) {
        let queue = lock(&self.waiting.queue);
        (queue.lengths(), queue.bytes())
    }

    /// Whether somebody waits.
    #[inline]
    pub fn is_awaited(&self) -> bool {
        self.waiting.length.load(Ordering::SeqCst) != 0
    }

    /// Whether anybody may wait.
    pub(super) fn may_wait(&self) -> bool {
        lock(&self.waiting.queue).rules().length_max > 0
    }

    /// Serves those who wait as far as there are places, and refuses those whose time is over. To be called every now
    /// and then while somebody waits, for what changes by time alone.
    pub fn tend(self: &Arc<Self>, now: Time) {
        if !self.is_awaited() {
            return;
        }
        let late = {
            let mut queue = lock(&self.waiting.queue);
            let late = queue.expired(now);
            self.waiting.length.store(queue.len(), Ordering::SeqCst);
            late
        };
        for (entry, pause) in late {
            let rejection = Rejection { reason: Reason::QueueTimeout, retry_after: Some(pause) };
            entry.item.meet(Fate::Refused(rejection));
        }
        self.hand_over(now);
    }

    /// Gives every place there is to those who wait, in their order.
    pub(super) fn hand_over(self: &Arc<Self>, now: Time) {
        if !self.is_awaited() {
            return;
        }
        let mut scratch = lock(&self.waiting.scratches).pop().unwrap_or_else(|| {
            Scratch::with_seed(self.waiting.seeds.fetch_add(1, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15))
        });
        let mut races = 0;
        while let Some((position, entry)) = self.next_in_turn(now, &mut scratch.candidates) {
            let Entry { item: waiter, since, .. } = &entry;
            let waited = now.since(*since);
            match self.try_now(now, &waiter.shape, &waiter.tried, &mut scratch, false) {
                Some(ticket) => self.give(now, position, waiter, waited, ticket),
                None => {
                    self.put_back(now, position, entry);
                    races += 1;
                    if races >= RACES_MAX {
                        break;
                    }
                    fence(Ordering::SeqCst);
                }
            }
        }
        lock(&self.waiting.scratches).push(scratch);
    }

    /// Puts back whoever somebody else was quicker than, unless it has left meanwhile: then nobody would take it out.
    fn put_back(&self, now: Time, position: Position, entry: Entry<Arc<Waiter>>) {
        let mut queue = lock(&self.waiting.queue);
        // Who leaves says so first and takes itself out then, under this lock.
        let waits = matches!(*lock(&entry.item.fate), Fate::Waiting(_));
        if waits {
            queue.put_back(now, position, entry);
        }
        self.waiting.length.store(queue.len(), Ordering::SeqCst);
    }

    fn give(&self, now: Time, position: Position, waiter: &Waiter, waited: Duration, mut ticket: Ticket) {
        lock(&self.waiting.queue).handed(now, position);
        for observer in &self.observers {
            observer.waited(position.priority(), waited);
        }
        ticket.waited(waited);
        ticket.dropped_means(|| Censor::ClientGone);
        // One who has left in the meantime gives it back: the ticket ends here, outside of the locks, and with that
        // the place goes to the next.
        drop(waiter.meet(Fate::Given(Box::new(ticket))));
    }

    /// Takes out the first in turn for whom there is a place.
    fn next_in_turn(&self, now: Time, candidates: &mut Vec<Candidate>) -> Option<(Position, Entry<Arc<Waiter>>)> {
        let fleet = self.fleet.load();
        let panic_below = self.care.load().ejection.panic_below;
        // The fewest tokens for which there is no place, by model.
        let mut without: HashMap<Option<Arc<str>>, u64> = HashMap::new();
        let mut can = |waiter: &Arc<Waiter>| {
            // Who asks for the same model as one before who found no place, and for no fewer tokens, finds none either.
            let tokens = self.expected_tokens(&fleet, &waiter.shape);
            if without.get(&waiter.shape.model).is_some_and(|none| tokens >= *none) {
                return false;
            }
            gather(&fleet, now, &waiter.shape, &waiter.tried, tokens, panic_below, candidates);
            if candidates.is_empty() && waiter.tried.is_empty() {
                without.insert(waiter.shape.model.clone(), tokens);
            }
            !candidates.is_empty()
        };
        let mut queue = lock(&self.waiting.queue);
        let taken = queue.take(now, &mut can);
        self.waiting.length.store(queue.len(), Ordering::SeqCst);
        taken
    }
}

#[cfg(test)]
mod tests {
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
}
