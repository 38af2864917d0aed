//! What ran on a node at every moment of a recording: integrals that answer any interval at once.

use super::history::Attempt;

/// Requests that wait at the same time when a limit is to be seen: one or two wait for their prompt anyway.
const QUEUE_MIN: i64 = 3;

/// Running counts of one node. Between two instants everything is constant.
#[derive(Clone, Debug, Default)]
pub(super) struct Timeline {
    /// Instants in order.
    at_s: Vec<f64>,
    /// From the instant to the next: how many run past their first byte.
    running: Vec<i64>,
    /// And how many wait for it.
    waiting: Vec<i64>,
    /// Integral of `running` from the first instant to this one.
    run_s: Vec<f64>,
    /// Times of first bytes in order, and the prompt tokens up to and including each.
    prompts: Vec<(f64, f64)>,
}

impl Timeline {
    pub(super) fn of<'a>(attempts: impl Iterator<Item = &'a Attempt>) -> Timeline {
        let mut changes: Vec<(f64, i64, i64)> = Vec::new();
        let mut prompts = Vec::new();
        for attempt in attempts {
            let end_s = attempt.end_s();
            // Where no first byte shows when work began, all of the attempt counts as work.
            let first_s = match attempt.ttfb_s.filter(|_| attempt.streaming) {
                Some(ttfb_s) => (attempt.start_s + ttfb_s).min(end_s),
                None if attempt.streaming => end_s,
                None => attempt.start_s,
            };
            changes.extend([(attempt.start_s, 0, 1), (first_s, 1, -1), (end_s, -1, 0)]);
            prompts.push((first_s, f64::from(attempt.prompt_tokens)));
        }
        changes.sort_by(|a, b| a.0.total_cmp(&b.0));
        prompts.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut sum = 0.0;
        for (_, tokens) in &mut prompts {
            sum += *tokens;
            *tokens = sum;
        }
        let mut timeline = Timeline { prompts, ..Timeline::default() };
        let (mut running, mut waiting, mut integral) = (0, 0, 0.0);
        for (at_s, more_running, more_waiting) in changes {
            let last_s = timeline.at_s.last().copied().unwrap_or(at_s);
            integral += running as f64 * (at_s - last_s);
            running += more_running;
            waiting += more_waiting;
            timeline.at_s.push(at_s);
            timeline.running.push(running);
            timeline.waiting.push(waiting);
            timeline.run_s.push(integral);
        }
        timeline
    }

    fn integral(&self, at_s: f64) -> f64 {
        let after = self.at_s.partition_point(|instant| *instant <= at_s);
        match after.checked_sub(1) {
            Some(at) => self.run_s[at] + self.running[at] as f64 * (at_s - self.at_s[at]),
            None => 0.0,
        }
    }

    /// How many ran on average.
    pub(super) fn mean_running(&self, from_s: f64, to_s: f64) -> f64 {
        (self.integral(to_s) - self.integral(from_s)) / (to_s - from_s)
    }

    /// Prompt tokens of those whose first byte came after `from_s` and by `to_s`.
    pub(super) fn prompt_tokens(&self, from_s: f64, to_s: f64) -> f64 {
        let by = |at_s: f64| {
            let after = self.prompts.partition_point(|(instant, _)| *instant <= at_s);
            after.checked_sub(1).map_or(0.0, |at| self.prompts[at].1)
        };
        by(to_s) - by(from_s)
    }

    /// The most that ran at once, and whether that was a limit: for at least `seconds` several waited while nearly so
    /// many ran, and seldom otherwise.
    pub(super) fn limit(&self, seconds: f64) -> (u32, bool) {
        let most = self.running.iter().copied().max().unwrap_or(0);
        let (mut queued_s, mut queued_at_limit_s) = (0.0, 0.0);
        for (at, pair) in self.at_s.windows(2).enumerate() {
            if self.waiting[at] >= QUEUE_MIN {
                queued_s += pair[1] - pair[0];
                if self.running[at] * 10 >= most * 9 {
                    queued_at_limit_s += pair[1] - pair[0];
                }
            }
        }
        (most.max(0) as u32, queued_at_limit_s >= seconds && queued_at_limit_s * 2.0 > queued_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advise::tests_support::attempt;

    #[test]
    fn every_interval_has_its_mean_and_its_prompts() {
        // First bytes at 1 and 3, ends at 4 and 5.
        let attempts = [attempt(0.0, 1.0, 4.0, 100), attempt(2.0, 1.0, 3.0, 50)];
        let timeline = Timeline::of(attempts.iter());
        assert_eq!(timeline.mean_running(1.0, 4.0), (2.0 + 2.0) / 3.0);
        assert_eq!(timeline.mean_running(4.5, 5.5), 0.5);
        assert_eq!((timeline.prompt_tokens(1.0, 3.0), timeline.prompt_tokens(0.0, 9.0)), (50.0, 150.0));
        assert_eq!(timeline.limit(0.1), (2, false));
    }

    #[test]
    fn a_limit_is_seen_where_requests_queue_at_it() {
        // Two at once, each for a second; ten arrive together.
        let queue: Vec<_> = (0..10).map(|i| attempt(0.0, f64::from(i / 2), f64::from(i / 2 + 1), 10)).collect();
        assert_eq!(Timeline::of(queue.iter()).limit(1.0), (2, true));
    }
}
