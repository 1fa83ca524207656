//! The queues of a topic's partitions, and the partition of a record that nobody places.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use millstream_model::{PartitionId, key_partition};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Entry, Shared, partition, routing::Routing};
use crate::ProduceError;

/// A topic's partitions.
pub(super) struct Queues {
    pub(super) name: Arc<str>,
    pub(super) routing: Routing,
    /// By partition; made when first used.
    queues: Mutex<BTreeMap<PartitionId, mpsc::UnboundedSender<Entry>>>,
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
    /// Keyless records begin at the partition `start`, taken modulo the number of partitions.
    pub(super) fn new(name: &str, routing: Routing, start: u64) -> Self {
        let start = start % u64::from(routing.partitions().max(1).unsigned_abs());
        Self {
            name: name.into(),
            routing,
            queues: Mutex::default(),
            cuts: Arc::default(),
            sticky: Mutex::new(Sticky { partition: i32::try_from(start).unwrap_or(0), cuts: 0 }),
        }
    }

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
