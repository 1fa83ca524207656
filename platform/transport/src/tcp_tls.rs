//! TLS on accepted TCP connections: the handshake, bounded in number and time, and both directions of what follows it.
//!
//! Nothing of a session is made before the handshake is done. What is written goes through the session 64 KiB at a time, which is
//! what rustls holds of it at most; what is read, a record (16 KiB) at a time.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    Credentials, Limits,
    frame::{Outlet, advance},
    places::{Place, Places},
    principal::principal,
    seldom::Seldom,
    tcp::Socket,
};

/// The first byte of a TLS handshake. As the first of a frame's length it would announce far more than any frame has.
const HANDSHAKE: u8 = 0x16;
/// Most bytes of a refused peer that are read before it is closed. Unread, they would turn the end of the connection into a reset.
const FAREWELL_BYTES: usize = 64 << 10;

/// A listener's handshakes.
pub(crate) struct Handshakes {
    credentials: Credentials,
    limits: Limits,
    under_way: Places,
    refused: Seldom,
    plain: Seldom,
    failed: Seldom,
    unauthenticated: Seldom,
}

/// One that may begin.
pub(crate) struct Turn {
    _place: Place,
}

impl Handshakes {
    pub(crate) fn new(credentials: Credentials, limits: &Limits) -> Self {
        Self {
            credentials,
            limits: limits.clone(),
            under_way: Places::for_handshakes(limits),
            refused: Seldom::default(),
            plain: Seldom::default(),
            failed: Seldom::default(),
            unauthenticated: Seldom::default(),
        }
    }

    /// A place among those under way, if there is one.
    pub(crate) fn turn(&self, peer: std::net::SocketAddr) -> Option<Turn> {
        match self.under_way.take(peer.ip()) {
            Ok(place) => Some(Turn { _place: place }),
            Err(_) => {
                if let Some(left_out) = self.refused.turn() {
                    tracing::warn!(%peer, left_out, "a TLS handshake was refused: too many are under way");
                }
                None
            }
        }
    }

    /// The handshake of one connection; none if it came to nothing, which is told to the log.
    pub(crate) async fn run(&self, socket: Arc<Socket>, peer: std::net::SocketAddr, turn: Turn) -> Option<Session> {
        let done = tokio::time::timeout(self.limits.handshake_timeout, self.handshake(&socket)).await;
        drop(turn);
        match done {
            Ok(Ok(session)) => return Some(session),
            Ok(Err(Failure::Gone)) => tracing::debug!(%peer, "a TCP connection ended before its TLS handshake"),
            Ok(Err(Failure::Plain)) => {
                if let Some(left_out) = self.plain.turn() {
                    tracing::warn!(
                        %peer, left_out,
                        "a client that does not speak TLS was closed: this port does. Have Kafka clients use \
                         security.protocol=SSL and the broker's CA (DATA_DIR/tls/ca.pem, unless --tls-cert is given), or start the broker with --tcp-tls off"
                    );
                }
                end_in_order(&socket);
            }
            Ok(Err(Failure::Tls(error))) if is_about_the_client(&error) => {
                if let Some(left_out) = self.unauthenticated.turn() {
                    tracing::warn!(%peer, %error, left_out, "a client was refused for its certificate");
                }
                end_in_order(&socket);
            }
            Ok(Err(Failure::Tls(error))) => {
                if let Some(left_out) = self.failed.turn() {
                    tracing::info!(%peer, %error, left_out, "a TLS handshake failed");
                }
                end_in_order(&socket);
            }
            Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
        }
        None
    }

    async fn handshake(&self, socket: &Arc<Socket>) -> Result<Session, Failure> {
        let mut first = [0; 1];
        match socket.stream.peek(&mut first).await {
            Ok(0) | Err(_) => return Err(Failure::Gone),
            Ok(_) if first[0] != HANDSHAKE => return Err(Failure::Plain),
            Ok(_) => {}
        }
        let accepted = TlsAcceptor::from(self.credentials.tcp()).accept(BothEnds(Arc::clone(socket))).await;
        let accepted = accepted.map_err(Failure::Tls)?;
        let shown = accepted.get_ref().1.peer_certificates();
        let principal = shown.and_then(|shown| principal(shown.first()?));
        let (read, write) = tokio::io::split(accepted);
        Ok(Session { read: TlsReadEnd(read), write: TlsWriteEnd(write), principal })
    }
}

/// Why there is no session.
enum Failure {
    Gone,
    Plain,
    Tls(io::Error),
}

/// Whether a handshake has failed for what the client has shown, or has not.
fn is_about_the_client(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(tls, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented))
}

/// Ends our side of a connection so that the peer finds an end and not a reset, as far as it has stopped sending.
fn end_in_order(socket: &Socket) {
    let mut unread = [0; 4096];
    let mut left = FAREWELL_BYTES;
    while left > 0
        && let Ok(read @ 1..) = socket.stream.try_read(&mut unread)
    {
        left = left.saturating_sub(read);
    }
    // It may have gone.
    let _ = socket.end();
}

/// Both directions of a connection whose handshake is done.
pub(crate) struct Session {
    pub(crate) read: TlsReadEnd,
    pub(crate) write: TlsWriteEnd,
    /// Of the client's certificate, if it showed one.
    pub(crate) principal: Option<String>,
}

/// What came, decrypted.
pub(crate) struct TlsReadEnd(ReadHalf<TlsStream<BothEnds>>);

impl AsyncRead for TlsReadEnd {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.0).poll_read(cx, buffer)) {
            // An end that TLS was not told of, as many clients leave it. What was cut off is a frame, which says how long it is.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            other => Poll::Ready(other),
        }
    }
}

/// Where chunks are encrypted.
pub(crate) struct TlsWriteEnd(WriteHalf<TlsStream<BothEnds>>);

impl Outlet for TlsWriteEnd {
    fn poll_write(&mut self, cx: &mut Context<'_>, chunks: &mut VecDeque<Bytes>) -> Poll<io::Result<usize>> {
        let Some(first) = chunks.front() else { return Poll::Ready(Ok(0)) };
        let written = ready!(Pin::new(&mut self.0).poll_write(cx, first))?;
        advance(chunks, written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The socket as a session uses it.
struct BothEnds(Arc<Socket>);

impl AsyncRead for BothEnds {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buffer)
    }
}

impl AsyncWrite for BothEnds {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, |stream: &TcpStream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, |stream: &TcpStream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.end())
    }
}
