//! The storage: one data directory with its lock, its journal and its logs.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use millstream_env::{Disk, DiskLock, Env, Identity, Task, is_of_wrong_type, lack, taken_away};
use millstream_model::{Durability, ProducerId};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{
    DeleteError, LogId, LogOptions, OpenError, OpenLogError, PartitionLog, Recovered, StorageFailed, StorageOptions,
    Ticket,
    bytes_io::failing,
    commit,
    data_dir::{self, DataDir},
    followed::{FOLLOWED_FILE, Followed},
    journal::Journal,
    made::Noted,
    recover::{self, cut::cut_unmarked},
    sync,
};

/// How often it is looked whether the data directory is still there.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// An open data directory. Dropping it without [`Storage::close`] is like a crash that lets the operating system finish
/// its writes: nothing acknowledged is lost, the next start replays the journal.
pub struct Storage {
    journal: Arc<Journal>,
    logs: Mutex<Logs>,
    followed: Mutex<Followed>,
    /// The loops that have not been seen to end.
    tasks: tokio::sync::Mutex<Vec<Task>>,
    /// Look at the time.
    timers: Mutex<Vec<Task>>,
    watched: Watched,
    /// Held by the loops too: the directory is free when the last of them has ended.
    _lock: Arc<dyn DiskLock>,
}

#[derive(Default)]
struct Logs {
    open: HashMap<LogId, Arc<PartitionLog>>,
    refused: HashMap<LogId, OutOfService>,
    deleted: Deleted,
}

/// A log that is out of service.
struct OutOfService {
    error: Arc<OpenError>,
    /// Knows nothing of what is on disk, and can be deleted.
    log: Arc<PartitionLog>,
}

impl OutOfService {
    fn new(id: LogId, journal: &Arc<Journal>, error: OpenError, made_by: u64) -> Self {
        let log = PartitionLog::empty(id, journal.clone(), LogOptions { made_by, ..LogOptions::default() });
        log.state().life.refused = true;
        Self { error: Arc::new(error), log: Arc::new(log) }
    }
}

impl Logs {
    /// What there is of a log, in service or not.
    fn find(&self, id: LogId) -> Option<&Arc<PartitionLog>> {
        self.open.get(&id).or_else(|| self.refused.get(&id).map(|refused| &refused.log))
    }
}

/// The last logs that were deleted: who still holds an older picture of the catalog must not make them again.
#[derive(Default)]
struct Deleted {
    ids: HashSet<LogId>,
    order: VecDeque<LogId>,
}

/// What a new log takes of the disk before it has a record, or little more than one.
const LOG_BYTES: u64 = 32 << 10;
const LOG_FILES: u64 = 8;

/// How many deleted logs are remembered.
const DELETED_MAX: usize = 100_000;

impl Deleted {
    fn insert(&mut self, id: LogId) {
        if self.ids.insert(id) {
            self.order.push_back(id);
        }
        if self.order.len() > DELETED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

/// Paths without which the next start does not find what this process has written.
/// Each with what was there when it began to be watched: a copy in its place is none of it.
type Watched = Arc<Mutex<Vec<(PathBuf, Option<Identity>)>>>;

fn watched(disk: &dyn Disk, path: PathBuf) -> (PathBuf, Option<Identity>) {
    let there = disk.identity(&path).ok();
    (path, there)
}

/// Fails the storage once the data directory is not there any more, or one of its parts: files that are open can be written and synced
/// on, and the next start finds none of them. Asks for the lock's file, which nobody else touches.
async fn watch(journal: Arc<Journal>, lock: Weak<dyn DiskLock>, parts: Watched, env: Env) {
    let path = journal.options.dir.join(data_dir::LOCK_FILE);
    while !journal.queue().is_stopped() && journal.failure().is_none() {
        env.clock.sleep(WATCH_INTERVAL).await;
        let (lock, look_at, journal, parts) = (lock.clone(), path.clone(), journal.clone(), parts.lock().clone());
        let look = move || {
            // Closed meanwhile, or it cannot tell: whatever is wrong then, other calls tell as well.
            let is_there = lock.upgrade().is_none_or(|lock| lock.is_at(&look_at).unwrap_or(true));
            let missing = match is_there {
                false => Some(look_at),
                true => {
                    let is_gone = |(part, there): &(PathBuf, Option<Identity>)| match journal.disk.identity(part) {
                        Ok(now) => there.is_some_and(|there| there != now),
                        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
                    };
                    let gone = parts.into_iter().find(is_gone).map(|(part, _)| part);
                    // The file that is written is always there, whatever is recycled.
                    let emptied = || journal.disk.read_dir(&journal.dir()).is_ok_and(|files| files.is_empty());
                    gone.or_else(|| emptied().then(|| journal.dir()))
                }
            };
            if let Some(missing) = missing.filter(|_| !journal.queue().is_stopped()) {
                journal.fail(failing("find", &missing)(taken_away()));
            }
        };
        env.spawn.blocking("data-dir-watch", Box::new(look)).join().await;
    }
}

/// Recovers the logs, with room set aside before, since recovery may have need of it, and after. `clean`: see [`recover::recover`].
fn recovered(journal: &Arc<Journal>, clean: &mut bool) -> Result<recover::Outcome, OpenError> {
    // A full disk is no reason not to start.
    let set_aside = || journal.set_aside(0).map_err(|(path, error)| data_dir::io("reserve", &path)(error));
    if !set_aside()? {
        // Nothing can be deleted before it has gone through.
        journal.reserve.release();
    }
    let outcome = recover::recover(journal, clean)?;
    set_aside()?;
    Ok(outcome)
}

impl Storage {
    /// Opens a data directory, makes it if it is not there, and recovers what it holds: takes the directory's lock, cuts
    /// every log to its mark, replays the journal and syncs. Blocks on the disk. Spawns the commit and the sync loop.
    ///
    /// # Errors
    /// [`OpenError`]; the directory is left as recoverable as it was.
    pub fn open(options: StorageOptions, env: Env) -> Result<(Self, Recovered), OpenError> {
        Self::lock(options, env)?.recover()
    }

    /// The second half of it; see `locked`.
    pub(crate) fn recover(options: StorageOptions, env: Env, dir: DataDir) -> Result<(Self, Recovered), OpenError> {
        let lock: Arc<dyn DiskLock> = dir.lock.into();
        let interval = options.sync_interval;
        let journal = Arc::new(Journal::new(options, &env, dir.id));
        let mut clean = dir.clean;
        let outcome = recovered(&journal, &mut clean).inspect_err(|_| {
            // As it was found: what a start refuses for its journal, say, a later one may do without.
            if clean && let Err(failed) = data_dir::close(&*journal.disk, &journal.options.dir) {
                tracing::warn!("that the last run ended in order is not noted any more: {failed}");
            }
        })?;
        let followed = Followed::of_dir(&*journal.disk, &journal.options.dir)?;
        let recovered = Recovered {
            directory_id: dir.id,
            created: dir.created,
            clean: dir.clean,
            logs: outcome.logs.len(),
            out_of_service: outcome.refused.len(),
            damaged_deleted: outcome.damaged_deleted,
            replayed_frames: outcome.replayed_frames,
            replayed_bytes: outcome.replayed_bytes,
        };
        let refuse = |(id, error): (LogId, OpenError)| {
            let noted = Noted::of_dir(&*journal.disk, &journal.options.dir.join(id.path()));
            (id, OutOfService::new(id, &journal, error, noted.made_by))
        };
        let refused = outcome.refused.into_iter().map(refuse).collect();
        let synced_lsn = journal.queue().next_lsn - 1;
        let commit = {
            let (journal, lock) = (journal.clone(), lock.clone());
            let active = outcome.active;
            env.spawn.dedicated(
                "log-commit",
                Box::pin(async move {
                    commit::run(journal, active, synced_lsn).await;
                    drop(lock);
                }),
            )
        };
        let sync = {
            let (journal, lock) = (journal.clone(), lock.clone());
            env.spawn.dedicated(
                "log-sync",
                Box::pin(async move {
                    sync::run(journal).await;
                    drop(lock);
                }),
            )
        };
        let ticker = {
            let (journal, clock) = (journal.clone(), env.clock.clone());
            env.spawn.spawn(
                "log-sync-ticker",
                Box::pin(async move {
                    loop {
                        clock.sleep(interval).await;
                        let stopped = {
                            let mut queue = journal.queue();
                            queue.sync_unjournaled = true;
                            queue.is_stopped()
                        };
                        if stopped {
                            return;
                        }
                        journal.sync_work.notify_one();
                    }
                }),
            )
        };
        let parts: Watched = {
            let parts = [journal.dir(), journal.options.dir.join("logs")];
            Arc::new(Mutex::new(parts.map(|part| watched(&*journal.disk, part)).into()))
        };
        let watch = watch(journal.clone(), Arc::downgrade(&lock), parts.clone(), env.clone());
        let watch = env.spawn.spawn("data-dir-watch", Box::pin(watch));
        let storage = Self {
            journal,
            followed: Mutex::new(followed),
            logs: Mutex::new(Logs { open: outcome.logs, refused, deleted: Deleted::default() }),
            tasks: tokio::sync::Mutex::new(vec![commit, sync]),
            timers: Mutex::new(vec![ticker, watch]),
            watched: parts,
            _lock: lock,
        };
        Ok((storage, recovered))
    }

    /// The data directory's identity, made with it.
    #[must_use]
    pub fn directory_id(&self) -> Uuid {
        self.journal.directory_id
    }

    /// Has the storage fail, too, once there is nothing at `path`, or something else than now: what was acknowledged rests on what somebody
    /// else keeps there. Looked at each second.
    pub fn watch(&self, path: impl Into<PathBuf>) {
        self.watched.lock().push(watched(&*self.journal.disk, path.into()));
    }

    /// How far the cluster's metadata was followed, as far as that was noted, or one of the logs tells ([`LogOptions::made_by`]); 0:
    /// it never was. Metadata that ends before this is an older copy.
    #[must_use]
    pub fn followed(&self) -> u64 {
        let noted = self.followed.lock().index();
        let logs = self.logs.lock();
        let refused = logs.refused.values().map(|refused| &refused.log);
        let made = logs.open.values().chain(refused).filter_map(|log| log.state().made.entry());
        made.max().unwrap_or(0).max(noted)
    }

    /// Up to which entry of the cluster's metadata all logs are known to have been made that were asked for; 0: that is not known.
    #[must_use]
    pub fn made_through(&self) -> u64 {
        self.followed.lock().made()
    }

    /// Notes how far the cluster's metadata, which is durable, is followed, by the number of an entry. To be called before what it gave
    /// out is used, such as leaders' epochs: an older copy of the metadata would give it out again, and is known by this. Blocks for a
    /// sync, unless it was noted already.
    ///
    /// # Errors
    /// [`OpenLogError::Io`] where the disk lacks something; [`OpenLogError::Failed`].
    pub fn follow(&self, index: u64) -> Result<(), OpenLogError> {
        self.note_followed(|followed, disk, dir| followed.follow(disk, dir, index))
    }

    /// Notes that all logs are durable that entries up to `index` of the cluster's metadata ask for: from now on one of them that is not
    /// there has gone. To be called once the tickets of the epochs have resolved that were started in them. Blocks for a sync.
    ///
    /// # Errors
    /// As of [`Storage::follow`].
    pub fn note_all_made(&self, index: u64) -> Result<(), OpenLogError> {
        self.note_followed(|followed, disk, dir| followed.all_made(disk, dir, index))
    }

    fn note_followed(
        &self,
        note: impl FnOnce(&mut Followed, &dyn Disk, &Path) -> std::io::Result<()>,
    ) -> Result<(), OpenLogError> {
        let dir = &self.journal.options.dir;
        let path = dir.join(FOLLOWED_FILE);
        note(&mut self.followed.lock(), &*self.journal.disk, dir).map_err(|source| match lack(&source) {
            Some(_) => OpenLogError::Io { action: "write", path, source },
            None => {
                let failure = failing("write", &path)(source);
                self.journal.fail(failure.clone());
                failure.into()
            }
        })
    }

    /// By which entry of the cluster's metadata a log was made; none if that is not known, or there is no such log. Metadata that
    /// reaches to that entry and does not know the log has seen it deleted.
    #[must_use]
    pub fn made_by(&self, id: LogId) -> Option<u64> {
        let logs = self.logs.lock();
        // What is noted there is of another's making.
        let is_foreign = logs.refused.get(&id).is_some_and(|refused| refused.error.is_of_place());
        logs.find(id).filter(|_| !is_foreign).and_then(|log| log.state().made.entry())
    }

    /// Notes of a log that the metadata knows, as of an entry, that it was made by it or by one before, if the log has no note: an
    /// earlier version made it. To be called before an epoch is started in it. Waits for no sync: the note is durable with that epoch, and
    /// written with the next mark.
    pub fn note_made(&self, id: LogId, entry: u64) {
        if let Some(log) = self.logs.lock().find(id) {
            log.state().made.learn(entry);
        }
    }

    /// Tells of each client's producer that a log in service remembers, once for each such log. (One not heard of for longer than
    /// [`StorageOptions::producer_expiration`] may be among them.) Reads memory only.
    pub fn each_producer(&self, mut each: impl FnMut(ProducerId)) {
        for log in self.logs.lock().open.values() {
            log.state().producers.iter().map(|(id, _)| id).filter(|id| id.is_clients()).for_each(&mut each);
        }
    }

    /// Whether there is nothing in a log and there never was, as far as its files and the journal tell: what is left where a crash came
    /// before anything of it was durable.
    #[must_use]
    pub fn is_void(&self, id: LogId) -> bool {
        let log = self.log(id);
        log.is_some_and(|log| log.is_untouched() && !log.state().loaded.unmarked)
    }

    /// Puts a log out of service that entry `made_by` had asked for and that has gone: it does not begin empty. It can be deleted.
    /// Changes nothing of one that is there.
    pub fn miss(&self, id: LogId, made_by: u64) {
        let mut logs = self.logs.lock();
        if logs.find(id).is_none() {
            let path = self.journal.options.dir.join(id.path());
            let missing = OutOfService::new(id, &self.journal, OpenError::LogMissing { path }, made_by);
            logs.refused.insert(id, missing);
        }
    }

    /// Opens a log, made empty if it does not exist; one that is open already is shared, and takes `segment_bytes` and
    /// `segment_ms` from now on. One that is there keeps its durability: see [`PartitionLog::change_durability`].
    ///
    /// Blocks on the disk: a new log's directory is made, one in durability `replicated` has its mark written and synced too, and what
    /// nobody was promised of a log that lost its mark is cut. Whoever opens, looks up or deletes another waits meanwhile.
    ///
    /// # Errors
    /// [`OpenLogError`].
    pub fn open_log(&self, id: LogId, options: LogOptions) -> Result<Arc<PartitionLog>, OpenLogError> {
        if let Some(failure) = self.journal.failure() {
            return Err(failure.into());
        }
        let mut logs = self.logs.lock();
        if logs.deleted.ids.contains(&id) {
            return Err(OpenLogError::Deleted { id });
        }
        if let Some(refused) = logs.refused.get(&id) {
            return Err(OpenLogError::OutOfService { id, source: refused.error.clone() });
        }
        if let Some(log) = logs.open.get(&id).filter(|log| log.state().loaded.unmarked) {
            if options.durability == Durability::Replicated {
                return Err(OpenLogError::MarkMissing { path: log.mark_path() });
            }
            cut_unmarked(&self.journal, log).map_err(|error| match error {
                OpenError::Io { action, path, source } => OpenLogError::Io { action, path, source },
                error => {
                    OpenLogError::Io { action: "cut", path: log.dir().to_owned(), source: std::io::Error::other(error) }
                }
            })?;
        }
        // A directory without a mark may be left of a creation that failed half-way: then, if nobody has it, it is made again.
        if let Some(log) = logs.open.get(&id)
            && (log.durability() == options.durability || Arc::strong_count(log) > 1 || !log.is_untouched())
        {
            return Ok(adopt(log, options));
        }
        let log = Arc::new(PartitionLog::empty(id, self.journal.clone(), options));
        let io = |action| {
            let path = log.dir().to_owned();
            move |source| OpenLogError::Io { action, path, source }
        };
        let _names = self.journal.names.lock();
        // Durable with its first records: until then the journal would make it again.
        match self.journal.disk.create_dir_all(log.dir()) {
            Err(source) if is_of_wrong_type(&source) => {
                let error = Arc::new(OpenError::Io { action: "make", path: log.dir().to_owned(), source });
                tracing::error!(log = %id, "out of service: {error}");
                log.state().life.refused = true;
                logs.refused.insert(id, OutOfService { error: error.clone(), log });
                return Err(OpenLogError::OutOfService { id, source: error });
            }
            made => made.map_err(io("make"))?,
        }
        log.its_place().check(&*self.journal.disk).map_err(io("look for"))?;
        if options.durability == Durability::Replicated {
            let refuse = |action, path: &Path, source| match lack(&source) {
                // What was made of it is made again, or taken for what it is by the next start.
                Some(_) => OpenLogError::Io { action, path: path.to_owned(), source },
                None => {
                    let failure = failing(action, path)(source);
                    self.journal.fail(failure.clone());
                    failure.into()
                }
            };
            log.write_first_mark().map_err(|source| refuse("write", &log.mark_path(), source))?;
            // Before it has a record: one without a mark is then known to have lost it.
            log.sync_names().map_err(|(dir, source)| refuse("sync", dir, source))?;
        }
        logs.open.insert(id, log.clone());
        Ok(log)
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The logs in service.
    pub(crate) fn open_logs(&self) -> Vec<Arc<PartitionLog>> {
        self.logs.lock().open.values().cloned().collect()
    }

    /// A log that is there, and in service.
    #[must_use]
    pub fn log(&self, id: LogId) -> Option<Arc<PartitionLog>> {
        self.logs.lock().open.get(&id).cloned()
    }

    /// The data directory's disk, for those who must write even when it is full, or no room could be made: their writes give up all
    /// the room that is set aside, rather than fail.
    #[must_use]
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.journal.last_disk.clone()
    }

    /// Whether that room is set aside, and there is more for that many new logs. While it is not, whoever only wants more of the disk
    /// should be refused, as appends are.
    ///
    /// What a log takes is counted as 32 KiB and 8 names: its directories, its first segment and index, its mark, epochs and producers.
    #[must_use]
    pub fn has_room(&self, logs: u64) -> bool {
        let (bytes, files) = (logs.saturating_mul(LOG_BYTES), logs.saturating_mul(LOG_FILES));
        // Where the file system does not tell, there is as much as is needed.
        let room = self.journal.disk.room(&self.journal.options.dir).ok();
        self.journal.sets_aside() && room.is_none_or(|room| room.bytes >= bytes && room.files >= files)
    }

    /// The logs that are out of service until the next start, and what is wrong with each; sorted.
    #[must_use]
    pub fn out_of_service(&self) -> Vec<(LogId, Arc<OpenError>)> {
        let logs = self.logs.lock();
        let mut refused: Vec<_> = logs.refused.iter().map(|(id, refused)| (*id, refused.error.clone())).collect();
        refused.sort_by_key(|(id, _)| *id);
        refused
    }

    /// The logs that there are, on disk or open, also those out of service, but for those being deleted; sorted.
    #[must_use]
    pub fn logs(&self) -> Vec<LogId> {
        let logs = self.logs.lock();
        let mut ids: Vec<_> = logs.open.keys().chain(logs.refused.keys()).copied().collect();
        ids.sort();
        ids
    }

    /// Deletes a log: it takes no more appends or reads from now on, the deletion is durable when the ticket resolves, and
    /// the files go in the background. The id is never used again ([`Storage::open_log`] refuses the last 100,000).
    ///
    /// # Errors
    /// [`DeleteError`].
    pub fn delete_log(&self, id: LogId) -> Result<Ticket, DeleteError> {
        let mut logs = self.logs.lock();
        let log = logs.find(id).ok_or(DeleteError::Unknown { id })?;
        let ticket = log.delete()?;
        logs.open.remove(&id);
        logs.refused.remove(&id);
        logs.deleted.insert(id);
        Ok(ticket)
    }

    /// Waits until the journal has room for more. Appenders await it before [`PartitionLog::append`], so that a slow disk
    /// slows them instead of refusing them. Returns at once when the storage has failed or is closed.
    pub async fn writable(&self) {
        self.journal.writable().await;
    }

    /// Resolves when a write or a sync has failed: the process must stop then, with this message. Pending otherwise.
    pub async fn failed(&self) -> StorageFailed {
        self.journal.failed().await
    }

    /// Commits what is queued, syncs every segment, persists the marks, and leaves a note that nothing is to be replayed.
    /// Appends are refused from now on. Idempotent; a call that is dropped has begun the closing all the same.
    ///
    /// # Errors
    /// The failure of this close or of an earlier write; the next start recovers.
    pub async fn close(&self) -> Result<(), StorageFailed> {
        self.journal.start_closing();
        self.join().await;
        self.journal.failure().map_or(Ok(()), Err)
    }

    /// Stops the loops where they are, without syncing, and waits for them: what a crash leaves, for tests of recovery.
    pub async fn abandon(self) {
        self.journal.stop();
        self.join().await;
    }

    async fn join(&self) {
        // A second caller waits for the first.
        let mut tasks = self.tasks.lock().await;
        while let Some(task) = tasks.last_mut() {
            // Each stays there until it has ended: a caller that is dropped here leaves it to the next one.
            task.ended().await;
            tasks.pop();
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.journal.stop();
        for mut timer in self.timers.lock().drain(..) {
            timer.abort();
        }
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Storage({})", self.journal.options.dir.display())
    }
}

/// A log that is there already, with the options of whoever opens it again.
fn adopt(log: &Arc<PartitionLog>, options: LogOptions) -> Arc<PartitionLog> {
    let mut state = log.state();
    state.growth.segment_bytes = options.segment_bytes;
    state.growth.age.segment_ms = options.segment_ms;
    state.made.learn(options.made_by);
    // Replay is over.
    state.loaded.begun = Vec::new();
    drop(state);
    log.clone()
}
