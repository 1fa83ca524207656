//! Frames of a log that is out of service: kept beside its segments, since the journal is written over.
//!
//! ```text
//! held, replaced as a whole and synced:
//!  0  8 "MSheld" 0 1        magic and version
//!  8  8 number of frames
//! 16  4 CRC-32C of bytes 0..16
//! 20  4 zero
//! 24    frames with their payloads, as in the journal but for nonce and synced LSN, which are zero; their LSNs ascend
//! ```
//!
//! It holds no more than the journal did when the log went out of service (`journal_bytes_max`, 1 GiB by default): from then on the
//! journal gets nothing of the log but its Drop. A start reads one log's file at a time, into memory as a whole.
//!
//! A start that can load the log again replays them before the journal's, and removes the file once the log is synced.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use millstream_env::{Disk, OpenMode};
use millstream_record::crc32c;

use crate::{
    bytes_io::{missing_is_fine, read_file},
    frame::{FRAME_HEADER_BYTES, Frame, Place},
    journal_file::WholeFrame,
};

/// The file's name.
pub(crate) const FILE: &str = "held";
const MAGIC: [u8; 8] = *b"MSheld\0\x01";
const HEAD_BYTES: usize = 24;
/// How much is gathered before it is written, bytes (one frame may be more).
const WRITE_BYTES: usize = 1 << 20;
const PLACE: Place = Place { nonce: 0, synced_lsn: 0 };

/// The frames that are held of a log, oldest first; none if there is no such file.
///
/// # Errors
/// Of the disk; invalid data where the file is damaged.
pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Vec<WholeFrame>>> {
    let Some(bytes) = read_file(disk, &dir.join(FILE), u64::MAX)? else { return Ok(None) };
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is not what was written");
    decode(&bytes.into()).map(Some).ok_or_else(damaged)
}

fn decode(bytes: &Bytes) -> Option<Vec<WholeFrame>> {
    let head = bytes.get(..HEAD_BYTES)?;
    if *head != encode_head(u64::from_be_bytes(head[8..16].try_into().ok()?)) {
        return None;
    }
    let count = u64::from_be_bytes(head[8..16].try_into().ok()?);
    let (mut at, mut found) = (HEAD_BYTES, Vec::new());
    while at < bytes.len() {
        let (frame, _) = Frame::decode(&bytes[at..], PLACE.nonce).ok()?;
        let end = at.checked_add(FRAME_HEADER_BYTES)?.checked_add(frame.payload_bytes as usize)?;
        if end > bytes.len() {
            return None;
        }
        let payload = bytes.slice(at + FRAME_HEADER_BYTES..end);
        if !frame.holds(&payload) {
            return None;
        }
        found.push(WholeFrame { frame, payload });
        at = end;
    }
    (found.len() as u64 == count).then_some(found)
}

fn encode_head(frames: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&MAGIC);
    head[8..16].copy_from_slice(&frames.to_be_bytes());
    let crc = crc32c(&head[..16]);
    head[16..20].copy_from_slice(&crc.to_be_bytes());
    head
}

/// Writes the frames of one log.
pub(crate) struct Holder {
    dir: PathBuf,
    gathered: Vec<u8>,
    /// Where they go.
    at: u64,
    frames: u64,
    last_lsn: u64,
}

impl Holder {
    /// Begins with what is held already. A file that is damaged is put aside: nobody can tell what it holds.
    pub(crate) fn begin(disk: &dyn Disk, dir: &Path) -> io::Result<Self> {
        disk.create_dir_all(dir)?;
        let mut holder =
            Self { dir: dir.to_owned(), gathered: Vec::new(), at: HEAD_BYTES as u64, frames: 0, last_lsn: 0 };
        missing_is_fine(disk.remove_file(&holder.beside()))?;
        let before = match load(disk, dir) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                disk.rename(&dir.join(FILE), &dir.join("held.damaged"))?;
                None
            }
            before => before?,
        };
        for found in before.iter().flatten() {
            holder.put(disk, found)?;
        }
        Ok(holder)
    }

    fn beside(&self) -> PathBuf {
        self.dir.join("held.new")
    }

    /// Adds a frame, unless it is held already.
    pub(crate) fn put(&mut self, disk: &dyn Disk, found: &WholeFrame) -> io::Result<()> {
        if found.frame.lsn <= self.last_lsn {
            return Ok(());
        }
        self.gathered.extend_from_slice(&found.frame.encode(PLACE));
        self.gathered.extend_from_slice(&found.payload);
        (self.frames, self.last_lsn) = (self.frames + 1, found.frame.lsn);
        match self.gathered.len() >= WRITE_BYTES {
            true => self.flush(disk),
            false => Ok(()),
        }
    }

    fn flush(&mut self, disk: &dyn Disk) -> io::Result<()> {
        disk.open(&self.beside(), OpenMode::Create)?.write_at(&[IoSlice::new(&self.gathered)], self.at)?;
        self.at += self.gathered.len() as u64;
        self.gathered.clear();
        Ok(())
    }

    /// Gives the file its name, durably. Nothing is written where nothing is to be held.
    pub(crate) fn finish(mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.frames == 0 {
            return Ok(());
        }
        self.flush(disk)?;
        let file = disk.open(&self.beside(), OpenMode::Create)?;
        file.write_at(&[IoSlice::new(&encode_head(self.frames))], 0)?;
        file.sync_data()?;
        disk.rename(&self.beside(), &self.dir.join(FILE))?;
        // STREAM, PARTITION, TOPIC and logs: the log may have lost its directory.
        self.dir.ancestors().take(4).try_for_each(|dir| disk.sync_dir(dir))
    }
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::SimDisk;
    use millstream_model::{Durability, LeaderEpoch, Offset, PartitionId, TopicId};

    use super::*;
    use crate::{LogId, frame::Kind};

    fn frame(lsn: u64) -> WholeFrame {
        let frame = Frame {
            lsn,
            kind: Kind::EpochStart,
            log: LogId::records(TopicId::NIL, PartitionId(0)),
            durability: Durability::Fsync,
            leader_epoch: LeaderEpoch(3),
            base_offset: Offset(7),
            end_offset: Offset(7),
            payload_bytes: 0,
            payload_crc: 0,
        };
        WholeFrame { frame, payload: Bytes::new() }
    }

    fn hold(disk: &SimDisk, lsns: &[u64]) {
        let mut holder = Holder::begin(disk, Path::new("/a/b/c/d")).unwrap();
        lsns.iter().for_each(|lsn| holder.put(disk, &frame(*lsn)).unwrap());
        holder.finish(disk).unwrap();
    }

    fn held(disk: &SimDisk) -> Option<Vec<u64>> {
        let found = load(disk, Path::new("/a/b/c/d")).unwrap()?;
        Some(found.iter().map(|found| found.frame.lsn).collect())
    }

    #[test]
    fn each_frame_is_held_once_and_survives_a_power_cut() {
        let disk = SimDisk::new(1);
        disk.create_dir_all(Path::new("/a")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        hold(&disk, &[]);
        assert_eq!(held(&disk), None);
        hold(&disk, &[3, 5]);
        hold(&disk, &[3, 5, 9]);
        disk.crash_losing_all();
        assert_eq!(held(&disk), Some(vec![3, 5, 9]));
    }

    #[test]
    fn what_is_damaged_is_told_and_put_aside() {
        let path = Path::new("/a/b/c/d/held");
        let disk = SimDisk::new(1);
        hold(&disk, &[3, 5]);
        let bytes: Bytes = read_file(&disk, path, 10_000).unwrap().unwrap().into();
        for at in 0..bytes.len() {
            assert!(decode(&bytes.slice(..at)).is_none(), "cut at {at}");
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1;
            assert!(decode(&flipped.into()).is_none(), "byte {at}");
        }
        disk.corrupt(path, 30, 1).unwrap();
        assert_eq!(load(&disk, Path::new("/a/b/c/d")).err().unwrap().kind(), io::ErrorKind::InvalidData);
        hold(&disk, &[9]);
        assert_eq!(held(&disk), Some(vec![9]));
        assert!(disk.exists(Path::new("/a/b/c/d/held.damaged")).unwrap());
    }
}
