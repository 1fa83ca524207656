//! DeleteRecords by other peoples' clients and ours: what is before the offset is gone for every reader, and stays so.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use millstream_test_support::{
    broker::Broker,
    message::{Message, Placed},
    peers, sdk,
};
use serde_json::{Value, json};

const SCRIPT: &str = "tests/compat/python/kafka_python.py";

fn delete(broker: &Broker, before: &Value) -> Result<Value, String> {
    let words = ["delete_records", &broker.address().to_string(), "t"];
    let told = peers::python(SCRIPT, &words, before.to_string().as_bytes()).unwrap();
    match told.code {
        Some(0) => Ok(told.json().unwrap().remove(0)),
        _ => Err(told.stderr),
    }
}

/// The offsets that are left in a partition.
fn left(read: &[Placed], partition: i32) -> Vec<i64> {
    read.iter().filter(|placed| placed.message.partition == partition).map(|placed| placed.offset).collect()
}

#[test]
fn what_is_deleted_is_gone_for_every_reader_also_after_kill_9() {
    let mut broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "t", "--partitions", "2"]).unwrap().ok().unwrap();
    let of = |partition| (0..10).map(move |n: u8| Message::new(partition, None, Some(&[b'0' + n])));
    let sent: Vec<_> = of(0).chain(of(1)).collect();
    sdk::produce(&broker, "t", &sent).unwrap();
    // In the middle of a batch, and all.
    assert_eq!(delete(&broker, &json!({"0": 4, "1": -1})).unwrap(), json!({"0": 4, "1": 10}));
    // Further back is no change.
    assert_eq!(delete(&broker, &json!({"0": 2})).unwrap(), json!({"0": 4}));
    let refused = delete(&broker, &json!({"0": 11})).unwrap_err();
    assert!(refused.contains("OffsetOutOfRange"), "{refused}");
    for round in ["at once", "after kill -9"] {
        for read in [sdk::consume(&broker, "t").unwrap(), peers::kafka_python_consume(broker.address(), "t").unwrap()] {
            assert_eq!(left(&read, 0), [4, 5, 6, 7, 8, 9], "{round}");
            assert!(left(&read, 1).is_empty(), "{round}");
        }
        let told = broker.json(&["topic", "describe", "t", "--output", "json"]).unwrap();
        let starts: Vec<_> =
            told[0]["partitions"].as_array().unwrap().iter().map(|at| at["start_offset"].as_i64()).collect();
        assert_eq!(starts, [Some(4), Some(10)], "{round}");
        if round == "at once" {
            broker.kill().unwrap();
            broker.restart().unwrap();
        }
    }
    // Offsets are not used twice.
    let places = sdk::produce(&broker, "t", &[Message::new(1, None, Some(b"next"))]).unwrap();
    assert_eq!(places, [(1, 10)]);
}
