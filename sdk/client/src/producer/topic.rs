//! One topic of a producer: its partitions' queues, and how a record finds its partition.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use millstream_model::{PartitionId, RoutingEpoch, key_partition};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{
    Entry, Item, Shared, partition,
    route::{self, Routing},
};
use crate::{CallError, ProduceError};

/// One topic of a producer. When it is dropped, the tasks below it deliver what they have and end: first the one that
/// routes, then, as it lets go of the queues, the partitions'.
pub(super) struct Topic {
    queues: Arc<Queues>,
    /// To the task that asks the partitioner; made when first needed.
    route: Mutex<Option<mpsc::UnboundedSender<Item>>>,
}

impl Topic {
    /// Asks for a topic's partitions and how it is routed.
    pub(super) async fn ask(shared: &Shared, name: &str) -> Result<Self, CallError> {
        let routing = Routing::ask(&shared.cluster, name).await?;
        let start = shared.cluster.env.rng.next_u64() % u64::from(routing.partitions().max(1).unsigned_abs());
        let queues = Queues {
            name: name.into(),
            routing,
            queues: Mutex::default(),
            cuts: Arc::default(),
            sticky: Mutex::new(Sticky { partition: i32::try_from(start).unwrap_or(0), cuts: 0 }),
        };
        Ok(Self { queues: Arc::new(queues), route: Mutex::default() })
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.queues.name
    }

    pub(super) fn partitions(&self) -> i32 {
        self.queues.routing.partitions()
    }

    /// Whether there is such a partition.
    pub(super) fn check(&self, partition: PartitionId) -> Result<(), ProduceError> {
        self.queues.check(partition)
    }

    /// Puts an entry behind the others of its partition.
    pub(super) fn push(&self, shared: &Arc<Shared>, partition: PartitionId, entry: Entry) {
        self.queues.push(shared, partition, entry);
    }

    /// Finds a partition for a record that leaves it open, and puts it there.
    pub(super) fn place(&self, shared: &Arc<Shared>, item: Item) {
        if !self.queues.routing.has_partitioner() {
            let partition = self.queues.default_partition(item.key.as_deref());
            self.queues.push(shared, partition, Entry::Record(item, RoutingEpoch(-1)));
            return;
        }
        let mut route = self.route.lock();
        let queue = route.get_or_insert_with(|| {
            let (queue, items) = mpsc::unbounded_channel();
            let task = route::run(Arc::clone(shared), Arc::clone(&self.queues), items);
            drop(shared.cluster.env.spawn.spawn("produce route", Box::pin(task)));
            queue
        });
        // When the task is gone, so is the runtime: dropping the record tells its sender.
        let _ = queue.send(item);
    }
}

/// A topic's partitions.
pub(super) struct Queues {
    pub(super) name: Arc<str>,
    pub(super) routing: Routing,
    /// By partition; made when first used.
    queues: Mutex<HashMap<PartitionId, mpsc::UnboundedSender<Entry>>>,
    /// Counts the batches cut, so that keyless records move on to another partition with every batch.
    cuts: Arc<AtomicU64>,
    sticky: Mutex<Sticky>,
}

/// Where keyless records go, and how many batches had been cut when that was chosen (KIP-480).
struct Sticky {
    partition: i32,
    cuts: u64,
}

impl Queues {
    pub(super) fn check(&self, partition: PartitionId) -> Result<(), ProduceError> {
        let partitions = self.routing.partitions();
        if (0..partitions).contains(&partition.0) {
            return Ok(());
        }
        Err(ProduceError::NoSuchPartition { topic: Arc::clone(&self.name), partition, partitions })
    }

    pub(super) fn push(&self, shared: &Arc<Shared>, partition: PartitionId, entry: Entry) {
        let mut queues = self.queues.lock();
        let queue = queues.entry(partition).or_insert_with(|| {
            let (queue, entries) = mpsc::unbounded_channel();
            let (name, cuts) = (Arc::clone(&self.name), Arc::clone(&self.cuts));
            let task = partition::run(Arc::clone(shared), name, partition, cuts, entries);
            drop(shared.cluster.env.spawn.spawn("produce partition", Box::pin(task)));
            queue
        });
        let _ = queue.send(entry);
    }

    /// Where a record goes that nobody places: by its key's hash; without a key, where the last ones went until their batch
    /// was cut.
    pub(super) fn default_partition(&self, key: Option<&[u8]>) -> PartitionId {
        let partitions = self.routing.partitions().max(1);
        if let Some(key) = key {
            return key_partition(key, partitions);
        }
        let mut sticky = self.sticky.lock();
        let cuts = self.cuts.load(Ordering::Relaxed);
        if cuts != sticky.cuts {
            *sticky = Sticky { partition: (sticky.partition + 1) % partitions, cuts };
        }
        PartitionId(sticky.partition % partitions)
    }
}
