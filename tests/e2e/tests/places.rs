//! A broker that cannot have the place it asks for: a port in use, a locked data directory, a folder that is none.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{net::TcpListener, process::Command};

use millstream_test_support::{
    broker::Broker,
    cli::{self, Finished},
};

/// `serve` with these words, which must not start.
fn serve(broker: &Broker, words: &[&str]) -> Finished {
    let mut command = Command::new(cli::millstream().unwrap());
    command.arg("serve").args(words);
    command.env("HOME", broker.scratch()).env("MILLSTREAM_PROFILE", broker.scratch().join("second.json"));
    cli::run(&mut command, b"").unwrap()
}

/// Refused with `code`, and the message for a person holds all of `words`.
fn check(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code, Some(code), "{}: {}", finished.command, finished.stderr);
    for word in words {
        assert!(finished.stderr.contains(word), "{}: no {word:?} in:\n{}", finished.command, finished.stderr);
    }
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    assert_eq!(finished.text(), "", "words belong on stderr");
}

/// The first broker has noticed nothing: it takes a record and gives it back.
fn still_serves(broker: &Broker, topic: &str) {
    broker.cli(&["topic", "create", topic]).unwrap().ok().unwrap();
    broker.cli_with(&["produce", topic], b"still here\n").unwrap().ok().unwrap();
    let read = broker.cli(&["consume", topic, "--from", "beginning", "--until", "end"]).unwrap().ok().unwrap();
    assert_eq!(read.text(), "still here\n");
}

#[test]
fn a_port_in_use_is_named_and_its_owner_undisturbed() {
    let broker = Broker::start().unwrap();
    let address = broker.address().to_string();
    let other = broker.scratch().join("other");
    let refused = serve(&broker, &["--listen", &address, "--data-dir", other.to_str().unwrap()]);
    check(&refused, 1, &[&address, "in use", "--listen"]);
    still_serves(&broker, "after");
}

#[test]
fn a_port_that_only_tcp_occupies_is_refused_too() {
    // Both transports or none: a broker on half its port would look healthy to half of its clients.
    let broker = Broker::start().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let other = broker.scratch().join("other");
    let refused = serve(&broker, &["--listen", &address, "--data-dir", other.to_str().unwrap()]);
    check(&refused, 1, &[&address, "in use"]);
}

#[test]
fn a_locked_data_directory_is_named_and_its_owner_undisturbed() {
    let broker = Broker::start().unwrap();
    let folder = broker.data_dir();
    let refused = serve(&broker, &["--listen", "127.0.0.1:0", "--data-dir", folder.to_str().unwrap()]);
    check(&refused, 1, &[folder.to_str().unwrap(), "another"]);
    still_serves(&broker, "after");
}

#[test]
fn the_lock_goes_with_the_process_that_held_it() {
    let mut broker = Broker::start().unwrap();
    still_serves(&broker, "before");
    broker.kill().unwrap();
    broker.restart().unwrap();
    still_serves(&broker, "after");
    broker.stop().unwrap();
    broker.restart().unwrap();
    let topics = broker.json(&["topic", "list", "--output", "json"]).unwrap();
    let names: Vec<&str> = topics.iter().filter_map(|topic| topic["name"].as_str()).collect();
    assert_eq!(names, ["after", "before"]);
}

#[test]
fn a_data_directory_that_is_a_file_is_refused_and_left_alone() {
    let broker = Broker::start().unwrap();
    let file = broker.scratch().join("file");
    std::fs::write(&file, "mine").unwrap();
    let refused = serve(&broker, &["--listen", "127.0.0.1:0", "--data-dir", file.to_str().unwrap()]);
    check(&refused, 1, &[file.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn words_that_serve_does_not_know_are_bad_usage() {
    let broker = Broker::start().unwrap();
    check(&serve(&broker, &["--listen", "nowhere"]), 2, &["--listen", "nowhere"]);
    check(&serve(&broker, &["--no-such-flag"]), 2, &["--no-such-flag"]);
}

#[test]
fn what_is_not_built_yet_is_refused_not_ignored() {
    let broker = Broker::start().unwrap();
    let other = broker.scratch().join("other");
    for flag in [["--join", "127.0.0.1:1"], ["--http", "127.0.0.1:0"]] {
        let words = [&["--listen", "127.0.0.1:0", "--data-dir", other.to_str().unwrap()], &flag[..]].concat();
        check(&serve(&broker, &words), 1, &[flag[0], "not built"]);
        assert!(!other.exists(), "{} was made", other.display());
    }
}
