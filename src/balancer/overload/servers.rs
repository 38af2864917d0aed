//! The servers of the overload test: those of the simulator, and workers that everybody shares.

use crate::clock::Time;
use crate::sim::{BatchSpec, Event, PlainSpec, Server, ServerSpec, Text, Work, WorkId};

/// What kind of server, each with the mean work of its requests.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// Workers and a line before them.
    Line {
        workers: u32,
    },
    /// Workers that everybody shares.
    Shared {
        workers: u32,
    },
    Batch(BatchSpec),
}

/// Seconds of one worker that a request takes on average.
const SERVICE_S: f64 = 0.25;
/// What a request has of tokens on average, where there are tokens.
const TOKENS: (f64, f64) = (200.0, 30.0);

impl Shape {
    /// Requests a second that one can answer.
    pub(super) fn capacity_rps(self) -> f64 {
        match self {
            Shape::Line { workers } | Shape::Shared { workers } => f64::from(workers) / SERVICE_S,
            Shape::Batch(spec) => spec.capacity_rps(TOKENS.0, TOKENS.1),
        }
    }

    pub(super) fn server(self) -> Machine {
        match self {
            Shape::Line { workers } => {
                Machine::Simulated(Box::new(Server::new(ServerSpec::Plain(PlainSpec { workers, speed: 1.0 }))))
            }
            Shape::Batch(spec) => Machine::Simulated(Box::new(Server::new(ServerSpec::Batch(spec)))),
            Shape::Shared { workers } => Machine::Shared(Sharing::new(workers)),
        }
    }

    /// How much of the capacity a request takes, one on average.
    pub(super) fn size(self, work: Work) -> f64 {
        let Shape::Batch(spec) = self else { return work.plain_s / SERVICE_S };
        let step_s = spec.t0_s / f64::from(spec.slots) + spec.t1_s;
        let cost_s = f64::from(work.output_tokens) * step_s + f64::from(work.prompt_tokens) / spec.prompt_tokens_per_s;
        cost_s * self.capacity_rps()
    }

    /// A request: half to one and a half times the mean.
    pub(super) fn work(self, rng: &mut fastrand::Rng) -> Work {
        let mut about = |mean: f64| mean * (0.5 + rng.f64());
        let (prompt_tokens, output_tokens) = (about(TOKENS.0).ceil() as u32, about(TOKENS.1).ceil() as u32);
        Work { prompt_tokens, output_tokens, plain_s: about(SERVICE_S) }
    }
}

pub(super) enum Machine {
    Simulated(Box<Server>),
    Shared(Sharing),
}

impl Machine {
    /// A request arrives; everything before `now` has been told.
    pub(super) fn submit(&mut self, now: Time, id: WorkId, work: Work) {
        match self {
            Machine::Simulated(server) => _ = server.submit(now, id, work, &Text::default()),
            Machine::Shared(sharing) => sharing.jobs.push((id, work.plain_s)),
        }
    }

    pub(super) fn next_event(&self) -> Option<Time> {
        match self {
            Machine::Simulated(server) => server.next_event(),
            Machine::Shared(sharing) => sharing.next_end(),
        }
    }

    /// What ends by `now`, with when.
    pub(super) fn advance(&mut self, now: Time) -> Vec<(Time, WorkId)> {
        let mut ends = Vec::new();
        match self {
            Machine::Simulated(server) => server.advance(now, &mut |event| {
                if let Event::Finished { at, id } = event {
                    ends.push((at, id));
                }
            }),
            Machine::Shared(sharing) => sharing.advance(now, &mut ends),
        }
        ends
    }
}

/// Processor sharing. Looks a microsecond beyond every end, which the clock rounds away.
pub(super) struct Sharing {
    workers: f64,
    seen: Time,
    /// With the work that is left of each.
    jobs: Vec<(WorkId, f64)>,
}

impl Sharing {
    fn new(workers: u32) -> Sharing {
        Sharing { workers: f64::from(workers), seen: Time::ZERO, jobs: Vec::new() }
    }

    /// What each job gets of a worker.
    fn pace(&self) -> f64 {
        (self.workers / self.jobs.len() as f64).min(1.0)
    }

    fn next_end(&self) -> Option<Time> {
        let least = self.jobs.iter().map(|(_, left)| *left).min_by(f64::total_cmp)?;
        Some(Time::from_micros(self.seen.as_micros() + (least / self.pace() * 1e6).ceil().max(1.0) as u64))
    }

    fn advance(&mut self, now: Time, ends: &mut Vec<(Time, WorkId)>) {
        while let Some(next) = self.next_end().filter(|next| *next <= now) {
            self.go(next);
            self.jobs.retain(|(id, left)| {
                let over = *left <= 1e-9;
                if over {
                    ends.push((next, *id));
                }
                !over
            });
        }
        self.go(now);
    }

    fn go(&mut self, now: Time) {
        let done = now.since(self.seen).as_secs_f64() * self.pace();
        self.jobs.iter_mut().for_each(|(_, left)| *left -= done);
        self.seen = now;
    }
}
