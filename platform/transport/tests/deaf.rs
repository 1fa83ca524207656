//! A client that goes on talking and acknowledges nothing: what it was sent is not held for ever.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use millstream_env::{Budget, Frame, Listener, Net};
use millstream_transport::{Limits, QuicNet, Trust, identity, listen_both};
use tokio::net::UdpSocket;

/// Longer than anything here takes; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const FRAME_BYTES: usize = 1 << 20;
const WRITE_TIMEOUT: Duration = Duration::from_millis(250);

/// Passes datagrams on, for one client; not those to it, once it is deaf.
async fn relay(listener: SocketAddr, is_deaf: Arc<AtomicBool>) -> SocketAddr {
    let [near, far] = [UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap()];
    let address = near.local_addr().unwrap();
    far.connect(listener).await.unwrap();
    tokio::spawn(async move {
        let (mut client, mut there, mut back) = (None, vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            tokio::select! {
                received = near.recv_from(&mut there) => {
                    let (bytes, from) = received.unwrap();
                    client = Some(from);
                    // The listener may be gone.
                    let _ = far.send(&there[..bytes]).await;
                }
                received = far.recv(&mut back) => {
                    if let (Ok(bytes), Some(client), false) = (received, client, is_deaf.load(Ordering::Acquire)) {
                        let _ = near.send_to(&back[..bytes], client).await;
                    }
                }
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_talks_and_acknowledges_nothing_is_ended_and_gives_back_what_it_held() {
    let dir = tempfile::tempdir().unwrap();
    let identity = identity::ensure(&dir.path().join("tls"), &[]).unwrap();
    let budget = Budget::new(64 << 20);
    let talkative = Limits { idle_timeout: PATIENCE * 10, keep_alive: WRITE_TIMEOUT / 10, ..Limits::default() };
    let limits = Limits { write_timeout: WRITE_TIMEOUT, budget: budget.clone(), ..talkative.clone() };
    let listeners = listen_both("127.0.0.1:0".parse().unwrap(), &identity, &limits).unwrap();
    let is_deaf = Arc::new(AtomicBool::new(false));
    let relay = relay(listeners.quic.local_address(), is_deaf.clone()).await;
    let net = QuicNet::client(Trust::from_pem(&identity.ca_pem, "the test").unwrap(), talkative);

    let mut ends = Vec::new();
    for address in [relay, listeners.quic.local_address()] {
        let client = net.connect(&address.to_string()).await.unwrap();
        let mut asks = client.open().await.unwrap();
        asks.sink.send(Bytes::from_static(b"a question").into()).await.unwrap();
        let accepted = listeners.quic.accept().await.unwrap();
        let mut answers = accepted.accept().await.unwrap();
        answers.source.next().await.unwrap().unwrap();
        ends.push((client, asks, accepted, answers));
    }
    is_deaf.store(true, Ordering::Release);
    let start = Instant::now();
    for (_, _, _, answers) in &mut ends {
        let share = budget.try_take(FRAME_BYTES).unwrap();
        let frame = share.hold(Bytes::from(vec![7; FRAME_BYTES]));
        answers.sink.send(Frame { parts: vec![frame] }).await.unwrap();
    }
    let (_honest_client, mut asks, honest, mut answers) = ends.pop().unwrap();
    let (_talks_on, _, deaf, unread) = ends.pop().unwrap();
    assert_eq!(asks.source.next().await.unwrap().unwrap().len(), FRAME_BYTES);
    let ended = tokio::time::timeout(PATIENCE, deaf.accept()).await.unwrap();
    assert!(ended.is_none());
    assert!(start.elapsed() >= 2 * WRITE_TIMEOUT, "{:?}", start.elapsed());
    drop((deaf, unread));
    while budget.free_bytes() < budget.total_bytes() {
        assert!(start.elapsed() < PATIENCE, "{} bytes are held", budget.total_bytes() - budget.free_bytes());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // One that has nothing to acknowledge is let be.
    answers.sink.send(Bytes::from_static(b"and yet").into()).await.unwrap();
    assert_eq!(asks.source.next().await.unwrap().unwrap(), "and yet");
    drop(honest);
}
