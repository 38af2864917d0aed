//! Either kind of server behind one set of verbs, for callers that run mixed or named fleets.

use super::{BatchServer, Event, PlainServer, ServerSpec, WorkId};
use crate::clock::Time;

/// What a request costs; each kind of server reads what it knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// Seconds of a plain worker at speed 1.
    pub plain_s: f64,
}

/// A server of either kind. The methods are those of [`BatchServer`] and [`PlainServer`], and so is the rule to
/// [`advance`](Server::advance) to `now` before any change.
#[derive(Clone, Debug)]
pub enum Server {
    /// Continuous batching.
    Batch(BatchServer),
    /// Workers and a queue.
    Plain(PlainServer),
}

impl Server {
    /// An idle server.
    pub fn new(spec: ServerSpec) -> Server {
        match spec {
            ServerSpec::Batch(spec) => Server::Batch(BatchServer::new(spec)),
            ServerSpec::Plain(spec) => Server::Plain(PlainServer::new(spec)),
        }
    }

    /// A request arrives.
    pub fn submit(&mut self, now: Time, id: WorkId, work: Work) {
        match self {
            Server::Batch(server) => server.submit(now, id, work.prompt_tokens, work.output_tokens),
            Server::Plain(server) => server.submit(now, id, work.plain_s),
        }
    }

    /// A request is given up; `false` if it is not here.
    pub fn cancel(&mut self, now: Time, id: WorkId) -> bool {
        match self {
            Server::Batch(server) => server.cancel(id),
            Server::Plain(server) => server.cancel(now, id),
        }
    }

    /// When something happens next; `None` for an idle or hanging server.
    pub fn next_event(&self) -> Option<Time> {
        match self {
            Server::Batch(server) => server.next_event(),
            Server::Plain(server) => server.next_event(),
        }
    }

    /// Tells everything that happens by `now`.
    pub fn advance(&mut self, now: Time, tell: &mut impl FnMut(Event<'_>)) {
        match self {
            Server::Batch(server) => server.advance(now, tell),
            Server::Plain(server) => server.advance(now, tell),
        }
    }

    /// Makes it `speed` times as fast as its spec from now on.
    pub fn set_speed(&mut self, now: Time, speed: f64) {
        match self {
            Server::Batch(server) => server.set_speed(now, speed),
            Server::Plain(server) => server.set_speed(now, speed),
        }
    }

    /// It hangs until [`resume`](Server::resume).
    pub fn pause(&mut self, now: Time) {
        match self {
            Server::Batch(server) => server.pause(now),
            Server::Plain(server) => server.pause(now),
        }
    }

    /// It goes on where it stopped.
    pub fn resume(&mut self, now: Time) {
        match self {
            Server::Batch(server) => server.resume(now),
            Server::Plain(server) => server.resume(now),
        }
    }

    /// Gives up everything, as a restart does.
    pub fn clear(&mut self) {
        match self {
            Server::Batch(server) => server.clear(),
            Server::Plain(server) => server.clear(),
        }
    }

    /// Requests that hold a slot or worker.
    pub fn running(&self) -> usize {
        match self {
            Server::Batch(server) => server.running(),
            Server::Plain(server) => server.running(),
        }
    }

    /// Requests that wait for one.
    pub fn queued(&self) -> usize {
        match self {
            Server::Batch(server) => server.queued(),
            Server::Plain(server) => server.queued(),
        }
    }

    /// See [`BatchServer::tokens`]; a plain server has none.
    pub fn tokens(&self) -> u64 {
        match self {
            Server::Batch(server) => server.tokens(),
            Server::Plain(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{BatchSpec, PlainSpec};

    #[test]
    fn both_kinds_hang_slow_down_and_forget_alike() {
        let work = Work { prompt_tokens: 100, output_tokens: 5, plain_s: 1.0 };
        let batch = ServerSpec::Batch(BatchSpec::new(0.1, 0.0, 1e9, 4));
        for spec in [batch, ServerSpec::Plain(PlainSpec { workers: 4, speed: 2.0 })] {
            let mut server = Server::new(spec);
            for id in 1..=3 {
                server.submit(Time::ZERO, id, work);
            }
            assert!(server.cancel(Time::ZERO, 3));
            server.set_speed(Time::ZERO, 0.5);
            server.pause(Time::ZERO);
            assert_eq!(server.next_event(), None);
            server.resume(Time::from_micros(1_000));
            let mut finished = Vec::new();
            server.advance(Time::from_secs_f64(60.0), &mut |event| {
                if let Event::Finished { id, at } = event {
                    finished.push((id, at.as_secs_f64() >= 1.0));
                }
            });
            finished.sort_unstable();
            assert_eq!(finished, [(1, true), (2, true)]);
            server.submit(Time::from_secs_f64(60.0), 4, work);
            server.clear();
            assert_eq!((server.running(), server.queued(), server.next_event()), (0, 0, None));
        }
    }
}
