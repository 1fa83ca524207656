//! How far a transform has read an input partition, kept in a stream beside the partition's records.
//!
//! Each entry is a batch of one record, key `next`, value JSON `{"version":1,"next":OFFSET}`; the last one counts.

use std::sync::Arc;

use millstream_log::{LogId, LogOptions, PartitionLog, Stream};
use millstream_model::{Durability, Offset, TimestampMs, TransformId};
use millstream_record::{Batch, BatchBuilder, BatchOptions};
use serde::{Deserialize, Serialize};

use crate::{partition::Partition, shared::Shared};

const VERSION: u32 = 1;
/// Progress is a few bytes an entry: small segments, so that old ones can go.
const SEGMENT_BYTES: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Entry {
    version: u32,
    next: i64,
}

/// The stream of one transform and input partition.
pub(super) struct Progress {
    log: Arc<PartitionLog>,
    partition: Arc<Partition>,
}

impl Progress {
    pub(super) fn open(shared: &Shared, transform: TransformId, partition: Arc<Partition>) -> Result<Self, String> {
        let (topic, index) = (partition.id.topic, partition.id.partition);
        let id = LogId { stream: Stream::Progress(transform), ..LogId::records(topic, index) };
        let options = LogOptions { segment_bytes: SEGMENT_BYTES, durability: Durability::Fsync };
        let log = shared.storage.open_log(id, options).map_err(|error| error.to_string())?;
        drop(log.start_epoch(partition.epoch).map_err(|error| error.to_string())?);
        Ok(Self { log, partition })
    }

    /// The first offset that is not done; none if nothing was ever stored.
    pub(super) fn load(&self) -> Result<Option<Offset>, String> {
        let end = self.log.end_offset();
        if end == self.log.start_offset() {
            return Ok(None);
        }
        let read = self.log.read(Offset(end.0 - 1), end, 1).map_err(|error| error.to_string())?;
        let batch = Batch::parse_one(read.batches).map_err(|error| error.to_string())?;
        let mut records = batch.records(1 << 10).map_err(|error| error.to_string())?;
        let record = records.next().ok_or("an entry without a record")?.map_err(|error| error.to_string())?;
        let entry: Entry =
            serde_json::from_slice(record.value.as_deref().unwrap_or_default()).map_err(|error| error.to_string())?;
        if entry.version != VERSION {
            return Err(format!("version {} was written by a newer millstream: run that", entry.version));
        }
        Ok(Some(Offset(entry.next)))
    }

    /// Stores that everything below `next` is done. Not waited for: losing the last entries repeats a few records.
    pub(super) fn store(&self, next: Offset, now: TimestampMs) -> Result<(), String> {
        let value = serde_json::to_vec(&Entry { version: VERSION, next: next.0 }).map_err(|error| error.to_string())?;
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(now, Some(b"next"), Some(&value), &[]).map_err(|error| error.to_string())?;
        let batch = builder.build().map_err(|error| error.to_string())?;
        drop(self.log.append(batch, self.partition.epoch).map_err(|error| error.to_string())?.ticket);
        Ok(())
    }
}
