//! A log's mark: up to where its segments are durable.
//!
//! ```text
//! mark file, of two slots (`slots`):
//!  0  8 "MSmark" 0 1        magic and version
//!  8  4 CRC-32C of bytes 12..72
//! 12  1 durability: 0 fsync, 1 replicated
//! 13  3 of the last segment's first batch: the last three bytes of its CRC, or 1 if they are zero; zero where that is not known
//! 16  8 sequence
//! 24  8 log start offset
//! 32  8 end offset: all below is durable in the segments
//! 40  8 LSN: all frames of this log up to it are contained
//! 48  8 base offset of the last segment
//! 56  8 its durable length, bytes
//! 64  8 producers: bit 63 set if batches of idempotent producers follow the snapshot; the other bits: its offset, 0 if
//!       there is none
//! ```
//!
//! Behind the slots it says by which entry of the cluster's metadata the log was made, and which log it is (`made`).

use std::{io, path::Path, sync::Arc};

use millstream_env::{Disk, DiskFile, OpenMode};
use millstream_model::{Durability, Offset};

use crate::{
    bytes_io::replace_file,
    frame::{durability_code, durability_from},
    made::Noted,
    slots::{self, Slot, Slots, field, put_fields},
};

const BEHIND: u64 = 1 << 63;
const SLOT_BYTES: usize = 72;

/// Where the log's idempotent producers are written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    /// The snapshot's offset; 0: there is none, and there were no producers at the beginning.
    pub(crate) at: Offset,
    /// Batches of such producers follow it.
    pub(crate) behind: bool,
}

/// Tells a segment's first batch from another: bits of its CRC, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct First(u32);

impl First {
    /// Of a batch with that CRC.
    pub(crate) fn of(crc: u32) -> Self {
        Self((crc & 0xff_ffff).max(1))
    }
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
    /// How the last segment begins, where that is known: nothing in a segment names its log.
    pub(crate) first: Option<First>,
}

/// What a mark file holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The mark that counts.
    pub(crate) mark: Mark,
    /// The other slot is rotten, and may have been the newer one.
    pub(crate) rotten: bool,
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
            first: None,
        }
    }

    /// Opens a log's mark file; none if it never had one.
    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> io::Result<Option<Arc<dyn DiskFile>>> {
        match disk.open(path, OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Reads a log's mark from its file. One without a sound slot is invalid data.
    ///
    /// A mark that says less than the one before it is written again, and synced: a killed process may have left it where it can be
    /// read and is not durable, and what only the one before speaks of is about to go.
    pub(crate) fn load(disk: &dyn Disk, path: &Path, file: Arc<dyn DiskFile>) -> io::Result<Found> {
        let Slots { newest: mark, older, rotten } = slots::load::<Self, SLOT_BYTES>(&*file)?;
        drop(file);
        if older.is_some_and(|older| mark.end < older.end) {
            mark.store(disk, path, None)?;
        }
        Ok(Found { mark, rotten })
    }

    /// Writes the first mark of a log, synced, and what is known of the log; the file's name is durable once the directory is synced.
    pub(crate) fn create(&self, disk: &dyn Disk, path: &Path, noted: Noted) -> io::Result<()> {
        let mut file = slots::first_bytes(self);
        noted.append_to(&mut file);
        replace_file(disk, path, &[&file], true)
    }

    /// Writes a later mark in place of the one before the last, and syncs it; before that, what is to be noted of the log now.
    pub(crate) fn store(&self, disk: &dyn Disk, path: &Path, noted: Option<Noted>) -> io::Result<()> {
        let file = disk.open(path, OpenMode::Write)?;
        if let Some(noted) = noted {
            noted.write(&*file)?;
            // Before the mark: it covers the frame that tells of the making, and of two pages a power cut may leave either.
            file.sync_data()?;
        }
        slots::store(&*file, self)
    }
}

impl Slot<SLOT_BYTES> for Mark {
    const MAGIC: [u8; 8] = *b"MSmark\0\x01";

    fn sequence(&self) -> u64 {
        self.sequence
    }

    fn fill(&self, bytes: &mut [u8; SLOT_BYTES]) {
        bytes[12] = durability_code(self.durability);
        bytes[13..16].copy_from_slice(&self.first.map_or(0, |First(first)| first).to_be_bytes()[1..]);
        let fields = [
            self.start.0.cast_unsigned(),
            self.end.0.cast_unsigned(),
            self.lsn,
            self.segment_base.0.cast_unsigned(),
            self.segment_len,
            self.producers.at.0.cast_unsigned() | if self.producers.behind { BEHIND } else { 0 },
        ];
        put_fields(bytes, 24, &fields);
    }

    fn read(sequence: u64, bytes: &[u8; SLOT_BYTES]) -> Option<Self> {
        let offset = |at: usize| Some(Offset(field(bytes, at).cast_signed())).filter(|offset| offset.0 >= 0);
        let producers = field(bytes, 64);
        let mark = Self {
            sequence,
            durability: durability_from(bytes[12])?,
            start: offset(24)?,
            end: offset(32)?,
            lsn: field(bytes, 40),
            segment_base: offset(48)?,
            segment_len: field(bytes, 56),
            producers: Saved { at: Offset((producers & !BEHIND).cast_signed()), behind: producers & BEHIND != 0 },
            first: Some(u32::from_be_bytes([0, bytes[13], bytes[14], bytes[15]])).filter(|first| *first > 0).map(First),
        };
        let within = [mark.start, mark.segment_base, mark.producers.at].iter().all(|offset| *offset <= mark.end);
        within.then_some(mark)
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use millstream_env::{
        real::RealDisk,
        sim::{DiskOperation, Fault, World},
    };
    use millstream_model::{PartitionId, TopicId};

    use super::*;
    use crate::{LogId, slots::SLOT_STRIDE};

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
            first: (!sequence.is_multiple_of(3)).then(|| First::of(0x0102_0304 * u32::try_from(sequence).unwrap_or(0))),
        }
    }

    /// The journal need not have what a mark covers: of two pages that are written, a power cut may leave either.
    #[test]
    fn a_mark_that_is_durable_has_the_note_that_was_written_with_it() {
        for seed in 0..100 {
            for sync in [1, 2] {
                let world = World::new(seed);
                let (disk, path) = (world.disk(), Path::new("/data/mark"));
                disk.create_dir_all(Path::new("/data")).unwrap();
                slots::create(disk, path, &mark(0)).unwrap();
                disk.sync_dir(Path::new("/data")).unwrap();
                disk.sync_dir(Path::new("/")).unwrap();
                disk.inject(Fault::nth(DiskOperation::SyncData, sync));
                let noted = Noted { made_by: 7, log: Some(LogId::records(TopicId::NIL, PartitionId(1))) };
                let stored = mark(1).store(disk, path, Some(noted));
                assert!(stored.is_err());
                world.first().crash();
                let file = Mark::open(disk, path).unwrap().unwrap();
                let found = Mark::load(disk, path, file.clone()).unwrap();
                assert!(found.mark == mark(0) || Noted::read(&*file).unwrap() == noted, "seed {seed}, sync {sync}");
            }
        }
    }

    #[test]
    fn the_newest_sound_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        let open = || Mark::open(&RealDisk, &path).unwrap();
        let load = || open().map(|file| Mark::load(&RealDisk, &path, file).unwrap());
        let found = |sequence, rotten| Some(Found { mark: mark(sequence), rotten });
        let noted = || Noted::read(&*open().unwrap()).unwrap();
        let note = |made_by| Noted { made_by, log: Some(LogId::records(TopicId::NIL, PartitionId(1))) };
        assert_eq!(load(), None);
        // Of an earlier version, which says no more; and of one that knows all at once.
        slots::create(&RealDisk, &path, &mark(0)).unwrap();
        assert_eq!((load(), noted()), (found(0, false), Noted::default()));
        mark(1).store(&RealDisk, &path, Some(note(0))).unwrap();
        assert_eq!((load(), noted()), (found(1, false), note(0)));
        mark(2).store(&RealDisk, &path, Some(note(7))).unwrap();
        assert_eq!((load(), noted()), (found(2, false), note(7)));
        mark(0).create(&RealDisk, &path, note(7)).unwrap();
        assert_eq!(load(), found(0, false));
        for sequence in 1..5 {
            mark(sequence).store(&RealDisk, &path, None).unwrap();
            assert_eq!((load(), noted()), (found(sequence, false), note(7)));
        }
        // The newest is damaged: the one before counts, and that it need not be the newest is told. Both: nobody may guess.
        let file = RealDisk.open(&path, OpenMode::Write).unwrap();
        file.write_at(&[IoSlice::new(&[0xff; 4])], 36).unwrap();
        assert_eq!(load(), found(3, true));
        file.write_at(&[IoSlice::new(&[0xff; 4])], SLOT_STRIDE + 36).unwrap();
        let refused = Mark::load(&RealDisk, &path, open().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        assert_eq!(Noted::of_dir(&RealDisk, dir.path()), note(7));
    }
}
