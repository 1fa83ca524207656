//! How far the directory has followed the cluster's metadata: so an older copy of that is known for what it is.
//!
//! ```text
//! METADATA file, of two slots (`slots`):
//!  0  8 "MSfollw" 1         magic and version
//!  8  4 CRC-32C of bytes 12..32
//! 12  4 zero
//! 16  8 sequence
//! 24  8 the entry of the metadata's log that was followed last
//! ```
//!
//! An entry is noted before logs are made that it, or one before it, asks for. A log that the metadata does not know is deleted: by an
//! older copy of it, it would be. Of a note with a rotten slot, the other counts.

use std::{io, path::Path, sync::Arc};

use millstream_env::{Disk, DiskFile, OpenMode};

use crate::slots::{self, Slot, field, put_fields};

/// The file's name in the data directory.
pub(crate) const FOLLOWED_FILE: &str = "METADATA";

const SLOT_BYTES: usize = 32;

/// What the note says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    sequence: u64,
    index: u64,
}

impl Slot<SLOT_BYTES> for Note {
    const MAGIC: [u8; 8] = *b"MSfollw\x01";

    fn sequence(&self) -> u64 {
        self.sequence
    }

    fn fill(&self, bytes: &mut [u8; SLOT_BYTES]) {
        put_fields(bytes, 24, &[self.index]);
    }

    fn read(sequence: u64, bytes: &[u8; SLOT_BYTES]) -> Option<Self> {
        Some(Self { sequence, index: field(bytes, 24) })
    }
}

/// The note, kept open so that it can be written whatever the process lacks: it is overwritten in place.
#[derive(Default)]
pub(crate) struct Followed(Option<(Arc<dyn DiskFile>, Note)>);

impl Followed {
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

    /// The entry; 0 where none was noted.
    pub(crate) fn index(&self) -> u64 {
        self.0.as_ref().map_or(0, |(_, note)| note.index)
    }

    /// Notes an entry, durably. (Its file's name, too, where it was made: `dir` is its directory.)
    pub(crate) fn store(&mut self, disk: &dyn Disk, dir: &Path, index: u64) -> io::Result<()> {
        match &mut self.0 {
            Some((_, note)) if note.index == index => {}
            Some((file, note)) => {
                let next = Note { sequence: note.sequence + 1, index };
                slots::store(&**file, &next)?;
                *note = next;
            }
            None => {
                let (path, note) = (dir.join(FOLLOWED_FILE), Note { sequence: 0, index });
                slots::create(disk, &path, &note)?;
                disk.sync_dir(dir)?;
                self.0 = Some((disk.open(&path, OpenMode::Write)?, note));
            }
        }
        Ok(())
    }
}
