//! The segments' open files: so many at most, and those that were not used for longest are closed first.
//!
//! A file that was written and not synced since stays open: a write-back that fails meanwhile is told to whoever holds the
//! file, and the kernel may forget it where nobody does. Where too many are held so, the sync loop is asked to sync.

use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use millstream_env::{Buffers, Disk, DiskFile, OpenMode};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{index::Index, place::Place};

/// How many files are looked at, at most, to find those to be closed for one that was opened.
const LOOKS_MAX: usize = 64;

/// The open files of a storage.
pub(crate) struct Handles {
    pub(crate) disk: Arc<dyn Disk>,
    /// For reads of their files.
    buffers: Buffers,
    max: usize,
    /// In the order in which they were opened or spared.
    open: Mutex<VecDeque<Weak<Handle>>>,
    /// Those of them that are open in fact.
    count: AtomicUsize,
    /// More are open than there may be.
    pressed: AtomicBool,
    sync_work: Arc<Notify>,
}

/// The file of one segment, opened when it is needed, and what goes when it is closed.
pub(crate) struct Handle {
    pub(crate) path: Arc<Path>,
    /// The log's that it is of.
    place: Arc<Place>,
    handles: Arc<Handles>,
    opened: Mutex<Opened>,
    /// The index of a segment that takes no more batches, once it was needed. (The active one's is with the log's state.)
    index: Mutex<Option<Arc<Index>>>,
    /// Since it was last looked at.
    used: AtomicBool,
    /// It waits in the list. Changed under the list's lock.
    listed: AtomicBool,
}

/// Counts an open file for as long as it lives.
struct Counted(Arc<Handles>);

impl Counted {
    fn new(handles: &Arc<Handles>) -> Self {
        handles.count.fetch_add(1, Ordering::Relaxed);
        Self(handles.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Opened {
    file: Option<Arc<dyn DiskFile>>,
    /// While there is a file.
    _counted: Option<Counted>,
    writable: bool,
    /// It was written, or may have been, since it was last synced.
    unsynced: bool,
    /// Another file has its name, or will have.
    gone: bool,
}

impl Handles {
    /// No file is open. `sync_work` is notified when there are too many to be synced.
    pub(crate) fn new(disk: Arc<dyn Disk>, max: usize, sync_work: Arc<Notify>) -> Arc<Self> {
        let (buffers, open, count) = (Buffers::default(), Mutex::default(), AtomicUsize::new(0));
        Arc::new(Self { disk, buffers, max, open, count, pressed: AtomicBool::new(false), sync_work })
    }

    /// A file of that name in a log's place, not opened yet.
    pub(crate) fn handle(self: &Arc<Self>, place: &Arc<Place>, name: &str) -> Arc<Handle> {
        Arc::new(Handle {
            path: place.dir().join(name).into(),
            place: place.clone(),
            handles: self.clone(),
            opened: Mutex::default(),
            index: Mutex::default(),
            used: AtomicBool::new(false),
            listed: AtomicBool::new(false),
        })
    }

    /// How many files are open.
    pub(crate) fn open_files(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether more files are open than there may be, for want of a sync.
    pub(crate) fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Acquire)
    }

    /// Closes what is too much, after something was synced.
    pub(crate) fn trim(&self) {
        self.close_some(&mut self.open.lock(), None);
    }

    fn add(&self, handle: &Arc<Handle>) {
        let mut open = self.open.lock();
        if handle.listed.swap(true, Ordering::Relaxed) {
            return;
        }
        open.push_back(Arc::downgrade(handle));
        if open.len() > self.max {
            self.close_some(&mut open, Some(handle));
        }
    }

    fn close_some(&self, open: &mut VecDeque<Weak<Handle>>, keep: Option<&Arc<Handle>>) {
        for _ in 0..LOOKS_MAX {
            if open.len() <= self.max {
                break;
            }
            let Some(oldest) = open.pop_front() else { break };
            let Some(handle) = oldest.upgrade() else { continue };
            let kept = keep.is_some_and(|keep| Arc::ptr_eq(keep, &handle)) || !handle.close_unused();
            if kept {
                open.push_back(oldest);
            } else {
                handle.listed.store(false, Ordering::Relaxed);
            }
        }
        let pressed = open.len() > self.max;
        if pressed != self.pressed.swap(pressed, Ordering::AcqRel) && pressed {
            self.sync_work.notify_one();
        }
    }
}

impl Handle {
    /// The file, to be read or synced. It must exist.
    pub(crate) fn reader(self: &Arc<Self>) -> io::Result<Arc<dyn DiskFile>> {
        self.get(OpenMode::Read)
    }

    /// The file, to be written; made where it is missing. It stays open until [`Handle::synced`].
    pub(crate) fn writer(self: &Arc<Self>) -> io::Result<Arc<dyn DiskFile>> {
        self.get(OpenMode::Create)
    }

    fn get(self: &Arc<Self>, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let write = mode != OpenMode::Read;
        self.used.store(true, Ordering::Relaxed);
        let file = {
            let mut opened = self.opened.lock();
            if let Some(file) = &opened.file
                && (opened.writable || !write)
            {
                let file = file.clone();
                opened.unsynced |= write;
                return Ok(file);
            }
            if opened.gone {
                return Err(io::ErrorKind::NotFound.into());
            }
            self.check_place()?;
            let file = self.handles.disk.open(&self.path, mode)?;
            *opened = Opened {
                file: Some(file.clone()),
                _counted: Some(Counted::new(&self.handles)),
                writable: write,
                unsynced: write,
                gone: false,
            };
            file
        };
        self.handles.add(self);
        Ok(file)
    }

    /// Makes sure, before something is done to the file by its name, that it is the log's.
    pub(crate) fn check_place(&self) -> io::Result<()> {
        self.place.check(&*self.handles.disk)
    }

    /// Buffers to read into.
    pub(crate) fn buffers(&self) -> &Buffers {
        &self.handles.buffers
    }

    /// The file, if it is open to be written.
    pub(crate) fn written(&self) -> Option<Arc<dyn DiskFile>> {
        let opened = self.opened.lock();
        opened.file.clone().filter(|_| opened.writable)
    }

    /// Says that all that was written is synced: the file may be closed.
    pub(crate) fn synced(&self) {
        self.opened.lock().unsynced = false;
    }

    /// Closes the file and lets the index go. Not while there is something to sync.
    pub(crate) fn release(&self) {
        let mut opened = self.opened.lock();
        *opened = Opened { gone: opened.gone, ..Opened::default() };
        drop(opened);
        *self.index.lock() = None;
    }

    /// Says that another file is about to have the name: this one is closed, and is not found any more. Whoever has it open goes on
    /// with it.
    pub(crate) fn supersede(&self) {
        self.opened.lock().gone = true;
        self.release();
    }

    /// Takes back [`Handle::supersede`].
    pub(crate) fn restore(&self) {
        self.opened.lock().gone = false;
    }

    /// Whether another file has the name.
    pub(crate) fn is_superseded(&self) -> bool {
        self.opened.lock().gone
    }

    /// The index of a segment that takes no more batches, where it is kept.
    pub(crate) fn index(&self) -> &Mutex<Option<Arc<Index>>> {
        &self.index
    }

    /// Closes the file, unless it was used meanwhile or is to be synced.
    fn close_unused(&self) -> bool {
        // Whoever holds a lock is using it.
        let (Some(mut opened), Some(mut index)) = (self.opened.try_lock(), self.index.try_lock()) else { return false };
        let used = self.used.swap(false, Ordering::Relaxed);
        if opened.file.is_some() && (opened.unsynced || used) {
            return false;
        }
        *opened = Opened { gone: opened.gone, ..Opened::default() };
        *index = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use millstream_env::sim::SimDisk;
    use millstream_model::{PartitionId, TopicId};

    use super::*;
    use crate::LogId;

    fn handles(max: usize) -> (SimDisk, Arc<Handles>) {
        let disk = SimDisk::new(1);
        let handles = Handles::new(Arc::new(disk.clone()), max, Arc::new(Notify::new()));
        (disk, handles)
    }

    fn place(disk: &SimDisk) -> Arc<Place> {
        let place = Place::new(Path::new("/data"), LogId::records(TopicId::NIL, PartitionId(0)));
        disk.create_dir_all(place.dir()).unwrap();
        Arc::new(place)
    }

    #[test]
    fn no_more_files_are_open_than_there_may_be() {
        let (disk, handles) = handles(3);
        let files: Vec<_> = (0..10).map(|at| handles.handle(&place(&disk), &at.to_string())).collect();
        for (at, file) in files.iter().enumerate() {
            file.writer().unwrap().write_at(&[IoSlice::new(&[at as u8])], 0).unwrap();
            file.synced();
        }
        for round in 0..3 {
            for (at, file) in files.iter().enumerate() {
                let mut byte = [0xff];
                file.reader().unwrap().read_at(&mut byte, 0).unwrap();
                assert_eq!(usize::from(byte[0]), at);
                assert!(disk.open_files() <= 4, "round {round}: {}", disk.open_files());
                assert_eq!(handles.open_files(), disk.open_files() as usize);
            }
        }
        handles.trim();
        assert!(disk.open_files() <= 3 && !handles.is_pressed());
    }

    #[test]
    fn what_is_not_synced_stays_open_and_asks_for_a_sync() {
        let (disk, handles) = handles(2);
        let files: Vec<_> = (0..4).map(|at| handles.handle(&place(&disk), &at.to_string())).collect();
        for file in &files {
            drop(file.writer().unwrap());
        }
        assert!(disk.open_files() == 4 && handles.is_pressed());
        for file in &files {
            file.synced();
        }
        // The first look spares what was used since the last.
        handles.trim();
        assert!(disk.open_files() == 2 && !handles.is_pressed());
        // A closed one is opened again, and for reading if that is all that is asked.
        let closed = files.iter().find(|file| file.written().is_none()).unwrap();
        assert!(closed.reader().unwrap().write_at(&[IoSlice::new(b"x")], 0).is_err());
        closed.writer().unwrap().write_at(&[IoSlice::new(b"x")], 0).unwrap();
        assert_eq!(handles.open_files(), disk.open_files() as usize);
        closed.release();
        drop(files);
        assert_eq!((handles.open_files(), disk.open_files()), (0, 0));
    }
}
