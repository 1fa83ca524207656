//! A batch being filled, and one that was cut.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use millstream_env::Monotonic;
use millstream_model::{Offset, PartitionId, RoutingEpoch, limits::BATCH_BYTES_MAX};
use millstream_record::{BatchBuilder, BatchOptions, set_producer};

use super::{Delivered, Item, Pending, ProducerOptions, window::Stamp};
use crate::{CallError, ProduceError};

/// A batch being filled.
pub(super) struct Filling {
    topic: Arc<str>,
    builder: BatchBuilder,
    routing_epoch: RoutingEpoch,
    pending: Vec<Pending>,
    bytes_max: usize,
}

impl Filling {
    pub(super) fn new(topic: &Arc<str>, options: &ProducerOptions, routing_epoch: RoutingEpoch) -> Self {
        let ProducerOptions { compression, batch_bytes: bytes_max, .. } = *options;
        let builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
        Self { topic: Arc::clone(topic), builder, routing_epoch, pending: Vec::new(), bytes_max }
    }

    /// Whether it is as large as it should become.
    pub(super) fn is_full(&self) -> bool {
        self.builder.size_estimate() >= self.bytes_max
    }

    /// Whether a record of that routing epoch still fits. The first always does.
    pub(super) fn has_room(&self, item: &Item, routing_epoch: RoutingEpoch) -> bool {
        let size = || self.builder.size_with(item.timestamp, item.key.as_deref(), item.value.as_deref(), &item.headers);
        routing_epoch == self.routing_epoch && (self.builder.is_empty() || size() <= self.bytes_max)
    }

    /// Adds a record; one that no batch can hold is refused here.
    pub(super) fn push(&mut self, item: Item) {
        let Item { key, value, headers, timestamp, pending } = item;
        match self.builder.push(timestamp, key.as_deref(), value.as_deref(), &headers) {
            Ok(()) => self.pending.push(pending),
            Err(error) => pending.done(Err(self.refusal(&error))),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The routing epoch in which its records were placed; -1: their sender has placed them.
    pub(super) fn routing_epoch(&self) -> RoutingEpoch {
        self.routing_epoch
    }

    /// When its first record is given up; it has one.
    pub(super) fn deadline(&self) -> Option<Monotonic> {
        self.pending.first().map(|pending| pending.deadline)
    }

    /// The batch; none when it cannot be encoded, which its senders are told.
    pub(super) fn cut(self) -> Option<Batch> {
        let topic = self.topic;
        match self.builder.build() {
            Ok(bytes) => Batch::new(bytes, self.routing_epoch, self.pending),
            Err(error) => {
                let error = ProduceError::Record { topic, detail: error.to_string().into() };
                self.pending.into_iter().for_each(|pending| pending.done(Err(error.clone())));
                None
            }
        }
    }

    fn refusal(&self, error: &impl ToString) -> ProduceError {
        ProduceError::Record { topic: Arc::clone(&self.topic), detail: error.to_string().into() }
    }
}

/// A batch and whoever waits for it.
pub(super) struct Batch {
    pub(super) bytes: Bytes,
    pub(super) routing_epoch: RoutingEpoch,
    /// When it is given up: with its first record.
    pub(super) deadline: Monotonic,
    /// Why the last attempt failed, if there was one.
    pub(super) last: Option<CallError>,
    /// What its bytes say of its producer.
    stamp: Option<Stamp>,
    /// By place in the batch; none once they were told that it is given up. An encoded batch has one for all.
    pending: Vec<Pending>,
}

impl Batch {
    /// None when nobody waits for it.
    pub(super) fn new(bytes: Bytes, routing_epoch: RoutingEpoch, pending: Vec<Pending>) -> Option<Self> {
        let deadline = pending.first()?.deadline;
        Some(Self { bytes, routing_epoch, deadline, last: None, stamp: None, pending })
    }

    /// Whether somebody still waits for its fate.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.pending.is_empty()
    }

    /// How many records it has, each with somebody who waits.
    pub(super) fn count(&self) -> i32 {
        i32::try_from(self.pending.len()).unwrap_or(i32::MAX)
    }

    /// Writes its producer and its number into it, unless they are there.
    pub(super) fn stamp(&mut self, stamp: Option<Stamp>) {
        let Some(Stamp { id, epoch, sequence }) = stamp.filter(|_| self.stamp != stamp) else { return };
        // A copy only where an earlier attempt still holds the bytes.
        let mut bytes = match std::mem::take(&mut self.bytes).try_into_mut() {
            Ok(bytes) => bytes,
            Err(shared) => BytesMut::from(&shared[..]),
        };
        let stamped = set_producer(&mut bytes, id, epoch, sequence);
        debug_assert!(stamped.is_ok(), "a batch that was built is one");
        self.bytes = bytes.freeze();
        self.stamp = stamp;
    }

    /// Tells its senders where the records are: from `base` on, where the broker says so.
    pub(super) fn delivered(self, partition: PartitionId, base: Option<Offset>) {
        for (place, pending) in (0..).zip(self.pending) {
            let offset = base.map(|base| Offset(base.0.saturating_add(place)));
            pending.done(Ok(Delivered { partition, offset }));
        }
    }

    /// Its records as they were sent, in order: they are to be placed anew.
    pub(super) fn into_items(self, topic: &Arc<str>) -> Vec<Item> {
        let refused = |error: &dyn std::fmt::Display| ProduceError::Record {
            topic: Arc::clone(topic),
            detail: error.to_string().into(),
        };
        let batch = millstream_record::Batch::parse_one(self.bytes);
        let records = match batch.and_then(|batch| batch.records(BATCH_BYTES_MAX)) {
            Ok(records) => records,
            Err(error) => {
                self.pending.into_iter().for_each(|pending| pending.done(Err(refused(&error))));
                return Vec::new();
            }
        };
        let mut items = Vec::with_capacity(self.pending.len());
        for (record, pending) in records.zip(self.pending) {
            match record {
                Ok(record) => items.push(Item {
                    headers: record.headers.iter().collect(),
                    key: record.key,
                    value: record.value,
                    timestamp: record.timestamp,
                    pending,
                }),
                Err(error) => pending.done(Err(refused(&error))),
            }
        }
        items
    }

    /// Tells its senders that it was given up. Once: an attempt may still be under way.
    pub(super) fn given_up(&mut self, error: &ProduceError) {
        std::mem::take(&mut self.pending).into_iter().for_each(|pending| pending.done(Err(error.clone())));
    }
}
