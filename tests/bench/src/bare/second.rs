//! The second copy, of a bare server that writes everything twice as a broker with a journal does: behind the
//! acknowledgement, to a file that grows, through the page cache, and from there to the disk in pieces.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use bytes::Bytes;
use millstream_env::{Disk as _, DiskFile, OpenMode, real::RealDisk};

/// Bytes that go to the disk at once.
const PIECE_BYTES: u64 = 2 << 20;
/// Groups that may wait: with more, the first copy waits.
const GROUPS_MAX: usize = 64;

/// What the thread is told.
enum Told {
    Group(Vec<Bytes>),
    /// Nothing of the file is wanted any more.
    StartAnew,
}

/// The way to the thread.
pub(super) struct Second {
    told: SyncSender<Told>,
}

impl Second {
    /// Starts the thread on a file in `dir`.
    pub(super) fn start(dir: &Path) -> io::Result<Self> {
        let mut copy = Copy { path: dir.join("second.log"), file: None, end: 0, written_back: 0 };
        let (told, waiting) = sync_channel(GROUPS_MAX);
        thread::Builder::new().name("bare-second".into()).spawn(move || {
            if let Err(error) = copy.run(&waiting) {
                eprintln!("the bare server's second copy: {error}");
                std::process::exit(1);
            }
        })?;
        Ok(Self { told })
    }

    /// Queues a group.
    pub(super) fn write(&self, group: Vec<Bytes>) -> io::Result<()> {
        self.tell(Told::Group(group))
    }

    /// Removes what was written so far.
    pub(super) fn start_anew(&self) -> io::Result<()> {
        self.tell(Told::StartAnew)
    }

    fn tell(&self, told: Told) -> io::Result<()> {
        self.told.send(told).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

struct Copy {
    path: PathBuf,
    file: Option<Arc<dyn DiskFile>>,
    end: u64,
    written_back: u64,
}

impl Copy {
    fn run(&mut self, waiting: &Receiver<Told>) -> io::Result<()> {
        while let Ok(told) = waiting.recv() {
            match told {
                Told::Group(parts) => self.write(&parts)?,
                Told::StartAnew => {
                    if self.file.take().is_some() {
                        RealDisk.remove_file(&self.path)?;
                    }
                    (self.end, self.written_back) = (0, 0);
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, parts: &[Bytes]) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(RealDisk.open(&self.path, OpenMode::Create)?),
        };
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        file.write_at(&slices, self.end)?;
        self.end += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        while self.end - self.written_back >= PIECE_BYTES {
            file.write_back(self.written_back, PIECE_BYTES)?;
            self.written_back += PIECE_BYTES;
        }
        Ok(())
    }
}
