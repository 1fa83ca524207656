//! One batch after another, without the records that are not kept.

use bytes::Bytes;
use millstream_model::{Offset, ProducerEpoch, ProducerId, Sequence};
use millstream_record::{
    Batch, BatchBuilder, BatchError, BatchHeader, BatchOptions, BuildError, HEADER_BYTES, raw, set_log_append_time,
};

/// How far a compressed batch is unpacked, bytes.
const UNPACKED_BYTES_MAX: usize = 4 * millstream_model::limits::BATCH_BYTES_MAX;

/// A record as the choice sees it.
pub(super) struct Candidate<'a> {
    pub(super) offset: Offset,
    pub(super) key: Option<&'a [u8]>,
    pub(super) is_tombstone: bool,
}

/// What is left of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// All of it.
    Whole,
    /// These records: the batch with the same offsets, and so many records fewer.
    Some(Bytes),
    /// No record.
    Nothing,
}

/// Why a batch could not be looked into.
#[derive(Debug, thiserror::Error)]
pub(super) enum RewriteError {
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// Calls `look` with each of the batch's records.
pub(super) fn look(batch: &Batch, mut look: impl FnMut(Candidate<'_>)) -> Result<(), RewriteError> {
    let section = batch.section(UNPACKED_BYTES_MAX)?;
    for (index, record) in (0..).zip(raw::records(&section)) {
        let record = record.map_err(|source| BatchError::Record { index, source })?;
        look(candidate(batch.header(), &record));
    }
    Ok(())
}

/// Leaves of a batch the records that `keep` says, each at its offset. The batch covers the same offsets as before.
pub(super) fn rewrite(batch: &Batch, mut keep: impl FnMut(Candidate<'_>) -> bool) -> Result<Left, RewriteError> {
    let header = batch.header();
    let section = batch.section(UNPACKED_BYTES_MAX)?;
    let mut builder = BatchBuilder::with_capacity(BatchOptions::like(header)?, section.len());
    let mut records = 0;
    for (index, record) in (0..).zip(raw::records(&section)) {
        let record = record.map_err(|source| BatchError::Record { index, source })?;
        records += 1;
        if keep(candidate(header, &record)) {
            // In range: it was checked when the batch was appended.
            let time = header.base_timestamp.0.wrapping_add(record.timestamp_delta);
            builder.push_raw(record.offset_delta, millstream_model::TimestampMs(time), &record)?;
        }
    }
    if builder.is_empty() {
        return Ok(Left::Nothing);
    }
    if builder.len() == records {
        return Ok(Left::Whole);
    }
    builder.cover(header.last_offset_delta)?;
    let bytes = builder.build()?;
    match header.attributes.is_log_append_time() {
        true => {
            let mut bytes = bytes.to_vec();
            set_log_append_time(&mut bytes, header.max_timestamp)?;
            Ok(Left::Some(bytes.into()))
        }
        false => Ok(Left::Some(bytes)),
    }
}

fn candidate<'a>(header: &BatchHeader, record: &raw::RawRecord<'a>) -> Candidate<'a> {
    Candidate {
        offset: header.base_offset.plus(record.offset_delta.into()),
        key: record.key,
        is_tombstone: record.value.is_none(),
    }
}

/// Offsets that hold no record any more, as a batch of none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    header: BatchHeader,
}

impl Gap {
    /// In place of a batch. `remembered`: it is among what its producer is known by, and says so still.
    pub(super) fn of(header: &BatchHeader, remembered: bool) -> Self {
        let mut header = *header;
        if !remembered {
            (header.producer_id, header.producer_epoch) = (ProducerId::NONE, ProducerEpoch(-1));
            header.base_sequence = Sequence(-1);
        }
        Self { header }
    }

    /// Takes in the gap that follows, where one batch can say both. Whether it did.
    pub(super) fn take_in(&mut self, next: &Self) -> bool {
        let delta = next.header.end_offset().0 - 1 - self.header.base_offset.0;
        let alike = self.header.partition_leader_epoch == next.header.partition_leader_epoch
            && !self.header.has_producer_id()
            && !next.header.has_producer_id();
        match i32::try_from(delta) {
            Ok(delta) if alike => {
                self.header.last_offset_delta = delta;
                true
            }
            _ => false,
        }
    }

    /// The batch: a header alone.
    pub(super) fn encode(&self) -> Result<Bytes, BuildError> {
        let header = &self.header;
        let mut builder = BatchBuilder::new(BatchOptions {
            base_offset: header.base_offset,
            partition_leader_epoch: header.partition_leader_epoch,
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            ..BatchOptions::default()
        });
        builder.cover(header.last_offset_delta)?;
        let bytes = builder.build()?;
        assert!(bytes.len() == HEADER_BYTES, "a batch without records is a header");
        Ok(bytes)
    }
}
