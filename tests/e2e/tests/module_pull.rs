//! A module is had back as it was pushed, into a file that was not there.

use millstream_test_support::{broker::Broker, guests};

#[test]
fn what_is_pulled_is_what_was_pushed_and_no_file_is_written_over() {
    let broker = Broker::start().unwrap();
    let pushed = guests::component("view-filter").unwrap();
    let push = ["module", "push", pushed.to_str().unwrap(), "--name", "filter", "--version", "1"];
    broker.cli(&push).unwrap().ok().unwrap();
    let out = broker.scratch().join("back.wasm");
    let pull = ["module", "pull", "filter@1", "--out", out.to_str().unwrap()];
    let told = broker.json(&[&pull[..], &["--output", "json"]].concat()).unwrap();
    let (before, after) = (std::fs::read(&pushed).unwrap(), std::fs::read(&out).unwrap());
    assert_eq!(after, before);
    assert_eq!(told[0]["size_bytes"], before.len());

    std::fs::write(&out, b"mine").unwrap();
    let refused = broker.cli(&pull).unwrap();
    assert!(refused.code == Some(1) && refused.stderr.contains("there already"), "{}", refused.stderr);
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");

    let other = broker.scratch().join("other.wasm");
    let refused = broker.cli(&["module", "pull", "filter@2", "--out", other.to_str().unwrap()]).unwrap();
    assert!(refused.code == Some(1) && refused.stderr.contains("filter@2"), "{}", refused.stderr);
    assert!(!other.exists());
}
