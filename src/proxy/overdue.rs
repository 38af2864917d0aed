//! When a client's connection is overdue: what its timer makes of it whenever it fires.
//!
//! Nothing here waits. A look compares what the connection is at with what it was at the last look, so the settings are
//! kept to within the pause between two looks, and a connection in order costs one look in many requests.

use std::time::Duration;

use crate::clock::Time;
use crate::config::{Settings, Timeouts};
use crate::proxy::connection::Conn;
use crate::proxy::pace::allowance;
use crate::proxy::server::Phase;

/// The longest sleep between two looks at a connection that is not busy: what a slow head may gain over its timeout,
/// and how long an idle client keeps the buffers of its last request.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a client has to be idle before it is parked.
///
/// Short, because the memory of a rush of clients is the buffers of those that are not parked yet, and the allocator
/// keeps what the rush needed. Setting a connection up again costs a few per cent of a request.
const PARK_AFTER: Duration = Duration::from_millis(150);

/// How long a client that has just connected may take to send its request, even if the proxy stops: it may have sent it
/// already, and a connection that ends without a word is a failure to it.
const FIRST_REQUEST_MIN: Duration = Duration::from_millis(500);

/// When a connection is overdue.
#[derive(Debug)]
pub(super) struct Overdue {
    pub(super) timeouts: Timeouts,
    accepted: Time,
    /// When the timer first saw the present head unfinished, and which request it belongs to.
    unfinished: Option<(u64, Time)>,
    /// The slowest that a client may take what waits for it, in bytes per second; 0 is any.
    bytes_per_s_min: u64,
    /// What the timer sees of a client that is waited for.
    stalled: Option<Stall>,
    /// When the timer last saw a response under way.
    written: Time,
}

/// A client that does not take what is written to it as fast as it comes.
#[derive(Clone, Copy, Debug)]
struct Stall {
    /// When the timer first saw a write wait, and what had been written until then.
    began: Time,
    written_before: u64,
    /// When it first saw the present write wait, and what has been written until it.
    since: Time,
    written: u64,
}

/// What is to be done about a connection.
pub(super) enum Look {
    /// Close it.
    Close,
    /// It is idle, and nothing of the last response is left to write.
    Park,
    /// Look again then.
    Again(Time),
}

impl Overdue {
    /// Nothing is known yet of a connection that was accepted then.
    pub(super) fn new(settings: &Settings, accepted: Time) -> Overdue {
        Overdue {
            timeouts: settings.timeouts.clone(),
            accepted,
            unfinished: None,
            bytes_per_s_min: settings.limits.client_bytes_per_s_min,
            stalled: None,
            written: accepted,
        }
    }

    /// Looks at a connection at `now`.
    pub(super) fn look(&mut self, conn: &Conn, now: Time) -> Look {
        let Timeouts { first_request, header_read, idle, .. } = self.timeouts;
        // Whatever is not yet running cannot be overdue before the shortest of the timeouts has passed.
        let soon = now.after(header_read.min(idle));
        if conn.framing.is_closing() {
            return Look::Again(soon);
        }
        if conn.is_busy() || conn.framing.is_write_blocked() {
            // A response that hyper has whole is still on its way as long as the client has not taken it.
            self.unfinished = None;
            self.written = now;
            return self.look_at_writing(conn, now, soon);
        }
        self.stalled = None;
        let limit = if conn.served() == 0 {
            self.accepted.after(first_request)
        } else if conn.framing.is_head_begun() {
            let served = conn.served();
            match self.unfinished {
                Some((request, since)) if request == served => since.after(header_read),
                _ => {
                    self.unfinished = Some((served, now));
                    now.after(header_read)
                }
            }
        } else {
            self.unfinished = None;
            conn.idle_since().max(self.written).after(idle)
        };
        let idle_for = now.since(conn.idle_since());
        if limit <= now {
            Look::Close
        } else if conn.served() > 0 && !conn.framing.is_head_begun() && idle_for >= PARK_AFTER {
            Look::Park
        } else {
            // A head may start while we sleep: be there early enough to see it.
            Look::Again(limit.min(now.after(LOOK_EVERY)))
        }
    }

    /// Whether a connection is to end with its present request, or at once if it has none. While another process accepts
    /// in our place, a client may ask once more than the `before` requests it has sent already and is told in that answer;
    /// one that has just connected always may.
    pub(super) fn is_to_go(&self, conn: &Conn, phase: Phase, before: u64, now: Time) -> bool {
        match phase {
            Phase::Serving => false,
            Phase::Leaving => conn.is_busy() && conn.served() > before,
            Phase::Stopping => conn.is_busy() || conn.served() > 0 || now >= self.accepted.after(FIRST_REQUEST_MIN),
        }
    }

    /// A client that takes nothing of a response for as long as a node may be silent is cut, like a node that is; one that
    /// takes a little now and then, when it was waited for as long in all, beyond what its bytes take at the slowest
    /// rate. The relay's own timer cannot tell: nobody asks the relay for more while a write waits. It counts from the
    /// first look that sees a write wait, so it may take as much longer as looks are apart.
    fn look_at_writing(&mut self, conn: &Conn, now: Time, soon: Time) -> Look {
        if !conn.framing.is_write_blocked() {
            self.stalled = None;
            // Each look at one that waits for a node shows whether its client has left.
            return Look::Again(if conn.framing.is_awaiting() { soon.min(now.after(LOOK_EVERY)) } else { soon });
        }
        let written = conn.framing.bytes_written();
        let stall = match self.stalled {
            Some(stall) if stall.written == written => stall,
            Some(stall) => Stall { since: now, written, ..stall },
            None => Stall { began: now, written_before: written, since: now, written },
        };
        self.stalled = Some(stall);
        let patience = self.timeouts.between_chunks;
        let in_all = allowance(patience, written - stall.written_before, self.bytes_per_s_min);
        let limit = stall.since.after(patience).min(stall.began.after(in_all));
        if limit <= now { Look::Close } else { Look::Again(limit.min(soon)) }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Waker};

    use tokio::io::AsyncWrite;

    use super::*;
    use crate::app::App;
    use crate::proxy::framing::{ConnState, GuardedIo, Limits};
    use crate::proxy::worker::Worker;

    fn at(seconds: f64) -> Time {
        Time::from_secs_f64(seconds)
    }

    #[test]
    fn a_response_that_is_taken_slowly_is_not_idle_though_the_node_has_sent_all_of_it() {
        let app = App::new(Settings::default()).expect("settings");
        let framing = Arc::new(ConnState::default());
        let peer = "192.0.2.1:1".parse().expect("an address");
        let conn = Arc::new(Conn::new(Arc::new(Worker::new(app, 1)), peer, None, Arc::clone(&framing)));
        conn.begin().1.end(at(1.0));
        let limits = Limits { head_bytes_max: 1_000, headers_max: 10, uri_bytes_max: 100 };
        let (near, far) = tokio::io::duplex(1);
        let mut io = GuardedIo::new(near, limits, framing);
        let mut write = || Pin::new(&mut io).poll_write(&mut Context::from_waker(Waker::noop()), b"x").is_ready();
        assert_eq!([write(), write()], [true, false]);

        let second = Duration::from_secs(1);
        let timeouts = Timeouts { idle: second, between_chunks: 10 * second, ..Settings::default().timeouts };
        let mut overdue = Overdue::new(&Settings { timeouts, ..Settings::default() }, Time::ZERO);
        assert!(matches!(overdue.look(&conn, at(3.0)), Look::Again(_)));
        // The client is gone, which is the end of the waiting, whatever comes of the write.
        drop(far);
        assert!(write());
        assert!(matches!(overdue.look(&conn, at(3.5)), Look::Again(_) | Look::Park), "idle from then on");
        assert!(matches!(overdue.look(&conn, at(4.1)), Look::Close));
    }
}
