//! InitProducerId: who a producer is, so that a batch that it repeats is known again. DescribeProducers: who they are.

use millstream_model::{Offset, PartitionId, ProducerEpoch, ProducerId, TimestampMs};

use crate::{ErrorCode, codec::message};

message! {
    /// Asks for a producer id, or for the next epoch of one.
    pub struct InitProducerIdRequest: 0..=5, flexible 2 {
        /// The transaction's id, if any.
        pub transactional_id: Option<String>,
        /// How long a transaction may take before it is given up, milliseconds.
        pub transaction_timeout_ms: i32,
        /// The producer's id, if it has one and wants its next epoch (KIP-360); -1 asks for a new one.
        pub producer_id: ProducerId [3..] = ProducerId::NONE,
        /// Its present epoch; -1 without an id.
        pub producer_epoch: ProducerEpoch [3..] = ProducerEpoch::NONE,
    }
}

message! {
    /// Who the producer is from now on.
    pub struct InitProducerIdResponse: 0..=5, flexible 2 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32,
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// The id; -1 with an error.
        pub producer_id: ProducerId = ProducerId::NONE,
        /// Its epoch. Kafka's default here is 0, which is also the epoch of every new id.
        pub producer_epoch: ProducerEpoch,
    }
}

message! {
    /// Asks which producers partitions know (KIP-664).
    pub struct DescribeProducersRequest: 0..=0, flexible 0 {
        /// Where.
        pub topics: Vec<DescribeProducersTopic>,
    }

    /// One topic.
    pub struct DescribeProducersTopic {
        /// Its name.
        pub name: String,
        /// Its partitions.
        pub partition_indexes: Vec<PartitionId>,
    }
}

message! {
    /// The producers.
    pub struct DescribeProducersResponse: 0..=0, flexible 0 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32,
        /// By topic.
        pub topics: Vec<DescribeProducersTopicResponse>,
    }

    /// One topic.
    pub struct DescribeProducersTopicResponse {
        /// Its name.
        pub name: String,
        /// By partition.
        pub partitions: Vec<DescribeProducersPartition>,
    }

    /// One partition.
    pub struct DescribeProducersPartition {
        /// The partition.
        pub partition_index: PartitionId,
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// The producers whose batches it would know again.
        pub active_producers: Vec<ProducerState>,
    }

    /// One producer.
    pub struct ProducerState {
        /// Its id.
        pub producer_id: ProducerId,
        /// Its epoch.
        pub producer_epoch: i32,
        /// The sequence number of its last record; -1 is unknown.
        pub last_sequence: i32 = -1,
        /// When its last batch came, by the broker's clock; -1 is unknown.
        pub last_timestamp: TimestampMs = TimestampMs(-1),
        /// The epoch of its transactions' coordinator; -1 without one.
        pub coordinator_epoch: i32,
        /// Where its present transaction begins; -1 without one.
        pub current_txn_start_offset: Offset = Offset(-1),
    }
}
