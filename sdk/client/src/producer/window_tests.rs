//! Scripts of what is sent and answered, and a broker by the book against every order of failures.

use std::collections::BTreeMap;

use millstream_env::sim::SimRng;

use super::*;

const ID: ProducerId = ProducerId(7);

/// A window in which one batch was acknowledged, so that several may be under way; every batch has one record.
fn opened() -> Window<i32> {
    let mut window = Window::new(true);
    window.push(-1, 1, false);
    assert!(window.next().is_none() && window.needs_id());
    window.set_id(ID);
    assert_eq!(sent(&mut window), [(-1, 0, 0)]);
    assert!(!window.has_room(), "the first one goes alone");
    assert_eq!(window.acknowledged(0), Some(-1));
    window
}

/// What goes out now: batch, epoch, sequence.
fn sent(window: &mut Window<i32>) -> Vec<(i32, i16, i32)> {
    let mut sent = Vec::new();
    while let Some((_, payload, stamp)) = window.next() {
        let stamp = stamp.unwrap();
        sent.push((*payload, stamp.epoch.0, stamp.sequence.0));
    }
    sent
}

fn fill(window: &mut Window<i32>, batches: std::ops::Range<i32>) {
    for batch in batches {
        assert!(window.has_room());
        window.push(batch, 1, false);
    }
}

#[test]
fn five_are_under_way_and_each_answer_makes_room() {
    let mut window = opened();
    fill(&mut window, 0..5);
    assert_eq!(sent(&mut window), [(0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 0, 4), (4, 0, 5)]);
    assert!(!window.has_room());
    assert_eq!(window.acknowledged(1), Some(0));
    fill(&mut window, 5..6);
    assert_eq!(sent(&mut window), [(5, 0, 6)]);
}

#[test]
fn without_numbers_one_is_under_way() {
    let mut window = Window::new(false);
    window.push(0, 1, false);
    assert!(window.next().is_some_and(|(_, _, stamp)| stamp.is_none()));
    assert!(!window.has_room());
    assert_eq!(window.failed(0, Failure::Retry), None);
    window.resume();
    assert!(window.next().is_some());
    window.acknowledged(0);
    assert!(window.has_room() && window.slots.is_empty());
    window.push(1, 1, false);
    assert!(window.next().is_some());
    assert!(!window.has_room());
}

#[test]
fn after_a_failure_all_end_and_what_is_left_goes_again_with_its_numbers() {
    let mut window = opened();
    fill(&mut window, 0..3);
    sent(&mut window);
    assert_eq!(window.failed(1, Failure::Retry), None);
    assert!(!window.is_stalled() && !window.has_room() && window.next().is_none());
    assert_eq!(window.failed(2, Failure::OutOfOrder), None);
    assert_eq!(window.acknowledged(3), Some(2), "it has arrived, whatever became of the answer before");
    assert!(window.is_stalled() && !window.renumbers());
    window.resume();
    assert_eq!(sent(&mut window), [(0, 0, 1), (1, 0, 2)]);
}

#[test]
fn behind_a_batch_that_was_given_up_the_rest_is_numbered_anew() {
    let mut window = opened();
    fill(&mut window, 0..3);
    sent(&mut window);
    assert_eq!(window.failed(1, Failure::Final), Some(0));
    assert_eq!(window.failed(2, Failure::OutOfOrder), None);
    assert_eq!(window.failed(3, Failure::OutOfOrder), None);
    assert!(window.is_stalled() && window.renumbers());
    window.resume();
    assert_eq!(sent(&mut window), [(1, 1, 0)], "the first of an epoch goes alone");
    window.acknowledged(2);
    fill(&mut window, 3..4);
    assert_eq!(sent(&mut window), [(2, 1, 1), (3, 1, 2)]);
}

#[test]
fn the_last_one_given_up_begins_the_next_epoch_by_itself() {
    let mut window = opened();
    fill(&mut window, 0..1);
    sent(&mut window);
    assert_eq!(window.failed(1, Failure::Final), Some(0));
    fill(&mut window, 1..2);
    assert_eq!(sent(&mut window), [(1, 1, 0)]);
    // Out of order at the very first: that cannot be, and is not tried for ever.
    assert_eq!(window.failed(2, Failure::OutOfOrder), Some(1));
}

#[test]
fn after_the_last_epoch_comes_another_id() {
    let mut window = opened();
    window.begin(Stamp { id: ID, epoch: ProducerEpoch(i16::MAX), sequence: Sequence(0) });
    fill(&mut window, 0..1);
    sent(&mut window);
    window.failed(1, Failure::Final);
    fill(&mut window, 1..2);
    assert!(window.needs_id() && window.next().is_none());
    window.set_id(ProducerId(8));
    assert_eq!(window.next().unwrap().2.unwrap().id, ProducerId(8));
}

#[test]
fn what_goes_alone_waits_for_nobody_and_nobody_goes_beside_it() {
    let mut window: Window<i32> = Window::new(true);
    window.push(0, 1, true);
    assert!(!window.needs_id() && !window.has_room());
    assert!(window.next().is_some_and(|(_, _, stamp)| stamp.is_none()));
    window.failed(0, Failure::Retry);
    window.resume();
    assert!(window.next().is_some_and(|(_, _, stamp)| stamp.is_none()));
    window.acknowledged(0);
    // It has told the broker nothing of the numbers.
    window.push(1, 1, false);
    window.set_id(ID);
    assert!(!window.has_room());
}

/// A partition of a broker: what it holds, and each epoch's last number.
#[derive(Default)]
struct Book {
    log: Vec<i32>,
    /// (epoch, sequence) to batch.
    taken: BTreeMap<(i16, i32), i32>,
    last: Option<(i16, i32)>,
}

impl Book {
    fn append(&mut self, batch: i32, stamp: Stamp) -> Result<(), Failure> {
        let (epoch, sequence) = (stamp.epoch.0, stamp.sequence.0);
        let fits = match self.last {
            None => true,
            Some((last, _)) if epoch < last => return Err(Failure::Final),
            Some((last, _)) if epoch > last => sequence == 0,
            Some((_, last)) => sequence == last + 1,
        };
        if fits {
            self.log.push(batch);
            self.taken.insert((epoch, sequence), batch);
            self.last = Some((epoch, sequence));
            return Ok(());
        }
        match self.taken.get(&(epoch, sequence)) {
            Some(found) => {
                assert_eq!(*found, batch, "a number stands for one batch");
                Ok(())
            }
            None => Err(Failure::OutOfOrder),
        }
    }
}

#[test]
fn whatever_fails_each_batch_is_there_once_and_in_order() {
    for seed in 0..2000 {
        let rng = SimRng::new(seed);
        let (mut window, mut book) = (Window::new(true), Book::default());
        let (mut next, mut acknowledged, mut refused) = (0, Vec::new(), Vec::new());
        let mut under_way = VecDeque::new();
        while next < 60 || !window.is_empty() {
            while next < 60 && window.has_room() && rng.below(3) > 0 {
                window.push(next, 1, false);
                next += 1;
            }
            if window.needs_id() {
                window.set_id(ID);
            }
            while let Some((serial, batch, stamp)) = window.next() {
                under_way.push_back((serial, *batch, stamp.unwrap()));
            }
            // One stream: requests arrive in order. Some are lost, some answers are, some are refused for good.
            if let Some((serial, batch, stamp)) = under_way.pop_front() {
                let outcome = match rng.below(12) {
                    0 => Err(Failure::Retry),
                    1 => book.append(batch, stamp).and(Err(Failure::Retry)),
                    2 if !book.log.contains(&batch) => Err(Failure::Final),
                    _ => book.append(batch, stamp),
                };
                match outcome {
                    Ok(()) => acknowledged.extend(window.acknowledged(serial)),
                    Err(failure) => refused.extend(window.failed(serial, failure)),
                }
            }
            if window.is_stalled() {
                window.resume();
            }
        }
        assert!(book.log.is_sorted_by(|one, other| one < other), "seed {seed}: {:?}", book.log);
        acknowledged.sort_unstable();
        assert_eq!(acknowledged, book.log, "seed {seed}: all that is there was acknowledged, and the other way round");
        assert_eq!(acknowledged.len() + refused.len(), 60, "seed {seed}");
        assert!(refused.len() < 30, "seed {seed}: {refused:?} were refused");
    }
}
