//! Turns in proportion to the weights, spread evenly: 5, 1, 1 gives a a b a c a a.
//!
//! The order is nginx's smooth weighted round robin, but computed once per view of the fleet instead of updated under
//! a lock at every request: a decision takes the next turn of a precomputed [`Cycle`] with one atomic step. Turns of
//! nodes that are no candidates are passed over, which leaves the order, and so the proportions, of the others as
//! they are. Whoever first sees a changed fleet computes its cycle; who comes meanwhile does not wait but draws by
//! weight. Requests for different models have positions of their own: with one for all, an unlucky rhythm of two models
//! would always skip the same nodes.

mod cycle;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use crate::node::name_hash;
use crate::policy::{Context, Policy};
use cycle::Cycle;

/// Positions for requests that name different models; two models that share one still get their weights, roughly.
const LANES: usize = 64;

/// Smooth weighted round robin.
#[derive(Debug)]
pub(super) struct WeightedRoundRobin {
    cycle: ArcSwapOption<Cycle>,
    /// Somebody computes a cycle.
    computing: AtomicBool,
    positions: [AtomicU64; LANES],
}

impl Default for WeightedRoundRobin {
    fn default() -> Self {
        WeightedRoundRobin {
            cycle: ArcSwapOption::empty(),
            computing: AtomicBool::new(false),
            positions: [const { AtomicU64::new(0) }; LANES],
        }
    }
}

impl WeightedRoundRobin {
    /// Where the turns of this request's model stand.
    fn position(&self, ctx: &Context<'_>) -> &AtomicU64 {
        let model = ctx.shape.model.as_deref().filter(|_| ctx.fleet.lists_models());
        let lane = model.map_or(0, |model| name_hash(model) as usize % LANES);
        &self.positions[lane]
    }

    /// The candidate whose turn it is by `cycle`.
    fn take_turn(&self, cycle: &Cycle, ctx: &Context<'_>) -> usize {
        let next = |position: u64| cycle.next((position % cycle.len() as u64) as usize, ctx);
        // Two decisions at the same moment must not get the same turn.
        let position = self
            .position(ctx)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |position| Some(next(position).turn as u64 + 1))
            .unwrap_or_else(|position| position);
        next(position).candidate
    }

    /// The same without taking it.
    fn see_turn(&self, cycle: &Cycle, ctx: &Context<'_>) -> usize {
        let position = self.position(ctx).load(Ordering::Relaxed);
        cycle.next((position % cycle.len() as u64) as usize, ctx).candidate
    }

    fn compute(&self, ctx: &Context<'_>) {
        if self.computing.swap(true, Ordering::Acquire) {
            return;
        }
        self.cycle.store(Some(std::sync::Arc::new(Cycle::of(ctx.fleet))));
        self.computing.store(false, Ordering::Release);
    }

    fn weigh_by(&self, ctx: &Context<'_>, out: &mut [f64], turn: fn(&Self, &Cycle, &Context<'_>) -> usize) {
        let fits = |cycle: &&std::sync::Arc<Cycle>| cycle.is_of(ctx.fleet);
        let mut cycle = self.cycle.load();
        if cycle.as_ref().filter(fits).is_none() {
            self.compute(ctx);
            cycle = self.cycle.load();
        }
        match cycle.as_ref().filter(fits) {
            Some(cycle) => out[turn(self, cycle, ctx)] = 1.0,
            None => {
                for (out, candidate) in out.iter_mut().zip(ctx.candidates) {
                    *out = candidate.weight;
                }
            }
        }
    }
}

impl Policy for WeightedRoundRobin {
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        self.weigh_by(ctx, out, WeightedRoundRobin::take_turn);
    }

    fn peek(&self, ctx: &Context<'_>, out: &mut [f64]) {
        self.weigh_by(ctx, out, WeightedRoundRobin::see_turn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests_support::Scene;
    use proptest::prelude::*;

    fn scene(weights: &[f64]) -> Scene {
        let scene = Scene::new(weights.len() as u32);
        weights.iter().enumerate().fold(scene, |scene, (at, weight)| scene.weight(at, *weight))
    }

    fn turns(policy: &WeightedRoundRobin, scene: &Scene, count: usize) -> Vec<usize> {
        (0..count).map(|_| scene.sure(policy)).collect()
    }

    #[test]
    fn the_order_is_smooth() {
        let policy = WeightedRoundRobin::default();
        assert_eq!(turns(&policy, &scene(&[5.0, 1.0, 1.0]), 14), [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn a_changed_weight_counts_from_the_next_turn_on() {
        let policy = WeightedRoundRobin::default();
        let before = scene(&[1.0, 1.0]);
        turns(&policy, &before, 3);
        let after = turns(&policy, &before.weight(1, 3.0), 8);
        assert_eq!(after.iter().filter(|index| **index == 1).count(), 6);
    }

    #[test]
    fn models_do_not_push_each_other_past_their_nodes() {
        let mut scene = scene(&[1.0, 1.0, 1.0, 1.0]);
        for (index, model) in ["ours", "ours", "theirs", "theirs"].into_iter().enumerate() {
            let spec = crate::node::NodeSpec { models: vec![model.into()], ..scene.spec(index) };
            scene.fleet = scene.fleet.with_changed(spec).expect("known");
        }
        let (mut ours, mut theirs) = (scene.without(2).without(3), scene.without(0).without(1));
        (ours.shape.model, theirs.shape.model) = (Some("ours".into()), Some("theirs".into()));
        let policy = WeightedRoundRobin::default();
        let mut counts = [0; 4];
        for _ in 0..10 {
            counts[ours.sure(&policy)] += 1;
            counts[theirs.sure(&policy)] += 1;
        }
        assert_eq!(counts, [5, 5, 5, 5]);
    }

    #[test]
    fn while_another_computes_the_cycle_the_weights_are_drawn_from() {
        let policy = WeightedRoundRobin::default();
        policy.computing.store(true, Ordering::Relaxed);
        assert_eq!(scene(&[3.0, 1.0]).weigh(&policy), [0.75, 0.25]);
        policy.computing.store(false, Ordering::Relaxed);
        assert_eq!(scene(&[3.0, 1.0]).weigh(&policy), [1.0, 0.0]);
    }

    #[test]
    fn threads_share_the_turns_exactly() {
        let scene = scene(&[5.0, 2.0, 1.0]);
        let policy = WeightedRoundRobin::default();
        scene.sure(&policy);
        let counts = [const { AtomicU64::new(0) }; 3];
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        counts[scene.sure(&policy)].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(counts.map(AtomicU64::into_inner), [5_000, 2_000, 1_000]);
    }

    #[test]
    fn a_peek_sees_the_next_turn_and_takes_none() {
        let (policy, scene) = (WeightedRoundRobin::default(), scene(&[2.0, 1.0]));
        for _ in 0..6 {
            let mut seen = [0.0; 2];
            policy.peek(&scene.context(), &mut seen);
            policy.peek(&scene.context(), &mut [0.0; 2]);
            assert_eq!(seen[scene.sure(&policy)], 1.0);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn nodes_that_are_left_out_do_not_change_the_proportions_of_the_others(
            weights in prop::collection::vec(1u32..20, 2..8), gone in 0usize..8, start in 0usize..40,
        ) {
            let gone = gone % weights.len();
            let all = scene(&weights.iter().map(|weight| f64::from(*weight)).collect::<Vec<_>>());
            let policy = WeightedRoundRobin::default();
            turns(&policy, &all, start);
            let left = all.without(gone as u32);
            let round: u32 = weights.iter().sum::<u32>() - weights[gone];
            let taken = turns(&policy, &left, 3 * round as usize);
            // In lowest terms a round may be shorter, so three rounds of these weights are whole rounds of the cycle.
            for (index, weight) in weights.iter().enumerate().filter(|(index, _)| *index != gone) {
                let count = taken.iter().filter(|turn| **turn == index).count();
                prop_assert_eq!(count, 3 * *weight as usize);
            }
        }
    }
}
