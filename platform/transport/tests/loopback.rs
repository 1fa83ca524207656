//! Both transports over loopback: frames of every size, hostile peers, and the errors that people see.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, SinkExt, StreamExt};
use millstream_env::{Connection, Frame, FrameStream, Listener, Net};
use millstream_transport::{
    ConnectError, FrameError, Limits, ListenError, Listeners, QuicNet, ServerIdentity, TcpNet, Trust, identity,
    listen_both,
};

const ANY: &str = "127.0.0.1:0";
/// Longer than anything here takes; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

fn make_identity() -> (tempfile::TempDir, ServerIdentity) {
    let dir = tempfile::tempdir().unwrap();
    let identity = identity::ensure(&dir.path().join("tls"), &[]).unwrap();
    (dir, identity)
}

fn trust(identity: &ServerIdentity) -> Trust {
    Trust::from_pem(&identity.ca_pem, "the test").unwrap()
}

/// Both listeners, echoing every frame of every stream.
struct Echo {
    listeners: Listeners,
    identity: ServerIdentity,
    _dir: tempfile::TempDir,
}

impl Echo {
    fn start(limits: &Limits) -> Self {
        let (dir, identity) = make_identity();
        let listeners = listen_both(ANY.parse().unwrap(), &identity, limits).unwrap();
        tokio::spawn(echo_all(Arc::clone(&listeners.quic) as Arc<dyn Listener>));
        tokio::spawn(echo_all(Arc::clone(&listeners.tcp) as Arc<dyn Listener>));
        Self { listeners, identity, _dir: dir }
    }

    fn address(&self) -> String {
        self.listeners.quic.local_address().to_string()
    }

    fn nets(&self) -> [(&'static str, Arc<dyn Net>); 2] {
        let quic = QuicNet::client(trust(&self.identity), Limits::default());
        [("quic", Arc::new(quic)), ("tcp", Arc::new(TcpNet::default()))]
    }
}

async fn echo_all(listener: Arc<dyn Listener>) {
    while let Some(connection) = listener.accept().await {
        tokio::spawn(async move {
            while let Some(stream) = connection.accept().await {
                tokio::spawn(echo(stream));
            }
        });
    }
}

async fn echo(stream: FrameStream) {
    let FrameStream { mut source, mut sink, .. } = stream;
    while let Some(Ok(frame)) = source.next().await {
        if sink.send(frame.into()).await.is_err() {
            return;
        }
    }
    let _ = sink.close().await;
}

fn body(len: usize) -> Bytes {
    (0..len).map(|at| (at * 31 % 251) as u8).collect::<Vec<_>>().into()
}

fn connect_error(error: &io::Error) -> &ConnectError {
    error.get_ref().and_then(|inner| inner.downcast_ref()).unwrap_or_else(|| panic!("{error}"))
}

async fn failed(net: &dyn Net, address: &str) -> io::Error {
    match tokio::time::timeout(PATIENCE, net.connect(address)).await.unwrap() {
        Ok(_) => panic!("connecting to {address} succeeded"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_come_back_as_they_were_sent() {
    let echo = Echo::start(&Limits::default());
    for (name, net) in echo.nets() {
        let connection = net.connect(&echo.address()).await.unwrap();
        assert_eq!(connection.peer().transport, name);
        let FrameStream { mut source, mut sink, .. } = connection.open().await.unwrap();
        let sizes = [1, 2, 3, 4, 100, 8191, 8192, 40_000, 1 << 20, 20 << 20, 1];
        let send = async {
            for size in sizes {
                let whole = body(size);
                let (head, tail) = (whole.slice(..size / 3), whole.slice(size / 3..));
                sink.feed(Frame { parts: vec![head, tail] }).await.unwrap();
            }
            sink.close().await.unwrap();
        };
        let receive = async {
            for size in sizes {
                let frame = source.next().await.unwrap().unwrap();
                assert!(frame == body(size), "{name}: {size} bytes came back as {} others", frame.len());
            }
            assert!(source.next().await.is_none(), "{name}: the echo finishes when we do");
        };
        tokio::time::timeout(PATIENCE, async { tokio::join!(send, receive) }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_nobody_reads_does_not_stop_its_neighbours() {
    let echo = Echo::start(&Limits::default());
    let [(_, net), _] = echo.nets();
    let connection = net.connect(&echo.address()).await.unwrap();
    let mut stuck = connection.open().await.unwrap();
    let fill = async {
        loop {
            stuck.sink.send(body(1 << 20).into()).await.unwrap();
        }
    };
    // Its answers are never read, so that it stops when the windows are full.
    let ended: Result<(), _> = tokio::time::timeout(Duration::from_secs(2), fill).await;
    assert!(ended.is_err());
    let mut other = connection.open().await.unwrap();
    let ask = async {
        other.sink.send(body(10).into()).await.unwrap();
        other.source.next().await.unwrap().unwrap()
    };
    assert_eq!(tokio::time::timeout(PATIENCE, ask).await.unwrap(), body(10));
}

#[tokio::test]
async fn port_zero_is_one_port_for_both() {
    let echo = Echo::start(&Limits::default());
    let address = echo.listeners.quic.local_address();
    assert_ne!(address.port(), 0);
    assert_eq!(address, echo.listeners.tcp.local_address());
}

#[tokio::test]
async fn a_port_in_use_is_said_and_leaves_nothing_bound() {
    let (_dir, identity) = make_identity();
    let holder = std::net::TcpListener::bind(ANY).unwrap();
    let address = holder.local_addr().unwrap();
    let error = listen_both(address, &identity, &Limits::default()).unwrap_err();
    assert!(matches!(error, ListenError::InUse { protocol: "TCP", .. }), "{error}");
    assert!(error.to_string().contains(&address.port().to_string()), "{error}");
    // The UDP half was given back.
    drop(holder);
    let listeners = listen_both(address, &identity, &Limits::default()).unwrap();
    let error = listen_both(address, &identity, &Limits::default()).unwrap_err();
    assert!(matches!(error, ListenError::InUse { protocol: "UDP", .. }), "{error}");
    drop(listeners);
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let (_dir, identity) = make_identity();
    // A port that was just free, for both protocols.
    let listeners = listen_both(ANY.parse().unwrap(), &identity, &Limits::default()).unwrap();
    let address = listeners.quic.local_address().to_string();
    drop(listeners);
    let patient = Limits { connect_timeout: PATIENCE * 2, ..Limits::default() };
    let quic = QuicNet::client(trust(&identity), patient.clone());
    let tcp = TcpNet::new(patient);
    for net in [&quic as &dyn Net, &tcp] {
        // The port is free once the listeners' tasks have noticed that they were dropped.
        let error = loop {
            let error = failed(net, &address).await;
            if matches!(connect_error(&error), ConnectError::NobodyThere { .. }) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains(&address), "{error}");
    }
}

#[tokio::test]
async fn a_silent_address_is_given_up() {
    let (_dir, identity) = make_identity();
    // Bound, so that nobody refuses, but never answering.
    let silent = std::net::UdpSocket::bind(ANY).unwrap();
    let limits = Limits { connect_timeout: Duration::from_millis(300), ..Limits::default() };
    let quic = QuicNet::client(trust(&identity), limits);
    let error = failed(&quic, &silent.local_addr().unwrap().to_string()).await;
    assert!(matches!(connect_error(&error), ConnectError::NoAnswer { .. }), "{error}");
}

#[tokio::test]
async fn an_address_without_sense_is_refused() {
    let (_dir, identity) = make_identity();
    let quic = QuicNet::client(trust(&identity), Limits::default());
    for address in ["", "localhost", "no.such.host.invalid:1", "127.0.0.1:99999"] {
        for net in [&quic as &dyn Net, &TcpNet::default()] {
            let error = failed(net, address).await;
            assert!(matches!(connect_error(&error), ConnectError::Address { .. }), "{address:?}: {error}");
        }
    }
}

#[tokio::test]
async fn another_ca_is_refused_and_the_message_names_whose_was_trusted() {
    let echo = Echo::start(&Limits::default());
    let (_dir, other) = make_identity();
    let wrong = Trust::from_pem(&other.ca_pem, "/home/x/profile.json").unwrap();
    let error = failed(&QuicNet::client(wrong, Limits::default()), &echo.address()).await;
    assert!(matches!(connect_error(&error), ConnectError::Certificate { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("/home/x/profile.json") && text.contains("client.json"), "{text}");
    // And the next client is served.
    let [(_, net), _] = echo.nets();
    net.connect(&echo.address()).await.unwrap();
}

#[tokio::test]
async fn a_host_that_the_certificate_does_not_name_is_refused() {
    let (_dir, identity) = make_identity();
    let listeners = listen_both("127.0.0.2:0".parse().unwrap(), &identity, &Limits::default()).unwrap();
    let net = QuicNet::client(trust(&identity), Limits::default());
    let error = failed(&net, &listeners.quic.local_address().to_string()).await;
    assert!(matches!(connect_error(&error), ConnectError::Certificate { .. }), "{error}");
    // By a name that it has, it is the same broker.
    drop(listeners);
    let listeners = listen_both(ANY.parse().unwrap(), &identity, &Limits::default()).unwrap();
    net.connect(&format!("localhost:{}", listeners.quic.local_address().port())).await.unwrap();
}

#[tokio::test]
async fn more_connections_than_allowed_are_refused_and_places_are_given_back() {
    let echo = Echo::start(&Limits { connections_max: 1, ..Limits::default() });
    for (name, net) in echo.nets() {
        let first = net.connect(&echo.address()).await.unwrap();
        let mut stream = first.open().await.unwrap();
        stream.sink.send(body(5).into()).await.unwrap();
        assert_eq!(stream.source.next().await.unwrap().unwrap(), body(5));

        if name == "quic" {
            let error = failed(&*net, &echo.address()).await;
            assert!(matches!(connect_error(&error), ConnectError::Full { .. }), "{error}");
        } else {
            // TCP has no way to say so before the connection stands: it ends at once.
            let second = net.connect(&echo.address()).await.unwrap().open().await;
            let next = match second {
                Ok(mut second) => second.source.next().await,
                Err(_) => None,
            };
            assert!(!matches!(next, Some(Ok(_))), "{next:?}");
        }

        drop(stream);
        first.close("done");
        drop(first);
        let again = async {
            loop {
                if let Ok(connection) = net.connect(&echo.address()).await
                    && let Ok(mut stream) = connection.open().await
                    && stream.sink.send(body(5).into()).await.is_ok()
                    && let Some(Ok(frame)) = stream.source.next().await
                {
                    return frame;
                }
            }
        };
        assert_eq!(tokio::time::timeout(PATIENCE, again).await.expect(name), body(5));
    }
}

#[tokio::test]
async fn a_client_may_open_no_more_streams_than_allowed() {
    let echo = Echo::start(&Limits { streams_max: 2, ..Limits::default() });
    let [(_, net), _] = echo.nets();
    let connection = net.connect(&echo.address()).await.unwrap();
    let (one, two) = (connection.open().await.unwrap(), connection.open().await.unwrap());
    let third = tokio::time::timeout(Duration::from_millis(200), connection.open()).await;
    assert!(third.is_err(), "a third waits");
    drop((one, two));
    tokio::time::timeout(PATIENCE, connection.open()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_closed_listener_takes_nobody_but_lets_those_there_go_on() {
    let echo = Echo::start(&Limits::default());
    let [(_, quic), (_, tcp)] = echo.nets();
    let mut streams = Vec::new();
    for net in [&quic, &tcp] {
        let connection = net.connect(&echo.address()).await.unwrap();
        let mut stream = connection.open().await.unwrap();
        stream.sink.send(body(5).into()).await.unwrap();
        stream.source.next().await.unwrap().unwrap();
        streams.push((connection, stream));
    }
    echo.listeners.quic.close();
    echo.listeners.tcp.close();
    for (_, stream) in &mut streams {
        stream.sink.send(body(6).into()).await.unwrap();
        assert_eq!(stream.source.next().await.unwrap().unwrap(), body(6));
    }
    let short = Limits { connect_timeout: Duration::from_millis(200), ..Limits::default() };
    failed(&QuicNet::client(trust(&echo.identity), short), &echo.address()).await;
    let refused = async { while tcp.connect(&echo.address()).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
}

#[tokio::test]
async fn the_reason_of_a_close_reaches_the_client() {
    let (_dir, identity) = make_identity();
    let listeners = listen_both(ANY.parse().unwrap(), &identity, &Limits::default()).unwrap();
    let address = listeners.quic.local_address().to_string();
    let serve = async {
        let connection = listeners.quic.accept().await.unwrap();
        let stream = connection.accept().await.unwrap();
        connection.close("the broker is going away");
        drop(stream);
    };
    let net = QuicNet::client(trust(&identity), Limits::default());
    let ask = async {
        let connection = net.connect(&address).await.unwrap();
        let mut stream = connection.open().await.unwrap();
        stream.sink.send(body(5).into()).await.unwrap();
        stream.source.next().await.unwrap().unwrap_err()
    };
    let ((), error) = tokio::join!(serve, ask);
    assert!(error.to_string().contains("the broker is going away"), "{error}");
}

/// What a plain TCP peer that sends `bytes`, and perhaps finishes, makes of the server's stream.
async fn tcp_peer_sends(bytes: &'static [u8], finish: bool) -> io::Error {
    let (_dir, identity) = make_identity();
    let limits = Limits { frame_timeout: Duration::from_millis(200), ..Limits::default() };
    let listeners = listen_both(ANY.parse().unwrap(), &identity, &limits).unwrap();
    let address = listeners.tcp.local_address();
    let peer = std::thread::spawn(move || {
        let mut peer = std::net::TcpStream::connect(address).unwrap();
        peer.write_all(bytes).unwrap();
        if finish {
            peer.shutdown(std::net::Shutdown::Write).unwrap();
        }
        // Until the server closes.
        let _ = peer.read(&mut [0; 1]);
    });
    let connection = listeners.tcp.accept().await.unwrap();
    let mut stream = connection.accept().await.unwrap();
    let error = tokio::time::timeout(PATIENCE, stream.source.next()).await.unwrap().unwrap().unwrap_err();
    assert!(stream.source.next().await.is_none());
    drop(stream);
    // The connection is over once its stream is.
    assert!(tokio::time::timeout(PATIENCE, connection.accept()).await.unwrap().is_none());
    drop(connection);
    peer.join().unwrap();
    error
}

#[tokio::test]
async fn hostile_lengths_over_tcp_end_the_connection() {
    let length = |error: &io::Error| error.get_ref().unwrap().downcast_ref::<FrameError>().unwrap().clone();
    for (bytes, announced) in [
        (&b"\0\0\0\0"[..], 0),
        (b"\xff\xff\xff\xff", -1),
        (b"\x7f\xff\xff\xff", i32::MAX),
        (b"\x16\x03\x01\x02\x00\x01", 0x1603_0102),
        (b"GET / HTTP/1.1\r\n\r\n", 0x4745_5420),
    ] {
        let error = tcp_peer_sends(bytes, false).await;
        assert!(matches!(length(&error), FrameError::Length { announced: found, .. } if found == announced), "{error}");
    }
    assert!(matches!(length(&tcp_peer_sends(b"\0\0\0\x08half", true).await), FrameError::Cut { .. }));
    assert!(matches!(length(&tcp_peer_sends(b"\0\0\0\x08half", false).await), FrameError::Stalled { .. }));
    assert!(matches!(length(&tcp_peer_sends(b"\0\x01\0\0half", true).await), FrameError::Cut { .. }));
}

#[tokio::test]
async fn datagrams_that_are_not_quic_are_ignored_and_get_no_reset() {
    let echo = Echo::start(&Limits::default());
    let address: SocketAddr = echo.listeners.quic.local_address();
    let junk = std::net::UdpSocket::bind(ANY).unwrap();
    for len in [0, 1, 20, 1200, 1400] {
        for first in [0x00, 0x40, 0x80, 0xc0, 0xff] {
            let mut datagram = vec![0xa5; len];
            if let Some(byte) = datagram.first_mut() {
                *byte = first;
            }
            junk.send_to(&datagram, address).unwrap();
        }
    }
    let [(_, net), _] = echo.nets();
    let mut stream = net.connect(&echo.address()).await.unwrap().open().await.unwrap();
    stream.sink.send(body(5).into()).await.unwrap();
    assert_eq!(stream.source.next().await.unwrap().unwrap(), body(5));
    // By now all has been looked at. Who asks for an unknown version is told of those that there are, with a long header (RFC 9000, 17.2.1).
    junk.set_nonblocking(true).unwrap();
    let mut answer = [0; 2000];
    while let Ok(read) = junk.recv(&mut answer) {
        assert!(answer[0] & 0x80 != 0, "{:x?}", &answer[..read]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_handshakes_at_once_all_succeed_after_retry() {
    let echo = Echo::start(&Limits { retry_above: 0, ..Limits::default() });
    let [(_, net), _] = echo.nets();
    let address = echo.address();
    let all = futures::future::join_all((0..40).map(|_| net.connect(&address)));
    for connection in tokio::time::timeout(PATIENCE, all).await.unwrap() {
        connection.unwrap();
    }
}

/// A stream as the listener has it, and the client's end of it: both have sent something, which nobody has read.
async fn both_ends(listener: &dyn Listener, net: &dyn Net) -> (Arc<dyn Connection>, FrameStream, FrameStream) {
    let client = net.connect(&listener.local_address().to_string()).await.unwrap();
    let connection = listener.accept().await.unwrap();
    let mut ours = client.open().await.unwrap();
    ours.sink.send(body(100).into()).await.unwrap();
    let mut theirs = connection.accept().await.unwrap();
    // Only once something has come does an end of it mean anything.
    assert!(theirs.source.next().await.is_some());
    ours.sink.send(body(100).into()).await.unwrap();
    (client, ours, theirs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_nothing_more_is_seen_without_writing() {
    let (_dir, identity) = make_identity();
    let listeners = listen_both(ANY.parse().unwrap(), &identity, &Limits::default()).unwrap();
    let quic = QuicNet::client(trust(&identity), Limits::default());
    let within = |future| tokio::time::timeout(PATIENCE, future);

    // The stream is stopped, the connection stands.
    let (client, ours, theirs) = both_ends(&*listeners.quic, &quic).await;
    drop(ours.source);
    within(theirs.gone).await.unwrap();
    drop(client);

    // The connection is gone.
    let (client, _ours, theirs) = both_ends(&*listeners.quic, &quic).await;
    client.close("enough");
    within(theirs.gone).await.unwrap();

    // Reset, since it has not read what came: while there is something to read that nobody does.
    let (client, ours, mut theirs) = both_ends(&*listeners.tcp, &TcpNet::default()).await;
    assert!((&mut theirs.gone).now_or_never().is_none() && (&mut theirs.finished).now_or_never().is_none());
    theirs.sink.send(body(100).into()).await.unwrap();
    let mut ours = ours;
    assert!(ours.source.next().await.is_some());
    theirs.sink.send(body(100_000).into()).await.unwrap();
    drop((client, ours));
    within(theirs.gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_what_a_tcp_client_sends_is_seen_before_it_is_read() {
    let (_dir, identity) = make_identity();
    let listeners = listen_both(ANY.parse().unwrap(), &identity, &Limits::default()).unwrap();
    let (_client, mut ours, mut theirs) = both_ends(&*listeners.tcp, &TcpNet::default()).await;
    assert!((&mut theirs.finished).now_or_never().is_none());
    // More comes, and is no end.
    ours.sink.send(body(1000).into()).await.unwrap();
    assert!((&mut theirs.finished).now_or_never().is_none());
    ours.sink.close().await.unwrap();
    tokio::time::timeout(PATIENCE, &mut theirs.finished).await.unwrap();
    assert!((&mut theirs.gone).now_or_never().is_none(), "it still reads");
    for size in [100, 1000] {
        assert_eq!(theirs.source.next().await.unwrap().unwrap().len(), size);
    }
    assert!(theirs.source.next().await.is_none());
    theirs.sink.send(body(10).into()).await.unwrap();
    assert_eq!(ours.source.next().await.unwrap().unwrap().len(), 10);
}
