//! The segments' open files: so many at most, and those that were not used for longest are closed first.
//!
//! A file that was written and not synced since stays open: a write-back that fails meanwhile is told to whoever holds the
//! file, and the kernel may forget it where nobody does. Where most of those that there may be are held so, the sync loop is asked to sync
//! and close them (`relief`). Where all are, no other is taken to be appended to until there are fewer: everybody else needs descriptors, too.

use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use millstream_env::{Buffers, Disk, DiskFile, OpenMode, no_descriptor};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{index::Index, place::Place};

/// How many files are looked at, at most, to find those to be closed for one that was opened.
const LOOKS_MAX: usize = 64;

/// So many may wait to be synced at least, however few may be open.
const UNSYNCED_LEAST: usize = 32;

/// The open files of a storage.
pub(crate) struct Handles {
    pub(crate) disk: Arc<dyn Disk>,
    /// For reads of their files.
    buffers: Buffers,
    max: usize,
    /// In the order in which they were opened or spared.
    open: Mutex<VecDeque<Weak<Handle>>>,
    /// How many of them are open in fact, and how many were written and are not synced.
    count: Arc<AtomicUsize>,
    unsynced: Arc<AtomicUsize>,
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

/// Counts for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Opened {
    file: Option<Arc<dyn DiskFile>>,
    /// While there is a file.
    _counted: Option<Counted>,
    writable: bool,
    /// It was written, or may have been, since it was last synced.
    unsynced: Option<Counted>,
    /// Another file has its name, or will have.
    gone: bool,
}

impl Handles {
    /// No file is open. `sync_work` is notified when there are too many to be synced.
    pub(crate) fn new(disk: Arc<dyn Disk>, max: usize, sync_work: Arc<Notify>) -> Arc<Self> {
        let (buffers, open) = Default::default();
        let (count, unsynced) = Default::default();
        Arc::new(Self { disk, buffers, max, open, count, unsynced, sync_work })
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

    /// Whether most of the files that may be open wait to be synced.
    pub(crate) fn is_pressed(&self) -> bool {
        self.unsynced.load(Ordering::Relaxed) >= self.max - self.max / 4
    }

    /// Those that are to be synced.
    pub(crate) fn all_unsynced(&self) -> Vec<Arc<Handle>> {
        let open = self.open.lock();
        open.iter().filter_map(Weak::upgrade).filter(|handle| handle.unsynced().is_some()).collect()
    }

    /// Whether one more file may be appended to.
    ///
    /// # Errors
    /// As if there were no descriptor, though there are some for who cannot be refused.
    fn admit(&self) -> io::Result<()> {
        if !self.is_pressed() {
            return Ok(());
        }
        self.sync_work.notify_one();
        if self.unsynced.load(Ordering::Relaxed) < self.max.max(UNSYNCED_LEAST) { Ok(()) } else { Err(no_descriptor()) }
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
    }
}

impl Handle {
    /// The file, to be read or synced. It must exist.
    pub(crate) fn reader(self: &Arc<Self>) -> io::Result<Arc<dyn DiskFile>> {
        self.get(OpenMode::Read, false)
    }

    /// The file, to be written; made where it is missing. It stays open until [`Handle::synced`].
    pub(crate) fn writer(self: &Arc<Self>) -> io::Result<Arc<dyn DiskFile>> {
        self.get(OpenMode::Create, false)
    }

    /// The same, to be appended to. Refused for lack of descriptors where too many wait to be synced; [`Handle::writer`], which cuts and
    /// mends, is not: the sync loop must go on.
    pub(crate) fn appender(self: &Arc<Self>) -> io::Result<Arc<dyn DiskFile>> {
        self.get(OpenMode::Create, true)
    }

    fn get(self: &Arc<Self>, mode: OpenMode, bounded: bool) -> io::Result<Arc<dyn DiskFile>> {
        let write = mode != OpenMode::Read;
        self.used.store(true, Ordering::Relaxed);
        let file = {
            let mut opened = self.opened.lock();
            if bounded && opened.unsynced.is_none() {
                self.handles.admit()?;
            }
            if let Some(file) = &opened.file
                && (opened.writable || !write)
            {
                let file = file.clone();
                if write && opened.unsynced.is_none() {
                    opened.unsynced = Some(Counted::new(&self.handles.unsynced));
                }
                return Ok(file);
            }
            if opened.gone {
                return Err(io::ErrorKind::NotFound.into());
            }
            self.check_place()?;
            let file = self.handles.disk.open(&self.path, mode)?;
            *opened = Opened {
                file: Some(file.clone()),
                _counted: Some(Counted::new(&self.handles.count)),
                writable: write,
                unsynced: write.then(|| Counted::new(&self.handles.unsynced)),
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
        self.opened.lock().unsynced = None;
    }

    /// The file, if it is to be synced.
    pub(crate) fn unsynced(&self) -> Option<Arc<dyn DiskFile>> {
        let opened = self.opened.lock();
        opened.file.clone().filter(|_| opened.unsynced.is_some())
    }

    /// Closes the file, of which all that was written is synced. The index stays: it may not be in its file yet.
    pub(crate) fn close_synced(&self) {
        let mut opened = self.opened.lock();
        *opened = Opened { gone: opened.gone, ..Opened::default() };
    }

    /// Syncs the file, if that is to be done, and closes it. Nobody may be writing to it.
    ///
    /// # Errors
    /// Of the sync, which is final.
    pub(crate) fn sync_and_close(&self) -> io::Result<()> {
        self.unsynced().map_or(Ok(()), |file| file.sync_data())?;
        self.close_synced();
        Ok(())
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
        if opened.file.is_some() && (opened.unsynced.is_some() || used) {
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

    use futures::FutureExt;
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
        assert!(!handles.is_pressed());
    }

    #[test]
    fn what_is_not_synced_stays_open_and_asks_for_a_sync() {
        let (disk, handles) = handles(3);
        let files: Vec<_> = (0..5).map(|at| handles.handle(&place(&disk), &at.to_string())).collect();
        for (at, file) in files.iter().enumerate() {
            assert_eq!(handles.is_pressed(), at >= 3);
            drop(file.writer().unwrap());
        }
        assert_eq!((disk.open_files(), handles.all_unsynced().len()), (5, 5));
        assert!(handles.sync_work.notified().now_or_never().is_none(), "the sync loop's own writes ask for none");
        drop(files[0].appender().unwrap());
        assert!(handles.sync_work.notified().now_or_never().is_none(), "it waits to be synced already");
        files[0].synced();
        drop(files[0].appender().unwrap());
        assert!(handles.sync_work.notified().now_or_never().is_some());
        for file in &files[1..] {
            file.sync_and_close().unwrap();
        }
        assert!(disk.open_files() == 1 && !handles.is_pressed());
        // A closed one is opened again, and for reading if that is all that is asked.
        let closed = &files[1];
        assert!(closed.reader().unwrap().write_at(&[IoSlice::new(b"x")], 0).is_err());
        closed.writer().unwrap().write_at(&[IoSlice::new(b"x")], 0).unwrap();
        assert_eq!(handles.open_files(), disk.open_files() as usize);
        closed.release();
        drop(files);
        assert_eq!((handles.open_files(), disk.open_files(), handles.unsynced.load(Ordering::Relaxed)), (0, 0, 0));
    }

    #[test]
    fn no_more_wait_to_be_synced_than_there_may_be() {
        let (disk, handles) = handles(UNSYNCED_LEAST + 8);
        let files: Vec<_> = (0..60).map(|at| handles.handle(&place(&disk), &at.to_string())).collect();
        let taken = |files: &[Arc<Handle>]| files.iter().filter(|file| file.appender().is_ok()).count();
        // What is open and was synced counts, once it is written again.
        drop(files[59].writer().unwrap());
        files[59].synced();
        assert_eq!(taken(&files), UNSYNCED_LEAST + 8);
        let refused = files[59].appender().err().unwrap();
        assert_eq!(millstream_env::lack(&refused), Some(millstream_env::Lack::Descriptors));
        assert!(files[59].reader().is_ok() && files[58].writer().is_ok() && files[0].appender().is_ok());
        files[0].sync_and_close().unwrap();
        files[1].sync_and_close().unwrap();
        assert_eq!(taken(&files[40..59]), 2, "one was written that could not be refused");
    }
}
