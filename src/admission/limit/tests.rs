use proptest::prelude::*;

use super::*;
use crate::fleet::Ledger;

/// An answer of a node that has had that many in flight for long: by Little's law one comes after so long.
fn answer(state: &mut State, took_s: f64, idle_s: Option<f64>, in_flight: u32) {
    state.answered(took_s, f64::from(in_flight), idle_s, in_flight);
}

/// Always as much to do as the limit allows.
fn saturate(state: &mut State, answers: usize, took_s: impl Fn(f64) -> f64, learned: bool) {
    for _ in 0..answers {
        let limit = state.limit.floor();
        answer(state, took_s(limit), learned.then(|| took_s(1.0)), limit as u32);
    }
}

/// Where the limit settles if there is always more to do, on a node with that response time, after a quiet time.
fn settled(took_s: impl Fn(f64) -> f64, learned: bool) -> f64 {
    let mut state = State::default();
    for among in (1..=4).cycle().take(200) {
        answer(&mut state, took_s(f64::from(among)), learned.then(|| took_s(1.0)), among);
    }
    assert!(state.limit <= f64::from(AUTO_LIMIT_START));
    saturate(&mut state, 6_000, took_s, learned);
    state.limit
}

#[test]
fn it_settles_where_more_in_flight_brings_hardly_more_answers() {
    for learned in [false, true] {
        // A batching server, a / b = 10: three quarters of what it could ever answer are reached at 30.
        let batching = settled(|n| 1.0 + 0.1 * n, learned);
        assert!((24.0..=50.0).contains(&batching), "{batching}");
        // The same with 24 slots and a line before them.
        let slots = settled(|n: f64| (1.0 + 0.1 * n.min(24.0)) * (n / 24.0).max(1.0), learned);
        assert!((22.0..=44.0).contains(&slots), "{slots}");
        // Workers and a line before them: all are busy, and the line is short.
        for workers in [2.0, 8.0, 40.0] {
            let limit = settled(|n| (n / workers).max(1.0), learned);
            assert!((workers..=3.0 * workers).contains(&limit), "{limit} for {workers}");
        }
        // One that answers less the more it has.
        let thrashing = settled(|n| (n / 8.0).max(1.0).powi(2), learned);
        assert!((8.0..=12.0).contains(&thrashing), "{thrashing}");
        // A node that does not slow down is not held back.
        assert!(settled(|_| 1.0, learned) > 1_000.0);
    }
}

#[test]
fn refusals_of_the_node_shrink_it_below_what_was_too_much_but_never_to_nothing() {
    let auto = AutoLimit::default();
    assert_eq!(auto.observe(Signal::Overload, 10), 9);
    (0..100).for_each(|_| _ = auto.observe(Signal::Overload, 1));
    assert_eq!(auto.observe(Signal::Overload, 1), 1);
    let mut state = auto.0.lock().expect("no panic");
    saturate(&mut state, 300, |_| 1.0, true);
    assert!(state.limit > 20.0, "and it recovers: {}", state.limit);
}

#[test]
fn a_rush_however_long_does_not_become_the_measure_of_itself() {
    let mut state = State::default();
    let took_s = |n: f64| n.max(8.0) / 8.0;
    (0..200).for_each(|_| answer(&mut state, 1.0, None, 5));
    for _ in 0..200 {
        saturate(&mut state, 500, took_s, false);
        assert!((8.0..=24.0).contains(&state.limit), "{}", state.limit);
    }
}

#[test]
fn a_node_that_becomes_several_times_slower_keeps_enough_to_do() {
    let mut state = State::default();
    (0..200).for_each(|_| answer(&mut state, 1.0, None, 5));
    for slower in [1.0, 4.0] {
        for _ in 0..20 {
            saturate(&mut state, 100, |n| slower * n.max(8.0) / 8.0, false);
            assert!((6.0..=28.0).contains(&state.limit), "{} at {slower} times", state.limit);
        }
    }
}

#[test]
fn what_was_in_flight_is_counted_from_answer_to_answer_in_any_order_of_threads() {
    let ledger = Ledger::default();
    let at = Time::from_secs_f64;
    let mut state = State::default();
    for _ in 0..3 {
        ledger.try_start(at(1.0), 9, 0).expect("room");
    }
    let first = ledger.end(at(2.0), Some(0));
    let second = ledger.end(at(4.0), Some(0));
    assert_eq!(state.since_last(at(2.0), first), None, "nothing came before it");
    assert_eq!(state.since_last(at(4.0), second), Some(2.0 * 2.0));
    assert_eq!(state.since_last(at(2.0), first), Some(0.0), "a thread that was late");
    assert_eq!(state.since_last(at(7.0), ledger.end(at(7.0), Some(0))), Some(3.0 * 1.0));
}

proptest! {
    #[test]
    fn it_is_never_raised_while_it_is_not_used_and_stays_in_range(
        signals in prop::collection::vec(
            (any::<bool>(), prop::num::f64::ANY, prop::option::of(0.0..10.0f64), 0.0..1.5f64, prop::num::f64::ANY),
            1..120,
        ),
        wild in any::<bool>(),
    ) {
        let mut state = State::default();
        for (overload, area, idle_s, part, among) in signals {
            let limit = state.limit;
            let in_flight = (limit * part) as u32;
            // Enough at one level to come to a judgement, or anything.
            let (area, among) = if wild { (area, among) } else { (area.abs() % 10.0, f64::from(in_flight)) };
            if overload && wild { state.refused(in_flight) } else { state.answered(area, among, idle_s, in_flight) }
            prop_assert!((1.0..=f64::from(IN_FLIGHT_MAX)).contains(&state.limit));
            if f64::from(in_flight) < 0.7 * limit.floor() {
                prop_assert!(state.limit <= limit, "{limit} to {} with {in_flight}", state.limit);
            }
        }
    }
}
