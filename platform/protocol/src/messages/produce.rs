//! Produce: record batches to the leaders of their partitions.

use bytes::Bytes;
use millstream_model::{BrokerId, LeaderEpoch, Offset, PartitionId, RoutingEpoch, TimestampMs, TopicId};

use crate::{ErrorCode, codec::message};

message! {
    /// Appends record batches. Versions 0-2 (older message formats) are advertised, as Kafka does for old clients' sake,
    /// and not served.
    pub struct ProduceRequest: 3..=13, flexible 9 {
        /// The transaction's id, if any.
        pub transactional_id: Option<String>,
        /// When to answer: 0 never, 1 when the leader has it, -1 when all in-sync replicas have it.
        pub acks: i16,
        /// How long to wait for that, milliseconds.
        pub timeout_ms: i32,
        /// What to append, by topic.
        pub topic_data: Vec<TopicProduceData>,
    }

    /// What to append to one topic.
    pub struct TopicProduceData {
        /// The topic's name, up to version 12.
        pub name: String [..=12],
        /// The topic's id, from version 13 on.
        pub topic_id: TopicId [13..],
        /// What to append, by partition.
        pub partition_data: Vec<PartitionProduceData>,
    }

    /// What to append to one partition.
    pub struct PartitionProduceData {
        /// The partition.
        pub index: PartitionId,
        /// Exactly one record batch from clients of today; not checked here. A slice of the request's frame.
        pub records: Option<Bytes>,
        /// Ours: the routing epoch in which a partitioner chose this partition, -1 when none did. A broker that has opened
        /// a later one answers [`ErrorCode::StaleRouting`].
        pub routing_epoch: RoutingEpoch [tag 20000] = RoutingEpoch::UNKNOWN,
    }
}

message! {
    /// What became of each batch.
    pub struct ProduceResponse: 3..=13, flexible 9 {
        /// By topic.
        pub responses: Vec<TopicProduceResponse>,
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32,
        /// Where the leaders named in `current_leader` are.
        pub node_endpoints: Vec<ProduceNodeEndpoint> [tag 0, 10..],
    }

    /// What became of one topic's batches.
    pub struct TopicProduceResponse {
        /// The topic's name, up to version 12.
        pub name: String [..=12],
        /// The topic's id, from version 13 on.
        pub topic_id: TopicId [13..],
        /// By partition.
        pub partition_responses: Vec<PartitionProduceResponse>,
    }

    /// What became of one partition's batch.
    pub struct PartitionProduceResponse {
        /// The partition.
        pub index: PartitionId,
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// The first record's offset; -1 with an error.
        pub base_offset: Offset,
        /// The time that the broker gave the batch; -1 when it kept the producer's.
        pub log_append_time_ms: TimestampMs = TimestampMs(-1),
        /// The log's first offset; -1 when unknown.
        pub log_start_offset: Offset [5..] = Offset(-1),
        /// Which records were refused, if the error is about single ones.
        pub record_errors: Vec<BatchIndexAndErrorMessage> [8..],
        /// What went wrong, for people.
        pub error_message: Option<String> [8..],
        /// The leader, where the error says that this broker is not.
        pub current_leader: ProduceLeader [tag 0, 10..],
    }

    /// One refused record.
    pub struct BatchIndexAndErrorMessage {
        /// Its place in the batch.
        pub batch_index: i32,
        /// Why, for people.
        pub batch_index_error_message: Option<String>,
    }

    /// A partition's leader, as the answering broker knows it.
    pub struct ProduceLeader {
        /// The leader; -1 is unknown.
        pub leader_id: BrokerId = BrokerId(-1),
        /// Its epoch; -1 is unknown.
        pub leader_epoch: LeaderEpoch = LeaderEpoch(-1),
    }

    /// Where a broker is.
    pub struct ProduceNodeEndpoint {
        /// The broker.
        pub node_id: BrokerId,
        /// Its host name.
        pub host: String,
        /// Its port.
        pub port: i32,
        /// Its rack.
        pub rack: Option<String>,
    }
}
