//! TCP: one frame stream per connection, plain or in TLS, for Kafka clients (and, plain, for our own where UDP does not get through).

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    net::{Shutdown, SocketAddr},
    os::fd::AsFd,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use millstream_env::{BoxFuture, Connection, FrameSink, FrameSource, FrameStream, Listener, Net, Peer};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, Interest, ReadBuf},
    net::TcpStream,
    sync::{Mutex, mpsc},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    ConnectError, Credentials, Limits, ListenError,
    frame::{Activity, Assembly, FrameReader, FrameWriter, Outlet, ReadLimits, WriteLimits, advance},
    places::{Place, Places},
    seldom::Seldom,
    socket::{bind_tcp, resolve},
    tcp_tls::{Handshakes, Turn},
};

/// What a peer came over.
const PLAIN: &str = "tcp";
const TLS: &str = "tcp+tls";
/// Most parts that one vectored write takes.
const WRITE_PARTS_MAX: usize = 64;
/// How long a peer may be silent before the kernel asks whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long to wait before accepting again when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Accepted connections that wait for [`Listener::accept`].
const BACKLOG: usize = 64;
/// How a TLS handshake begins: its record's type and version. No frame has such a length.
const TLS_BEGINS: [u8; 2] = [0x16, 0x03];

/// Plain TCP as a [`Net`].
#[derive(Clone, Debug, Default)]
pub struct TcpNet {
    limits: Limits,
}

impl TcpNet {
    /// Listens and connects within `limits`.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits }
    }

    async fn connect_to(&self, address: &str) -> Result<Arc<dyn Connection>, ConnectError> {
        let refuse = |source| ConnectError::Address { address: address.into(), source };
        let (_, candidates) = resolve(address).await.map_err(refuse)?;
        let mut last = refuse(io::Error::other("the host has no address"));
        for candidate in candidates {
            let after = self.limits.connect_timeout;
            last = match tokio::time::timeout(after, TcpStream::connect(candidate)).await {
                Ok(Ok(stream)) => {
                    let socket = Socket::new(stream, None)
                        .map_err(|source| ConnectError::Io { address: address.into(), source })?;
                    let limits = ReadLimits::new(&self.limits, Assembly::new(&self.limits), None);
                    let source = FrameReader::new(ReadEnd { socket: Arc::clone(&socket), check: None }, limits);
                    let sink = FrameWriter::new(WriteEnd(Arc::clone(&socket)), WriteLimits::connected(&self.limits));
                    let peer = Peer { address: candidate, transport: PLAIN, principal: None };
                    return Ok(Arc::new(TcpConnection::new(&socket, peer, Box::pin(source), Box::pin(sink))));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    ConnectError::NobodyThere { address: address.into(), protocol: "TCP" }
                }
                Ok(Err(source)) => ConnectError::Io { address: address.into(), source },
                Err(_) => ConnectError::NoAnswer { address: address.into(), protocol: "TCP", after },
            };
        }
        Err(last)
    }
}

impl Net for TcpNet {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Arc<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::start(bind_tcp(address)?, None, &self.limits)?;
            Ok(Arc::new(listener) as Arc<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Arc<dyn Connection>>> {
        Box::pin(async move { Ok(self.connect_to(address).await?) })
    }
}

/// A TCP port that Kafka clients connect to.
#[derive(Debug)]
pub struct TcpListener {
    address: SocketAddr,
    accepted: Mutex<mpsc::Receiver<Arc<TcpConnection>>>,
    transport: &'static str,
    places: Places,
    closed: CancellationToken,
    _close_on_drop: DropGuard,
}

impl TcpListener {
    /// Starts accepting on a bound socket: TLS where there are credentials, plain otherwise.
    pub(crate) fn start(
        socket: std::net::TcpListener,
        tls: Option<&Credentials>,
        limits: &Limits,
    ) -> Result<Self, ListenError> {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let fail = |address| move |source| ListenError::Bind { protocol: "TCP", address, source };
        let address = socket.local_addr().map_err(fail(unknown))?;
        let socket = tokio::net::TcpListener::from_std(socket).map_err(fail(address))?;
        let handshakes = tls.map(|credentials| Handshakes::new(credentials.clone(), limits));
        let closed = CancellationToken::new();
        let (tx, rx) = mpsc::channel(BACKLOG);
        let places = Places::new(limits);
        let transport = if handshakes.is_some() { TLS } else { PLAIN };
        let door = Arc::new(Door {
            limits: limits.clone(),
            places: places.clone(),
            refused: Seldom::default(),
            handshakes,
            mistaken: Arc::default(),
            accepted: tx,
            closed: closed.clone(),
        });
        tokio::spawn(door.accept_all(socket));
        let _close_on_drop = closed.clone().drop_guard();
        Ok(Self { address, accepted: Mutex::new(rx), transport, places, _close_on_drop, closed })
    }
}

impl Listener for TcpListener {
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
        self.closed.cancel();
    }

    fn transport(&self) -> &'static str {
        self.transport
    }

    fn refused(&self) -> u64 {
        self.places.refused()
    }
}

/// What accepting takes.
struct Door {
    limits: Limits,
    places: Places,
    refused: Seldom,
    /// None: plain.
    handshakes: Option<Handshakes>,
    /// Clients that speak TLS where it is not spoken.
    mistaken: Arc<Seldom>,
    accepted: mpsc::Sender<Arc<TcpConnection>>,
    closed: CancellationToken,
}

impl Door {
    /// Accepts until the listener is closed; the socket is closed with it.
    async fn accept_all(self: Arc<Self>, socket: tokio::net::TcpListener) {
        loop {
            let next = tokio::select! {
                () = self.closed.cancelled() => return,
                next = socket.accept() => next,
            };
            let (stream, peer) = match next {
                Ok(next) => next,
                Err(error) => {
                    // Out of descriptors, or a peer that left before it was accepted: the port stays open.
                    tracing::warn!(%error, "accepting a TCP connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let place = match self.places.take(peer.ip()) {
                Ok(place) => place,
                Err(reason) => {
                    if let Some(left_out) = self.refused.turn() {
                        tracing::warn!(%peer, %reason, left_out, "a TCP connection was refused");
                    }
                    continue;
                }
            };
            let socket = match Socket::new(stream, Some(place)) {
                Ok(socket) => socket,
                Err(error) => {
                    tracing::debug!(%peer, %error, "a TCP connection ended at once");
                    continue;
                }
            };
            match &self.handshakes {
                None => {
                    if !self.hand_over(self.plain(&socket, peer)).await {
                        return;
                    }
                }
                Some(handshakes) => match handshakes.turn(peer) {
                    Some(turn) => _ = tokio::spawn(Arc::clone(&self).shake_hands(socket, peer, turn)),
                    None => self.places.note_refused(),
                },
            }
        }
    }

    /// Gives a connection to whoever accepts; false once the listener is closed.
    async fn hand_over(&self, connection: TcpConnection) -> bool {
        tokio::select! {
            () = self.closed.cancelled() => false,
            sent = self.accepted.send(Arc::new(connection)) => sent.is_ok(),
        }
    }

    async fn shake_hands(self: Arc<Self>, socket: Arc<Socket>, peer: SocketAddr, turn: Turn) {
        let Some(handshakes) = &self.handshakes else { return };
        let session = tokio::select! {
            () = self.closed.cancelled() => return,
            session = handshakes.run(Arc::clone(&socket), peer, turn) => session,
        };
        if let Some(session) = session {
            let activity = Activity::new(self.limits.tcp_idle_timeout);
            let source = FrameReader::new(session.read, self.read_limits(&activity));
            let sink = FrameWriter::new(session.write, WriteLimits::accepted(&self.limits, Some(activity)));
            let peer = Peer { address: peer, transport: TLS, principal: session.principal };
            self.hand_over(TcpConnection::new(&socket, peer, Box::pin(source), Box::pin(sink))).await;
        }
    }

    fn plain(&self, socket: &Arc<Socket>, peer: SocketAddr) -> TcpConnection {
        let activity = Activity::new(self.limits.tcp_idle_timeout);
        let check = Some((peer, Arc::clone(&self.mistaken)));
        let source = FrameReader::new(ReadEnd { socket: Arc::clone(socket), check }, self.read_limits(&activity));
        let limits = WriteLimits::accepted(&self.limits, Some(activity));
        let sink = FrameWriter::new(WriteEnd(Arc::clone(socket)), limits);
        let peer = Peer { address: peer, transport: PLAIN, principal: None };
        TcpConnection::new(socket, peer, Box::pin(source), Box::pin(sink))
    }

    fn read_limits(&self, activity: &Arc<Activity>) -> ReadLimits {
        ReadLimits::new(&self.limits, Assembly::new(&self.limits), Some(Arc::clone(activity)))
    }
}

/// The socket, shared by both directions; whoever drops it last closes it and says so.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) stream: TcpStream,
    ended: CancellationToken,
    _place: Option<Place>,
    _end: DropGuard,
}

impl Socket {
    fn new(stream: TcpStream, place: Option<Place>) -> io::Result<Arc<Self>> {
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        let ended = CancellationToken::new();
        Ok(Arc::new(Self { stream, _place: place, _end: ended.clone().drop_guard(), ended }))
    }

    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read_buf(buffer) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Tries `write` until the socket takes something.
    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match write(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    /// Says that nothing more comes from here.
    pub(crate) fn end(&self) -> io::Result<()> {
        match SockRef::from(&self.stream).shutdown(Shutdown::Write) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            other => other,
        }
    }
}

struct TcpConnection {
    peer: Peer,
    /// The one stream, until somebody takes it.
    stream: parking::Slot<FrameStream>,
    socket: Weak<Socket>,
    ended: CancellationToken,
}

impl std::fmt::Debug for TcpConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpConnection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// A place that holds one thing until it is taken.
mod parking {
    use std::sync::Mutex;

    pub(super) struct Slot<T>(Mutex<Option<T>>);

    impl<T> Slot<T> {
        pub(super) fn new(thing: T) -> Self {
            Self(Mutex::new(Some(thing)))
        }

        pub(super) fn take(&self) -> Option<T> {
            self.0.lock().ok()?.take()
        }
    }
}

impl TcpConnection {
    fn new(socket: &Arc<Socket>, peer: Peer, source: FrameSource, sink: FrameSink) -> Self {
        let weak = Arc::downgrade(socket);
        let (finished, gone) = (Box::pin(finished(weak.clone())), Box::pin(gone(weak.clone())));
        Self {
            peer,
            stream: parking::Slot::new(FrameStream { source, sink, finished, gone }),
            socket: weak,
            ended: socket.ended.clone(),
        }
    }
}

impl Connection for TcpConnection {
    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn has_many_streams(&self) -> bool {
        false
    }

    fn accept(&self) -> BoxFuture<'_, Option<FrameStream>> {
        Box::pin(async move {
            let stream = self.stream.take();
            if stream.is_none() {
                self.ended.cancelled().await;
            }
            stream
        })
    }

    fn open(&self) -> BoxFuture<'_, io::Result<FrameStream>> {
        Box::pin(async move {
            self.stream.take().ok_or_else(|| {
                io::Error::new(io::ErrorKind::QuotaExceeded, "a TCP connection has one stream, and it is taken")
            })
        })
    }

    fn close(&self, _reason: &str) {
        // Both directions then find the end by themselves.
        if let Some(socket) = self.socket.upgrade() {
            let _ = SockRef::from(&socket.stream).shutdown(Shutdown::Both);
        }
        drop(self.stream.take());
    }
}

/// Resolves once the peer has ended its side, read or not. Watches a descriptor of its own: on the socket's own one nobody could wait
/// for that while there is something to read.
async fn finished(socket: Weak<Socket>) {
    let watched = socket.upgrade().and_then(|socket| socket.stream.as_fd().try_clone_to_owned().ok());
    let watched = watched.and_then(|owned| TcpStream::from_std(owned.into()).ok());
    if let Some(watched) = watched {
        while let Ok(ready) = watched.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                return;
            }
            // What there is to read is not read here: the next that comes wakes it again.
            let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = watched.try_io(Interest::READABLE, nothing);
        }
    }
    // Out of descriptors, or the runtime ends: reading tells it, later.
    std::future::pending().await
}

/// Resolves once the connection is reset.
async fn gone(socket: Weak<Socket>) {
    let Some(socket) = socket.upgrade() else { return };
    if socket.stream.ready(Interest::ERROR).await.is_err() {
        std::future::pending().await
    }
}

struct ReadEnd {
    socket: Arc<Socket>,
    /// Until something has come: whom to blame if it is TLS, and whether to.
    check: Option<(SocketAddr, Arc<Seldom>)>,
}

impl AsyncRead for ReadEnd {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.socket.poll_read(cx, buffer))?;
        if let Some((peer, seldom)) = self.check.take()
            && buffer.filled()[before..].starts_with(&TLS_BEGINS)
            && let Some(left_out) = seldom.turn()
        {
            tracing::warn!(
                %peer, left_out,
                "a client that speaks TLS was closed: this port speaks plain Kafka. Have Kafka clients use \
                 security.protocol=PLAINTEXT, or start the broker with --tcp-tls on"
            );
        }
        Poll::Ready(Ok(()))
    }
}

struct WriteEnd(Arc<Socket>);

impl Outlet for WriteEnd {
    fn poll_write(&mut self, cx: &mut Context<'_>, chunks: &mut VecDeque<Bytes>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); WRITE_PARTS_MAX];
        let count = chunks.len().min(WRITE_PARTS_MAX);
        for (slice, chunk) in slices.iter_mut().zip(chunks.iter()) {
            *slice = IoSlice::new(chunk);
        }
        let written = ready!(self.0.poll_write(cx, |stream| stream.try_write_vectored(&slices[..count])))?;
        advance(chunks, written);
        Poll::Ready(Ok(written))
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.end())
    }
}
