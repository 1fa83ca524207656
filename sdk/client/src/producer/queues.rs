//! The queues of a topic's partitions, and the partition of a record that nobody places.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use millstream_model::{PartitionId, key_partition};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Entry, Shared, partition, routing::Routing};
use crate::{ProduceError, cluster::Cluster};

/// A topic's partitions.
pub(super) struct Queues {
    pub(super) name: Arc<str>,
    pub(super) routing: Routing,
    /// By partition; made when first used.
    queues: Mutex<BTreeMap<PartitionId, mpsc::UnboundedSender<Entry>>>,
    spread: Arc<Spread>,
    sticky: Mutex<Sticky>,
}

/// What the partitions tell, so that keyless records go where they are taken.
#[derive(Default)]
pub(super) struct Spread {
    /// Counts the batches cut, so that keyless records move on to another partition with every batch.
    cuts: AtomicU64,
    /// Partitions whose storage has failed, as the answers to batches say that wait for it.
    out: Mutex<BTreeSet<PartitionId>>,
}

impl Spread {
    /// A batch was cut.
    pub(super) fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::Relaxed);
    }

    /// The partition's storage has failed, or works again.
    pub(super) fn set_out(&self, partition: PartitionId, is_out: bool) {
        let mut out = self.out.lock();
        if is_out {
            out.insert(partition)
        } else {
            out.remove(&partition)
        };
        drop(out);
        // The next keyless record looks for another place, though no batch was cut.
        self.cut();
    }
}

/// Where keyless records go, and how many batches had been cut when that was chosen (KIP-480).
struct Sticky {
    partition: i32,
    cuts: u64,
}

impl Queues {
    /// Keyless records begin after the partition `start`, taken modulo the number of partitions.
    pub(super) fn new(name: &str, routing: Routing, start: u64) -> Self {
        let start = start % u64::from(routing.partitions().max(1).unsigned_abs());
        Self {
            name: name.into(),
            routing,
            queues: Mutex::default(),
            spread: Arc::default(),
            // As if a batch had been cut: the first record, too, looks whether its partition is well.
            sticky: Mutex::new(Sticky { partition: i32::try_from(start).unwrap_or(0), cuts: u64::MAX }),
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
            let (name, spread) = (Arc::clone(&self.name), Arc::clone(&self.spread));
            let task = partition::run(Arc::clone(shared), name, partition, spread, entries);
            drop(shared.cluster.env.spawn.spawn("produce partition", Box::pin(task)));
            queue
        });
        let _ = queue.send(entry);
    }

    /// Where a record goes that nobody places: by its key's hash; without a key, where the last ones went until their batch
    /// was cut, and then where the storage is well (as in KIP-794), if it is anywhere.
    pub(super) fn default_partition(&self, cluster: &Cluster, key: Option<&[u8]>) -> PartitionId {
        let partitions = self.routing.partitions().max(1);
        if let Some(key) = key {
            return key_partition(key, partitions);
        }
        let mut sticky = self.sticky.lock();
        let cuts = self.spread.cuts.load(Ordering::Relaxed);
        if cuts != sticky.cuts {
            let (out, topic) = (self.spread.out.lock(), cluster.known_topic(&self.name));
            let is_offline = |at| topic.as_ref().is_some_and(|topic| topic.is_offline(at));
            let mut others = (1..=partitions).map(|step| (sticky.partition + step) % partitions);
            let next = (sticky.partition + 1) % partitions;
            let well = others.find(|at| !out.contains(&PartitionId(*at)) && !is_offline(PartitionId(*at)));
            *sticky = Sticky { partition: well.unwrap_or(next), cuts };
        }
        PartitionId(sticky.partition % partitions)
    }
}
