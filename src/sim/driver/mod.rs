//! The event loop: real balancers before emulated servers, in virtual time.
//!
//! The driver plays everything around the core, and calls it as the data path does: a decision per attempt, the first
//! byte, each streamed event, one outcome; timeouts, retries of refused connections within a budget, health checks,
//! clients that give up. Connections and the proxy itself take no time: what is measured is routing. One thread,
//! one agenda ordered by time and then by insertion, seeds for everything random: the same inputs give the same run.

mod attempt;
mod incident;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use crate::admission::RetryBudget;
use crate::balancer::{Scratch, Ticket, Verdict};
use crate::clock::{Clock, Time};
use crate::config::Settings;
use crate::node::NodeId;
use crate::outcome::{Censor, Failure, Outcome};
use crate::request::Prefix;
use crate::sim::flights::{Flight, Flights};
use crate::sim::result::RunResult;
use crate::sim::roster::{Instance, RosterError, Setup, make};
use crate::sim::scenario::{Scenario, ScenarioNode};
use crate::sim::workload::{Arrival, Arrivals, mix, stream};
use crate::sim::yardstick::Foresight;
use crate::sim::{Server, WorkId};

/// How long a node that fails at once takes for it: a framework that turns an exception into an error page.
const FAILS_AFTER: Duration = Duration::from_millis(5);

/// How long the requests still in flight are waited for after the last arrival; what is left then counts as lost.
const DRAIN_MAX: Duration = Duration::from_secs(7_200);

/// What is due at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// The next request arrives.
    Arrival,
    /// Something happens in a server.
    Server(usize),
    /// A failing node's answer.
    Failure(WorkId),
    /// A timeout of a request may be over.
    Timer(WorkId),
    /// A health check by a proxy of a server.
    Check(usize, usize),
    /// A hook of a proxy.
    Hook(usize, usize),
    /// An incident of the scenario.
    Incident(usize),
}

/// An emulated server and what is wrong with it.
#[derive(Debug)]
struct Node {
    server: Server,
    fail_share: f64,
    hangs: bool,
    crashed: bool,
    /// What the agenda has for it.
    scheduled: Option<Time>,
}

/// A proxy: a balancer and what surrounds it.
#[derive(Debug)]
struct Proxy {
    instance: Instance,
    scratch: Scratch,
    retries: RetryBudget,
}

/// One run.
struct Driver<'a> {
    scenario: &'a Scenario,
    settings: Settings,
    clock: Clock,
    now: Time,
    agenda: BinaryHeap<Reverse<(Time, u64, Due)>>,
    inserted: u64,
    arrivals: Arrivals,
    next: Option<Arrival>,
    nodes: Vec<Node>,
    /// Where in `nodes` each name is: a search by name would be most of the work before a thousand nodes.
    places: HashMap<&'a str, usize>,
    proxies: Vec<Proxy>,
    flights: Flights,
    foresight: Foresight,
    jitter: fastrand::Rng,
    result: RunResult,
}

/// Simulates `scenario` at `load` with the policy `policy` under `seed`.
///
/// # Errors
/// The policy is unknown or cannot compete in this scenario.
pub fn run(scenario: &Scenario, load: f64, policy: &str, seed: u64) -> Result<RunResult, RosterError> {
    run_with(scenario, load, seed, |setup| make(policy, setup))
}

/// The same with proxies that the caller makes: for variants that have no name.
///
/// # Errors
/// Whatever `make` refuses.
pub fn run_with(
    scenario: &Scenario,
    load: f64,
    seed: u64,
    make: impl Fn(&Setup<'_>) -> Result<Instance, RosterError>,
) -> Result<RunResult, RosterError> {
    let clock = Clock::manual();
    let foresight = Foresight::default();
    let settings = Settings::default();
    let budget = || RetryBudget::new(settings.retry.budget, settings.retry.floor_per_s);
    let mut seeds = stream(seed, "policies");
    let proxies = (0..scenario.proxies).map(|_| {
        let seed = seeds.u64(..);
        let instance = make(&Setup { scenario, clock: &clock, seed, foresight: &foresight })?;
        Ok(Proxy { instance, scratch: Scratch::with_seed(mix(seed)), retries: budget() })
    });
    let proxies = proxies.collect::<Result<Vec<_>, RosterError>>()?;
    let nodes = scenario.nodes.iter().map(|node| Node {
        server: server_of(node, scenario),
        fail_share: 0.0,
        hangs: false,
        crashed: false,
        scheduled: None,
    });
    let mut driver = Driver {
        scenario,
        settings,
        now: Time::ZERO,
        agenda: BinaryHeap::new(),
        inserted: 0,
        arrivals: Arrivals::new(scenario.workload(load).into(), seed),
        next: None,
        nodes: nodes.collect(),
        places: scenario.nodes.iter().enumerate().map(|(at, node)| (&*node.node.name, at)).collect(),
        proxies,
        flights: Flights::default(),
        foresight,
        jitter: stream(seed, "jitter"),
        result: RunResult::new(scenario),
        clock,
    };
    driver.prepare();
    driver.drive();
    Ok(driver.close())
}

fn server_of(node: &ScenarioNode, scenario: &Scenario) -> Server {
    let server = Server::new(node.node.server);
    match &scenario.cache {
        Some(cache) => server.caching(cache.tokens),
        None => server,
    }
}

impl Driver<'_> {
    fn prepare(&mut self) {
        for (at, incident) in self.scenario.incidents.iter().enumerate() {
            self.put(incident.at, Due::Incident(at));
        }
        let interval = self.settings.health.interval;
        for proxy in 0..self.proxies.len() {
            for node in 0..self.nodes.len() {
                let at = Time::ZERO.after(interval.mul_f64(self.jitter.f64()));
                self.put(at, Due::Check(proxy, node));
            }
            let first: Vec<Duration> = self.proxies[proxy].instance.hooks.iter().map(|hook| hook.every).collect();
            for (hook, every) in first.into_iter().enumerate() {
                self.put(Time::ZERO.after(every), Due::Hook(proxy, hook));
            }
        }
        self.expect_arrival();
    }

    fn put(&mut self, at: Time, due: Due) {
        self.inserted += 1;
        self.agenda.push(Reverse((at, self.inserted, due)));
    }

    fn expect_arrival(&mut self) {
        self.next = self.arrivals.next();
        if let Some(at) = self.next.as_ref().map(|arrival| arrival.at) {
            self.put(at, Due::Arrival);
        }
    }

    fn drive(&mut self) {
        let until = Time::ZERO.after(self.scenario.length).after(DRAIN_MAX);
        while let Some(Reverse((at, _, due))) = self.agenda.pop() {
            if at > until || (self.next.is_none() && self.flights.len() == 0) {
                break;
            }
            self.now = at;
            self.clock.set(at);
            match due {
                Due::Arrival => self.arrive(),
                Due::Server(node) => self.serve(node),
                Due::Failure(id) => self.fail(id, Failure::Status(500)),
                Due::Timer(id) => self.timer(id),
                Due::Check(proxy, node) => self.check(proxy, node),
                Due::Hook(proxy, hook) => self.hook(proxy, hook),
                Due::Incident(at) => self.incident(at),
            }
        }
    }

    /// Everything ends; what is still in flight is lost.
    fn close(mut self) -> RunResult {
        for node in 0..self.nodes.len() {
            for id in self.flights.on(node) {
                if let Some(flight) = self.flights.remove(id) {
                    flight.ticket.finish(self.now, Outcome::Censored(Censor::Dropped));
                    self.result.error_at(node);
                    self.result.lost(&flight.arrival);
                }
            }
        }
        self.result.in_flight_at_end = self
            .proxies
            .iter()
            .map(|proxy| {
                let fleet = proxy.instance.balancer.fleet();
                fleet.nodes().iter().map(|node| u64::from(node.live.ledger.in_flight())).sum::<u64>()
            })
            .sum();
        self.result
    }

    fn arrive(&mut self) {
        let Some(mut arrival) = self.next.take() else { return };
        self.result.offered(&arrival);
        if !self.proxies[arrival.proxy as usize].instance.sees_prompts {
            arrival.shape.prefix = Prefix::default();
        }
        self.proxies[arrival.proxy as usize].retries.deposit(self.now);
        self.foresee(&arrival);
        self.attempt(arrival, Vec::new());
        self.expect_arrival();
    }

    /// Tells where the request was recorded, and the oracle when it would end on each server.
    fn foresee(&self, arrival: &Arrival) {
        self.foresight.set_recorded(arrival.recorded);
        if !self.foresight.is_used() {
            return;
        }
        let ends = self.nodes.iter().zip(&self.scenario.nodes).map(|(node, known)| {
            let ends = node.server.would_end(self.now, arrival.work, &arrival.text.prompt);
            let ends = ends.map(|end| end.as_secs_f64());
            (known.node.name.clone(), ends.unwrap_or(f64::INFINITY))
        });
        self.foresight.set(ends);
    }

    /// Decides and sends, until a node takes the request or nobody is left.
    fn attempt(&mut self, arrival: Arrival, mut tried: Vec<NodeId>) {
        loop {
            let proxy = &mut self.proxies[arrival.proxy as usize];
            let balancer = &proxy.instance.balancer;
            let Verdict::Go(ticket) = balancer.decide(self.now, &arrival.shape, &tried, &mut proxy.scratch) else {
                self.result.refused(&arrival);
                return;
            };
            let Some(at) = self.places.get(&*ticket.node().spec.name).copied() else { return };
            self.result.started(at, self.now);
            if !self.nodes[at].crashed {
                self.send(at, arrival, ticket);
                return;
            }
            tried.push(ticket.node().id);
            ticket.finish(self.now, Outcome::Failed(Failure::Connect));
            let again = tried.len() < self.settings.retry.attempts_max as usize && proxy.retries.try_withdraw(self.now);
            if !again {
                self.result.failed(&arrival);
                return;
            }
            self.result.retries += 1;
        }
    }

    fn send(&mut self, at: usize, arrival: Arrival, ticket: Ticket) {
        // Luck is the request's own, so that a failing node fails the same requests under every policy.
        let luck = (mix(arrival.luck) >> 11) as f64 / (1u64 << 53) as f64;
        let fails = luck < self.nodes[at].fail_share && !self.nodes[at].hangs;
        let (work, text) = (arrival.work, arrival.text.clone());
        let first_timer = self.first_timer(&arrival);
        let flight = Flight { arrival, ticket, server: at, heard: self.now, first_byte: None, cached: 0 };
        let id = self.flights.insert(flight);
        self.put(first_timer, Due::Timer(id));
        if fails {
            self.put(self.now.after(FAILS_AFTER), Due::Failure(id));
            return;
        }
        self.serve(at);
        let cached = self.nodes[at].server.submit(self.now, id, work, &text);
        if let Some(flight) = self.flights.get_mut(id) {
            flight.cached = cached;
        }
        self.result.cached(cached);
        self.reschedule(at);
    }
}
