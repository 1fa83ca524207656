//! Clients of the QUIC door that are connected and do what they should not: streams without end, bytes beyond what is allowed, answers that
//! are never read, moves and ends in the middle. Each costs the broker a bounded share of memory, and nobody else is held up.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_model::{Offset, PartitionId};
use millstream_protocol::{
    encode_request,
    messages::fetch::{FetchPartition, FetchRequest, FetchTopic},
};
use millstream_test_support::broker::Broker;
use millstream_tests_hostile::{
    bare::{Bare, Manner, ask, said},
    door::{announced, framed, request},
    initial::DATAGRAM_BYTES_MIN,
    victim::Victim,
};
use quinn::{Connection, ConnectionError, SendDatagramError, VarInt};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

/// Long enough for a busy machine; nothing waits it out but a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// Streams that a client may have open on a connection.
const STREAMS_MAX: usize = 64;
/// How much more memory the broker may have used than before, at its peak, bytes; beside its budget for large frames, where that is used.
const PEAK_MAX: u64 = 64 << 20;
/// That budget, where it is to be seen how far it goes: little more than the least.
const BUDGET: u64 = 128 << 20;
/// Records of [`LARGE`], bytes.
const LARGE_BYTES: usize = 12_000_000;
const LARGE: &str = "large";
/// Any code of a client's own.
const CODE: VarInt = VarInt::from_u32(7);

const PROTOCOL_VIOLATION: u64 = 0x0a;
const STREAM_LIMIT_ERROR: u64 = 0x04;
const FLOW_CONTROL_ERROR: u64 = 0x03;

fn client(victim: &Victim) -> Bare {
    client_who(victim, Manner::default())
}

fn client_who(victim: &Victim, manner: Manner) -> Bare {
    Bare::new(victim.broker(), &manner).unwrap()
}

/// A broker whose budget for large frames is small, with a topic of 12 MB.
fn tight() -> Victim {
    let victim = Victim::start_with(&["--frame-memory", &BUDGET.to_string()]).unwrap();
    victim.broker().cli(&["topic", "create", LARGE]).unwrap().ok().unwrap();
    let megabyte = [vec![b'x'; 999_999], b"\n".to_vec()].concat();
    let words = ["produce", LARGE, "--partition", "0"];
    victim.broker().cli_with(&words, &megabyte.repeat(LARGE_BYTES / megabyte.len())).unwrap().ok().unwrap();
    victim
}

/// The frame of a request for all that a topic's partition holds, or for as much as it never will.
fn fetch(topic: &str, max_wait_ms: i32) -> Vec<u8> {
    let partition = FetchPartition {
        partition: PartitionId(0),
        fetch_offset: Offset(0),
        partition_max_bytes: i32::MAX,
        ..Default::default()
    };
    let topics = vec![FetchTopic { topic: topic.into(), partitions: vec![partition], ..Default::default() }];
    let request = FetchRequest { max_wait_ms, min_bytes: i32::MAX, topics, ..Default::default() };
    framed(&encode_request(11, 1, Some("hostile"), &request.into()).unwrap().to_bytes())
}

#[track_caller]
fn unhurt(victim: &mut Victim, before: u64) {
    let peak = victim.peak(before).unwrap();
    assert!(peak < PEAK_MAX, "{} MiB", peak >> 20);
    victim.unhurt().unwrap();
}

/// What connections held that have just ended is given back in a moment.
#[track_caller]
fn until_unhurt(victim: &mut Victim) {
    let start = Instant::now();
    while let Err(error) = victim.unhurt() {
        assert!(start.elapsed() < PATIENCE, "{error:#}");
    }
}

/// The broker's open files, sockets among them.
fn files(victim: &Victim) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", victim.broker().process_id())).unwrap().count()
}

/// The code with which the broker closes a connection.
async fn close_code(connection: &Connection) -> u64 {
    match tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap() {
        ConnectionError::ConnectionClosed(close) => close.error_code.into(),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_streams_that_are_reset_at_once_is_survived() {
    const STORM: usize = 20_000;
    let mut victim = Victim::start().unwrap();
    let before = victim.forget_peak().unwrap();
    let client = client(&victim);
    let connection = client.connect().await.unwrap();
    for number in 0..STORM {
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        match number % 4 {
            0 => {}
            1 => send.write_all(&announced(1000, b"a frame")).await.unwrap(),
            2 => send.write_all(&announced(10_000_000, &[0; 5000])).await.unwrap(),
            _ => send.write_all(&request(3, 4, 1, b"x", &[0; 5])).await.unwrap(),
        }
        // Some of both directions, some of one; gone by itself, where the client forgets it.
        if number % 3 > 0 {
            send.reset(CODE).unwrap();
        }
        if number % 3 < 2 {
            receive.stop(CODE).unwrap();
        }
    }
    // On the connection of the storm, and on others.
    ask(&connection).await.unwrap();
    unhurt(&mut victim, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_serves_is_not_allowed_and_ends_the_connection_of_who_sends_it() {
    let mut victim = Victim::start().unwrap();
    let before = victim.forget_peak().unwrap();
    let honest = client(&victim).connect().await.unwrap();
    ask(&honest).await.unwrap();
    assert_eq!(honest.max_datagram_size(), None);
    assert!(matches!(honest.send_datagram(vec![1].into()), Err(SendDatagramError::UnsupportedByPeer)));
    let uni = tokio::time::timeout(Duration::from_millis(100), honest.open_uni()).await;
    assert!(uni.is_err(), "a stream with one direction");

    let believing = |what: &[(u64, u64)]| client_who(&victim, Manner { believes: what.to_vec(), ..Manner::default() });
    let datagrams = believing(&[(said::DATAGRAMS, 65_535)]);
    let connection = datagrams.connect().await.unwrap();
    connection.send_datagram(vec![1; 1000].into()).unwrap();
    assert_eq!(close_code(&connection).await, PROTOCOL_VIOLATION);

    let uni = believing(&[(said::UNI_STREAMS, 100), (said::UNI_STREAM_DATA, 1 << 20)]);
    let connection = uni.connect().await.unwrap();
    connection.open_uni().await.unwrap().write_all(b"x").await.unwrap();
    assert_eq!(close_code(&connection).await, STREAM_LIMIT_ERROR);

    let streams = believing(&[(said::STREAMS, 1000)]);
    let connection = streams.connect().await.unwrap();
    let mut open = Vec::new();
    for _ in 0..=STREAMS_MAX {
        let mut stream = connection.open_bi().await.unwrap();
        let _ = stream.0.write_all(&[0]).await;
        open.push(stream);
    }
    assert_eq!(close_code(&connection).await, STREAM_LIMIT_ERROR);

    // A stream that is not read, since as much is under way on it as may be.
    victim.broker().cli(&["topic", "create", "empty"]).unwrap().ok().unwrap();
    let bytes = believing(&[(said::DATA, 1 << 40), (said::STREAM_DATA, 1 << 40)]);
    let connection = bytes.connect().await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&fetch("empty", 50_000).repeat(200)).await.unwrap();
    // Sent until the connection is closed.
    while send.write_all(&[0; 1 << 16]).await.is_ok() {}
    assert_eq!(close_code(&connection).await, FLOW_CONTROL_ERROR);

    ask(&honest).await.unwrap();
    unhurt(&mut victim, before);
}

/// They are given up after half a minute without a byte. Until then they cost what has come, and hold nobody up.
#[tokio::test(flavor = "multi_thread")]
async fn a_byte_now_and_then_on_many_streams_costs_next_to_nothing() {
    const CONNECTIONS: usize = 16;
    let mut victim = Victim::start().unwrap();
    let before = victim.forget_peak().unwrap();
    let client = client(&victim);
    let frame = announced(20_000, &[0; 4]);
    let (mut connections, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        let connection = client.connect().await.unwrap();
        // One is left for the question at the end.
        for _ in 1..STREAMS_MAX {
            streams.push(connection.open_bi().await.unwrap());
        }
        connections.push(connection);
    }
    for byte in frame {
        for (send, _) in &mut streams {
            send.write_all(&[byte]).await.unwrap();
        }
        victim.serves().unwrap();
    }
    for connection in &connections {
        ask(connection).await.unwrap();
    }
    unhurt(&mut victim, before);
}

/// Who asks for much, reads nothing, and allows nothing to be sent.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_never_read_take_no_more_than_the_budget() {
    const CLIENTS: usize = 20;
    let mut victim = tight();
    let before = victim.forget_peak().unwrap();
    for window_bytes in [1 << 10, 1 << 20] {
        let greedy = client_who(&victim, Manner { window_bytes, ..Manner::default() });
        let mut held = Vec::new();
        for _ in 0..CLIENTS {
            let connection = greedy.connect().await.unwrap();
            for _ in 0..8 {
                let mut stream = connection.open_bi().await.unwrap();
                stream.0.write_all(&fetch(LARGE, 0).repeat(10)).await.unwrap();
                held.push((stream, connection.clone()));
            }
        }
        // Those who ask for little are served beside them.
        ask(&client(&victim).connect().await.unwrap()).await.unwrap();
        victim.serves().unwrap();
        let peak = victim.peak(before).unwrap();
        assert!(peak < BUDGET + PEAK_MAX, "{} MiB with windows of {window_bytes} bytes", peak >> 20);
        drop(held);
        // Once they are gone, those who ask for much are served, too.
        fetch_large(&client(&victim).connect().await.unwrap()).await;
    }
    // What the second round has made it use is within the same bound: nothing is left that adds up.
    victim.serves().unwrap();
}

/// Fetches the large topic, as far as it must be there as a whole: its answer begins to come when there is room for all of it.
async fn fetch_large(connection: &Connection) {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&fetch(LARGE, 0)).await.unwrap();
    let (mut length, mut beginning) = ([0; 4], vec![0; 64 << 10]);
    tokio::time::timeout(PATIENCE, receive.read_exact(&mut length)).await.unwrap().unwrap();
    receive.read_exact(&mut beginning).await.unwrap();
    assert!(u32::from_be_bytes(length) as usize > LARGE_BYTES, "{length:?}");
}

/// As many bytes as the broker takes, of frames for which there is no room. Each connection had 16 MiB of its own.
#[tokio::test(flavor = "multi_thread")]
async fn frames_that_wait_for_room_take_less_than_the_budget() {
    const CLIENTS: usize = 20;
    let mut victim = tight();
    let before = victim.forget_peak().unwrap();
    let sender = client(&victim);
    let part = Bytes::from(announced(40 << 20, &vec![0; 4 << 20]));
    let (mut held, mut connections) = (Vec::new(), Vec::new());
    for _ in 0..CLIENTS {
        let connection = sender.connect().await.unwrap();
        for _ in 0..16 {
            let (mut send, receive) = connection.open_bi().await.unwrap();
            let part = part.clone();
            // As far as it goes: where the broker stops reading.
            let task = tokio::spawn(async move { send.write_chunk(part).await.map(|()| send) });
            held.push((task, receive));
        }
        connections.push(connection);
    }
    // Until nothing moves any more.
    let (mut last, start) = (0, Instant::now());
    loop {
        victim.serves().unwrap();
        let frames = connections.iter().map(|one| one.stats().frame_tx.stream).sum::<u64>();
        if frames == last {
            break;
        }
        assert!(start.elapsed() < PATIENCE);
        last = frames;
    }
    let sent = connections.iter().map(|one| one.stats().udp_tx.bytes).sum::<u64>();
    assert!(sent > 16 << 20, "{} MiB", sent >> 20);
    let peak = victim.peak(before).unwrap();
    assert!(peak < BUDGET, "{} MiB", peak >> 20);
    for (task, ..) in &held {
        task.abort();
    }
    drop((held, connections));
    fetch_large(&client(&victim).connect().await.unwrap()).await;
    until_unhurt(&mut victim);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_end_in_the_middle_of_a_frame_or_an_answer_leave_nothing_behind() {
    const ROUNDS: usize = 18;
    const AT_ONCE: usize = 60;
    let mut victim = tight();
    let (files_before, before) = (files(&victim), victim.forget_peak().unwrap());
    for round in 0..ROUNDS {
        let client = client(&victim);
        for number in 0..AT_ONCE {
            let connection = client.connect().await.unwrap();
            let (mut send, mut receive) = connection.open_bi().await.unwrap();
            match number % 3 {
                0 => send.write_all(&announced(10_000_000, &[0; 40_000])).await.unwrap(),
                1 => send.write_all(&announced(1000, &[0; 999])).await.unwrap(),
                _ => {
                    send.write_all(&fetch(LARGE, 0)).await.unwrap();
                    receive.read_exact(&mut [0; 4]).await.unwrap();
                }
            }
            if round % 2 == 0 {
                connection.close(CODE, b"enough");
            }
        }
    }
    victim.serves().unwrap();
    let peak = victim.peak(before).unwrap();
    assert!(peak < BUDGET + PEAK_MAX, "{} MiB", peak >> 20);
    fetch_large(&client(&victim).connect().await.unwrap()).await;
    until_unhurt(&mut victim);
    assert!(files(&victim) <= files_before + 8, "{} files", files(&victim));
    assert_eq!(victim.broker().log().matches("WARN").count(), 0, "{}", victim.broker().log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_moves_is_served_where_it_is() {
    let mut victim = Victim::start().unwrap();
    let before = victim.forget_peak().unwrap();
    let client = client(&victim);
    let connection = client.connect().await.unwrap();
    ask(&connection).await.unwrap();
    client.move_away().unwrap();
    ask(&connection).await.unwrap();
    unhurt(&mut victim, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_from_a_forged_address_are_answered_there_with_little_and_end_no_connection() {
    let mut victim = Victim::start().unwrap();
    let before = victim.forget_peak().unwrap();
    let client = client(&victim);
    let connection = client.connect().await.unwrap();
    ask(&connection).await.unwrap();
    let elsewhere = client.divert().unwrap();
    let question = tokio::spawn({
        let connection = connection.clone();
        async move { ask(&connection).await.map_err(|error| error.to_string()) }
    });
    // It has come from there; its answer would go there, too.
    elsewhere.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let mut received = elsewhere.recv(&mut buffer).unwrap();
    client.return_home();
    // What was lost that way is sent again, and who it came from is found out.
    tokio::time::timeout(PATIENCE, question).await.unwrap().unwrap().unwrap();
    ask(&connection).await.unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    while let Ok(bytes) = elsewhere.recv(&mut buffer) {
        received += bytes;
    }
    // quinn sends a whole datagram where it may send a byte.
    let sent = client.sent_from_elsewhere();
    assert!(received <= 3 * sent + DATAGRAM_BYTES_MIN, "{received} bytes in answer to {sent}");
    unhurt(&mut victim, before);
}

/// In TLS 1.3 a client is done with the handshake before the broker has looked at what it shows, and asks already.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_without_a_certificate_asks_at_once_is_not_done() {
    const CERTIFICATE_REQUIRED: u64 = 0x100 + 116;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    std::fs::write(&ca, pem).unwrap();
    let mut broker =
        Broker::start_with(&["--tls-client-ca", ca.to_str().unwrap(), "--tcp-tls", "on", "--http", "127.0.0.1:0"])
            .unwrap();
    let client = Bare::new(&broker, &Manner::default()).unwrap();
    for _ in 0..200 {
        let connection = client.connect().await.unwrap();
        let opened = connection.open_bi().await;
        if let Ok((mut send, _)) = opened {
            // Metadata 4, of a topic that is to be made.
            let _ = send.write_all(&request(3, 4, 1, b"x", &[0, 0, 0, 1, 0, 3, b'b', b'a', b'd', 1])).await;
        }
        assert_eq!(close_code(&connection).await, CERTIFICATE_REQUIRED);
    }
    assert!(broker.is_running().unwrap());
    let log = broker.log();
    assert!(log.matches("a client was refused for its certificate").count() < 10, "{log}");
    let metrics = millstream_test_support::http::ask(broker.http(), "GET", "/metrics", "").unwrap().body;
    let asked: Vec<_> = metrics.lines().filter(|line| line.contains("api=\"Metadata\"")).collect();
    assert!(!asked.is_empty() && asked.iter().all(|line| line.ends_with(" 0")), "{asked:#?}");
}
