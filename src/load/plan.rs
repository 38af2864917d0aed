//! What is sent when: the requests of a load in order, made one by one from its seed.

use std::time::Duration;

use bytes::Bytes;

use super::{Ask, LoadSpec, text};
use crate::sim::conversations::{Conversations, Exchange};
use crate::sim::{Lognormal, random};

/// What a whole stream is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    /// So many events.
    Events(u64),
    /// `[DONE]` at its end.
    Done,
}

/// One request to be sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Planned {
    /// After the start of the load.
    pub(super) at: Duration,
    pub(super) path: String,
    pub(super) body: Bytes,
    /// `None` where the answer is not streamed.
    pub(super) whole: Option<Whole>,
    /// The conversation that it belongs to.
    pub(super) session: Option<u64>,
}

/// The requests of a load in order, made one by one from the seed.
#[derive(Debug)]
pub(super) struct Plan {
    spec: LoadSpec,
    rng: fastrand::Rng,
    /// The conversations, if requests are turns of such.
    talks: Option<Conversations>,
    at_s: f64,
    made: usize,
}

impl Plan {
    pub(super) fn new(spec: LoadSpec) -> Plan {
        let mut rng = fastrand::Rng::with_seed(spec.seed);
        let talks = match &spec.ask {
            Ask::Talk { talk, questions, answers } => {
                let mut past = rng.fork();
                Some(Conversations::new(talk, rng.fork(), &mut || exchange(questions, answers, &mut past)))
            }
            Ask::Chat { .. } | Ask::Plain { .. } => None,
        };
        Plan { spec, rng, talks, at_s: 0.0, made: 0 }
    }

    /// A turn of a conversation.
    fn turn(&mut self, at: Duration, questions: &Lognormal, answers: &Lognormal) -> Option<Planned> {
        let said = exchange(questions, answers, &mut self.rng);
        let turn = self.talks.as_mut()?.turn(self.at_s, said);
        let body = text::talk_body(&turn);
        Some(Planned { session: Some(turn.session), ..self.chat(at, body, turn.output_tokens, true) })
    }

    fn chat(&self, at: Duration, body: Bytes, output: u32, stream: bool) -> Planned {
        // One per token, the usage, and `[DONE]`.
        let events = Whole::Events(u64::from(output) + 2);
        let whole = stream.then_some(if self.spec.rewritten { Whole::Done } else { events });
        Planned { at, path: "/v1/chat/completions".to_owned(), body, whole, session: None }
    }
}

fn exchange(questions: &Lognormal, answers: &Lognormal, rng: &mut fastrand::Rng) -> Exchange {
    Exchange { question: questions.draw_count(rng), answer: answers.draw_count(rng) }
}

impl Iterator for Plan {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        if self.made >= self.spec.requests_max {
            return None;
        }
        let amount = random::exponential(1.0, &mut self.rng);
        self.at_s = match &self.spec.bursts {
            None => self.at_s + amount / self.spec.rate_rps,
            Some(bursts) => bursts.spend(self.at_s, amount, self.spec.rate_rps),
        };
        let at = Duration::try_from_secs_f64(self.at_s).ok().filter(|at| *at < self.spec.duration)?;
        self.made += 1;
        match self.spec.ask.clone() {
            Ask::Chat { stream, prompts, outputs } => {
                let (prompt, output) = (prompts.draw_count(&mut self.rng), outputs.draw_count(&mut self.rng));
                Some(self.chat(at, text::chat_body(prompt, output, stream), output, stream))
            }
            Ask::Talk { questions, answers, .. } => self.turn(at, &questions, &answers),
            Ask::Plain { path, work_s } => {
                let body = format!("{{\"text\":\"[work_ms={:.3}]\"}}", work_s.draw(&mut self.rng) * 1e3);
                Some(Planned { at, path, body: Bytes::from(body), whole: None, session: None })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::Bursts;
    use super::*;

    #[test]
    fn a_seed_gives_the_same_requests_at_the_same_times() {
        let spec = LoadSpec::new(SocketAddr::from(([127, 0, 0, 1], 1)), 100.0, Duration::from_secs(100));
        let plan: Vec<Planned> = Plan::new(spec.clone()).collect();
        assert!((9_000..11_000).contains(&plan.len()), "{}", plan.len());
        assert!(plan.iter().eq(Plan::new(spec.clone()).collect::<Vec<_>>().iter()));
        assert!(plan[0] != Plan::new(LoadSpec { seed: 2, ..spec }).next().expect("a request"));
        assert!(plan.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }

    #[test]
    fn bursts_keep_the_mean_rate_and_have_their_own() {
        let bursts = Bursts { every: Duration::from_secs(15), length: Duration::from_secs(3), factor: 4.0 };
        let spec = LoadSpec::new(SocketAddr::from(([127, 0, 0, 1], 1)), 50.0, Duration::from_secs(1_500));
        let times = Plan::new(LoadSpec { bursts: Some(bursts), ..spec }).map(|planned| planned.at.as_secs_f64());
        let (inside, outside): (Vec<f64>, Vec<f64>) = times.partition(|at| at % 15.0 >= 12.0);
        // Poisson: of 75,000 requests half are in bursts, which take a fifth of the time; the deviation is below 200.
        assert!((36_500..38_500).contains(&inside.len()), "{}", inside.len());
        assert!((36_500..38_500).contains(&outside.len()), "{}", outside.len());
    }
}
