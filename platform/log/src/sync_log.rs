//! Making one log durable in its own files: segments first, then the directory, then the mark that says so.

use std::{io, path::Path, sync::Arc};

use millstream_env::{Disk, DiskFile, Lack, lack};
use millstream_model::Offset;

use crate::{
    PartitionLog, StorageFailed,
    bytes_io::failing,
    epochs::Epochs,
    fault::{self, Fault},
    index::Index,
    mark::Mark,
    producers::Producers,
    queue::Queue,
    snapshot,
    state::{Part, State, Unsynced},
};

/// The active segment's index goes to its file when it has this many more entries than the file; 8 MiB of batches.
const INDEX_ENTRIES_STEP: usize = 256;

/// The producers are written down again when this part of the journal was appended to the log since they were (1 MiB by
/// default): a start walks over no more.
const SNAPSHOT_STEP_PART: u64 = 1024;
/// So many times as much where an append waits for it: large batches are few, and a start walks over their headers only.
const SNAPSHOT_STEPS: u64 = 64;

/// Why a log is synced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// In the background, or at a start.
    Turn,
    /// A reference to what it holds is to be journaled: what need not be written now is not.
    Reference,
    /// The storage is closing: all of it is written down.
    Closing,
}

/// How much of a segment is written at once before it is synced, bytes. Beside larger pieces the journal's syncs wait longer; what
/// was measured is in ARCHITECTURE.md.
const WRITE_BACK_BYTES: u64 = 2 << 20;

/// What one sync takes on.
struct Plan {
    cause: Cause,
    /// Segments that may have unsynced bytes, in order; the last is the active one.
    parts: Vec<Part>,
    /// The active segment's index, if its file is to be written.
    index: Option<Index>,
    epochs: Option<Epochs>,
    /// The producers at the mark's end, if they are to be written down, and the offset of the snapshot before.
    producers: Option<(Producers, Offset)>,
    /// Those as of where segments begin.
    at_bases: Vec<(Offset, Arc<Producers>)>,
    unsynced: Unsynced,
    mark: Mark,
    /// The mark on disk.
    before: Option<Mark>,
    /// Segments below the mark's start: they go when it is durable.
    retired: Vec<Part>,
}

impl Plan {
    /// How much of a segment the mark on disk says to be durable, bytes.
    fn durable_len(&self, part: &Part) -> u64 {
        self.before.filter(|mark| mark.segment_base == part.segment.base).map_or(0, |mark| mark.segment_len)
    }
}

/// Writes what is to be synced piece by piece, but for the last one. While the disk takes tens of megabytes at once, the
/// journal's own syncs stand behind them, and everybody who waits for an acknowledgement.
fn write_back(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
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

/// Why a sync did not go through.
pub(crate) enum SyncError {
    Lacking(Lack, StorageFailed),
    Failed(StorageFailed),
}

impl SyncError {
    /// What it is where nobody will try again.
    pub(crate) fn into_failure(self) -> StorageFailed {
        match self {
            Self::Lacking(_, failure) | Self::Failed(failure) => failure,
        }
    }
}

impl From<StorageFailed> for SyncError {
    fn from(failure: StorageFailed) -> Self {
        Self::Failed(failure)
    }
}

/// Turns an I/O error of anything but a segment's sync into what it means: the files beside the segments are replaced or
/// written over as a whole when it is tried again.
pub(crate) fn refused<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SyncError + 'a {
    move |error| match lack(&error) {
        Some(lack) => SyncError::Lacking(lack, failing(action, path)(error)),
        None => SyncError::Failed(failing(action, path)(error)),
    }
}

/// Makes the names in a directory durable: while logs are served, every sync of a directory is one of these.
///
/// # Errors
/// A lack of descriptors is told as such: the directory could not be opened, and nothing was lost. Any other is final, and told as
/// no lack, also where the sync failed for want of room: the next one may not tell again.
pub(crate) fn sync_dir(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    disk.sync_dir(dir).map_err(|error| match lack(&error) {
        Some(Lack::Room) => io::Error::other(error),
        Some(Lack::Descriptors) | None => error,
    })
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
            plan.mark.create(disk, &path).map_err(refused("write", &path))?;
            sync_dir(disk, self.dir()).map_err(|error| {
                self.state().durable.unnamed = Some(plan.mark);
                refused("sync", self.dir())(error)
            })?;
        } else {
            plan.mark.store(disk, &path).map_err(refused("write", &path))?;
        }
        Ok(())
    }

    /// Writes the mark of a new log that keeps no journal: it alone says that the tail is to be kept.
    pub(crate) fn write_first_mark(&self) -> io::Result<()> {
        let mut state = self.state();
        let mark = state.next_mark(self.durability());
        mark.create(self.disk(), &self.mark_path())?;
        state.durable.mark = Some(mark);
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

    /// None where there is nothing to sync; nor while files are to be cut: no mark may cover a truncation whose files are not.
    fn plan_sync(self: &Arc<Self>, cause: Cause) -> Option<Plan> {
        let mut state = self.state();
        if state.life.discarded || state.life.refused || state.is_cut_due() {
            return None;
        }
        // Its own deletion is not in the mark, and stays pinned until the files are gone.
        let dropped = state.life.dropped;
        if !state.frames.begin_sync(dropped) {
            return None;
        }
        state.retire();
        let unsynced = std::mem::take(&mut state.unsynced);
        let index = state.growth.take_unstored(if cause == Cause::Closing { 1 } else { INDEX_ENTRIES_STEP });
        let producers = self.plan_snapshot(&mut state, cause);
        let mut at_bases = std::mem::take(&mut state.producers.at_bases);
        at_bases.retain(|(at, _)| state.begins_at(*at));
        Some(Plan {
            parts: state.parts[state.durable.parts..].to_vec(),
            index,
            epochs: state.epochs.take_changed(),
            producers,
            at_bases,
            unsynced,
            cause,
            mark: state.next_mark(self.durability()),
            before: state.durable.mark,
            retired: if cause == Cause::Reference { Vec::new() } else { std::mem::take(&mut state.retired) },
        })
    }

    /// Takes the producers as they are now, if they have changed and it is time to write them down.
    fn plan_snapshot(&self, state: &mut State, cause: Cause) -> Option<(Producers, Offset)> {
        let step = self.journal().options.journal_bytes_max / SNAPSHOT_STEP_PART;
        let step = if cause == Cause::Reference { step * SNAPSHOT_STEPS } else { step };
        // Batches below the start can tell of no producer any more.
        let last_chance = state.start > state.producers.saved.at;
        if !state.producers.saved.behind
            || !(cause == Cause::Closing || last_chance || state.producers.unsaved_bytes >= step)
        {
            return None;
        }
        let end = state.end;
        Some(state.producers.take(end, self.journal().now()))
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

    /// Goes back to before [`PartitionLog::plan_sync`]: all of it is still to be done.
    fn postpone_sync(self: &Arc<Self>, plan: &Plan, retired: Vec<Part>) {
        let mut state = self.state();
        state.retired.splice(..0, retired);
        if plan.epochs.is_some() {
            state.epochs.put_back();
        }
        state.unsynced.bytes += plan.unsynced.bytes;
        state.unsynced.dir_changed |= plan.unsynced.dir_changed;
        state.unsynced.parents_changed |= plan.unsynced.parents_changed;
        if let Some((_, before)) = &plan.producers {
            state.producers.put_back(*before);
        }
        // What has been cut meanwhile is no more.
        let mut at_bases = plan.at_bases.clone();
        at_bases.retain(|(at, _)| state.begins_at(*at));
        state.producers.at_bases.splice(..0, at_bases);
        let mut queue = self.journal().queue();
        if plan.unsynced.listed && !std::mem::replace(&mut state.unsynced.listed, true) {
            queue.unjournaled.push(self.clone());
        }
        // The journal is not set free.
        self.move_pin(&mut state, &mut queue, false);
    }

    /// Ends a sync as far as the journal goes; gives what pinned it and does no more, to be dropped outside of the lock.
    fn move_pin(self: &Arc<Self>, state: &mut State, queue: &mut Queue, frees: bool) -> Option<Arc<Self>> {
        let (goes, comes) = state.frames.end_sync(frees);
        let gone = goes.and_then(|lsn| queue.pins.remove(&lsn));
        if let Some(lsn) = comes {
            queue.pins.insert(lsn, self.clone());
        }
        gone
    }

    fn finish_sync(self: &Arc<Self>, plan: &Plan) {
        let mut state = self.state();
        let synced = plan.parts.len() - 1;
        // By name: the log's start may have moved past some of them meanwhile.
        let last = &plan.parts[synced].segment.base;
        state.durable.parts = state.parts.partition_point(|part| part.segment.base < *last).min(state.parts.len() - 1);
        state.durable.mark = Some(plan.mark);
        state.durable.unnamed = None;
        // What was not written for a reference is, when the log has its turn: at the latest when the storage is closed.
        let gone = self.move_pin(&mut state, &mut self.journal().queue(), plan.cause != Cause::Reference);
        drop(gone);
        // Unless it was written to meanwhile.
        let active = state.active();
        if plan.parts.last().is_some_and(|part| part.len == active.len && Arc::ptr_eq(&part.segment, &active.segment)) {
            active.segment.handle.synced();
        }
        drop(state);
        for part in &plan.parts[..synced] {
            // Closed and synced: whoever reads it opens it again.
            part.segment.handle.release();
        }
        self.advance_flushed(plan.mark.end, plan.mark.lsn);
    }

    /// Moves a deleted log's directory out of the way, durably. What is in `trash` is removed in steps.
    pub(crate) fn discard(&self, name: &str) -> io::Result<()> {
        let journal = self.journal();
        // It makes room.
        discard(&*journal.last_disk, self.dir(), &journal.options.dir.join("trash"), name)
    }
}

/// Renames a log's directory into `trash`, where there is one, and makes durable that it is gone.
pub(crate) fn discard(disk: &dyn Disk, dir: &Path, trash: &Path, name: &str) -> io::Result<()> {
    if disk.exists(dir)? {
        disk.create_dir_all(trash)?;
        disk.rename(dir, &trash.join(name))?;
    }
    // Also where it is gone already: a killed process may have left that undone.
    match dir.parent() {
        Some(parent) if disk.exists(parent)? => sync_dir(disk, parent),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millstream_env::sim::{DiskOperation, Fault, FaultError, World};
    use millstream_model::{Durability, LeaderEpoch, TimestampMs};
    use millstream_record::{BatchBuilder, BatchOptions};

    use super::*;
    use crate::pin::Pin;
    use crate::{LogId, LogOptions, Storage, StorageOptions};

    fn batch() -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(TimestampMs(1), None, Some(&[7; 1000]), &[]).unwrap();
        builder.build().unwrap()
    }

    /// A log of twelve records in segments of three, with a sync of it that has been planned and no more.
    fn planned(world: &World, durability: Durability) -> (Storage, Arc<PartitionLog>, Plan) {
        let options = StorageOptions { ballast_bytes: 4096, ..StorageOptions::new("/data") };
        let storage = Storage::open(options, world.env()).unwrap().0;
        let id = LogId::records(millstream_model::TopicId::NIL, millstream_model::PartitionId(0));
        let log =
            storage.open_log(id, LogOptions { segment_bytes: 3500, durability, ..LogOptions::default() }).unwrap();
        for _ in 0..12 {
            let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
        }
        let plan = log.plan_sync(Cause::Turn).unwrap();
        assert_eq!(plan.parts.len(), 4);
        (storage, log, plan)
    }

    fn carry_on(log: &Arc<PartitionLog>, plan: &Plan) {
        assert!(log.carry_out(plan).is_ok());
        log.finish_sync(plan);
    }

    /// A sync that writes all but the mark, and then a start.
    fn lose_the_mark(
        world: &World,
        storage: Storage,
        log: Arc<PartitionLog>,
        power: bool,
    ) -> (Storage, Arc<PartitionLog>) {
        let plan = log.plan_sync(Cause::Turn).unwrap();
        world.disk().inject(Fault::nth(DiskOperation::Write, 1).on("/mark").for_good());
        assert!(log.carry_out(&plan).is_err());
        start_again(world, storage, log, power)
    }

    /// A start on a disk that has healed, with what was durable or with what a killed process leaves.
    fn start_again(
        world: &World,
        storage: Storage,
        log: Arc<PartitionLog>,
        power: bool,
    ) -> (Storage, Arc<PartitionLog>) {
        world.disk().clear_faults();
        if power {
            world.disk().crash_losing_all();
        }
        world.first().kill();
        let id = log.id();
        drop((storage, log));
        let options = StorageOptions { ballast_bytes: 4096, ..StorageOptions::new("/data") };
        let storage = Storage::open(options, world.env()).unwrap().0;
        let log = storage.log(id).unwrap();
        (storage, log)
    }

    #[test]
    fn a_start_that_overtakes_a_sync_leaves_nothing_that_counts_as_synced_and_is_not() {
        let world = World::new(1);
        let (_storage, log, plan) = planned(&world, Durability::Fsync);
        drop(log.advance_start(Offset(7)).unwrap());
        for _ in 0..6 {
            let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
        }
        carry_on(&log, &plan);
        let state = log.state();
        let bases: Vec<_> = state.parts.iter().map(|part| part.segment.base.0).collect();
        assert_eq!(bases, [6, 9, 12, 15]);
        // The one that begins at 9 was appended to when the sync was planned.
        assert_eq!(state.durable.parts, 1);
        assert_eq!(state.retired.len(), 2, "this mark does not say yet that they may go");
    }

    /// Then the epochs file is cut to a start that neither the mark nor the journal tells of.
    #[test]
    fn a_start_that_is_lost_takes_no_epoch_of_what_is_past_the_mark_with_it() {
        for durability in [Durability::Fsync, Durability::Replicated] {
            let world = World::new(1);
            let (storage, log, plan) = planned(&world, durability);
            carry_on(&log, &plan);
            for epoch in [1, 2, 2] {
                world.run_until(log.append(batch(), LeaderEpoch(epoch)).unwrap().ticket).unwrap();
            }
            drop(log.advance_start(Offset(15)).unwrap());
            let (_storage, log) = lose_the_mark(&world, storage, log, durability == Durability::Fsync);
            assert_eq!((log.start_offset(), log.end_offset()), (Offset(0), Offset(15)), "{durability:?}");
            assert_eq!(log.end_offset_for_epoch(LeaderEpoch(1)), Some((LeaderEpoch(1), Offset(13))), "{durability:?}");
        }
    }

    /// The same of an epoch that the mark covers, and no batch below it tells of.
    #[test]
    fn a_start_that_is_lost_takes_no_epoch_below_the_mark_with_it() {
        let world = World::new(1);
        let (storage, log, plan) = planned(&world, Durability::Fsync);
        carry_on(&log, &plan);
        world.run_until(log.start_epoch(LeaderEpoch(2)).unwrap()).unwrap();
        assert!(matches!(log.sync(Cause::Turn), Ok(Synced::Done)));
        for _ in 0..3 {
            let _ = log.append(batch(), LeaderEpoch(2)).unwrap();
        }
        drop(log.advance_start(Offset(15)).unwrap());
        let (_storage, log) = lose_the_mark(&world, storage, log, true);
        assert_eq!((log.end_offset(), log.latest_epoch()), (Offset(12), Some(LeaderEpoch(2))));
    }

    /// A commit waits for it, and with it everybody else.
    #[test]
    fn a_sync_for_a_reference_leaves_to_the_background_what_can_wait() {
        let world = World::new(1);
        let (_storage, log, plan) = planned(&world, Durability::Fsync);
        carry_on(&log, &plan);
        let left = || {
            let state = log.state();
            (state.retired.len(), state.frames.pin)
        };
        assert_eq!(left(), (0, Pin::Free));
        let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
        drop(log.advance_start(Offset(7)).unwrap());
        let lsn = log.state().frames.last;
        assert!(!log.is_marked(lsn));
        assert!(log.sync_for_reference(lsn).unwrap() && log.is_marked(lsn));
        assert_eq!(log.state().durable.mark.unwrap().start, Offset(7));
        assert_eq!(left(), (2, Pin::At(13)), "segments go later, and so that this is known");
        assert!(matches!(log.sync(Cause::Turn), Ok(Synced::Done)));
        assert_eq!(left(), (0, Pin::Free));

        // Producers are written down seldom, and not never: a start walks over what follows.
        let few = log.journal().options.journal_bytes_max / SNAPSHOT_STEP_PART;
        let saved_at = |unsaved_bytes, cause| {
            let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
            (log.state().producers.saved.behind, log.state().producers.unsaved_bytes) = (true, unsaved_bytes);
            let lsn = log.state().frames.last;
            match cause {
                Cause::Reference => assert!(log.sync_for_reference(lsn).unwrap()),
                cause => assert!(matches!(log.sync(cause), Ok(Synced::Done))),
            }
            let state = log.state();
            (state.producers.saved.at == state.end, state.durable.mark.unwrap().producers == state.producers.saved)
        };
        assert_eq!(saved_at(few, Cause::Turn), (true, true));
        assert_eq!(saved_at(few * SNAPSHOT_STEPS - 1, Cause::Reference), (false, true));
        assert_eq!(saved_at(few * SNAPSHOT_STEPS, Cause::Reference), (true, true));

        // Another sync is under way.
        let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
        let lsn = log.state().frames.last;
        let syncing = log.syncing().lock();
        let (answered, answer) = std::sync::mpsc::channel();
        let asking = log.clone();
        std::thread::spawn(move || answered.send(asking.sync_for_reference(lsn).unwrap()));
        assert_eq!(answer.recv_timeout(std::time::Duration::from_secs(10)), Ok(false), "nobody waits for it");
        drop(syncing);
        // More than a queue full would have to be synced with it.
        let most = log.journal().options.queue_bytes_max as u64;
        let unsynced_bytes = std::mem::replace(&mut log.state().unsynced.bytes, most + 1);
        assert!(!log.sync_for_reference(lsn).unwrap());
        log.state().unsynced.bytes = unsynced_bytes;
        // The log is being cut.
        drop(log.truncate(Offset(12)).unwrap());
        assert!(!log.sync_for_reference(lsn).unwrap() && !log.is_marked(lsn));
    }

    /// The journal's syncs have their turns between the pieces, and one that fails is as final as a sync.
    #[test]
    fn what_is_to_be_synced_is_written_in_pieces() {
        let world = World::new(1);
        let (_storage, log, plan) = planned(&world, Durability::Fsync);
        carry_on(&log, &plan);
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(TimestampMs(1), None, Some(&[7; 500_000]), &[]).unwrap();
        let large = builder.build().unwrap();
        log.state().growth.segment_bytes = 1 << 30;
        let pieces = |count| {
            for _ in 0..count {
                let _ = log.append(large.clone(), LeaderEpoch(1)).unwrap();
            }
            let before = world.disk().counts().write_backs;
            let synced = log.sync(Cause::Turn);
            (world.disk().counts().write_backs - before, synced)
        };
        assert!(matches!(pieces(2), (0, Ok(Synced::Done))));
        assert!(matches!(pieces(11), (2, Ok(Synced::Done))), "only what is not durable yet");
        world.disk().inject(Fault::nth(DiskOperation::SyncData, 1).on(".log"));
        assert!(matches!(pieces(6), (1, Err(_))));
    }

    /// The mark tells of it, and the deletion may never become durable.
    #[test]
    fn a_truncation_that_a_deletion_overtakes_is_carried_out_all_the_same() {
        let world = World::new(1);
        let (_storage, log, plan) = planned(&world, Durability::Fsync);
        carry_on(&log, &plan);
        drop(log.truncate(Offset(7)).unwrap());
        drop(log.delete().unwrap());
        assert!(matches!(log.sync(Cause::Turn), Ok(Synced::Done)));
        let state = log.state();
        let (mark, active) = (state.durable.mark.unwrap(), state.active());
        assert_eq!((mark.end, active.segment.len().unwrap()), (Offset(7), mark.segment_len));
    }

    /// The mark that ends where such a log is cut tells of no frame since the one before: what is past it is found again.
    #[test]
    fn a_truncation_that_is_lost_half_way_takes_no_epoch_with_it() {
        for durability in [Durability::Fsync, Durability::Replicated] {
            let world = World::new(1);
            let (storage, log, plan) = planned(&world, durability);
            carry_on(&log, &plan);
            world.run_until(log.start_epoch(LeaderEpoch(2)).unwrap()).unwrap();
            drop(log.truncate(Offset(10)).unwrap());
            world.disk().inject(Fault::nth(DiskOperation::Resize, 1).on(".log"));
            assert!(log.cut_files().is_err());
            assert_eq!(log.state().durable.mark.unwrap().end, Offset(10));
            let (_storage, log) = start_again(&world, storage, log, true);
            // With a journal, nothing past the mark counts: it is as if the log had been cut.
            let expected = match durability {
                Durability::Fsync => (Offset(10), Some(LeaderEpoch(1))),
                Durability::Replicated => (Offset(12), Some(LeaderEpoch(2))),
            };
            assert_eq!((log.end_offset(), log.latest_epoch()), expected);
        }
    }

    /// A crash may leave it; what it says is believed then, also of a log that was cut meanwhile.
    #[test]
    fn a_first_mark_whose_name_could_not_be_synced_is_cut_with_the_log() {
        let world = World::new(1);
        let (_storage, log, plan) = planned(&world, Durability::Fsync);
        // The log's directory is synced first.
        let lacking = Fault::nth(DiskOperation::SyncDir, 2).on("/records-0").with(FaultError::Descriptors);
        world.disk().inject(lacking);
        assert!(matches!(log.carry_out(&plan), Err(SyncError::Lacking(Lack::Descriptors, _))));
        log.postpone_sync(&plan, Vec::new());
        let stored = || Mark::load(world.disk(), &log.mark_path()).unwrap().unwrap().0;
        assert_eq!((log.state().durable.mark, stored().end), (None, Offset(12)), "nothing may rely on it");
        drop(log.truncate(Offset(7)).unwrap());
        assert!(log.cut_files().is_ok());
        assert_eq!((log.state().durable.mark, stored().end), (None, Offset(7)));
        assert!(matches!(log.sync(Cause::Turn), Ok(Synced::Done)));
        assert_eq!(log.state().durable.mark, Some(stored()));
    }

    /// What a start cuts off is past the mark, and counts as nothing there; but past that of a log without a journal it would count.
    #[test]
    fn what_was_cut_to_nothing_does_not_come_back_when_the_durability_has_changed() {
        let world = World::new(1);
        let (storage, log, plan) = planned(&world, Durability::Fsync);
        carry_on(&log, &plan);
        world.run_until(log.truncate(Offset(0)).unwrap()).unwrap();
        let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
        let (storage, log) = lose_the_mark(&world, storage, log, true);
        assert_eq!(log.end_offset(), Offset(0), "nobody was promised it");
        world.run_until(log.change_durability(Durability::Replicated).unwrap()).unwrap();
        let (_storage, log) = start_again(&world, storage, log, true);
        assert_eq!((log.end_offset(), log.durability()), (Offset(0), Durability::Replicated));
    }

    /// The caller's thread may come in between the two.
    #[test]
    fn a_truncation_that_begins_as_a_sync_is_planned_has_its_files_cut_before_a_mark_covers_it() {
        let world = World::new(1);
        let (_storage, log, plan) = planned(&world, Durability::Replicated);
        carry_on(&log, &plan);
        let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
        drop(log.truncate(Offset(7)).unwrap());
        assert!(log.plan_sync(Cause::Turn).is_none());
        assert!(matches!(log.sync(Cause::Turn), Ok(Synced::Done)));
        let state = log.state();
        let (mark, active) = (state.durable.mark.unwrap(), state.active());
        assert_eq!((mark.lsn, active.segment.len().unwrap()), (state.frames.last, mark.segment_len));
    }

    #[test]
    fn a_truncation_that_overtakes_a_sync_is_not_undone_by_it() {
        let world = World::new(1);
        let (_storage, log, plan) = planned(&world, Durability::Fsync);
        drop(log.truncate(Offset(7)).unwrap());
        carry_on(&log, &plan);
        assert_eq!(log.flushed_end(), Offset(0), "what was synced is of before");
        assert_eq!(log.state().durable.mark.unwrap().end, Offset(12));
        assert_eq!(log.state().durable.parts, 2);
        assert!(matches!(log.sync(Cause::Turn), Ok(Synced::Done)));
        let mark = log.state().durable.mark.unwrap();
        assert_eq!((mark.end, mark.segment_base), (Offset(7), Offset(6)));
        assert_eq!(log.flushed_end(), Offset(7));
        assert!(log.state().life.cut.is_some(), "its frame is not durable yet");
    }
}
