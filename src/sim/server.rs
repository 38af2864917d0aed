//! Either kind of server behind one set of verbs, for callers that run mixed or named fleets; with a prefix cache where
//! it has one.
//!
//! What of a prompt is cached is looked up when the request arrives and not when it gets its slot, as real servers do:
//! the difference is what happens to the cache while it waits. The prompt is in the cache from its first token on, the
//! answer from its last.

use std::collections::HashMap;
use std::sync::Arc;

use super::{BatchServer, Event, PlainServer, PrefixCache, ServerSpec, WorkId};
use crate::clock::Time;
use crate::request::Prefix;

/// What a request costs; each kind of server reads what it knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// Seconds of a plain worker at speed 1.
    pub plain_s: f64,
}

/// What a request says, as far as a prefix cache can tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Text {
    /// Its prompt.
    pub prompt: Prefix,
    /// The blocks that follow those of the prompt once the answer is there, if it is known.
    pub answer: Option<Arc<[u64]>>,
}

/// A server of either kind. The methods are those of [`BatchServer`] and [`PlainServer`], and so is the rule to
/// [`advance`](Server::advance) to `now` before any change.
#[derive(Clone, Debug)]
pub struct Server {
    kind: Kind,
    memory: Option<Memory>,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Continuous batching.
    Batch(BatchServer),
    /// Workers and a queue.
    Plain(PlainServer),
}

/// A prefix cache, and what is being computed that will be in it.
#[derive(Clone, Debug)]
struct Memory {
    tokens: u64,
    cache: PrefixCache,
    texts: HashMap<WorkId, Text>,
}

impl Memory {
    /// Tokens of that prompt that are cached; the last one is always computed.
    fn cached(&self, work: Work, prompt: &Prefix) -> u32 {
        let held = self.cache.held(prompt.blocks()) as f32 * prompt.tokens_per_block();
        // A cast saturates, which is what is wanted of a prompt that long.
        (held as u32).min(work.prompt_tokens.saturating_sub(1))
    }

    fn arrives(&mut self, id: WorkId, work: Work, text: &Text) -> u32 {
        if text.prompt.blocks().is_empty() {
            return 0;
        }
        if self.cache.is_empty() {
            // How large blocks are is known from the first that come.
            self.cache = PrefixCache::of_tokens(self.tokens, text.prompt.tokens_per_block());
        }
        self.texts.insert(id, text.clone());
        self.cached(work, &text.prompt)
    }

    fn heed(&mut self, event: &Event<'_>) {
        match event {
            Event::FirstToken { id, .. } => {
                if let Some(text) = self.texts.get(id) {
                    self.cache.take_in(text.prompt.blocks());
                }
            }
            Event::Tokens { .. } => {}
            Event::Finished { id, .. } => {
                if let Some(text) = self.texts.remove(id) {
                    // The end first: a prompt is always more recent than what follows it.
                    self.cache.take_in(text.answer.as_deref().unwrap_or_default());
                    self.cache.take_in(text.prompt.blocks());
                }
            }
        }
    }
}

impl Server {
    /// An idle server without a prefix cache.
    pub fn new(spec: ServerSpec) -> Server {
        let kind = match spec {
            ServerSpec::Batch(spec) => Kind::Batch(BatchServer::new(spec)),
            ServerSpec::Plain(spec) => Kind::Plain(PlainServer::new(spec)),
        };
        Server { kind, memory: None }
    }

    /// The same with a prefix cache of so many tokens. A plain server has no use for it.
    #[must_use]
    pub fn caching(self, tokens: u64) -> Server {
        Server { memory: Some(Memory { tokens, cache: PrefixCache::default(), texts: HashMap::new() }), ..self }
    }

    /// Whether it is a plain one.
    pub fn is_plain(&self) -> bool {
        matches!(self.kind, Kind::Plain(_))
    }

    /// A request arrives; so many tokens of its prompt are cached.
    pub fn submit(&mut self, now: Time, id: WorkId, work: Work, text: &Text) -> u32 {
        let cached = self.memory.as_mut().map_or(0, |memory| memory.arrives(id, work, text));
        match &mut self.kind {
            Kind::Batch(server) => server.submit_cached(now, id, work.prompt_tokens, cached, work.output_tokens),
            Kind::Plain(server) => server.submit(now, id, work.plain_s),
        }
        cached
    }

    /// A request is given up; `false` if it is not here.
    pub fn cancel(&mut self, now: Time, id: WorkId) -> bool {
        if let Some(memory) = &mut self.memory {
            memory.texts.remove(&id);
        }
        match &mut self.kind {
            Kind::Batch(server) => server.cancel(id),
            Kind::Plain(server) => server.cancel(now, id),
        }
    }

    /// When a request would end if it arrived now and nothing came after it; `None` for a hanging server.
    pub fn would_end(&self, now: Time, work: Work, prompt: &Prefix) -> Option<Time> {
        let cached = self.memory.as_ref().map_or(0, |memory| memory.cached(work, prompt));
        match &self.kind {
            Kind::Batch(server) => server.would_end(now, work.prompt_tokens - cached, work.output_tokens),
            Kind::Plain(server) => server.would_end(now, work.plain_s),
        }
    }

    /// When something happens next; `None` for an idle or hanging server.
    pub fn next_event(&self) -> Option<Time> {
        match &self.kind {
            Kind::Batch(server) => server.next_event(),
            Kind::Plain(server) => server.next_event(),
        }
    }

    /// Tells everything that happens by `now`.
    pub fn advance(&mut self, now: Time, tell: &mut impl FnMut(Event<'_>)) {
        let Server { kind, memory } = self;
        let mut told = |event: Event<'_>| {
            if let Some(memory) = memory {
                memory.heed(&event);
            }
            tell(event);
        };
        match kind {
            Kind::Batch(server) => server.advance(now, &mut told),
            Kind::Plain(server) => server.advance(now, &mut told),
        }
    }

    /// Makes it `speed` times as fast as its spec from now on.
    pub fn set_speed(&mut self, now: Time, speed: f64) {
        match &mut self.kind {
            Kind::Batch(server) => server.set_speed(now, speed),
            Kind::Plain(server) => server.set_speed(now, speed),
        }
    }

    /// It hangs until [`resume`](Server::resume).
    pub fn pause(&mut self, now: Time) {
        match &mut self.kind {
            Kind::Batch(server) => server.pause(now),
            Kind::Plain(server) => server.pause(now),
        }
    }

    /// It goes on where it stopped.
    pub fn resume(&mut self, now: Time) {
        match &mut self.kind {
            Kind::Batch(server) => server.resume(now),
            Kind::Plain(server) => server.resume(now),
        }
    }

    /// Gives up everything and forgets what it cached, as a restart does.
    pub fn clear(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.cache.clear();
            memory.texts.clear();
        }
        match &mut self.kind {
            Kind::Batch(server) => server.clear(),
            Kind::Plain(server) => server.clear(),
        }
    }

    /// Requests that hold a slot or worker.
    pub fn running(&self) -> usize {
        match &self.kind {
            Kind::Batch(server) => server.running(),
            Kind::Plain(server) => server.running(),
        }
    }

    /// Requests that wait for one.
    pub fn queued(&self) -> usize {
        match &self.kind {
            Kind::Batch(server) => server.queued(),
            Kind::Plain(server) => server.queued(),
        }
    }

    /// See [`BatchServer::tokens`]; a plain server has none.
    pub fn tokens(&self) -> u64 {
        match &self.kind {
            Kind::Batch(server) => server.tokens(),
            Kind::Plain(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{BatchSpec, PlainSpec};

    #[test]
    fn both_kinds_hang_slow_down_and_forget_alike() {
        let work = Work { prompt_tokens: 100, output_tokens: 5, plain_s: 1.0 };
        let batch = ServerSpec::Batch(BatchSpec::new(0.1, 0.0, 1e9, 4));
        for spec in [batch, ServerSpec::Plain(PlainSpec { workers: 4, speed: 2.0 })] {
            let mut server = Server::new(spec);
            for id in 1..=3 {
                server.submit(Time::ZERO, id, work, &Text::default());
            }
            assert!(server.cancel(Time::ZERO, 3));
            server.set_speed(Time::ZERO, 0.5);
            server.pause(Time::ZERO);
            assert_eq!(server.next_event(), None);
            server.resume(Time::from_micros(1_000));
            let mut finished = Vec::new();
            server.advance(Time::from_secs_f64(60.0), &mut |event| {
                if let Event::Finished { id, at } = event {
                    finished.push((id, at.as_secs_f64() >= 1.0));
                }
            });
            finished.sort_unstable();
            assert_eq!(finished, [(1, true), (2, true)]);
            server.submit(Time::from_secs_f64(60.0), 4, work, &Text::default());
            server.clear();
            assert_eq!((server.running(), server.queued(), server.next_event()), (0, 0, None));
        }
    }

    /// A server that computes 1,000 prompt tokens per second, with a cache of 1,000 tokens.
    fn remembering() -> Server {
        let spec = BatchSpec { admit_max: 10_000, ..BatchSpec::new(0.010, 0.0, 1_000.0, 8) };
        Server::new(ServerSpec::Batch(spec)).caching(1_000)
    }

    /// A prompt of `blocks` blocks of 100 tokens and 50 tokens more.
    fn prompt(blocks: impl IntoIterator<Item = u64>) -> (Work, Text) {
        let prompt = Prefix::new(blocks.into_iter().collect::<Vec<_>>(), 100.0);
        let prompt_tokens = 100 * prompt.blocks().len() as u32 + 50;
        (Work { prompt_tokens, output_tokens: 1, plain_s: 0.0 }, Text { prompt, answer: None })
    }

    /// Computes a request alone: tokens that were cached and milliseconds.
    fn alone(server: &mut Server, at_s: f64, (work, text): &(Work, Text)) -> (u32, u64) {
        let now = Time::from_secs_f64(at_s);
        let foreseen = server.would_end(now, *work, &text.prompt);
        let cached = server.submit(now, 1, *work, text);
        let mut end = None;
        server.advance(Time::from_secs_f64(at_s + 10.0), &mut |event| {
            if let Event::Finished { at, .. } = event {
                end = Some(at);
            }
        });
        assert_eq!(end, foreseen);
        (cached, end.expect("finished").since(now).as_millis() as u64)
    }

    #[test]
    fn only_what_is_not_cached_of_a_prompt_is_computed() {
        let mut server = remembering();
        assert_eq!(alone(&mut server, 0.0, &prompt(1..=4)), (0, 460));
        assert_eq!(alone(&mut server, 20.0, &prompt(1..=4)), (400, 60));
        assert_eq!(alone(&mut server, 40.0, &prompt([1, 2, 9])), (200, 160));
        // Nothing counts after the first block that is missing.
        assert_eq!(alone(&mut server, 60.0, &prompt([7, 2, 3])), (0, 360));
        server.clear();
        assert_eq!(alone(&mut server, 80.0, &prompt(1..=4)), (0, 460));
    }

    #[test]
    fn an_answer_is_cached_too_and_its_prompt_outlives_it() {
        let mut server = remembering();
        let (work, text) = prompt(1..=4);
        let answered = Text { answer: Some(vec![5, 6].into()), ..text };
        assert_eq!(alone(&mut server, 0.0, &(work, answered)), (0, 460));
        assert_eq!(alone(&mut server, 20.0, &prompt(1..=7)), (600, 160));
        // Eight of ten blocks are needed for another prompt, and the two that stay are the first ones.
        alone(&mut server, 40.0, &prompt(11..=18));
        assert_eq!(alone(&mut server, 60.0, &prompt(1..=7)), (200, 560));
    }

    #[test]
    fn a_prompt_that_was_given_up_before_its_first_token_is_not_cached() {
        let mut server = remembering();
        let (work, text) = prompt(1..=4);
        server.submit(Time::ZERO, 1, work, &text);
        assert!(server.cancel(Time::ZERO, 1));
        assert_eq!(alone(&mut server, 20.0, &(work, text)).0, 0);
    }
}
