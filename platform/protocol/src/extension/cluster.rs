//! The cluster as its operator sees it, beyond what Kafka's DescribeCluster says.

use millstream_model::{BrokerId, TimestampMs};

use super::Pair;
use crate::{ErrorCode, codec::message};

message! {
    /// Asks the answering broker about itself and what the cluster holds.
    pub struct ClusterInfoRequest: 0..=0, flexible 0 {}
}

message! {
    /// The broker and the cluster.
    pub struct ClusterInfoResponse: 0..=0, flexible 0 {
        /// What went wrong.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// The cluster's id.
        pub cluster_id: String,
        /// The answering broker.
        pub broker_id: BrokerId,
        /// Millstream's version there.
        pub version: String,
        /// When it started.
        pub started_at: TimestampMs,
        /// How many topics the cluster has.
        pub topics: i32,
        /// How many partitions.
        pub partitions: i32,
        /// How many modules.
        pub modules: i32,
        /// How many views.
        pub views: i32,
        /// How many transforms.
        pub transforms: i32,
        /// Other things to know, by name.
        pub details: Vec<Pair>,
    }
}
