//! Bellwether: a load balancer for AI model servers.
//!
//! (The architecture page is written as the house grows.)

pub mod admin;
pub mod admission;
pub mod app;
pub mod balancer;
pub mod cli;
pub mod clock;
pub mod config;
pub mod emulator;
pub mod fleet;
pub mod learn;
pub mod load;
pub mod node;
pub mod outcome;
pub mod policy;
pub mod probe;
pub mod proxy;
pub mod reload;
pub mod request;
pub mod server;
pub mod sim;
pub mod telemetry;
