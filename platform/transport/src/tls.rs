//! TLS configurations for both ends, AES-128-GCM first, no early data: version 1.3 and one application protocol for QUIC; versions 1.2
//! and 1.3, and no application protocol, for Kafka's clients on TCP.

use std::sync::Arc;

use rustls::{
    CipherSuite, ClientConfig, RootCertStore, ServerConfig,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::NoServerSessionStorage,
    version::{TLS12, TLS13},
};

use crate::{ALPN, ListenError, ServerIdentity};

/// Whom a client believes: the certificates of CAs, and where they came from.
#[derive(Clone, Debug)]
pub struct Trust {
    pub(crate) roots: Arc<RootCertStore>,
    /// Where the CAs came from, for the message that says that they did not match.
    pub(crate) origin: String,
}

/// CA certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the CA certificate in {origin} cannot be used: {detail}")]
pub struct TrustError {
    /// Where it came from.
    pub origin: String,
    /// What is wrong with it.
    pub detail: String,
}

impl Trust {
    /// Takes one or more certificates in PEM. `origin` is for messages: usually the path of the client profile.
    ///
    /// # Errors
    /// No certificate in the text, or one that is malformed.
    pub fn from_pem(pem: &str, origin: impl Into<String>) -> Result<Self, TrustError> {
        let origin = origin.into();
        let refuse = |detail: String| TrustError { origin: origin.clone(), detail };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
            roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(refuse("it holds no certificate in PEM (-----BEGIN CERTIFICATE-----)".into()));
        }
        Ok(Self { roots: Arc::new(roots), origin })
    }
}

/// Whether a connector that trusts only this CA would believe a listener with this identity.
pub(crate) fn check(trust: &Trust, identity: &ServerIdentity) -> Result<(), String> {
    server(identity).map_err(|error| error.to_string())?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(&trust.roots), provider())
        .build()
        .map_err(|error| error.to_string())?;
    let (certificate, others) = identity.chain.split_first().ok_or("it has no certificate")?;
    let name = ServerName::try_from("localhost").map_err(|error| error.to_string())?;
    let verified = verifier.verify_server_cert(certificate, others, &name, &[], UnixTime::now());
    verified.map(drop).map_err(|error| error.to_string())
}

/// ring, with the cheapest cipher on today's processors first.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// What a QUIC listener shows.
pub(crate) fn server(identity: &ServerIdentity) -> Result<ServerConfig, ListenError> {
    let mut config = server_for(identity, &[&TLS13])?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// What a TCP listener shows.
pub(crate) fn tcp_server(identity: &ServerIdentity) -> Result<ServerConfig, ListenError> {
    server_for(identity, &[&TLS13, &TLS12])
}

/// Early data stays off: a replayed request must not be possible. Sessions are not resumed either: what is agreed on holds for one
/// connection, so that nothing of it outlives a certificate.
fn server_for(
    identity: &ServerIdentity,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<ServerConfig, ListenError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| ListenError::Tls(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|error| ListenError::Tls(error.to_string()))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What a connector checks.
pub(crate) fn client(trust: &Trust, alpn: &[u8]) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(Arc::clone(&trust.roots))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}
