//! Requests in flight in a simulation: a table whose ids are never given twice.
//!
//! Engines and the agenda of the driver keep ids of requests that may have ended meanwhile (a timer of an answered
//! request, a token of a cancelled one). An id therefore carries the place in the table and how often that place was
//! used before; looking up a stale one finds nothing. Memory is bounded by the requests in flight at once.

use crate::balancer::Ticket;
use crate::clock::Time;
use crate::sim::WorkId;
use crate::sim::workload::Arrival;

/// A request that has arrived and not ended.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) arrival: Arrival,
    /// The attempt under way.
    pub(super) ticket: Ticket,
    /// The server that it runs on.
    pub(super) server: usize,
    /// When the attempt under way last heard of the node; its start at first.
    pub(super) heard: Time,
    /// When the first byte came.
    pub(super) first_byte: Option<Time>,
    /// Tokens of the prompt that the server had cached.
    pub(super) cached: u32,
}

/// The requests in flight.
#[derive(Debug, Default)]
pub(super) struct Flights {
    places: Vec<Place>,
    free: Vec<u32>,
    count: usize,
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    flight: Option<Flight>,
}

impl Flights {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Takes one in; its id.
    pub(super) fn insert(&mut self, flight: Flight) -> WorkId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        place.flight = Some(flight);
        self.count += 1;
        (u64::from(place.generation) << 32) | u64::from(index)
    }

    /// The request of that id, unless it has ended.
    pub(super) fn get_mut(&mut self, id: WorkId) -> Option<&mut Flight> {
        let place = self.places.get_mut((id & u64::from(u32::MAX)) as usize)?;
        place.flight.as_mut().filter(|_| u64::from(place.generation) == id >> 32)
    }

    /// Takes it out, unless it has ended.
    pub(super) fn remove(&mut self, id: WorkId) -> Option<Flight> {
        let index = id & u64::from(u32::MAX);
        let place = self.places.get_mut(index as usize)?;
        if u64::from(place.generation) != id >> 32 {
            return None;
        }
        let flight = place.flight.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index as u32);
        self.count -= 1;
        Some(flight)
    }

    /// The ids of all requests on a server, in the order of their places.
    pub(super) fn on(&self, server: usize) -> Vec<WorkId> {
        let places = self.places.iter().zip(0u64..);
        let on = places.filter(|(place, _)| place.flight.as_ref().is_some_and(|flight| flight.server == server));
        on.map(|(place, index)| (u64::from(place.generation) << 32) | index).collect()
    }
}
