//! A plain server in virtual time: a few workers and one queue, first come, first served.
//!
//! This is a Flask app or any other service whose processes each compute one request at a time. The work of a request
//! is given in seconds at speed 1. Unlike a batching server it is no slower per request while workers are free.

use std::collections::VecDeque;

use super::{Event, WorkId, micros, sound_speed};
use crate::clock::Time;

/// What a server is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlainSpec {
    /// Requests at once, at least 1.
    pub workers: u32,
    /// Work done per second by each, 1 being the reference.
    pub speed: f64,
}

impl PlainSpec {
    /// Requests per second with all workers busy, for a mean work in seconds at speed 1.
    pub fn capacity_rps(&self, work_s: f64) -> f64 {
        f64::from(self.workers) * self.speed / work_s
    }

    /// The same server, `factor` times faster.
    #[must_use]
    pub fn faster(self, factor: f64) -> PlainSpec {
        PlainSpec { speed: self.speed * factor, ..self }
    }
}

#[derive(Clone, Copy, Debug)]
struct Job {
    id: WorkId,
    /// When it is done at the present speed, unless the server hangs.
    end: Time,
}

/// A server of a few workers with one queue.
///
/// Before any change at `now`, [`advance`](PlainServer::advance) to it: the engine never looks back.
#[derive(Clone, Debug)]
pub struct PlainServer {
    spec: PlainSpec,
    speed: f64,
    /// Since when the server hangs; the ends of jobs are then those that would have been without it.
    paused: Option<Time>,
    running: Vec<Job>,
    queue: VecDeque<(WorkId, f64)>,
}

impl PlainServer {
    /// An idle server.
    pub fn new(spec: PlainSpec) -> PlainServer {
        let spec = PlainSpec { workers: spec.workers.max(1), speed: sound_speed(spec.speed) };
        PlainServer { spec, speed: 1.0, paused: None, running: Vec::new(), queue: VecDeque::new() }
    }

    /// What the server is like.
    pub fn spec(&self) -> &PlainSpec {
        &self.spec
    }

    /// Requests being computed.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Requests that wait for a worker.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// A request arrives, with its work in seconds at speed 1.
    pub fn submit(&mut self, now: Time, id: WorkId, work_s: f64) {
        self.queue.push_back((id, work_s));
        self.start_free_workers(now);
    }

    /// A request is given up; `false` if it is not here. Its worker is free at once.
    pub fn cancel(&mut self, now: Time, id: WorkId) -> bool {
        if let Some(at) = self.running.iter().position(|job| job.id == id) {
            self.running.swap_remove(at);
            self.start_free_workers(now);
            return true;
        }
        let place = self.queue.iter().position(|(queued, _)| *queued == id);
        place.and_then(|at| self.queue.remove(at)).is_some()
    }

    /// When the next request is done; `None` for an idle or hanging server.
    pub fn next_event(&self) -> Option<Time> {
        if self.paused.is_some() {
            return None;
        }
        self.running.iter().map(|job| job.end).min()
    }

    /// When a request with that work would end if it arrived now, all speeds staying as they are; `None` for a
    /// hanging server.
    pub fn would_end(&self, now: Time, work_s: f64) -> Option<Time> {
        if self.paused.is_some() {
            return None;
        }
        let mut free: Vec<Time> = self.running.iter().map(|job| job.end).collect();
        free.resize(self.spec.workers as usize, now);
        let waiting = self.queue.iter().map(|(_, work_s)| *work_s).chain([work_s]);
        let mut end = now;
        for work_s in waiting {
            let earliest = free.iter_mut().min()?;
            let taken = micros(work_s / (self.spec.speed * self.speed));
            *earliest = Time::from_micros(earliest.as_micros().saturating_add(taken));
            end = *earliest;
        }
        Some(end)
    }

    /// Finishes everything that is done by `now`; a free worker takes the next request at the moment it becomes free.
    pub fn advance(&mut self, now: Time, tell: &mut impl FnMut(Event<'_>)) {
        while let Some(end) = self.next_event().filter(|end| *end <= now) {
            let Some(place) = self.running.iter().position(|job| job.end == end) else { break };
            let job = self.running.swap_remove(place);
            tell(Event::Finished { at: end, id: job.id });
            self.start_free_workers(end);
        }
    }

    /// Makes the server `speed` times as fast as its spec from now on, for running requests too.
    pub fn set_speed(&mut self, now: Time, speed: f64) {
        let speed = sound_speed(speed);
        let stretch = self.speed / speed;
        self.speed = speed;
        let from = self.paused.unwrap_or(now);
        for job in &mut self.running {
            job.end = from.after(job.end.since(from).mul_f64(stretch));
        }
    }

    /// The server hangs: nothing moves until [`resume`](PlainServer::resume), requests queue.
    pub fn pause(&mut self, now: Time) {
        self.paused.get_or_insert(now);
    }

    /// The server goes on where it stopped.
    pub fn resume(&mut self, now: Time) {
        if let Some(since) = self.paused.take() {
            let pause = now.since(since);
            for job in &mut self.running {
                job.end = job.end.after(pause);
            }
        }
        self.start_free_workers(now);
    }

    /// Gives up everything, as a restart does.
    pub fn clear(&mut self) {
        self.running.clear();
        self.queue.clear();
    }

    fn start_free_workers(&mut self, now: Time) {
        while self.paused.is_none() && self.running.len() < self.spec.workers as usize {
            let Some((id, work_s)) = self.queue.pop_front() else { break };
            let taken = micros(work_s / (self.spec.speed * self.speed));
            self.running.push(Job { id, end: Time::from_micros(now.as_micros().saturating_add(taken)) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Time {
        Time::from_secs_f64(seconds)
    }

    fn ends(server: &mut PlainServer, until: f64) -> Vec<(WorkId, f64)> {
        let mut ends = Vec::new();
        server.advance(at(until), &mut |event| {
            if let Event::Finished { at, id } = event {
                ends.push((id, at.as_secs_f64()));
            }
        });
        ends
    }

    #[test]
    fn requests_are_taken_in_order_by_whichever_worker_is_free() {
        let mut server = PlainServer::new(PlainSpec { workers: 2, speed: 2.0 });
        for (id, work_s) in [(1, 2.0), (2, 6.0), (3, 1.0), (4, 1.0)] {
            server.submit(at(0.0), id, work_s);
        }
        assert_eq!((server.running(), server.queued()), (2, 2));
        assert_eq!(ends(&mut server, 9.0), [(1, 1.0), (3, 1.5), (4, 2.0), (2, 3.0)]);
        assert_eq!(server.next_event(), None);
    }

    #[test]
    fn speed_changes_and_hangs_keep_the_work_that_is_done() {
        let mut server = PlainServer::new(PlainSpec { workers: 1, speed: 1.0 });
        server.submit(at(0.0), 1, 2.0);
        server.set_speed(at(1.0), 0.5);
        assert_eq!(server.next_event(), Some(at(3.0)));
        server.pause(at(2.0));
        server.set_speed(at(5.0), 1.0);
        server.submit(at(6.0), 2, 1.0);
        assert!(ends(&mut server, 10.0).is_empty());
        server.resume(at(10.0));
        assert_eq!(ends(&mut server, 20.0), [(1, 10.5), (2, 11.5)]);
    }

    #[test]
    fn what_would_end_when_is_what_then_happens() {
        let mut server = PlainServer::new(PlainSpec { workers: 2, speed: 2.0 });
        for (id, work_s) in [(1, 2.0), (2, 6.0), (3, 1.0)] {
            let foreseen = server.would_end(at(0.0), work_s);
            assert_eq!(foreseen, Some(at([1.0, 3.0, 1.5][id as usize - 1])));
            server.submit(at(0.0), id, work_s);
        }
        server.pause(at(0.5));
        assert_eq!(server.would_end(at(0.5), 1.0), None);
    }

    #[test]
    fn a_cancelled_request_frees_its_worker_at_once() {
        let mut server = PlainServer::new(PlainSpec { workers: 1, speed: 1.0 });
        for id in 1..=3 {
            server.submit(at(0.0), id, 4.0);
        }
        assert!(server.cancel(at(1.0), 1) && server.cancel(at(1.0), 3) && !server.cancel(at(1.0), 1));
        assert_eq!(ends(&mut server, 20.0), [(2, 5.0)]);
    }

    #[test]
    fn four_workers_of_speed_four_do_160_requests_of_100_ms_a_second() {
        assert_eq!(PlainSpec { workers: 4, speed: 4.0 }.capacity_rps(0.1), 160.0);
    }
}
