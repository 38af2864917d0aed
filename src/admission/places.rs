//! How many of a bounded number of places each client has taken: connections, or requests under way.
//!
//! A table of those who have one now, so that its size is bounded by the places there are, and nobody has to be forgotten.
//! Not the rate table with its clients of the last minutes: what counts here is what is held, not what was asked for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

/// Parts of the table, each behind a lock of its own.
const SHARDS: usize = 16;

/// The places that clients have taken.
#[derive(Debug)]
pub struct Places([Mutex<HashMap<u64, u32>>; SHARDS]);

/// A place, given back when dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub struct Place {
    places: Arc<Places>,
    client: u64,
}

impl Default for Places {
    fn default() -> Self {
        Places(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Places {
    /// A place for `client`, a hash of who it is; `None` if it has `most` already.
    pub fn take(self: &Arc<Self>, client: u64, most: usize) -> Option<Place> {
        let mut shard = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner);
        let taken = shard.get(&client).copied().unwrap_or(0);
        if taken as usize >= most || taken == u32::MAX {
            return None;
        }
        shard.insert(client, taken + 1);
        Some(Place { places: Arc::clone(self), client })
    }

    /// Clients that have a place.
    pub fn clients(&self) -> usize {
        self.0.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn shard(&self, client: u64) -> &Mutex<HashMap<u64, u32>> {
        // The low bits choose the bucket within a shard.
        &self.0[(client >> 32) as usize % SHARDS]
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shard = self.places.shard(self.client).lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut taken) = shard.entry(self.client) {
            *taken.get_mut() -= 1;
            if *taken.get() == 0 {
                taken.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nobody_has_more_than_allowed_and_all_is_given_back(
            steps in prop::collection::vec((0u64..5, any::<bool>()), 0..200), most in 0usize..4,
        ) {
            let places = Arc::new(Places::default());
            let mut held: Vec<(u64, Place)> = Vec::new();
            for (client, comes) in steps {
                let client = client << 32 | client;
                let has = held.iter().filter(|(other, _)| *other == client).count();
                if comes {
                    let place = places.take(client, most);
                    prop_assert_eq!(place.is_some(), has < most);
                    held.extend(place.map(|place| (client, place)));
                } else if let Some(at) = held.iter().position(|(other, _)| *other == client) {
                    drop(held.remove(at));
                }
            }
            held.clear();
            prop_assert_eq!(places.clients(), 0);
        }
    }
}
