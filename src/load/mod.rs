//! An open-loop load generator over HTTP/1.1: what clients of a model server do, and how long they wait.
//!
//! Requests are sent when a Poisson process says so, whatever is still in flight, and waiting is counted from the
//! *intended* moment: a generator that sends its next request after the last answer measures a slow server kindly
//! (coordinated omission, G. Tene). So that a server that cannot keep up does not take the machine with it, requests in
//! flight, their number and the time are bounded; what a bound cost is reported, never hidden by sending less.
//! It does not retry, does not check answers beyond their framing and event count, and speaks plain HTTP/1.1 only.

mod client;
mod measure;
mod plan;
mod text;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::client::{Exchange, Pool};
pub use self::measure::{Ending, Measured, Recorder, Summary, quantile};
use self::plan::Plan;
use crate::sim::conversations::Talk;
use crate::sim::{Lognormal, random};

/// The header that says which conversation a request belongs to.
pub const SESSION_HEADER: &str = "x-session-id";

/// What the requests ask for.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// `POST /v1/chat/completions`.
    Chat {
        /// As server-sent events.
        stream: bool,
        /// Prompt tokens, four bytes of text each.
        prompts: Lognormal,
        /// Output tokens, asked for as `[output=N]` in the text.
        outputs: Lognormal,
    },
    /// The same as turns of conversations: each prompt repeats what was said before, and a header says which it is.
    Talk {
        /// What conversations are like.
        talk: Talk,
        /// Tokens of questions.
        questions: Lognormal,
        /// Tokens of answers.
        answers: Lognormal,
    },
    /// `POST` of a small JSON object.
    Plain {
        /// Where.
        path: String,
        /// Seconds of work at speed 1, asked for as `[work_ms=N]`.
        work_s: Lognormal,
    },
}

impl Ask {
    /// Chat completions with the study's lengths.
    pub fn study(stream: bool) -> Ask {
        Ask::Chat { stream, prompts: random::PROMPT_TOKENS, outputs: random::OUTPUT_TOKENS }
    }
}

/// A rhythm of arrivals: the rate jumps at the end of every period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bursts {
    /// Length of a period, above 0.
    pub every: Duration,
    /// Length of the burst that ends it, less than the period.
    pub length: Duration,
    /// The rate in a burst over that between bursts, above 0.
    pub factor: f64,
}

impl Bursts {
    /// When the next request comes after `from_s`, if `amount` of the unit Poisson process is to be spent at a mean rate
    /// of `rate_rps`.
    fn spend(&self, from_s: f64, amount: f64, rate_rps: f64) -> f64 {
        let (every_s, length_s) = (self.every.as_secs_f64(), self.length.as_secs_f64());
        let calm_s = every_s - length_s;
        let calm_rps = rate_rps * every_s / (calm_s + self.factor * length_s);
        let (mut at_s, mut left) = (from_s, amount);
        loop {
            let start_s = (at_s / every_s).floor() * every_s;
            let (end_s, rps) = if at_s - start_s < calm_s {
                (start_s + calm_s, calm_rps)
            } else {
                (start_s + every_s, calm_rps * self.factor)
            };
            let room = (end_s - at_s) * rps;
            // Rounding may put a time at the very end of its piece, from where no progress would be made.
            if left < room {
                return at_s + left / rps;
            }
            left -= room;
            at_s = if end_s > at_s { end_s } else { end_s.next_up() };
        }
    }
}

/// A load.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadSpec {
    /// Where requests go: a proxy, or a server itself.
    pub target: SocketAddr,
    /// What they ask for.
    pub ask: Ask,
    /// Requests per second in the mean, above 0.
    pub rate_rps: f64,
    /// How the rate changes; without it, it does not.
    pub bursts: Option<Bursts>,
    /// How long requests are sent.
    pub duration: Duration,
    /// Requests at most, whatever the duration.
    pub requests_max: usize,
    /// Requests in flight at most; what would exceed it is not sent and counts as [`Ending::NotSent`].
    pub outstanding_max: usize,
    /// How long after the last request answers are waited for.
    pub drain: Duration,
    /// Of arrivals, lengths and work: equal seeds give equal requests at equal times.
    pub seed: u64,
    /// Whether what stands between writes events anew, as gateways do that translate between APIs: a stream is whole
    /// then if it has its end, and otherwise only if it has every event.
    pub rewritten: bool,
}

impl LoadSpec {
    /// The study's streamed chat load at that rate: bounds of a million requests and 4,096 in flight, 10 s of drain.
    pub fn new(target: SocketAddr, rate_rps: f64, duration: Duration) -> LoadSpec {
        LoadSpec {
            target,
            ask: Ask::study(true),
            rate_rps,
            bursts: None,
            duration,
            requests_max: 1_000_000,
            outstanding_max: 4_096,
            drain: Duration::from_secs(10),
            seed: 1,
            rewritten: false,
        }
    }
}

/// A way to end a load early; clones mean the same load.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<(AtomicBool, Notify)>);

impl Stop {
    /// No more requests are sent, and those in flight are given up.
    pub fn stop(&self) {
        self.0.0.store(true, Ordering::Relaxed);
        self.0.1.notify_waiters();
    }

    /// Whether it was stopped.
    pub fn is_stopped(&self) -> bool {
        self.0.0.load(Ordering::Relaxed)
    }

    async fn stopped(&self) {
        let notified = self.0.1.notified();
        if !self.is_stopped() {
            notified.await;
        }
    }
}

/// Sends the load and returns when every request has an ending, all of which are in `recorder`.
///
/// Runs on the present tokio runtime, which should be one of its own: whatever else runs there delays the sending
/// (measured as waiting, but not the server's fault).
pub async fn run(spec: LoadSpec, recorder: &Arc<Recorder>, stop: &Stop) {
    let start = Instant::now();
    let pool = Arc::new(Pool::new(spec.target, spec.outstanding_max));
    let outstanding = Arc::new(AtomicUsize::new(0));
    let (outstanding_max, last) = (spec.outstanding_max, start + spec.duration);
    let mut requests = JoinSet::new();
    let sending = async {
        for planned in Plan::new(spec.clone()) {
            let intended = start + planned.at;
            tokio::time::sleep_until(intended).await;
            while requests.try_join_next().is_some() {}
            if outstanding.load(Ordering::Relaxed) >= outstanding_max {
                recorder.add(None, Measured::not_sent(planned.at, intended.elapsed().as_secs_f64()));
                continue;
            }
            outstanding.fetch_add(1, Ordering::Relaxed);
            let exchange = Exchange::begin(Arc::clone(recorder), Arc::clone(&outstanding), planned, intended);
            requests.spawn(exchange.run(Arc::clone(&pool)));
        }
    };
    tokio::select! {
        () = sending => {}
        () = stop.stopped() => {}
    }
    tokio::select! {
        () = async { while requests.join_next().await.is_some() {} } => {}
        () = tokio::time::sleep_until(last + spec.drain) => {}
        () = stop.stopped() => {}
    }
    // An exchange that is dropped records that it did not finish.
    requests.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::{Emulator, EmulatorSpec, Fault};
    use crate::sim::{BatchSpec, PlainSpec, ServerSpec};

    const FAST: ServerSpec = ServerSpec::Batch(BatchSpec::new(1e-6, 0.0, 1e9, 64));

    /// As many requests as asked, as fast as they can be sent, so that no test waits for arrivals.
    fn at_once(target: SocketAddr, requests_max: usize) -> LoadSpec {
        let spec = LoadSpec::new(target, 1e6, Duration::from_secs(3_600));
        LoadSpec { requests_max, drain: Duration::from_secs(3_600), ..spec }
    }

    async fn load(spec: LoadSpec) -> Vec<Measured> {
        let recorder = Arc::new(Recorder::default());
        run(spec, &recorder, &Stop::default()).await;
        recorder.since(0)
    }

    fn endings(measured: &[Measured], ending: Ending) -> usize {
        measured.iter().filter(|measured| measured.ending == ending).count()
    }

    #[tokio::test]
    async fn every_request_is_answered_and_attributed() {
        let plain = ServerSpec::Plain(PlainSpec { workers: 4, speed: 1e6 });
        let ask = Ask::Plain { path: "/api/work".to_owned(), work_s: random::PLAIN_WORK_S };
        for (server, ask) in [(FAST, Ask::study(true)), (FAST, Ask::study(false)), (plain, ask)] {
            let node = Emulator::start(EmulatorSpec::new("me", server), 1).await.expect("started");
            let recorder = Arc::new(Recorder::default());
            run(LoadSpec { ask, ..at_once(node.addr(), 50) }, &recorder, &Stop::default()).await;
            let measured = recorder.since(0);
            assert_eq!((measured.len(), endings(&measured, Ending::Answered)), (50, 50), "{measured:?}");
            assert_eq!(recorder.nodes(), ["me"]);
            assert!(measured.iter().all(|one| one.node == Some(0) && one.ttfb_s > 0.0 && one.total_s >= one.ttfb_s));
            assert_eq!(node.counters().finished, 50);
        }
    }

    #[tokio::test]
    async fn a_rewritten_stream_is_whole_by_its_end() {
        let node = Emulator::start(EmulatorSpec::new("me", FAST), 1).await.expect("started");
        let rewritten = LoadSpec { rewritten: true, ..at_once(node.addr(), 20) };
        assert_eq!(endings(&load(rewritten.clone()).await, Ending::Answered), 20);
        node.set_fault(Fault::Break { after_events: 2 }).await.expect("set");
        assert_eq!(endings(&load(rewritten).await, Ending::Broken), 20);
    }

    #[tokio::test]
    async fn what_exceeds_the_bound_is_reported_and_not_sent_later() {
        let node = Emulator::start(EmulatorSpec::new("me", FAST).manual(), 1).await.expect("started");
        let spec = LoadSpec { outstanding_max: 3, ..at_once(node.addr(), 10) };
        let recorder = Arc::new(Recorder::default());
        let stop = Stop::default();
        let stepping = async {
            node.wait_until(|counters| counters.live == 3).await;
            recorder.wait_until(7).await;
            node.step(u32::MAX);
        };
        tokio::join!(run(spec, &recorder, &stop), stepping);
        let measured = recorder.since(0);
        assert_eq!((endings(&measured, Ending::Answered), endings(&measured, Ending::NotSent)), (3, 7));
        assert_eq!(node.counters().started, 3);
    }

    #[tokio::test]
    async fn failures_of_every_sort_are_told_apart() {
        let node = Emulator::start(EmulatorSpec::new("me", FAST), 1).await.expect("started");
        for (fault, ending) in [
            (Fault::Status { status: 503, retry_after_s: None }, Ending::Status(503)),
            (Fault::Break { after_events: 1 }, Ending::Broken),
            (Fault::Refuse, Ending::Broken),
        ] {
            node.set_fault(fault).await.expect("set");
            let measured = load(at_once(node.addr(), 5)).await;
            assert_eq!(endings(&measured, ending), 5, "{fault:?} {measured:?}");
        }
    }

    #[tokio::test]
    async fn a_stopped_load_gives_up_what_is_in_flight() {
        let node = Emulator::start(EmulatorSpec::new("me", FAST).manual(), 1).await.expect("started");
        let recorder = Arc::new(Recorder::default());
        let stop = Stop::default();
        let stopping = async {
            node.wait_until(|counters| counters.live == 4).await;
            stop.stop();
        };
        tokio::join!(run(at_once(node.addr(), 4), &recorder, &stop), stopping);
        assert_eq!(endings(&recorder.since(0), Ending::Unfinished), 4);
        node.wait_until(|counters| counters.cancelled == 4).await;
    }
}
