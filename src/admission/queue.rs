//! The order in which requests wait for a node to free, and who must not wait at all.
//!
//! One line for the fleet rather than one per node: a request that waits before one node while another frees is the
//! worst of both. Bounded in requests and bytes; classes by priority; within a class by arrival, until the class has
//! been waiting without a break for [`QueueRules::lifo_after`]: then the newest first (the adaptive LIFO of Facebook,
//! Maurer 2015, beside CoDel), because under lasting overload the oldest have the least time left, and serving them in
//! turn makes everybody late. Whoever would wait beyond his deadline, by the rate at which the line has been moving, is
//! refused at once and told when to come back.
//!
//! It holds anything, knows no nodes and no clock, and wakes nobody: that is the balancer's.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Time;

/// Class of a request in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody waits for it.
    Interactive,
    /// The usual.
    #[default]
    Default,
    /// Nobody waits for it.
    Batch,
}

impl Priority {
    /// Every class, the first served first.
    pub const ALL: [Priority; 3] = [Priority::Interactive, Priority::Default, Priority::Batch];

    /// The word for configuration, headers and labels.
    pub fn word(self) -> &'static str {
        match self {
            Priority::Interactive => "interactive",
            Priority::Default => "default",
            Priority::Batch => "batch",
        }
    }

    /// The class of that name.
    pub fn named(word: &str) -> Option<Priority> {
        Priority::ALL.into_iter().find(|class| class.word().eq_ignore_ascii_case(word))
    }
}

/// The bounds of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRules {
    /// Requests that may wait; 0 lets nobody wait.
    pub length_max: usize,
    /// Bytes of the bodies of those.
    pub bytes_max: u64,
    /// How long a request waits that does not say how long it would.
    pub timeout: Duration,
    /// The longest that one may wait by its own wish.
    pub timeout_max: Duration,
    /// When a class has had somebody waiting for so long, the newest goes first; `None` is never.
    pub lifo_after: Option<Duration>,
}

impl Default for QueueRules {
    /// 1,024 requests and 64 MiB are a burst and no more; half a minute is what people wait; a line that has not been
    /// empty for ten seconds is overload, not a burst.
    fn default() -> Self {
        QueueRules {
            length_max: 1024,
            bytes_max: 64 * 1024 * 1024,
            timeout: Duration::from_secs(30),
            timeout_max: Duration::from_secs(600),
            lifo_after: Some(Duration::from_secs(10)),
        }
    }
}

impl QueueRules {
    /// Nobody waits.
    pub const OFF: QueueRules = QueueRules {
        length_max: 0,
        bytes_max: 0,
        timeout: Duration::from_secs(30),
        timeout_max: Duration::from_secs(600),
        lifo_after: None,
    };
}

/// What one asks for who wants to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Class.
    pub priority: Priority,
    /// Bytes that are kept while it waits.
    pub bytes: u64,
    /// Until when.
    pub deadline: Time,
}

/// A place in the queue. Grows with every arrival; given once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(Priority, u64);

impl Position {
    /// The class that it is in.
    pub fn priority(self) -> Priority {
        self.0
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

/// Time constant of the rate of hand-overs, in seconds: a few response times of a model server.
const RATE_MEMORY_S: f64 = 10.0;

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
    /// Decayed hand-overs, and decayed seconds in which there was somebody to hand over to.
    handed: f64,
    standing_s: f64,
    seen: Time,
    /// When a lower class was last preferred, and hand-overs since.
    relieved: Time,
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
            handed: 0.0,
            standing_s: 0.0,
            seen: Time::ZERO,
            relieved: Time::ZERO,
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
    /// newest goes first there and that one is the oldest.
    ///
    /// # Errors
    /// The item, and why it cannot wait.
    pub fn push(&mut self, now: Time, terms: Terms, item: T) -> Pushed<T> {
        self.pass(now);
        let class = terms.priority;
        let wait_s = self.wait_s(now, class);
        let patience_s = terms.deadline.seconds_since(now);
        if patience_s <= 0.0 || wait_s > patience_s {
            return Err((item, Turned::Hopeless(pause(wait_s - patience_s))));
        }
        let QueueRules { length_max, bytes_max, .. } = self.rules;
        let is_over =
            |queue: &Self| queue.length + 1 > length_max || queue.bytes.saturating_add(terms.bytes) > bytes_max;
        let mut displaced = None;
        if is_over(self) {
            let victim = self.victim(now, class).filter(|victim| {
                let freed = self.entry(*victim).map_or(0, |entry| entry.terms.bytes);
                self.length <= length_max && (self.bytes - freed).saturating_add(terms.bytes) <= bytes_max
            });
            displaced = victim.and_then(|victim| self.remove(now, victim));
            if displaced.is_none() {
                return Err((item, Turned::Full(pause(self.wait_s(now, Priority::Batch)))));
            }
        }
        self.next += 1;
        let position = Position(class, self.next);
        self.insert(now, position, Entry { item, since: now, terms });
        Ok((position, displaced))
    }

    fn insert(&mut self, now: Time, position: Position, entry: Entry<T>) {
        let line = &mut self.lines[position.0 as usize];
        if line.waiting.is_empty() {
            line.standing = now;
        }
        self.length += 1;
        self.bytes += entry.terms.bytes;
        line.waiting.insert(position.1, entry);
    }

    fn entry(&self, position: Position) -> Option<&Entry<T>> {
        self.lines[position.0 as usize].waiting.get(&position.1)
    }

    /// Who has to leave first for one of `class`.
    fn victim(&self, now: Time, class: Priority) -> Option<Position> {
        let lower = Priority::ALL.into_iter().rev().take_while(|other| *other > class);
        let lowest = lower.map(|other| (other, &self.lines[other as usize])).find(|(_, line)| !line.waiting.is_empty());
        let (class, line) = match lowest {
            Some(found) => found,
            None if self.is_overloaded(now, class) => (class, &self.lines[class as usize]),
            None => return None,
        };
        // Whoever would be served last.
        let last =
            if self.is_overloaded(now, class) { line.waiting.keys().next() } else { line.waiting.keys().next_back() };
        last.map(|key| Position(class, *key))
    }

    /// Takes out whoever leaves; `None` if it is not there any more.
    pub fn remove(&mut self, now: Time, position: Position) -> Option<Entry<T>> {
        self.pass(now);
        let entry = self.lines[position.0 as usize].waiting.remove(&position.1)?;
        self.length -= 1;
        self.bytes -= entry.terms.bytes;
        Some(entry)
    }

    /// Takes out the first in turn for whom `can` says that there is a place. Whose deadline has passed has no turn.
    pub fn take(&mut self, now: Time, mut can: impl FnMut(&T) -> bool) -> Option<(Position, Entry<T>)> {
        self.pass(now);
        let mut classes = Priority::ALL;
        if let Some(relief) = self.relief() {
            // The one that is preferred goes first, the others keep their order.
            classes[..=relief as usize].rotate_right(1);
        }
        for class in classes {
            let newest_first = self.is_overloaded(now, class);
            let line = &self.lines[class as usize];
            let mut fits = |(_, entry): &(&u64, &Entry<T>)| entry.terms.deadline > now && can(&entry.item);
            let found = match newest_first {
                true => line.waiting.iter().rev().find(&mut fits),
                false => line.waiting.iter().find(&mut fits),
            };
            if let Some(key) = found.map(|(key, _)| *key) {
                let position = Position(class, key);
                return self.remove(now, position).map(|entry| (position, entry));
            }
        }
        None
    }

    /// Puts back whoever was taken out for a place that somebody else got: as if nothing had been.
    pub fn put_back(&mut self, now: Time, position: Position, entry: Entry<T>) {
        self.pass(now);
        let standing = self.lines[position.0 as usize].standing;
        self.insert(now, position, entry);
        self.lines[position.0 as usize].standing = standing;
    }

    /// Whoever was taken out at `position` has got a place.
    pub fn handed(&mut self, now: Time, position: Position) {
        self.pass(now);
        self.handed += 1.0;
        self.since_relief = self.since_relief.saturating_add(1);
        let overtook = self.lines[..position.0 as usize].iter().any(|line| !line.waiting.is_empty());
        if overtook {
            (self.relieved, self.since_relief) = (now, 0);
        }
    }

    /// Takes out everybody whose deadline has passed.
    pub fn expired(&mut self, now: Time) -> Vec<Entry<T>> {
        let late = |class: Priority| {
            let line = &self.lines[class as usize].waiting;
            line.iter().filter(|(_, entry)| entry.terms.deadline <= now).map(move |(key, _)| Position(class, *key))
        };
        let late: Vec<Position> = Priority::ALL.into_iter().flat_map(late).collect();
        late.into_iter().filter_map(|position| self.remove(now, position)).collect()
    }

    /// When to come back, by the rate at which those who wait now would be gone.
    pub fn retry_after(&self, now: Time) -> Duration {
        pause(self.wait_s(now, Priority::Batch))
    }

    /// The class that is preferred to higher ones now, so that it does not starve: the one whose oldest has waited
    /// longest. Only if nobody in a higher class has been overtaken yet: so it costs nobody more than one place.
    fn relief(&self) -> Option<Priority> {
        if self.since_relief + 1 < RELIEF_EVERY {
            return None;
        }
        let highest = self.lines.iter().position(|line| !line.waiting.is_empty())?;
        let oldest = |class: &Priority| self.lines[*class as usize].waiting.keys().next().copied();
        let lower = Priority::ALL.into_iter().skip(highest + 1).filter(|class| oldest(class).is_some());
        let class = lower.min_by_key(|class| oldest(class))?;
        let above = self.lines[..class as usize].iter().filter_map(|line| line.waiting.values().next());
        let unharmed = above.into_iter().all(|entry| self.relieved == Time::ZERO || entry.since > self.relieved);
        unharmed.then_some(class)
    }

    fn is_overloaded(&self, now: Time, class: Priority) -> bool {
        let line = &self.lines[class as usize];
        !line.waiting.is_empty() && self.rules.lifo_after.is_some_and(|after| now.since(line.standing) >= after)
    }

    /// How long a newcomer of `class` would wait, in seconds, by the rate at which the line has been moving: 0 while
    /// nothing is known of that. Who waits for different models shares one rate, which is the best guess there is.
    fn wait_s(&self, now: Time, class: Priority) -> f64 {
        let ahead = |other: Priority| {
            let jumps = other == class && self.is_overloaded(now, class);
            if other > class || jumps { 0 } else { self.lines[other as usize].waiting.len() }
        };
        let ahead: usize = Priority::ALL.into_iter().map(ahead).sum();
        let standing_s = self.standing_now_s(now);
        // At least as if one were about to be handed over now: a line that stands still has a rate too.
        (ahead as f64 + 1.0) * standing_s / self.handed_now(now).max(1.0)
    }

    fn decay(&self, now: Time) -> f64 {
        if self.length == 0 { 1.0 } else { (-now.seconds_since(self.seen) / RATE_MEMORY_S).exp() }
    }

    fn handed_now(&self, now: Time) -> f64 {
        self.handed * self.decay(now)
    }

    fn standing_now_s(&self, now: Time) -> f64 {
        let decay = self.decay(now);
        self.standing_s * decay + RATE_MEMORY_S * (1.0 - decay)
    }

    /// Lets time pass for the rate. It counts only while somebody waits.
    fn pass(&mut self, now: Time) {
        (self.handed, self.standing_s) = (self.handed_now(now), self.standing_now_s(now));
        self.seen = self.seen.max(now);
    }
}

fn pause(seconds: f64) -> Duration {
    let (least, most) = RETRY_AFTER;
    Duration::from_secs_f64(seconds.clamp(least.as_secs_f64(), most.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use Priority::{Batch, Default as Usual, Interactive};

    fn at(seconds: f64) -> Time {
        Time::from_secs_f64(seconds)
    }

    fn queue(length_max: usize) -> Queue<u32> {
        let mut queue = Queue::default();
        queue.set_rules(QueueRules { length_max, bytes_max: 1_000, lifo_after: None, ..QueueRules::default() });
        queue
    }

    fn terms(priority: Priority, deadline: f64) -> Terms {
        Terms { priority, bytes: 10, deadline: at(deadline) }
    }

    /// Takes the next for any place and counts it as handed over.
    fn serve(queue: &mut Queue<u32>, now: f64) -> Option<u32> {
        let (position, entry) = queue.take(at(now), |_| true)?;
        queue.handed(at(now), position);
        Some(entry.item)
    }

    #[test]
    fn higher_classes_first_and_arrivals_in_order() {
        let mut queue = queue(10);
        for (item, class) in [(1, Batch), (2, Usual), (3, Interactive), (4, Usual), (5, Interactive)] {
            queue.push(at(1.0), terms(class, 99.0), item).expect("room");
        }
        assert_eq!((queue.lengths(), queue.bytes()), ([2, 2, 1], 50));
        let served: Vec<u32> = std::iter::from_fn(|| serve(&mut queue, 1.5)).collect();
        assert_eq!(served, [3, 5, 2, 4, 1]);
        assert!(queue.is_empty() && queue.bytes() == 0);
    }

    #[test]
    fn a_place_goes_to_the_first_who_can_use_it_and_not_to_the_late() {
        let mut queue = queue(10);
        queue.push(at(1.0), terms(Usual, 2.0), 1).expect("room");
        queue.push(at(1.0), terms(Usual, 99.0), 2).expect("room");
        queue.push(at(1.0), terms(Usual, 99.0), 3).expect("room");
        let (position, entry) = queue.take(at(1.0), |item| *item != 1).expect("one");
        assert_eq!(entry.item, 2);
        queue.put_back(at(1.0), position, entry);
        assert_eq!(queue.take(at(3.0), |_| true).expect("one").1.item, 2, "in its old place, and the first is late");
        assert_eq!(queue.expired(at(3.0)).iter().map(|entry| entry.item).collect::<Vec<_>>(), [1]);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn a_full_queue_refuses_and_a_higher_class_displaces_the_newest_of_the_lowest() {
        let mut queue = queue(3);
        for (item, class) in [(1, Usual), (2, Batch), (3, Batch)] {
            queue.push(at(1.0), terms(class, 99.0), item).expect("room");
        }
        let (item, why) = queue.push(at(1.0), terms(Batch, 99.0), 4).expect_err("full");
        assert_eq!((item, why), (4, Turned::Full(Duration::from_secs(1))));
        let displaced = |queue: &mut Queue<u32>, class, item| {
            queue.push(at(1.0), terms(class, 99.0), item).map(|(_, gone)| gone.map(|entry| entry.item)).ok()
        };
        assert_eq!(displaced(&mut queue, Interactive, 5), Some(Some(3)));
        assert_eq!(displaced(&mut queue, Usual, 6), Some(Some(2)));
        assert_eq!(displaced(&mut queue, Usual, 7), None);
        assert_eq!(displaced(&mut queue, Interactive, 8), Some(Some(6)));
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut queue = queue(100);
        let large = Terms { bytes: 600, ..terms(Usual, 99.0) };
        let (first, _) = queue.push(at(1.0), large, 1).expect("room");
        assert!(queue.push(at(1.0), large, 2).is_err());
        assert!(queue.push(at(1.0), Terms { bytes: 400, ..large }, 3).is_ok());
        queue.remove(at(1.0), first).expect("there");
        assert!(queue.push(at(1.0), large, 4).is_ok(), "who leaves makes room");
    }

    #[test]
    fn under_lasting_overload_the_newest_goes_first_and_the_oldest_makes_room() {
        let mut queue = queue(3);
        queue.set_rules(QueueRules { lifo_after: Some(Duration::from_secs(10)), ..queue.rules() });
        for item in 1..=3 {
            queue.push(at(1.0), terms(Usual, 99.0), item).expect("room");
        }
        assert_eq!(serve(&mut queue, 10.9), Some(1));
        assert_eq!(serve(&mut queue, 11.0), Some(3));
        queue.push(at(11.0), terms(Usual, 99.0), 4).expect("room");
        queue.push(at(11.0), terms(Usual, 99.0), 5).expect("room");
        let (_, displaced) = queue.push(at(11.0), terms(Usual, 99.0), 6).expect("the oldest leaves");
        assert_eq!(displaced.map(|entry| entry.item), Some(2));
        assert_eq!(
            [serve(&mut queue, 12.0), serve(&mut queue, 12.0), serve(&mut queue, 12.0)],
            [Some(6), Some(5), Some(4)]
        );
        // It was empty: that was the end of the overload.
        queue.push(at(12.0), terms(Usual, 99.0), 7).expect("room");
        queue.push(at(12.1), terms(Usual, 99.0), 8).expect("room");
        assert_eq!(serve(&mut queue, 13.0), Some(7));
    }

    #[test]
    fn who_would_wait_too_long_is_refused_at_once_and_told_when_to_come_back() {
        let mut queue = queue(100);
        for item in 0..30 {
            queue.push(at(0.0), terms(Usual, 999.0), item).expect("nothing is known yet");
        }
        for second in 1..=20 {
            serve(&mut queue, f64::from(second)).expect("waits");
        }
        // One per second, and ten are ahead.
        let (_, why) = queue.push(at(20.0), terms(Usual, 25.0), 40).expect_err("5 s are too few");
        let Turned::Hopeless(pause) = why else { panic!("{why:?}") };
        assert!((4.0..=9.0).contains(&pause.as_secs_f64()), "{pause:?}");
        queue.push(at(20.0), terms(Interactive, 25.0), 41).expect("nobody is ahead");
        queue.push(at(20.0), terms(Usual, 40.0), 42).expect("20 s are enough");
        let retry_after = queue.retry_after(at(20.0)).as_secs_f64();
        assert!((10.0..=18.0).contains(&retry_after), "{retry_after}");
        assert!(queue.push(at(20.0), terms(Interactive, 20.0), 43).is_err(), "no time at all");
    }

    #[test]
    fn batch_gets_its_turn_and_overtakes_nobody_twice() {
        // Two interactive requests come for every place: the line of those grows, and batch would never run.
        let mut queue = queue(100_000);
        queue.set_rules(QueueRules { bytes_max: u64::MAX, ..queue.rules() });
        let mut overtaken: BTreeMap<u32, u32> = BTreeMap::new();
        let mut batches = 0;
        for step in 0..2_000u32 {
            let now = 1.0 + f64::from(step);
            for item in [2 * step, 2 * step + 1] {
                let _ = queue.push(at(now), terms(Interactive, now + 50.0), item);
            }
            if step % 50 == 0 {
                let _ = queue.push(at(now), terms(Batch, now + 1e6), 1_000_000 + step);
            }
            queue.expired(at(now));
            let waiting: Vec<u32> = queue.lines[0].waiting.values().map(|entry| entry.item).collect();
            if serve(&mut queue, now + 0.5).is_some_and(|item| item >= 1_000_000) {
                batches += 1;
                waiting.into_iter().for_each(|item| *overtaken.entry(item).or_default() += 1);
            }
        }
        assert!(batches >= 20, "{batches}");
        assert_eq!(overtaken.values().max(), Some(&1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn counts_and_bounds_hold_whatever_happens(
            steps in prop::collection::vec((0u8..6, 0usize..3, 0u64..400, 0.0..20.0f64), 1..120),
        ) {
            let mut queue = queue(8);
            queue.set_rules(QueueRules { lifo_after: Some(Duration::from_secs(5)), ..queue.rules() });
            let mut positions = Vec::new();
            let mut now = 1.0;
            for (item, (what, class, bytes, number)) in (0u32..).zip(steps) {
                match what {
                    0..=2 => {
                        let terms = Terms { priority: Priority::ALL[class], bytes, deadline: at(now + number) };
                        positions.extend(queue.push(at(now), terms, item).map(|(position, _)| position));
                    }
                    3 => drop(serve(&mut queue, now)),
                    4 => {
                        positions.pop().and_then(|position| queue.remove(at(now), position));
                    }
                    _ => {
                        now += number / 4.0;
                        queue.expired(at(now));
                    }
                }
                prop_assert_eq!(queue.len(), queue.lengths().iter().sum::<usize>());
                let bytes: u64 = queue.lines.iter().flat_map(|line| line.waiting.values()).map(|entry| entry.terms.bytes).sum();
                prop_assert_eq!(queue.bytes(), bytes);
                prop_assert!(queue.len() <= 8 && bytes <= 1_000);
                let wait = queue.retry_after(at(now));
                prop_assert!((RETRY_AFTER.0..=RETRY_AFTER.1).contains(&wait));
            }
        }
    }
}
