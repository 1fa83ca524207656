//! The producer: records in, batches out to the leaders, acknowledgements back.
//!
//! ```text
//! send -> memory bound -> partition given ---------------------------------> partition's queue -> batch -> Produce
//!                      -> open, topic has a partitioner: Assign, or run it ---^                     |
//!                      -> open, none: murmur2 of the key, or anywhere --------^ <--- placed anew ---+ stale routing
//! ```
//!
//! What is left open is sent with the routing epoch in which it was placed. When the topic's partitioner or number of partitions changes,
//! brokers take no more of the old epoch than they have: then nothing new is placed until every batch has been answered, and what was not
//! taken goes first (`route`). So each key keeps its order, as a reader sees it that reads the old epoch's part of every partition first.
//!
//! A partition has up to five batches under way, numbered, and the next one gathers meanwhile; a batch is repeated until it is
//! answered for good. The broker takes a producer's batches in the order of their numbers and each number once, so what is sent
//! to a partition stays in the order of the calls of `send`, and with it every key, and nothing is there twice, whatever is lost
//! on the way (`window`).
//!
//! Without idempotence one batch is under way at a time, and a repeated one may be in the log twice: when a connection ends
//! between append and answer. Nothing acknowledged is lost in either case.

mod filling;
#[cfg(feature = "local-routing")]
mod local;
mod outstanding;
mod partition;
mod queues;
mod route;
mod routing;
mod topic;
mod waits;
mod window;

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use millstream_env::Monotonic;
use millstream_model::{Offset, PartitionId, ProducerId, RoutingEpoch, TimestampMs};
use millstream_protocol::messages::producers::InitProducerIdRequest;
use millstream_record::{Batch, Compression, Header};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, oneshot, watch};

#[cfg(feature = "local-routing")]
pub use self::local::LocalRouting;
use self::{
    outstanding::{Counted, Outstanding},
    topic::Topic,
    waits::Waits,
};
use crate::{
    CallError, ProduceError,
    cluster::{Cluster, Target},
};

/// What a record costs besides its bytes, for the memory bound.
const RECORD_OVERHEAD: usize = 128;

/// When a record counts as produced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// When `min.insync.replicas` have it, as durable as the topic says.
    #[default]
    All,
    /// When the leader has it, as durable as the topic says.
    Leader,
    /// When it was handed to the transport. Losses are not noticed; there are no offsets.
    None,
}

impl Acks {
    fn wire(self) -> i16 {
        match self {
            Self::All => -1,
            Self::Leader => 1,
            Self::None => 0,
        }
    }
}

/// How a producer gathers, sends and waits.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// When a record counts as produced.
    pub acks: Acks,
    /// Whether batches are numbered, so that each is in the log once although it is repeated. Only with [`Acks::All`]: what is
    /// not waited for cannot be kept in order. Off, or with other acks, a repeated batch may be there twice.
    pub idempotent: bool,
    /// How long a batch waits for more records when nothing is under way to its partition. Zero sends at once; while a
    /// batch is under way, the next one gathers in any case, until it is full.
    pub linger: Duration,
    /// A batch is sent when it has so many bytes, before compression. A larger record is a batch of its own.
    pub batch_bytes: usize,
    /// The codec.
    pub compression: Compression,
    /// Bytes of records that were sent and not answered; `send` waits while there are more. One record is always allowed.
    pub buffer_bytes_max: usize,
    /// How long a record may wait for its acknowledgement, from when `send` took it: in the queue, in its batch, for the topic's partitioner,
    /// all attempts included. Records of a batch wait as long as its first one.
    pub delivery_timeout: Duration,
    /// Whether the producer runs topics' partitioners itself, and within which bounds: each is downloaded once, checked by its digest, and run
    /// as the broker runs it, in the same routing epochs. Where it cannot be run here, and for records on which it fails, brokers are asked
    /// as they are without this (None, the default). Who is trusted changes in neither case: a topic that verifies what clients have placed
    /// believes those who name the routing epoch. (Feature `local-routing`.)
    #[cfg(feature = "local-routing")]
    pub local_routing: Option<LocalRouting>,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            idempotent: true,
            linger: Duration::from_millis(1),
            batch_bytes: 256 << 10,
            compression: Compression::None,
            buffer_bytes_max: 64 << 20,
            delivery_timeout: Duration::from_secs(120),
            #[cfg(feature = "local-routing")]
            local_routing: None,
        }
    }
}

/// A record to produce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerRecord {
    /// The topic's name.
    pub topic: String,
    /// Where it goes. Open is as the topic's partitioner says; without one by the key's hash, as every Kafka client does;
    /// without a key anywhere.
    pub partition: Option<PartitionId>,
    /// What places it and what its order is kept for.
    pub key: Option<Bytes>,
    /// What it says; none is a tombstone.
    pub value: Option<Bytes>,
    /// What travels beside the value. A name may come more than once.
    pub headers: Vec<Header>,
    /// Its time; none is now.
    pub timestamp: Option<TimestampMs>,
}

/// Where a record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The partition.
    pub partition: PartitionId,
    /// Its offset; of a batch, the first record's. None with [`Acks::None`].
    pub offset: Option<Offset>,
}

/// Resolves when a record's fate is known. Dropping it changes nothing: the record is sent all the same.
#[derive(Debug)]
#[must_use = "an error is only seen by whoever awaits this"]
pub struct Delivery(oneshot::Receiver<Result<Delivered, ProduceError>>);

impl Future for Delivery {
    type Output = Result<Delivered, ProduceError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let told = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(told.unwrap_or(Err(ProduceError::Stopped)))
    }
}

/// Whoever waits for a record's fate, and what the record holds of the producer meanwhile.
struct Pending {
    reply: oneshot::Sender<Result<Delivered, ProduceError>>,
    memory: OwnedSemaphorePermit,
    outstanding: Counted,
    /// When it is given up.
    deadline: Monotonic,
}

impl Pending {
    fn done(self, fate: Result<Delivered, ProduceError>) {
        let Self { reply, memory, outstanding, .. } = self;
        let _ = reply.send(fate);
        // Only then: whoever waits for room or for a flush finds the fate told.
        drop((memory, outstanding));
    }
}

/// A record on its way to a batch.
struct Item {
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<Header>,
    timestamp: TimestampMs,
    pending: Pending,
}

impl Item {
    /// Whether it has waited long enough.
    fn is_due(&self, now: Monotonic) -> bool {
        self.pending.deadline <= now
    }

    /// Whether it was sent before one of so many flushes.
    fn is_flushed(&self, flushes: u64) -> bool {
        self.pending.outstanding.generation() < flushes
    }
}

/// What a partition's queue holds, in order.
enum Entry {
    /// A record, and the routing epoch in which its partition was chosen (-1 when its sender chose).
    Record(Item, RoutingEpoch),
    /// A batch that the caller encoded.
    Encoded(Bytes, Pending),
    /// The topic is routed anew: to be told once all before it have their fate, with the records that the broker does not take any more.
    Turn(oneshot::Sender<Vec<Item>>),
}

impl Entry {
    /// When it is given up.
    fn deadline(&self) -> Option<Monotonic> {
        match self {
            Self::Record(Item { pending, .. }, _) | Self::Encoded(_, pending) => Some(pending.deadline),
            Self::Turn(_) => None,
        }
    }

    /// Tells its sender that it is given up.
    fn given_up(self, error: &ProduceError) {
        match self {
            Self::Record(Item { pending, .. }, _) | Self::Encoded(_, pending) => pending.done(Err(error.clone())),
            Self::Turn(_) => {}
        }
    }
}

/// What the producer's parts share.
struct Shared {
    cluster: Arc<Cluster>,
    options: ProducerOptions,
    /// How many generations were flushed: what is of one of them does not linger.
    flushed: watch::Sender<u64>,
    /// This producer's id; asked for when first needed. Epochs and numbers are each partition's own.
    id: OnceCell<ProducerId>,
    waits: Waits,
    /// None: brokers run the partitioners.
    #[cfg(feature = "local-routing")]
    host: Option<Arc<local::Host>>,
}

impl Shared {
    fn is_idempotent(&self) -> bool {
        self.options.idempotent && self.options.acks == Acks::All
    }

    fn after(&self, time: Duration) -> Monotonic {
        Monotonic(self.cluster.env.clock.now().0.saturating_add(time))
    }

    /// What those are told who have waited long enough, at last because of this error.
    fn expired(&self, last: Option<&CallError>) -> ProduceError {
        ProduceError::Expired { after: self.options.delivery_timeout, last: last.cloned() }
    }

    /// The id that the partitions share.
    async fn common_id(&self) -> Result<ProducerId, CallError> {
        self.id.get_or_try_init(|| self.new_id()).await.copied()
    }

    /// An id that nobody has.
    async fn new_id(&self) -> Result<ProducerId, CallError> {
        let response = self.cluster.ask(Target::Any, InitProducerIdRequest::default()).await?;
        CallError::check("a producer id", response.error_code, None)?;
        Ok(response.producer_id)
    }
}

type TopicPlace = Arc<OnceCell<Arc<Topic>>>;

/// Sends records. Cheap to clone; clones share one memory bound. Made by [`crate::Client::producer`].
///
/// What was sent before the last clone is dropped is still delivered, as long as the runtime goes on; await the deliveries or
/// [`Producer::flush`] to be sure.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
    topics: Arc<Mutex<BTreeMap<String, TopicPlace>>>,
    memory: Arc<Semaphore>,
    outstanding: Arc<Outstanding>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl Producer {
    pub(crate) fn new(cluster: Arc<Cluster>, mut options: ProducerOptions) -> Self {
        options.buffer_bytes_max = options.buffer_bytes_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let memory = Arc::new(Semaphore::new(options.buffer_bytes_max));
        let (flushed, id, waits) = (watch::Sender::new(0), OnceCell::new(), Waits::default());
        #[cfg(feature = "local-routing")]
        let host =
            options.local_routing.clone().map(|options| Arc::new(local::Host::new(options, cluster.env.clone())));
        let shared = Shared {
            cluster,
            options,
            flushed,
            id,
            waits,
            #[cfg(feature = "local-routing")]
            host,
        };
        Self { shared: Arc::new(shared), topics: Arc::default(), memory, outstanding: Arc::default() }
    }

    /// Takes a record to be sent. Ready once there is room for it; its fate is told by the [`Delivery`].
    ///
    /// Records of one topic and key keep the order in which calls of `send` returned. Dropping this future before it is ready
    /// sends nothing.
    ///
    /// # Errors
    /// The topic does not exist or cannot be asked about, or has no such partition.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery, ProduceError> {
        let ProducerRecord { topic, partition, key, value, headers, timestamp } = record;
        let topic = self.topic(&topic).await?;
        if let Some(partition) = partition {
            topic.check(&self.shared, partition).await?;
        }
        let header_bytes = |header: &Header| header.key.len() + header.value.as_ref().map_or(0, Bytes::len);
        let bytes = [&key, &value].into_iter().flatten().map(Bytes::len).sum::<usize>()
            + headers.iter().map(header_bytes).sum::<usize>();
        let (pending, delivery) = self.admit(bytes).await?;
        let timestamp = timestamp.unwrap_or_else(|| TimestampMs(self.shared.cluster.env.clock.wall_ms()));
        let item = Item { key, value, headers, timestamp, pending };
        match partition {
            Some(partition) => topic.push(&self.shared, partition, Entry::Record(item, RoutingEpoch::UNKNOWN)),
            None => topic.place(&self.shared, item),
        }
        Ok(delivery)
    }

    /// Takes one record batch that the caller has encoded, to be sent as it is, behind what was sent to the partition
    /// before, and before what is sent after it. It is not numbered: repeated, it may be there twice.
    ///
    /// # Errors
    /// The bytes are not exactly one batch (its records are not looked at), or as [`Producer::send`].
    pub async fn send_batch(
        &self,
        topic: &str,
        partition: PartitionId,
        batch: Bytes,
    ) -> Result<Delivery, ProduceError> {
        let topic = self.topic(topic).await?;
        topic.check(&self.shared, partition).await?;
        Batch::parse_one(batch.clone()).map_err(|error| ProduceError::Record {
            topic: Arc::clone(topic.name()),
            detail: error.to_string().into(),
        })?;
        let (pending, delivery) = self.admit(batch.len()).await?;
        topic.push(&self.shared, partition, Entry::Encoded(batch, pending));
        Ok(delivery)
    }

    /// Sends a record and waits for its fate: for callers with one record at a time.
    ///
    /// # Errors
    /// As [`Producer::send`] and [`Delivery`].
    pub async fn produce(&self, record: ProducerRecord) -> Result<Delivered, ProduceError> {
        self.send(record).await?.await
    }

    /// Waits until the fate of everything sent so far is known, without lingering. Errors are told by the deliveries. What is sent while it
    /// waits, by others, is not waited for. Dropping this future changes nothing: what was sent so far lingers no more.
    pub async fn flush(&self) {
        let (generation, closed) = self.outstanding.close();
        // Flushes at the same time may come here in any order.
        self.shared.flushed.send_modify(|flushed| *flushed = (generation + 1).max(*flushed));
        closed.over().await;
    }

    /// How many partitions a topic has.
    ///
    /// # Errors
    /// The topic does not exist or cannot be asked about.
    pub async fn partitions(&self, topic: &str) -> Result<i32, ProduceError> {
        Ok(self.topic(topic).await?.partitions())
    }

    async fn admit(&self, bytes: usize) -> Result<(Pending, Delivery), ProduceError> {
        let bytes = (bytes + RECORD_OVERHEAD).min(self.shared.options.buffer_bytes_max);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let memory = Arc::clone(&self.memory).acquire_many_owned(bytes).await.map_err(|_| ProduceError::Stopped)?;
        let (reply, told) = oneshot::channel();
        let outstanding = self.outstanding.one();
        let deadline = self.shared.after(self.shared.options.delivery_timeout);
        Ok((Pending { reply, memory, outstanding, deadline }, Delivery(told)))
    }

    async fn topic(&self, name: &str) -> Result<Arc<Topic>, CallError> {
        let place = {
            let mut topics = self.topics.lock();
            match topics.get(name) {
                Some(place) => Arc::clone(place),
                None => Arc::clone(topics.entry(name.into()).or_default()),
            }
        };
        let made = place.get_or_try_init(|| async { Topic::ask(&self.shared, name).await.map(Arc::new) }).await;
        match made {
            Ok(topic) => Ok(Arc::clone(topic)),
            Err(error) => {
                self.forget(name, &place);
                Err(error)
            }
        }
    }

    /// Names that do not exist are not kept. But the place stays for whoever waits for it and would make the topic there: with two of them
    /// a partition would have two queues that give their batches the same numbers.
    fn forget(&self, name: &str, place: &TopicPlace) {
        let mut topics = self.topics.lock();
        // The map's own and this one: more are only made under the lock.
        let is_waited_for = place.initialized() || Arc::strong_count(place) > 2;
        if !is_waited_for && topics.get(name).is_some_and(|kept| Arc::ptr_eq(kept, place)) {
            topics.remove(name);
        }
    }
}
