//! ListOffsets: the first and last offsets, and offsets by time. OffsetForLeaderEpoch: where a leader's epoch ended.

use millstream_model::{BrokerId, LeaderEpoch, Offset, PartitionId, TimestampMs};

use crate::{ErrorCode, codec::message};

/// As a timestamp: the end of what may be read.
pub const LATEST_TIMESTAMP: TimestampMs = TimestampMs(-1);
/// As a timestamp: the log's first offset.
pub const EARLIEST_TIMESTAMP: TimestampMs = TimestampMs(-2);
/// As a timestamp: the record with the highest timestamp (version 7, KIP-734).
pub const MAX_TIMESTAMP: TimestampMs = TimestampMs(-3);
/// As a timestamp: the first offset on the broker's own disk (version 8, KIP-405).
pub const EARLIEST_LOCAL_TIMESTAMP: TimestampMs = TimestampMs(-4);
/// As a timestamp: the last offset in remote storage (version 9, KIP-1005).
pub const LATEST_TIERED_TIMESTAMP: TimestampMs = TimestampMs(-5);
/// As a timestamp: the first offset that waits to be moved to remote storage (version 11, KIP-1023).
pub const EARLIEST_PENDING_UPLOAD_TIMESTAMP: TimestampMs = TimestampMs(-6);

message! {
    /// Asks for offsets by time.
    pub struct ListOffsetsRequest: 1..=11, flexible 6 {
        /// The follower that asks; -1 for a consumer.
        pub replica_id: BrokerId = BrokerId(-1),
        /// 0 counts everything below the high watermark, 1 only what is committed.
        pub isolation_level: i8 [2..],
        /// Where.
        pub topics: Vec<ListOffsetsTopic>,
        /// How long an answer from remote storage may take, milliseconds.
        pub timeout_ms: i32 [10..],
    }

    /// One topic.
    pub struct ListOffsetsTopic {
        /// Its name.
        pub name: String,
        /// By partition.
        pub partitions: Vec<ListOffsetsPartition>,
    }

    /// One partition.
    pub struct ListOffsetsPartition {
        /// The partition.
        pub partition_index: PartitionId,
        /// The leader epoch that the client knows; -1 is unknown.
        pub current_leader_epoch: LeaderEpoch [4..] = LeaderEpoch(-1),
        /// Asks for the first record of at least this time; negative ones are this module's constants.
        pub timestamp: TimestampMs,
    }
}

message! {
    /// The offsets.
    pub struct ListOffsetsResponse: 1..=11, flexible 6 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32 [2..],
        /// By topic.
        pub topics: Vec<ListOffsetsTopicResponse>,
    }

    /// One topic.
    pub struct ListOffsetsTopicResponse {
        /// Its name.
        pub name: String,
        /// By partition.
        pub partitions: Vec<ListOffsetsPartitionResponse>,
    }

    /// One partition.
    pub struct ListOffsetsPartitionResponse {
        /// The partition.
        pub partition_index: PartitionId,
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// The record's time; -1 when the question was not about a record.
        pub timestamp: TimestampMs = TimestampMs(-1),
        /// The offset; -1 when there is none.
        pub offset: Offset = Offset(-1),
        /// The epoch of the record there; -1 is unknown.
        pub leader_epoch: LeaderEpoch [4..] = LeaderEpoch(-1),
        /// Ours: what went wrong, for people.
        pub error_message: Option<String> [tag 20000],
    }
}

message! {
    /// Asks where epochs of leaders ended, of a client that saw another leader before (KIP-320).
    pub struct OffsetForLeaderEpochRequest: 2..=4, flexible 4 {
        /// The follower that asks; -1 for a consumer, -2 for one that looks for faults.
        pub replica_id: BrokerId [3..] = BrokerId(-2),
        /// Where.
        pub topics: Vec<OffsetForLeaderTopic>,
    }

    /// One topic.
    pub struct OffsetForLeaderTopic {
        /// Its name.
        pub topic: String,
        /// By partition.
        pub partitions: Vec<OffsetForLeaderPartition>,
    }

    /// One partition.
    pub struct OffsetForLeaderPartition {
        /// The partition.
        pub partition: PartitionId,
        /// The leader epoch that the client knows; -1 is unknown.
        pub current_leader_epoch: LeaderEpoch = LeaderEpoch(-1),
        /// The epoch asked about.
        pub leader_epoch: LeaderEpoch,
    }
}

message! {
    /// Where they ended.
    pub struct OffsetForLeaderEpochResponse: 2..=4, flexible 4 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32,
        /// By topic.
        pub topics: Vec<OffsetForLeaderTopicResult>,
    }

    /// One topic.
    pub struct OffsetForLeaderTopicResult {
        /// Its name.
        pub topic: String,
        /// By partition.
        pub partitions: Vec<EpochEndOffset>,
    }

    /// One partition.
    pub struct EpochEndOffset {
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// The partition.
        pub partition: PartitionId,
        /// The greatest epoch that is not after the one asked about; -1 where none is known.
        pub leader_epoch: LeaderEpoch = LeaderEpoch(-1),
        /// Where that one ended: the first offset of the next one, or the log's end; -1 where none is known.
        pub end_offset: Offset = Offset(-1),
    }
}
