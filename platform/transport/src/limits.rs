//! Bounds on what a peer may make us hold, and how long it may take.

use std::time::Duration;

use millstream_env::{Budget, Buffers};
use millstream_model::limits::FRAME_BYTES_MAX;

/// Bounds of a listener and of the connections that it, or a connector, makes. The defaults are those measured to reach
/// the ceiling on one machine, and are kept on real networks except for the packet size (see `quic`).
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections that stand at the same time, per listener. More are refused.
    pub connections_max: usize,
    /// Of those, connections from one address (of IPv6: one network of 64 bits).
    pub connections_per_address_max: usize,
    /// Handshakes under way at the same time, per listener, of which one address may have a quarter. More are refused.
    pub handshakes_max: usize,
    /// From this many handshakes under way, a QUIC client must first prove its address (Retry).
    pub retry_above: usize,
    /// Bidirectional streams that a client may have open on one QUIC connection.
    pub streams_max: u32,
    /// Bytes that may be under way to us on one QUIC stream.
    pub stream_window_bytes: u32,
    /// Bytes that may be under way to us on one QUIC connection. The connections of a listener have a part of
    /// [`Limits::budget`] together: many of them have less each.
    pub connection_window_bytes: u32,
    /// Bytes that we hold until the peer has acknowledged them, per QUIC connection.
    pub send_window_bytes: u64,
    /// Largest frame, bytes after the length.
    pub frame_bytes_max: usize,
    /// Bytes of large frames being put together at the same time, per connection; at least one frame always may.
    pub assembly_bytes_max: usize,
    /// What large frames that are being put together, and those that are being worked on, share with whoever else is given
    /// it. A large frame waits for its share before it is read; one that a single read holds (32 KiB) needs none.
    pub budget: Budget,
    /// Where large frames are put together.
    pub buffers: Buffers,
    /// How long a handshake may take before the connection is given up by a listener.
    pub handshake_timeout: Duration,
    /// How long a connector tries one address of a host.
    pub connect_timeout: Duration,
    /// A QUIC connection ends when nothing was heard for so long. Both ends state theirs; the shorter one holds.
    pub idle_timeout: Duration,
    /// How often the side that connected says that it is still there.
    pub keep_alive: Duration,
    /// A TCP connection to a listener ends when nothing went either way for so long (Kafka's
    /// `connections.max.idle.ms`).
    pub tcp_idle_timeout: Duration,
    /// How long nothing may come of a frame that has begun. What comes buys more time, by [`Limits::frame_rate_min`], up to
    /// this much again.
    pub frame_timeout: Duration,
    /// Slowest rate at which a frame may arrive, bytes a second.
    pub frame_rate_min: u64,
    /// How long a peer of a listener may take nothing of what is written to it. What it takes buys more time, by
    /// [`Limits::write_rate_min`], up to this much again. On QUIC, where what was taken must be acknowledged too, it may be left
    /// unacknowledged for twice as long.
    pub write_timeout: Duration,
    /// Slowest rate at which a peer of a listener must read what is written to it, bytes a second.
    pub write_rate_min: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            connections_per_address_max: 1024,
            handshakes_max: 256,
            retry_above: 32,
            streams_max: 64,
            stream_window_bytes: 2 << 20,
            connection_window_bytes: 16 << 20,
            send_window_bytes: 16 << 20,
            frame_bytes_max: FRAME_BYTES_MAX,
            assembly_bytes_max: FRAME_BYTES_MAX + (28 << 20),
            budget: Budget::unlimited(),
            buffers: Buffers::default(),
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(10),
            tcp_idle_timeout: Duration::from_secs(600),
            frame_timeout: Duration::from_secs(30),
            frame_rate_min: 64 << 10,
            write_timeout: Duration::from_secs(30),
            write_rate_min: 16 << 10,
        }
    }
}
