//! A compacted topic: the newest record of each key stays, whoever reads it and whatever happens to the broker.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use millstream_test_support::{broker::Broker, message::Message, sdk};

/// How long a pass may be waited for, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
const KEYS: usize = 50;
/// Four and a half segments of the least size.
const MESSAGES: usize = 500;

fn message(at: usize) -> Message {
    let key = format!("key-{}", at % KEYS);
    let value = [format!("value-{at}-").as_bytes(), &[b'x'; 9_000]].concat();
    Message::new(0, Some(key.as_bytes()), Some(&value))
}

/// The newest value of each key, and how many records there are.
fn read(broker: &Broker) -> (BTreeMap<Vec<u8>, Vec<u8>>, usize) {
    let records = sdk::consume(broker, "state").unwrap();
    assert!(records.is_sorted_by_key(|placed| placed.offset));
    let count = records.len();
    (records.into_iter().map(|placed| (placed.message.key.unwrap(), placed.message.value.unwrap())).collect(), count)
}

#[test]
fn the_newest_of_each_key_stays_and_a_record_without_one_is_refused() {
    let mut broker = Broker::start_with(&["--compaction-check-ms", "20"]).unwrap();
    let create =
        ["topic", "create", "state", "--config", "cleanup.policy=compact", "--config", "segment.bytes=1048576"];
    broker.cli(&create).unwrap().ok().unwrap();
    let messages: Vec<_> = (0..MESSAGES).map(message).collect();
    sdk::produce(&broker, "state", &messages).unwrap();
    let newest: BTreeMap<_, _> = messages.iter().map(|m| (m.key.clone().unwrap(), m.value.clone().unwrap())).collect();
    let start = Instant::now();
    // What is in closed segments of the least size is about 460 records of 50 keys.
    loop {
        let (found, count) = read(&broker);
        assert!(found == newest, "of a key another record than the newest is left");
        if count < MESSAGES / 2 {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{count} records are left: no pass comes");
        thread::sleep(Duration::from_millis(20));
    }
    broker.kill().unwrap();
    broker.restart().unwrap();
    assert!(read(&broker).0 == newest);
    // A key is what decides which records stay.
    let refused = broker.cli_with(&["produce", "state"], b"no key\n").unwrap();
    assert!(refused.ok().unwrap_err().to_string().contains("no key"));
    assert!(read(&broker).0 == newest);
}
