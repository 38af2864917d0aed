//! Ten times the load in virtual time: how much of the capacity is still answered in time.
//!
//! Real balancers with queue and limits before servers that become slower the more they have: eight workers each, and
//! beyond that everybody shares. Without a limit such servers answer nobody in time; with one, those who are let in are.

use std::collections::BinaryHeap;
use std::time::Duration;

use super::*;
use crate::admission::{Priority, QueueRules, Terms};
use crate::fleet::Ejection;
use crate::node::NodeSpec;
use crate::outcome::Outcome;

const POLICIES: [&str; 2] = [policy::ADAPTIVE, policy::FALLBACK];

const NODES: usize = 4;
/// What a server works on at once without becoming slower.
const WORKERS: f64 = 8.0;
const SERVICE_S: f64 = 0.25;
/// Requests a second that the fleet can answer.
const CAPACITY: f64 = NODES as f64 * WORKERS / SERVICE_S;
/// How long a request may wait for a node.
const DEADLINE: Duration = Duration::from_secs(2);
/// A client that has no answer by then has given up, and what comes later is worth nothing.
const PATIENCE: Duration = Duration::from_secs(3);
/// The rush, after which the load is what the fleet can well carry.
const RUSH_S: (f64, f64) = (5.0, 15.0);
const END_S: f64 = 25.0;

/// What ends next: the earliest first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct End(std::cmp::Reverse<(u64, usize)>);

struct World {
    balancer: Arc<Balancer>,
    scratch: Scratch,
    rng: fastrand::Rng,
    ends: BinaryHeap<End>,
    /// What runs, with when its request came.
    running: Vec<Option<(Ticket, Time)>>,
    waiting: Vec<(Place, Time)>,
    /// When right answers came in time.
    good: Vec<f64>,
    refused: usize,
    most_waiting: usize,
}

impl World {
    fn new(by: &str, limit: Option<u32>) -> World {
        let spec = |at: usize| {
            let spec = NodeSpec::new(format!("http://n{at}"));
            NodeSpec { max_in_flight: limit, auto_limit: limit.is_none(), ..spec }
        };
        let fleet = (0..NODES).fold(Fleet::default(), |fleet, at| fleet.with(spec(at)).expect("free name"));
        let balancer = Arc::new(Balancer::new(fleet, PolicyId::named(by).expect("known"), Clock::manual(), Vec::new()));
        balancer.set_queue(QueueRules { timeout: DEADLINE, ..QueueRules::default() });
        balancer.set_ejection(Ejection::default());
        World {
            balancer,
            scratch: Scratch::with_seed(1),
            rng: fastrand::Rng::with_seed(2),
            ends: BinaryHeap::new(),
            running: Vec::new(),
            waiting: Vec::new(),
            good: Vec::new(),
            refused: 0,
            most_waiting: 0,
        }
    }

    fn start(&mut self, ticket: Ticket, now: Time, came: Time) {
        let node = ticket.node();
        let in_flight = node.live.ledger.in_flight();
        assert!(node.spec.max_in_flight.is_none_or(|limit| in_flight <= limit), "{in_flight}");
        let work_s = SERVICE_S * (0.5 + self.rng.f64());
        let took_s = work_s * (f64::from(in_flight) / WORKERS).max(1.0);
        self.ends
            .push(End(std::cmp::Reverse((now.after(Duration::from_secs_f64(took_s)).as_micros(), self.running.len()))));
        self.running.push(Some((ticket, came)));
    }

    fn arrive(&mut self, now: Time) {
        match self.balancer.decide(now, &RequestShape::default(), &[], &mut self.scratch) {
            Verdict::Go(ticket) => self.start(ticket, now, now),
            Verdict::Refuse(_) => self.refused += 1,
            Verdict::Wait(mut place) => {
                let terms = Terms { priority: Priority::default(), bytes: 100, deadline: now.after(DEADLINE) };
                match place.join(now, terms) {
                    Ok(()) => self.waiting.push((place, now)),
                    Err(_) => self.refused += 1,
                }
            }
        }
    }

    fn end(&mut self, now: Time, at: usize) {
        let (mut ticket, came) = self.running[at].take().expect("ends once");
        ticket.first_byte(now);
        ticket.finish(now, Outcome::Completed { status: 200 });
        if now.since(came) <= PATIENCE {
            self.good.push(now.as_secs_f64());
        }
    }

    /// Those who wait hear of it.
    fn hand_out(&mut self, now: Time) {
        self.most_waiting = self.most_waiting.max(self.waiting.len());
        let mut at = 0;
        while at < self.waiting.len() {
            match self.waiting[at].0.answer() {
                None => at += 1,
                Some(answer) => {
                    let (_, came) = self.waiting.swap_remove(at);
                    match answer {
                        Ok(ticket) => self.start(*ticket, now, came),
                        Err(_) => self.refused += 1,
                    }
                }
            }
        }
    }

    fn run(&mut self) {
        let mut next = 0.0;
        let mut tended = 0.0;
        while next < END_S {
            let now = Time::from_secs_f64(next);
            while let Some(End(std::cmp::Reverse((micros, at)))) = self.ends.peek().map(|end| End(end.0)) {
                if micros > now.as_micros() {
                    break;
                }
                self.ends.pop();
                let ended = Time::from_micros(micros);
                self.balancer.clock().set(ended);
                self.end(ended, at);
                self.hand_out(ended);
            }
            self.balancer.clock().set(now);
            if next >= tended {
                self.balancer.tend(now);
                tended = next + 0.02;
            }
            self.arrive(now);
            self.hand_out(now);
            let rate = if (RUSH_S.0..RUSH_S.1).contains(&next) { 10.0 } else { 0.6 } * CAPACITY;
            next += -(1.0 - self.rng.f64()).ln() / rate;
        }
    }

    fn goodput(&self, from_s: f64, to_s: f64) -> f64 {
        let count = self.good.iter().filter(|at| (from_s..to_s).contains(*at)).count();
        count as f64 / (to_s - from_s) / CAPACITY
    }
}

/// Limits, and the share of the capacity that must be answered in time. A limit that is found out without a model, from the
/// node's own average, follows a rush upwards: then answers take longer than some clients wait.
const LIMITS: [(&str, Option<u32>, f64); 2] = [("8", Some(8), 0.9), ("auto", None, 0.6)];

#[test]
fn under_ten_times_the_load_a_fleet_with_limits_answers_nine_tenths_of_its_capacity_in_time() {
    for by in POLICIES {
        for (name, limit, least) in LIMITS {
            let mut world = World::new(by, limit);
            world.run();
            // The first second of the rush fills the queue, and the last of it are served within seconds.
            let (rush, after) = (world.goodput(RUSH_S.0 + 1.0, RUSH_S.1), world.goodput(RUSH_S.1 + 5.0, END_S));
            assert!(rush >= least, "{by}, max_in_flight {name}: {rush}");
            assert!(after >= 0.55, "{by}, max_in_flight {name}: {after} of a load of 0.6");
            assert!(world.refused > 0 && world.most_waiting <= QueueRules::default().length_max);
        }
    }
}
