//! What can be asked of produce and consume, by the program's own flags, against a real broker.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use millstream_test_support::broker::Broker;
use serde_json::Value;

/// A broker with a topic of three partitions.
fn broker_with(topic: &str) -> Broker {
    let broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", topic, "--partitions", "3"]).unwrap().ok().unwrap();
    broker
}

/// What was printed of a command that must succeed.
fn good(broker: &Broker, words: &[&str], input: &[u8]) -> String {
    broker.cli_with(words, input).unwrap().ok().unwrap().text()
}

/// Every record of a topic, as `consume --format json` prints it.
fn records(broker: &Broker, topic: &str, more: &[&str]) -> Vec<Value> {
    let words = ["consume", topic, "--from", "beginning", "--until", "end", "--format", "json"];
    broker.json(&[&words[..], more].concat()).unwrap()
}

/// Ten megabytes in lines that all differ.
fn ten_megabytes() -> (Vec<u8>, usize) {
    let line = |number: usize| format!("{number:07} {}\n", "x".repeat(991));
    let count = 10_000;
    ((0..count).flat_map(|number| line(number).into_bytes()).collect(), count)
}

#[test]
fn what_nobody_acknowledges_has_arrived_all_the_same_when_the_command_ends() {
    let broker = broker_with("metrics");
    let (lines, count) = ten_megabytes();
    let told = broker.cli_with(&["produce", "metrics", "--acks", "0"], &lines).unwrap().ok().unwrap();
    assert!(told.stderr.contains(&format!("{count} records sent to metrics")), "{}", told.stderr);
    let read = good(&broker, &["consume", "metrics", "--from", "beginning", "--until", "end"], b"");
    let mut read: Vec<_> = read.lines().map(|line| &line[..7]).collect();
    read.sort_unstable();
    let expected: Vec<_> = (0..count).map(|number| format!("{number:07}")).collect();
    assert_eq!(read.len(), count);
    assert!(read == expected);
}

#[test]
fn lines_before_one_that_is_refused_have_arrived_without_acknowledgements_too() {
    let broker = broker_with("metrics");
    let mut input: Vec<u8> = (0..2000).flat_map(|number| format!("{{\"id\":{number}}}\n").into_bytes()).collect();
    input.extend_from_slice(b"{\"no\":1}\n");
    let words = ["produce", "metrics", "--acks", "0", "--format", "ndjson", "--key", "id"];
    let refused = broker.cli_with(&words, &input).unwrap();
    assert_eq!(refused.code, Some(1));
    for said in ["line 2001", "2000 records before it sent", "nothing after it"] {
        assert!(refused.stderr.contains(said), "no {said:?} in {}", refused.stderr);
    }
    assert_eq!(records(&broker, "metrics", &[]).len(), 2000);
}
