//! Other peoples' idempotent producers: served as they are, and what they send is numbered in the log.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::ffi::OsString;

use millstream_test_support::{
    broker::Broker,
    message::{Message, Placed},
    peers, sdk,
};

/// Producer id, epoch and base sequence of each batch in the only partition of a broker's only topic, as stored.
fn stored(broker: &Broker) -> Vec<(i64, i16, i32)> {
    let only = |dir: std::path::PathBuf| {
        let mut found: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    };
    let log = only(only(only(broker.data_dir().join("logs"))));
    let bytes = std::fs::read(log.join("00000000000000000000.log")).unwrap();
    let mut batches = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
        batches.push((
            i64::from_be_bytes(rest[43..51].try_into().unwrap()),
            i16::from_be_bytes(rest[51..53].try_into().unwrap()),
            i32::from_be_bytes(rest[53..57].try_into().unwrap()),
        ));
        rest = &rest[12 + length..];
    }
    batches
}

fn values(read: &[Placed]) -> Vec<String> {
    read.iter().map(|placed| String::from_utf8(placed.message.value.clone().unwrap()).unwrap()).collect()
}

fn broker() -> Broker {
    let broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "t"]).unwrap().ok().unwrap();
    broker
}

/// All of one producer, numbered from 0.
fn check_numbered(batches: &[(i64, i16, i32)]) {
    assert!(!batches.is_empty());
    for (id, epoch, _) in batches {
        assert_eq!((*id, *epoch), (batches[0].0, 0));
        assert!(*id >= 0, "it was numbered");
    }
    assert_eq!(batches[0].2, 0);
    assert!(batches.is_sorted_by(|one, other| one.2 < other.2));
}

#[test]
fn kafka_python_produces_idempotently_by_default() {
    let broker = broker();
    let sent: Vec<_> = (0..3000).map(|n| Message::new(0, Some(b"k"), Some(n.to_string().as_bytes()))).collect();
    let places = peers::kafka_python_produce(broker.address(), "t", &sent).unwrap();
    assert_eq!(places, (0..3000).map(|offset| (0, offset)).collect::<Vec<_>>());
    assert_eq!(values(&sdk::consume(&broker, "t").unwrap()), (0..3000).map(|n| n.to_string()).collect::<Vec<_>>());
    check_numbered(&stored(&broker));
}

#[test]
fn librdkafka_produces_idempotently_when_asked() {
    let broker = broker();
    let address = broker.address().to_string();
    let words = ["-P", "-b", &address, "-t", "t", "-X", "enable.idempotence=true"];
    // Small batches, so that several are under way at a time.
    let words = words.into_iter().chain(["-X", "batch.num.messages=50"]).map(OsString::from);
    let lines: Vec<_> = (0..3000).map(|n| n.to_string()).collect();
    peers::kcat(&words.collect::<Vec<_>>(), (lines.join("\n") + "\n").as_bytes()).unwrap().ok().unwrap();
    assert_eq!(values(&sdk::consume(&broker, "t").unwrap()), lines);
    let batches = stored(&broker);
    assert!(batches.len() >= 60, "{} batches", batches.len());
    check_numbered(&batches);
}

#[test]
fn kafka_pythons_retries_through_kill_9_leave_each_record_once() {
    const COUNT: i64 = 60_000;
    let mut broker = broker();
    let sent: Vec<_> = (0..COUNT).map(|n| Message::new(0, Some(b"k"), Some(n.to_string().as_bytes()))).collect();
    let address = broker.address();
    let producer = std::thread::spawn(move || peers::kafka_python_produce(address, "t", &sent));
    // Killed twice in the middle of it.
    for share in [1, 2] {
        let end = |broker: &Broker| {
            let told = broker.json(&["topic", "describe", "t", "--output", "json"]).unwrap();
            told[0]["partitions"][0]["end_offset"].as_i64().unwrap()
        };
        let start = std::time::Instant::now();
        while end(&broker) < COUNT / 4 * share {
            assert!(start.elapsed().as_secs() < 60, "kafka-python does not get on");
        }
        broker.kill().unwrap();
        broker.restart_in_place().unwrap();
        assert!(end(&broker) < COUNT, "the kill came too late to be one");
    }
    let places = producer.join().unwrap().unwrap();
    assert_eq!(places, (0..COUNT).map(|offset| (0, offset)).collect::<Vec<_>>());
    assert_eq!(values(&sdk::consume(&broker, "t").unwrap()), (0..COUNT).map(|n| n.to_string()).collect::<Vec<_>>());
}
