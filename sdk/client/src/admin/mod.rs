//! The admin's requests: topics, modules, views, transforms, the cluster.
//!
//! What changes something is sent once: after [`CallError::Disconnected`] or [`CallError::TimedOut`] look whether it was done.

mod modules;
mod topics;
mod transforms;
mod views;

use std::{collections::BTreeMap, sync::Arc};

use millstream_model::BrokerId;
use millstream_protocol::{
    ErrorCode,
    extension::cluster::{ClusterInfoRequest, ClusterInfoResponse},
    messages::cluster::{DescribeClusterBroker, DescribeClusterRequest},
};

pub use self::{
    modules::PushedModule,
    topics::{
        ConfigChange, ConfigEntry, CreatedTopic, DeleteBefore, NewTopic, PartitionDescription, TopicDescription,
        TopicListing,
    },
    transforms::Resumed,
};
use crate::{
    CallError,
    cluster::{Cluster, Target},
};

/// The cluster as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDescription {
    /// The answering broker's account.
    pub info: ClusterInfoResponse,
    /// A broker that takes admin requests.
    pub controller: BrokerId,
    /// The brokers.
    pub brokers: Vec<DescribeClusterBroker>,
    /// How many partitions have a replica whose log is out of service, by topic; others are not named.
    pub out_of_service: BTreeMap<String, i32>,
}

/// Asks for changes and descriptions. Made by [`crate::Client::admin`]; cheap to clone.
///
/// Every method fails with [`CallError`]: the broker's refusal in its own words, or why it could not be asked.
#[derive(Clone)]
pub struct Admin {
    cluster: Arc<Cluster>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admin")
    }
}

impl Admin {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster }
    }

    fn timeout_ms(&self) -> i32 {
        i32::try_from(self.cluster.options.request_timeout.as_millis()).unwrap_or(i32::MAX)
    }

    /// The cluster and its brokers.
    ///
    /// # Errors
    /// The broker could not be asked.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, CallError> {
        let info = self.cluster.ask(Target::Any, ClusterInfoRequest {}).await?;
        CallError::check("the cluster", info.error_code, info.error_message.as_deref())?;
        let cluster = self.cluster.ask(Target::Any, DescribeClusterRequest::default()).await?;
        CallError::check("the cluster", cluster.error_code, cluster.error_message.as_deref())?;
        let topics = self.list_topics().await?;
        let damaged = topics.into_iter().filter(|topic| topic.out_of_service > 0);
        Ok(ClusterDescription {
            info,
            controller: cluster.controller_id,
            brokers: cluster.brokers,
            out_of_service: damaged.map(|topic| (topic.name, topic.out_of_service)).collect(),
        })
    }
}

/// A broker's answer that leaves out what was asked for.
fn left_out(what: &str) -> CallError {
    CallError::refused(what, ErrorCode::UnknownServer, Some("the broker's answer leaves it out"))
}
