//! How a topic's records find their partitions, asked of the broker and kept.

use millstream_env::Monotonic;
use millstream_model::{Needs, RoutingEpoch};
use millstream_protocol::{ErrorCode, extension::routing::DescribeRoutingRequest};
use parking_lot::Mutex;

use crate::{
    CallError,
    cluster::{Cluster, Target},
};

/// How a topic's records find their partitions, as last heard of.
pub(super) struct Routing {
    rules: Mutex<Rules>,
    /// When they are to be asked for again.
    due: Mutex<Monotonic>,
}

/// What [`Routing`] holds, at one moment.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub(super) partitions: i32,
    pub(super) epoch: RoutingEpoch,
    pub(super) partitioner: bool,
    pub(super) needs: Needs,
}

impl Routing {
    /// Asks how a topic is routed.
    pub(super) async fn ask(cluster: &Cluster, topic: &str) -> Result<Self, CallError> {
        let partitions = cluster.topic(topic).await?.partition_count();
        let rules = Self::rules(cluster, topic, partitions).await?;
        Ok(Self { rules: Mutex::new(rules), due: Mutex::new(next_look(cluster)) })
    }

    async fn rules(cluster: &Cluster, topic: &str, partitions: i32) -> Result<Rules, CallError> {
        let request = DescribeRoutingRequest { topics: vec![topic.into()] };
        let response = match cluster.ask(Target::Any, request).await {
            Ok(response) => response,
            // A broker that has no partitioners at all.
            Err(CallError::NotServed { .. }) => {
                return Ok(Rules { partitions, epoch: RoutingEpoch(-1), partitioner: false, needs: Needs::default() });
            }
            Err(error) => return Err(error),
        };
        let what = format!("topic {topic}");
        CallError::check(&what, response.error_code, response.error_message.as_deref())?;
        let found = response.topics.into_iter().find(|found| found.topic == topic);
        let found = found.ok_or_else(|| CallError::refused(what.as_str(), ErrorCode::UnknownTopicOrPartition, None))?;
        CallError::check(&what, found.error_code, found.error_message.as_deref())?;
        if found.partitions < 1 {
            let detail = format!("a broker says that it has {} partitions", found.partitions);
            return Err(CallError::refused(what, ErrorCode::InvalidPartitions, Some(&detail)));
        }
        Ok(Rules {
            partitions: found.partitions,
            epoch: found.routing_epoch,
            partitioner: found.partitioner.is_some(),
            needs: Needs { values: found.needs_values, headers: found.needs_headers },
        })
    }

    pub(super) fn partitions(&self) -> i32 {
        self.rules.lock().partitions
    }

    pub(super) fn has_partitioner(&self) -> bool {
        self.rules.lock().partitioner
    }

    pub(super) fn current(&self) -> Rules {
        *self.rules.lock()
    }

    /// Whether it is time to ask again, and nobody else was told so.
    pub(super) fn is_due(&self, cluster: &Cluster) -> bool {
        let mut due = self.due.lock();
        let is_due = cluster.env.clock.now() >= *due;
        if is_due {
            *due = next_look(cluster);
        }
        is_due
    }

    /// Asks again: they are old, or the broker has called them stale.
    pub(super) async fn refresh(&self, cluster: &Cluster, topic: &str) -> Result<(), CallError> {
        let partitions = cluster.refresh_topic(topic).await?.partition_count();
        let rules = Self::rules(cluster, topic, partitions).await?;
        *self.rules.lock() = rules;
        Ok(())
    }
}

fn next_look(cluster: &Cluster) -> Monotonic {
    Monotonic(cluster.env.clock.now().0.saturating_add(cluster.options.metadata_max_age))
}
