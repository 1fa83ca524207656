//! One log: append, epochs, and what is asked about it. (Reading is in `read`.)

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use bytes::Bytes;
use millstream_env::{Disk, Lack, lack};
use millstream_model::{Durability, LeaderEpoch, Offset, TimestampMs};
use millstream_record::{BatchError, BatchHeader, PATCH_BYTES, patch};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::{
    AppendError, CommitError, LogId, LogOptions, ReadError, StorageFailed, Ticket,
    bytes_io::failing,
    change::Change,
    compact::passes::Passes,
    fault::{self, Fault},
    frame::{FRAME_HEADER_BYTES, Frame, Kind},
    journal::{Entry, Journal, Way},
    producers::{Producers, Verdict},
    segment::Segment,
    state::{Checkpoint, Part, Placed, State},
    tail::{Copied, Tail},
    ticket::Resolve,
};

/// A log without a journal is synced when this much was written since the last time, bytes (or after the interval).
const UNJOURNALED_BYTES_MAX: u64 = 32 << 20;

/// A batch may be queued before it is written to its segment if it takes no more than this part of the ballast: should the disk be
/// full just then, it must be written all the same, and the rest is for others who must.
const BALLAST_PART: u64 = 8;

/// One open log of a partition. Shared by reference; every method may be called from any thread, and none waits for a sync.
pub struct PartitionLog {
    id: LogId,
    dir: PathBuf,
    /// Its durability is `fsync`. Changed under the lock only.
    pub(crate) journaled: AtomicBool,
    journal: Arc<Journal>,
    flushed: watch::Sender<Flushed>,
    tail: Arc<Tail>,
    state: Mutex<State>,
    /// Held while the log is synced: the sync loop does that, and the commit loop where nobody else does.
    syncing: Mutex<()>,
    /// Held by the pass of compaction that is under way: the passes before, once they were read.
    compacting: Mutex<Option<Passes>>,
}

/// How far a log is durable.
#[derive(Clone, Copy, Debug)]
struct Flushed {
    end: Offset,
    /// The latest truncation: its frame, and where it cut. What was durable before says nothing of the log since.
    cut_lsn: u64,
    cut_end: Offset,
    /// Truncations so far.
    cuts: u64,
}

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
enum Travel {
    /// Through the journal, which is synced at once; or by a reference in it, as the commit loop decides.
    Journal,
    /// In the segment, which is synced in the background: the ticket does not wait.
    Background,
}

impl PartitionLog {
    /// Which log this is.
    #[must_use]
    pub fn id(&self) -> LogId {
        self.id
    }

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
    /// [`AppendError`]; the log is unchanged. ([`AppendError::Failed`]: the next start may find the batch in the journal.)
    pub fn append(self: &Arc<Self>, batch: Bytes, leader_epoch: LeaderEpoch) -> Result<Appended, AppendError> {
        self.append_all(&[batch], leader_epoch)
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
        self.append_all(&batches, leader_epoch)
    }

    /// The batch with this header as an idempotent producer has sent it before, if it is remembered. `header`: as the producer
    /// sends it.
    #[must_use]
    pub fn find_duplicate(&self, header: &BatchHeader) -> Option<Appended> {
        // Held until its ticket is made: were the log cut and written on in between, what is durable would be another batch.
        let state = self.state.lock();
        let verdict = state.producers.check(header, self.journal.now()).ok()?;
        self.duplicate(verdict)
    }

    /// Notes that a leader's term begins at the log's end; journaled. The leader calls it before its first append.
    /// The current epoch again is no change.
    ///
    /// # Errors
    /// [`AppendError::StaleEpoch`] and those of a storage that takes no appends.
    pub fn start_epoch(self: &Arc<Self>, epoch: LeaderEpoch) -> Result<Ticket, AppendError> {
        let mut state = self.state.lock();
        state.check_epoch(epoch)?;
        let epoch = state.leading(epoch);
        let (resolve, ticket) = Ticket::new();
        let end = state.end;
        // The current epoch is journaled again, so that this ticket too stands for it.
        self.enqueue(&mut state, [self.mutation(Kind::EpochStart, epoch, (end, end), resolve)])?;
        state.epochs_changed |= state.epochs.begin(epoch, end);
        drop(state);
        self.journal.commit_work.notify_one();
        Ok(ticket)
    }

    /// The first offset that can be read.
    #[must_use]
    pub fn start_offset(&self) -> Offset {
        self.state.lock().start
    }

    /// The offset that the next record gets.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.state.lock().end
    }

    /// The end of what is durable on this disk: what the high watermark counts under `fsync`. Only a truncation moves it back.
    #[must_use]
    pub fn flushed_end(&self) -> Offset {
        self.flushed.borrow().end
    }

    /// What the log's batches take on disk, bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.state.lock().parts.iter().map(|part| part.len).sum()
    }

    /// The newest epoch that has started; none in an empty log that no leader has opened.
    #[must_use]
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.state.lock().epochs.latest()
    }

    /// Where an epoch ends (KIP-279): the greatest epoch at or below the one asked for and the offset at which the next one
    /// starts, or the log's end. None if the log knows no epoch that old.
    #[must_use]
    pub fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let state = self.state.lock();
        state.epochs.end_of(epoch, state.end)
    }

    pub(crate) fn new(id: LogId, journal: Arc<Journal>, durability: Durability, state: State, flushed: Offset) -> Self {
        let dir = journal.options.dir.join(id.path());
        let flushed = Flushed { end: flushed, cut_lsn: 0, cut_end: Offset(0), cuts: 0 };
        let (tail, flushed) = (journal.tails.tail(), watch::Sender::new(flushed));
        let (state, syncing, compacting) = (Mutex::new(state), Mutex::default(), Mutex::default());
        let journaled = AtomicBool::new(durability == Durability::Fsync);
        Self { id, dir, journaled, journal, flushed, tail, state, syncing, compacting }
    }

    /// A log that holds nothing. Its directory must be made before the first append.
    pub(crate) fn empty(id: LogId, journal: Arc<Journal>, options: LogOptions) -> Self {
        let dir = journal.options.dir.join(id.path());
        let segment = Arc::new(Segment::new(&journal.handles, &dir, Offset(0)));
        let producers = Producers::new(journal.producer_limits());
        let state = State::new(vec![Part { segment, len: 0 }], Offset(0), Offset(0), options, producers, journal.now());
        Self::new(id, journal, options.durability, state, Offset(0))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.journal.disk
    }

    pub(crate) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    pub(crate) fn tail(&self) -> &Arc<Tail> {
        &self.tail
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn syncing(&self) -> &Mutex<()> {
        &self.syncing
    }

    pub(crate) fn compacting(&self) -> &Mutex<Option<Passes>> {
        &self.compacting
    }

    /// Whether nothing was ever appended, journaled or marked.
    pub(crate) fn is_untouched(&self) -> bool {
        let state = self.state.lock();
        state.end == Offset(0) && state.lsn == 0 && state.mark.is_none() && state.dropped.is_none()
    }

    /// Notes that all below `end` is durable, as of frame `lsn`. Never goes back.
    pub(crate) fn advance_flushed(&self, end: Offset, lsn: u64) {
        self.flushed.send_if_modified(|flushed| {
            let ahead = end > flushed.end && lsn >= flushed.cut_lsn;
            if ahead {
                flushed.end = end;
            }
            ahead
        });
    }

    /// Notes that frame `lsn` cuts the log at `end`.
    pub(crate) fn cut_flushed(&self, end: Offset, lsn: u64) {
        self.flushed.send_modify(|flushed| {
            let cuts = flushed.cuts + 1;
            *flushed = Flushed { end: flushed.end.min(end), cut_lsn: lsn, cut_end: end, cuts };
        });
    }

    /// Whether what a frame appended was cut off since.
    pub(crate) fn was_cut(&self, frame: &Frame) -> bool {
        // One truncation at a time: it ends after all frames before its own.
        let flushed = self.flushed.borrow();
        frame.kind == Kind::Append && frame.lsn < flushed.cut_lsn && frame.end_offset > flushed.cut_end
    }

    /// Takes no more appends and reads; journals the deletion.
    pub(crate) fn delete(self: &Arc<Self>) -> Result<Ticket, AppendError> {
        let mut state = self.state.lock();
        if state.dropped.is_some() {
            return Err(AppendError::Deleted);
        }
        let (resolve, ticket) = Ticket::new();
        let (epoch, end) = (state.epochs.latest().unwrap_or(LeaderEpoch::UNKNOWN), state.end);
        self.enqueue(&mut state, [self.mutation(Kind::Drop, epoch, (end, end), resolve)])?;
        self.tail.clear();
        Self::abandon_cut(&mut state);
        Self::abandon_change(&mut state);
        drop(state);
        self.journal.commit_work.notify_one();
        Ok(ticket)
    }

    /// How a batch becomes durable.
    fn travel(&self) -> Travel {
        match self.durability() {
            Durability::Fsync => Travel::Journal,
            Durability::Replicated => Travel::Background,
        }
    }

    fn append_all(self: &Arc<Self>, batches: &[Bytes], epoch: LeaderEpoch) -> Result<Appended, AppendError> {
        let travel = self.travel();
        let mut journal_bytes = 0;
        let now = self.journal.now();
        let mut idempotent = None;
        for batch in batches {
            let header = check(batch, self.journal.batch_bytes_max())?;
            journal_bytes += FRAME_HEADER_BYTES + batch.len();
            if header.has_producer_id() {
                if batches.len() > 1 {
                    return Err(AppendError::NotAlone);
                }
                idempotent = Some(header);
            }
        }
        let bytes = journal_bytes - batches.len() * FRAME_HEADER_BYTES;
        let way = if bytes >= self.journal.options.append_ref_bytes { Way::Undecided } else { Way::Whole };
        let (resolve, ticket) = match travel {
            Travel::Journal => Some(Ticket::new()),
            Travel::Background => None,
        }
        .unzip();
        let idle = self.journal.admit(if travel == Travel::Journal { journal_bytes } else { 0 })?;
        // Nobody else's append shares its group: the commit loop need not wait for the segment. (What it syncs there itself, it must.)
        let room = journal_bytes as u64 <= self.journal.options.ballast_bytes / BALLAST_PART;
        let alone = idle && room && batches.len() == 1 && travel == Travel::Journal && way == Way::Whole;
        let queue_first = if alone { self.journal.queued_first.try_lock() } else { None };

        let mut state = self.state.lock();
        state.check_epoch(epoch)?;
        // Or it has been changed since it was looked at.
        if state.change.as_ref().is_some_and(Change::holds) || self.travel() != travel {
            return Err(AppendError::Changing);
        }
        let epoch = state.leading(epoch);
        if let Some(header) = &idempotent {
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
        let mut entries = Vec::with_capacity(batches.len());
        let (followed, mut copies) = (self.tail.is_followed(), Vec::new());
        let mut unwritten = None;
        for batch in batches {
            match self.place(&mut state, batch, epoch, now, way) {
                Ok((placed, entry)) => {
                    if queue_first.is_some() && placed.is_usual(batch.len()) {
                        unwritten = Some((placed, entry.prefix, entry.body.clone()));
                    } else if let Err(error) = placed.write(&entry.prefix, &entry.body) {
                        return Err(self.refuse(&mut state, &before, error.into()));
                    }
                    if followed {
                        let Entry { frame, prefix, body, .. } = &entry;
                        copies.push(Copied::new(frame.base_offset, frame.end_offset, prefix, body));
                    }
                    entries.push(entry);
                }
                Err(error) => return Err(self.refuse(&mut state, &before, error)),
            }
        }
        let last = entries.last_mut().ok_or(AppendError::Empty)?;
        last.resolve = resolve;
        let queued = match travel {
            Travel::Journal => self.enqueue(&mut state, entries),
            Travel::Background => self.list(&mut state),
        };
        if let Err(error) = queued {
            // Closed or failed since it was asked.
            return Err(match state.undo(&before) {
                Ok(()) => error,
                Err(source) => self.fail("cut", source).into(),
            });
        }
        if travel == Travel::Journal {
            self.journal.commit_work.notify_one();
        }
        if let Some((placed, prefix, body)) = unwritten {
            self.write_queued(&placed, &prefix, &body).inspect_err(|_| {
                // The storage has failed: what the next start finds decides. Until then nothing that is not there is read.
                let _ = state.undo(&before);
            })?;
        }
        drop(queue_first);
        self.tail.push(copies);
        state.epochs_changed |= state.epochs.begin(epoch, base);
        // Only now: what was undone has left no trace in its producer's sequence.
        match idempotent {
            Some(header) => state.note(&BatchHeader { base_offset: base, ..header }, now),
            None => state.unsaved_bytes += bytes as u64,
        }
        let last_offset = Offset(state.end.0 - 1);
        assert!(last_offset >= base, "an append took no offset");
        drop(state);
        let ticket = ticket.unwrap_or_else(Ticket::done);
        Ok(Appended { base_offset: base, last_offset, duplicate: false, ticket })
    }

    /// What a duplicate is answered with.
    fn duplicate(&self, verdict: Verdict) -> Option<Appended> {
        let Verdict::Duplicate { base_offset, last_offset } = verdict else { return None };
        let ticket = match self.travel() {
            Travel::Journal if !fault::is_on(Fault::EarlyDuplicate) => self.flushed_past(last_offset),
            _ => Ticket::done(),
        };
        Some(Appended { base_offset, last_offset, duplicate: true, ticket })
    }

    /// A ticket for a batch that has one already: it resolves when that offset is durable.
    fn flushed_past(&self, offset: Offset) -> Ticket {
        if self.flushed_end() > offset {
            return Ticket::done();
        }
        let (mut flushed, mut ended) = (self.flushed.subscribe(), self.journal.subscribe_ended());
        let cuts = flushed.borrow().cuts;
        Ticket::watching(async move {
            tokio::select! {
                // What was durable before the end is durable after it.
                biased;
                reached = flushed.wait_for(|flushed| flushed.end > offset || flushed.cuts > cuts) => match reached {
                    // What is there now may be another's.
                    Ok(flushed) if flushed.cuts > cuts => Err(CommitError::Truncated),
                    reached => reached.map(|_| ()).map_err(|_| CommitError::Stopped),
                },
                why = ended.wait_for(Option::is_some) => {
                    Err(why.ok().and_then(|why| why.clone()).unwrap_or(CommitError::Stopped))
                }
            }
        })
    }

    /// Gives one batch its place in a segment, patched, and makes the frame for it.
    fn place(
        self: &Arc<Self>,
        state: &mut State,
        batch: &Bytes,
        epoch: LeaderEpoch,
        now: TimestampMs,
        way: Way,
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
            log: self.id,
            durability: self.durability(),
            leader_epoch: epoch,
            base_offset: header.base_offset,
            end_offset: header.end_offset(),
            // `check` has bounded it.
            payload_bytes: u32::try_from(batch.len()).unwrap_or(u32::MAX),
            payload_crc: header.crc,
        };
        Ok((placed, Entry { frame, prefix, prefix_bytes: PATCH_BYTES, body, log: self.clone(), way, resolve: None }))
    }

    /// Writes a batch whose frame is queued, and may be durable already: it cannot be refused any more. Readers wait for the log's
    /// lock. The disk may be full: there is room set aside.
    fn write_queued(&self, placed: &Placed, prefix: &[u8], body: &[u8]) -> Result<(), StorageFailed> {
        let mut written = placed.write(prefix, body);
        if written.as_ref().err().and_then(lack) == Some(Lack::Room) {
            // Or another has given it up just now.
            self.journal.ballast.release();
            written = placed.write(prefix, body);
        }
        written.map_err(|error| self.fail("write", error))
    }

    pub(crate) fn segment(&self, base: Offset) -> Segment {
        Segment::new(&self.journal.handles, &self.dir, base)
    }

    /// Undoes an append whose write failed, and says why.
    fn refuse(&self, state: &mut State, before: &Checkpoint, error: WriteError) -> AppendError {
        let path = state.active().segment.path.to_path_buf();
        let undone = state.undo(before);
        match (error, undone) {
            (_, Err(error)) => self.fail("cut", error).into(),
            (WriteError::Batch(error), Ok(())) => error.into(),
            (WriteError::Io(error), Ok(())) => match lack(&error) {
                Some(Lack::Room) => AppendError::StorageFull { path },
                Some(Lack::Descriptors) => AppendError::Descriptors { path },
                None => self.fail("write", error).into(),
            },
        }
    }

    fn fail(&self, action: &'static str, error: io::Error) -> StorageFailed {
        let failure = failing(action, &self.dir)(error);
        self.journal.fail(failure.clone());
        failure
    }

    /// Queues frames of this log and pins the journal from the first of them on. Called under the log's
    /// lock, so that its frames are in the order of its offsets.
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        state: &mut State,
        entries: impl IntoIterator<Item = Entry>,
    ) -> Result<(), AppendError> {
        let mut queue = self.journal.queue();
        queue.check_open()?;
        let first = queue.next_lsn;
        for entry in entries {
            let kind = entry.frame.kind;
            let lsn = queue.push(entry);
            match kind {
                Kind::Drop => state.dropped = Some(lsn),
                Kind::Append | Kind::Carry => state.lsn = lsn,
                _ => (state.lsn, state.changed_lsn) = (lsn, lsn),
            }
        }
        if state.pin_at(first) {
            queue.pins.insert(first, self.clone());
        }
        Ok(())
    }

    /// A frame without a payload: its first offset, and the log's end after it.
    pub(crate) fn mutation(
        self: &Arc<Self>,
        kind: Kind,
        leader_epoch: LeaderEpoch,
        (base_offset, end_offset): (Offset, Offset),
        resolve: Resolve,
    ) -> Entry {
        Entry {
            frame: Frame {
                lsn: 0,
                kind,
                log: self.id,
                durability: self.durability(),
                leader_epoch,
                base_offset,
                end_offset,
                payload_bytes: 0,
                payload_crc: 0,
            },
            prefix: [0; PATCH_BYTES],
            prefix_bytes: 0,
            body: Bytes::new(),
            log: self.clone(),
            way: Way::Whole,
            resolve: Some(resolve),
        }
    }

    /// Has the background sync a log that has no journal. Refused once the storage is closing: the last sync may have been.
    fn list(self: &Arc<Self>, state: &mut State) -> Result<(), AppendError> {
        let urgent = state.unsynced_bytes >= UNJOURNALED_BYTES_MAX;
        if state.listed && !urgent {
            return Ok(());
        }
        let mut queue = self.journal.queue();
        queue.check_open()?;
        if !std::mem::replace(&mut state.listed, true) {
            queue.unjournaled.push(self.clone());
        }
        if urgent && !std::mem::replace(&mut queue.sync_unjournaled, true) {
            self.journal.sync_work.notify_one();
        }
        Ok(())
    }
}

impl std::fmt::Debug for PartitionLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PartitionLog({})", self.id)
    }
}

impl State {
    /// Whether the log takes appends in that epoch.
    fn check_epoch(&self, epoch: LeaderEpoch) -> Result<(), AppendError> {
        if self.dropped.is_some() {
            return Err(AppendError::Deleted);
        }
        if self.cut.is_some() {
            return Err(AppendError::Truncating);
        }
        match self.epochs.latest() {
            Some(current) if epoch < current => Err(AppendError::StaleEpoch { epoch, current }),
            _ => Ok(()),
        }
    }

    /// The epoch that a leader of `epoch` writes in: that one, unless it is to be seen what happens otherwise.
    fn leading(&self, epoch: LeaderEpoch) -> LeaderEpoch {
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
    use std::{sync::mpsc, time::Duration};

    use futures::future::BoxFuture;
    use millstream_env::{Clock, Env, Monotonic, sim::World};
    use millstream_model::{PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId};
    use millstream_record::{BatchBuilder, BatchOptions};

    use super::*;
    use crate::{Storage, StorageOptions};

    #[test]
    fn an_append_that_a_close_overtakes_is_refused_and_leaves_nothing() {
        // The close comes between the look at the storage and the listing for its last sync.
        let world = World::new(1);
        let options = StorageOptions { ballast_bytes: 4096, ..StorageOptions::new("/data") };
        let storage = Storage::open(options, world.env()).unwrap().0;
        let id = LogId::records(TopicId::NIL, PartitionId(0));
        let replicated = LogOptions { durability: Durability::Replicated, ..LogOptions::default() };
        let log = storage.open_log(id, replicated).unwrap();
        log.journal.admit(0).unwrap();
        assert!(log.journal.start_closing());
        let mut state = log.state();
        assert!(matches!(log.list(&mut state), Err(AppendError::Closed)) && !state.listed);
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
            assert_eq!(log.state().unsaved_bytes, bytes);
        }
    }

    /// Says when it is asked for the time.
    struct Telling(Arc<dyn Clock>, mpsc::Sender<()>);

    impl Clock for Telling {
        fn now(&self) -> Monotonic {
            self.0.now()
        }

        fn wall_ms(&self) -> i64 {
            let _ = self.1.send(());
            self.0.wall_ms()
        }

        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            self.0.sleep(duration)
        }
    }

    /// A batch was found, the log was cut and written on, and the batch's offsets were durable: another's. Its producer was told that
    /// the batch is.
    #[test]
    fn no_log_is_cut_between_finding_a_duplicate_and_looking_whether_it_is_durable() {
        let (world, (told, asked)) = (World::new(1), mpsc::channel());
        let env = Env { clock: Arc::new(Telling(world.env().clock, told)), ..world.env() };
        let storage = Storage::open(StorageOptions::new("/data"), env).unwrap().0;
        let log = storage.open_log(LogId::records(TopicId::NIL, PartitionId(0)), LogOptions::default()).unwrap();
        let (producer_id, producer_epoch, base_sequence) = (ProducerId(1), ProducerEpoch(0), Sequence(0));
        let options = BatchOptions { producer_id, producer_epoch, base_sequence, ..BatchOptions::default() };
        let mut builder = BatchBuilder::new(options);
        builder.push(TimestampMs(1), None, Some(b"value"), &[]).unwrap();
        let batch = builder.build().unwrap();
        let header = BatchHeader::parse(&batch).unwrap();
        let _ = log.append(batch, LeaderEpoch(1)).unwrap();
        while asked.try_recv().is_ok() {}
        std::thread::scope(|scope| {
            let mut finder = None;
            log.flushed.send_modify(|_| {
                // It looks for the batch, by the time of day, and then waits here to see what is durable.
                finder = Some(scope.spawn(|| log.find_duplicate(&header)));
                asked.recv().unwrap();
                let cutter = log.state.try_lock_for(Duration::from_millis(500));
                assert!(cutter.is_none(), "the log can be cut meanwhile");
            });
            assert!(finder.unwrap().join().unwrap().is_some_and(|found| found.duplicate));
        });
    }
}
