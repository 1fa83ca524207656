//! What a log's own directory holds: segments as far as the mark says, or as they are sound. (Epochs and producers are in `beside`.)

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use millstream_env::Disk;
use millstream_model::{Durability, Offset};
use millstream_record::{BatchHeader, HEADER_BYTES};
use parking_lot::Mutex;

use super::{
    Logs, Refused,
    beside::{load_epochs, load_producers},
    cut::{cut_active, remove},
    unreadable,
};
use crate::{
    LogId, LogOptions, OpenError, PartitionLog, ReadError, compact,
    data_dir::{io, list},
    held,
    index::Index,
    journal::Journal,
    made::{Made, Noted},
    mark::{First, Found, Mark},
    place::Place,
    segment::Segment,
    snapshot,
    sound::{Extent, Step},
    state::{Part, State},
    sync_all::each,
    trash::remove_empty_dirs,
};

/// The logs found on disk, each as its mark says, and those of which that cannot be said, with the reason. Several are read at a
/// time.
pub(super) fn load_logs(journal: &Arc<Journal>, dir: &Path) -> Result<(Logs, Refused), OpenError> {
    let (found, refused) = find_logs(&*journal.disk, dir)?;
    let logs = Mutex::new((Logs::with_capacity(found.len()), refused));
    each(journal, &found, |id| {
        match load(journal, *id) {
            Ok(log) => drop(logs.lock().0.insert(*id, Arc::new(log))),
            Err(error) if error.is_of_one_log() => drop(logs.lock().1.insert(*id, error)),
            Err(error) => return Err(error),
        }
        Ok(())
    })?;
    let (mut logs, mut refused) = logs.into_inner();
    refuse_moved(journal, &mut logs, &mut refused);
    Ok((logs, refused))
}

/// Refuses logs whose directories are in place of others': they must not begin afresh. What is in their own places, without a mark, may
/// be what the others have had there.
fn refuse_moved(journal: &Journal, logs: &mut Logs, refused: &mut Refused) {
    let moved = |error: &OpenError| match error {
        OpenError::Misplaced { path, of } => Some((*of, path.clone())),
        _ => None,
    };
    for (of, at) in refused.values().filter_map(moved).collect::<Vec<_>>() {
        if logs.get(&of).is_none_or(|log| log.state().durable.mark.is_none()) && !refused.contains_key(&of) {
            logs.remove(&of);
            refused.insert(of, OpenError::Moved { path: journal.options.dir.join(of.path()), at });
        }
    }
}

/// Whether a log without a mark has had one, for all that can be told: epochs are written down before the first mark, and until that
/// is there the journal has all of the log. (A machine that fails in the middle of a start, after one whose syncs failed, may
/// leave the same of a log that had nothing durable.)
pub(super) fn had_mark(disk: &dyn Disk, log: &PartitionLog) -> Result<bool, OpenError> {
    let path = log.epochs_path();
    disk.exists(&path).map_err(io("look for", &path))
}

/// What has a log's directory; and the logs of partitions in the place of whose directories there is something else.
fn find_logs(disk: &dyn Disk, dir: &Path) -> Result<(Vec<LogId>, Refused), OpenError> {
    let (mut found, mut refused) = (Vec::new(), Refused::new());
    for topic in list(disk, dir)? {
        let partitions = match list(disk, &topic) {
            Err(error) if error.is_of_one_log() => {
                tracing::warn!("not a topic's directory, and left alone: {error}");
                Vec::new()
            }
            listed => listed?,
        };
        for partition in partitions {
            let paths = match list(disk, &partition) {
                Err(error) if error.is_of_one_log() => {
                    match LogId::from_path(&partition.join("records-0")) {
                        Some(id) => drop(refused.insert(id, error)),
                        None => tracing::warn!("not a partition's directory, and left alone: {error}"),
                    }
                    continue;
                }
                listed => listed?,
            };
            if paths.is_empty() {
                // Left of what was deleted.
                remove_empty_dirs(disk, &partition.join("log"));
            }
            for path in paths {
                match LogId::from_path(&path) {
                    Some(id) => found.push(id),
                    None => tracing::warn!(path = %path.display(), "not a log's directory; left alone"),
                }
            }
        }
    }
    Ok((found, refused))
}

/// Loads one log, as far as its mark says. One in durability `replicated` keeps what is sound beyond it, and is cut there.
fn load(journal: &Arc<Journal>, id: LogId) -> Result<PartitionLog, OpenError> {
    let disk = &*journal.disk;
    let place = Arc::new(Place::new(&journal.options.dir, id));
    let dir = place.dir();
    let paths = list(disk, dir)?;
    let mark_path = dir.join("mark");
    let mark_file = Mark::open(disk, &mark_path).map_err(io("read", &mark_path))?;
    let noted = mark_file.as_ref().map(|file| Noted::read(&**file)).transpose().map_err(io("read", &mark_path))?;
    let noted = noted.unwrap_or_default();
    // Before anything here is changed: it is all another's.
    if let Some(of) = noted.other_than(id) {
        return Err(OpenError::Misplaced { path: dir.to_owned(), of });
    }
    place.check(disk).map_err(io("look for", dir))?;
    let found =
        mark_file.map(|file| Mark::load(disk, &mark_path, file)).transpose().map_err(|source| match source.kind() {
            io::ErrorKind::InvalidData => OpenError::Damaged { path: mark_path.clone(), reason: source.to_string() },
            _ => OpenError::Io { action: "read", path: mark_path.clone(), source },
        })?;
    let (mark, rotten) = found.map_or((None, false), |Found { mark, rotten }| (Some(mark), rotten));
    // Without a mark nothing was synced, and the journal still has all of it.
    let known = mark.unwrap_or_else(|| Mark::empty(Durability::Fsync));
    for path in paths.iter().filter(|path| compact::is_unfinished(path)) {
        remove(journal, path)?;
    }
    let mut bases: Vec<Offset> = paths.iter().filter_map(|path| Segment::base_in(path)).collect();
    bases.sort();
    // A power cut can take a segment's name and leave its index's. Another segment may begin at the same offset, and would be read by
    // the index of batches that never were in it.
    let is_left =
        |path: &&PathBuf| Segment::base_in_index(path).is_some_and(|base| bases.binary_search(&base).is_err());
    for path in paths.iter().filter(is_left) {
        remove(journal, path)?;
    }
    let (mut parts, retired) = load_closed(journal, &place, &bases, &known)?;
    let mut rest: Vec<Offset> = bases.into_iter().filter(|base| *base > known.segment_base).collect();
    parts.push(cut_to_mark(journal, &place, &known)?);
    let first = check_first(&parts[parts.len() - 1], &known)?;
    if parts[parts.len() - 1].len < known.segment_len {
        if rotten {
            let reason = "one of its slots is not sound, and a segment is shorter than the other says".into();
            return Err(OpenError::Damaged { path: mark_path, reason });
        }
        // Nothing may follow there: what is lost would seem to be there, and be zeros.
        let next = Mark { segment_base: known.end, segment_len: 0, first: None, ..known };
        parts.push(cut_to_mark(journal, &place, &next)?);
        rest.retain(|base| *base != known.end);
    }
    let closed = parts.len() - 1;
    let mut end = known.end;
    let mut headers = Vec::new();
    remove_empty_segments(journal, &place, &mut rest)?;
    let marked = parts.clone();
    if known.durability == Durability::Replicated || rotten {
        (end, headers) = keep_tail(journal, &place, &mut parts, &mut rest, end)?;
    }
    // What is not sound there was not durable, or is damaged, too: a write of the mark that failed half-way looks no other.
    let more = !rest.is_empty() || parts[parts.len() - 1].has_more()?;
    // The log may be one without a journal whose mark went missing: then nothing may be cut. Whoever opens it, or its first
    // frame, tells.
    let unmarked = mark.is_none() && more;
    // Nor before the journal was read, which may need a later mark than this.
    let uncut = mark.is_some() && known.durability == Durability::Fsync && more;
    if !unmarked {
        for base in &rest {
            remove(journal, &Segment::new(&journal.handles, &place, *base).index_path())?;
        }
    }
    if more && !unmarked && !uncut {
        // No journal will write it again: it must be durably gone before other batches take its place, or a power cut could
        // bring it back in theirs.
        cut_active(&parts[parts.len() - 1])?;
        for base in &rest {
            remove(journal, &Segment::new(&journal.handles, &place, *base).path)?;
        }
        if !rest.is_empty() {
            disk.sync_dir(dir).map_err(io("sync", dir))?;
        }
    }
    let snapshots = match unmarked {
        true => Vec::new(),
        false => remove_snapshots(journal, dir, &paths, (mark.as_ref(), &marked))?,
    };
    let (producers, unsaved_bytes) = load_producers(journal, dir, &marked, &known, &snapshots)?;
    let mut state = State::new(parts, known.start, end, LogOptions::default(), producers, journal.now());
    // They go once this start is durable for certain: a killed process may have left a mark that is not.
    state.retired = retired;
    state.loaded.begun = rest;
    // Else it is known when the next segment begins.
    state.growth.first = first.filter(|_| state.active().segment.base == known.segment_base);
    state.producers.saved = known.producers;
    state.producers.unsaved_bytes = unsaved_bytes;
    state.durable.parts = closed;
    state.durable.mark = mark;
    (state.loaded.unmarked, state.loaded.uncut) = (unmarked, uncut);
    // The first mark is written once the directories above are durable; but that of a log without a journal when it is made.
    state.unsynced.parents_changed =
        mark.is_none_or(|mark| mark.sequence == 0 && mark.durability == Durability::Replicated);
    state.made = Made::found(noted);
    state.frames.last = known.lsn;
    state.loaded.kept = rotten;
    state.loaded.held = paths.contains(&dir.join(held::FILE));
    // The epochs may be those of a newer mark, and of its end.
    let (marked, epochs_end) = if rotten { (&state.parts, end) } else { (&marked, known.end) };
    let last;
    (state.epochs, last) = load_epochs(journal, dir, marked, (known.start, epochs_end), end)?;
    for header in &headers {
        if !rotten {
            state.epochs.cut_after(header.partition_leader_epoch);
        }
        state.epochs.begin(header.partition_leader_epoch, header.base_offset);
        if state.begins_at(header.base_offset) {
            state.producers.keep(header.base_offset);
        }
        state.producers.note(header, journal.now());
    }
    // The mark need not be the last one that was durable, where a truncation was lost half-way: then no batch tells of that epoch, nor a
    // frame past the mark.
    if let Some(epoch) = last {
        state.epochs.begin(epoch, end);
    }
    if state.begins_at(end) {
        // Its batches may have been lost.
        state.producers.keep(end);
    }
    state.unsynced.bytes = u64::from(!headers.is_empty() || rotten);
    Ok(PartitionLog::new(place, journal.clone(), known.durability, state, known.end))
}

/// Removes the snapshots among `paths` that neither the mark names nor are of where a segment begins that it covers; gives the offsets
/// of the others, in order.
fn remove_snapshots(
    journal: &Journal,
    dir: &Path,
    paths: &[PathBuf],
    (mark, parts): (Option<&Mark>, &[Part]),
) -> Result<Vec<Offset>, OpenError> {
    let begins_at = |at: Offset| parts.binary_search_by_key(&at, |part| part.segment.base).is_ok();
    let (mut found, mut left) = (Vec::new(), Vec::new());
    for path in paths.iter().filter(|path| snapshot::is_snapshot(path)) {
        match (snapshot::offset_in(path), mark) {
            (Some(at), Some(mark)) if mark.producers.at == at || begins_at(at) => found.push(at),
            _ => left.push(path),
        }
    }
    found.sort();
    if let Some(mark) = mark.filter(|_| !left.is_empty()) {
        // A killed process may have left it where it can be read and is not durable, and the mark before names one of these.
        let path = dir.join("mark");
        mark.store(&*journal.disk, &path, None).map_err(io("write", &path))?;
    }
    left.into_iter().try_for_each(|path| remove(journal, path))?;
    Ok(found)
}

/// Removes segments without a byte, which hold nothing and would hide those that follow.
fn remove_empty_segments(journal: &Journal, place: &Arc<Place>, bases: &mut Vec<Offset>) -> Result<(), OpenError> {
    let mut kept = Vec::with_capacity(bases.len());
    for base in bases.drain(..) {
        let segment = Segment::new(&journal.handles, place, base);
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

/// The segments before the one that the mark ends in, back to the one that the log starts in: each must end where the next
/// one begins. Also those that are no part of the log and are to go: below the start; or within another, left by an append that
/// ran out of room in a new segment, or by a compaction that joined them.
///
/// A segment whose end cannot be read for damage is taken to end where the next one begins. For offsets that no segment holds there
/// is one without a byte: readers are told that they are lost.
fn load_closed(
    journal: &Journal,
    place: &Arc<Place>,
    bases: &[Offset],
    mark: &Mark,
) -> Result<(Vec<Part>, Vec<Part>), OpenError> {
    let mut found = Vec::new();
    for base in bases.iter().copied().filter(|base| *base < mark.segment_base) {
        let segment = Segment::new(&journal.handles, place, base);
        let len = segment.len().map_err(io("measure", &segment.path))?;
        if len == 0 {
            segment.handle.release();
            tracing::warn!(path = %segment.path.display(), "an empty segment between others; removed");
            remove(journal, &segment.path)?;
            continue;
        }
        let end = if mark.segment_base > mark.start { segment.end_offset(len) } else { Ok(base) };
        segment.handle.release();
        let end = match end {
            Ok(end) => Some(end),
            // One that was to go need never have been synced.
            Err(ReadError::Damaged { .. }) => None,
            Err(error) => return Err(unreadable(error)),
        };
        found.push((Part { segment: Arc::new(segment), len }, end));
    }
    // From behind, since what lies below the start says nothing about where the log begins.
    let (mut parts, mut within): (Vec<Part>, Vec<Part>) = Default::default();
    let mut next = mark.segment_base;
    while next > mark.start {
        let at = find_ending(&found, next).map_err(unreadable)?;
        let missing = match (at, found.last_mut()) {
            (Some(at), _) => {
                for (part, _) in found.drain(at + 1..) {
                    tracing::warn!(path = %part.segment.path.display(), "the segment before holds what it holds; removed");
                    within.push(part);
                }
                parts.extend(found.pop().map(|(part, _)| part));
                next = parts[parts.len() - 1].segment.base;
                continue;
            }
            (None, Some((part, end))) => match sound_end(part, next).map_err(unreadable)? {
                Some(sound) if sound < next => {
                    *end = Some(sound);
                    sound
                }
                _ => {
                    tracing::warn!(path = %part.segment.path.display(), "damaged; taken to end at offset {next}");
                    *end = Some(next);
                    continue;
                }
            },
            (None, None) => mark.start,
        };
        let segment = Segment::new(&journal.handles, place, missing);
        tracing::warn!(
            dir = %place.dir().display(),
            "offsets {missing} to {} are lost: no segment holds them, one is missing or cut short. Put it back from a copy, if there is one, and start again",
            next.0 - 1
        );
        parts.push(Part { segment: Arc::new(segment), len: 0 });
        next = missing;
    }
    parts.reverse();
    within.extend(found.into_iter().map(|(part, _)| part));
    Ok((parts, within))
}

/// The first segment that ends at `next`. What others hold behind it, up to there, goes: only where that is certain. A damaged
/// header may seem to reach over them.
fn find_ending(found: &[(Part, Option<Offset>)], next: Offset) -> Result<Option<usize>, ReadError> {
    for (at, (part, end)) in found.iter().enumerate() {
        let ends = *end == Some(next) && part.segment.base < next;
        if ends && (at + 1 == found.len() || sound_end(part, next)? == Some(next)) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Where a segment ends that is sound from the last place on that its index knows; none where it is not.
fn sound_end(part: &Part, next: Offset) -> Result<Option<Offset>, ReadError> {
    let extent = Extent { part: part.clone(), end: next };
    let index = part.segment.index_so_far(part.len)?;
    let mut salvage = extent.salvage(&index, Offset(i64::MAX));
    let mut end = None;
    while let Some(step) = salvage.next()? {
        end = match step {
            Step::Batch(_, header) => Some(header.end_offset()),
            Step::Lost(at, _) if at == part.len => break,
            Step::Lost(..) => {
                end = None;
                break;
            }
        };
    }
    part.segment.handle.release();
    Ok(end)
}

/// The segment that the mark ends in, or what is left of it. Its index, where it reaches further, tells of batches that are gone.
fn cut_to_mark(journal: &Journal, place: &Arc<Place>, mark: &Mark) -> Result<Part, OpenError> {
    let disk = &*journal.disk;
    let segment = Segment::new(&journal.handles, place, mark.segment_base);
    let len = segment.len().map_err(io("measure", &segment.path))?;
    if len < mark.segment_len {
        tracing::warn!(path = %segment.path.display(), "{len} bytes are left of {} that were durable", mark.segment_len);
    }
    let len = len.min(mark.segment_len);
    let index_path = segment.index_path();
    if Index::load(disk, &index_path, segment.base).is_some_and(|index| index.reach() > len) {
        remove(journal, &index_path)?;
    }
    Ok(Part { segment: Arc::new(segment), len })
}

/// Checks that the segment that the mark ends in begins as the mark says. One that does not, and begins with a sound batch, is another
/// log's, or one of other records: files that were exchanged, or put back in the wrong place. Gives how it begins, if that is so.
fn check_first(part: &Part, mark: &Mark) -> Result<Option<First>, OpenError> {
    let Some(first) = mark.first.filter(|_| part.len > 0) else { return Ok(None) };
    let segment = &part.segment;
    let head = segment.read_some(0, HEADER_BYTES).map_err(unreadable)?;
    // What is damaged is found where it is read.
    let Ok(header) = BatchHeader::parse(&head) else { return Ok(None) };
    if First::of(header.crc) == first {
        segment.handle.release();
        return Ok(Some(first));
    }
    let len = usize::try_from(segment.len().map_err(io("measure", &segment.path))?).unwrap_or(usize::MAX);
    let batch = segment.read_some(0, header.batch_bytes().min(len)).map_err(unreadable)?;
    segment.handle.release();
    if header.crc_matches(&batch) {
        let reason = "it is another log's segment, or one of other records: it does not begin with the batch that the log's mark tells of. \
                      Put the log's own in its place"
            .into();
        return Err(OpenError::Damaged { path: segment.path.to_path_buf(), reason });
    }
    Ok(None)
}

impl Part {
    /// Whether there is more in a segment's file than counts.
    fn has_more(&self) -> Result<bool, OpenError> {
        let len = self.segment.len().map_err(io("measure", &self.segment.path))?;
        // What was written of it stays open until it is synced.
        if self.segment.handle.unsynced().is_none() {
            self.segment.handle.release();
        }
        Ok(len > self.len)
    }
}

/// Goes on past the mark of a log without a journal, as far as sound batches follow each other. (Its tail survives a killed
/// process.) Takes from `rest` the segments that it keeps; gives the new end and what it found.
fn keep_tail(
    journal: &Journal,
    place: &Arc<Place>,
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
        if journal.handles.is_pressed() {
            part.segment.handle.sync_and_close().map_err(io("sync", &path))?;
        }
        part.len += found.iter().map(|header| header.batch_bytes() as u64).sum::<u64>();
        end = found.last().map_or(end, BatchHeader::end_offset);
        headers.extend(found);
        // What an append left that ran out of room lies within this one.
        while rest.first().is_some_and(|base| *base < end) {
            let left = Segment::new(&journal.handles, place, rest.remove(0));
            remove(journal, &left.path)?;
        }
        if part.len < len || part.len == 0 || rest.first() != Some(&end) {
            return Ok((end, headers));
        }
        let base = rest.remove(0);
        parts.push(Part { segment: Arc::new(Segment::new(&journal.handles, place, base)), len: 0 });
    }
}
