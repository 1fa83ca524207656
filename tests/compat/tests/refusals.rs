//! What is not built yet, asked for with Kafka's own clients: they say so at once, and do not ask for ever.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    ffi::OsString,
    time::{Duration, Instant},
};

use millstream_test_support::{broker::Broker, cli::Finished, guests, peers};

/// Less than what any of them would wait before it gives up by itself.
const AT_ONCE: Duration = Duration::from_secs(30);

fn broker() -> Broker {
    let broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "t"]).unwrap().ok().unwrap();
    broker
}

fn kcat(broker: &Broker, words: &[&str]) -> Finished {
    let address = broker.address().to_string();
    let words: Vec<OsString> = [&["-b", &address], words].concat().into_iter().map(OsString::from).collect();
    peers::kcat(&words, b"v\n").unwrap()
}

fn check(client: impl FnOnce() -> Finished, said: &str) {
    let start = Instant::now();
    let finished = client();
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    assert_ne!(finished.code, Some(0));
    assert!(finished.stderr.contains(said), "{}", finished.stderr);
}

#[test]
fn a_consumer_group_is_refused_and_librdkafka_says_why() {
    let broker = broker();
    check(|| kcat(&broker, &["-G", "a-group", "t"]), "consumer groups are not built yet");
    check(|| peers::kafka_python(broker.address(), "group", "t").unwrap(), "InvalidRequestError");
}

#[test]
fn a_transactional_producer_is_refused_and_librdkafka_says_why() {
    let broker = broker();
    let words = ["-P", "-t", "t", "-X", "transactional.id=a-transaction"];
    check(|| kcat(&broker, &words), "transactions are not built yet");
    check(|| peers::kafka_python(broker.address(), "transact", "t").unwrap(), "TransactionalIdAuthorizationFailed");
}

/// Our own codes would be a number that nobody can look up.
#[test]
fn a_topic_in_use_is_kept_and_kafkas_clients_know_the_code() {
    let broker = broker();
    let module = guests::component("view-redact").unwrap();
    broker.cli(&["module", "push", module.to_str().unwrap(), "--name", "r", "--version", "1"]).unwrap().ok().unwrap();
    let view = ["view", "create", "v", "--topic", "t", "--chain", "r@1", "--param", "fields=id"];
    broker.cli(&view).unwrap().ok().unwrap();
    check(|| peers::kafka_python(broker.address(), "delete", "t").unwrap(), "PolicyViolationError");
    assert_eq!(broker.json(&["topic", "list", "--output", "json"]).unwrap().len(), 1);
}
