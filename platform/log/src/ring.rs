//! The journal's files: the one that is written, those that are full, the next one, and spares; and the note of which a start must find.
//!
//! ```text
//! spares -> named -> ready -> written -> full -> spares
//! ```
//!
//! A file is *named* once it is called a journal, and *ready* once that is durable and the note tells of it (`span`). What is taken for
//! the next one is a spare, or a new file while there may be more.

use std::{collections::VecDeque, io, ops::Range, path::PathBuf};

use millstream_env::{Lack, lack};

use crate::{
    StorageFailed, StorageOptions,
    bytes_io::failing,
    full::LackTold,
    journal::Journal,
    journal_file::{self, FILE_HEADER_BYTES, FileHeader, ReadyFile},
    span::{SPAN_FILE, Span},
    sync_error::{SyncError, refused, sync_dir},
};

/// A file that takes no more frames.
pub(crate) struct FullFile {
    /// Also where it is called a spare already, and that is not durable yet.
    pub(crate) path: PathBuf,
    pub(crate) sequence: u64,
    pub(crate) last_lsn: u64,
}

/// The journal files beside the one that is being written.
#[derive(Default)]
pub(crate) struct Ring {
    /// Oldest first.
    full: VecDeque<FullFile>,
    /// The next to be written.
    ready: Option<ReadyFile>,
    /// The one that will be: its name could not be made durable yet.
    named: Option<ReadyFile>,
    /// Recycled files.
    spares: Vec<PathBuf>,
    /// The number of the next use.
    next_sequence: u64,
    /// All files: full, ready, named, spare and the one being written.
    files: u64,
    /// How far the file being written is, bytes.
    active_bytes: u64,
    /// Bytes that were carried forward since a file was recycled last.
    pub(crate) carried_bytes: u64,
    /// How far it was looked for logs with much past their mark.
    looked: Looked,
    /// The last frame that is durable. Later ones may be queued already.
    pub(crate) committed_lsn: u64,
    /// The commit loop waits for a file.
    starved: bool,
    /// No room for another file, when last tried.
    no_space: bool,
    /// Why the log that pins the oldest file could not be synced, when last tried.
    pub(crate) postponed: Option<Lack>,
    /// When that was told of.
    pub(crate) told_postponed: LackTold,
    /// When it was told that there is no room for another file.
    told_no_space: LackTold,
}

/// What is done to the logs that pin the oldest file: the more of the journal is used, the more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    /// From a quarter on: those with much past their mark are synced. A round of syncs takes so long that the journal grows by as
    /// much again where the disk takes segments as fast as appends come: begun at half, it ended where appenders wait.
    SyncLarge,
    /// From half on: they are carried forward, or synced where that is not the way.
    Carry,
    /// From 75 % on, or where the commit loop can go on no more without the file: they are synced. At 85 % appenders wait, and only a
    /// sync is certain to free some.
    Sync,
}

/// The oldest file, where it is to be recycled.
#[derive(Clone, Copy)]
pub(crate) struct Due {
    pub(crate) sequence: u64,
    pub(crate) last_lsn: u64,
    pub(crate) means: Means,
}

/// Among which of the logs that pin the oldest file it was looked for those with much past their mark.
#[derive(Clone, Copy, Default)]
struct Looked {
    /// The file's number.
    sequence: u64,
    /// How much of the journal was used as that began, bytes.
    used_bytes: u64,
    /// Those that pin it before this frame had little.
    to: u64,
}

/// When so small a part of the journal has been filled since, they are looked at again: sixteen times before it is half full.
const LOOK_PART: u64 = 64;

impl Ring {
    /// Begins, at a start, with a file of number `sequence` that has no frames yet, and what else there is.
    pub(crate) fn begin(&mut self, sequence: u64, spares: Vec<PathBuf>) {
        self.next_sequence = sequence + 1;
        self.files = 1 + spares.len() as u64;
        self.spares = spares;
        self.active_bytes = FILE_HEADER_BYTES;
    }

    /// Notes that the file being written is durable up to `at`, with all frames up to `lsn`. Whether it is half full since.
    pub(crate) fn advance(&mut self, at: u64, lsn: u64, options: &StorageOptions) -> bool {
        let half = options.journal_file_bytes / 2;
        let crossed = self.active_bytes < half && at >= half;
        (self.active_bytes, self.committed_lsn) = (at, lsn);
        crossed
    }

    /// Notes that the file being written takes no more.
    pub(crate) fn fill(&mut self, file: FullFile) {
        self.full.push_back(file);
        self.active_bytes = 0;
    }

    /// The next file, to be written from now on; where there is none, one is wanted at once.
    pub(crate) fn take_ready(&mut self) -> Option<ReadyFile> {
        let next = self.ready.take();
        self.starved = next.is_none();
        if next.is_some() {
            self.active_bytes = FILE_HEADER_BYTES;
        }
        next
    }

    /// Bytes of the journal that hold frames.
    fn used_bytes(&self, options: &StorageOptions) -> u64 {
        self.full.len() as u64 * options.journal_file_bytes + self.active_bytes
    }

    /// What is taken: [`Ring::used_bytes`], and how many files there are.
    pub(crate) fn taken(&self, options: &StorageOptions) -> (u64, u64) {
        (self.used_bytes(options), self.files)
    }

    /// Whether there is so little left that appenders wait.
    pub(crate) fn is_tight(&self, options: &StorageOptions) -> bool {
        self.used_bytes(options) >= options.journal_bytes_max / 100 * 85
    }

    /// What the disk must have before the journal takes more: waiting for the sync loop alone would not help.
    pub(crate) fn lacks(&self, options: &StorageOptions) -> Option<Lack> {
        if self.no_space && self.starved {
            return Some(Lack::Room);
        }
        self.postponed.filter(|_| self.starved || self.is_tight(options))
    }

    /// The oldest file, if a quarter of the journal is used, or no file is left for the commit loop.
    pub(crate) fn due(&self, options: &StorageOptions) -> Option<Due> {
        let stuck = (self.starved || self.no_space) && self.ready.is_none() && self.spares.is_empty();
        let used = self.used_bytes(options);
        let means = match used.saturating_mul(100) / options.journal_bytes_max.max(1) {
            percent if stuck || percent >= 75 => Means::Sync,
            50.. => Means::Carry,
            25.. => Means::SyncLarge,
            _ => return None,
        };
        let oldest = self.full.front()?;
        Some(Due { sequence: oldest.sequence, last_lsn: oldest.last_lsn, means })
    }

    /// From which frame on the logs that pin the oldest file, of that number, are to be looked at for much past their mark. There may be
    /// thousands with little, and the sync loop comes by with all that it does.
    pub(crate) fn look_from(&mut self, sequence: u64, options: &StorageOptions) -> u64 {
        let used_bytes = self.used_bytes(options);
        let step = options.journal_bytes_max / LOOK_PART;
        if self.looked.sequence != sequence || used_bytes >= self.looked.used_bytes.saturating_add(step) {
            self.looked = Looked { sequence, used_bytes, to: 0 };
        }
        self.looked.to
    }

    /// Notes that those that pin it before frame `to` had little.
    pub(crate) fn looked_to(&mut self, to: u64) {
        self.looked.to = to;
    }

    /// Whether the next file is to be made ready, and there is something to make it of.
    fn wants_next(&self, options: &StorageOptions) -> bool {
        let wanted = self.ready.is_none() && (self.starved || self.active_bytes >= options.journal_file_bytes / 2);
        wanted && (self.named.is_some() || !self.spares.is_empty() || self.files < files_max(options))
    }
}

/// How many files there may be.
pub(crate) fn files_max(options: &StorageOptions) -> u64 {
    options.journal_bytes_max / options.journal_file_bytes
}

/// Makes the next journal file ready when the present one is half full, so that the commit loop need not wait for it. Whether it did.
pub(crate) fn prepare_next(journal: &Journal) -> Result<bool, StorageFailed> {
    if !journal.ring().wants_next(&journal.options) {
        return Ok(false);
    }
    match make_next(journal) {
        Ok(ready) => {
            let sequence = ready.header.sequence;
            if let Some(files) = journal.needed() {
                journal.need(files.start..sequence + 1)?;
            }
            let mut ring = journal.ring();
            ring.ready = Some(ready);
            ring.no_space = false;
            drop(ring);
            journal.commit_work.notify_one();
            Ok(true)
        }
        // No room for another file: what there is must do, until one is recycled or somebody makes room.
        Err(error) if lack(&error).is_some() => {
            let again = std::mem::replace(&mut journal.ring().no_space, true);
            if !again {
                if journal.ring().told_no_space.is_due(Lack::Room, journal.monotonic()) {
                    tracing::warn!(%error, dir = %journal.dir().display(), "no space for another journal file");
                }
                // Who waits is refused now.
                journal.announce_room();
            }
            Ok(false)
        }
        Err(error) => Err(failing("prepare", &journal.dir())(error)),
    }
}

/// Makes the next journal file, or goes on with one whose name could not be made durable. What is refused leaves each file known by
/// the name that it has.
fn make_next(journal: &Journal) -> io::Result<ReadyFile> {
    let (named, spare, sequence) = {
        let mut ring = journal.ring();
        match ring.named.take() {
            Some(named) => (Some(named), None, ring.next_sequence),
            None => (None, ring.spares.pop(), ring.next_sequence),
        }
    };
    let dir = journal.dir();
    let file = match named {
        Some(named) => named,
        None => {
            let header = journal.next_header(sequence);
            let made = journal_file::prepare(&*journal.disk, &dir, spare.as_deref(), header);
            let mut ring = journal.ring();
            match made {
                Ok(file) => {
                    ring.files += u64::from(spare.is_none());
                    ring.next_sequence += 1;
                    file
                }
                Err(error) => {
                    ring.spares.extend(spare);
                    return Err(error);
                }
            }
        }
    };
    match sync_dir(&*journal.disk, &dir) {
        Ok(()) => Ok(file),
        Err(error) => {
            journal.ring().named = Some(file);
            Err(error)
        }
    }
}

/// Makes a spare of the oldest file, which nothing pins; its number is `sequence`, or there was another that did. What is lacking can be
/// tried again.
pub(crate) fn recycle_oldest(journal: &Journal, sequence: u64) -> Result<(), SyncError> {
    let oldest = journal.ring().full.pop_front_if(|oldest| oldest.sequence == sequence);
    let Some(mut oldest) = oldest else { return Ok(()) };
    let made = make_spare(journal, &mut oldest.path, sequence);
    let mut ring = journal.ring();
    match made {
        Ok(()) => {
            ring.spares.push(oldest.path);
            ring.carried_bytes = 0;
        }
        Err(error) => {
            ring.full.push_front(oldest);
            return Err(error);
        }
    }
    drop(ring);
    journal.announce_room();
    Ok(())
}

/// Takes a file's name away, durably: it is no journal any more. (Each before the next, or recovery would see a gap.) `path` is
/// what it is called then. What is lacking can be tried again.
pub(crate) fn make_spare(journal: &Journal, path: &mut PathBuf, sequence: u64) -> Result<(), SyncError> {
    if let Some(files) = journal.needed() {
        journal.need(files.start.max(sequence + 1)..files.end.max(sequence + 1))?;
    }
    let dir = journal.dir();
    let spare = journal_file::spare_path(&dir, sequence);
    if *path != spare {
        journal.disk.rename(path, &spare).map_err(refused("rename", path))?;
        *path = spare;
    }
    sync_dir(&*journal.disk, &dir).map_err(refused("sync", &dir))
}

impl Journal {
    /// Where it is written which journal files a start must find.
    pub(crate) fn span_path(&self) -> PathBuf {
        self.options.dir.join(SPAN_FILE)
    }

    /// What is written there now.
    pub(crate) fn needed(&self) -> Option<Range<u64>> {
        self.span.lock().as_ref().map(Span::files)
    }

    /// Reads it, at a start.
    pub(crate) fn load_span(&self) -> io::Result<()> {
        *self.span.lock() = Span::load(&*self.disk, &self.span_path())?;
        Ok(())
    }

    /// Writes durably which files a start must find. One is added before it takes frames, and taken away before its name goes.
    pub(crate) fn need(&self, files: Range<u64>) -> Result<(), StorageFailed> {
        let (path, mut span) = (self.span_path(), self.span.lock());
        match &mut *span {
            Some(span) => span.store(files).map_err(failing("write", &path)),
            None => {
                *span = Some(Span::create(&*self.disk, &path, files).map_err(failing("write", &path))?);
                self.disk.sync_dir(&self.options.dir).map_err(failing("sync", &self.options.dir))
            }
        }
    }

    /// A header for the next use of a file.
    pub(crate) fn next_header(&self, sequence: u64) -> FileHeader {
        FileHeader {
            directory: self.directory_id,
            sequence,
            nonce: self.rng.next_u64(),
            lsn_floor: self.ring().committed_lsn + 1,
            file_bytes: self.options.journal_file_bytes,
        }
    }
}
