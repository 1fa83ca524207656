//! The journal's frames, applied to the logs in the order of their numbers.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use millstream_env::{Lack, lack};
use millstream_model::Durability;
use millstream_record::{BatchHeader, PATCH_BYTES};
use parking_lot::MutexGuard;

use super::{
    Logs, Refused,
    cut::{cut_rest, uncut_unmarked},
    failed,
    files::JournalFiles,
    load::had_mark,
    unreadable,
};
use crate::{
    LogId, LogOptions, OpenError, PartitionLog,
    bytes_io::failing,
    data_dir::{io, list},
    fault::{self, Fault},
    frame::{Kind, batches_in},
    handles::Handle,
    held::{self, Holder},
    journal::Journal,
    journal_file::{FILE_HEADER_BYTES, Scan, WholeFrame},
    producers::Producers,
    state::State,
    sync_all::each,
    sync_error::SyncError,
    trash::discard,
};

/// The journal being replayed.
pub(super) struct Replay<'a> {
    pub(super) journal: &'a Arc<Journal>,
    pub(super) logs: Logs,
    /// Logs that are out of service: nothing of theirs is touched.
    pub(super) refused: Refused,
    /// How many of them were deleted.
    pub(super) damaged_deleted: usize,
    /// Logs whose held frames were applied.
    pub(super) held: HashSet<LogId>,
    /// The last Drop of each log that has one in the journal. Nothing before it is applied: what it would be written to has gone, and
    /// the room that it took may be another's.
    pub(super) drops: HashMap<LogId, u64>,
    /// Logs whose frames begin past what is there of them, by the first such frame: either their deletion must follow, which took
    /// the files, or a Carry, for which earlier frames were let go.
    pub(super) orphans: HashMap<LogId, u64>,
    /// Logs whose directories are still to be made. Most that were deleted again never need one: making and removing it would
    /// cost a sync for each, and the journal tells of hundreds of thousands.
    pub(super) unmade: HashSet<LogId>,
    /// What has to be synced afterwards.
    pub(super) touched: HashMap<LogId, Arc<PartitionLog>>,
    /// The last run ended in order: what can be read is durable.
    pub(super) clean: bool,
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

impl Replay<'_> {
    /// Applies all frames in the order of their numbers; gives the number of the next one.
    pub(super) fn run(&mut self, files: &JournalFiles) -> Result<u64, OpenError> {
        let mut expected = None;
        let (mut ended_in, mut floor) = (0, 1);
        let mut empty: Option<usize> = None;
        let mut scans = Vec::with_capacity(files.used.len());
        for (sequence, path) in &files.used {
            scans.push(Scan::open(&*self.journal.disk, path, *sequence, self.journal.directory_id)?);
        }
        // What was closed in order has all in its logs: nothing is written, and the journal need not be read twice.
        if !self.clean {
            self.drops = self.find_drops(files)?;
        }
        self.apply_held()?;
        let mut next = 1 + self.logs.values().map(|log| log.state().frames.last).max().unwrap_or(0);
        for (at, scan) in scans.iter_mut().enumerate() {
            floor = scan.header().lsn_floor.max(floor);
            next = next.max(floor);
            let before = expected;
            while let Some(found) = scan.next(expected)? {
                if let Some(empty) = empty {
                    let reason = format!("it holds no sound frame, though {} follows it", scan.path().display());
                    return Err(OpenError::Damaged { path: files.used[empty].1.clone(), reason });
                }
                expected = Some(found.frame.lsn + 1);
                ended_in = at;
                self.apply_or_refuse(scan.path(), found)?;
            }
            // The journal goes on to a file only when the one before it has frames.
            if expected == before {
                empty.get_or_insert(at);
            }
        }
        check_torn(&scans[ended_in..], expected)?;
        for (id, lsn) in std::mem::take(&mut self.orphans) {
            let path = self.journal.options.dir.join(id.path());
            let reason = format!("frame {lsn} of the journal continues it, and what is before that is not there");
            let error = match list(&*self.journal.disk, &path) {
                // What is in the place of its directory is the better reason; or that there is none.
                Err(error) if error.is_of_one_log() => error,
                _ if self.has_gone(&path)? => OpenError::LogMissing { path },
                _ => OpenError::Damaged { path, reason },
            };
            self.refuse(id, error);
        }
        self.make_dirs()?;
        self.refuse_unmarked()?;
        self.hold(files)?;
        // Nothing that the files have past the marks is needed any more.
        let uncut: Vec<_> = self.logs.values().filter(|log| log.state().loaded.uncut).cloned().collect();
        each(self.journal, &uncut, |log| cut_rest(self.journal, log))?;
        let next_here = expected.unwrap_or(floor);
        for log in self.logs.values() {
            // The sound tail of a log without a journal is synced like what was replayed.
            // So is a start below which something is left; and a mark ahead of the journal, which a killed process may have
            // left where it can be read and is not durable: no frame here speaks of that log. And epochs of a log without a journal that
            // were cut: its next records could reach to where one began that is in their file still.
            let state = log.state();
            let ahead = !self.clean && state.frames.last >= next_here;
            let cut = state.epochs.is_changed() && log.durability() == Durability::Replicated;
            let behind = state.unsynced.bytes > 0 || !state.retired.is_empty() || ahead || cut;
            drop(state);
            if behind {
                self.touched.insert(log.id(), log.clone());
            }
        }
        Ok(next.max(expected.unwrap_or(1)))
    }

    fn apply(&mut self, path: &Path, found: WholeFrame) -> Result<(), OpenError> {
        let frame = &found.frame;
        if frame.kind == Kind::Drop {
            return self.drop_log(frame.log);
        }
        let goes = self.drops.get(&frame.log).is_some_and(|drop| frame.lsn < *drop);
        if goes || self.refused.contains_key(&frame.log) {
            return Ok(());
        }
        if let Some(log) = self.logs.get(&frame.log).filter(|log| log.state().loaded.unmarked) {
            // A log without a journal has its mark, durably, before it has anything else.
            // So has one of which the journal has only references, and one that changes.
            let has_mark = matches!(frame.kind, Kind::AppendRef | Kind::DurabilityChange);
            if frame.durability == Durability::Replicated || has_mark {
                return Err(OpenError::MarkMissing { path: log.mark_path() });
            }
            // The journal has all of it, from its beginning on: else this or a later frame tells that it had a mark, after all.
            uncut_unmarked(self.journal, log)?;
        }
        // The durability by which what is before the frame was kept.
        let durability = match (frame.kind, frame.durability) {
            (Kind::DurabilityChange, Durability::Fsync) => Durability::Replicated,
            (Kind::DurabilityChange, Durability::Replicated) => Durability::Fsync,
            (_, durability) => durability,
        };
        // What was made and never synced is made again. (An untouched directory does not know its log's durability.)
        let known = self.logs.get(&frame.log).filter(|log| log.durability() == durability || !log.is_untouched());
        let log = match known {
            Some(log) => log.clone(),
            // It had its mark, durably, before the journal spoke of it: unless it is deleted, it has gone as a whole.
            None if durability == Durability::Replicated => {
                self.orphans.entry(frame.log).or_insert(frame.lsn);
                return Ok(());
            }
            None => {
                let options = LogOptions { durability, ..LogOptions::default() };
                let log = Arc::new(PartitionLog::empty(frame.log, self.journal.clone(), options));
                self.unmade.insert(frame.log);
                self.logs.insert(frame.log, log.clone());
                log
            }
        };
        let mut state = log.state();
        // Even where the mark says that the segments have it: a killed process may have left a mark that can be read and is
        // not durable, and the frame goes when the journal begins afresh. Not so after an orderly close, which synced all.
        if !self.clean || frame.lsn > state.frames.last {
            self.touched.insert(log.id(), log.clone());
        }
        if frame.lsn <= state.frames.last {
            return Ok(());
        }
        // Of a change whose frame has gone, the slot that is damaged told.
        if state.loaded.kept && log.durability() != durability {
            log.set_durability(durability);
        }
        let batches = matches!(frame.kind, Kind::Append | Kind::AppendRef | Kind::Carry);
        if state.loaded.kept && batches && frame.end_offset <= state.end {
            state.frames.last = frame.lsn;
            return Ok(());
        }
        let journaled = durability == Durability::Fsync;
        let refers = frame.kind == Kind::AppendRef && journaled;
        if refers && state.durable.mark.is_some() {
            let reason = format!("it is older than frame {} of the journal, which needs a later one", frame.lsn);
            return Err(OpenError::Damaged { path: log.mark_path(), reason });
        }
        let batches = matches!(frame.kind, Kind::Append | Kind::Carry);
        // What a frame refers to had a mark, and so had what changes: where there is none, the log has gone as a whole.
        let needs_mark = refers || (frame.kind == Kind::DurabilityChange && state.durable.mark.is_none());
        let gap =
            needs_mark || (frame.base_offset > state.end && journaled && (state.durable.mark.is_none() || batches));
        if frame.kind == Kind::Carry && journaled && !gap {
            // It has all of the gap.
            self.orphans.remove(&frame.log);
        }
        if gap || self.orphans.contains_key(&frame.log) {
            self.orphans.entry(frame.log).or_insert(frame.lsn);
            return Ok(());
        }
        let lies = |reason: &str| OpenError::Damaged {
            path: path.to_owned(),
            reason: format!("frame {} of the log {}: {reason}", frame.lsn, frame.log),
        };
        if log.durability() != durability {
            return Err(lies("the log has another durability"));
        }
        match frame.kind {
            Kind::Append | Kind::AppendRef | Kind::Carry if !journaled => return Err(lies("the log keeps no journal")),
            Kind::Append if frame.base_offset != state.end => {
                return Err(lies(&format!("offset {} does not follow {}", frame.base_offset, state.end)));
            }
            Kind::Append => {
                let header = BatchHeader::parse(&found.payload).map_err(|error| lies(&error.to_string()))?;
                self.append(&log, &mut state, &header, &found.payload)?;
            }
            // Nothing but batches lies between the mark and it.
            Kind::Carry if frame.end_offset < state.end => {
                return Err(lies(&format!("it ends at {}, before {}", frame.end_offset, state.end)));
            }
            Kind::Carry => {
                let (batches, _) = batches_in(&found.payload, frame.base_offset).unwrap_or_default();
                // What its own frames have told already is there.
                for (header, batch) in &batches {
                    if header.end_offset() <= state.end {
                        continue;
                    }
                    if header.base_offset != state.end {
                        return Err(lies(&format!("no batch of it begins at {}", state.end)));
                    }
                    self.append(&log, &mut state, header, batch)?;
                }
            }
            // A log without a journal may have lost what was below: the epoch has begun all the same, and holds nothing yet.
            Kind::EpochStart => {
                let start = frame.base_offset.min(state.end);
                state.epochs.begin(frame.leader_epoch, start);
                state.made.learn(frame.payload_crc.into());
            }
            // As if it had not been journaled.
            Kind::Truncate if fault::is_on(Fault::NoTruncate) => {}
            Kind::Truncate if frame.base_offset > state.end && journaled => {
                return Err(lies(&format!("it is cut at {}, past the end {}", frame.base_offset, state.end)));
            }
            // Of a log without a journal that changes, there may be what was refused, and was not taken away for good.
            Kind::Truncate | Kind::DurabilityChange
                if frame.base_offset < state.end && (frame.kind == Kind::Truncate || !journaled) =>
            {
                let (point, before) = (state.find_point(frame.base_offset).map_err(unreadable)?, state.frames.last);
                if point.end != frame.base_offset {
                    return Err(lies(&format!("it is cut at {}, where no batch begins", frame.base_offset)));
                }
                drop(log.begin_cut(&mut state, point, before));
                drop(state);
                match log.cut_files() {
                    Ok(()) => {}
                    Err(SyncError::Lacking(_, failure) | SyncError::Failed(failure)) => return Err(failed(failure)),
                }
                state = log.state();
                state.life.cut = None;
            }
            // Its files are so already; or a log without a journal has lost more than that.
            Kind::Truncate => {}
            Kind::LogStart if frame.base_offset <= state.end => state.advance_start(frame.base_offset),
            Kind::LogStart if journaled => {
                return Err(lies(&format!("the start {} is past the end {}", frame.base_offset, state.end)));
            }
            // A log without a journal may have lost what was below; what it still has was to go.
            Kind::LogStart => {
                let producers = Producers::new(self.journal.producer_limits());
                state.restart(log.segment(frame.base_offset), producers);
            }
            // What is past it was appended without a journal, and the slot that is damaged may have covered the change.
            Kind::DurabilityChange if frame.base_offset < state.end && journaled && state.loaded.kept => {}
            Kind::DurabilityChange if frame.base_offset != state.end => {
                return Err(lies(&format!("it changes at {}, and the log ends at {}", frame.base_offset, state.end)));
            }
            Kind::DurabilityChange => {}
            _ => return Err(lies("of a kind that logs of its durability do not have")),
        }
        if frame.kind == Kind::DurabilityChange {
            log.set_durability(frame.durability);
        }
        if frame.kind == Kind::Truncate && !fault::is_on(Fault::NoTruncate) {
            state.epochs.truncate(frame.base_offset);
            // A mark may know of a start there that came later: then the epoch that is left has begun there, it seems, and went.
            let start = frame.base_offset.min(state.end);
            state.epochs.begin(frame.leader_epoch, start);
        }
        state.frames.last = frame.lsn;
        drop(state);
        self.frames += 1;
        self.bytes += found.payload.len() as u64;
        Ok(())
    }

    /// Appends a batch to a log as it was before.
    fn append(
        &mut self,
        log: &PartitionLog,
        state: &mut MutexGuard<'_, State>,
        header: &BatchHeader,
        batch: &[u8],
    ) -> Result<(), OpenError> {
        if self.unmade.remove(&log.id()) {
            self.journal.disk.create_dir_all(log.dir()).map_err(io("make", log.dir()))?;
        }
        state.settle_active(|base| log.segment(base)).map_err(unreadable)?;
        let (prefix, body) = batch.split_at(PATCH_BYTES);
        let (before, now) = (state.checkpoint(), self.journal.now());
        let write = |state: &mut State| state.place(header, now, |base| log.segment(base))?.write(prefix, body);
        let mut written = write(state);
        // It was there before the crash, and its room may have gone to somebody else.
        if written.as_ref().err().and_then(lack) == Some(Lack::Room) && self.journal.ballast.release() {
            state.undo(&before).map_err(io("cut", log.dir()))?;
            written = write(state);
        }
        written.map_err(|source| OpenError::Io { action: "write", path: log.dir().to_owned(), source })?;
        // A later one that is known has begun after this batch: see `load_epochs`.
        state.epochs.cut_after(header.partition_leader_epoch);
        state.epochs.begin(header.partition_leader_epoch, header.base_offset);
        state.producers.note(header, now);
        self.relieve()
    }

    /// Where most of the segments that may be open wait to be synced, syncs and closes them: a start takes no more descriptors than what it
    /// goes on from. Nobody is writing to one.
    fn relieve(&self) -> Result<(), OpenError> {
        let handles = &self.journal.handles;
        if !handles.is_pressed() {
            return Ok(());
        }
        let sync = |handle: &Arc<Handle>| handle.sync_and_close().map_err(failing("sync", &handle.path));
        each(self.journal, &handles.all_unsynced(), sync).map_err(failed)
    }

    /// Applies a frame. Where that shows that its log is damaged, the log is out of service from then on, and no other.
    fn apply_or_refuse(&mut self, path: &Path, found: WholeFrame) -> Result<(), OpenError> {
        let id = found.frame.log;
        match self.apply(path, found) {
            Err(error) if error.is_of_one_log() => {
                self.refuse(id, error);
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Whether there is no directory of a log.
    fn has_gone(&self, dir: &Path) -> Result<bool, OpenError> {
        self.journal.disk.exists(dir).map(|exists| !exists).map_err(io("look for", dir))
    }

    fn refuse(&mut self, id: LogId, error: OpenError) {
        self.orphans.remove(&id);
        self.unmade.remove(&id);
        self.touched.remove(&id);
        // What a mark is missing for is the better reason.
        let unmarked = self.logs.remove(&id).filter(|log| {
            let state = log.state();
            state.loaded.unmarked || (state.loaded.uncut && state.durable.mark.is_none())
        });
        let error = unmarked.map_or(error, |log| OpenError::MarkMissing { path: log.mark_path() });
        self.held.remove(&id);
        self.refused.insert(id, error);
    }

    /// Refuses logs that have lost their mark: the journal did not have them from their beginning.
    fn refuse_unmarked(&mut self) -> Result<(), OpenError> {
        let unmarked: Vec<_> = self.logs.values().filter(|log| log.state().loaded.unmarked).cloned().collect();
        for log in unmarked {
            if had_mark(&*self.journal.disk, &log)? {
                self.refuse(log.id(), OpenError::MarkMissing { path: log.mark_path() });
            }
        }
        Ok(())
    }

    /// Makes the directories of logs that are there and have none.
    fn make_dirs(&mut self) -> Result<(), OpenError> {
        for id in std::mem::take(&mut self.unmade) {
            let dir = self.journal.options.dir.join(id.path());
            match self.journal.disk.create_dir_all(&dir).map_err(io("make", &dir)) {
                Err(error) if error.is_of_one_log() => self.refuse(id, error),
                made => made?,
            }
            if self.clean {
                tracing::warn!(
                    log = %id,
                    path = %dir.display(),
                    "the last run ended in order, and its directory has gone since: it is made again from what the journal has of it. \
                     If it was moved away, do not put it back any more: it is older from here on"
                );
            }
        }
        Ok(())
    }

    /// Applies the frames that were held while their logs were out of service.
    fn apply_held(&mut self) -> Result<(), OpenError> {
        let (disk, data_dir) = (&*self.journal.disk, &self.journal.options.dir);
        let aside = data_dir.join(held::FILE);
        let mut held = held::list_aside(disk, data_dir).map_err(io("list", &aside))?;
        held.extend(self.logs.values().filter(|log| log.state().loaded.held).map(|log| log.id()));
        held.sort();
        held.dedup();
        for id in held.into_iter().filter(|id| !self.refused.contains_key(id)).collect::<Vec<_>>() {
            match held::load(disk, data_dir, id) {
                Ok(found) => {
                    let path = data_dir.join(id.path()).join(held::FILE);
                    self.held.insert(id);
                    for found in found {
                        self.apply_or_refuse(&path, found)?;
                    }
                    // Also where the mark covers them, and the last run ended in order: it did not sync this log, whose mark may be
                    // one that can be read and is not durable.
                    self.touched.extend(self.logs.get(&id).map(|log| (id, log.clone())));
                }
                Err((path, error)) => match io("read", &path)(error) {
                    error if error.is_of_one_log() => self.refuse(id, error),
                    OpenError::Io { source, .. } if source.kind() == std::io::ErrorKind::InvalidData => {
                        self.refuse(id, OpenError::Damaged { path, reason: source.to_string() });
                    }
                    error => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Keeps the frames of logs that are out of service, since the journal begins afresh.
    fn hold(&self, files: &JournalFiles) -> Result<(), OpenError> {
        let mut holders: HashMap<LogId, Holder> = HashMap::new();
        let disk = &*self.journal.disk;
        if self.refused.is_empty() {
            return Ok(());
        }
        self.each_frame(files, |found| {
            let id = found.frame.log;
            let Some(refused) = self.refused.get(&id) else { return Ok(()) };
            let holder = match holders.remove(&id) {
                Some(holder) => holder,
                None => {
                    // A directory that is made here would be taken away for the log's own to be put back.
                    let aside = refused.is_of_place() || matches!(refused, OpenError::LogMissing { .. });
                    Holder::begin(disk, &self.journal.options.dir, id, aside)
                        .map_err(|(path, source)| OpenError::Io { action: "write", path, source })?
                }
            };
            let holder = holders.entry(id).or_insert(holder);
            holder.put(disk, found).map_err(|source| OpenError::Io {
                action: "write",
                path: holder.path().to_owned(),
                source,
            })
        })?;
        for holder in holders.into_values() {
            let path = holder.path().to_owned();
            holder.finish(disk).map_err(io("write", &path))?;
        }
        Ok(())
    }

    /// Which logs are deleted, and by which frame last: the id may be of a log again that was made later.
    fn find_drops(&self, files: &JournalFiles) -> Result<HashMap<LogId, u64>, OpenError> {
        let mut drops = HashMap::new();
        self.each_frame(files, |found| {
            if found.frame.kind == Kind::Drop {
                drops.insert(found.frame.log, found.frame.lsn);
            }
            Ok(())
        })?;
        Ok(drops)
    }

    /// Goes over the journal's frames, as they are replayed.
    fn each_frame(
        &self,
        files: &JournalFiles,
        mut each: impl FnMut(&WholeFrame) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        let mut expected = None;
        for (sequence, path) in &files.used {
            let mut scan = Scan::open(&*self.journal.disk, path, *sequence, self.journal.directory_id)?;
            while let Some(found) = scan.next(expected)? {
                expected = Some(found.frame.lsn + 1);
                each(&found)?;
            }
        }
        Ok(())
    }

    fn drop_log(&mut self, id: LogId) -> Result<(), OpenError> {
        if let Some(error) = self.refused.remove(&id) {
            tracing::warn!(log = %id, "its files were damaged, and it was deleted, so nothing is lost by it: {error}");
            self.damaged_deleted += 1;
        }
        self.held.remove(&id);
        self.orphans.remove(&id);
        self.unmade.remove(&id);
        self.touched.remove(&id);
        self.logs.remove(&id);
        let name = format!("{:016x}", self.journal.rng.next_u64());
        let dir = self.journal.options.dir.join(id.path());
        let trash = self.journal.options.dir.join("trash");
        held::remove_aside(&*self.journal.disk, &self.journal.options.dir, id).map_err(io("remove", &dir))?;
        discard(&*self.journal.disk, id, &dir, &trash, &name).map_err(io("remove", &dir))
    }
}

/// Checks that where the frames end, before number `next`, no later one proves that `next` had been durable: then it would be
/// the medium that lost it, and not a crash that tore it. Without a frame at all, `next` is not known: then nothing may follow
/// the first group of the first file, since a group is written only once the one before it is durable.
fn check_torn(scans: &[Scan], next: Option<u64>) -> Result<(), OpenError> {
    for (nth, scan) in scans.iter().enumerate() {
        for proof in scan.proofs()? {
            let lost = match next {
                Some(next) => (proof.synced_lsn >= next).then(|| format!("frame {next}")),
                None => {
                    let later = nth > 0 || (proof.at > FILE_HEADER_BYTES && proof.lsn == proof.synced_lsn + 1);
                    later.then(|| String::from("its first group"))
                }
            };
            if let Some(lost) = lost {
                let reason = format!(
                    "{lost} is not sound, though a later one at byte {} of {} says that it was durable",
                    proof.at,
                    scan.path().display()
                );
                return Err(OpenError::Damaged { path: scans[0].path().to_owned(), reason });
            }
        }
    }
    Ok(())
}
