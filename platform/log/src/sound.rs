//! Whether a segment still holds what was written to it, batch by batch; and where a reader goes on after what it does not.

use std::sync::Arc;

use millstream_model::{LeaderEpoch, Offset};
use millstream_record::{BatchError, BatchHeader, PATCH_BYTES, PREFIX_BYTES, crc32c};

use crate::{PartitionLog, ReadError, error::Hole, state::Part};

/// What a reader may see of a segment: the first bytes of its file.
pub(crate) struct Extent {
    pub(crate) part: Part,
    /// The offset at which they end.
    pub(crate) end: Offset,
}

/// What is there where a batch must begin.
pub(crate) enum Found {
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
        checker.look_up(base);
        checker
    }

    /// Checks the batch at the front of `bytes`, which must begin at offset `base`, below which all was checked.
    pub(crate) fn check(&mut self, bytes: &[u8], base: Offset) -> Found {
        let header = match BatchHeader::parse(bytes) {
            Ok(header) => header,
            Err(BatchError::Truncated { needed, .. }) => return Found::Front(needed),
            Err(_) => return Found::Damaged("there is no record batch where one must begin"),
        };
        if header.base_offset != base {
            return Found::Damaged("its offsets do not follow each other");
        }
        let needed = header.batch_bytes();
        let Some(covered) = bytes.get(PATCH_BYTES..needed) else { return Found::Front(needed) };
        if crc32c(covered) != header.crc {
            return Found::Damaged("the checksum of a batch does not match");
        }
        if self.until.is_some_and(|until| base >= until) {
            self.look_up(base);
        }
        match self.epoch {
            Some(epoch) if epoch != header.partition_leader_epoch => {
                Found::Damaged("a batch is not of the leader epoch in which it was appended")
            }
            _ => Found::Sound(header),
        }
    }

    fn look_up(&mut self, base: Offset) {
        (self.epoch, self.until) = self.log.state().epochs.of(base);
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
        let next = self.next_sound(extent, at, base)?;
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

    /// Where a batch begins after a damaged one. Its length may be what is damaged, so from where it says, headers that follow
    /// each other must lead to the next place that the index knows; else only that place is certain.
    ///
    /// A batch among the bytes is not believed for being sound: a record's value may hold one, made by whoever wants it served.
    fn next_sound(&self, extent: &Extent, at: u64, base: Offset) -> Result<Next, ReadError> {
        let (known_at, known) = self.known_after(extent, at)?;
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
