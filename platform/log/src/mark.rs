//! A log's mark: up to where its segments are durable.
//!
//! ```text
//! mark file: two slots, at 0 and 4096, written in turn; the sound one with the greater sequence counts
//!  0  8 "MSmark" 0 1        magic and version
//!  8  4 CRC-32C of bytes 12..72
//! 12  1 durability: 0 fsync, 1 replicated
//! 13  3 zero
//! 16  8 sequence: slot = sequence % 2
//! 24  8 log start offset
//! 32  8 end offset: all below is durable in the segments
//! 40  8 LSN: all frames of this log up to it are contained
//! 48  8 base offset of the last segment
//! 56  8 its durable length, bytes
//! 64  8 producers: bit 63 set if batches of idempotent producers follow the snapshot; the other bits: its offset, 0 if
//!       there is none
//! ```

use std::{
    io::{self, IoSlice},
    path::Path,
};

use millstream_env::{Disk, OpenMode};
use millstream_model::{Durability, Offset};
use millstream_record::crc32c;

use crate::{
    bytes_io::replace_file,
    frame::{durability_code, durability_from},
};

const BEHIND: u64 = 1 << 63;
const MAGIC: [u8; 8] = *b"MSmark\0\x01";
const SLOT_BYTES: usize = 72;
const SLOT_STRIDE: u64 = 4096;

/// Where the log's idempotent producers are written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    /// The snapshot's offset; 0: there is none, and there were no producers at the beginning.
    pub(crate) at: Offset,
    /// Batches of such producers follow it.
    pub(crate) behind: bool,
}

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Counts the marks of this log, from 0.
    pub(crate) sequence: u64,
    /// The log's durability.
    pub(crate) durability: Durability,
    /// The first offset that can be read.
    pub(crate) start: Offset,
    /// All below is durable in the segments.
    pub(crate) end: Offset,
    /// All frames of this log up to it are contained.
    pub(crate) lsn: u64,
    /// The last segment.
    pub(crate) segment_base: Offset,
    /// How much of it is durable, bytes.
    pub(crate) segment_len: u64,
    /// Where the producers are.
    pub(crate) producers: Saved,
}

impl Mark {
    /// The mark of a log that holds nothing.
    pub(crate) fn empty(durability: Durability) -> Self {
        Self {
            sequence: 0,
            durability,
            start: Offset(0),
            end: Offset(0),
            lsn: 0,
            segment_base: Offset(0),
            segment_len: 0,
            producers: Saved::default(),
        }
    }

    fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[12] = durability_code(self.durability);
        let fields = [
            self.sequence,
            self.start.0.cast_unsigned(),
            self.end.0.cast_unsigned(),
            self.lsn,
            self.segment_base.0.cast_unsigned(),
            self.segment_len,
            self.producers.at.0.cast_unsigned() | if self.producers.behind { BEHIND } else { 0 },
        ];
        for (field, at) in fields.iter().zip((16..).step_by(8)) {
            bytes[at..at + 8].copy_from_slice(&field.to_be_bytes());
        }
        let crc = crc32c(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<Self> {
        let crc = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        if bytes[..8] != MAGIC || crc != crc32c(&bytes[12..]) {
            return None;
        }
        let field = |at: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&bytes[at..at + 8]);
            u64::from_be_bytes(field)
        };
        let offset = |at: usize| Some(Offset(field(at).cast_signed())).filter(|offset| offset.0 >= 0);
        let durability = durability_from(bytes[12])?;
        let mark = Self {
            sequence: field(16),
            durability,
            start: offset(24)?,
            end: offset(32)?,
            lsn: field(40),
            segment_base: offset(48)?,
            segment_len: field(56),
            producers: Saved { at: Offset((field(64) & !BEHIND).cast_signed()), behind: field(64) & BEHIND != 0 },
        };
        let within = [mark.start, mark.segment_base, mark.producers.at].iter().all(|offset| *offset <= mark.end);
        within.then_some(mark)
    }

    /// Reads a log's mark; none if it never had one. A file without a sound slot is invalid data: a mark is made by a
    /// rename of a synced file, so there is always one. Also whether the other slot is damaged: a slot lies in one sector, which a
    /// crash does not tear, so that may have been the newer one.
    ///
    /// A mark that says less than the one before it is written again, and synced: a killed process may have left it where it can be
    /// read and is not durable, and what only the one before speaks of is about to go.
    pub(crate) fn load(disk: &dyn Disk, path: &Path) -> io::Result<Option<(Self, bool)>> {
        let file = match disk.open(path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (mut newest, mut end_max): (Option<Self>, _) = (None, Offset(0));
        let mut damaged = false;
        for slot in 0..2 {
            let mut bytes = [0; SLOT_BYTES];
            let whole = file.read_at(&mut bytes, slot * SLOT_STRIDE)? == SLOT_BYTES;
            let mark = Self::decode(&bytes).filter(|mark| whole && mark.sequence % 2 == slot);
            // The first mark leaves zeros in the other slot.
            damaged |= mark.is_none() && (!whole || bytes != [0; SLOT_BYTES]);
            end_max = mark.map_or(end_max, |mark| end_max.max(mark.end));
            if mark.is_some_and(|mark| newest.is_none_or(|newest| newest.sequence < mark.sequence)) {
                newest = mark;
            }
        }
        drop(file);
        if let Some(mark) = newest.filter(|mark| mark.end < end_max) {
            mark.store(disk, path)?;
        }
        let none_is_sound = || io::Error::new(io::ErrorKind::InvalidData, "neither of its slots is sound");
        newest.map(|newest| Some((newest, damaged))).ok_or_else(none_is_sound)
    }

    /// Writes the first mark of a log, synced; its name is durable once the directory is synced.
    pub(crate) fn create(&self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        let mut first = vec![0; usize::try_from(SLOT_STRIDE).unwrap_or(0) + SLOT_BYTES];
        let at = usize::try_from(self.sequence % 2 * SLOT_STRIDE).unwrap_or(0);
        first[at..at + SLOT_BYTES].copy_from_slice(&self.encode());
        replace_file(disk, path, &[&first], true)
    }

    /// Writes a later mark in place of the one before the last, and syncs it.
    pub(crate) fn store(&self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        let file = disk.open(path, OpenMode::Write)?;
        file.write_at(&[IoSlice::new(&self.encode())], self.sequence % 2 * SLOT_STRIDE)?;
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use millstream_env::real::RealDisk;

    use super::*;

    fn mark(sequence: u64) -> Mark {
        Mark {
            sequence,
            durability: Durability::Fsync,
            start: Offset(1),
            end: Offset(100 + sequence.cast_signed()),
            lsn: 7,
            segment_base: Offset(50),
            segment_len: 4711,
            producers: Saved { at: Offset(90), behind: sequence % 2 == 1 },
        }
    }

    #[test]
    fn the_newest_sound_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        assert_eq!(Mark::load(&RealDisk, &path).unwrap(), None);
        mark(0).create(&RealDisk, &path).unwrap();
        assert_eq!(Mark::load(&RealDisk, &path).unwrap(), Some((mark(0), false)));
        for sequence in 1..5 {
            mark(sequence).store(&RealDisk, &path).unwrap();
            assert_eq!(Mark::load(&RealDisk, &path).unwrap(), Some((mark(sequence), false)));
        }
        // The newest is damaged: the one before counts, and that it need not be the newest is told. Both: nobody may guess.
        let file = RealDisk.open(&path, OpenMode::Write).unwrap();
        file.write_at(&[IoSlice::new(&[0xff; 4])], 36).unwrap();
        assert_eq!(Mark::load(&RealDisk, &path).unwrap(), Some((mark(3), true)));
        file.write_at(&[IoSlice::new(&[0xff; 4])], SLOT_STRIDE + 36).unwrap();
        assert_eq!(Mark::load(&RealDisk, &path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
