//! What is measured: a fleet of emulated servers, the requests, and what goes wrong meanwhile.
//!
//! The fleets run at real speed and with few slots, because emulators, load and proxy share one machine: ten times faster
//! they would measure its scheduler. Everything random comes from the seed of a run and nothing from a proxy, so runs of
//! different proxies are paired. Times of events are shares of the run, so a short run has the same story.

use std::time::Duration;

use bellwether::emulator::Fault;
use bellwether::load::{Ask, Bursts};
use bellwether::sim::conversations::Talk;
use bellwether::sim::random::{self, standard_normal};
use bellwether::sim::workload::stream;
use bellwether::sim::{Lognormal, SimFleet};

use crate::config::Terms;

/// Conversations that live at a time, and the tokens that a node remembers: as many for each conversation as in the
/// simulator's scenarios.
const LIVE: u32 = 120;
const CACHE_TOKENS: u64 = 120_000;

/// Slots at most of a language model node, so that a run of a minute fills them.
const SLOTS_MAX: u32 = 48;
/// How often the speed of an antagonised node changes.
const WANDER_EVERY: Duration = Duration::from_secs(2);
/// How much of a node's logarithmic slowness stays from one change to the next, and how far it spreads in the long run:
/// two thirds of the time a node is between 1.65 times faster and 1.65 times slower than described.
const WANDER_MEMORY: f64 = 0.9;
const WANDER_SPREAD: f64 = 0.5;
/// No node becomes more than so many times slower or faster.
const WANDER_MAX: f64 = 3.0;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Trouble {
    Nothing,
    /// `node` is that many times slower for the middle third.
    Degrades {
        node: &'static str,
        factor: f64,
    },
    /// Every node's speed wanders by itself, as under antagonists (Prequal's word for neighbours on the machine).
    Antagonists,
    /// One node answers 500 at once, later another stands still.
    Faults {
        fails: &'static str,
        /// Whether the failing node fails its health checks, too; the one that stands still does not.
        seen: bool,
        hangs: &'static str,
    },
}

/// A scenario.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    fleet: &'static str,
    /// Mean load over the sum of the nodes' capacities.
    pub(crate) load: f64,
    pub(crate) bursts: Option<Bursts>,
    pub(crate) trouble: Trouble,
    /// What clients ask for.
    asks: Asks,
    /// What proxies are told of checks, timeouts and repeats.
    pub(crate) terms: Terms,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Asks {
    /// Streamed chat completions with the study's lengths.
    Chat,
    /// The same as turns of conversations, before nodes with prefix caches.
    Talk,
    /// Plain POSTs to `/api/work`.
    Plain,
    /// Short chat completions in one piece, which cost a node next to nothing: what remains is the proxy.
    Short,
}

const LLM: Scenario = Scenario {
    name: "llm-mixed",
    about: "8 language model servers of three hardware classes, streamed, 55 % load",
    fleet: "study",
    load: 0.55,
    bursts: None,
    trouble: Trouble::Nothing,
    asks: Asks::Chat,
    terms: Terms::PATIENT,
};

/// All scenarios; the last measures what a request costs a proxy and is no comparison of response times.
pub(crate) fn all() -> Vec<Scenario> {
    let bursts = Bursts { every: Duration::from_secs(15), length: Duration::from_secs(3), factor: 4.0 };
    let faults = Scenario {
        name: "faults",
        about: "the nodes of plain-mixed, 200 requests/s; of 75 s, one answers 500 at once for 20 s, to checks too, later \
                another stands still for 15 s; 5 s for an answer, checks each second, nobody sends a request again",
        fleet: "plain",
        load: FAULTS_LOAD,
        trouble: Trouble::Faults { fails: "speed2-1", seen: true, hangs: "speed4-2" },
        asks: Asks::Plain,
        terms: Terms::STRICT,
        ..LLM
    };
    let unseen = Scenario {
        name: "faults-unseen",
        about: "faults, but the failing node passes its checks",
        trouble: Trouble::Faults { fails: "speed2-1", seen: false, hangs: "speed4-2" },
        ..faults.clone()
    };
    vec![
        LLM,
        Scenario {
            name: "plain-mixed",
            about: "8 plain servers of speeds 1, 1, 1, 1, 2, 2, 4, 4, four workers each, 40 % load",
            fleet: "plain",
            load: 0.4,
            asks: Asks::Plain,
            ..LLM
        },
        Scenario {
            name: "llm-degrades",
            about: "llm-mixed at 50 % load; a fast node is five times slower in the middle third",
            load: 0.5,
            trouble: Trouble::Degrades { node: "fast-1", factor: 5.0 },
            ..LLM
        },
        Scenario {
            name: "antagonists",
            about: "llm-mixed at 50 % load; the speed of every node wanders",
            load: 0.5,
            trouble: Trouble::Antagonists,
            ..LLM
        },
        Scenario {
            name: "llm-faults",
            about: "llm-mixed at 40 % load; of 75 s, a middle node answers 500 at once for 20 s, later a fast one stands still \
                    for 15 s; nobody sends a request again",
            load: 0.4,
            trouble: Trouble::Faults { fails: "middle-1", seen: false, hangs: "fast-2" },
            ..LLM
        },
        faults,
        unseen.clone(),
        Scenario {
            name: "failover",
            about: "faults-unseen, but what got no answer or 5xx may be sent again twice, POST too",
            terms: Terms::AGAIN,
            ..unseen
        },
        Scenario {
            name: "bursts",
            about: "llm-mixed at 45 % load in the mean; every 15 s a burst of 3 s at four times the rate between",
            load: 0.45,
            bursts: Some(bursts),
            ..LLM
        },
        Scenario {
            name: "conversations",
            about: "llm-mixed at 30 % load: 120 live conversations, nodes that remember 120,000 tokens of prompts each",
            load: 0.3,
            asks: Asks::Talk,
            ..LLM
        },
        Scenario {
            name: "llm-light",
            about: "llm-mixed at 5 % load, for routers of a few requests a second",
            load: 0.05,
            ..LLM
        },
        Scenario {
            name: "cost",
            about: "100 short chat completions a second in one piece, which cost the nodes next to nothing",
            fleet: "plain-equal",
            load: 0.0,
            asks: Asks::Short,
            ..LLM
        },
    ]
}

/// Of the plain fleet's 640 requests a second, 200.
const FAULTS_LOAD: f64 = 200.0 / 640.0;
/// Requests per second of the scenario `cost`.
const COST_RPS: f64 = 100.0;

impl Scenario {
    pub(crate) fn named(name: &str) -> Option<Scenario> {
        all().into_iter().find(|scenario| scenario.name == name)
    }

    /// The nodes.
    pub(crate) fn fleet(&self) -> SimFleet {
        let fleet = SimFleet::named(self.fleet).unwrap_or_default().with_slots_at_most(SLOTS_MAX);
        // Work of 100 ms becomes one of 0.1 ms.
        if self.is_cost() { fleet.faster(1_000.0) } else { fleet }
    }

    /// Whether it is there for what a request costs.
    pub(crate) fn is_cost(&self) -> bool {
        self.asks == Asks::Short
    }

    /// Whether requests go to endpoints of the OpenAI API.
    pub(crate) fn is_openai(&self) -> bool {
        self.asks != Asks::Plain
    }

    pub(crate) fn ask(&self) -> Ask {
        let exactly = |tokens: f64| Lognormal { mean: tokens, sigma: 0.0, min: tokens, max: tokens };
        match self.asks {
            Asks::Chat => Ask::study(true),
            Asks::Talk => Ask::Talk {
                talk: Talk { live: LIVE, ..Talk::default() },
                questions: random::PROMPT_TOKENS,
                answers: random::OUTPUT_TOKENS,
            },
            Asks::Plain => Ask::Plain { path: "/api/work".to_owned(), work_s: random::PLAIN_WORK_S },
            Asks::Short => Ask::Chat { stream: false, prompts: exactly(60.0), outputs: exactly(12.0) },
        }
    }

    /// Whether prompts repeat what was said before.
    pub(crate) fn has_conversations(&self) -> bool {
        self.asks == Asks::Talk
    }

    /// Tokens of prompts that each node remembers.
    pub(crate) fn cache_tokens(&self) -> Option<u64> {
        self.has_conversations().then_some(CACHE_TOKENS)
    }

    /// Requests per second in the mean.
    pub(crate) fn rate_rps(&self) -> f64 {
        if self.is_cost() { COST_RPS } else { self.load * self.fleet().capacity_rps() }
    }

    /// What happens to which node (an index into the fleet) when, in order of time.
    pub(crate) fn incidents(&self, run: Duration, seed: u64) -> Vec<Incident> {
        let fleet = self.fleet();
        let index = |name: &str| fleet.nodes.iter().position(|node| node.name == name).unwrap_or(0);
        let at = |share: f64, node: &str, fault| Incident { at: run.mul_f64(share), node: index(node), fault };
        match self.trouble {
            Trouble::Nothing => Vec::new(),
            Trouble::Degrades { node, factor } => {
                vec![at(1.0 / 3.0, node, Fault::Slow { factor }), at(2.0 / 3.0, node, Fault::None)]
            }
            Trouble::Faults { fails, seen, hangs } => vec![
                at(
                    15.0 / 75.0,
                    fails,
                    if seen { Fault::EngineDead } else { Fault::Status { status: 500, retry_after_s: None } },
                ),
                at(35.0 / 75.0, fails, Fault::None),
                at(45.0 / 75.0, hangs, Fault::Hang),
                at(60.0 / 75.0, hangs, Fault::None),
            ],
            Trouble::Antagonists => wander(fleet.nodes.len(), run, seed),
        }
    }
}

/// A change of one node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Incident {
    /// After the start of the load.
    pub(crate) at: Duration,
    pub(crate) node: usize,
    pub(crate) fault: Fault,
}

/// Every node's logarithmic slowness is an autoregressive process of its own, in its steady state from the start.
fn wander(nodes: usize, run: Duration, seed: u64) -> Vec<Incident> {
    let mut rng = stream(seed, "antagonists");
    let mut slowness: Vec<f64> = (0..nodes).map(|_| WANDER_SPREAD * standard_normal(&mut rng)).collect();
    let fresh = WANDER_SPREAD * (1.0 - WANDER_MEMORY * WANDER_MEMORY).sqrt();
    let mut incidents = Vec::new();
    let mut at = Duration::ZERO;
    while at < run {
        for (node, slowness) in slowness.iter_mut().enumerate() {
            let factor = slowness.exp().clamp(1.0 / WANDER_MAX, WANDER_MAX);
            incidents.push(Incident { at, node, fault: Fault::Slow { factor } });
            *slowness = WANDER_MEMORY * *slowness + fresh * standard_normal(&mut rng);
        }
        at += WANDER_EVERY;
    }
    incidents
}
