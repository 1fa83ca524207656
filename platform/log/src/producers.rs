//! What a log remembers of its idempotent producers, so that a batch that is sent again is known again.
//!
//! The rules are those of Kafka 4: a producer numbers its batches per partition, the log remembers the last five
//! ([`BATCHES_MAX`]) of each producer, and a batch is
//!
//! - a *duplicate*, if the epoch and both ends of its sequence range are those of a batch that is remembered;
//! - *new*, if it follows the producer's last batch, begins a newer epoch at sequence 0, or comes from a producer of whom
//!   nothing is known. Such a one may begin anywhere (KIP-360): the log forgets, by limit and by time, and a producer that
//!   was forgotten must be able to go on;
//! - refused otherwise: its epoch is over, or a batch before it is missing. What lies *before* the remembered ones is refused
//!   too, and not called a duplicate: it cannot be told apart from what was never appended.
//!
//! The state follows from the log: [`Producers::note`] for every batch in order gives it again. Only the time at which a
//! producer was last heard of is not in the log: that is the broker's clock, since record times are the producer's to choose
//! (KIP-854 sets the expiry apart from that of transactions). A producer read back from the log counts as heard of when it was
//! read, so that a restart may forget later, never earlier.
//!
//! At most [`PRODUCERS_MAX`] producers are remembered in a log; past that the one that appended least recently is forgotten,
//! which is the same one at every replay. One takes less than 300 bytes: a log at most 1.2 MiB, and one without idempotent
//! producers nothing.

use std::collections::{BTreeMap, HashMap};

use millstream_model::{Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};
use millstream_record::BatchHeader;

use crate::SequenceError;

/// Batches remembered of each producer. Producers keep no more under way to a partition than this.
pub(crate) const BATCHES_MAX: usize = 5;
/// Producers remembered in a log.
pub(crate) const PRODUCERS_MAX: usize = 4096;

const _: () = assert!(size_of::<Producer>() <= 96, "the memory that is promised above");

/// The bounds of what is remembered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Producers.
    pub(crate) producers_max: usize,
    /// A producer that was not heard of for this long is forgotten, milliseconds.
    pub(crate) expiration_ms: i64,
}

/// What a batch is to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// To be appended.
    New,
    /// Appended before, at these offsets.
    Duplicate { base_offset: Offset, last_offset: Offset },
}

/// A batch that was appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KnownBatch {
    pub(crate) base_offset: Offset,
    pub(crate) last_sequence: Sequence,
    pub(crate) last_offset_delta: i32,
}

impl KnownBatch {
    fn of(header: &BatchHeader) -> Self {
        Self {
            base_offset: header.base_offset,
            last_sequence: header.base_sequence.plus(header.last_offset_delta),
            last_offset_delta: header.last_offset_delta,
        }
    }

    fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }
}

/// A producer whose batches a log would know again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownProducer {
    /// Who it is.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// The sequence number of its last record.
    pub last_sequence: Sequence,
    /// When it was last heard of, by the broker's clock.
    pub heard: TimestampMs,
}

/// One producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Producer {
    pub(crate) epoch: ProducerEpoch,
    /// When it was last heard of, by the broker's clock.
    pub(crate) heard: TimestampMs,
    count: u8,
    batches: [KnownBatch; BATCHES_MAX],
}

impl Producer {
    /// A producer with what it appended, oldest first; none where that is not between 1 and [`BATCHES_MAX`] batches.
    pub(crate) fn new(epoch: ProducerEpoch, heard: TimestampMs, appended: &[KnownBatch]) -> Option<Self> {
        let mut batches = [KnownBatch::default(); BATCHES_MAX];
        batches.get_mut(..appended.len())?.copy_from_slice(appended);
        let count = u8::try_from(appended.len()).ok().filter(|count| *count > 0)?;
        Some(Self { epoch, heard, count, batches })
    }

    /// What is remembered, oldest first. Never empty.
    pub(crate) fn batches(&self) -> &[KnownBatch] {
        &self.batches[..usize::from(self.count)]
    }

    fn last(&self) -> &KnownBatch {
        &self.batches[usize::from(self.count) - 1]
    }

    fn push(&mut self, batch: KnownBatch) {
        if usize::from(self.count) == BATCHES_MAX {
            self.batches.rotate_left(1);
        } else {
            self.count += 1;
        }
        self.batches[usize::from(self.count) - 1] = batch;
    }
}

/// A log's producers.
#[derive(Clone, Debug)]
pub(crate) struct Producers {
    limits: Limits,
    by_id: HashMap<ProducerId, Producer>,
    /// By the base offset of their last batch: the first one is forgotten first.
    by_age: BTreeMap<Offset, ProducerId>,
}

impl Producers {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, by_id: HashMap::new(), by_age: BTreeMap::new() }
    }

    /// What a batch would be if it were appended now.
    pub(crate) fn check(&self, header: &BatchHeader, now: TimestampMs) -> Result<Verdict, SequenceError> {
        if !counts(header) {
            return Ok(Verdict::New);
        }
        let (id, epoch, first) = (header.producer_id, header.producer_epoch, header.base_sequence);
        let Some(known) = self.by_id.get(&id).filter(|known| !self.is_over(known, now)) else {
            return Ok(Verdict::New);
        };
        if epoch < known.epoch {
            return Err(SequenceError::StaleEpoch { id, epoch, current: known.epoch });
        }
        let expected = if epoch > known.epoch { Sequence(0) } else { known.last().last_sequence.plus(1) };
        if first == expected {
            return Ok(Verdict::New);
        }
        let same = |batch: &&KnownBatch| {
            let last_sequence = first.plus(header.last_offset_delta);
            batch.last_sequence == last_sequence && batch.last_offset_delta == header.last_offset_delta
        };
        match known.batches().iter().find(same).filter(|_| epoch == known.epoch) {
            Some(batch) => Ok(Verdict::Duplicate { base_offset: batch.base_offset, last_offset: batch.last_offset() }),
            None => Err(SequenceError::OutOfOrder { id, epoch, found: first, expected }),
        }
    }

    /// Takes a batch that was appended, with its offset, into account. Whether it changed anything.
    pub(crate) fn note(&mut self, header: &BatchHeader, now: TimestampMs) -> bool {
        if !counts(header) {
            return false;
        }
        self.expire(now);
        let batch = KnownBatch::of(header);
        match self.by_id.get_mut(&header.producer_id) {
            Some(known) => {
                let age = known.last().base_offset;
                assert!(age < batch.base_offset, "a producer's batches are noted in the order of their offsets");
                self.by_age.remove(&age);
                if known.epoch != header.producer_epoch {
                    // Sequences of another epoch say nothing about this one's.
                    (known.epoch, known.count) = (header.producer_epoch, 0);
                }
                known.push(batch);
                known.heard = now;
            }
            None => {
                let known = Producer::new(header.producer_epoch, now, &[batch]);
                self.by_id.extend(known.map(|known| (header.producer_id, known)));
            }
        }
        self.by_age.insert(batch.base_offset, header.producer_id);
        self.shrink();
        true
    }

    /// Puts back a producer that was written down. Of two with one last offset, or with one id, the later one counts.
    pub(crate) fn restore(&mut self, id: ProducerId, producer: Producer) {
        let age = producer.last().base_offset;
        if let Some(before) = self.by_id.insert(id, producer) {
            self.by_age.remove(&before.last().base_offset);
        }
        if let Some(other) = self.by_age.insert(age, id).filter(|other| *other != id) {
            self.by_id.remove(&other);
        }
        self.shrink();
    }

    /// Forgets who has not been heard of for too long.
    pub(crate) fn expire(&mut self, now: TimestampMs) {
        while let Some(oldest) = self.by_age.first_entry()
            && let Some(known) = self.by_id.get(oldest.get())
            && is_over(&self.limits, known, now)
        {
            self.by_id.remove(&oldest.remove());
        }
    }

    /// Those that a batch would be judged by now, in no order.
    pub(crate) fn known(&self, now: TimestampMs) -> impl Iterator<Item = KnownProducer> {
        self.by_id.iter().filter(move |(_, producer)| !self.is_over(producer, now)).map(|(id, producer)| {
            KnownProducer {
                id: *id,
                epoch: producer.epoch,
                last_sequence: producer.last().last_sequence,
                heard: producer.heard,
            }
        })
    }

    /// In the order in which they would be forgotten.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (ProducerId, &Producer)> {
        self.by_age.values().map(|id| (*id, &self.by_id[id]))
    }

    fn is_over(&self, known: &Producer, now: TimestampMs) -> bool {
        is_over(&self.limits, known, now)
    }

    fn shrink(&mut self) {
        while self.by_id.len() > self.limits.producers_max {
            let Some((_, oldest)) = self.by_age.pop_first() else { return };
            self.by_id.remove(&oldest);
        }
    }
}

fn is_over(limits: &Limits, known: &Producer, now: TimestampMs) -> bool {
    now.0.saturating_sub(known.heard.0) >= limits.expiration_ms
}

/// Whether a batch has a place in its producer's sequence. Markers of transactions have a producer and none.
fn counts(header: &BatchHeader) -> bool {
    header.has_producer_id() && header.base_sequence.0 >= 0 && !header.attributes.is_control()
}

#[cfg(test)]
#[path = "producers_tests.rs"]
pub(crate) mod tests;
