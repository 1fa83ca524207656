//! CreateTopics, CreatePartitions and DeleteTopics.

use millstream_model::{BrokerId, PartitionId, TopicId};

use crate::{ErrorCode, codec::message};

message! {
    /// Creates topics.
    pub struct CreateTopicsRequest: 2..=7, flexible 5 {
        /// The topics.
        pub topics: Vec<CreatableTopic>,
        /// How long to wait for them, milliseconds.
        pub timeout_ms: i32 = 60_000,
        /// Whether to check only.
        pub validate_only: bool,
    }

    /// One topic to create.
    pub struct CreatableTopic {
        /// Its name.
        pub name: String,
        /// How many partitions; -1 is the broker's default, or given by `assignments`.
        pub num_partitions: i32,
        /// How many replicas of each; -1 is the broker's default, or given by `assignments`.
        pub replication_factor: i16,
        /// Where the replicas go, if the client decides that.
        pub assignments: Vec<CreatableReplicaAssignment>,
        /// Its settings.
        pub configs: Vec<CreatableTopicConfig>,
    }

    /// Where one partition's replicas go.
    pub struct CreatableReplicaAssignment {
        /// The partition.
        pub partition_index: PartitionId,
        /// The brokers, the preferred leader first.
        pub broker_ids: Vec<BrokerId>,
    }

    /// One setting.
    pub struct CreatableTopicConfig {
        /// Its name.
        pub name: String,
        /// Its value; null is the default.
        pub value: Option<String>,
    }
}

message! {
    /// What became of each topic.
    pub struct CreateTopicsResponse: 2..=7, flexible 5 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32,
        /// By topic.
        pub topics: Vec<CreatableTopicResult>,
    }

    /// What became of one topic.
    pub struct CreatableTopicResult {
        /// Its name.
        pub name: String,
        /// Its id.
        pub topic_id: TopicId [7..],
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// How many partitions it has; -1 with an error.
        pub num_partitions: i32 [5..] = -1,
        /// How many replicas each has; -1 with an error.
        pub replication_factor: i16 [5..] = -1,
        /// Its settings; null when they are not told.
        pub configs: Option<Vec<CreatableTopicConfigs>> [5..] = Some(Vec::new()),
        /// Why the settings are not told.
        pub topic_config_error_code: ErrorCode [tag 0, 5..],
    }

    /// One setting of a created topic.
    pub struct CreatableTopicConfigs {
        /// Its name.
        pub name: String,
        /// Its value.
        pub value: Option<String>,
        /// Whether it cannot be changed.
        pub read_only: bool,
        /// Where the value comes from: see [`crate::messages::configs`].
        pub config_source: i8 = -1,
        /// Whether the value is secret.
        pub is_sensitive: bool,
    }
}

message! {
    /// Gives topics more partitions.
    pub struct CreatePartitionsRequest: 0..=3, flexible 2 {
        /// The topics.
        pub topics: Vec<CreatePartitionsTopic>,
        /// How long to wait for them, milliseconds.
        pub timeout_ms: i32,
        /// Whether to check only.
        pub validate_only: bool,
    }

    /// One topic that gets more partitions.
    pub struct CreatePartitionsTopic {
        /// Its name.
        pub name: String,
        /// How many it has then, those that are there included.
        pub count: i32,
        /// Where the new ones' replicas go, in their order; null leaves that to the broker.
        pub assignments: Option<Vec<CreatePartitionsAssignment>>,
    }

    /// Where one new partition's replicas go.
    pub struct CreatePartitionsAssignment {
        /// The brokers, the preferred leader first.
        pub broker_ids: Vec<BrokerId>,
    }
}

message! {
    /// What became of each topic.
    pub struct CreatePartitionsResponse: 0..=3, flexible 2 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32,
        /// By topic.
        pub results: Vec<CreatePartitionsTopicResult>,
    }

    /// What became of one topic.
    pub struct CreatePartitionsTopicResult {
        /// Its name.
        pub name: String,
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
    }
}

message! {
    /// Deletes topics.
    pub struct DeleteTopicsRequest: 1..=6, flexible 4 {
        /// By name or id, from version 6 on.
        pub topics: Vec<DeleteTopicState> [6..],
        /// By name, up to version 5.
        pub topic_names: Vec<String> [..=5],
        /// How long to wait, milliseconds.
        pub timeout_ms: i32,
    }

    /// One topic to delete.
    pub struct DeleteTopicState {
        /// Its name; null when meant by id.
        pub name: Option<String>,
        /// Its id; nil when meant by name.
        pub topic_id: TopicId,
    }
}

message! {
    /// What became of each topic.
    pub struct DeleteTopicsResponse: 1..=6, flexible 4 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32,
        /// By topic.
        pub responses: Vec<DeletableTopicResult>,
    }

    /// What became of one topic.
    pub struct DeletableTopicResult {
        /// Its name; null, in version 6, where the id is unknown.
        pub name: Option<String>,
        /// Its id.
        pub topic_id: TopicId [6..],
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String> [5..],
    }
}
