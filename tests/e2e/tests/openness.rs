//! To whom a broker is open: this machine only, on every port, unless it was told another address; and that is warned of.

use std::net::SocketAddr;

use millstream_test_support::broker::Broker;

/// Lines of the log that warn of this.
fn warnings<'a>(log: &'a str, words: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains("WARN") && line.contains(words)).collect()
}

#[test]
fn a_broker_that_was_told_nothing_is_open_to_this_machine_only() {
    let mut broker = Broker::start_with(&["--http", "localhost:0"]).unwrap();
    assert!(broker.address().ip().is_loopback() && broker.http().ip().is_loopback());
    assert!(warnings(&broker.log(), "whoever").is_empty(), "{}", broker.log());
    let told = broker.cli(&["serve", "--help"]).unwrap().ok().unwrap().text();
    for default in ["default is 127.0.0.1:9092", "default is 127.0.0.1:9644"] {
        let words = told.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(default), "no {default:?} in {told}");
    }
    broker.stop().unwrap();
}

#[test]
fn what_others_reach_is_warned_of_port_by_port() {
    let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    // Nobody connects: any name will do.
    let words = ["--advertise", "broker.example:9092", "--http", "127.0.0.1:0"];
    let mut broker = Broker::start_listening(anywhere, &words).unwrap();
    let log = broker.log();
    let [told] = warnings(&log, "whoever reaches this address may do everything")[..] else { panic!("{log}") };
    assert!(told.contains(&broker.address().to_string()) && told.contains("--tls-client-ca"), "{told}");
    assert!(told.contains("--tcp-tls on"), "the way of Kafka's clients is not encrypted: {told}");
    assert!(broker.http().ip().is_loopback(), "HTTP goes its own way");
    broker.stop().unwrap();

    let mut broker = Broker::start_with(&["--http", "0.0.0.0:0"]).unwrap();
    let log = broker.log();
    assert_eq!(warnings(&log, "read its metrics and change what it logs").len(), 1, "{log}");
    assert!(warnings(&log, "may do everything").is_empty() && broker.address().ip().is_loopback(), "{log}");
    broker.stop().unwrap();
}
