//! A disk that meddles: files go while somebody is about to open them, and writes take until somebody lets them through.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use millstream_env::{Disk, DiskFile, DiskLock, Identity, OpenMode, Room};

/// What is done when the first of the files is opened.
type Going = Box<dyn FnOnce() + Send>;

/// Another disk, without the files that have gone, and with writes that are held up.
pub(crate) struct Meddling {
    disk: Arc<dyn Disk>,
    going: Mutex<Option<(String, Option<Going>)>>,
    held: Held,
    /// What no segment may grow past, bytes.
    most: Arc<AtomicU64>,
    fleeting: Mutex<Option<String>>,
}

/// A text in a file's path, and who waits for each other before the next write to it goes on.
type Held = Arc<Mutex<Option<(String, Arc<Barrier>)>>>;

impl Meddling {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Arc<Self> {
        let (going, held, fleeting) = (Mutex::default(), Held::default(), Mutex::default());
        Arc::new(Self { disk, going, held, most: Arc::new(u64::MAX.into()), fleeting })
    }

    /// Files whose paths contain `text` are not found from now on; `going` runs before the first one is not.
    pub(crate) fn go(&self, text: String, going: impl FnOnce() + Send + 'static) {
        *self.going.lock().unwrap() = Some((text, Some(Box::new(going))));
    }

    /// No segment may grow past `most` bytes from now on.
    pub(crate) fn limit(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// The next write to a file whose path contains `text` waits at the barrier twice: when it comes, and before it goes on.
    pub(crate) fn hold(&self, text: &str) -> Arc<Barrier> {
        let barrier = Arc::new(Barrier::new(2));
        *self.held.lock().unwrap() = Some((text.to_owned(), barrier.clone()));
        barrier
    }

    /// The next directory whose path contains `text` is removed as soon as it is made.
    pub(crate) fn remove_next(&self, text: &str) {
        *self.fleeting.lock().unwrap() = Some(text.to_owned());
    }

    /// Whether there was one.
    pub(crate) fn has_removed(&self) -> bool {
        self.fleeting.lock().unwrap().is_none()
    }

    /// Whether one was looked for.
    pub(crate) fn has_gone(&self) -> bool {
        matches!(&*self.going.lock().unwrap(), Some((_, None)))
    }
}

impl Disk for Meddling {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let first = match &mut *self.going.lock().unwrap() {
            Some((text, going)) if path.to_str().unwrap().contains(text.as_str()) => going.take(),
            _ => {
                let file = self.disk.open(path, mode)?;
                return Ok(Arc::new(MeddlingFile {
                    file,
                    path: path.to_owned(),
                    held: self.held.clone(),
                    most: self.most.clone(),
                }));
            }
        };
        if let Some(going) = first {
            going();
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)?;
        let removed = self.fleeting.lock().unwrap().take_if(|text| path.to_str().unwrap().contains(text.as_str()));
        if removed.is_some() { self.disk.remove_dir(path) } else { Ok(()) }
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.read_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        self.disk.is_link(path)
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        self.disk.identity(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn room(&self, path: &Path) -> io::Result<Room> {
        self.disk.room(path)
    }

    fn make_private(&self, path: &Path) -> io::Result<()> {
        self.disk.make_private(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.disk.lock(path)
    }
}

struct MeddlingFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    held: Held,
    most: Arc<AtomicU64>,
}

impl DiskFile for MeddlingFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buffer, at)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        let barrier = {
            let mut held = self.held.lock().unwrap();
            held.take_if(|(text, _)| self.path.to_str().unwrap().contains(text.as_str())).map(|(_, barrier)| barrier)
        };
        if let Some(barrier) = barrier {
            barrier.wait();
            barrier.wait();
        }
        match self.may_reach(at + parts.iter().map(|part| part.len() as u64).sum::<u64>()) {
            true => self.file.write_at(parts, at),
            false => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }

    fn may_reach(&self, len: u64) -> bool {
        self.path.extension().is_none_or(|of| of != "log") || len <= self.most.load(Ordering::Relaxed)
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
}
