//! Record batch v2: view, builder, iterator, CRC-32C and compression.
//!
//! A batch is Kafka's RecordBatch of magic 2, big-endian, the same bytes from the producer to the disk to the consumer:
//!
//! ```text
//!  0 i64 base offset            <- patched by the leader        } before the CRC
//!  8 i32 length of what follows                                 }
//! 12 i32 partition leader epoch <- patched by the leader        }
//! 16 i8  magic = 2                                              }
//! 17 u32 CRC-32C of all from here on
//! 21 i16 attributes: bits 0-2 codec, 3 log append time, 4 transactional, 5 control
//! 23 i32 last offset delta     27 i64 base timestamp     35 i64 max timestamp
//! 43 i64 producer id           51 i16 producer epoch     53 i32 base sequence
//! 57 i32 number of records
//! 61 the record section, compressed as one piece where the codec says so:
//!      varint length, i8 attributes, varlong timestamp delta, varint offset delta,
//!      varint key length (-1: null) key, varint value length (-1: null) value,
//!      varint number of headers, each: varint key length, key, varint value length (-1: null), value
//! ```
//!
//! - [`Batch`] is one encoded batch; [`batches`] walks over several.
//! - [`Record`] is one decoded record, its parts slices of the batch.
//! - [`BatchBuilder`] makes batches.
//! - [`RoutingMarker`] is what a partition holds between two routing epochs of its topic.
//! - [`raw`] reads and writes encoded records, for callers that move records without decoding them.
//! - [`frame`] is the header of the frames in which records cross to Wasm modules.
//! - [`compression`] unpacks with a bound, so that no batch costs more memory than its reader allows.
//!
//! Bytes are never believed: every length and count is checked against the bytes that remain before anything is allocated.

mod batch;
mod builder;
pub mod compression;
mod crc;
mod error;
pub mod frame;
mod header;
mod marker;
pub mod raw;
mod record;
#[cfg(test)]
mod tests;
pub mod varint;

pub use batch::{Batch, Batches, batches};
pub use builder::{BatchBuilder, BatchOptions, BuildError};
pub use compression::Compression;
pub use crc::{Crc32c, crc32c};
pub use error::{BatchError, RecordError};
pub use header::{
    Attributes, BatchHeader, HEADER_BYTES, MAGIC, PATCH_BYTES, PREFIX_BYTES, count_records, patch, set_log_append_time,
    set_producer,
};
pub use marker::RoutingMarker;
pub use record::{Header, Headers, Record, Records};
