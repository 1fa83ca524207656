//! The simulated disk: files in memory that tell what was written from what is durable.
//!
//! It is stricter than most file systems, and never kinder than the rules of [`Disk`]:
//!
//! - A file's bytes survive a [`SimDisk::crash`] once [`DiskFile::sync_data`] returned. What was written since survives sector by sector
//!   ([`SECTOR_BYTES`]), or not, or as an earlier version; the length may be the old one, the new one, or between.
//! - A name survives once [`Disk::sync_dir`] of its directory returned, however well the file itself was synced. Names that were
//!   made, renamed or removed since survive or not, each on its own; a rename within a directory is atomic. A directory's own
//!   name is held by the directory above it.
//! - A directory is opened to be synced: where no descriptor is free, nothing was.
//! - A failed sync leaves a random part on the medium and forgets that the rest was ever dirty: reads go on to show it (until
//!   [`DiskFile::forget`]), the next sync succeeds without it, and a crash loses it. So do Linux's file systems (fsyncgate).
//!
//! Faults come from [`SimDisk::inject`], a full disk from [`SimDisk::set_capacity`], a lack of descriptors from
//! [`SimDisk::set_descriptors`], bit rot from [`SimDisk::corrupt`].

mod content;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use self::tree::{InodeId, Tree};
use super::{SimRng, rng::below};
use crate::{Disk, DiskFile, DiskLock, Identity, Lack, OpenMode, Rng, Room, lack};

/// What a crash keeps or loses as one.
pub const SECTOR_BYTES: usize = 512;
/// What space is accounted in.
pub const PAGE_BYTES: usize = 4096;

/// The calls that a [`Fault`] can be put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOperation {
    /// [`Disk::open`] and [`Disk::lock`].
    Open,
    /// [`DiskFile::read_at`].
    Read,
    /// [`DiskFile::write_at`], after a random prefix was written.
    Write,
    /// [`DiskFile::sync_data`] and [`DiskFile::write_back`].
    SyncData,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`DiskFile::set_len`] and [`DiskFile::reserve`].
    Resize,
    /// [`Disk::rename`], [`Disk::remove_file`], [`Disk::remove_dir`], [`Disk::remove_dir_all`] and [`Disk::create_dir_all`].
    Names,
    /// All of these but the first two: a fault on it for good is what a machine does last before its power is gone.
    Change,
}

impl DiskOperation {
    /// Whether a fault on this is one on `call`.
    fn covers(self, call: Self) -> bool {
        self == call || (self == Self::Change && !matches!(call, Self::Open | Self::Read))
    }
}

/// Calls that fail.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which calls.
    pub operation: DiskOperation,
    /// Only those on paths that contain this text; empty for all.
    pub path_contains: String,
    /// How many of them succeed first.
    pub skip: u64,
    /// How many fail then.
    pub times: u64,
    /// The error that they return.
    pub error: FaultError,
}

/// What a failed call says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// An I/O error.
    Io,
    /// The disk is full.
    Full,
    /// The process has no descriptor left.
    Descriptors,
}

impl FaultError {
    fn into_error(self, text: String) -> io::Error {
        match self {
            Self::Io => io::Error::other(text),
            Self::Full => io::Error::new(io::ErrorKind::StorageFull, text),
            Self::Descriptors => rustix::io::Errno::MFILE.into(),
        }
    }
}

impl Fault {
    /// The `nth` call from now on (the next is 1) fails once with an I/O error.
    #[must_use]
    pub fn nth(operation: DiskOperation, nth: u64) -> Self {
        Self { operation, path_contains: String::new(), skip: nth.saturating_sub(1), times: 1, error: FaultError::Io }
    }

    /// The same with another error.
    #[must_use]
    pub fn with(mut self, error: FaultError) -> Self {
        self.error = error;
        self
    }

    /// The same that many times.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// The same on paths that contain `text` only.
    #[must_use]
    pub fn on(mut self, text: &str) -> Self {
        self.path_contains = text.into();
        self
    }

    /// The same, and all calls after it fail, too.
    #[must_use]
    pub fn for_good(mut self) -> Self {
        self.times = u64::MAX;
        self
    }
}

/// How often the disk was asked, failures included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    /// Calls of [`DiskFile::read_at`].
    pub reads: u64,
    /// Calls of [`DiskFile::write_at`].
    pub writes: u64,
    /// Bytes that they were given.
    pub written_bytes: u64,
    /// Calls of [`DiskFile::sync_data`].
    pub data_syncs: u64,
    /// Calls of [`DiskFile::write_back`].
    pub write_backs: u64,
    /// Calls of [`Disk::sync_dir`].
    pub dir_syncs: u64,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    tree: Tree,
    rng: SimRng,
    /// Counts crashes and kills: handles and locks from before are dead.
    boot: u64,
    capacity: Option<u64>,
    /// Files that may be open, and are.
    descriptors: Option<u64>,
    open: u64,
    faults: Vec<Fault>,
    counts: DiskCounts,
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimDisk")
    }
}

impl SimDisk {
    /// An empty disk; the seed decides what torn writes and failed syncs leave.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            tree: Tree::new(),
            rng: SimRng::new(seed),
            boot: 0,
            capacity: None,
            descriptors: None,
            open: 0,
            faults: Vec::new(),
            counts: DiskCounts::default(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The power fails. What is durable is kept; of the rest, `rng` decides piece by piece. Open files and locks are dead: calls on them fail.
    pub fn crash(&self, rng: &dyn Rng) {
        let mut state = self.state.lock();
        state.boot += 1;
        state.open = 0;
        state.tree.crash(Some(rng));
    }

    /// The power fails, and nothing is kept but what is durable.
    pub fn crash_losing_all(&self) {
        let mut state = self.state.lock();
        state.boot += 1;
        state.open = 0;
        state.tree.crash(None);
    }

    /// The process ends and the machine goes on: nothing is lost, open files and locks are dead.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.boot += 1;
        state.open = 0;
        state.tree.close_all();
    }

    /// Makes calls fail. Faults add up; each counts for itself.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Takes all faults back.
    pub fn clear_faults(&self) {
        self.state.lock().faults.clear();
    }

    /// How many bytes of files fit (in whole pages, names are free); none for no limit. Less than what is there refuses only growth.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// How many files may be open at a time, a directory that is being synced included; none for no limit. Fewer than there are
    /// refuses only more.
    pub fn set_descriptors(&self, files: Option<u64>) {
        self.state.lock().descriptors = files;
    }

    /// How many files are open.
    #[must_use]
    pub fn open_files(&self) -> u64 {
        self.state.lock().open
    }

    /// Bytes of disk space in use, those of removed files that are still open included.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().tree.used_bytes()
    }

    /// How often the disk was asked so far.
    #[must_use]
    pub fn counts(&self) -> DiskCounts {
        self.state.lock().counts
    }

    /// Bit rot: flips the bits of `xor` in one byte, in the cache and on the medium. Nothing past a file's end.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn corrupt(&self, path: &Path, at: u64, xor: u8) -> io::Result<()> {
        let mut state = self.state.lock();
        let id = state.tree.find(path)?;
        state.tree.file_mut(id)?.corrupt(at, xor);
        Ok(())
    }
}

impl State {
    /// Whether a fault says that this call fails.
    fn fault(&mut self, operation: DiskOperation, path: &Path) -> io::Result<()> {
        let text = path.to_string_lossy();
        let mut failure = Ok(());
        for fault in &mut self.faults {
            if !fault.operation.covers(operation) || !text.contains(&fault.path_contains) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                let text = format!("injected: {operation:?} of {}", path.display());
                failure = Err(fault.error.into_error(text));
            }
        }
        self.faults.retain(|fault| fault.times > 0);
        failure
    }

    /// Whether one more file may be opened.
    fn check_descriptor(&self) -> io::Result<()> {
        match self.descriptors {
            Some(most) if self.open >= most => Err(rustix::io::Errno::MFILE.into()),
            _ => Ok(()),
        }
    }

    /// Bytes that may still be allocated.
    fn room(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.tree.used_bytes()))
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.fault(DiskOperation::Open, path)?;
        state.check_descriptor()?;
        let id = state.tree.open(path, mode)?;
        state.open += 1;
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(SimFile { disk: self.clone(), path: path.into(), id, boot: state.boot, writable }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.fault(DiskOperation::Names, path)?;
        state.tree.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.state.lock();
        let id = state.tree.find(path)?;
        Ok(state.tree.names(id, path)?.map(|name| path.join(name)).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.state.lock().tree.find(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn is_link(&self, _path: &Path) -> io::Result<bool> {
        Ok(false)
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        let InodeId(id) = self.state.lock().tree.find(path)?;
        Ok(Identity(0, id))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.fault(DiskOperation::Names, from)?;
        state.tree.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.fault(DiskOperation::Names, path)?;
        state.tree.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.fault(DiskOperation::Names, path)?;
        state.tree.remove_dir(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.fault(DiskOperation::Names, path)?;
        state.tree.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.counts.dir_syncs += 1;
        let id = state.tree.find(path)?;
        drop(state.tree.names(id, path)?);
        state.check_descriptor()?;
        let fault = state.fault(DiskOperation::SyncDir, path);
        let State { tree, rng, .. } = &mut *state;
        match &fault {
            Ok(()) => tree.sync_dir(id, None),
            // It was not even opened.
            Err(error) if lack(error) == Some(Lack::Descriptors) => {}
            Err(_) => tree.sync_dir(id, Some(rng)),
        }
        fault
    }

    fn room(&self, path: &Path) -> io::Result<Room> {
        let state = self.state.lock();
        state.tree.find(path)?;
        Ok(Room { bytes: state.room(), files: u64::MAX, total_bytes: state.capacity.unwrap_or(u64::MAX) })
    }

    fn make_private(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut state = self.state.lock();
        state.fault(DiskOperation::Open, path)?;
        let id = state.tree.open(path, OpenMode::Create)?;
        if !state.tree.lock(id) {
            state.tree.close(id);
            let text = format!("{} is locked", path.display());
            return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
        }
        Ok(Box::new(SimLock { disk: self.clone(), id, boot: state.boot }))
    }
}

struct SimLock {
    disk: SimDisk,
    id: InodeId,
    boot: u64,
}

impl DiskLock for SimLock {
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let state = self.disk.state.lock();
        if state.boot != self.boot {
            return Err(io::Error::other("locked before the crash"));
        }
        Ok(state.tree.find(path).is_ok_and(|found| found == self.id))
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.boot == self.boot {
            state.tree.unlock(self.id);
            state.tree.close(self.id);
        }
    }
}

struct SimFile {
    disk: SimDisk,
    /// As it was opened by, for faults and errors.
    path: PathBuf,
    id: InodeId,
    boot: u64,
    writable: bool,
}

impl SimFile {
    /// Runs a call on the file, unless its machine or process has ended since it was opened.
    fn with<T>(&self, call: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state.lock();
        if state.boot != self.boot {
            let text = format!("{}: opened before the crash", self.path.display());
            return Err(io::Error::other(text));
        }
        call(&mut state)
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            return Ok(());
        }
        let text = format!("{} was opened for reading", self.path.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }

    fn full(&self) -> io::Error {
        io::Error::new(io::ErrorKind::StorageFull, format!("no space for {}", self.path.display()))
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.with(|state| {
            state.counts.reads += 1;
            state.fault(DiskOperation::Read, &self.path)?;
            Ok(state.tree.file_mut(self.id)?.live.read(buffer, at))
        })
    }

    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        self.with(|state| {
            self.check_writable()?;
            let total: usize = parts.iter().map(|part| part.len()).sum();
            state.counts.writes += 1;
            state.counts.written_bytes += total as u64;
            let fault = state.fault(DiskOperation::Write, &self.path);
            // The end of what is written must be a position.
            at.checked_add(total as u64).filter(|end| *end <= i64::MAX as u64).ok_or(io::ErrorKind::FileTooLarge)?;
            let mut keep = match fault {
                Ok(()) => total,
                Err(_) => below(&state.rng, total as u64) as usize,
            };
            let mut room = state.room();
            let State { tree, rng, .. } = &mut *state;
            let mut position = at;
            for part in parts {
                let part = &part[..part.len().min(keep)];
                keep -= part.len();
                if !tree.file_changes(self.id, |file| file.write(part, position, &mut room, rng))? {
                    return Err(self.full());
                }
                position += part.len() as u64;
            }
            fault
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state| {
            state.counts.data_syncs += 1;
            let fault = state.fault(DiskOperation::SyncData, &self.path);
            let State { tree, rng, .. } = &mut *state;
            let file = tree.file_mut(self.id)?;
            match fault {
                Ok(()) => file.sync(),
                Err(_) => file.sync_fails(rng),
            }
            fault
        })
    }

    fn write_back(&self, _: u64, _: u64) -> io::Result<()> {
        // Whether what is not synced has reached the disk is decided when the power is cut.
        self.with(|state| {
            state.counts.write_backs += 1;
            let fault = state.fault(DiskOperation::SyncData, &self.path);
            if fault.is_err() {
                let State { tree, rng, .. } = &mut *state;
                tree.file_mut(self.id)?.sync_fails(rng);
            }
            fault
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.tree.file_mut(self.id)?.live.len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state| {
            self.check_writable()?;
            state.fault(DiskOperation::Resize, &self.path)?;
            state.tree.file_changes(self.id, |file| file.set_len(len))
        })
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.with(|state| {
            self.check_writable()?;
            state.fault(DiskOperation::Resize, &self.path)?;
            let room = state.room();
            match state.tree.file_changes(self.id, |file| file.reserve(len, room))? {
                true => Ok(()),
                false => Err(self.full()),
            }
        })
    }

    fn forget(&self, at: u64, len: u64) {
        // A hint: on a dead handle there is nothing to do.
        let _ = self.with(|state| {
            state.tree.file_mut(self.id)?.forget(at, len);
            Ok(())
        });
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.boot == self.boot {
            state.open -= 1;
            state.tree.close(self.id);
        }
    }
}
