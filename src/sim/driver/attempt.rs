//! One attempt from its server's first token to its end, and the ways in which it ends early.

use super::{Driver, Due};
use crate::clock::Time;
use crate::outcome::{Censor, Failure, Outcome};
use crate::sim::flights::Flight;
use crate::sim::result::RunResult;
use crate::sim::workload::Arrival;
use crate::sim::{Event, WorkId};

impl Driver<'_> {
    /// Lets a server do what it does by now, and tells the tickets.
    pub(super) fn serve(&mut self, at: usize) {
        let Driver { nodes, flights, result, scenario, .. } = self;
        let tells_cached = scenario.cache.is_some_and(|cache| cache.told);
        nodes[at].server.advance(self.now, &mut |event| match event {
            Event::FirstToken { at, id } => {
                if let Some(flight) = flights.get_mut(id).filter(|flight| flight.arrival.shape.streaming) {
                    flight.ticket.first_byte(at);
                    flight.first_byte = Some(at);
                }
            }
            Event::Tokens { at, ids } => {
                for id in ids {
                    if let Some(flight) = flights.get_mut(*id).filter(|flight| flight.arrival.shape.streaming) {
                        flight.ticket.events(at, 1);
                        flight.heard = at;
                    }
                }
            }
            Event::Finished { at, id } => {
                if let Some(flight) = flights.remove(id) {
                    complete(flight, at, tells_cached, result);
                }
            }
        });
        self.reschedule(at);
    }

    pub(super) fn reschedule(&mut self, at: usize) {
        let next = self.nodes[at].server.next_event();
        if self.nodes[at].scheduled != next {
            self.nodes[at].scheduled = next;
            if let Some(time) = next {
                self.put(time, Due::Server(at));
            }
        }
    }

    /// When to look after a request first. The timers are lazy: most requests end before their first look.
    pub(super) fn first_timer(&self, arrival: &Arrival) -> Time {
        let timeouts = &self.settings.timeouts;
        let soonest = self.now.after(timeouts.first_byte.min(timeouts.between_chunks));
        match self.scenario.client_deadline {
            Some(deadline) => soonest.min(arrival.at.after(deadline)),
            None => soonest,
        }
    }

    pub(super) fn timer(&mut self, id: WorkId) {
        let timeouts = &self.settings.timeouts;
        let Some(flight) = self.flights.get_mut(id) else { return };
        let node_due = match flight.first_byte {
            None => flight.heard.after(timeouts.first_byte),
            Some(_) => flight.heard.after(timeouts.between_chunks),
        };
        let client_due = self.scenario.client_deadline.map(|deadline| flight.arrival.at.after(deadline));
        if client_due.is_some_and(|due| due <= self.now) {
            if let Some(flight) = self.take_away(id) {
                flight.ticket.finish(self.now, Outcome::Censored(Censor::ClientGone));
                self.result.error_at(flight.server);
                self.result.abandoned(&flight.arrival);
            }
        } else if node_due <= self.now {
            self.fail(id, Failure::Timeout);
        } else {
            // Looked at again no later than a silence that begins now would be over.
            let look = node_due.min(self.now.after(timeouts.between_chunks));
            self.put(client_due.map_or(look, |due| due.min(look)), Due::Timer(id));
        }
    }

    /// Ends a request's attempt by the node's fault. It was sent, and it is a POST: no retry.
    pub(super) fn fail(&mut self, id: WorkId, failure: Failure) {
        if let Some(mut flight) = self.take_away(id) {
            if matches!(failure, Failure::Status(_)) {
                flight.ticket.first_byte(self.now);
            }
            flight.ticket.finish(self.now, Outcome::Failed(failure));
            self.result.error_at(flight.server);
            self.result.failed(&flight.arrival);
        }
    }

    /// The request leaves the table and its server.
    fn take_away(&mut self, id: WorkId) -> Option<Flight> {
        let flight = self.flights.remove(id)?;
        self.serve(flight.server);
        self.nodes[flight.server].server.cancel(self.now, id);
        self.reschedule(flight.server);
        Some(flight)
    }
}

fn complete(mut flight: Flight, at: Time, tells_cached: bool, result: &mut RunResult) {
    let streaming = flight.arrival.shape.streaming;
    flight.ticket.first_byte(at);
    if !streaming && flight.arrival.work.output_tokens > 0 {
        // Whole answers of language models tell their tokens; streams do so only when asked.
        let work = flight.arrival.work;
        flight.ticket.usage(Some(work.prompt_tokens), Some(work.output_tokens));
    }
    if tells_cached {
        flight.ticket.usage_cached(Some(flight.cached));
    }
    flight.ticket.finish(at, Outcome::Completed { status: 200 });
    result.completed(&flight.arrival, flight.first_byte.unwrap_or(at), at);
}
