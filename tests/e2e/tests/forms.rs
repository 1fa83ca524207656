//! `--output json` of every command: standard output is lines of JSON, one object each, and nothing else.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::process::{Command, Stdio};

use millstream_test_support::{broker::Broker, cli, guests};
use serde_json::{Value, json};

/// Runs a command with `--output json`; it must succeed and print so many objects. Returns them.
fn objects(broker: &Broker, words: &[&str], input: &[u8], count: usize) -> Vec<Value> {
    let finished = broker.cli_with(&[words, &["--output", "json"]].concat(), input).unwrap().ok().unwrap();
    let text = finished.text();
    assert!(text.is_empty() || text.ends_with('\n'), "{}: {text:?}", finished.command);
    let lines = finished.json().unwrap();
    assert_eq!(lines.len(), count, "{}: {text}", finished.command);
    assert!(lines.iter().all(Value::is_object), "{}: {text}", finished.command);
    lines
}

/// Has this field of an object this value?
fn check(broker: &Broker, words: &[&str], field: &str, expected: impl Into<Value>) {
    let lines = objects(broker, words, b"", 1);
    assert_eq!(lines[0][field], expected.into(), "{words:?}: {lines:?}");
}

#[test]
fn every_command_answers_in_json_when_asked() {
    let broker = Broker::start().unwrap();
    for what in ["topic", "module", "view", "transform"] {
        // Of nothing there is no line, and no remark either.
        objects(&broker, &[what, "list"], b"", 0);
    }
    for topic in ["flights", "late", "rest", "json"] {
        check(&broker, &["topic", "create", topic], "name", topic);
    }
    assert_eq!(objects(&broker, &["topic", "list"], b"", 4)[0]["partitions"], 1);
    check(&broker, &["topic", "describe", "flights"], "name", "flights");
    let produced = objects(&broker, &["produce", "flights"], b"{\"id\":1}\n{\"id\":2}\n", 1);
    assert_eq!((&produced[0]["records"], &produced[0]["topic"]), (&2.into(), &"flights".into()));
    let read = objects(&broker, &["consume", "flights", "--until", "end"], b"", 2);
    assert_eq!((&read[1]["offset"], &read[1]["value"]), (&1.into(), &"{\"id\":2}".into()));

    for name in ["partition-by-field", "view-redact", "transform-flights"] {
        let file = guests::component(name).unwrap();
        check(&broker, &["module", "push", file.to_str().unwrap(), "--name", name, "--version", "1"], "name", name);
    }
    objects(&broker, &["module", "list"], b"", 3);
    objects(&broker, &["module", "list", "view-redact"], b"", 1);
    check(&broker, &["module", "describe", "view-redact@1"], "version", "1");
    let create = ["view", "create", "seen", "--topic", "flights", "--chain", "view-redact@1", "--param", "fields=id"];
    check(&broker, &create, "name", "seen");
    check(&broker, &["view", "list"], "topic", "flights");
    check(&broker, &["view", "describe", "seen"], "chain", json!(["view-redact@1"]));

    // Here --output names topics too; one that is called json is named with a prefix.
    let deploy = ["transform", "deploy", "late-flights", "--module", "transform-flights@1", "--input", "flights"];
    let outputs = ["--output", "late", "--output", "topic:json"];
    check(&broker, &[&deploy[..], &outputs[..]].concat(), "name", "late-flights");
    check(&broker, &["transform", "list"], "outputs", json!(["late", "json"]));
    check(&broker, &["transform", "describe", "late-flights"], "module", "transform-flights@1");
    for word in ["pause", "resume"] {
        check(&broker, &["transform", word, "late-flights"], "name", "late-flights");
    }
    check(&broker, &["transform", "delete", "late-flights"], "name", "late-flights");
    check(&broker, &["view", "delete", "seen"], "name", "seen");
    check(&broker, &["topic", "delete", "rest"], "name", "rest");
    assert_eq!(objects(&broker, &["cluster", "describe"], b"", 1)[0]["topics"], 3);
}

#[test]
fn commands_that_ask_no_broker_answer_in_json_too() {
    let folder = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| {
        let mut command = Command::new(cli::millstream().unwrap());
        command.current_dir(folder.path()).args(words).args(["--output", "json"]);
        cli::run(&mut command, b"").unwrap().ok().unwrap().json().unwrap()
    };
    let made = run(&["module", "new", "mine", "--kind", "view"]);
    assert_eq!((made.len(), &made[0]["name"], &made[0]["kind"]), (1, &"mine".into(), &"view".into()));
    let built = run(&["module", "build", "mine", "--out", "out"]);
    assert_eq!((built.len(), &built[0]["name"], &built[0]["kind"]), (1, &"mine".into(), &"filter".into()));
    assert!(folder.path().join("out/mine.wasm").is_file());
}

#[test]
fn serve_tells_programs_where_it_listens() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(cli::millstream().unwrap());
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--output", "json", "--data-dir"])
        .arg(folder.path().join("data"));
    command.env("HOME", folder.path()).env("MILLSTREAM_PROFILE", folder.path().join("profile.json"));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut said = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["pid"], child.id());
    for name in ["listen", "http"] {
        assert!(ready[name].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(sent.success() && child.wait().unwrap().success());
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut said, &mut rest).unwrap();
    assert_eq!(rest, "", "one object, and nothing else");
}
