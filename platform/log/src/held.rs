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
//!
//! Where something else is in the place of the log's directory, another log's even, or of one above it, and where nothing is there, they
//! are kept *aside*: in a file of the same layout that has the log's name, `DIR/held/TOPIC.PARTITION.STREAM-GENERATION`. It goes with the log's deletion, durably, as what is in its
//! directory does by itself.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use millstream_env::{Disk, OpenMode, is_of_wrong_type};
use millstream_record::crc32c;

use crate::{
    LogId,
    bytes_io::{missing_is_fine, read_file},
    frame::{FRAME_HEADER_BYTES, Frame, FramePlace},
    journal_file::WholeFrame,
};

/// The file's name in a log's directory, and that of the directory of those that are kept aside.
pub(crate) const FILE: &str = "held";
const MAGIC: [u8; 8] = *b"MSheld\0\x01";
const HEAD_BYTES: usize = 24;
/// How much is gathered before it is written, bytes (one frame may be more).
const WRITE_BYTES: usize = 1 << 20;
const PLACE: FramePlace = FramePlace { nonce: 0, synced_lsn: 0 };

/// Where frames are kept aside in a data directory.
fn aside(data_dir: &Path, id: LogId) -> PathBuf {
    let path = id.path();
    // Below `logs`.
    let names: Vec<_> = path.iter().skip(1).filter_map(|name| name.to_str()).collect();
    data_dir.join(FILE).join(names.join("."))
}

/// The logs of which frames are kept aside.
///
/// # Errors
/// Of the disk.
pub(crate) fn list_aside(disk: &dyn Disk, data_dir: &Path) -> io::Result<Vec<LogId>> {
    let paths = match disk.read_dir(&data_dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let id = |path: &PathBuf| {
        let names: PathBuf = path.file_name()?.to_str()?.splitn(3, '.').collect();
        LogId::from_path(&names)
    };
    Ok(paths.iter().filter_map(id).collect())
}

/// Removes, durably, what is kept aside of a log, if anything is: it must not come back when the log is deleted.
///
/// # Errors
/// Of the disk.
pub(crate) fn remove_aside(disk: &dyn Disk, data_dir: &Path, id: LogId) -> io::Result<()> {
    let path = aside(data_dir, id);
    if !disk.exists(&path)? {
        return Ok(());
    }
    missing_is_fine(disk.remove_file(&path))?;
    disk.sync_dir(&data_dir.join(FILE))
}

/// The frames that are held of a log, in its directory or aside, oldest first. Also the file, where it fails.
///
/// # Errors
/// Of the disk; invalid data where the file is damaged.
pub(crate) fn load(disk: &dyn Disk, data_dir: &Path, id: LogId) -> Result<Vec<WholeFrame>, (PathBuf, io::Error)> {
    let mut found = Vec::new();
    for path in [data_dir.join(id.path()).join(FILE), aside(data_dir, id)] {
        match load_file(disk, &path) {
            Ok(held) => found.extend(held.into_iter().flatten()),
            Err(error) => return Err((path, error)),
        }
    }
    // What was kept aside may have been kept before.
    found.sort_by_key(|found| found.frame.lsn);
    Ok(found)
}

/// Those of one file; none if it is not there.
fn load_file(disk: &dyn Disk, path: &Path) -> io::Result<Option<Vec<WholeFrame>>> {
    let Some(bytes) = read_file(disk, path, u64::MAX)? else { return Ok(None) };
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
    path: PathBuf,
    /// How many directories, from the file's own on, get its name.
    depth: usize,
    gathered: Vec<u8>,
    /// Where they go.
    at: u64,
    frames: u64,
    last_lsn: u64,
}

impl Holder {
    /// Begins in the log's own directory, or aside where something else is in the place of that; `apart`: aside in any case, since another
    /// log's directory may be there, or none is, and the log's own may be put back.
    ///
    /// # Errors
    /// Of the disk, and the file.
    pub(crate) fn begin(
        disk: &dyn Disk,
        data_dir: &Path,
        id: LogId,
        apart: bool,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let of = |path: &Path| {
            let path = path.to_owned();
            |error| (path, error)
        };
        if apart {
            let aside = aside(data_dir, id);
            return Self::begin_in(disk, &aside, 2).map_err(of(&aside));
        }
        let own = data_dir.join(id.path()).join(FILE);
        // STREAM, PARTITION, TOPIC and logs: their names need not be durable.
        match Self::begin_in(disk, &own, 4) {
            Err(error) if is_of_wrong_type(&error) => {
                let aside = aside(data_dir, id);
                tracing::warn!(path = %own.display(), %error, "cannot be written: what the journal has of the log is kept in {}", aside.display());
                Self::begin_in(disk, &aside, 2).map_err(of(&aside))
            }
            begun => begun.map_err(of(&own)),
        }
    }

    /// Begins with what is held already. A file that is damaged is put aside: nobody can tell what it holds.
    fn begin_in(disk: &dyn Disk, path: &Path, depth: usize) -> io::Result<Self> {
        let mut holder =
            Self { path: path.to_owned(), depth, gathered: Vec::new(), at: HEAD_BYTES as u64, frames: 0, last_lsn: 0 };
        disk.create_dir_all(path.parent().unwrap_or(path))?;
        missing_is_fine(disk.remove_file(&holder.with(".new")))?;
        let before = match load_file(disk, path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                disk.rename(path, &holder.with(".damaged"))?;
                None
            }
            before => before?,
        };
        for found in before.iter().flatten() {
            holder.put(disk, found)?;
        }
        Ok(holder)
    }

    /// A file beside it.
    fn with(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        self.path.with_file_name(name)
    }

    /// Where the frames are kept.
    pub(crate) fn path(&self) -> &Path {
        &self.path
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
        disk.open(&self.with(".new"), OpenMode::Create)?.write_at(&[IoSlice::new(&self.gathered)], self.at)?;
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
        let beside = self.with(".new");
        let file = disk.open(&beside, OpenMode::Create)?;
        file.write_at(&[IoSlice::new(&encode_head(self.frames))], 0)?;
        file.sync_data()?;
        disk.rename(&beside, &self.path)?;
        self.path.ancestors().skip(1).take(self.depth).try_for_each(|dir| disk.sync_dir(dir))
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
            log: id(),
            durability: Durability::Fsync,
            leader_epoch: LeaderEpoch(3),
            base_offset: Offset(7),
            end_offset: Offset(7),
            payload_bytes: 0,
            payload_crc: 0,
        };
        WholeFrame { frame, payload: Bytes::new() }
    }

    fn id() -> LogId {
        LogId::records(TopicId::NIL, PartitionId(0))
    }

    fn hold(disk: &SimDisk, lsns: &[u64]) {
        let mut holder = Holder::begin(disk, Path::new("/data"), id(), false).unwrap();
        lsns.iter().for_each(|lsn| holder.put(disk, &frame(*lsn)).unwrap());
        holder.finish(disk).unwrap();
    }

    fn held(disk: &SimDisk) -> Vec<u64> {
        let found = load(disk, Path::new("/data"), id()).unwrap();
        found.iter().map(|found| found.frame.lsn).collect()
    }

    #[test]
    fn each_frame_is_held_once_and_survives_a_power_cut() {
        let disk = SimDisk::new(1);
        disk.create_dir_all(Path::new("/data/logs")).unwrap();
        ["/", "/data"].iter().for_each(|dir| disk.sync_dir(Path::new(dir)).unwrap());
        hold(&disk, &[]);
        assert!(held(&disk).is_empty());
        hold(&disk, &[3, 5]);
        hold(&disk, &[3, 5, 9]);
        disk.crash_losing_all();
        assert_eq!(held(&disk), [3, 5, 9]);
    }

    #[test]
    fn what_is_damaged_is_told_and_put_aside() {
        let (path, disk) = (Path::new("/data").join(id().path()).join(FILE), SimDisk::new(1));
        hold(&disk, &[3, 5]);
        let bytes: Bytes = read_file(&disk, &path, 10_000).unwrap().unwrap().into();
        for at in 0..bytes.len() {
            assert!(decode(&bytes.slice(..at)).is_none(), "cut at {at}");
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1;
            assert!(decode(&flipped.into()).is_none(), "byte {at}");
        }
        disk.corrupt(&path, 30, 1).unwrap();
        assert_eq!(load(&disk, Path::new("/data"), id()).err().unwrap().1.kind(), io::ErrorKind::InvalidData);
        hold(&disk, &[9]);
        assert_eq!(held(&disk), [9]);
        assert!(disk.exists(&path.with_file_name("held.damaged")).unwrap());
    }

    /// Something else is in the place of the log's directory, or of one above it.
    #[test]
    fn what_cannot_be_held_in_its_own_directory_is_held_aside() {
        for depth in 0..3 {
            let (disk, data_dir) = (SimDisk::new(1), Path::new("/data"));
            disk.create_dir_all(data_dir).unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
            let dir = data_dir.join(id().path());
            let strange = dir.ancestors().nth(depth).unwrap();
            disk.create_dir_all(strange.parent().unwrap()).unwrap();
            disk.open(strange, OpenMode::Create).unwrap();
            hold(&disk, &[3, 5]);
            hold(&disk, &[3, 5, 9]);
            disk.crash_losing_all();
            assert_eq!(list_aside(&disk, data_dir).unwrap(), [id()], "{depth}");
            // What was held before comes first, and the directory is back.
            if disk.exists(strange).unwrap() {
                disk.remove_file(strange).unwrap();
            }
            assert_eq!(held(&disk), [3, 5, 9]);
            hold(&disk, &[1, 2, 3]);
            assert_eq!(held(&disk), [1, 2, 3, 3, 5, 9]);
            remove_aside(&disk, data_dir, id()).unwrap();
            disk.crash_losing_all();
            assert_eq!((held(&disk), list_aside(&disk, data_dir).unwrap()), (vec![1, 2, 3], Vec::new()));
        }
    }
}
