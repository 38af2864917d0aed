//! Who competes: this project's binary under each policy, and other proxies under theirs.

use crate::peer::Kind;
use crate::scenario::Scenario;

/// A proxy under one policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    /// As the proxy's configuration calls it.
    pub(crate) policy: &'static str,
    /// Whether it is told each node's true capacity as its weight.
    pub(crate) weighted: bool,
}

const fn of(kind: Kind, policy: &'static str) -> Contender {
    Contender { kind, policy, weighted: false }
}

/// Everybody, in the order of the table.
pub(crate) const ALL: [Contender; 20] = [
    of(Kind::Bellwether, "adaptive"),
    of(Kind::Bellwether, "least-connections"),
    Contender { weighted: true, ..of(Kind::Bellwether, "least-connections") },
    of(Kind::Bellwether, "power-of-two"),
    of(Kind::Bellwether, "peak-ewma"),
    of(Kind::Bellwether, "peak-ewma-scan"),
    of(Kind::Bellwether, "round-robin"),
    of(Kind::Bellwether, "session-hash"),
    of(Kind::Nginx, "round_robin"),
    of(Kind::Nginx, "least_conn"),
    of(Kind::Nginx, "random-two"),
    of(Kind::Haproxy, "leastconn"),
    of(Kind::Haproxy, "random-2"),
    of(Kind::Envoy, "least_request"),
    of(Kind::Traefik, "p2c"),
    of(Kind::Traefik, "leasttime"),
    of(Kind::Pingora, "round_robin"),
    of(Kind::SglangRouter, "power_of_two"),
    of(Kind::SglangRouter, "cache_aware"),
    of(Kind::Litellm, "latency-based"),
];

impl Contender {
    /// `proxy/policy`, unique.
    pub(crate) fn name(&self) -> String {
        let weighted = if self.weighted { "weighted-" } else { "" };
        format!("{}/{weighted}{}", self.kind.name(), self.policy)
    }

    /// Those whose name contains one of `words`; all without words.
    pub(crate) fn select(words: &[String]) -> Vec<Contender> {
        let wanted = |one: &Contender| words.is_empty() || words.iter().any(|word| one.name().contains(word.as_str()));
        ALL.into_iter().filter(wanted).collect()
    }

    /// Whether it is there for conversations.
    fn goes_by_prompts(&self) -> bool {
        matches!(self.policy, "session-hash" | "cache_aware")
    }

    /// Why it cannot take part in a scenario; `None` if it can.
    pub(crate) fn absent(&self, scenario: &Scenario) -> Option<String> {
        if self.kind.only_openai() && !scenario.is_openai() {
            return Some(format!("{} passes on endpoints of the OpenAI API only", self.kind));
        }
        if self.goes_by_prompts() && !scenario.has_conversations() {
            return Some(format!("{} goes by what repeats in prompts", self.policy));
        }
        if self.kind.program().is_none() {
            return Some(format!("{} is not installed: {}", self.kind, self.kind.install()));
        }
        None
    }
}
