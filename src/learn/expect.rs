//! How much output a request will have: the expectation per kind, capped by the client's own limit.
//!
//! The length of an answer is the largest part of its time and cannot be predicted from the prompt (they are
//! uncorrelated in production traces), but its mean per kind can. Streamed answers are counted in events, as the gap is
//! per event; the others in tokens, where `usage` tells them. It starts at 100 with the weight of 20 answers, follows
//! the mean at first and then moves by 0.002 of the difference per answer.

use serde::{Deserialize, Serialize};

use crate::outcome::Sample;
use crate::request::{KINDS_MAX, KindId};

/// Expectation before anything was seen.
pub const OUTPUT_FIRST: f64 = 100.0;

/// Step of the moving mean in the long run.
const STEP: f64 = 0.002;

/// Answers that the first guess is worth. (A constant step of 0.002 would take 500 answers to leave it.)
const FIRST_WEIGHT: f64 = 20.0;

/// A mean that moves fast at first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Mean {
    value: f64,
    seen: f64,
}

impl Mean {
    fn from(value: f64) -> Mean {
        Mean { value, seen: 0.0 }
    }

    fn add(&mut self, x: f64) {
        self.value += (x - self.value) * (1.0 / (self.seen + FIRST_WEIGHT + 1.0)).max(STEP);
        self.seen = (self.seen + 1.0).min(1.0 / STEP);
    }
}

/// What is expected of one kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    events: Mean,
    tokens: Mean,
    prompt: Mean,
    /// Share of answers, not streamed, that tell their tokens.
    tells: Mean,
    /// Share of answers that are streamed.
    streamed: Mean,
}

impl Default for Expect {
    fn default() -> Self {
        Expect {
            events: Mean::from(OUTPUT_FIRST),
            tokens: Mean::from(OUTPUT_FIRST),
            prompt: Mean::from(0.0),
            tells: Mean::from(0.0),
            streamed: Mean::from(0.0),
        }
    }
}

impl Expect {
    fn add(&mut self, sample: &Sample) {
        self.prompt.add(f64::from(sample.prompt_tokens));
        self.streamed.add(f64::from(u8::from(sample.streaming)));
        if sample.streaming {
            self.events.add(f64::from(sample.events));
        } else {
            self.tells.add(f64::from(u8::from(sample.output_tokens.is_some())));
            if let Some(tokens) = sample.output_tokens {
                self.tokens.add(f64::from(tokens));
            }
        }
    }

    /// Expected events of a streamed answer, at most `limit`.
    pub fn events(&self, limit: Option<u32>) -> f64 {
        capped(self.events.value, limit)
    }

    /// Expected output tokens of an answer that is not streamed, at most `limit`.
    pub fn tokens(&self, limit: Option<u32>) -> f64 {
        capped(self.tokens.value, limit)
    }

    /// Whether answers, not streamed, tell their tokens.
    pub fn tells_tokens(&self) -> bool {
        self.tells.value > 0.5
    }

    /// Whether most answers are streamed.
    pub fn streams(&self) -> bool {
        self.streamed.value > 0.5
    }

    /// Mean prompt tokens.
    pub fn prompt_tokens(&self) -> f64 {
        self.prompt.value
    }

    /// Whether every number is finite and not negative.
    pub fn is_sound(&self) -> bool {
        let means = [self.events, self.tokens, self.prompt, self.tells, self.streamed];
        means.iter().flat_map(|m| [m.value, m.seen]).all(|x| x.is_finite() && x >= 0.0)
    }
}

fn capped(value: f64, limit: Option<u32>) -> f64 {
    limit.map_or(value, |limit| value.min(f64::from(limit)))
}

/// The expectations of every kind, and over all kinds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expectations {
    overall: Expect,
    kinds: Vec<Option<Expect>>,
}

impl Expectations {
    /// An answer came.
    pub fn add(&mut self, sample: &Sample) {
        self.overall.add(sample);
        let at = usize::from(sample.kind.0);
        if at < KINDS_MAX {
            // A kind that nobody has seen starts as the average of all.
            let overall = self.overall;
            self.entry(at).get_or_insert(overall).add(sample);
        }
    }

    /// Puts back what was learned before about a kind, or about all of them.
    pub fn put(&mut self, kind: Option<KindId>, expect: Expect) {
        match kind {
            None => self.overall = expect,
            Some(KindId(at)) if usize::from(at) < KINDS_MAX => *self.entry(usize::from(at)) = Some(expect),
            Some(_) => {}
        }
    }

    fn entry(&mut self, at: usize) -> &mut Option<Expect> {
        if self.kinds.len() <= at {
            self.kinds.resize(at + 1, None);
        }
        &mut self.kinds[at]
    }

    /// What is expected of a kind.
    pub fn of(&self, kind: KindId) -> &Expect {
        self.kinds.get(usize::from(kind.0)).and_then(Option::as_ref).unwrap_or(&self.overall)
    }

    /// What is expected of a request of any kind.
    pub fn overall(&self) -> &Expect {
        &self.overall
    }

    /// The kinds that were seen.
    pub fn kinds(&self) -> impl Iterator<Item = (KindId, &Expect)> {
        let seen = |(at, expect): (usize, &'_ Option<Expect>)| Some((u16::try_from(at).ok()?, expect.is_some()));
        self.kinds
            .iter()
            .enumerate()
            .filter_map(seen)
            .filter(|(_, seen)| *seen)
            .map(|(at, _)| (KindId(at), self.of(KindId(at))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::sample::tests::plain;

    #[test]
    fn the_expectation_follows_what_a_kind_answers() {
        let mut expectations = Expectations::default();
        let chat = Sample { streaming: true, events: 300, kind: KindId(1), ..plain(0, 1, 1.0) };
        let code = Sample { output_tokens: Some(20), kind: KindId(2), ..plain(0, 1, 1.0) };
        for _ in 0..2_000 {
            expectations.add(&chat);
            expectations.add(&code);
        }
        assert!((expectations.of(KindId(1)).events(None) - 300.0).abs() < 10.0);
        assert_eq!(expectations.of(KindId(1)).events(Some(16)), 16.0);
        assert!((expectations.of(KindId(2)).tokens(None) - 20.0).abs() < 5.0);
        assert!(expectations.of(KindId(2)).tells_tokens() && !expectations.of(KindId(2)).streams());
        assert_eq!(expectations.kinds().count(), 2);
        assert_eq!(Expectations::default().of(KindId(9)).events(None), OUTPUT_FIRST);
    }
}
