//! The network: listeners and connections that carry ordered streams of frames.
//!
//! A frame is what follows Kafka's 4-byte big-endian length. Transports (QUIC, TCP, simulated) add and strip the length
//! and refuse one that is out of bounds before anything is allocated for it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
};

use bytes::Bytes;
use futures::{Sink, Stream};

use crate::BoxFuture;

/// A frame to send: its parts follow each other on the wire. Parts let a response carry log bytes that were never copied.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// The parts, in order.
    pub parts: Vec<Bytes>,
}

impl Frame {
    /// The frame's length, bytes, without the length prefix.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// Whether the frame has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The parts put together: one copy.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match self.parts.as_slice() {
            [one] => one.clone(),
            parts => parts.concat().into(),
        }
    }
}

impl From<Bytes> for Frame {
    fn from(bytes: Bytes) -> Self {
        Self { parts: vec![bytes] }
    }
}

/// Frames coming in, each contiguous. Ends when the peer has finished; an error ends it too.
pub type FrameSource = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;
/// Frames going out. A frame is on its way once the sink is flushed.
pub type FrameSink = Pin<Box<dyn Sink<Frame, Error = io::Error> + Send>>;

/// One ordered two-way stream of frames.
pub struct FrameStream {
    /// What the peer sends.
    pub source: FrameSource,
    /// What we send.
    pub sink: FrameSink,
    /// Resolves once the peer sends nothing more, though what it has sent may not have been read yet. For whoever reads
    /// nothing at the moment; pending for ever where only reading tells (QUIC).
    pub finished: BoxFuture<'static, ()>,
    /// Resolves once the peer takes nothing more of what we send: it has stopped the stream, or is gone. Seen without
    /// writing. What it has sent before may still be read.
    pub gone: BoxFuture<'static, ()>,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The address that its packets come from.
    pub address: SocketAddr,
    /// `quic`, `tcp` or `tcp+tls` (or `sim`).
    pub transport: &'static str,
    /// Whom its verified certificate names, if it showed one: `User:CN=alice,O=Example`, as in Kafka.
    pub principal: Option<String>,
}

impl Peer {
    /// The network that counts as one host: an IPv6 host owns a whole network of 64 bits, any other just its address.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        network(self.address.ip())
    }
}

/// As [`Peer::network`], of an address.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        other => other,
    }
}

/// An established connection of one or more frame streams.
pub trait Connection: Send + Sync {
    /// The other end.
    fn peer(&self) -> &Peer;

    /// Whether more than one stream can be opened or accepted at a time (QUIC). Over TCP a connection is one stream.
    fn has_many_streams(&self) -> bool;

    /// The next stream that the peer opens; none once the connection has ended. Over TCP there is exactly one.
    fn accept(&self) -> BoxFuture<'_, Option<FrameStream>>;

    /// Opens a stream. Over TCP the first call gets the one that there is, a second is refused.
    ///
    /// # Errors
    /// The connection has ended, or allows no more streams.
    fn open(&self) -> BoxFuture<'_, io::Result<FrameStream>>;

    /// Ends the connection; what was not flushed is lost. `reason` reaches the peer where the transport can say it.
    fn close(&self, reason: &str);
}

/// A bound address that peers connect to.
pub trait Listener: Send + Sync {
    /// The next connection whose handshake is done; none once the listener was closed. Failed handshakes are not seen here.
    fn accept(&self) -> BoxFuture<'_, Option<Arc<dyn Connection>>>;

    /// The address that was bound: the real port where 0 was asked for.
    fn local_address(&self) -> SocketAddr;

    /// Takes no more connections; those that stand go on.
    fn close(&self);

    /// What its connections' [`Peer::transport`] says.
    fn transport(&self) -> &'static str;

    /// How many were refused since it was bound, for there being too many. Handshakes that failed are none of them.
    fn refused(&self) -> u64;
}

/// Makes listeners and connections.
pub trait Net: Send + Sync {
    /// Binds an address.
    ///
    /// # Errors
    /// `AddrInUse` and the like.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Arc<dyn Listener>>>;

    /// Connects to `host:port`.
    ///
    /// # Errors
    /// Nobody there, a failed handshake, a refused certificate: the text says which.
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Arc<dyn Connection>>>;
}
