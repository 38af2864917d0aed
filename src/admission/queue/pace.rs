//! How fast those move on who wait for the same nodes, so that one can say how long a newcomer would wait.
//!
//! One pace per *group*, which is a model: a line for a model that stands still says nothing of the line for another, and
//! where two share their nodes, each pace is what the other leaves of them. A pace is known only as long as somebody of
//! the group waits. One that outlived its line would judge newcomers by what was true then, and as they are the only
//! ones who could teach it better, for ever.

use std::collections::BTreeMap;

use crate::clock::Time;

/// Time constant of a pace, in seconds: a few response times of a model server.
const MEMORY_S: f64 = 10.0;

/// Hand-overs and the time in which there was somebody to hand over to, both decayed.
#[derive(Clone, Copy, Debug)]
struct Pace {
    handed: f64,
    standing_s: f64,
    seen: Time,
}

impl Pace {
    fn at(&self, now: Time) -> Pace {
        let decay = (-now.seconds_since(self.seen) / MEMORY_S).exp();
        let standing_s = self.standing_s * decay + MEMORY_S * (1.0 - decay);
        Pace { handed: self.handed * decay, standing_s, seen: self.seen.max(now) }
    }
}

#[derive(Debug)]
struct Group {
    /// How many wait, by class.
    waiting: [usize; 3],
    pace: Pace,
}

/// The groups of which somebody waits.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<u64, Group>);

impl Groups {
    /// Somebody of `group` waits from now on.
    pub(super) fn join(&mut self, now: Time, group: u64, class: usize) {
        let pace = Pace { handed: 0.0, standing_s: 0.0, seen: now };
        let group = self.0.entry(group).or_insert(Group { waiting: [0; 3], pace });
        group.waiting[class] += 1;
    }

    /// Somebody of `group` waits no more.
    pub(super) fn leave(&mut self, group: u64, class: usize) {
        let Some(found) = self.0.get_mut(&group) else { return };
        found.waiting[class] = found.waiting[class].saturating_sub(1);
        if found.waiting == [0; 3] {
            self.0.remove(&group);
        }
    }

    /// Somebody of `group` got a place.
    pub(super) fn handed(&mut self, now: Time, group: u64) {
        if let Some(group) = self.0.get_mut(&group) {
            group.pace = group.pace.at(now);
            group.pace.handed += 1.0;
        }
    }

    /// How many of `group` wait in each class.
    pub(super) fn waiting(&self, group: u64) -> [usize; 3] {
        self.0.get(&group).map_or([0; 3], |group| group.waiting)
    }

    /// How long somebody of `group` would wait behind `ahead` others, in seconds; 0 while nothing is known of that.
    pub(super) fn wait_s(&self, now: Time, group: u64, ahead: usize) -> f64 {
        let Some(group) = self.0.get(&group) else { return 0.0 };
        let Pace { handed, standing_s, .. } = group.pace.at(now);
        // At least as if one were about to be handed over now: a line that stands still has a pace too.
        (ahead as f64 + 1.0) * standing_s / handed.max(1.0)
    }
}
