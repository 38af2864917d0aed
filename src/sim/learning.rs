//! What the trainer's thread does in production, called in virtual time: drain samples, read gaps, refit.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use crate::balancer::{Balancer, Observer};
use crate::clock::Time;
use crate::fleet::Node;
use crate::learn::{LOOK_EVERY, Method, REFIT_EVERY, Teacher};
use crate::outcome::Sample;
use crate::sim::ablation::{self, Without};
use crate::sim::roster::Hook;

/// Samples between two drains at most, as the production queue is bounded.
const QUEUE_MAX: usize = 65_536;

/// The queue between the balancer and the learner.
#[derive(Debug, Default)]
pub(super) struct Samples(Mutex<Vec<Sample>>);

impl Observer for Samples {
    fn finished(&self, _node: &Node, sample: &Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() < QUEUE_MAX {
            samples.push(*sample);
        }
    }
}

/// The hooks that teach `balancer` from `samples`, leaving out a part where a comparison wants that.
pub(super) fn hooks(balancer: &Arc<Balancer>, samples: Arc<Samples>, without: Option<Without>) -> Vec<Hook> {
    let method = without.map_or_else(Method::default, Without::method);
    let teacher = Rc::new(RefCell::new(Teacher::new(Arc::clone(balancer.learned())).by(method)));
    let (gathering, refitting) = (Rc::clone(&teacher), teacher);
    let balancer = Arc::clone(balancer);
    let gather = move |now: Time| {
        let mut teacher = gathering.borrow_mut();
        let drained = std::mem::take(&mut *samples.0.lock().unwrap_or_else(PoisonError::into_inner));
        let fleet = balancer.fleet();
        for sample in &drained {
            let told = without.map_or(*sample, |without| without.tell(sample));
            // The learner counts what it refuses.
            let _ = teacher.observe(now, &told);
        }
        if without.is_some_and(Without::tells_gaps_late) {
            drained.iter().for_each(|sample| ablation::tell_gaps(teacher.learner_mut(), now, &fleet, sample));
            teacher.learner_mut().retain(&fleet);
        } else {
            teacher.look(now, &fleet);
        }
        if let Some(without) = without {
            without.undo(balancer.learned(), &fleet, now);
        }
    };
    let refit = move |now: Time| {
        refitting.borrow_mut().learner_mut().refit(now);
    };
    vec![Hook { every: LOOK_EVERY, call: Box::new(gather) }, Hook { every: REFIT_EVERY, call: Box::new(refit) }]
}
