//! One partition that this broker leads: its log, its replication rules, and who waits for its high watermark.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::{ArcSwap, Guard};
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use millstream_catalog::Topic;
use millstream_env::Env;
use millstream_log::{
    AppendError, Appended, CommitError, Compaction, PartitionLog, ReadError, ReadParts, Retention, Ticket,
};
use millstream_model::{LeaderEpoch, Offset, RoutingEpoch, TimestampMs, TimestampType, TopicPartition};
use millstream_record::{
    Batch, BatchError, BatchHeader, BuildError, Compression, RoutingMarker, count_records, set_log_append_time,
};
use millstream_replica::{Acks, AppendRefused, Replica};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::metrics::traffic::Traffic;

/// What a pass of compaction remembers of keys, bytes: about 1.4 million keys. (Kafka's `log.cleaner.dedupe.buffer.size` is as much.)
const COMPACTION_KEYS_BYTES_MAX: usize = 128 << 20;

/// A led partition. Appends get their offsets in the order of the calls; readers see what lies below the high watermark.
pub(crate) struct Partition {
    pub(crate) id: TopicPartition,
    pub(crate) epoch: LeaderEpoch,
    topic: ArcSwap<Topic>,
    pub(crate) log: Arc<PartitionLog>,
    replica: Mutex<Replica>,
    high_watermark: watch::Sender<Offset>,
    pub(crate) traffic: Arc<Traffic>,
    /// Held for reading by whoever appends: what was placed in an epoch is appended before the marker of the next one, or not at all.
    routing: RwLock<Fence>,
    env: Env,
}

/// The routing epoch that a partition is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fence {
    epoch: RoutingEpoch,
    /// Where the marker of the epoch is, if this leader has seen it.
    marker: Option<Offset>,
}

/// Why an append was not taken. Nothing was appended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartitionAppendError {
    #[error(transparent)]
    Rules(#[from] AppendRefused),
    #[error(transparent)]
    Log(#[from] AppendError),
    #[error("placed in routing epoch {asked}; the partition is in epoch {current}")]
    StaleRouting { asked: RoutingEpoch, current: RoutingEpoch },
    #[error("a routing epoch's marker cannot be made: {0}")]
    Marker(#[from] BuildError),
    #[error(
        "the topic is compacted, which goes by keys: {0}. Give every record a key (`millstream produce --key FIELD` or \
         --key-separator S)"
    )]
    Compacted(BatchError),
}

/// An append under way.
pub(crate) struct PendingAppend {
    pub(crate) base_offset: Offset,
    pub(crate) end_offset: Offset,
    /// The time that the broker has given its records; none if they have their producer's, or the time is not known any more.
    pub(crate) log_append_time: Option<TimestampMs>,
    pub(crate) commit: Commit,
}

impl Partition {
    pub(crate) fn new(
        id: TopicPartition,
        epoch: LeaderEpoch,
        topic: Arc<Topic>,
        log: Arc<PartitionLog>,
        replica: Replica,
        traffic: Arc<Traffic>,
        env: Env,
    ) -> Arc<Self> {
        let high_watermark = watch::Sender::new(replica.high_watermark());
        // Before the marker is looked for, or written: until then there is nothing between what was placed earlier and it.
        let routing = RwLock::new(Fence { epoch: topic.latest_routing_epoch(), marker: None });
        let topic = ArcSwap::new(topic);
        Arc::new(Self { id, epoch, topic, log, replica: Mutex::new(replica), high_watermark, traffic, routing, env })
    }

    /// Passes to a routing epoch: nothing that was placed in an earlier one is taken from here on, and its marker lies between. Gives where
    /// that is; it need not be committed yet. Done already, it is not done again.
    ///
    /// # Errors
    /// The marker was not appended. A partition that was in the epoch before is in it still.
    pub(crate) fn enter(self: &Arc<Self>, marker: RoutingMarker) -> Result<Offset, PartitionAppendError> {
        let mut fence = self.routing.write();
        if let Fence { epoch, marker: Some(offset) } = *fence
            && epoch >= marker.epoch
        {
            return Ok(offset);
        }
        let offset = match self.last_marker(marker.epoch) {
            Some(offset) => offset,
            None => {
                self.replica.lock().admits(Acks::All, LeaderEpoch::UNKNOWN)?;
                let appended = self.log.append_many(vec![marker.to_batch()?], self.epoch)?;
                let offset = appended.base_offset;
                // Whoever waits for it waits for the high watermark.
                drop(self.pending(appended));
                offset
            }
        };
        *fence = Fence { epoch: marker.epoch, marker: Some(offset) };
        drop(fence);
        self.advance();
        Ok(offset)
    }

    /// Where the log's last batch is, if that is the epoch's marker: it was written by a leader that had no time to tell. (Were more appended
    /// behind it, it is written again: the first one counts.)
    fn last_marker(&self, epoch: RoutingEpoch) -> Option<Offset> {
        let end = self.log.end_offset();
        if end == self.log.start_offset() {
            return None;
        }
        let read = self.log.read(Offset(end.0 - 1), end, 1).ok()?;
        let batch = Batch::parse_one(read.batches).ok()?;
        RoutingMarker::of(&batch).filter(|marker| marker.epoch == epoch).map(|_| batch.header().base_offset)
    }

    /// Whether a marker that was in the log is there still. Not where a power cut took the end of a log that is not synced before
    /// it is acknowledged.
    pub(crate) fn has_still(&self, marker: Offset) -> bool {
        self.log.end_offset() > marker
    }

    /// Whether what was placed in a routing epoch may be appended; -1: its sender does not say.
    pub(crate) fn check_routing(&self, asked: RoutingEpoch) -> Result<(), PartitionAppendError> {
        Self::check_fence(&self.routing.read(), asked)
    }

    fn check_fence(fence: &Fence, asked: RoutingEpoch) -> Result<(), PartitionAppendError> {
        match fence.epoch {
            current if asked.is_known() && asked != current => {
                Err(PartitionAppendError::StaleRouting { asked, current })
            }
            _ => Ok(()),
        }
    }

    /// The topic, with the settings that are in force for this partition.
    pub(crate) fn topic(&self) -> Guard<Arc<Topic>> {
        self.topic.load()
    }

    /// Puts the topic's present settings in force, but for those that the log itself has.
    pub(crate) fn alter(&self, topic: Arc<Topic>) {
        self.topic.store(topic);
        self.follow_durability();
    }

    /// Counts replicas by the log's own durability, which may lag the topic's setting: counting what is appended any earlier would call
    /// records committed that no sync covers.
    pub(crate) fn follow_durability(&self) {
        self.replica.lock().handle_settings(self.log.durability(), self.topic().config.insync_replicas_min);
        self.advance();
    }

    /// `max.message.bytes` of the topic.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        self.topic().config.message_bytes_max
    }

    /// How long, and how much of, its records the topic keeps.
    pub(crate) fn retention(&self) -> Retention {
        let config = &self.topic().config;
        if !config.cleanup_policy.deletes() {
            return Retention::default();
        }
        // The settings' limits are Kafka's.
        let ms = config.retention_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
        Retention { ms, bytes: config.retention_bytes }
    }

    /// What a pass of compaction may do now.
    pub(crate) fn compaction(&self) -> Compaction {
        let config = &self.topic().config;
        // The settings' limits are Kafka's.
        let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        Compaction {
            dirty_ratio: config.cleanable_dirty_ratio_min.get(),
            lag_ms: ms(config.compaction_lag_ms_min),
            lag_ms_max: ms(config.compaction_lag_ms_max),
            tombstone_ms: ms(config.delete_retention_ms),
            segment_bytes: config.segment_bytes,
            keys_bytes_max: COMPACTION_KEYS_BYTES_MAX,
            below: self.high_watermark(),
        }
    }

    /// Appends validated batches as one step, if the rules admit it, with the broker's time where the topic says so. A batch that an
    /// idempotent producer has sent before is not appended again: what is given is the first one's.
    #[cfg(test)]
    pub(crate) fn append(
        self: &Arc<Self>,
        batches: Vec<Bytes>,
        acks: Acks,
    ) -> Result<PendingAppend, PartitionAppendError> {
        self.append_routed(batches, acks, RoutingEpoch::UNKNOWN)
    }

    /// As [`Partition::append`], of batches that were placed in a routing epoch, if that is said.
    pub(crate) fn append_routed(
        self: &Arc<Self>,
        mut batches: Vec<Bytes>,
        acks: Acks,
        asked: RoutingEpoch,
    ) -> Result<PendingAppend, PartitionAppendError> {
        self.replica.lock().admits(acks, LeaderEpoch::UNKNOWN)?;
        let topic = self.topic();
        let now = match topic.config.timestamp_type {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(TimestampMs(self.env.clock.wall_ms())),
        };
        if topic.config.cleanup_policy.compacts() {
            // Packed ones were looked into when they were unpacked.
            for batch in &batches {
                let batch = Batch::parse_one(batch.clone()).map_err(PartitionAppendError::Compacted)?;
                if batch.header().attributes.compression().is_ok_and(|packed| packed == Compression::None)
                    && let Err(refused) = batch.require_keys(batch.bytes().len())
                {
                    // The topic may not have been compacted when it was sent first.
                    return self.find_duplicate(batch.header()).ok_or(PartitionAppendError::Compacted(refused));
                }
            }
        }
        for (batch, now) in batches.iter_mut().zip(now.into_iter().cycle()) {
            *batch = stamped(batch, now)?;
        }
        let records: u64 = batches.iter().map(|batch| count_records(batch)).sum();
        let bytes: usize = batches.iter().map(Bytes::len).sum();
        // As one step with the append.
        let fence = self.routing.read();
        if let Err(stale) = Self::check_fence(&fence, asked) {
            drop(fence);
            // What was appended before is told so: its sender would send it elsewhere, and it would be there twice.
            let duplicate = batches.first().and_then(|batch| BatchHeader::parse(batch).ok());
            return duplicate.and_then(|header| self.find_duplicate(&header)).ok_or(stale);
        }
        let appended = self.log.append_many(batches, self.epoch)?;
        drop(fence);
        self.advance();
        if !appended.duplicate {
            self.traffic.add_in(records, bytes as u64);
        }
        let now = now.filter(|_| !appended.duplicate);
        Ok(PendingAppend { log_append_time: now, ..self.pending(appended) })
    }

    /// The append of a batch that an idempotent producer has sent before, if it is remembered: as far as that one has come.
    pub(crate) fn find_duplicate(self: &Arc<Self>, header: &BatchHeader) -> Option<PendingAppend> {
        self.log.find_duplicate(header).map(|appended| self.pending(appended))
    }

    fn pending(self: &Arc<Self>, appended: Appended) -> PendingAppend {
        PendingAppend {
            base_offset: appended.base_offset,
            end_offset: appended.last_offset.plus(1),
            log_append_time: None,
            commit: Commit { partition: self.clone(), ticket: Some(appended.ticket) },
        }
    }

    /// Tells the rules how far the log is, and readers how far they may read.
    fn advance(&self) {
        let high_watermark = {
            let mut replica = self.replica.lock();
            replica.handle_appended(self.log.end_offset());
            replica.handle_flushed(self.log.flushed_end());
            replica.high_watermark()
        };
        self.high_watermark.send_if_modified(|current| {
            let grown = high_watermark > *current;
            *current = high_watermark.max(*current);
            grown
        });
    }

    /// A client of an older epoch must look the leader up again; one of a newer epoch knows more than this broker (KIP-320).
    /// `UNKNOWN` says nothing.
    pub(crate) fn check_epoch(&self, client: LeaderEpoch) -> Result<(), AppendRefused> {
        self.replica.lock().leads(client)
    }

    /// The end of what consumers may read.
    pub(crate) fn high_watermark(&self) -> Offset {
        *self.high_watermark.borrow()
    }

    /// Follows [`Partition::high_watermark`].
    pub(crate) fn subscribe(&self) -> watch::Receiver<Offset> {
        self.high_watermark.subscribe()
    }

    /// Resolves once everything below `end` is committed: readable, and what acks=all promises. Never, if that cannot
    /// come to be any more; callers bound it.
    pub(crate) async fn committed(&self, end: Offset) {
        let mut high_watermark = self.subscribe();
        // The sender lives as long as `self`.
        let _ = high_watermark.wait_for(|current| *current >= end).await;
    }

    /// Reads whole batches below the high watermark.
    pub(crate) fn read(&self, from: Offset, bytes_max: usize) -> Result<ReadParts, ReadError> {
        self.log.read_parts(from, self.high_watermark(), bytes_max)
    }
}

/// A copy of the batch whose records have the broker's time.
fn stamped(batch: &Bytes, now: TimestampMs) -> Result<Bytes, AppendError> {
    let mut bytes = BytesMut::from(&batch[..]);
    set_log_append_time(&mut bytes, now)?;
    Ok(bytes.freeze())
}

/// Resolves once the append is durable by the topic's rules on this broker, and has then moved the high watermark.
///
/// Dropping it (the client went away) loses nothing: a task takes over, so that the high watermark moves all the same.
pub(crate) struct Commit {
    partition: Arc<Partition>,
    ticket: Option<Ticket>,
}

impl Future for Commit {
    type Output = Result<(), CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(ticket) = &mut self.ticket else { return Poll::Ready(Ok(())) };
        let outcome = std::task::ready!(Pin::new(ticket).poll(context));
        self.ticket = None;
        self.partition.advance();
        Poll::Ready(outcome)
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            // No commit in it: where the process ends, what is spawned is dropped at once, and would spawn another.
            let partition = self.partition.clone();
            self.partition.env.spawn.spawn(
                "commit",
                async move {
                    // A failure stops the broker through the storage itself.
                    let _ = ticket.await;
                    partition.advance();
                }
                .boxed(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_model::BrokerId;

    use crate::{Broker, BrokerOptions, testing};

    /// What is spawned where the runtime ends is dropped at once: an append that nobody waits for any more spawned another each time,
    /// until the stack was full.
    #[test]
    fn an_append_that_the_end_of_the_process_leaves_behind_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let options = BrokerOptions::new(BrokerId(1), dir.path().into());
        runtime.block_on(async {
            let (broker, _) = Broker::start(options, millstream_env::real::env(), Vec::new()).await.unwrap();
            testing::create(&broker, 1).await;
            let commit = testing::append(&broker, 0).commit;
            tokio::spawn(async move {
                let _ = (commit, broker);
                std::future::pending::<()>().await;
            });
        });
        drop(runtime);
    }
}
