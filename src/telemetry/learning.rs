//! The series of learning: what is predicted, how well, by what evidence, and who learns.
//!
//! All of it is computed when somebody scrapes, from the predictor in force and the ledgers as they are then. What is
//! not known is `NaN`, as Prometheus has it, and not 0: a node of which nothing is known does not answer in no time.

use std::fmt::Write;
use std::sync::Arc;

use super::histogram::escaped;
use super::series::*;
use crate::balancer::Balancer;
use crate::clock::Time;
use crate::fleet::{Fleet, Node};
use crate::learn::capacity::Capacity;
use crate::learn::{Fallback, FitResult, How, NodeLoad, NodeModel, Predictor, Target, Unfit};
use crate::trainer::Trainer;

/// The text being written: one family after the other.
struct Page(String);

impl Page {
    /// Begins a family.
    fn family(&mut self, name: &str, kind: &str) {
        // Writing into a string cannot fail.
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
    }

    /// One sample; `labels` with their braces, or empty.
    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    /// A family of one sample without labels.
    fn single(&mut self, name: &str, kind: &str, value: f64) {
        self.family(name, kind);
        self.sample(name, "", value);
    }

    /// A family with one sample per word.
    fn words<'a>(&mut self, name: &str, kind: &str, label: &str, samples: impl IntoIterator<Item = (&'a str, f64)>) {
        self.family(name, kind);
        for (word, value) in samples {
            self.sample(name, &format!("{{{label}=\"{word}\"}}"), value);
        }
    }

    /// A family with one gauge per node.
    fn nodes(&mut self, name: &str, views: &[View<'_>], value: impl Fn(&View<'_>) -> f64) {
        self.family(name, "gauge");
        for view in views {
            self.sample(name, &format!("{{node=\"{}\"}}", view.label), value(view));
        }
    }
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// A node with what is known of it.
struct View<'a> {
    node: &'a Node,
    label: String,
    /// The fleet's curve where nothing is known of the node itself.
    model: Option<&'a NodeModel>,
    load: NodeLoad,
    factors: [f64; Target::ALL.len()],
}

impl<'a> View<'a> {
    fn of(node: &'a Arc<Node>, predictor: Option<&'a Predictor>, balancer: &Balancer) -> View<'a> {
        let ledger = &node.live.ledger;
        View {
            node,
            label: escaped(&node.spec.name),
            model: predictor.map(|predictor| predictor.node(node.slot, node.id)),
            load: NodeLoad::new(ledger.in_flight(), ledger.waiting(), ledger.waiting_prompt_tokens()),
            factors: balancer.learned().node(node).factors(),
        }
    }

    fn capacity_rps(&self) -> f64 {
        self.model.map_or(0.0, |model| model.capacity.rps)
    }
}

/// All series of learning.
pub(super) fn render(now: Time, fleet: &Fleet, balancer: &Balancer, trainer: &Trainer) -> String {
    let mut page = Page(String::new());
    let predictor = balancer.learned().predictor();
    let views: Vec<View<'_>> =
        fleet.nodes().iter().map(|node| View::of(node, predictor.as_deref(), balancer)).collect();
    predictions(&mut page, predictor.as_deref(), &views);
    let in_service = predictor.as_deref().map(|predictor| Capacity::in_service(predictor, fleet.nodes(), now));
    capacities(&mut page, now, in_service.unwrap_or_default(), &views, trainer);
    decisions(&mut page, balancer);
    fits(&mut page, trainer);
    page.words(FALLBACK_ACTIVE, GAUGE, "reason", {
        let active = balancer.learned().fallback(now);
        Fallback::ALL.map(|reason| (reason.word(), flag(active == Some(reason))))
    });
    let age_s = predictor.as_ref().map_or(f64::NAN, |predictor| now.seconds_since(predictor.made));
    page.single(MODEL_AGE, GAUGE, age_s);
    page.single(MODEL_VERSION, GAUGE, predictor.as_ref().map_or(0.0, |predictor| f64::from(predictor.version)));
    page.single(TRAINER_UP, GAUGE, flag(trainer.is_up()));
    page.single(TRAINER_RESTARTS, COUNTER, trainer.restarts() as f64);
    page.single(RECORDS_LOST, COUNTER, trainer.recorder().map_or(0.0, |recorder| recorder.lost() as f64));
    page.single(SAMPLES_DROPPED, COUNTER, trainer.samples_dropped() as f64);
    let (saved, failed) = trainer.saves();
    page.words(MODEL_SAVES, COUNTER, "result", [("success", saved as f64), ("failure", failed as f64)]);
    page.0
}

fn predictions(page: &mut Page, predictor: Option<&Predictor>, views: &[View<'_>]) {
    let typical = predictor.map(Predictor::typical);
    page.nodes(PREDICTED_SECONDS, views, |view| match (view.model, &typical) {
        (Some(model), Some(ask)) if ask.how != How::Unknown => model.predict(&view.factors, &view.load, ask).total_s,
        _ => f64::NAN,
    });
    let governing = typical.and_then(|ask| ask.how.target());
    page.nodes(MODEL_SPEED, views, |view| {
        view.model.zip(governing).map_or(f64::NAN, |(model, target)| model.speed[target.index()])
    });
    page.nodes(MODEL_SAMPLES, views, |view| {
        view.model.map_or(0.0, |model| Target::ANSWERS.iter().map(|target| model.evidence[target.index()]).sum())
    });
    page.family(MODEL_SLOPE, GAUGE);
    for view in views {
        for target in Target::ALL {
            let known = predictor.filter(|predictor| predictor.has[target.index()]);
            let slope_s = known
                .zip(view.model)
                .zip(typical)
                .map_or(f64::NAN, |((_, model), ask)| model.slope_s(target, &view.factors, &view.load, &ask));
            page.sample(MODEL_SLOPE, &format!("{{node=\"{}\",target=\"{}\"}}", view.label, target.word()), slope_s);
        }
    }
}

fn capacities(page: &mut Page, now: Time, in_service: Capacity, views: &[View<'_>], trainer: &Trainer) {
    let total_rps = in_service.rps;
    let share = |part: f64| if total_rps > 0.0 { part / total_rps } else { f64::NAN };
    let status = trainer.status();
    let known = |value: f64| if value > 0.0 { value } else { f64::NAN };
    page.nodes(NODE_CAPACITY, views, |view| known(view.capacity_rps()));
    page.nodes(NODE_CAPACITY_BOUND, views, |view| flag(view.model.is_none_or(|model| model.capacity.is_lower_bound)));
    page.nodes(NODE_SHARE, views, |view| status.pace.share(view.node.slot, view.node.id));
    page.nodes(NODE_FAIR_SHARE, views, |view| {
        if view.node.live.health.state(now).bears_load() { share(view.capacity_rps()) } else { f64::NAN }
    });
    page.single(FLEET_UTILIZATION, GAUGE, share(status.pace.per_s(now)));
}

fn decisions(page: &mut Page, balancer: &Balancer) {
    page.single(EXPLORATIONS, COUNTER, balancer.tally().explorations() as f64);
    let compared = balancer.tally().comparisons();
    let agreement = [("true", compared.agreed as f64), ("false", compared.differed as f64)];
    page.words(SHADOW_DECISIONS, COUNTER, "agree", agreement);
    let response = [("routed", compared.chosen.response_s), ("adaptive", compared.own.response_s)];
    page.words(SHADOW_RESPONSE, COUNTER, "choice", response);
    let added = [("routed", compared.chosen.added_s), ("adaptive", compared.own.added_s)];
    page.words(SHADOW_ADDED, COUNTER, "choice", added);
}

fn fits(page: &mut Page, trainer: &Trainer) {
    let status = trainer.status();
    let counts = &status.counts;
    let of = |result: FitResult| counts.fits.iter().map(|target| target[result as usize]).sum::<u64>() as f64;
    page.words(MODEL_FITS, COUNTER, "result", FitResult::ALL.map(|result| (result.word(), of(result))));
    page.single(LABELS, COUNTER, counts.labels as f64);
    let unfit = Unfit::ALL.map(|why| (why.word(), counts.unfit[why as usize] as f64));
    page.words(SAMPLES_UNFIT, COUNTER, "reason", unfit);
    let errors = [("model", status.model_error), ("baseline", status.baseline_error)];
    page.words(MODEL_ERROR, GAUGE, "of", errors.map(|(of, error)| (of, error.unwrap_or(f64::NAN))));
}
