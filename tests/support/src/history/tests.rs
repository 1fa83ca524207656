//! Is each broken promise found, and called by its name? And is nothing found where none is broken?

use super::*;

/// Two producers' records in two partitions: sent, acknowledged, and one of unknown fate.
fn history() -> History {
    let mut history = History::default();
    for (producer, value, partition, offset) in
        [(1, "a", 0, 0), (2, "b", 1, 0), (1, "c", 0, 1), (2, "d", 0, 2), (1, "e", 1, 1)]
    {
        history.sent(producer, value.as_bytes());
        history.acknowledged(value.as_bytes(), partition, offset);
    }
    history.sent(2, b"unknown");
    history
}

fn seen(partition: i32, offset: i64, epoch: i32, value: &str) -> Seen {
    Seen { partition, offset, epoch: Some(epoch), value: value.into() }
}

/// What a broker that keeps its word answers.
fn pass() -> Pass {
    Pass {
        seen: vec![seen(0, 0, 1, "a"), seen(0, 1, 1, "c"), seen(0, 2, 1, "d"), seen(1, 0, 1, "b"), seen(1, 1, 1, "e")],
        high_watermarks: BTreeMap::from([(0, 3), (1, 2)]),
    }
}

fn broken(history: &mut History, pass: &Pass) -> Vec<Invariant> {
    let begun = history.now();
    history.check(begun, pass).into_iter().map(|wrong| wrong.invariant).collect()
}

/// The invariants that a pass breaks which differs from the good one by `damage`.
fn check(damage: impl FnOnce(&mut Pass), expected: &[Invariant]) {
    let mut read = pass();
    damage(&mut read);
    assert_eq!(broken(&mut history(), &read), expected, "{read:?}");
}

#[test]
fn what_keeps_its_word_is_let_pass_again_and_again() {
    let mut history = history();
    assert_eq!(broken(&mut history, &pass()), []);
    // What was of unknown fate may be there later, and what is sent later too.
    let mut later = pass();
    later.seen.push(seen(1, 2, 1, "unknown"));
    history.ended();
    history.sent(1, b"f");
    history.acknowledged(b"f", 1, 3);
    later.seen.push(seen(1, 3, 2, "f"));
    later.high_watermarks.insert(1, 4);
    assert_eq!(broken(&mut history, &later), []);
    assert_eq!(history.acknowledgements(), 6);
}

#[test]
fn a_lost_record_is_found() {
    check(|read| drop(read.seen.pop()), &[Invariant::AcknowledgedIsRead]);
    check(|read| drop(read.seen.remove(1)), &[Invariant::OffsetsAreDense, Invariant::AcknowledgedIsRead]);
    check(|read| read.seen.clear(), &[Invariant::AcknowledgedIsRead; 5]);
}

#[test]
fn what_was_acknowledged_after_the_pass_began_need_not_be_in_it() {
    let mut history = history();
    let begun = history.now();
    history.acknowledged(b"unknown", 1, 2);
    assert_eq!(history.check(begun, &pass()), []);
    assert_eq!(broken(&mut history, &pass()), [Invariant::AcknowledgedIsRead, Invariant::HighWatermarkIsKept]);
}

#[test]
fn an_invented_record_is_found() {
    check(|read| read.seen.push(seen(1, 2, 1, "x")), &[Invariant::ReadWasSent, Invariant::ReadBelowHighWatermark]);
    let mut history = history();
    history.refused(b"unknown");
    let mut read = pass();
    read.seen.push(seen(1, 2, 1, "unknown"));
    read.high_watermarks.insert(1, 3);
    assert_eq!(broken(&mut history, &read), [Invariant::ReadWasSent]);
    history.acknowledged(b"y", 1, 3);
    assert_eq!(broken(&mut history, &pass())[0], Invariant::ReadWasSent, "acknowledged, and never sent");
}

#[test]
fn a_record_that_is_there_twice_is_found() {
    let twice = |read: &mut Pass| {
        read.seen.push(seen(1, 2, 1, "b"));
        read.high_watermarks.insert(1, 3);
    };
    check(twice, &[Invariant::ValueHasOneOffset, Invariant::RealTimeOrder]);
    // The one that its producer sent last: nothing else is wrong with it.
    let twice = |read: &mut Pass| {
        read.seen.push(seen(1, 2, 1, "e"));
        read.high_watermarks.insert(1, 3);
    };
    check(twice, &[Invariant::ValueHasOneOffset]);
}

/// The broker answers that a duplicate is there, of what it then loses.
#[test]
fn an_acknowledged_duplicate_that_is_lost_is_found() {
    let mut history = history();
    // The answer to the first attempt never came; the second was told the offset that the first one has.
    history.acknowledged(b"unknown", 1, 2);
    history.ended();
    let wrong = history.check(history.now(), &pass());
    assert_eq!(wrong[0].to_string(), r#"AcknowledgedIsRead: "unknown" was acknowledged at 1/2, where nothing is"#);
}

/// Of two acknowledgements about a power cut the first counts, and the second binds nobody.
#[test]
fn what_was_acknowledged_without_power_is_no_promise() {
    let mut history = history();
    let before = history.now();
    history.acknowledged(b"unknown", 1, 2);
    let off = history.now();
    assert_eq!(history.power_failed(before, off), [b"unknown"]);
    assert_eq!(broken(&mut history, &pass()), []);
    // Its place is another's now.
    history.sent(1, b"f");
    history.acknowledged(b"f", 1, 2);
    let mut read = pass();
    read.seen.push(seen(1, 2, 2, "f"));
    read.high_watermarks.insert(1, 3);
    assert_eq!(broken(&mut history, &read), []);
    let after = history.now();
    assert!(history.power_failed(after, after).is_empty());
    assert_eq!(
        broken(&mut history, &pass()),
        [
            Invariant::HighWatermarkIsKept,
            Invariant::AcknowledgedIsRead,
            Invariant::HighWatermarkIsKept,
            Invariant::ReadIsKept
        ]
    );
}

/// No sync that begins without power goes well: who was told so was told a lie.
#[test]
fn what_was_sent_without_power_and_acknowledged_is_held_to_it() {
    let mut history = history();
    let (cut, off) = (history.now(), history.now());
    history.sent(1, b"f");
    history.acknowledged(b"f", 1, 2);
    assert!(history.power_failed(cut, off).is_empty());
    assert_eq!(broken(&mut history, &pass()), [Invariant::AcknowledgedIsRead, Invariant::HighWatermarkIsKept]);
}

#[test]
fn a_producers_records_out_of_order_are_found() {
    let mut history = History::default();
    for value in ["a", "b", "c"] {
        history.sent(u64::from(value == "c"), value.as_bytes());
    }
    // In another producer's eyes all of these were under way together.
    let read = |values: [&str; 3]| Pass {
        seen: (0..).zip(values).map(|(offset, value)| seen(0, offset, 1, value)).collect(),
        ..Pass::default()
    };
    assert_eq!(broken(&mut history, &read(["c", "a", "b"])), []);
    let mut history = History::default();
    for value in ["a", "b", "c"] {
        history.sent(u64::from(value == "c"), value.as_bytes());
    }
    assert_eq!(broken(&mut history, &read(["b", "c", "a"])), [Invariant::ProducerOrder]);
}

#[test]
fn records_out_of_the_order_of_real_time_are_found() {
    let mut history = History::default();
    history.sent(1, b"a");
    history.acknowledged(b"a", 0, 1);
    history.sent(2, b"b");
    let read = Pass { seen: vec![seen(0, 0, 1, "b"), seen(0, 1, 1, "a")], ..Pass::default() };
    assert_eq!(broken(&mut history, &read), [Invariant::RealTimeOrder]);
}

#[test]
fn a_place_that_changes_its_value_is_found() {
    let mut history = history();
    assert_eq!(broken(&mut history, &pass()), []);
    history.sent(3, b"x");
    let mut read = pass();
    read.seen[4] = seen(1, 1, 2, "x");
    // Another leader's, and this one's own.
    assert_eq!(broken(&mut history, &read), [Invariant::OffsetHasOneValue, Invariant::AcknowledgedIsRead]);
    read.seen[4] = seen(1, 1, 1, "x");
    assert_eq!(broken(&mut history, &read), [Invariant::EpochIsOneLeaders, Invariant::AcknowledgedIsRead]);
    // Two acknowledgements of one place: nothing need be read.
    history.acknowledged(b"x", 0, 0);
    assert_eq!(broken(&mut history, &pass())[0], Invariant::OffsetHasOneValue);
}

#[test]
fn what_was_read_and_is_gone_is_found_even_if_nobody_was_told_of_it() {
    let mut history = history();
    let mut read = pass();
    read.seen.push(seen(1, 2, 1, "unknown"));
    read.high_watermarks.insert(1, 3);
    assert_eq!(broken(&mut history, &read), []);
    assert_eq!(broken(&mut history, &pass()), [Invariant::HighWatermarkIsKept, Invariant::ReadIsKept]);
}

#[test]
fn a_gap_or_a_step_back_is_found() {
    check(
        |read| read.seen.swap(0, 1),
        &[Invariant::OffsetsAreDense, Invariant::ProducerOrder, Invariant::RealTimeOrder],
    );
    let mut history = history();
    let mut read = pass();
    read.seen.push(seen(1, 3, 1, "unknown"));
    read.high_watermarks.insert(1, 4);
    assert_eq!(broken(&mut history, &read), [Invariant::OffsetsAreDense]);
}

#[test]
fn a_read_beyond_the_high_watermark_is_found() {
    let mut history = history();
    let mut read = pass();
    read.seen.push(seen(1, 2, 1, "unknown"));
    assert_eq!(broken(&mut history, &read), [Invariant::ReadBelowHighWatermark]);
}

#[test]
fn a_high_watermark_that_goes_back_or_misses_what_was_acknowledged_is_found() {
    check(
        |read| {
            read.seen.pop();
            read.high_watermarks.insert(1, 1);
        },
        &[Invariant::AcknowledgedIsRead, Invariant::HighWatermarkIsKept],
    );
    let mut history = history();
    let mut ahead = pass();
    ahead.high_watermarks.insert(0, 9);
    assert_eq!(broken(&mut history, &ahead), []);
    assert_eq!(broken(&mut history, &pass()), [Invariant::HighWatermarkIsKept]);
}

#[test]
fn an_epoch_of_two_lives_or_out_of_order_is_found() {
    let mut history = history();
    history.ended();
    history.sent(1, b"f");
    history.acknowledged(b"f", 0, 3);
    for (epoch, expected) in [(2, &[][..]), (1, &[Invariant::EpochIsOneLeaders]), (0, &[Invariant::EpochIsOneLeaders])]
    {
        let mut read = pass();
        read.seen.push(seen(0, 3, epoch, "f"));
        read.high_watermarks.insert(0, 4);
        assert_eq!(broken(&mut history, &read), expected, "epoch {epoch}");
    }
}
