//! Reading a log: batches by offset, offsets by timestamp.

use bytes::Bytes;
use millstream_model::{Offset, TimestampMs, limits::BATCH_BYTES_MAX};
use millstream_record::{Batch, BatchHeader, HEADER_BYTES};

use crate::{
    PartitionLog, ReadError,
    index::INTERVAL_BYTES,
    segment::Segment,
    sound::{Checked, Checker, Extent, Salvage, Step},
};

/// No read gathers more than this, bytes, whatever is asked for.
const READ_BYTES_MAX: usize = 64 << 20;
/// How far a compressed batch is unpacked to find one record's timestamp, bytes.
const UNPACKED_BYTES_MAX: usize = 4 * BATCH_BYTES_MAX;

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Whole batches, one after the other, as they are on disk. The first may begin before the offset asked for. Empty
    /// when there is nothing below the bound yet.
    pub batches: Bytes,
    /// Where to read on.
    pub next: Offset,
}

/// What was read, in pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadParts {
    /// Whole batches in each piece, which follow each other; otherwise as [`Read::batches`]. None is empty.
    pub parts: Vec<Bytes>,
    /// Where to read on.
    pub next: Offset,
}

impl ReadParts {
    /// Bytes of all pieces.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }
}

/// What was cut out of a segment, and where its end is.
struct Piece {
    batches: Bytes,
    next: Offset,
    position: u64,
}

impl PartitionLog {
    /// Reads whole batches, the one that holds `from` first, up to but not including offset `end` (the high watermark for
    /// consumers), about `bytes_max` bytes of them but always at least one if there is one. Stops at a segment's end, and
    /// before a damaged batch.
    ///
    /// Blocks on the page cache or the disk, but for what is kept of the log's end. A `from` at or past `end`, but not past the
    /// log's end, reads nothing. A batch that reaches past `end` is not read. What is read is what was appended: each batch is checked, its CRC above all.
    ///
    /// # Errors
    /// [`ReadError`]. Where `from` lies in a damaged batch, [`ReadError::Damaged`] with the offsets that are lost: those after
    /// them can be read.
    pub fn read(&self, from: Offset, end: Offset, bytes_max: usize) -> Result<Read, ReadError> {
        let ReadParts { mut parts, next } = self.read_parts(from, end, bytes_max)?;
        let batches = match parts.len() {
            0 | 1 => parts.pop().unwrap_or_default(),
            _ => parts.concat().into(),
        };
        Ok(Read { batches, next })
    }

    /// As [`PartitionLog::read`], without the copy that puts together what is kept in several pieces.
    ///
    /// # Errors
    /// [`ReadError`], as there.
    pub fn read_parts(&self, from: Offset, end: Offset, bytes_max: usize) -> Result<ReadParts, ReadError> {
        let nothing = ReadParts { parts: Vec::new(), next: from };
        let (extent, exact, indexed, end) = {
            let mut state = self.state();
            if state.life.dropped.is_some() {
                return Err(ReadError::Deleted);
            }
            if from < state.start || from > state.end {
                return Err(ReadError::OutOfRange { offset: from, start: state.start, end: state.end });
            }
            let end = end.min(state.end);
            if from >= end {
                self.tail().watch_from(from);
                return Ok(nothing);
            }
            if let Some((parts, next)) = self.tail().read(from, end, bytes_max, state.end) {
                let parts = if parts.is_empty() { nothing } else { ReadParts { parts, next } };
                return Ok(parts);
            }
            let at = state.parts.partition_point(|part| part.segment.base <= from).saturating_sub(1);
            let part = state.parts[at].clone();
            let extent_end = state.parts.get(at + 1).map_or(state.end, |next| next.segment.base);
            let exact = state.places.recall(from, part.segment.base).map(|position| (from, position));
            let indexed = match exact {
                None if at + 1 == state.parts.len() => match state.settle_active(|base| self.segment(base)) {
                    Ok(()) => state.index().map(|index| index.place(u64::from(part.segment.delta(from)))),
                    // It is being cut: what is before the damage can be read all the same.
                    Err(ReadError::Damaged { .. }) => Some((0, 0)),
                    Err(error) => return Err(error),
                },
                _ => None,
            };
            // Damage may have closed it just now.
            let indexed = indexed.filter(|_| at + 1 == state.parts.len());
            (Extent { part, end: extent_end }, exact, indexed, end)
        };
        let segment = &extent.part.segment;
        let slack = if exact.is_some() { 0 } else { INTERVAL_BYTES as usize };
        let place = match (exact, indexed) {
            (Some(exact), _) => Ok(exact),
            (None, indexed) => indexed
                .map_or_else(|| Ok(segment.closed_index(extent.part.len)?.place(segment.delta(from).into())), Ok)
                .map(|(delta, position)| (segment.base.plus(delta.cast_signed()), position)),
        };
        let piece = place.and_then(|at| self.cut_out(&extent, at, from, end, bytes_max.min(READ_BYTES_MAX), slack));
        let found = match piece {
            // In the middle of it the segment went, was cut, or was compacted: another has its place.
            Err(_) if self.is_gone(&extent.part) => return self.read_parts(from, end, bytes_max),
            piece => piece?,
        };
        let Some(piece) = found else { return Ok(nothing) };
        if piece.next >= end {
            self.tail().watch_from(piece.next);
        }
        let mut state = self.state();
        if state.holds(segment) {
            state.places.remember(piece.next, segment.base, piece.position);
        }
        drop(state);
        Ok(ReadParts { parts: vec![piece.batches], next: piece.next })
    }

    /// Says that a reader waits at the log's end: what is appended from now on is kept for it in memory, as far as there is room.
    pub fn watch_tail(&self) {
        self.tail().watch_from(self.end_offset());
    }

    /// Whether a read from an offset would find it in memory, with the newest batches. What is appended meanwhile may push it out.
    #[must_use]
    pub fn keeps(&self, from: Offset) -> bool {
        self.tail().keeps(from)
    }

    /// The first record with a timestamp at or after `target`: its offset and its timestamp. None if there is none. Where a
    /// batch is compressed in a way that cannot be looked into, its base offset and greatest timestamp stand for it. Damaged batches
    /// are passed over: whoever reads them is told.
    ///
    /// Costs a look into each segment's index, the first time after a start, and the scan of a short stretch of one. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn offset_for_timestamp(&self, target: TimestampMs) -> Result<Option<(Offset, TimestampMs)>, ReadError> {
        let (parts, start, end, in_active) = {
            let mut state = self.state();
            if state.life.dropped.is_some() {
                return Err(ReadError::Deleted);
            }
            match state.settle_active(|base| self.segment(base)) {
                // As in the closed ones: whoever looks finds out.
                Ok(()) | Err(ReadError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
            let segment = state.active().segment.clone();
            let in_active = match state.index() {
                Some(index) => segment.place_of_time(index, target, state.start),
                None => Some((0, segment.base)),
            };
            (state.parts.clone(), state.start, state.end, in_active)
        };
        for (nth, part) in parts.iter().enumerate() {
            let place = match nth + 1 == parts.len() {
                true => Ok(in_active),
                false => part.segment.position_of_time(part.len, target, start),
            };
            let end = parts.get(nth + 1).map_or(end, |next| next.segment.base);
            let extent = Extent { part: part.clone(), end };
            let found = match place {
                Ok(None) => continue,
                Ok(Some(place)) => self.find_timestamp(&extent, place, target, start),
                Err(error) => Err(error),
            };
            match found {
                Ok(None) => {}
                // It went meanwhile, was cut, or was compacted.
                Err(_) if self.is_gone(part) => return self.offset_for_timestamp(target),
                found => return found,
            }
        }
        Ok(None)
    }

    /// The record with the greatest timestamp of those before an offset, the first of them; none if there is none (KIP-734). It costs and
    /// treats batches as [`PartitionLog::offset_for_timestamp`] does, some dozens of times that where the greatest one known is of a deleted
    /// record, or of one at that offset or later.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn newest_record(&self, below: Offset) -> Result<Option<(Offset, TimestampMs)>, ReadError> {
        let mut bound = self.newest_bound()?;
        // The first of all that are so late: if that is at `below` or later, all are.
        let first_since = |time| -> Result<_, ReadError> {
            Ok(self.offset_for_timestamp(time)?.filter(|(offset, _): &(Offset, TimestampMs)| *offset < below))
        };
        if let Some(found) = first_since(bound)? {
            return Ok(Some(found));
        }
        let Some(mut found) = first_since(TimestampMs(i64::MIN))? else { return Ok(None) };
        // Nothing is as late as the bound.
        while found.1.0.saturating_add(1) < bound.0 {
            let between = TimestampMs(i64::midpoint(found.1.0, bound.0));
            match first_since(between)? {
                Some(later) => found = later,
                None => bound = between,
            }
        }
        Ok(Some(found))
    }

    /// No timestamp is greater.
    fn newest_bound(&self) -> Result<TimestampMs, ReadError> {
        const UNKNOWN: TimestampMs = TimestampMs(i64::MAX);
        let (parts, mut bound) = {
            let mut state = self.state();
            if state.life.dropped.is_some() {
                return Err(ReadError::Deleted);
            }
            match state.settle_active(|base| self.segment(base)) {
                Ok(()) | Err(ReadError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
            (state.parts.clone(), state.index().map_or(UNKNOWN, |index| index.newest()))
        };
        let closed = parts.split_last().map_or(&[][..], |(_, closed)| closed);
        for part in closed {
            match part.segment.find_newest(part.len) {
                Ok(newest) => bound = bound.max(newest),
                Err(_) if self.is_gone(part) => {}
                Err(ReadError::Damaged { .. }) => bound = UNKNOWN,
                Err(error) => return Err(error),
            }
        }
        Ok(bound)
    }

    /// The first record of a segment at or after `start` with a timestamp at or after `target`, looked for from a place on where a
    /// batch begins.
    fn find_timestamp(
        &self,
        extent: &Extent,
        place: (u64, Offset),
        target: TimestampMs,
        start: Offset,
    ) -> Result<Option<(Offset, TimestampMs)>, ReadError> {
        let mut salvage = Salvage::new(extent, place, |at| self.known_after(extent, at));
        while let Some(step) = salvage.next()? {
            let (at, header) = match step {
                Step::Batch(at, header) => (at, header),
                Step::Lost(..) if self.is_gone(&extent.part) => {
                    return Err(extent.part.segment.damaged(place.0, "it went meanwhile"));
                }
                Step::Lost(at, hole) => {
                    extent.tell(at, hole);
                    continue;
                }
            };
            if header.max_timestamp < target || header.end_offset() <= start {
                continue;
            }
            let bytes = extent.part.segment.read_exact(at, header.batch_bytes())?.freeze();
            let damaged = |_| extent.part.segment.damaged(at, "its records are not sound");
            let batch = Batch::parse_one(bytes).map_err(damaged)?;
            let Ok(records) = batch.records(UNPACKED_BYTES_MAX) else {
                return Ok(Some((header.base_offset.max(start), header.max_timestamp)));
            };
            for record in records {
                let record = record.map_err(damaged)?;
                if record.timestamp >= target && record.offset >= start {
                    return Ok(Some((record.offset, record.timestamp)));
                }
            }
        }
        Ok(None)
    }

    /// Cuts whole batches out of a segment: from the one that holds `from`, looked for from a place on where a batch begins (at
    /// an offset, and a position), to the last that ends at or below `end` and within `bytes_max`; at least one, but none if
    /// the first reaches past `end`.
    fn cut_out(
        &self,
        extent: &Extent,
        (mut base, mut at): (Offset, u64),
        from: Offset,
        end: Offset,
        bytes_max: usize,
        slack: usize,
    ) -> Result<Option<Piece>, ReadError> {
        let segment: &Segment = &extent.part.segment;
        let buffers = segment.handle.buffers();
        let mut checker = Checker::new(self, base);
        let mut want = bytes_max.saturating_add(slack).max(HEADER_BYTES);
        loop {
            if at >= extent.part.len {
                let reason = "it is cut short, or not there";
                let passed = self.pass_damage(extent, at, base, reason, from);
                return Err(passed.err().unwrap_or_else(|| segment.damaged(at, reason)));
            }
            let rest = usize::try_from(extent.part.len - at).unwrap_or(usize::MAX);
            let bytes = segment.read_some(at, want.min(rest))?;
            let is_cut_off = bytes.len() < want.min(rest);
            let mut cursor = 0;
            // Past the batches that end before `from`.
            let first = loop {
                let position = at + cursor as u64;
                let reason = match checker.check(bytes.get(cursor..).unwrap_or_default(), base) {
                    Checked::Sound(header) if header.end_offset() > from => break Some(header),
                    Checked::Sound(header) => {
                        base = header.end_offset();
                        cursor += header.batch_bytes();
                        continue;
                    }
                    // The length may be what is damaged: no batch reaches past one that the index knows.
                    Checked::Front(needed)
                        if is_cut_off || needed as u64 > self.known_after(extent, position)?.0 - position =>
                    {
                        "it ends in the middle of a batch"
                    }
                    // Read again from the batch on, and this time all of it.
                    Checked::Front(needed) => {
                        (at, want) = (position, want.max(needed));
                        break None;
                    }
                    Checked::Damaged(reason) => reason,
                };
                (at, base) = self.pass_damage(extent, position, base, reason, from)?;
                break None;
            };
            let Some(first) = first else {
                buffers.give_back(bytes);
                continue;
            };
            if first.end_offset() > end {
                return Ok(None);
            }
            let (start, mut stop, mut next) = (cursor, cursor + first.batch_bytes(), first.end_offset());
            while let Ok(header) = BatchHeader::parse(&bytes[stop..]) {
                let more = stop + header.batch_bytes();
                if more > bytes.len() || more - start > bytes_max || header.end_offset() > end {
                    break;
                }
                // Whoever reads on from what is not sound is told so.
                let Checked::Sound(header) = checker.check(&bytes[stop..], next) else { break };
                stop = more;
                next = header.end_offset();
            }
            // A slice keeps all that was read in memory for as long as it is held: where most of that is not asked for, the
            // rest is copied.
            let batches = match stop - start < bytes.len() / 2 {
                true => {
                    let batches = Bytes::copy_from_slice(&bytes[start..stop]);
                    buffers.give_back(bytes);
                    batches
                }
                false => buffers.lend(bytes).slice(start..stop),
            };
            return Ok(Some(Piece { batches, next, position: at + stop as u64 }));
        }
    }
}
