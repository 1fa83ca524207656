//! Recovery: every log is cut to its mark, then the journal is replayed, then all of it is synced.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use millstream_env::{Disk, Lack, OpenMode, lack};
use millstream_model::{Durability, Offset};
use millstream_record::{BatchHeader, PATCH_BYTES};

use crate::{
    LogId, LogOptions, OpenError, PartitionLog, ReadError, StorageFailed,
    data_dir::{io, list},
    epochs::Epochs,
    frame::Kind,
    index::Index,
    journal::Journal,
    journal_file::{self, FILE_HEADER_BYTES, FileHeader, Found, Named, ReadyFile, Scan},
    mark::{Mark, Saved},
    producers::Producers,
    segment::Segment,
    snapshot,
    state::{Part, State},
    sync,
    sync_log::{Synced, discard},
};

/// What recovery hands over.
pub(crate) struct Outcome {
    pub(crate) logs: HashMap<LogId, Arc<PartitionLog>>,
    /// The journal file to go on with.
    pub(crate) active: ReadyFile,
    pub(crate) replayed_frames: u64,
    pub(crate) replayed_bytes: u64,
}

/// Recovers a data directory; `clean`: the last run closed it. Every step can be repeated: a crash on the way only means to begin again.
pub(crate) fn recover(journal: &Arc<Journal>, clean: bool) -> Result<Outcome, OpenError> {
    let disk = &*journal.disk;
    let logs_dir = journal.options.dir.join("logs");
    // The trash, too: a full disk must not stand in the way of deleting.
    for dir in [&journal.dir(), &logs_dir, &journal.options.dir.join("trash")] {
        disk.create_dir_all(dir).map_err(io("make", dir))?;
    }
    disk.sync_dir(&journal.options.dir).map_err(io("sync", &journal.options.dir))?;
    let mut replay = Replay {
        journal,
        logs: load_logs(journal, &logs_dir)?,
        orphans: HashMap::new(),
        unmade: HashSet::new(),
        touched: HashMap::new(),
        clean,
        frames: 0,
        bytes: 0,
    };
    let files = JournalFiles::list(journal)?;
    let next = replay.run(&files)?;
    journal.queue().next_lsn = next;
    journal.ring().committed_lsn = next - 1;
    for id in &replay.unmade {
        let dir = journal.options.dir.join(id.path());
        disk.create_dir_all(&dir).map_err(io("make", &dir))?;
    }
    for log in replay.touched.values() {
        match log.sync(false).map_err(failed)? {
            Synced::Done => {}
            Synced::Postponed(_, failure) => return Err(failed(failure)),
        }
    }
    let active = files.start_afresh(journal)?;
    Ok(Outcome { logs: replay.logs, active, replayed_frames: replay.frames, replayed_bytes: replay.bytes })
}

fn failed(failure: StorageFailed) -> OpenError {
    let StorageFailed { action, path, source } = failure;
    OpenError::Io { action, path, source: io::Error::new(source.kind(), source.to_string()) }
}

fn unreadable(error: ReadError) -> OpenError {
    match error {
        ReadError::Damaged { path, at, reason } => OpenError::Damaged { path, reason: format!("byte {at}: {reason}") },
        ReadError::Io { path, source } => OpenError::Io { action: "read", path, source },
        other => OpenError::Damaged { path: PathBuf::new(), reason: other.to_string() },
    }
}

/// The files of the journal's directory.
struct JournalFiles {
    /// By number.
    used: Vec<(u64, PathBuf)>,
    spares: Vec<PathBuf>,
}

impl JournalFiles {
    fn list(journal: &Journal) -> Result<Self, OpenError> {
        let (mut used, mut spares) = (Vec::new(), Vec::new());
        for path in list(&*journal.disk, &journal.dir())? {
            match journal_file::classify(&path) {
                Named::Journal(sequence) => used.push((sequence, path)),
                Named::Spare => spares.push(path),
                Named::Other => tracing::warn!(path = %path.display(), "not a journal file; left alone"),
            }
        }
        used.sort();
        Ok(Self { used, spares })
    }

    /// Makes a fresh file ready, then takes the names of the old ones, whose frames are all in synced segments.
    fn start_afresh(mut self, journal: &Arc<Journal>) -> Result<ReadyFile, OpenError> {
        let disk = &*journal.disk;
        // What is a spare by name now must be one after a power cut, before it is written to.
        disk.sync_dir(&journal.dir()).map_err(io("sync", &journal.dir()))?;
        let mut uses = HashSet::new();
        for (_, path) in &self.used {
            uses.extend(header_of(disk, path)?.map(|header| header.nonce));
        }
        let mut spares = Vec::new();
        let numbers: Vec<u64> = self.spares.iter().filter_map(|path| journal_file::spare_number(path)).collect();
        for path in self.spares.drain(..) {
            // One whose length is another (the option has changed) or that was never finished is of no use. Nor is one that
            // tells of a use that is known by another name: a rename cut in two leaves two names for one file.
            let header = header_of(disk, &path)?;
            let fits = header.is_some_and(|header| {
                header.file_bytes == journal.options.journal_file_bytes && uses.insert(header.nonce)
            });
            if fits && spares.len() as u64 + 2 <= journal.files_max() {
                spares.push(path);
            } else {
                disk.remove_file(&path).map_err(io("remove", &path))?;
            }
        }
        // Also past the spares' numbers, which a file that is retired later must not take.
        let last = self.used.iter().map(|(sequence, _)| *sequence).chain(numbers).max();
        let sequence = last.map_or(1, |last| last + 1);
        let header = journal.next_header(sequence);
        let prepare = |spare: Option<PathBuf>| journal_file::prepare(disk, &journal.dir(), spare.as_deref(), header);
        let spare = spares.pop();
        let fresh = spare.is_none();
        let active = match prepare(spare) {
            Err(error) if fresh && lack(&error).is_some() && !self.used.is_empty() => {
                // All that the old files tell is in synced segments: one of them serves again.
                self.retire(journal, &mut spares)?;
                prepare(spares.pop())
            }
            prepared => prepared,
        };
        let active = active.map_err(io("prepare", &journal.dir()))?;
        self.retire(journal, &mut spares)?;
        let mut ring = journal.ring();
        ring.next_sequence = sequence + 1;
        ring.files = 1 + spares.len() as u64;
        ring.spares = spares;
        ring.active_bytes = FILE_HEADER_BYTES;
        drop(ring);
        Ok(active)
    }

    /// Takes the names of the old files, which are spares then or go.
    fn retire(&mut self, journal: &Arc<Journal>, spares: &mut Vec<PathBuf>) -> Result<(), OpenError> {
        let disk = &*journal.disk;
        for (sequence, path) in self.used.drain(..) {
            let same =
                header_of(disk, &path)?.is_some_and(|header| header.file_bytes == journal.options.journal_file_bytes);
            let spare = sync::retire(journal, &path, sequence).map_err(failed)?;
            if same && spares.len() as u64 + 2 <= journal.files_max() {
                spares.push(spare);
            } else {
                disk.remove_file(&spare).map_err(io("remove", &spare))?;
            }
        }
        Ok(())
    }
}

/// A journal file's or spare's header, if it is sound.
fn header_of(disk: &dyn Disk, path: &Path) -> Result<Option<FileHeader>, OpenError> {
    let file = disk.open(path, OpenMode::Read).map_err(io("open", path))?;
    let mut bytes = [0; 64];
    let read = file.read_at(&mut bytes, 0).map_err(io("read", path))?;
    let len = file.len().map_err(io("measure", path))?;
    let header = FileHeader::decode(&bytes[..read]).ok();
    Ok(header.filter(|header| header.file_bytes == len))
}

/// The logs found on disk, each as its mark says.
fn load_logs(journal: &Arc<Journal>, dir: &Path) -> Result<HashMap<LogId, Arc<PartitionLog>>, OpenError> {
    let disk = &*journal.disk;
    let mut logs = HashMap::new();
    for topic in list(disk, dir)? {
        for partition in list(disk, &topic)? {
            let paths = list(disk, &partition)?;
            if paths.is_empty() {
                // Left of what was deleted.
                sync::remove_empty(disk, &partition.join("log"));
            }
            for path in paths {
                match LogId::from_path(&path) {
                    Some(id) => {
                        logs.insert(id, Arc::new(load(journal, id)?));
                    }
                    None => tracing::warn!(path = %path.display(), "not a log's directory; left alone"),
                }
            }
        }
    }
    Ok(logs)
}

/// Loads one log and cuts it to its mark. One in durability `replicated` keeps what is sound beyond it.
fn load(journal: &Arc<Journal>, id: LogId) -> Result<PartitionLog, OpenError> {
    let disk = &*journal.disk;
    let dir = journal.options.dir.join(id.path());
    let mark_path = dir.join("mark");
    let mark = Mark::load(disk, &mark_path).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => OpenError::Damaged { path: mark_path.clone(), reason: source.to_string() },
        _ => OpenError::Io { action: "read", path: mark_path.clone(), source },
    })?;
    // Without a mark nothing was synced, and the journal still has all of it.
    let known = mark.unwrap_or_else(|| Mark::empty(Durability::Fsync));
    let mut bases: Vec<Offset> = list(disk, &dir)?.iter().filter_map(|path| Segment::base_in(path)).collect();
    bases.sort();
    let mut parts = load_closed(journal, &dir, &bases, &known)?;
    parts.push(cut_to_mark(journal, &dir, &known)?);
    let closed = parts.len() - 1;
    let mut end = known.end;
    let mut headers = Vec::new();
    let mut rest: Vec<Offset> = bases.into_iter().filter(|base| *base > known.segment_base).collect();
    remove_empty(journal, &dir, &mut rest)?;
    if known.durability == Durability::Replicated {
        (end, headers) = keep_tail(journal, &dir, &mut parts, &mut rest, end)?;
    }
    // What the journal will not write again must be durably gone before other batches take its place, or a power cut could
    // bring it back in theirs. (Without a mark, the log may be one without a journal.)
    let for_good = mark.is_none() || known.durability == Durability::Replicated;
    cut_active(&parts[parts.len() - 1], for_good)?;
    let removes = !rest.is_empty();
    for base in rest {
        let segment = Segment::new(&journal.handles, &dir, base);
        remove(journal, &segment.path)?;
        remove(journal, &segment.index_path())?;
    }
    if removes && for_good {
        disk.sync_dir(&dir).map_err(io("sync", &dir))?;
    }
    let (producers, unsaved_bytes) = load_producers(journal, &dir, &parts, &known)?;
    let mut state = State::new(parts, known.start, end, LogOptions::default().segment_bytes, producers);
    state.saved = known.producers;
    state.unsaved_bytes = unsaved_bytes;
    state.synced_parts = closed;
    state.mark = mark;
    // The first mark is written once the directories above are durable; but that of a log without a journal when it is made.
    state.parents_changed = mark.is_none_or(|mark| mark.sequence == 0 && mark.durability == Durability::Replicated);
    state.lsn = known.lsn;
    (state.epochs, state.epochs_changed) = load_epochs(journal, &dir, &state, known.end)?;
    for header in &headers {
        state.epochs_changed |= state.epochs.begin(header.partition_leader_epoch, header.base_offset);
        state.note(header, journal.now());
    }
    state.unsynced_bytes = u64::from(!headers.is_empty());
    Ok(PartitionLog::new(id, journal.clone(), known.durability, state, known.end))
}

/// Removes segments without a byte, which hold nothing and would hide those that follow.
fn remove_empty(journal: &Journal, dir: &Path, bases: &mut Vec<Offset>) -> Result<(), OpenError> {
    let mut kept = Vec::with_capacity(bases.len());
    for base in bases.drain(..) {
        let segment = Segment::new(&journal.handles, dir, base);
        let len = segment.len().map_err(io("measure", &segment.path))?;
        segment.handle.release();
        match len {
            0 => remove(journal, &segment.path)?,
            _ => kept.push(base),
        }
    }
    *bases = kept;
    Ok(())
}

fn remove(journal: &Journal, path: &Path) -> Result<(), OpenError> {
    match journal.disk.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The segments before the one that the mark ends in: each must end where the next one begins.
///
/// What an append left that ran out of room in a new segment lies within the one before: it is no part of the log.
fn load_closed(journal: &Journal, dir: &Path, bases: &[Offset], mark: &Mark) -> Result<Vec<Part>, OpenError> {
    let mut parts: Vec<Part> = Vec::new();
    let mut next = mark.start;
    for base in bases.iter().copied().filter(|base| *base < mark.segment_base) {
        let segment = Segment::new(&journal.handles, dir, base);
        let len = segment.len().map_err(io("measure", &segment.path))?;
        segment.handle.release();
        if len == 0 {
            tracing::warn!(path = %segment.path.display(), "an empty segment between others; removed");
            remove(journal, &segment.path)?;
            continue;
        }
        // The first may begin before the log's start.
        if base > next || (base < next && !parts.is_empty()) {
            if base < next {
                tracing::warn!(path = %segment.path.display(), "left by an append that was refused; passed over");
                continue;
            }
            break;
        }
        next = segment.end_offset(len).map_err(unreadable)?;
        segment.handle.release();
        parts.push(Part { segment: Arc::new(segment), len });
    }
    if mark.segment_base > mark.start && (parts.is_empty() || next != mark.segment_base) {
        let reason = format!("the segments before {} end at {next}: one is not there, or not whole", mark.segment_base);
        return Err(OpenError::Damaged { path: dir.to_owned(), reason });
    }
    Ok(parts)
}

/// The segment that the mark ends in. Its index, where it reaches further, tells of batches that are gone.
fn cut_to_mark(journal: &Journal, dir: &Path, mark: &Mark) -> Result<Part, OpenError> {
    let disk = &*journal.disk;
    let segment = Segment::new(&journal.handles, dir, mark.segment_base);
    let len = segment.len().map_err(io("measure", &segment.path))?;
    if len < mark.segment_len {
        let reason = format!("{len} bytes are left of {} that were durable", mark.segment_len);
        return Err(OpenError::Damaged { path: segment.path.to_path_buf(), reason });
    }
    let index_path = segment.index_path();
    if Index::load(disk, &index_path, segment.base).is_some_and(|index| index.reach() > mark.segment_len) {
        remove(journal, &index_path)?;
    }
    Ok(Part { segment: Arc::new(segment), len: mark.segment_len })
}

/// Cuts the file of the last segment to the length that counts; `for_good` durably.
fn cut_active(part: &Part, for_good: bool) -> Result<(), OpenError> {
    let path = &part.segment.path;
    if part.segment.len().map_err(io("measure", path))? != part.len {
        let file = part.segment.handle.writer().map_err(io("open", path))?;
        file.set_len(part.len).map_err(io("cut", path))?;
        if for_good {
            file.sync_data().map_err(io("sync", path))?;
        }
    }
    part.segment.handle.release();
    Ok(())
}

/// Goes on past the mark of a log without a journal, as far as sound batches follow each other. (Its tail survives a killed
/// process.) Takes from `rest` the segments that it keeps; gives the new end and what it found.
fn keep_tail(
    journal: &Journal,
    dir: &Path,
    parts: &mut Vec<Part>,
    rest: &mut Vec<Offset>,
    end: Offset,
) -> Result<(Offset, Vec<BatchHeader>), OpenError> {
    let (mut end, mut headers) = (end, Vec::new());
    loop {
        let last = parts.len() - 1;
        let part = &mut parts[last];
        let path = part.segment.path.clone();
        let len = part.segment.len().map_err(io("measure", &path))?;
        let found = part.segment.keep_tail(part.len, len, end).map_err(unreadable)?;
        part.len += found.iter().map(|header| header.batch_bytes() as u64).sum::<u64>();
        end = found.last().map_or(end, BatchHeader::end_offset);
        headers.extend(found);
        // What an append left that ran out of room lies within this one.
        while rest.first().is_some_and(|base| *base < end) {
            let left = Segment::new(&journal.handles, dir, rest.remove(0));
            remove(journal, &left.path)?;
        }
        if part.len < len || part.len == 0 || rest.first() != Some(&end) {
            return Ok((end, headers));
        }
        let base = rest.remove(0);
        parts.push(Part { segment: Arc::new(Segment::new(&journal.handles, dir, base)), len: 0 });
    }
}

/// The epochs below `end`: from their file, or where that is not sound from the batches. Also whether the file says otherwise: then
/// it is to be written before the mark moves on, or an epoch that was lost would come back once the log has grown past its start.
fn load_epochs(journal: &Journal, dir: &Path, state: &State, end: Offset) -> Result<(Epochs, bool), OpenError> {
    let path = dir.join("epochs");
    let stored = Epochs::load(&*journal.disk, &path).map_err(io("read", &path))?;
    let is_stored = stored.is_some();
    let mut epochs = match stored {
        Some(epochs) => epochs,
        None if end == Offset(0) => Epochs::default(),
        None => {
            tracing::warn!(path = %path.display(), "not sound; the epochs are taken from the batches");
            let mut epochs = Epochs::default();
            for part in state.parts.iter().filter(|part| part.len > 0) {
                let mut walk = part.segment.walk(0, part.len).map_err(unreadable)?;
                while let Some((_, header)) = walk.next().map_err(unreadable)? {
                    epochs.begin(header.partition_leader_epoch, header.base_offset);
                }
                part.segment.handle.release();
            }
            epochs
        }
    };
    let changed = epochs.cut(end) || (!is_stored && end > Offset(0));
    Ok((epochs, changed))
}

/// The producers at the mark: as its snapshot says and the batches after it, or where that is not sound as all batches say. Also
/// how many bytes of batches follow the snapshot. Other snapshots are removed.
fn load_producers(journal: &Journal, dir: &Path, parts: &[Part], mark: &Mark) -> Result<(Producers, u64), OpenError> {
    let disk = &*journal.disk;
    let Saved { at, behind } = mark.producers;
    let path = snapshot::path(dir, at);
    for other in list(disk, dir)?.iter().filter(|other| snapshot::is_snapshot(other)) {
        if at == Offset(0) || *other != path {
            remove(journal, other)?;
        }
    }
    let limits = journal.producer_limits();
    let stored = match at {
        Offset(0) => Some(Producers::new(limits)),
        _ => snapshot::load(disk, dir, at, limits).map_err(io("read", &path))?,
    };
    let (mut producers, from) = match stored {
        // How much follows is not known, unless it is nothing: the next snapshot is due as soon as there is cause for one.
        Some(producers) if !behind => return Ok((producers, if at == mark.end { 0 } else { u64::MAX >> 1 })),
        Some(producers) => (producers, at.max(mark.start)),
        None => {
            tracing::warn!(path = %path.display(), "not sound; the producers are taken from the batches");
            (Producers::new(limits), mark.start)
        }
    };
    let now = journal.now();
    let mut bytes = 0;
    for (index, part) in parts.iter().enumerate() {
        if part.len == 0 || parts.get(index + 1).is_some_and(|next| next.segment.base <= from) {
            continue;
        }
        let position = match part.segment.base < from {
            true => part.segment.build_index(part.len).map_err(unreadable)?.position(part.segment.delta(from).into()),
            false => 0,
        };
        let mut walk = part.segment.walk(position, part.len).map_err(unreadable)?;
        while let Some((_, header)) = walk.next().map_err(unreadable)? {
            if header.base_offset >= mark.end {
                break;
            }
            if header.base_offset >= from {
                bytes += header.batch_bytes() as u64;
                producers.note(&header, now);
            }
        }
        part.segment.handle.release();
    }
    Ok((producers, bytes))
}

/// The journal being replayed.
struct Replay<'a> {
    journal: &'a Arc<Journal>,
    logs: HashMap<LogId, Arc<PartitionLog>>,
    /// Logs without files whose frames begin in the middle, by the first such frame: their deletion must follow.
    orphans: HashMap<LogId, u64>,
    /// Logs whose directories are still to be made. Most that were deleted again never need one: making and removing it would
    /// cost a sync for each, and the journal tells of hundreds of thousands.
    unmade: HashSet<LogId>,
    /// What has to be synced afterwards.
    touched: HashMap<LogId, Arc<PartitionLog>>,
    /// The last run ended in order: what can be read is durable.
    clean: bool,
    frames: u64,
    bytes: u64,
}

impl Replay<'_> {
    /// Applies all frames in the order of their numbers; gives the number of the next one.
    fn run(&mut self, files: &JournalFiles) -> Result<u64, OpenError> {
        let mut next = 1 + self.logs.values().map(|log| log.state().lsn).max().unwrap_or(0);
        let mut expected = None;
        let mut ended_in = 0;
        let mut empty: Option<usize> = None;
        let mut scans = Vec::with_capacity(files.used.len());
        for (sequence, path) in &files.used {
            scans.push(Scan::open(&*self.journal.disk, path, *sequence, self.journal.directory_id)?);
        }
        for (at, scan) in scans.iter_mut().enumerate() {
            next = next.max(scan.header().lsn_floor);
            let before = expected;
            while let Some(found) = scan.next(expected)? {
                if let Some(empty) = empty {
                    let reason = format!("it holds no sound frame, though {} follows it", scan.path().display());
                    return Err(OpenError::Damaged { path: files.used[empty].1.clone(), reason });
                }
                expected = Some(found.frame.lsn + 1);
                ended_in = at;
                self.apply(scan.path(), found)?;
            }
            // The journal goes on to a file only when the one before it has frames.
            if expected == before {
                empty.get_or_insert(at);
            }
        }
        check_torn(&scans[ended_in..], expected)?;
        if let Some((id, lsn)) = self.orphans.iter().next() {
            let reason = format!("frame {lsn} continues the log {id}, of which nothing is there");
            return Err(OpenError::Damaged { path: self.journal.dir(), reason });
        }
        for log in self.logs.values() {
            // The sound tail of a log without a journal is synced like what was replayed.
            if log.state().unsynced_bytes > 0 {
                self.touched.insert(log.id(), log.clone());
            }
        }
        Ok(next.max(expected.unwrap_or(1)))
    }

    fn apply(&mut self, path: &Path, found: Found) -> Result<(), OpenError> {
        let frame = &found.frame;
        if frame.kind == Kind::Drop {
            return self.drop_log(frame.log);
        }
        // What was made and never synced is made again. (An untouched directory does not know its log's durability.)
        let known = self.logs.get(&frame.log).filter(|log| log.durability() == frame.durability || !log.is_untouched());
        let log = match known {
            Some(log) => log.clone(),
            None => {
                let options = LogOptions { durability: frame.durability, ..LogOptions::default() };
                let log = Arc::new(PartitionLog::empty(frame.log, self.journal.clone(), options));
                self.unmade.insert(frame.log);
                self.logs.insert(frame.log, log.clone());
                log
            }
        };
        let mut state = log.state();
        // Even where the mark says that the segments have it: a killed process may have left a mark that can be read and is
        // not durable, and the frame goes when the journal begins afresh. Not so after an orderly close, which synced all.
        if !self.clean || frame.lsn > state.lsn {
            self.touched.insert(log.id(), log.clone());
        }
        if frame.lsn <= state.lsn {
            return Ok(());
        }
        let journaled = frame.durability == Durability::Fsync;
        if self.orphans.contains_key(&frame.log) || (frame.base_offset > state.end && state.mark.is_none() && journaled)
        {
            self.orphans.entry(frame.log).or_insert(frame.lsn);
            return Ok(());
        }
        let lies = |reason: &str| OpenError::Damaged {
            path: path.to_owned(),
            reason: format!("frame {} of the log {}: {reason}", frame.lsn, frame.log),
        };
        if log.durability() != frame.durability {
            return Err(lies("the log has another durability"));
        }
        match frame.kind {
            Kind::Append if !journaled => return Err(lies("the log keeps no journal")),
            Kind::Append if frame.base_offset != state.end => {
                return Err(lies(&format!("offset {} does not follow {}", frame.base_offset, state.end)));
            }
            Kind::Append => {
                let header = BatchHeader::parse(&found.payload).map_err(|error| lies(&error.to_string()))?;
                if self.unmade.remove(&frame.log) {
                    self.journal.disk.create_dir_all(log.dir()).map_err(io("make", log.dir()))?;
                }
                state.active_index().map_err(unreadable)?;
                let (prefix, body) = found.payload.split_at(PATCH_BYTES);
                let before = state.checkpoint();
                let mut written = state.write(&header, prefix, body, |base| log.segment(base));
                // It was there before the crash, and its room may have gone to somebody else.
                if written.as_ref().err().and_then(lack) == Some(Lack::Room) && self.journal.ballast.release() {
                    state.undo(&before).map_err(io("cut", log.dir()))?;
                    written = state.write(&header, prefix, body, |base| log.segment(base));
                }
                written.map_err(|source| OpenError::Io { action: "write", path: log.dir().to_owned(), source })?;
                state.epochs_changed |= state.epochs.begin(frame.leader_epoch, frame.base_offset);
                state.note(&header, self.journal.now());
            }
            // A log without a journal may have lost what was below: the epoch has begun all the same, and holds nothing yet.
            Kind::EpochStart => {
                let start = frame.base_offset.min(state.end);
                state.epochs_changed |= state.epochs.begin(frame.leader_epoch, start);
            }
            _ => return Err(lies("of a kind that is not built")),
        }
        state.lsn = frame.lsn;
        drop(state);
        self.frames += 1;
        self.bytes += found.payload.len() as u64;
        Ok(())
    }

    fn drop_log(&mut self, id: LogId) -> Result<(), OpenError> {
        self.orphans.remove(&id);
        self.unmade.remove(&id);
        self.touched.remove(&id);
        self.logs.remove(&id);
        let name = format!("{:016x}", self.journal.rng.next_u64());
        let dir = self.journal.options.dir.join(id.path());
        let trash = self.journal.options.dir.join("trash");
        discard(&*self.journal.disk, &dir, &trash, &name).map_err(io("remove", &dir))
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
