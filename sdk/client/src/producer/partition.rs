//! One partition's queue: gathers a batch, sends it until its fate is known, goes on with the next.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use futures::future::Either;
use millstream_model::{Offset, PartitionId, RoutingEpoch};
use millstream_protocol::{
    ErrorCode,
    messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
};
use millstream_record::{BatchBuilder, BatchOptions};
use tokio::sync::mpsc;

use super::{Acks, Delivered, Entry, Item, Pending, Shared};
use crate::{
    CallError, ProduceError,
    cluster::{Role, Target, is_unknown},
};

/// Runs a partition's queue until every producer is gone and everything was sent.
pub(super) async fn run(
    shared: Arc<Shared>,
    topic: Arc<str>,
    partition: PartitionId,
    cuts: Arc<AtomicU64>,
    entries: mpsc::UnboundedReceiver<Entry>,
) {
    let mut queue = Queue { shared, topic, partition, entries, held: None };
    while let Some(batch) = queue.gather().await {
        cuts.fetch_add(1, Ordering::Relaxed);
        queue.deliver(batch).await;
    }
}

struct Queue {
    shared: Arc<Shared>,
    topic: Arc<str>,
    partition: PartitionId,
    entries: mpsc::UnboundedReceiver<Entry>,
    /// Taken, but it did not fit into the batch.
    held: Option<Entry>,
}

/// A batch and whoever waits for it.
struct Gathered {
    bytes: Bytes,
    routing_epoch: RoutingEpoch,
    /// By place in the batch. An encoded batch has one for all.
    pending: Vec<Pending>,
}

impl Queue {
    /// The next batch; none when there will be no more.
    async fn gather(&mut self) -> Option<Gathered> {
        loop {
            let first = match self.held.take() {
                Some(entry) => entry,
                None => self.entries.recv().await?,
            };
            match first {
                Entry::Encoded(bytes, pending) => {
                    return Some(Gathered { bytes, routing_epoch: RoutingEpoch(-1), pending: vec![pending] });
                }
                Entry::Record(item, routing_epoch) => {
                    if let Some(batch) = self.fill(item, routing_epoch).await {
                        return Some(batch);
                    }
                }
            }
        }
    }

    /// A batch that begins with this record; none when no record of it could be encoded.
    async fn fill(&mut self, first: Item, routing_epoch: RoutingEpoch) -> Option<Gathered> {
        let options = &self.shared.options;
        let batch_options = BatchOptions { compression: options.compression, ..BatchOptions::default() };
        let mut flushed = self.shared.flush.subscribe();
        let mut filling = Filling {
            builder: BatchBuilder::new(batch_options),
            pending: Vec::new(),
            topic: &self.topic,
            bytes_max: options.batch_bytes,
        };
        filling.push(first);
        let mut linger = (!options.linger.is_zero()).then(|| self.shared.cluster.env.clock.sleep(options.linger));
        while filling.builder.size_estimate() < options.batch_bytes {
            let next = match (self.entries.try_recv(), &mut linger) {
                (Ok(entry), _) => entry,
                (Err(_), None) => break,
                (Err(_), Some(time)) => {
                    let flush = std::pin::pin!(flushed.changed());
                    let enough = futures::future::select(time, flush);
                    match futures::future::select(std::pin::pin!(self.entries.recv()), enough).await {
                        Either::Left((Some(entry), _)) => entry,
                        Either::Left((None, _)) => break,
                        Either::Right(_) => {
                            linger = None;
                            continue;
                        }
                    }
                }
            };
            match next {
                Entry::Record(item, epoch) if epoch == routing_epoch && filling.has_room(&item) => filling.push(item),
                other => {
                    self.held = Some(other);
                    break;
                }
            }
        }
        let Filling { builder, pending, .. } = filling;
        if pending.is_empty() {
            return None;
        }
        match builder.build() {
            Ok(bytes) => Some(Gathered { bytes, routing_epoch, pending }),
            Err(error) => {
                let detail = error.to_string().into();
                let error = ProduceError::Record { topic: Arc::clone(&self.topic), detail };
                pending.into_iter().for_each(|pending| pending.done(Err(error.clone())));
                None
            }
        }
    }

    /// Sends a batch until its fate is known, and tells it.
    async fn deliver(&self, batch: Gathered) {
        let Gathered { bytes, routing_epoch, pending } = batch;
        let after = self.shared.options.delivery_timeout;
        let mut retry = self.shared.cluster.retry(after);
        let mut again = false;
        let fate = loop {
            let error = match self.attempt(&bytes, routing_epoch, again).await {
                Ok(offset) => break Ok(offset),
                Err(error) => error,
            };
            // What exists no more is not waited for.
            if !error.is_retriable() || (again && is_unknown(&error)) {
                break Err(ProduceError::Call(error));
            }
            tracing::debug!(topic = %self.topic, partition = %self.partition, %error, "a batch is sent again");
            again = true;
            if !retry.wait().await {
                break Err(ProduceError::Expired { after, last: error });
            }
        };
        for (place, pending) in (0..).zip(pending) {
            pending.done(match &fate {
                Ok(base) => {
                    let offset = base.map(|base| Offset(base.0.saturating_add(place)));
                    Ok(Delivered { partition: self.partition, offset })
                }
                Err(error) => Err(error.clone()),
            });
        }
    }

    /// Sends a batch once; the first record's offset, if the broker tells it.
    async fn attempt(
        &self,
        bytes: &Bytes,
        routing_epoch: RoutingEpoch,
        refresh: bool,
    ) -> Result<Option<Offset>, CallError> {
        let Shared { cluster, options, .. } = &*self.shared;
        let topic = match refresh {
            true => cluster.refresh_topic(&self.topic).await?,
            false => cluster.topic(&self.topic).await?,
        };
        let (leader, _) = topic.leader(self.partition)?;
        // Partitions keep to their stream: what was sent first arrives first.
        let stream = self.partition.0.unsigned_abs() as usize % cluster.options.produce_streams;
        let channel = cluster.channel(Target::Broker(leader), Role::Produce(stream)).await?;
        let timeout = cluster.options.request_timeout;
        let data = PartitionProduceData { index: self.partition, records: Some(bytes.clone()), routing_epoch };
        let request = ProduceRequest {
            transactional_id: None,
            acks: options.acks.wire(),
            timeout_ms: i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX),
            topic_data: vec![TopicProduceData {
                name: topic.name.as_ref().into(),
                topic_id: topic.id,
                partition_data: vec![data],
            }],
        };
        if options.acks == Acks::None {
            channel.tell(request.into(), timeout).await?;
            return Ok(None);
        }
        let response = channel.call(request, timeout).await?;
        let what = || format!("topic {} partition {}", self.topic, self.partition);
        let mut answers = response.responses.into_iter().flat_map(|topic| topic.partition_responses);
        let answer = answers.find(|answer| answer.index == self.partition).ok_or_else(|| {
            CallError::refused(what(), ErrorCode::UnknownServer, Some("the broker's answer leaves the partition out"))
        })?;
        CallError::check(&what(), answer.error_code, answer.error_message.as_deref())?;
        Ok(Some(answer.base_offset))
    }
}

/// A batch being filled.
struct Filling<'a> {
    builder: BatchBuilder,
    pending: Vec<Pending>,
    topic: &'a Arc<str>,
    bytes_max: usize,
}

impl Filling<'_> {
    /// Whether the record still fits. The first always does.
    fn has_room(&self, item: &Item) -> bool {
        let size = || self.builder.size_with(item.timestamp, item.key.as_deref(), item.value.as_deref(), &item.headers);
        self.builder.is_empty() || size() <= self.bytes_max
    }

    /// Adds a record; one that no batch can hold is refused here.
    fn push(&mut self, item: Item) {
        let Item { key, value, headers, timestamp, pending } = item;
        match self.builder.push(timestamp, key.as_deref(), value.as_deref(), &headers) {
            Ok(()) => self.pending.push(pending),
            Err(error) => pending
                .done(Err(ProduceError::Record { topic: Arc::clone(self.topic), detail: error.to_string().into() })),
        }
    }
}
