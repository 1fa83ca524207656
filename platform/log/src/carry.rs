//! Carrying a log forward: its batches past the mark are journaled once more, so that the oldest journal file can be recycled
//! without a sync of the log.
//!
//! A sync of one log is three or four syncs of files and directories. What a thousand logs with a few batches each pin goes into
//! the journal's newest file with a handful of syncs instead, most of which appends wait for anyway.
//!
//! ```text
//! oldest file        ...               newest file
//! +----------------+ +---------------+ +------------------------+
//! | a5 b9 a6 b10 . | | c7 b11 a7 ... | | c8 {a5 a6 a7} {b9..11} |
//! +----------------+ +---------------+ +------------------------+
//!   pinned by a, b                       two Carry frames: from here on a and b pin this file
//! ```
//!
//! A Carry has *all* batches past the mark, also those whose frames are not in the oldest file: so a log needs one Carry at most,
//! its newest, and nothing of the journal before it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use millstream_model::{Durability, LeaderEpoch, Offset};
use millstream_record::{PATCH_BYTES, crc32c};

use crate::{
    PartitionLog,
    fault::{self, Fault},
    frame::{FRAME_HEADER_BYTES, Frame, Kind, batches_in},
    journal::Journal,
    mark::Mark,
    pin::Pin,
    queue::{Entry, Way},
    state::State,
};

/// The batches of a log past its mark are carried if they are not more together, bytes: a sync costs more than this.
const CARRY_BYTES_MAX: u64 = 64 << 10;

/// What is journaled again of a log between two syncs of it, bytes at most: what was spent on carrying it is then about what a sync
/// costs (two flushes of a fast disk write as much), so that it is never much more than if it were known what comes. A log
/// with a batch of 1 KiB for each turn of the journal is synced every sixteenth time, one with nothing more to come in the end.
const CARRIED_BYTES_MAX: u64 = 128 << 10;

/// For each file that is recycled, this part of a file is carried at most, or the journal would fill with what it empties of.
const FILE_PART: u64 = 4;

/// From so much past its mark on, bytes, a log is synced before the journal needs it: there is little to be saved by more.
const LARGE_BYTES_MIN: u64 = 1 << 20;

/// How a log was carried since its mark.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Carried {
    /// Bytes of all its Carry frames.
    bytes: u64,
    /// The frame, as long as it is not known to be durable.
    under_way: Option<u64>,
}

/// A Carry on its way to the disk.
pub(crate) struct Carrying {
    lsn: u64,
    bytes: usize,
    log: Arc<PartitionLog>,
}

/// What became of the wish to carry a log.
pub(crate) enum Carry {
    Queued,
    /// It is queued already.
    UnderWay,
    /// As much as goes into one group is on its way.
    Enough,
    /// The log is to be synced.
    Unfit,
}

/// Carries a log forward, if that is cheaper than a sync. Only the sync loop calls this.
pub(crate) fn carry(journal: &Journal, log: &Arc<PartitionLog>) -> Carry {
    if log.durability() != Durability::Fsync {
        return Carry::Unfit;
    }
    let mut state = log.state();
    if state.frames.carried.under_way.is_some() {
        return Carry::UnderWay;
    }
    if journal.queue().carries.iter().map(|carrying| carrying.bytes).sum::<usize>() >= journal.options.group_bytes_max {
        return Carry::Enough;
    }
    let left = (journal.options.journal_file_bytes / FILE_PART).saturating_sub(journal.ring().carried_bytes);
    let left = left.min(CARRIED_BYTES_MAX - state.frames.carried.bytes).saturating_sub(FRAME_HEADER_BYTES as u64);
    let bytes_max = CARRY_BYTES_MAX.min(journal.batch_bytes_max() as u64).min(left);
    let Some((base, payload)) = state.past_mark(bytes_max) else { return Carry::Unfit };
    let entry = Entry {
        frame: Frame {
            lsn: 0,
            kind: Kind::Carry,
            log: log.id(),
            durability: Durability::Fsync,
            leader_epoch: state.epochs.latest().unwrap_or(LeaderEpoch::UNKNOWN),
            base_offset: base,
            end_offset: state.end,
            // Bounded above.
            payload_bytes: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            payload_crc: crc32c(&payload),
        },
        prefix: [0; PATCH_BYTES],
        prefix_bytes: 0,
        body: payload,
        log: log.clone(),
        way: Way::Whole,
        resolve: None,
    };
    let bytes = entry.bytes();
    // Closed or failed since: what is left to do is a sync, or nothing.
    if log.enqueue(&mut state, [entry]).is_err() {
        return Carry::Unfit;
    }
    let lsn = state.frames.last;
    state.frames.carried = Carried { bytes: state.frames.carried.bytes + bytes as u64, under_way: Some(lsn) };
    drop(state);
    journal.queue().carries.push_back(Carrying { lsn, bytes, log: log.clone() });
    journal.ring().carried_bytes += bytes as u64;
    journal.commit_work.notify_one();
    Carry::Queued
}

/// Lets logs whose Carry is durable pin the journal from there on. Only the sync loop calls this.
pub(crate) fn settle(journal: &Journal) {
    let committed = match fault::is_on(Fault::EarlyCarry) {
        true => u64::MAX,
        false => journal.ring().committed_lsn,
    };
    let next = || journal.queue().carries.pop_front_if(|carrying| carrying.lsn <= committed);
    while let Some(Carrying { lsn, log, .. }) = next() {
        let mut state = log.state();
        // A sync may have overtaken it, or the log was deleted.
        let awaited = state.frames.carried.under_way.take_if(|awaited| *awaited == lsn).is_some();
        if let Pin::At(first) = state.frames.pin
            && awaited
        {
            assert!(first < lsn, "a log is carried forward");
            state.frames.pin = Pin::At(lsn);
            let mut queue = journal.queue();
            queue.pins.remove(&first);
            queue.pins.insert(lsn, log.clone());
        }
    }
}

#[cfg(test)]
thread_local! {
    /// How often a log was looked at for that, by this thread.
    pub(crate) static LOOKS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Whether a log has so much past its mark that it can as well be synced now.
pub(crate) fn is_large(log: &PartitionLog) -> bool {
    #[cfg(test)]
    LOOKS.set(LOOKS.get() + 1);
    log.state().bytes_past_mark().is_some_and(|past| past.bytes >= LARGE_BYTES_MIN)
}

/// Where the batches past a log's mark lie.
struct PastMark {
    /// The part of the log that they begin in, and where in its segment, bytes.
    at: usize,
    position: u64,
    bytes: u64,
}

impl State {
    /// The batches past the mark, as stored, and where they begin; none where the log is to be synced.
    fn past_mark(&self, bytes_max: u64) -> Option<(Offset, Bytes)> {
        let mark = self.durable.mark.unwrap_or_else(|| Mark::empty(Durability::Fsync));
        // Epochs without batches, starts and ends are told by no batch.
        let others = self.frames.changed > mark.lsn
            || self.life.cut.is_some()
            || self.life.dropped.is_some()
            || self.loaded.unmarked;
        if others || self.end == mark.end {
            return None;
        }
        let PastMark { at, mut position, bytes } = self.bytes_past_mark()?;
        if bytes > bytes_max {
            return None;
        }
        let mut payload = BytesMut::zeroed(usize::try_from(bytes).ok()?);
        let mut filled = 0;
        for part in &self.parts[at..] {
            let len = usize::try_from(part.len.checked_sub(position)?).ok()?;
            if len > 0 {
                let file = part.segment.handle.reader().ok()?;
                let read = file.read_at(&mut payload[filled..filled + len], position).ok()?;
                if read < len {
                    return None;
                }
            }
            (filled, position) = (filled + len, 0);
        }
        self.is_sound(&payload, mark.end).then(|| (mark.end, payload.freeze()))
    }

    /// None where the mark does not tell where they begin.
    fn bytes_past_mark(&self) -> Option<PastMark> {
        let mark = self.durable.mark.unwrap_or_else(|| Mark::empty(Durability::Fsync));
        let at = self.parts.partition_point(|part| part.segment.base <= mark.end).checked_sub(1)?;
        let base = self.parts[at].segment.base;
        let position = match () {
            () if base == mark.segment_base => mark.segment_len,
            () if base == mark.end => 0,
            () => return None,
        };
        let bytes = self.parts[at..].iter().map(|part| part.len).sum::<u64>().checked_sub(position)?;
        Some(PastMark { at, position, bytes })
    }

    /// Whether these are the batches from offset `base` on, as they were appended. They take the place of frames that are sound, and
    /// came from where a medium may have changed them.
    fn is_sound(&self, payload: &[u8], base: Offset) -> bool {
        let Some((batches, end)) = batches_in(payload, base) else { return false };
        end == self.end
            && batches.iter().all(|(header, batch)| {
                let (epoch, _) = self.epochs.of(header.base_offset);
                header.crc_matches(batch) && epoch.is_none_or(|epoch| epoch == header.partition_leader_epoch)
            })
    }
}

#[cfg(test)]
mod tests {
    use millstream_env::{Disk, OpenMode, sim::World};
    use millstream_model::{PartitionId, TimestampMs, TopicId};
    use millstream_record::{BatchBuilder, BatchOptions};

    use super::*;
    use crate::{LogId, LogOptions, Storage, StorageOptions, sync_log::Synced, sync_plan::Cause};

    const EPOCH: LeaderEpoch = LeaderEpoch(1);

    fn batch(bytes: usize) -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(TimestampMs(1), None, Some(&vec![7; bytes]), &[]).unwrap();
        builder.build().unwrap()
    }

    struct Bench {
        world: World,
        _storage: Storage,
        log: Arc<PartitionLog>,
    }

    impl Bench {
        /// The loops do not run unless they are let.
        fn new(durability: Durability) -> Self {
            let world = World::new(1);
            let options = StorageOptions { ballast_bytes: 4096, ..StorageOptions::new("/data") };
            let storage = Storage::open(options, world.env()).unwrap().0;
            let id = LogId::records(TopicId::NIL, PartitionId(0));
            let options = LogOptions { segment_bytes: 3500, durability, ..LogOptions::default() };
            let log = storage.open_log(id, options).unwrap();
            Self { world, _storage: storage, log }
        }

        fn append(&self, bytes: usize) {
            let _ = self.log.append(batch(bytes), EPOCH).unwrap();
        }

        fn carry(&self) -> Carry {
            carry(self.log.journal(), &self.log)
        }

        /// Lets what is queued become durable, and says so.
        fn commit(&self) {
            let ticket = self.log.advance_start(self.log.start_offset()).unwrap();
            self.world.run_until(ticket).unwrap();
            self.world.run_for(std::time::Duration::from_millis(1));
            settle(self.log.journal());
        }

        fn sync(&self) {
            assert!(matches!(self.log.sync(Cause::Turn), Ok(Synced::Done)));
        }
    }

    #[test]
    fn the_pin_moves_when_the_frame_is_durable_and_unless_a_sync_overtakes_it() {
        let bench = Bench::new(Durability::Fsync);
        let pin = || bench.log.state().frames.pin;
        bench.append(10);
        bench.append(10);
        assert_eq!(pin(), Pin::At(1));
        assert!(matches!(bench.carry(), Carry::Queued));
        bench.append(10);
        assert!(matches!(bench.carry(), Carry::UnderWay));
        settle(bench.log.journal());
        assert_eq!(pin(), Pin::At(1), "it is queued, and no more");
        bench.commit();
        assert_eq!(pin(), Pin::At(3));
        assert_eq!(bench.log.journal().queue().pins.keys().copied().collect::<Vec<_>>(), [3]);
        bench.sync();
        assert_eq!(pin(), Pin::Free);

        bench.append(10);
        assert!(matches!(bench.carry(), Carry::Queued));
        bench.sync();
        bench.append(10);
        let Pin::At(first) = pin() else { panic!("it is pinned again") };
        bench.commit();
        assert_eq!(pin(), Pin::At(first), "the frame that was overtaken moves nothing");
    }

    #[test]
    fn all_batches_past_the_mark_are_carried_from_however_many_segments() {
        let bench = Bench::new(Durability::Fsync);
        for _ in 0..4 {
            bench.append(1000);
        }
        bench.sync();
        for _ in 0..7 {
            bench.append(1000);
        }
        let state = bench.log.state();
        assert_eq!((state.parts.len(), state.durable.mark.unwrap().segment_base), (4, Offset(3)));
        let (base, payload) = state.past_mark(u64::MAX).unwrap();
        let (batches, end) = batches_in(&payload, base).unwrap();
        assert_eq!((base, batches.len(), end), (Offset(4), 7, Offset(11)));
        assert!(state.past_mark(payload.len() as u64).is_some());
        assert!(state.past_mark(payload.len() as u64 - 1).is_none(), "a byte too much");
    }

    #[test]
    fn a_log_with_much_past_its_mark_is_synced_before_the_journal_is_half_full() {
        let world = World::new(1);
        let options = StorageOptions {
            ballast_bytes: 4096,
            journal_file_bytes: 1 << 20,
            journal_bytes_max: 16 << 20,
            ..StorageOptions::new("/data")
        };
        let storage = Storage::open(options, world.env()).unwrap().0;
        let open = |at| storage.open_log(LogId::records(TopicId::NIL, PartitionId(at)), LogOptions::default()).unwrap();
        let (large, small) = (open(0), open(1));
        let is_marked = |log: &PartitionLog| log.state().durable.mark.is_some_and(|mark| mark.end > Offset(0));
        world.run_until(small.append(batch(100_000), EPOCH).unwrap().ticket).unwrap();
        let fill = |batches: usize| {
            for _ in 0..batches {
                world.run_until(large.append(batch(100_000), EPOCH).unwrap().ticket).unwrap();
            }
        };
        fill(35);
        assert!(!is_marked(&large) && !is_marked(&small), "less than a quarter");
        fill(15);
        assert!(is_marked(&large));
        assert!(!is_marked(&small), "it can be carried, or has more by the time that the journal needs it");
        fill(50);
        assert_eq!(storage.log(LogId::records(TopicId::NIL, PartitionId(1))).map(|log| is_marked(&log)), Some(true));
    }

    #[test]
    fn what_batches_do_not_tell_is_synced() {
        let frames: [fn(&Bench); 4] = [
            |bench| drop(bench.log.start_epoch(LeaderEpoch(2)).unwrap()),
            |bench| drop(bench.log.advance_start(Offset(1)).unwrap()),
            |bench| drop(bench.log.truncate(Offset(1)).unwrap()),
            |bench| drop(bench.log.delete().unwrap()),
        ];
        for (nth, frame) in frames.into_iter().enumerate() {
            let bench = Bench::new(Durability::Fsync);
            bench.append(10);
            bench.append(10);
            frame(&bench);
            assert!(matches!(bench.carry(), Carry::Unfit), "{nth}");
            if nth < 3 {
                // A truncation takes until its frame is durable.
                bench.world.run_for(std::time::Duration::from_secs(1));
                bench.sync();
                let _ = bench.log.append(batch(10), LeaderEpoch(2)).unwrap();
                assert!(matches!(bench.carry(), Carry::Queued), "{nth}: its mark tells of that frame");
            }
        }
        let bench = Bench::new(Durability::Replicated);
        bench.append(10);
        drop(bench.log.advance_start(Offset(1)).unwrap());
        assert!(matches!(bench.carry(), Carry::Unfit), "it keeps no journal");
    }

    #[test]
    fn a_log_is_not_carried_for_ever() {
        let bench = Bench::new(Durability::Fsync);
        let times = |bench: &Bench| {
            let carry = |_: &i32| {
                bench.log.state().frames.carried.under_way = None;
                matches!(bench.carry(), Carry::Queued)
            };
            (0..).take_while(carry).count()
        };
        let frame = (FRAME_HEADER_BYTES + batch(10_000).len()) as u64;
        bench.append(10_000);
        let most = usize::try_from(CARRIED_BYTES_MAX / frame).unwrap();
        assert_eq!(times(&bench), most);
        assert_eq!(bench.log.state().frames.carried.bytes, most as u64 * frame);
        bench.sync();
        bench.append(10_000);
        assert_eq!(times(&bench), most);
    }

    #[test]
    fn no_more_is_on_its_way_than_a_group_and_no_more_is_carried_than_a_part_of_a_file() {
        let bench = Bench::new(Durability::Fsync);
        bench.append(10);
        let journal = bench.log.journal();
        journal.ring().carried_bytes = journal.options.journal_file_bytes / FILE_PART - 10;
        assert!(matches!(bench.carry(), Carry::Unfit));
        journal.ring().carried_bytes = 0;
        let bytes = journal.options.group_bytes_max;
        journal.queue().carries.push_back(Carrying { lsn: u64::MAX, bytes, log: bench.log.clone() });
        assert!(matches!(bench.carry(), Carry::Enough));
        journal.queue().carries.clear();
        bench.append(usize::try_from(CARRY_BYTES_MAX).unwrap());
        assert!(matches!(bench.carry(), Carry::Unfit), "too large");
    }

    #[test]
    fn what_the_medium_has_changed_is_not_carried() {
        let bench = Bench::new(Durability::Fsync);
        bench.append(10);
        bench.append(10);
        let path = bench.log.state().active().segment.path.clone();
        let len = bench.world.disk().open(&path, OpenMode::Read).unwrap().len().unwrap();
        // Base offset, epoch, count, and the records.
        for at in [7, 15, 60, len - 1] {
            bench.world.disk().corrupt(&path, at, 1).unwrap();
            assert!(matches!(bench.carry(), Carry::Unfit), "byte {at}");
            bench.world.disk().corrupt(&path, at, 1).unwrap();
        }
        assert!(matches!(bench.carry(), Carry::Queued));
    }
}
