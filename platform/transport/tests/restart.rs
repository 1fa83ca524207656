//! What clients are told by a listener that has taken the place of one that went without a word, as by `kill -9`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{io, net::SocketAddr, sync::mpsc, thread};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use millstream_env::{Connection, Listener, Net};
use millstream_transport::{Limits, QuicNet, ServerIdentity, Trust, identity, listen_both};

const RESTARTED: &str = "the peer does not know the connection (it was restarted)";

/// A listener that echoes in a runtime of its own. Dropped, it is gone at once: nothing of it runs any more that could say so.
struct Process {
    address: SocketAddr,
    stop: tokio::sync::oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Process {
    fn start(at: SocketAddr, identity: &ServerIdentity) -> Self {
        let identity = identity.clone();
        let (started, start) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = thread::spawn(move || {
            // One thread: once it waits for nothing any more, no task has another turn.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let listeners = runtime.block_on(async {
                let listeners = listen_both(at, &identity, &Limits::default()).unwrap();
                tokio::spawn(echo(listeners.quic.clone()));
                started.send(listeners.quic.local_address()).unwrap();
                let _ = stopped.await;
                listeners
            });
            drop((runtime, listeners));
        });
        Self { address: start.recv().unwrap(), stop, thread }
    }

    fn kill(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

async fn echo(listener: std::sync::Arc<impl Listener>) {
    while let Some(connection) = listener.accept().await {
        tokio::spawn(async move {
            while let Some(mut stream) = connection.accept().await {
                tokio::spawn(async move {
                    while let Some(Ok(frame)) = stream.source.next().await {
                        stream.sink.send(frame.into()).await.unwrap();
                    }
                });
            }
        });
    }
}

async fn ask(connection: &dyn Connection) -> io::Result<Bytes> {
    let mut stream = connection.open().await?;
    stream.sink.send(Bytes::from_static(b"ping").into()).await?;
    stream.source.next().await.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))
}

#[test]
fn a_listener_in_the_place_of_one_that_was_killed_tells_clients_that_it_does_not_know_them() {
    let dir = tempfile::tempdir().unwrap();
    let identity = identity::ensure(dir.path(), &[]).unwrap();
    let trust = Trust::from_pem(&identity.ca_pem, "the test").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let net = QuicNet::client(trust, Limits::default());

    let first = Process::start("127.0.0.1:0".parse().unwrap(), &identity);
    let address = first.address;
    let connect = || runtime.block_on(net.connect(&address.to_string())).unwrap();
    let connections = [connect(), connect()];
    for connection in &connections {
        assert_eq!(runtime.block_on(ask(&**connection)).unwrap(), "ping");
    }
    first.kill();

    // As after a restart: read from the files again.
    let second = Process::start(address, &identity::ensure(dir.path(), &[]).unwrap());
    for connection in &connections {
        // Without this it would be the idle time-out, which has another text.
        let error = runtime.block_on(ask(&**connection)).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::ConnectionReset, RESTARTED));
    }
    assert_eq!(runtime.block_on(ask(&*connect())).unwrap(), "ping");
    second.kill();
}
