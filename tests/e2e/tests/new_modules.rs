//! `module new` of every kind: the project tests itself, builds, is pushed, and does what it says.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{path::Path, process::Command};

use millstream_test_support::{
    broker::Broker,
    cli::{self, Finished},
    tree,
};
use serde_json::Value;

/// How long a cold build of a small project may take on a busy machine.
const BUILD_MAX: std::time::Duration = std::time::Duration::from_secs(600);

fn run(broker: &Broker, command: &mut Command) -> Finished {
    cli::run_within(BUILD_MAX, command.current_dir(broker.scratch()), b"").unwrap().ok().unwrap()
}

fn millstream() -> Command {
    Command::new(cli::millstream().unwrap())
}

/// Makes a project of this kind, runs its tests, builds it and pushes it as version 1.
fn new_module(broker: &Broker, name: &str, kind: &str) {
    run(broker, millstream().args(["module", "new", name, "--kind", kind]));
    // What the projects take from the registry is compiled once for all three.
    let mut command = Command::new(tree::cargo());
    command.args(["test", "--manifest-path"]).arg(Path::new(name).join("Cargo.toml"));
    let tests = run(broker, command.env("CARGO_TARGET_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/new-modules")));
    let told = tests.text();
    let result = told.lines().find(|line| line.starts_with("test result: ok. "));
    assert!(result.is_some_and(|line| !line.starts_with("test result: ok. 0 passed")), "{told}");
    push(broker, name);
}

/// Builds a project and pushes it as version 1.
fn push(broker: &Broker, name: &str) {
    run(broker, millstream().args(["module", "build", name, "--out", "modules"]).env_remove("CARGO_TARGET_DIR"));
    let file = broker.scratch().join(format!("modules/{name}.wasm"));
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

/// What a module logs and why it panics was once to be seen nowhere: the error said "unreachable", the log nothing.
#[test]
fn what_a_module_logs_and_why_it_panics_can_be_read() {
    let broker = Broker::start().unwrap();
    run(&broker, millstream().args(["module", "new", "talker", "--kind", "transform"]));
    let source = broker.scratch().join("talker/src/lib.rs");
    let text = std::fs::read_to_string(&source).unwrap();
    let at = "let mut object = ";
    assert!(text.contains(at), "{text}");
    let talk = r#"
        match record.value() {
            Some(b"panic") => panic!("ouch\u{1b}[2J"),
            Some(b"flood") => (0..90).for_each(|n| millstream_guest::log::info(format_args!("flood {n}"))),
            _ => millstream_guest::log::warn("one\nword"),
        }
        "#;
    std::fs::write(&source, text.replacen(at, &format!("{talk}{at}"), 1)).unwrap();
    push(&broker, "talker");
    for topic in ["orders", "marked"] {
        good(&broker, &["topic", "create", topic], b"");
    }
    let words = ["transform", "deploy", "talk", "--module", "talker@1", "--input", "orders", "--output", "marked"];
    good(&broker, &[&words[..], &["--on-error", "skip"]].concat(), b"");
    good(&broker, &["produce", "orders"], b"{\"id\":1}\nflood\n{\"id\":2}\n");
    read(&broker, "marked", &["--count", "2"]);
    let log = broker.log();
    let line = |words: &str| log.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {log}"));
    let warned = line("one\u{fffd}word");
    for word in ["WARN", "talker@1", "transform talk", "partition=0"] {
        assert!(warned.contains(word), "{warned}");
    }
    assert!(line("flood 0").contains("INFO"));
    assert!(log.matches("flood").count() < 90, "{log}");
    // A record of its own after them, on which the module panics.
    good(&broker, &["transform", "delete", "talk"], b"");
    let words = ["transform", "deploy", "ail", "--module", "talker@1", "--input", "orders", "--output", "marked"];
    good(&broker, &[&words[..], &["--from", "end"]].concat(), b"");
    good(&broker, &["produce", "orders"], b"panic\n");
    let start = std::time::Instant::now();
    let told = loop {
        let told = &broker.json(&["transform", "describe", "ail", "--output", "json"]).unwrap()[0];
        if told["state"] == "failed" {
            break told.to_string();
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(60), "{told}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert!(told.contains("panicked at src/lib.rs") && told.contains("ouch\u{fffd}[2J"), "{told}");
    let log = broker.log();
    let panicked = log.lines().find(|line| line.contains("ERROR") && line.contains("panicked at src/lib.rs"));
    assert!(panicked.is_some_and(|line| line.contains("transform ail") && !line.contains('\u{1b}')), "{log}");
}
