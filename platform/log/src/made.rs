//! What a mark file says of its log, behind the slots: by which entry of the cluster's metadata the log was made, and which log it is.
//!
//! ```text
//! from byte 8192 on, the making; zero where it is not known:
//!  0  8 "MSmade" 0 1        magic and version
//!  8  4 CRC-32C of bytes 12..32
//! 12 12 zero
//! 24  8 the entry
//!
//! from byte 8224 on, the log:
//!  0  8 "MSlogid" 1         magic and version
//!  8  4 CRC-32C of bytes 12..56
//! 12  4 stream kind, 0 0 0
//! 16 16 topic              32  4 partition      36  4 generation
//! 40 16 transform, or zero
//! ```
//!
//! *The making* tells the log of a deleted topic from one that an older copy of the metadata does not know yet. The metadata at that
//! entry, or at a later one, knows the log, or has seen it deleted. So a log that it does not know may go if it reaches to there; if it
//! ends before, it is an older copy.
//!
//! Until the first mark the journal has it, in each EpochStart (of entries below 2^32), which comes before all else of a log and is
//! never carried forward. It never changes. Logs of earlier versions have none, and neither has one whose note is not sound. A log that
//! the metadata knows is given one at a start ([`crate::Storage::note_made`]). Of one that it does not know, nobody can tell whether it
//! may go: it stays.
//!
//! *Which log it is* tells a directory that was exchanged with another's, or put back in the wrong place: segments do not name their
//! log, and the mark goes with them. A start looks at it before anything else of the directory, in which nothing is changed then. In a
//! file of an earlier version, or where this is not sound, it is not told, and the directory's name counts.
//!
//! They are written with a mark: the first one, which costs no sync more, or the next where one is missing or is known only then; before
//! it, and synced, since the journal need not have what a mark covers.

use std::{
    io::{self, IoSlice},
    path::Path,
};

use millstream_env::{Disk, DiskFile, OpenMode};
use millstream_model::{PartitionId, TopicId};
use millstream_record::crc32c;
use uuid::Uuid;

use crate::{
    LogId, Stream,
    slots::{self, SLOT_STRIDE, Slot, field, put_fields},
};

/// Where in the mark file it begins: never in one page with a slot, which is written over.
const AT: u64 = 2 * SLOT_STRIDE;

const NOTE_BYTES: usize = 32;
const NAME_MAGIC: [u8; 8] = *b"MSlogid\x01";
const NAME_BYTES: usize = 56;
/// Within one sector.
const BYTES: usize = NOTE_BYTES + NAME_BYTES;

/// What is known of a log's making, and whether its mark file says it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Made {
    /// 0: that is not known.
    entry: u64,
    /// The file does not say this, or not which log it is.
    unwritten: bool,
}

impl Made {
    /// Of a log whose file says nothing yet; 0: it is not known.
    pub(crate) fn unwritten(entry: u64) -> Self {
        Self { entry, unwritten: true }
    }

    /// Of a log whose file says that.
    pub(crate) fn found(noted: Noted) -> Self {
        Self { entry: noted.made_by, unwritten: noted.log.is_none() }
    }

    /// The entry; none if it is not known.
    pub(crate) fn entry(self) -> Option<u64> {
        (self.entry > 0).then_some(self.entry)
    }

    /// Takes an entry for the log's, if none is known.
    pub(crate) fn learn(&mut self, entry: u64) {
        if self.entry == 0 && entry > 0 {
            *self = Self::unwritten(entry);
        }
    }

    /// What is to be written with the next mark of that log; none if nothing is.
    pub(crate) fn to_write(self, log: LogId) -> Option<Noted> {
        self.unwritten.then_some(Noted { made_by: self.entry, log: Some(log) })
    }

    /// Takes note that it was written. What was learnt meanwhile is to be written still.
    pub(crate) fn was_written(&mut self, noted: Noted) {
        self.unwritten &= self.entry != noted.made_by;
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

/// What a mark file says behind its slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    /// By which entry the log was made; 0: it does not say, or what it has there is not sound.
    pub(crate) made_by: u64,
    /// Which log it is; none: the same.
    pub(crate) log: Option<LogId>,
}

impl Noted {
    fn encode(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let (note, name) = bytes.split_at_mut(NOTE_BYTES);
        if self.made_by > 0 {
            note.copy_from_slice(&slots::encode::<_, NOTE_BYTES>(&Note(self.made_by)));
        }
        if let Some(log) = self.log {
            name.copy_from_slice(&encode_name(log));
        }
        bytes
    }

    /// Puts it behind the slots of a new file.
    pub(crate) fn append_to(self, file: &mut Vec<u8>) {
        file.resize(AT as usize, 0);
        file.extend_from_slice(&self.encode());
    }

    /// Writes it into a mark file, but for the making where that is not known; not synced.
    pub(crate) fn write(self, mark: &dyn DiskFile) -> io::Result<()> {
        let from = if self.made_by > 0 { 0 } else { NOTE_BYTES };
        mark.write_at(&[IoSlice::new(&self.encode()[from..])], AT + from as u64)
    }

    /// What a mark file says.
    pub(crate) fn read(mark: &dyn DiskFile) -> io::Result<Self> {
        let mut bytes = [0; BYTES];
        let read = mark.read_at(&mut bytes, AT)?;
        let (note, name) = bytes[..read].split_at(NOTE_BYTES.min(read));
        let made_by = note.try_into().ok().and_then(slots::decode::<Note, NOTE_BYTES>).map_or(0, |note| note.0);
        Ok(Self { made_by, log: name.try_into().ok().and_then(decode_name) })
    }

    /// What the mark file of a log's directory says, whatever becomes of the rest; nothing where it cannot be read.
    pub(crate) fn of_dir(disk: &dyn Disk, dir: &Path) -> Self {
        disk.open(&dir.join("mark"), OpenMode::Read).and_then(|file| Self::read(&*file)).unwrap_or_default()
    }

    /// The log that it tells of, if that is another one.
    pub(crate) fn other_than(self, id: LogId) -> Option<LogId> {
        self.log.filter(|log| *log != id)
    }
}

fn encode_name(log: LogId) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    let (stream, of) = log.stream.code();
    bytes[..8].copy_from_slice(&NAME_MAGIC);
    bytes[12] = stream;
    bytes[16..32].copy_from_slice(log.topic.0.as_bytes());
    bytes[32..36].copy_from_slice(&log.partition.0.to_be_bytes());
    bytes[36..40].copy_from_slice(&log.generation.to_be_bytes());
    bytes[40..56].copy_from_slice(of.as_bytes());
    let crc = crc32c(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// The reverse; none where it is not sound, or a newer version's.
fn decode_name(bytes: &[u8; NAME_BYTES]) -> Option<LogId> {
    let u32_at = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let uuid_at = |at: usize| Uuid::from_slice(&bytes[at..at + 16]).ok();
    if bytes[..8] != NAME_MAGIC || u32_at(8) != crc32c(&bytes[12..]) || bytes[13..16] != [0; 3] {
        return None;
    }
    Some(LogId {
        topic: TopicId(uuid_at(16)?),
        partition: PartitionId(u32_at(32).cast_signed()),
        stream: Stream::from_code(bytes[12], uuid_at(40)?)?,
        generation: u32_at(36),
    })
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::SimDisk;
    use millstream_model::TransformId;

    use super::*;

    fn log() -> LogId {
        LogId {
            topic: TopicId(Uuid::from_u128(0x1112)),
            partition: PartitionId(3),
            stream: Stream::Progress(TransformId(Uuid::from_u128(0x2122))),
            generation: 4,
        }
    }

    #[test]
    fn a_note_has_these_bytes_for_ever_and_none_is_taken_for_it() {
        let noted = Noted { made_by: 0x0102_0304_0506_0708, log: Some(log()) };
        let bytes = noted.encode();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let (made, name) = hex.split_at(2 * NOTE_BYTES);
        assert!(made.starts_with("4d536d6164650001"), "{made}");
        assert!(made.ends_with("0000000000000000000000000102030405060708"), "{made}");
        assert!(name.starts_with("4d536c6f67696401"), "{name}");
        let fields = "01000000000000000000000000000000000011120000000300000004";
        assert!(name.ends_with(&format!("{fields}00000000000000000000000000002122")), "{name}");
        let (disk, path) = (SimDisk::new(1), Path::new("/mark"));
        let read = |bytes: &[u8]| {
            let file = disk.open(path, OpenMode::Create).unwrap();
            file.set_len(0).unwrap();
            file.write_at(&[IoSlice::new(bytes)], AT).unwrap();
            assert_eq!(Noted::of_dir(&disk, Path::new("/")), Noted::read(&*file).unwrap());
            Noted::read(&*file).unwrap()
        };
        assert_eq!(read(&bytes), noted);
        // As earlier versions leave it.
        assert_eq!(read(&bytes[..NOTE_BYTES]), Noted { log: None, ..noted });
        for at in 0..BYTES {
            let mut flipped = bytes;
            flipped[at] ^= 1;
            let is_made = at < NOTE_BYTES;
            let left = if is_made { Noted { made_by: 0, ..noted } } else { Noted { log: None, ..noted } };
            assert_eq!(read(&flipped), left, "byte {at}");
            let cut = if is_made { Noted::default() } else { Noted { log: None, ..noted } };
            assert_eq!(read(&bytes[..at]), cut, "cut at {at}");
        }
        assert_eq!(Noted::of_dir(&disk, Path::new("/none")), Noted::default());
        assert_eq!(noted.other_than(log()), None);
        assert_eq!(noted.other_than(LogId { generation: 5, ..log() }), Some(log()));
        assert_eq!(Noted::default().other_than(log()), None);
    }

    #[test]
    fn an_entry_is_learnt_once_and_a_frame_has_what_it_can() {
        let to_write = |made: Made| made.to_write(log()).map(|noted| (noted.made_by, noted.log));
        let mut made = Made::found(Noted { made_by: 0, log: Some(log()) });
        assert_eq!((made.entry(), to_write(made), made.in_frame()), (None, None, 0));
        made.learn(0);
        assert_eq!(to_write(made), None);
        made.learn(7);
        made.learn(9);
        assert_eq!((made.entry(), to_write(made), made.in_frame()), (Some(7), Some((7, Some(log()))), 7));
        made.was_written(Noted { made_by: 7, log: Some(log()) });
        assert_eq!(to_write(made), None);
        let mut made = Made::found(Noted { made_by: 1 << 32, log: Some(log()) });
        made.learn(7);
        assert_eq!((made.entry(), to_write(made), made.in_frame()), (Some(1 << 32), None, 0));
        // An earlier version's; and what is learnt while that is written.
        let mut made = Made::found(Noted { made_by: 0, log: None });
        let noted = made.to_write(log()).unwrap();
        made.learn(7);
        made.was_written(noted);
        assert_eq!(to_write(made), Some((7, Some(log()))));
    }
}
