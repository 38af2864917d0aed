//! The data path: client connections in, attempts on nodes out.
//!
//! A request's life as function names: `connection::serve` reads it behind the framing guard, `forward::handle`
//! takes it in (`intake::take_in`), decides, makes attempts (`upstream::Upstream::exchange`), and the
//! `relay::Relay` carries the response to the client and ends the attempt. `reply::ProxyError` is every answer that
//! no node gave.

mod alarm;
mod attempt;
mod connection;
mod crowd;
mod forward;
pub mod framing;
mod headers;
mod hedge;
pub mod inspect;
mod intake;
mod models;
mod outgoing;
mod overdue;
mod pace;
mod rate;
mod relay;
mod reply;
mod retry;
mod server;
mod session;
mod story;
mod timing;
mod trace;
mod tunnel;
mod upload;
mod upstream;
mod wait;
mod wire;
mod worker;

pub(crate) use intake::{address_hash, prefix_of, route_of};
pub use server::Proxy;
pub use upstream::OpenConnections;
