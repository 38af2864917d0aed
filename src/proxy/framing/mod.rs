//! A strict reader of message boundaries (RFC 9112) in front of hyper's HTTP/1 server.
//!
//! hyper is lenient where it is safe for an origin server: of `Transfer-Encoding` and `Content-Length` in one request it
//! drops the second before a handler can see it, a lone line feed ends a line, empty lines are skipped. A gateway forwards
//! what it read, and two readers that disagree about where a request ends are how request smuggling works. So every byte of
//! a client passes [`RequestGuard`] first, which refuses what RFC 9112 calls ambiguous; what it lets through, hyper reads
//! the same way. Not a second parser in place of hyper's: it keeps no names and no values, and copies a head only if it was
//! split across reads. [`GuardedIo`] puts it between socket and hyper, [`ConnState`] tells the handler what was refused, so
//! that the answer is written by the same code as every other error.
//!
//! It deliberately does not compare `Host` with an absolute target, rewrite anything, or set deadlines: those are the
//! handler's and the accept loop's. HTTP/2 is refused by name until it is served.

mod alphabet;
mod chunked;
mod conn_state;
mod guard;
mod head;
mod io;
mod refusal;
mod target;

#[cfg(test)]
mod verdicts;
#[cfg(test)]
mod with_hyper;

pub use conn_state::ConnState;
pub use guard::{Answer, Next, RequestGuard, Scan};
pub use io::GuardedIo;
pub use refusal::Refusal;

/// Bounds of a request head. hyper's own bounds must not be below these, or it refuses first, with an empty body:
/// `max_headers(headers_max)`, and a buffer (`max_buf_size`) of at least `head_bytes_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request head, from the first byte to the empty line that ends it; above: 431, or 414 where even the
    /// request line does not fit. Trailers may have as many, but no more than 8 KiB.
    pub head_bytes_max: usize,
    /// Fields of a head, and of trailers; above: 431.
    pub headers_max: usize,
    /// Bytes of a request target; above: 414. No more than 65,534 count, which is what hyper's `Uri` can hold.
    pub uri_bytes_max: usize,
}
