//! Bytes at a TCP door in TLS that no client sends, and handshakes that come to nothing: closed, memory flat, others served.

use std::{io::Write, net::TcpStream, time::Duration};

use millstream_tests_hostile::{
    door::{self, Outcome, request},
    victim::Victim,
};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
const IN_TLS: [&str; 2] = ["--tcp-tls", "on"];

/// A record of the handshake, of this version and with this length in it.
fn record(version: u16, length: u16, body: &[u8]) -> Vec<u8> {
    [&[0x16][..], &version.to_be_bytes(), &length.to_be_bytes(), body].concat()
}

/// A ClientHello whose lengths are what is given: of the message, of the cipher suites and of the extensions.
fn hello(message: u32, suites: u16, extensions: u16) -> Vec<u8> {
    let mut body = vec![1];
    body.extend(&message.to_be_bytes()[1..]);
    body.extend([3, 3]);
    body.extend([7; 32]);
    body.push(0);
    body.extend(suites.to_be_bytes());
    body.extend([0x13, 0x01, 1, 0]);
    body.extend(extensions.to_be_bytes());
    body.extend([0; 64]);
    record(0x0301, body.len() as u16, &body)
}

#[test]
fn what_is_no_handshake_ends_the_connection() {
    let mut victim = Victim::start_with(&IN_TLS).unwrap();
    for (name, bytes) in [
        ("nothing", Vec::new()),
        ("a request in plain", request(3, 4, 1, b"x", &[0; 5])),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("zeros", vec![0; 65_536]),
        ("ones", vec![0xff; 65_536]),
        ("the first byte alone", vec![0x16]),
        ("half a record", record(0x0301, 512, &[1; 100])),
        ("a record of nothing", record(0x0303, 0, b"")),
        ("many records of nothing", record(0x0303, 0, b"").repeat(10_000)),
        ("a record that is too long", record(0x0303, 0xffff, &[1; 65_535])),
        ("an old version", record(0x0200, 64, &[1; 64])),
        ("a hello of one byte each", record(0x0301, 1, &[1]).repeat(100_000)),
        ("a hello of 16 MiB", hello(0x00ff_ffff, 2, 0)),
        ("more suites than there are", hello(100, 0xfffe, 0)),
        ("more extensions than there are", hello(100, 2, 0xffff)),
        ("an alert", [&[0x15, 3, 3, 0, 2, 2, 40][..]].concat()),
    ] {
        let outcome = door::send_and_end(victim.broker().address(), &bytes, PATIENCE).unwrap();
        assert_eq!(outcome, Outcome::Closed, "{name}");
        victim.unhurt().unwrap_or_else(|error| panic!("{name}: {error:#}"));
    }
}

#[test]
fn handshakes_that_are_never_finished_hold_nothing_and_nobody_up() {
    let mut victim = Victim::start_with(&IN_TLS).unwrap();
    let mut held = Vec::new();
    for begun in 0..400 {
        let mut stream = TcpStream::connect(victim.broker().address()).unwrap();
        if begun % 2 == 0 {
            // One that is refused may be gone already.
            drop(stream.write_all(&record(0x0301, 512, &[1; 100])));
        }
        held.push(stream);
    }
    victim.unhurt().unwrap();
    // Most were refused, and those that were not are given up.
    let start = std::time::Instant::now();
    while victim.sockets().unwrap() > 50 {
        assert!(start.elapsed() < PATIENCE * 3, "{} sockets are open", victim.sockets().unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(held);
    victim.unhurt().unwrap();
}
