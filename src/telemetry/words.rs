//! Counters by a word from a small set that the caller knows: why it retried, why it refused.
//!
//! The words are `&'static str`, so a client cannot invent one, and the bound is there for the day when somebody
//! leaks a string. Looking one up reads an immutable list; a new word copies it under a mutex.

use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwap;
use metrics::Counter;

use super::series::Registry;

/// Words with a counter of their own; all further ones share `other`.
const WORDS_MAX: usize = 64;

/// Counters of one name, by one label.
pub(super) struct Words {
    name: &'static str,
    label: &'static str,
    known: ArcSwap<Vec<(&'static str, Counter)>>,
    growing: Mutex<()>,
}

impl Words {
    /// Counters for `known` words, which exist from the start.
    pub(super) fn new(registry: &Registry, name: &'static str, label: &'static str, known: &[&'static str]) -> Words {
        let known = known.iter().map(|word| (*word, registry.counter_with(name, label, *word))).collect();
        Words { name, label, known: ArcSwap::from_pointee(known), growing: Mutex::new(()) }
    }

    /// Further words that exist from now on.
    pub(super) fn expect(&self, registry: &Registry, words: impl IntoIterator<Item = &'static str>) {
        for word in words {
            self.add(registry, word).increment(0);
        }
    }

    /// Counts one.
    pub(super) fn count(&self, registry: &Registry, word: &'static str) {
        let known = self.known.load();
        match known.iter().find(|(have, _)| *have == word) {
            Some((_, counter)) => counter.increment(1),
            None => self.add(registry, word).increment(1),
        }
    }

    fn add(&self, registry: &Registry, word: &'static str) -> Counter {
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = Vec::clone(&self.known.load());
        let word = if known.len() < WORDS_MAX { word } else { "other" };
        let counter = registry.counter_with(self.name, self.label, word);
        if known.len() <= WORDS_MAX && !known.iter().any(|(have, _)| *have == word) {
            known.push((word, counter.clone()));
            self.known.store(std::sync::Arc::new(known));
        }
        counter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_from_zero_and_bounded() {
        let registry = Registry::new(None);
        let words = Words::new(&registry, "bellwether_refused_total", "reason", &["early"]);
        assert!(registry.render().contains("bellwether_refused_total{reason=\"early\"} 0"));
        words.count(&registry, "late");
        words.count(&registry, "late");
        for i in 0..100 {
            words.count(&registry, Box::leak(format!("leaked-{i}").into_boxed_str()));
        }
        let text = registry.render();
        assert!(text.contains("bellwether_refused_total{reason=\"late\"} 2"), "{text}");
        assert!(text.contains("bellwether_refused_total{reason=\"other\"} 38"), "{text}");
        assert_eq!(text.lines().filter(|line| line.contains("reason=")).count(), WORDS_MAX + 1);
    }
}
