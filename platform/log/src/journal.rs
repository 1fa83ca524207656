//! The journal as the logs and both loops share it: who is let in, and how a failure spreads. (What waits for it is in `queue`, its files
//! in `ring`.)

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
};

use millstream_env::{Ballast, Clock, Disk, Env, Histogram, Lack, Monotonic, Rng, Spawn};
use millstream_model::TimestampMs;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::{
    AppendError, CommitError, StorageFailed, StorageOptions,
    frame::{FRAME_HEADER_BYTES, GROUP_ALIGN},
    full::Full,
    handles::Handles,
    journal_file::FILE_HEADER_BYTES,
    metrics::SYNC_BOUNDS,
    producers::{Limits, PRODUCERS_MAX},
    queue::{Entry, Queue, Work, reject},
    ring::Ring,
    span::Span,
    tail::Tails,
};

/// The file that sets room aside for marks, epochs and names.
const BALLAST: &str = "BALLAST";
/// The file that sets room aside for what makes room.
const RESERVE: &str = "RESERVE";

/// The journal as the logs and both loops share it.
pub(crate) struct Journal {
    pub(crate) options: StorageOptions,
    /// For all but batches: gives up the ballast rather than fail for want of room.
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) ballast: Arc<Ballast>,
    /// Given up after the ballast, and only for what makes room: the marks of very many logs could take all of that.
    pub(crate) reserve: Arc<Ballast>,
    /// The disk for that.
    pub(crate) last_disk: Arc<dyn Disk>,
    /// What the operator was told of a full disk.
    pub(crate) full: Full,
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
    pub(crate) span: Mutex<Option<Span>>,
    /// Held by the append whose frame is queued before its segment is written: one at a time, so that the ballast has room for it.
    pub(crate) queued_first: Mutex<()>,
    /// How long the commit loop's syncs took.
    pub(crate) syncs: Histogram,
    /// What it has written, bytes.
    pub(crate) written_bytes: AtomicU64,
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
        let reserve = Ballast::new(ballast.disk(), options.dir.join(RESERVE), options.reserve_bytes);
        Self {
            disk: ballast.disk(),
            ballast,
            last_disk: reserve.disk(),
            reserve,
            full: Full::default(),
            handles: Handles::new(env.disk.clone(), options.open_segments_max, sync_work.clone()),
            tails: Tails::new(options.tail_bytes_max),
            options,
            rng: env.rng.clone(),
            spawn: env.spawn.clone(),
            clock: env.clock.clone(),
            directory_id,
            names: Mutex::default(),
            queue: Mutex::new(Queue::new()),
            ring: Mutex::default(),
            span: Mutex::default(),
            queued_first: Mutex::default(),
            syncs: Histogram::new(&SYNC_BOUNDS),
            written_bytes: AtomicU64::new(0),
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

    /// The largest batch that fits a journal file with its frame.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        let bytes = self.options.journal_file_bytes - FILE_HEADER_BYTES - FRAME_HEADER_BYTES as u64;
        usize::try_from(bytes).unwrap_or(usize::MAX).min(u32::MAX as usize)
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
        if !self.sets_aside() {
            return Err(AppendError::StorageFull { path: self.ballast.path().to_owned() });
        }
        match self.ring.lock().lacks(&self.options) {
            None => Ok(idle),
            Some(Lack::Room) => Err(AppendError::StorageFull { path: self.dir() }),
            Some(Lack::Descriptors) => Err(AppendError::Descriptors { path: self.dir() }),
        }
    }

    /// Whether the room for what must be written on a full disk is there.
    pub(crate) fn sets_aside(&self) -> bool {
        self.ballast.is_held() && self.reserve.is_held()
    }

    /// Sets it aside, if `more` bytes would be left beside it; `Ok(false)`: there is not enough. What makes room comes first, and takes what
    /// there is.
    ///
    /// # Errors
    /// What has failed, and the file.
    pub(crate) fn set_aside(&self, more: u64) -> Result<bool, (PathBuf, io::Error)> {
        let of = |ballast: &Ballast| ballast.path().to_owned();
        let reserved = self.reserve.hold(0).and_then(|held| match held {
            true => Ok(true),
            false => self.reserve.hold_some().map(|()| false),
        });
        if !reserved.map_err(|error| (of(&self.reserve), error))? {
            return Ok(false);
        }
        self.ballast.hold(more).map_err(|error| (of(&self.ballast), error))
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
        // Produce slows at 85 %; the sync loop is at work since 25 %. Where waiting would not help, the append is refused.
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
        let Some(entries) = self.queue.lock().fail(&failure) else { return };
        tracing::error!(error = %failure, "the log storage has failed");
        self.failed.send_replace(Some(failure.clone()));
        self.ended.send_replace(Some(CommitError::Failed(failure.clone())));
        reject(entries, &CommitError::Failed(failure));
        self.wake_all();
    }

    /// Follows whether anything can still become durable.
    pub(crate) fn subscribe_ended(&self) -> watch::Receiver<Option<CommitError>> {
        self.ended.subscribe()
    }

    /// The time since some moment.
    pub(crate) fn monotonic(&self) -> Monotonic {
        self.clock.now()
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
        let first = self.queue.lock().close();
        self.wake_all();
        first
    }

    /// Ends the loops where they are.
    pub(crate) fn stop(&self) {
        let (entries, pins) = self.queue.lock().stop();
        // The logs go outside of the lock.
        drop(pins);
        self.ended.send_if_modified(|ended| ended.is_none() && ended.replace(CommitError::Stopped).is_none());
        reject(entries, &CommitError::Stopped);
        self.wake_all();
    }

    /// What there is for the commit loop; entries are moved to the end of `pending`.
    pub(crate) fn take_entries(&self, pending: &mut VecDeque<Entry>) -> Work {
        self.queue.lock().take(pending)
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
