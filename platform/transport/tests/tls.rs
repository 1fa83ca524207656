//! TLS on the TCP port: frames of every size, peers that speak something else, and those that never finish a handshake.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream as Blocking},
    sync::Arc,
    time::Duration,
};

use futures::{SinkExt, StreamExt};
use millstream_env::{Connection, Listener};
use millstream_transport::{
    BoundPort, Credentials, FrameError, Limits, Listeners, ServerIdentity, TcpSecurity, identity,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Longer than anything here takes; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const VERSIONS: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// A listener with TLS on TCP. It echoes frames, unless it is told not to.
struct Server {
    listeners: Listeners,
    identity: ServerIdentity,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start(limits: &Limits) -> Self {
        let server = Self::silent(limits);
        let listener = Arc::clone(&server.listeners.tcp);
        tokio::spawn(async move {
            while let Some(connection) = listener.accept().await {
                tokio::spawn(echo(connection));
            }
        });
        server
    }

    fn silent(limits: &Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = identity::ensure(&dir.path().join("tls"), &[]).unwrap();
        let port = BoundPort::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listeners = port.listen(&Credentials::new(&identity, None).unwrap(), TcpSecurity::Tls, limits).unwrap();
        Self { listeners, identity, _dir: dir }
    }

    fn address(&self) -> SocketAddr {
        self.listeners.tcp.local_address()
    }

    async fn connect(&self, version: &'static rustls::SupportedProtocolVersion) -> io::Result<TlsStream<TcpStream>> {
        self.connect_from([127, 0, 0, 1].into(), version).await
    }

    async fn connect_from(
        &self,
        from: IpAddr,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.identity.ca_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(self.address()).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
    }
}

async fn echo(connection: Arc<dyn Connection>) {
    let Some(mut stream) = connection.accept().await else { return };
    while let Some(Ok(frame)) = stream.source.next().await {
        if stream.sink.send(frame.into()).await.is_err() {
            return;
        }
    }
    let _ = stream.sink.close().await;
}

fn frame(len: usize) -> Vec<u8> {
    let body: Vec<u8> = (0..len).map(|at| (at * 31 % 251) as u8).collect();
    [&(len as u32).to_be_bytes()[..], &body].concat()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

/// What a connection, given these bytes, comes to: all that was read until its end.
fn talk(address: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = Blocking::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(bytes)?;
    let mut read = Vec::new();
    stream.read_to_end(&mut read)?;
    Ok(read)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_come_back_as_they_were_sent_and_the_end_is_one() {
    let server = Server::start(&Limits::default());
    for version in VERSIONS {
        let stream = within(server.connect(version)).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        let (mut read, mut write) = tokio::io::split(stream);
        let sizes = [1, 2, 3, 100, 8191, 8192, 40_000, 1 << 20, 20 << 20, 1];
        let sent: Vec<u8> = sizes.iter().flat_map(|len| frame(*len)).collect();
        let send = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let receive = async {
            let mut received = Vec::new();
            // To its end, which TLS is told of.
            read.read_to_end(&mut received).await.unwrap();
            received
        };
        let ((), received) = within(async { tokio::join!(send, receive) }).await;
        assert!(received == sent, "{} of {} bytes came back", received.len(), sent.len());
    }
}

#[tokio::test]
async fn an_end_that_tls_was_not_told_of_is_one_between_frames_and_a_cut_within() {
    let server = Server::silent(&Limits::default());
    for (cut, expected) in [(0, None), (2, Some(FrameError::Cut { received: 102, expected: 104 }))] {
        let mut client = within(server.connect(&rustls::version::TLS13)).await.unwrap();
        let connection = within(server.listeners.tcp.accept()).await.unwrap();
        assert_eq!(connection.peer().transport, "tcp+tls");
        let mut stream = connection.accept().await.unwrap();
        let sent = frame(100);
        client.write_all(&sent[..sent.len() - cut]).await.unwrap();
        client.flush().await.unwrap();
        // The socket goes, the session is not ended.
        drop(client.into_inner().0);
        let mut error = None;
        while let Some(read) = within(stream.source.next()).await {
            match read {
                Ok(read) => assert_eq!(read, frame(100)[4..]),
                Err(found) => error = Some(found.get_ref().unwrap().downcast_ref::<FrameError>().unwrap().clone()),
            }
        }
        assert_eq!(error, expected);
        within(stream.finished).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_speak_tls_is_closed_in_order_without_a_byte() {
    let server = Server::start(&Limits::default());
    let address = server.address();
    for bytes in [frame(10), b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 30_000], vec![0xff]] {
        // An error would be a reset.
        let read = tokio::task::spawn_blocking(move || talk(address, &bytes)).await.unwrap();
        assert_eq!(read.unwrap(), b"");
    }
    // What only looks like TLS at first is told so in TLS: an alert, and the end.
    let read = tokio::task::spawn_blocking(move || talk(address, &[0x16; 600])).await.unwrap().unwrap();
    assert!(read.is_empty() || read[0] == 0x15, "{read:x?}");
    within(server.connect(&rustls::version::TLS13)).await.unwrap();
}

#[tokio::test]
async fn a_client_that_speaks_tls_on_a_plain_port_finds_the_end() {
    let server = Server::silent(&Limits::default());
    let port = BoundPort::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let plain = port
        .listen(&Credentials::new(&server.identity, None).unwrap(), TcpSecurity::Plain, &Limits::default())
        .unwrap();
    let tls = Server { listeners: plain, identity: server.identity, _dir: server._dir };
    let refuse = async {
        let connection = tls.listeners.tcp.accept().await.unwrap();
        let mut stream = connection.accept().await.unwrap();
        stream.source.next().await.unwrap().unwrap_err()
    };
    let (seen, error) = within(async { tokio::join!(tls.connect(&rustls::version::TLS13), refuse) }).await;
    assert_eq!(seen.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(error.to_string().contains("looks like a TLS handshake"), "{error}");
}

/// Begins a handshake and waits, without going on, for the end.
fn stall(address: SocketAddr) -> std::thread::JoinHandle<io::Result<Vec<u8>>> {
    // A record of 512 bytes, of which few come.
    std::thread::spawn(move || talk(address, &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_does_not_end_is_ended_and_no_connection_is_made_for_it() {
    let limits = Limits { handshake_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = Server::silent(&limits);
    let stalled: Vec<_> = (0..10).map(|_| stall(server.address())).collect();
    let silent: Vec<_> = (0..10).map(|_| Blocking::connect(server.address()).unwrap()).collect();
    let ended = tokio::task::spawn_blocking(move || {
        for stalled in stalled {
            assert_eq!(stalled.join().unwrap().unwrap(), b"");
        }
        for mut silent in silent {
            silent.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
        }
    });
    // The first that is accepted is the first that was good.
    within(ended).await.unwrap();
    let (good, connection) =
        within(async { tokio::join!(server.connect(&rustls::version::TLS13), server.listeners.tcp.accept()) }).await;
    assert_eq!(connection.unwrap().peer().address, good.unwrap().get_ref().0.local_addr().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_only_begins_handshakes_does_not_keep_others_out() {
    // A quarter of these is for one address.
    let server = Server::start(&Limits { handshakes_max: 8, handshake_timeout: PATIENCE * 2, ..Limits::default() });
    let mut held: Vec<_> = (0..2).map(|_| Blocking::connect(server.address()).unwrap()).collect();
    // One more of that address is closed at once: the time-out is far away.
    let address = server.address();
    let refused = tokio::task::spawn_blocking(move || {
        let mut third = Blocking::connect(address).unwrap();
        third.set_read_timeout(Some(PATIENCE)).unwrap();
        third.read(&mut [0; 1]).unwrap()
    });
    assert_eq!(within(refused).await.unwrap(), 0);
    within(server.connect_from([127, 0, 0, 2].into(), &rustls::version::TLS13)).await.unwrap();
    // A place that is given back is had again.
    drop(held.pop());
    let again = async { while server.connect(&rustls::version::TLS13).await.is_err() {} };
    within(again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_is_given_up_though_tls_holds_the_last_of_it() {
    let server = Server::silent(&Limits { write_timeout: Duration::from_millis(300), ..Limits::default() });
    let client = within(server.connect(&rustls::version::TLS13)).await.unwrap();
    let connection = within(server.listeners.tcp.accept()).await.unwrap();
    let mut stream = connection.accept().await.unwrap();
    // Until neither the kernel nor the session takes any more.
    let error = within(async {
        loop {
            if let Err(error) = stream.sink.send(bytes::Bytes::from(vec![7; 10_000]).into()).await {
                break error;
            }
        }
    });
    let error = error.await;
    assert!(matches!(error.get_ref().unwrap().downcast_ref(), Some(FrameError::Unread { .. })), "{error}");
    drop(client);
}
