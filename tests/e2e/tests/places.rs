//! A broker that cannot have the place it asks for: a port in use, a locked data directory, a folder that is none.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

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

/// Every file and folder below a folder, with modes and contents; none if there is no such folder.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, Option<Vec<u8>>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let bytes = metadata.is_file().then(|| std::fs::read(&path).unwrap());
        if metadata.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path, (metadata.permissions().mode(), bytes));
    }
    found
}

/// `serve` on this data directory with these words is refused so, and the directory is as before, to the byte.
fn refused_without_a_trace(broker: &Broker, dir: &Path, words: &[&str], said: &[&str]) {
    ends_without_a_trace(broker, dir, words, 1, said);
}

/// The same, with the exit code.
fn ends_without_a_trace(broker: &Broker, dir: &Path, words: &[&str], code: i32, said: &[&str]) {
    let before = tree(dir);
    let all = [&["--data-dir", dir.to_str().unwrap()], words].concat();
    check(&serve(broker, &all), code, said);
    let after = tree(dir);
    let names = |tree: &BTreeMap<PathBuf, (u32, Option<Vec<u8>>)>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&after), names(&before), "serve {all:?} left something behind, or took it away");
    assert!(after == before, "serve {all:?} changed a file");
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
fn an_http_port_that_was_asked_for_and_is_in_use_is_named() {
    let broker = Broker::start_with(&["--http", "127.0.0.1:0"]).unwrap();
    let taken = broker.http().to_string();
    let fresh = broker.scratch().join("fresh");
    refused_without_a_trace(
        &broker,
        &fresh,
        &["--listen", "127.0.0.1:0", "--http", &taken],
        &[&taken, "in use", "--http"],
    );
    still_serves(&broker, "after");
}

/// A second broker on a machine needs a port of its own, and nothing else.
#[test]
fn the_default_http_port_in_use_is_warned_of_and_done_without() {
    // Whoever has it: this test, or somebody else's broker.
    let _held = TcpListener::bind("127.0.0.1:9644");
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(cli::millstream().unwrap());
    command.args(["serve", "--listen", "127.0.0.1:0", "--output", "json", "--data-dir"]);
    command.arg(folder.path().join("data"));
    command.env("HOME", folder.path()).env("MILLSTREAM_PROFILE", folder.path().join("profile.json"));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(sent.success() && child.wait().unwrap().success());
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(ready["listen"].is_string() && ready["http"].is_null(), "{line}{told}");
    let warned = told.lines().any(|line| ["WARN", "127.0.0.1:9644", "--http"].iter().all(|word| line.contains(word)));
    assert!(warned, "{told}");
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
fn a_start_that_is_refused_leaves_no_trace() {
    let mut broker = Broker::start().unwrap();
    still_serves(&broker, "before");
    let (address, folder) = (broker.address().to_string(), broker.data_dir());
    let fresh = broker.scratch().join("fresh");
    let free = ["--listen", "127.0.0.1:0"];
    refused_without_a_trace(&broker, &fresh, &["--listen", &address], &[&address, "in use"]);
    // The lock comes before the certificate: a second start must not make the running broker another one.
    let renamed = [&free[..], &["--advertise", "other.example:1"]].concat();
    refused_without_a_trace(&broker, &folder, &renamed, &[folder.to_str().unwrap(), "another"]);
    refused_without_a_trace(&broker, &folder, &["--listen", &address], &["in use"]);
    // Bad usage, whatever the machine is like.
    ends_without_a_trace(&broker, &fresh, &["--listen", "0.0.0.0:0"], 2, &["0.0.0.0", "--advertise HOST:PORT"]);
    still_serves(&broker, "after");
    broker.kill().unwrap();
    // Left by a kill, a folder of somebody else's, and one of a later version.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    refused_without_a_trace(&broker, &folder, &["--listen", &taken], &[&taken, "in use"]);
    let newer = broker.scratch().join("newer");
    std::fs::create_dir(&newer).unwrap();
    std::fs::write(newer.join("FORMAT"), "millstream data directory\nformat 99\nid x\n").unwrap();
    refused_without_a_trace(&broker, &newer, &free, &["FORMAT", "99"]);
    let foreign = broker.scratch().join("foreign");
    std::fs::create_dir_all(foreign.join("logs")).unwrap();
    std::fs::write(foreign.join("logs/access.log"), "theirs").unwrap();
    refused_without_a_trace(&broker, &foreign, &free, &[foreign.to_str().unwrap(), "FORMAT"]);
    broker.restart().unwrap();
    still_serves(&broker, "again");
}

#[test]
fn two_brokers_of_one_user_both_have_their_clients() {
    let first = Broker::start().unwrap();
    let mut second = Broker::start_beside(&first).unwrap();
    for broker in [&first, &second, &first] {
        // Each is found by its address, with its own certificate.
        broker.cli(&["topic", "list"]).unwrap().ok().unwrap();
    }
    still_serves(&first, "first");
    still_serves(&second, "second");
    let topics = first.json(&["topic", "list", "--output", "json"]).unwrap();
    assert_eq!(topics.len(), 1);
    // On another port, after a start of its own.
    second.stop().unwrap();
    second.restart().unwrap();
    still_serves(&first, "first-again");
    still_serves(&second, "second-again");
}

#[test]
fn a_broker_on_every_interface_tells_clients_the_address_it_was_given() {
    // A port that both protocols have free, and that is known before the start.
    let port = {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        tcp.local_addr().unwrap().port()
    };
    let advertise = format!("localhost:{port}");
    let broker = Broker::start_listening(([0, 0, 0, 0], port).into(), &["--advertise", &advertise]).unwrap();
    let words = ["cluster", "describe", "--output", "json", "--broker", &advertise];
    let told = broker.json(&words).unwrap();
    assert_eq!((&told[0]["brokers"][0]["host"], &told[0]["brokers"][0]["port"]), (&"localhost".into(), &port.into()));
    assert!(broker.log().contains("no access rights"), "{}", broker.log());
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
    let words = ["--listen", "127.0.0.1:0", "--data-dir", other.to_str().unwrap(), "--join", "127.0.0.1:1"];
    check(&serve(&broker, &words), 1, &["--join", "not built"]);
    assert!(!other.exists(), "{} was made", other.display());
}

/// On a full disk above all: it must start, so that room can be made.
#[test]
fn a_client_profile_that_cannot_be_written_stops_no_start() {
    let mut broker = Broker::start().unwrap();
    broker.stop().unwrap();
    let profile = broker.data_dir().join("client.json");
    std::fs::remove_file(&profile).unwrap();
    std::fs::create_dir(&profile).unwrap();
    broker.restart().unwrap();
    let log = broker.log();
    let told = log.lines().any(|line| line.contains("WARN") && line.contains(profile.to_str().unwrap()));
    assert!(told, "no warning of {} in:\n{log}", profile.display());
    still_serves(&broker, "p");
}
