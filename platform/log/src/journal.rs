//! The journal's shared side: the queue that appenders fill, what pins which part of the journal, and how a failure spreads.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    ops::Range,
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use millstream_env::{Ballast, Clock, Disk, Env, Lack, Rng, Spawn};
use millstream_model::TimestampMs;
use millstream_record::PATCH_BYTES;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::{
    AppendError, CommitError, PartitionLog, StorageFailed, StorageOptions,
    bytes_io::failing,
    carry::Carrying,
    frame::{FRAME_HEADER_BYTES, Frame, GROUP_ALIGN, Kind},
    handles::Handles,
    journal_file::{FILE_HEADER_BYTES, ReadyFile},
    producers::{Limits, PRODUCERS_MAX},
    span::{SPAN_FILE, Span},
    tail::Tails,
    ticket::Resolve,
};

/// The file that sets room aside for marks, epochs and names.
const BALLAST: &str = "BALLAST";

/// What waits to be written as one frame.
pub(crate) struct Entry {
    pub(crate) frame: Frame,
    /// The payload's first bytes as patched, and how many of them count.
    pub(crate) prefix: [u8; PATCH_BYTES],
    pub(crate) prefix_bytes: usize,
    /// The rest of the payload: the producer's own bytes.
    pub(crate) body: Bytes,
    pub(crate) log: Arc<PartitionLog>,
    /// Whether the payload goes to the journal.
    pub(crate) way: Way,
    /// Who waits for this frame, if anybody.
    pub(crate) resolve: Option<Resolve>,
}

/// What the journal gets of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// All of it.
    Whole,
    /// That is decided when its turn comes.
    Undecided,
    /// A reference: the log's mark covers it, durably.
    Reference,
}

impl Entry {
    /// Bytes that the entry holds until it is durable.
    pub(crate) fn bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.prefix_bytes + self.body.len()
    }

    /// Bytes that the frame takes in the journal.
    pub(crate) fn journal_bytes(&self) -> usize {
        if self.is_reference() { FRAME_HEADER_BYTES } else { self.bytes() }
    }

    pub(crate) fn is_reference(&self) -> bool {
        self.way == Way::Reference
    }

    /// The frame as it is journaled.
    pub(crate) fn journaled(&self) -> Frame {
        match self.is_reference() {
            true => Frame { kind: Kind::AppendRef, payload_bytes: 0, ..self.frame },
            false => self.frame,
        }
    }
}

/// Whether appends are taken.
enum Phase {
    Open,
    /// What is queued is still committed.
    Closing,
    /// Abandoned or closed: the loops end where they are.
    Stopped,
    Failed(StorageFailed),
}

/// What the commit loop finds when it looks.
pub(crate) enum Work {
    Entries,
    Nothing,
    /// Nothing, and nothing more will come.
    Drained,
    Stop,
}

/// Behind the queue's lock.
pub(crate) struct Queue {
    phase: Phase,
    entries: VecDeque<Entry>,
    /// Bytes of frames that are queued or being written.
    pub(crate) bytes: usize,
    /// The next frame's number.
    pub(crate) next_lsn: u64,
    /// Logs with frames that their segments do not durably hold, by the first such frame: they pin the journal from it on.
    pub(crate) pins: BTreeMap<u64, Arc<PartitionLog>>,
    /// Logs without a journal that have data to sync.
    pub(crate) unjournaled: Vec<Arc<PartitionLog>>,
    /// Deleted logs whose deletion is durable: their files can go.
    pub(crate) dropped: Vec<Arc<PartitionLog>>,
    /// Logs whose new start, end or durability is durable in the journal: their files are to follow. And those whose durability is to
    /// be changed.
    pub(crate) moved: Vec<Arc<PartitionLog>>,
    /// What is carried forward, as far as it is not durable yet or nobody has looked since.
    pub(crate) carries: VecDeque<Carrying>,
    /// The sync loop is asked to sync `unjournaled` now.
    pub(crate) sync_unjournaled: bool,
    /// Those of them whose turn it is, and others that somebody wants synced.
    pub(crate) due: VecDeque<Arc<PartitionLog>>,
    /// The commit loop has ended in order.
    pub(crate) drained: bool,
}

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
    pub(crate) full: VecDeque<FullFile>,
    /// The next to be written.
    pub(crate) ready: Option<ReadyFile>,
    /// The one that will be: its name could not be made durable yet.
    pub(crate) named: Option<ReadyFile>,
    /// Recycled files.
    pub(crate) spares: Vec<PathBuf>,
    /// The number of the next use.
    pub(crate) next_sequence: u64,
    /// All files: full, ready, named, spare and the one being written.
    pub(crate) files: u64,
    /// How far the file being written is, bytes.
    pub(crate) active_bytes: u64,
    /// Bytes that were carried forward since a file was recycled last.
    pub(crate) carried_bytes: u64,
    /// The last frame that is durable. Later ones may be queued already.
    pub(crate) committed_lsn: u64,
    /// The commit loop waits for a file.
    pub(crate) starved: bool,
    /// No room for another file, when last tried.
    pub(crate) no_space: bool,
    /// Why the log that pins the oldest file could not be synced, when last tried.
    pub(crate) postponed: Option<Lack>,
}

/// The journal as the logs and both loops share it.
pub(crate) struct Journal {
    pub(crate) options: StorageOptions,
    /// For all but batches: gives up the ballast rather than fail for want of room.
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) ballast: Arc<Ballast>,
    /// The segments' files, on the disk as it is.
    pub(crate) handles: Arc<Handles>,
    pub(crate) tails: Arc<Tails>,
    pub(crate) rng: Arc<dyn Rng>,
    pub(crate) spawn: Arc<dyn Spawn>,
    clock: Arc<dyn Clock>,
    pub(crate) directory_id: Uuid,
    /// Held while directories of logs are made, and while those that are left empty go.
    pub(crate) names: Mutex<()>,
    queue: Mutex<Queue>,
    ring: Mutex<Ring>,
    /// Which files a start must find; none until recovery has looked.
    span: Mutex<Option<Span>>,
    /// Held by the append whose frame is queued before its segment is written: one at a time, so that the ballast has room for it.
    pub(crate) queued_first: Mutex<()>,
    /// For the commit loop: entries, a file, or the end.
    pub(crate) commit_work: Notify,
    /// For the sync loop.
    pub(crate) sync_work: Arc<Notify>,
    /// For appenders: there may be room.
    room: Notify,
    failed: watch::Sender<Option<StorageFailed>>,
    /// Why nothing more becomes durable, once that is so.
    ended: watch::Sender<Option<CommitError>>,
}

impl Journal {
    pub(crate) fn new(options: StorageOptions, env: &Env, directory_id: Uuid) -> Self {
        let sync_work = Arc::new(Notify::new());
        let ballast = Ballast::new(env.disk.clone(), options.dir.join(BALLAST), options.ballast_bytes);
        Self {
            disk: ballast.disk(),
            ballast,
            handles: Handles::new(env.disk.clone(), options.open_segments_max, sync_work.clone()),
            tails: Tails::new(options.tail_bytes_max),
            options,
            rng: env.rng.clone(),
            spawn: env.spawn.clone(),
            clock: env.clock.clone(),
            directory_id,
            names: Mutex::default(),
            queue: Mutex::new(Queue {
                phase: Phase::Open,
                entries: VecDeque::new(),
                bytes: 0,
                next_lsn: 1,
                pins: BTreeMap::new(),
                unjournaled: Vec::new(),
                dropped: Vec::new(),
                moved: Vec::new(),
                carries: VecDeque::new(),
                sync_unjournaled: false,
                due: VecDeque::new(),
                drained: false,
            }),
            ring: Mutex::default(),
            span: Mutex::default(),
            queued_first: Mutex::default(),
            commit_work: Notify::new(),
            sync_work,
            room: Notify::new(),
            failed: watch::Sender::new(None),
            ended: watch::Sender::new(None),
        }
    }

    /// Where the journal files are.
    pub(crate) fn dir(&self) -> PathBuf {
        self.options.dir.join("journal")
    }

    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    pub(crate) fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock()
    }

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

    /// The largest batch that fits a journal file with its frame.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        let bytes = self.options.journal_file_bytes - FILE_HEADER_BYTES - FRAME_HEADER_BYTES as u64;
        usize::try_from(bytes).unwrap_or(usize::MAX).min(u32::MAX as usize)
    }

    /// How many files there may be.
    pub(crate) fn files_max(&self) -> u64 {
        self.options.journal_bytes_max / self.options.journal_file_bytes
    }

    /// Checks that the journal would take `bytes` now. It may still fail afterwards; a failed storage ends everything anyway.
    /// Gives whether the commit loop has nothing to do: what is queued now, it takes up at once.
    pub(crate) fn admit(&self, bytes: usize) -> Result<bool, AppendError> {
        let queue = self.queue.lock();
        queue.check_open()?;
        if queue.bytes > 0 && queue.bytes + bytes > self.options.queue_bytes_max {
            return Err(AppendError::Overloaded { queued: queue.bytes });
        }
        let idle = queue.bytes == 0;
        drop(queue);
        // What is set aside is not for more records.
        if !self.ballast.is_held() {
            return Err(AppendError::StorageFull { path: self.ballast.path().to_owned() });
        }
        match self.ring.lock().lacks(&self.options) {
            None => Ok(idle),
            Some(Lack::Room) => Err(AppendError::StorageFull { path: self.dir() }),
            Some(Lack::Descriptors) => Err(AppendError::Descriptors { path: self.dir() }),
        }
    }

    /// Whether appenders should go on.
    fn has_room(&self) -> bool {
        let queue = self.queue.lock();
        if queue.check_open().is_err() {
            return true;
        }
        if queue.bytes > self.options.queue_bytes_max / 2 {
            return false;
        }
        drop(queue);
        // Produce slows at 85 %; the sync loop is at work since 50 %. Where waiting would not help, the append is refused.
        let ring = self.ring.lock();
        !ring.is_tight(&self.options) || ring.lacks(&self.options).is_some()
    }

    pub(crate) async fn writable(&self) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.has_room() {
                return;
            }
            room.await;
        }
    }

    /// Wakes the appenders that wait.
    pub(crate) fn announce_room(&self) {
        self.room.notify_waiters();
    }

    /// Spreads a failure: it is the first that counts. Every ticket fails, nothing is appended any more.
    pub(crate) fn fail(&self, failure: StorageFailed) {
        let entries = {
            let mut queue = self.queue.lock();
            if matches!(queue.phase, Phase::Failed(_)) {
                return;
            }
            tracing::error!(error = %failure, "the log storage has failed");
            queue.phase = Phase::Failed(failure.clone());
            std::mem::take(&mut queue.entries)
        };
        self.failed.send_replace(Some(failure.clone()));
        self.ended.send_replace(Some(CommitError::Failed(failure.clone())));
        reject(entries, &CommitError::Failed(failure));
        self.wake_all();
    }

    /// Follows whether anything can still become durable.
    pub(crate) fn subscribe_ended(&self) -> watch::Receiver<Option<CommitError>> {
        self.ended.subscribe()
    }

    /// The time by the broker's clock.
    pub(crate) fn now(&self) -> TimestampMs {
        TimestampMs(self.clock.wall_ms())
    }

    /// How much is remembered of a log's producers.
    pub(crate) fn producer_limits(&self) -> Limits {
        let expiration_ms = i64::try_from(self.options.producer_expiration.as_millis()).unwrap_or(i64::MAX);
        Limits { producers_max: PRODUCERS_MAX, expiration_ms }
    }

    /// The failure, if there was one.
    pub(crate) fn failure(&self) -> Option<StorageFailed> {
        self.failed.borrow().clone()
    }

    /// Resolves with the failure when there is one.
    pub(crate) async fn failed(&self) -> StorageFailed {
        let mut failed = self.failed.subscribe();
        loop {
            if let Some(failure) = failed.borrow_and_update().clone() {
                return failure;
            }
            // The sender lives in self.
            let _ = failed.changed().await;
        }
    }

    /// Takes no more appends; what is queued is committed, then the loops finish. Whether this was the first call.
    pub(crate) fn start_closing(&self) -> bool {
        let mut queue = self.queue.lock();
        let first = matches!(queue.phase, Phase::Open);
        if first {
            queue.phase = Phase::Closing;
        }
        drop(queue);
        self.wake_all();
        first
    }

    /// Ends the loops where they are.
    pub(crate) fn stop(&self) {
        let (entries, pins) = {
            let mut queue = self.queue.lock();
            if !matches!(queue.phase, Phase::Failed(_)) {
                queue.phase = Phase::Stopped;
            }
            queue.unjournaled.clear();
            queue.due.clear();
            queue.dropped.clear();
            queue.moved.clear();
            queue.carries.clear();
            (std::mem::take(&mut queue.entries), std::mem::take(&mut queue.pins))
        };
        // The logs go outside of the lock.
        drop(pins);
        self.ended.send_if_modified(|ended| ended.is_none() && ended.replace(CommitError::Stopped).is_none());
        reject(entries, &CommitError::Stopped);
        self.wake_all();
    }

    /// What there is for the commit loop; entries are moved to the end of `pending`.
    pub(crate) fn take_entries(&self, pending: &mut VecDeque<Entry>) -> Work {
        let mut queue = self.queue.lock();
        match queue.phase {
            Phase::Stopped | Phase::Failed(_) => Work::Stop,
            _ if !queue.entries.is_empty() => {
                pending.append(&mut queue.entries);
                Work::Entries
            }
            Phase::Closing => Work::Drained,
            Phase::Open => Work::Nothing,
        }
    }

    fn wake_all(&self) {
        self.commit_work.notify_one();
        self.sync_work.notify_one();
        self.announce_room();
    }
}

/// Fails the storage when a loop ends by a panic: nobody would write or sync any more, and whoever waits would wait for ever.
pub(crate) struct PanicGuard {
    journal: Arc<Journal>,
    what: &'static str,
}

impl PanicGuard {
    pub(crate) fn new(journal: &Arc<Journal>, what: &'static str) -> Self {
        Self { journal: journal.clone(), what }
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let source = Arc::new(io::Error::other(format!("{} has panicked", self.what)));
            self.journal.fail(StorageFailed { action: "go on with", path: self.journal.dir(), source });
        }
    }
}

/// Fails the tickets of what will not be written.
pub(crate) fn reject(entries: impl IntoIterator<Item = Entry>, error: &CommitError) {
    for mut entry in entries {
        if let Some(resolve) = entry.resolve.take() {
            // Nobody may be waiting any more.
            let _ = resolve.send(Err(error.clone()));
        }
    }
}

impl Queue {
    /// Adds a frame, which gets its number here: the journal's order is the queue's.
    pub(crate) fn push(&mut self, mut entry: Entry) -> u64 {
        let lsn = self.next_lsn;
        self.next_lsn += 1;
        entry.frame.lsn = lsn;
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        lsn
    }

    /// Whether appends are taken.
    pub(crate) fn check_open(&self) -> Result<(), AppendError> {
        match &self.phase {
            Phase::Open => Ok(()),
            Phase::Closing | Phase::Stopped => Err(AppendError::Closed),
            Phase::Failed(failure) => Err(failure.clone().into()),
        }
    }

    /// Whether the loops should end where they are.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.phase, Phase::Stopped | Phase::Failed(_))
    }

    /// Whether nothing is appended or committed any more, and what is left is to be synced.
    pub(crate) fn is_finishing(&self) -> bool {
        self.drained && matches!(self.phase, Phase::Closing)
    }
}

impl Ring {
    /// Bytes of the journal that hold frames.
    pub(crate) fn used_bytes(&self, options: &StorageOptions) -> u64 {
        self.full.len() as u64 * options.journal_file_bytes + self.active_bytes
    }

    /// Whether there is so little left that appenders wait.
    fn is_tight(&self, options: &StorageOptions) -> bool {
        self.used_bytes(options) >= options.journal_bytes_max / 100 * 85
    }

    /// What the disk must have before the journal takes more: waiting for the sync loop alone would not help.
    fn lacks(&self, options: &StorageOptions) -> Option<Lack> {
        if self.no_space && self.starved {
            return Some(Lack::Room);
        }
        self.postponed.filter(|_| self.starved || self.is_tight(options))
    }
}

/// Checks that the options fit together.
pub(crate) fn check(options: &StorageOptions) -> Result<(), &'static str> {
    let file = options.journal_file_bytes;
    if !(64 << 10..=2 << 30).contains(&file) || !file.is_multiple_of(GROUP_ALIGN) {
        return Err("journal_file_bytes must be a multiple of 4096 from 64 KiB to 2 GiB");
    }
    if options.journal_bytes_max / file < 2 {
        return Err("journal_bytes_max must have room for two journal files");
    }
    if options.open_segments_max == 0 {
        return Err("open_segments_max must not be zero");
    }
    if options.group_bytes_max == 0 || options.queue_bytes_max == 0 {
        return Err("group_bytes_max and queue_bytes_max must not be zero");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::World;

    use super::*;

    #[test]
    fn a_loop_that_panics_fails_the_storage() {
        let world = World::new(1);
        let journal = Arc::new(Journal::new(StorageOptions::new("/data"), &world.env(), Uuid::nil()));
        drop(PanicGuard::new(&journal, "a loop that ends in order"));
        assert!(journal.failure().is_none());
        let inner = journal.clone();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _guard = PanicGuard::new(&inner, "log-commit");
            // Also where it holds the lock that failing takes.
            let _queue = inner.queue();
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        let failure = journal.failure().unwrap().to_string();
        assert!(failure.contains("log-commit has panicked"), "{failure}");
    }
}
