//! A new fit against the one in force, on observations that neither has seen.

use crate::learn::guard::{Decayed, log_error};

/// Time constant of the errors in seconds.
const TAU_S: f64 = 10.0;

/// The new fit may be so many times as wrong as the one in force.
const WORSE: f64 = 1.5;

/// Errors below this are as good as none: 5 %.
const FLOOR: f64 = 0.05;

/// Sum of weights below which nobody is judged.
const EVIDENCE_MIN: f64 = 10.0;

/// Decayed mean `|ln(predicted / observed)|` of new fits and of those that were in force.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Check {
    new: Decayed,
    running: Decayed,
}

impl Check {
    /// Lets `seconds` pass.
    pub(super) fn decay(&mut self, seconds: f64) {
        let keep = (-seconds.max(0.0) / TAU_S).exp();
        self.new.decay(keep);
        self.running.decay(keep);
    }

    /// An observation and what both said.
    pub(super) fn add(&mut self, new_s: f64, running_s: f64, observed_s: f64) {
        self.new.add(log_error(new_s, observed_s));
        self.running.add(log_error(running_s, observed_s));
    }

    /// Whether the new fit may be published.
    pub(super) fn passes(&self) -> bool {
        match (self.new.mean(), self.running.mean()) {
            (Some(new), Some(running)) if self.new.weight() >= EVIDENCE_MIN => new <= WORSE * running.max(FLOOR),
            _ => true,
        }
    }

    /// A bad fit was thrown away: the next one is judged by its own errors.
    pub(super) fn forgive(&mut self) {
        self.new = self.running;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clearly_worse_fit_is_rejected_and_its_successor_gets_its_own_chance() {
        let mut check = Check::default();
        (0..5).for_each(|_| check.add(9.0, 1.1, 1.0));
        assert!(check.passes(), "five observations are no evidence");
        (0..50).for_each(|_| check.add(9.0, 1.1, 1.0));
        assert!(!check.passes());
        check.forgive();
        (0..50).for_each(|_| check.add(1.1, 1.1, 1.0));
        assert!(check.passes());
    }
}
