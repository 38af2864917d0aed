//! The queue in virtual time.

use proptest::prelude::*;

use super::*;

use Priority::{Batch, Default as Usual, Interactive};

fn at(seconds: f64) -> Time {
    Time::from_secs_f64(seconds)
}

fn queue(length_max: usize) -> Queue<u32> {
    let mut queue = Queue::default();
    queue.set_rules(QueueRules { length_max, bytes_max: 1_000, lifo_after: None, ..QueueRules::default() });
    queue
}

fn terms(priority: Priority, deadline: f64) -> Terms {
    Terms { priority, bytes: 10, deadline: at(deadline) }
}

/// Takes the next for any place and counts it as handed over.
fn serve(queue: &mut Queue<u32>, now: f64) -> Option<u32> {
    let (position, entry) = queue.take(at(now), |_| true)?;
    queue.handed(at(now), position);
    Some(entry.item)
}

#[test]
fn higher_classes_first_and_arrivals_in_order() {
    let mut queue = queue(10);
    for (item, class) in [(1, Batch), (2, Usual), (3, Interactive), (4, Usual), (5, Interactive)] {
        queue.push(at(1.0), terms(class, 99.0), 0, item).expect("room");
    }
    assert_eq!((queue.lengths(), queue.bytes()), ([2, 2, 1], 50));
    let served: Vec<u32> = std::iter::from_fn(|| serve(&mut queue, 1.5)).collect();
    assert_eq!(served, [3, 5, 2, 4, 1]);
    assert!(queue.is_empty() && queue.bytes() == 0);
}

#[test]
fn a_place_goes_to_the_first_who_can_use_it_and_not_to_the_late() {
    let mut queue = queue(10);
    queue.push(at(1.0), terms(Usual, 2.0), 0, 1).expect("room");
    queue.push(at(1.0), terms(Usual, 99.0), 0, 2).expect("room");
    queue.push(at(1.0), terms(Usual, 99.0), 0, 3).expect("room");
    let (position, entry) = queue.take(at(1.0), |item| *item != 1).expect("one");
    assert_eq!(entry.item, 2);
    queue.put_back(at(1.0), position, entry);
    assert_eq!(queue.take(at(3.0), |_| true).expect("one").1.item, 2, "in its old place, and the first is late");
    assert_eq!(queue.expired(at(3.0)).iter().map(|(entry, _)| entry.item).collect::<Vec<_>>(), [1]);
    assert_eq!(queue.len(), 1);
}

#[test]
fn a_full_queue_refuses_and_a_higher_class_displaces_the_newest_of_the_lowest() {
    let mut queue = queue(3);
    for (item, class) in [(1, Usual), (2, Batch), (3, Batch)] {
        queue.push(at(1.0), terms(class, 99.0), 0, item).expect("room");
    }
    let (item, why) = queue.push(at(1.0), terms(Batch, 99.0), 0, 4).expect_err("full");
    assert_eq!((item, why), (4, Turned::Full(Duration::from_secs(1))));
    let displaced = |queue: &mut Queue<u32>, class, item| {
        queue.push(at(1.0), terms(class, 99.0), 0, item).map(|(_, gone)| gone.map(|entry| entry.item)).ok()
    };
    assert_eq!(displaced(&mut queue, Interactive, 5), Some(Some(3)));
    assert_eq!(displaced(&mut queue, Usual, 6), Some(Some(2)));
    assert_eq!(displaced(&mut queue, Usual, 7), None);
    assert_eq!(displaced(&mut queue, Interactive, 8), Some(Some(6)));
    assert_eq!(queue.len(), 3);
}

#[test]
fn bytes_are_bounded_too() {
    let mut queue = queue(100);
    let large = Terms { bytes: 600, ..terms(Usual, 99.0) };
    let (first, _) = queue.push(at(1.0), large, 0, 1).expect("room");
    assert!(queue.push(at(1.0), large, 0, 2).is_err());
    assert!(queue.push(at(1.0), Terms { bytes: 400, ..large }, 0, 3).is_ok());
    queue.remove(first).expect("there");
    assert!(queue.push(at(1.0), large, 0, 4).is_ok(), "who leaves makes room");
}

#[test]
fn under_lasting_overload_the_newest_goes_first_and_the_oldest_makes_room() {
    let mut queue = queue(3);
    queue.set_rules(QueueRules { lifo_after: Some(Duration::from_secs(10)), ..queue.rules() });
    for item in 1..=3 {
        queue.push(at(1.0), terms(Usual, 99.0), 0, item).expect("room");
    }
    assert_eq!(serve(&mut queue, 10.9), Some(1));
    assert_eq!(serve(&mut queue, 11.0), Some(3));
    queue.push(at(11.0), terms(Usual, 99.0), 0, 4).expect("room");
    queue.push(at(11.0), terms(Usual, 99.0), 0, 5).expect("room");
    let (_, displaced) = queue.push(at(11.0), terms(Usual, 99.0), 0, 6).expect("the oldest leaves");
    assert_eq!(displaced.map(|entry| entry.item), Some(2));
    assert_eq!(
        [serve(&mut queue, 12.0), serve(&mut queue, 12.0), serve(&mut queue, 12.0)],
        [Some(6), Some(5), Some(4)]
    );
    // It was empty: that was the end of the overload.
    queue.push(at(12.0), terms(Usual, 99.0), 0, 7).expect("room");
    queue.push(at(12.1), terms(Usual, 99.0), 0, 8).expect("room");
    assert_eq!(serve(&mut queue, 13.0), Some(7));
}

#[test]
fn who_would_wait_too_long_is_refused_at_once_and_told_when_to_come_back() {
    let mut queue = queue(100);
    for item in 0..30 {
        queue.push(at(0.0), terms(Usual, 999.0), 0, item).expect("nothing is known yet");
    }
    for second in 1..=20 {
        serve(&mut queue, f64::from(second)).expect("waits");
    }
    // One per second, and ten are ahead.
    let (_, why) = queue.push(at(20.0), terms(Usual, 25.0), 0, 40).expect_err("5 s are too few");
    let Turned::Hopeless(pause) = why else { panic!("{why:?}") };
    assert!((4.0..=9.0).contains(&pause.as_secs_f64()), "{pause:?}");
    queue.push(at(20.0), terms(Interactive, 25.0), 0, 41).expect("nobody is ahead");
    queue.push(at(20.0), terms(Usual, 40.0), 0, 42).expect("20 s are enough");
    let retry_after = queue.retry_after(at(20.0), 0).as_secs_f64();
    assert!((10.0..=18.0).contains(&retry_after), "{retry_after}");
    assert!(queue.push(at(20.0), terms(Interactive, 20.0), 0, 43).is_err(), "no time at all");
}

#[test]
fn batch_gets_its_turn_and_overtakes_nobody_twice() {
    // Two interactive requests come for every place: the line of those grows, and batch would never run.
    let mut queue = queue(100_000);
    queue.set_rules(QueueRules { bytes_max: u64::MAX, ..queue.rules() });
    let mut overtaken: BTreeMap<u32, u32> = BTreeMap::new();
    let mut batches = 0;
    for step in 0..2_000u32 {
        let now = 1.0 + f64::from(step);
        for item in [2 * step, 2 * step + 1] {
            let _ = queue.push(at(now), terms(Interactive, now + 50.0), 0, item);
        }
        if step % 50 == 0 {
            let _ = queue.push(at(now), terms(Batch, now + 1e6), 0, 1_000_000 + step);
        }
        queue.expired(at(now));
        let waiting: Vec<u32> = queue.lines[0].waiting.values().map(|entry| entry.item).collect();
        if serve(&mut queue, now + 0.5).is_some_and(|item| item >= 1_000_000) {
            batches += 1;
            waiting.into_iter().for_each(|item| *overtaken.entry(item).or_default() += 1);
        }
    }
    assert!(batches >= 20, "{batches}");
    assert_eq!(overtaken.values().max(), Some(&1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn counts_and_bounds_hold_whatever_happens(
        steps in prop::collection::vec((0u8..6, 0usize..3, 0u64..400, 0.0..20.0f64), 1..120),
    ) {
        let mut queue = queue(8);
        queue.set_rules(QueueRules { lifo_after: Some(Duration::from_secs(5)), ..queue.rules() });
        let mut positions = Vec::new();
        let mut now = 1.0;
        for (item, (what, class, bytes, number)) in (0u32..).zip(steps) {
            match what {
                0..=2 => {
                    let terms = Terms { priority: Priority::ALL[class], bytes, deadline: at(now + number) };
                    positions.extend(queue.push(at(now), terms, 0, item).map(|(position, _)| position));
                }
                3 => drop(serve(&mut queue, now)),
                4 => {
                    positions.pop().and_then(|position| queue.remove(position));
                }
                _ => {
                    now += number / 4.0;
                    queue.expired(at(now));
                }
            }
            prop_assert_eq!(queue.len(), queue.lengths().iter().sum::<usize>());
            let bytes: u64 = queue.lines.iter().flat_map(|line| line.waiting.values()).map(|entry| entry.terms.bytes).sum();
            prop_assert_eq!(queue.bytes(), bytes);
            prop_assert!(queue.len() <= 8 && bytes <= 1_000);
            let wait = queue.retry_after(at(now), 0);
            prop_assert!((RETRY_AFTER.0..=RETRY_AFTER.1).contains(&wait));
        }
    }
}

#[test]
fn a_line_that_stood_still_turns_nobody_away_once_it_is_empty() {
    // Somebody else holds the only place for a long time; those who wait for 5 s leave one after the other.
    let mut queue = queue(10);
    for nth in 0..20u32 {
        let now = 1.0 + 6.0 * f64::from(nth);
        queue.push(at(now), terms(Usual, now + 5.0), 0, nth).expect("nobody is ahead");
        assert_eq!(queue.expired(at(now + 5.0)).len(), 1);
    }
}

#[test]
fn who_waits_with_patience_for_one_model_turns_nobody_away_who_wants_another() {
    let mut queue = queue(100);
    for item in 0..3 {
        queue.push(at(1.0), terms(Usual, 601.0), 1, item).expect("room");
    }
    let (_, why) = queue.push(at(60.0), terms(Usual, 90.0), 1, 3).expect_err("three are ahead, and none moves");
    assert!(matches!(why, Turned::Hopeless(_)), "{why:?}");
    queue.push(at(60.0), terms(Usual, 61.0), 2, 4).expect("of these nobody waits yet");
    assert_eq!(queue.take(at(60.0), |item| *item == 4).expect("one").1.item, 4);
}

#[test]
fn under_lasting_overload_batch_still_gets_one_place_in_twenty() {
    let mut queue = queue(100_000);
    let lifo_after = Some(Duration::from_secs(10));
    queue.set_rules(QueueRules { bytes_max: u64::MAX, lifo_after, ..queue.rules() });
    queue.push(at(0.0), terms(Interactive, 600.0), 0, 0).expect("a very patient one");
    (1..=1_000).for_each(|item| _ = queue.push(at(0.0), terms(Batch, 1e6), 0, item).expect("room"));
    let mut batches = 0;
    for step in 0..10_000u32 {
        let now = 1.0 + f64::from(step) * 0.02;
        for nth in 0..2 {
            let _ = queue.push(at(now), terms(Interactive, now + 30.0), 0, 10_000 + 2 * step + nth);
        }
        queue.expired(at(now));
        batches += u32::from(serve(&mut queue, now).is_some_and(|item| (1..=1_000).contains(&item)));
    }
    assert!((400..=510).contains(&batches), "{batches}");
}

#[test]
fn one_whose_node_is_stuck_does_not_keep_batch_from_the_others() {
    let mut queue = queue(100_000);
    queue.set_rules(QueueRules { bytes_max: u64::MAX, ..queue.rules() });
    queue.push(at(0.0), terms(Interactive, 1e6), 1, 0).expect("room");
    (1..=100).for_each(|item| _ = queue.push(at(0.0), terms(Batch, 1e6), 2, item).expect("room"));
    let mut batches = 0;
    for step in 0..1_000u32 {
        let now = 1.0 + f64::from(step);
        queue.push(at(now), terms(Usual, 1e6), 2, 1_000 + step).expect("room");
        let (position, entry) = queue.take(at(now), |item| *item != 0).expect("somebody");
        queue.handed(at(now), position);
        batches += u32::from(entry.item <= 100);
    }
    // One in twenty, but nobody is overtaken twice, and each time their line grows by one.
    assert!((30..=52).contains(&batches), "{batches}");
}
