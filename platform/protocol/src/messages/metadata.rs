//! Metadata: brokers, topics, partitions and their leaders. DescribeTopicPartitions: the same of topics, in pages.

use millstream_model::{BrokerId, LeaderEpoch, PartitionId, TopicId};

use crate::{
    ErrorCode,
    codec::{message, nullable_struct},
};

/// "The operations that the client may do are not told": what the authorized-operations fields hold unless asked for.
pub const OPERATIONS_UNKNOWN: i32 = i32::MIN;
/// `operations`, if they are asked for.
#[must_use]
pub const fn operations_if(asked: bool, operations: i32) -> i32 {
    if asked { operations } else { OPERATIONS_UNKNOWN }
}

/// All operations on a topic, a bit each as Kafka numbers them: read, write, create, delete, alter, describe, and the same two of its settings.
pub const TOPIC_OPERATIONS: i32 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11;
/// All operations on the cluster, likewise: create, alter, describe, act as a part of it, its settings, and idempotent writes.
pub const CLUSTER_OPERATIONS: i32 = 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12;

message! {
    /// Asks about topics.
    pub struct MetadataRequest: 0..=13, flexible 9 {
        /// The topics; null is all of them. (Version 0 says "all" with an empty list, which is read as null.)
        pub topics: Option<Vec<MetadataRequestTopic>>,
        /// Whether a topic that does not exist may be created.
        pub allow_auto_topic_creation: bool [4..] = true,
        /// Whether to tell which operations on the cluster the client may do.
        pub include_cluster_authorized_operations: bool [8..=10],
        /// Whether to tell which operations on the topics the client may do.
        pub include_topic_authorized_operations: bool [8..],
    }

    /// One topic asked about.
    pub struct MetadataRequestTopic {
        /// Its id; nil when asked by name. Clients may ask by id from version 12 on.
        pub topic_id: TopicId [10..],
        /// Its name; null when asked by id.
        pub name: Option<String>,
    }
}

message! {
    /// Brokers, topics and their partitions.
    pub struct MetadataResponse: 0..=13, flexible 9 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32 [3..],
        /// The brokers.
        pub brokers: Vec<MetadataBroker>,
        /// The cluster's id.
        pub cluster_id: Option<String> [2..],
        /// A broker that takes admin requests.
        pub controller_id: BrokerId [1..] = BrokerId(-1),
        /// The topics.
        pub topics: Vec<MetadataTopic>,
        /// What the client may do to the cluster, a bit each; [`OPERATIONS_UNKNOWN`] when not asked for.
        pub cluster_authorized_operations: i32 [8..=10] = OPERATIONS_UNKNOWN,
        /// What went wrong with the whole request, if anything did.
        pub error_code: ErrorCode [13..],
    }

    /// One broker.
    pub struct MetadataBroker {
        /// Its number.
        pub node_id: BrokerId,
        /// Its host name.
        pub host: String,
        /// Its port.
        pub port: i32,
        /// Its rack.
        pub rack: Option<String> [1..],
    }

    /// One topic.
    pub struct MetadataTopic {
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// Its name; null, from version 12 on, where an id is unknown.
        pub name: Option<String>,
        /// Its id.
        pub topic_id: TopicId [10..],
        /// Whether it is the cluster's own.
        pub is_internal: bool [1..],
        /// Its partitions.
        pub partitions: Vec<MetadataPartition>,
        /// What the client may do to it, a bit each; [`OPERATIONS_UNKNOWN`] when not asked for.
        pub topic_authorized_operations: i32 [8..] = OPERATIONS_UNKNOWN,
    }

    /// One partition.
    pub struct MetadataPartition {
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// The partition.
        pub partition_index: PartitionId,
        /// Its leader; -1 is none.
        pub leader_id: BrokerId,
        /// The leader's epoch; -1 is unknown.
        pub leader_epoch: LeaderEpoch [7..] = LeaderEpoch(-1),
        /// Where its replicas are, the preferred leader first.
        pub replica_nodes: Vec<BrokerId>,
        /// The replicas in sync.
        pub isr_nodes: Vec<BrokerId>,
        /// The replicas out of reach.
        pub offline_replicas: Vec<BrokerId> [5..],
    }
}

message! {
    /// Asks about topics, a page of partitions at a time (KIP-966).
    pub struct DescribeTopicPartitionsRequest: 0..=0, flexible 0 {
        /// The topics.
        pub topics: Vec<TopicRequest>,
        /// Most partitions to answer with.
        pub response_partition_limit: i32 = 2000,
        /// Where the page begins; null is the first.
        pub cursor: Option<Cursor>,
    }

    /// One topic asked about.
    pub struct TopicRequest {
        /// Its name.
        pub name: String,
    }

    /// Where a page begins. Topics follow each other by name.
    pub struct Cursor {
        /// The first topic.
        pub topic_name: String,
        /// Its first partition.
        pub partition_index: PartitionId,
    }
}

nullable_struct!(Cursor);

message! {
    /// A page of partitions.
    pub struct DescribeTopicPartitionsResponse: 0..=0, flexible 0 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32,
        /// By topic, in the order of their names.
        pub topics: Vec<DescribedTopic>,
        /// Where the next page begins; null after the last.
        pub next_cursor: Option<Cursor>,
    }

    /// One topic.
    pub struct DescribedTopic {
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// Its name.
        pub name: Option<String>,
        /// Its id.
        pub topic_id: TopicId,
        /// Whether clients that list topics should leave it out.
        pub is_internal: bool,
        /// Those of its partitions that are on this page.
        pub partitions: Vec<DescribedPartition>,
        /// What the client may do to it, a bit each; [`OPERATIONS_UNKNOWN`] when not told.
        pub topic_authorized_operations: i32 = OPERATIONS_UNKNOWN,
    }

    /// One partition.
    pub struct DescribedPartition {
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// The partition.
        pub partition_index: PartitionId,
        /// Who leads it; -1 is nobody.
        pub leader_id: BrokerId,
        /// The leader's epoch.
        pub leader_epoch: LeaderEpoch = LeaderEpoch(-1),
        /// Who stores it.
        pub replica_nodes: Vec<BrokerId>,
        /// Who has all that is committed.
        pub isr_nodes: Vec<BrokerId>,
        /// Who may lead though it is not in the ISR (KIP-966).
        pub eligible_leader_replicas: Option<Vec<BrokerId>>,
        /// Who was last in ISR or ELR.
        pub last_known_elr: Option<Vec<BrokerId>>,
        /// Whose replica cannot be used.
        pub offline_replicas: Vec<BrokerId>,
    }
}
