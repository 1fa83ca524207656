//! One log: append, read and what is asked about it.

use bytes::Bytes;
use millstream_model::{LeaderEpoch, Offset, TimestampMs};
use tokio::sync::watch;

use crate::{AppendError, LogId, ReadError, Ticket};

/// One open log of a partition. Shared by reference; every method may be called from any thread, and none waits for a sync.
pub struct PartitionLog {}

/// What an append was given.
#[derive(Debug)]
#[must_use = "an append is durable only once its ticket resolves"]
pub struct Appended {
    /// The offset of the first record.
    pub base_offset: Offset,
    /// The offset of the last record.
    pub last_offset: Offset,
    /// Resolves when all of it is durable.
    pub ticket: Ticket,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Whole batches, one after the other, as they are on disk. The first may begin before the offset asked for. Empty
    /// when there is nothing below the bound yet.
    pub batches: Bytes,
    /// Where to read on.
    pub next: Offset,
}

impl PartitionLog {
    /// Which log this is.
    #[must_use]
    pub fn id(&self) -> LogId {
        todo!()
    }

    /// Appends one batch: gives it the next offsets, sets its base offset and leader epoch (both lie before its CRC; nothing
    /// else is touched), and queues it for the journal. Does not wait for the disk: it writes to the page cache only.
    ///
    /// `batch`: one whole batch of version 2 that the caller has validated, its CRC above all: recovery takes a batch
    /// whose CRC is wrong for one that was never written.
    ///
    /// Durable only once the returned ticket resolves. Offsets are dense; none is reused unless recovery cut it off.
    /// Appends of one log become durable in order.
    ///
    /// # Errors
    /// [`AppendError`]; the log is unchanged.
    pub fn append(&self, batch: Bytes, leader_epoch: LeaderEpoch) -> Result<Appended, AppendError> {
        self.append_many(vec![batch], leader_epoch)
    }

    /// Appends several batches as one step: their offsets follow each other and one ticket stands for all. (A crash before
    /// the ticket resolves may keep the first ones only.)
    ///
    /// # Errors
    /// [`AppendError`]; the log is unchanged.
    pub fn append_many(&self, batches: Vec<Bytes>, leader_epoch: LeaderEpoch) -> Result<Appended, AppendError> {
        let _ = (batches, leader_epoch);
        todo!()
    }

    /// Notes that a leader's term begins at the log's end; journaled. The leader calls it before its first append.
    /// The current epoch again is no change.
    ///
    /// # Errors
    /// [`AppendError::StaleEpoch`] and those of a storage that takes no appends.
    pub fn start_epoch(&self, epoch: LeaderEpoch) -> Result<Ticket, AppendError> {
        let _ = epoch;
        todo!()
    }

    /// Reads whole batches, the one that holds `from` first, up to but not including offset `end` (the high watermark for
    /// consumers), about `bytes_max` bytes of them but always at least one if there is one.
    ///
    /// Blocks on the page cache or the disk. A `from` at or past `end`, but not past the log's end, reads nothing.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&self, from: Offset, end: Offset, bytes_max: usize) -> Result<Read, ReadError> {
        let _ = (from, end, bytes_max);
        todo!()
    }

    /// The first offset that can be read.
    #[must_use]
    pub fn start_offset(&self) -> Offset {
        todo!()
    }

    /// The offset that the next record gets.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        todo!()
    }

    /// The end of what is durable on this disk: what the high watermark counts under `fsync`.
    #[must_use]
    pub fn flushed_end(&self) -> Offset {
        todo!()
    }

    /// Follows [`PartitionLog::flushed_end`].
    #[must_use]
    pub fn subscribe_flushed(&self) -> watch::Receiver<Offset> {
        todo!()
    }

    /// The first record with a timestamp at or after `target`: its offset and its timestamp. None if there is none. Where a
    /// batch is compressed in a way that cannot be looked into, its base offset and greatest timestamp stand for it.
    ///
    /// Scans batch headers; blocks on the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn offset_for_timestamp(&self, target: TimestampMs) -> Result<Option<(Offset, TimestampMs)>, ReadError> {
        let _ = target;
        todo!()
    }

    /// What the log's batches take on disk, bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        todo!()
    }

    /// The newest epoch that has started; none in an empty log that no leader has opened.
    #[must_use]
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        todo!()
    }

    /// Where an epoch ends (KIP-279): the greatest epoch at or below the one asked for and the offset at which the next one
    /// starts, or the log's end. None if the log knows no epoch that old.
    #[must_use]
    pub fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let _ = epoch;
        todo!()
    }
}
