//! How a topic's records find their partitions, asked of the broker and kept.

#[cfg(feature = "local-routing")]
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use millstream_model::{Needs, RoutingEpoch};
use millstream_protocol::{ErrorCode, extension::routing::DescribeRoutingRequest};
use parking_lot::Mutex;

#[cfg(feature = "local-routing")]
use super::local::Told;
use crate::{
    CallError,
    cluster::{Cluster, Target},
};

/// How a topic's records find their partitions, as last heard of.
pub(super) struct Routing {
    rules: Mutex<Rules>,
    known: AtomicI32,
}

/// What [`Routing`] holds, at one moment.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) partitions: i32,
    pub(super) epoch: RoutingEpoch,
    pub(super) partitioner: bool,
    pub(super) needs: Needs,
    /// What is told of the partitioner to who runs it.
    #[cfg(feature = "local-routing")]
    pub(super) told: Option<Arc<Told>>,
}

impl Routing {
    /// Asks how a topic is routed.
    pub(super) async fn ask(cluster: &Cluster, topic: &str) -> Result<Self, CallError> {
        let partitions = cluster.topic(topic).await?.partition_count();
        let rules = Self::rules(cluster, topic, partitions).await?;
        let known = AtomicI32::new(rules.partitions);
        Ok(Self { rules: Mutex::new(rules), known })
    }

    async fn rules(cluster: &Cluster, topic: &str, partitions: i32) -> Result<Rules, CallError> {
        let request = DescribeRoutingRequest { topics: vec![topic.into()] };
        let response = match cluster.ask(Target::Any, request).await {
            Ok(response) => response,
            // A broker that has no partitioners at all.
            Err(CallError::NotServed { .. }) => {
                return Ok(Rules {
                    partitions,
                    epoch: RoutingEpoch::UNKNOWN,
                    partitioner: false,
                    needs: Needs::default(),
                    #[cfg(feature = "local-routing")]
                    told: None,
                });
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
            #[cfg(feature = "local-routing")]
            told: Told::of(&found),
        })
    }

    /// How many partitions records are placed on.
    pub(super) fn partitions(&self) -> i32 {
        self.rules.lock().partitions
    }

    /// How many partitions there are, as last heard of: records are placed on the new ones once the producer has turned to them.
    pub(super) fn known(&self) -> i32 {
        self.known.load(Ordering::Relaxed)
    }

    pub(super) fn current(&self) -> Rules {
        self.rules.lock().clone()
    }

    /// Asks whether the topic is routed anew by now. The epoch that is over, if it is: turning to the new one takes more than knowing of it.
    pub(super) async fn look(&self, cluster: &Cluster, topic: &str) -> Result<Option<RoutingEpoch>, CallError> {
        let found = self.asked(cluster, topic).await?;
        let mut rules = self.rules.lock();
        if found.epoch != rules.epoch {
            return Ok(Some(rules.epoch));
        }
        *rules = found;
        Ok(None)
    }

    /// Takes the rules as they are now. Whether they are of another epoch than those before.
    pub(super) async fn refresh(&self, cluster: &Cluster, topic: &str) -> Result<bool, CallError> {
        let found = self.asked(cluster, topic).await?;
        let epoch = found.epoch;
        let before = std::mem::replace(&mut *self.rules.lock(), found);
        Ok(before.epoch != epoch)
    }

    async fn asked(&self, cluster: &Cluster, topic: &str) -> Result<Rules, CallError> {
        let partitions = cluster.refresh_topic(topic).await?.partition_count();
        let found = Self::rules(cluster, topic, partitions).await?;
        self.known.store(found.partitions, Ordering::Relaxed);
        Ok(found)
    }
}
