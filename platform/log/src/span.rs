//! Which journal files a start must find: a file that is missing would otherwise look like one that never was.
//!
//! ```text
//! JOURNAL file: two slots, at 0 and 4096, written in turn; the sound one with the greater sequence counts
//!  0  8 "MSspan" 0 1        magic and version
//!  8  4 CRC-32C of bytes 12..40
//! 12  4 zero
//! 16  8 sequence: slot = sequence % 2
//! 24  8 number of the oldest file that is needed
//! 32  8 number past the newest
//! ```
//!
//! A file is noted before it takes its first frame. One that nothing pins any more is crossed out before its name goes. In
//! between, there may be files that are not noted; there is never one noted that is not there.

use std::{
    io::{self, IoSlice},
    ops::Range,
    path::Path,
    sync::Arc,
};

use millstream_env::{Disk, DiskFile, OpenMode};
use millstream_record::crc32c;

use crate::bytes_io::replace_file;

/// The file's name in the data directory.
pub(crate) const SPAN_FILE: &str = "JOURNAL";

const MAGIC: [u8; 8] = *b"MSspan\0\x01";
const SLOT_BYTES: usize = 40;
const SLOT_STRIDE: u64 = 4096;

/// The note, kept open so that it can be written whatever the process lacks: it is overwritten in place.
pub(crate) struct Span {
    file: Arc<dyn DiskFile>,
    sequence: u64,
    files: Range<u64>,
}

impl Span {
    /// The numbers of the files that were needed when the note was last written; none if there is no note. A file without a
    /// sound slot is invalid data: it is made by a rename of a synced file, so there is always one.
    pub(crate) fn load(disk: &dyn Disk, path: &Path) -> io::Result<Option<Self>> {
        let file = match disk.open(path, OpenMode::Write) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut newest: Option<(u64, Range<u64>)> = None;
        for slot in 0..2 {
            let mut bytes = [0; SLOT_BYTES];
            if file.read_at(&mut bytes, slot * SLOT_STRIDE)? < SLOT_BYTES {
                continue;
            }
            let found = decode(&bytes).filter(|(sequence, _)| sequence % 2 == slot);
            newest = newest.into_iter().chain(found).max_by_key(|(sequence, _)| *sequence);
        }
        let (sequence, files) =
            newest.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "neither of its slots is sound"))?;
        Ok(Some(Self { file, sequence, files }))
    }

    /// Makes the note, synced; its name is durable once the directory is synced.
    pub(crate) fn create(disk: &dyn Disk, path: &Path, files: Range<u64>) -> io::Result<Self> {
        let mut bytes = [0; SLOT_STRIDE as usize + SLOT_BYTES];
        bytes[..SLOT_BYTES].copy_from_slice(&encode(0, &files));
        replace_file(disk, path, &[&bytes], true)?;
        Ok(Self { file: disk.open(path, OpenMode::Write)?, sequence: 0, files })
    }

    /// The numbers of the files that are needed.
    pub(crate) fn files(&self) -> Range<u64> {
        self.files.clone()
    }

    /// Writes the note anew, and syncs it.
    pub(crate) fn store(&mut self, files: Range<u64>) -> io::Result<()> {
        if files != self.files {
            let sequence = self.sequence + 1;
            self.file.write_at(&[IoSlice::new(&encode(sequence, &files))], sequence % 2 * SLOT_STRIDE)?;
            self.file.sync_data()?;
            (self.sequence, self.files) = (sequence, files);
        }
        Ok(())
    }
}

fn encode(sequence: u64, files: &Range<u64>) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    for (field, at) in [sequence, files.start, files.end].iter().zip((16..).step_by(8)) {
        bytes[at..at + 8].copy_from_slice(&field.to_be_bytes());
    }
    let crc = crc32c(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<(u64, Range<u64>)> {
    let crc = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if bytes[..8] != MAGIC || crc != crc32c(&bytes[12..]) {
        return None;
    }
    let field = |at: usize| bytes[at..at + 8].iter().fold(0, |field, byte| field << 8 | u64::from(*byte));
    let (sequence, files) = (field(16), field(24)..field(32));
    (files.start <= files.end).then_some((sequence, files))
}

#[cfg(test)]
mod tests {
    use millstream_env::real::RealDisk;

    use super::*;

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
        let hex: String = encode(1, &(3..5)).iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(hex.starts_with("4d537370616e0001"), "{hex}");
        assert!(hex.ends_with("00000000000000000000000100000000000000030000000000000005"), "{hex}");
        assert_eq!(decode(&encode(1, &(3..5))), Some((1, 3..5)));
        for at in 0..SLOT_BYTES {
            let mut bytes = encode(1, &(3..5));
            bytes[at] ^= 1;
            assert_eq!(decode(&bytes), None, "byte {at}");
        }
    }
}
