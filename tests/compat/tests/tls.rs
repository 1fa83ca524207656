//! Kafka's own clients on a TCP port in TLS: they read and write as they do without, and who comes without is told apart.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{ffi::OsString, path::Path};

use millstream_test_support::{
    broker::Broker,
    cli::Finished,
    message::Message,
    peers::{kcat, python},
    sdk,
};
use serde_json::{Value, json};

const KAFKA_PYTHON: &str = "tests/compat/python/kafka_python.py";
/// Together far more than any buffer on the way holds.
const LARGE: usize = 600_000;

/// kcat with these words, in TLS if there is a CA.
fn kcat_with(broker: &Broker, ca: Option<&Path>, words: &[&str], input: &[u8]) -> Finished {
    let address = broker.address().to_string();
    let mut all: Vec<OsString> = ["-b", &address].iter().chain(words).map(OsString::from).collect();
    if let Some(ca) = ca {
        let location = format!("ssl.ca.location={}", ca.display());
        all.extend(["-X", "security.protocol=SSL", "-X", &location].map(OsString::from));
    }
    kcat(&all, input).unwrap()
}

fn values(read: &[millstream_test_support::message::Placed]) -> Vec<Vec<u8>> {
    read.iter().map(|placed| placed.message.value.clone().unwrap()).collect()
}

#[test]
fn kafkas_clients_read_and_write_in_tls() {
    let broker = Broker::start_with(&["--tcp-tls", "on"]).unwrap();
    let ca = broker.data_dir().join("tls/ca.pem");
    let address = broker.address().to_string();
    broker.cli(&["topic", "create", "t"]).unwrap().ok().unwrap();

    let mut sent: Vec<Vec<u8>> = (0..40).map(|n| vec![b'a' + n % 26; LARGE]).collect();
    let lines: Vec<u8> = sent.iter().flat_map(|value| [value, &b"\n"[..]].concat()).collect();
    kcat_with(&broker, Some(&ca), &["-P", "-t", "t", "-X", "acks=all"], &lines).ok().unwrap();
    let record = json!({"partition": 0, "timestamp": 7, "key": null, "value": "6869", "headers": []});
    let placed =
        python(KAFKA_PYTHON, &["produce", &address, "t", ca.to_str().unwrap()], format!("{record}\n").as_bytes());
    assert_eq!(placed.unwrap().ok().unwrap().json().unwrap()[0]["offset"], sent.len());
    sent.push(b"hi".to_vec());
    sdk::produce(&broker, "t", &[Message::new(0, None, Some(b"by QUIC"))]).unwrap();
    sent.push(b"by QUIC".to_vec());

    assert_eq!(values(&sdk::consume(&broker, "t").unwrap()), sent);
    let read = kcat_with(&broker, Some(&ca), &["-C", "-t", "t", "-o", "beginning", "-e", "-q"], b"").ok().unwrap();
    let lines: Vec<&[u8]> = read.stdout.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n').collect();
    assert!(lines == sent, "kcat read {} lines", lines.len());
    let read = python(KAFKA_PYTHON, &["consume", &address, "t", ca.to_str().unwrap()], b"").unwrap().ok().unwrap();
    let told: Vec<Value> = read.json().unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert!(told.iter().map(|record| record["value"].as_str().unwrap()).eq(sent.iter().map(|value| hex(value))));
}

#[test]
fn who_speaks_the_other_way_is_closed_and_the_log_says_what_to_do() {
    for (serve, in_tls, said) in [("on", false, "security.protocol=SSL"), ("off", true, "--tcp-tls on")] {
        let broker = Broker::start_with(&["--tcp-tls", serve]).unwrap();
        let ca = in_tls.then(|| broker.data_dir().join("tls/ca.pem"));
        let refused = kcat_with(&broker, ca.as_deref(), &["-L", "-m", "2"], b"");
        assert_ne!(refused.code, Some(0), "{}", refused.text());
        let log = broker.log();
        assert!(log.lines().any(|line| line.contains("WARN") && line.contains(said)), "{said:?} in:\n{log}");
    }
}

#[test]
fn a_client_that_trusts_another_ca_is_not_served() {
    let [broker, other] = [(); 2].map(|()| Broker::start_with(&["--tcp-tls", "on"]).unwrap());
    let ca = other.data_dir().join("tls/ca.pem");
    let refused = kcat_with(&broker, Some(&ca), &["-L", "-m", "5"], b"");
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("certificate"), "{}", refused.stderr);
    assert!(broker.log().contains("a TLS handshake failed"), "{}", broker.log());
}
