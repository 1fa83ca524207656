//! Sequences as scripts, and against a model that remembers everything.

use millstream_model::LeaderEpoch;
use millstream_record::Attributes;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { producers_max: 3, expiration_ms: 1000 };

pub(crate) fn header(id: i64, epoch: i16, first: i32, count: i32, base: i64) -> BatchHeader {
    BatchHeader {
        base_offset: Offset(base),
        length: 49,
        partition_leader_epoch: LeaderEpoch(0),
        magic: 2,
        crc: 0,
        attributes: Attributes(0),
        last_offset_delta: count - 1,
        base_timestamp: TimestampMs(0),
        max_timestamp: TimestampMs(0),
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: Sequence(first),
        count,
    }
}

/// A log of producers' batches at a fixed time.
struct Script {
    producers: Producers,
    end: i64,
    now: TimestampMs,
}

impl Script {
    fn new() -> Self {
        Self { producers: Producers::new(LIMITS), end: 0, now: TimestampMs(0) }
    }

    /// What becomes of a batch that is sent: `new` at an offset, `again` at an offset, or why not.
    fn send(&mut self, id: i64, epoch: i16, first: i32, count: i32) -> String {
        let header = header(id, epoch, first, count, self.end);
        match self.producers.check(&header, self.now) {
            Ok(Verdict::New) => {
                self.producers.note(&header, self.now);
                self.end += i64::from(count);
                format!("new {}", header.base_offset)
            }
            Ok(Verdict::Duplicate { base_offset, last_offset }) => {
                assert_eq!(last_offset, base_offset.plus(i64::from(count) - 1));
                format!("again {base_offset}")
            }
            Err(SequenceError::OutOfOrder { expected, .. }) => format!("expected {expected}"),
            Err(SequenceError::StaleEpoch { current, .. }) => format!("epoch {current}"),
        }
    }
}

#[test]
fn the_last_five_batches_are_known_again() {
    let mut log = Script::new();
    for n in 0..6 {
        assert_eq!(log.send(7, 0, n * 10, 10), format!("new {}", n * 10));
    }
    for n in 1..6 {
        assert_eq!(log.send(7, 0, n * 10, 10), format!("again {}", n * 10));
    }
    assert_eq!(log.send(7, 0, 0, 10), "expected 60", "the sixth is forgotten, and not called a duplicate");
    assert_eq!(log.send(7, 0, 50, 9), "expected 60", "a part of a batch is not the batch");
    assert_eq!(log.send(7, 0, 51, 9), "expected 60");
    assert_eq!(log.send(7, 0, 50, 20), "expected 60");
    assert_eq!(log.send(7, 0, 70, 1), "expected 60", "a batch before it is missing");
    assert_eq!(log.send(7, 0, 60, 1), "new 60");
}

#[test]
fn an_epoch_begins_at_sequence_0_and_ends_the_one_before() {
    let mut log = Script::new();
    log.send(7, 3, 0, 5);
    assert_eq!(log.send(7, 4, 5, 5), "expected 0");
    assert_eq!(log.send(7, 4, 0, 5), "new 5");
    assert_eq!(log.send(7, 4, 0, 5), "again 5", "not what the epoch before had at this place");
    assert_eq!(log.send(7, 3, 0, 5), "epoch 4");
    assert_eq!(log.send(7, 3, 5, 5), "epoch 4");
}

#[test]
fn sequences_wrap_inside_of_batches_and_between_them() {
    let mut log = Script::new();
    assert_eq!(log.send(7, 0, i32::MAX - 4, 5), "new 0");
    assert_eq!(log.send(7, 0, 0, 2), "new 5");
    log.send(8, 0, i32::MAX - 1, 1);
    assert_eq!(log.send(8, 0, i32::MAX, 3), "new 8");
    assert_eq!(log.send(8, 0, i32::MAX, 3), "again 8");
    assert_eq!(log.send(8, 0, 2, 1), "new 11");
}

#[test]
fn who_is_not_known_may_begin_anywhere() {
    let mut log = Script::new();
    assert_eq!(log.send(7, 5, 40, 1), "new 0");
    assert_eq!(log.send(7, 5, 39, 1), "expected 41");
}

#[test]
fn the_least_recent_producer_is_forgotten_past_the_limit() {
    let mut log = Script::new();
    for (id, first) in [(1, 0), (2, 0), (3, 0), (1, 3), (4, 0)] {
        assert!(log.send(id, 0, first, 3).starts_with("new"));
    }
    let kept: Vec<_> = log.producers.iter().map(|(id, _)| id.0).collect();
    assert_eq!(kept, [3, 1, 4], "2 appended least recently");
    assert_eq!(log.producers.by_id.len(), 3);
}

#[test]
fn who_is_silent_for_too_long_is_forgotten() {
    let mut log = Script::new();
    log.send(1, 0, 0, 1);
    log.now = TimestampMs(999);
    assert_eq!(log.send(1, 0, 0, 1), "again 0");
    log.now = TimestampMs(1000);
    assert_eq!(log.send(1, 0, 7, 1), "new 1", "gone, although nothing has swept it away");
    log.now = TimestampMs(2000);
    log.send(2, 0, 0, 1);
    assert_eq!(log.producers.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [2]);
    // A clock that jumps back forgets nobody.
    log.now = TimestampMs(-5000);
    assert_eq!(log.send(2, 0, 0, 1), "again 2");
}

#[test]
fn batches_without_a_sequence_leave_no_trace() {
    let mut producers = Producers::new(LIMITS);
    let mut marker = header(7, 0, -1, 1, 0);
    marker.attributes = Attributes(Attributes::CONTROL | Attributes::TRANSACTIONAL);
    for header in [header(-1, -1, -1, 1, 0), marker] {
        assert_eq!(producers.check(&header, TimestampMs(0)), Ok(Verdict::New));
        assert!(!producers.note(&header, TimestampMs(0)));
    }
    assert_eq!(producers.iter().len(), 0);
}

/// Everything that was ever appended: (id, epoch, first sequence, count, base offset, when).
#[derive(Default)]
struct Model(Vec<(i64, i16, i32, i32, i64, i64)>);

impl Model {
    /// The ids that are remembered: the last ones to append, and not too long ago.
    fn remembered(&self, now: i64) -> Vec<i64> {
        let mut ids = Vec::new();
        for (id, .., when) in self.0.iter().rev() {
            if !ids.contains(id) && ids.len() < LIMITS.producers_max && now - when < LIMITS.expiration_ms {
                ids.push(*id);
            }
        }
        ids
    }

    fn verdict(&self, id: i64, epoch: i16, first: i32, count: i32, now: i64) -> Result<Option<i64>, ()> {
        if !self.remembered(now).contains(&id) {
            return Ok(None);
        }
        // A producer that was forgotten in between begins afresh: only what came since counts.
        let mut own: Vec<_> = Vec::new();
        for (at, entry) in self.0.iter().enumerate().filter(|(_, entry)| entry.0 == id) {
            let before = Model(self.0[..at].to_vec());
            if !before.remembered(entry.5).contains(&id) {
                own.clear();
            }
            own.push(*entry);
        }
        let current = own.last().unwrap().1;
        if epoch < current {
            return Err(());
        }
        if epoch > current {
            return if first == 0 { Ok(None) } else { Err(()) };
        }
        own.retain(|entry| entry.1 == epoch);
        let last = own.last().unwrap();
        if i64::from(first) == (i64::from(last.2) + i64::from(last.3)) % (1 << 31) {
            return Ok(None);
        }
        let same = own.iter().rev().take(5).find(|entry| (entry.2, entry.3) == (first, count));
        same.map(|entry| Some(entry.4)).ok_or(())
    }
}

proptest! {
    #[test]
    fn verdicts_are_those_of_a_model_that_remembers_everything(
        sends in proptest::collection::vec((0..5i64, 0..3i16, 0..5i32, 1..4i32, 0..300i64, 0..4u8), 1..120),
    ) {
        let (mut producers, mut model) = (Producers::new(LIMITS), Model::default());
        let (mut end, mut now) = (0, 0);
        for (id, epoch, guess, count, passed, choice) in sends {
            now += passed;
            // What a producer would send next or again, as often as anything.
            let own: Vec<_> = model.0.iter().filter(|entry| entry.0 == id).collect();
            let (epoch, first, count) = match (choice, own.last()) {
                (0, Some(last)) => (last.1, last.2.wrapping_add(last.3) & i32::MAX, count),
                (1, Some(_)) => {
                    let again = own[own.len().saturating_sub(1 + guess as usize)];
                    (again.1, again.2, again.3)
                }
                (2, _) => (epoch, i32::MAX - guess, count),
                _ => (epoch, guess, count),
            };
            let header = header(id, epoch, first, count, end);
            let found = producers.check(&header, TimestampMs(now));
            let shown = found.as_ref().map_err(|_| ()).map(|verdict| match verdict {
                Verdict::New => None,
                Verdict::Duplicate { base_offset, .. } => Some(base_offset.0),
            });
            prop_assert_eq!(shown, model.verdict(id, epoch, first, count, now), "{:?} at {}", header, now);
            if found == Ok(Verdict::New) {
                producers.note(&header, TimestampMs(now));
                model.0.push((id, epoch, first, count, end, now));
                end += i64::from(count);
                prop_assert!(producers.iter().len() <= LIMITS.producers_max);
            }
        }
    }
}
