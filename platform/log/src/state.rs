//! What changes in a log, behind its lock: segments, offsets, epochs, and what is still to be synced.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use millstream_env::DiskFile;
use millstream_model::{Durability, Offset, TimestampMs};
use millstream_record::BatchHeader;

use crate::{
    LogOptions, ReadError,
    age::Age,
    carry::Carried,
    change::Change,
    epochs::Epochs,
    index::{Index, Known},
    mark::{Mark, Saved},
    producers::Producers,
    segment::Segment,
    truncate::Cut,
};

/// A segment and how much of it counts, bytes. What its file has beyond that is not ours.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) segment: Arc<Segment>,
    pub(crate) len: u64,
}

/// Which part of the journal a log pins: its first frame that its segments do not durably hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pin {
    /// None.
    Free,
    /// From this frame on.
    At(u64),
    /// From `at` on, which is being synced; `after` is the first frame since that began.
    Syncing { at: Option<u64>, after: Option<u64> },
}

/// Where a reader stopped: the next read from there needs no search.
#[derive(Clone, Copy)]
struct Hint {
    next: Offset,
    segment: Offset,
    position: u64,
}

/// Where a batch goes, in the page cache.
pub(crate) struct Placed {
    file: Arc<dyn DiskFile>,
    at: u64,
}

impl Placed {
    /// Whether the file has batches already, and no limit on its length is in the way of `bytes` more.
    pub(crate) fn is_usual(&self, bytes: usize) -> bool {
        self.at > 0 && self.file.may_reach(self.at + bytes as u64)
    }

    /// Writes a batch, of two parts, to its place.
    pub(crate) fn write(&self, prefix: &[u8], body: &[u8]) -> io::Result<()> {
        self.file.write_at(&[IoSlice::new(prefix), IoSlice::new(body)], self.at)
    }
}

/// How many readers' places are remembered.
const HINTS: usize = 4;

/// The state of a log.
pub(crate) struct State {
    /// In order of their base offsets; the last one is appended to. Never empty.
    pub(crate) parts: Vec<Part>,
    /// The last segment's index; none until it was needed.
    index: Option<Index>,
    /// How many entries of it are in its file.
    pub(crate) index_stored: usize,
    pub(crate) start: Offset,
    /// The frame that said so, if it is of this run.
    pub(crate) start_lsn: u64,
    /// Segments below the start. Their files go when a mark that says so is durable.
    pub(crate) retired: Vec<Part>,
    pub(crate) end: Offset,
    pub(crate) epochs: Epochs,
    pub(crate) epochs_changed: bool,
    pub(crate) producers: Producers,
    /// Where they are written down, as far as they are.
    pub(crate) saved: Saved,
    /// The producers as of where segments begin, as long as that is not written down; in order.
    pub(crate) at_bases: Vec<(Offset, Arc<Producers>)>,
    /// Bytes of batches since then.
    pub(crate) unsaved_bytes: u64,
    pub(crate) segment_bytes: u64,
    /// Of the last segment.
    pub(crate) age: Age,
    /// Where segments began past the mark, before a crash; sorted. Replay begins them there again: a log that came back as one
    /// segment could only go as a whole.
    pub(crate) begun: Vec<Offset>,
    pub(crate) pin: Pin,
    /// The last frame of this log, but for its deletion.
    pub(crate) lsn: u64,
    /// The last frame of this log that is no batch's, but for its deletion.
    pub(crate) changed_lsn: u64,
    /// How it was carried forward since its mark.
    pub(crate) carried: Carried,
    /// The mark on disk.
    pub(crate) mark: Option<Mark>,
    /// A first mark that is there, and may be gone after a crash: its name could not be made durable yet.
    pub(crate) unnamed: Option<Mark>,
    /// There is none, though the segments hold something: nothing of that counts, nor may it go before it is known what the log is.
    pub(crate) unmarked: bool,
    /// At a start: past the mark, or without one, there is more in the segments' files, and nothing of that may go before the journal
    /// was read.
    pub(crate) uncut: bool,
    /// What is past the mark was kept at the start, though the log has a journal, which may tell of it again.
    pub(crate) kept: bool,
    /// There are frames of the time when the log was out of service.
    pub(crate) held: bool,
    /// The log is out of service: this stands for it, and knows nothing of what it holds.
    pub(crate) refused: bool,
    /// Parts before this one are synced.
    pub(crate) synced_parts: usize,
    /// Bytes that were written since the last sync began.
    pub(crate) unsynced_bytes: u64,
    /// The log waits in the list of those without a journal.
    pub(crate) listed: bool,
    /// Names in the log's directory are not durable.
    pub(crate) dir_changed: bool,
    /// Nor are those above it.
    pub(crate) parents_changed: bool,
    /// The frame of the log's deletion.
    pub(crate) dropped: Option<u64>,
    /// Its files are gone.
    pub(crate) discarded: bool,
    /// Its end is being cut back.
    pub(crate) cut: Option<Cut>,
    /// Its durability is being changed.
    pub(crate) change: Option<Change>,
    hints: [Option<Hint>; HINTS],
    next_hint: usize,
}

/// What [`State::undo`] goes back to.
pub(crate) struct Checkpoint {
    parts: usize,
    len: u64,
    index: Option<Known>,
    index_stored: usize,
    end: Offset,
    unsynced_bytes: u64,
    age: Age,
}

impl State {
    pub(crate) fn new(
        parts: Vec<Part>,
        start: Offset,
        end: Offset,
        options: LogOptions,
        producers: Producers,
        now: TimestampMs,
    ) -> Self {
        assert!(!parts.is_empty(), "a log has a segment");
        Self {
            synced_parts: parts.len() - 1,
            parts,
            index: None,
            index_stored: 0,
            start,
            start_lsn: 0,
            retired: Vec::new(),
            end,
            epochs: Epochs::default(),
            epochs_changed: false,
            producers,
            saved: Saved::default(),
            at_bases: Vec::new(),
            unsaved_bytes: 0,
            segment_bytes: options.segment_bytes,
            age: Age::new(options.segment_ms, now),
            begun: Vec::new(),
            pin: Pin::Free,
            lsn: 0,
            changed_lsn: 0,
            carried: Carried::default(),
            mark: None,
            unnamed: None,
            unmarked: false,
            uncut: false,
            kept: false,
            held: false,
            refused: false,
            unsynced_bytes: 0,
            listed: false,
            dir_changed: true,
            parents_changed: true,
            dropped: None,
            discarded: false,
            cut: None,
            change: None,
            hints: [None; HINTS],
            next_hint: 0,
        }
    }

    /// The segment that is appended to.
    pub(crate) fn active(&self) -> &Part {
        &self.parts[self.parts.len() - 1]
    }

    /// The index of the segment that is appended to; made at the first use, for which the disk is read.
    pub(crate) fn active_index(&mut self) -> Result<&mut Index, ReadError> {
        let index = match self.index.take() {
            Some(index) => index,
            None => self.active().segment.build_index(self.active().len)?,
        };
        Ok(self.index.insert(index))
    }

    /// The index of the segment that is appended to, if it is there.
    pub(crate) fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// The index of a segment that is appended to from now on, if it is known; nothing of it is in its file.
    pub(crate) fn set_index(&mut self, index: Option<Index>) {
        self.index = index;
        self.index_stored = 0;
    }

    /// Sees to it that the index of the segment that is appended to is there. One that is damaged where its index does not
    /// reach takes no more batches, since nobody could tell where they begin: the next segment, `new_segment`, begins at the log's
    /// end. Nothing is written.
    ///
    /// # Errors
    /// Of the reading; also damage, where the log is being cut.
    pub(crate) fn settle_active(&mut self, new_segment: impl FnOnce(Offset) -> Segment) -> Result<(), ReadError> {
        let made = self.active_index().map(|_| ());
        let damaged = matches!(made, Err(ReadError::Damaged { .. }));
        if damaged && self.cut.is_none() && self.active().segment.base < self.end {
            self.roll(new_segment(self.end));
            return Ok(());
        }
        made
    }

    /// Whether a segment is one of the log's. One that was cut, or has gone, is not.
    pub(crate) fn holds(&self, segment: &Arc<Segment>) -> bool {
        let after = self.parts.partition_point(|part| part.segment.base <= segment.base);
        after.checked_sub(1).is_some_and(|at| Arc::ptr_eq(&self.parts[at].segment, segment))
    }

    /// Whether one of the log's segments begins at an offset.
    pub(crate) fn begins_at(&self, offset: Offset) -> bool {
        self.parts.binary_search_by_key(&offset, |part| part.segment.base).is_ok()
    }

    /// Whether the snapshot of an offset is that of the mark, or of the one to come.
    pub(crate) fn names_snapshot(&self, at: Offset) -> bool {
        self.saved.at == at || self.mark.is_some_and(|mark| mark.producers.at == at)
    }

    /// What to go back to when an append fails half-way. The index must have been made.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            parts: self.parts.len(),
            len: self.active().len,
            index: self.index.as_ref().map(Index::known),
            index_stored: self.index_stored,
            end: self.end,
            unsynced_bytes: self.unsynced_bytes,
            age: self.age,
        }
    }

    /// Goes back, and takes away what was written since: new segments by name, since an empty one that stays would stand
    /// between two that follow each other. Makes nothing, so that a disk without room is no hindrance.
    ///
    /// # Errors
    /// Of the cutting; the state has gone back all the same.
    pub(crate) fn undo(&mut self, to: &Checkpoint) -> io::Result<()> {
        let new = self.parts.split_off(to.parts);
        let last = self.parts.len() - 1;
        let active = &mut self.parts[last];
        let index = match self.index.take() {
            Some(index) if new.is_empty() => Some(index),
            // It went with the segment when that was closed. Whoever needs it next makes it again, if it is not kept.
            _ => active.segment.take_index(),
        };
        active.len = to.len;
        self.index = index.zip(to.index).map(|(mut index, known)| {
            index.restore(known);
            index
        });
        self.index_stored = to.index_stored;
        self.end = to.end;
        self.unsynced_bytes = to.unsynced_bytes;
        self.age = to.age;
        for part in new {
            self.at_bases.retain(|(at, _)| *at < part.segment.base);
            part.segment.remove()?;
        }
        self.parts[last].segment.cut(to.len)
    }

    /// Closes the active segment and begins the next: `segment`, whose base is the log's end. Its file is made by its first batch.
    pub(crate) fn roll(&mut self, segment: Segment) {
        assert!(segment.base == self.end, "segments follow each other");
        // A copy stays with the closed segment, and goes to its file when that is synced.
        if let Some(index) = self.index.take() {
            self.active().segment.set_index(Arc::new(index));
        }
        self.index = Some(Index::default());
        self.index_stored = 0;
        self.parts.push(Part { segment: Arc::new(segment), len: 0 });
        self.keep_producers(self.end);
    }

    /// Gives one batch its place, in a new segment where the last one is full or too old, and counts it as there: the caller writes
    /// it before anybody else has the lock. `header`: what it will say on disk. On an error, of this or of the write, the caller must
    /// [`State::undo`].
    pub(crate) fn place(
        &mut self,
        header: &BatchHeader,
        now: TimestampMs,
        new_segment: impl FnOnce(Offset) -> Segment,
    ) -> io::Result<Placed> {
        assert!(header.base_offset == self.end, "offsets are dense");
        let bytes = header.batch_bytes() as u64;
        let active = self.active();
        let far = header.end_offset().0 - active.segment.base.0 > i64::from(u32::MAX);
        let full = active.len + bytes > self.segment_bytes;
        let begun = self.begun.binary_search(&self.end).is_ok();
        if active.len > 0 && (far || full || begun || self.age.is_over(header.max_timestamp, now)) {
            self.roll(new_segment(self.end));
        }
        let last = self.parts.len() - 1;
        let active = &mut self.parts[last];
        // The first bytes make the file.
        if active.len == 0 {
            self.dir_changed = true;
            self.age.begin(header.max_timestamp, now);
        }
        let placed = Placed { file: active.segment.handle.writer()?, at: active.len };
        let delta = active.segment.delta(header.base_offset);
        active.len += bytes;
        self.index.get_or_insert_default().add(delta, bytes, header.max_timestamp);
        self.unsynced_bytes += bytes;
        self.end = header.end_offset();
        Ok(placed)
    }

    /// Notes a batch that was appended for good, for its producer.
    pub(crate) fn note(&mut self, header: &BatchHeader, now: TimestampMs) {
        self.saved.behind |= self.producers.note(header, now);
        self.unsaved_bytes += header.batch_bytes() as u64;
    }

    /// Lets the log begin at `start`, which is not past its end. Segments that lie below it as a whole are retired, but for the
    /// one that is appended to.
    pub(crate) fn advance_start(&mut self, start: Offset) {
        assert!(start <= self.end, "a log begins before it ends");
        if start <= self.start {
            return;
        }
        self.start = start;
        self.epochs_changed |= self.epochs.cut_below(start);
        self.retire();
    }

    /// Retires what lies below the start as a whole. (Also what is closed only after the start has moved to its end.)
    pub(crate) fn retire(&mut self) {
        let below = self.parts.partition_point(|part| part.segment.base <= self.start).saturating_sub(1);
        self.retired.extend(self.parts.drain(..below));
        self.synced_parts = self.synced_parts.saturating_sub(below);
    }

    /// Lets the log begin, and end, at `segment`'s base, past its end: what was between is lost, and what was before is to go.
    /// `producers`: none.
    pub(crate) fn restart(&mut self, segment: Segment, producers: Producers) {
        let start = segment.base;
        assert!(start > self.end, "a log that reaches its start keeps what it has");
        self.retired.append(&mut self.parts);
        self.parts.push(Part { segment: Arc::new(segment), len: 0 });
        self.synced_parts = 0;
        self.index = None;
        self.index_stored = 0;
        (self.start, self.end) = (start, start);
        self.epochs_changed |= self.epochs.cut_below(start);
        (self.producers, self.saved, self.unsaved_bytes) = (producers, Saved::default(), 0);
        self.at_bases.clear();
    }

    /// Notes that frame `lsn` concerns this log. Whether it is the first since the last sync: then the caller pins it.
    pub(crate) fn pin_at(&mut self, lsn: u64) -> bool {
        match &mut self.pin {
            Pin::Free => {
                self.pin = Pin::At(lsn);
                return true;
            }
            Pin::Syncing { after, .. } => {
                after.get_or_insert(lsn);
            }
            Pin::At(_) => {}
        }
        false
    }

    /// What a sync that begins now makes durable.
    pub(crate) fn next_mark(&self, durability: Durability) -> Mark {
        let active = self.active();
        Mark {
            sequence: self.mark.map_or(0, |mark| mark.sequence + 1),
            durability,
            start: self.start,
            end: self.end,
            lsn: self.lsn,
            segment_base: active.segment.base,
            segment_len: active.len,
            producers: self.saved,
        }
    }

    /// Forgets where readers go on: positions have changed.
    pub(crate) fn forget_places(&mut self) {
        self.hints = [None; HINTS];
    }

    /// Remembers where a reader goes on.
    pub(crate) fn remember(&mut self, next: Offset, segment: Offset, position: u64) {
        self.hints[self.next_hint] = Some(Hint { next, segment, position });
        self.next_hint = (self.next_hint + 1) % HINTS;
    }

    /// The position of the batch that begins at `from` in that segment, if a reader stopped there.
    pub(crate) fn recall(&mut self, from: Offset, segment: Offset) -> Option<u64> {
        let found = self.hints.iter_mut().find(|hint| hint.is_some_and(|h| h.next == from && h.segment == segment))?;
        // Its reader leaves a new one.
        found.take().map(|hint| hint.position)
    }
}
