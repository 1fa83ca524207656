//! Bounds that more than one crate relies on, and how they relate to each other.

/// Largest encoded record batch that any topic may accept, bytes (`max.message.bytes` is at most this).
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// Default of `max.message.bytes`: Kafka's (1 MiB and the batch header's 12 bytes).
pub const BATCH_BYTES_DEFAULT: usize = (1 << 20) + 12;
/// Largest request or response frame on any transport, bytes after the length prefix (Kafka's `socket.request.max.bytes`).
pub const FRAME_BYTES_MAX: usize = 100 << 20;
/// Latest timestamp that clients and modules may give a record, milliseconds since 1970-01-01 UTC: the end of the year
/// 9999. Beyond it lie only mistakes, and one such record would keep a segment from ever expiring. The earliest is -1,
/// which stands for none.
pub const TIMESTAMP_MS_MAX: i64 = 253_402_300_799_999;
/// Most partitions of one topic.
pub const PARTITIONS_MAX: i32 = 10_000;
/// Longest topic name, bytes (Kafka's).
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// Longest name of a module, view or transform, bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Largest module that may be uploaded, bytes.
pub const MODULE_BYTES_MAX: usize = 32 << 20;
/// Largest total of a deployment's parameters, bytes of names and values.
pub const PARAMS_BYTES_MAX: usize = 64 << 10;

// A pushed module travels in one frame; a batch travels in one frame.
const _: () = assert!(MODULE_BYTES_MAX + (1 << 20) <= FRAME_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX + (1 << 20) <= FRAME_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_DEFAULT <= BATCH_BYTES_MAX);
