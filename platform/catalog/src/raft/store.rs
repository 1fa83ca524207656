//! The group's log and vote on disk: one ordered I/O loop, and the handle that openraft holds.
//!
//! Everything that touches the catalog's own files goes through one queue to one loop, on a thread of its own in the real
//! world: so a later write is never on disk before an earlier one. The loop takes what has gathered, writes it, syncs once,
//! and only then reports completion. The first failed write or sync ends it: every later call fails, and the reason is
//! published so that the process stops.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, Range, RangeBounds},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use millstream_env::{Disk, Env, Lack, Task, lack};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Entry, LogId, Types, Vote, from_raw, log_id, place, to_raw};
use crate::disk::{
    FileError, checked,
    frame::EntryPlace,
    log_files::{LogFiles, RawEntry},
};

const VOTE: &str = "vote";
pub(crate) const SNAPSHOT: &str = "snapshot";
/// Operations that may wait for the loop; callers wait beyond it.
const QUEUE_MAX: usize = 1024;
/// Appends that one sync completes at most.
const GROUP_MAX: usize = 256;
/// What must be left beside a snapshot that is written, bytes.
const SNAPSHOT_ROOM: u64 = 64 << 10;
/// What one read for replication takes at most, bytes.
const READ_BYTES_MAX: usize = 4 << 20;

/// A handle on the catalog's files. Clones share the loop.
#[derive(Clone)]
pub(crate) struct Store {
    queue: mpsc::Sender<Operation>,
    shared: Arc<Shared>,
}

struct Shared {
    /// What the loop last made durable or wrote; read without going through it.
    vote: Mutex<Option<Vote>>,
    ends: Mutex<Ends>,
    failed: watch::Sender<Option<String>>,
}

#[derive(Clone, Copy, Default)]
struct Ends {
    purged: Option<EntryPlace>,
    last: Option<EntryPlace>,
    committed: Option<EntryPlace>,
}

type Reply<T> = oneshot::Sender<Result<T, FileError>>;

/// The files as a start finds them: read, and not changed, since it may be refused for what they hold.
pub(crate) struct Found {
    dir: PathBuf,
    vote: Option<Vote>,
    files: LogFiles,
    /// The snapshot's body.
    snapshot: Option<Vec<u8>>,
}

impl Found {
    /// Reads the files of `dir`, which must exist and be locked by the caller. Blocks.
    pub(crate) fn read(env: &Env, dir: &Path, file_bytes: u64) -> Result<Self, FileError> {
        let disk = env.disk.clone();
        let vote = read_vote(&*disk, dir)?;
        let snapshot = checked::read(&*disk, dir, SNAPSHOT)?;
        let files = LogFiles::find(disk, dir, file_bytes, snapshot.is_some() || vote.is_some())?;
        check_vote(dir, vote.as_ref(), files.last())?;
        Ok(Self { dir: dir.into(), vote, files, snapshot })
    }

    /// The last entry, or the last that was deleted.
    pub(crate) fn last(&self) -> Option<EntryPlace> {
        self.files.last()
    }

    /// Up to where entries were deleted.
    pub(crate) fn purged(&self) -> Option<EntryPlace> {
        self.files.purged()
    }

    /// The snapshot's body; none if there is none. It is not kept.
    pub(crate) fn take_snapshot(&mut self) -> Option<Vec<u8>> {
        self.snapshot.take()
    }
}

enum Operation {
    Append { entries: Vec<RawEntry>, written: Reply<()>, flushed: IOFlushed<Types> },
    Vote { vote: Vote, body: Vec<u8>, done: Reply<()> },
    Committed { committed: Option<EntryPlace>, done: Reply<()> },
    Truncate { keep: Option<EntryPlace>, done: Reply<()> },
    Purge { to: EntryPlace, done: Reply<()> },
    Read { indexes: Range<u64>, bytes_max: usize, done: Reply<Vec<RawEntry>> },
    WriteSnapshot { body: Bytes, done: Reply<()> },
    ReadSnapshot { done: Reply<Option<Vec<u8>>> },
    Close { done: oneshot::Sender<()> },
}

impl Store {
    /// Starts the loop on what was found. From here on the files are written to, and what was believed of them is durable.
    ///
    /// Blocks: call it where that may be.
    pub(crate) fn start(env: &Env, found: Found) -> Result<(Self, Task), FileError> {
        let Found { dir, vote, files, .. } = found;
        let disk = env.disk.clone();
        remove_half_made(&*disk, &dir)?;
        for name in [VOTE, SNAPSHOT] {
            checked::adopt(&*disk, &dir, name)?;
        }
        let files = files.settle(&disk)?;
        let ends = Ends { purged: files.purged(), last: files.last(), committed: files.committed() };
        let shared =
            Arc::new(Shared { vote: Mutex::new(vote), ends: Mutex::new(ends), failed: watch::channel(None).0 });
        let (queue, operations) = mpsc::channel(QUEUE_MAX);
        let io_loop = IoLoop { disk, dir, files, shared: shared.clone(), failed: None, unsynced: Vec::new() };
        let task = env.spawn.dedicated("catalog-io", Box::pin(io_loop.run(operations)));
        Ok((Self { queue, shared }, task))
    }

    /// Follows the reason for which the files can no longer be used; none while they can.
    pub(crate) fn failed(&self) -> watch::Receiver<Option<String>> {
        self.shared.failed.subscribe()
    }

    /// Marks the catalog as failed, for reasons that lie outside the files.
    pub(crate) fn fail(&self, reason: String) {
        self.shared.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert(reason);
            first
        });
    }

    /// Replaces the snapshot. Durable when it returns. Where there is no room for it ([`Lack::Room`]), the one before stays, and it
    /// can be tried again.
    pub(crate) async fn write_snapshot(&self, body: Bytes) -> Result<(), FileError> {
        self.ask(|done| Operation::WriteSnapshot { body, done }).await
    }

    /// The snapshot's body; none if there is none.
    pub(crate) async fn read_snapshot(&self) -> Result<Option<Vec<u8>>, FileError> {
        self.ask(|done| Operation::ReadSnapshot { done }).await
    }

    /// Ends the loop once everything before this is done; the files are synced and closed then.
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Operation::Close { done }).await.is_ok() {
            let _ = closed.await;
        }
    }

    async fn ask<T>(&self, operation: impl FnOnce(Reply<T>) -> Operation) -> Result<T, FileError> {
        let (done, answer) = oneshot::channel();
        self.queue.send(operation(done)).await.map_err(|_| FileError::Closed)?;
        answer.await.map_err(|_| FileError::Closed)?
    }

    async fn entries(&self, indexes: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let raw = self.ask(|done| Operation::Read { indexes, bytes_max, done }).await?;
        raw.into_iter().map(from_raw).collect()
    }
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(start..end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.entries(start..end, READ_BYTES_MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(*self.shared.vote.lock())
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let ends = *self.shared.ends.lock();
        Ok(LogState { last_purged_log_id: ends.purged.map(log_id), last_log_id: ends.last.map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let body = serde_json::to_vec(vote)?;
        let vote = *vote;
        Ok(self.ask(|done| Operation::Vote { vote, body, done }).await?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let committed = committed.as_ref().map(place);
        Ok(self.ask(|done| Operation::Committed { committed, done }).await?)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.ends.lock().committed.map(log_id))
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(to_raw).collect::<io::Result<Vec<_>>>()?;
        Ok(self.ask(|written| Operation::Append { entries, written, flushed }).await?)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let keep = last.as_ref().map(place);
        Ok(self.ask(|done| Operation::Truncate { keep, done }).await?)
    }

    async fn purge(&mut self, to: LogId) -> io::Result<()> {
        let to = place(&to);
        Ok(self.ask(|done| Operation::Purge { to, done }).await?)
    }
}

struct IoLoop {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    files: LogFiles,
    shared: Arc<Shared>,
    failed: Option<String>,
    /// Appends that were written and wait for the next sync.
    unsynced: Vec<IOFlushed<Types>>,
}

impl IoLoop {
    async fn run(mut self, mut operations: mpsc::Receiver<Operation>) {
        let mut closing = None;
        while closing.is_none() {
            let Some(first) = operations.recv().await else { break };
            closing = self.handle(first);
            while closing.is_none() && self.unsynced.len() < GROUP_MAX {
                let Ok(next) = operations.try_recv() else { break };
                closing = self.handle(next);
            }
            self.flush();
        }
        // The mark of what is committed may still be in the page cache.
        let _ = self.guarded(LogFiles::sync);
        drop(self);
        if let Some(done) = closing {
            let _ = done.send(());
        }
    }

    /// Does one operation; returns whom to tell when the loop is to end.
    fn handle(&mut self, operation: Operation) -> Option<oneshot::Sender<()>> {
        // A caller that no longer waits is no reason to stop: its operation is done all the same.
        match operation {
            Operation::Append { entries, written, flushed } => match self.guarded(|files| files.append(&entries)) {
                Ok(()) => {
                    self.unsynced.push(flushed);
                    self.publish();
                    let _ = written.send(Ok(()));
                }
                Err(error) => {
                    flushed.io_completed(Err(io::Error::other(error.to_string())));
                    let _ = written.send(Err(error));
                }
            },
            Operation::Vote { vote, body, done } => {
                self.flush();
                let (disk, dir) = (self.disk.clone(), self.dir.clone());
                let saved = self.guarded(|_| checked::write(&*disk, &dir, VOTE, &body));
                if saved.is_ok() {
                    *self.shared.vote.lock() = Some(vote);
                }
                let _ = done.send(saved);
            }
            Operation::Committed { committed, done } => {
                let saved = self.guarded(|files| files.save_committed(committed));
                self.publish();
                let _ = done.send(saved);
            }
            Operation::Truncate { keep, done } => {
                self.flush();
                let cut = self.guarded(|files| files.truncate_after(keep));
                self.publish();
                let _ = done.send(cut);
            }
            Operation::Purge { to, done } => {
                self.flush();
                let purged = self.guarded(|files| files.purge(to));
                self.publish();
                let _ = done.send(purged);
            }
            // Reads go on after a failed write: what was written and not synced was never reported.
            Operation::Read { indexes, bytes_max, done } => {
                let _ = done.send(self.files.read(indexes, bytes_max));
            }
            Operation::WriteSnapshot { body, done } => {
                self.flush();
                let _ = done.send(self.write_snapshot(&body));
            }
            Operation::ReadSnapshot { done } => {
                let _ = done.send(checked::read(&*self.disk, &self.dir, SNAPSHOT));
            }
            Operation::Close { done } => {
                self.flush();
                return Some(done);
            }
        }
        None
    }

    /// Replaces the snapshot. A lack of room is no failure: nothing was believed of the one that was begun. Nor does it take what is set
    /// aside on a full disk, which is for entries.
    fn write_snapshot(&mut self, body: &[u8]) -> Result<(), FileError> {
        let (disk, dir) = (self.disk.clone(), self.dir.clone());
        if self.failed.is_none()
            && let Ok(room) = disk.room(&dir)
            && room.bytes < body.len() as u64 + SNAPSHOT_ROOM
        {
            return Err(FileError::io(&dir.join(SNAPSHOT), "write")(io::ErrorKind::StorageFull.into()));
        }
        let mut lacking = None;
        self.guarded(|_| match checked::write(&*disk, &dir, SNAPSHOT, body) {
            Err(FileError::Io { path, doing, source }) if is_half_made(&path) && lack(&source) == Some(Lack::Room) => {
                disk.remove_file(&path).map_err(FileError::io(&path, "remove"))?;
                lacking = Some(FileError::Io { path, doing, source });
                Ok(())
            }
            outcome => outcome,
        })?;
        lacking.map_or(Ok(()), Err)
    }

    /// Syncs, then reports completion of what was written before.
    fn flush(&mut self) {
        if self.unsynced.is_empty() {
            return;
        }
        let synced = self.guarded(LogFiles::sync);
        for flushed in self.unsynced.drain(..) {
            flushed.io_completed(match &synced {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::other(error.to_string())),
            });
        }
    }

    /// Runs a writing call, unless one has failed before; a failure is the last.
    fn guarded(&mut self, call: impl FnOnce(&mut LogFiles) -> Result<(), FileError>) -> Result<(), FileError> {
        if let Some(reason) = &self.failed {
            return Err(FileError::Failed(reason.clone()));
        }
        let result = call(&mut self.files);
        if let Err(error) = &result {
            let reason = error.to_string();
            tracing::error!(reason, "the catalog's files failed");
            self.failed = Some(reason.clone());
            self.shared.failed.send_replace(Some(reason));
        }
        result
    }

    fn publish(&self) {
        let files = &self.files;
        *self.shared.ends.lock() = Ends { purged: files.purged(), last: files.last(), committed: files.committed() };
    }
}

fn remove_half_made(disk: &dyn Disk, dir: &Path) -> Result<(), FileError> {
    for path in disk.read_dir(dir).map_err(FileError::io(dir, "list"))? {
        if is_half_made(&path) {
            disk.remove_file(&path).map_err(FileError::io(&path, "remove"))?;
        }
    }
    Ok(())
}

fn is_half_made(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tmp")
}

fn read_vote(disk: &dyn Disk, dir: &Path) -> Result<Option<Vote>, FileError> {
    let Some(body) = checked::read(disk, dir, VOTE)? else { return Ok(None) };
    let vote = serde_json::from_slice(&body);
    vote.map(Some).map_err(|error| FileError::damaged(&dir.join(VOTE), format!("it cannot be read: {error}")))
}

/// A leader's entries follow its vote: without it this broker could vote twice in one term.
fn check_vote(dir: &Path, vote: Option<&Vote>, last: Option<EntryPlace>) -> Result<(), FileError> {
    let Some(last) = last.filter(|last| last.term > 0) else { return Ok(()) };
    match vote {
        Some(vote) if vote.leader_id.term >= last.term => Ok(()),
        Some(vote) => {
            let what = format!("it is of term {}, and the log has entries of term {}", vote.leader_id.term, last.term);
            Err(FileError::damaged(&dir.join(VOTE), what))
        }
        None => Err(FileError::damaged(&dir.join(VOTE), "it is missing, and the log has entries")),
    }
}
