//! Keeping room at a node for a request that is too large to find it free.
//!
//! Where tokens in flight are limited, whoever is small fits into every gap, and under a steady stream of the small one
//! large request would wait for ever: the queue serves those who fit, and nothing is saved up for who does not. So once
//! the first in turn has been passed over for [`HOLD_AFTER`], smaller ones find no room at one node, the one that lacks
//! least, until the large one has started there or has left. One node, as the others should go on working; and not at
//! once, as an answer that ends now may free enough.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::admission::{Position, Queue};
use crate::balancer::Balancer;
use crate::balancer::waiting::{Waiter, lock};
use crate::clock::Time;
use crate::fleet::{Fleet, Node, State};

/// How long the first in turn is passed over before room is kept for it: well below the time after which the newest go
/// first, and the oldest have no turn.
const HOLD_AFTER: Duration = Duration::from_secs(2);

/// Room that is kept.
#[derive(Debug)]
pub(super) struct Hold {
    /// For whom.
    position: Position,
    node: Arc<Node>,
}

impl Balancer {
    /// Decides for whom room is kept now, after nobody was found who fits.
    pub(super) fn keep_room(&self, now: Time, fleet: &Fleet, queue: &Queue<Arc<Waiter>>) {
        let waiting = &self.waiting;
        if !fleet.limits_tokens() && waiting.held_tokens.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut held = lock(&waiting.held);
        let before = held.take();
        for (position, entry) in queue.fronts().filter(|(_, entry)| now.since(entry.since) >= HOLD_AFTER) {
            let waiter = &entry.item;
            let suits = |node: &Arc<Node>| {
                let may = node.live.health.state(now) == State::Up && node.live.ledger.in_flight() < node.limit();
                may && node.limits_tokens
                    && node.spec.serves(waiter.shape.model.as_deref())
                    && !waiter.tried.contains(&node.id)
            };
            let same = before.as_ref().filter(|hold| hold.position == position).map(|hold| &hold.node);
            let kept = same.filter(|node| fleet.nodes().iter().any(|known| known.id == node.id) && suits(node));
            let roomiest = || fleet.nodes().iter().filter(|node| suits(node)).min_by_key(|node| lacks(node));
            if let Some(node) = kept.or_else(roomiest) {
                *held = Some(Hold { position, node: Arc::clone(node) });
                waiting.held_tokens.store(self.expected_tokens(fleet, &waiter.shape), Ordering::Relaxed);
                break;
            }
        }
        if let Some(before) = before {
            before.node.live.ledger.keep_for(0);
        }
        match held.as_ref() {
            Some(hold) => hold.node.live.ledger.keep_for(waiting.held_tokens.load(Ordering::Relaxed)),
            None => waiting.held_tokens.store(0, Ordering::Relaxed),
        }
    }

    /// Keeps no room any more: nobody waits.
    pub(super) fn give_room(&self) {
        if self.waiting.held_tokens.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut held = lock(&self.waiting.held);
        if let Some(hold) = held.take() {
            hold.node.live.ledger.keep_for(0);
        }
        self.waiting.held_tokens.store(0, Ordering::Relaxed);
    }
}

/// How far a node is from having all its room, in tokens.
fn lacks(node: &Node) -> u64 {
    let limit = node.spec.max_in_flight_tokens.unwrap_or(u64::MAX);
    u64::MAX - limit.saturating_sub(node.live.ledger.tokens())
}
