//! How much one client may ask for: requests and tokens per window, for each of many clients.
//!
//! Each quota is a bucket in the form of the generic cell rate algorithm (ITU-T I.371), which keeps one time per bucket:
//! the *theoretical arrival time*, up to which what was asked for has used the quota. A request of cost `n` passes if it
//! moves that time no further than one window ahead of now. So a quota of 60 per minute allows 60 at once and then one a
//! second, and remembers nothing else. `governor` is the library for this; its keyed table has no bound, and a client
//! that invents keys must not fill the memory. Here the least recently seen key is forgotten, and starts afresh.
//!
//! A request that costs more than the whole quota passes when the bucket is full, and is paid off before the next one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Time;

/// So much per window, all of it at once if it was not used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// At least 1.
    pub amount: u64,
    /// At least a microsecond.
    pub window: Duration,
}

/// The quotas of each client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateRules {
    /// Requests.
    pub requests: Option<Quota>,
    /// Prompt and expected output tokens.
    pub tokens: Option<Quota>,
    /// Clients that are remembered.
    pub keys_max: usize,
}

impl RateRules {
    /// Whether there is anything to check.
    pub fn is_off(&self) -> bool {
        self.requests.is_none() && self.tokens.is_none()
    }
}

/// How a client stands with one quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The quota.
    pub quota: Quota,
    /// What is left of it now.
    pub remaining: u64,
    /// Until all of it is there again.
    pub reset: Duration,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// How the client stands with requests and with tokens.
    pub standings: [Option<Standing>; 2],
    /// `None` if the request passes; else when it would.
    pub wait: Option<Duration>,
}

impl Quota {
    fn micros(self) -> u64 {
        u64::try_from(self.window.as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// How far a cost moves the theoretical arrival time, in microseconds.
    fn price(self, cost: u64) -> u64 {
        let price = u128::from(self.micros()) * u128::from(cost) / u128::from(self.amount.max(1));
        u64::try_from(price).unwrap_or(u64::MAX)
    }

    /// The arrival time after `cost` at `now`, or how long until it would pass.
    fn charge(self, arrival: u64, now: Time, cost: u64) -> Result<u64, Duration> {
        let now = now.as_micros();
        let start = arrival.max(now);
        let after = start.saturating_add(self.price(cost));
        let late = after.saturating_sub(now.saturating_add(self.micros()));
        // Too much even for a full bucket has to wait for that, not for ever.
        let late = late.min(start - now);
        if late == 0 { Ok(after) } else { Err(Duration::from_micros(late)) }
    }

    fn standing(self, arrival: u64, now: Time) -> Standing {
        let used = arrival.saturating_sub(now.as_micros());
        let free = u128::from(self.micros().saturating_sub(used));
        let remaining = free * u128::from(self.amount) / u128::from(self.micros());
        Standing {
            quota: self,
            remaining: u64::try_from(remaining).unwrap_or(u64::MAX),
            reset: Duration::from_micros(used),
        }
    }
}

#[derive(Debug, Default)]
struct Client {
    /// Theoretical arrival times of requests and tokens.
    arrivals: [u64; 2],
    seen: u64,
}

#[derive(Debug, Default)]
struct Shard {
    clients: HashMap<u64, Client>,
    /// When each was last seen, to who it was.
    order: BTreeMap<u64, u64>,
    seen: u64,
}

/// Parts of the table, each behind a lock of its own.
const SHARDS: usize = 16;

/// The buckets of all clients.
#[derive(Debug)]
pub struct RateTable(Box<[Mutex<Shard>]>);

impl Default for RateTable {
    fn default() -> Self {
        RateTable((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl RateTable {
    /// Whether the client `key` may ask for a request of `tokens` now. Pays for it if so, and for nothing if not.
    pub fn check(&self, now: Time, key: u64, rules: &RateRules, tokens: u64) -> Allowance {
        let mut shard = self.0[RateTable::place(key)].lock().unwrap_or_else(PoisonError::into_inner);
        let keys_max = rules.keys_max.div_ceil(SHARDS).max(1);
        let client = shard.touch(key, keys_max);
        let asked = [(rules.requests, 1), (rules.tokens, tokens)];
        let mut next = client.arrivals;
        let mut wait = None;
        for (at, (quota, cost)) in asked.into_iter().enumerate() {
            match quota.map(|quota| quota.charge(client.arrivals[at], now, cost)) {
                Some(Ok(arrival)) => next[at] = arrival,
                Some(Err(late)) => wait = wait.max(Some(late)),
                None => {}
            }
        }
        if wait.is_none() {
            client.arrivals = next;
        }
        let arrivals = client.arrivals;
        let standing = |at: usize| Some(asked[at].0?.standing(arrivals[at], now));
        Allowance { standings: [standing(0), standing(1)], wait }
    }

    /// A request that was paid for with `charged` tokens took `used`: the client gets the difference back, or pays it, which
    /// its next request waits for. Nothing if it has been forgotten meanwhile.
    pub fn settle(&self, key: u64, rules: &RateRules, charged: u64, used: u64) {
        let Some(quota) = rules.tokens else { return };
        let mut shard = self.0[RateTable::place(key)].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = shard.clients.get_mut(&key) {
            let [_, arrival] = &mut client.arrivals;
            *arrival = arrival.saturating_add(quota.price(used)).saturating_sub(quota.price(charged));
        }
    }

    fn place(key: u64) -> usize {
        (key >> 32) as usize % SHARDS
    }

    /// Clients that are remembered.
    pub fn len(&self) -> usize {
        self.0.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).clients.len()).sum()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shard {
    /// The client `key`, seen now; the one who was seen least recently makes room.
    fn touch(&mut self, key: u64, keys_max: usize) -> &mut Client {
        self.seen += 1;
        if let Some(client) = self.clients.get(&key) {
            self.order.remove(&client.seen);
        } else {
            while self.clients.len() >= keys_max {
                let Some((_, oldest)) = self.order.pop_first() else { break };
                self.clients.remove(&oldest);
            }
        }
        self.order.insert(self.seen, key);
        let client = self.clients.entry(key).or_default();
        client.seen = self.seen;
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(requests: u64, tokens: u64) -> RateRules {
        let quota = |amount| (amount > 0).then_some(Quota { amount, window: Duration::from_secs(60) });
        RateRules { requests: quota(requests), tokens: quota(tokens), keys_max: 1_000 }
    }

    fn at(seconds: f64) -> Time {
        Time::from_secs_f64(seconds)
    }

    #[test]
    fn a_quota_is_there_at_once_and_then_comes_back_evenly() {
        let (table, rules) = (RateTable::default(), rules(6, 0));
        let ask = |now| table.check(at(now), 7, &rules, 0);
        for left in (0..6).rev() {
            let standing = ask(1.0).standings[0].expect("a quota");
            assert_eq!((ask_wait(&standing), standing.remaining), (60 - 10 * left, left));
        }
        assert_eq!(ask(1.0).wait, Some(Duration::from_secs(10)));
        assert_eq!(ask(5.0).wait, Some(Duration::from_secs(6)), "asking costs nothing");
        assert_eq!((ask(11.0).wait, ask(11.0).wait), (None, Some(Duration::from_secs(10))));
        assert_eq!(ask(1_000.0).standings[0].map(|standing| standing.remaining), Some(5), "no more than the quota");
    }

    fn ask_wait(standing: &Standing) -> u64 {
        standing.reset.as_secs()
    }

    #[test]
    fn what_an_answer_took_is_what_is_paid_in_the_end() {
        let (table, rules) = (RateTable::default(), rules(0, 600));
        let ask = |now, tokens| table.check(at(now), 7, &rules, tokens);
        let left = |now| ask(now, 0).standings[1].map(|standing| standing.remaining);
        assert_eq!(ask(1.0, 500).wait, None);
        table.settle(7, &rules, 500, 200);
        assert_eq!(left(1.0), Some(400), "three hundred came back");
        assert_eq!(ask(1.0, 100).wait, None);
        table.settle(7, &rules, 100, 700);
        // What was used beyond the quota is paid before anything else: 300 of 600 are missing, at ten a second.
        assert_eq!((left(1.0), ask(1.0, 100).wait), (Some(0), Some(Duration::from_secs(40))));
        assert_eq!(left(91.0), Some(600));
        table.settle(8, &rules, 0, 10_000);
        assert_eq!(table.len(), 1, "nobody is made up");
    }

    #[test]
    fn tokens_and_requests_are_both_needed_and_paid_together() {
        let (table, rules) = (RateTable::default(), rules(10, 100));
        let ask = |tokens| table.check(at(1.0), 7, &rules, tokens);
        assert_eq!(ask(90).wait, None);
        assert_eq!(ask(20).wait, Some(Duration::from_secs(6)));
        let seen = ask(10);
        assert_eq!(seen.standings.map(|standing| standing.map(|standing| standing.remaining)), [Some(8), Some(0)]);
        assert_eq!(table.check(at(1.0), 8, &rules, 90).wait, None, "another client has his own");
    }

    #[test]
    fn more_than_the_whole_quota_passes_when_it_is_unused_and_is_paid_off() {
        let (table, rules) = (RateTable::default(), rules(0, 100));
        let ask = |now, tokens| table.check(at(now), 7, &rules, tokens).wait;
        assert_eq!(ask(1.0, 300), None);
        assert_eq!(ask(1.0, 1), Some(Duration::from_micros(120_600_000)));
        assert_eq!(ask(1.0, 300), Some(Duration::from_secs(180)));
        assert_eq!(ask(121.7, 1), None);
    }

    #[test]
    fn clients_who_invent_keys_cost_no_more_memory_than_allowed() {
        let (table, rules) = (RateTable::default(), RateRules { keys_max: 160, ..rules(1, 0) });
        for key in 0..10_000u64 {
            table.check(at(1.0), key.wrapping_mul(0x9e37_79b9_7f4a_7c15), &rules, 0);
        }
        assert!(table.len() <= 160, "{}", table.len());
        for shard in &table.0 {
            let shard = shard.lock().expect("sound");
            assert_eq!(shard.clients.len(), shard.order.len());
        }
    }

    #[test]
    fn who_asks_often_is_not_the_one_who_is_forgotten() {
        let (table, rules) = (RateTable::default(), RateRules { keys_max: 16 * 4, ..rules(1, 0) });
        assert_eq!(table.check(at(1.0), 1, &rules, 0).wait, None);
        for key in 2..1_000 {
            table.check(at(1.0), key, &rules, 0);
            assert!(table.check(at(1.0), 1, &rules, 0).wait.is_some(), "{key}");
        }
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_the_rate_and_one_quota(
            amount in 1u64..50,
            steps in prop::collection::vec((0.0..30.0f64, 1u64..5), 1..80),
        ) {
            let (table, rules) = (RateTable::default(), rules(0, amount));
            let (mut now, mut passed) = (1.0, 0);
            for (pause, cost) in steps {
                now += pause;
                let cost = cost.min(amount);
                let seen = table.check(at(now), 7, &rules, cost);
                passed += if seen.wait.is_none() { cost } else { 0 };
                let allowed = amount as f64 * (1.0 + (now - 1.0) / 60.0);
                prop_assert!(passed as f64 <= allowed + 1e-3, "{passed} of {allowed}");
                if let Some(wait) = seen.wait {
                    let then = at(now).after(wait);
                    prop_assert!(table.check(then, 7, &rules, cost).wait.is_none(), "it says truly when");
                    passed += cost;
                    now = then.as_secs_f64();
                }
            }
        }
    }
}
