//! The live table of a running demo: redrawn in place on a terminal, a line now and then elsewhere.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::app::App;
use crate::cli::demo::report::{Share, milliseconds, table};
use crate::load::{Ending, Measured, Recorder, quantile};

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
    not_sent: usize,
    errors: usize,
    nodes: Vec<NodeFigures>,
    /// Lines of the table on the screen.
    drawn: usize,
}

#[derive(Default)]
struct NodeFigures {
    name: String,
    ended: usize,
    recent: VecDeque<(Instant, f64)>,
}

impl NodeFigures {
    fn quantiles_s(&self) -> (f64, f64) {
        quantiles_s(self.recent.iter().map(|(_, total_s)| *total_s))
    }
}

fn quantiles_s(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    (quantile(&sorted, 0.5), quantile(&sorted, 0.99))
}

impl Board {
    pub(super) fn new(policy: &'static str, duration: Duration, live: bool) -> Board {
        let started = Instant::now();
        Board { policy, duration, live, started, seen: 0, not_sent: 0, errors: 0, nodes: Vec::new(), drawn: 0 }
    }

    /// Takes in what was measured since the last time and shows it.
    pub(super) fn show(&mut self, out: &mut dyn Write, app: &App, recorder: &Recorder) -> io::Result<()> {
        self.take_in(recorder, Instant::now());
        let fleet = app.balancer.fleet();
        let in_flight: u32 = fleet.nodes().iter().map(|node| node.live.ledger.in_flight()).sum();
        let elapsed = self.started.elapsed().min(self.duration).as_secs();
        let (p50, p99) = quantiles_s(self.nodes.iter().flat_map(|node| node.recent.iter().map(|(_, s)| *s)));
        let headline = format!(
            "{:<18} {elapsed:>3} of {} s   {:>6} answered   {in_flight:>4} in flight   p50 {} ms   p99 {} ms   {} errors   {} not sent",
            self.policy,
            self.duration.as_secs(),
            self.nodes.iter().map(|node| node.ended).sum::<usize>(),
            milliseconds(p50),
            milliseconds(p99),
            self.errors,
            self.not_sent,
        );
        if !self.live {
            writeln!(out, "{headline}")?;
            return out.flush();
        }
        let mut rows = table(&["node", "share %", "in flight", "answered", "p50 ms", "p99 ms", "state"]);
        let ended_all = self.nodes.iter().map(|node| node.ended).sum::<usize>() + in_flight as usize;
        for node in fleet.nodes() {
            let unseen = NodeFigures::default();
            let figures = self.nodes.iter().find(|figures| figures.name == node.spec.name).unwrap_or(&unseen);
            let here = node.live.ledger.in_flight();
            let (p50, p99) = figures.quantiles_s();
            rows.add_row([
                node.spec.name.clone(),
                format!("{:.1}", 100.0 * (figures.ended + here as usize) as f64 / ended_all.max(1) as f64),
                here.to_string(),
                figures.ended.to_string(),
                milliseconds(p50),
                milliseconds(p99),
                node.live.health.state(app.clock.now()).word().to_owned(),
            ]);
        }
        self.draw(out, &format!("{headline}\n{rows}"))
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
        for name in recorder.nodes().into_iter().skip(self.nodes.len()) {
            self.nodes.push(NodeFigures { name, ..NodeFigures::default() });
        }
        for measured in &new {
            self.count(measured, now);
        }
        for node in &mut self.nodes {
            while node.recent.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
                node.recent.pop_front();
            }
        }
    }

    fn count(&mut self, measured: &Measured, now: Instant) {
        match measured.ending {
            Ending::NotSent => self.not_sent += 1,
            Ending::Status(_) | Ending::Broken => self.errors += 1,
            Ending::Unfinished => {}
            Ending::Answered => {
                if let Some(node) = measured.node.and_then(|node| self.nodes.get_mut(usize::from(node))) {
                    node.ended += 1;
                    node.recent.push_back((now, measured.total_s));
                }
            }
        }
    }

    /// Each node's share of the answers, for the closing report.
    pub(super) fn shares(&self) -> Vec<Share> {
        let all = self.nodes.iter().map(|node| node.ended).sum::<usize>().max(1);
        let share = |node: &NodeFigures| Share { node: node.name.clone(), share: node.ended as f64 / all as f64 };
        let mut shares: Vec<Share> = self.nodes.iter().map(share).collect();
        shares.sort_by(|a, b| a.node.cmp(&b.node));
        shares
    }
}
