//! One topic of a producer: how a record finds its partition's queue.

use std::sync::Arc;

use millstream_model::{PartitionId, RoutingEpoch};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Entry, Item, Shared, queues::Queues, route, routing::Routing};
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
        let queues = Queues::new(name, routing, shared.cluster.env.rng.next_u64());
        Ok(Self { queues: Arc::new(queues), route: Mutex::default() })
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.queues.name
    }

    pub(super) fn partitions(&self) -> i32 {
        self.queues.routing.partitions()
    }

    /// Whether there is such a partition: the broker is asked, if it is not known.
    pub(super) async fn check(&self, shared: &Shared, partition: PartitionId) -> Result<(), ProduceError> {
        if self.queues.check(partition).is_err() {
            self.queues.routing.refresh(&shared.cluster, &self.queues.name).await?;
        }
        self.queues.check(partition)
    }

    /// Looks whether the topic has more partitions by now, if it is time; nobody waits for it.
    pub(super) fn look_again(&self, shared: &Arc<Shared>) {
        if !self.queues.routing.is_due(&shared.cluster) {
            return;
        }
        let (cluster, queues) = (Arc::clone(&shared.cluster), Arc::clone(&self.queues));
        let look = async move {
            if let Err(error) = queues.routing.refresh(&cluster, &queues.name).await {
                tracing::debug!(topic = %queues.name, %error, "new partitions are looked for later");
            }
        };
        drop(shared.cluster.env.spawn.spawn("produce look", Box::pin(look)));
    }

    /// Puts an entry behind the others of its partition.
    pub(super) fn push(&self, shared: &Arc<Shared>, partition: PartitionId, entry: Entry) {
        self.queues.push(shared, partition, entry);
    }

    /// Finds a partition for a record that leaves it open, and puts it there.
    pub(super) fn place(&self, shared: &Arc<Shared>, item: Item) {
        if !self.queues.routing.has_partitioner() {
            let partition = self.queues.default_partition(&shared.cluster, item.key.as_deref());
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
