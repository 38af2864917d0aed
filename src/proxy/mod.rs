//! The data path: from a client's bytes to a node's and back.

pub mod framing;
pub mod inspect;
