//! DescribeCluster: the brokers, for admin clients.

use millstream_model::BrokerId;

use super::metadata::OPERATIONS_UNKNOWN;
use crate::{ErrorCode, codec::message};

/// "Brokers", of [`DescribeClusterRequest::endpoint_type`].
pub const ENDPOINT_BROKERS: i8 = 1;
/// "Controllers", likewise.
pub const ENDPOINT_CONTROLLERS: i8 = 2;

message! {
    /// Asks about the cluster.
    pub struct DescribeClusterRequest: 0..=2, flexible 0 {
        /// Whether to tell which operations on the cluster the client may do.
        pub include_cluster_authorized_operations: bool,
        /// 1 for brokers, 2 for controllers.
        pub endpoint_type: i8 [1..] = ENDPOINT_BROKERS,
        /// Whether to list fenced brokers too.
        pub include_fenced_brokers: bool [2..],
    }
}

message! {
    /// The cluster.
    pub struct DescribeClusterResponse: 0..=2, flexible 0 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32,
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// 1 for brokers, 2 for controllers.
        pub endpoint_type: i8 [1..] = ENDPOINT_BROKERS,
        /// The cluster's id.
        pub cluster_id: String,
        /// A broker that takes admin requests.
        pub controller_id: BrokerId = BrokerId(-1),
        /// The brokers.
        pub brokers: Vec<DescribeClusterBroker>,
        /// What the client may do to the cluster, a bit each.
        pub cluster_authorized_operations: i32 = OPERATIONS_UNKNOWN,
    }

    /// One broker.
    pub struct DescribeClusterBroker {
        /// Its number.
        pub broker_id: BrokerId,
        /// Its host name.
        pub host: String,
        /// Its port.
        pub port: i32,
        /// Its rack.
        pub rack: Option<String>,
        /// Whether it may lead nothing at the moment.
        pub is_fenced: bool [2..],
    }
}
