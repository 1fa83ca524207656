//! What `describe` shows, of things that work and of things that have failed.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::time::{Duration, Instant};

use millstream_test_support::{broker::Broker, guests};
use serde_json::{Value, json};

/// What was printed of a command that must succeed.
fn good(broker: &Broker, words: &[&str], input: &[u8]) -> String {
    broker.cli_with(words, input).unwrap().ok().unwrap().text()
}

fn push(broker: &Broker, module: &str) {
    let file = guests::component(module).unwrap();
    good(broker, &["module", "push", file.to_str().unwrap(), "--name", module, "--version", "1"], b"");
}

#[test]
fn a_view_is_described_as_one_and_a_topic_with_who_uses_it() {
    let broker = Broker::start().unwrap();
    good(&broker, &["topic", "create", "plain", "--partitions", "3"], b"");
    push(&broker, "view-redact");
    let view = ["view", "create", "seen", "--topic", "plain", "--chain", "view-redact@1", "--param", "fields=id"];
    good(&broker, &view, b"");
    let told = good(&broker, &["topic", "describe", "seen"], b"");
    for said in ["view   seen", "topic  plain", "chain  view-redact@1"] {
        assert!(told.contains(said), "no {said:?} in {told}");
    }
    assert!(!told.contains("partitioner"), "{told}");
    let topic = &broker.json(&["topic", "describe", "plain", "--output", "json"]).unwrap()[0];
    assert_eq!((&topic["view"], &topic["used_by"]), (&Value::Null, &json!(["view seen"])));
}

/// Whoever looks at a transform that stands still wants to know where, and what waits there.
#[test]
fn a_transform_that_has_failed_still_shows_how_far_it_came() {
    let broker = Broker::start().unwrap();
    push(&broker, "view-redact");
    push(&broker, "partition-by-field");
    good(&broker, &["topic", "create", "in"], b"");
    let placed = ["--partitioner", "partition-by-field@1", "--param", "field=id", "--param", "strict=true"];
    good(&broker, &[&["topic", "create", "out"], &placed[..]].concat(), b"");
    let words = ["--module", "view-redact@1", "--param", "fields=none", "--input", "in", "--output", "out"];
    good(&broker, &[&["transform", "deploy", "copy"], &words[..]].concat(), b"");
    let describe = || broker.json(&["transform", "describe", "copy", "--output", "json"]).unwrap().remove(0);
    let wait_for = |what: &str, is_so: &dyn Fn(&Value) -> bool| {
        let start = Instant::now();
        loop {
            let described = describe();
            if is_so(&described) {
                return described;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{what}: {described}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    good(&broker, &["produce", "in"], b"{\"id\":1}\n");
    wait_for("the first record is not done", &|described| described["partitions"][0]["next_offset"] == 1);
    good(&broker, &["produce", "in"], b"{\"no\":1}\n{\"id\":2}\n");
    let failed = wait_for("no failure", &|described| described["state"] == "failed");
    let place = &failed["partitions"][0];
    assert_eq!((&failed["lag"], &place["next_offset"], &place["end_offset"]), (&2.into(), &1.into(), &3.into()));
    let told = good(&broker, &["transform", "describe", "copy"], b"");
    assert!(told.contains("lag        2") && told.contains("LAST ERROR"), "{told}");
}
