//! Making one log durable in its own files: segments first, then the directory, then the mark that says so. (What is taken on, and what
//! becomes of it in the log's state, is in `sync_plan`.)

use std::{io, path::Path, sync::Arc};

use millstream_env::{DiskFile, Lack};
use millstream_model::Offset;

use crate::{
    PartitionLog, StorageFailed,
    bytes_io::failing,
    fault::{self, Fault},
    index::Index,
    snapshot,
    state::Part,
    sync_error::{SyncError, refused, sync_dir},
    sync_plan::{Cause, Plan},
};

/// How much of a segment is written at once before it is synced, bytes. Beside larger pieces the journal's syncs wait longer; what
/// was measured is in tests/bench/README.md.
const WRITE_BACK_BYTES: u64 = 2 << 20;

/// Writes what is to be synced piece by piece, but for the last one. While the disk takes tens of megabytes at once, the
/// journal's own syncs stand behind them, and everybody who waits for an acknowledgement.
pub(crate) fn write_back(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    while at + WRITE_BACK_BYTES < to {
        file.write_back(at, WRITE_BACK_BYTES)?;
        at += WRITE_BACK_BYTES;
    }
    Ok(())
}

/// What became of a sync.
#[derive(Debug)]
#[must_use = "a log whose sync was postponed still pins the journal"]
pub(crate) enum Synced {
    /// All that was appended before is durable in the log's own files.
    Done,
    /// Nothing was lost, and nothing changed: the disk lacked something.
    Postponed(Lack, StorageFailed),
}

impl PartitionLog {
    pub(crate) fn mark_path(&self) -> std::path::PathBuf {
        self.dir().join("mark")
    }

    pub(crate) fn epochs_path(&self) -> std::path::PathBuf {
        self.dir().join("epochs")
    }

    /// Syncs all that was appended before this call and persists the mark; then the journal is pinned no more by it.
    /// Only recovery and the sync loop call this.
    ///
    /// # Errors
    /// The failure, which is spread.
    pub(crate) fn sync(self: &Arc<Self>, cause: Cause) -> Result<Synced, StorageFailed> {
        let _alone = self.syncing().lock();
        self.sync_alone(cause)
    }

    /// Beside no other sync of the log, and believed only where none of those before has failed: its failure is spread before the
    /// next one begins.
    fn sync_alone(self: &Arc<Self>, cause: Cause) -> Result<Synced, StorageFailed> {
        match self.journal().failure() {
            Some(failure) => Err(failure),
            None => self.sync_now(cause).inspect_err(|failure| self.journal().fail(failure.clone())),
        }
    }

    fn sync_now(self: &Arc<Self>, cause: Cause) -> Result<Synced, StorageFailed> {
        match self.cut_files() {
            Ok(()) => {}
            // It is among those that have moved, and has its turn again.
            Err(SyncError::Lacking(lack, failure)) => return Ok(Synced::Postponed(lack, failure)),
            Err(SyncError::Failed(failure)) => return Err(failure),
        }
        let Some(mut plan) = self.plan_sync(cause) else {
            // A truncation that has begun in between comes first.
            return if self.state().is_cut_due() { self.sync_now(cause) } else { Ok(Synced::Done) };
        };
        match self.carry_out(&plan) {
            Ok(()) => {
                self.finish_sync(&plan);
                if let Some((_, before)) = plan.producers
                    && before > Offset(0)
                    && before != plan.mark.end
                    && !self.state().begins_at(before)
                {
                    // One that stays behind is removed at the next start.
                    let _ = self.disk().remove_file(&snapshot::path(self.dir(), before));
                }
                self.clear_away(plan.retired)?;
                self.end_cut();
                self.end_change();
                Ok(Synced::Done)
            }
            Err(SyncError::Lacking(lack, failure)) => {
                let retired = std::mem::take(&mut plan.retired);
                self.postpone_sync(&plan, retired);
                Ok(Synced::Postponed(lack, failure))
            }
            Err(SyncError::Failed(failure)) => Err(failure),
        }
    }

    /// Whether a durable mark covers frame `lsn`.
    pub(crate) fn is_marked(&self, lsn: u64) -> bool {
        self.state().durable.mark.is_some_and(|mark| mark.lsn >= lsn)
    }

    /// Makes durable in the log's own files what frame `lsn` appended, where that is to be had at once. Whether it is: then the
    /// journal needs no more than a reference. Only the commit loop calls this.
    ///
    /// # Errors
    /// As of [`PartitionLog::sync`].
    pub(crate) fn sync_for_reference(self: &Arc<Self>, lsn: u64) -> Result<bool, StorageFailed> {
        if fault::is_on(Fault::EarlyReference) {
            return Ok(true);
        }
        // What else there is to be synced would keep everybody waiting: it has its turn in the background, or has it now.
        let Some(_alone) = self.syncing().try_lock() else { return Ok(self.is_marked(lsn)) };
        {
            let state = self.state();
            if state.life.cut.is_some() || state.unsynced.bytes > self.journal().options.queue_bytes_max as u64 {
                return Ok(false);
            }
        }
        match self.sync_alone(Cause::Reference)? {
            Synced::Done => Ok(self.is_marked(lsn)),
            // The journal has room that the log's own files lack.
            Synced::Postponed(..) => Ok(false),
        }
    }

    fn carry_out(&self, plan: &Plan) -> Result<(), SyncError> {
        let disk = self.disk();
        self.check_place()?;
        for part in &plan.parts {
            let path = &part.segment.path;
            let file = match part.segment.handle.reader() {
                // Its first batch makes it. One that is there may have been cut to nothing, and not durably: what it had must not
                // come back past the mark of a log that changes its durability.
                Err(error) if part.len == 0 && error.kind() == io::ErrorKind::NotFound => continue,
                file => file.map_err(refused("open", path))?,
            };
            if plan.cause != Cause::Reference {
                write_back(&*file, plan.durable_len(part), part.len).map_err(failing("sync", path))?;
            }
            if plan.cause != Cause::Reference || !fault::is_on(Fault::SkipSegmentSync) {
                file.sync_data().map_err(failing("sync", path))?;
            }
        }
        // Syncs take their time, and what follows goes by names.
        self.check_place()?;
        self.store_indexes(plan);
        if let Some(epochs) = &plan.epochs {
            let path = self.epochs_path();
            epochs.store(disk, &path).map_err(refused("write", &path))?;
        }
        let at_bases = plan.at_bases.iter().map(|(at, producers)| (*at, &**producers));
        for (at, producers) in at_bases.chain(plan.producers.iter().map(|(producers, _)| (plan.mark.end, producers))) {
            let path = snapshot::path(self.dir(), at);
            snapshot::store(disk, self.dir(), at, producers).map_err(refused("write", &path))?;
        }
        // The mark may only name what is there: an older snapshot of the same offset would be another history's.
        if plan.unsynced.dir_changed || plan.epochs.is_some() || plan.producers.is_some() || !plan.at_bases.is_empty() {
            self.sync_dirs(plan.unsynced.parents_changed).map_err(|(dir, error)| refused("sync", dir)(error))?;
        }
        let path = self.mark_path();
        if plan.before.is_none() {
            plan.mark.create(disk, &path, plan.noted.unwrap_or_default()).map_err(refused("write", &path))?;
            sync_dir(disk, self.dir()).map_err(|error| {
                self.state().durable.unnamed = Some(plan.mark);
                refused("sync", self.dir())(error)
            })?;
        } else {
            plan.mark.store(disk, &path, plan.noted).map_err(refused("write", &path))?;
        }
        Ok(())
    }

    /// Makes sure, before files are written by their names, that they are this log's.
    pub(crate) fn check_place(&self) -> Result<(), SyncError> {
        self.its_place().check(self.disk()).map_err(failing("write to", self.dir()))?;
        Ok(())
    }

    /// Writes the mark of a new log that keeps no journal: it alone says that the tail is to be kept.
    pub(crate) fn write_first_mark(&self) -> io::Result<()> {
        let mut state = self.state();
        let mark = state.next_mark(self.durability());
        let noted = state.made.to_write(self.id()).unwrap_or_default();
        mark.create(self.disk(), &self.mark_path(), noted)?;
        state.durable.mark = Some(mark);
        state.made.was_written(noted);
        Ok(())
    }

    /// Makes durable that there is a new log, with what its directory holds.
    ///
    /// # Errors
    /// [`sync_dir`]'s, and of which directory.
    pub(crate) fn sync_names(&self) -> Result<(), (&Path, io::Error)> {
        let mut state = self.state();
        self.sync_dirs(true)?;
        (state.unsynced.dir_changed, state.unsynced.parents_changed) = (false, false);
        Ok(())
    }

    /// Writes the indexes of the segments that were closed since the last sync, and the active one's if it has grown. They are
    /// not synced: one that is lost is built again.
    fn store_indexes(&self, plan: &Plan) {
        let Some((active, closed)) = plan.parts.split_last() else { return };
        let store = |part: &Part, index: &Index| {
            let path = part.segment.index_path();
            if let Err(error) = index.store(self.disk(), &path, part.segment.base) {
                tracing::warn!(path = %path.display(), %error, "cannot write an index; it will be built again");
            }
        };
        for part in closed {
            if let Some(index) = part.segment.kept_index() {
                store(part, &index);
            }
        }
        if let Some(index) = &plan.index {
            store(active, index);
        }
    }

    /// Fails with the directory that could not be synced.
    fn sync_dirs(&self, parents: bool) -> Result<(), (&Path, io::Error)> {
        // STREAM, and where they are new PARTITION, TOPIC and logs.
        let mut dirs = self.dir().ancestors().take(if parents { 4 } else { 1 });
        dirs.try_for_each(|dir| sync_dir(self.disk(), dir).map_err(|error| (dir, error)))
    }
}

#[cfg(test)]
#[path = "sync_log_tests.rs"]
mod tests;
