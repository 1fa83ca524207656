//! Changing a log's durability.
//!
//! What lies past the mark is judged by the durability that the mark tells: it is nothing, since the journal has it, or counts as far
//! as it is sound. So there must be nothing past the mark while that changes, and no frame with records that the mark does not cover: the log is
//! synced, takes no appends for a moment, is synced again, which is little then, and only then is the change journaled. Appends are
//! taken again when both its frame and a mark with the new durability are durable.

use std::sync::{Arc, atomic::Ordering};

use millstream_model::{Durability, LeaderEpoch};
use tokio::sync::oneshot;

use crate::{ChangeError, CommitError, PartitionLog, Ticket, frame::Kind, state::State, ticket::Resolve};

/// A change that is not done yet.
pub(crate) struct Change {
    to: Durability,
    /// No appends are taken.
    holds: bool,
    /// Its frame, once that is queued.
    lsn: Option<u64>,
    done: Resolve,
}

impl Change {
    /// Whether appends are refused.
    pub(crate) fn holds(&self) -> bool {
        self.holds
    }
}

impl PartitionLog {
    /// When an append counts as durable: what the log was made with, or was changed to since.
    #[must_use]
    pub fn durability(&self) -> Durability {
        match self.journaled.load(Ordering::Acquire) {
            true => Durability::Fsync,
            false => Durability::Replicated,
        }
    }

    /// Changes the log's durability. The present one again is no change.
    ///
    /// Done, and durable, once the ticket resolves. Before, appends go by the old durability, and are refused for as long as the last
    /// sync takes ([`crate::AppendError::Changing`]); their tickets resolve as ever. All that was appended before is durable then. After a
    /// crash on the way the log has the one or the other. A ticket that is dropped changes nothing.
    ///
    /// # Errors
    /// [`ChangeError`]; the log is unchanged.
    pub fn change_durability(self: &Arc<Self>, to: Durability) -> Result<Ticket, ChangeError> {
        let mut state = self.state();
        state.life.check()?;
        if state.life.change.is_some() {
            return Err(ChangeError::UnderWay);
        }
        if self.durability() == to {
            return Ok(Ticket::done());
        }
        if state.life.cut.is_some() {
            return Err(ChangeError::Truncating);
        }
        let (done, waiting) = oneshot::channel();
        {
            let mut queue = self.journal().queue();
            queue.check_open()?;
            queue.moved.push(self.clone());
        }
        state.life.change = Some(Change { to, holds: false, lsn: None, done });
        drop(state);
        self.journal().sync_work.notify_one();
        Ok(Ticket::settled(waiting, self.journal().subscribe_ended()))
    }

    /// Whether a change of durability is still to be journaled. Only who syncs calls this.
    pub(crate) fn is_change_due(&self) -> bool {
        self.state().life.change.as_ref().is_some_and(|change| change.lsn.is_none())
    }

    /// Takes no appends while a change is under way, or takes them again.
    pub(crate) fn hold(&self, holds: bool) {
        if let Some(change) = &mut self.state().life.change {
            change.holds = holds;
        }
    }

    /// Journals the change of a log that takes no appends and was synced since it does not: its frames and marks tell the new
    /// durability from here on. A storage that is closing takes no change: it is given up.
    pub(crate) fn journal_change(self: &Arc<Self>) {
        let mut state = self.state();
        let Some(change) = state.life.change.as_ref().filter(|_| state.life.dropped.is_none()) else { return };
        assert!(change.holds && change.lsn.is_none(), "a change is journaled once, and after the last append");
        let synced = state.durable.mark.is_some_and(|mark| mark.end == state.end);
        assert!(synced, "a log changes its durability with all of it durable");
        let to = change.to;
        let (epoch, end) = (state.epochs.latest().unwrap_or(LeaderEpoch::UNKNOWN), state.end);
        // Its own ticket is of no use: the frame is not all that has to be durable.
        let (resolve, _) = Ticket::new();
        let mut entry = self.mutation(Kind::DurabilityChange, epoch, (end, end), resolve);
        entry.frame.durability = to;
        if self.enqueue(&mut state, [entry]).is_err() {
            state.life.change = None;
            return;
        }
        let lsn = state.frames.last;
        self.set_durability(to);
        if let Some(change) = &mut state.life.change {
            change.lsn = Some(lsn);
        }
        drop(state);
        self.journal().commit_work.notify_one();
    }

    /// Has the log be of that durability from here on. Under its lock, or in recovery.
    pub(crate) fn set_durability(&self, to: Durability) {
        self.journaled.store(to == Durability::Fsync, Ordering::Release);
    }

    /// Lets the log take appends again, when its change of durability is durable in every way.
    pub(crate) fn end_change(&self) {
        let committed = self.journal().ring().committed_lsn;
        let mut state = self.state();
        let marked = state.durable.mark.map_or(0, |mark| mark.lsn);
        let ended = state.life.change.take_if(|change| change.lsn.is_some_and(|lsn| lsn <= committed && lsn <= marked));
        drop(state);
        if let Some(change) = ended {
            // Nobody may be waiting any more.
            let _ = change.done.send(Ok(()));
        }
    }

    /// Gives a change up, since the log is deleted.
    pub(crate) fn abandon_change(state: &mut State) {
        if let Some(change) = state.life.change.take() {
            let _ = change.done.send(Err(CommitError::Deleted));
        }
    }
}
