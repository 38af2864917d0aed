//! Ten times the load in virtual time: how much of the capacity is still answered in time.
//!
//! Real balancers with queue and limits before servers of several shapes that become slower the more they have. Without
//! a limit such servers answer nobody in time; with one, those who are let in are.

mod servers;

use std::collections::HashMap;
use std::time::Duration;

use super::*;
use crate::admission::{Priority, QueueRules, Terms};
use crate::fleet::Ejection;
use crate::node::NodeSpec;
use crate::outcome::Outcome;
use crate::sim::{BatchSpec, WorkId};
use servers::{Machine, Shape};

const POLICIES: [&str; 2] = [policy::ADAPTIVE, policy::FALLBACK];

const NODES: usize = 4;
/// How long a request may wait for a node.
const DEADLINE: Duration = Duration::from_secs(2);
/// A client that has no answer by then has given up, and what comes later is worth nothing.
const PATIENCE: Duration = Duration::from_secs(4);
/// What the fleet can well carry, as a part of its capacity, before and after the rush.
const CALM: f64 = 0.6;
const RUSH: f64 = 10.0;
const RUSH_S: (f64, f64) = (5.0, 15.0);
const END_S: f64 = 30.0;

struct World {
    shape: Shape,
    balancer: Arc<Balancer>,
    scratch: Scratch,
    rng: fastrand::Rng,
    machines: Vec<Machine>,
    /// What runs, with when its request came, and its size.
    running: HashMap<WorkId, (Ticket, Time, f64)>,
    started: WorkId,
    waiting: Vec<(Place, Time)>,
    /// When requests came.
    came: Vec<Time>,
    /// Those of right answers in time: when they ended and came, and their sizes.
    good: Vec<(Time, Time, f64)>,
    refused: usize,
    most_waiting: usize,
    most_running: u32,
}

impl World {
    fn new(shape: Shape, by: &str, limit: Option<u32>, seed: u64) -> World {
        let spec = |at: usize| {
            let spec = NodeSpec::new(format!("http://n{at}"));
            NodeSpec { max_in_flight: limit, auto_limit: limit.is_none(), ..spec }
        };
        let fleet = (0..NODES).fold(Fleet::default(), |fleet, at| fleet.with(spec(at)).expect("free name"));
        let balancer = Arc::new(Balancer::new(fleet, PolicyId::named(by).expect("known"), Clock::manual(), Vec::new()));
        balancer.set_queue(QueueRules { timeout: DEADLINE, ..QueueRules::default() });
        balancer.set_ejection(Ejection::default());
        World {
            shape,
            balancer,
            scratch: Scratch::with_seed(seed),
            rng: fastrand::Rng::with_seed(seed + 1_000),
            machines: (0..NODES).map(|_| shape.server()).collect(),
            running: HashMap::new(),
            started: 0,
            waiting: Vec::new(),
            came: Vec::new(),
            good: Vec::new(),
            refused: 0,
            most_waiting: 0,
            most_running: 0,
        }
    }

    fn capacity_rps(&self) -> f64 {
        NODES as f64 * self.shape.capacity_rps()
    }

    fn start(&mut self, ticket: Ticket, now: Time, came: Time) {
        let node = ticket.node();
        let in_flight = node.live.ledger.in_flight();
        assert!(node.spec.max_in_flight.is_none_or(|limit| in_flight <= limit), "{in_flight}");
        self.most_running = self.most_running.max(in_flight);
        let machine = &mut self.machines[node.slot as usize];
        let work = self.shape.work(&mut self.rng);
        machine.submit(now, self.started, work);
        self.running.insert(self.started, (ticket, came, self.shape.size(work)));
        self.started += 1;
    }

    fn arrive(&mut self, now: Time) {
        self.came.push(now);
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

    /// Everything that ends by `now`, one instant after the other.
    fn advance(&mut self, now: Time) {
        while let Some(next) = self.machines.iter().filter_map(Machine::next_event).min().filter(|next| *next <= now) {
            self.balancer.clock().set(next);
            let ends: Vec<_> = self.machines.iter_mut().flat_map(|machine| machine.advance(next)).collect();
            for (at, id) in ends {
                let (mut ticket, came, size) = self.running.remove(&id).expect("ends once");
                ticket.first_byte(at);
                ticket.finish(at, Outcome::Completed { status: 200 });
                if at.since(came) <= PATIENCE {
                    self.good.push((at, came, size));
                }
            }
            self.hand_out(next);
        }
        self.machines.iter_mut().for_each(|machine| _ = machine.advance(now));
        self.balancer.clock().set(now);
    }

    /// Those who wait hear of it.
    fn hand_out(&mut self, now: Time) {
        self.most_waiting = self.most_waiting.max(self.balancer.queued().0.iter().sum());
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
            self.advance(now);
            if next >= tended {
                self.balancer.tend(now);
                self.hand_out(now);
                tended = next + 0.02;
            }
            self.arrive(now);
            let rate = if (RUSH_S.0..RUSH_S.1).contains(&next) { RUSH } else { CALM } * self.capacity_rps();
            next += -(1.0 - self.rng.f64()).ln() / rate;
        }
    }

    /// What was answered in time between two times, as a part of the capacity.
    fn goodput(&self, from_s: f64, to_s: f64) -> f64 {
        let within = self.good.iter().filter(|(at, ..)| (from_s..to_s).contains(&at.as_secs_f64()));
        within.map(|(.., size)| size).sum::<f64>() / (to_s - from_s) / self.capacity_rps()
    }

    /// Of those who came between two times, the part that was answered in time.
    fn served(&self, from_s: f64, to_s: f64) -> f64 {
        let within = |came: &Time| (from_s..to_s).contains(&came.as_secs_f64());
        let good = self.good.iter().filter(|(_, came, _)| within(came)).count();
        good as f64 / self.came.iter().filter(|came| within(came)).count() as f64
    }
}

/// Runs it with each policy and several seeds.
fn check(shape: Shape, limit: Option<u32>) {
    for (by, seed) in POLICIES.into_iter().zip(1..) {
        let mut world = World::new(shape, by, limit, seed);
        world.run();
        // The first second of the rush fills the queue, and five seconds after it everything is as before.
        let rush = world.goodput(RUSH_S.0 + 1.0, RUSH_S.1);
        let after = world.served(RUSH_S.1 + 5.0, END_S - PATIENCE.as_secs_f64());
        let told = format!(
            "{shape:?}, {by}, {limit:?}, seed {seed}: {rush:.3} in the rush, {after:.3} after, at most {} at a node",
            world.most_running
        );
        assert!(rush >= 0.9, "{told}");
        assert!(after >= 0.98, "{told}");
        assert!(world.refused > 0 && world.most_waiting <= QueueRules::default().length_max, "{told}");
    }
}

#[test]
fn with_limits_that_fit_ten_times_the_load_leaves_nine_tenths_of_the_capacity() {
    check(Shape::Shared { workers: 8 }, Some(8));
}

#[test]
fn workers_find_a_limit_that_leaves_nine_tenths_of_the_capacity_at_ten_times_the_load() {
    for workers in [4, 16] {
        check(Shape::Line { workers }, None);
    }
}

#[test]
fn shared_workers_find_a_limit_that_leaves_nine_tenths_of_the_capacity_at_ten_times_the_load() {
    for workers in [4, 8] {
        check(Shape::Shared { workers }, None);
    }
}

#[test]
fn batching_servers_find_a_limit_that_leaves_nine_tenths_of_the_capacity_at_ten_times_the_load() {
    // The limit starts at half of its slots, and at a quarter of its slots.
    check(Shape::Batch(BatchSpec::new(0.004, 0.000_1, 20_000.0, 32)), None);
    check(Shape::Batch(BatchSpec::new(0.010, 0.000_05, 20_000.0, 64)), None);
}
