//! Frame v1: how a batch of records crosses into a module, and how what it makes crosses back.
//!
//! ```text
//!  0 u16 version = 1      2 u16 kind: 0 records, 1 timers
//!  4 u32 flags: 1 log-append-time, 2 values elided, 4 headers elided
//!  8 u32 count           12 u32 record bytes     16 u32 input      20 s32 partition
//! 24 s64 base offset     32 s64 base timestamp   40 u32 columns    44 u32 header bytes = 48
//! 48 Kafka v2 records, then per set column bit `count` values: bit 0 u32 source, bit 1 s32 partition
//! ```
//! All little-endian. Input has no columns. Output always has `source`, the position in the input frame of the record that it
//! came from. `wit/frame-v1.txt` has frames that this is tested against, and so is the broker. A frame that does not parse is the broker's fault, so reading one ends in a failure of kind "stop".

use crate::failure::Failure;

pub(crate) const HEADER_BYTES: usize = 48;
pub(crate) const COLUMN_SOURCE: u32 = 1;
pub(crate) const COLUMN_PARTITION: u32 = 2;
const VERSION: u16 = 1;
const KIND_RECORDS: u16 = 0;
const FLAG_LOG_APPEND_TIME: u32 = 1;

/// What a frame says about all its records.
#[derive(Debug, Clone)]
pub(crate) struct FrameHeader {
    pub(crate) log_append_time: bool,
    pub(crate) count: u32,
    pub(crate) record_bytes: u32,
    pub(crate) input: u32,
    pub(crate) partition: i32,
    pub(crate) base_offset: i64,
    pub(crate) base_timestamp: i64,
    pub(crate) columns: u32,
}

impl FrameHeader {
    /// Reads the header of `frame`; also returns the records and whatever columns follow them.
    pub(crate) fn parse(frame: &[u8]) -> Result<(Self, &[u8]), Failure> {
        let cut = || Failure::stop(format_args!("frame of {} bytes is cut short", frame.len()));
        let version = u16::from_le_bytes(field(frame, 0).ok_or_else(cut)?);
        let kind = u16::from_le_bytes(field(frame, 2).ok_or_else(cut)?);
        if version != VERSION || kind != KIND_RECORDS {
            return Err(Failure::stop(format_args!("frame of version {version} and kind {kind} is not known here")));
        }
        let flags = u32::from_le_bytes(field(frame, 4).ok_or_else(cut)?);
        let header = FrameHeader {
            log_append_time: flags & FLAG_LOG_APPEND_TIME != 0,
            count: u32::from_le_bytes(field(frame, 8).ok_or_else(cut)?),
            record_bytes: u32::from_le_bytes(field(frame, 12).ok_or_else(cut)?),
            input: u32::from_le_bytes(field(frame, 16).ok_or_else(cut)?),
            partition: i32::from_le_bytes(field(frame, 20).ok_or_else(cut)?),
            base_offset: i64::from_le_bytes(field(frame, 24).ok_or_else(cut)?),
            base_timestamp: i64::from_le_bytes(field(frame, 32).ok_or_else(cut)?),
            columns: u32::from_le_bytes(field(frame, 40).ok_or_else(cut)?),
        };
        // A later host may say more in front of the records than this library knows.
        let header_bytes = u32::from_le_bytes(field(frame, 44).ok_or_else(cut)?) as usize;
        let body = frame.get(header_bytes.max(HEADER_BYTES)..).ok_or_else(cut)?;
        if body.len() < header.record_bytes as usize {
            return Err(cut());
        }
        Ok((header, body))
    }

    /// Fills the first [`HEADER_BYTES`] of `frame`, which holds the records from there on.
    pub(crate) fn write(&self, frame: &mut [u8]) {
        let mut put = |at: usize, bytes: &[u8]| frame[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &VERSION.to_le_bytes());
        put(2, &KIND_RECORDS.to_le_bytes());
        put(4, &(if self.log_append_time { FLAG_LOG_APPEND_TIME } else { 0 }).to_le_bytes());
        put(8, &self.count.to_le_bytes());
        put(12, &self.record_bytes.to_le_bytes());
        put(16, &self.input.to_le_bytes());
        put(20, &self.partition.to_le_bytes());
        put(24, &self.base_offset.to_le_bytes());
        put(32, &self.base_timestamp.to_le_bytes());
        put(40, &self.columns.to_le_bytes());
        put(44, &(HEADER_BYTES as u32).to_le_bytes());
    }
}

/// The `N` bytes of `frame` at `at`, if it has them.
fn field<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at + N)?.try_into().ok()
}
