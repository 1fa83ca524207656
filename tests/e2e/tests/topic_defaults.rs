//! What topics have that they are not given: told where a broker is started, for topics that are there already, too.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use millstream_test_support::broker::Broker;
use serde_json::{Value, json};

/// A topic's setting, and where it is from.
fn setting(broker: &Broker, topic: &str, name: &str) -> (Value, Value) {
    let told = broker.json(&["topic", "describe", topic, "--output", "json"]).unwrap();
    let configs = told[0]["configs"].as_array().unwrap();
    let entry = configs.iter().find(|entry| entry["name"] == name).unwrap();
    (entry["value"].clone(), entry["source"].clone())
}

#[test]
fn a_topic_has_what_the_broker_is_started_with_unless_it_was_given_its_own() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let started = |words: &[&str]| {
        let mut broker = Broker::over(data.clone(), words).unwrap();
        broker.restart().unwrap();
        broker
    };
    let mut broker = started(&["--set", "log.retention.hours=2", "--set", "log.segment.bytes=2097152"]);
    broker.cli(&["topic", "create", "open"]).unwrap().ok().unwrap();
    broker.cli(&["topic", "create", "given", "--config", "retention.ms=7200000"]).unwrap().ok().unwrap();
    assert_eq!(setting(&broker, "open", "retention.ms"), (json!("7200000"), json!("static")));
    assert_eq!(setting(&broker, "open", "segment.bytes"), (json!("2097152"), json!("static")));
    assert_eq!(setting(&broker, "given", "retention.ms"), (json!("7200000"), json!("topic")));
    let table = broker.cli(&["topic", "describe", "open"]).unwrap().ok().unwrap().text();
    let row = table.lines().find(|line| line.starts_with("retention.ms")).unwrap();
    assert!(row.ends_with("from log.retention.ms"), "{table}");
    broker.stop().unwrap();
    drop(broker);

    let mut broker = started(&["--set", "log.retention.ms=-1"]);
    assert_eq!(setting(&broker, "open", "retention.ms"), (json!("-1"), json!("static")));
    assert_eq!(setting(&broker, "open", "segment.bytes"), (json!("1073741824"), json!("default")));
    assert_eq!(setting(&broker, "given", "retention.ms"), (json!("7200000"), json!("topic")));
    broker.cli(&["topic", "alter", "given", "--reset", "retention.ms"]).unwrap().ok().unwrap();
    assert_eq!(setting(&broker, "given", "retention.ms"), (json!("-1"), json!("static")));
    // Killed, and started with nothing.
    broker.kill().unwrap();
    drop(broker);
    let mut broker = started(&[]);
    for topic in ["open", "given"] {
        assert_eq!(setting(&broker, topic, "retention.ms"), (json!("604800000"), json!("default")), "{topic}");
    }
    broker.stop().unwrap();
}
