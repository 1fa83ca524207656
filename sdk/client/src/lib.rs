//! The client over QUIC: producer, consumer, admin.
