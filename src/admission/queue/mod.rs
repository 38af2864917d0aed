//! The order in which requests wait for a node to free, and who must not wait at all.
//!
//! One line for the fleet rather than one per node: a request that waits before one node while another frees is the
//! worst of both. Bounded in requests and bytes; classes by priority; within a class by arrival, until the class has
//! been waiting without a break for [`QueueRules::lifo_after`]: then the newest first (the adaptive LIFO of Facebook,
//! Maurer 2015, beside CoDel), because under lasting overload the oldest have the least time left, and serving them in
//! turn makes everybody late. Whoever would wait beyond his deadline, by the pace at which those of his group have been
//! moving, is refused at once and told when to come back; one with nobody ahead always may wait.
//!
//! It holds anything, knows no nodes and no clock, and wakes nobody: that is the balancer's.

mod pace;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Time;
use pace::Groups;
pub use rules::{Priority, QueueRules, Terms};

/// A place in the queue, given once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    class: Priority,
    /// Grows with every arrival.
    number: u64,
    group: u64,
    /// Whether it is taken out before one of a higher class who could have had the same place.
    overtakes: bool,
}

impl Position {
    /// The class that it is in.
    pub fn priority(self) -> Priority {
        self.class
    }
}

/// Why somebody cannot wait, and when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// There is no room.
    Full(Duration),
    /// The wait would be longer than the time that there is.
    Hopeless(Duration),
}

/// A place, and whoever had to leave for it; or who cannot wait, and why.
pub type Pushed<T> = Result<(Position, Option<Entry<T>>), (T, Turned)>;

/// Somebody who waits.
#[derive(Debug)]
pub struct Entry<T> {
    /// Who.
    pub item: T,
    /// Since when.
    pub since: Time,
    /// On what terms.
    pub terms: Terms,
    group: u64,
}

impl<T> Entry<T> {
    fn position(&self, class: Priority, number: u64) -> Position {
        Position { class, number, group: self.group, overtakes: false }
    }
}

#[derive(Debug)]
struct Line<T> {
    waiting: BTreeMap<u64, Entry<T>>,
    /// Since when there has always been somebody.
    standing: Time,
}

/// A hand-over to a lower class while a higher one waits comes at most once in so many: a twentieth of the places, for
/// what would otherwise never run.
const RELIEF_EVERY: u32 = 20;

/// Bounds of what is said of when to come back.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The queue.
#[derive(Debug)]
pub struct Queue<T> {
    lines: [Line<T>; 3],
    rules: QueueRules,
    length: usize,
    bytes: u64,
    next: u64,
    groups: Groups,
    /// The last who had come when a lower class was last preferred, and hand-overs since.
    relieved: u64,
    since_relief: u32,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let line = || Line { waiting: BTreeMap::new(), standing: Time::ZERO };
        Queue {
            lines: [line(), line(), line()],
            rules: QueueRules::OFF,
            length: 0,
            bytes: 0,
            next: 0,
            groups: Groups::default(),
            relieved: 0,
            since_relief: 0,
        }
    }
}

impl<T> Queue<T> {
    /// The bounds in force.
    pub fn rules(&self) -> QueueRules {
        self.rules
    }

    /// Other bounds from now on; those who wait go on waiting.
    pub fn set_rules(&mut self, rules: QueueRules) {
        self.rules = rules;
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many wait in each class.
    pub fn lengths(&self) -> [usize; 3] {
        [0, 1, 2].map(|class| self.lines[class].waiting.len())
    }

    /// Bytes that are kept for those who wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Lets `item` wait. Returns its place, and whoever had to leave for it: of a lower class, or of its own, if the
    /// newest goes first there and that one is the oldest. Who is in the same `group` waits for the same nodes.
    ///
    /// # Errors
    /// The item, and why it cannot wait.
    pub fn push(&mut self, now: Time, terms: Terms, group: u64, item: T) -> Pushed<T> {
        let class = terms.priority;
        let ahead = self.ahead(now, class, group);
        let wait_s = self.groups.wait_s(now, group, ahead);
        let patience_s = terms.deadline.seconds_since(now);
        if patience_s <= 0.0 || (ahead > 0 && wait_s > patience_s) {
            return Err((item, Turned::Hopeless(pause(wait_s - patience_s))));
        }
        let QueueRules { length_max, bytes_max, .. } = self.rules;
        let is_over =
            |queue: &Self| queue.length + 1 > length_max || queue.bytes.saturating_add(terms.bytes) > bytes_max;
        let mut displaced = None;
        if is_over(self) {
            let victim = self.victim(now, class).filter(|(_, entry)| {
                self.length <= length_max && (self.bytes - entry.terms.bytes).saturating_add(terms.bytes) <= bytes_max
            });
            let victim = victim.map(|(position, _)| position);
            displaced = victim.and_then(|victim| self.remove(victim));
            if displaced.is_none() {
                return Err((item, Turned::Full(self.retry_after(now, group))));
            }
        }
        self.next += 1;
        let position = Position { class, number: self.next, group, overtakes: false };
        self.insert(now, position, Entry { item, since: now, terms, group });
        Ok((position, displaced))
    }

    fn insert(&mut self, now: Time, position: Position, entry: Entry<T>) {
        let line = &mut self.lines[position.class as usize];
        if line.waiting.is_empty() {
            line.standing = now;
        }
        self.length += 1;
        self.bytes += entry.terms.bytes;
        self.groups.join(now, position.group, position.class as usize);
        line.waiting.insert(position.number, entry);
    }

    /// Who has to leave first for one of `class`.
    fn victim(&self, now: Time, class: Priority) -> Option<(Position, &Entry<T>)> {
        let lower = Priority::ALL.into_iter().rev().take_while(|other| *other > class);
        let lowest = lower.map(|other| (other, &self.lines[other as usize])).find(|(_, line)| !line.waiting.is_empty());
        let (class, line) = match lowest {
            Some(found) => found,
            None if self.is_overloaded(now, class) => (class, &self.lines[class as usize]),
            None => return None,
        };
        // Whoever would be served last.
        let last =
            if self.is_overloaded(now, class) { line.waiting.iter().next() } else { line.waiting.iter().next_back() };
        last.map(|(number, entry)| (entry.position(class, *number), entry))
    }

    /// Takes out whoever leaves; `None` if it is not there any more.
    pub fn remove(&mut self, position: Position) -> Option<Entry<T>> {
        let entry = self.lines[position.class as usize].waiting.remove(&position.number)?;
        self.length -= 1;
        self.bytes -= entry.terms.bytes;
        self.groups.leave(position.group, position.class as usize);
        Some(entry)
    }

    /// Takes out the first in turn for whom `can` says that there is a place. Whose deadline has passed has no turn.
    pub fn take(&mut self, now: Time, mut can: impl FnMut(&T) -> bool) -> Option<(Position, Entry<T>)> {
        let first = Priority::ALL.into_iter().find_map(|class| self.first(now, class, &mut can))?;
        let relief = self.relief(now, first, &mut can);
        let position = Position { overtakes: relief.is_some(), ..relief.unwrap_or(first) };
        self.remove(position).map(|entry| (position, entry))
    }

    /// The first in turn of a class for whom there is a place.
    fn first(&self, now: Time, class: Priority, can: &mut impl FnMut(&T) -> bool) -> Option<Position> {
        let line = &self.lines[class as usize].waiting;
        let mut fits = |(_, entry): &(&u64, &Entry<T>)| entry.terms.deadline > now && can(&entry.item);
        let found = match self.is_overloaded(now, class) {
            true => line.iter().rev().find(&mut fits),
            false => line.iter().find(&mut fits),
        };
        found.map(|(number, entry)| entry.position(class, *number))
    }

    /// Who is preferred to `first` now, so that his class does not starve: of the lower ones that whose oldest has waited
    /// longest. Only if `first` has not been overtaken yet: so it costs nobody more than one place. Where the newest
    /// goes first nobody counts on his place, and the oldest, who were overtaken long ago, are not waited for.
    fn relief(&self, now: Time, first: Position, can: &mut impl FnMut(&T) -> bool) -> Option<Position> {
        let unharmed = first.number > self.relieved || self.is_overloaded(now, first.class);
        if self.since_relief + 1 < RELIEF_EVERY || !unharmed {
            return None;
        }
        let oldest = |class: &Priority| self.lines[*class as usize].waiting.keys().next().copied();
        let mut lower: Vec<_> = Priority::ALL.into_iter().filter(|class| *class > first.class).collect();
        lower.sort_unstable_by_key(|class| oldest(class).unwrap_or(u64::MAX));
        lower.into_iter().find_map(|class| self.first(now, class, can))
    }

    /// The oldest of each class that has one.
    pub fn fronts(&self) -> impl Iterator<Item = (Position, &Entry<T>)> {
        Priority::ALL.into_iter().filter_map(|class| {
            let (number, entry) = self.lines[class as usize].waiting.iter().next()?;
            Some((entry.position(class, *number), entry))
        })
    }

    /// Puts back whoever was taken out for a place that somebody else got: as if nothing had been, but that nothing is
    /// known any more of the pace of one who waits alone.
    pub fn put_back(&mut self, now: Time, position: Position, entry: Entry<T>) {
        let standing = self.lines[position.class as usize].standing;
        self.insert(now, position, entry);
        self.lines[position.class as usize].standing = standing;
    }

    /// Whoever was taken out at `position` has got a place.
    pub fn handed(&mut self, now: Time, position: Position) {
        self.groups.handed(now, position.group);
        self.since_relief = self.since_relief.saturating_add(1);
        if position.overtakes {
            (self.relieved, self.since_relief) = (self.next, 0);
        }
    }

    /// Takes out everybody whose deadline has passed, each with when to come back.
    pub fn expired(&mut self, now: Time) -> Vec<(Entry<T>, Duration)> {
        let late = |class: Priority| {
            let line = &self.lines[class as usize].waiting;
            let late = line.iter().filter(|(_, entry)| entry.terms.deadline <= now);
            late.map(move |(number, entry)| entry.position(class, *number))
        };
        let late: Vec<Position> = Priority::ALL.into_iter().flat_map(late).collect();
        let pauses: Vec<Duration> = late.iter().map(|position| self.retry_after(now, position.group)).collect();
        let out = |(position, pause)| self.remove(position).map(|entry| (entry, pause));
        late.into_iter().zip(pauses).filter_map(out).collect()
    }

    /// When to come back, by the pace at which those of `group` who wait now would be gone.
    pub fn retry_after(&self, now: Time, group: u64) -> Duration {
        pause(self.groups.wait_s(now, group, self.ahead(now, Priority::Batch, group)))
    }

    /// How many of `group` a newcomer of `class` finds ahead of him.
    fn ahead(&self, now: Time, class: Priority, group: u64) -> usize {
        let waiting = self.groups.waiting(group);
        let ahead = |other: Priority| {
            let jumps = other == class && self.is_overloaded(now, class);
            if other > class || jumps { 0 } else { waiting[other as usize] }
        };
        Priority::ALL.into_iter().map(ahead).sum()
    }

    fn is_overloaded(&self, now: Time, class: Priority) -> bool {
        let line = &self.lines[class as usize];
        !line.waiting.is_empty() && self.rules.lifo_after.is_some_and(|after| now.since(line.standing) >= after)
    }
}

fn pause(seconds: f64) -> Duration {
    let (least, most) = RETRY_AFTER;
    Duration::from_secs_f64(seconds.clamp(least.as_secs_f64(), most.as_secs_f64()))
}
