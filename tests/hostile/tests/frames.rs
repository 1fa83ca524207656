//! Bytes at the TCP door that no client sends: a typed answer or a closed connection, never a panic, memory flat.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use millstream_tests_hostile::{
    door::{self, Outcome, announced, framed, request},
    victim::Victim,
};

/// Long enough for a busy machine; only an expected silence waits it out.
const PATIENCE: Duration = Duration::from_secs(20);

const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;
const PRODUCE: i16 = 0;
const FETCH: i16 = 1;

/// Every one of these must get the connection closed, and leave the broker as it was.
fn all_closed(cases: &[(&str, Vec<u8>)]) {
    let mut victim = Victim::start().unwrap();
    for (name, bytes) in cases {
        let outcome = door::send_and_end(victim.broker().address(), bytes, PATIENCE).unwrap();
        assert_eq!(outcome, Outcome::Closed, "{name}");
        victim.unhurt().unwrap_or_else(|error| panic!("{name}: {error:#}"));
    }
}

#[test]
fn lengths_that_lie_end_the_connection() {
    all_closed(&[
        ("length 0", announced(0, b"")),
        ("length 1", announced(1, b"x")),
        ("length -1", announced(-1, b"xxxx")),
        ("length i32::MIN", announced(i32::MIN, b"xxxx")),
        ("length 2^31-1, nothing behind it", announced(i32::MAX, b"")),
        ("length 2^31-1, a little behind it", announced(i32::MAX, &[0; 10_000])),
        ("shorter than said", announced(100, b"only this")),
        ("a header cut off", framed(&[0, 3, 0])),
        ("nothing at all", Vec::new()),
        ("half a length", vec![0, 0]),
    ]);
}

#[test]
fn other_protocols_end_the_connection() {
    all_closed(&[
        ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("TLS", [&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03][..], &[7; 512]].concat()),
        ("SSH", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_vec()),
        ("text", b"hello?\n".repeat(1000)),
        ("zeros", vec![0; 65_536]),
        ("ones", vec![0xff; 65_536]),
    ]);
}

#[test]
fn requests_that_are_not_served_end_the_connection() {
    all_closed(&[
        ("an unknown key", request(999, 0, 1, b"x", b"")),
        ("a negative key", request(-1, 0, 1, b"x", b"")),
        ("a version from the future", request(METADATA, 99, 1, b"x", b"")),
        ("a version that is gone", request(FETCH, 0, 1, b"x", &[0; 64])),
        ("a negative version", request(METADATA, -1, 1, b"x", b"")),
        ("telemetry, which is not advertised", request(71, 0, 1, b"x", b"")),
    ]);
}

#[test]
fn bodies_that_lie_end_the_connection() {
    let count = |count: i32| count.to_be_bytes().to_vec();
    let topic_of = |length: i16, text: &[u8]| [&1_i32.to_be_bytes()[..], &length.to_be_bytes(), text].concat();
    // Metadata 4: an array of topic names (null allowed), then a boolean.
    all_closed(&[
        ("two thousand million topics", request(METADATA, 4, 1, b"x", &count(i32::MAX))),
        ("minus two topics", request(METADATA, 4, 1, b"x", &count(-2))),
        ("a name past the end", request(METADATA, 4, 1, b"x", &topic_of(30_000, b"short"))),
        ("a name that is no text", request(METADATA, 4, 1, b"x", &topic_of(2, b"\xff\xfe\x01"))),
        ("a body that is too short", request(METADATA, 4, 1, b"x", b"\0")),
        ("a produce of nothing", request(PRODUCE, 7, 1, b"x", b"")),
        ("a produce of noise", request(PRODUCE, 7, 1, b"x", &[0x5a; 4096])),
        ("a fetch of noise", request(FETCH, 11, 1, b"x", &[0x5a; 4096])),
    ]);
}

/// As Kafka's brokers do: librdkafka has left three behind.
#[test]
fn bytes_behind_a_body_of_kafkas_are_passed_over() {
    let mut victim = Victim::start().unwrap();
    let frame = request(METADATA, 4, 5, b"x", &[0, 0, 0, 0, 1, 9, 9, 9]);
    let outcome = door::send(victim.broker().address(), &frame, PATIENCE).unwrap();
    let Outcome::Answer(frame) = outcome else { panic!("{outcome:?}") };
    assert_eq!(frame[..4], 5_i32.to_be_bytes());
    victim.unhurt().unwrap();
}

#[test]
fn an_unknown_version_of_api_versions_is_answered() {
    // Trap 1 of Kafka's protocol: error 35 in a body of version 0, so that a newer client can fall back.
    let mut victim = Victim::start().unwrap();
    let outcome = door::send(victim.broker().address(), &request(API_VERSIONS, 99, 77, b"x", b""), PATIENCE).unwrap();
    let Outcome::Answer(frame) = outcome else { panic!("{outcome:?}") };
    assert_eq!(frame[..4], 77_i32.to_be_bytes());
    assert_eq!(frame[4..6], 35_i16.to_be_bytes());
    victim.unhurt().unwrap();
}

#[test]
fn names_that_cannot_be_are_answered_as_such() {
    let mut victim = Victim::start().unwrap();
    for name in [&b"../../etc/passwd"[..], b"nul\0byte", b"", b"a b", &[b'x'; 250]] {
        let topics = [&1_i32.to_be_bytes()[..], &(name.len() as i16).to_be_bytes(), name, &[0]].concat();
        let frame = request(METADATA, 4, 5, b"x", &topics);
        let outcome = door::send(victim.broker().address(), &frame, PATIENCE).unwrap();
        let shown = String::from_utf8_lossy(name);
        let Outcome::Answer(frame) = outcome else { panic!("{shown:?}: {outcome:?}") };
        // INVALID_TOPIC_EXCEPTION (17) is somewhere behind the brokers.
        assert!(frame.windows(2).any(|pair| pair == 17_i16.to_be_bytes()), "{shown:?}");
        victim.unhurt().unwrap();
    }
}

#[test]
fn half_a_request_does_not_hold_others_up() {
    let mut victim = Victim::start().unwrap();
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(victim.broker().address()).unwrap();
        // A million bytes are promised, ten are sent: memory grows by what came, not by what was promised.
        stream.write_all(&announced(1_000_000, &[0; 10])).unwrap();
        held.push(stream);
    }
    let start = Instant::now();
    victim.unhurt().unwrap();
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    drop(held);
    victim.unhurt().unwrap();
}

#[test]
fn requests_whose_answers_nobody_reads_are_held_back() {
    let mut victim = Victim::start().unwrap();
    let mut stream = TcpStream::connect(victim.broker().address()).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let requests: Vec<u8> =
        (0..2_000).flat_map(|n| request(METADATA, 4, n, b"x", &[0xff, 0xff, 0xff, 0xff, 0])).collect();
    // A hundred thousand requests, not one answer read: the broker stops reading, or closes. Either way it must not grow.
    for _ in 0..50 {
        if stream.write_all(&requests).is_err() {
            break;
        }
    }
    victim.unhurt().unwrap();
}
