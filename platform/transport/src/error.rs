//! What can go wrong when listening, connecting and framing, said so that a person knows what to do.

use std::{io, net::SocketAddr, time::Duration};

/// Why an address could not be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else has the port.
    #[error("{protocol} port {} of {} is in use by another process: stop it, or listen on another port", .address.port(), .address.ip())]
    InUse {
        /// `UDP` (QUIC) or `TCP` (Kafka).
        protocol: &'static str,
        /// What was asked for.
        address: SocketAddr,
    },
    /// The operating system refused for another reason.
    #[error("cannot listen on {protocol} {address}")]
    Bind {
        /// `UDP` (QUIC) or `TCP` (Kafka).
        protocol: &'static str,
        /// What was asked for.
        address: SocketAddr,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("the server's certificate cannot be used: {0}")]
    Tls(String),
}

impl ListenError {
    /// Sorts what `bind` said.
    pub(crate) fn from_bind(protocol: &'static str, address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { protocol, address },
            _ => Self::Bind { protocol, address, source },
        }
    }
}

impl From<ListenError> for io::Error {
    fn from(error: ListenError) -> Self {
        let kind = match &error {
            ListenError::InUse { .. } => io::ErrorKind::AddrInUse,
            ListenError::Bind { source, .. } => source.kind(),
            ListenError::Tls(_) => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// Why a connection could not be made. Found inside the [`io::Error`] of [`millstream_env::Net::connect`].
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not `HOST:PORT`, or no such host.
    #[error(
        "{address:?} leads to no machine: HOST:PORT is expected, with a name that this machine can resolve (if a broker has told it, it is \
         that broker's --advertise)"
    )]
    Address {
        /// What was given.
        address: String,
        /// What resolving it said.
        #[source]
        source: io::Error,
    },
    /// The machine answers that nobody listens on the port.
    #[error("nobody is listening on {address} ({protocol}): is the broker running, and is this its address?")]
    NobodyThere {
        /// What was given.
        address: String,
        /// `QUIC on UDP` or `TCP`.
        protocol: &'static str,
    },
    /// No answer at all.
    #[error(
        "no answer from {address} within {after:?}: is the address right, and does a firewall let {protocol} through?"
    )]
    NoAnswer {
        /// What was given.
        address: String,
        /// `QUIC on UDP` or `TCP`.
        protocol: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The broker's certificate was not signed by the CA that we trust, or is for another name.
    #[error(
        "the certificate of {address} was not accepted ({detail}); trusted was the CA of {trust}. If the broker's data directory \
         is new or another one, use its client profile: MILLSTREAM_PROFILE=DATA_DIR/client.json"
    )]
    Certificate {
        /// What was given.
        address: String,
        /// Where the trusted CA came from.
        trust: String,
        /// What the check said.
        detail: String,
    },
    /// The broker asks for a client's certificate and does not accept what it was shown.
    #[error(
        "{address} refuses this client for its certificate: {why} ({detail}). Give one that the broker's --tls-client-ca has signed: \
         --client-cert and --client-key, MILLSTREAM_CLIENT_CERT and MILLSTREAM_CLIENT_KEY, or the client profile's"
    )]
    Unauthenticated {
        /// What was given.
        address: String,
        /// What the broker has against it.
        why: &'static str,
        /// What the broker said.
        detail: String,
    },
    /// Something else than a Millstream broker of this version.
    #[error("{address} speaks QUIC, but not millstream/1: it is another kind of server, or another version")]
    Protocol {
        /// What was given.
        address: String,
    },
    /// The broker has as many connections as it allows.
    #[error("{address} refuses more connections for now: it has as many as it allows")]
    Full {
        /// What was given.
        address: String,
    },
    /// The handshake failed in another way.
    #[error("connecting to {address} failed: {detail}")]
    Handshake {
        /// What was given.
        address: String,
        /// What the transport said.
        detail: String,
    },
    /// The operating system refused.
    #[error("cannot connect to {address}")]
    Io {
        /// What was given.
        address: String,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
}

impl ConnectError {
    /// Whether trying again later can help without anybody changing something on this side.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::NobodyThere { .. } | Self::NoAnswer { .. } | Self::Full { .. } | Self::Handshake { .. } => true,
            Self::Io { .. } => true,
            Self::Address { .. } | Self::Certificate { .. } | Self::Unauthenticated { .. } | Self::Protocol { .. } => {
                false
            }
        }
    }
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        let kind = match &error {
            ConnectError::Address { .. } => io::ErrorKind::InvalidInput,
            ConnectError::NobodyThere { .. } | ConnectError::Full { .. } => io::ErrorKind::ConnectionRefused,
            ConnectError::NoAnswer { .. } => io::ErrorKind::TimedOut,
            ConnectError::Certificate { .. } | ConnectError::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
            ConnectError::Protocol { .. } => io::ErrorKind::Unsupported,
            ConnectError::Handshake { .. } => io::ErrorKind::ConnectionAborted,
            ConnectError::Io { source, .. } => source.kind(),
        };
        Self::new(kind, error)
    }
}

/// Why a stream of frames ended before its peer finished it. Found inside the stream's [`io::Error`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length that no frame has.
    #[error("a frame of {announced} bytes was announced; 1 to {max} are allowed{hint}")]
    Length {
        /// The four bytes as a signed number.
        announced: i32,
        /// [`crate::Limits::frame_bytes_max`].
        max: usize,
        /// What the bytes look like, if they look like something else.
        hint: &'static str,
    },
    /// The peer finished in the middle of a frame.
    #[error("the stream ended after {received} bytes of a frame of {expected}")]
    Cut {
        /// Bytes that arrived, including the length.
        received: usize,
        /// Bytes that were expected, including the length; 4 while the length itself is incomplete.
        expected: usize,
    },
    /// A frame arrived too slowly.
    #[error("a frame of {expected} bytes was not complete in time: {received} had arrived")]
    Stalled {
        /// Bytes that arrived.
        received: usize,
        /// Bytes that were expected.
        expected: usize,
    },
    /// Nothing went either way for too long.
    #[error("the connection was idle for {0:?}")]
    Idle(Duration),
    /// The peer reads too slowly, or not at all.
    #[error("the peer left {queued} bytes unread for {after:?}")]
    Unread {
        /// Bytes that it has not taken, without what the transport holds.
        queued: usize,
        /// [`crate::Limits::write_timeout`].
        after: Duration,
    },
    /// We were asked to send a frame that has no bytes or too many.
    #[error("a frame of {bytes} bytes cannot be sent; 1 to {max} are allowed")]
    Send {
        /// Its length.
        bytes: usize,
        /// [`crate::Limits::frame_bytes_max`].
        max: usize,
    },
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        let kind = match &error {
            FrameError::Length { .. } => io::ErrorKind::InvalidData,
            FrameError::Cut { .. } => io::ErrorKind::UnexpectedEof,
            FrameError::Stalled { .. } | FrameError::Idle(_) | FrameError::Unread { .. } => io::ErrorKind::TimedOut,
            FrameError::Send { .. } => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}
