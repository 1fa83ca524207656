//! The 61 bytes before a batch's records: parsing, writing, and the patch that a leader makes.

use bytes::{Buf, BufMut};
use millstream_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

use crate::{BatchError, Compression, crc32c};

/// Bytes of a batch's header.
pub const HEADER_BYTES: usize = 61;
/// Bytes of base offset and length, which the length does not count.
pub const PREFIX_BYTES: usize = 12;
/// The format's version.
pub const MAGIC: i8 = 2;
/// Bytes from the start that [`patch`] needs: base offset to CRC, exclusive of what the CRC covers.
pub const PATCH_BYTES: usize = 21;
/// The least that the length field may say.
const LENGTH_MIN: i32 = (HEADER_BYTES - PREFIX_BYTES) as i32;
/// The least that a record takes, bytes: its length, attributes, two deltas, two null lengths, no headers.
const RECORD_BYTES_MIN: usize = 7;

/// A batch's attribute bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub u16);

impl Attributes {
    const CODEC: u16 = 0b111;
    /// Timestamps are the broker's, not the producer's.
    pub const LOG_APPEND_TIME: u16 = 1 << 3;
    /// The batch belongs to a transaction.
    pub const TRANSACTIONAL: u16 = 1 << 4;
    /// The batch holds a marker of the broker's, not records.
    pub const CONTROL: u16 = 1 << 5;

    /// How the record section is packed.
    ///
    /// # Errors
    /// [`BatchError::Codec`] when bits 0-2 name no codec.
    pub fn compression(self) -> Result<Compression, BatchError> {
        let codec = (self.0 & Self::CODEC) as u8;
        Compression::from_codec(codec).ok_or(BatchError::Codec { codec })
    }

    /// Whether every record's time is the batch's max timestamp.
    #[must_use]
    pub fn is_log_append_time(self) -> bool {
        self.0 & Self::LOG_APPEND_TIME != 0
    }

    /// Whether the batch belongs to a transaction.
    #[must_use]
    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch holds a marker of the broker's, not records.
    #[must_use]
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// The bits that a client may not set.
    pub(crate) fn refused_from_clients(self) -> u16 {
        self.0 & !(Self::CODEC | Self::TRANSACTIONAL)
    }
}

/// A batch's header. One that was parsed keeps to these rules: `length` >= 49, magic 2, `base_offset` >= 0, `last_offset_delta` >= 0,
/// their sum is less than `i64::MAX`, `count` >= 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The first record's offset (0 from a client).
    pub base_offset: Offset,
    /// Bytes that follow the length field.
    pub length: i32,
    /// The term of the leader that appended it; -1 from a client.
    pub partition_leader_epoch: LeaderEpoch,
    /// The format's version: 2.
    pub magic: i8,
    /// CRC-32C of all that follows it.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: Attributes,
    /// The last record's distance from the base offset. It may be past the last record that is present (compaction, views).
    pub last_offset_delta: i32,
    /// What the records' timestamp deltas count from.
    pub base_timestamp: TimestampMs,
    /// The latest of the records' timestamps, as the producer says.
    pub max_timestamp: TimestampMs,
    /// For idempotence; -1 without.
    pub producer_id: ProducerId,
    /// For idempotence; -1 without.
    pub producer_epoch: ProducerEpoch,
    /// For idempotence; -1 without.
    pub base_sequence: Sequence,
    /// Number of records; 0 only where compaction or a view left none.
    pub count: i32,
}

impl BatchHeader {
    /// Whether a batch's bytes are those that its CRC was made of, which are all but the first [`PATCH_BYTES`]. `batch`: from the batch's
    /// first byte on; where it is shorter than the batch, they are not.
    #[must_use]
    pub fn crc_matches(&self, batch: &[u8]) -> bool {
        batch.get(PATCH_BYTES..self.batch_bytes()).is_some_and(|covered| crc32c(covered) == self.crc)
    }

    /// Reads the header at the front of `bytes`, which need not hold the rest of the batch. O(1).
    ///
    /// # Errors
    /// `Truncated`, `Length`, `Magic`, `Offsets` or `Count` of [`BatchError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        // The magic first, where it is there: an old format must not look like a bad length.
        if let Some(&magic) = bytes.get(16).filter(|magic| magic.cast_signed() != MAGIC) {
            return Err(BatchError::Magic { magic: magic.cast_signed() });
        }
        let Some(mut fields) = bytes.get(..HEADER_BYTES) else {
            return Err(BatchError::Truncated { needed: HEADER_BYTES, remaining: bytes.len() });
        };
        let header = Self {
            base_offset: Offset(fields.get_i64()),
            length: fields.get_i32(),
            partition_leader_epoch: LeaderEpoch(fields.get_i32()),
            magic: fields.get_i8(),
            crc: fields.get_u32(),
            attributes: Attributes(fields.get_u16()),
            last_offset_delta: fields.get_i32(),
            base_timestamp: TimestampMs(fields.get_i64()),
            max_timestamp: TimestampMs(fields.get_i64()),
            producer_id: ProducerId(fields.get_i64()),
            producer_epoch: ProducerEpoch(fields.get_i16()),
            base_sequence: Sequence(fields.get_i32()),
            count: fields.get_i32(),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), BatchError> {
        if self.length < LENGTH_MIN {
            return Err(BatchError::Length { length: self.length });
        }
        let (base, delta) = (self.base_offset.0, self.last_offset_delta);
        // The end, one past the last offset, must be an offset too.
        if base < 0 || delta < 0 || base.checked_add(i64::from(delta) + 1).is_none() {
            return Err(BatchError::Offsets { base_offset: self.base_offset, last_offset_delta: delta });
        }
        if self.count < 0 || i64::from(self.count) > i64::from(delta) + 1 {
            return Err(self.bad_count());
        }
        Ok(())
    }

    pub(crate) fn bad_count(&self) -> BatchError {
        BatchError::Count { count: self.count, bytes: self.section_bytes(), last_offset_delta: self.last_offset_delta }
    }

    /// Writes the 61 bytes.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_i64(self.base_offset.0);
        out.put_i32(self.length);
        out.put_i32(self.partition_leader_epoch.0);
        out.put_i8(self.magic);
        out.put_u32(self.crc);
        out.put_u16(self.attributes.0);
        out.put_i32(self.last_offset_delta);
        out.put_i64(self.base_timestamp.0);
        out.put_i64(self.max_timestamp.0);
        out.put_i64(self.producer_id.0);
        out.put_i16(self.producer_epoch.0);
        out.put_i32(self.base_sequence.0);
        out.put_i32(self.count);
    }

    /// Bytes of the whole batch, header and records, as its length field says.
    #[must_use]
    pub fn batch_bytes(&self) -> usize {
        PREFIX_BYTES + usize::try_from(self.length).unwrap_or(0)
    }

    /// Bytes of the record section as stored.
    #[must_use]
    pub fn section_bytes(&self) -> usize {
        self.batch_bytes().saturating_sub(HEADER_BYTES)
    }

    /// The last offset that the batch covers (inclusive).
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    /// The offset after the batch.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    /// Whether the batch names a producer for idempotence.
    #[must_use]
    pub fn has_producer_id(&self) -> bool {
        self.producer_id != ProducerId::NONE
    }

    /// Checks that `count` records fit into `section` unpacked bytes, so that a lie costs no loop.
    pub(crate) fn check_count(&self, section: usize) -> Result<u32, BatchError> {
        match u32::try_from(self.count) {
            Ok(count) if count as usize <= section / RECORD_BYTES_MIN => Ok(count),
            _ => {
                Err(BatchError::Count { count: self.count, bytes: section, last_offset_delta: self.last_offset_delta })
            }
        }
    }
}

/// Sets the producer, its epoch and the batch's place in its sequence, and the CRC that covers them, in place.
///
/// `batch`: one whole encoded batch; nothing else in it changes. Costs a pass over its bytes, for the CRC.
///
/// # Errors
/// [`BatchError::Truncated`] when it is shorter than a header; nothing was changed.
pub fn set_producer(
    batch: &mut [u8],
    id: ProducerId,
    epoch: ProducerEpoch,
    base_sequence: Sequence,
) -> Result<(), BatchError> {
    if batch.len() < HEADER_BYTES {
        return Err(BatchError::Truncated { needed: HEADER_BYTES, remaining: batch.len() });
    }
    batch[43..51].copy_from_slice(&id.0.to_be_bytes());
    batch[51..53].copy_from_slice(&epoch.0.to_be_bytes());
    batch[53..57].copy_from_slice(&base_sequence.0.to_be_bytes());
    set_crc(batch);
    Ok(())
}

/// Gives all of a batch's records the broker's time (Kafka's LogAppendTime): sets the flag that says so and the greatest time,
/// which then is every record's, and the CRC that covers them, in place.
///
/// `batch`: one whole encoded batch; nothing else in it changes, compressed or not. Costs a pass over its bytes, for the CRC.
///
/// # Errors
/// [`BatchError::Truncated`] when it is shorter than a header; nothing was changed.
pub fn set_log_append_time(batch: &mut [u8], now: TimestampMs) -> Result<(), BatchError> {
    if batch.len() < HEADER_BYTES {
        return Err(BatchError::Truncated { needed: HEADER_BYTES, remaining: batch.len() });
    }
    let attributes = u16::from_be_bytes([batch[21], batch[22]]) | Attributes::LOG_APPEND_TIME;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    set_max_timestamp(batch, now);
    Ok(())
}

/// Sets the greatest time of a whole batch, and the CRC that covers it, which is returned.
pub(crate) fn set_max_timestamp(batch: &mut [u8], latest: TimestampMs) -> u32 {
    batch[35..43].copy_from_slice(&latest.0.to_be_bytes());
    set_crc(batch)
}

fn set_crc(batch: &mut [u8]) -> u32 {
    let crc = crc32c(&batch[PATCH_BYTES..]);
    batch[PATCH_BYTES - 4..PATCH_BYTES].copy_from_slice(&crc.to_be_bytes());
    crc
}

/// How many records there are in batches that follow each other, as their headers say; those of control batches are none. What is no
/// batch ends the count. Costs a look at each header.
#[must_use]
pub fn count_records(mut batches: &[u8]) -> u64 {
    let mut count = 0;
    while let Ok(header) = BatchHeader::parse(batches) {
        if !header.attributes.is_control() {
            // A header that was parsed has none below 0.
            count += u64::from(header.count.unsigned_abs());
        }
        let Some(rest) = batches.get(header.batch_bytes()..) else { break };
        batches = rest;
    }
    count
}

/// Sets the base offset and the leader epoch of an encoded batch in place. Both lie before what the CRC covers.
///
/// `batch`: at least the first [`PATCH_BYTES`] of a batch; nothing else in it changes.
///
/// # Errors
/// [`BatchError::Truncated`] when it is shorter; nothing was changed.
pub fn patch(batch: &mut [u8], base_offset: Offset, leader_epoch: LeaderEpoch) -> Result<(), BatchError> {
    if batch.len() < PATCH_BYTES {
        return Err(BatchError::Truncated { needed: PATCH_BYTES, remaining: batch.len() });
    }
    batch[..8].copy_from_slice(&base_offset.0.to_be_bytes());
    batch[12..16].copy_from_slice(&leader_epoch.0.to_be_bytes());
    Ok(())
}
