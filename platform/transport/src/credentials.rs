//! What a listener shows to clients and asks them for, on QUIC and TCP alike; replaced while it listens.

use std::{sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use quinn::{EndpointConfig, crypto::rustls::QuicServerConfig};

use crate::{ClientCheck, ListenError, ServerIdentity, reset, tls};

/// What a listener shows and asks for. Cloning shares it: what is replaced is replaced for all clones.
#[derive(Clone)]
pub struct Credentials {
    current: Arc<ArcSwap<Configs>>,
    /// Of the first identity: connections outlive a certificate.
    endpoint: EndpointConfig,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

struct Configs {
    quic: Arc<QuicServerConfig>,
    tcp: Arc<rustls::ServerConfig>,
    ends: Option<SystemTime>,
}

impl Credentials {
    /// `clients`: the certificates that clients are asked for; none: they are not asked.
    ///
    /// # Errors
    /// [`ListenError::Tls`]: the identity's key does not belong to its certificate, or the clients' CAs are of no use.
    pub fn new(identity: &ServerIdentity, clients: Option<&ClientCheck>) -> Result<Self, ListenError> {
        let current = ArcSwap::from_pointee(Configs::new(identity, clients)?);
        Ok(Self { current: Arc::new(current), endpoint: reset::endpoint_config(identity)? })
    }

    /// Shows and asks for something else from the next handshake on. Those under way, and connections that stand, go on.
    ///
    /// # Errors
    /// As [`Credentials::new`]; nothing has changed then.
    pub fn replace(&self, identity: &ServerIdentity, clients: Option<&ClientCheck>) -> Result<(), ListenError> {
        self.current.store(Arc::new(Configs::new(identity, clients)?));
        Ok(())
    }

    /// When the certificate ends that is shown now; none where that cannot be told.
    #[must_use]
    pub fn not_after(&self) -> Option<SystemTime> {
        self.current.load().ends
    }

    pub(crate) fn endpoint(&self) -> EndpointConfig {
        self.endpoint.clone()
    }

    pub(crate) fn quic(&self) -> Arc<QuicServerConfig> {
        Arc::clone(&self.current.load().quic)
    }

    pub(crate) fn tcp(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.current.load().tcp)
    }
}

impl Configs {
    fn new(identity: &ServerIdentity, clients: Option<&ClientCheck>) -> Result<Self, ListenError> {
        let quic = QuicServerConfig::try_from(tls::server(identity, clients)?);
        let quic = quic.map_err(|error| ListenError::Tls(error.to_string()))?;
        let tcp = Arc::new(tls::tcp_server(identity, clients)?);
        Ok(Self { quic: Arc::new(quic), tcp, ends: identity.not_after() })
    }
}
