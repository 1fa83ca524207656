//! Deleting modules: what is refused, what stays, and what is gone.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use millstream_test_support::{broker::Broker, guests};

fn good(broker: &Broker, words: &[&str]) {
    broker.cli(words).unwrap().ok().unwrap();
}

/// What a command said that must fail.
fn refusal(broker: &Broker, words: &[&str]) -> String {
    let refused = broker.cli(words).unwrap();
    assert_eq!(refused.code, Some(1), "{words:?}: {}", refused.stderr);
    refused.stderr
}

fn push(broker: &Broker, example: &str, name: &str) {
    let file = guests::component(example).unwrap();
    good(broker, &["module", "push", file.to_str().unwrap(), "--name", name, "--version", "1"]);
}

/// How many files the broker keeps of modules, and of their images.
fn stored(broker: &Broker) -> [usize; 2] {
    ["modules", "images"].map(|folder| std::fs::read_dir(broker.data_dir().join(folder)).unwrap().count())
}

#[test]
fn a_module_goes_once_nothing_uses_it_and_its_bytes_with_their_last_name() {
    let mut broker = Broker::start().unwrap();
    let nothing = stored(&broker);
    push(&broker, "view-redact", "redact");
    push(&broker, "view-redact", "same");
    let both = stored(&broker);
    assert_ne!(both, nothing);
    for topic in ["in", "out"] {
        good(&broker, &["topic", "create", topic]);
    }
    let delete = ["module", "delete", "redact@1"];

    let used = ["--param", "fields=id"];
    good(&broker, &[&["view", "create", "seen", "--topic", "in", "--chain", "redact@1"], &used[..]].concat());
    let deploy = ["transform", "deploy", "copy", "--module", "redact@1", "--input", "in", "--output", "out"];
    good(&broker, &[&deploy[..], &used[..]].concat());
    let said = refusal(&broker, &delete);
    assert!(said.contains("used by view seen"), "{said}");
    good(&broker, &["view", "delete", "seen"]);
    let said = refusal(&broker, &delete);
    assert!(said.contains("used by transform copy"), "{said}");
    good(&broker, &["transform", "delete", "copy"]);

    good(&broker, &delete);
    assert_eq!(stored(&broker), both, "another name stands for the same bytes");
    let said = refusal(&broker, &delete);
    assert!(said.contains("no module redact@1"), "{said}");
    good(&broker, &["module", "delete", "same@1"]);
    assert_eq!(stored(&broker), nothing);

    // The name is free, and what was deleted does not come back.
    push(&broker, "view-filter", "redact");
    broker.kill().unwrap();
    broker.restart().unwrap();
    let listed = broker.json(&["module", "list", "--output", "json"]).unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&listed[0]["name"], &listed[0]["kind"]), (&"redact".into(), &"filter".into()));
    good(
        &broker,
        &[
            "view",
            "create",
            "seen",
            "--topic",
            "in",
            "--chain",
            "redact@1",
            "--param",
            "field=id",
            "--param",
            "op=exists",
        ],
    );
}
