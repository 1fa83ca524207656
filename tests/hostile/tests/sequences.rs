//! Producer ids and sequences, byte for byte as a client sends them: what is sent again is there once, and what has no place
//! in its sequence is refused with Kafka's code.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::time::Duration;

use bytes::Bytes;
use millstream_model::{ProducerEpoch, ProducerId, Sequence, TimestampMs};
use millstream_record::{BatchBuilder, BatchOptions};
use millstream_test_support::broker::Broker;
use millstream_tests_hostile::door::{self, Outcome, request};

const PATIENCE: Duration = Duration::from_secs(20);
const PRODUCE: i16 = 0;
const INIT_PRODUCER_ID: i16 = 22;

const OUT_OF_ORDER: i16 = 45;
const INVALID_EPOCH: i16 = 47;
const INVALID_RECORD: i16 = 87;
const INVALID_REQUEST: i16 = 42;
const STALE_ROUTING: i16 = 20_004;

fn ask(broker: &Broker, bytes: &[u8]) -> Vec<u8> {
    match door::send(broker.address(), bytes, PATIENCE).unwrap() {
        Outcome::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

/// A batch of `count` records.
fn batch(id: i64, epoch: i16, sequence: i32, count: i32) -> Bytes {
    batch_of(
        BatchOptions {
            producer_id: ProducerId(id),
            producer_epoch: ProducerEpoch(epoch),
            base_sequence: Sequence(sequence),
            ..BatchOptions::default()
        },
        count,
    )
}

fn batch_of(options: BatchOptions, count: i32) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    for n in 0..count {
        builder.push(TimestampMs(1_700_000_000_000), None, Some(format!("{n}").as_bytes()), &[]).unwrap();
    }
    builder.build().unwrap()
}

/// Produces to partition 0 of topic `t`; the error code and the base offset.
fn produce(broker: &Broker, batch: &[u8]) -> (i16, i64) {
    let mut body = Vec::new();
    body.extend((-1_i16).to_be_bytes());
    body.extend((-1_i16).to_be_bytes());
    body.extend(20_000_i32.to_be_bytes());
    body.extend([0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 0]);
    body.extend((batch.len() as i32).to_be_bytes());
    body.extend(batch);
    let answer = ask(broker, &request(PRODUCE, 7, 1, b"", &body));
    // Correlation, one topic of one letter, one partition.
    let at = 4 + 4 + 3 + 4 + 4;
    (i16::from_be_bytes(number(&answer, at)), i64::from_be_bytes(number(&answer, at + 2)))
}

/// The same in version 9, with our tag that says in which routing epoch the partition was chosen.
fn produce_routed(broker: &Broker, batch: &[u8], routing_epoch: i32) -> (i16, i64) {
    // No tags in the header, no transactional id.
    let mut body = vec![0, 0];
    body.extend((-1_i16).to_be_bytes());
    body.extend(20_000_i32.to_be_bytes());
    body.extend([2, 2, b't', 2, 0, 0, 0, 0]);
    let mut length = batch.len() + 1;
    while length >= 0x80 {
        body.push(length as u8 | 0x80);
        length >>= 7;
    }
    body.push(length as u8);
    body.extend(batch);
    // One tag, 20000, four bytes; none of the topic, none of the request.
    body.extend([1, 0xa0, 0x9c, 0x01, 4]);
    body.extend(routing_epoch.to_be_bytes());
    body.extend([0, 0]);
    let answer = ask(broker, &request(PRODUCE, 9, 1, b"", &body));
    let at = 4 + 1 + 1 + 2 + 1 + 4;
    (i16::from_be_bytes(number(&answer, at)), i64::from_be_bytes(number(&answer, at + 2)))
}

/// InitProducerId of version 4: the error code, the id and its epoch.
fn init(broker: &Broker, transactional_id: Option<&str>, id: i64, epoch: i16) -> (i16, i64, i16) {
    let mut body = vec![0];
    match transactional_id {
        Some(text) => {
            body.push(text.len() as u8 + 1);
            body.extend(text.as_bytes());
        }
        None => body.push(0),
    }
    body.extend(60_000_i32.to_be_bytes());
    body.extend(id.to_be_bytes());
    body.extend(epoch.to_be_bytes());
    body.push(0);
    let answer = ask(broker, &request(INIT_PRODUCER_ID, 4, 1, b"", &body));
    let at = 4 + 1 + 4;
    (
        i16::from_be_bytes(number(&answer, at)),
        i64::from_be_bytes(number(&answer, at + 2)),
        i16::from_be_bytes(number(&answer, at + 10)),
    )
}

fn broker() -> Broker {
    let broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "t"]).unwrap().ok().unwrap();
    broker
}

#[test]
fn what_is_sent_again_is_there_once_also_after_kill_9() {
    let mut broker = broker();
    let (error, id, epoch) = init(&broker, None, -1, -1);
    assert_eq!((error, epoch), (0, 0));
    for n in 0..7 {
        assert_eq!(produce(&broker, &batch(id, 0, n * 3, 3)), (0, i64::from(n) * 3));
    }
    let again = |broker: &Broker| {
        for n in 2..7 {
            assert_eq!(produce(broker, &batch(id, 0, n * 3, 3)), (0, i64::from(n) * 3), "it has its offset already");
        }
        assert_eq!(produce(broker, &batch(id, 0, 3, 3)).0, OUT_OF_ORDER, "too old to be known");
        assert_eq!(produce(broker, &batch(id, 0, 24, 3)), (OUT_OF_ORDER, -1), "one before it is missing");
    };
    again(&broker);
    broker.kill().unwrap();
    broker.restart().unwrap();
    again(&broker);
    broker.stop().unwrap();
    broker.restart().unwrap();
    again(&broker);
    assert_eq!(produce(&broker, &batch(id, 0, 21, 3)), (0, 21));

    // The next epoch begins at 0, and ends this one.
    assert_eq!(produce(&broker, &batch(id, 1, 24, 1)).0, OUT_OF_ORDER);
    assert_eq!(produce(&broker, &batch(id, 1, 0, 1)), (0, 24));
    assert_eq!(produce(&broker, &batch(id, 0, 24, 1)).0, INVALID_EPOCH);
    assert_eq!(produce(&broker, &batch(id, 0, 21, 3)).0, INVALID_EPOCH);
    // Who is not known may begin anywhere, and wrap.
    let other = init(&broker, None, -1, -1).1;
    assert_eq!(produce(&broker, &batch(other, 4, i32::MAX - 1, 3)), (0, 25));
    assert_eq!(produce(&broker, &batch(other, 4, 1, 1)), (0, 28));
    assert_eq!(produce(&broker, &batch(other, 4, i32::MAX - 1, 3)), (0, 25));
}

#[test]
fn what_no_producer_may_send_is_refused() {
    let broker = broker();
    let id = init(&broker, None, -1, -1).1;
    let reserved = 1_i64 << 62;
    for (reason, batch) in [
        ("an id that is the broker's own", batch(reserved, 0, 0, 1)),
        ("the last id there is", batch(i64::MAX, 0, 0, 1)),
        ("a negative id", batch(-2, 0, 0, 1)),
        ("an id without an epoch", batch(id, -1, 0, 1)),
        ("an id without a sequence", batch(id, 0, -1, 1)),
    ] {
        assert_eq!(produce(&broker, &batch), (INVALID_RECORD, -1), "{reason}");
    }
    let transactional = BatchOptions {
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(0),
        base_sequence: Sequence(0),
        transactional: true,
        ..BatchOptions::default()
    };
    assert_eq!(produce(&broker, &batch_of(transactional, 1)), (INVALID_REQUEST, -1));
    assert_eq!(produce(&broker, &batch(id, 0, 0, 1)), (0, 0), "nothing of it was appended");
}

#[test]
fn ids_are_given_once_and_the_next_epoch_to_who_has_one() {
    let mut broker = broker();
    let mut given = Vec::new();
    for _ in 0..3 {
        for _ in 0..700 {
            let (error, id, epoch) = init(&broker, None, -1, -1);
            assert_eq!((error, epoch), (0, 0));
            given.push(id);
        }
        broker.kill().unwrap();
        broker.restart().unwrap();
    }
    assert!(given.is_sorted_by(|one, other| one < other), "none twice, whatever block it is from");
    let id = given[5];
    assert_eq!(init(&broker, None, id, 3), (0, id, 4));
    let (error, other, epoch) = init(&broker, None, id, i16::MAX);
    assert_eq!((error, epoch), (0, 0));
    assert!(!given.contains(&other), "after the last epoch comes another id");
    for (reason, id, epoch, code) in [
        ("an id without an epoch", id, -1, INVALID_REQUEST),
        ("an epoch without an id", -1, 0, INVALID_REQUEST),
        ("a negative epoch", id, -7, INVALID_REQUEST),
    ] {
        assert_eq!(init(&broker, None, id, epoch), (code, -1, -1), "{reason}");
    }
    for (reason, unknown) in [("an id that nobody was given", 1_000_000), ("a reserved id", 1 << 62)] {
        let (error, other, epoch) = init(&broker, None, unknown, 0);
        assert_eq!((error, epoch), (0, 0), "{reason}");
        assert!(other != unknown && !given.contains(&other), "{reason}: another one");
    }
    assert_eq!(init(&broker, Some("tx"), -1, -1), (53, -1, -1), "transactions are not built yet");
}

#[test]
fn a_batch_that_is_there_is_no_matter_of_routing_any_more() {
    let broker = broker();
    let id = init(&broker, None, -1, -1).1;
    assert_eq!(produce_routed(&broker, &batch(id, 0, 0, 2), 0), (0, 0));
    // The topic was never in that epoch: as if the routing had changed since.
    assert_eq!(produce_routed(&broker, &batch(id, 0, 0, 2), 5), (0, 0), "dedupe first");
    assert_eq!(produce_routed(&broker, &batch(id, 0, 2, 2), 5), (STALE_ROUTING, -1), "routing second");
    assert_eq!(produce_routed(&broker, &batch(id, 0, 2, 2), 0), (0, 2));
}
