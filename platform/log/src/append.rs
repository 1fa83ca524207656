//! Appending: a batch is looked up among its producer's, given its offsets, written to its segment and queued for the journal, as one
//! step under the log's lock.

use std::{io, sync::Arc};

use bytes::Bytes;
use millstream_env::{Lack, lack};
use millstream_model::{Durability, LeaderEpoch, Offset, TimestampMs};
use millstream_record::{BatchError, BatchHeader, PATCH_BYTES, patch};

use crate::{
    AppendError, Ended, PartitionLog, ReadError, StorageFailed, Ticket,
    bytes_io::failing,
    change::Change,
    fault::{self, Fault},
    frame::{FRAME_HEADER_BYTES, Frame, Kind},
    producers::Verdict,
    queue::{Entry, Way},
    state::{Checkpoint, Placed, State},
    tail::Copied,
};

/// A log without a journal is synced when this much was written since the last time, bytes (or after the interval).
const UNJOURNALED_BYTES_MAX: u64 = 32 << 20;

/// A batch may be queued before it is written to its segment if it takes no more than this part of the ballast: should the disk be
/// full just then, it must be written all the same, and the rest is for others who must.
const BALLAST_PART: u64 = 8;

/// What an append was given.
#[derive(Debug)]
#[must_use = "an append is durable only once its ticket resolves"]
pub struct Appended {
    /// The offset of the first record.
    pub base_offset: Offset,
    /// The offset of the last record.
    pub last_offset: Offset,
    /// Nothing was appended: an idempotent producer has sent the batch before, and these are the offsets that it has.
    pub duplicate: bool,
    /// Resolves when all of it is durable.
    pub ticket: Ticket,
}

/// Why a batch was not written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How an append becomes durable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DurableBy {
    /// Through the journal, which is synced at once; or by a reference in it, as the commit loop decides.
    Journal,
    /// In the segment, which is synced in the background: the ticket does not wait.
    Background,
}

/// What is offered to be appended in one step.
struct Offer {
    batches: usize,
    /// Bytes of all batches.
    bytes: usize,
    /// The header of an idempotent producer's batch, which is the only one.
    idempotent: Option<BatchHeader>,
}

impl Offer {
    fn check(batches: &[Bytes], batch_bytes_max: usize) -> Result<Self, AppendError> {
        let mut offer = Self { batches: batches.len(), bytes: 0, idempotent: None };
        for batch in batches {
            let header = check(batch, batch_bytes_max)?;
            offer.bytes += batch.len();
            if header.has_producer_id() {
                if batches.len() > 1 {
                    return Err(AppendError::NotAlone);
                }
                offer.idempotent = Some(header);
            }
        }
        Ok(offer)
    }

    /// Bytes of the frames, should all go to the journal.
    fn journal_bytes(&self) -> usize {
        self.bytes + self.batches * FRAME_HEADER_BYTES
    }
}

/// How batches are appended, all of one offer alike.
#[derive(Clone, Copy)]
struct Terms {
    epoch: LeaderEpoch,
    now: TimestampMs,
    way: Way,
    /// The batch may be written after it was queued.
    queue_first: bool,
}

/// Batches that have their places.
struct Taken {
    /// Their frames.
    entries: Vec<Entry>,
    /// For who reads at the log's end.
    copies: Vec<Copied>,
    unwritten: Option<Unwritten>,
}

/// A batch that is to be written once its frame is queued.
struct Unwritten {
    placed: Placed,
    prefix: [u8; PATCH_BYTES],
    body: Bytes,
}

impl PartitionLog {
    /// Appends one batch: gives it the next offsets, sets its base offset and leader epoch (both lie before its CRC; nothing
    /// else is touched), and queues it for the journal. Does not wait for the disk: it writes to the page cache only.
    ///
    /// `batch`: one whole batch of version 2 that the caller has validated, its CRC above all: recovery takes a batch
    /// whose CRC is wrong for one that was never written.
    ///
    /// Durable only once the returned ticket resolves. Offsets are dense; none is reused unless recovery cut it off.
    /// Appends of one log become durable in order.
    ///
    /// A batch of an idempotent producer is looked up in its sequence first, as one step with the rest. One that was appended
    /// before is not appended again: its offsets are given, and a ticket that resolves when the first one's does.
    ///
    /// # Errors
    /// [`AppendError`]; the log is unchanged. ([`Ended::Failed`]: the next start may find the batch in the journal.)
    pub fn append(self: &Arc<Self>, batch: Bytes, leader_epoch: LeaderEpoch) -> Result<Appended, AppendError> {
        let outcome = self.append_all(&[batch], leader_epoch);
        self.journal().note_append(&outcome);
        outcome
    }

    /// Appends several batches as one step: their offsets follow each other and one ticket stands for all. (A crash before
    /// the ticket resolves may keep the first ones only.) None of several may be an idempotent producer's.
    ///
    /// # Errors
    /// [`AppendError`]; the log is unchanged.
    pub fn append_many(
        self: &Arc<Self>,
        batches: Vec<Bytes>,
        leader_epoch: LeaderEpoch,
    ) -> Result<Appended, AppendError> {
        let outcome = self.append_all(&batches, leader_epoch);
        self.journal().note_append(&outcome);
        outcome
    }

    /// The batch with this header as an idempotent producer has sent it before, if it is remembered. `header`: as the producer
    /// sends it.
    #[must_use]
    pub fn find_duplicate(&self, header: &BatchHeader) -> Option<Appended> {
        // Held until its ticket is made: were the log cut and written on in between, what is durable would be another batch.
        let state = self.state();
        let verdict = state.producers.check(header, self.journal().now()).ok()?;
        self.duplicate(verdict)
    }

    /// How a batch becomes durable.
    fn durable_by(&self) -> DurableBy {
        match self.durability() {
            Durability::Fsync => DurableBy::Journal,
            Durability::Replicated => DurableBy::Background,
        }
    }

    fn append_all(self: &Arc<Self>, batches: &[Bytes], epoch: LeaderEpoch) -> Result<Appended, AppendError> {
        let (journal, durable_by, now) = (self.journal(), self.durable_by(), self.journal().now());
        let offer = Offer::check(batches, journal.batch_bytes_max())?;
        let way = if offer.bytes >= journal.options.append_ref_bytes { Way::Undecided } else { Way::Whole };
        let (resolve, ticket) = match durable_by {
            DurableBy::Journal => Some(Ticket::new()),
            DurableBy::Background => None,
        }
        .unzip();
        let journal_bytes = offer.journal_bytes();
        let idle = journal.admit(if durable_by == DurableBy::Journal { journal_bytes } else { 0 })?;
        // Nobody else's append shares its group: the commit loop need not wait for the segment. (What it syncs there itself, it must.)
        let room = journal_bytes as u64 <= journal.options.ballast_bytes / BALLAST_PART;
        let alone = idle && room && batches.len() == 1 && durable_by == DurableBy::Journal && way == Way::Whole;
        let queue_first = if alone { journal.queued_first.try_lock() } else { None };

        let mut state = self.state();
        state.check_epoch(epoch)?;
        // Or it has been changed since it was looked at.
        if state.life.change.as_ref().is_some_and(Change::holds) || self.durable_by() != durable_by {
            return Err(AppendError::Changing);
        }
        let epoch = state.leading(epoch);
        if let Some(header) = &offer.idempotent {
            let verdict = state.producers.check(header, now)?;
            if let Some(duplicate) = self.duplicate(verdict) {
                return Ok(duplicate);
            }
        }
        let settled = state.settle_active(|base| self.segment(base)).and_then(|()| state.know_age());
        settled.map_err(|error| match error {
            ReadError::Io { path, source } if lack(&source).is_some() => AppendError::Descriptors { path },
            error => error.into(),
        })?;
        let before = state.checkpoint();
        let base = state.end;
        let terms = Terms { epoch, now, way, queue_first: queue_first.is_some() };
        let Taken { mut entries, copies, unwritten } =
            self.take(&mut state, batches, terms).map_err(|error| self.refuse(&mut state, &before, error))?;
        let last = entries.last_mut().ok_or(AppendError::Empty)?;
        last.resolve = resolve;
        let queued = match durable_by {
            DurableBy::Journal => self.enqueue(&mut state, entries),
            DurableBy::Background => self.list(&mut state),
        };
        if let Err(error) = queued {
            // Closed or failed since it was asked.
            return Err(match state.undo(&before) {
                Ok(()) => error.into(),
                Err(source) => self.fail("cut", source).into(),
            });
        }
        if durable_by == DurableBy::Journal {
            journal.commit_work.notify_one();
        }
        if let Some(unwritten) = unwritten {
            self.write_queued(&unwritten).inspect_err(|_| {
                // The storage has failed: what the next start finds decides. Until then nothing that is not there is read.
                let _ = state.undo(&before);
            })?;
        }
        drop(queue_first);
        self.tail().push(copies);
        state.epochs.begin(epoch, base);
        // Only now: what was undone has left no trace in its producer's sequence.
        match offer.idempotent {
            Some(header) => state.producers.note(&BatchHeader { base_offset: base, ..header }, now),
            None => state.producers.unsaved_bytes += offer.bytes as u64,
        }
        let last_offset = Offset(state.end.0 - 1);
        assert!(last_offset >= base, "an append took no offset");
        drop(state);
        let ticket = ticket.unwrap_or_else(Ticket::done);
        Ok(Appended { base_offset: base, last_offset, duplicate: false, ticket })
    }

    /// Gives each batch its place, and writes it there, but for one that is to be written once it is queued. On an error the caller must
    /// [`State::undo`].
    fn take(self: &Arc<Self>, state: &mut State, batches: &[Bytes], terms: Terms) -> Result<Taken, WriteError> {
        let watched = self.tail().is_watched();
        let mut taken = Taken { entries: Vec::with_capacity(batches.len()), copies: Vec::new(), unwritten: None };
        for batch in batches {
            let (placed, entry) = self.place(state, batch, terms)?;
            if terms.queue_first && placed.is_usual(batch.len()) {
                taken.unwritten = Some(Unwritten { placed, prefix: entry.prefix, body: entry.body.clone() });
            } else {
                placed.write(&entry.prefix, &entry.body)?;
            }
            if watched {
                let Entry { frame, prefix, body, .. } = &entry;
                taken.copies.push(Copied::new(frame.base_offset, frame.end_offset, prefix, body));
            }
            taken.entries.push(entry);
        }
        Ok(taken)
    }

    /// What a duplicate is answered with.
    fn duplicate(&self, verdict: Verdict) -> Option<Appended> {
        let Verdict::Duplicate { base_offset, last_offset } = verdict else { return None };
        let ticket = match self.durable_by() {
            DurableBy::Journal if !fault::is_on(Fault::EarlyDuplicate) => self.flushed_past(last_offset),
            _ => Ticket::done(),
        };
        Some(Appended { base_offset, last_offset, duplicate: true, ticket })
    }

    /// Gives one batch its place in a segment, patched, and makes the frame for it.
    fn place(
        self: &Arc<Self>,
        state: &mut State,
        batch: &Bytes,
        Terms { epoch, now, way, .. }: Terms,
    ) -> Result<(Placed, Entry), WriteError> {
        let mut prefix = [0; PATCH_BYTES];
        prefix.copy_from_slice(&batch[..PATCH_BYTES]);
        patch(&mut prefix, state.end, epoch)?;
        let mut header = BatchHeader::parse(batch)?;
        header.base_offset = state.end;
        let body = batch.slice(PATCH_BYTES..);
        let placed = state.place(&header, now, |base| self.segment(base))?;
        let frame = Frame {
            lsn: 0,
            kind: Kind::Append,
            log: self.id(),
            durability: self.durability(),
            leader_epoch: epoch,
            base_offset: header.base_offset,
            end_offset: header.end_offset(),
            // `Offer::check` has bounded it.
            payload_bytes: u32::try_from(batch.len()).unwrap_or(u32::MAX),
            payload_crc: header.crc,
        };
        Ok((placed, Entry { frame, prefix, prefix_bytes: PATCH_BYTES, body, log: self.clone(), way, resolve: None }))
    }

    /// Writes a batch whose frame is queued, and may be durable already: it cannot be refused any more. Readers wait for the log's
    /// lock. The disk may be full: there is room set aside.
    fn write_queued(&self, Unwritten { placed, prefix, body }: &Unwritten) -> Result<(), StorageFailed> {
        let mut written = placed.write(prefix, body);
        if written.as_ref().err().and_then(lack) == Some(Lack::Room) {
            // Or another has given it up just now.
            self.journal().ballast.release();
            written = placed.write(prefix, body);
        }
        written.map_err(|error| self.fail("write", error))
    }

    /// Undoes an append whose write failed, and says why.
    fn refuse(&self, state: &mut State, before: &Checkpoint, error: WriteError) -> AppendError {
        let path = state.active().segment.path.to_path_buf();
        let undone = state.undo(before);
        match (error, undone) {
            (first, Err(error)) => {
                tracing::error!("before that: {first}");
                self.fail("cut", error).into()
            }
            (WriteError::Batch(error), Ok(())) => error.into(),
            (WriteError::Io(error), Ok(())) => match lack(&error) {
                Some(Lack::Room) => AppendError::StorageFull { path },
                Some(Lack::Descriptors) => AppendError::Descriptors { path },
                None => self.fail("write", error).into(),
            },
        }
    }

    fn fail(&self, action: &'static str, error: io::Error) -> StorageFailed {
        let failure = failing(action, self.dir())(error);
        self.journal().fail(failure.clone());
        failure
    }

    /// Has the background sync a log that has no journal. Refused once the storage is closing: the last sync may have been.
    fn list(self: &Arc<Self>, state: &mut State) -> Result<(), Ended> {
        let urgent = state.unsynced.bytes >= UNJOURNALED_BYTES_MAX;
        if state.unsynced.listed && !urgent {
            return Ok(());
        }
        let mut queue = self.journal().queue();
        queue.check_open()?;
        if !std::mem::replace(&mut state.unsynced.listed, true) {
            queue.unjournaled.push(self.clone());
        }
        if urgent && !std::mem::replace(&mut queue.sync_unjournaled, true) {
            self.journal().sync_work.notify_one();
        }
        Ok(())
    }
}

impl State {
    /// Whether the log takes appends in that epoch.
    pub(crate) fn check_epoch(&self, epoch: LeaderEpoch) -> Result<(), AppendError> {
        self.life.check()?;
        if self.life.cut.is_some() {
            return Err(AppendError::Truncating);
        }
        match self.epochs.latest() {
            Some(current) if epoch < current => Err(AppendError::StaleEpoch { epoch, current }),
            _ => Ok(()),
        }
    }

    /// The epoch that a leader of `epoch` writes in: that one, unless it is to be seen what happens otherwise.
    pub(crate) fn leading(&self, epoch: LeaderEpoch) -> LeaderEpoch {
        self.epochs.latest().filter(|_| fault::is_on(Fault::ReusedEpoch)).unwrap_or(epoch)
    }
}

/// Checks that `batch` is exactly one batch, as far as its header shows, and fits the journal.
fn check(batch: &Bytes, bytes_max: usize) -> Result<BatchHeader, AppendError> {
    let header = BatchHeader::parse(batch)?;
    if batch.len() > bytes_max {
        return Err(AppendError::TooLarge { bytes: batch.len(), max: bytes_max });
    }
    match (batch.len(), header.batch_bytes()) {
        (remaining, needed) if remaining < needed => Err(BatchError::Truncated { needed, remaining }.into()),
        (len, whole) if len > whole => Err(BatchError::Trailing { bytes: len - whole }.into()),
        _ => Ok(header),
    }
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::World;
    use millstream_model::{PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId};
    use millstream_record::{BatchBuilder, BatchOptions};

    use super::*;
    use crate::{LogId, LogOptions, Storage, StorageOptions};

    #[test]
    fn an_append_that_a_close_overtakes_is_refused_and_leaves_nothing() {
        // The close comes between the look at the storage and the listing for its last sync.
        let world = World::new(1);
        let options = StorageOptions { ballast_bytes: 4096, ..StorageOptions::new("/data") };
        let storage = Storage::open(options, world.env()).unwrap().0;
        let id = LogId::records(TopicId::NIL, PartitionId(0));
        let replicated = LogOptions { durability: Durability::Replicated, ..LogOptions::default() };
        let log = storage.open_log(id, replicated).unwrap();
        log.journal().admit(0).unwrap();
        assert!(log.journal().start_closing());
        let mut state = log.state();
        assert!(matches!(log.list(&mut state), Err(Ended::Closed)) && !state.unsynced.listed);
    }

    #[test]
    fn what_is_not_written_down_of_producers_is_counted_in_bytes_of_batches() {
        let world = World::new(1);
        let storage = Storage::open(StorageOptions::new("/data"), world.env()).unwrap().0;
        let log = storage.open_log(LogId::records(TopicId::NIL, PartitionId(0)), LogOptions::default()).unwrap();
        let (producer_epoch, base_sequence) = (ProducerEpoch(0), Sequence(0));
        let idempotent =
            BatchOptions { producer_id: ProducerId(1), producer_epoch, base_sequence, ..BatchOptions::default() };
        let mut bytes = 0;
        for options in [BatchOptions::default(), idempotent] {
            let mut builder = BatchBuilder::new(options);
            builder.push(TimestampMs(1), None, Some(b"value"), &[]).unwrap();
            let batch = builder.build().unwrap();
            bytes += batch.len() as u64;
            let _ = log.append(batch, LeaderEpoch(1)).unwrap();
            assert_eq!(log.state().producers.unsaved_bytes, bytes);
        }
    }
}
