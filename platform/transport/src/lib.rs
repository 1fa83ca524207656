//! QUIC and TCP: listeners, connectors, framing and TLS identities, behind [`millstream_env::Net`].
//!
//! - [`QuicNet`]: the native transport. TLS 1.3 always, ALPN [`ALPN`], long-lived bidirectional streams of frames.
//! - [`TcpNet`]: the compatibility transport for Kafka clients: TCP, one frame stream per connection. A listener may ask for TLS.
//! - [`listen_both`]: both on one port number.
//! - [`identity`]: the development CA and certificate that a broker keeps in its data directory.
//! - [`own`]: certificates that somebody else has made, a broker's and a client's.
//! - [`Credentials`]: what a listener shows of these, and asks for; replaced while it listens.
//! - [`profile`]: what a client must know of a cluster (addresses, CA), as a file that the tools find by themselves.
//!
//! This is the only crate that knows quinn. Frames are those of [`millstream_env::Frame`]: Kafka's 4-byte big-endian
//! length and the bytes that it counts. A length of zero, a negative one and one above [`Limits::frame_bytes_max`] end
//! the stream with an error before anything is allocated for it.

mod credentials;
mod error;
mod frame;
pub mod identity;
mod limits;
pub mod own;
mod places;
mod principal;
pub mod profile;
mod quic;
mod reset;
mod seldom;
mod socket;
mod tcp;
mod tcp_tls;
mod tls;
mod unacknowledged;
mod windows;

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

pub use credentials::Credentials;
pub use error::{ConnectError, FrameError, ListenError};
pub use identity::ServerIdentity;
pub use limits::Limits;
pub use own::ClientCertificate;
pub use profile::Profile;
pub use quic::{QuicListener, QuicNet};
pub use tcp::{TcpListener, TcpNet};
pub use tls::{ClientCheck, Trust, TrustError, TrustSource};

/// The application protocol that clients and brokers agree on in the TLS handshake.
pub const ALPN: &[u8] = b"millstream/1";

/// What is spoken on the TCP port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcpSecurity {
    /// Kafka's protocol as it is (Kafka's `PLAINTEXT`).
    #[default]
    Plain,
    /// Kafka's protocol in TLS 1.2 or 1.3, with the identity that QUIC has (Kafka's `SSL`).
    Tls,
}

/// How often a free port is looked for that both UDP and TCP can have.
const PORT_TRIES: usize = 32;

/// Two listeners on one port number: QUIC on UDP, Kafka's protocol on TCP.
#[derive(Debug)]
pub struct Listeners {
    /// Native clients.
    pub quic: Arc<QuicListener>,
    /// Kafka clients.
    pub tcp: Arc<TcpListener>,
}

/// A port that is taken on UDP and TCP, where nobody listens yet: found free before anything is made for a listener.
#[derive(Debug)]
pub struct BoundPort {
    udp: UdpSocket,
    tcp: std::net::TcpListener,
    address: SocketAddr,
}

impl BoundPort {
    /// Binds UDP and TCP to the same address. With port 0 the operating system chooses one number for both.
    ///
    /// # Errors
    /// [`ListenError::InUse`] names the protocol whose port is taken; nothing stays bound then.
    pub fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            let udp = socket::bind_udp(address)?;
            let bound = udp.local_addr().map_err(|source| ListenError::Bind { protocol: "UDP", address, source })?;
            match socket::bind_tcp(bound) {
                Ok(tcp) => return Ok(Self { udp, tcp, address: bound }),
                // The number was free for UDP only: ask for another one.
                Err(ListenError::InUse { .. }) if tries > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The address, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts to listen: QUIC on UDP, Kafka's protocol on TCP. Clients that came since the port was bound are served.
    ///
    /// Must be called on a tokio runtime, where the accepting tasks will run until the listeners are closed or dropped.
    ///
    /// # Errors
    /// The sockets cannot be waited on.
    pub fn listen(
        self,
        credentials: &Credentials,
        tcp: TcpSecurity,
        limits: &Limits,
    ) -> Result<Listeners, ListenError> {
        let quic = QuicListener::start(self.udp, credentials, limits)?;
        let tls = (tcp == TcpSecurity::Tls).then_some(credentials);
        let tcp = TcpListener::start(self.tcp, tls, limits)?;
        Ok(Listeners { quic: Arc::new(quic), tcp: Arc::new(tcp) })
    }
}

/// [`BoundPort::bind`] and [`BoundPort::listen`] in one, with plain TCP, for clients without certificates.
///
/// # Errors
/// As of both.
pub fn listen_both(address: SocketAddr, identity: &ServerIdentity, limits: &Limits) -> Result<Listeners, ListenError> {
    BoundPort::bind(address)?.listen(&Credentials::new(identity, None)?, TcpSecurity::Plain, limits)
}
