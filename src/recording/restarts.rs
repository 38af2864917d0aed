//! Where in a recording the recorder was started anew.
//!
//! A recorder appends to what is there, and its clock begins at zero with each process: rows of two runs in one file
//! overlap in time. Whoever reads a recording as one run must know where the next begins.

/// An end that lies so far before the last one is that of another process: rows are written within a second.
const RESTART_S: f64 = 60.0;

/// Watches the ends of attempts as they stand in a recording, and lays its runs one behind the other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restarts {
    latest_s: f64,
    shift_s: f64,
    count: u32,
}

impl Restarts {
    /// An attempt that ended at `ended_s` (finite, 0 or above): whether it is the first of another run.
    pub fn is_first(&mut self, ended_s: f64) -> bool {
        let is_first = ended_s < self.latest_s - RESTART_S;
        if is_first {
            self.shift_s += self.latest_s;
            self.latest_s = 0.0;
            self.count += 1;
        }
        self.latest_s = self.latest_s.max(ended_s);
        is_first
    }

    /// What to add to the times of the present run, so that it begins where the one before ended.
    pub fn shift_s(&self) -> f64 {
        self.shift_s
    }

    /// How often the recorder was started anew so far.
    pub fn count(&self) -> u32 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_follow_each_other_and_disorder_within_one_is_none() {
        let mut restarts = Restarts::default();
        let ends = [10.0, 300.0, 250.0, 400.0, 5.0, 380.0, 500.0, 1.0];
        let seen = ends.map(|end| (restarts.is_first(end), restarts.shift_s() + end));
        assert_eq!(seen.map(|(first, _)| first), [false, false, false, false, true, false, false, true]);
        assert_eq!(seen.map(|(_, end)| end), [10.0, 300.0, 250.0, 400.0, 405.0, 780.0, 900.0, 901.0]);
        assert_eq!(restarts.count(), 2);
    }
}
