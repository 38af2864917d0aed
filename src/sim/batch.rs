//! A model server with continuous batching, in virtual time.
//!
//! One step computes up to `admit_max` prompt tokens of admitted requests and one token of every running sequence:
//!
//! ```text
//! step = t0 + t1 * sequences + context_s * context tokens + prefill(T),   T = prompt tokens of the step
//! prefill(T) = max(prefill_min, prefill_offset + T / rate) for T > 0, else 0
//! ```
//!
//! the form that vLLM-like schedulers with chunked prefill show when measured (the split into prefill and decode
//! times is that of Splitwise, ISCA 2024). A sequence holds a slot from its first prompt chunk to its last token. What
//! is cancelled leaves at once; the step under way still takes its time. Not modelled: a full key-value memory and
//! the preemption that it causes, speculative decoding. A caller that has a prefix cache says what of a prompt is in it.

use std::collections::VecDeque;

use super::{Event, WorkId, micros, sound_speed};
use crate::clock::Time;

/// Prompt tokens that one step admits unless told otherwise: the default of the schedulers that this models.
pub const ADMIT_MAX: u32 = 2_048;

/// What a server is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchSpec {
    /// Seconds that a step takes at least.
    pub t0_s: f64,
    /// Seconds that each sequence adds to a step.
    pub t1_s: f64,
    /// Prompt tokens computed per second.
    pub prompt_tokens_per_s: f64,
    /// Sequences at once, at least 1.
    pub slots: u32,
    /// Prompt tokens per step, at least 1; a longer prompt takes several steps.
    pub admit_max: u32,
    /// Seconds that each token of context (prompt and output so far, all sequences) adds to a step.
    pub context_s: f64,
    /// Seconds that prompt tokens add to a step at least, if there are any.
    pub prefill_min_s: f64,
    /// Constant part of the time for prompt tokens, may be negative.
    pub prefill_offset_s: f64,
}

impl BatchSpec {
    /// The study's form: a step of `t0 + t1 * sequences + prompt tokens / rate`.
    pub const fn new(t0_s: f64, t1_s: f64, prompt_tokens_per_s: f64, slots: u32) -> BatchSpec {
        BatchSpec {
            t0_s,
            t1_s,
            prompt_tokens_per_s,
            slots,
            admit_max: ADMIT_MAX,
            context_s: 0.0,
            prefill_min_s: 0.0,
            prefill_offset_s: 0.0,
        }
    }

    /// Seconds of a step with that many sequences, tokens of context and prompt tokens.
    pub fn step_s(&self, sequences: usize, context: u64, prompt_tokens: u32) -> f64 {
        self.t0_s + self.t1_s * sequences as f64 + self.context_s * context as f64 + self.prefill_s(prompt_tokens)
    }

    fn prefill_s(&self, prompt_tokens: u32) -> f64 {
        if prompt_tokens == 0 {
            return 0.0;
        }
        (self.prefill_offset_s + f64::from(prompt_tokens) / self.prompt_tokens_per_s).max(self.prefill_min_s)
    }

    /// Requests per second of a server whose slots are always full, for mean prompt and output lengths:
    /// `b / (o (t0 + t1 b) + b p / rate)` with b = slots. Where prefill has a minimum or context costs, each prompt
    /// counts as admitted alone and at its mean length, and a sequence as half way through its output.
    pub fn capacity_rps(&self, prompt_tokens: f64, output_tokens: f64) -> f64 {
        let slots = f64::from(self.slots);
        let context = slots * (prompt_tokens + output_tokens / 2.0);
        let context_s = if self.context_s > 0.0 { self.context_s * context } else { 0.0 };
        let prefill_s = (self.prefill_offset_s + prompt_tokens / self.prompt_tokens_per_s).max(self.prefill_min_s);
        slots / (output_tokens * (self.t0_s + self.t1_s * slots + context_s) + slots * prefill_s)
    }

    /// The same server, `factor` times faster in everything.
    #[must_use]
    pub fn faster(self, factor: f64) -> BatchSpec {
        BatchSpec {
            t0_s: self.t0_s / factor,
            t1_s: self.t1_s / factor,
            prompt_tokens_per_s: self.prompt_tokens_per_s * factor,
            context_s: self.context_s / factor,
            prefill_min_s: self.prefill_min_s / factor,
            prefill_offset_s: self.prefill_offset_s / factor,
            ..self
        }
    }

    /// The same server with at most that many slots.
    #[must_use]
    pub fn with_slots_at_most(self, slots: u32) -> BatchSpec {
        BatchSpec { slots: self.slots.min(slots).max(1), ..self }
    }
}

/// A request that waits for a slot, or whose prompt is being computed.
#[derive(Clone, Copy, Debug)]
struct Prompt {
    id: WorkId,
    /// Prompt tokens not computed yet; the running step's included until it ends.
    left: u32,
    /// Those of them that the running step computes.
    in_step: u32,
    /// Prompt tokens that were cached or computed by steps that ended.
    done: u32,
    output_tokens: u32,
}

/// The step under way.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Nothing to do.
    Idle,
    /// It ends then.
    Until(Time),
    /// The server hangs; so long the step would still take.
    Held { left_us: u64 },
}

/// A continuous-batching server.
///
/// Before any change at `now`, [`advance`](BatchServer::advance) to it: the engine never looks back.
#[derive(Clone, Debug)]
pub struct BatchServer {
    spec: BatchSpec,
    speed: f64,
    paused: bool,
    step: Step,
    queue: VecDeque<Prompt>,
    prefill: VecDeque<Prompt>,
    /// Sequences past their prompt: ids, tokens left and tokens of context, in parallel vectors so that a step over
    /// hundreds of them is a few vector instructions.
    ids: Vec<WorkId>,
    left: Vec<u32>,
    held: Vec<u64>,
    context: u64,
    /// Buffer of `advance`: ids whose last token came.
    finished: Vec<WorkId>,
}

impl BatchServer {
    /// An idle server.
    pub fn new(spec: BatchSpec) -> BatchServer {
        let spec = BatchSpec { slots: spec.slots.max(1), admit_max: spec.admit_max.max(1), ..spec };
        BatchServer {
            spec,
            speed: 1.0,
            paused: false,
            step: Step::Idle,
            queue: VecDeque::new(),
            prefill: VecDeque::new(),
            ids: Vec::new(),
            left: Vec::new(),
            held: Vec::new(),
            context: 0,
            finished: Vec::new(),
        }
    }

    /// What the server is like.
    pub fn spec(&self) -> &BatchSpec {
        &self.spec
    }

    /// Sequences that hold a slot.
    pub fn running(&self) -> usize {
        self.prefill.len() + self.ids.len()
    }

    /// Requests that wait for a slot.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Tokens of context that are computed, and of prompts that are not yet: what it has to hold and to do.
    pub fn tokens(&self) -> u64 {
        let prompts = self.queue.iter().chain(&self.prefill).map(|prompt| u64::from(prompt.left));
        self.context + prompts.sum::<u64>()
    }

    /// A request arrives. Lengths of 0 count as 1.
    pub fn submit(&mut self, now: Time, id: WorkId, prompt_tokens: u32, output_tokens: u32) {
        self.submit_cached(now, id, prompt_tokens, 0, output_tokens);
    }

    /// A request arrives of whose prompt `cached` tokens need not be computed; at least one does. They count as context
    /// from its slot on.
    pub fn submit_cached(&mut self, now: Time, id: WorkId, prompt_tokens: u32, cached: u32, output_tokens: u32) {
        let cached = cached.min(prompt_tokens.saturating_sub(1));
        self.queue.push_back(Prompt {
            id,
            left: (prompt_tokens - cached).max(1),
            in_step: 0,
            done: cached,
            output_tokens: output_tokens.max(1),
        });
        self.start_if_idle(now);
    }

    /// A request is given up, whether it waits or runs; `false` if it is not here. Its slot is free for the next
    /// step; the one under way takes the time that it was started with.
    pub fn cancel(&mut self, id: WorkId) -> bool {
        if let Some(at) = self.ids.iter().position(|running| *running == id) {
            self.remove_sequence(at);
            return true;
        }
        if let Some(at) = self.prefill.iter().position(|prompt| prompt.id == id) {
            self.context -= self.prefill.remove(at).map_or(0, |prompt| u64::from(prompt.done));
            return true;
        }
        let place = self.queue.iter().position(|prompt| prompt.id == id);
        place.and_then(|at| self.queue.remove(at)).is_some()
    }

    /// When the step under way ends; `None` for an idle or hanging server.
    pub fn next_event(&self) -> Option<Time> {
        match self.step {
            Step::Until(end) => Some(end),
            Step::Idle | Step::Held { .. } => None,
        }
    }

    /// When a request of those lengths would end if it arrived now and nothing came after it; `None` for a hanging
    /// server. Found by running a copy ahead, so it costs as many steps.
    pub fn would_end(&self, now: Time, prompt_tokens: u32, output_tokens: u32) -> Option<Time> {
        const ASKED: WorkId = WorkId::MAX;
        let mut ahead = self.clone();
        ahead.submit(now, ASKED, prompt_tokens, output_tokens);
        let mut end = None;
        while end.is_none() {
            let next = ahead.next_event()?;
            ahead.advance(next, &mut |event| {
                if let Event::Finished { at, id: ASKED } = event {
                    end = Some(at);
                }
            });
        }
        end
    }

    /// Ends every step that ends by `now` and tells what it brought. Each next step starts where the one before
    /// ended, so a caller that comes late loses nothing and adds no drift.
    pub fn advance(&mut self, now: Time, tell: &mut impl FnMut(Event<'_>)) {
        while let Step::Until(end) = self.step {
            if end > now {
                break;
            }
            self.end_step(end, tell);
            self.step = Step::Idle;
            self.start_if_idle(end);
        }
    }

    /// Makes the server `speed` times as fast as its spec from now on; 0.2 is five times slower. What is left of the
    /// step under way changes its pace too. Not finite or not positive counts as 1.
    pub fn set_speed(&mut self, now: Time, speed: f64) {
        let speed = sound_speed(speed);
        let stretch = self.speed / speed;
        self.speed = speed;
        self.step = match self.step {
            Step::Idle => Step::Idle,
            Step::Until(end) => Step::Until(now.after(end.since(now).mul_f64(stretch))),
            Step::Held { left_us } => Step::Held { left_us: (left_us as f64 * stretch).round() as u64 },
        };
    }

    /// The server hangs: nothing moves until [`resume`](BatchServer::resume), requests queue.
    pub fn pause(&mut self, now: Time) {
        self.paused = true;
        if let Step::Until(end) = self.step {
            self.step = Step::Held { left_us: end.as_micros().saturating_sub(now.as_micros()) };
        }
    }

    /// The server goes on where it stopped.
    pub fn resume(&mut self, now: Time) {
        self.paused = false;
        if let Step::Held { left_us } = self.step {
            self.step = Step::Until(Time::from_micros(now.as_micros().saturating_add(left_us)));
        }
        self.start_if_idle(now);
    }

    /// Gives up everything, as a restart does.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.prefill.clear();
        self.ids.clear();
        self.left.clear();
        self.held.clear();
        self.context = 0;
        self.step = Step::Idle;
    }

    fn start_if_idle(&mut self, now: Time) {
        if self.paused || !matches!(self.step, Step::Idle) {
            return;
        }
        let admitted = self.admit();
        let sequences = self.running();
        if sequences == 0 {
            return;
        }
        let seconds = self.spec.step_s(sequences, self.context, admitted) / self.speed;
        // A step of no time at all would let `advance` run for ever.
        let micros = micros(seconds).max(1);
        self.step = Step::Until(Time::from_micros(now.as_micros().saturating_add(micros)));
    }

    /// Chooses the prompt tokens of the next step: prompts begun first, then the queue while slots are free.
    fn admit(&mut self) -> u32 {
        let mut budget = self.spec.admit_max;
        for prompt in &mut self.prefill {
            prompt.in_step = prompt.left.min(budget);
            budget -= prompt.in_step;
        }
        while budget > 0 && self.running() < self.spec.slots as usize {
            let Some(mut prompt) = self.queue.pop_front() else { break };
            prompt.in_step = prompt.left.min(budget);
            budget -= prompt.in_step;
            self.context += u64::from(prompt.done);
            self.prefill.push_back(prompt);
        }
        self.spec.admit_max - budget
    }

    fn end_step(&mut self, at: Time, tell: &mut impl FnMut(Event<'_>)) {
        for prompt in &mut self.prefill {
            prompt.left -= prompt.in_step;
            prompt.done += prompt.in_step;
            self.context += u64::from(prompt.in_step);
            prompt.in_step = 0;
        }
        // Prompts are computed in order, so those that are ready are at the front.
        while self.prefill.front().is_some_and(|prompt| prompt.left == 0) {
            let Some(prompt) = self.prefill.pop_front() else { break };
            self.ids.push(prompt.id);
            self.left.push(prompt.output_tokens);
            self.held.push(u64::from(prompt.done));
            tell(Event::FirstToken { at, id: prompt.id });
        }
        if self.ids.is_empty() {
            return;
        }
        tell(Event::Tokens { at, ids: &self.ids });
        self.context += self.ids.len() as u64;
        self.held.iter_mut().for_each(|held| *held += 1);
        let mut any_finished = false;
        for left in &mut self.left {
            *left -= 1;
            any_finished |= *left == 0;
        }
        if any_finished {
            self.finish_sequences(at, tell);
        }
    }

    fn finish_sequences(&mut self, at: Time, tell: &mut impl FnMut(Event<'_>)) {
        let mut finished = std::mem::take(&mut self.finished);
        for place in (0..self.ids.len()).rev() {
            if self.left[place] == 0 {
                finished.push(self.remove_sequence(place));
            }
        }
        for id in finished.drain(..).rev() {
            tell(Event::Finished { at, id });
        }
        self.finished = finished;
    }

    fn remove_sequence(&mut self, place: usize) -> WorkId {
        self.left.swap_remove(place);
        self.context -= self.held.swap_remove(place);
        self.ids.swap_remove(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step of 10 ms + 1 ms per sequence, 1,000 prompt tokens per second: 1 ms each.
    const SPEC: BatchSpec = BatchSpec::new(0.010, 0.001, 1_000.0, 2);

    #[derive(Debug, PartialEq)]
    enum Seen {
        First(u64, WorkId),
        Tokens(u64, usize),
        Finished(u64, WorkId),
    }

    fn ms(milliseconds: u64) -> Time {
        Time::from_micros(milliseconds * 1_000)
    }

    /// Advances and tells what happened, times in milliseconds.
    fn run(server: &mut BatchServer, until: Time) -> Vec<Seen> {
        let mut seen = Vec::new();
        server.advance(until, &mut |event| {
            seen.push(match event {
                Event::FirstToken { at, id } => Seen::First(at.as_micros() / 1_000, id),
                Event::Tokens { at, ids } => Seen::Tokens(at.as_micros() / 1_000, ids.len()),
                Event::Finished { at, id } => Seen::Finished(at.as_micros() / 1_000, id),
            });
        });
        seen
    }

    fn only_ends(seen: &[Seen]) -> Vec<(WorkId, u64)> {
        let end = |seen: &Seen| if let Seen::Finished(at, id) = seen { Some((*id, *at)) } else { None };
        seen.iter().filter_map(end).collect()
    }

    #[test]
    fn a_lone_request_gets_its_first_token_with_its_prompt_and_one_per_step_after() {
        let mut server = BatchServer::new(SPEC);
        server.submit(ms(5), 7, 100, 3);
        assert_eq!(server.next_event(), Some(ms(5 + 111)));
        let seen = run(&mut server, ms(10_000));
        let expected = [
            Seen::First(116, 7),
            Seen::Tokens(116, 1),
            Seen::Tokens(127, 1),
            Seen::Tokens(138, 1),
            Seen::Finished(138, 7),
        ];
        assert_eq!(seen, expected);
        assert_eq!((server.next_event(), server.running(), server.context), (None, 0, 0));
    }

    #[test]
    fn a_request_joins_the_batch_at_the_next_step_and_slows_its_neighbours() {
        let mut server = BatchServer::new(SPEC);
        server.submit(ms(0), 1, 9, 4);
        assert!(run(&mut server, ms(10)).is_empty());
        server.submit(ms(10), 2, 28, 1);
        // Steps: 0-20 (10+1+9), 20-60 (10+2+28: both), then 1 alone in steps of 11.
        let seen = run(&mut server, ms(1_000));
        assert_eq!(seen[2..5], [Seen::First(60, 2), Seen::Tokens(60, 2), Seen::Finished(60, 2)]);
        assert_eq!(only_ends(&seen), [(2, 60), (1, 82)]);
    }

    #[test]
    fn who_finds_no_free_slot_waits_for_one() {
        let mut server = BatchServer::new(SPEC);
        server.submit(ms(0), 1, 1, 2);
        server.submit(ms(0), 2, 1, 5);
        server.submit(ms(0), 3, 1, 1);
        // 0-12: 1. 12-25: 1 and 2, 1 ends. 25-38: 2 and 3, 3 ends. Then 2 alone: 49, 60, 71.
        assert_eq!((server.running(), server.queued()), (1, 2));
        let seen = run(&mut server, ms(1_000));
        assert_eq!(only_ends(&seen), [(1, 25), (3, 38), (2, 71)]);
    }

    #[test]
    fn a_long_prompt_takes_several_steps_and_shares_its_last_one() {
        let mut server = BatchServer::new(BatchSpec { admit_max: 100, slots: 3, ..SPEC });
        server.submit(ms(0), 1, 250, 1);
        server.submit(ms(0), 2, 50, 1);
        server.submit(ms(0), 3, 1, 1);
        // 0-111: 100 of 1. 111-222: 100 of 1. 222-334: 50 of 1 and 50 of 2 (10 + 2 + 100). 334-346: 3.
        let seen = run(&mut server, ms(1_000));
        assert_eq!(seen[..2], [Seen::First(334, 1), Seen::First(334, 2)]);
        assert_eq!(only_ends(&seen), [(1, 334), (2, 334), (3, 346)]);
    }

    #[test]
    fn a_cancelled_request_frees_its_slot_for_the_next_step() {
        let mut server = BatchServer::new(BatchSpec { slots: 1, ..SPEC });
        server.submit(ms(0), 1, 1, 1_000);
        server.submit(ms(0), 2, 1, 1);
        server.submit(ms(0), 3, 1, 1);
        assert_eq!(run(&mut server, ms(12)).len(), 2);
        assert!(server.cancel(1) && server.cancel(3) && !server.cancel(99));
        // The step that runs from 12 to 23 ends empty; then 2 runs from 23 to 35.
        assert_eq!(run(&mut server, ms(1_000)), [Seen::First(35, 2), Seen::Tokens(35, 1), Seen::Finished(35, 2)]);
        assert_eq!(server.context, 0);
    }

    #[test]
    fn a_prompt_cancelled_half_way_leaves_nothing_behind() {
        let mut server = BatchServer::new(BatchSpec { admit_max: 10, ..SPEC });
        server.submit(ms(0), 1, 100, 1);
        assert!(run(&mut server, ms(30)).is_empty());
        assert!(server.cancel(1));
        assert!(run(&mut server, ms(1_000)).is_empty());
        assert_eq!((server.running(), server.context, server.next_event()), (0, 0, None));
    }

    #[test]
    fn a_slower_server_stretches_what_is_left_of_its_step() {
        let mut server = BatchServer::new(SPEC);
        server.submit(ms(0), 1, 9, 2);
        server.set_speed(ms(10), 0.2);
        assert_eq!(server.next_event(), Some(ms(60)));
        assert_eq!(only_ends(&run(&mut server, ms(115))), [(1, 115)]);
        server.set_speed(ms(200), 1.0);
        server.submit(ms(200), 2, 9, 1);
        assert_eq!(only_ends(&run(&mut server, ms(220))), [(2, 220)]);
    }

    #[test]
    fn a_hanging_server_takes_requests_and_goes_on_where_it_stopped() {
        let mut server = BatchServer::new(SPEC);
        server.submit(ms(0), 1, 9, 1);
        server.pause(ms(5));
        server.submit(ms(50), 2, 9, 1);
        assert_eq!(server.next_event(), None);
        assert!(run(&mut server, ms(1_000)).is_empty());
        server.resume(ms(1_000));
        assert_eq!(only_ends(&run(&mut server, ms(2_000))), [(1, 1_015), (2, 1_035)]);
    }

    #[test]
    fn steps_that_are_seen_late_do_not_drift() {
        let mut often = BatchServer::new(SPEC);
        let mut once = often.clone();
        for server in [&mut often, &mut once] {
            server.submit(ms(0), 1, 77, 300);
            server.submit(ms(0), 2, 500, 200);
        }
        let mut seen = Vec::new();
        for at in 0..5_000 {
            seen.extend(run(&mut often, ms(at)));
        }
        assert_eq!(seen, run(&mut once, ms(5_000)));
    }

    #[test]
    fn measured_hardware_pays_for_context_and_at_least_the_minimum_for_a_prompt() {
        let spec = BatchSpec { context_s: 0.000_1, prefill_min_s: 0.050, prefill_offset_s: -0.020, ..SPEC };
        let mut server = BatchServer::new(spec);
        server.submit(ms(0), 1, 40, 2);
        // 10 + 1 + max(50, -20 + 40); then 10 + 1 + 41 tokens of context.
        assert_eq!(server.next_event(), Some(ms(61)));
        run(&mut server, ms(61));
        assert_eq!(server.next_event(), Some(Time::from_micros(61_000 + 11_000 + 4_100)));
        assert_eq!(spec.step_s(2, 0, 100), 0.012 + 0.080);
    }

    #[test]
    fn full_slots_reach_the_capacity_that_the_formula_promises() {
        let spec = BatchSpec::new(0.008, 0.000_06, 24_000.0, 256);
        let mut server = BatchServer::new(spec);
        for id in 0..3_000 {
            server.submit(Time::ZERO, id, 1_100, 210);
        }
        let mut ends = Vec::new();
        server.advance(Time::from_secs_f64(1_000.0), &mut |event| {
            if let Event::Finished { at, .. } = event {
                ends.push(at.as_secs_f64());
            }
        });
        // Leave out the filling and the emptying of the slots.
        let rate = (2_500.0 - 500.0) / (ends[2_500] - ends[500]);
        assert!((rate / spec.capacity_rps(1_100.0, 210.0) - 1.0).abs() < 0.05, "{rate}");
    }
}
