//! QUIC with the settings that were measured to reach the ceiling, and nothing around it.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use quinn::{
    Endpoint, EndpointConfig, TransportConfig, VarInt,
    congestion::CubicConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{
    CipherSuite, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::TLS13,
};
use socket2::{Domain, Protocol, Socket, Type};

const ALPN: &[u8] = b"bare";
/// The name in the certificate.
pub(super) const HOST: &str = "localhost";
/// Packet size on loopback, bytes.
const MTU: u16 = 6500;
const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// An endpoint that accepts, and the certificate that its clients must believe, in PEM.
pub(super) fn server() -> anyhow::Result<(Endpoint, String)> {
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes())?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport()));
    Ok((endpoint(Some(config))?, made.cert.pem()))
}

/// An endpoint that connects to servers with that certificate.
pub(super) fn client(certificate: &str) -> anyhow::Result<Endpoint> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes())?)?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport()));
    let mut endpoint = endpoint(None)?;
    endpoint.set_default_client_config(config);
    Ok(endpoint)
}

fn endpoint(server: Option<quinn::ServerConfig>) -> anyhow::Result<Endpoint> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(MTU)?;
    let runtime = quinn::default_runtime().context("quinn finds no runtime")?;
    Ok(Endpoint::new(config, server, socket()?, runtime)?)
}

fn socket() -> anyhow::Result<UdpSocket> {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .initial_mtu(MTU)
        .mtu_discovery_config(None)
        .initial_rtt(Duration::from_millis(1))
        .stream_receive_window(VarInt::from_u32(2 << 20))
        .receive_window(VarInt::from_u32(16 << 20))
        .send_window(16 << 20)
        .send_fairness(false)
        .max_concurrent_bidi_streams(VarInt::from_u32(256))
        // Between measurements nothing is sent for minutes.
        .max_idle_timeout(None)
        .congestion_controller_factory(Arc::new(CubicConfig::default()));
    config
}

/// ring, with the cheapest cipher on today's processors first.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}
