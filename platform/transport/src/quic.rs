//! QUIC through quinn: the native transport.
//!
//! Settings that were measured (quinn 0.11.12, 2 cores): sockets of 8 MB, windows of 2 MB a stream and 16 MB a connection, cubic,
//! AES-128-GCM first, ack frequency left alone, 1 ms assumed as the first round trip, packets of 6500 bytes on loopback. On real
//! networks packets start at quinn's safe size and grow by discovery.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use millstream_env::{BoxFuture, Connection, FrameStream, Listener, Net, Peer};
use quinn::{
    ConnectionError, Endpoint, EndpointConfig, IdleTimeout, ReadError, Runtime, ServerConfig, TokioRuntime,
    TransportConfig, TransportErrorCode, VarInt, WriteError, crypto::rustls::QuicClientConfig,
};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::{Mutex, OnceCell, mpsc},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    ALPN, ConnectError, Credentials, Limits, ListenError, ServerIdentity, Trust, TrustSource,
    frame::{Assembly, FrameReader, FrameWriter, Outlet, ReadLimits, WriteLimits},
    places::{Place, Places},
    principal::principal,
    seldom::Seldom,
    socket::{CappedSocket, LOOPBACK_MTU, bind_udp, resolve},
    tls,
    unacknowledged::Unacknowledged,
    windows::{Window, Windows},
};

const TRANSPORT: &str = "quic";
const PROTOCOL: &str = "QUIC on UDP";
/// What the first round trip is taken to last; the default of 333 ms makes a lost first packet cost a second.
const INITIAL_RTT: Duration = Duration::from_millis(1);
/// How often the port is asked whether somebody is there, until the handshake is done.
const PROBE_PAUSE: Duration = Duration::from_millis(250);
/// How often a connector looks whether the listener has taken its certificate.
const TAKEN_PAUSE: Duration = Duration::from_millis(1);
/// Connections that wait for [`Listener::accept`].
const BACKLOG: usize = 64;
/// The application's error code of an orderly close; the reason is in the text.
const CLOSE_CODE: VarInt = VarInt::from_u32(0);

/// QUIC as a [`Net`]: listens with an identity, connects with trust, or both.
#[derive(Debug)]
pub struct QuicNet {
    identity: Option<ServerIdentity>,
    trust: Option<Arc<dyn TrustSource>>,
    alpn: Vec<u8>,
    limits: Limits,
    /// Sockets that connections go out from, made when first needed.
    v4: OnceCell<Endpoint>,
    v6: OnceCell<Endpoint>,
}

impl QuicNet {
    /// A connector that believes brokers whose certificate comes from `trust`, which is asked for each connection.
    #[must_use]
    pub fn client(trust: impl TrustSource, limits: Limits) -> Self {
        Self::make(None, Some(Arc::new(trust)), limits)
    }

    /// A network that listens only.
    #[must_use]
    pub fn server(identity: ServerIdentity, limits: Limits) -> Self {
        Self::make(Some(identity), None, limits)
    }

    /// A network that listens and connects.
    #[must_use]
    pub fn both(identity: ServerIdentity, trust: impl TrustSource, limits: Limits) -> Self {
        Self::make(Some(identity), Some(Arc::new(trust)), limits)
    }

    fn make(identity: Option<ServerIdentity>, trust: Option<Arc<dyn TrustSource>>, limits: Limits) -> Self {
        Self { identity, trust, alpn: ALPN.to_vec(), limits, v4: OnceCell::new(), v6: OnceCell::new() }
    }

    /// Waits until closed connections have told their peers so. Worth doing before the process ends; takes a few round trips.
    pub async fn wait_idle(&self) {
        for endpoint in [self.v4.get(), self.v6.get()].into_iter().flatten() {
            endpoint.wait_idle().await;
        }
    }

    async fn endpoint(&self, to: SocketAddr) -> io::Result<&Endpoint> {
        let (cell, any): (_, IpAddr) = match to {
            SocketAddr::V4(_) => (&self.v4, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (&self.v6, Ipv6Addr::UNSPECIFIED.into()),
        };
        cell.get_or_try_init(|| async { endpoint(bind_udp(SocketAddr::new(any, 0))?, EndpointConfig::default(), None) })
            .await
    }

    async fn connect_to(&self, address: &str) -> Result<QuicConnection, ConnectError> {
        let refuse = |source| ConnectError::Address { address: address.into(), source };
        let (host, candidates) = resolve(address).await.map_err(refuse)?;
        let mut last = refuse(io::Error::other("the host has no address"));
        let other = |detail: String| ConnectError::Handshake { address: address.into(), detail };
        let source =
            self.trust.as_ref().ok_or_else(|| other("this side has no CA to trust: it only listens".into()))?;
        let source = Arc::clone(source);
        let trust = tokio::task::spawn_blocking(move || source.trust()).await;
        let trust = trust.map_err(|error| other(error.to_string()))?;
        for candidate in candidates {
            match self.connect_candidate(&trust, address, &host, candidate).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect_candidate(
        &self,
        trust: &Trust,
        address: &str,
        host: &str,
        candidate: SocketAddr,
    ) -> Result<QuicConnection, ConnectError> {
        let other = |detail: String| ConnectError::Handshake { address: address.into(), detail };
        let (tls, shown) = tls::client(trust, &self.alpn).map_err(|error| other(error.to_string()))?;
        let tls = QuicClientConfig::try_from(tls).map_err(|error| other(error.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        config.transport_config(Arc::new(transport(
            &self.limits,
            candidate.ip(),
            Side::Client,
            self.limits.connection_window_bytes,
        )));
        let endpoint =
            self.endpoint(candidate).await.map_err(|source| ConnectError::Io { address: address.into(), source })?;
        let connecting = endpoint.connect_with(config, candidate, host).map_err(|error| other(error.to_string()))?;
        let after = self.limits.connect_timeout;
        let connected = tokio::select! {
            connected = connecting => connected,
            () = refused(candidate) => {
                return Err(ConnectError::NobodyThere { address: address.into(), protocol: PROTOCOL });
            }
            () = tokio::time::sleep(after) => {
                return Err(ConnectError::NoAnswer { address: address.into(), protocol: PROTOCOL, after });
            }
        };
        let explain = |error| explain(error, address, &trust.origin, after);
        let connection = connected.map_err(explain)?;
        if shown.was_asked() {
            let taken = tokio::time::timeout(after, taken(&connection)).await;
            taken.unwrap_or(Err(ConnectionError::TimedOut)).map_err(explain)?;
        }
        Ok(QuicConnection::new(connection, &self.limits, None))
    }
}

impl Net for QuicNet {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Arc<dyn Listener>>> {
        Box::pin(async move {
            let identity = self
                .identity
                .as_ref()
                .ok_or_else(|| ListenError::Tls("there is none: this side only connects".into()))?;
            let listener = QuicListener::start(bind_udp(address)?, &Credentials::new(identity, None)?, &self.limits)?;
            Ok(Arc::new(listener) as Arc<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Arc<dyn Connection>>> {
        Box::pin(async move { Ok(Arc::new(self.connect_to(address).await?) as Arc<dyn Connection>) })
    }
}

/// Which end of a connection a configuration is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// quinn's settings for a connection with `peer`, on which so many bytes may be under way to us.
fn transport(limits: &Limits, peer: IpAddr, side: Side, window: u32) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(VarInt::from_u32(limits.stream_window_bytes))
        .receive_window(VarInt::from_u32(window))
        .send_window(limits.send_window_bytes)
        .initial_rtt(INITIAL_RTT)
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(IdleTimeout::try_from(limits.idle_timeout).ok());
    match side {
        // Brokers open no streams towards clients yet.
        Side::Client => {
            config.max_concurrent_bidi_streams(VarInt::from_u32(0)).keep_alive_interval(Some(limits.keep_alive))
        }
        Side::Server => config.max_concurrent_bidi_streams(VarInt::from_u32(limits.streams_max)),
    };
    if peer.to_canonical().is_loopback() {
        config.initial_mtu(LOOPBACK_MTU).mtu_discovery_config(None);
    }
    config
}

/// A socket at work.
fn endpoint(
    socket: std::net::UdpSocket,
    mut config: EndpointConfig,
    server: Option<ServerConfig>,
) -> io::Result<Endpoint> {
    let runtime = Arc::new(TokioRuntime);
    let socket = Arc::new(CappedSocket { inner: runtime.wrap_udp_socket(socket)? });
    config.max_udp_payload_size(LOOPBACK_MTU).map_err(io::Error::other)?;
    Endpoint::new_with_abstract_socket(config, server, socket, runtime)
}

/// Resolves once the machine at `address` says that nobody has the port.
///
/// quinn's sockets serve many peers, so that the kernel has nobody to report "port unreachable" to, and a client would
/// wait for the time-out. A connected socket of its own is told. Its packets are too short for QUIC and are ignored.
async fn refused(address: SocketAddr) {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let probe = async {
        let socket = tokio::net::UdpSocket::bind((any, 0)).await?;
        socket.connect(address).await?;
        loop {
            socket.send(&[0]).await?;
            let mut answer = [0; 1];
            if let Ok(received) = tokio::time::timeout(PROBE_PAUSE, socket.recv(&mut answer)).await {
                received?;
            }
        }
    };
    let ended: io::Result<std::convert::Infallible> = probe.await;
    match ended {
        Ok(never) => match never {},
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        // The probe itself failed: it has nothing to say.
        Err(_) => std::future::pending().await,
    }
}

/// Resolves once the listener has taken the certificate that it asked for. In TLS 1.3 the client is done before that: without this, one
/// that is refused would be told so by whatever it asks first. quinn says nothing of it but in its counts of frames.
async fn taken(connection: &quinn::Connection) -> Result<(), ConnectionError> {
    while connection.stats().frame_rx.handshake_done == 0 {
        let pause = tokio::time::timeout(TAKEN_PAUSE, connection.closed());
        if let Ok(error) = pause.await {
            return Err(error);
        }
    }
    Ok(())
}

/// What a failed handshake means.
fn explain(error: ConnectionError, address: &str, trust: &str, after: Duration) -> ConnectError {
    // RFC 9001, 4.8: TLS alerts arrive as 0x100 + alert.
    let alert = |code: TransportErrorCode| u64::from(code).checked_sub(0x100).filter(|alert| *alert <= 0xff);
    let (code, detail) = match &error {
        ConnectionError::TransportError(error) => (error.code, error.reason.clone()),
        ConnectionError::ConnectionClosed(close) => {
            (close.error_code, String::from_utf8_lossy(&close.reason).into_owned())
        }
        ConnectionError::TimedOut => {
            return ConnectError::NoAnswer { address: address.into(), protocol: PROTOCOL, after };
        }
        other => return ConnectError::Handshake { address: address.into(), detail: other.to_string() },
    };
    let address = address.to_owned();
    if let (ConnectionError::ConnectionClosed(_), Some(alert)) = (&error, alert(code))
        && let Some(why) = refusal(alert)
    {
        return ConnectError::Unauthenticated { address, why, detail };
    }
    match alert(code) {
        Some(120) => ConnectError::Protocol { address },
        // bad, unsupported, revoked, expired, unknown certificate; unknown CA; a signature that does not fit.
        Some(42..=46 | 48 | 51) => {
            let detail = detail.trim_start_matches("invalid peer certificate: ").to_owned();
            ConnectError::Certificate { address, trust: trust.into(), detail }
        }
        _ if code == TransportErrorCode::CONNECTION_REFUSED => ConnectError::Full { address },
        _ => ConnectError::Handshake { address, detail: error.to_string() },
    }
}

/// What a listener that sends this alert has against the certificate that it asked for (RFC 8446, 6.2).
fn refusal(alert: u64) -> Option<&'static str> {
    match alert {
        42 | 43 | 46 | 51 => Some("the one that was shown is not accepted"),
        44 => Some("the one that was shown is revoked"),
        45 => Some("the one that was shown has expired, or is not valid yet"),
        48 => Some("the one that was shown comes from a CA that the broker does not trust"),
        116 => Some("none was shown, and the broker requires one"),
        _ => None,
    }
}

/// Why an established connection is gone, with what the peer said.
fn lost(error: ConnectionError) -> io::Error {
    let (kind, text) = match error {
        ConnectionError::ApplicationClosed(close) if close.reason.is_empty() => {
            (io::ErrorKind::ConnectionReset, "the peer closed the connection".into())
        }
        ConnectionError::ApplicationClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason).into_owned();
            (io::ErrorKind::ConnectionReset, format!("the peer closed the connection: {reason}"))
        }
        ConnectionError::LocallyClosed => (io::ErrorKind::NotConnected, "the connection was closed here".into()),
        ConnectionError::TimedOut => (io::ErrorKind::TimedOut, "nothing was heard from the peer for too long".into()),
        ConnectionError::Reset => {
            (io::ErrorKind::ConnectionReset, "the peer does not know the connection (it was restarted)".into())
        }
        other => (io::ErrorKind::ConnectionAborted, other.to_string()),
    };
    io::Error::new(kind, text)
}

/// A UDP port that native clients connect to.
#[derive(Debug)]
pub struct QuicListener {
    address: SocketAddr,
    accepted: Mutex<mpsc::Receiver<Arc<QuicConnection>>>,
    places: Places,
    endpoint: Endpoint,
    closed: CancellationToken,
    _close_on_drop: DropGuard,
}

impl QuicListener {
    /// Starts accepting on a bound socket.
    pub(crate) fn start(
        socket: std::net::UdpSocket,
        credentials: &Credentials,
        limits: &Limits,
    ) -> Result<Self, ListenError> {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let fail = |address| move |source| ListenError::Bind { protocol: "UDP", address, source };
        let address = socket.local_addr().map_err(fail(unknown))?;
        let mut config = ServerConfig::with_crypto(credentials.quic());
        config.max_incoming(limits.handshakes_max);
        let endpoint = endpoint(socket, credentials.endpoint(), Some(config.clone())).map_err(fail(address))?;
        let closed = CancellationToken::new();
        let (tx, rx) = mpsc::channel(BACKLOG);
        let places = Places::new(limits);
        let acceptor = Acceptor {
            endpoint: endpoint.clone(),
            config,
            credentials: credentials.clone(),
            unauthenticated: Arc::default(),
            refused: Seldom::default(),
            places: places.clone(),
            handshakes: Places::for_handshakes(limits),
            windows: Arc::new(Windows::new(limits)),
            limits: limits.clone(),
            accepted: tx,
        };
        let stop = closed.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = acceptor.run() => {}
            }
        });
        let _close_on_drop = closed.clone().drop_guard();
        Ok(Self { address, accepted: Mutex::new(rx), places, endpoint, _close_on_drop, closed })
    }

    /// Waits until closed connections have told their peers so. Worth doing before the process ends.
    pub async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }
}

impl Listener for QuicListener {
    fn accept(&self) -> BoxFuture<'_, Option<Arc<dyn Connection>>> {
        Box::pin(async move {
            let connection = self.accepted.lock().await.recv().await?;
            Some(connection as Arc<dyn Connection>)
        })
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }

    fn close(&self) {
        self.endpoint.set_server_config(None);
        self.closed.cancel();
    }

    fn transport(&self) -> &'static str {
        TRANSPORT
    }

    fn refused(&self) -> u64 {
        self.places.refused()
    }
}

/// Takes handshakes in, within the limits.
struct Acceptor {
    endpoint: Endpoint,
    /// What connections are begun with, but for the certificate and what depends on the peer.
    config: ServerConfig,
    credentials: Credentials,
    unauthenticated: Arc<Seldom>,
    refused: Seldom,
    places: Places,
    handshakes: Places,
    windows: Arc<Windows<Weak<QuicConnection>>>,
    limits: Limits,
    accepted: mpsc::Sender<Arc<QuicConnection>>,
}

impl Acceptor {
    async fn run(self) {
        while let Some(incoming) = self.endpoint.accept().await {
            let peer = incoming.remote_address();
            if self.handshakes.taken() >= self.limits.retry_above && !incoming.remote_address_validated() {
                // The client comes back with a token that proves its address; until then it costs us nothing.
                let _ = incoming.retry();
                continue;
            }
            let Ok(handshake) = self.handshakes.take(peer.ip()) else {
                tracing::debug!(%peer, "a QUIC handshake was refused: too many are under way");
                self.places.note_refused();
                incoming.refuse();
                continue;
            };
            let place = match self.places.take(peer.ip()) {
                Ok(place) => place,
                Err(reason) => {
                    if let Some(left_out) = self.refused.turn() {
                        tracing::warn!(%peer, %reason, left_out, "a QUIC connection was refused");
                    }
                    incoming.refuse();
                    continue;
                }
            };
            let window = self.windows.each_of(self.places.taken());
            let mut config = self.config.clone();
            config.crypto = self.credentials.quic();
            config.transport_config(Arc::new(transport(&self.limits, peer.ip(), Side::Server, window)));
            let connecting = match incoming.accept_with(Arc::new(config)) {
                Ok(connecting) => connecting,
                Err(error) => {
                    tracing::debug!(%peer, %error, "a QUIC handshake failed");
                    continue;
                }
            };
            let (limits, accepted) = (self.limits.clone(), self.accepted.clone());
            let (unauthenticated, windows) = (Arc::clone(&self.unauthenticated), Arc::clone(&self.windows));
            let places = self.places.clone();
            tokio::spawn(async move {
                let connected = tokio::time::timeout(limits.handshake_timeout, connecting).await;
                drop(handshake);
                match connected {
                    Ok(Ok(connection)) => {
                        let connection = Arc::new(QuicConnection::new(connection, &limits, Some(place)));
                        windows.join(Arc::downgrade(&connection), window, places.taken());
                        tokio::spawn(end_if_deaf(Arc::downgrade(&connection)));
                        let _ = accepted.send(connection).await;
                    }
                    Ok(Err(error)) => tell_failed(peer, &error, &unauthenticated),
                    Err(_) => tracing::debug!(%peer, "a QUIC handshake took too long"),
                }
            });
        }
    }
}

/// Ends a connection whose peer acknowledges nothing for too long.
async fn end_if_deaf(connection: Weak<QuicConnection>) {
    loop {
        let Some(pause) = connection.upgrade().map(|connection| connection.unacknowledged.pause()) else { return };
        tokio::time::sleep(pause).await;
        let Some(connection) = connection.upgrade() else { return };
        if connection.unacknowledged.is_overdue() {
            tracing::debug!(peer = %connection.peer.address, "a QUIC connection was ended: its peer acknowledges nothing");
            connection.close("what you were sent was not acknowledged for too long");
            return;
        }
    }
}

/// A handshake has failed. What a client's certificate is refused for is an operator's business, what else goes wrong is the client's.
fn tell_failed(peer: SocketAddr, error: &ConnectionError, unauthenticated: &Seldom) {
    let refused = match error {
        ConnectionError::TransportError(error) => u64::from(error.code).checked_sub(0x100).and_then(refusal).is_some(),
        _ => false,
    };
    if !refused {
        tracing::debug!(%peer, %error, "a QUIC handshake failed");
    } else if let Some(left_out) = unauthenticated.turn() {
        tracing::warn!(%peer, %error, left_out, "a client was refused for its certificate");
    }
}

struct QuicConnection {
    inner: quinn::Connection,
    peer: Peer,
    limits: Limits,
    assembly: Assembly,
    unacknowledged: Unacknowledged,
    /// One of the listener's places, given back when the connection and all its streams are gone.
    place: Option<Arc<Place>>,
}

impl Window for Weak<QuicConnection> {
    fn resize(&self, bytes: VarInt) -> bool {
        let connection = self.upgrade();
        if let Some(connection) = &connection {
            connection.inner.set_receive_window(bytes);
        }
        connection.is_some()
    }
}

impl std::fmt::Debug for QuicConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicConnection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl QuicConnection {
    fn new(inner: quinn::Connection, limits: &Limits, place: Option<Place>) -> Self {
        // Of an accepted connection: what a listener shows is no principal.
        let shown = place.as_ref().and_then(|_| inner.peer_identity());
        let shown = shown.and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
        let principal = shown.and_then(|shown| principal(shown.first()?));
        let peer = Peer { address: inner.remote_address(), transport: TRANSPORT, principal };
        let (assembly, unacknowledged) = (Assembly::new(limits), Unacknowledged::new(limits));
        Self { inner, peer, assembly, unacknowledged, limits: limits.clone(), place: place.map(Arc::new) }
    }

    fn frames(&self, send: quinn::SendStream, receive: quinn::RecvStream) -> FrameStream {
        let limits = ReadLimits::new(&self.limits, self.assembly.clone(), None);
        let source = FrameReader::new(ReadEnd { stream: receive, _place: self.place.clone() }, limits);
        let write_limits = match self.place {
            Some(_) => WriteLimits::accepted(&self.limits, None),
            None => WriteLimits::connected(&self.limits),
        };
        let stopped = send.stopped();
        let gone = async move {
            if matches!(stopped.await, Ok(None)) {
                // It has read all to our end.
                std::future::pending().await
            }
        };
        let unacknowledged = self.place.is_some().then(|| self.unacknowledged.clone());
        let sink = FrameWriter::new(WriteEnd { stream: send, unacknowledged, counted: 0 }, write_limits);
        let finished = Box::pin(std::future::pending());
        FrameStream { source: Box::pin(source), sink: Box::pin(sink), finished, gone: Box::pin(gone) }
    }
}

impl Connection for QuicConnection {
    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn has_many_streams(&self) -> bool {
        true
    }

    fn accept(&self) -> BoxFuture<'_, Option<FrameStream>> {
        Box::pin(async move {
            let (send, receive) = self.inner.accept_bi().await.ok()?;
            Some(self.frames(send, receive))
        })
    }

    fn open(&self) -> BoxFuture<'_, io::Result<FrameStream>> {
        Box::pin(async move {
            let (send, receive) = self.inner.open_bi().await.map_err(lost)?;
            Ok(self.frames(send, receive))
        })
    }

    fn close(&self, reason: &str) {
        self.inner.close(CLOSE_CODE, reason.as_bytes());
    }
}

struct ReadEnd {
    stream: quinn::RecvStream,
    _place: Option<Arc<Place>>,
}

impl AsyncRead for ReadEnd {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(ready!(self.stream.poll_read_buf(cx, buffer)).map_err(|error| match error {
            ReadError::ConnectionLost(error) => lost(error),
            other => other.into(),
        }))
    }
}

struct WriteEnd {
    stream: quinn::SendStream,
    /// None: the peer may take as long as it likes.
    unacknowledged: Option<Unacknowledged>,
    /// Chunks at the front of those to be written that are counted in it.
    counted: usize,
}

impl Outlet for WriteEnd {
    fn poll_write(&mut self, cx: &mut Context<'_>, chunks: &mut VecDeque<Bytes>) -> Poll<io::Result<usize>> {
        if let Some(unacknowledged) = &self.unacknowledged {
            unacknowledged.count(chunks, self.counted);
            self.counted = chunks.len();
        }
        // Dropping the future loses nothing: it keeps no state between polls.
        let written = ready!(pin!(self.stream.write_chunks(chunks.make_contiguous())).poll(cx));
        let written = written.map_err(|error| match error {
            WriteError::ConnectionLost(error) => lost(error),
            other => other.into(),
        })?;
        chunks.drain(..written.chunks);
        self.counted = self.counted.saturating_sub(written.chunks);
        Poll::Ready(Ok(written.bytes))
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Already finished, or stopped by the peer: nothing is left to say either way.
        let _ = self.stream.finish();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity, listen_both};

    #[tokio::test]
    async fn another_application_protocol_is_refused_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let identity = identity::ensure(dir.path(), &[]).unwrap();
        let listeners = listen_both("127.0.0.1:0".parse().unwrap(), &identity, &Limits::default()).unwrap();
        let address = listeners.quic.local_address().to_string();
        let trust = Trust::from_pem(&identity.ca_pem, "the test").unwrap();

        let mut net = QuicNet::client(trust, Limits::default());
        net.alpn = b"h3".to_vec();
        let error = net.connect_to(&address).await.unwrap_err();
        assert!(matches!(error, ConnectError::Protocol { .. }), "{error}");

        net.alpn = ALPN.to_vec();
        net.connect_to(&address).await.unwrap();
    }
}
