//! Where a topic's records belong: what its partitioner chooses, or Kafka's default without one.

use millstream_catalog::{State, Topic};
use millstream_model::{Needs, PartitionId, key_partition};
use millstream_wasm::{Pool, frame::InputFrame};

use crate::{errors::WireError, shared::Shared};

/// A topic's way of placing records, as it was when this was made.
pub(crate) struct Placement<'a> {
    topic: &'a Topic,
    /// Of the partitioner; none: Kafka's default.
    pool: Option<Pool>,
}

impl<'a> Placement<'a> {
    /// The topic's, with its partitioner loaded: that may take long, so hold nothing meanwhile that others wait for.
    pub(crate) async fn of(shared: &Shared, state: &State, topic: &'a Topic) -> Result<Self, WireError> {
        Ok(Self { topic, pool: shared.modules.partitioner(state, topic).await? })
    }

    /// What it must see of records beside their keys.
    pub(crate) fn needs(&self) -> Needs {
        self.pool.as_ref().map(|pool| pool.factory().declarations().needs).unwrap_or_default()
    }

    /// Who places records, in words.
    pub(crate) fn who(&self) -> String {
        match &self.topic.config.partitioner {
            Some(module) => format!("partitioner {module} of {}", self.topic.name),
            None => format!("the hash of keys in {}", self.topic.name),
        }
    }

    /// Chooses for each record of one call; none where any partition will do: the default, and no key to go by.
    ///
    /// Dropping the future gives the call up.
    ///
    /// # Errors
    /// Nothing is known about any record then. The error tells at which of these it stopped, if at one.
    pub(crate) async fn choose(&self, frame: &InputFrame) -> Result<Vec<Option<PartitionId>>, WireError> {
        let partitions = self.topic.routed_partitions();
        let default = |index| frame.key(index).map(|key| key_partition(key, partitions));
        let Some(pool) = &self.pool else { return Ok((0..frame.count()).map(default).collect()) };
        let chosen = pool.assign(frame, partitions.cast_unsigned()).await;
        let chosen = chosen.map_err(|error| WireError::unplaced(&self.who(), &error))?;
        let chosen = (0..)
            .zip(chosen)
            .map(|(index, partition)| if partition < 0 { default(index) } else { Some(PartitionId(partition)) });
        Ok(chosen.collect())
    }
}
