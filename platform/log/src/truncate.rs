//! Cutting a log's end back.
//!
//! What is below the mark is believed after a crash, so none of it may change before a mark that says less is durable. So the log
//! is cut in two steps: at once in what it says of itself, while the journal gets the frame; then, in the sync loop, a mark that
//! ends where the log is cut, and the files. Until that is done the log takes no appends.

use std::sync::Arc;

use millstream_model::{Durability, LeaderEpoch, Offset};
use tokio::sync::oneshot;

use crate::{
    CommitError, PartitionLog, ReadError, Ticket, TruncateError,
    age::Age,
    bytes_io::{failing, missing_is_fine},
    frame::Kind,
    index::Index,
    mark::{Mark, Saved},
    producers::Producers,
    segment::Segment,
    snapshot,
    sound::{Extent, Step, extents},
    state::{Part, State},
    sync_error::{SyncError, refused, sync_dir},
    ticket::Resolve,
};

/// Where a log is cut: in which of its segments, at which batch.
pub(crate) struct Point {
    at: usize,
    /// The batch's base offset, or the log's start if that is in the batch: the log's end from then on.
    pub(crate) end: Offset,
    position: u64,
    /// Of the segment's batches before; none where they are damaged.
    index: Option<Index>,
    /// Nothing is kept of that segment: the log begins in the middle of its last batch.
    whole: bool,
}

/// For whoever waits until a truncation is done.
type Done = oneshot::Receiver<Result<(), CommitError>>;

/// A truncation that is not done yet.
pub(crate) struct Cut {
    /// Its frame, and the log's last one before it.
    lsn: u64,
    lsn_before: u64,
    /// The segment that was cut, as it was.
    cut: Option<Part>,
    /// Segments of which nothing is kept.
    gone: Vec<Part>,
    /// The files are cut.
    settled: bool,
    /// None where the log is being deleted.
    done: Option<Resolve>,
}

impl PartitionLog {
    /// Cuts the log's end back to `end`: for a follower whose records from there on are not the leader's. A batch that reaches
    /// past `end` goes as a whole, as in Kafka; where the log starts in the middle of that batch, nothing is left. An `end`
    /// at or past the log's end is no change, but that epochs without records there go.
    ///
    /// From the call on, what was cut is not read; its tickets fail as [`CommitError::Truncated`]; the log forgets its epochs
    /// and what its producers did there. Durable once the ticket resolves. Until then the log takes no appends
    /// ([`crate::AppendError::Truncating`]). A ticket that is dropped changes nothing. [`PartitionLog::flushed_end`] goes back; that nobody
    /// was promised what is cut is the caller's rule.
    ///
    /// Blocks on the disk to find the batch. In the background, producers are found again from the last snapshot that is left, and
    /// the batches after it: mostly no more than the segment in which the log is cut.
    ///
    /// # Errors
    /// [`TruncateError`]; the log is unchanged.
    pub fn truncate(self: &Arc<Self>, end: Offset) -> Result<Ticket, TruncateError> {
        let mut state = self.state();
        state.life.check()?;
        if state.life.cut.is_some() {
            return Err(TruncateError::UnderWay);
        }
        if state.life.change.is_some() {
            return Err(TruncateError::Changing);
        }
        if end < state.start {
            return Err(TruncateError::BelowStart { end, start: state.start });
        }
        if end > state.end || (end == state.end && !state.epochs.reach(end)) {
            return Ok(Ticket::done());
        }
        let point = state.find_point(end)?;
        // The latest that is left. Where the start moves to the new end, nothing else tells of it.
        let epoch = state.epochs.before(point.end).unwrap_or(LeaderEpoch::UNKNOWN);
        // Its own ticket is of no use: the frame is not all that has to be durable.
        let (resolve, _) = Ticket::new();
        let entry = self.mutation(Kind::Truncate, epoch, (point.end, point.end), resolve);
        let lsn_before = state.frames.last;
        self.enqueue(&mut state, [entry])?;
        let done = self.begin_cut(&mut state, point, lsn_before);
        drop(state);
        self.journal().commit_work.notify_one();
        Ok(Ticket::settled(done, self.journal().subscribe_ended()))
    }

    /// Cuts what the log says of itself; its last frame is the truncation's. The files are to follow.
    pub(crate) fn begin_cut(&self, state: &mut State, point: Point, lsn_before: u64) -> Done {
        let (done, waiting) = oneshot::channel();
        let base = if point.whole { point.end } else { state.parts[point.at].segment.base };
        // Another object for the same file: who has the one before is told that it is the log's no more.
        let segment = self.segment(base);
        let producers = Producers::new(self.journal().producer_limits());
        let age = Age::new(state.growth.age.segment_ms, self.journal().now());
        self.cut_flushed(point.end, state.frames.last);
        self.tail().clear();
        let (cut, gone) = state.truncate(point, segment, producers, age);
        state.life.cut = Some(Cut { lsn: state.frames.last, lsn_before, cut, gone, settled: false, done: Some(done) });
        waiting
    }

    /// Carries out a truncation that has begun, but for the mark that says so to the journal: every sync begins with it. Only who
    /// syncs calls this. Each step can be repeated.
    ///
    /// # Errors
    /// What is lacking or has failed; it is still to be done.
    pub(crate) fn cut_files(&self) -> Result<(), SyncError> {
        let (mut saved, mut mark, parts, mut told, at_bases, (start, end), cut, gone) = {
            let state = self.state();
            let Some(cut) = state.life.cut.as_ref().filter(|_| state.is_cut_due()) else { return Ok(()) };
            let active = state.active();
            // The frames of a log with a journal append what is cut. Those of another do not, and none may be passed over: until
            // its files are cut, what is past this mark may be found again, and with it the epochs that have begun since.
            let lsn = |mark: &Mark| if self.durability() == Durability::Fsync { cut.lsn_before } else { mark.lsn };
            // What the mark says is durable is so below the cut, too.
            let last = state.durable.mark.or(state.durable.unnamed);
            // It may end below the log's start, in a segment that goes.
            let gone = |mark: &Mark| cut.gone.iter().any(|part| part.segment.base == mark.segment_base);
            let mark = last.filter(|mark| mark.end > state.end || gone(mark)).map(|mark| Mark {
                sequence: mark.sequence + 1,
                start: state.start,
                end: state.end,
                lsn: lsn(&mark),
                segment_base: active.segment.base,
                segment_len: active.len,
                first: state.growth.first,
                ..mark
            });
            let parts = state.parts.clone();
            // The start may have moved since the log was cut.
            let told = state.retired.clone();
            let (saved, at_bases) = (state.producers.saved, state.producers.at_bases.clone());
            (saved, mark, parts, told, at_bases, (state.start, state.end), cut.cut.clone(), cut.gone.clone())
        };
        self.check_place()?;
        let disk = self.disk();
        if saved.at > end {
            saved = Saved { at: Offset(0), behind: true };
        }
        // Where the log begins within the batch that was cut, producers have sent those before it.
        told.extend(gone.iter().filter(|part| part.segment.base < start).cloned());
        told.extend(parts.iter().cloned());
        let producers = self.producers_below(&told, saved, at_bases.last(), end).map_err(cannot_cut)?;
        if let Some(mark) = &mut mark {
            if producers.iter().len() > 0 {
                let path = snapshot::path(self.dir(), end);
                snapshot::store(disk, self.dir(), end, &producers).map_err(refused("write", &path))?;
                sync_dir(disk, self.dir()).map_err(refused("sync", self.dir()))?;
                saved = Saved { at: end, behind: false };
            } else {
                saved = Saved::default();
            }
            mark.producers = saved;
            let path = self.mark_path();
            mark.store(disk, &path, None).map_err(refused("write", &path))?;
            let mut state = self.state();
            match state.durable.mark {
                Some(_) => state.durable.mark = Some(*mark),
                None => state.durable.unnamed = Some(*mark),
            }
        }
        if let Some(part) = &cut {
            let (path, len) = (&part.segment.path, parts[parts.len() - 1].len);
            if part.segment.len().map_err(refused("measure", path))? > len {
                let file = part.segment.handle.writer().map_err(refused("open", path))?;
                file.set_len(len).map_err(refused("cut", path))?;
                file.sync_data().map_err(failing("sync", path))?;
            }
            let path = part.segment.index_path();
            missing_is_fine(disk.remove_file(&path)).map_err(refused("remove", &path))?;
        }
        // Those beyond are not of what comes there now. They are gone for good before a mark reaches so far again.
        for at in snapshot::list(disk, self.dir()).map_err(refused("list", self.dir()))? {
            if at > end {
                let path = snapshot::path(self.dir(), at);
                missing_is_fine(disk.remove_file(&path)).map_err(refused("remove", &path))?;
            }
        }
        // The cut is durable before one of them goes. So wherever the power is cut, each of them may be there or not: what is found ends
        // where the log was cut, since none that is left follows that, or the log was not cut and all of them are there.
        if gone.is_empty() {
            sync_dir(disk, self.dir()).map_err(refused("sync", self.dir()))?;
        } else {
            self.move_to_trash(&gone).map_err(refused("remove", self.dir()))?;
        }
        let mut state = self.state();
        state.producers.replace(producers, saved);
        if state.begins_at(end) {
            // Nothing is left of that segment, or it is a new one.
            state.producers.keep(end);
        }
        if let Some(cut) = &mut state.life.cut {
            cut.settled = true;
            cut.gone.clear();
            if let Some(part) = cut.cut.take() {
                part.segment.handle.release();
            }
        }
        Ok(())
    }

    /// Lets the log take appends again, when the truncation is durable in every way.
    pub(crate) fn end_cut(&self) {
        let committed = self.journal().ring().committed_lsn;
        let ended = self.state().life.cut.take_if(|cut| cut.settled && cut.lsn <= committed);
        if let Some(done) = ended.and_then(|cut| cut.done) {
            // Nobody may be waiting any more.
            let _ = done.send(Ok(()));
        }
    }

    /// Lets nobody wait for a truncation any more, since the log is deleted. It is carried out all the same: a sync that comes first
    /// has it in its mark, and the deletion may never become durable.
    pub(crate) fn abandon_cut(state: &mut State) {
        if let Some(done) = state.life.cut.as_mut().and_then(|cut| cut.done.take()) {
            let _ = done.send(Err(CommitError::Deleted));
        }
    }

    /// The producers as of `end`: as last written down, or `kept` to be, and as the batches since tell.
    ///
    /// `saved`: of no later offset, and whether batches of producers follow it. `kept`: the last ones as of where a segment begins.
    fn producers_below(
        &self,
        parts: &[Part],
        saved: Saved,
        kept: Option<&(Offset, Arc<Producers>)>,
        end: Offset,
    ) -> Result<Producers, ReadError> {
        let limits = self.journal().producer_limits();
        let unread = |source| ReadError::Io { path: self.dir().to_owned(), source };
        let mut stored = snapshot::list(self.disk(), self.dir()).map_err(unread)?;
        // What follows those of a segment that has gone is not there any more.
        let first = parts.iter().map(|part| part.segment.base).min().unwrap_or(end);
        let kept = kept.filter(|(at, _)| (first..=end).contains(at));
        let least = kept.map_or(Offset(1), |(at, _)| *at);
        stored.retain(|at| (least..=end).contains(at) && (*at >= first || *at == saved.at));
        let stored = snapshot::load_last(self.disk(), self.dir(), &stored, limits).map_err(unread)?;
        let found = stored.or_else(|| kept.map(|(at, producers)| (*at, (**producers).clone())));
        let (from, mut producers) = found.unwrap_or_else(|| (Offset(0), Producers::new(limits)));
        if from >= saved.at && !saved.behind {
            return Ok(producers);
        }
        let mut next = from;
        let now = self.journal().now();
        for extent in extents(parts, end).filter(|extent| extent.end > from) {
            let index = extent.part.segment.index_so_far(extent.part.len)?;
            let mut salvage = extent.salvage(&index, next);
            while let Some(step) = salvage.next()? {
                match step {
                    Step::Batch(_, header) if header.end_offset() > end => break,
                    Step::Batch(_, header) if header.base_offset >= next => {
                        producers.note(&header, now);
                        next = header.end_offset();
                    }
                    Step::Batch(..) => {}
                    // What lies below the start need not be sound any more.
                    Step::Lost(at, hole) if !self.is_gone(&extent.part) => extent.tell(at, hole),
                    Step::Lost(..) => {}
                }
            }
        }
        Ok(producers)
    }
}

impl State {
    /// Whether a truncation has begun, and the files are not cut yet.
    pub(crate) fn is_cut_due(&self) -> bool {
        self.life.cut.as_ref().is_some_and(|cut| !cut.settled) && !self.life.discarded
    }

    /// Where the log is cut so that it ends at `target`, or before it: at a batch, or where damage begins. The disk is read.
    pub(crate) fn find_point(&mut self, target: Offset) -> Result<Point, ReadError> {
        let at = self.parts.partition_point(|part| part.segment.base <= target).saturating_sub(1);
        let part = self.parts[at].clone();
        let mut index = match self.index().filter(|_| at + 1 == self.parts.len()) {
            Some(index) => index.clone(),
            None => part.segment.index_so_far(part.len)?,
        };
        let extent = Extent { part, end: self.parts.get(at + 1).map_or(self.end, |next| next.segment.base) };
        let segment = &extent.part.segment;
        let (mut position, mut end) = (extent.part.len, extent.end);
        let mut salvage = extent.salvage(&index, target);
        while let Some(step) = salvage.next()? {
            let (at, base, to) = match step {
                Step::Batch(at, header) => (at, header.base_offset, header.end_offset()),
                Step::Lost(at, hole) => (at, hole.base, hole.next),
            };
            if to > target {
                (position, end) = (at, base);
                break;
            }
        }
        drop(salvage);
        if end < self.start {
            return Ok(Point { at, end: self.start, position: 0, index: Some(Index::default()), whole: true });
        }
        index.cut(position);
        let index = match segment.grow_index(&mut index, position) {
            Ok(()) => Some(index),
            Err(ReadError::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Point { at, end, position, index, whole: false })
    }

    /// Cuts all that the log says of itself. Gives the segment that is cut, as it was, and those that go.
    fn truncate(
        &mut self,
        point: Point,
        segment: Segment,
        producers: Producers,
        age: Age,
    ) -> (Option<Part>, Vec<Part>) {
        assert!(self.start <= point.end && point.end <= self.end, "a log is cut within itself");
        let is_kept = point.at + 1 == self.parts.len() && point.position > 0;
        let first = self.growth.first.filter(|_| is_kept);
        let mut gone = self.parts.split_off(point.at + 1);
        let mut cut = self.parts.pop();
        if point.whole {
            gone.splice(..0, cut.take());
        }
        self.parts.push(Part { segment: Arc::new(segment), len: point.position });
        self.durable.parts = self.durable.parts.min(point.at);
        self.set_index(point.index);
        self.growth.first = first;
        self.end = point.end;
        self.producers.cut(producers, point.end);
        self.epochs.truncate(point.end);
        self.growth.age = age;
        self.places.forget();
        (cut, gone)
    }
}

/// What was written cannot be read back, so the log cannot be cut: what that means to a sync.
fn cannot_cut(error: ReadError) -> SyncError {
    match error {
        ReadError::Io { path, source } => refused("read", &path)(source),
        other => {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, other.to_string());
            SyncError::Failed(failing("cut", std::path::Path::new("the log"))(source))
        }
    }
}

#[cfg(test)]
#[path = "truncate_tests.rs"]
mod tests;
