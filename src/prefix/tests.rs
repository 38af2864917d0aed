//! The memory against a naive one, and its promises.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::fleet::Fleet;
use crate::node::NodeSpec;

const TOKENS: f32 = 64.0;

fn fleet(nodes: usize) -> Fleet {
    let specs = (0..nodes).map(|at| NodeSpec::new(format!("http://n{at}")));
    specs.fold(Fleet::default(), |fleet, spec| fleet.with(spec).expect("free name"))
}

fn at(seconds: u32) -> Time {
    Time::from_secs_f64(f64::from(seconds))
}

/// Cumulative hashes of such blocks.
fn prompt(blocks: &[u64]) -> Prefix {
    let chained = blocks.iter().scan(1u64, |before, block| {
        *before = crate::node::scramble(*before ^ block.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Some(*before)
    });
    Prefix::new(chained.collect::<Vec<_>>(), TOKENS)
}

/// A prompt whose first blocks are those of a system prompt.
fn conversation(system: u64, of_system: u64, own: u64, of_own: u64) -> Prefix {
    let blocks: Vec<u64> = (0..of_system).map(|i| system << 32 | i).chain((0..of_own).map(|i| own << 32 | i)).collect();
    prompt(&blocks)
}

fn look(memory: &Memory, prompt: &Prefix, now: u32) -> Found {
    let mut found = Found::default();
    memory.look(prompt, at(now), &mut found, |_, _| 1.0);
    found
}

fn matched(memory: &Memory, prompt: &Prefix, slot: u32) -> f32 {
    look(memory, prompt, 1_000).at(slot).recall.matched_tokens
}

#[test]
fn a_system_prompt_that_others_brought_is_found_for_a_new_conversation() {
    let (memory, fleet) = (Memory::default(), fleet(4));
    let nodes = fleet.nodes();
    for (own, node) in nodes.iter().take(3).enumerate() {
        memory.remember(node, &conversation(7, 10, own as u64 + 1, 20), at(1), 0, 1_920.0);
    }
    let found = look(&memory, &conversation(7, 10, 9, 20), 2);
    assert_eq!([0, 1, 2, 3].map(|slot| found.at(slot).blocks), [10, 10, 10, 0]);
    let found = look(&memory, &conversation(7, 10, 2, 25), 2);
    assert_eq!([0, 1, 2, 3].map(|slot| found.at(slot).blocks), [10, 30, 10, 0]);
    assert_eq!(found.at(1).recall.matched_tokens, 30.0 * TOKENS);
    assert!(look(&memory, &conversation(8, 10, 2, 20), 2).is_empty(), "another beginning is another prompt");
}

#[test]
fn each_stretch_of_a_prompt_is_as_old_as_its_own_last_use() {
    let (memory, fleet) = (Memory::default(), fleet(2));
    let (node, other) = (&fleet.nodes()[0], &fleet.nodes()[1]);
    memory.remember(node, &conversation(1, 10, 1, 20), at(10), 0, 1_920.0);
    memory.remember(other, &conversation(1, 10, 2, 20), at(10), 0, 1_920.0);
    let used = memory.remember(node, &conversation(1, 10, 3, 1), at(50), 10, 64.0).expect("its slot");
    memory.answered(node, &used, 704, 6_400.0, at(60));
    let (mut found, ages) = (Found::default(), std::cell::RefCell::new(Vec::new()));
    memory.look(&conversation(1, 10, 1, 20), at(100), &mut found, |slot, extent| {
        ages.borrow_mut().push((slot, extent.seconds, extent.tokens));
        if extent.seconds < 60.0 { 0.5 } else { 0.25 }
    });
    let ages = ages.into_inner();
    assert_eq!(ages, [(0, 50.0, 6_400.0), (1, 90.0, 0.0), (0, 90.0, 6_464.0)]);
    let recall = found.at(0).recall;
    assert_eq!((recall.matched_tokens, recall.held_tokens), (30.0 * TOKENS, (5.0 + 5.0) * TOKENS));
    assert_eq!(recall.extent.seconds, 90.0);
}

#[test]
fn a_prompt_ceases_to_be_like_others_at_the_same_block_for_all_who_know_the_others() {
    let fleet = fleet(4);
    let of = |known: &[usize]| {
        let memory = Memory::default();
        for (own, node) in fleet.nodes().iter().enumerate() {
            memory.remember(node, &conversation(7, 10, 100 + own as u64, 20), at(1), 0, 1_920.0);
        }
        let turns = known.iter().map(|node| &fleet.nodes()[*node]);
        turns.for_each(|node| _ = memory.remember(node, &conversation(7, 10, 1, 5), at(2), 10, 320.0));
        look(&memory, &conversation(7, 10, 1, 9), 3).own()
    };
    let own = Own { block: conversation(7, 10, 1, 9).blocks()[10], before: 10 };
    assert_eq!([of(&[]), of(&[2]), of(&[0, 3])], [Some(own); 3]);
    let memory = Memory::default();
    memory.remember(&fleet.nodes()[0], &conversation(7, 2, 1, 2), at(1), 0, 64.0);
    assert_eq!(look(&memory, &conversation(7, 2, 1, 2), 2).own(), None, "known to all who know anything");
}

#[test]
fn an_answer_is_found_by_who_goes_on_after_it_and_what_prompts_go_beyond_is_no_end() {
    let (memory, fleet) = (Memory::default(), fleet(2));
    let (node, other) = (&fleet.nodes()[0], &fleet.nodes()[1]);
    let (first, next) = (conversation(1, 4, 1, 4), conversation(1, 4, 1, 10));
    let used = memory.remember(node, &first, at(1), 0, 542.0).expect("its slot");
    assert_eq!(matched(&memory, &next, 0), 8.0 * TOKENS, "not answered yet");
    memory.answered(node, &used, 8 * 64 + 30, 200.0, at(2));
    assert_eq!(matched(&memory, &next, 0), 8.0 * TOKENS + 230.0, "the rest of the prompt and the answer");
    let mut found = Found::default();
    memory.look(&next, at(3), &mut found, |_, _| 0.5);
    assert_eq!(found.at(0).recall.held_tokens, 4.0 * TOKENS + 115.0);
    assert_eq!(matched(&memory, &conversation(1, 4, 2, 9), 0), 4.0 * TOKENS, "another conversation has another answer");
    memory.remember(other, &next, at(4), 0, 900.0);
    assert_eq!([0, 1].map(|slot| matched(&memory, &next, slot)), [8.0 * TOKENS, 14.0 * TOKENS]);
}

#[test]
fn a_node_that_forgets_is_found_again_only_by_what_it_gets_from_then_on() {
    let (memory, fleet) = (Memory::default(), fleet(2));
    let prompts = [conversation(1, 4, 1, 4), conversation(1, 4, 2, 4)];
    for node in fleet.nodes() {
        prompts.iter().for_each(|prompt| _ = memory.remember(node, prompt, at(1), 0, 512.0));
    }
    memory.forget(&fleet.nodes()[0]);
    assert_eq!([0, 1].map(|slot| matched(&memory, &prompts[0], slot)), [0.0, 8.0 * TOKENS]);
    memory.remember(&fleet.nodes()[0], &prompts[1], at(2), 0, 512.0);
    assert_eq!([0, 1].map(|slot| matched(&memory, &prompts[1], slot)), [8.0 * TOKENS, 8.0 * TOKENS]);
    assert!(matched(&memory, &prompts[0], 0) <= 4.0 * TOKENS, "what follows the common part is gone");
}

#[test]
fn a_new_node_in_an_old_slot_holds_nothing() {
    let (memory, fleet) = (Memory::default(), fleet(2));
    let prompt = conversation(1, 4, 1, 4);
    fleet.nodes().iter().for_each(|node| _ = memory.remember(node, &prompt, at(1), 0, 512.0));
    let next = fleet.without("n0").and_then(|f| f.with(NodeSpec::new("http://new"))).expect("free");
    next.nodes().iter().for_each(|node| memory.own(node));
    assert_eq!([0, 1].map(|slot| matched(&memory, &prompt, slot)), [0.0, 8.0 * TOKENS]);
    // Nor do the last words of the old one change that.
    assert!(memory.remember(&fleet.nodes()[0], &prompt, at(2), 0, 512.0).is_none());
    assert_eq!(matched(&memory, &prompt, 0), 0.0);
}

#[test]
fn what_never_got_there_is_taken_back_and_what_was_there_before_stays() {
    let (memory, fleet) = (Memory::default(), fleet(1));
    let node = &fleet.nodes()[0];
    memory.remember(node, &conversation(1, 10, 1, 0), at(1), 0, 640.0);
    let longer = conversation(1, 10, 2, 5);
    let used = memory.remember(node, &longer, at(2), 10, 320.0).expect("in the fleet");
    assert_eq!(matched(&memory, &longer, 0), 15.0 * TOKENS);
    memory.take_back(node, &used);
    assert_eq!(matched(&memory, &longer, 0), 10.0 * TOKENS);
    // Another use in the meantime counts.
    let used = memory.remember(node, &longer, at(3), 10, 320.0).expect("in the fleet");
    memory.remember(node, &longer, at(3), 15, 0.0);
    memory.take_back(node, &used);
    assert_eq!(matched(&memory, &longer, 0), 15.0 * TOKENS);
}

#[test]
fn an_unused_memory_takes_nothing_and_one_without_room_keeps_nothing() {
    assert_eq!(Memory::default().fill().bytes, 0);
    let (memory, fleet) = (Memory::new(100), fleet(1));
    memory.remember(&fleet.nodes()[0], &conversation(1, 10, 1, 0), at(1), 0, 640.0);
    assert!(look(&memory, &conversation(1, 10, 1, 0), 1).is_empty());
    assert_eq!(memory.fill(), Fill { bytes_max: 100, ..Fill::default() });
}

#[test]
fn of_more_than_it_holds_the_latest_conversations_stay_whole() {
    let (memory, fleet) = (Memory::new(1 << 20), fleet(1));
    let prompts: Vec<Prefix> = (1..=2_000).map(|own| conversation(1, 10, own, 20)).collect();
    for prompt in &prompts {
        memory.remember(&fleet.nodes()[0], prompt, at(1), 0, 1_920.0);
    }
    let fill = memory.fill();
    assert!(fill.evicted > 0 && fill.bytes <= fill.bytes_max && fill.bytes * 10 > fill.bytes_max * 7, "{fill:?}");
    // What was evicted first is what was used longest ago: with 64 parts of their own order, but for a quarter.
    let kept = fill.entries as usize / 20 * 3 / 4;
    assert!(prompts.iter().rev().take(kept).all(|prompt| matched(&memory, prompt, 0) == 30.0 * TOKENS));
    assert_eq!(matched(&memory, &prompts[0], 0), 10.0 * TOKENS, "the beginning that all share");
}

#[test]
fn under_any_concurrency_the_bound_holds_and_nobody_waits_for_another() {
    let (memory, fleet) = (Memory::new(256 << 10), fleet(70));
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (memory, fleet) = (&memory, &fleet);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(seed);
                for step in 0..1_500 {
                    let prompt = conversation(rng.u64(0..2), 6, rng.u64(1..200), rng.u64(0..12));
                    let node = &fleet.nodes()[rng.usize(..70)];
                    let had = look(memory, &prompt, step).at(node.slot).blocks;
                    assert!(had as usize <= prompt.blocks().len());
                    let used = memory.remember(node, &prompt, at(step), had, 100.0).expect("in the fleet");
                    match rng.u32(0..40) {
                        0 => memory.forget(node),
                        1..10 => memory.take_back(node, &used),
                        _ => {}
                    }
                }
            });
        }
    });
    let fill = memory.fill();
    assert!(fill.bytes > 0 && fill.bytes <= fill.bytes_max, "{fill:?}");
}

proptest! {
    #[test]
    fn what_is_found_is_what_a_naive_memory_finds(
        steps in prop::collection::vec((0usize..70, 0u64..3, 0u64..5, 0u64..4, 0u64..6), 1..60),
        asked in (0u64..3, 0u64..5, 0u64..4, 0u64..8),
    ) {
        let (memory, fleet) = (Memory::default(), fleet(70));
        let mut naive: Vec<BTreeSet<u64>> = vec![BTreeSet::new(); 70];
        for (node, system, of_system, own, of_own) in &steps {
            let prompt = conversation(*system, *of_system, *own + 10, *of_own);
            memory.remember(&fleet.nodes()[*node], &prompt, at(1), 0, 100.0);
            naive[*node].extend(prompt.blocks());
        }
        let (system, of_system, own, of_own) = asked;
        let prompt = conversation(system, of_system, own + 10, of_own);
        let found = look(&memory, &prompt, 2);
        for (slot, held) in naive.iter().enumerate() {
            let expected = prompt.blocks().iter().take_while(|block| held.contains(block)).count();
            let at = found.at(slot as u32);
            prop_assert_eq!(at.blocks as usize, expected, "slot {}", slot);
            prop_assert_eq!(at.recall.matched_tokens, expected as f32 * TOKENS);
        }
    }
}
