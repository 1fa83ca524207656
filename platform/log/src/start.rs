//! A log's beginning: moved forward, and what retention sees of the segments that may go. (They go to the `trash`.)

use std::sync::Arc;

use millstream_model::{LeaderEpoch, Offset, TimestampMs};

use crate::{MoveStartError, PartitionLog, ReadError, Ticket, frame::Kind, state::Part};

/// A segment that takes no more batches, as retention sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedSegment {
    /// The offset of its first record. The oldest segment's may lie below the log's start.
    pub base_offset: Offset,
    /// The offset after its last record: where the next segment begins.
    pub end_offset: Offset,
    /// Bytes of its batches.
    pub bytes: u64,
    /// The greatest timestamp in it; none where none of its records has one. Where damage hides it, that of the next one: they are
    /// no younger than that, as far as can be told.
    pub newest: Option<TimestampMs>,
}

impl PartitionLog {
    /// Moves the log's start forward: what is below is never read again ([`ReadError::OutOfRange`] from now on), and segments
    /// that lie below it as a whole go in the background. `start`: at most the log's end; at or below the present start it
    /// is no change. It need not be where a batch begins.
    ///
    /// Durable once the ticket resolves, also in a log in durability `replicated`: such a log, if a power cut has
    /// left less of it than the start, begins (empty) at the start. What producers have sent is remembered all the same.
    ///
    /// # Errors
    /// [`MoveStartError`]; the log is unchanged.
    pub fn advance_start(self: &Arc<Self>, start: Offset) -> Result<Ticket, MoveStartError> {
        let mut state = self.state();
        state.life.check()?;
        if start > state.end {
            return Err(MoveStartError::BeyondEnd { start, end: state.end });
        }
        let start = start.max(state.start);
        if start == state.start && state.frames.start <= self.journal().ring().committed_lsn {
            return Ok(Ticket::done());
        }
        // The present start is journaled again while it is not durable, so that this ticket too stands for it.
        let (resolve, ticket) = Ticket::new();
        let epoch = state.epochs.latest().unwrap_or(LeaderEpoch::UNKNOWN);
        let end = state.end;
        let entry = self.mutation(Kind::LogStart, epoch, (start, end), resolve);
        self.enqueue(&mut state, [entry])?;
        state.frames.start = state.frames.last;
        state.advance_start(start);
        drop(state);
        self.journal().commit_work.notify_one();
        Ok(ticket)
    }

    /// The segments that take no more batches, oldest first: what a policy chooses among (see [`crate::Retention`]).
    ///
    /// Blocks on the disk where a segment's greatest timestamp was not looked for since the start.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn closed_segments(&self) -> Result<Vec<ClosedSegment>, ReadError> {
        let parts = {
            let state = self.state();
            if state.life.dropped.is_some() {
                return Err(ReadError::Deleted);
            }
            state.parts.clone()
        };
        let mut closed = Vec::with_capacity(parts.len() - 1);
        // From behind: of one that is damaged, the one after it tells.
        let mut after = None;
        for (part, next) in parts.iter().zip(&parts[1..]).rev() {
            let newest = match part.segment.find_newest(part.len) {
                Ok(newest) if part.len > 0 => Some(newest).filter(|newest| newest.0 >= 0),
                Ok(_) => after,
                // It went meanwhile, was cut, or was compacted.
                Err(_) if self.is_gone(part) => return self.closed_segments(),
                Err(ReadError::Damaged { .. }) => after,
                Err(error) => return Err(error),
            };
            after = newest;
            closed.push(ClosedSegment {
                base_offset: part.segment.base,
                end_offset: next.segment.base,
                bytes: part.len,
                newest,
            });
        }
        closed.reverse();
        Ok(closed)
    }

    /// Whether a segment that was the log's is so no more, or not as it was.
    pub(crate) fn is_gone(&self, part: &Part) -> bool {
        if part.segment.handle.is_superseded() {
            return true;
        }
        let state = self.state();
        state.life.dropped.is_some() || !state.holds(&part.segment)
    }
}
