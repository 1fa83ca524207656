//! `serve --check-config`, and what a start says of settings that are wrong: all of it at once, and nothing is made.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{collections::BTreeSet, path::Path, process::Command};

use millstream_test_support::cli::{self, Finished};
use serde_json::{Value, json};

/// `serve` with nothing of the user's own settings, and `home` for a home.
fn serve(home: &Path, environment: &[(&str, &str)], words: &[&str]) -> Finished {
    let mut command = Command::new(cli::millstream().unwrap());
    command.arg("serve").args(words).env_remove("XDG_DATA_HOME").env_remove("RUST_LOG").env("HOME", home);
    command.env("MILLSTREAM_PROFILE", home.join("profile.json")).envs(environment.iter().copied());
    cli::run(&mut command, b"").unwrap()
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn settings_in_force_are_told_with_their_sources_and_nothing_is_made() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("m.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:7\"\nnode-id = 4\nhttp = \"none\"\n[kafka]\nnum.partitions = 3\n")
        .unwrap();
    let path = file.to_str().unwrap();
    let environment = [("MILLSTREAM_NODE_ID", "5"), ("MILLSTREAM_CONFIG", path)];
    let words = ["--ready-file", "ready", "--listen", "127.0.0.1:8", "--check-config", "--output", "json"];
    let told = serve(home.path(), &environment, &words).ok().unwrap();
    let lines = told.json().unwrap();
    let of = |name: &str| lines.iter().find(|line| line["setting"] == name).unwrap_or_else(|| panic!("no {name}"));
    let check = |name: &str, expected: Value| {
        let mut expected = expected;
        expected["setting"] = json!(name);
        assert_eq!(of(name), &expected);
    };
    check("listen", json!({"value": "127.0.0.1:8", "source": "flag", "at": "--listen"}));
    check("node-id", json!({"value": 5, "source": "environment", "at": "MILLSTREAM_NODE_ID"}));
    check("http", json!({"value": "none", "source": "file", "at": format!("{path}:3:8")}));
    check("num.partitions", json!({"value": 3, "source": "file", "at": format!("{path}:5:18")}));
    check("auto.create.topics.enable", json!({"value": true, "source": "default"}));
    check("advertise", json!({"value": null, "source": "default"}));
    let data_dir = home.path().join(".local/share/millstream");
    check("data-dir", json!({"value": data_dir.to_str().unwrap(), "source": "default"}));
    let table = serve(home.path(), &environment, &["--check-config"]).ok().unwrap().text();
    for (name, value, source) in
        [("SETTING", "VALUE", "SOURCE"), ("node-id", "5", "environment"), ("http", "none", "file")]
    {
        let row = table.lines().find(|line| line.split_whitespace().next() == Some(name));
        let row: Vec<_> = row.unwrap_or_else(|| panic!("no {name} in\n{table}")).split_whitespace().collect();
        assert_eq!(row[1..3], [value, source], "{table}");
    }
    assert_eq!(names(home.path()), BTreeSet::from(["m.toml".to_owned()]));
}

#[test]
fn all_that_is_wrong_is_told_at_once_to_who_checks_and_to_who_starts() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("m.toml");
    let text = "listne = \"127.0.0.1:7\"\nnode-id = \"x\"\nhttp = = 1\n[kafka]\nnum.partition = 3\n";
    std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let data = home.path().join("data");
    let environment = [("MILLSTREAM_FRAME_MEMORY", "1GB"), ("MILLSTREAM_NUM_PARTITIONS", "many")];
    let words = ["--config", path, "--data-dir", data.to_str().unwrap(), "--listen", "nowhere"];
    let told = [
        format!("{path}:1:1: there is no setting listne; did you mean listen?"),
        format!("{path}:2:11: node-id: expected a number"),
        format!("{path}:3:"),
        format!("{path}:5:5: there is no num.partition here; did you mean num.partitions?"),
        "MILLSTREAM_FRAME_MEMORY: \"1GB\": expected a number of bytes".to_owned(),
        "MILLSTREAM_NUM_PARTITIONS: \"many\": expected a number from 1 to 10000".to_owned(),
        "--listen: \"nowhere\": expected an IP address and a port".to_owned(),
    ];
    let check = |more: &[&str]| {
        let finished = serve(home.path(), &environment, &[&words, more].concat());
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        for part in &told {
            assert!(finished.stderr.contains(part), "no {part:?} in {}", finished.stderr);
        }
        assert!(finished.stderr.contains("7 settings are wrong"), "{}", finished.stderr);
        assert_eq!(names(home.path()), BTreeSet::from(["m.toml".to_owned()]));
        finished
    };
    assert_eq!(check(&[]).text(), "");
    assert_eq!(check(&["--check-config"]).text(), "");
    let lines = check(&["--check-config", "--output", "json"]).json().unwrap();
    assert_eq!(lines.len(), told.len(), "{lines:?}");
    let first =
        json!({"mistake": "there is no setting listne; did you mean listen?", "file": path, "line": 1, "column": 1});
    assert_eq!(lines[0], first);
    assert_eq!(lines[6]["at"], "--listen");
}

#[test]
fn a_file_that_is_not_there_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let absent = home.path().join("absent.toml");
    for more in [&[][..], &["--check-config"]] {
        let finished = serve(home.path(), &[], &[&["--config", absent.to_str().unwrap()], more].concat());
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        assert!(finished.stderr.contains("absent.toml"), "{}", finished.stderr);
    }
    assert_eq!(names(home.path()), BTreeSet::new());
}

#[test]
fn certificates_are_looked_at_as_a_start_does() {
    let home = tempfile::tempdir().unwrap();
    let absent = home.path().join("broker.pem");
    let environment = [("MILLSTREAM_TLS_CERT", absent.to_str().unwrap()), ("MILLSTREAM_TLS_KEY", "k")];
    for more in [&["--listen", "127.0.0.1:0", "--http", "none"][..], &["--check-config"]] {
        let finished = serve(home.path(), &environment, more);
        assert_eq!(finished.code, Some(1), "{}", finished.stderr);
        assert!(finished.stderr.contains(absent.to_str().unwrap()), "{}", finished.stderr);
        assert_eq!(names(home.path()), BTreeSet::new(), "a refused start leaves no trace");
    }
}

/// It serves already when it is found that nobody can be told so. It stops in order then: the next start has nothing to recover.
#[test]
fn a_ready_file_that_cannot_be_written_stops_the_broker_in_order() {
    let home = tempfile::tempdir().unwrap();
    let (data, ready) = (home.path().join("data"), home.path().join("none/ready"));
    let words = ["--listen", "127.0.0.1:0", "--http", "none", "--data-dir", data.to_str().unwrap(), "--ready-file"];
    let stopped = serve(home.path(), &[], &[&words[..], &[ready.to_str().unwrap()]].concat());
    assert_eq!(stopped.code, Some(1), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("cannot write the ready file"), "{}", stopped.stderr);
    assert!(names(&data).contains("CLEAN"), "{:?}", names(&data));
}
