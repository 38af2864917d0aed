//! What repeats in the prompts of a scenario: the caches of its servers, and conversations.

use serde::Deserialize;

use super::ScenarioError;
use super::file::bad;
use crate::sim::conversations::Talk;

/// The prefix cache of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    /// Tokens that it holds.
    pub tokens: u64,
    /// Whether answers tell how many tokens of their prompt were cached.
    pub told: bool,
}

/// `[cache]`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCache {
    tokens: u64,
    #[serde(default)]
    told: bool,
}

impl RawCache {
    pub(super) fn check(self) -> Result<CacheSpec, ScenarioError> {
        match self.tokens {
            1..=1_000_000_000 => Ok(CacheSpec { tokens: self.tokens, told: self.told }),
            tokens => bad("cache.tokens", tokens, "from 1 to 1,000,000,000; without [cache] there is none"),
        }
    }
}

/// `[conversations]`; what is not given is as in the study.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTalk {
    live: u32,
    turns: u32,
    think_s: f64,
    system_tokens: u32,
    systems: u32,
    context_tokens: u32,
}

impl Default for RawTalk {
    fn default() -> RawTalk {
        let Talk { live, turns_max, think_s, system_tokens, systems, context_tokens } = Talk::default();
        RawTalk { live, turns: turns_max, think_s, system_tokens, systems, context_tokens }
    }
}

impl RawTalk {
    pub(super) fn check(self) -> Result<Talk, ScenarioError> {
        let within = |key: &str, value: u32, least: u32, most: u32| {
            let allowed = || format!("from {least} to {most}");
            if (least..=most).contains(&value) { Ok(value) } else { bad(key, value, allowed()) }
        };
        if !(0.0..=86_400.0).contains(&self.think_s) {
            return bad("conversations.think_s", self.think_s, "from 0 to 86,400");
        }
        Ok(Talk {
            live: within("conversations.live", self.live, 1, 100_000)?,
            turns_max: within("conversations.turns", self.turns, 1, 1_000)?,
            think_s: self.think_s,
            system_tokens: within("conversations.system_tokens", self.system_tokens, 0, 100_000)?,
            systems: within("conversations.systems", self.systems, 1, 100_000)?,
            context_tokens: within("conversations.context_tokens", self.context_tokens, 1, 10_000_000)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scenario::Scenario;

    const SOUND: &str = "about = 'x'\nfleet = 'middle'\nloads = [0.5]\nseconds = 10\n";

    #[test]
    fn caches_and_conversations_are_read_and_what_is_not_told_is_the_study() {
        let text = format!("{SOUND}[cache]\ntokens = 1000\ntold = true\n[conversations]\nlive = 10\n");
        let scenario = Scenario::parse("test", &text).expect("sound");
        assert_eq!(scenario.cache, Some(CacheSpec { tokens: 1_000, told: true }));
        assert_eq!(scenario.talk, Some(Talk { live: 10, ..Talk::default() }));
        let none = Scenario::parse("test", SOUND).expect("sound");
        assert_eq!((none.cache, none.talk), (None, None));
    }

    #[test]
    fn impossible_caches_and_conversations_are_refused() {
        let refusal = |more: &str| Scenario::parse("test", &format!("{SOUND}{more}")).expect_err("refused").to_string();
        assert!(refusal("[cache]\ntokens = 0").contains("1,000,000,000"));
        assert!(refusal("[conversations]\nlive = 0").contains("100000"));
        assert!(refusal("[conversations]\nthink_s = -1").contains("86,400"));
        let plain = SOUND.replace("middle", "plain") + "[cache]\ntokens = 9";
        assert!(Scenario::parse("test", &plain).expect_err("refused").to_string().contains("plain servers"));
    }
}
