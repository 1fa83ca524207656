//! Whether a segment still holds what was written to it, batch by batch; and where a reader goes on after what it does not.

use std::sync::Arc;

use bytes::BytesMut;
use millstream_model::{LeaderEpoch, Offset};
use millstream_record::{BatchError, BatchHeader, HEADER_BYTES, PREFIX_BYTES};

use crate::{PartitionLog, ReadError, error::Hole, index::Index, state::Part};

/// How much a walk past damage reads at once.
const SALVAGE_BYTES: usize = 64 << 10;

/// What a reader may see of a segment: the first bytes of its file.
pub(crate) struct Extent {
    pub(crate) part: Part,
    /// The offset at which they end.
    pub(crate) end: Offset,
}

/// What is there where a batch must begin.
pub(crate) enum Checked {
    /// The batch that was written.
    Sound(BatchHeader),
    /// The front of a batch of so many bytes.
    Front(usize),
    /// Something else.
    Damaged(&'static str),
}

/// Checks one batch after the other.
pub(crate) struct Checker<'a> {
    log: &'a PartitionLog,
    /// The leader epoch from some offset on, where it is known, and up to which one (all, if none).
    epoch: Option<LeaderEpoch>,
    until: Option<Offset>,
}

/// Where a reader goes on behind a damaged batch.
struct Next {
    offset: Offset,
    position: u64,
    hides: bool,
}

impl<'a> Checker<'a> {
    /// For batches from offset `base` on.
    pub(crate) fn new(log: &'a PartitionLog, base: Offset) -> Self {
        let mut checker = Self { log, epoch: None, until: None };
        checker.look_up(base, base);
        checker
    }

    /// Checks the batch at the front of `bytes`, which must begin at offset `base`, below which all was checked.
    pub(crate) fn check(&mut self, bytes: &[u8], base: Offset) -> Checked {
        let header = match BatchHeader::parse(bytes) {
            Ok(header) => header,
            Err(BatchError::Truncated { needed, .. }) => return Checked::Front(needed),
            Err(_) => return Checked::Damaged("there is no record batch where one must begin"),
        };
        if header.base_offset != base {
            return Checked::Damaged("its offsets do not follow each other");
        }
        let needed = header.batch_bytes();
        if bytes.len() < needed {
            return Checked::Front(needed);
        }
        if !header.crc_matches(bytes) {
            return Checked::Damaged("the checksum of a batch does not match");
        }
        let end = header.end_offset();
        if self.until.is_some_and(|until| base >= until || (self.epoch.is_none() && end > until)) {
            self.look_up(base, end);
        }
        match self.epoch {
            Some(epoch) if epoch != header.partition_leader_epoch => {
                Checked::Damaged("a batch is not of the leader epoch in which it was appended")
            }
            _ => Checked::Sound(header),
        }
    }

    /// For a batch from `base` to `end`. Below the log's start no epoch is known; but the batch that holds the start is of the one
    /// that begins there.
    fn look_up(&mut self, base: Offset, end: Offset) {
        let state = self.log.state();
        let within = base < state.start && state.start < end;
        (self.epoch, self.until) = state.epochs.of(if within { state.start } else { base });
    }
}

impl PartitionLog {
    /// The position after a damaged batch at `at`, which was to begin at offset `base`, and the offset there; for a reader that
    /// looks for an offset behind it.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] where `wanted` is among what is lost.
    pub(crate) fn pass_damage(
        &self,
        extent: &Extent,
        at: u64,
        base: Offset,
        reason: &'static str,
        wanted: Offset,
    ) -> Result<(u64, Offset), ReadError> {
        if self.is_gone(&extent.part) {
            // It is being removed or cut: the reader looks again.
            return Err(extent.part.segment.damaged(at, reason));
        }
        let next = next_sound(extent, self.known_after(extent, at)?, at, base)?;
        let path = extent.part.segment.path.to_path_buf();
        let hole = Some(Hole { base, next: next.offset, hides: next.hides });
        let damaged = ReadError::Damaged { path, at, reason, hole };
        if extent.part.segment.is_news(at) {
            tracing::warn!(log = %self.id(), "{damaged}");
        }
        match wanted < next.offset {
            true => Err(damaged),
            false => Ok((next.position, next.offset)),
        }
    }

    /// The first place after `at` where the index knows a batch to begin, or the end: position and offset.
    pub(crate) fn known_after(&self, extent: &Extent, at: u64) -> Result<(u64, Offset), ReadError> {
        let segment = &extent.part.segment;
        let end = (extent.part.len, extent.end);
        let known = {
            let mut state = self.state();
            let Some(index) = state.parts.iter().rposition(|part| Arc::ptr_eq(&part.segment, segment)) else {
                return Ok(end);
            };
            let len = state.parts[index].len;
            match index + 1 == state.parts.len() {
                true => match state.active_index() {
                    Ok(index) => index.after(at),
                    // The index cannot be made for the damage.
                    Err(ReadError::Damaged { .. }) => None,
                    Err(error) => return Err(error),
                },
                false => {
                    drop(state);
                    segment.closed_index(len)?.after(at)
                }
            }
        };
        let known = known.map(|(delta, position)| (position, segment.base.plus(delta.cast_signed())));
        Ok(known.filter(|(position, _)| *position < extent.part.len).unwrap_or(end))
    }
}

/// Where a batch begins after a damaged one. Its length may be what is damaged, so from where it says, headers that follow
/// each other must lead to the next place that the index knows, `known`; else only that place is certain.
///
/// A batch among the bytes is not believed for being sound: a record's value may hold one, made by whoever wants it served.
fn next_sound(extent: &Extent, (known_at, known): (u64, Offset), at: u64, base: Offset) -> Result<Next, ReadError> {
    if at >= extent.part.len {
        // The file is shorter than it was, or is not there.
        return Ok(Next { offset: extent.end, position: at, hides: false });
    }
    let front = extent.part.segment.read_some(at, PREFIX_BYTES)?;
    let length = front.get(8..).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
    let position = at + PREFIX_BYTES as u64 + u64::from(length);
    if position == known_at {
        return Ok(Next { offset: known, position, hides: false });
    }
    let led = if position < known_at { led_to(extent, position, known_at, known)? } else { None };
    match led.filter(|offset| (base.0 + 1..known.0).contains(&offset.0)) {
        Some(offset) => Ok(Next { offset, position, hides: false }),
        None => Ok(Next { offset: known, position: known_at, hides: true }),
    }
}

/// The offset of the batch at `position`, if headers lead from it to the place `known`.
fn led_to(extent: &Extent, position: u64, known_at: u64, known: Offset) -> Result<Option<Offset>, ReadError> {
    let mut walk = extent.part.segment.walk(position, known_at)?;
    let (mut first, mut end) = (None, None);
    loop {
        match walk.next() {
            Ok(Some((_, header))) => {
                first.get_or_insert(header.base_offset);
                end = Some(header.end_offset());
            }
            Ok(None) => return Ok(first.filter(|_| end == Some(known))),
            Err(ReadError::Damaged { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// What a [`Salvage`] comes to, and where in the file.
pub(crate) enum Step {
    /// A sound batch.
    Batch(u64, BatchHeader),
    /// Offsets that are lost.
    Lost(u64, Hole),
}

/// A walk over a segment's sound batches that goes on past damaged ones, as readers do. Leader epochs are not looked at.
pub(crate) struct Salvage<'a, F> {
    extent: &'a Extent,
    /// Where the next batch begins.
    at: u64,
    base: Offset,
    /// See [`PartitionLog::known_after`].
    known_after: F,
    ahead: BytesMut,
    ahead_at: u64,
}

impl<'a, F: FnMut(u64) -> Result<(u64, Offset), ReadError>> Salvage<'a, F> {
    /// From a place on where a batch begins: its position and its offset.
    pub(crate) fn new(extent: &'a Extent, (at, base): (u64, Offset), known_after: F) -> Self {
        Self { extent, at, base, known_after, ahead: BytesMut::new(), ahead_at: at }
    }

    /// The next batch, or what is lost before it; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Step>, ReadError> {
        if self.base >= self.extent.end {
            return Ok(None);
        }
        let (at, base) = (self.at, self.base);
        if let Some(header) = self.take()? {
            return Ok(Some(Step::Batch(at, header)));
        }
        let next = next_sound(self.extent, (self.known_after)(at)?, at, base)?;
        (self.at, self.base) = (next.position, next.offset);
        Ok(Some(Step::Lost(at, Hole { base, next: next.offset, hides: next.hides })))
    }

    /// The batch at the present place, which moves past it; none if it is not sound.
    fn take(&mut self) -> Result<Option<BatchHeader>, ReadError> {
        let Ok(header) = BatchHeader::parse(self.fill(HEADER_BYTES)?) else { return Ok(None) };
        let needed = header.batch_bytes();
        // The length may be what is damaged.
        if header.base_offset != self.base || needed as u64 > self.extent.part.len - self.at {
            return Ok(None);
        }
        if !header.crc_matches(self.fill(needed)?) {
            return Ok(None);
        }
        (self.at, self.base) = (self.at + needed as u64, header.end_offset());
        Ok(Some(header))
    }

    /// At least `bytes` bytes from the present place on, if there are so many.
    fn fill(&mut self, bytes: usize) -> Result<&[u8], ReadError> {
        let rest = usize::try_from(self.extent.part.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let skip = usize::try_from(self.at - self.ahead_at).unwrap_or(usize::MAX);
        if self.ahead.len().saturating_sub(skip) < bytes.min(rest) {
            self.ahead = self.extent.part.segment.read_some(self.at, bytes.max(SALVAGE_BYTES).min(rest))?;
            self.ahead_at = self.at;
        }
        let skip = usize::try_from(self.at - self.ahead_at).unwrap_or(usize::MAX);
        Ok(self.ahead.get(skip..).unwrap_or_default())
    }
}

/// What each of `parts` holds of a log that ends at `end`, those without a byte left out.
pub(crate) fn extents(parts: &[Part], end: Offset) -> impl Iterator<Item = Extent> {
    let ends = parts.iter().skip(1).map(move |next| next.segment.base.min(end)).chain([end]);
    let extents = parts.iter().zip(ends).map(|(part, end)| Extent { part: part.clone(), end });
    extents.filter(|extent| extent.part.len > 0 && extent.part.segment.base < extent.end)
}

impl Extent {
    /// Walks over what is sound of it from the batch on that holds `from`. The disk is read for the segment's index.
    pub(crate) fn salvage(
        &self,
        index: &Index,
        from: Offset,
    ) -> Salvage<'_, impl FnMut(u64) -> Result<(u64, Offset), ReadError>> {
        let segment = &self.part.segment;
        let offset = |delta: u64| segment.base.plus(delta.cast_signed());
        let (delta, at) = index.place(segment.delta(from.max(segment.base)).into());
        Salvage::new(self, (at, offset(delta)), move |at| {
            let known = index.after(at).filter(|(_, position)| *position < self.part.len);
            Ok(known.map_or((self.part.len, self.end), |(delta, position)| (position, offset(delta))))
        })
    }

    /// Tells the operator of what is lost, once for each place.
    pub(crate) fn tell(&self, at: u64, hole: Hole) {
        if self.part.segment.is_news(at) {
            let path = self.part.segment.path.to_path_buf();
            let damaged =
                ReadError::Damaged { path, at, reason: "what is there is not what was written", hole: Some(hole) };
            tracing::warn!("{damaged}");
        }
    }
}
