//! TLS configurations for both ends, AES-128-GCM first, no early data: version 1.3 and one application protocol for QUIC; versions 1.2
//! and 1.3, and no application protocol, for Kafka's clients on TCP.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rustls::{
    CertificateError, CipherSuite, ClientConfig, RootCertStore, ServerConfig, SignatureScheme,
    client::{ResolvesClientCert, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

use crate::{ALPN, ClientCertificate, ListenError, ServerIdentity};

/// Whom a client believes, the certificates of CAs and where they came from; and what it proves itself with, where it is asked to.
#[derive(Clone, Debug)]
pub struct Trust {
    pub(crate) roots: Arc<RootCertStore>,
    /// Where the CAs came from, for the message that says that they did not match.
    pub(crate) origin: String,
    pub(crate) certificate: Option<ClientCertificate>,
}

/// Says whom a connector believes and what it shows, each time that it connects: what is exchanged meanwhile holds from then on.
pub trait TrustSource: std::fmt::Debug + Send + Sync + 'static {
    /// What holds now. May block, as reading a file does.
    fn trust(&self) -> Trust;
}

/// Always the same.
impl TrustSource for Trust {
    fn trust(&self) -> Trust {
        self.clone()
    }
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

/// Why a text is no PEM, in words that quote nothing of it: what stands on a wrong line may be a private key.
pub(crate) fn no_pem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "it is no PEM: a section has no line that ends it (-----END ...-----)",
        pem::Error::IllegalSectionStart { .. } => {
            "it is no PEM: there is more on a line that begins a section (-----BEGIN ...-----)"
        }
        pem::Error::Base64Decode(_) => "it is no PEM: a section is not base64",
        pem::Error::NoItemsFound => "it holds none in PEM",
        _ => "it is no PEM",
    }
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
            let certificate = certificate.map_err(|error| refuse(no_pem(&error).into()))?;
            roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(refuse("it holds no certificate in PEM (-----BEGIN CERTIFICATE-----)".into()));
        }
        Ok(Self { roots: Arc::new(roots), origin, certificate: None })
    }

    /// The same, with a certificate to show to brokers that ask for one.
    #[must_use]
    pub fn with_certificate(self, certificate: ClientCertificate) -> Self {
        Self { certificate: Some(certificate), ..self }
    }
}

/// The certificates that a listener asks clients for.
#[derive(Clone, Debug)]
pub struct ClientCheck {
    /// The CAs that they must come from.
    pub roots: Arc<RootCertStore>,
    /// Whether a client without one is refused. A wrong one always is.
    pub required: bool,
}

/// Why a client would not believe an identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unbelievable {
    /// It has expired, or is not valid yet.
    #[error("{0}")]
    Now(rustls::Error),
    /// Anything else.
    #[error("{0}")]
    Otherwise(String),
}

/// Whether a connector that trusts only this CA would believe a listener with this identity.
pub(crate) fn check(trust: &Trust, identity: &ServerIdentity) -> Result<(), String> {
    tcp_server(identity, None).map_err(|error| error.to_string())?;
    believed(&trust.roots, identity, "localhost").map_err(|error| error.to_string())
}

/// Whether a connector that trusts the identity's CA would believe a listener with it that it knows as `host`.
pub(crate) fn believable(identity: &ServerIdentity, host: &str) -> Result<(), Unbelievable> {
    let trust = Trust::from_pem(&identity.ca_pem, "");
    let trust = trust.map_err(|error| Unbelievable::Otherwise(error.detail))?;
    believed(&trust.roots, identity, host)
}

fn believed(roots: &Arc<RootCertStore>, identity: &ServerIdentity, host: &str) -> Result<(), Unbelievable> {
    let other = |error: &dyn std::fmt::Display| Unbelievable::Otherwise(error.to_string());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider());
    let verifier = verifier.build().map_err(|error| other(&error))?;
    let (certificate, others) = identity.chain.split_first().ok_or_else(|| other(&"it has no certificate"))?;
    let name = ServerName::try_from(host).map_err(|error| other(&error))?;
    let verified = verifier.verify_server_cert(certificate, others, &name, &[], UnixTime::now());
    verified.map(drop).map_err(|error| match error {
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => Unbelievable::Now(error),
        error => other(&error),
    })
}

/// ring, with the cheapest cipher on today's processors first.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// What a QUIC listener shows.
pub(crate) fn server(identity: &ServerIdentity, clients: Option<&ClientCheck>) -> Result<ServerConfig, ListenError> {
    let mut config = server_for(identity, clients, &[&TLS13])?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// What a TCP listener shows.
pub(crate) fn tcp_server(
    identity: &ServerIdentity,
    clients: Option<&ClientCheck>,
) -> Result<ServerConfig, ListenError> {
    server_for(identity, clients, &[&TLS13, &TLS12])
}

/// Early data stays off: a replayed request must not be possible. Sessions are not resumed either: what is agreed on holds for one
/// connection, so that nothing of it outlives a certificate.
fn server_for(
    identity: &ServerIdentity,
    clients: Option<&ClientCheck>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<ServerConfig, ListenError> {
    let refuse = |error: &dyn std::fmt::Display| ListenError::Tls(error.to_string());
    let verifier = match clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(ClientCheck { roots, required }) => {
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider());
            let builder = if *required { builder } else { builder.allow_unauthenticated() };
            builder.build().map_err(|error| refuse(&error))?
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| refuse(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|error| refuse(&error))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What a connector checks and shows; and whether it was asked to show something, once the handshake is done.
pub(crate) fn client(trust: &Trust, alpn: &[u8]) -> Result<(ClientConfig, Arc<Shown>), rustls::Error> {
    let certificate = trust.certificate.as_ref().map(certified).transpose()?.map(Arc::new);
    let shown = Arc::new(Shown { certificate, asked: AtomicBool::new(false) });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(Arc::clone(&trust.roots))
        .with_client_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesClientCert>);
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok((config, shown))
}

/// A client's certificate with its key, which must belong together.
pub(crate) fn certified(certificate: &ClientCertificate) -> Result<CertifiedKey, rustls::Error> {
    CertifiedKey::from_der(certificate.chain.clone(), certificate.key.clone_key(), &provider())
}

/// What a client shows when it is asked, and whether it was.
#[derive(Debug)]
pub(crate) struct Shown {
    certificate: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl Shown {
    pub(crate) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Release);
        self.certificate.clone()
    }

    fn has_certs(&self) -> bool {
        self.certificate.is_some()
    }
}
