//! Topics that are not there, asked for by Kafka's clients, which have them made, and by ours, which do not.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::ffi::OsString;

use millstream_test_support::{
    broker::Broker,
    cli::Finished,
    message::{Message, Placed},
    peers, sdk,
};

fn topics(broker: &Broker) -> Vec<(String, i64)> {
    let listed = broker.json(&["topic", "list", "--output", "json"]).unwrap();
    let told =
        |topic: &serde_json::Value| (topic["name"].as_str().unwrap().to_owned(), topic["partitions"].as_i64().unwrap());
    listed.iter().map(told).collect()
}

fn kcat(broker: &Broker, words: &[&str]) -> Finished {
    let address = broker.address().to_string();
    let words: Vec<OsString> = [&["-b", &address], words].concat().into_iter().map(OsString::from).collect();
    peers::kcat(&words, b"value\n").unwrap()
}

/// The message, wherever it is; its time is the sender's.
fn check(sent: &Message, read: &[Placed]) {
    assert_eq!(read.len(), 1);
    let read = &read[0].message;
    assert_eq!((&read.key, &read.value), (&sent.key, &sent.value));
}

#[test]
fn a_topic_that_kafkas_producers_write_to_is_made_as_the_broker_is_set() {
    let broker = Broker::start_with(&["--set", "num.partitions=3"]).unwrap();
    let message = Message::new(2, Some(b"key"), Some(b"value"));
    peers::kcat_produce(broker.address(), "of-kcat", &message).unwrap();
    check(&message, &sdk::consume(&broker, "of-kcat").unwrap());
    check(&message, &peers::kcat_consume(broker.address(), "of-kcat").unwrap());
    peers::kafka_python_produce(broker.address(), "of-python", std::slice::from_ref(&message)).unwrap();
    check(&message, &sdk::consume(&broker, "of-python").unwrap());
    assert_eq!(topics(&broker), [("of-kcat".to_owned(), 3), ("of-python".to_owned(), 3)]);
}

#[test]
fn nothing_is_made_where_the_broker_or_the_client_does_not_want_it() {
    let broker = Broker::start_with(&["--set", "auto.create.topics.enable=false"]).unwrap();
    let refused = kcat(&broker, &["-P", "-t", "absent", "-X", "topic.metadata.propagation.max.ms=0"]);
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("Unknown topic"), "{}", refused.stderr);
    assert_eq!(topics(&broker), []);

    let broker = Broker::start().unwrap();
    for words in
        [&["produce", "absent"][..], &["consume", "absent", "--until", "end"], &["topic", "describe", "absent"]]
    {
        assert_eq!(broker.cli_with(words, b"value\n").unwrap().code, Some(1), "{words:?}");
    }
    let refused = kcat(&broker, &["-C", "-t", "absent", "-e", "-X", "topic.metadata.propagation.max.ms=0"]);
    assert!(refused.stderr.contains("Unknown topic"), "{}", refused.stderr);
    assert_eq!(topics(&broker), []);
}
