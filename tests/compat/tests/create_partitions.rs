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

/// Between routing epochs there are markers in the log that only our clients know. Others pass over them, wherever they begin.
#[test]
fn kafkas_clients_pass_over_the_markers_of_routing_epochs() {
    let broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "t"]).unwrap().ok().unwrap();
    let message = |n: u8| Message::new(0, Some(b"k"), Some(&[b'0' + n]));
    // At the beginning, two in a row, between records, at the end.
    for (partitions, records) in [("2", 0..0), ("3", 0..2), ("4", 2..3), ("5", 3..3)] {
        let records: Vec<_> = records.map(message).collect();
        sdk::produce(&broker, "t", &records).unwrap();
        broker.cli(&["topic", "alter", "t", "--partitions", partitions]).unwrap().ok().unwrap();
    }
    let values = |read: Vec<millstream_test_support::message::Placed>| -> Vec<(i64, Vec<u8>)> {
        read.into_iter().map(|placed| (placed.offset, placed.message.value.unwrap())).collect()
    };
    let expected = [(1, b"0".to_vec()), (2, b"1".to_vec()), (4, b"2".to_vec())];
    assert_eq!(values(sdk::consume(&broker, "t").unwrap()), expected);
    assert_eq!(values(peers::kcat_consume(broker.address(), "t").unwrap()), expected);
    assert_eq!(values(peers::kafka_python_consume(broker.address(), "t").unwrap()), expected);
    let address = broker.address().to_string();
    for isolation in ["read_committed", "read_uncommitted"] {
        // From a marker on, and from the last one.
        for (offset, expected) in [("3", "2\n"), ("5", "")] {
            let isolation = format!("isolation.level={isolation}");
            let words = ["-C", "-b", &address, "-t", "t", "-p", "0", "-o", offset, "-e", "-q", "-X", &isolation];
            let read = peers::kcat(&words.map(Into::into), b"").unwrap().ok().unwrap();
            assert_eq!(read.text(), expected, "{isolation} from {offset}");
        }
    }
    let committed = peers::python(SCRIPT, &["consume_committed", &address, "t"], b"").unwrap().ok().unwrap();
    assert_eq!(committed.json().unwrap().len(), 3);
}
