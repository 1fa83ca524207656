//! Wasm frame v1: how a batch of records crosses between broker and guest, and from a client that has it partitioned: its header.
//!
//! Little-endian; the records are the uncompressed record section of a Kafka record batch v2, so nothing is transcoded.
//!
//! ```text
//!  0 u16 version = 1     2 u16 kind: 0 records, 1 timers (not built)
//!  4 u32 flags: 1 log-append-time, 2 values elided, 4 headers elided
//!  8 u32 count          12 u32 record-bytes     16 u32 input       20 s32 partition
//! 24 s64 base-offset    32 s64 base-timestamp   40 u32 columns     44 u32 header-bytes = 48
//! 48 count records: varint length, s8 attributes = 0, varlong timestamp delta, varint offset delta,
//!    varint key length (-1: null), key, varint value length (-1: null), value,
//!    varint header count, then per header: varint name length, name, varint value length (-1: null), value
//!  then, per set column bit, count values: bit 0 u32 source, bit 1 s32 partition
//! ```
//!
//! Clients write such frames and the broker's engine reads and writes them, so that it is described here, below both. Guests see nothing of
//! the platform and have code of their own (`sdk/guest/src/frame.rs`); `wit/frame-v1.txt` has frames that all of them are tested against.

/// Length of a frame's header, bytes.
pub const HEADER_BYTES: usize = 48;
/// Flag: the timestamps are the broker's, not the producer's.
pub const FLAG_LOG_APPEND_TIME: u32 = 1;
/// Flag: values were left out; they read as null.
pub const FLAG_VALUES_ELIDED: u32 = 2;
/// Flag: record headers were left out; they read as none.
pub const FLAG_HEADERS_ELIDED: u32 = 4;
/// Column bit: the index of the input record that each record came from.
pub const COLUMN_SOURCE: u32 = 1;
/// Column bit: the partition that each record is for; -1 leaves it to the output.
pub const COLUMN_PARTITION: u32 = 2;

const VERSION: u16 = 1;
const KIND_RECORDS: u16 = 0;

/// Why bytes are not a frame.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// Fewer bytes than a header.
    #[error("a frame of {bytes} bytes is shorter than its header")]
    Truncated {
        /// How many there are.
        bytes: usize,
    },
    /// Not version 1, not kind 0, an unknown flag or column, a header of another length.
    #[error("frame field {field} is {value}, which is not legal here")]
    Field {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// The header's lengths do not add up to the bytes that are there.
    #[error("the frame's header speaks of {said} bytes, but there are {actual}")]
    Length {
        /// What the header adds up to.
        said: u64,
        /// What is there.
        actual: usize,
    },
    /// More records than are allowed.
    #[error("the frame has {count} records; at most {max} are allowed")]
    Count {
        /// How many.
        count: u32,
        /// How many are allowed.
        max: u32,
    },
    /// One record is not well formed.
    #[error("record {index} of the frame: {reason}")]
    Record {
        /// Which one.
        index: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// There are bytes after the last record.
    #[error("{bytes} bytes follow the frame's last record")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// A frame's header, as it is: fields are only checked for what [`FrameHeader::parse`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// `FLAG_...` bits.
    pub flags: u32,
    /// Number of records.
    pub count: u32,
    /// Length of the record section, bytes.
    pub record_bytes: u32,
    /// Which of a transform's inputs the records are from.
    pub input: u32,
    /// The partition that the records are from; -1 where there is none yet.
    pub partition: i32,
    /// What the records' offset deltas count from.
    pub base_offset: i64,
    /// What the records' timestamp deltas count from, milliseconds.
    pub base_timestamp: i64,
    /// `COLUMN_...` bits.
    pub columns: u32,
}

impl FrameHeader {
    /// Reads a header and checks that version, kind, flags and header length are legal and that the lengths add up to
    /// exactly `bytes`. The records are not looked at.
    ///
    /// # Errors
    /// [`FrameError`] says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(FrameError::Truncated { bytes: bytes.len() });
        };
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let i64_at = |at: usize| (u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32) as i64;
        let legal = |field, value: u64, ok: bool| if ok { Ok(()) } else { Err(FrameError::Field { field, value }) };
        legal("version", u16_at(0).into(), u16_at(0) == VERSION)?;
        legal("kind", u16_at(2).into(), u16_at(2) == KIND_RECORDS)?;
        let flags = u32_at(4);
        let known = FLAG_LOG_APPEND_TIME | FLAG_VALUES_ELIDED | FLAG_HEADERS_ELIDED;
        legal("flags", flags.into(), flags & !known == 0)?;
        let columns = u32_at(40);
        legal("columns", columns.into(), columns & !(COLUMN_SOURCE | COLUMN_PARTITION) == 0)?;
        legal("header-bytes", u32_at(44).into(), u32_at(44) as usize == HEADER_BYTES)?;
        let (count, record_bytes) = (u32_at(8), u32_at(12));
        let said =
            HEADER_BYTES as u64 + u64::from(record_bytes) + u64::from(columns.count_ones()) * 4 * u64::from(count);
        if said != bytes.len() as u64 {
            return Err(FrameError::Length { said, actual: bytes.len() });
        }
        Ok(Self {
            flags,
            count,
            record_bytes,
            input: u32_at(16),
            partition: u32_at(20) as i32,
            base_offset: i64_at(24),
            base_timestamp: i64_at(32),
            columns,
        })
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &VERSION.to_le_bytes());
        put(2, &KIND_RECORDS.to_le_bytes());
        put(4, &self.flags.to_le_bytes());
        put(8, &self.count.to_le_bytes());
        put(12, &self.record_bytes.to_le_bytes());
        put(16, &self.input.to_le_bytes());
        put(20, &self.partition.to_le_bytes());
        put(24, &self.base_offset.to_le_bytes());
        put(32, &self.base_timestamp.to_le_bytes());
        put(40, &self.columns.to_le_bytes());
        put(44, &(HEADER_BYTES as u32).to_le_bytes());
        bytes
    }
}
