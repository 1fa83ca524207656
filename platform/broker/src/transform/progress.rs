//! How far a transform has read an input partition, kept in a stream beside the partition's records.
//!
//! Each entry is a batch of one record, key `next`, value JSON `{"version":1,"next":OFFSET}`; the last one counts. Older ones
//! stay (nothing moves this log's start yet): about 110 bytes for each commit of outputs.

use std::sync::Arc;

use millstream_log::{LogId, LogOptions, PartitionLog, Storage, Stream, Ticket};
use millstream_model::{Durability, Offset, TimestampMs, TransformId};
use millstream_record::{Batch, BatchBuilder, BatchOptions};
use serde::{Deserialize, Serialize};

use super::error::ProgressError;
use crate::partition::Partition;

const VERSION: u32 = 1;
/// Progress is a few bytes an entry: the stream of an idle transform should not take a topic's segment.
const SEGMENT_BYTES: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Entry {
    version: u32,
    next: i64,
}

/// Has a transform begin at the start of a partition that its input has got since, unless it has begun there already. The ticket
/// resolves once that is on disk: who appends to the partition waits for it, so that no record is there before.
pub(crate) fn begin(
    storage: &Storage,
    made_by: u64,
    transform: TransformId,
    partition: &Arc<Partition>,
    now: TimestampMs,
) -> Result<Option<Ticket>, ProgressError> {
    let progress = Progress::open(storage, made_by, transform, partition.clone())?;
    match progress.load()? {
        Some(_) => Ok(None),
        None => progress.store(partition.log.start_offset(), now).map(Some),
    }
}

/// The stream of one transform and input partition.
pub(super) struct Progress {
    log: Arc<PartitionLog>,
    partition: Arc<Partition>,
}

impl Progress {
    /// `made_by`: the catalog's entry that it is made by, if it is not there yet.
    pub(super) fn open(
        storage: &Storage,
        made_by: u64,
        transform: TransformId,
        partition: Arc<Partition>,
    ) -> Result<Self, ProgressError> {
        let (topic, index) = (partition.id.topic, partition.id.partition);
        let id = LogId { stream: Stream::Progress(transform), ..LogId::records(topic, index) };
        let options = LogOptions {
            segment_bytes: SEGMENT_BYTES,
            durability: Durability::Fsync,
            made_by,
            ..LogOptions::default()
        };
        let log = storage.open_log(id, options)?;
        drop(log.start_epoch(partition.epoch)?);
        Ok(Self { log, partition })
    }

    /// The first offset that is not done; none if nothing was ever stored.
    pub(super) fn load(&self) -> Result<Option<Offset>, ProgressError> {
        let end = self.log.end_offset();
        if end == self.log.start_offset() {
            return Ok(None);
        }
        let read = self.log.read(Offset(end.0 - 1), end, 1)?;
        let batch = Batch::parse_one(read.batches)?;
        let record = batch.records(1 << 10)?.next().ok_or(ProgressError::Empty)??;
        let entry: Entry = serde_json::from_slice(record.value.as_deref().unwrap_or_default())?;
        if entry.version != VERSION {
            return Err(ProgressError::Newer(entry.version));
        }
        Ok(Some(Offset(entry.next)))
    }

    /// Stores that everything below `next` is done. The ticket resolves once that is on disk; it need not be waited for:
    /// losing the last entries repeats a few records.
    pub(super) fn store(&self, next: Offset, now: TimestampMs) -> Result<Ticket, ProgressError> {
        let value = serde_json::to_vec(&Entry { version: VERSION, next: next.0 })?;
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(now, Some(b"next"), Some(&value), &[])?;
        Ok(self.log.append(builder.build()?, self.partition.epoch)?.ticket)
    }
}
