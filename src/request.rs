//! What the core knows of a request: its [`RequestShape`].
//!
//! The shell reads a bounded part of a request and reduces it to these few numbers, once. Everything behind it, from
//! the policies to the regressions, sees only the shape: no headers, no text. That keeps the core pure, keeps
//! prompts out of it for privacy, and lets a simulated request be exactly as real as one from a socket.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

/// A route and a model together: requests of one kind are expected to be alike. Index into a [`Kinds`] table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KindId(pub u16);

/// How many kinds are told apart; all further ones share [`KindId::OTHER`].
///
/// A label in metrics and a row in the learned state exist per kind, and model names come from clients: without a
/// bound a client could fill the memory with invented names.
pub const KINDS_MAX: usize = 256;

/// What people read for [`KindId::OTHER`]; also the route of requests to an API that is not known.
const OTHER: &str = "other";

impl KindId {
    /// The kind of everything that is not told apart.
    pub const OTHER: KindId = KindId(0);
}

/// What the core knows of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestShape {
    /// Route and model.
    pub kind: KindId,
    /// The model it names, if any; selects among nodes that list their models.
    pub model: Option<Arc<str>>,
    /// Whether the answer is asked for as a stream of events.
    pub streaming: bool,
    /// Estimated prompt tokens (0 where the request has no known prompt).
    pub prompt_tokens: u32,
    /// The client's limit on output tokens, if it gave one.
    pub output_tokens_max: Option<u32>,
    /// Size of the request body in bytes, where known.
    pub body_bytes: Option<u64>,
    /// A hash of the client's address, for affinity.
    pub client_hash: u64,
    /// A hash of what names the conversation, where the request tells it; the policy `session-hash` goes by it.
    pub session_hash: Option<u64>,
    /// What the prompt begins with; empty where it is not known.
    pub prefix: Prefix,
}

impl Default for RequestShape {
    fn default() -> Self {
        RequestShape {
            kind: KindId::OTHER,
            model: None,
            streaming: false,
            prompt_tokens: 0,
            output_tokens_max: None,
            body_bytes: None,
            client_hash: 0,
            session_hash: None,
            prefix: Prefix::default(),
        }
    }
}

/// The beginnings of a prompt, as one keyed hash for each: the first block, the first two, and so on.
///
/// Two prompts share their first `k` blocks exactly if their first `k` hashes agree, so one look-up for each block finds
/// how much of a prompt a node has seen, whatever it was part of. The model (and adapter) is part of every hash. Only
/// hashes are kept: a prompt can not be read from them, and without the key not even guessed and confirmed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prefix {
    blocks: Option<Arc<[u64]>>,
    tokens_per_block: f32,
}

impl Prefix {
    /// Of cumulative hashes, first block first, of blocks that hold `tokens_per_block` tokens each (above 0).
    pub fn new(blocks: impl Into<Arc<[u64]>>, tokens_per_block: f32) -> Prefix {
        let blocks = blocks.into();
        Prefix { blocks: (!blocks.is_empty()).then_some(blocks), tokens_per_block }
    }

    /// The cumulative hashes, first block first.
    pub fn blocks(&self) -> &[u64] {
        self.blocks.as_deref().unwrap_or_default()
    }

    /// Tokens in one block: estimated from bytes, or exact in a trace. 0 where there are no blocks.
    pub fn tokens_per_block(&self) -> f32 {
        if self.blocks.is_some() { self.tokens_per_block } else { 0.0 }
    }
}

/// The table of kinds: (route, model) to a small number, bounded by [`KINDS_MAX`].
///
/// Lookups read an immutable map; a new kind copies it under a mutex, which happens at most [`KINDS_MAX`] times in
/// the life of a process.
#[derive(Debug)]
pub struct Kinds {
    known: ArcSwap<KindTable>,
    growing: Mutex<()>,
}

/// Names come from clients, but there are few of them: a seeded hash is enough, and a cryptographic one costs more than
/// the rest of the look-up.
type ByName<T> = HashMap<String, T, foldhash::fast::RandomState>;

#[derive(Clone, Debug, Default)]
struct KindTable {
    /// route -> model (empty for none) -> kind
    ids: ByName<ByName<KindId>>,
    names: Vec<(String, String)>,
}

impl Default for Kinds {
    fn default() -> Self {
        // What has no route and names no model is not told apart either; and a saved state finds this kind again.
        let other = (OTHER.to_owned(), ByName::from_iter([(String::new(), KindId::OTHER)]));
        let table = KindTable { ids: ByName::from_iter([other]), names: vec![(OTHER.to_owned(), String::new())] };
        Kinds { known: ArcSwap::from_pointee(table), growing: Mutex::new(()) }
    }
}

impl Kinds {
    /// The kind of requests for `model` on `route`, made on first sight while there is room.
    pub fn of(&self, route: &str, model: Option<&str>) -> KindId {
        let model = model.unwrap_or_default();
        let known = self.known.load();
        let found = known.ids.get(route).and_then(|models| models.get(model));
        match found {
            Some(kind) => *kind,
            None if known.names.len() >= KINDS_MAX => KindId::OTHER,
            None => self.add(route, model),
        }
    }

    /// The kind of requests for `model` on `route`, without making one.
    pub fn find(&self, route: &str, model: Option<&str>) -> KindId {
        let known = self.known.load();
        let found = known.ids.get(route).and_then(|models| models.get(model.unwrap_or_default()));
        found.copied().unwrap_or(KindId::OTHER)
    }

    fn add(&self, route: &str, model: &str) -> KindId {
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = KindTable::clone(&self.known.load());
        if let Some(kind) = table.ids.get(route).and_then(|models| models.get(model)) {
            return *kind;
        }
        if table.names.len() >= KINDS_MAX {
            return KindId::OTHER;
        }
        let kind = KindId(table.names.len() as u16);
        table.names.push((route.to_owned(), model.to_owned()));
        table.ids.entry(route.to_owned()).or_default().insert(model.to_owned(), kind);
        self.known.store(Arc::new(table));
        kind
    }

    /// `route` or `route model`, for people; `other` for what is not told apart.
    pub fn name(&self, kind: KindId) -> String {
        match self.known.load().names.get(usize::from(kind.0)) {
            Some((route, model)) if model.is_empty() => route.clone(),
            Some((route, model)) => format!("{route} {model}"),
            None => OTHER.to_owned(),
        }
    }

    /// Route and model, which is empty for none; `other` for what is not told apart.
    pub fn parts(&self, kind: KindId) -> (String, String) {
        let known = self.known.load();
        known.names.get(usize::from(kind.0)).or(known.names.first()).cloned().unwrap_or_default()
    }

    /// How many kinds exist, `other` included.
    pub fn len(&self) -> usize {
        self.known.load().names.len()
    }

    /// Never: `other` always exists.
    pub fn is_empty(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_bounded_whatever_clients_invent() {
        let kinds = Kinds::default();
        let first = kinds.of("chat", Some("llama"));
        assert_ne!(first, KindId::OTHER);
        for i in 0..10_000 {
            kinds.of("chat", Some(&format!("invented-{i}")));
        }
        assert_eq!(kinds.len(), KINDS_MAX);
        assert_eq!(kinds.of("chat", Some("one more")), KindId::OTHER);
        assert_eq!(kinds.of("chat", Some("llama")), first);
        assert_eq!(kinds.find("chat", Some("llama")), first);
        assert_eq!(kinds.find("chat", Some("qwen")), KindId::OTHER);
        assert_eq!(kinds.name(first), "chat llama");
        assert_eq!(kinds.parts(first), ("chat".to_owned(), "llama".to_owned()));
        assert_eq!(kinds.name(KindId::OTHER), "other");
        let (route, model) = kinds.parts(KindId::OTHER);
        assert_eq!((kinds.find(&route, Some(&model)), kinds.of(&route, Some(&model))), (KindId::OTHER, KindId::OTHER));
        assert_eq!(Kinds::default().of(&route, Some(&model)), KindId::OTHER, "a saved state comes back to its place");
    }
}
