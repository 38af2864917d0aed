//! Emulated model servers on real sockets, for tests, the demo, benchmarks and `examples/emulator.rs`.
//!
//! The engines are those of the simulator, driven by the machine's clock, behind the OpenAI API (streamed and whole),
//! embeddings and plain `POST /api/...`. So a proxy meets what it meets in production (batches that slow each other,
//! slots, queues, long streams, disconnects that free a slot), without a GPU and with lengths that the test chose. An
//! emulator never knows that a proxy stands before it, and does not check that requests make sense.
//!
//! Tests that must not depend on a busy machine use [`Pace::Manual`]: nothing is computed until [`Emulator::step`].

mod body;
mod engine;
mod fault;
mod fleet;
mod openai;
mod server;
#[cfg(test)]
mod tests;
mod text;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use self::engine::Engine;
pub use self::fault::{Counters, Disconnect, Fault};
pub use self::fleet::EmulatedFleet;
use self::server::{Order, Service};
use crate::sim::{Lognormal, ServerSpec, random};

/// The response header that names the emulated node, so that a load generator behind a proxy knows who answered.
pub const NODE_HEADER: &str = "x-emulator-node";

/// The model that an emulator says it serves unless told otherwise.
pub const MODEL: &str = "emulated";

/// What makes the engine go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// The machine's clock.
    #[default]
    RealTime,
    /// Calls of [`Emulator::step`] only.
    Manual,
}

/// What an emulated server is like.
#[derive(Clone, Debug, PartialEq)]
pub struct EmulatorSpec {
    /// Told in [`NODE_HEADER`].
    pub name: String,
    /// The engine.
    pub server: ServerSpec,
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What `/v1/models` lists; requests are served whatever they name.
    pub models: Vec<String>,
    /// Output tokens of requests without a `[output=N]`.
    pub outputs: Lognormal,
    /// Plain work in seconds of requests without a `[work_ms=N]`.
    pub plain_work_s: Lognormal,
    /// Tokens of its prefix cache; none unless set.
    pub cache_tokens: Option<u64>,
    /// What makes the engine go on.
    pub pace: Pace,
    /// How long after a request the head of a streamed answer comes; zero unless set. Real servers take a millisecond or
    /// two, and a proxy in Go that gets a head in the very instant in which it finishes its request may cut the answer.
    pub head_delay: Duration,
}

impl EmulatorSpec {
    /// A server of that kind on a free port of loopback, with the lengths of the study.
    pub fn new(name: impl Into<String>, server: ServerSpec) -> EmulatorSpec {
        EmulatorSpec {
            name: name.into(),
            server,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            models: vec![MODEL.to_owned()],
            outputs: random::OUTPUT_TOKENS,
            plain_work_s: random::PLAIN_WORK_S,
            cache_tokens: None,
            pace: Pace::RealTime,
            head_delay: Duration::ZERO,
        }
    }

    /// The same server that computes only when stepped.
    #[must_use]
    pub fn manual(self) -> EmulatorSpec {
        EmulatorSpec { pace: Pace::Manual, ..self }
    }

    fn model(&self) -> &str {
        self.models.first().map_or(MODEL, String::as_str)
    }
}

/// A running emulated server. Dropped, it ends as a killed process does.
#[derive(Debug)]
pub struct Emulator {
    addr: SocketAddr,
    name: String,
    server: ServerSpec,
    engine: Arc<Engine>,
    orders: mpsc::Sender<Order>,
    tasks: [JoinHandle<()>; 2],
}

impl Emulator {
    /// Starts a server on the present tokio runtime. The seed is for lengths that requests do not tell.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start(spec: EmulatorSpec, seed: u64) -> io::Result<Emulator> {
        let listener = TcpListener::bind(spec.listen).await?;
        let addr = listener.local_addr()?;
        let engine = Arc::new(Engine::new(&spec, seed));
        let (orders, receiver) = mpsc::channel(1);
        let (name, server) = (spec.name.clone(), spec.server);
        let service = Arc::new(Service { spec, engine: Arc::clone(&engine) });
        let tasks = [
            tokio::spawn(Arc::clone(&engine).drive()),
            tokio::spawn(server::accept(service, listener, addr, receiver)),
        ];
        Ok(Emulator { addr, name, server, engine, orders, tasks })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://address:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its engine's kind.
    pub fn server(&self) -> ServerSpec {
        self.server
    }

    /// Misbehaves from now on, or with [`Fault::None`] no longer. Returns when connects are refused or taken
    /// accordingly.
    ///
    /// # Errors
    /// After [`Fault::Refuse`], the port cannot be listened on again.
    pub async fn set_fault(&self, fault: Fault) -> io::Result<()> {
        self.engine.set_fault(fault);
        let (done, outcome) = oneshot::channel();
        let stopped = || io::Error::other("the emulated server has stopped");
        self.orders.send(Order::Listen(fault != Fault::Refuse, done)).await.map_err(|_| stopped())?;
        outcome.await.map_err(|_| stopped())?
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.engine.counters()
    }

    /// Clients that left early, the latest last; at most 1,024 are remembered.
    pub fn disconnects(&self) -> Vec<Disconnect> {
        self.engine.disconnects()
    }

    /// Returns when the counters satisfy `enough`; a test's alternative to sleeping.
    pub async fn wait_until(&self, enough: impl Fn(&Counters) -> bool) -> Counters {
        self.engine.wait_until(enough).await
    }

    /// Under [`Pace::Manual`], computes so many steps as far as there is work, and returns how many there were.
    pub fn step(&self, steps: u32) -> u32 {
        self.engine.step(steps)
    }

    /// Closes everything and returns when it is closed.
    pub async fn stop(mut self) {
        let (done, closed) = oneshot::channel();
        if self.orders.send(Order::Listen(false, done)).await.is_ok() {
            // If the listener ended before it could say so, it is closed as well.
            let _ = closed.await;
        }
        for task in &mut self.tasks {
            task.abort();
            // An aborted task is what was asked for.
            let _ = task.await;
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
