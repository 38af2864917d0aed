//! Always the same node for a conversation, by weighted [rendezvous](super::rendezvous) hashing of what names it.
//!
//! What names it is configured (`session_key`: a header, a cookie or a field of the body), so that nothing has to be known of
//! prompts and caches. A request without such a name goes by least connections: all of them together on one node, as an
//! empty key would have it, would be worse than no affinity at all. It does not bound the load of a node: conversations
//! stay where they are, however slow it gets. `adaptive` weighs that.

use crate::policy::least_connections::LeastConnections;
use crate::policy::{Context, Policy, rendezvous};

/// Weighted rendezvous hashing of a conversation's name, least connections without one.
#[derive(Debug)]
pub(super) struct SessionHash;

impl Policy for SessionHash {
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        match ctx.shape.session_hash {
            Some(session) => rendezvous::weigh(ctx, session, out),
            None => LeastConnections.weigh(ctx, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests_support::Scene;

    #[test]
    fn a_conversation_stays_where_it_is_whatever_the_load_and_conversations_spread() {
        let mut idle = Scene::new(5);
        let mut busy = Scene::new(5).load(0, 50).load(3, 7);
        let mut seen = [0; 5];
        for session in 0..1_000 {
            idle.shape.session_hash = Some(session);
            busy.shape.session_hash = Some(session);
            // The client's address has no say.
            busy.shape.client_hash = session;
            let home = idle.sure(&SessionHash);
            assert_eq!(busy.sure(&SessionHash), home);
            seen[home] += 1;
        }
        assert!(seen.iter().all(|count| (140..260).contains(count)), "{seen:?}");
    }

    #[test]
    fn what_names_no_conversation_goes_where_there_is_least_to_do() {
        let scene = Scene::new(3).load(0, 4).load(1, 2).load(2, 3);
        assert_eq!(scene.sure(&SessionHash), 1);
    }
}
