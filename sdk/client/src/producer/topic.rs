//! One topic of a producer: how a record finds its partition's queue.

use std::sync::Arc;

use millstream_model::PartitionId;
use tokio::sync::mpsc;

use super::{Entry, Item, Shared, queues::Queues, route, routing::Routing};
use crate::{CallError, ProduceError};

/// One topic of a producer. When it is dropped, the tasks below it deliver what they have and end: first the one that
/// routes, then, as it lets go of the queues, the partitions'.
pub(super) struct Topic {
    queues: Arc<Queues>,
    /// To the task that routes: it asks the partitioner, and places anew what brokers do not take where it was placed.
    route: mpsc::UnboundedSender<Item>,
}

impl Topic {
    /// Asks for a topic's partitions and how it is routed.
    pub(super) async fn ask(shared: &Arc<Shared>, name: &str) -> Result<Self, CallError> {
        let routing = Routing::ask(&shared.cluster, name).await?;
        let queues = Arc::new(Queues::new(shared, name, routing));
        let (route, items) = mpsc::unbounded_channel();
        let task = route::run(Arc::clone(shared), Arc::clone(&queues), items);
        drop(shared.cluster.env.spawn.spawn("produce route", Box::pin(task)));
        Ok(Self { queues, route })
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.queues.name
    }

    pub(super) fn partitions(&self) -> i32 {
        self.queues.routing.known()
    }

    /// Whether there is such a partition: the broker is asked, if it is not known.
    pub(super) async fn check(&self, shared: &Shared, partition: PartitionId) -> Result<(), ProduceError> {
        if self.queues.check(partition).is_err() {
            self.queues.look(&shared.cluster).await?;
        }
        self.queues.check(partition)
    }

    /// Puts an entry behind the others of its partition.
    pub(super) fn push(&self, shared: &Arc<Shared>, partition: PartitionId, entry: Entry) {
        self.queues.push(shared, partition, entry);
    }

    /// Finds a partition for a record that leaves it open, and puts it there.
    pub(super) fn place(&self, shared: &Arc<Shared>, item: Item) {
        if let Some(item) = self.queues.place(shared, item) {
            // When the task is gone, so is the runtime: dropping the record tells its sender.
            let _ = self.route.send(item);
        }
    }
}
