//! `module new` of every kind: the project tests itself, builds, is pushed, and does what it says.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{path::Path, process::Command};

use millstream_test_support::{broker::Broker, cli, tree};
use serde_json::Value;

/// How long a cold build of a small project may take on a busy machine.
const BUILD_MAX: std::time::Duration = std::time::Duration::from_secs(600);

/// Makes a project of this kind, runs its tests, builds it and pushes it as version 1.
fn new_module(broker: &Broker, name: &str, kind: &str) {
    let folder = broker.scratch();
    let run =
        |command: &mut Command| cli::run_within(BUILD_MAX, command.current_dir(folder), b"").unwrap().ok().unwrap();
    let millstream = || Command::new(cli::millstream().unwrap());
    run(millstream().args(["module", "new", name, "--kind", kind]));
    // What the projects take from the registry is compiled once for all three.
    let tests = run(Command::new(tree::cargo())
        .args(["test", "--manifest-path"])
        .arg(Path::new(name).join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/new-modules")));
    let told = tests.text();
    let result = told.lines().find(|line| line.starts_with("test result: ok. "));
    assert!(result.is_some_and(|line| !line.starts_with("test result: ok. 0 passed")), "{told}");
    run(millstream().args(["module", "build", name, "--out", "modules"]).env_remove("CARGO_TARGET_DIR"));
    let file = folder.join(format!("modules/{name}.wasm"));
    let push = ["module", "push", file.to_str().unwrap(), "--name", name, "--version", "1"];
    broker.cli(&push).unwrap().ok().unwrap();
}

fn good(broker: &Broker, words: &[&str], input: &[u8]) {
    broker.cli_with(words, input).unwrap().ok().unwrap();
}

fn read(broker: &Broker, name: &str, until: &[&str]) -> Vec<Value> {
    let words = ["consume", name, "--from", "beginning", "--format", "json"];
    broker.json(&[&words[..], until].concat()).unwrap()
}

#[test]
fn a_new_partitioner_puts_prefixes_together() {
    let broker = Broker::start().unwrap();
    new_module(&broker, "by-prefix", "partitioner");
    let placed = ["--partitions", "8", "--partitioner", "by-prefix@1", "--param", "separator=/"];
    good(&broker, &[&["topic", "create", "orders"], &placed[..]].concat(), b"");
    let lines: String = (0..40).map(|n| format!("{}/{n}={n}\n", ["eu", "us", "asia"][n % 3])).collect();
    good(&broker, &["produce", "orders", "--key-separator", "="], lines.as_bytes());
    let records = read(&broker, "orders", &["--until", "end"]);
    assert_eq!(records.len(), 40);
    for prefix in ["eu/", "us/", "asia/"] {
        let of_it = records.iter().filter(|record| record["key"].as_str().unwrap().starts_with(prefix));
        let mut partitions: Vec<_> = of_it.map(|record| record["partition"].as_i64().unwrap()).collect();
        partitions.dedup();
        assert_eq!(partitions.len(), 1, "{prefix} is in {partitions:?}");
    }
}

#[test]
fn a_new_view_shows_what_it_was_asked_for() {
    let broker = Broker::start().unwrap();
    new_module(&broker, "only", "view");
    good(&broker, &["topic", "create", "orders"], b"");
    let params = ["--param", "field=status", "--param", "value=open"];
    good(&broker, &[&["view", "create", "open", "--topic", "orders", "--chain", "only@1"], &params[..]].concat(), b"");
    good(&broker, &["produce", "orders"], b"{\"status\":\"open\",\"id\":1}\n{\"status\":\"done\"}\nno json\n");
    let records = read(&broker, "open", &["--until", "end"]);
    assert_eq!(records.len(), 1);
    assert_eq!((&records[0]["offset"], &records[0]["value"]), (&0.into(), &"{\"status\":\"open\",\"id\":1}".into()));
}

#[test]
fn a_new_transform_marks_what_passes() {
    let broker = Broker::start().unwrap();
    new_module(&broker, "marker", "transform");
    for topic in ["orders", "marked"] {
        good(&broker, &["topic", "create", topic], b"");
    }
    let words = ["transform", "deploy", "mark", "--module", "marker@1", "--input", "orders", "--output", "marked"];
    good(&broker, &words, b"");
    good(&broker, &["produce", "orders", "--key-separator", "="], b"a={\"id\":1}\nb={\"id\":2}\n");
    // Waits for them: a transform takes its time.
    let records = read(&broker, "marked", &["--count", "2"]);
    let told: Vec<_> = records.iter().map(|record| (record["key"].as_str(), record["value"].as_str())).collect();
    let expected =
        [(Some("a"), Some("{\"id\":1,\"origin\":\"0/0\"}")), (Some("b"), Some("{\"id\":2,\"origin\":\"0/1\"}"))];
    assert_eq!(told, expected);
}
