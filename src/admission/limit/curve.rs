//! How long a node's answers take by how much it has in flight, as far as that was seen.
//!
//! Means by level, [`STEPS`] levels to a doubling, and not one line through everything: a node with workers and a node
//! that batches differ in the bend, which a line has not. A level that is not visited any more keeps what it knows, which
//! is what tells a rush from a quiet hour, and is scaled with half of what the visited ones find changed: a node that has
//! become slower altogether is not taken for one that has too much to do. It knows nothing of limits.

use crate::node::IN_FLIGHT_MAX;

/// Levels to a doubling of what is in flight.
const STEPS: f64 = 2.0;
/// Levels up to [`IN_FLIGHT_MAX`], one in flight being the first.
const LEVELS: usize = (IN_FLIGHT_MAX.ilog2() as usize + 1) * STEPS as usize + 1;
/// Answers that a level's mean is of: some response times of a busy node.
const MEMORY: f64 = 60.0;
/// Answers from which on a level is known.
const KNOWN: f64 = 10.0;
/// Answers that what is compared with is at least of.
const ENOUGH: f64 = 60.0;
/// What a longer answer counts as, in means of its level.
const LONGEST: f64 = 10.0;
/// The part of what a level finds changed that is taken to have changed at all.
const COMMON: f64 = 0.5;
/// What is compared with has at most this part of what is in flight: nearer, the difference is chance.
const APART: f64 = 0.5;

/// Means of a level, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Level {
    /// How many answers they are of, at most [`MEMORY`] per level.
    answers: f64,
    /// What was in flight, times for how long, for an answer.
    area: f64,
    /// What an answer was worth.
    worth: f64,
    /// What was in flight.
    pub(super) in_flight: f64,
}

impl Level {
    /// What an answer takes that is worth 1: by Little's law, what is in flight over what is answered.
    pub(super) fn took(&self) -> f64 {
        self.area / self.worth
    }

    fn and(self, other: Level, answers: f64) -> Level {
        let part = other.answers / (self.answers + other.answers);
        let mean = |of: fn(&Level) -> f64| of(&self) + part * (of(&other) - of(&self));
        Level {
            answers,
            area: mean(|level| level.area),
            worth: mean(|level| level.worth),
            in_flight: mean(|level| level.in_flight),
        }
    }
}

/// What is known around a level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Reading {
    /// The level itself.
    pub(super) here: Level,
    /// The least that was ever in flight.
    pub(super) least: Level,
    /// The next below it that is far enough away to tell a difference.
    pub(super) below: Option<Level>,
}

/// The curve of one node.
#[derive(Clone, Debug)]
pub(super) struct Curve([Level; LEVELS]);

impl Default for Curve {
    fn default() -> Self {
        Curve([Level::default(); LEVELS])
    }
}

impl Curve {
    /// An answer worth so much came, so long after the one before it, with so many in flight on average meanwhile; what is
    /// known there, if anything is. All finite and at least 0, the worth above it.
    pub(super) fn observe(&mut self, area: f64, in_flight: f64, worth: f64) -> Option<Reading> {
        let in_flight = in_flight.clamp(1.0, f64::from(IN_FLIGHT_MAX));
        let at = ((STEPS * in_flight.log2()).round() as usize).min(LEVELS - 1);
        let before = self.0[at];
        // A pause of minutes is not a response time.
        let area = if before.answers >= KNOWN { area.min(LONGEST * before.area) } else { area };
        let expected = self.expected(in_flight);
        let answers = (before.answers + 1.0).min(MEMORY);
        let answer = Level { answers: 1.0, area, worth, in_flight };
        self.0[at] = Level { answers: answers - 1.0, ..before }.and(answer, answers);
        if let (Some(before), Some(after)) = (expected, self.expected(in_flight)) {
            // A product of these is what is expected to what was: those that are not visited do not wander.
            let change = (after / before).powf(COMMON);
            let others = self.0.iter_mut().enumerate().filter(|(level, _)| level.abs_diff(at) > 1);
            others.for_each(|(_, level)| level.area *= change);
        }
        (answers >= KNOWN).then(|| self.around(at))
    }

    /// What an answer takes with so many in flight, if levels on both sides are well known: on one line with those.
    fn expected(&self, in_flight: f64) -> Option<f64> {
        let known = |level: &&Level| level.answers >= MEMORY;
        let above = self.0.iter().filter(known).find(|level| level.in_flight >= in_flight)?;
        let below = self.0.iter().rev().filter(known).find(|level| level.in_flight < in_flight)?;
        let part = (in_flight - below.in_flight) / (above.in_flight - below.in_flight);
        Some(below.took() + part * (above.took() - below.took()))
    }

    fn around(&self, at: usize) -> Reading {
        let here = self.0[at];
        let least = enough(self.0[..=at].iter());
        let below = enough(self.0[..at].iter().rev().filter(|level| level.in_flight <= APART * here.in_flight));
        Reading { here, least, below: Some(below).filter(|below| below.answers >= KNOWN) }
    }
}

/// As many of the first levels, together, as there are [`ENOUGH`] answers in.
fn enough<'a>(levels: impl Iterator<Item = &'a Level>) -> Level {
    let mut sum = Level::default();
    for level in levels {
        if level.answers > 0.0 {
            sum = sum.and(*level, sum.answers + level.answers);
        }
        if sum.answers >= ENOUGH {
            break;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taught(curve: &mut Curve, took: impl Fn(f64) -> f64, in_flight: impl IntoIterator<Item = u32>) {
        for in_flight in in_flight.into_iter().map(f64::from) {
            (0..200).for_each(|_| _ = curve.observe(took(in_flight), in_flight, 1.0));
        }
    }

    #[test]
    fn it_tells_what_is_known_here_next_below_and_of_the_quietest_time() {
        let mut curve = Curve::default();
        taught(&mut curve, |n| 1.0 + 0.1 * n, [2, 6, 10, 16]);
        let reading = curve.observe(2.6, 16.0, 1.0).expect("known");
        let rounded = |level: Level| (level.in_flight, (level.took() * 10.0).round() / 10.0);
        assert_eq!(rounded(reading.here), (16.0, 2.6));
        assert_eq!(reading.below.map(rounded), Some((6.0, 1.6)));
        assert_eq!(rounded(reading.least), (2.0, 1.2));
        assert_eq!(curve.observe(9.0, 60_000.0, 1.0), None, "nothing is known there");
    }

    #[test]
    fn an_answer_counts_by_what_it_is_worth() {
        let mut curve = Curve::default();
        (0..1_000).for_each(|at| _ = curve.observe(1.0, 4.0, if at % 2 == 0 { 0.1 } else { 1.9 }));
        let took = curve.observe(1.0, 4.0, 1.0).expect("known").here.took();
        assert!((took - 1.0).abs() < 0.05, "{took}");
    }

    #[test]
    fn a_node_that_becomes_slower_altogether_is_not_taken_for_one_that_has_too_much_to_do() {
        let mut curve = Curve::default();
        taught(&mut curve, |_| 1.0, [1, 6, 12]);
        let least = |curve: &mut Curve, took| curve.observe(took, 9.0, 1.0).expect("known").least.took();
        taught(&mut curve, |_| 1.0, [9]);
        assert!((least(&mut curve, 1.0) - 1.0).abs() < 0.01);
        taught(&mut curve, |_| 4.0, [9]);
        let before = least(&mut curve, 4.0);
        assert!(before > 1.5, "a good part of the way: {before}");
        // And an hour of the same changes nothing.
        (0..20_000).for_each(|at| _ = curve.observe(if at % 2 == 0 { 1.0 } else { 7.0 }, 9.0, 1.0));
        let after = least(&mut curve, 4.0);
        assert!((after / before - 1.0).abs() < 0.2, "{before} to {after}");
    }
}
