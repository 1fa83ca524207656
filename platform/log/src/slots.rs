//! Small files of two slots: what they hold is written anew in place, and a write that is cut off takes nothing with it.
//!
//! ```text
//! slot 0 at byte 0, slot 1 at byte 4096; each:
//!  0  8 magic and version of what the file holds
//!  8  4 CRC-32C of the slot's bytes from 12 on
//! 12  4 the holder's
//! 16  8 sequence: slot = sequence % 2
//! 24    the holder's
//! ```
//!
//! *Writing.* The sequence counts what was written, from 0. Each goes to the slot of its own sequence, which is that of the one before
//! the last: the last one stays whole meanwhile. The file is made by a rename of a synced one, with zeros in the other slot.
//!
//! *Reading.* A slot is sound if its magic and CRC are right, its sequence is of that slot, and its holder can make sense of it. The
//! sound one with the greater sequence counts. One that is not sound and not all zeros is *rotten*: a slot lies in one sector, which
//! a crash does not tear, so it may have been the newer one. What that means is the holder's to say. There is always a sound one, but
//! for damage.

use std::{
    io::{self, IoSlice},
    path::Path,
};

use millstream_env::{Disk, DiskFile};
use millstream_record::crc32c;

use crate::bytes_io::replace_file;

/// How far the slots are apart, bytes: never in one sector, nor in one page.
pub(crate) const SLOT_STRIDE: u64 = 4096;

/// What a file of two slots holds. `BYTES`: how long a slot is, 24 at least.
pub(crate) trait Slot<const BYTES: usize>: Sized {
    /// What is held, and in which version.
    const MAGIC: [u8; 8];

    /// Counts what was written to the file, from 0.
    fn sequence(&self) -> u64;

    /// Fills in the holder's own bytes: 12..16 and 24.., which are zero.
    fn fill(&self, bytes: &mut [u8; BYTES]);

    /// Reads it from a slot whose magic and CRC are right; none where nobody writes such a one.
    fn read(sequence: u64, bytes: &[u8; BYTES]) -> Option<Self>;
}

/// What a file's slots hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slots<T> {
    /// What counts.
    pub(crate) newest: T,
    /// What was written before it, if that is sound.
    pub(crate) older: Option<T>,
    /// The other slot is rotten.
    pub(crate) rotten: bool,
}

/// Reads both slots of a file.
///
/// # Errors
/// Of the reading. Invalid data where no slot is sound.
pub(crate) fn load<T: Slot<BYTES>, const BYTES: usize>(file: &dyn DiskFile) -> io::Result<Slots<T>> {
    let (mut newest, mut older): (Option<T>, Option<T>) = (None, None);
    let mut rotten = false;
    for slot in 0..2 {
        let mut bytes = [0; BYTES];
        let whole = file.read_at(&mut bytes, slot * SLOT_STRIDE)? == BYTES;
        match decode::<T, BYTES>(&bytes).filter(|found| whole && found.sequence() % 2 == slot) {
            Some(found) if newest.as_ref().is_none_or(|newest| newest.sequence() < found.sequence()) => {
                older = newest.replace(found);
            }
            Some(found) => older = Some(found),
            // The first write leaves zeros in the other slot.
            None => rotten |= !whole || bytes != [0; BYTES],
        }
    }
    let none_is_sound = || io::Error::new(io::ErrorKind::InvalidData, "neither of its slots is sound");
    let newest = newest.ok_or_else(none_is_sound)?;
    Ok(Slots { newest, older, rotten })
}

/// Makes the file with what it holds first, synced; its name is durable once the directory is synced.
pub(crate) fn create<T: Slot<BYTES>, const BYTES: usize>(disk: &dyn Disk, path: &Path, first: &T) -> io::Result<()> {
    replace_file(disk, path, &[&first_bytes(first)], true)
}

/// The bytes of a file with what it holds first.
pub(crate) fn first_bytes<T: Slot<BYTES>, const BYTES: usize>(first: &T) -> Vec<u8> {
    let mut file = vec![0; SLOT_STRIDE as usize + BYTES];
    let at = (first.sequence() % 2 * SLOT_STRIDE) as usize;
    file[at..at + BYTES].copy_from_slice(&encode(first));
    file
}

/// Writes what comes next in place of the one before the last, and syncs it.
pub(crate) fn store<T: Slot<BYTES>, const BYTES: usize>(file: &dyn DiskFile, next: &T) -> io::Result<()> {
    file.write_at(&[IoSlice::new(&encode(next))], next.sequence() % 2 * SLOT_STRIDE)?;
    file.sync_data()
}

/// The bytes of a slot.
pub(crate) fn encode<T: Slot<BYTES>, const BYTES: usize>(held: &T) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    held.fill(&mut bytes);
    bytes[..8].copy_from_slice(&T::MAGIC);
    bytes[16..24].copy_from_slice(&held.sequence().to_be_bytes());
    let crc = crc32c(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// The reverse; none where it is not sound.
pub(crate) fn decode<T: Slot<BYTES>, const BYTES: usize>(bytes: &[u8; BYTES]) -> Option<T> {
    let crc = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if bytes[..8] != T::MAGIC || crc != crc32c(&bytes[12..]) {
        return None;
    }
    T::read(field(bytes, 16), bytes)
}

/// Eight bytes of a slot as a number.
pub(crate) fn field(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().fold(0, |field, byte| field << 8 | u64::from(*byte))
}

/// Puts numbers into a slot, one after the other, from a byte on.
pub(crate) fn put_fields(bytes: &mut [u8], at: usize, fields: &[u64]) {
    for (place, field) in bytes[at..].chunks_exact_mut(8).zip(fields) {
        place.copy_from_slice(&field.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use millstream_env::{OpenMode, sim::SimDisk};

    use super::*;

    /// A sequence and what was written with it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Note(u64, u64);

    impl Slot<32> for Note {
        const MAGIC: [u8; 8] = *b"MStest\0\x01";

        fn sequence(&self) -> u64 {
            self.0
        }

        fn fill(&self, bytes: &mut [u8; 32]) {
            put_fields(bytes, 24, &[self.1]);
        }

        fn read(sequence: u64, bytes: &[u8; 32]) -> Option<Self> {
            Some(Self(sequence, field(bytes, 24)))
        }
    }

    fn slots(newest: u64, older: Option<u64>, rotten: bool) -> Slots<Note> {
        let note = |sequence| Note(sequence, 100 + sequence);
        Slots { newest: note(newest), older: older.map(note), rotten }
    }

    #[test]
    fn each_is_written_in_place_of_the_one_before_the_last() {
        let (disk, path) = (SimDisk::new(1), Path::new("/file"));
        for first in 0..2 {
            create(&disk, path, &Note(first, 100 + first)).unwrap();
            let file = disk.open(path, OpenMode::Write).unwrap();
            assert_eq!(load(&*file).unwrap(), slots(first, None, false));
            for sequence in first + 1..first + 5 {
                store(&*file, &Note(sequence, 100 + sequence)).unwrap();
                assert_eq!(load(&*file).unwrap(), slots(sequence, Some(sequence - 1), false));
            }
        }
    }

    #[test]
    fn a_slot_that_is_not_sound_is_told_and_the_other_counts() {
        let (disk, path) = (SimDisk::new(1), Path::new("/file"));
        let whole = [4, 5].map(|sequence| encode(&Note(sequence, 100 + sequence)));
        let check = |slots: [&[u8]; 2], expected: Option<Slots<Note>>| {
            let file = disk.open(path, OpenMode::Create).unwrap();
            file.set_len(0).unwrap();
            for (bytes, at) in slots.into_iter().zip([0, SLOT_STRIDE]) {
                file.write_at(&[IoSlice::new(bytes)], at).unwrap();
            }
            let found = load::<Note, 32>(&*file);
            let kind = found.as_ref().err().map(io::Error::kind);
            assert_eq!(found.ok(), expected);
            assert_eq!(kind.is_some(), kind == Some(io::ErrorKind::InvalidData), "{kind:?}");
        };
        check([&whole[0], &whole[1]], Some(slots(5, Some(4), false)));
        for at in 0..32 {
            let flipped = whole.map(|mut slot| {
                slot[at] ^= 1;
                slot
            });
            check([&whole[0], &flipped[1]], Some(slots(4, None, true)));
            check([&flipped[0], &whole[1]], Some(slots(5, None, true)));
            check([&flipped[0], &flipped[1]], None);
        }
        // Cut short, in the place of the other, or never written.
        check([&whole[0], &whole[1][..31]], Some(slots(4, None, true)));
        check([&whole[0], &[0; 31]], Some(slots(4, None, true)));
        check([&whole[0], &whole[0]], Some(slots(4, None, true)));
        check([&whole[1], &whole[1]], Some(slots(5, None, true)));
        check([&[0; 32], &whole[1]], Some(slots(5, None, false)));
        check([&[0; 32], &[0; 32]], None);
    }
}
