//! What remembering prompts costs: finding a prompt among 64 nodes, and all of it for a chat of 8 kB.

use std::hint::black_box;

use bellwether::clock::Time;
use bellwether::fleet::Fleet;
use bellwether::prefix::{Found, Memory};
use bellwether::proxy::inspect::{Api, BLOCK_BYTES, PrefixKey, look, prefix_blocks};
use bellwether::request::Prefix;

use crate::{fleet, measure};

/// What a look for a prompt of 100 kB among [`NODES`] may take, and all of it for one of 8 kB, in nanoseconds.
const LOOK_NS: f64 = 50_000.0;
const CHAT_NS: f64 = 10_000.0;

const NODES: u32 = 64;
const LONG_BYTES: usize = 100_000;
const CHAT_BYTES: usize = 8_000;

/// What is measured, by name.
pub(crate) const ROWS: [(&str, f64); 5] = [
    ("prefix, look, on all nodes", LOOK_NS),
    ("prefix, look, on one node", LOOK_NS),
    ("prefix, look, unknown", LOOK_NS),
    ("prefix, chat, hash", CHAT_NS),
    ("prefix, chat, all", CHAT_NS),
];

/// A prompt of so many bytes that begins like others of its kind.
fn prompt(kind: u64, bytes: usize) -> Prefix {
    let mut rng = fastrand::Rng::with_seed(kind);
    Prefix::new((0..bytes / BLOCK_BYTES).map(|_| rng.u64(..)).collect::<Vec<_>>(), 64.0)
}

/// A memory with many conversations besides, so that looking one up misses the processor's caches as it would.
fn memory(fleet: &Fleet, long: &Prefix, holders: usize) -> Memory {
    let memory = Memory::default();
    for other in 0..2_000 {
        let node = &fleet.nodes()[other % fleet.nodes().len()];
        memory.remember(node, &prompt(1_000 + other as u64, 20_000), Time::ZERO, 0, 5_000.0);
    }
    for node in fleet.nodes().iter().take(holders) {
        memory.remember(node, long, Time::ZERO, 0, 25_000.0);
    }
    memory
}

fn chat() -> String {
    let mut rng = fastrand::Rng::with_seed(9);
    let mut words = |bytes: usize| -> String {
        std::iter::from_fn(|| Some(format!("{} ", rng.u32(..10_000_000)))).take(bytes / 8).collect()
    };
    let turns: Vec<String> = (0..8)
        .map(|turn| {
            let role = if turn % 2 == 0 { "user" } else { "assistant" };
            format!(r#"{{"role":"{role}","content":"{}\n"}}"#, words(CHAT_BYTES / 8))
        })
        .collect();
    format!(r#"{{"model":"llama-3.1-8b","stream":true,"messages":[{}]}}"#, turns.join(","))
}

/// Calls `measure` with what the row of that name measures.
pub(crate) fn run<T>(name: &str, measure: impl FnOnce(&mut dyn FnMut()) -> T) -> T {
    let fleet = fleet(NODES);
    let (key, mut found) = (PrefixKey::of_secret("for measuring"), Found::default());
    if let Some(what) = name.strip_prefix("prefix, look, ") {
        let long = prompt(1, LONG_BYTES);
        let holders = ["unknown", "on one node", "on all nodes"].iter().position(|known| *known == what);
        let memory = memory(&fleet, &long, [0, 1, NODES as usize][holders.expect("a row")]);
        return measure(&mut || {
            memory.look(&long, Time::ZERO, &mut found, |_, _| 0.9);
            black_box(&found);
        });
    }
    let body = chat();
    let blocks = || {
        let seen = look(body.as_bytes(), true, Api::Chat);
        prefix_blocks(body.as_bytes(), &seen, seen.model.as_deref(), &key)
    };
    if name == "prefix, chat, hash" {
        return measure(&mut || {
            black_box(blocks());
        });
    }
    let memory = memory(&fleet, &prompt(1, LONG_BYTES), 1);
    measure(&mut || {
        let prefix = Prefix::new(blocks(), 64.0);
        memory.look(&prefix, Time::ZERO, &mut found, |_, _| 0.9);
        black_box(memory.remember(&fleet.nodes()[0], &prefix, Time::ZERO, found.at(0).blocks, 2_000.0));
    })
}

/// The table. The rows of a chat have the look at its body in them, which is there without a memory too.
pub(crate) fn print() {
    println!("{:<34}{:>12}{:>12}{:>14}", "prompts", "ns", "target ns", "allocations");
    for (name, target_ns) in ROWS {
        let (best_ns, allocations) = run(name, |call| measure(call));
        let verdict = if best_ns > target_ns { "  MISSED" } else { "" };
        println!("{name:<34}{best_ns:>12.0}{target_ns:>12.0}{allocations:>14.3}{verdict}");
    }
}
