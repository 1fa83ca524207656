//! By which entry of the cluster's metadata a log was made: what tells the log of a deleted topic from one that an older copy of the
//! metadata does not know yet.
//!
//! ```text
//! mark file, behind the slots, from byte 8192 on:
//!  0  8 "MSmade" 0 1        magic and version
//!  8  4 CRC-32C of bytes 12..32
//! 12 12 zero
//! 24  8 the entry
//! ```
//!
//! The metadata at that entry, or at a later one, knows the log, or has seen it deleted. So a log that it does not know may go if it
//! reaches to there; if it ends before, it is an older copy.
//!
//! The note costs no sync. It is written with a mark: the first one, if it is known by then. Until then the journal has it, in each
//! EpochStart (of entries below 2^32), which comes before all else of a log and is never carried forward. It never changes.
//!
//! Logs of earlier versions have none, and neither has one whose note is not sound. A log that the metadata knows is given one at a
//! start ([`crate::Storage::note_made`]). Of one that it does not know, nobody can tell whether it may go: it stays.

use std::{
    io::{self, IoSlice},
    path::Path,
};

use millstream_env::{Disk, DiskFile, OpenMode};

use crate::slots::{self, SLOT_STRIDE, Slot, field, put_fields};

/// Where in the mark file it is: never in one page with a slot, which is written over.
pub(crate) const AT: u64 = 2 * SLOT_STRIDE;

const NOTE_BYTES: usize = 32;

/// What a log's note says, or is to say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Made {
    /// 0: that is not known.
    entry: u64,
    unwritten: bool,
}

impl Made {
    /// Of a log whose file does not say so yet; 0: it is not known.
    pub(crate) fn unwritten(entry: u64) -> Self {
        Self { entry, unwritten: entry > 0 }
    }

    /// Of a log whose file says so; 0: it does not.
    pub(crate) fn written(entry: u64) -> Self {
        Self { entry, unwritten: false }
    }

    /// The entry; none if it is not known.
    pub(crate) fn entry(self) -> Option<u64> {
        (self.entry > 0).then_some(self.entry)
    }

    /// Takes an entry for the log's, if none is known.
    pub(crate) fn learn(&mut self, entry: u64) {
        if self.entry == 0 {
            *self = Self::unwritten(entry);
        }
    }

    /// What is to be written with the next mark; none if nothing is.
    pub(crate) fn to_write(self) -> Option<u64> {
        self.entry().filter(|_| self.unwritten)
    }

    /// As an EpochStart has it; 0: not known.
    pub(crate) fn in_frame(self) -> u32 {
        u32::try_from(self.entry).unwrap_or(0)
    }
}

/// A note as it is in the file.
struct Note(u64);

impl Slot<NOTE_BYTES> for Note {
    const MAGIC: [u8; 8] = *b"MSmade\0\x01";

    fn sequence(&self) -> u64 {
        0
    }

    fn fill(&self, bytes: &mut [u8; NOTE_BYTES]) {
        put_fields(bytes, 24, &[self.0]);
    }

    fn read(_: u64, bytes: &[u8; NOTE_BYTES]) -> Option<Self> {
        Some(Self(field(bytes, 24)))
    }
}

/// The bytes of a note.
pub(crate) fn encode(entry: u64) -> [u8; NOTE_BYTES] {
    slots::encode(&Note(entry))
}

/// Writes a note into a mark file; not synced.
pub(crate) fn write(mark: &dyn DiskFile, entry: u64) -> io::Result<()> {
    mark.write_at(&[IoSlice::new(&encode(entry))], AT)
}

/// The entry that a mark file notes; 0 where it notes none, or what it has there is not sound.
pub(crate) fn read(mark: &dyn DiskFile) -> io::Result<u64> {
    let mut bytes = [0; NOTE_BYTES];
    let whole = mark.read_at(&mut bytes, AT)? == NOTE_BYTES;
    Ok(slots::decode::<Note, NOTE_BYTES>(&bytes).filter(|_| whole).map_or(0, |note| note.0))
}

/// What the mark file of a log says that is out of service; 0 where it does not, whatever the reason.
pub(crate) fn of_damaged(disk: &dyn Disk, mark_path: &Path) -> u64 {
    disk.open(mark_path, OpenMode::Read).and_then(|file| read(&*file)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::SimDisk;

    use super::*;

    #[test]
    fn a_note_has_these_bytes_for_ever_and_none_is_taken_for_it() {
        let bytes = encode(0x0102_0304_0506_0708);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(hex.starts_with("4d536d6164650001"), "{hex}");
        assert!(hex.ends_with("0000000000000000000000000102030405060708"), "{hex}");
        let (disk, path) = (SimDisk::new(1), Path::new("/mark"));
        let read = |bytes: &[u8]| {
            let file = disk.open(path, OpenMode::Create).unwrap();
            file.set_len(0).unwrap();
            file.write_at(&[IoSlice::new(bytes)], AT).unwrap();
            assert_eq!(of_damaged(&disk, path), read(&*file).unwrap());
            read(&*file).unwrap()
        };
        assert_eq!(read(&bytes), 0x0102_0304_0506_0708);
        for at in 0..NOTE_BYTES {
            let mut flipped = bytes;
            flipped[at] ^= 1;
            assert_eq!(read(&flipped), 0, "byte {at}");
            assert_eq!(read(&bytes[..at]), 0, "cut at {at}");
        }
        assert_eq!(of_damaged(&disk, Path::new("/none")), 0);
    }

    #[test]
    fn an_entry_is_learnt_once_and_a_frame_has_what_it_can() {
        let mut made = Made::default();
        assert_eq!((made.entry(), made.to_write(), made.in_frame()), (None, None, 0));
        made.learn(0);
        assert_eq!(made.to_write(), None);
        made.learn(7);
        made.learn(9);
        assert_eq!((made.entry(), made.to_write(), made.in_frame()), (Some(7), Some(7), 7));
        let mut made = Made::written(1 << 32);
        made.learn(7);
        assert_eq!((made.entry(), made.to_write(), made.in_frame()), (Some(1 << 32), None, 0));
    }
}
