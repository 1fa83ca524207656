//! QUIC and TCP: listeners, connectors, framing and TLS identities.
