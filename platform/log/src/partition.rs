//! One log: what it is made of, its epochs, how far it is durable, and what is asked about it. (Appending is in `append`, reading in
//! `read`.)

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use bytes::Bytes;
use millstream_env::Disk;
use millstream_model::{Durability, LeaderEpoch, Offset};
use millstream_record::PATCH_BYTES;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::{
    AppendError, CommitError, Ended, LogId, LogOptions, Ticket,
    compact::passes::Passes,
    frame::{Frame, Kind},
    journal::Journal,
    place::Place,
    producers::{KnownProducer, Producers},
    queue::{Entry, Way},
    segment::Segment,
    state::{Part, State},
    tail::Tail,
    ticket::Resolve,
};

/// One open log of a partition. Shared by reference; every method may be called from any thread, and none waits for a sync.
pub struct PartitionLog {
    place: Arc<Place>,
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

impl PartitionLog {
    /// Which log this is.
    #[must_use]
    pub fn id(&self) -> LogId {
        self.place.id()
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
        let mut entry = self.mutation(Kind::EpochStart, epoch, (end, end), resolve);
        entry.frame.payload_crc = state.made.in_frame();
        // The current epoch is journaled again, so that this ticket too stands for it.
        self.enqueue(&mut state, [entry])?;
        state.epochs.begin(epoch, end);
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
        self.state.lock().size_bytes()
    }

    /// The producers whose batches would be known again, by id.
    #[must_use]
    pub fn producers(&self) -> Vec<KnownProducer> {
        let mut producers: Vec<_> = self.state.lock().producers.known(self.journal.now()).collect();
        producers.sort_unstable_by_key(|producer| producer.id);
        producers
    }

    /// The newest epoch that has started; none in an empty log that no leader has opened.
    #[must_use]
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.state.lock().epochs.latest()
    }

    /// The epoch of a record at this offset, or that the next one gets where it is the log's end; none before the first that is known.
    #[must_use]
    pub fn epoch_of(&self, at: Offset) -> Option<LeaderEpoch> {
        self.state.lock().epochs.of(at).0
    }

    /// Where an epoch ends (KIP-279): the greatest epoch at or below the one asked for and the offset at which the next one
    /// starts, or the log's end. None if the log knows no epoch that old.
    #[must_use]
    pub fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let state = self.state.lock();
        state.epochs.end_of(epoch, state.end)
    }

    pub(crate) fn new(
        place: Arc<Place>,
        journal: Arc<Journal>,
        durability: Durability,
        state: State,
        flushed: Offset,
    ) -> Self {
        let flushed = Flushed { end: flushed, cut_lsn: 0, cut_end: Offset(0), cuts: 0 };
        let (tail, flushed) = (journal.tails.tail(), watch::Sender::new(flushed));
        let (state, syncing, compacting) = (Mutex::new(state), Mutex::default(), Mutex::default());
        let journaled = AtomicBool::new(durability == Durability::Fsync);
        Self { place, journaled, journal, flushed, tail, state, syncing, compacting }
    }

    /// A log that holds nothing. Its directory must be made before the first append.
    pub(crate) fn empty(id: LogId, journal: Arc<Journal>, options: LogOptions) -> Self {
        let place = Arc::new(Place::new(&journal.options.dir, id));
        let segment = Arc::new(Segment::new(&journal.handles, &place, Offset(0)));
        let producers = Producers::new(journal.producer_limits());
        let state = State::new(vec![Part { segment, len: 0 }], Offset(0), Offset(0), options, producers, journal.now());
        Self::new(place, journal, options.durability, state, Offset(0))
    }

    pub(crate) fn dir(&self) -> &Path {
        self.place.dir()
    }

    pub(crate) fn its_place(&self) -> &Arc<Place> {
        &self.place
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
        state.end == Offset(0) && state.frames.last == 0 && state.durable.mark.is_none() && state.life.dropped.is_none()
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

    /// A ticket for a batch that has one already: it resolves when that offset is durable.
    pub(crate) fn flushed_past(&self, offset: Offset) -> Ticket {
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

    /// Takes no more appends and reads; journals the deletion.
    pub(crate) fn delete(self: &Arc<Self>) -> Result<Ticket, Ended> {
        let mut state = self.state.lock();
        state.life.check()?;
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

    pub(crate) fn segment(&self, base: Offset) -> Segment {
        Segment::new(&self.journal.handles, &self.place, base)
    }

    /// Queues frames of this log and pins the journal from the first of them on. Called under the log's
    /// lock, so that its frames are in the order of its offsets.
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        state: &mut State,
        entries: impl IntoIterator<Item = Entry>,
    ) -> Result<(), Ended> {
        let mut queue = self.journal.queue();
        queue.check_open()?;
        let first = queue.next_lsn;
        for entry in entries {
            let kind = entry.frame.kind;
            let lsn = queue.push(entry);
            match kind {
                Kind::Drop => state.life.dropped = Some(lsn),
                kind => state.frames.queued(kind, lsn),
            }
        }
        if state.frames.pin_at(first) {
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
                log: self.id(),
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
}

impl std::fmt::Debug for PartitionLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PartitionLog({})", self.id())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use futures::future::BoxFuture;
    use millstream_env::{Clock, Env, Monotonic, sim::World};
    use millstream_model::{PartitionId, ProducerEpoch, ProducerId, Sequence, TimestampMs, TopicId};
    use millstream_record::{BatchBuilder, BatchHeader, BatchOptions};

    use super::*;
    use crate::{Storage, StorageOptions};

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
