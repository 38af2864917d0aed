//! What clients send: open-loop arrivals and the sizes of requests, from one seed.
//!
//! Open loop, because closed loops hide overload: a client that waits for its answer before it asks again slows down
//! together with the fleet. Arrival times, sizes, clients and proxies come from generators of their own, all derived
//! from one seed and none touched by a policy: every policy sees the very same requests, so that differences between
//! policies are paired. Requests are made one by one as time goes on; nothing is kept.

use std::sync::Arc;

use crate::clock::Time;
use crate::request::{KindId, RequestShape};
use crate::sim::conversations::{Conversations, Exchange, Talk, Turn};
use crate::sim::random::exponential;
use crate::sim::trace::{Replay, Trace, TraceRow};
use crate::sim::{Lognormal, Text, Work};

/// How many different clients send requests, unless a scenario says otherwise: enough that address hashing spreads.
pub const CLIENTS_DEFAULT: u32 = 1_000;

/// How the work of one kind of request is distributed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sizes {
    /// Tokens in and out, independent of each other as in the production traces.
    Tokens {
        /// Prompt tokens.
        prompt: Lognormal,
        /// Output tokens.
        output: Lognormal,
    },
    /// Seconds of work at speed 1.
    Seconds(Lognormal),
}

/// One kind of request in a mix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KindMix {
    /// Relative frequency, greater than 0.
    pub share: f64,
    /// Its sizes.
    pub sizes: Sizes,
}

/// From `from` on, requests arrive `per_s` a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RatePiece {
    /// Start of the piece.
    pub from: Time,
    /// Arrivals per second, at least 0.
    pub per_s: f64,
}

/// Everything that decides what arrives and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// In order of time, the first at [`Time::ZERO`].
    pub rates: Vec<RatePiece>,
    /// No request arrives at or after it.
    pub until: Time,
    /// At least one.
    pub kinds: Vec<KindMix>,
    /// Whether answers are asked for as streams.
    pub streaming: bool,
    /// Lengths and rhythm in place of `kinds` and Poisson arrivals, at the first rate.
    pub trace: Option<Arc<Trace>>,
    /// Conversations whose questions and answers have the sizes of `kinds`, in place of single requests.
    pub talk: Option<Talk>,
    /// Number of clients, at least 1.
    pub clients: u32,
    /// Number of proxies that the requests spread over, at least 1.
    pub proxies: u32,
}

/// One request as it arrives.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// When.
    pub at: Time,
    /// At which proxy.
    pub proxy: u32,
    /// What the proxy can know.
    pub shape: RequestShape,
    /// What only the node finds out.
    pub work: Work,
    /// What it says, as far as a prefix cache can tell.
    pub text: Text,
    /// The node of the scenario that the trace says it was sent to, where that is to be repeated.
    pub recorded: Option<u32>,
    /// A number of its own for whatever else is random about it (whether a failing node fails it, for example): luck
    /// belongs to the request and not to the order of events, which differs between policies.
    pub luck: u64,
}

/// The requests of a workload under a seed, in order of time.
#[derive(Debug)]
pub struct Arrivals {
    workload: Arc<Workload>,
    now_s: f64,
    /// The trace that is replayed, if it is one.
    replay: Option<Replay>,
    /// The conversations, if requests are turns of such.
    talks: Option<Conversations>,
    times: fastrand::Rng,
    sizes: fastrand::Rng,
    clients: fastrand::Rng,
    proxies: fastrand::Rng,
    luck: fastrand::Rng,
}

impl Arrivals {
    /// The arrivals of `workload` under `seed`.
    pub fn new(workload: Arc<Workload>, seed: u64) -> Arrivals {
        let replay = workload.trace.as_ref().zip(workload.rates.first()).filter(|(_, first)| first.per_s > 0.0);
        let replay = replay.map(|(trace, first)| trace.replay(first.per_s, stream(seed, "trace")));
        let mut past = stream(seed, "past");
        let talks = workload.talk.as_ref().filter(|_| workload.trace.is_none()).map(|talk| {
            Conversations::new(talk, stream(seed, "talks"), &mut || {
                exchange(draw_kind(&workload.kinds, &mut past).1, &mut past)
            })
        });
        Arrivals {
            now_s: 0.0,
            replay,
            talks,
            workload,
            times: stream(seed, "times"),
            sizes: stream(seed, "sizes"),
            clients: stream(seed, "clients"),
            proxies: stream(seed, "proxies"),
            luck: stream(seed, "luck"),
        }
    }

    /// The next time of arrival: a unit exponential spent along the piecewise constant rate, which is exact.
    fn next_time(&mut self) -> Option<f64> {
        let mut left = exponential(1.0, &mut self.times);
        let rates = &self.workload.rates;
        let mut at = rates.iter().rposition(|piece| piece.from.as_secs_f64() <= self.now_s)?;
        loop {
            let end = rates.get(at + 1).map_or(f64::INFINITY, |next| next.from.as_secs_f64());
            let room = rates[at].per_s * (end - self.now_s);
            if left < room {
                self.now_s += left / rates[at].per_s;
                return Some(self.now_s);
            }
            if at + 1 == rates.len() {
                return None;
            }
            left -= room;
            self.now_s = end;
            at += 1;
        }
    }

    /// The next request by the distributions.
    fn draw(&mut self) -> Option<TraceRow> {
        let at_s = self.next_time()?;
        let (kind, sizes) = draw_kind(&self.workload.kinds, &mut self.sizes);
        let row = TraceRow { at_s, kind: kind.0, ..TraceRow::default() };
        if let Some(talks) = &mut self.talks {
            let Turn { prompt_tokens, output_tokens, text, session, .. } =
                talks.turn(at_s, exchange(sizes, &mut self.sizes));
            return Some(TraceRow { prompt_tokens, output_tokens, text, session: Some(session), ..row });
        }
        Some(match sizes {
            Sizes::Tokens { prompt, output } => TraceRow {
                prompt_tokens: prompt.draw_count(&mut self.sizes),
                output_tokens: output.draw_count(&mut self.sizes),
                ..row
            },
            Sizes::Seconds(seconds) => TraceRow { plain_s: seconds.draw(&mut self.sizes), ..row },
        })
    }
}

fn draw_kind(kinds: &[KindMix], rng: &mut fastrand::Rng) -> (KindId, Sizes) {
    if let [only] = kinds {
        return (KindId(1), only.sizes);
    }
    let sum: f64 = kinds.iter().map(|kind| kind.share).sum();
    let mut rest = rng.f64() * sum;
    for (at, kind) in (1u16..).zip(kinds) {
        rest -= kind.share;
        if rest < 0.0 || usize::from(at) == kinds.len() {
            return (KindId(at), kind.sizes);
        }
    }
    (KindId::OTHER, kinds[0].sizes)
}

/// A question and its answer; work in seconds has neither.
fn exchange(sizes: Sizes, rng: &mut fastrand::Rng) -> Exchange {
    match sizes {
        Sizes::Tokens { prompt, output } => {
            Exchange { question: prompt.draw_count(rng), answer: output.draw_count(rng) }
        }
        Sizes::Seconds(_) => Exchange { question: 1, answer: 1 },
    }
}

impl Iterator for Arrivals {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let row = match (&mut self.replay, &self.workload.trace) {
            (Some(replay), _) => replay.next()?,
            (None, Some(_)) => return None,
            (None, None) => self.draw()?,
        };
        let at = Time::from_secs_f64(row.at_s);
        if at >= self.workload.until {
            return None;
        }
        let work = Work { prompt_tokens: row.prompt_tokens, output_tokens: row.output_tokens, plain_s: row.plain_s };
        let client = self.clients.u32(..self.workload.clients.max(1));
        // A conversation has one client.
        let client_hash = mix(row.session.unwrap_or(u64::from(client)));
        let shape = RequestShape {
            kind: KindId(row.kind),
            streaming: row.streaming.unwrap_or(self.workload.streaming),
            prompt_tokens: work.prompt_tokens,
            client_hash,
            session_hash: row.session.map(mix),
            prefix: row.text.prompt.clone(),
            ..RequestShape::default()
        };
        Some(Arrival {
            at,
            proxy: self.proxies.u32(..self.workload.proxies.max(1)),
            shape,
            work,
            text: row.text,
            recorded: row.node,
            luck: self.luck.u64(..),
        })
    }
}

/// A generator for one purpose: different names under one seed are independent of each other.
pub fn stream(seed: u64, name: &str) -> fastrand::Rng {
    let tag = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    fastrand::Rng::with_seed(mix(seed ^ mix(tag)))
}

/// Scatters neighbouring numbers over all bits (the finalizer of SplitMix64, Steele, Lea and Flood 2014).
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::sim::random::{OUTPUT_TOKENS, PROMPT_TOKENS};

    fn workload(rates: &[(f64, f64)], until: f64) -> Workload {
        Workload {
            rates: rates
                .iter()
                .map(|(from, per_s)| RatePiece { from: Time::from_secs_f64(*from), per_s: *per_s })
                .collect(),
            until: Time::from_secs_f64(until),
            kinds: vec![KindMix { share: 1.0, sizes: Sizes::Tokens { prompt: PROMPT_TOKENS, output: OUTPUT_TOKENS } }],
            streaming: true,
            trace: None,
            talk: None,
            clients: 10,
            proxies: 1,
        }
    }

    #[test]
    fn one_seed_gives_one_workload_and_another_seed_another() {
        let workload = Arc::new(workload(&[(0.0, 20.0)], 10.0));
        let take = |seed| Arrivals::new(Arc::clone(&workload), seed).collect::<Vec<_>>();
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
    }

    #[test]
    fn the_number_of_proxies_changes_neither_times_nor_sizes() {
        let one = workload(&[(0.0, 20.0)], 10.0);
        let four = Workload { proxies: 4, ..one.clone() };
        let strip = |workload: Workload| {
            Arrivals::new(Arc::new(workload), 3).map(|a| (a.at, a.work, a.luck, a.shape)).collect::<Vec<_>>()
        };
        assert_eq!(strip(one), strip(four));
    }

    #[test]
    fn turns_of_a_conversation_come_at_the_rate_of_the_workload_and_have_one_client() {
        let talking = Workload { talk: Some(Talk { live: 50, ..Talk::default() }), ..workload(&[(0.0, 20.0)], 200.0) };
        let arrivals: Vec<Arrival> = Arrivals::new(Arc::new(talking), 3).collect();
        // Poisson: a standard deviation of 63.
        assert!((arrivals.len() as f64 - 4_000.0).abs() < 260.0, "{}", arrivals.len());
        let mut clients = std::collections::HashMap::new();
        for arrival in &arrivals {
            let shape = &arrival.shape;
            let client = *clients.entry(shape.session_hash).or_insert(shape.client_hash);
            assert!(shape.session_hash.is_some() && client == shape.client_hash);
            assert_eq!(shape.prefix, arrival.text.prompt);
        }
        assert!(clients.len() > 500, "{}", clients.len());
    }

    #[test]
    fn rates_hold_piece_by_piece() {
        let arrivals = Arrivals::new(Arc::new(workload(&[(0.0, 10.0), (500.0, 0.0), (600.0, 40.0)], 1_000.0)), 7);
        let mut counts = [0u32; 3];
        for arrival in arrivals {
            let at = arrival.at.as_secs_f64();
            counts[usize::from(at >= 500.0) + usize::from(at >= 600.0)] += 1;
        }
        assert_eq!(counts[1], 0);
        // Poisson: standard deviations of 71 and 126.
        assert!((f64::from(counts[0]) - 5_000.0).abs() < 300.0, "{counts:?}");
        assert!((f64::from(counts[2]) - 16_000.0).abs() < 520.0, "{counts:?}");
    }

    #[test]
    fn a_mix_has_its_shares() {
        let sizes = Sizes::Seconds(Lognormal { mean: 0.1, sigma: 1.0, min: 0.0, max: 10.0 });
        let kinds = vec![KindMix { share: 3.0, sizes }, KindMix { share: 1.0, sizes }];
        let workload = Workload { kinds, ..workload(&[(0.0, 100.0)], 100.0) };
        let (mut first, mut all) = (0.0, 0.0);
        for arrival in Arrivals::new(Arc::new(workload), 5) {
            assert!((1..=2).contains(&arrival.shape.kind.0));
            first += f64::from(u8::from(arrival.shape.kind == KindId(1)));
            all += 1.0;
        }
        assert!((first / all - 0.75_f64).abs() < 0.02, "{first} of {all}");
    }
}
