//! How old the active segment is: by time it is closed as Kafka does it (`segment.ms`).
//!
//! What counts is the distance between the greatest timestamps of the segment's first batch and of the one to be appended, so
//! that a log that is copied later has the same segments. Where the first batch has no time, the broker's clock counts, since the
//! segment was begun or opened.

use std::sync::Arc;

use millstream_model::TimestampMs;

use crate::{PartitionLog, ReadError, state::State};

/// The age of the segment that is appended to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Age {
    /// See [`crate::LogOptions::segment_ms`].
    pub(crate) segment_ms: u64,
    /// The greatest timestamp of the first batch; none if there is no batch, or nobody has looked.
    first: Option<TimestampMs>,
    /// When it was begun or opened, by the clock.
    since: TimestampMs,
}

impl Age {
    /// Of a segment that was begun or opened now.
    pub(crate) fn new(segment_ms: u64, now: TimestampMs) -> Self {
        Self { segment_ms, first: None, since: now }
    }

    /// A segment begins, with this as the greatest timestamp of its first batch.
    pub(crate) fn begin(&mut self, first: TimestampMs, now: TimestampMs) {
        *self = Self { first: Some(first), since: now, ..*self };
    }

    /// Whether a batch is too late for the segment. `latest`: its greatest timestamp.
    pub(crate) fn is_over(&self, latest: TimestampMs, now: TimestampMs) -> bool {
        let age = match self.first {
            Some(first) if first.0 >= 0 => latest.0.saturating_sub(first.0),
            _ => now.0.saturating_sub(self.since.0),
        };
        u64::try_from(age).is_ok_and(|age| age > self.segment_ms)
    }
}

impl State {
    /// Sees to it that the age of the active segment is known, for which the disk is read once after a start. Must come before
    /// [`State::place`] where time closes segments.
    pub(crate) fn know_age(&mut self) -> Result<(), ReadError> {
        let active = self.active();
        if self.growth.age.first.is_some() || active.len == 0 || self.growth.age.segment_ms == u64::MAX {
            return Ok(());
        }
        self.growth.age.first = match active.segment.walk(0, active.len)?.next() {
            Ok(header) => header.map(|(_, header)| header.max_timestamp),
            // The clock counts then.
            Err(ReadError::Damaged { .. }) => Some(TimestampMs(-1)),
            Err(error) => return Err(error),
        };
        Ok(())
    }
}

impl State {
    /// Whether there is anything to close, and nothing in the way.
    fn may_roll(&self) -> bool {
        self.life.dropped.is_none() && self.life.cut.is_none() && self.active().len > 0
    }
}

impl PartitionLog {
    /// Closes the segment that is appended to, if it holds anything; the next append begins a new one. Writes nothing: after a
    /// crash it may be open again. Whether there was something to close.
    pub fn roll(self: &Arc<Self>) -> bool {
        let mut state = self.state();
        let rolls = state.may_roll();
        if rolls {
            self.close_active(&mut state);
        }
        rolls
    }

    /// As [`PartitionLog::roll`], but only if all that the segment holds is older than `than`. What has no time is not.
    ///
    /// Blocks on the disk where the segment's greatest timestamp is not known.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn roll_older(self: &Arc<Self>, than: TimestampMs) -> Result<bool, ReadError> {
        let mut state = self.state();
        if !state.may_roll() {
            return Ok(false);
        }
        let base = state.active().segment.base;
        state.settle_active(|base| self.segment(base))?;
        if state.active().segment.base > base {
            // Damage has closed it.
            return Ok(true);
        }
        let newest = state.active_index()?.newest();
        let rolls = newest.0 >= 0 && newest < than;
        if rolls {
            self.close_active(&mut state);
        }
        Ok(rolls)
    }

    fn close_active(self: &Arc<Self>, state: &mut State) {
        let segment = self.segment(state.end);
        state.roll(segment);
        // The start may have moved past all of it before, and nothing else may happen to this log any more.
        state.retire();
        if !state.retired.is_empty() {
            self.journal().queue().moved.push(self.clone());
            self.journal().sync_work.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_counted_between_batches_and_by_the_clock_where_they_have_no_time() {
        let mut age = Age::new(1000, TimestampMs(50_000));
        let is_over = |age: &Age, latest, now| age.is_over(TimestampMs(latest), TimestampMs(now));
        age.begin(TimestampMs(7_000), TimestampMs(50_000));
        assert!(!is_over(&age, 8_000, 99_000) && is_over(&age, 8_001, 50_000), "by the batches");
        assert!(!is_over(&age, 10, 50_000) && !is_over(&age, i64::MIN, 50_000), "an older one belongs there");
        age.begin(TimestampMs(-1), TimestampMs(60_000));
        assert!(!is_over(&age, 99_000, 61_000) && is_over(&age, 99_000, 61_001), "by the clock");
        age.segment_ms = u64::MAX;
        assert!(!is_over(&age, i64::MAX, i64::MAX));
    }
}
