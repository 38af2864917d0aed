//! Conversations: each prompt is the one before it, its answer, and a new question.
//!
//! A fixed number of conversations lives at a time. Each arrival is the next turn of one of them, drawn at random among
//! those whose user has had the time to read and think, so that arrivals are as they were asked for and the gap between
//! two turns is that time and an exponential one. What a user sends does not depend on when the answer came: every policy
//! sees the same requests, in the same order. A conversation ends after its turns or at the limit of its context, and a new
//! one takes its place. At the start they stand anywhere between their first turn and their last, as at any later time.

use std::collections::VecDeque;

use fastrand::Rng;

use crate::request::Prefix;
use crate::sim::cache::BLOCK_TOKENS;
use crate::sim::server::Text;
use crate::sim::workload::mix;

/// What conversations are like.
#[derive(Clone, Debug, PartialEq)]
pub struct Talk {
    /// Conversations that live at a time, at least 1; more while all of them think.
    pub live: u32,
    /// A conversation has 1 to so many turns, each number as likely.
    pub turns_max: u32,
    /// Seconds between two turns of a conversation, at least.
    pub think_s: f64,
    /// Tokens that every prompt begins with.
    pub system_tokens: u32,
    /// Different ones of these beginnings.
    pub systems: u32,
    /// A conversation ends before its prompt and answer have more tokens.
    pub context_tokens: u32,
}

impl Default for Talk {
    /// The study's: 1,500 conversations of up to 8 turns.
    fn default() -> Talk {
        Talk { live: 1_500, turns_max: 8, think_s: 5.0, system_tokens: 512, systems: 8, context_tokens: 32_768 }
    }
}

/// Tokens of a question and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub(crate) question: u32,
    pub(crate) answer: u32,
}

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    /// Tokens of the prompt: all that was said before, and the question.
    pub(crate) prompt_tokens: u32,
    /// Tokens of the answer.
    pub(crate) output_tokens: u32,
    /// Their blocks.
    pub(crate) text: Text,
    /// Which conversation: the same number for all its turns.
    pub(crate) session: u64,
    /// Which of the [`Talk::systems`] it began with, as a number of its own, and how long that is.
    pub(crate) system: u64,
    /// Its tokens.
    pub(crate) system_tokens: u32,
    /// Questions and answers, this turn's the last.
    pub(crate) said: Vec<Exchange>,
}

#[derive(Debug)]
struct Conversation {
    id: u64,
    /// Its beginning, one of [`Talk::systems`].
    system: u64,
    turns_left: u32,
    /// Questions and answers so far.
    said: Vec<Exchange>,
    /// Tokens of all of it, the beginning included.
    tokens: u32,
    /// Cumulative hashes of whole blocks of them.
    chain: Vec<u64>,
}

/// The conversations of one run.
#[derive(Debug)]
pub(crate) struct Conversations {
    talk: Talk,
    rng: Rng,
    /// A number of this run's own: no text of one run is in another.
    run: u64,
    next_id: u64,
    /// Those whose users think, and until when, in order of time.
    resting: VecDeque<(f64, Conversation)>,
    ready: Vec<Conversation>,
}

impl Conversations {
    /// Conversations that are under way; what was said in them so far is made of `exchange`.
    pub(crate) fn new(talk: &Talk, mut rng: Rng, exchange: &mut dyn FnMut() -> Exchange) -> Conversations {
        let run = rng.u64(..);
        let mut all =
            Conversations { talk: talk.clone(), rng, run, next_id: 0, resting: VecDeque::new(), ready: Vec::new() };
        for _ in 0..talk.live.max(1) {
            let mut conversation = all.begin();
            // A conversation with many turns is met more often: the number is one of all turns of all conversations.
            let turns = all.turns().max(all.turns());
            let had = all.rng.u32(..turns);
            conversation.turns_left = turns - had;
            for _ in 0..had {
                let said = exchange();
                conversation.said.push(said);
                all.grow(&mut conversation, said.question + said.answer);
            }
            all.ready.push(conversation);
        }
        all
    }

    fn turns(&mut self) -> u32 {
        self.rng.u32(1..=self.talk.turns_max.max(1))
    }

    fn begin(&mut self) -> Conversation {
        self.next_id += 1;
        let id = mix(self.run ^ self.next_id);
        let system = mix(self.run ^ u64::MAX ^ u64::from(self.rng.u32(..self.talk.systems.max(1))));
        let turns_left = self.turns();
        let mut conversation = Conversation { id, system, turns_left, said: Vec::new(), tokens: 0, chain: Vec::new() };
        self.grow(&mut conversation, self.talk.system_tokens);
        conversation
    }

    /// Something is said. A block is the beginning's if all of it is, and otherwise the conversation's own.
    fn grow(&self, conversation: &mut Conversation, tokens: u32) {
        conversation.tokens = conversation.tokens.saturating_add(tokens);
        let shared = (self.talk.system_tokens / BLOCK_TOKENS) as usize;
        while conversation.chain.len() < (conversation.tokens / BLOCK_TOKENS) as usize {
            let before = conversation.chain.last().copied().unwrap_or_default();
            let said = if conversation.chain.len() < shared { conversation.system } else { conversation.id };
            conversation.chain.push(mix(before ^ said));
        }
    }

    /// The turn at `at_s`, with that question and answer.
    pub(crate) fn turn(&mut self, at_s: f64, said: Exchange) -> Turn {
        while self.resting.front().is_some_and(|(until, _)| *until <= at_s) {
            let rested = self.resting.pop_front();
            self.ready.extend(rested.map(|(_, conversation)| conversation));
        }
        let mut conversation = match self.ready.len() {
            0 => self.begin(),
            count => {
                let at = self.rng.usize(..count);
                self.ready.swap_remove(at)
            }
        };
        let needed = |conversation: &Conversation| {
            u64::from(conversation.tokens) + u64::from(said.question) + u64::from(said.answer)
        };
        if needed(&conversation) > u64::from(self.talk.context_tokens) {
            // Its context is used up. The first turn of another fits, or nothing does.
            conversation = self.begin();
        }
        conversation.said.push(said);
        self.grow(&mut conversation, said.question);
        let (prompt_tokens, blocks) = (conversation.tokens, conversation.chain.len());
        self.grow(&mut conversation, said.answer);
        let prompt = Prefix::new(&conversation.chain[..blocks], BLOCK_TOKENS as f32);
        let text = Text { prompt, answer: Some(conversation.chain[blocks..].into()) };
        let turn = Turn {
            prompt_tokens,
            output_tokens: said.answer,
            text,
            session: conversation.id,
            system: conversation.system,
            system_tokens: self.talk.system_tokens,
            said: conversation.said.clone(),
        };
        conversation.turns_left = conversation.turns_left.saturating_sub(1);
        if conversation.turns_left > 0 {
            self.resting.push_back((at_s + self.talk.think_s, conversation));
        } else if self.ready.len() + self.resting.len() < self.talk.live as usize {
            let next = self.begin();
            self.ready.push(next);
        }
        turn
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const SAID: Exchange = Exchange { question: 100, answer: 50 };

    fn conversations(talk: &Talk) -> Conversations {
        Conversations::new(talk, Rng::with_seed(4), &mut || SAID)
    }

    fn turns(talk: &Talk, count: u32) -> Vec<(f64, Turn)> {
        let mut all = conversations(talk);
        (0..count).map(|at| (f64::from(at), all.turn(f64::from(at), SAID))).collect()
    }

    fn talk() -> Talk {
        Talk { live: 40, think_s: 30.0, ..Talk::default() }
    }

    #[test]
    fn a_prompt_is_what_was_said_before_and_the_question() {
        let mut said: HashMap<u64, (u32, Vec<u64>)> = HashMap::new();
        let mut followed = 0;
        for (_, turn) in turns(&talk(), 2_000) {
            let prompt = turn.text.prompt.blocks();
            assert_eq!(prompt.len() as u32, turn.prompt_tokens / BLOCK_TOKENS);
            let all = [prompt, turn.text.answer.as_deref().expect("known")].concat();
            let tokens = turn.prompt_tokens + turn.output_tokens;
            if let Some((before, chain)) = said.insert(turn.session, (tokens, all)) {
                assert_eq!(turn.prompt_tokens, before + 100);
                assert!(prompt.starts_with(&chain));
                followed += 1;
            }
        }
        assert!(followed > 1_000, "{followed}");
    }

    #[test]
    fn conversations_share_a_beginning_and_nothing_else() {
        let first: HashMap<u64, Vec<u64>> = turns(&talk(), 500)
            .into_iter()
            .map(|(_, turn)| (turn.session, turn.text.prompt.blocks().to_vec()))
            .collect();
        let beginnings: std::collections::HashSet<&[u64]> = first.values().map(|blocks| &blocks[..8]).collect();
        assert_eq!(beginnings.len(), 8);
        let own: Vec<u64> = first.values().map(|blocks| blocks[8]).collect();
        let different: std::collections::HashSet<u64> = own.iter().copied().collect();
        assert_eq!(own.len(), different.len());
    }

    #[test]
    fn users_think_between_turns_and_conversations_end() {
        let talk = Talk { live: 40, context_tokens: 1_200, ..talk() };
        let mut last: HashMap<u64, (f64, u32)> = HashMap::new();
        for (at, turn) in turns(&talk, 3_000) {
            assert!(turn.prompt_tokens + turn.output_tokens <= 1_200);
            let (before, count) = last.insert(turn.session, (at, 0)).unwrap_or((f64::NEG_INFINITY, 0));
            assert!(at - before >= 30.0, "{at} {before}");
            last.insert(turn.session, (at, count + 1));
        }
        assert!(last.values().all(|(_, count)| (1..=8).contains(count)));
        // 512 tokens of the beginning and four exchanges of 150 fit, so a conversation has 1 to 4 turns.
        assert!(last.len() > 3_000 / 4, "{}", last.len());
    }

    #[test]
    fn at_the_start_conversations_stand_anywhere_as_later() {
        let mean = |turns: &[(f64, Turn)]| {
            turns.iter().map(|(_, turn)| f64::from(turn.prompt_tokens)).sum::<f64>() / turns.len() as f64
        };
        let talk = Talk { live: 2_000, think_s: 0.0, ..Talk::default() };
        let turns = turns(&talk, 30_000);
        // The number of the turn is one of 1 to 8 for a mean of 3.33: 512 + 100 * 3.33 + 50 * 2.33 tokens.
        let (early, late) = (mean(&turns[..2_000]), mean(&turns[28_000..]));
        assert!((early / late - 1.0).abs() < 0.03 && (early / 962.0 - 1.0).abs() < 0.03, "{early} {late}");
    }
}
