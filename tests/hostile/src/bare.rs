//! The QUIC door as a client uses it who keeps to no rules but QUIC's own, and not even to those: who believes that all is allowed, who
//! hears nothing, whose datagrams come from elsewhere.

use std::{
    io::{self, IoSliceMut},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use millstream_test_support::broker::Broker;
use quinn::{
    AsyncUdpSocket, Connection, ConnectionError, Endpoint, EndpointConfig, Runtime, TokioRuntime, TransportConfig,
    UdpPoller, VarInt,
    crypto::{self, ExportKeyingMaterialError, KeyPair, Keys, rustls::QuicClientConfig},
    udp::{RecvMeta, Transmit},
};
use quinn_proto::{
    ConnectError, ConnectionId, Side, TransportError,
    crypto::{HeaderKey, PacketKey, Session},
    transport_parameters::TransportParameters,
};
use rustls::{
    RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, pem::PemObject},
    version::TLS13,
};

use crate::{
    door::request,
    initial::{take_varint, varint},
};

/// The application protocol that the broker speaks.
pub const ALPN: &[u8] = b"millstream/1";
/// Bytes that it sends at most in a datagram.
const MTU: u16 = 6500;
/// How often one that has nothing to say says that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// What a broker says in its transport parameters (RFC 9000, 18.2; RFC 9221, 3).
pub mod said {
    /// Bytes that may be under way on the connection.
    pub const DATA: u64 = 4;
    /// Bytes that may be under way on a stream that the client opens.
    pub const STREAM_DATA: u64 = 6;
    /// Bytes that may be under way on a stream with one direction.
    pub const UNI_STREAM_DATA: u64 = 7;
    /// Streams that may be open.
    pub const STREAMS: u64 = 8;
    /// Streams with one direction that may be open.
    pub const UNI_STREAMS: u64 = 9;
    /// Largest datagram frame.
    pub const DATAGRAMS: u64 = 32;
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Manner {
    /// The application protocols that it names.
    pub alpn: Vec<Vec<u8>>,
    /// What it takes the broker to have said instead, by its number in [`said`].
    pub believes: Vec<(u64, u64)>,
    /// Bytes that may be under way to it on a stream.
    pub window_bytes: u32,
}

impl Default for Manner {
    fn default() -> Self {
        Self { alpn: vec![ALPN.to_vec()], believes: Vec::new(), window_bytes: 2 << 20 }
    }
}

/// A client's UDP port and what it connects with. On a tokio runtime.
#[derive(Debug)]
pub struct Bare {
    endpoint: Endpoint,
    socket: Arc<Tampered>,
    broker: SocketAddr,
}

impl Bare {
    /// A client of this broker.
    ///
    /// # Errors
    /// When there is no port, or the broker's profile holds no CA.
    pub fn new(broker: &Broker, manner: &Manner) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let inner = TokioRuntime.wrap_udp_socket(socket)?;
        let socket = Arc::new(Tampered {
            inner,
            is_deaf: AtomicBool::new(false),
            diverted: Mutex::default(),
            diverted_bytes: AtomicUsize::new(0),
        });
        let mut config = EndpointConfig::default();
        config.max_udp_payload_size(MTU)?;
        let mut endpoint =
            Endpoint::new_with_abstract_socket(config, None, Arc::clone(&socket) as _, Arc::new(TokioRuntime))?;
        endpoint.set_default_client_config(client_config(broker, manner)?);
        Ok(Self { endpoint, socket, broker: broker.address() })
    }

    /// A connection, its handshake done as far as the client knows.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connect(&self) -> Result<Connection, ConnectionError> {
        let connecting = self.endpoint.connect(self.broker, "localhost");
        // What can go wrong before anything is sent is the test's fault.
        connecting.map_err(|_| ConnectionError::LocallyClosed)?.await
    }

    /// From now on nothing that comes is heard: nothing is acknowledged either.
    pub fn be_deaf(&self) {
        self.socket.is_deaf.store(true, Ordering::Release);
    }

    /// Sends from another port, until [`Bare::return_home`]; what comes there is not heard.
    ///
    /// # Errors
    /// When there is none.
    pub fn divert(&self) -> io::Result<UdpSocket> {
        let elsewhere = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0))?;
        let ours = elsewhere.try_clone()?;
        *self.socket.diverted.lock().unwrap_or_else(PoisonError::into_inner) = Some(elsewhere);
        Ok(ours)
    }

    /// Bytes that were sent from other ports so far.
    #[must_use]
    pub fn sent_from_elsewhere(&self) -> usize {
        self.socket.diverted_bytes.load(Ordering::Relaxed)
    }

    /// Sends from its own port again.
    pub fn return_home(&self) {
        *self.socket.diverted.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Goes over to another port, as a phone does from one network to another.
    ///
    /// # Errors
    /// When there is none.
    pub fn move_away(&self) -> io::Result<()> {
        self.endpoint.rebind(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?)
    }
}

fn client_config(broker: &Broker, manner: &Manner) -> anyhow::Result<quinn::ClientConfig> {
    let profile: serde_json::Value = serde_json::from_slice(&std::fs::read(broker.profile())?)?;
    let ca = profile["ca_pem"].as_str().context("no CA in the profile")?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate?)?;
    }
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots);
    let mut tls = tls.with_no_client_auth();
    tls.alpn_protocols.clone_from(&manner.alpn);
    let honest = QuicClientConfig::try_from(tls)?;
    let believing = Believing { honest: Arc::new(honest), believes: manner.believes.clone() };
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(manner.window_bytes))
        .initial_rtt(Duration::from_millis(1))
        .initial_mtu(MTU)
        .mtu_discovery_config(None)
        .keep_alive_interval(Some(KEEP_ALIVE));
    let mut config = quinn::ClientConfig::new(Arc::new(believing));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Asks for something small on a stream of its own, and reads the answer.
///
/// # Errors
/// When there is none.
pub async fn ask(connection: &Connection) -> anyhow::Result<()> {
    let (mut send, mut receive) = connection.open_bi().await?;
    // Metadata 4, of no topics.
    send.write_all(&request(3, 4, 77, b"x", &[0; 5])).await?;
    let mut head = [0; 8];
    receive.read_exact(&mut head).await?;
    ensure!(head[4..] == 77_i32.to_be_bytes(), "another answer: {head:?}");
    Ok(())
}

/// A port that loses what comes, or sends from elsewhere.
#[derive(Debug)]
struct Tampered {
    inner: Arc<dyn AsyncUdpSocket>,
    is_deaf: AtomicBool,
    diverted: Mutex<Option<UdpSocket>>,
    diverted_bytes: AtomicUsize,
}

impl AsyncUdpSocket for Tampered {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match &*self.diverted.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(elsewhere) => {
                let sent = elsewhere.send_to(transmit.contents, transmit.destination)?;
                self.diverted_bytes.fetch_add(sent, Ordering::Relaxed);
                Ok(())
            }
            None => self.inner.try_send(transmit),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let received = ready!(self.inner.poll_recv(cx, buffers, meta));
            if !self.is_deaf.load(Ordering::Acquire) {
                return Poll::Ready(received);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// TLS as it is, but for what the broker has said in its transport parameters.
struct Believing {
    honest: Arc<QuicClientConfig>,
    believes: Vec<(u64, u64)>,
}

impl crypto::ClientConfig for Believing {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let honest = Arc::clone(&self.honest).start_session(version, server_name, params)?;
        Ok(Box::new(BelievingSession { honest, believes: self.believes.clone() }))
    }
}

struct BelievingSession {
    honest: Box<dyn Session>,
    believes: Vec<(u64, u64)>,
}

impl Session for BelievingSession {
    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(honest) = self.honest.transport_parameters()? else { return Ok(None) };
        let mut encoded = Vec::new();
        honest.write(&mut encoded);
        let (mut rest, mut believed) = (&encoded[..], Vec::new());
        while let (Some(number), Some(length)) = (take_varint(&mut rest), take_varint(&mut rest)) {
            let Some((value, behind)) = rest.split_at_checked(length as usize) else { break };
            rest = behind;
            if !self.believes.iter().any(|(other, _)| *other == number) {
                believed.extend([&varint(number), &varint(length), value].concat());
            }
        }
        for (number, value) in &self.believes {
            let value = varint(*value);
            believed.extend([&varint(*number), &varint(value.len() as u64)[..], &value].concat());
        }
        Ok(Some(TransportParameters::read(Side::Client, &mut &believed[..])?))
    }

    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        self.honest.initial_keys(id, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn std::any::Any>> {
        self.honest.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn std::any::Any>> {
        self.honest.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.honest.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.honest.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.honest.is_handshaking()
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        self.honest.read_handshake(bytes)
    }

    fn write_handshake(&mut self, bytes: &mut Vec<u8>) -> Option<Keys> {
        self.honest.write_handshake(bytes)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.honest.next_1rtt_keys()
    }

    fn is_valid_retry(&self, id: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.honest.is_valid_retry(id, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.honest.export_keying_material(output, label, context)
    }
}
