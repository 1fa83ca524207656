//! Why a batch or a record in it was refused.

use millstream_model::{Offset, ProducerId};

use crate::{Compression, varint::VarintError};

/// Why a batch was refused. Nothing was allocated on its word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("the batch needs {needed} bytes, {remaining} remain")]
    Truncated {
        /// Bytes from the batch's start to its end, or to the end of its header.
        needed: usize,
        /// Bytes that there are.
        remaining: usize,
    },
    /// A record has no key, where every record must have one.
    #[error("record {index} has no key")]
    Keyless {
        /// Which one in its batch, from 0.
        index: u32,
    },
    /// Bytes follow what should be exactly one batch.
    #[error("{bytes} bytes follow the batch")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// The length field is less than a header takes.
    #[error("the batch's length field says {length}, a header alone has 49")]
    Length {
        /// What the field says: bytes after it.
        length: i32,
    },
    /// Another format than v2.
    #[error("the batch has magic {magic}; only 2 is supported")]
    Magic {
        /// What it says.
        magic: i8,
    },
    /// The offsets make no range: a negative base or delta, or past the last possible offset.
    #[error("the batch's offsets make no range: base {base_offset}, last offset delta {last_offset_delta}")]
    Offsets {
        /// The base offset.
        base_offset: Offset,
        /// The last record's distance from it.
        last_offset_delta: i32,
    },
    /// The number of records is negative, more than the bytes can hold, not what the offsets say, or zero where records are required.
    #[error("the batch says it has {count} records in {bytes} bytes, with last offset delta {last_offset_delta}")]
    Count {
        /// What it says.
        count: i32,
        /// Bytes of the record section as stored.
        bytes: usize,
        /// The last record's distance from the base offset.
        last_offset_delta: i32,
    },
    /// The checksum does not match.
    #[error("the batch's CRC is {computed:#010x}, its header says {stored:#010x}")]
    Crc {
        /// What the header says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// A codec that does not exist.
    #[error("codec {codec} is unknown")]
    Codec {
        /// Attribute bits 0-2.
        codec: u8,
    },
    /// Attribute bits that have no meaning, or that only a broker may set (control, log append time).
    #[error("a client may not set attribute bits {bits:#06x}")]
    Attributes {
        /// The offending bits alone.
        bits: u16,
    },
    /// A producer id with a negative epoch or sequence, or a negative id other than -1.
    #[error("producer id {producer_id} with epoch {producer_epoch} and sequence {base_sequence} is not legal")]
    Producer {
        /// The id.
        producer_id: ProducerId,
        /// The epoch.
        producer_epoch: i16,
        /// The first sequence.
        base_sequence: i32,
    },
    /// The records cannot be unpacked here: this build has no codecs.
    #[error("{compression} is not built into this program")]
    CompressionNotBuilt {
        /// The codec.
        compression: Compression,
    },
    /// The records unpack to more than the reader allows. Unpacking stopped there.
    #[error("the {compression} records unpack to more than {limit} bytes")]
    UnpackedTooLarge {
        /// The codec.
        compression: Compression,
        /// What the reader allows, bytes.
        limit: usize,
    },
    /// The packed bytes are not what the codec makes.
    #[error("the records are not valid {compression}: {reason}")]
    Corrupt {
        /// The codec.
        compression: Compression,
        /// What the codec says.
        reason: String,
    },
    /// The header's base time is none that a record may have.
    #[error("the batch's base timestamp {timestamp} is out of range: -1 to the year 9999")]
    BaseTimestamp {
        /// What the header says.
        timestamp: i64,
    },
    /// A record is malformed.
    #[error("record {index} of the batch: {source}")]
    Record {
        /// Its place in the batch, from 0.
        index: u32,
        /// What is wrong with it.
        source: RecordError,
    },
    /// Bytes follow the last record.
    #[error("{bytes} bytes follow the last record of the batch")]
    RecordsTrailing {
        /// How many.
        bytes: usize,
    },
}

/// Why an encoded record was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A variable-length integer is cut off or too large.
    #[error("the {field} cannot be read: {source}")]
    Varint {
        /// Which number.
        field: &'static str,
        /// What is wrong with it.
        source: VarintError,
    },
    /// A length or count is negative (other than -1 where null is legal) or more than the bytes that remain.
    #[error("the {field} is {length}, {remaining} bytes remain")]
    Length {
        /// Which length.
        field: &'static str,
        /// What it says.
        length: i32,
        /// Bytes that remain.
        remaining: usize,
    },
    /// The record is longer than its parts.
    #[error("{bytes} bytes follow the last header")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// The offset delta does not continue the batch.
    #[error("the offset delta is {found}, legal are {first} to {last}")]
    OffsetDelta {
        /// What it says.
        found: i32,
        /// The least that is legal.
        first: i32,
        /// The most that is legal.
        last: i32,
    },
    /// The timestamp is past what 64 bits hold.
    #[error("the timestamp {base} + {delta} is out of range")]
    Timestamp {
        /// The batch's.
        base: i64,
        /// The record's distance from it.
        delta: i64,
    },
    /// The timestamp is none that a client may give.
    #[error("the timestamp {timestamp} is out of range: -1 to the year 9999")]
    TimestampRange {
        /// The record's.
        timestamp: i64,
    },
    /// A header's name is not UTF-8, so that most clients could not read the record.
    #[error("the name of header {index} is not UTF-8")]
    HeaderName {
        /// Its place among the record's headers, from 0.
        index: u32,
    },
}
