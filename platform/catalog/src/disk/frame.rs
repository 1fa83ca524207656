//! The bytes of a log file: a header, then frames one after the other.
//!
//! ```text
//! file header, 40 bytes                          frame header, 40 bytes
//! 0   8 bytes  "MSRAFTLG"                        0   u32  "MSRF"
//! 8   u32      format                            4   u32  CRC-32C of all that follows, payload included
//! 12  u32      CRC-32C of what follows           8   u32  payload length
//! 16  u64      index of the first entry          12  u8   kind, then 3 zeros
//! 24  u64      index before it, or 2^64-1        16  u64  index
//! 32  u64      term of that                      24  u64  term
//!                                                32  u64  durable end: bytes of this file that were synced
//!                                                         when the frame was written
//! ```
//!
//! Kinds: an entry (blank, normal, membership), or a mark that says how far is committed, written beside the entries and
//! synced with the next of them.
//!
//! # A torn tail, or damage in the middle?
//!
//! Frames may be lost from the first one that was never synced on, in any order, because pages reach the disk in any order.
//! So a frame that does not check is a torn tail unless something says that it had been durable: a later file, or a later
//! frame whose *durable end* lies past it. In the first case the file is cut there; in the second the catalog refuses to
//! start, because an agreed entry is gone.

use super::{crc32c, u32_at, u64_at};

pub(crate) const FILE_HEADER_BYTES: u64 = 40;
pub(crate) const FRAME_HEADER_BYTES: usize = 40;
const FILE_MAGIC: &[u8; 8] = b"MSRAFTLG";
const FRAME_MAGIC: &[u8; 4] = b"MSRF";
/// The format that this build writes, and the newest that it reads.
pub(crate) const FORMAT: u32 = 1;
/// Largest payload: a command, with room for a membership.
pub(crate) const PAYLOAD_BYTES_MAX: usize = crate::COMMAND_BYTES_MAX + (64 << 10);
const NONE: u64 = u64::MAX;

/// An entry's place in the agreed log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct EntryPlace {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Blank,
    Normal,
    Membership,
    /// How far is committed. No entry.
    Committed,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Blank => 0,
            Self::Normal => 1,
            Self::Membership => 2,
            Self::Committed => 3,
        }
    }

    fn of(code: u8) -> Option<Self> {
        [Self::Blank, Self::Normal, Self::Membership, Self::Committed].into_iter().find(|kind| kind.code() == code)
    }
}

/// A frame that was read and checked; its payload is the range of the bytes that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) place: EntryPlace,
    pub(crate) durable_end: u64,
    pub(crate) payload: std::ops::Range<usize>,
}

impl Frame {
    /// Where the next frame begins, from the start of the bytes that this was read from.
    pub(crate) fn end(&self) -> usize {
        self.payload.end
    }
}

/// Appends a frame to `buffer`.
pub(crate) fn put(buffer: &mut Vec<u8>, kind: Kind, place: EntryPlace, durable_end: u64, payload: &[u8]) {
    let mut body = [0; FRAME_HEADER_BYTES - 8];
    body[0..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    body[4] = kind.code();
    body[8..16].copy_from_slice(&place.index.to_le_bytes());
    body[16..24].copy_from_slice(&place.term.to_le_bytes());
    body[24..32].copy_from_slice(&durable_end.to_le_bytes());
    buffer.extend_from_slice(FRAME_MAGIC);
    buffer.extend_from_slice(&crc32c(&[&body, payload]).to_le_bytes());
    buffer.extend_from_slice(&body);
    buffer.extend_from_slice(payload);
}

/// The frame at `at`; none where there is no whole one that checks.
pub(crate) fn parse(bytes: &[u8], at: usize) -> Option<Frame> {
    let header = bytes.get(at..at + FRAME_HEADER_BYTES)?;
    if &header[..4] != FRAME_MAGIC {
        return None;
    }
    let length = u32_at(header, 8) as usize;
    if length > PAYLOAD_BYTES_MAX {
        return None;
    }
    let start = at + FRAME_HEADER_BYTES;
    let payload = start..start.checked_add(length)?;
    let body = bytes.get(payload.clone())?;
    if crc32c(&[&header[8..], body]) != u32_at(header, 4) {
        return None;
    }
    Some(Frame {
        kind: Kind::of(header[12])?,
        place: EntryPlace { index: u64_at(header, 16), term: u64_at(header, 24) },
        durable_end: u64_at(header, 32),
        payload,
    })
}

/// How far the file was known to be durable, by the frames at or after `at`, wherever they begin.
pub(crate) fn durable_end_after(bytes: &[u8], at: usize) -> u64 {
    let mut end = 0;
    let mut at = at;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= FRAME_HEADER_BYTES) {
        match parse(bytes, at) {
            Some(frame) => {
                end = end.max(frame.durable_end);
                at = frame.end();
            }
            // On to the next place where a frame could begin.
            None => match rest[1..].windows(4).position(|window| window == FRAME_MAGIC) {
                Some(skip) => at += 1 + skip,
                None => break,
            },
        }
    }
    end
}

/// What a file's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) first: u64,
    pub(crate) before: Option<EntryPlace>,
}

/// Why a file's header was not taken.
pub(crate) enum HeaderError {
    Newer(u32),
    Damaged(&'static str),
}

impl FileHeader {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut body = [0; 24];
        body[0..8].copy_from_slice(&self.first.to_le_bytes());
        body[8..16].copy_from_slice(&self.before.map_or(NONE, |place| place.index).to_le_bytes());
        body[16..24].copy_from_slice(&self.before.map_or(0, |place| place.term).to_le_bytes());
        let mut bytes = FILE_MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&crc32c(&[&body]).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let header = bytes.get(..FILE_HEADER_BYTES as usize).ok_or(HeaderError::Damaged("its header is cut off"))?;
        if &header[..8] != FILE_MAGIC {
            return Err(HeaderError::Damaged("it does not begin as a log file does"));
        }
        if u32_at(header, 8) > FORMAT {
            return Err(HeaderError::Newer(u32_at(header, 8)));
        }
        if crc32c(&[&header[16..]]) != u32_at(header, 12) {
            return Err(HeaderError::Damaged("the checksum of its header does not agree"));
        }
        let before = match u64_at(header, 24) {
            NONE => None,
            index => Some(EntryPlace { index, term: u64_at(header, 32) }),
        };
        Ok(Self { first: u64_at(header, 16), before })
    }
}

const _: () = assert!(FILE_HEADER_BYTES == 8 + 4 + 4 + 24);
