//! Compaction: of each key the newest record stays (Kafka's `cleanup.policy=compact`).
//!
//! A pass goes over the closed segments that are durable. It first notes the newest offset of each key in those that no pass
//! has seen yet, as far as memory allows (`keys`); then it writes all of them anew, several small ones as one, without the records
//! that a newer one of their key replaces (`rewrite`). Records keep their offsets, and the offsets stay dense for whoever walks over
//! batches: a batch covers what it covered before, and where no record is left a header of 61 bytes does.
//!
//! A record without a value, a tombstone, stays for `delete.retention.ms` after the pass that found nothing older of its key
//! (`passes`), so that readers who come late see the deletion. Records without a key go.
//!
//! The new file is synced before it takes the first old one's name. Until the others' names are gone, a start passes them over,
//! since the new one reaches past them.
//!
//! A sync that fails here fails the storage, as any does: it makes the kernel forget what else of the directory was not durable,
//! and the log's own next sync would believe that it is.

mod keys;
pub(crate) mod passes;
mod rewrite;

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use millstream_env::{Disk, DiskFile, OpenMode, lack};
use millstream_model::{Offset, TimestampMs};
use millstream_record::{Batch, BatchHeader};

use self::{
    keys::Keys,
    passes::Passes,
    rewrite::{Candidate, Gap, Left, RewriteError, look, rewrite},
};
use crate::{
    CompactError, PartitionLog, ReadError, StorageFailed,
    bytes_io::{failing, missing_is_fine},
    index::Index,
    segment::{Segment, Walk},
    snapshot,
    state::Part,
    sync_error::sync_dir,
};

/// How much of a replaced file is given back to the file system at once, bytes.
const SHRINK_STEP_BYTES: u64 = 64 << 20;
/// How much is gathered before it is written, bytes (one batch may be more).
const WRITE_BYTES: usize = 1 << 20;

/// What a pass may do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compaction {
    /// A pass begins when this part of the bytes was not compacted yet (`min.cleanable.dirty.ratio`), 0 to 1.
    pub dirty_ratio: f64,
    /// Records younger than this are left alone, milliseconds (`min.compaction.lag.ms`).
    pub lag_ms: i64,
    /// A pass begins, too, when a segment that was not compacted has no record younger than this, milliseconds
    /// (`max.compaction.lag.ms`).
    pub lag_ms_max: i64,
    /// How long tombstones stay, milliseconds (`delete.retention.ms`).
    pub tombstone_ms: i64,
    /// Segments are joined up to this many bytes (`segment.bytes`).
    pub segment_bytes: u64,
    /// What is remembered of keys in a pass takes at most this much memory, bytes. With more keys, it takes several passes.
    pub keys_bytes_max: usize,
    /// Nothing past this offset is looked at: the high watermark.
    pub below: Offset,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Bytes of the segments before.
    pub bytes_before: u64,
    /// Bytes of those in their place.
    pub bytes_after: u64,
    /// Records that went.
    pub records_removed: u64,
    /// All below was compacted.
    pub reached: Offset,
}

/// What one pass knows.
struct Pass<'a> {
    log: &'a Arc<PartitionLog>,
    keys: Keys,
    /// All newer records of the keys below this are known.
    mapped: Offset,
    start: Offset,
    /// Tombstones below go.
    expired: Offset,
    /// Where batches begin that say where their producers are.
    remembered: Vec<Offset>,
    done: Compacted,
    /// Asked before each batch.
    go_on: &'a dyn Fn() -> bool,
}

impl PartitionLog {
    /// Goes over the log once and leaves of each key the newest record, if there is enough to gain; none if there is not, or
    /// if another pass is under way. Segments that were closed since the log was last synced are left to the next pass, and the
    /// log is synced in the background.
    ///
    /// Blocks on the disk for as long as it takes to read and write what was not compacted, and what was. Readers and appenders
    /// go on meanwhile. A crash in the middle leaves the log as it was or, in whole segments, as it is to be.
    ///
    /// `go_on`: asked often, before each batch that is read; once it says no, the pass ends there. What was put in its place stays, and
    /// the next pass begins anew: it notes the same keys again, and finds those segments as they are to be.
    ///
    /// # Errors
    /// [`CompactError`].
    pub fn compact(
        self: &Arc<Self>,
        rules: &Compaction,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Compacted>, CompactError> {
        let Some(mut known) = self.compacting().try_lock() else { return Ok(None) };
        match self.go_over(&mut known, rules, go_on) {
            // Its directory has been moved away meanwhile.
            Err(_) if self.state().life.dropped.is_some() => Ok(None),
            outcome => outcome,
        }
    }

    /// `known`: the passes, once they were read.
    fn go_over(
        self: &Arc<Self>,
        known: &mut Option<Passes>,
        rules: &Compaction,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Compacted>, CompactError> {
        if let Some(failure) = self.journal().failure() {
            return Err(failure.into());
        }
        let now = self.journal().now();
        let (parts, start, remembered) = self.closed_and_durable(rules.below);
        let parts = self.old_enough(parts, now, rules.lag_ms)?;
        if parts.is_empty() {
            return Ok(None);
        }
        let path = self.dir().join(passes::FILE);
        let passes = match known {
            Some(passes) => passes,
            None => known.insert(Passes::load(self.disk(), self.dir()).map_err(writing("read", &path))?),
        };
        let reached = passes.reached().max(start);
        let fresh = parts.partition_point(|(_, end)| *end <= reached);
        if fresh == parts.len() || !self.is_due(&parts, fresh, now, rules)? {
            return Ok(None);
        }
        let mut pass = Pass {
            log: self,
            keys: Keys::new(rules.keys_bytes_max),
            mapped: reached,
            start,
            expired: passes.expired(now, rules.tombstone_ms),
            remembered,
            done: Compacted::default(),
            go_on,
        };
        pass.note_keys(&parts[fresh..])?;
        let within = parts.partition_point(|(part, _)| part.segment.base < pass.mapped);
        for group in groups(&parts[..within], rules.segment_bytes) {
            if !pass.replace(group)? {
                // The log's start has moved past it meanwhile, or it is deleted.
                return Ok(Some(pass.done));
            }
        }
        passes.note(pass.mapped, now, rules.tombstone_ms);
        passes.store(self.disk(), self.dir()).map_err(writing("write", &path))?;
        pass.done.reached = pass.mapped;
        Ok(Some(pass.done))
    }

    /// The segments that a mark covers and that take no more batches, up to an offset, each with its end; the log's start; and
    /// which batches its producers are remembered by.
    fn closed_and_durable(self: &Arc<Self>, below: Offset) -> (Vec<(Part, Offset)>, Offset, Vec<Offset>) {
        let state = self.state();
        if state.durable.parts + 1 < state.parts.len() {
            // What was closed since the last sync is for the next pass.
            let mut queue = self.journal().queue();
            queue.due.push_back(self.clone());
            drop(queue);
            self.journal().sync_work.notify_one();
        }
        let durable = state.durable.mark.map_or(Offset(0), |mark| mark.segment_base).min(below);
        let ends = state.parts.iter().skip(1).map(|part| part.segment.base);
        let parts = state.parts.iter().cloned().zip(ends).take_while(|(_, end)| *end <= durable).collect();
        let batches = state.producers.iter().flat_map(|(_, producer)| producer.batches());
        let mut remembered: Vec<_> = batches.map(|batch| batch.base_offset).collect();
        remembered.sort();
        if state.life.dropped.is_some() {
            return (Vec::new(), state.start, remembered);
        }
        (parts, state.start, remembered)
    }

    fn old_enough(
        &self,
        mut parts: Vec<(Part, Offset)>,
        now: TimestampMs,
        lag_ms: i64,
    ) -> Result<Vec<(Part, Offset)>, ReadError> {
        if lag_ms <= 0 {
            return Ok(parts);
        }
        for at in 0..parts.len() {
            let (part, _) = &parts[at];
            if now.0.saturating_sub(part.segment.find_newest(part.len)?.0) < lag_ms {
                parts.truncate(at);
                break;
            }
        }
        Ok(parts)
    }

    /// Whether enough of `parts`, of which those from `fresh` on were not compacted, is to be gained, or has waited long enough.
    fn is_due(
        &self,
        parts: &[(Part, Offset)],
        fresh: usize,
        now: TimestampMs,
        rules: &Compaction,
    ) -> Result<bool, ReadError> {
        let bytes = |parts: &[(Part, Offset)]| parts.iter().map(|(part, _)| part.len).sum::<u64>() as f64;
        if bytes(&parts[fresh..]) >= rules.dirty_ratio * bytes(parts) {
            return Ok(true);
        }
        let (oldest, _) = &parts[fresh];
        Ok(now.0.saturating_sub(oldest.segment.find_newest(oldest.len)?.0) >= rules.lag_ms_max)
    }
}

impl PartitionLog {
    /// Makes the names in the log's directory durable. Not beside the log's own syncs: where either fails, the other one, if it
    /// came later, would say that all is well.
    fn sync_dir_alone(&self, disk: &dyn Disk) -> Result<(), CompactError> {
        let _alone = self.syncing().lock();
        match sync_dir(disk, self.dir()) {
            // It was not even opened: the log is deleted, or descriptors lack. Nothing is forgotten.
            Err(error) if error.kind() == io::ErrorKind::NotFound || lack(&error).is_some() => {
                Err(writing("sync", self.dir())(error))
            }
            outcome => Ok(self.believe(outcome, self.dir())?),
        }
    }

    /// Spreads the failure of a sync. One that went well counts for nothing where another has failed.
    fn believe(&self, outcome: io::Result<()>, path: &Path) -> Result<(), StorageFailed> {
        if let Err(error) = outcome {
            self.journal().fail(failing("sync", path)(error));
        }
        self.journal().failure().map_or(Ok(()), Err)
    }
}

impl Pass<'_> {
    fn check_wanted(&self) -> Result<(), CompactError> {
        if (self.go_on)() { Ok(()) } else { Err(CompactError::GivenUp) }
    }

    /// Notes the keys of segments that were not compacted, up to the first batch that there is no room for.
    fn note_keys(&mut self, parts: &[(Part, Offset)]) -> Result<(), CompactError> {
        for (part, end) in parts {
            let mut walk = Whole::of(part, *end)?;
            while let Some((at, header)) = walk.next()? {
                if header.end_offset() <= self.mapped {
                    continue;
                }
                self.check_wanted()?;
                if self.keys.is_full() {
                    return Ok(());
                }
                let batch = sound_batch(part, at, &header)?;
                if !header.attributes.is_control() {
                    let noted = look(&batch, |record| {
                        if let Some(key) = record.key {
                            self.keys.note(key, record.offset);
                        }
                    });
                    noted.map_err(|_| unsound(part, at))?;
                }
                self.mapped = header.end_offset();
            }
        }
        Ok(())
    }

    /// Whether a record stays.
    fn keeps(&self, record: &Candidate<'_>) -> bool {
        let Some(key) = record.key else { return false };
        let replaced = self.keys.newest(key).is_some_and(|newest| newest > record.offset);
        let expired = record.is_tombstone && record.offset < self.expired;
        record.offset >= self.start && !replaced && !expired
    }

    /// Writes segments anew, as one, and puts that in their place. Whether they were still the log's.
    fn replace(&mut self, group: &[(Part, Offset)]) -> Result<bool, CompactError> {
        let Some((first, _)) = group.first() else { return Ok(true) };
        let disk = self.log.journal().handles.disk.clone();
        let path = beside(&first.segment.path);
        let written = self.write(&*disk, &path, group);
        let outcome = match written {
            // As it was: nothing to put there.
            Ok(None) => return Ok(true),
            Ok(Some(new)) => self.swap(&*disk, &path, group, new),
            Err(error) => Err(error),
        };
        if !matches!(outcome, Ok(true)) {
            // A start removes what stays.
            let _ = disk.remove_file(&path);
        }
        outcome
    }

    /// The new segment's bytes, synced, in a file beside the old ones; none if they would be the same as before.
    fn write<'p>(
        &mut self,
        disk: &dyn Disk,
        path: &'p Path,
        group: &[(Part, Offset)],
    ) -> Result<Option<New<'p>>, CompactError> {
        let file = disk.open(path, OpenMode::Create).map_err(writing("open", path))?;
        file.set_len(0).map_err(writing("cut", path))?;
        let mut new =
            New { file, path, base: group[0].0.segment.base, index: Index::default(), queued: Vec::new(), len: 0 };
        let mut removed = 0;
        let mut gap: Option<Gap> = None;
        for (part, end) in group {
            let mut walk = Whole::of(part, *end)?;
            while let Some((at, header)) = walk.next()? {
                self.check_wanted()?;
                let batch = sound_batch(part, at, &header)?;
                let mut went = 0;
                // An empty one is looked at all the same: it may be joined with its neighbours.
                let left = match header.attributes.is_control() {
                    true => Left::Whole,
                    false => rewrite(&batch, |record| {
                        let keeps = self.keeps(&record);
                        went += u64::from(!keeps);
                        keeps
                    })
                    .map_err(|error| match error {
                        RewriteError::Batch(_) => unsound(part, at),
                        RewriteError::Build(error) => part.segment.io(io::Error::other(error)),
                    })?,
                };
                removed += went;
                if left == Left::Nothing {
                    let remembered = self.remembered.binary_search(&header.base_offset).is_ok();
                    let next = Gap::of(&header, remembered);
                    if !gap.as_mut().is_some_and(|gap| gap.take_in(&next)) {
                        new.put_gap(gap.replace(next))?;
                    }
                    continue;
                }
                new.put_gap(gap.take())?;
                match left {
                    Left::Some(bytes) => new.put(bytes)?,
                    _ => new.put(batch.into_bytes())?,
                }
            }
        }
        new.put_gap(gap)?;
        new.flush()?;
        let before: u64 = group.iter().map(|(part, _)| part.len).sum();
        self.done.bytes_before += before;
        if group.len() == 1 && removed == 0 && new.len == before {
            self.done.bytes_after += before;
            drop(new);
            disk.remove_file(path).map_err(writing("remove", path))?;
            return Ok(None);
        }
        self.log.believe(new.file.sync_data(), path)?;
        self.done.bytes_after += new.len;
        self.done.records_removed += removed;
        Ok(Some(new))
    }

    /// Puts the new segment in the place of the old ones, on disk and in the log's list. Not if they are not the log's any more.
    fn swap(&self, disk: &dyn Disk, path: &Path, group: &[(Part, Offset)], new: New<'_>) -> Result<bool, CompactError> {
        let log = self.log;
        let (first, _) = &group[0];
        log.its_place().check(disk).map_err(writing("replace", &first.segment.path))?;
        // No index may be taken for the new segment's that is not: first it goes, for certain.
        let index_path = first.segment.index_path();
        missing_is_fine(disk.remove_file(&index_path)).map_err(writing("remove", &index_path))?;
        log.sync_dir_alone(disk)?;
        // Held open to be shrunk, since unlinking a large file at once stalls the file system. (They are few: a group fits a segment.)
        let mut large = Vec::new();
        for (part, _) in group.iter().filter(|(part, _)| part.len > SHRINK_STEP_BYTES) {
            let path = &part.segment.path;
            large.push((disk.open(path, OpenMode::Write).map_err(writing("open", path))?, part));
        }
        {
            let mut state = log.state();
            let at = state.parts.partition_point(|part| part.segment.base < first.segment.base);
            let found = state.parts.get(at..at + group.len()).unwrap_or_default();
            let is = |found: &Part, part: &Part| Arc::ptr_eq(&found.segment, &part.segment) && found.len == part.len;
            let same = found.iter().zip(group).all(|(found, (part, _))| is(found, part));
            if found.len() < group.len() || !same || state.life.dropped.is_some() {
                return Ok(false);
            }
            // Whoever reads them from now on finds them gone, and looks again once this lock is free.
            for (part, _) in group {
                part.segment.handle.supersede();
            }
            if let Err(error) = disk.rename(path, &first.segment.path) {
                for (part, _) in group {
                    part.segment.handle.restore();
                }
                return Err(writing("rename", path)(error));
            }
            let segment = Segment::new(&log.journal().handles, log.its_place(), first.segment.base);
            segment.set_index(Arc::new(new.index));
            let part = Part { segment: Arc::new(segment), len: new.len };
            state.parts.splice(at..at + group.len(), [part]);
            state.durable.parts = state.durable.parts.saturating_sub(group.len() - 1);
            state.places.forget();
        }
        // Before the other names go, or a power cut could leave neither.
        log.sync_dir_alone(disk)?;
        // That has taken its time, and they go by their names.
        log.its_place().check(disk).map_err(writing("remove", &first.segment.path))?;
        for (part, _) in &group[1..] {
            // A log that was cut meanwhile may have begun a new segment there.
            let state = log.state();
            if state.parts.iter().any(|live| live.segment.base == part.segment.base) {
                continue;
            }
            let snapshot = snapshot::path(log.dir(), part.segment.base);
            let snapshot = (!state.names_snapshot(part.segment.base)).then_some(snapshot);
            let paths = [part.segment.index_path(), part.segment.path.to_path_buf()];
            for path in snapshot.into_iter().chain(paths) {
                missing_is_fine(disk.remove_file(&path)).map_err(writing("remove", &path))?;
            }
        }
        for (file, part) in large {
            let mut len = part.len;
            while len > SHRINK_STEP_BYTES {
                len -= SHRINK_STEP_BYTES;
                file.set_len(len).map_err(writing("cut", &part.segment.path))?;
            }
        }
        Ok(true)
    }
}

/// A segment under construction.
struct New<'a> {
    file: Arc<dyn DiskFile>,
    path: &'a Path,
    base: Offset,
    index: Index,
    queued: Vec<Bytes>,
    /// With what is queued, bytes.
    len: u64,
}

impl New<'_> {
    fn put(&mut self, batch: Bytes) -> Result<(), CompactError> {
        let header =
            BatchHeader::parse(&batch).map_err(|error| writing("encode", self.path)(io::Error::other(error)))?;
        // A group reaches no further than a segment may.
        let delta = u32::try_from(header.base_offset.0 - self.base.0).unwrap_or(u32::MAX);
        self.index.add(delta, batch.len() as u64, header.max_timestamp);
        self.len += batch.len() as u64;
        self.queued.push(batch);
        match self.queued.iter().map(Bytes::len).sum::<usize>() >= WRITE_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn put_gap(&mut self, gap: Option<Gap>) -> Result<(), CompactError> {
        let Some(gap) = gap else { return Ok(()) };
        let batch = gap.encode().map_err(|error| writing("encode", self.path)(io::Error::other(error)))?;
        self.put(batch)
    }

    fn flush(&mut self) -> Result<(), CompactError> {
        let bytes: usize = self.queued.iter().map(Bytes::len).sum();
        let parts: Vec<_> = self.queued.iter().map(|batch| IoSlice::new(batch)).collect();
        self.file.write_at(&parts, self.len - bytes as u64).map_err(writing("write", self.path))?;
        self.queued.clear();
        Ok(())
    }
}

/// Neighbours that become one segment: as many as fit one.
fn groups(parts: &[(Part, Offset)], segment_bytes: u64) -> Vec<&[(Part, Offset)]> {
    let mut groups = Vec::new();
    let mut rest = parts;
    while let Some((first, _)) = rest.first() {
        let mut bytes = 0;
        let mut fits = |(part, end): &(Part, Offset)| {
            bytes += part.len;
            bytes <= segment_bytes && end.0 - first.segment.base.0 <= i64::from(u32::MAX)
        };
        let count = rest.iter().take_while(|part| fits(part)).count().max(1);
        let (group, after) = rest.split_at(count);
        groups.push(group);
        rest = after;
    }
    groups
}

/// Reads a batch and checks it: what is damaged must not be written anew as if it were not.
fn sound_batch(part: &Part, at: u64, header: &BatchHeader) -> Result<Batch, ReadError> {
    let bytes = part.segment.read_exact(at, header.batch_bytes())?.freeze();
    let batch = Batch::parse_one(bytes).map_err(|_| unsound(part, at))?;
    batch.verify_crc().map_err(|_| unsound(part, at))?;
    Ok(batch)
}

/// A walk over the headers of a segment that must hold all of its offsets. One that is cut short where a batch begins, or is not
/// there, looks sound: joined with the next one, it would hide that one's batches behind what is lost.
struct Whole<'a> {
    part: &'a Part,
    walk: Walk<'a>,
    /// The offset that comes next, and the one to come to.
    next: Offset,
    end: Offset,
}

impl<'a> Whole<'a> {
    fn of(part: &'a Part, end: Offset) -> Result<Self, ReadError> {
        if part.len == 0 {
            // It may have no file.
            return Err(part.segment.damaged(0, "it is not there"));
        }
        Ok(Self { part, walk: part.segment.walk(0, part.len)?, next: part.segment.base, end })
    }

    /// As [`Walk::next`].
    fn next(&mut self) -> Result<Option<(u64, BatchHeader)>, ReadError> {
        let found = self.walk.next()?;
        let (at, base) = found.map_or((self.part.len, self.end), |(at, header)| (at, header.base_offset));
        if base != self.next {
            return Err(self.part.segment.damaged(at, "offsets of it are not there"));
        }
        self.next = found.map_or(self.end, |(_, header)| header.end_offset());
        Ok(found)
    }
}

fn unsound(part: &Part, at: u64) -> ReadError {
    part.segment.damaged(at, "its records are not sound")
}

/// Where the new segment is written that takes this one's place.
fn beside(path: &Path) -> PathBuf {
    path.with_extension(EXTENSION)
}

/// Of files that are not finished.
const EXTENSION: &str = "compacting";

/// Whether a file was left by a pass that did not end.
pub(crate) fn is_unfinished(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == EXTENSION)
}

fn writing<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CompactError + 'a {
    move |source| CompactError::Write { action, path: path.to_owned(), source }
}
