//! What one sync takes of a log's state, and what it gives back: appends go on while it is carried out.

use std::sync::Arc;

use millstream_model::Offset;

use crate::{
    PartitionLog,
    epochs::Epochs,
    index::Index,
    made::Noted,
    mark::Mark,
    producers::Producers,
    queue::Queue,
    state::{Part, State, Unsynced},
};

/// The active segment's index goes to its file when it has this many more entries than the file; 8 MiB of batches.
const INDEX_ENTRIES_STEP: usize = 256;

/// The producers are written down again when this part of the journal was appended to the log since they were (1 MiB by
/// default): a start walks over no more.
pub(crate) const SNAPSHOT_STEP_PART: u64 = 1024;
/// So many times as much where an append waits for it: large batches are few, and a start walks over their headers only.
pub(crate) const SNAPSHOT_STEPS: u64 = 64;

/// Why a log is synced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// In the background, or at a start.
    Turn,
    /// A reference to what it holds is to be journaled: what need not be written now is not.
    Reference,
    /// The storage is closing: all of it is written down.
    Closing,
}

/// What one sync takes on.
pub(crate) struct Plan {
    pub(crate) cause: Cause,
    /// Segments that may have unsynced bytes, in order; the last is the active one.
    pub(crate) parts: Vec<Part>,
    /// The active segment's index, if its file is to be written.
    pub(crate) index: Option<Index>,
    pub(crate) epochs: Option<Epochs>,
    /// The producers at the mark's end, if they are to be written down, and the offset of the snapshot before.
    pub(crate) producers: Option<(Producers, Offset)>,
    /// Those as of where segments begin.
    pub(crate) at_bases: Vec<(Offset, Arc<Producers>)>,
    pub(crate) unsynced: Unsynced,
    pub(crate) mark: Mark,
    /// What is to be noted of the log beside the mark.
    pub(crate) noted: Option<Noted>,
    /// The mark on disk.
    pub(crate) before: Option<Mark>,
    /// Segments below the mark's start: they go when it is durable.
    pub(crate) retired: Vec<Part>,
}

impl Plan {
    /// How much of a segment the mark on disk says to be durable, bytes.
    pub(crate) fn durable_len(&self, part: &Part) -> u64 {
        self.before.filter(|mark| mark.segment_base == part.segment.base).map_or(0, |mark| mark.segment_len)
    }
}

impl PartitionLog {
    /// None where there is nothing to sync; nor while files are to be cut: no mark may cover a truncation whose files are not.
    pub(crate) fn plan_sync(self: &Arc<Self>, cause: Cause) -> Option<Plan> {
        let mut state = self.state();
        if state.life.discarded || state.life.refused || state.is_cut_due() {
            return None;
        }
        // Its own deletion is not in the mark, and stays pinned until the files are gone.
        let dropped = state.life.dropped;
        if !state.frames.begin_sync(dropped) {
            return None;
        }
        state.retire();
        let unsynced = std::mem::take(&mut state.unsynced);
        let index = state.growth.take_unstored(if cause == Cause::Closing { 1 } else { INDEX_ENTRIES_STEP });
        let producers = self.plan_snapshot(&mut state, cause);
        let mut at_bases = std::mem::take(&mut state.producers.at_bases);
        at_bases.retain(|(at, _)| state.begins_at(*at));
        Some(Plan {
            parts: state.parts[state.durable.parts..].to_vec(),
            index,
            epochs: state.epochs.take_changed(),
            producers,
            at_bases,
            unsynced,
            cause,
            mark: state.next_mark(self.durability()),
            noted: state.made.to_write(self.id()),
            before: state.durable.mark,
            retired: if cause == Cause::Reference { Vec::new() } else { std::mem::take(&mut state.retired) },
        })
    }

    /// Takes the producers as they are now, if they have changed and it is time to write them down.
    fn plan_snapshot(&self, state: &mut State, cause: Cause) -> Option<(Producers, Offset)> {
        let step = self.journal().options.journal_bytes_max / SNAPSHOT_STEP_PART;
        let step = if cause == Cause::Reference { step * SNAPSHOT_STEPS } else { step };
        // Batches below the start can tell of no producer any more.
        let last_chance = state.start > state.producers.saved.at;
        if !state.producers.saved.behind
            || !(cause == Cause::Closing || last_chance || state.producers.unsaved_bytes >= step)
        {
            return None;
        }
        let end = state.end;
        Some(state.producers.take(end, self.journal().now()))
    }

    /// Goes back to before [`PartitionLog::plan_sync`]: all of it is still to be done.
    pub(crate) fn postpone_sync(self: &Arc<Self>, plan: &Plan, retired: Vec<Part>) {
        let mut state = self.state();
        state.retired.splice(..0, retired);
        if plan.epochs.is_some() {
            state.epochs.put_back();
        }
        state.unsynced.bytes += plan.unsynced.bytes;
        state.unsynced.dir_changed |= plan.unsynced.dir_changed;
        state.unsynced.parents_changed |= plan.unsynced.parents_changed;
        if let Some((_, before)) = &plan.producers {
            state.producers.put_back(*before);
        }
        // What has been cut meanwhile is no more.
        let mut at_bases = plan.at_bases.clone();
        at_bases.retain(|(at, _)| state.begins_at(*at));
        state.producers.at_bases.splice(..0, at_bases);
        let mut queue = self.journal().queue();
        if plan.unsynced.listed && !std::mem::replace(&mut state.unsynced.listed, true) {
            queue.unjournaled.push(self.clone());
        }
        // The journal is not set free.
        self.move_pin(&mut state, &mut queue, false);
    }

    /// Ends a sync as far as the journal goes; gives what pinned it and does no more, to be dropped outside of the lock.
    fn move_pin(self: &Arc<Self>, state: &mut State, queue: &mut Queue, frees: bool) -> Option<Arc<Self>> {
        let (goes, comes) = state.frames.end_sync(frees);
        let gone = goes.and_then(|lsn| queue.pins.remove(&lsn));
        if let Some(lsn) = comes {
            queue.pins.insert(lsn, self.clone());
        }
        gone
    }

    /// Notes that all of it is done, and the mark there.
    pub(crate) fn finish_sync(self: &Arc<Self>, plan: &Plan) {
        let mut state = self.state();
        let synced = plan.parts.len() - 1;
        // By name: the log's start may have moved past some of them meanwhile.
        let last = &plan.parts[synced].segment.base;
        state.durable.parts = state.parts.partition_point(|part| part.segment.base < *last).min(state.parts.len() - 1);
        state.durable.mark = Some(plan.mark);
        state.durable.unnamed = None;
        if let Some(noted) = plan.noted {
            state.made.was_written(noted);
        }
        // What was not written for a reference is, when the log has its turn: at the latest when the storage is closed.
        let gone = self.move_pin(&mut state, &mut self.journal().queue(), plan.cause != Cause::Reference);
        drop(gone);
        // Unless it was written to meanwhile.
        let active = state.active();
        if plan.parts.last().is_some_and(|part| part.len == active.len && Arc::ptr_eq(&part.segment, &active.segment)) {
            active.segment.handle.synced();
        }
        drop(state);
        for part in &plan.parts[..synced] {
            // Closed and synced: whoever reads it opens it again.
            part.segment.handle.release();
        }
        self.advance_flushed(plan.mark.end, plan.mark.lsn);
    }
}
