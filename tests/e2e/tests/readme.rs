//! The README's commands, typed as a reader would, in their order, against a broker.

use std::{os::unix::fs::symlink, process::Command, time::Duration};

use millstream_test_support::{broker::Broker, cli, rules::prose, tree};

#[test]
fn every_command_of_the_readme_works() {
    let broker = Broker::start_with(&["--http", "127.0.0.1:0"]).unwrap();
    // A folder as the reader's, whose clutter goes with the test.
    let folder = broker.scratch().join("checkout");
    std::fs::create_dir(&folder).unwrap();
    for part in ["platform", "guest-examples", "sdk", "wit"] {
        symlink(tree::root().join(part), folder.join(part)).unwrap();
    }
    let address = broker.address().to_string();
    let http = broker.http().to_string();
    let mut typed = 0;
    let mut script = String::from("set -euo pipefail\n");
    for line in prose::shell_blocks(&tree::text("README.md").unwrap()).iter().skip(1).flatten() {
        // The broker is there already, on other ports; PATH leads to the program that is tested.
        if line.ends_with("millstream serve") || line.starts_with("export PATH=") {
            continue;
        }
        typed += 1;
        let here = line.replace("127.0.0.1:9092", &address).replace("127.0.0.1:9644", &http);
        script += &format!("echo '$ {}'\n{here}\n", line.replace('\'', ""));
    }
    assert!(typed > 20, "only {typed} commands were found");
    let bin = cli::millstream().unwrap();
    let path = format!("{}:{}", bin.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell.current_dir(&folder).env("PATH", path).env("MILLSTREAM_BROKER", &address);
    shell.env("MILLSTREAM_PROFILE", broker.profile());
    let told = cli::run_within(Duration::from_secs(600), &mut shell, script.as_bytes()).unwrap().ok().unwrap().text();
    let (_, greeting) = told.split_once("$ millstream consume words").unwrap();
    assert!(greeting.lines().nth(1) == Some("hello, stream"), "{told}");
    let (_, kcat) = told.split_once("$ kcat").unwrap();
    assert!(kcat.lines().nth(1) == Some("hello, stream"), "{told}");
    let (_, ready) = told.split_once("$ curl").unwrap();
    assert!(ready.lines().nth(1).is_some_and(|ready| ready.contains("\"ready\":true")), "{told}");
    let (_, marked) = told.split_once("$ millstream consume marked").unwrap();
    assert!(marked.lines().nth(1).is_some_and(|flight| flight.contains("\"place\":")), "{told}");
    eprintln!("{told}");
}
