//! A topic's settings changed by somebody else's client and by ours: each sees what the other has done, and it holds.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use millstream_test_support::{broker::Broker, message::Message, peers, sdk};
use serde_json::{Value, json};

const SCRIPT: &str = "tests/compat/python/kafka_python.py";

/// What kafka-python is told, and the settings that it is shown as ones that can be changed.
fn alter(broker: &Broker, changes: &Value) -> (String, Value) {
    let words = ["alter", &broker.address().to_string(), "t"];
    let said = peers::python(SCRIPT, &words, changes.to_string().as_bytes()).unwrap().ok().unwrap();
    let mut said = said.json().unwrap().remove(0);
    (said["told"].as_str().unwrap().to_owned(), said["configs"].take())
}

/// What our own command shows.
fn shown(broker: &Broker, setting: &str) -> Value {
    let told = broker.json(&["topic", "describe", "t", "--output", "json"]).unwrap();
    let configs = told[0]["configs"].as_array().unwrap();
    configs.iter().find(|entry| entry["name"] == setting).unwrap().clone()
}

#[test]
fn settings_that_kafka_python_changes_are_in_force_and_stay_so() {
    let mut broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "t", "--config", "retention.ms=5000"]).unwrap().ok().unwrap();
    let large = [Message::new(0, Some(b"k"), Some(&[b'x'; 3000]))];
    sdk::produce(&broker, "t", &large).unwrap();
    let (told, configs) = alter(
        &broker,
        &json!({
            "max.message.bytes": ["SET", "2000"],
            "retention.ms": ["DELETE", null],
            "cleanup.policy": ["APPEND", "compact"],
        }),
    );
    assert_eq!(told, "OK");
    assert_eq!(configs["max.message.bytes"], "2000");
    assert_eq!(configs["retention.ms"], "604800000");
    assert_eq!(configs["cleanup.policy"], "compact,delete");
    assert_eq!(alter(&broker, &json!({"cleanup.policy": ["SUBTRACT", "delete"]})).1["cleanup.policy"], "compact");
    for round in ["at once", "after kill -9"] {
        assert!(sdk::produce(&broker, "t", &large).is_err(), "{round}: a record above the new limit");
        // Of a compacted topic.
        assert!(sdk::produce(&broker, "t", &[Message::new(0, None, Some(b"x"))]).is_err(), "{round}: without a key");
        sdk::produce(&broker, "t", &[Message::new(0, Some(b"k"), Some(&[b'x'; 1000]))]).unwrap();
        assert_eq!(shown(&broker, "max.message.bytes")["value"], "2000", "{round}");
        assert_eq!(shown(&broker, "retention.ms")["is_default"], true, "{round}");
        if round == "at once" {
            broker.kill().unwrap();
            broker.restart().unwrap();
        }
    }
    // Ours gives the limit back, and kafka-python sees it.
    broker
        .cli(&["topic", "alter", "t", "--reset", "max.message.bytes", "--config", "segment.ms=7"])
        .unwrap()
        .ok()
        .unwrap();
    let (told, configs) = alter(&broker, &json!({}));
    assert_eq!((told.as_str(), &configs["segment.ms"]), ("OK", &json!("7")));
    sdk::produce(&broker, "t", &large).unwrap();
}

#[test]
fn what_is_refused_changes_nothing_and_kafka_python_is_told_why() {
    let broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "t"]).unwrap().ok().unwrap();
    for (changes, code, said) in [
        (json!({"no.such": ["SET", "1"]}), "InvalidConfig", "no.such"),
        (json!({"segment.bytes": ["SET", "1"], "segment.ms": ["SET", "1"]}), "InvalidConfig", "segment.bytes"),
        (json!({"segment.ms": ["APPEND", "1"]}), "InvalidConfig", "not a list"),
        (json!({"cleanup.policy": ["SUBTRACT", "delete"]}), "InvalidConfig", "cleanup.policy"),
        (json!({"segment.ms": ["SET", null]}), "InvalidRequest", "no value"),
    ] {
        let (told, configs) = alter(&broker, &changes);
        assert!(told.contains(code) && told.contains(said), "{changes}: {told}");
        assert_eq!((&configs["segment.ms"], &configs["cleanup.policy"]), (&json!("604800000"), &json!("delete")));
    }
}
