//! One encoded batch: taken off a buffer, checked, iterated.

use bytes::{Bytes, BytesMut};
use millstream_model::{LeaderEpoch, Offset, ProducerId, TimestampMs, limits};

use crate::{
    BatchError, BatchHeader, Compression, HEADER_BYTES, RecordError, Records, compression, header,
    raw::{self, RawHeaders},
    record::{check_delta, timestamp},
};

/// Exactly one encoded batch and its parsed header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    header: BatchHeader,
    bytes: Bytes,
}

impl Batch {
    /// Takes the batch at the front of `bytes`, and gives the rest. Structure only, O(1), no copy: neither CRC nor records are looked at.
    ///
    /// # Errors
    /// `Truncated`, `Length`, `Magic`, `Offsets` or `Count` of [`BatchError`].
    pub fn parse(mut bytes: Bytes) -> Result<(Self, Bytes), BatchError> {
        let header = BatchHeader::parse(&bytes)?;
        let needed = header.batch_bytes();
        if needed > bytes.len() {
            return Err(BatchError::Truncated { needed, remaining: bytes.len() });
        }
        let rest = bytes.split_off(needed);
        Ok((Self { header, bytes }, rest))
    }

    /// Takes bytes that must be exactly one batch.
    ///
    /// # Errors
    /// As [`Batch::parse`], and `Trailing`.
    pub fn parse_one(bytes: Bytes) -> Result<Self, BatchError> {
        let (batch, rest) = Self::parse(bytes)?;
        match rest.len() {
            0 => Ok(batch),
            bytes => Err(BatchError::Trailing { bytes }),
        }
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The encoded batch.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The encoded batch.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The record section as stored: packed where the attributes say so.
    #[must_use]
    pub fn stored_section(&self) -> Bytes {
        self.bytes.slice(HEADER_BYTES..)
    }

    /// Computes the CRC and compares.
    ///
    /// # Errors
    /// [`BatchError::Crc`].
    pub fn verify_crc(&self) -> Result<(), BatchError> {
        let (stored, computed) = (self.header.crc, crate::crc32c(&self.bytes[header::PATCH_BYTES..]));
        if stored != computed {
            return Err(BatchError::Crc { stored, computed });
        }
        Ok(())
    }

    /// Checks everything that a broker demands of a client's batch before it appends it as it is:
    ///
    /// the CRC; a base offset of 0; one record at least, and as many as the offset deltas say; no bit that only a broker may set
    /// (control, log append time) and none without a meaning; a known codec; a producer id with a legal epoch and sequence, or
    /// none; times from -1 to [`limits::TIMESTAMP_MS_MAX`]. Where the records are not compressed they are walked: lengths,
    /// dense offset deltas from 0, their times, header names that are text, and an exact end. Where they are, nothing is
    /// unpacked: see [`Batch::validate_packed`].
    ///
    /// The greatest time in the header is the broker's to tell, as in Kafka: some clients leave it out. Where it is not that of
    /// the records, it is set in a copy of the batch.
    ///
    /// Not checked, because they are matters of policy: the batch's size, transactions, bit 62 of producer ids.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate_for_append(&mut self) -> Result<(), BatchError> {
        self.verify_crc()?;
        let header = &self.header;
        if header.base_offset != Offset(0) {
            let (base_offset, last_offset_delta) = (header.base_offset, header.last_offset_delta);
            return Err(BatchError::Offsets { base_offset, last_offset_delta });
        }
        let bits = header.attributes.refused_from_clients();
        if bits != 0 {
            return Err(BatchError::Attributes { bits });
        }
        let legal_producer = match header.producer_id {
            ProducerId::NONE => true,
            ProducerId(id) => id >= 0 && header.producer_epoch.0 >= 0 && header.base_sequence.0 >= 0,
        };
        if !legal_producer {
            return Err(BatchError::Producer {
                producer_id: header.producer_id,
                producer_epoch: header.producer_epoch.0,
                base_sequence: header.base_sequence.0,
            });
        }
        if header.count < 1 || header.count - 1 != header.last_offset_delta {
            return Err(header.bad_count());
        }
        if !is_clients_time(header.base_timestamp) {
            return Err(BatchError::BaseTimestamp { timestamp: header.base_timestamp.0 });
        }
        if header.attributes.compression()? == Compression::None {
            let latest = self.walk(&self.bytes[HEADER_BYTES..])?;
            self.set_max_timestamp(latest);
        }
        Ok(())
    }

    /// Unpacks a compressed batch, walks its records as [`Batch::validate_for_append`] does with others, and tells how many
    /// bytes they unpack to. Costs up to `unpacked_bytes_max` bytes of memory until it returns; does nothing for a batch that
    /// is not compressed.
    ///
    /// # Errors
    /// As [`Batch::section`], or the first record that is malformed.
    pub fn validate_packed(&mut self, unpacked_bytes_max: usize) -> Result<usize, BatchError> {
        match self.header.attributes.compression()? {
            Compression::None => Ok(0),
            _ => {
                let section = self.section(unpacked_bytes_max)?;
                let latest = self.walk(&section)?;
                self.set_max_timestamp(latest);
                Ok(section.len())
            }
        }
    }

    /// The least of the records' times; none where their producer gave none (-1). Costs as much as [`Batch::require_keys`].
    ///
    /// # Errors
    /// As [`Batch::section`], or the first record that is malformed.
    pub fn earliest_timestamp(&self, unpacked_bytes_max: usize) -> Result<Option<TimestampMs>, BatchError> {
        let section = self.section(unpacked_bytes_max)?;
        let mut earliest = None;
        for (index, record) in (0..).zip(raw::records(&section)) {
            let time = record.and_then(|record| timestamp(self.header.base_timestamp, record.timestamp_delta));
            let time = time.map_err(|source| BatchError::Record { index, source })?;
            if time.0 >= 0 {
                earliest = Some(earliest.map_or(time, |earliest: TimestampMs| earliest.min(time)));
            }
        }
        Ok(earliest)
    }

    /// Checks that every record has a key, as a compacted topic demands. Costs a walk over the records, and up to
    /// `unpacked_bytes_max` bytes of memory where they are compressed.
    ///
    /// # Errors
    /// [`BatchError::Keyless`], as [`Batch::section`], or the first record that is malformed.
    pub fn require_keys(&self, unpacked_bytes_max: usize) -> Result<(), BatchError> {
        let section = self.section(unpacked_bytes_max)?;
        for (index, record) in (0..).zip(raw::records(&section)) {
            if record.map_err(|source| BatchError::Record { index, source })?.key.is_none() {
                return Err(BatchError::Keyless { index });
            }
        }
        Ok(())
    }

    /// Checks that `section` holds exactly the records that the header promises, as a client may send them. Gives the
    /// greatest of their times.
    fn walk(&self, section: &[u8]) -> Result<TimestampMs, BatchError> {
        let count = self.header.check_count(section.len())?;
        let mut rest = section;
        let mut latest = TimestampMs(i64::MIN);
        for index in 0..count {
            raw::take_record(&mut rest)
                .and_then(|record| {
                    check_delta(record.offset_delta, i64::from(index), index.cast_signed())?;
                    let time = timestamp(self.header.base_timestamp, record.timestamp_delta)?;
                    if !is_clients_time(time) {
                        return Err(RecordError::TimestampRange { timestamp: time.0 });
                    }
                    latest = latest.max(time);
                    check_header_names(record.headers)
                })
                .map_err(|source| BatchError::Record { index, source })?;
        }
        if !rest.is_empty() {
            return Err(BatchError::RecordsTrailing { bytes: rest.len() });
        }
        Ok(latest)
    }

    fn set_max_timestamp(&mut self, latest: TimestampMs) {
        if self.header.max_timestamp == latest {
            return;
        }
        let mut bytes = BytesMut::from(&self.bytes[..]);
        self.header.max_timestamp = latest;
        self.header.crc = header::set_max_timestamp(&mut bytes, latest);
        self.bytes = bytes.freeze();
    }

    /// The record section unpacked: a slice of the batch where it is not compressed, else at most `unpacked_bytes_max` new bytes.
    ///
    /// # Errors
    /// `Codec`, `CompressionNotBuilt`, `UnpackedTooLarge` or `Corrupt` of [`BatchError`].
    pub fn section(&self, unpacked_bytes_max: usize) -> Result<Bytes, BatchError> {
        let stored = self.stored_section();
        match self.header.attributes.compression()? {
            Compression::None => Ok(stored),
            packed => compression::unpack(packed, &stored, unpacked_bytes_max).map(Bytes::from),
        }
    }

    /// The records, unpacked to at most `unpacked_bytes_max` bytes where they are compressed. A control batch's markers are
    /// records too: look at the attributes first.
    ///
    /// # Errors
    /// As [`Batch::section`], and `Count` where the section cannot hold what the header promises. Malformed records show while iterating.
    pub fn records(&self, unpacked_bytes_max: usize) -> Result<Records, BatchError> {
        Records::new(self.header, self.section(unpacked_bytes_max)?)
    }

    /// The same batch with another base offset and leader epoch. Copies the batch.
    #[must_use]
    pub fn patched(&self, base_offset: Offset, leader_epoch: LeaderEpoch) -> Bytes {
        let mut bytes = self.bytes.to_vec();
        bytes[..8].copy_from_slice(&base_offset.0.to_be_bytes());
        bytes[12..16].copy_from_slice(&leader_epoch.0.to_be_bytes());
        bytes.into()
    }
}

/// Whether a client may give a record this time.
fn is_clients_time(time: TimestampMs) -> bool {
    (-1..=limits::TIMESTAMP_MS_MAX).contains(&time.0)
}

fn check_header_names(headers: RawHeaders<'_>) -> Result<(), RecordError> {
    for (index, (name, _)) in (0..).zip(headers) {
        if std::str::from_utf8(name).is_err() {
            return Err(RecordError::HeaderName { index });
        }
    }
    Ok(())
}

/// Walks over batches that follow each other, as in a fetch response or a segment.
///
/// A last batch that is cut off ends the walk quietly, as Kafka's clients do: brokers cut at `max_bytes`. Another error is the last item.
pub fn batches(bytes: Bytes) -> Batches {
    Batches { rest: bytes }
}

/// See [`batches`].
#[derive(Clone, Debug)]
pub struct Batches {
    rest: Bytes,
}

impl Batches {
    /// What was not taken yet; after the end, the batch that is cut off.
    #[must_use]
    pub fn rest(&self) -> &Bytes {
        &self.rest
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match Batch::parse(self.rest.clone()) {
            Ok((batch, rest)) => {
                self.rest = rest;
                Some(Ok(batch))
            }
            Err(BatchError::Truncated { .. }) => None,
            Err(error) => {
                self.rest.clear();
                Some(Err(error))
            }
        }
    }
}

impl std::iter::FusedIterator for Batches {}
