//! What happens around requests: health checks, a trainer's work, and what goes wrong with nodes.

use super::{Driver, Due};
use crate::outcome::Failure;
use crate::sim::scenario::Action;

impl Driver<'_> {
    /// A check as it is configured by default: a connection, which also a node that hangs accepts.
    pub(super) fn check(&mut self, proxy: usize, at: usize) {
        let balancer = &self.proxies[proxy].instance.balancer;
        if let Some(node) = balancer.fleet().by_name(&self.scenario.nodes[at].node.name) {
            balancer.checked(node, !self.nodes[at].crashed);
        }
        let interval = self.settings.health.interval.mul_f64(0.9 + 0.2 * self.jitter.f64());
        self.put(self.now.after(interval), Due::Check(proxy, at));
    }

    pub(super) fn hook(&mut self, proxy: usize, at: usize) {
        // What servers did up to now must be known before somebody looks.
        for node in 0..self.nodes.len() {
            self.serve(node);
        }
        let hook = &mut self.proxies[proxy].instance.hooks[at];
        (hook.call)(self.now);
        let next = self.now.after(hook.every);
        self.put(next, Due::Hook(proxy, at));
    }

    pub(super) fn incident(&mut self, at: usize) {
        let incident = self.scenario.incidents[at];
        self.serve(incident.node);
        self.result.incident(incident.node, self.flights.on(incident.node).len() as u64);
        let node = &mut self.nodes[incident.node];
        match incident.action {
            Action::Speed(speed) => node.server.set_speed(self.now, speed),
            Action::Fail(share) => node.fail_share = share,
            Action::Hang => {
                node.hangs = true;
                node.server.pause(self.now);
            }
            Action::Crash => self.crash(incident.node),
            Action::Recover => {
                (node.fail_share, node.hangs, node.crashed) = (0.0, false, false);
                node.server.set_speed(self.now, 1.0);
                node.server.resume(self.now);
            }
            Action::Join | Action::Leave => self.change_fleet(incident.node, incident.action == Action::Join),
        }
        self.reschedule(incident.node);
    }

    fn crash(&mut self, at: usize) {
        self.nodes[at].crashed = true;
        for id in self.flights.on(at) {
            let began = self.flights.get_mut(id).is_some_and(|flight| flight.first_byte.is_some());
            self.fail(id, if began { Failure::BrokenBody } else { Failure::Broken });
        }
        self.nodes[at].server.clear();
    }

    fn change_fleet(&self, at: usize, join: bool) {
        let known = &self.scenario.nodes[at];
        for proxy in &self.proxies {
            let weighted = proxy.instance.weighted;
            // A node that is there already joins to no effect, and one that is not leaves to none.
            let _ = proxy.instance.balancer.change_fleet(|fleet| {
                if join { fleet.with(known.spec(weighted)) } else { fleet.without(&known.node.name) }
            });
        }
    }
}
