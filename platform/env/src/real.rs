//! The real world: the operating system's clock, randomness and files, and tokio's tasks.

use std::{
    fs, io,
    io::IoSlice,
    os::fd::{AsRawFd, RawFd},
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::Rng as _;
use rustix::{
    fs::{Advice, FallocateFlags, FlockOperation, OFlags},
    io::Errno,
};

use crate::{
    BoxFuture, Clock, Disk, DiskFile, DiskLock, Env, Identity, Monotonic, OpenMode, Rng, Room, Spawn, Task,
    disk::{not_a_directory, not_a_file},
};

/// Most parts that one `pwritev` takes (Linux: `IOV_MAX`).
const WRITE_PARTS_MAX: usize = 1024;

/// How many threads [`Spawn::each`] uses, whatever the number of cores: they wait for the disk, which does more syncs together
/// than one after the other. (ext4 commits for all who wait: 8 at a time went 4.3 times as fast as one, 32 no faster.)
const EACH_THREADS: usize = 8;

/// The real world. Must be called on a tokio runtime, where its tasks will run.
#[must_use]
pub fn env() -> Env {
    Env {
        clock: Arc::new(RealClock::default()),
        rng: Arc::new(RealRng),
        disk: Arc::new(RealDisk),
        spawn: Arc::new(RealSpawn { runtime: tokio::runtime::Handle::current() }),
    }
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct RealClock {
    start: Instant,
}

impl Default for RealClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for RealClock {
    fn now(&self) -> Monotonic {
        Monotonic(self.start.elapsed())
    }

    fn wall_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// The operating system's random bytes, through a per-thread generator seeded from them.
#[derive(Debug, Default)]
pub struct RealRng;

impl Rng for RealRng {
    fn fill(&self, buffer: &mut [u8]) {
        rand::rng().fill_bytes(buffer);
    }
}

/// Tokio's tasks, and threads.
#[derive(Debug)]
pub struct RealSpawn {
    runtime: tokio::runtime::Handle,
}

impl RealSpawn {
    /// Tasks will run on `runtime`.
    #[must_use]
    pub fn new(runtime: tokio::runtime::Handle) -> Self {
        Self { runtime }
    }
}

impl Spawn for RealSpawn {
    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) -> Task {
        let (done_tx, done) = tokio::sync::oneshot::channel();
        let handle = self.runtime.spawn(async move {
            // Dropped, and so resolved, however the future ends.
            let _done_tx = done_tx;
            future.await;
        });
        Task { done, abort: Some(Box::new(move || handle.abort())) }
    }

    #[expect(clippy::expect_used, reason = "documented: no thread, no broker")]
    fn dedicated(&self, name: &'static str, future: BoxFuture<'static, ()>) -> Task {
        let (done_tx, done) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                let _done_tx = done_tx;
                futures::executor::block_on(future);
            })
            .expect("the operating system starts a thread");
        Task { done, abort: None }
    }

    fn blocking(&self, _name: &'static str, work: Box<dyn FnOnce() + Send>) -> Task {
        let (done_tx, done) = tokio::sync::oneshot::channel();
        self.runtime.spawn_blocking(move || {
            let _done_tx = done_tx;
            work();
        });
        Task { done, abort: None }
    }

    fn each(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let take_turns = || {
            while let Some(turn) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|turn| *turn < count) {
                work(turn);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..EACH_THREADS.min(count) {
                // Where there is no other thread to be had, this one does it all.
                let _ = std::thread::Builder::new().spawn_scoped(scope, take_turns);
            }
            take_turns();
        });
    }
}

/// The operating system's files.
#[derive(Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile { file: open_plain(path, mode)? }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path).map_err(in_directory(path))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let listed = fs::read_dir(path).map_err(in_directory(path))?;
        let mut paths = listed.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists().map_err(in_directory(path))
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        match fs::symlink_metadata(path) {
            Ok(found) => Ok(found.is_symlink()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        fs::metadata(path).map(|found| Identity(found.dev(), found.ino()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Whatever is there: a FIFO would have the caller wait for its other end.
        let flags = OFlags::DIRECTORY.bits().cast_signed();
        fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?.sync_all()
    }

    fn room(&self, path: &Path) -> io::Result<Room> {
        let told = rustix::fs::statvfs(path)?;
        // What is kept back for root is root's to use.
        let blocks = if rustix::process::geteuid().is_root() { told.f_bfree } else { told.f_bavail };
        let files = if told.f_files == 0 { u64::MAX } else { told.f_favail };
        let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize);
        Ok(Room { bytes: bytes(blocks), files, total_bytes: bytes(told.f_blocks) })
    }

    fn make_private(&self, path: &Path) -> io::Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let file = open_plain(path, OpenMode::Create)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        // Beside it, its directory: a file that is removed can be made again, and locked by another, while the first still holds it.
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = fs::File::open(dir)?;
        rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(RealLock { file, _dir: dir }))
    }
}

/// Opens what must be a plain file. Without waiting: a FIFO would have the caller wait for its other end.
///
/// # Errors
/// As [`Disk::open`].
pub fn open_plain(path: &Path, mode: OpenMode) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    match mode {
        OpenMode::Read => {}
        OpenMode::Write => {
            options.write(true);
        }
        OpenMode::Create => {
            options.write(true).create(true);
        }
        OpenMode::CreateNew => {
            options.write(true).create_new(true);
        }
    }
    let file = options.open(path).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::ISDIR) => not_a_file("a directory"),
        Some(Errno::NXIO | Errno::NODEV) if is_special(path) => not_a_file("a socket or device"),
        Some(Errno::NOENT) if path.is_symlink() => not_a_file("a symbolic link to nothing"),
        Some(Errno::NOTDIR) => in_directory(path)(error),
        _ => error,
    })?;
    let kind = file.metadata()?.file_type();
    match kind {
        kind if kind.is_file() => Ok(file),
        kind if kind.is_dir() => Err(not_a_file("a directory")),
        kind if kind.is_fifo() => Err(not_a_file("a FIFO")),
        _ => Err(not_a_file("a device")),
    }
}

/// Puts what is there instead of a directory, at a path or above it, into the error of a call that failed for that.
fn in_directory(path: &Path) -> impl FnOnce(io::Error) -> io::Error + '_ {
    use io::ErrorKind::{AlreadyExists, NotADirectory, NotFound};
    |error| match error.kind() {
        AlreadyExists | NotADirectory | NotFound => find_no_directory(path).unwrap_or(error),
        _ => error,
    }
}

/// What of a path is there and no directory, from the root on.
fn find_no_directory(path: &Path) -> Option<io::Error> {
    let mut parts: Vec<_> = path.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    parts.reverse();
    for at in parts {
        let (what, leads_nowhere) = match fs::metadata(at) {
            Ok(found) if found.is_dir() => continue,
            Ok(found) => (name_of(found.file_type()).to_owned(), false),
            Err(_) => {
                // What is not there at all is missing.
                let target = fs::read_link(at).ok()?;
                (format!("a symbolic link to {}, where nothing is", target.display()), true)
            }
        };
        return Some(not_a_directory((at != path).then(|| at.to_owned()), what, leads_nowhere));
    }
    None
}

fn name_of(kind: fs::FileType) -> &'static str {
    match kind {
        kind if kind.is_file() => "a plain file",
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

/// Whether it is a socket or device, where that can be told.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file())
}

struct RealLock {
    // Closing the descriptor releases the lock.
    file: fs::File,
    _dir: fs::File,
}

impl DiskLock for RealLock {
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let held = self.file.metadata()?;
        match fs::metadata(path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (held.dev(), held.ino())),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

struct RealFile {
    file: fs::File,
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], at + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], mut at: u64) -> io::Result<()> {
        if let [one] = parts {
            return self.file.write_all_at(one, at);
        }
        let mut own = parts.to_vec();
        let mut rest = own.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let count = rest.len().min(WRITE_PARTS_MAX);
            match rustix::io::pwritev(&self.file, &rest[..count], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    #[cfg(unix)]
    fn may_reach(&self, len: u64) -> bool {
        rustix::process::getrlimit(rustix::process::Resource::Fsize).current.is_none_or(|most| len <= most)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "a system call that no library wraps")]
    fn write_back(&self, at: u64, len: u64) -> io::Result<()> {
        let offset = |value: u64| value.try_into().unwrap_or(libc::off64_t::MAX);
        let flags = libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        // SAFETY: it takes numbers only; the descriptor is this file's.
        match unsafe { libc::sync_file_range(self.file.as_raw_fd(), offset(at), offset(len), flags) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn write_back(&self, _: u64, _: u64) -> io::Result<()> {
        // The sync that follows does all.
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            // A file system without fallocate gets a longer file; running out of room then shows at the write.
            Err(Errno::OPNOTSUPP) if self.len()? < len => self.set_len(len),
            Err(Errno::OPNOTSUPP) => Ok(()),
            other => Ok(other?),
        }
    }

    fn forget(&self, at: u64, len: u64) {
        let len = std::num::NonZeroU64::new(len);
        // A hint: that it was not taken changes nothing.
        let _ = rustix::fs::fadvise(&self.file, at, len, Advice::DontNeed);
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.file.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_number_is_worked_on_once() {
        let spawn = env().spawn;
        let seen: Vec<_> = (0..1000).map(|_| AtomicUsize::new(0)).collect();
        for count in [0, 1, 7, 1000] {
            spawn.each(count, &|turn| {
                seen[turn].fetch_add(1, Ordering::Relaxed);
            });
        }
        let times = |turn: usize| [1, 7, 1000].iter().filter(|count| turn < **count).count();
        assert!(seen.iter().enumerate().all(|(turn, seen)| seen.load(Ordering::Relaxed) == times(turn)));
    }

    /// A second broker took a new file's lock where the first one's had been removed, and recovered what the first wrote to.
    #[test]
    fn a_lock_is_held_though_its_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let held = RealDisk.lock(&path).unwrap();
        assert!(RealDisk.lock(&path).is_err());
        fs::remove_file(&path).unwrap();
        assert!(RealDisk.lock(&path).is_err(), "by its directory");
        drop(held);
        assert!(RealDisk.lock(&path).is_ok());
    }

    #[test]
    fn many_parts_are_written_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), OpenMode::CreateNew).unwrap();
        let bytes: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
        let parts: Vec<_> = bytes.chunks(2).map(IoSlice::new).collect();
        assert!(parts.len() > WRITE_PARTS_MAX);
        file.write_at(&parts, 7).unwrap();
        let mut read = vec![0; 6000];
        assert_eq!(file.read_at(&mut read, 7).unwrap(), 5000);
        assert_eq!(read[..5000], bytes);
    }

    /// A FIFO's opening waits for its other end, and a directory can be opened for reading.
    #[test]
    fn what_is_no_plain_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let sim = crate::sim::SimDisk::new(1);
        sim.create_dir_all(Path::new("/dir")).unwrap();
        let (fifo, socket, directory) = (dir.path().join("fifo"), dir.path().join("socket"), dir.path().join("dir"));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        fs::create_dir(&directory).unwrap();
        let real: &dyn Disk = &RealDisk;
        let paths = [(real, &*fifo), (real, &*socket), (real, &*directory), (real, "/dev/null".as_ref())];
        for (disk, path) in paths.into_iter().chain([(&sim as &dyn Disk, Path::new("/dir"))]) {
            let opened =
                [OpenMode::Read, OpenMode::Write, OpenMode::Create].map(|mode| disk.open(path, mode).map(drop));
            for refused in opened.into_iter().chain([disk.lock(path).map(drop)]) {
                let error = refused.unwrap_err();
                assert!(crate::is_of_wrong_type(&error), "{}: {error}", path.display());
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{}: {error}", path.display());
            }
        }
    }

    /// "File exists" and "No such file" say nothing of it.
    #[test]
    fn what_is_no_directory_is_named_where_one_must_be() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink("/nowhere", at("link")).unwrap();
        for (name, expected) in [
            ("file", "a plain file, and no directory; move it away"),
            ("fifo", "a FIFO, and no directory; move it away"),
            ("socket", "a socket, and no directory; move it away"),
            ("link", "a symbolic link to /nowhere, where nothing is, and no directory; mount or make"),
        ] {
            let below = at(name).join("a/b");
            for (path, is) in [(at(name), "it is ".to_owned()), (below, format!("{} is ", at(name).display()))] {
                let mut errors = vec![RealDisk.create_dir_all(&path), RealDisk.read_dir(&path).map(drop)];
                if name != "link" {
                    errors.push(RealDisk.exists(&at(name).join("a")).map(drop));
                    errors.push(RealDisk.open(&at(name).join("a"), OpenMode::Create).map(drop));
                }
                for (nth, error) in errors.into_iter().enumerate() {
                    let error = error.unwrap_err();
                    let told = crate::advised(&error);
                    assert!(crate::is_of_wrong_type(&error), "{name}: {told}");
                    assert!(told.contains(expected) && (nth > 1 || told.starts_with(&is)), "{name}, {nth}: {told}");
                }
            }
            // Nor does it wait for the other end of a FIFO.
            assert!(name == "link" || crate::is_of_wrong_type(&RealDisk.sync_dir(&at(name)).unwrap_err()));
        }
        let missing = RealDisk.read_dir(&at("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let refused = [OpenMode::Read, OpenMode::Write].map(|mode| RealDisk.open(&at("link"), mode).err().unwrap());
        assert!(refused.iter().all(crate::is_of_wrong_type));
        assert!(RealDisk.is_link(&at("link")).unwrap() && !RealDisk.exists(&at("link")).unwrap());
        assert!(!RealDisk.is_link(&at("file")).unwrap() && !RealDisk.is_link(&at("missing")).unwrap());
    }

    #[test]
    fn a_directory_that_holds_something_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let disks: [(&dyn Disk, PathBuf); 2] =
            [(&RealDisk, dir.path().into()), (&crate::sim::SimDisk::new(1), "/data".into())];
        for (disk, root) in disks {
            disk.create_dir_all(&root.join("a/b")).unwrap();
            assert_eq!(disk.remove_dir(&root.join("a")).unwrap_err().kind(), io::ErrorKind::DirectoryNotEmpty);
            disk.remove_dir(&root.join("a/b")).unwrap();
            disk.remove_dir(&root.join("a")).unwrap();
            assert_eq!(disk.remove_dir(&root.join("a")).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn a_lock_is_exclusive_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let held = RealDisk.lock(&path).unwrap();
        assert_eq!(RealDisk.lock(&path).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        RealDisk.lock(&path).unwrap();
    }

    #[test]
    fn reserving_keeps_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), OpenMode::Create).unwrap();
        file.write_at(&[IoSlice::new(b"abc")], 0).unwrap();
        file.reserve(8192).unwrap();
        let mut read = [9; 4];
        file.read_at(&mut read, 0).unwrap();
        assert_eq!((&read, file.len().unwrap()), (b"abc\0", 8192));
    }
}
