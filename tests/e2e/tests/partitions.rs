//! More partitions for a topic that is at work: who reads it, a view of it or a transform of it misses nothing and starts nothing anew.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use millstream_test_support::{broker::Broker, guests};
use serde_json::Value;

/// What was printed of a command that must succeed.
fn good(broker: &Broker, words: &[&str], input: &[u8]) -> String {
    broker.cli_with(words, input).unwrap().ok().unwrap().text()
}

/// Records with these numbers as their ids and keys.
fn produce(broker: &Broker, numbers: std::ops::Range<i64>) {
    let lines: String = numbers.map(|number| format!("{{\"id\":{number},\"secret\":\"s\"}}\n")).collect();
    good(broker, &["produce", "t", "--format", "ndjson", "--key", "id"], lines.as_bytes());
}

fn id(record: &Value) -> i64 {
    let value: Value = serde_json::from_str(record["value"].as_str().unwrap()).unwrap();
    value["id"].as_i64().unwrap()
}

/// The ids that a topic or view holds, each once, and its partitions.
fn all(broker: &Broker, name: &str) -> (Vec<i64>, BTreeSet<i64>) {
    let words = ["consume", name, "--from", "beginning", "--until", "end", "--format", "json"];
    let read = broker.json(&words).unwrap();
    let mut ids: Vec<_> = read.iter().map(id).collect();
    ids.sort_unstable();
    (ids, read.iter().map(|record| record["partition"].as_i64().unwrap()).collect())
}

/// Waits until the transform has done all records with ids below `count`.
fn wait_until_transformed(broker: &Broker, count: i64) {
    let start = Instant::now();
    while all(broker, "out").0 != (0..count).collect::<Vec<_>>() {
        assert!(start.elapsed() < Duration::from_secs(60), "{count} are not done: {:?}", all(broker, "out"));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_topic_gets_more_partitions_under_those_who_use_it() {
    let mut broker = Broker::start().unwrap();
    let module = guests::component("view-redact").unwrap();
    good(&broker, &["module", "push", module.to_str().unwrap(), "--name", "view-redact", "--version", "1"], b"");
    good(&broker, &["topic", "create", "t", "--partitions", "2"], b"");
    good(&broker, &["topic", "create", "out", "--partitions", "3"], b"");
    let chain = ["--chain", "view-redact@1", "--param", "fields=secret"];
    good(&broker, &[&["view", "create", "v", "--topic", "t"], &chain[..]].concat(), b"");
    let copy = ["--module", "view-redact@1", "--param", "fields=secret", "--input", "t", "--output", "out"];
    good(&broker, &[&["transform", "deploy", "copy", "--from", "end"], &copy[..]].concat(), b"");
    produce(&broker, 0..100);
    wait_until_transformed(&broker, 100);
    thread::scope(|scope| {
        // Each reads what was there, and goes on.
        let readers = ["t", "v", "out"].map(|name| {
            let broker = &broker;
            let words = ["consume", name, "--from", "beginning", "--count", "200", "--format", "json"];
            scope.spawn(move || broker.json(&words).unwrap())
        });
        good(&broker, &["topic", "alter", "t", "--partitions", "7"], b"");
        good(&broker, &["topic", "alter", "out", "--partitions", "4"], b"");
        produce(&broker, 100..200);
        for reader in readers {
            let mut ids: Vec<_> = reader.join().unwrap().iter().map(id).collect();
            ids.sort_unstable();
            assert_eq!(ids, (0..200).collect::<Vec<_>>());
        }
    });
    let described = broker.json(&["topic", "describe", "t", "--output", "json"]).unwrap().remove(0);
    let partitions = described["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 7);
    let ends: Vec<_> = partitions.iter().map(|at| at["end_offset"].as_i64().unwrap()).collect();
    assert!(ends[2..].iter().all(|end| *end > 0), "the new ones are used: {ends:?}");
    for name in ["t", "v"] {
        assert_eq!(all(&broker, name), ((0..200).collect(), (0..7).collect()), "{name}");
    }
    assert_eq!(all(&broker, "out").1, (0..4).collect(), "the transform uses its output's new partitions");
    // Again, with a broker that is killed at once.
    good(&broker, &["topic", "alter", "t", "--partitions", "12"], b"");
    broker.kill().unwrap();
    broker.restart().unwrap();
    produce(&broker, 200..300);
    wait_until_transformed(&broker, 300);
    for name in ["t", "v", "out"] {
        assert_eq!(all(&broker, name).0, (0..300).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn what_cannot_be_is_said_in_words() {
    let broker = Broker::start().unwrap();
    good(&broker, &["topic", "create", "t", "--partitions", "3"], b"");
    for (words, code, said) in [
        (&["t", "--partitions", "3"][..], 1, "already has 3 partition(s)"),
        (&["t", "--partitions", "2"], 1, "would not be an increase"),
        (&["absent", "--partitions", "2"], 1, "absent"),
        (&["t", "--partitions", "0"], 2, "more than the topic has"),
        (&["t", "--partitions", "many"], 2, "more than the topic has"),
        (&["t"], 2, "--config"),
    ] {
        let refused = broker.cli(&[&["topic", "alter"], words].concat()).unwrap();
        assert_eq!(refused.code, Some(code), "{words:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(said), "{words:?}: {}", refused.stderr);
    }
    let told = broker.cli(&["topic", "alter", "t", "--partitions", "4"]).unwrap().ok().unwrap();
    assert!(told.stderr.contains("topic t has 4 partitions now"), "{}", told.stderr);
    let both = ["topic", "alter", "t", "--partitions", "5", "--config", "retention.ms=5000", "--output", "json"];
    assert_eq!(broker.json(&both).unwrap()[0]["partitions"], 5);
}
