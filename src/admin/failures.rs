//! Wrong tokens, counted per client: after ten in a row there is one try every six seconds.
//!
//! Who is over that is refused before the token is looked at, a right one too: otherwise guessing would go on at full
//! speed behind the refusals. So somebody who guesses from an operator's own address can keep him out for as long as he
//! guesses; the socket in the file system is the way in then. Requests without a token are no guesses and cost nothing.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::door::Peer;
use crate::address::household;
use crate::admission::{Quota, RateRules, RateTable};
use crate::clock::Time;

/// Wrong tokens of one client: a person mistypes a few times, and ten a minute guess no token of 16 characters.
const QUOTA: Quota = Quota { amount: 10, window: Duration::from_secs(60) };

/// The clients that are remembered are as many as a large site has operators; guessing from more addresses makes the
/// oldest forgotten, and each gets its ten.
const RULES: RateRules = RateRules { requests: None, tokens: Some(QUOTA), keys_max: 4_096 };

/// Who has failed to show a right token.
#[derive(Debug, Default)]
pub(super) struct Failures {
    table: RateTable,
    hash: RandomState,
}

impl Failures {
    /// How long the client must wait until it may try a token.
    pub(super) fn wait(&self, now: Time, peer: Option<Peer>) -> Option<Duration> {
        // To ask costs nothing.
        let standing = self.table.check(now, self.key(peer), &RULES, 0).standings[1]?;
        let one = QUOTA.window / QUOTA.amount as u32;
        (standing.remaining == 0).then(|| (standing.reset + one).saturating_sub(QUOTA.window))
    }

    /// It has tried a wrong one.
    pub(super) fn count(&self, now: Time, peer: Option<Peer>) {
        self.table.check(now, self.key(peer), &RULES, 1);
    }

    fn key(&self, peer: Option<Peer>) -> u64 {
        match peer {
            Some(Peer::Address(address)) => self.hash.hash_one(("address", household(address.ip()))),
            Some(Peer::User(uid)) => self.hash.hash_one(("user", uid)),
            None => self.hash.hash_one("nobody"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_wrong_tokens_are_free_and_then_one_every_six_seconds() {
        let failures = Failures::default();
        let peer = |text: &str| Some(Peer::Address(text.parse().expect("an address")));
        let (guesser, other) = (peer("192.0.2.1:1"), peer("192.0.2.2:1"));
        let at = Time::from_secs_f64;
        for _ in 0..10 {
            assert_eq!(failures.wait(at(1.0), guesser), None);
            failures.count(at(1.0), guesser);
        }
        assert_eq!(failures.wait(at(1.0), guesser), Some(Duration::from_secs(6)));
        assert_eq!(
            failures.wait(at(1.0), peer("192.0.2.1:9")),
            Some(Duration::from_secs(6)),
            "another port is nobody new"
        );
        assert_eq!(failures.wait(at(1.0), other), None);
        assert_eq!(failures.wait(at(5.0), guesser), Some(Duration::from_secs(2)));
        assert_eq!(failures.wait(at(7.0), guesser), None);
        failures.count(at(7.0), guesser);
        assert_eq!(failures.wait(at(7.0), guesser), Some(Duration::from_secs(6)));
    }
}
