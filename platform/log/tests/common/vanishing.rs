//! A disk whose files go while somebody is about to open them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use millstream_env::{Disk, DiskFile, DiskLock, OpenMode};

/// What is done when the first of the files is opened.
type Going = Box<dyn FnOnce() + Send>;

/// Another disk, without the files that have gone.
pub(crate) struct Vanishing {
    disk: Arc<dyn Disk>,
    going: Mutex<Option<(String, Option<Going>)>>,
}

impl Vanishing {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Arc<Self> {
        Arc::new(Self { disk, going: Mutex::default() })
    }

    /// Files whose paths contain `text` are not found from now on; `going` runs before the first one is not.
    pub(crate) fn go(&self, text: String, going: impl FnOnce() + Send + 'static) {
        *self.going.lock().unwrap() = Some((text, Some(Box::new(going))));
    }

    /// Whether one was looked for.
    pub(crate) fn has_gone(&self) -> bool {
        matches!(&*self.going.lock().unwrap(), Some((_, None)))
    }
}

impl Disk for Vanishing {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let first = match &mut *self.going.lock().unwrap() {
            Some((text, going)) if path.to_str().unwrap().contains(text.as_str()) => going.take(),
            _ => return self.disk.open(path, mode),
        };
        if let Some(going) = first {
            going();
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.read_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
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

    fn make_private(&self, path: &Path) -> io::Result<()> {
        self.disk.make_private(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.disk.lock(path)
    }
}
