//! One partition's files are damaged: what people see who read, write and look at the topic, and that the rest of it works.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use millstream_test_support::broker::Broker;

/// The damaged partition of the topic's three.
const DAMAGED: i32 = 1;
/// What each partition has got, in values.
const VALUES: usize = 20;

fn partition_dir(broker: &Broker, topic: &str, partition: i32) -> PathBuf {
    let told = broker.json(&["topic", "describe", topic, "--output", "json"]).unwrap();
    let id = told[0]["topic_id"].as_str().unwrap();
    broker.data_dir().join(format!("logs/{id}/{partition}/records-0"))
}

/// A broker with a topic `t` of three partitions with values in each, one of which is out of service.
fn damaged() -> Broker {
    let mut broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "t", "--partitions", "3"]).unwrap().ok().unwrap();
    for partition in 0..3 {
        let values: String = (0..VALUES).map(|number| format!("{partition}/{number}\n")).collect();
        let words = ["produce", "t", "--partition", &partition.to_string()];
        broker.cli_with(&words, values.as_bytes()).unwrap().ok().unwrap();
    }
    let mark = partition_dir(&broker, "t", DAMAGED).join("mark");
    broker.stop().unwrap();
    let mut bytes = std::fs::read(&mark).unwrap();
    // Both of its slots.
    for at in [40, 4096 + 40] {
        bytes[at] ^= 1;
    }
    std::fs::write(&mark, bytes).unwrap();
    broker.restart().unwrap();
    broker
}

#[test]
fn the_other_partitions_are_read_and_the_damaged_one_is_told_of_at_once() {
    let broker = damaged();
    for from in ["beginning", "0", "2013-01-01T10:00:00Z"] {
        let start = Instant::now();
        let read = broker.cli(&["consume", "t", "--from", from, "--until", "end"]).unwrap();
        let (took, said) = (start.elapsed(), &read.stderr);
        assert_eq!(read.text().lines().count(), 2 * VALUES, "{from}: {said}");
        assert_eq!(read.code, Some(1), "{from}: {said}");
        assert!(took < Duration::from_secs(20), "{took:?}");
        // Once when it was found, and once in the end.
        let lines: Vec<_> = said.lines().collect();
        let [first, last] = lines[..] else { panic!("{from}: {said}") };
        for part in
            ["t partition 1 is out of service", "mark is damaged", "`millstream topic describe t`", "the broker's log"]
        {
            assert!(first.contains(part), "no {part:?} in {first}");
        }
        for part in ["error: cannot read t: partition 1 was not read to its end", "mark is damaged"] {
            assert!(last.contains(part), "no {part:?} in {last}");
        }
    }
    // Whoever asks for as much as there is gets it.
    let read = broker.cli(&["consume", "t", "--count", &(2 * VALUES).to_string()]).unwrap().ok().unwrap();
    assert_eq!(read.text().lines().count(), 2 * VALUES);
}
