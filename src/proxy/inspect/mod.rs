//! Reads what routing and learning need out of requests and responses, without buffering or copying them.
//!
//! Going in: [`Api`] from the path, [`look`] at the bounded beginning of a body, [`BytesPerToken`] to turn the size of
//! a prompt into tokens, [`prefix_blocks`] for the hashes by which its beginning is known again. Coming out: a [`ResponseScan`] that sees every chunk pass, counts streamed events and keeps
//! the last few kilobytes for the token counts in them.
//!
//! These are pure functions and state machines over bytes: no sockets, no clock, no HTTP types, so that they can be
//! tested on every split of every body. They never change or refuse what they read; the bytes forwarded are the
//! bytes received.

mod api;
mod escape;
mod field;
mod json;
mod prefix;
mod prompt;
mod request;
mod response;
mod sse;
mod tail;
mod tokens;
mod usage;

pub use api::{Api, model_in_path};
pub use field::field_in_json;
pub use prefix::{BLOCK_BYTES, PrefixKey, prefix_blocks};
pub use request::{Look, MODEL_BYTES_MAX, look};
pub use response::ResponseScan;
pub use tail::TAIL_BYTES;
pub use tokens::{BYTES_PER_TOKEN_DEFAULT, BYTES_PER_TOKEN_MAX, BYTES_PER_TOKEN_MIN, BytesPerToken};
pub use usage::Usage;
