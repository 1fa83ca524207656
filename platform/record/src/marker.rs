//! The marker with which a partition passes from one routing epoch of its topic to the next: a control batch of this broker's own.
//!
//! A control batch has Kafka's form: one record, whose key is a version and a type, and whose value is the type's. Kafka's types go from 0
//! up (the ends of transactions, its own metadata); its clients skip batches with the control bit, and read types, if at all, only to find
//! the ends of transactions. All numbers are big endian.
//!
//! ```text
//! key    version i16 = 0, type i16 = 20000
//! value  version i16 = 0, routing epoch i32 (the one that begins), partitions i32 (that the topic has in it)
//! ```
//!
//! What is appended to the partition behind it by a client that names its routing epoch was placed in that epoch or a later one. There may be
//! more than one marker of an epoch in a partition: the first one counts.
//!
//! It has no timestamp (-1), so that it is neither found by time nor keeps a segment from expiring. It names no producer.

use bytes::{Buf, BufMut, Bytes};
use millstream_model::{RoutingEpoch, TimestampMs};

use crate::{Batch, BatchBuilder, BatchOptions, BuildError};

/// The control record's type. Kafka's own are small numbers; ours begin where its api keys and error codes of ours do.
const TYPE: i16 = 20_000;
const VERSION: i16 = 0;
/// A marker's record takes less.
const SECTION_BYTES_MAX: usize = 1 << 10;

/// What a marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutingMarker {
    /// The epoch that begins.
    pub epoch: RoutingEpoch,
    /// How many partitions the topic has in it.
    pub partitions: i32,
}

impl RoutingMarker {
    /// The marker as a batch to be appended.
    ///
    /// # Errors
    /// None that can be: a batch has room for it.
    pub fn to_batch(self) -> Result<Bytes, BuildError> {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        key.put_i16(VERSION);
        key.put_i16(TYPE);
        value.put_i16(VERSION);
        value.put_i32(self.epoch.0);
        value.put_i32(self.partitions);
        let mut builder = BatchBuilder::new(BatchOptions { control: true, ..BatchOptions::default() });
        builder.push(TimestampMs(-1), Some(&key), Some(&value), &[])?;
        builder.build()
    }

    /// What the batch says, if it is such a marker. Later versions may say more behind what is known here.
    #[must_use]
    pub fn of(batch: &Batch) -> Option<Self> {
        if !batch.header().attributes.is_control() {
            return None;
        }
        let record = batch.records(SECTION_BYTES_MAX).ok()?.next()?.ok()?;
        let (mut key, mut value) = (record.key?, record.value?);
        let is_ours = key.try_get_i16().is_ok() && key.try_get_i16() == Ok(TYPE);
        if !is_ours || value.try_get_i16().is_err() {
            return None;
        }
        Some(Self { epoch: RoutingEpoch(value.try_get_i32().ok()?), partitions: value.try_get_i32().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attributes, Compression};

    #[test]
    fn a_marker_is_a_control_batch_of_these_bytes_and_is_known_again() {
        let marker = RoutingMarker { epoch: RoutingEpoch(3), partitions: 7 };
        let batch = Batch::parse_one(marker.to_batch().unwrap()).unwrap();
        batch.verify_crc().unwrap();
        let header = batch.header();
        assert_eq!(header.attributes, Attributes(Attributes::CONTROL));
        assert_eq!((header.count, header.max_timestamp, header.has_producer_id()), (1, TimestampMs(-1), false));
        // Length, attributes, deltas of time and offset; key of 4 bytes, value of 10, no headers.
        let section = b"\x28\0\0\0\x08\0\0\x4e\x20\x14\0\0\0\0\0\x03\0\0\0\x07\0";
        assert_eq!(batch.section(100).unwrap(), section.as_slice());
        assert_eq!(RoutingMarker::of(&batch), Some(marker));
    }

    #[test]
    fn other_batches_are_no_markers() {
        let batch = |control, key: Option<&[u8]>, value: Option<&[u8]>| {
            let mut builder = BatchBuilder::new(BatchOptions { control, ..BatchOptions::default() });
            builder.push(TimestampMs(-1), key, value, &[]).unwrap();
            RoutingMarker::of(&Batch::parse_one(builder.build().unwrap()).unwrap())
        };
        let (key, value) = (b"\0\0\x4e\x20", b"\0\0\0\0\0\x03\0\0\0\x07");
        assert_eq!(batch(false, Some(key), Some(value)), None, "what a client has sent");
        assert!(batch(true, Some(key), Some(value)).is_some());
        assert!(batch(true, Some(key), Some(b"\0\x01\0\0\0\x03\0\0\0\x07and more")).is_some());
        for (key, value) in [
            (Some(&b"\0\0\0\x01"[..]), Some(&value[..])),
            (Some(b"\0\0\x4e"), Some(value)),
            (None, Some(value)),
            (Some(key), None),
            (Some(key), Some(&value[..9])),
        ] {
            assert_eq!(batch(true, key, value), None);
        }
        let mut empty = BatchBuilder::new(BatchOptions {
            control: true,
            compression: Compression::None,
            ..BatchOptions::default()
        });
        empty.cover(5).unwrap();
        assert_eq!(RoutingMarker::of(&Batch::parse_one(empty.build().unwrap()).unwrap()), None, "a view's");
    }
}
