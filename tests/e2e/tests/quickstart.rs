//! The quickstart's main job, which checks itself, on every flight that this machine has.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{process::Command, time::Duration};

use millstream_test_support::{cli, flights, guests, tree};

fn quickstart(words: &[&str]) -> cli::Finished {
    let mut command = match std::env::var_os("MILLSTREAM_XTASK") {
        Some(xtask) => Command::new(xtask),
        None => {
            let mut command = Command::new(tree::cargo());
            command.arg("xtask");
            command
        }
    };
    command.current_dir(tree::root()).arg("quickstart").args(words);
    // Nothing is built twice, and nothing under the quickstart's feet.
    command.env("MILLSTREAM_BIN", cli::millstream().unwrap());
    command.env("MILLSTREAM_GUESTS", guests::component("partition-by-field").unwrap().parent().unwrap());
    cli::run_within(Duration::from_secs(600), &mut command, b"").unwrap()
}

#[test]
fn the_quickstart_tells_what_it_did() {
    let told = quickstart(&[]).ok().unwrap().text();
    for words in [
        "5017 real flights",
        "$ millstream serve",
        "$ millstream topic create flights",
        "$ millstream produce flights",
        "$ millstream transform deploy",
        "$ millstream view create",
        "checked: all 5017 flights came back",
        "What to try next",
    ] {
        assert!(told.contains(words), "no {words:?} in:\n{told}");
    }
    // Two minutes are promised for what comes after the build; it says itself how long it took.
    let (_, took) = told.split_once("\nDone in ").unwrap();
    let seconds: f64 = took.split_once(" s.").unwrap().0.parse().unwrap();
    assert!(seconds < 120.0, "the quickstart took {seconds} s:\n{told}");
}

#[test]
fn every_flight_of_the_year_goes_the_same_way() {
    let (words, count) = match flights::all() {
        Some(file) => (vec!["--flights".to_owned(), file.to_str().unwrap().to_owned()], 336_776),
        None => {
            eprintln!("*** All 336,776 flights are not beside this checkout (shared/data): the sample stands in. ***");
            (vec![], flights::sample().unwrap().len())
        }
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let told = quickstart(&words).ok().unwrap().text();
    assert!(told.contains(&format!("checked: all {count} flights came back")), "{told}");
    eprintln!("{told}");
}

#[test]
fn a_quickstart_on_damaged_flights_fails_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flights.csv.gz");
    std::fs::write(&file, b"no gzip").unwrap();
    let refused = quickstart(&["--flights", file.to_str().unwrap()]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("unpacking the flights"), "{}", refused.stderr);
}
