//! The queues of a topic's partitions, and the partition of a record that nobody places.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use millstream_model::{PartitionId, RoutingEpoch, key_partition};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

#[cfg(feature = "local-routing")]
use super::local::Local;
use super::{Entry, Item, Shared, partition, routing::Routing};
use crate::{CallError, ProduceError, cluster::Cluster};

/// A topic's partitions.
pub(super) struct Queues {
    pub(super) name: Arc<str>,
    pub(super) routing: Routing,
    /// By partition; made when first used.
    queues: Mutex<BTreeMap<PartitionId, mpsc::UnboundedSender<Entry>>>,
    pub(super) spread: Arc<Spread>,
    sticky: Mutex<Sticky>,
    /// Whether all that is left open goes to the task that routes: it has been asked to turn to another routing epoch, or has records that
    /// were sent before.
    turning: Mutex<bool>,
    #[cfg(feature = "local-routing")]
    pub(super) local: Local,
}

/// What the partitions tell, so that records go where they are taken.
pub(super) struct Spread {
    /// Counts the batches cut, so that keyless records move on to another partition with every batch.
    cuts: AtomicU64,
    /// Partitions whose storage has failed, as the answers to batches say that wait for it.
    out: Mutex<BTreeSet<PartitionId>>,
    /// The routing epoch that brokers call over; -1: none yet.
    stale: watch::Sender<RoutingEpoch>,
}

impl Default for Spread {
    fn default() -> Self {
        Self { cuts: AtomicU64::new(0), out: Mutex::default(), stale: watch::Sender::new(RoutingEpoch::UNKNOWN) }
    }
}

impl Spread {
    /// A broker takes nothing any more that was placed in this routing epoch.
    pub(super) fn set_stale(&self, epoch: RoutingEpoch) {
        self.stale.send_if_modified(|stale| std::mem::replace(stale, epoch) != epoch);
    }

    /// Nothing of that epoch is left. (Epochs begin anew where a topic is deleted and another one made under its name.)
    pub(super) fn clear_stale(&self) {
        self.set_stale(RoutingEpoch::UNKNOWN);
    }

    /// Whether records that were placed in this routing epoch are to be placed anew.
    pub(super) fn is_stale(&self, epoch: RoutingEpoch) -> bool {
        epoch.is_known() && epoch == *self.stale.borrow()
    }

    /// Tells when another epoch is over.
    pub(super) fn watch_stale(&self) -> watch::Receiver<RoutingEpoch> {
        self.stale.subscribe()
    }

    /// How many batches were cut so far.
    pub(super) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }

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
    /// Keyless records begin after any partition.
    pub(super) fn new(shared: &Shared, name: &str, routing: Routing) -> Self {
        let start = shared.cluster.env.rng.next_u64() % u64::from(routing.partitions().max(1).unsigned_abs());
        Self {
            name: name.into(),
            routing,
            queues: Mutex::default(),
            spread: Arc::default(),
            // As if a batch had been cut: the first record, too, looks whether its partition is well.
            sticky: Mutex::new(Sticky { partition: i32::try_from(start).unwrap_or(0), cuts: u64::MAX }),
            turning: Mutex::new(false),
            #[cfg(feature = "local-routing")]
            local: Local::new(shared.host.clone()),
        }
    }

    /// Places a record at once, where no partitioner is to be asked and nothing is in the way; gives it back otherwise.
    pub(super) fn place(&self, shared: &Arc<Shared>, item: Item) -> Option<Item> {
        // Held until the record is in its queue: whoever turns the topic finds there all that was placed before.
        let turning = self.turning.lock();
        let rules = self.routing.current();
        if *turning || rules.partitioner {
            return Some(item);
        }
        let partition = self.default_partition(&shared.cluster, item.key.as_deref());
        self.push(shared, partition, Entry::Record(item, rules.epoch));
        None
    }

    /// From here on everything that is left open goes to the task that routes.
    pub(super) fn turn(&self) {
        *self.turning.lock() = true;
    }

    /// Records may be placed at once again, if `is_done` says that none waits before them.
    pub(super) fn turned(&self, is_done: impl FnOnce() -> bool) {
        let mut turning = self.turning.lock();
        *turning = *turning && !is_done();
    }

    /// Waits until all that is in the queues has its fate. Gives the records that brokers do not take any more where they were placed: by
    /// partition, in the order in which they were sent.
    pub(super) async fn drain(&self) -> Vec<Item> {
        let told: Vec<_> = {
            let queues = self.queues.lock();
            let turn = |queue: &mpsc::UnboundedSender<Entry>| {
                let (tell, told) = oneshot::channel();
                // When the task is gone, so is the runtime.
                let _ = queue.send(Entry::Turn(tell));
                told
            };
            queues.values().map(turn).collect()
        };
        let mut returned = Vec::new();
        for told in told {
            returned.extend(told.await.unwrap_or_default());
        }
        returned
    }

    /// Asks whether the topic is routed anew by now. If it is, whoever routes is told.
    pub(super) async fn look(&self, cluster: &Cluster) -> Result<(), CallError> {
        if let Some(over) = self.routing.look(cluster, &self.name).await? {
            self.spread.set_stale(over);
        }
        Ok(())
    }

    pub(super) fn check(&self, partition: PartitionId) -> Result<(), ProduceError> {
        let partitions = self.routing.known();
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
