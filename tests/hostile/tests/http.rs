//! The HTTP port is no way in: whatever comes there is answered or closed in time, and records go on beside it.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use millstream_model::{Offset, PartitionId};
use millstream_protocol::messages::{
    fetch::{FetchPartition, FetchRequest, FetchTopic},
    metadata::MetadataRequest,
};
use millstream_test_support::http::{ask, receive, send};
use millstream_tests_hostile::{door::Client, victim::Victim};

/// Long enough for a busy machine; nothing waits it out but a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a connection stands, and as long again for a busy machine.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(20);
/// How many stand at a time.
const CONNECTIONS_MAX: usize = 32;

fn victim() -> (Victim, SocketAddr) {
    let victim = Victim::start_with(&["--http", "127.0.0.1:0"]).unwrap();
    let http = victim.broker().http();
    (victim, http)
}

/// The broker serves QUIC, Kafka's protocol and HTTP, and has not grown.
#[track_caller]
fn unhurt(victim: &mut Victim, http: SocketAddr) {
    victim.unhurt().unwrap();
    let mut kafka = Client::connect(victim.broker().address(), PATIENCE).unwrap();
    assert_eq!(kafka.call(9, MetadataRequest::default()).unwrap().topics.len(), 1);
    assert_eq!(ask(http, "GET", "/ready", "").unwrap().status, 200);
}

/// What these bytes are answered with; 0: the connection is closed without a word.
#[track_caller]
fn check(http: SocketAddr, bytes: &[u8], expected: &[u16]) {
    let answer = send(http, bytes).unwrap();
    let status = answer.as_ref().map_or(0, |answer| answer.status);
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]);
    assert!(expected.contains(&status), "{shown:?}: {answer:?}");
}

#[test]
fn paths_and_methods_that_there_are_not_are_refused() {
    let (mut victim, http) = victim();
    for path in ["/nothing", "/health/", "/..", "//health", "/%68ealth", "/metrics/../ready", "/READY", "*"] {
        let status = ask(http, "GET", path, "").unwrap().status;
        assert_eq!(status, 404, "{path}");
    }
    for (path, allowed) in [
        ("/", "GET, HEAD"),
        ("/health", "GET, HEAD"),
        ("/ready", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/log-level", "GET, HEAD, PUT"),
    ] {
        for method in ["POST", "DELETE", "OPTIONS", "PATCH", "TRACE", "PUT", "FROB"] {
            if allowed.contains(method) {
                continue;
            }
            let refused = ask(http, method, path, "info").unwrap();
            assert_eq!((refused.status, refused.header("allow")), (405, Some(allowed)), "{method} {path}: {refused:?}");
        }
    }
    assert_eq!(ask(http, "GET", "/health?whatever=1", "").unwrap().status, 200);
    unhurt(&mut victim, http);
}

/// A page in a browser on this machine may ask under a name of its own that leads here.
#[test]
fn who_asks_for_another_machine_gets_nothing_and_changes_nothing() {
    let (mut victim, http) = victim();
    let port = http.port();
    let filter = ask(http, "GET", "/log-level", "").unwrap().body;
    for host in ["evil.example", "evil.example:9644", "localhost.evil.example", "127.0.0.1.evil.example", "@", ""] {
        for (method, path, body) in [("GET", "/ready", ""), ("GET", "/metrics", ""), ("PUT", "/log-level", "off")] {
            let length = body.len();
            let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}");
            check(http, request.as_bytes(), &[421]);
        }
    }
    check(http, b"GET http://evil.example/ready HTTP/1.1\r\nHost: localhost\r\n\r\n", &[421]);
    check(http, b"GET /ready HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", &[421, 400]);
    for host in ["localhost", &format!("LOCALHOST:{port}"), "127.0.0.1", &format!("[::1]:{port}"), "192.0.2.1:80"] {
        check(http, format!("GET /ready HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(), &[200]);
    }
    check(http, b"GET /ready HTTP/1.0\r\n\r\n", &[200]);
    assert_eq!(ask(http, "GET", "/log-level", "").unwrap().body, filter);
    unhurt(&mut victim, http);
}

#[test]
fn what_is_too_large_or_no_http_at_all_is_refused() {
    let (mut victim, http) = victim();
    let get = |headers: &str| format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    let put =
        |headers: &str, body: &str| format!("PUT /log-level HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n{body}");
    let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
    let long = "y".repeat(1 << 20);
    check(http, get(&many).as_bytes(), &[431]);
    check(http, get(&format!("X: {}\r\n", "y".repeat(9 << 10))).as_bytes(), &[431]);
    check(http, get(&format!("X: {long}\r\n")).as_bytes(), &[431]);
    check(http, format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes(), &[414, 431]);
    // Without an end.
    check(http, long.as_bytes(), &[400, 414, 431]);
    let body = "x".repeat(4097);
    check(http, put("Content-Length: 4097", &body).as_bytes(), &[413]);
    check(http, put("Content-Length: 1048576", &long).as_bytes(), &[413]);
    check(http, put("Content-Length: 18446744073709551615", "info").as_bytes(), &[431]);
    check(http, put("Transfer-Encoding: chunked", &format!("1001\r\n{body}\r\n0\r\n\r\n")).as_bytes(), &[413]);
    check(http, put("Transfer-Encoding: chunked", &format!("100000\r\n{long}\r\n0\r\n\r\n")).as_bytes(), &[413]);
    check(http, put("Transfer-Encoding: chunked", "zz\r\n").as_bytes(), &[400]);
    // As large as may be, and no directive.
    check(http, put("Content-Length: 4096", &body[..4096]).as_bytes(), &[400]);
    check(http, put("Content-Length: 2", "\u{e9}").as_bytes(), &[400]);
    check(http, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", &[400]);
    check(http, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0, 400, 404, 505]);
    check(http, &[0; 5000], &[400]);
    check(http, b"\r\n\r\nGET\r\n\r\n", &[400]);
    // One request a connection: what is sent behind it is nobody's.
    let two = get("").repeat(2);
    let answer = send(http, two.as_bytes()).unwrap().unwrap();
    assert_eq!((answer.status, answer.body.matches("HTTP/1.1").count()), (200, 0), "{answer:?}");
    unhurt(&mut victim, http);
}

/// Opens connections that say nothing until there is room for no more. Returns them.
fn occupy(http: SocketAddr) -> Vec<TcpStream> {
    (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(http).unwrap()).collect()
}

#[test]
fn connections_are_bounded_and_their_places_are_given_back() {
    let (mut victim, http) = victim();
    let silent = occupy(http);
    // They are taken in their order.
    check(http, b"", &[503]);
    victim.unhurt().unwrap();
    drop(silent);
    let start = Instant::now();
    let health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    while send(http, health).unwrap().is_none_or(|answer| answer.status != 200) {
        assert!(start.elapsed() < PATIENCE, "places are not given back");
    }
    unhurt(&mut victim, http);
}

#[test]
fn who_says_nothing_or_little_at_a_time_is_closed_in_time() {
    let (mut victim, http) = victim();
    let start = Instant::now();
    let mut slow: Vec<TcpStream> = occupy(http);
    let beginnings = [
        "",
        "GET /health HTTP/1.1\r\n",
        "GET /health HTTP/1.1\r\nX: y",
        "PUT /log-level HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4096\r\n\r\n",
        "PUT /log-level HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n",
    ];
    for (stream, beginning) in slow.iter_mut().zip(beginnings.iter().cycle()) {
        stream.write_all(beginning.as_bytes()).unwrap();
    }
    // A byte now and then keeps nobody there.
    let mut dripping = slow.split_off(CONNECTIONS_MAX / 2);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut drip = || dripping.iter_mut().filter_map(|stream| stream.write_all(b"1").ok()).count();
            while drip() > 0 && start.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(200));
            }
        });
        for stream in &mut slow {
            assert_eq!(receive(stream).unwrap(), None);
        }
    });
    assert!(start.elapsed() < CONNECTION_TIME_MAX, "{:?}", start.elapsed());
    unhurt(&mut victim, http);
}

/// However many ask for it, and go before they have it: it is gathered for one at a time, and records go on.
#[test]
fn metrics_are_asked_for_by_many_at_once_and_by_some_who_do_not_wait() {
    let (mut victim, http) = victim();
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for round in 0..50 {
                    let mut stream = TcpStream::connect(http).unwrap();
                    // It may have had enough already.
                    let _ = stream.write_all(request);
                    if round % 2 == 0 {
                        continue;
                    }
                    let status = receive(&mut stream).unwrap().map_or(0, |answer| answer.status);
                    assert!([0, 200, 503].contains(&status), "{status}");
                }
            });
        }
    });
    let start = Instant::now();
    let mut last = ask(http, "GET", "/metrics", "");
    while !last.as_ref().is_ok_and(|answer| answer.status == 200) {
        assert!(start.elapsed() < PATIENCE, "{last:?}");
        last = ask(http, "GET", "/metrics", "");
    }
    millstream_test_support::exposition::parse(&last.unwrap().body).unwrap();
    unhurt(&mut victim, http);
}

/// A client of Kafka's that does not read its answers holds up the stop for some seconds. Meanwhile load balancers are told.
#[test]
fn a_broker_that_stops_says_so_until_it_has_stopped() {
    let (mut victim, http) = victim();
    let megabyte = [vec![b'x'; 999_999], b"\n".to_vec()].concat();
    let words = ["produce", "bystander", "--partition", "0"];
    victim.broker().cli_with(&words, &megabyte.repeat(12)).unwrap().ok().unwrap();
    let partition = FetchPartition {
        partition: PartitionId(0),
        fetch_offset: Offset(0),
        partition_max_bytes: i32::MAX,
        ..Default::default()
    };
    let topics = vec![FetchTopic { topic: "bystander".into(), partitions: vec![partition], ..Default::default() }];
    let fetch = FetchRequest { max_wait_ms: 1000, min_bytes: 1, topics, ..Default::default() };
    let mut greedy = Client::connect(victim.broker().address(), PATIENCE).unwrap();
    for _ in 0..10 {
        greedy.send(11, fetch.clone()).unwrap();
    }
    assert!(greedy.receive::<FetchRequest>(11).unwrap().is_some());
    // Nor does an HTTP connection that says nothing.
    let silent = TcpStream::connect(http).unwrap();
    thread::scope(|scope| {
        let stopped = scope.spawn(|| victim.broker_mut().stop());
        let told = loop {
            // Until the first 503; that there is no answer any more is too late.
            let ready = ask(http, "GET", "/ready", "").unwrap();
            if ready.status != 200 {
                break ready;
            }
        };
        assert_eq!((told.status, &told.json().unwrap()["reason"]), (503, &"the broker is stopping".into()), "{told:?}");
        assert_eq!(ask(http, "GET", "/health", "").unwrap().status, 200);
        stopped.join().unwrap().unwrap();
    });
    drop(silent);
    TcpStream::connect(http).unwrap_err();
}
