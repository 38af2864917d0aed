//! What nodes are expected to hold of a prompt, and what they are told of by being sent one.
//!
//! A prompt is remembered when it is sent and not when it is answered: of two requests that begin alike and come at
//! once, the second is right to follow the first, as the node reads their common part only once. What ends without a
//! first byte has left nothing there, and is taken back.

use std::sync::Arc;

use crate::balancer::Balancer;
use crate::clock::Time;
use crate::fleet::{Fleet, Node};
use crate::outcome::{Recall, Sample};
use crate::policy::Candidate;
use crate::prefix::{Found, Memory, Use};
use crate::request::RequestShape;

impl Balancer {
    /// Bounds the memory of prompts. One of another size starts empty.
    pub fn set_prefix_bytes_max(&self, bytes_max: usize) {
        if self.prefixes.load().bytes_max() != bytes_max {
            self.prefixes.store(Arc::new(Memory::new(bytes_max)));
        }
    }

    /// The memory of prompts.
    pub fn prefixes(&self) -> Arc<Memory> {
        self.prefixes.load_full()
    }

    /// Finds what each node was sent of the prompt.
    #[inline]
    pub(super) fn recall(&self, shape: &RequestShape, now: Time, found: &mut Found) {
        if shape.prefix.blocks().is_empty() {
            found.clear();
        } else {
            self.look(shape, now, found);
        }
    }

    #[inline(never)]
    fn look(&self, shape: &RequestShape, now: Time, found: &mut Found) {
        self.prefixes.load().look(&shape.prefix, now, found, |_, _| 1.0);
    }

    /// The prompt is sent to `node`, which had so many blocks of it.
    pub(super) fn remember(
        &self,
        node: &Node,
        shape: &RequestShape,
        now: Time,
        had: u32,
        recall: &Recall,
    ) -> Option<Use> {
        let uncached = recall.uncached(shape.prompt_tokens) as f32;
        let known = !shape.prefix.blocks().is_empty();
        known.then(|| self.prefixes.load().remember(node, &shape.prefix, now, had, uncached)).flatten()
    }

    /// What was remembered of an attempt, now that it has ended.
    pub(super) fn remember_end(&self, sample: &Sample, node: &Node, used: &Use, now: Time) {
        let prefixes = self.prefixes.load();
        match sample.ttfb {
            None => prefixes.take_back(node, used),
            Some(_) => prefixes.answered(node, sample.output_tokens.unwrap_or(sample.events) as f32, now),
        }
    }
}

/// Tells the candidates what was found.
#[inline]
pub(super) fn note_recall(fleet: &Fleet, shape: &RequestShape, found: &Found, candidates: &mut [Candidate]) {
    if found.is_empty() {
        return;
    }
    let most = shape.prompt_tokens as f32;
    for candidate in candidates {
        let recall = found.at(fleet.nodes()[candidate.index as usize].slot).recall;
        candidate.matched = recall.matched_tokens.min(most);
        candidate.cached = recall.held_tokens.min(candidate.matched);
    }
}
