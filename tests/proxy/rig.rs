//! A running proxy, and nodes for it: ones that the test plays itself, emulators that wait to be told, and dead ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bellwether::app::App;
use bellwether::config::{Priority, Route, Settings, Timeouts};
use bellwether::emulator::{Emulator, EmulatorSpec};
use bellwether::fleet::Node;
use bellwether::node::NodeSpec;
use bellwether::policy::PolicyId;
use bellwether::server::Server;
use bellwether::sim::{BatchSpec, ServerSpec};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::wire::{Head, Wire, soon};

/// A proxy that ends, at once, with the test.
pub(crate) struct Rig {
    server: Option<Server>,
    pub(crate) app: Arc<App>,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// Settings for a fleet: free ports, one worker so that its connections are kept in one place, health checks only once.
pub(crate) fn settings(nodes: impl IntoIterator<Item = NodeSpec>) -> Settings {
    let mut settings = Settings { nodes: nodes.into_iter().collect(), workers: 1, ..Settings::default() };
    settings.listen.set_port(0);
    settings.admin.listen.set_port(0);
    settings.health.interval = Duration::from_secs(3_600);
    settings
}

/// A route for the paths beneath `prefix`.
pub(crate) fn route(prefix: &str, timeouts: Timeouts) -> Route {
    Route {
        name: prefix.to_owned(),
        path_prefix: prefix.to_owned(),
        method: None,
        model: None,
        retry_post: false,
        retry_errors: false,
        hedge: false,
        priority: Priority::Default,
        timeouts,
    }
}

pub(crate) fn policy(name: &str) -> PolicyId {
    PolicyId::named(name).expect("a policy of that name")
}

impl Rig {
    pub(crate) fn start(settings: Settings) -> Rig {
        let server = Server::start(settings).expect("a proxy");
        let (app, address, admin) = (Arc::clone(server.app()), server.address(), server.admin_address().address());
        Rig { server: Some(server), app, address, admin: admin.expect("on TCP") }
    }

    /// With the settings of [`settings`].
    pub(crate) fn of(nodes: impl IntoIterator<Item = NodeSpec>) -> Rig {
        Rig::start(settings(nodes))
    }

    pub(crate) async fn client(&self) -> Wire {
        Wire::connect(self.address).await
    }

    pub(crate) fn node(&self, name: &str) -> Arc<Node> {
        Arc::clone(self.app.balancer.fleet().by_name(name).expect("a node of that name"))
    }

    pub(crate) fn in_flight(&self, name: &str) -> u32 {
        self.node(name).live.ledger.in_flight()
    }

    /// The value of a series, written as in the exposition; 0 where it does not exist yet.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.app.scrape();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// Attempts of a node that ended so.
    pub(crate) fn attempts(&self, node: &str, outcome: &str) -> f64 {
        self.metric(&format!("bellwether_attempts_total{{node=\"{node}\",outcome=\"{outcome}\"}}"))
    }

    /// Asserts that the one attempt there was ended as `outcome`, once, and taught nothing about the node's speed
    /// unless it completed.
    pub(crate) async fn one_attempt(&self, node: &str, outcome: &str) {
        until(&format!("{outcome} once"), || self.attempts(node, outcome) == 1.0 && self.in_flight(node) == 0).await;
        let text = self.app.scrape();
        let of_node = format!("bellwether_attempts_total{{node=\"{node}\"");
        let all = text.lines().filter_map(|line| line.strip_prefix(&of_node)?.rsplit_once(' '));
        assert_eq!(all.filter(|(_, count)| *count != "0").count(), 1, "{text}");
        let labels = self.metric(&format!("bellwether_request_seconds_count{{node=\"{node}\"}}"));
        assert_eq!(labels, f64::from(u8::from(outcome == "completed")), "{text}");
    }

    /// Stops gracefully, on a thread of its own; what comes out is whether all finished in time.
    pub(crate) fn stop(mut self, drain: Duration) -> tokio::task::JoinHandle<bool> {
        let server = self.server.take().expect("it runs");
        tokio::task::spawn_blocking(move || server.stop(drain))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(Duration::ZERO);
        }
    }
}

/// Pauses between looks, never less than that, so that whoever shares the thread gets on.
pub(crate) fn pauses(length: Duration) -> tokio::time::Interval {
    let mut pauses = tokio::time::interval(length);
    pauses.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    pauses
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let mut tick = pauses(Duration::from_millis(1));
    let holds = async {
        while !condition() {
            tick.tick().await;
        }
    };
    soon(what, holds).await;
}

/// A node that the test plays.
#[derive(Debug)]
pub(crate) struct Stage {
    listener: TcpListener,
    name: &'static str,
}

impl Stage {
    pub(crate) async fn open(name: &'static str) -> Stage {
        Stage { listener: TcpListener::bind("127.0.0.1:0").await.expect("a free port"), name }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("bound")
    }

    pub(crate) fn spec(&self) -> NodeSpec {
        NodeSpec::new(format!("http://{}", self.address())).named(self.name)
    }

    /// The next connection on which a request comes, and its head. Health checks connect and say nothing.
    pub(crate) async fn request(&self) -> (Wire, Head) {
        loop {
            let mut wire = self.connection().await;
            if let Some(head) = wire.try_head().await {
                return (wire, head);
            }
        }
    }

    /// The next connection, a health check's too.
    pub(crate) async fn connection(&self) -> Wire {
        Wire::from(soon("a connection to the node", self.listener.accept()).await.expect("accepted").0)
    }
}

/// A port that is taken and on which nobody listens: connections are refused, and no other test can get it.
#[derive(Debug)]
pub(crate) struct Dead {
    socket: TcpSocket,
    name: &'static str,
}

impl Dead {
    pub(crate) fn node(name: &'static str) -> Dead {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        Dead { socket, name }
    }

    pub(crate) fn spec(&self) -> NodeSpec {
        NodeSpec::new(format!("http://{}", self.socket.local_addr().expect("bound"))).named(self.name)
    }

    /// Comes to life.
    pub(crate) fn rise(self) -> Stage {
        Stage { listener: self.socket.listen(64).expect("bound"), name: self.name }
    }
}

/// A listener whose queue is full: whoever connects waits for ever.
#[derive(Debug)]
pub(crate) struct Hole {
    listener: TcpListener,
    _waiting: TcpStream,
}

impl Hole {
    pub(crate) async fn open() -> Hole {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        // A queue for "0" connections has room for one; the kernel ignores whoever comes after it.
        let listener = socket.listen(0).expect("bound");
        let waiting = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("room for one");
        Hole { listener, _waiting: waiting }
    }

    pub(crate) fn spec(&self, name: &str) -> NodeSpec {
        NodeSpec::new(format!("http://{}", self.listener.local_addr().expect("bound"))).named(name)
    }
}

/// An emulated model server that computes a token per step, for up to 256 requests at once, when told to.
pub(crate) async fn emulator(name: &str) -> Emulator {
    let server = ServerSpec::Batch(BatchSpec::new(0.1, 0.0, 1e9, 256));
    Emulator::start(EmulatorSpec::new(name, server).manual(), 1).await.expect("a free port")
}

pub(crate) fn spec_of(emulator: &Emulator) -> NodeSpec {
    NodeSpec::new(emulator.url()).named(emulator.name())
}

/// A chat completion of so many tokens.
pub(crate) fn chat(tokens: u32, stream: bool) -> String {
    let content = format!("[output={tokens}]");
    let body = serde_json::json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": content}]});
    crate::wire::post("/v1/chat/completions", &body.to_string())
}
