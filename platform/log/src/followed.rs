//! How far the directory has followed the cluster's metadata: so an older copy of that is known for what it is, and a log that has gone
//! from one that never was.
//!
//! ```text
//! METADATA file, of two slots (`slots`):
//!  0  8 "MSfollw" 1         magic and version
//!  8  4 CRC-32C of bytes 12..32
//! 12  4 how many entries before that at byte 24 the last one is up to which all logs that were asked for are made, plus 1; 0: that is
//!       not known
//! 16  8 sequence
//! 24  8 the entry of the metadata's log that was followed last
//! ```
//!
//! *Followed.* Noted before what the entry gave out is used: leaders' epochs, at each start, and each block of producers' ids. That logs
//! were made by later entries, they tell themselves (`made`); this tells it of what is no log: epochs, blocks of producers' ids,
//! settings. By an older copy of the metadata they would be given out again, or be as they were.
//!
//! *Made.* Noted once the logs are durable: their directories, or the frames of the journal that make them again. A log that an entry up
//! to there asks for, and is neither there nor deleted, has gone. One that a later entry asks for may never have been made. Where an
//! earlier entry than the last is followed, the metadata is another, and nothing is known of its logs.
//!
//! Of a note with a rotten slot, the other counts.

use std::{io, path::Path, sync::Arc};

use millstream_env::{Disk, DiskFile, OpenMode};

use crate::{
    OpenError,
    slots::{self, Slot, field, put_fields},
};

/// The file's name in the data directory.
pub(crate) const FOLLOWED_FILE: &str = "METADATA";

const SLOT_BYTES: usize = 32;

/// What the note says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    sequence: u64,
    index: u64,
    /// At most `index`; 0: not known.
    made: u64,
}

impl Slot<SLOT_BYTES> for Note {
    const MAGIC: [u8; 8] = *b"MSfollw\x01";

    fn sequence(&self) -> u64 {
        self.sequence
    }

    fn fill(&self, bytes: &mut [u8; SLOT_BYTES]) {
        let behind = self.index.checked_sub(self.made).filter(|_| self.made > 0);
        let told = behind.and_then(|behind| u32::try_from(behind + 1).ok()).unwrap_or(0);
        bytes[12..16].copy_from_slice(&told.to_be_bytes());
        put_fields(bytes, 24, &[self.index]);
    }

    fn read(sequence: u64, bytes: &[u8; SLOT_BYTES]) -> Option<Self> {
        let index = field(bytes, 24);
        let told = u32::from_be_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        let made = told.checked_sub(1).and_then(|behind| index.checked_sub(behind.into())).unwrap_or(0);
        Some(Self { sequence, index, made })
    }
}

/// The note, kept open so that it can be written whatever the process lacks: it is overwritten in place.
#[derive(Default)]
pub(crate) struct Followed(Option<(Arc<dyn DiskFile>, Note)>);

impl Followed {
    /// That of a data directory.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn of_dir(disk: &dyn Disk, dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(FOLLOWED_FILE);
        Self::load(disk, &path).map_err(|source| match source.kind() {
            io::ErrorKind::InvalidData => OpenError::Damaged { path, reason: source.to_string() },
            _ => OpenError::Io { action: "read", path, source },
        })
    }

    /// What was noted last; nothing where there is no note. A file without a sound slot is invalid data.
    pub(crate) fn load(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let file = match disk.open(path, OpenMode::Write) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let note = slots::load(&*file)?.newest;
        Ok(Self(Some((file, note))))
    }

    /// The entry that was followed; 0 where none was noted.
    pub(crate) fn index(&self) -> u64 {
        self.0.as_ref().map_or(0, |(_, note)| note.index)
    }

    /// The entry up to which all logs are made; 0: that is not known.
    pub(crate) fn made(&self) -> u64 {
        self.0.as_ref().map_or(0, |(_, note)| note.made)
    }

    /// Notes that an entry is followed, durably.
    pub(crate) fn follow(&mut self, disk: &dyn Disk, dir: &Path, index: u64) -> io::Result<()> {
        let made = if index < self.index() { 0 } else { self.made() };
        self.store(disk, dir, (index, made))
    }

    /// Notes that an entry is followed and all logs are made that were asked for up to it, durably.
    pub(crate) fn all_made(&mut self, disk: &dyn Disk, dir: &Path, index: u64) -> io::Result<()> {
        self.store(disk, dir, (index, index))
    }

    /// (Makes durable the file's name, too, where it was made: `dir` is its directory.)
    fn store(&mut self, disk: &dyn Disk, dir: &Path, (index, made): (u64, u64)) -> io::Result<()> {
        match &mut self.0 {
            Some((_, note)) if (note.index, note.made) == (index, made) => {}
            Some((file, note)) => {
                let next = Note { sequence: note.sequence + 1, index, made };
                slots::store(&**file, &next)?;
                *note = next;
            }
            None => {
                let (path, note) = (dir.join(FOLLOWED_FILE), Note { sequence: 0, index, made });
                slots::create(disk, &path, &note)?;
                disk.sync_dir(dir)?;
                self.0 = Some((disk.open(&path, OpenMode::Write)?, note));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::SimDisk;

    use super::*;

    #[test]
    fn a_note_has_these_bytes_for_ever() {
        let check = |index: u64, made: u64, told: &str| {
            let note = Note { sequence: 1, index, made };
            let bytes = slots::encode(&note);
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(hex.starts_with("4d53666f6c6c7701"), "{hex}");
            assert!(hex.ends_with(&format!("{told}0000000000000001{index:016x}")), "{hex}");
            slots::decode::<Note, SLOT_BYTES>(&bytes).unwrap()
        };
        // As earlier versions write it.
        assert_eq!(check(9, 0, "00000000").made, 0);
        assert_eq!(check(9, 9, "00000001").made, 9);
        assert_eq!(check(9, 2, "00000008").made, 2);
        assert_eq!(check(1 << 40, 2, "00000000").made, 0, "too far behind to be told");
    }

    #[test]
    fn what_is_made_is_kept_until_earlier_metadata_is_followed() {
        let (disk, dir) = (SimDisk::new(1), Path::new("/"));
        let told = |followed: &Followed| {
            let loaded = Followed::load(&disk, &dir.join(FOLLOWED_FILE)).unwrap();
            assert_eq!((loaded.index(), loaded.made()), (followed.index(), followed.made()));
            (loaded.index(), loaded.made())
        };
        let mut followed = Followed::load(&disk, &dir.join(FOLLOWED_FILE)).unwrap();
        assert_eq!(told(&followed), (0, 0));
        followed.follow(&disk, dir, 5).unwrap();
        assert_eq!(told(&followed), (5, 0));
        followed.all_made(&disk, dir, 6).unwrap();
        assert_eq!(told(&followed), (6, 6));
        followed.follow(&disk, dir, 9).unwrap();
        assert_eq!(told(&followed), (9, 6));
        followed.follow(&disk, dir, 8).unwrap();
        assert_eq!(told(&followed), (8, 0));
        followed.all_made(&disk, dir, 8).unwrap();
        disk.crash_losing_all();
        assert_eq!(told(&followed), (8, 8), "it is durable");
    }
}
