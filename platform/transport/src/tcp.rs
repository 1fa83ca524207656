//! Plain TCP: one frame stream per connection, for Kafka clients (and for our own where UDP does not get through).

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
use millstream_env::{BoxFuture, Connection, FrameStream, Listener, Net, Peer};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, Interest, ReadBuf},
    net::TcpStream,
    sync::{Mutex, mpsc},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    ConnectError, Limits, ListenError,
    frame::{Activity, Assembly, FrameReader, FrameWriter, Outlet, ReadLimits, WriteLimits, advance},
    places::{Place, Places},
    socket::{bind_tcp, resolve},
};

/// Most parts that one vectored write takes.
const WRITE_PARTS_MAX: usize = 64;
/// How long a peer may be silent before the kernel asks whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long to wait before accepting again when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Accepted connections that wait for [`Listener::accept`].
const BACKLOG: usize = 64;

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
                    let connection = TcpConnection::new(stream, candidate, &self.limits, None, None)
                        .map_err(|source| ConnectError::Io { address: address.into(), source })?;
                    return Ok(Arc::new(connection));
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
            let listener = TcpListener::start(bind_tcp(address)?, &self.limits)?;
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
    closed: CancellationToken,
    _close_on_drop: DropGuard,
}

impl TcpListener {
    /// Starts accepting on a bound socket.
    pub(crate) fn start(socket: std::net::TcpListener, limits: &Limits) -> Result<Self, ListenError> {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let fail = |address| move |source| ListenError::Bind { protocol: "TCP", address, source };
        let address = socket.local_addr().map_err(fail(unknown))?;
        let socket = tokio::net::TcpListener::from_std(socket).map_err(fail(address))?;
        let closed = CancellationToken::new();
        let (tx, rx) = mpsc::channel(BACKLOG);
        tokio::spawn(accept_all(socket, limits.clone(), tx, closed.clone()));
        Ok(Self { address, accepted: Mutex::new(rx), _close_on_drop: closed.clone().drop_guard(), closed })
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
}

/// Accepts until the listener is closed; the socket is closed with it.
async fn accept_all(
    socket: tokio::net::TcpListener,
    limits: Limits,
    accepted: mpsc::Sender<Arc<TcpConnection>>,
    closed: CancellationToken,
) {
    let places = Places::new(&limits);
    loop {
        let next = tokio::select! {
            () = closed.cancelled() => return,
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
        let place = match places.take(peer.ip()) {
            Ok(place) => place,
            Err(reason) => {
                tracing::warn!(%peer, %reason, "a TCP connection was refused");
                continue;
            }
        };
        let activity = Activity::new(limits.tcp_idle_timeout);
        match TcpConnection::new(stream, peer, &limits, Some(place), Some(activity)) {
            Ok(connection) => {
                let sent = tokio::select! {
                    () = closed.cancelled() => return,
                    sent = accepted.send(Arc::new(connection)) => sent,
                };
                if sent.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(%peer, %error, "a TCP connection ended at once"),
        }
    }
}

/// The socket, shared by both directions; whoever drops it last closes it and says so.
#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    _place: Option<Place>,
    _ended: DropGuard,
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
    fn new(
        stream: TcpStream,
        address: SocketAddr,
        limits: &Limits,
        place: Option<Place>,
        activity: Option<Arc<Activity>>,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        let ended = CancellationToken::new();
        let socket = Arc::new(Socket { stream, _place: place, _ended: ended.clone().drop_guard() });
        let weak = Arc::downgrade(&socket);
        let read_limits = ReadLimits::new(limits, Assembly::new(limits), activity.clone());
        let source = FrameReader::new(ReadEnd(Arc::clone(&socket)), read_limits);
        let write_limits = match activity {
            Some(activity) => WriteLimits::accepted(limits, Some(activity)),
            None => WriteLimits::connected(limits),
        };
        let (finished, gone) = (Box::pin(finished(weak.clone())), Box::pin(gone(weak.clone())));
        let sink = FrameWriter::new(WriteEnd(socket), write_limits);
        Ok(Self {
            peer: Peer { address, transport: "tcp", principal: None },
            stream: parking::Slot::new(FrameStream { source: Box::pin(source), sink: Box::pin(sink), finished, gone }),
            socket: weak,
            ended,
        })
    }
}

impl Connection for TcpConnection {
    fn peer(&self) -> &Peer {
        &self.peer
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

struct ReadEnd(Arc<Socket>);

impl AsyncRead for ReadEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = &self.0.stream;
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read_buf(buffer) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

struct WriteEnd(Arc<Socket>);

impl Outlet for WriteEnd {
    fn poll_write(&mut self, cx: &mut Context<'_>, chunks: &mut VecDeque<Bytes>) -> Poll<io::Result<usize>> {
        let stream = &self.0.stream;
        loop {
            ready!(stream.poll_write_ready(cx))?;
            let mut slices = [IoSlice::new(&[]); WRITE_PARTS_MAX];
            let count = chunks.len().min(WRITE_PARTS_MAX);
            for (slice, chunk) in slices.iter_mut().zip(chunks.iter()) {
                *slice = IoSlice::new(chunk);
            }
            match stream.try_write_vectored(&slices[..count]) {
                Ok(written) => {
                    advance(chunks, written);
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match SockRef::from(&self.0.stream).shutdown(Shutdown::Write) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            other => Poll::Ready(other),
        }
    }
}
