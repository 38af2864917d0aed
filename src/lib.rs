//! Bellwether: a load balancer for AI model servers that learns how each node answers and routes by it.
//!
//! # The picture
//!
//! ```text
//!     main, cli              verbs: run, demo, simulate, check, config, ...
//!       |
//!     the shell              server   proxy   admin   telemetry   probe   reload   app       sockets, disk, wall
//!                            trainer  training  recording  state  priors  decisions  spans       clock, tokio
//!                            emulator   load   tls
//!       |                    advise  report  what a recording teaches about a fleet, a comparison as a page
//!       |                    sim         virtual time, the same core
//!     balancer               one coordinator: decide -> first byte -> events -> finish
//!       |
//!     policy   admission     siblings, neither knows the other
//!       |
//!     learn                  samples -> linfa fits -> immutable predictor
//!       |
//!     prefix                 what of a prompt each node was sent before
//!       |
//!     fleet                  nodes, their live load (ledger), their condition (health)
//!       |
//!     clock  node  request  outcome      the words that everything else is written in
//! ```
//!
//! Imports point only downward. What is below the shell is the *core*: no sockets, files, runtime, wall clock or
//! global randomness; time and a generator are arguments. So the simulator runs the very code that routes production
//! traffic, and a seed reproduces any run. `tests/architecture.rs` reads the sources and checks it. One ring is
//! allowed and named there: [`app::App`] is what the parts of one running instance share, so they know it and it holds
//! them.
//!
//! # One request
//!
//! 1. [`proxy`] reads a head behind a strict framing guard and looks at a bounded part of the body: a
//!    [`request::RequestShape`].
//! 2. Who asks for more than one client may is turned away ([`admission`]). Then [`balancer::Balancer::decide`] gathers
//!    candidates (up, not ejected, serving the model, below their limit, not tried), asks the policy for a probability
//!    per candidate, draws, and starts the attempt in the node's [`fleet::Ledger`]. Where every node that could serve
//!    is full, it gives a place in the one bounded queue instead, and the first node that frees calls it; where nothing
//!    could serve, or waiting is hopeless, it refuses at once and says when to come again.
//! 3. A pooled or new connection carries the request. What fails before anything was sent, what a node is too full
//!    for, and what is idempotent may be attempted again elsewhere, within a budget.
//! 4. Head, body and streamed events pass through as they come; the [`balancer::Ticket`] travels with the body.
//! 5. The end of the body ends the attempt exactly once: `Completed`, `Full`, `Failed` or `Censored`. A client that
//!    leaves closes the node's connection in the same instant. The sample goes to observers: metrics, and learning.
//!
//! # Invariants
//!
//! 1. The core is pure, see above.
//! 2. Every attempt has exactly one outcome, and in-flight returns to zero whatever happens.
//! 3. `0 < propensity <= 1` for every decision, and it is exact.
//! 4. The features of a sample are those seen at decision time, plus what only the end can tell; never recomputed.
//! 5. Failures and censored attempts never become latency labels.
//! 6. Predictions are finite; anything else stops at `learn` and is counted.
//! 7. Every buffer, window, map, queue and retry loop has a bound: a named constant or a checked setting.
//! 8. Learning never blocks or slows a request.
//! 9. Every default has one source (`config/raw.rs`).
//!
//! # Where to start
//!
//! [`policy`] says how to add one. [`fleet`]'s ledger explains how an average load costs one atomic addition.
//! [`learn`] says why the obvious regression loses. `src/proxy/forward.rs` is the life of a request in code.

pub mod address;
pub mod admin;
pub mod admission;
pub mod advise;
pub mod app;
pub mod balancer;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decisions;
pub mod emulator;
pub mod escape;
pub mod fleet;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod handover;
pub mod learn;
pub mod load;
pub mod node;
pub mod outcome;
pub mod policy;
pub mod prefix;
pub mod priors;
pub mod probe;
pub mod proxy;
pub mod recording;
pub mod reload;
pub mod report;
pub mod request;
pub mod server;
pub mod sim;
pub mod sockets;
pub mod spans;
pub mod state;
pub mod telemetry;
pub mod tls;
pub mod trainer;
pub mod training;
