//! A fleet of three emulated servers behind a proxy, with settings that react within a test's time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bellwether::app::App;
use bellwether::config::{Priority, Route, Settings};
use bellwether::emulator::{Emulator, EmulatorSpec};
use bellwether::node::NodeSpec;
use bellwether::policy::PolicyId;
use bellwether::server::Server;
use bellwether::sim::{BatchSpec, ServerSpec};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::client::{Crowd, Tally};
use crate::rogue::Rogue;

/// What has not happened by then never will.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Requests per second.
    pub(crate) rate: f64,
    /// Requests before, during and after a fault.
    pub(crate) requests: [u64; 3],
    /// Clients that leave, or are slow.
    pub(crate) clients: usize,
    /// Length of an overload.
    pub(crate) overload: Duration,
    /// Whether times are part of the verdict.
    pub(crate) timed: bool,
}

impl Scale {
    /// Small enough for every run of the tests.
    pub(crate) const TEST: Scale =
        Scale { rate: 100.0, requests: [40, 100, 40], clients: 100, overload: Duration::from_secs(1), timed: false };

    /// As the suite is meant; ten minutes.
    pub(crate) const FULL: Scale = Scale {
        rate: 200.0,
        requests: [600, 2_000, 600],
        clients: 1_000,
        overload: Duration::from_secs(10),
        timed: true,
    };
}

/// Names of the nodes; faults are those of the second.
pub(crate) const NODES: [&str; 3] = ["a", "b", "c"];

/// A fleet and the proxy before it; both end with it.
#[derive(Debug)]
pub(crate) struct Stage {
    server: Option<Server>,
    pub(crate) app: Arc<App>,
    pub(crate) proxy: SocketAddr,
    pub(crate) nodes: Vec<Emulator>,
    /// Between the proxy and the second node.
    pub(crate) rogue: Rogue,
}

/// A server that needs some 10 ms for an answer.
pub(crate) fn quick() -> ServerSpec {
    ServerSpec::Batch(BatchSpec::new(0.002, 0.000_05, 1e6, 64))
}

/// Reacts within a test's time; all else as users have it.
pub(crate) fn settings(policy: &str) -> Settings {
    let mut settings = Settings { workers: 1, ..Settings::default() };
    settings.listen.set_port(0);
    settings.admin.listen.set_port(0);
    settings.policy = PolicyId::named(policy).expect("a policy");
    settings.log.access = false;
    settings.health.interval = Duration::from_millis(200);
    settings.health.timeout = Duration::from_secs(2);
    settings.ejection.base = Duration::from_millis(300);
    settings.timeouts.connect = Duration::from_secs(1);
    settings.timeouts.first_byte = Duration::from_secs(2);
    settings.timeouts.between_chunks = Duration::from_secs(2);
    // Answers of model servers cost nothing but time: a request that had none may be sent again.
    settings.routes = vec![Route {
        name: "v1".to_owned(),
        path_prefix: "/v1".to_owned(),
        method: None,
        model: None,
        retry_post: true,
        retry_errors: false,
        hedge: false,
        priority: Priority::Default,
        timeouts: settings.timeouts.clone(),
    }];
    settings
}

impl Stage {
    pub(crate) async fn open(policy: &str) -> Stage {
        Stage::with(settings(policy), quick()).await
    }

    pub(crate) async fn with(mut settings: Settings, server: ServerSpec) -> Stage {
        let mut nodes = Vec::new();
        for (seed, name) in (1..).zip(NODES) {
            nodes.push(Emulator::start(EmulatorSpec::new(name, server), seed).await.expect("a free port"));
        }
        let rogue = Rogue::before(nodes[1].addr()).await;
        let limit = settings.nodes.first().and_then(|node| node.max_in_flight);
        settings.nodes = nodes
            .iter()
            .map(|node| {
                let address = if node.name() == NODES[1] { rogue.address } else { node.addr() };
                NodeSpec { max_in_flight: limit, ..NodeSpec::new(format!("http://{address}")).named(node.name()) }
            })
            .collect();
        let server = Server::start(settings).expect("a proxy");
        let (app, proxy) = (Arc::clone(server.app()), server.address());
        Stage { server: Some(server), app, proxy, nodes, rogue }
    }

    pub(crate) fn crowd(&self, scale: &Scale) -> Crowd {
        Crowd::before(self.proxy, scale.rate)
    }

    /// The node that has the fault.
    pub(crate) fn bad(&self) -> &Emulator {
        &self.nodes[1]
    }

    /// Attempts in flight anywhere, and requests that wait.
    pub(crate) fn busy(&self) -> u64 {
        let fleet = self.app.balancer.fleet();
        let in_flight: u64 = fleet.nodes().iter().map(|node| u64::from(node.live.ledger.in_flight())).sum();
        in_flight + self.app.balancer.queued().0.iter().sum::<usize>() as u64
    }

    /// Returns once nothing is in flight and nobody waits; all that is counted must come back.
    pub(crate) async fn quiet(&self) {
        until("nothing is in flight", || self.busy() == 0).await;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(Duration::ZERO);
        }
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let mut look = interval(Duration::from_millis(2));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let holds = async {
        while !condition() {
            look.tick().await;
        }
    };
    timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("{what}: never"));
}

/// What came of one case under one policy.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) case: &'static str,
    pub(crate) policy: &'static str,
    pub(crate) tally: Tally,
    /// From the fault to the last request that failed.
    pub(crate) reacted: Option<Duration>,
    /// From its end to the first request that the node served.
    pub(crate) recovered: Option<Duration>,
    /// What was expected and did not happen.
    pub(crate) wrong: Vec<String>,
}
