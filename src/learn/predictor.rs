//! The learned response-time function: immutable, total, allocation-free.
//!
//! A [`Predictor`] is what one fit published: coefficients per node slot and target. Decisions read it through one
//! `ArcSwap` and multiply in the fast corrector, which moves between fits. Every answer is finite and not negative
//! whatever goes in, because a decision must be made; what cannot be predicted for want of evidence is answered with
//! the number in flight, which makes the policy behave as least-connections there.

use crate::clock::Time;
use crate::learn::capacity::Capacity;
use crate::learn::expect::Expectations;
use crate::learn::features::{self, PROMPT_UNIT, Row, TARGETS, Target, dot};
use crate::learn::lane::{Lane, Lanes, LanesOf, bounded};
use crate::learn::reuse::Chances;
use crate::node::NodeId;
use crate::outcome::Extent;
use crate::request::KindId;

/// The longest time that is ever predicted, in seconds: eleven days.
pub const PREDICTION_MAX_S: f64 = 1e6;

/// Correctors of a node, by target.
pub type Factors = [f64; TARGETS];

/// What is asked for: a request reduced to the regressors that are its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// Prompt, in thousands of tokens.
    pub prompt: f64,
    /// Expected output: events if streamed, else tokens.
    pub output: f64,
    /// Which model answers for it.
    pub how: How,
    /// Proxies whose streams its prompt delays; 1 for this one alone.
    pub proxies: f64,
}

/// Which model answers for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// First byte and gaps.
    Streamed,
    /// Total, with output tokens.
    Tokens,
    /// Total.
    Plain,
    /// None has evidence.
    Unknown,
}

impl How {
    /// The target that most of such an answer's time is a matter of; `None` where nothing answers for it.
    pub fn target(self) -> Option<Target> {
        match self {
            How::Streamed => Some(Target::Gap),
            How::Tokens => Some(Target::TotalTokens),
            How::Plain => Some(Target::Total),
            How::Unknown => None,
        }
    }
}

/// A node's load as a decision sees it, without the new request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NodeLoad {
    /// In flight.
    pub in_flight: f64,
    /// Of those, without a first byte.
    pub waiting: f64,
    /// Prompts of those, in thousands of tokens.
    pub waiting_prompt: f64,
}

impl NodeLoad {
    /// From the counts of a ledger.
    pub fn new(in_flight: u32, waiting: u32, waiting_prompt_tokens: u64) -> NodeLoad {
        NodeLoad {
            in_flight: f64::from(in_flight),
            waiting: f64::from(waiting.min(in_flight)),
            waiting_prompt: waiting_prompt_tokens as f64 / PROMPT_UNIT,
        }
    }
}

/// What is predicted for a request on a node, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prediction {
    /// First byte; the total where the answer is not streamed.
    pub first_byte_s: f64,
    /// Between events; 0 where not streamed.
    pub gap_s: f64,
    /// Response time.
    pub total_s: f64,
    /// What it adds to the response times of those in flight there, together.
    pub marginal_s: f64,
    /// What it adds to the first bytes of those waiting there, together.
    pub marginal_first_byte_s: f64,
}

/// What was learned of one node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeModel {
    /// Whose this is.
    pub id: NodeId,
    /// Coefficients by target.
    pub beta: [Row; TARGETS],
    /// Speed factors by target; below 1 is faster than the fleet.
    pub speed: [f64; TARGETS],
    /// Learned slot limit; infinite while unknown.
    pub slots: f64,
    /// Sample weight by target.
    pub evidence: [f64; TARGETS],
    /// Level of evidence, for exploration.
    pub level: u8,
    /// What it can do.
    pub capacity: Capacity,
    /// Whether what it was sent is still in its cache.
    pub chances: Chances,
    /// Whether its responses tell what was cached.
    pub tells: bool,
}

/// What one fit published.
#[derive(Clone, Debug)]
pub struct Predictor {
    /// Grows with every one published; from 1.
    pub version: u32,
    /// When it was made.
    pub made: Time,
    /// Whether the fleet has evidence of a target.
    pub has: [bool; TARGETS],
    /// The fleet's curve, for nodes that are not known.
    pub fleet: NodeModel,
    /// By slot.
    pub nodes: Vec<Option<NodeModel>>,
    /// Expected outputs.
    pub expectations: Expectations,
    /// The fleet's mean observation by target, in seconds.
    pub means: [f64; TARGETS],
    /// The same once more, as decisions read it.
    pub(super) lanes: Lanes,
}

impl Predictor {
    /// What is known of the node with that slot and id: the fleet's curve where it is not known.
    #[inline]
    pub fn node(&self, slot: u32, id: NodeId) -> &NodeModel {
        self.known(slot, id).unwrap_or(&self.fleet)
    }

    /// What is known of that node itself.
    #[inline]
    pub fn known(&self, slot: u32, id: NodeId) -> Option<&NodeModel> {
        self.nodes.get(slot as usize)?.as_ref().filter(|model| model.id == id)
    }

    /// What decisions read of the nodes for answers of that kind.
    #[inline]
    pub fn lanes(&self, how: How) -> LanesOf<'_> {
        self.lanes.answering(how)
    }

    /// The chance that what the node of that slot used so long ago is still in its cache.
    #[inline]
    pub fn chance(&self, slot: u32, extent: Extent) -> f32 {
        let model = self.nodes.get(slot as usize).and_then(Option::as_ref).unwrap_or(&self.fleet);
        model.chances.of(extent)
    }

    /// Reduces a request to its regressors, with the output that is expected of its kind.
    pub fn ask(&self, kind: KindId, streaming: bool, prompt_tokens: u32, output_max: Option<u32>) -> Ask {
        let expect = self.expectations.of(kind);
        let how = self.how(streaming, expect.tells_tokens());
        let output = if how == How::Streamed { expect.events(output_max) } else { expect.tokens(output_max) };
        Ask { prompt: f64::from(prompt_tokens) / PROMPT_UNIT, output, how, proxies: 1.0 }
    }

    /// The request that is typical now.
    pub fn typical(&self) -> Ask {
        let expect = self.expectations.overall();
        let how = self.how(expect.streams(), expect.tells_tokens());
        let output = if how == How::Streamed { expect.events(None) } else { expect.tokens(None) };
        Ask { prompt: expect.prompt_tokens() / PROMPT_UNIT, output, how, proxies: 1.0 }
    }

    fn how(&self, streaming: bool, tells_tokens: bool) -> How {
        how(&self.has, streaming, tells_tokens)
    }
}

/// The model that answers for a request, among those that have evidence.
pub(super) fn how(has: &[bool; TARGETS], streaming: bool, tells_tokens: bool) -> How {
    let [plain, tokens, first_byte, _] = *has;
    match () {
        () if streaming && first_byte => How::Streamed,
        () if tells_tokens && tokens => How::Tokens,
        () if plain => How::Plain,
        () if tokens => How::Tokens,
        () => How::Unknown,
    }
}

impl NodeModel {
    /// A node of which nothing is known, on this curve.
    pub(super) fn unknown(id: NodeId, beta: [Row; TARGETS]) -> NodeModel {
        NodeModel {
            id,
            beta,
            speed: [1.0; TARGETS],
            slots: f64::INFINITY,
            evidence: [0.0; TARGETS],
            level: 0,
            capacity: Capacity::default(),
            chances: Chances::default(),
            tells: false,
        }
    }

    /// Whether anything was learned of the node itself; if not, this is the fleet's curve under its name.
    pub fn is_known(&self) -> bool {
        self.evidence.iter().any(|weight| *weight > 0.0)
    }

    /// What a token that it holds of a prompt is worth: the share of a token's cost that it spares, 0..=1. Where nodes do
    /// not tell what they hold, that is part of the [chances](Self::chances), which are then learned from times.
    pub fn worth(&self) -> f64 {
        if self.tells { features::worth(&self.beta[Target::FirstByte.index()]) } else { 1.0 }
    }

    /// What `ask` would take on this node under `load`, and what it would cost the others there.
    #[inline]
    pub fn predict(&self, factors: &Factors, load: &NodeLoad, ask: &Ask) -> Prediction {
        Lane::of(self, ask.how).predict(factors, load, ask)
    }

    /// Seconds that one more request like `ask` in flight, and for a first byte waiting, adds to `target` under `load`.
    pub fn slope_s(&self, target: Target, factors: &Factors, load: &NodeLoad, ask: &Ask) -> f64 {
        let waits = target == Target::FirstByte;
        let more = NodeLoad {
            in_flight: load.in_flight + 1.0,
            waiting: load.waiting + f64::from(u8::from(waits)),
            waiting_prompt: load.waiting_prompt + if waits { ask.prompt } else { 0.0 },
        };
        let of = |load: &NodeLoad| match target {
            Target::Total => self.predict(factors, load, &Ask { how: How::Plain, ..*ask }).total_s,
            Target::TotalTokens => self.predict(factors, load, &Ask { how: How::Tokens, ..*ask }).total_s,
            Target::FirstByte => self.predict(factors, load, &Ask { how: How::Streamed, ..*ask }).first_byte_s,
            Target::Gap => self.predict(factors, load, &Ask { how: How::Streamed, ..*ask }).gap_s,
        };
        of(&more) - of(load)
    }

    /// The expected time between signs of life of a busy node.
    pub fn sign_interval_s(&self, has: &[bool; TARGETS], factors: &Factors, load: &NodeLoad) -> f64 {
        let index = Target::FirstByte.index();
        let waiting_s = if has[index] {
            let row = features::first_byte(0.0, load.waiting_prompt, 0.0, 0.0);
            factors[index] * dot(&self.beta[index], &row)
        } else {
            0.0
        };
        if load.waiting < load.in_flight && has[Target::Gap.index()] {
            // A step may also work on the prompts that wait; a tenth, as the patience is ten intervals.
            let gap = &self.beta[Target::Gap.index()];
            let gap_s = factors[Target::Gap.index()] * (gap[0] + gap[1] * load.in_flight);
            return bounded(gap_s + waiting_s / 10.0);
        }
        let of_total = |target: Target, row: Row| {
            if has[target.index()] { factors[target.index()] * dot(&self.beta[target.index()], &row) } else { 0.0 }
        };
        let n = load.in_flight.max(1.0);
        let output = features::total_tokens(n, load.waiting_prompt / n, 1.0);
        let total_s = of_total(Target::Total, features::total(n)).max(of_total(Target::TotalTokens, output));
        bounded(waiting_s.max(total_s / n))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    const NEUTRAL: Factors = [1.0; TARGETS];

    pub(crate) fn model(beta: [Row; TARGETS]) -> NodeModel {
        NodeModel::unknown(NodeId(0), beta)
    }

    fn ask(how: How) -> Ask {
        Ask { prompt: 1.1, output: 210.0, how, proxies: 1.0 }
    }

    fn load(m: u32, q: u32) -> NodeLoad {
        NodeLoad::new(m, q, u64::from(q) * 1_000)
    }

    #[test]
    fn the_formulas_are_those_of_the_design() {
        let mut beta = [[0.0; 6]; TARGETS];
        beta[Target::FirstByte.index()] = [0.1, 0.4, 0.3, 0.5, 0.0, 0.0];
        beta[Target::Gap.index()] = [0.02, 0.001, 0.0, 0.0, 0.0, 0.0];
        let node = NodeModel { slots: 8.0, ..model(beta) };
        let p = node.predict(&NEUTRAL, &load(10, 2), &ask(How::Streamed));
        let h = 3.0;
        assert!((p.first_byte_s - (0.1 + 0.4 * 1.1 + 0.3 * 2.0 + 0.5 * h)).abs() < 1e-12);
        assert!((p.total_s - (p.first_byte_s + 210.0 * (0.02 + 0.001 * 11.0))).abs() < 1e-12);
        let first_byte = 2.0 * 0.4 * 1.1 + 0.5 * 3.0;
        let slope_s = |target| node.slope_s(target, &NEUTRAL, &load(10, 2), &ask(How::Streamed));
        assert!((slope_s(Target::FirstByte) - (0.3 * 1.1 + 0.5)).abs() < 1e-12);
        assert!((slope_s(Target::Gap) - 0.001).abs() < 1e-12);
        assert!((p.marginal_first_byte_s - first_byte).abs() < 1e-12);
        assert!((p.marginal_s - (8.0 * (0.001 * 210.0 + 0.4 * 1.1) + first_byte)).abs() < 1e-12);
        let of_three = Ask { proxies: 3.0, ..ask(How::Streamed) };
        let p = node.predict(&NEUTRAL, &load(10, 2), &of_three);
        assert!((p.marginal_s - (8.0 * (0.001 * 210.0 + 3.0 * 0.4 * 1.1) + first_byte)).abs() < 1e-12);
    }

    #[test]
    fn plain_requests_pay_for_the_slowdown_of_the_others() {
        let mut beta = [[0.0; 6]; TARGETS];
        beta[Target::Total.index()] = [0.1, 0.0, 0.0, 0.05, 0.0, 0.0];
        let p = model(beta).predict(&NEUTRAL, &load(6, 6), &ask(How::Plain));
        assert!((p.total_s - (0.1 + 0.05 * 3.0)).abs() < 1e-12);
        assert!((p.marginal_s - 6.0 * 0.05).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn predictions_are_finite_and_not_negative_whatever_goes_in(
            beta in prop::array::uniform4(prop::array::uniform6(prop::num::f64::ANY)),
            factors in prop::array::uniform4(prop::num::f64::ANY),
            slots in prop::num::f64::ANY, prompt in prop::num::f64::ANY, output in prop::num::f64::ANY,
            m in 0u32..60_000, q in 0u32..60_000, waiting in any::<u64>(),
        ) {
            let node = NodeModel { slots, ..model(beta) };
            let load = NodeLoad::new(m, q, waiting);
            for how in [How::Streamed, How::Tokens, How::Plain, How::Unknown] {
                let p = node.predict(&factors, &load, &Ask { prompt, output, how, proxies: 1.0 });
                for x in [p.first_byte_s, p.gap_s, p.total_s, p.marginal_s, p.marginal_first_byte_s] {
                    prop_assert!(x.is_finite() && x >= 0.0, "{how:?} {p:?}");
                }
            }
            let interval = node.sign_interval_s(&[true; TARGETS], &factors, &load);
            prop_assert!(interval.is_finite() && interval >= 0.0);
        }

        #[test]
        fn more_load_never_predicts_faster(
            beta in prop::array::uniform4(prop::array::uniform6(0.0f64..2.0)),
            slots in 1.0f64..64.0, m in 0u32..300, more in 0u32..300, q in 0u32..20,
        ) {
            let node = NodeModel { slots, ..model(beta) };
            for how in [How::Streamed, How::Tokens, How::Plain, How::Unknown] {
                let light = node.predict(&NEUTRAL, &load(m + q, q), &ask(how));
                let heavy = node.predict(&NEUTRAL, &load(m + q + more, q), &ask(how));
                prop_assert!(heavy.total_s >= light.total_s);
                prop_assert!(heavy.total_s + heavy.marginal_s >= light.total_s + light.marginal_s - 1e-9);
            }
        }
    }
}
