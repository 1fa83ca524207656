//! How a client finds, believes and talks to its brokers.

use std::{path::PathBuf, time::Duration};

use millstream_transport::Limits;

/// Whose certificates are believed. A profile is read again for each connection.
#[derive(Clone, Debug, Default)]
pub enum Security {
    /// The CA in the user's client profile: `$MILLSTREAM_PROFILE`, else the user's configuration directory.
    #[default]
    Profile,
    /// The CA in this profile.
    ProfileFile(PathBuf),
    /// These CA certificates, in PEM.
    Ca(String),
}

/// What a client proves itself with to brokers that ask for it: files in PEM. They are read for each connection, so that
/// they may be exchanged while the client runs; what cannot be read then is as it was before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The client's certificate, and behind it those that lead to its CA.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Bounds of a client's connections over QUIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportOptions {
    /// How long one address of a host is tried.
    pub connect_timeout: Duration,
    /// A connection ends when nothing was heard for so long. Both ends state theirs; the shorter one holds.
    pub idle_timeout: Duration,
    /// How often the client says that it is still there.
    pub keep_alive: Duration,
    /// Bytes that may be under way to the client on one stream.
    pub stream_window_bytes: u32,
    /// Bytes that may be under way to the client on one connection.
    pub connection_window_bytes: u32,
    /// Bytes that the client holds until the broker has acknowledged them, per connection.
    pub send_window_bytes: u64,
}

impl Default for TransportOptions {
    fn default() -> Self {
        let Limits { connect_timeout, idle_timeout, keep_alive, .. } = Limits::default();
        let Limits { stream_window_bytes, connection_window_bytes, send_window_bytes, .. } = Limits::default();
        Self {
            connect_timeout,
            idle_timeout,
            keep_alive,
            stream_window_bytes,
            connection_window_bytes,
            send_window_bytes,
        }
    }
}

impl From<&TransportOptions> for Limits {
    fn from(options: &TransportOptions) -> Self {
        Self {
            connect_timeout: options.connect_timeout,
            idle_timeout: options.idle_timeout,
            keep_alive: options.keep_alive,
            stream_window_bytes: options.stream_window_bytes,
            connection_window_bytes: options.connection_window_bytes,
            send_window_bytes: options.send_window_bytes,
            ..Self::default()
        }
    }
}

/// How a client finds, believes and talks to its brokers. `ClientOptions::default()` asks the user's profile for everything.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Where to ask first, `HOST:PORT` each; empty is "where the profile says".
    pub brokers: Vec<String>,
    /// Whose certificates are believed.
    pub security: Security,
    /// What is shown to brokers that ask for a certificate; none is "what the profile says", if anything.
    pub certificate: Option<CertificateFiles>,
    /// The client's name for itself, shown by brokers.
    pub client_id: String,
    /// How long one request may take, from the search for a connection to its answer. What only reads is repeated within this time when a
    /// connection ends.
    pub request_timeout: Duration,
    /// First pause before trying again; doubles up to [`ClientOptions::backoff_max`].
    pub backoff_min: Duration,
    /// Longest pause before trying again.
    pub backoff_max: Duration,
    /// How long what was heard of a topic's partitions is believed. Consumers of all partitions, and producers, look for new ones as
    /// often.
    pub metadata_max_age: Duration,
    /// Streams per broker that produce requests are spread over, 1 to 32. A partition always uses the same one.
    pub produce_streams: usize,
    /// The connections' bounds.
    pub transport: TransportOptions,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            brokers: Vec::new(),
            security: Security::default(),
            certificate: None,
            client_id: "millstream".into(),
            request_timeout: Duration::from_secs(30),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            metadata_max_age: Duration::from_secs(30),
            produce_streams: 16,
            transport: TransportOptions::default(),
        }
    }
}
