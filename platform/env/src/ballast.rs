//! Room set aside for what must not fail when the disk is full: a file that is given up then.
//!
//! Who keeps a promise needs a few pages even on a full disk: a mark before a journal can be recycled, a catalog's entry
//! before a topic can be deleted and room made. Writes through [`Ballast::disk`] that find no room give the file up and try
//! again. Until [`Ballast::hold`] has made it again, whoever only wants more of the disk should be refused
//! ([`Ballast::is_held`]), or it would take what was set free.

use std::{
    io::{self, IoSlice},
    os::fd::RawFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::{
    Disk, DiskFile, DiskLock, Identity, OpenMode, Room,
    disk::{Lack, lack},
};

/// In how many halvings less than all is looked for.
const PARTS_MAX: u32 = 8;

/// See the module's documentation. Shared: the disk that it gives out holds it, too.
pub struct Ballast {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    bytes: u64,
    /// How much of it is set aside, bytes.
    held: AtomicU64,
    /// One at a time makes or removes the file.
    turn: Mutex<()>,
}

impl Ballast {
    /// Room of `bytes` in a file at `path`, which is not made yet.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, path: PathBuf, bytes: u64) -> Arc<Self> {
        Arc::new(Self { disk, path, bytes, held: AtomicU64::new(0), turn: Mutex::new(()) })
    }

    /// Sets the room aside, if it is not already and `more` bytes would be left beside it. Whether it is now: there may not be enough.
    ///
    /// # Errors
    /// The operating system's, but for a lack of room or descriptors.
    pub fn hold(&self, more: u64) -> io::Result<bool> {
        let _turn = self.turn.lock();
        if self.is_held() {
            return Ok(true);
        }
        // Or the attempt would take all there is, for a moment, from those who have need of it. What a killed process has left is there
        // already; and where the file system does not tell, it is tried all the same.
        let held = self.held.load(Ordering::Acquire);
        let scant = self.room().is_some_and(|room| room.saturating_add(held) < self.bytes.saturating_add(more));
        if scant && (held > 0 || !self.disk.exists(&self.path)?) {
            return Ok(false);
        }
        self.make(self.bytes)
    }

    /// Where nothing is set aside, sets aside some of it at least: what is left of the disk. It is given up like all of it, and does not
    /// count as held.
    ///
    /// # Errors
    /// As [`Ballast::hold`].
    pub fn hold_some(&self) -> io::Result<()> {
        let _turn = self.turn.lock();
        let part =
            |room: u64| (1..PARTS_MAX).map(|halved| self.bytes >> halved).find(|part| *part > 0 && *part <= room);
        match self.room().and_then(part) {
            Some(part) if self.held.load(Ordering::Acquire) == 0 => self.make(part).map(drop),
            _ => Ok(()),
        }
    }

    /// The room that there is, bytes; none where the file system does not tell.
    fn room(&self) -> Option<u64> {
        Some(self.disk.room(self.path.parent()?).ok()?.bytes)
    }

    fn make(&self, bytes: u64) -> io::Result<bool> {
        let made = self.disk.open(&self.path, OpenMode::Create).and_then(|file| file.reserve(bytes));
        match made {
            Ok(()) => self.held.store(bytes, Ordering::Release),
            Err(error) => {
                self.held.store(0, Ordering::Release);
                if lack(&error).is_none() {
                    return Err(error);
                }
                // Where it was not made, there is nothing to remove.
                let _ = self.disk.remove_file(&self.path);
            }
        }
        Ok(self.is_held())
    }

    /// Whether the room is set aside, all of it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire) == self.bytes
    }

    /// The file that holds the room.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the room up. Whether there was any: then a call that was refused for lack of it may be made again.
    pub fn release(&self) -> bool {
        let _turn = self.turn.lock();
        self.held.swap(0, Ordering::AcqRel) > 0 && self.disk.remove_file(&self.path).is_ok()
    }

    /// The same disk, whose writes give the room up rather than fail for lack of it. ([`DiskFile::reserve`] and what makes a
    /// file longer without writing are refused as ever.)
    #[must_use]
    pub fn disk(self: &Arc<Self>) -> Arc<dyn Disk> {
        Arc::new(Ballasted(self.clone()))
    }

    fn insist<T>(&self, call: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match call() {
            Err(error) if lack(&error) == Some(Lack::Room) && self.release() => call(),
            outcome => outcome,
        }
    }
}

impl std::fmt::Debug for Ballast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ballast({}, held: {})", self.path.display(), self.is_held())
    }
}

struct Ballasted(Arc<Ballast>);

impl Disk for Ballasted {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.0.insist(|| self.0.disk.open(path, mode))?;
        Ok(Arc::new(BallastedFile { ballast: self.0.clone(), file }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.insist(|| self.0.disk.create_dir_all(path))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.disk.read_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.disk.exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.insist(|| self.0.disk.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.insist(|| self.0.disk.remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.insist(|| self.0.disk.remove_dir(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.insist(|| self.0.disk.remove_dir_all(path))
    }

    // After a failed sync nothing is believed: it is not made again.
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.disk.sync_dir(path)
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        self.0.disk.is_link(path)
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        self.0.disk.identity(path)
    }

    fn room(&self, path: &Path) -> io::Result<Room> {
        self.0.disk.room(path)
    }

    fn make_private(&self, path: &Path) -> io::Result<()> {
        self.0.disk.make_private(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.0.insist(|| self.0.disk.lock(path))
    }
}

struct BallastedFile {
    ballast: Arc<Ballast>,
    file: Arc<dyn DiskFile>,
}

impl DiskFile for BallastedFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buffer, at)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        self.ballast.insist(|| self.file.write_at(parts, at))
    }

    fn may_reach(&self, len: u64) -> bool {
        self.file.may_reach(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_back(&self, at: u64, len: u64) -> io::Result<()> {
        self.file.write_back(at, len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.file.reserve(len)
    }

    fn forget(&self, at: u64, len: u64) {
        self.file.forget(at, len);
    }

    fn descriptor(&self) -> Option<RawFd> {
        self.file.descriptor()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{DiskOperation, Fault, PAGE_BYTES, SimDisk};

    #[test]
    fn a_write_that_finds_no_room_takes_what_was_set_aside_once() {
        let disk = SimDisk::new(1);
        let ballast = Ballast::new(Arc::new(disk.clone()), "/ballast".into(), 4 * PAGE_BYTES as u64);
        let page = [7; PAGE_BYTES];
        assert!(!ballast.is_held());
        assert!(ballast.hold(0).unwrap() && ballast.hold(0).unwrap());
        disk.set_capacity(Some(4 * PAGE_BYTES as u64));
        let plain = disk.open(Path::new("/plain"), OpenMode::Create).unwrap();
        assert_eq!(lack(&plain.write_at(&[IoSlice::new(&page)], 0).unwrap_err()), Some(Lack::Room));
        let file = ballast.disk().open(Path::new("/file"), OpenMode::Create).unwrap();
        for at in 0..4 {
            file.write_at(&[IoSlice::new(&page)], at * PAGE_BYTES as u64).unwrap();
            assert!(!ballast.is_held());
        }
        let refused = file.write_at(&[IoSlice::new(&page)], 4 * PAGE_BYTES as u64).unwrap_err();
        assert_eq!(lack(&refused), Some(Lack::Room));
        // It is held again once there is room for all of it, and what is to be left beside it.
        assert!(!ballast.hold(0).unwrap() && !disk.exists(ballast.path()).unwrap());
        disk.set_capacity(Some(8 * PAGE_BYTES as u64));
        assert!(!ballast.hold(1).unwrap() && !disk.exists(ballast.path()).unwrap());
        assert!(ballast.hold(0).unwrap());
        // Or a part of that, which is not counted and given up all the same.
        assert!(ballast.release());
        disk.set_capacity(Some(disk.used_bytes() + 3 * PAGE_BYTES as u64));
        ballast.hold_some().unwrap();
        assert!(!ballast.is_held() && disk.exists(ballast.path()).unwrap());
        assert_eq!(disk.room(Path::new("/")).unwrap().bytes, PAGE_BYTES as u64);
        file.write_at(&[IoSlice::new(&page), IoSlice::new(&page)], 4 * PAGE_BYTES as u64).unwrap();
        disk.set_capacity(Some(disk.used_bytes() + 2 * PAGE_BYTES as u64));
        ballast.hold_some().unwrap();
        disk.set_capacity(Some(disk.used_bytes() + 2 * PAGE_BYTES as u64));
        assert!(ballast.hold(0).unwrap(), "what is held is part of it");
        // The next process has it already.
        let next = Ballast::new(Arc::new(disk.clone()), ballast.path().into(), 4 * PAGE_BYTES as u64);
        assert!(next.hold(0).unwrap());
    }

    /// An attempt that fails has had all that there was until it failed.
    #[test]
    fn what_there_is_not_room_for_is_not_tried_for() {
        let disk = SimDisk::new(1);
        let ballast = Ballast::new(Arc::new(disk.clone()), "/ballast".into(), 4 * PAGE_BYTES as u64);
        disk.set_capacity(Some(3 * PAGE_BYTES as u64));
        disk.inject(Fault::nth(DiskOperation::Resize, 1));
        assert!(!ballast.hold(0).unwrap());
    }
}
