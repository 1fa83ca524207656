//! Which journal files a start must find: a file that is missing would otherwise look like one that never was.
//!
//! ```text
//! JOURNAL file, of two slots (`slots`):
//!  0  8 "MSspan" 0 1        magic and version
//!  8  4 CRC-32C of bytes 12..40
//! 12  4 zero
//! 16  8 sequence
//! 24  8 number of the oldest file that is needed
//! 32  8 number past the newest
//! ```
//!
//! A file is noted before it takes its first frame. One that nothing pins any more is crossed out before its name goes. In
//! between, there may be files that are not noted; there is never one noted that is not there. Of a note with a rotten slot, the
//! other counts.

use std::{io, ops::Range, path::Path, sync::Arc};

use millstream_env::{Disk, DiskFile, OpenMode};

use crate::slots::{self, Slot, field, put_fields};

/// The file's name in the data directory.
pub(crate) const SPAN_FILE: &str = "JOURNAL";

const SLOT_BYTES: usize = 40;

/// What the note says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Note {
    sequence: u64,
    files: Range<u64>,
}

impl Slot<SLOT_BYTES> for Note {
    const MAGIC: [u8; 8] = *b"MSspan\0\x01";

    fn sequence(&self) -> u64 {
        self.sequence
    }

    fn fill(&self, bytes: &mut [u8; SLOT_BYTES]) {
        put_fields(bytes, 24, &[self.files.start, self.files.end]);
    }

    fn read(sequence: u64, bytes: &[u8; SLOT_BYTES]) -> Option<Self> {
        let files = field(bytes, 24)..field(bytes, 32);
        (files.start <= files.end).then_some(Self { sequence, files })
    }
}

/// The note, kept open so that it can be written whatever the process lacks: it is overwritten in place.
pub(crate) struct Span {
    file: Arc<dyn DiskFile>,
    note: Note,
}

impl Span {
    /// The numbers of the files that were needed when the note was last written; none if there is no note. A file without a
    /// sound slot is invalid data.
    pub(crate) fn load(disk: &dyn Disk, path: &Path) -> io::Result<Option<Self>> {
        let file = match disk.open(path, OpenMode::Write) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let note = slots::load(&*file)?.newest;
        Ok(Some(Self { file, note }))
    }

    /// Makes the note, synced; its name is durable once the directory is synced.
    pub(crate) fn create(disk: &dyn Disk, path: &Path, files: Range<u64>) -> io::Result<Self> {
        let note = Note { sequence: 0, files };
        slots::create(disk, path, &note)?;
        Ok(Self { file: disk.open(path, OpenMode::Write)?, note })
    }

    /// The numbers of the files that are needed.
    pub(crate) fn files(&self) -> Range<u64> {
        self.note.files.clone()
    }

    /// Writes the note anew, and syncs it.
    pub(crate) fn store(&mut self, files: Range<u64>) -> io::Result<()> {
        if files != self.note.files {
            let next = Note { sequence: self.note.sequence + 1, files };
            slots::store(&*self.file, &next)?;
            self.note = next;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use millstream_env::real::RealDisk;

    use super::*;
    use crate::slots::SLOT_STRIDE;

    fn load(path: &Path) -> Range<u64> {
        Span::load(&RealDisk, path).unwrap().unwrap().files()
    }

    #[test]
    fn the_newest_sound_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SPAN_FILE);
        assert!(Span::load(&RealDisk, &path).unwrap().is_none());
        let mut span = Span::create(&RealDisk, &path, 1..2).unwrap();
        assert_eq!(load(&path), 1..2);
        for files in [1..3, 2..3, 2..4, 4..4] {
            span.store(files.clone()).unwrap();
            assert_eq!((load(&path), span.files()), (files.clone(), files));
        }
        // The newest is torn: the one before counts. Both torn: nobody may guess.
        let file = RealDisk.open(&path, OpenMode::Write).unwrap();
        file.write_at(&[IoSlice::new(&[0xff; 4])], 36).unwrap();
        assert_eq!(load(&path), 2..4);
        file.write_at(&[IoSlice::new(&[0xff; 4])], SLOT_STRIDE + 36).unwrap();
        assert_eq!(Span::load(&RealDisk, &path).err().unwrap().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_note_has_these_bytes_for_ever() {
        let note = Note { sequence: 1, files: 3..5 };
        let bytes = slots::encode(&note);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(hex.starts_with("4d537370616e0001"), "{hex}");
        assert!(hex.ends_with("00000000000000000000000100000000000000030000000000000005"), "{hex}");
        assert_eq!(slots::decode(&bytes), Some(note));
        for at in 0..SLOT_BYTES {
            let mut bytes = bytes;
            bytes[at] ^= 1;
            assert_eq!(slots::decode::<Note, SLOT_BYTES>(&bytes), None, "byte {at}");
        }
    }
}
