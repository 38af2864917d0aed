//! How many requests a node works on at once, learned from what streams while others wait.
//!
//! Many model servers answer at constant speed up to their batch limit and then queue. A curve over the load learns
//! that knee only after having been beyond it for a while; the count of streams at moments when three or more requests
//! wait tells the limit at once. Unknown (infinite) until then.

/// From this many on, waiting is a queue and not a prompt at work.
const WAITING_MIN: f64 = 3.0;

/// How far one observation moves the limit.
const STEP: f64 = 0.1;

/// The learned slot limit of one node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slots(f64);

impl Default for Slots {
    fn default() -> Self {
        Slots(f64::INFINITY)
    }
}

impl Slots {
    /// A limit that was learned before; what is not a positive number counts as unknown.
    pub fn known(limit: f64) -> Slots {
        if limit > 0.0 { Slots(limit) } else { Slots::default() }
    }

    /// The limit; infinite while unknown.
    pub fn limit(self) -> f64 {
        self.0
    }

    /// A look at the node: how many wait for their first byte, and how many stream.
    pub fn observe(&mut self, waiting: f64, streaming: f64) {
        if !(waiting.is_finite() && streaming.is_finite()) {
            return;
        }
        if waiting >= WAITING_MIN {
            // A node that streams nothing shows no limit; one slot is the least that makes sense.
            let seen = streaming.max(1.0);
            self.0 = if self.0.is_finite() { self.0 + STEP * (seen - self.0) } else { seen };
        } else if streaming > self.0 {
            self.0 = streaming;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_what_streams_while_others_wait() {
        let mut slots = Slots::default();
        slots.observe(2.0, 30.0);
        assert_eq!(slots.limit(), f64::INFINITY);
        slots.observe(4.0, 14.0);
        assert_eq!(slots.limit(), 14.0);
        for _ in 0..100 {
            slots.observe(5.0, 16.0);
        }
        assert!((slots.limit() - 16.0).abs() < 0.01);
        slots.observe(0.0, 20.0);
        assert_eq!(slots.limit(), 20.0);
        slots.observe(f64::NAN, 1.0);
        assert_eq!(slots.limit(), 20.0);
    }
}
