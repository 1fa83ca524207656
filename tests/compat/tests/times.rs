//! Whose time a record has: with `message.timestamp.type=LogAppendTime` the broker's, for every reader, and producers are told.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::time::{SystemTime, UNIX_EPOCH};

use millstream_test_support::{broker::Broker, message::Message, peers, sdk};
use serde_json::{Value, json};

const SCRIPT: &str = "tests/compat/python/kafka_python.py";
/// Kafka's number for LogAppendTime.
const LOG_APPEND_TIME: i64 = 1;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

fn python(broker: &Broker, verb: &str, input: &str) -> Vec<Value> {
    let words = [verb, &broker.address().to_string(), "stamped"];
    peers::python(SCRIPT, &words, input.as_bytes()).unwrap().ok().unwrap().json().unwrap()
}

#[test]
fn records_have_the_brokers_time_where_the_topic_says_so() {
    let broker = Broker::start().unwrap();
    let config = ["--config", "message.timestamp.type=LogAppendTime"];
    broker.cli(&[&["topic", "create", "stamped"], &config[..]].concat()).unwrap().ok().unwrap();
    let before = now_ms();
    // Both say that their records are from 2013.
    let old = Message::new(0, Some(b"k"), Some(b"ours"));
    sdk::produce(&broker, "stamped", &[old.clone(), old.clone()]).unwrap();
    let line = json!({"partition": 0, "timestamp": old.timestamp, "key": null, "value": "7468656972", "headers": []});
    let told = python(&broker, "produce", &format!("{line}\n"));
    let within = before..=now_ms();
    assert!(within.contains(&told[0]["timestamp"].as_i64().unwrap()), "a producer is told: {told:?}, {within:?}");
    let read = sdk::consume(&broker, "stamped").unwrap();
    let theirs = python(&broker, "consume", "");
    assert_eq!((read.len(), theirs.len()), (3, 3));
    for (ours, theirs) in read.iter().zip(&theirs) {
        assert!(within.contains(&ours.message.timestamp), "{ours:?}");
        assert_eq!(theirs["timestamp"], ours.message.timestamp);
        assert_eq!(theirs["timestamp_type"], LOG_APPEND_TIME);
    }
    assert_eq!(told[0]["timestamp"], read[2].message.timestamp);
}
