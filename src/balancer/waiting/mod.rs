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

#[cfg(test)]
mod tests;

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
use crate::balancer::hold::Hold;
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
pub(super) struct Waiter {
    pub(super) shape: RequestShape,
    pub(super) tried: Vec<NodeId>,
    fate: Mutex<Fate>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
    /// Room that is kept for a large one, and for how many tokens; 0 for none.
    pub(super) held: Mutex<Option<Hold>>,
    pub(super) held_tokens: AtomicU64,
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
            self.give_room();
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
        let held_tokens = self.waiting.held_tokens.load(Ordering::Relaxed);
        let mut can = |waiter: &Arc<Waiter>| {
            // Who asks for the same model as one before who found no place, and for no fewer tokens, finds none either.
            let tokens = self.expected_tokens(&fleet, &waiter.shape);
            // But where room is kept, it is for those who are large enough.
            let larger_fail = |none: &u64| tokens >= *none && (*none >= held_tokens || tokens < held_tokens);
            if without.get(&waiter.shape.model).is_some_and(larger_fail) {
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
        if taken.is_none() {
            self.keep_room(now, &fleet, &queue);
        }
        taken
    }
}
