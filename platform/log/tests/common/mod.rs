//! What the tests of the log share: batches to append, and what a log must then hold.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod bench;
pub(crate) mod meddling;

use std::sync::Arc;

use bytes::Bytes;
use millstream_log::{LogId, PartitionLog, StorageOptions};
use millstream_model::{LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TimestampMs, TopicId};
use millstream_record::{BatchBuilder, BatchOptions, batches, patch};
use uuid::Uuid;

/// A small storage: journal files fill up and are recycled within a few hundred kilobytes.
pub(crate) fn options(dir: &std::path::Path) -> StorageOptions {
    StorageOptions {
        journal_file_bytes: 64 << 10,
        journal_bytes_max: 192 << 10,
        queue_bytes_max: 128 << 10,
        group_bytes_max: 16 << 10,
        open_segments_max: 4,
        ballast_bytes: 128 << 10,
        reserve_bytes: 16 << 10,
        tail_bytes_max: 24 << 10,
        ..StorageOptions::new(dir)
    }
}

/// A log's id.
pub(crate) fn log_id(partition: i32) -> LogId {
    LogId::records(TopicId(Uuid::from_u128(0xf11)), PartitionId(partition))
}

/// A batch as a producer sends it: `count` records with timestamps from `time` on, `bytes` bytes of value each.
pub(crate) fn batch(count: usize, bytes: usize, time: i64) -> Bytes {
    batch_of(BatchOptions::default(), count, bytes, time)
}

/// An idempotent producer's.
pub(crate) fn sequenced(id: i64, epoch: i16, first: i32, count: usize, bytes: usize, time: i64) -> Bytes {
    let options = BatchOptions {
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: Sequence(first),
        ..BatchOptions::default()
    };
    batch_of(options, count, bytes, time)
}

fn batch_of(options: BatchOptions, count: usize, bytes: usize, time: i64) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    for at in 0..count {
        let value: Vec<u8> = (0..bytes).map(|i| (i as u8).wrapping_mul(31) ^ (time as u8)).collect();
        let key = format!("{time}-{at}");
        builder.push(TimestampMs(time + at as i64), Some(key.as_bytes()), Some(&value), &[]).unwrap();
    }
    builder.build().unwrap()
}

/// The same batch as it must be on disk.
pub(crate) fn stored(batch: &Bytes, base: Offset, epoch: LeaderEpoch) -> Bytes {
    let mut bytes = batch.to_vec();
    patch(&mut bytes, base, epoch).unwrap();
    bytes.into()
}

/// All of a log below `end`, batch by batch; the first may begin before the log's start.
pub(crate) fn read_all(log: &Arc<PartitionLog>, end: Offset, bytes_max: usize) -> Vec<Bytes> {
    let mut from = log.start_offset();
    let mut found = Vec::new();
    while from < end {
        let read = log.read(from, end, bytes_max);
        let read = read.unwrap_or_else(|error| panic!("AcknowledgedIsRead: {log:?} at {from}: {error}"));
        assert!(read.next > from, "a read at {from} below {end} makes progress");
        for batch in batches(read.batches) {
            let batch = batch.unwrap();
            batch.verify_crc().unwrap();
            let (base, end) = (batch.header().base_offset, batch.header().end_offset());
            assert!(base == from || (found.is_empty() && base < from && end > from), "{base}..{end} at {from}");
            from = batch.header().end_offset();
            found.push(batch.into_bytes());
        }
        assert_eq!(read.next, from);
    }
    found
}
