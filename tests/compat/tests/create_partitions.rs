//! More partitions, asked for by somebody else's client: it produces to them at once, and everybody reads them.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use millstream_test_support::{broker::Broker, message::Message, peers, sdk};
use serde_json::{Value, json};

const SCRIPT: &str = "tests/compat/python/kafka_python.py";

/// What kafka-python is told: a code and words.
fn grow(broker: &Broker, asked: &Value) -> (i64, String) {
    let words = ["grow", &broker.address().to_string(), "t"];
    let told = peers::python(SCRIPT, &words, asked.to_string().as_bytes()).unwrap().ok().unwrap().json().unwrap();
    (told[0][0].as_i64().unwrap(), told[0][1].as_str().unwrap_or_default().to_owned())
}

#[test]
fn partitions_that_kafka_python_asks_for_are_there_at_once() {
    let broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "t", "--partitions", "2"]).unwrap().ok().unwrap();
    let of = |partitions: std::ops::Range<i32>| -> Vec<_> {
        partitions.map(|partition| Message::new(partition, Some(b"k"), Some(&[b'0' + partition as u8]))).collect()
    };
    sdk::produce(&broker, "t", &of(0..2)).unwrap();
    assert_eq!(grow(&broker, &json!({"count": 5})), (0, String::new()));
    peers::kafka_python_produce(broker.address(), "t", &of(2..5)).unwrap();
    let sorted = |mut read: Vec<millstream_test_support::message::Placed>| {
        read.sort_by_key(|placed| placed.message.partition);
        read.into_iter().map(|placed| placed.message.value.unwrap()).collect::<Vec<_>>()
    };
    let expected: Vec<_> = (0..5).map(|at| vec![b'0' + at]).collect();
    assert_eq!(sorted(sdk::consume(&broker, "t").unwrap()), expected);
    assert_eq!(sorted(peers::kcat_consume(broker.address(), "t").unwrap()), expected);
    assert_eq!(sorted(peers::kafka_python_consume(broker.address(), "t").unwrap()), expected);

    assert_eq!(grow(&broker, &json!({"count": 5})), (37, "Topic already has 5 partition(s).".into()));
    let fewer = "The topic t currently has 5 partition(s); 4 would not be an increase.";
    assert_eq!(grow(&broker, &json!({"count": 4})), (37, fewer.into()));
    let (code, words) = grow(&broker, &json!({"count": 6, "assignments": [[99]]}));
    assert!(code == 39 && words.contains("includes broker 99"), "{code} {words}");
    assert_eq!(grow(&broker, &json!({"count": 6, "validate_only": true})).0, 0);
    assert_eq!(grow(&broker, &json!({"count": 6, "assignments": [[1]]})).0, 0);
}
