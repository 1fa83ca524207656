//! What changes in a log, behind its lock: its segments and offsets, and beside them, each with what it is about, epochs, producers,
//! frames, what is durable and what is still to be synced.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use millstream_env::DiskFile;
use millstream_model::{Durability, Offset, TimestampMs};
use millstream_record::BatchHeader;

use crate::{
    Ended, LogOptions, ReadError,
    age::Age,
    change::Change,
    epochs::LiveEpochs,
    index::{Index, Known},
    made::Made,
    mark::{First, Mark},
    pin::{Frames, Pin},
    producers::Producers,
    segment::Segment,
    snapshot::Remembered,
    truncate::Cut,
};

/// A segment and how much of it counts, bytes. What its file has beyond that is not ours.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) segment: Arc<Segment>,
    pub(crate) len: u64,
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

/// Where the last readers stopped.
#[derive(Default)]
pub(crate) struct Places {
    hints: [Option<Hint>; HINTS],
    next: usize,
}

impl Places {
    /// Forgets all: positions have changed.
    pub(crate) fn forget(&mut self) {
        self.hints = [None; HINTS];
    }

    /// Remembers where a reader goes on.
    pub(crate) fn remember(&mut self, next: Offset, segment: Offset, position: u64) {
        self.hints[self.next] = Some(Hint { next, segment, position });
        self.next = (self.next + 1) % HINTS;
    }

    /// The position of the batch that begins at `from` in that segment, if a reader stopped there.
    pub(crate) fn recall(&mut self, from: Offset, segment: Offset) -> Option<u64> {
        let found = self.hints.iter_mut().find(|hint| hint.is_some_and(|h| h.next == from && h.segment == segment))?;
        // Its reader leaves a new one.
        found.take().map(|hint| hint.position)
    }
}

/// How the last segment grows: its index, and when it is full.
pub(crate) struct Growth {
    /// None until it was needed.
    index: Option<Index>,
    /// How many entries of it are in its file.
    stored: usize,
    pub(crate) segment_bytes: u64,
    pub(crate) age: Age,
    /// How the segment begins, where that is known.
    pub(crate) first: Option<First>,
}

impl Growth {
    /// Goes on with another segment, and its index, if it is known; nothing of it is in its file.
    fn begin(&mut self, index: Option<Index>) {
        (self.index, self.stored, self.first) = (index, 0, None);
    }

    /// The index as it is now, if it has so many entries more than its file: they count as stored.
    pub(crate) fn take_unstored(&mut self, entries: usize) -> Option<Index> {
        let index = self.index.as_ref().filter(|index| index.len() >= self.stored + entries)?;
        self.stored = index.len();
        Some(index.clone())
    }
}

/// What is durable in the log's own files.
#[derive(Default)]
pub(crate) struct Durable {
    /// The mark on disk.
    pub(crate) mark: Option<Mark>,
    /// A first mark that is there, and may be gone after a crash: its name could not be made durable yet.
    pub(crate) unnamed: Option<Mark>,
    /// Parts before this one are synced.
    pub(crate) parts: usize,
}

/// What the next sync is to make durable.
#[derive(Clone, Copy, Default)]
pub(crate) struct Unsynced {
    /// Bytes that were written since the last sync began.
    pub(crate) bytes: u64,
    /// Names in the log's directory are not durable.
    pub(crate) dir_changed: bool,
    /// Nor are those above it.
    pub(crate) parents_changed: bool,
    /// The log waits in the list of those without a journal.
    pub(crate) listed: bool,
}

/// What ends a log, or keeps appends from it for a while.
#[derive(Default)]
pub(crate) struct Life {
    /// The frame of the log's deletion.
    pub(crate) dropped: Option<u64>,
    /// Its files are gone.
    pub(crate) discarded: bool,
    /// The log is out of service: this stands for it, and knows nothing of what it holds.
    pub(crate) refused: bool,
    /// Its end is being cut back.
    pub(crate) cut: Option<Cut>,
    /// Its durability is being changed.
    pub(crate) change: Option<Change>,
}

impl Life {
    /// Whether the log is not being deleted.
    pub(crate) fn check(&self) -> Result<(), Ended> {
        match self.dropped {
            Some(_) => Err(Ended::Deleted),
            None => Ok(()),
        }
    }
}

/// What a start has found of a log, as long as that is not settled.
#[derive(Default)]
pub(crate) struct Loaded {
    /// There is no mark, though the segments hold something: nothing of that counts, nor may it go before it is known what the log is.
    pub(crate) unmarked: bool,
    /// Past the mark, or without one, there is more in the segments' files, and nothing of that may go before the journal was read.
    pub(crate) uncut: bool,
    /// What is past the mark was kept, though the log has a journal, which may tell of it again.
    pub(crate) kept: bool,
    /// There are frames of the time when the log was out of service.
    pub(crate) held: bool,
    /// Where segments began past the mark, before a crash; sorted. Replay begins them there again: a log that came back as one
    /// segment could only go as a whole.
    pub(crate) begun: Vec<Offset>,
}

/// The state of a log.
pub(crate) struct State {
    /// In order of their base offsets; the last one is appended to. Never empty.
    pub(crate) parts: Vec<Part>,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    /// Segments below the start. Their files go when a mark that says so is durable.
    pub(crate) retired: Vec<Part>,
    pub(crate) growth: Growth,
    pub(crate) epochs: LiveEpochs,
    pub(crate) producers: Remembered,
    pub(crate) frames: Frames,
    pub(crate) durable: Durable,
    pub(crate) unsynced: Unsynced,
    pub(crate) made: Made,
    pub(crate) life: Life,
    pub(crate) loaded: Loaded,
    pub(crate) places: Places,
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
    first: Option<First>,
}

impl State {
    /// What the log's batches take on disk, bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.len).sum()
    }

    pub(crate) fn new(
        parts: Vec<Part>,
        start: Offset,
        end: Offset,
        options: LogOptions,
        producers: Producers,
        now: TimestampMs,
    ) -> Self {
        assert!(!parts.is_empty(), "a log has a segment");
        let LogOptions { segment_bytes, segment_ms, made_by, .. } = options;
        Self {
            durable: Durable { parts: parts.len() - 1, ..Durable::default() },
            unsynced: Unsynced { dir_changed: true, parents_changed: true, ..Unsynced::default() },
            growth: Growth { index: None, stored: 0, segment_bytes, age: Age::new(segment_ms, now), first: None },
            producers: Remembered::new(producers),
            parts,
            start,
            end,
            retired: Vec::new(),
            epochs: LiveEpochs::default(),
            frames: Frames::default(),
            made: Made::unwritten(made_by),
            life: Life::default(),
            loaded: Loaded::default(),
            places: Places::default(),
        }
    }

    /// The segment that is appended to.
    pub(crate) fn active(&self) -> &Part {
        &self.parts[self.parts.len() - 1]
    }

    /// The index of the segment that is appended to; made at the first use, for which the disk is read.
    pub(crate) fn active_index(&mut self) -> Result<&mut Index, ReadError> {
        let index = match self.growth.index.take() {
            Some(index) => index,
            None => self.active().segment.build_index(self.active().len)?,
        };
        Ok(self.growth.index.insert(index))
    }

    /// The index of the segment that is appended to, if it is there.
    pub(crate) fn index(&self) -> Option<&Index> {
        self.growth.index.as_ref()
    }

    /// The index of a segment that is appended to from now on, if it is known; nothing of it is in its file.
    pub(crate) fn set_index(&mut self, index: Option<Index>) {
        self.growth.begin(index);
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
        if damaged && self.life.cut.is_none() && self.active().segment.base < self.end {
            self.roll(new_segment(self.end));
            return Ok(());
        }
        made
    }

    /// Whether a segment is one of the log's. One that was cut, or has gone, is not.
    pub(crate) fn holds(&self, segment: &Arc<Segment>) -> bool {
        self.len_of(segment).is_some()
    }

    /// How much of a segment counts, bytes, if it is one of the log's.
    pub(crate) fn len_of(&self, segment: &Arc<Segment>) -> Option<u64> {
        let after = self.parts.partition_point(|part| part.segment.base <= segment.base);
        let part = &self.parts[after.checked_sub(1)?];
        Arc::ptr_eq(&part.segment, segment).then_some(part.len)
    }

    /// Whether one of the log's segments begins at an offset.
    pub(crate) fn begins_at(&self, offset: Offset) -> bool {
        self.parts.binary_search_by_key(&offset, |part| part.segment.base).is_ok()
    }

    /// Whether the snapshot of an offset is that of the mark, or of the one to come.
    pub(crate) fn names_snapshot(&self, at: Offset) -> bool {
        self.producers.saved.at == at || self.durable.mark.is_some_and(|mark| mark.producers.at == at)
    }

    /// What to go back to when an append fails half-way. The index must have been made.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            parts: self.parts.len(),
            len: self.active().len,
            index: self.growth.index.as_ref().map(Index::known),
            index_stored: self.growth.stored,
            end: self.end,
            unsynced_bytes: self.unsynced.bytes,
            age: self.growth.age,
            first: self.growth.first,
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
        let index = match self.growth.index.take() {
            Some(index) if new.is_empty() => Some(index),
            // It went with the segment when that was closed. Whoever needs it next makes it again, if it is not kept.
            _ => active.segment.take_index(),
        };
        active.len = to.len;
        self.growth.index = index.zip(to.index).map(|(mut index, known)| {
            index.restore(known);
            index
        });
        self.growth.stored = to.index_stored;
        self.end = to.end;
        self.unsynced.bytes = to.unsynced_bytes;
        self.growth.age = to.age;
        self.growth.first = to.first;
        for part in new {
            self.producers.at_bases.retain(|(at, _)| *at < part.segment.base);
            part.segment.remove()?;
        }
        let segment = &self.parts[last].segment;
        segment.cut(to.len)?;
        // What counts is synced, or no sync would ever come and let the file be closed.
        if self.unsynced.bytes == 0 && !matches!(self.frames.pin, Pin::Syncing { .. }) {
            segment.handle.synced();
        }
        Ok(())
    }

    /// Closes the active segment and begins the next: `segment`, whose base is the log's end. Its file is made by its first batch.
    pub(crate) fn roll(&mut self, segment: Segment) {
        assert!(segment.base == self.end, "segments follow each other");
        // A copy stays with the closed segment, and goes to its file when that is synced.
        if let Some(index) = self.growth.index.take() {
            self.active().segment.set_index(Arc::new(index));
        }
        self.growth.begin(Some(Index::default()));
        self.parts.push(Part { segment: Arc::new(segment), len: 0 });
        self.producers.keep(self.end);
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
        let full = active.len + bytes > self.growth.segment_bytes;
        let begun = self.loaded.begun.binary_search(&self.end).is_ok();
        if active.len > 0 && (far || full || begun || self.growth.age.is_over(header.max_timestamp, now)) {
            self.roll(new_segment(self.end));
        }
        let last = self.parts.len() - 1;
        let active = &mut self.parts[last];
        // The first bytes make the file.
        if active.len == 0 {
            self.unsynced.dir_changed = true;
            self.growth.age.begin(header.max_timestamp, now);
            self.growth.first = Some(First::of(header.crc));
        }
        let placed = Placed { file: active.segment.handle.appender()?, at: active.len };
        let delta = active.segment.delta(header.base_offset);
        active.len += bytes;
        self.growth.index.get_or_insert_default().add(delta, bytes, header.max_timestamp);
        self.unsynced.bytes += bytes;
        self.end = header.end_offset();
        Ok(placed)
    }

    /// Lets the log begin at `start`, which is not past its end. Segments that lie below it as a whole are retired, but for the
    /// one that is appended to.
    pub(crate) fn advance_start(&mut self, start: Offset) {
        assert!(start <= self.end, "a log begins before it ends");
        if start <= self.start {
            return;
        }
        self.start = start;
        self.epochs.cut_below(start);
        self.retire();
    }

    /// Retires what lies below the start as a whole. (Also what is closed only after the start has moved to its end.)
    pub(crate) fn retire(&mut self) {
        let below = self.parts.partition_point(|part| part.segment.base <= self.start).saturating_sub(1);
        self.retired.extend(self.parts.drain(..below));
        self.durable.parts = self.durable.parts.saturating_sub(below);
    }

    /// Lets the log begin, and end, at `segment`'s base, past its end: what was between is lost, and what was before is to go.
    /// `producers`: none.
    pub(crate) fn restart(&mut self, segment: Segment, producers: Producers) {
        let start = segment.base;
        assert!(start > self.end, "a log that reaches its start keeps what it has");
        self.retired.append(&mut self.parts);
        self.parts.push(Part { segment: Arc::new(segment), len: 0 });
        self.durable.parts = 0;
        self.growth.begin(None);
        (self.start, self.end) = (start, start);
        self.epochs.cut_below(start);
        self.producers = Remembered::new(producers);
    }

    /// What a sync that begins now makes durable.
    pub(crate) fn next_mark(&self, durability: Durability) -> Mark {
        let active = self.active();
        Mark {
            sequence: self.durable.mark.map_or(0, |mark| mark.sequence + 1),
            durability,
            start: self.start,
            end: self.end,
            lsn: self.frames.last,
            segment_base: active.segment.base,
            segment_len: active.len,
            producers: self.producers.saved,
            first: self.growth.first.filter(|_| active.len > 0),
        }
    }
}
