//! The live table of a running demo: redrawn in place on a terminal, a line now and then elsewhere.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use comfy_table::Table;

use super::report::{Share, milliseconds, table};
use crate::app::App;
use crate::fleet::Node;
use crate::load::{Ending, Measured, Recorder, quantile};
use crate::telemetry::Counts;

/// The live quantiles look back so far.
const WINDOW: Duration = Duration::from_secs(10);

/// One policy's live figures.
pub(super) struct Board {
    policy: &'static str,
    duration: Duration,
    live: bool,
    started: Instant,
    /// Measurements of the recorder that are counted below.
    seen: usize,
    answered: usize,
    not_sent: usize,
    errors: usize,
    /// Of all nodes together.
    recent: Recent,
    /// By name, in the order in which the recorder came to know them.
    nodes: Vec<(String, Recent)>,
    /// Attempts of each node before this policy's turn, in the order of the fleet.
    before: Vec<u64>,
    /// Lines of the table on the screen.
    drawn: usize,
}

/// When answers of the last seconds ended, and how long they took.
#[derive(Default)]
struct Recent(VecDeque<(Instant, f64)>);

impl Recent {
    fn forget_before(&mut self, horizon: Option<Instant>) {
        while self.0.front().is_some_and(|(at, _)| Some(*at) < horizon) {
            self.0.pop_front();
        }
    }

    /// Median and 99th percentile in milliseconds.
    fn quantiles(&self) -> [String; 2] {
        let mut sorted: Vec<f64> = self.0.iter().map(|(_, total_s)| *total_s).collect();
        sorted.sort_by(f64::total_cmp);
        [milliseconds(quantile(&sorted, 0.5)), milliseconds(quantile(&sorted, 0.99))]
    }
}

/// Attempts that each node of the fleet was given so far, ended or in flight.
fn attempts(app: &App) -> Vec<u64> {
    let of = |node: &Arc<Node>| {
        let Counts { completed, full, failed, censored } = app.telemetry.report(node, app.clock.now()).counts;
        completed + full + failed + censored + u64::from(node.live.ledger.in_flight())
    };
    app.balancer.fleet().nodes().iter().map(of).collect()
}

impl Board {
    pub(super) fn new(policy: &'static str, duration: Duration, live: bool, app: &App) -> Board {
        Board {
            policy,
            duration,
            live,
            started: Instant::now(),
            seen: 0,
            answered: 0,
            not_sent: 0,
            errors: 0,
            recent: Recent::default(),
            nodes: Vec::new(),
            before: attempts(app),
            drawn: 0,
        }
    }

    /// Takes in what was measured since the last time and shows it.
    pub(super) fn show(&mut self, out: &mut dyn Write, app: &App, recorder: &Recorder) -> io::Result<()> {
        self.take_in(recorder, Instant::now());
        let elapsed = self.started.elapsed();
        let when = if elapsed > self.duration {
            "last answers".to_owned()
        } else {
            format!("{} of {} s", elapsed.as_secs(), self.duration.as_secs())
        };
        let Board { policy, answered, errors, not_sent, .. } = self;
        let headline = format!("{policy:<18} {when:>12}  {answered} answered, {errors} errors, {not_sent} not sent");
        if self.live {
            let rows = self.rows(app);
            return self.draw(out, &format!("{headline}\n{rows}"));
        }
        let in_flight: u32 = app.balancer.fleet().nodes().iter().map(|node| node.live.ledger.in_flight()).sum();
        let [p50, p99] = self.recent.quantiles();
        writeln!(out, "{headline}, {in_flight} in flight, p50 {p50} ms, p99 {p99} ms")?;
        out.flush()
    }

    fn rows(&self, app: &App) -> Table {
        let mut rows = table(&["node", "share %", "in flight", "p50 ms", "p99 ms", "state"]);
        let mut all_in_flight = 0;
        for (node, share) in app.balancer.fleet().nodes().iter().zip(self.shares(app)) {
            let in_flight = node.live.ledger.in_flight();
            all_in_flight += in_flight;
            let known = self.nodes.iter().find(|(name, _)| *name == node.spec.name);
            let [p50, p99] = known.map_or_else(|| Recent::default().quantiles(), |(_, recent)| recent.quantiles());
            rows.add_row([
                share.node,
                format!("{:.1}", share.share * 100.0),
                in_flight.to_string(),
                p50,
                p99,
                node.live.health.state(app.clock.now()).word().to_owned(),
            ]);
        }
        let [p50, p99] = self.recent.quantiles();
        rows.add_row(["all".to_owned(), String::new(), all_in_flight.to_string(), p50, p99, String::new()]);
        rows
    }

    /// Each node's share of this policy's decisions.
    pub(super) fn shares(&self, app: &App) -> Vec<Share> {
        let now = attempts(app);
        let mine: Vec<u64> = now.iter().zip(&self.before).map(|(now, before)| now.saturating_sub(*before)).collect();
        let all = mine.iter().sum::<u64>().max(1) as f64;
        let share = |(node, mine): (&Arc<Node>, u64)| Share { node: node.spec.name.clone(), share: mine as f64 / all };
        app.balancer.fleet().nodes().iter().zip(mine).map(share).collect()
    }

    /// Replaces what was drawn last.
    fn draw(&mut self, out: &mut dyn Write, text: &str) -> io::Result<()> {
        if self.drawn > 0 {
            // Up to its first line, then clear to the end of the screen.
            write!(out, "\x1b[{}F\x1b[J", self.drawn)?;
        }
        writeln!(out, "{text}")?;
        self.drawn = text.lines().count();
        out.flush()
    }

    fn take_in(&mut self, recorder: &Recorder, now: Instant) {
        let new = recorder.since(self.seen);
        self.seen += new.len();
        let known = self.nodes.len();
        self.nodes.extend(recorder.nodes().into_iter().skip(known).map(|name| (name, Recent::default())));
        for measured in &new {
            self.count(measured, now);
        }
        let horizon = now.checked_sub(WINDOW);
        self.recent.forget_before(horizon);
        self.nodes.iter_mut().for_each(|(_, recent)| recent.forget_before(horizon));
    }

    fn count(&mut self, measured: &Measured, now: Instant) {
        match measured.ending {
            Ending::NotSent => self.not_sent += 1,
            Ending::Status(_) | Ending::Broken => self.errors += 1,
            Ending::Unfinished => {}
            Ending::Answered => {
                self.answered += 1;
                self.recent.0.push_back((now, measured.total_s));
                if let Some((_, recent)) = measured.node.and_then(|node| self.nodes.get_mut(usize::from(node))) {
                    recent.0.push_back((now, measured.total_s));
                }
            }
        }
    }
}
