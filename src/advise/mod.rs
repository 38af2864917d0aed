//! "Which policy is best for my traffic, and how far does my fleet reach?", answered from a recording.
//!
//! The recorded nodes are fitted ([`fit`]), the recorded requests are sent to the emulated ones ([`replay`]): first to the
//! very nodes that they were sent to, which shows how good the emulation is, then by every policy, on blocks of
//! the recording drawn anew for each seed, which shows what each would have done and how sure that is. A policy
//! changes the loads that it meets, which no formula over the logged outcomes can see; the replay does. Not emulated: nodes
//! that changed their speed during the recording, failures, caches of prompts.

pub mod advice;
pub mod fit;
pub mod headroom;
pub mod history;
pub mod offpolicy;
mod plain;
pub mod replay;
#[cfg(test)]
mod tests_support;
mod timeline;
