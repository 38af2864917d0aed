//! The last hour of the fleet in a few lines, so that a page that is opened shows how it came to be so.
//!
//! Prometheus keeps history, and where there is one, it is better at it. But the question after an incident's first
//! minute is "since when", and it is asked where no Prometheus is too. One moment every five seconds, a fixed number
//! of them, fleet-wide figures only: per node it would be megabytes, and the page gathers those while it is open.

use std::collections::VecDeque;

use serde::Serialize;
use utoipa::ToSchema;

use super::view;
use crate::app::App;
use crate::clock::Time;

/// Between two moments, in seconds.
pub(super) const EVERY_S: u64 = 5;

/// Moments that are kept: an hour of them.
const MOMENTS_MAX: usize = 720;

/// The fleet at one moment.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Moment {
    /// Seconds on the instance's own clock.
    now_s: f64,
    /// Requests answered per second since the moment before.
    rps: f64,
    /// The part of them that had a status of 500 or above; null without any.
    errors: Option<f64>,
    /// Attempts in flight.
    in_flight: u64,
    /// Rate over learned capacity.
    utilization: Option<f64>,
    /// Median response time of the minute before, in seconds.
    p50_s: Option<f64>,
    /// 99th percentile.
    p99_s: Option<f64>,
    /// Version of the model; 0 for none.
    version: u32,
    /// Its mean |ln(predicted / observed)|.
    model_error: Option<f64>,
    /// The same of the moving average that it must beat.
    baseline_error: Option<f64>,
    /// Whether the model routes or why not, as in the model's standing.
    state: &'static str,
    /// Who decided: the policy, or the fallback in its place.
    router: &'static str,
}

/// The moments, the oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    moments: VecDeque<Moment>,
    /// Time and counters at the last moment: answers, errors.
    last: Option<(Time, u64, u64)>,
}

impl History {
    /// Adds the moment `now`.
    pub(super) fn note(&mut self, app: &App, now: Time) {
        let figures = view::fleet(app, now);
        let standing = crate::admin::model::standing(app, now);
        let counted = (now, figures.answers, figures.errors);
        let Some((then, answers, errors)) = self.last.replace(counted) else { return };
        let (answers, errors) = (figures.answers - answers, figures.errors - errors);
        if self.moments.len() == MOMENTS_MAX {
            self.moments.pop_front();
        }
        let status = app.trainer.status();
        self.moments.push_back(Moment {
            now_s: now.as_secs_f64(),
            rps: answers as f64 / now.seconds_since(then).max(1e-3),
            errors: (answers > 0).then(|| (errors as f64 / answers as f64).min(1.0)),
            in_flight: figures.in_flight,
            utilization: figures.utilization,
            p50_s: figures.p50_s,
            p99_s: figures.p99_s,
            version: app.balancer.learned().predictor().map_or(0, |predictor| predictor.version),
            model_error: status.model_error,
            baseline_error: status.baseline_error,
            state: standing.state,
            router: standing.router,
        });
    }

    /// All moments.
    pub(super) fn moments(&self) -> Vec<Moment> {
        self.moments.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::Settings;
    use crate::node::NodeSpec;

    #[test]
    fn it_tells_rates_between_moments_and_is_bounded() {
        let nodes = vec![NodeSpec::new("http://127.0.0.1:1").named("a")];
        let app = App::with_clock(Settings { nodes, ..Settings::default() }, Clock::manual()).expect("valid");
        let fleet = app.balancer.fleet();
        let mut history = History::default();
        for step in 0..=MOMENTS_MAX as u32 + 5 {
            history.note(&app, Time::from_secs_f64(5.0 * f64::from(step)));
            (0..9).for_each(|_| app.telemetry.answered(Some(&fleet.nodes()[0]), 200));
            app.telemetry.answered(None, 503);
        }
        let moments = history.moments();
        assert_eq!(moments.len(), MOMENTS_MAX);
        assert!(moments.windows(2).all(|pair| pair[1].now_s - pair[0].now_s == 5.0));
        let last = moments.last().expect("some");
        assert_eq!((last.rps, last.errors, last.state), (2.0, Some(0.1), "missing"));
    }
}
