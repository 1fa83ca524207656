//! The data directory is taken away under a running broker: does it notice, and say so, before it has acknowledged for long what nobody will
//! find?

use std::{
    thread,
    time::{Duration, Instant},
};

use millstream_test_support::{broker::Broker, message::Message, sdk};

/// How long any one thing may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_broker_whose_data_directory_is_moved_away_stops_and_goes_on_when_it_is_back() {
    let mut broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "t"]).unwrap().ok().unwrap();
    let message = |number: usize| Message::new(0, None, Some(format!("value {number}").as_bytes()));
    sdk::produce(&broker, "t", &[message(0)]).unwrap();
    let dir = broker.data_dir();
    let moved = dir.with_extension("moved");
    std::fs::rename(&dir, &moved).unwrap();
    let start = Instant::now();
    while broker.is_running().unwrap() {
        assert!(start.elapsed() < PATIENCE, "the broker goes on:\n{}", broker.log());
        thread::sleep(Duration::from_millis(1));
    }
    let said = broker.log();
    for part in ["ERROR", "LOCK: it has been removed, moved, or replaced by another", "put back the data directory"] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    broker.kill().unwrap();
    // It has left nothing in the place.
    assert!(!dir.exists());
    std::fs::rename(&moved, &dir).unwrap();
    broker.restart().unwrap();
    assert_eq!(sdk::consume(&broker, "t").unwrap().len(), 1);
}
