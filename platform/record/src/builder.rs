//! Building batches.

use bytes::{Bytes, BytesMut};
use millstream_model::{
    LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs, limits::BATCH_BYTES_MAX,
};

use crate::{
    Attributes, BatchError, BatchHeader, Compression, HEADER_BYTES, Header, MAGIC, PREFIX_BYTES, compression, crc32c,
    header::PATCH_BYTES,
    raw::{self, RawHeader, RawRecord},
};

/// What a batch carries besides its records. The default is a plain client's: uncompressed, from offset 0, no producer id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// The codec.
    pub compression: Compression,
    /// The first offset: 0 from a client, the source's in a view.
    pub base_offset: Offset,
    /// The leader's term: -1 from a client.
    pub partition_leader_epoch: LeaderEpoch,
    /// For idempotence.
    pub producer_id: ProducerId,
    /// For idempotence.
    pub producer_epoch: ProducerEpoch,
    /// For idempotence.
    pub base_sequence: Sequence,
    /// Whether the batch belongs to a transaction.
    pub transactional: bool,
    /// Whether the records are markers of the broker's and no client's.
    pub control: bool,
}

impl BatchOptions {
    /// What this batch carries: for one that is to stand in its place.
    ///
    /// # Errors
    /// [`BatchError::Codec`].
    pub fn like(header: &BatchHeader) -> Result<Self, BatchError> {
        Ok(Self {
            compression: header.attributes.compression()?,
            base_offset: header.base_offset,
            partition_leader_epoch: header.partition_leader_epoch,
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            transactional: header.attributes.is_transactional(),
            control: header.attributes.is_control(),
        })
    }
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            compression: Compression::None,
            base_offset: Offset(0),
            partition_leader_epoch: LeaderEpoch::UNKNOWN,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch(-1),
            base_sequence: Sequence(-1),
            transactional: false,
            control: false,
        }
    }
}

/// Why a record or batch was not built. The builder is as it was before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The batch would have more than [`BATCH_BYTES_MAX`] bytes before compression.
    #[error("the batch would have {bytes} bytes, at most {BATCH_BYTES_MAX} are allowed")]
    TooLarge {
        /// How large it would be.
        bytes: usize,
    },
    /// The record's time is further from the first record's than 64 bits can say.
    #[error("timestamp {timestamp} is too far from the batch's first, {base}")]
    Timestamp {
        /// The record's.
        timestamp: i64,
        /// The first record's.
        base: i64,
    },
    /// The record's offset delta does not follow the one before.
    #[error("offset delta {found} does not follow {last}")]
    OffsetDelta {
        /// What was asked for.
        found: i32,
        /// The last one taken; -1 before the first.
        last: i32,
    },
    /// The offsets would pass the last possible one, or begin below 0.
    #[error("base offset {base_offset} with last delta {last_offset_delta} is out of range")]
    Offsets {
        /// The first offset.
        base_offset: Offset,
        /// The last one's distance.
        last_offset_delta: i32,
    },
    /// No record was pushed, and no offset range to cover was given.
    #[error("a batch without records was asked for")]
    Empty,
    /// The codec is not in this program, or failed.
    #[error("the records could not be packed")]
    Pack(#[source] BatchError),
}

/// Builds one batch, record by record.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    /// The header's place, then the records.
    bytes: BytesMut,
    count: i32,
    last_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new(options: BatchOptions) -> Self {
        Self::with_capacity(options, 0)
    }

    /// An empty batch with room for `bytes` of encoded records.
    #[must_use]
    pub fn with_capacity(options: BatchOptions, bytes: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(HEADER_BYTES + bytes.min(BATCH_BYTES_MAX));
        buffer.resize(HEADER_BYTES, 0);
        Self { options, bytes: buffer, count: 0, last_offset_delta: -1, base_timestamp: -1, max_timestamp: -1 }
    }

    /// Number of records so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is no record yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch as it stands, before compression.
    #[must_use]
    pub fn size_estimate(&self) -> usize {
        self.bytes.len()
    }

    /// What [`BatchBuilder::size_estimate`] would be after this record: exact.
    #[must_use]
    pub fn size_with(
        &self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> usize {
        let timestamp_delta = timestamp.0.wrapping_sub(self.base_or(timestamp.0));
        let offset_delta = self.last_offset_delta.saturating_add(1);
        self.bytes.len()
            + raw::record_bytes(timestamp_delta, offset_delta, key, value, headers.iter().map(Header::as_raw))
    }

    /// Adds a record with the next offset. The first record's time becomes the batch's base timestamp.
    ///
    /// # Errors
    /// `TooLarge` or `Timestamp` of [`BuildError`].
    pub fn push(
        &mut self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> Result<(), BuildError> {
        let offset_delta = self.last_offset_delta.saturating_add(1);
        self.push_at(offset_delta, timestamp, key, value, headers.iter().map(Header::as_raw))
    }

    /// Adds a record at a chosen distance from the base offset, past the last one: views leave gaps.
    ///
    /// # Errors
    /// `TooLarge`, `Timestamp` or `OffsetDelta` of [`BuildError`].
    pub fn push_at<'h, H>(
        &mut self,
        offset_delta: i32,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: H,
    ) -> Result<(), BuildError>
    where
        H: IntoIterator<Item = RawHeader<'h>> + Clone,
    {
        let timestamp_delta = self.check(offset_delta, timestamp)?;
        self.check_room(raw::record_bytes(timestamp_delta, offset_delta, key, value, headers.clone()))?;
        raw::put_record(&mut self.bytes, timestamp_delta, offset_delta, key, value, headers);
        self.took(offset_delta, timestamp);
        Ok(())
    }

    /// Adds a record that is encoded already: a copy of its key, value and headers.
    ///
    /// # Errors
    /// As [`BatchBuilder::push_at`].
    pub fn push_raw(
        &mut self,
        offset_delta: i32,
        timestamp: TimestampMs,
        record: &RawRecord<'_>,
    ) -> Result<(), BuildError> {
        self.push_tail(offset_delta, timestamp, record.tail)
    }

    /// Adds a record whose key, value and headers are encoded already ([`RawRecord::tail`]); they are not looked at.
    ///
    /// # Errors
    /// As [`BatchBuilder::push_at`].
    pub fn push_tail(&mut self, offset_delta: i32, timestamp: TimestampMs, tail: &[u8]) -> Result<(), BuildError> {
        let timestamp_delta = self.check(offset_delta, timestamp)?;
        self.check_room(raw::moved_bytes(tail, timestamp_delta, offset_delta))?;
        raw::put_moved(&mut self.bytes, tail, timestamp_delta, offset_delta);
        self.took(offset_delta, timestamp);
        Ok(())
    }

    /// Makes the batch cover offsets up to this distance from its base, past its last record: so a reader continues after records
    /// that a view dropped.
    ///
    /// # Errors
    /// `OffsetDelta` of [`BuildError`] when it is below the last record's.
    pub fn cover(&mut self, last_offset_delta: i32) -> Result<(), BuildError> {
        if last_offset_delta < self.last_offset_delta.max(0) {
            return Err(BuildError::OffsetDelta { found: last_offset_delta, last: self.last_offset_delta });
        }
        self.last_offset_delta = last_offset_delta;
        Ok(())
    }

    /// Packs the records and completes the header.
    ///
    /// # Errors
    /// `Empty`, `Offsets` or `Pack` of [`BuildError`].
    pub fn build(self) -> Result<Bytes, BuildError> {
        if self.last_offset_delta < 0 {
            return Err(BuildError::Empty);
        }
        let (base_offset, last_offset_delta) = (self.options.base_offset, self.last_offset_delta);
        if base_offset.0 < 0 || base_offset.0.checked_add(i64::from(last_offset_delta) + 1).is_none() {
            return Err(BuildError::Offsets { base_offset, last_offset_delta });
        }
        let mut bytes = self.bytes;
        if self.options.compression != Compression::None {
            let packed =
                compression::pack(self.options.compression, &bytes[HEADER_BYTES..]).map_err(BuildError::Pack)?;
            bytes.truncate(HEADER_BYTES);
            bytes.extend_from_slice(&packed);
        }
        let mut header = BatchHeader {
            base_offset,
            // The section was held below the limit, and a codec adds little to it.
            length: i32::try_from(bytes.len() - PREFIX_BYTES)
                .map_err(|_| BuildError::TooLarge { bytes: bytes.len() })?,
            partition_leader_epoch: self.options.partition_leader_epoch,
            magic: MAGIC,
            crc: 0,
            attributes: Attributes(
                u16::from(self.options.compression.codec())
                    | if self.options.transactional { Attributes::TRANSACTIONAL } else { 0 }
                    | if self.options.control { Attributes::CONTROL } else { 0 },
            ),
            last_offset_delta,
            base_timestamp: TimestampMs(self.base_timestamp),
            max_timestamp: TimestampMs(self.max_timestamp),
            producer_id: self.options.producer_id,
            producer_epoch: self.options.producer_epoch,
            base_sequence: self.options.base_sequence,
            count: self.count,
        };
        header.put(&mut &mut bytes[..HEADER_BYTES]);
        header.crc = crc32c(&bytes[PATCH_BYTES..]);
        bytes[PATCH_BYTES - 4..PATCH_BYTES].copy_from_slice(&header.crc.to_be_bytes());
        Ok(bytes.freeze())
    }

    fn base_or(&self, timestamp: i64) -> i64 {
        if self.count == 0 { timestamp } else { self.base_timestamp }
    }

    /// Checks a record's place; its timestamp delta.
    fn check(&self, offset_delta: i32, timestamp: TimestampMs) -> Result<i64, BuildError> {
        if offset_delta <= self.last_offset_delta || offset_delta == i32::MAX {
            return Err(BuildError::OffsetDelta { found: offset_delta, last: self.last_offset_delta });
        }
        let base = self.base_or(timestamp.0);
        timestamp.0.checked_sub(base).ok_or(BuildError::Timestamp { timestamp: timestamp.0, base })
    }

    fn check_room(&self, record: usize) -> Result<(), BuildError> {
        match self.bytes.len().saturating_add(record) {
            bytes if bytes <= BATCH_BYTES_MAX => Ok(()),
            bytes => Err(BuildError::TooLarge { bytes }),
        }
    }

    fn took(&mut self, offset_delta: i32, timestamp: TimestampMs) {
        if self.count == 0 {
            self.base_timestamp = timestamp.0;
            self.max_timestamp = timestamp.0;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp.0);
        self.last_offset_delta = offset_delta;
        self.count += 1;
    }
}
