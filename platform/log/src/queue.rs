//! The queue: frames that wait for the journal, which logs pin what of it, and the logs that the sync loop is to look after.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use millstream_record::PATCH_BYTES;

use crate::{
    CommitError, Ended, PartitionLog, StorageFailed,
    carry::Carrying,
    frame::{FRAME_HEADER_BYTES, Frame, Kind},
    relief::Round,
    ticket::Resolve,
};

/// What waits to be written as one frame.
pub(crate) struct Entry {
    pub(crate) frame: Frame,
    /// The payload's first bytes as patched, and how many of them count.
    pub(crate) prefix: [u8; PATCH_BYTES],
    pub(crate) prefix_bytes: usize,
    /// The rest of the payload: the producer's own bytes.
    pub(crate) body: Bytes,
    pub(crate) log: Arc<PartitionLog>,
    /// Whether the payload goes to the journal.
    pub(crate) way: Way,
    /// Who waits for this frame, if anybody.
    pub(crate) resolve: Option<Resolve>,
}

/// What the journal gets of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// All of it.
    Whole,
    /// That is decided when its turn comes.
    Undecided,
    /// A reference: the log's mark covers it, durably.
    Reference,
}

impl Entry {
    /// Bytes that the entry holds until it is durable.
    pub(crate) fn bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.prefix_bytes + self.body.len()
    }

    /// Bytes that the frame takes in the journal.
    pub(crate) fn journal_bytes(&self) -> usize {
        if self.is_reference() { FRAME_HEADER_BYTES } else { self.bytes() }
    }

    pub(crate) fn is_reference(&self) -> bool {
        self.way == Way::Reference
    }

    /// The frame as it is journaled.
    pub(crate) fn journaled(&self) -> Frame {
        match self.is_reference() {
            true => Frame { kind: Kind::AppendRef, payload_bytes: 0, ..self.frame },
            false => self.frame,
        }
    }
}

/// Whether appends are taken.
enum Phase {
    Open,
    /// What is queued is still committed.
    Closing,
    /// Abandoned or closed: the loops end where they are.
    Stopped,
    Failed(StorageFailed),
}

/// What the commit loop finds when it looks.
pub(crate) enum Work {
    Entries,
    Nothing,
    /// Nothing, and nothing more will come.
    Drained,
    Stop,
}

/// Behind the queue's lock.
pub(crate) struct Queue {
    phase: Phase,
    entries: VecDeque<Entry>,
    /// Bytes of frames that are queued or being written.
    pub(crate) bytes: usize,
    /// How many those are.
    pub(crate) frames: usize,
    /// The next frame's number.
    pub(crate) next_lsn: u64,
    /// Logs with frames that their segments do not durably hold, by the first such frame: they pin the journal from it on.
    pub(crate) pins: BTreeMap<u64, Arc<PartitionLog>>,
    /// Logs without a journal that have data to sync.
    pub(crate) unjournaled: Vec<Arc<PartitionLog>>,
    /// Deleted logs whose deletion is durable: their files can go.
    pub(crate) dropped: Vec<Arc<PartitionLog>>,
    /// Logs whose new start, end or durability is durable in the journal: their files are to follow. And those whose durability is to
    /// be changed.
    pub(crate) moved: Vec<Arc<PartitionLog>>,
    /// What is carried forward, as far as it is not durable yet or nobody has looked since.
    pub(crate) carries: VecDeque<Carrying>,
    /// The sync loop is asked to sync `unjournaled` now.
    pub(crate) sync_unjournaled: bool,
    /// Those of them whose turn it is, and others that somebody wants synced.
    pub(crate) due: VecDeque<Arc<PartitionLog>>,
    /// How far they were looked at for segments to be closed.
    pub(crate) relief: Round,
    /// The commit loop has ended in order.
    pub(crate) drained: bool,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Open,
            entries: VecDeque::new(),
            bytes: 0,
            frames: 0,
            next_lsn: 1,
            pins: BTreeMap::new(),
            unjournaled: Vec::new(),
            dropped: Vec::new(),
            moved: Vec::new(),
            carries: VecDeque::new(),
            sync_unjournaled: false,
            due: VecDeque::new(),
            relief: Round::default(),
            drained: false,
        }
    }

    /// Adds a frame, which gets its number here: the journal's order is the queue's.
    pub(crate) fn push(&mut self, mut entry: Entry) -> u64 {
        let lsn = self.next_lsn;
        self.next_lsn += 1;
        entry.frame.lsn = lsn;
        self.bytes += entry.bytes();
        self.frames += 1;
        self.entries.push_back(entry);
        lsn
    }

    /// Whether appends are taken.
    pub(crate) fn check_open(&self) -> Result<(), Ended> {
        match &self.phase {
            Phase::Open => Ok(()),
            Phase::Closing | Phase::Stopped => Err(Ended::Closed),
            Phase::Failed(failure) => Err(Ended::Failed(failure.clone())),
        }
    }

    /// Whether the loops should end where they are.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.phase, Phase::Stopped | Phase::Failed(_))
    }

    /// Whether nothing is appended or committed any more, and what is left is to be synced.
    pub(crate) fn is_finishing(&self) -> bool {
        self.drained && matches!(self.phase, Phase::Closing)
    }

    /// What there is for the commit loop; entries are moved to the end of `pending`.
    pub(crate) fn take(&mut self, pending: &mut VecDeque<Entry>) -> Work {
        match self.phase {
            Phase::Stopped | Phase::Failed(_) => Work::Stop,
            _ if !self.entries.is_empty() => {
                pending.append(&mut self.entries);
                Work::Entries
            }
            Phase::Closing => Work::Drained,
            Phase::Open => Work::Nothing,
        }
    }

    /// Takes no more appends; what is queued is still committed. Whether this was the first call.
    pub(crate) fn close(&mut self) -> bool {
        let first = matches!(self.phase, Phase::Open);
        if first {
            self.phase = Phase::Closing;
        }
        first
    }

    /// Takes nothing more, and gives what was queued, to be rejected; none where it had failed before.
    pub(crate) fn fail(&mut self, failure: &StorageFailed) -> Option<VecDeque<Entry>> {
        if matches!(self.phase, Phase::Failed(_)) {
            return None;
        }
        self.phase = Phase::Failed(failure.clone());
        Some(std::mem::take(&mut self.entries))
    }

    /// Lets go of all logs, and gives what was queued, to be rejected, and what pinned the journal, to be dropped outside of the lock.
    pub(crate) fn stop(&mut self) -> (VecDeque<Entry>, BTreeMap<u64, Arc<PartitionLog>>) {
        if !matches!(self.phase, Phase::Failed(_)) {
            self.phase = Phase::Stopped;
        }
        self.unjournaled.clear();
        self.due.clear();
        self.dropped.clear();
        self.moved.clear();
        self.carries.clear();
        (std::mem::take(&mut self.entries), std::mem::take(&mut self.pins))
    }
}

/// Fails the tickets of what will not be written.
pub(crate) fn reject(entries: impl IntoIterator<Item = Entry>, error: &CommitError) {
    for mut entry in entries {
        if let Some(resolve) = entry.resolve.take() {
            // Nobody may be waiting any more.
            let _ = resolve.send(Err(error.clone()));
        }
    }
}
