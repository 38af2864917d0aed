//! The verbs of the binary, one file each.

pub mod demo;
pub mod simulate;
