//! Why there is no node for a request, and when to come back.
//!
//! Worked out only after the list of candidates came out empty: the search for a node stays free of book-keeping, and
//! the reason may look at the fleet anew, which is a moment later. It says what would have to change for the request to
//! be served: a configuration (no nodes, an unknown model), a node's health, or just some time.

use std::time::Duration;

use crate::clock::Time;
use crate::fleet::Fleet;
use crate::node::NodeId;
use crate::request::RequestShape;

/// How long a refused client should wait when nobody knows better.
pub(super) const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// Why there is no node for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The fleet is empty.
    NoNodes,
    /// No node serves the model that the request names.
    UnknownModel,
    /// Every node that could serve it is down, draining or ejected.
    NoHealthyNode,
    /// Every healthy node is at its limit or said that it is full.
    AllFull,
    /// Every node that could serve it has been tried.
    AllTried,
    /// As many wait for a node as may.
    QueueFull,
    /// By the rate at which the queue moves, it would wait longer than it has time.
    QueueTooLong,
    /// It waited as long as it had time.
    QueueTimeout,
}

impl Reason {
    /// Every reason, for series that exist from the start.
    pub const ALL: [Reason; 8] = [
        Reason::NoNodes,
        Reason::UnknownModel,
        Reason::NoHealthyNode,
        Reason::AllFull,
        Reason::AllTried,
        Reason::QueueFull,
        Reason::QueueTooLong,
        Reason::QueueTimeout,
    ];

    /// A short word for logs and metrics labels.
    pub fn word(self) -> &'static str {
        match self {
            Reason::NoNodes => "no_nodes",
            Reason::UnknownModel => "unknown_model",
            Reason::NoHealthyNode => "no_healthy_node",
            Reason::AllFull => "all_full",
            Reason::AllTried => "all_tried",
            Reason::QueueFull => "queue_full",
            Reason::QueueTooLong => "queue_too_long",
            Reason::QueueTimeout => "queue_timeout",
        }
    }
}

/// A refusal: a value that knows when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// When to come back, where coming back can help.
    pub retry_after: Option<Duration>,
}

/// The most telling reason for an empty list of candidates.
pub(super) fn why_none(fleet: &Fleet, now: Time, shape: &RequestShape, tried: &[NodeId]) -> Rejection {
    let refuse = |reason, retry_after| Rejection { reason, retry_after };
    if fleet.nodes().is_empty() {
        return refuse(Reason::NoNodes, Some(RETRY_AFTER_DEFAULT));
    }
    let serving = || fleet.nodes().iter().filter(|node| node.spec.serves(shape.model.as_deref()));
    if serving().next().is_none() {
        return refuse(Reason::UnknownModel, None);
    }
    let healthy = || serving().filter(|node| node.live.health.state(now).is_serving());
    if healthy().next().is_none() {
        return refuse(Reason::NoHealthyNode, Some(RETRY_AFTER_DEFAULT));
    }
    if healthy().all(|node| tried.contains(&node.id)) {
        return refuse(Reason::AllTried, Some(RETRY_AFTER_DEFAULT));
    }
    let soonest = healthy().map(|node| node.live.health.full_until().since(now)).min();
    refuse(Reason::AllFull, Some(soonest.unwrap_or_default().max(RETRY_AFTER_DEFAULT)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fleet::Thresholds;
    use crate::node::NodeSpec;
    use crate::outcome::Outcome;

    const ONCE: Thresholds = Thresholds { unhealthy_after: 1, healthy_after: 1 };

    /// Two nodes that serve `llama`, with room for one attempt each.
    fn fleet() -> Fleet {
        ["a", "b"].into_iter().fold(Fleet::default(), |fleet, name| {
            let spec = NodeSpec::new(format!("http://{name}"));
            fleet.with(NodeSpec { models: vec!["llama".into()], max_in_flight: Some(1), ..spec }).expect("free name")
        })
    }

    fn asking(model: Option<&str>) -> RequestShape {
        RequestShape { model: model.map(Arc::from), ..RequestShape::default() }
    }

    fn refused(fleet: &Fleet, tried: &[NodeId]) -> (Reason, Option<Duration>) {
        let rejection = why_none(fleet, Time::from_secs_f64(10.0), &asking(Some("llama")), tried);
        (rejection.reason, rejection.retry_after)
    }

    fn say_full(fleet: &Fleet, index: usize, seconds: u64) {
        let full = Outcome::Full { status: 429, retry_after: Some(Duration::from_secs(seconds)) };
        fleet.nodes()[index].live.health.observe(&full, Time::from_secs_f64(10.0), ONCE);
    }

    #[test]
    fn an_empty_fleet_has_no_nodes() {
        assert_eq!(refused(&Fleet::default(), &[]), (Reason::NoNodes, Some(RETRY_AFTER_DEFAULT)));
    }

    #[test]
    fn a_model_that_nobody_serves_is_unknown_and_waiting_does_not_help() {
        let rejection = why_none(&fleet(), Time::ZERO, &asking(Some("gpt-9")), &[]);
        assert_eq!(rejection, Rejection { reason: Reason::UnknownModel, retry_after: None });
        assert_ne!(why_none(&fleet(), Time::ZERO, &asking(None), &[]).reason, Reason::UnknownModel);
    }

    #[test]
    fn nodes_that_are_down_or_draining_are_not_healthy_even_if_tried() {
        let fleet = fleet();
        fleet.nodes()[0].live.health.checked(false, ONCE);
        fleet.nodes()[1].live.health.set_draining(true);
        let expected = (Reason::NoHealthyNode, Some(RETRY_AFTER_DEFAULT));
        assert_eq!(refused(&fleet, &[]), expected);
        assert_eq!(refused(&fleet, &[fleet.nodes()[0].id]), expected);
    }

    #[test]
    fn when_every_healthy_node_was_tried_all_are_tried() {
        let fleet = fleet();
        let both = [fleet.nodes()[0].id, fleet.nodes()[1].id];
        assert_eq!(refused(&fleet, &both).0, Reason::AllTried);
        fleet.nodes()[1].live.health.checked(false, ONCE);
        assert_eq!(refused(&fleet, &both[..1]).0, Reason::AllTried);
    }

    #[test]
    fn when_all_are_full_the_soonest_says_when_to_come_back() {
        let fleet = fleet();
        say_full(&fleet, 0, 30);
        say_full(&fleet, 1, 7);
        assert_eq!(refused(&fleet, &[]), (Reason::AllFull, Some(Duration::from_secs(7))));
    }

    #[test]
    fn a_node_at_its_limit_may_have_room_at_any_time() {
        let fleet = fleet();
        say_full(&fleet, 0, 30);
        fleet.nodes()[1].live.ledger.try_start(Time::ZERO, 1, 0).expect("room");
        assert_eq!(refused(&fleet, &[]), (Reason::AllFull, Some(RETRY_AFTER_DEFAULT)));
    }

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        let mut words = Reason::ALL.map(Reason::word).to_vec();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
