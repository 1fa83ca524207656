//! DeleteRecords: the records before an offset.

use millstream_model::{Offset, PartitionId};

use crate::{ErrorCode, codec::message};

/// As an offset: the high watermark, all that may be read.
pub const HIGH_WATERMARK: Offset = Offset(-1);

message! {
    /// Deletes the records before an offset.
    pub struct DeleteRecordsRequest: 0..=2, flexible 2 {
        /// Where.
        pub topics: Vec<DeleteRecordsTopic>,
        /// How long to wait, milliseconds.
        pub timeout_ms: i32,
    }

    /// One topic.
    pub struct DeleteRecordsTopic {
        /// Its name.
        pub name: String,
        /// By partition.
        pub partitions: Vec<DeleteRecordsPartition>,
    }

    /// One partition.
    pub struct DeleteRecordsPartition {
        /// The partition.
        pub partition_index: PartitionId,
        /// The first offset that is kept; [`HIGH_WATERMARK`] keeps none.
        pub offset: Offset,
    }
}

message! {
    /// What became of each partition.
    pub struct DeleteRecordsResponse: 0..=2, flexible 2 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32,
        /// By topic.
        pub topics: Vec<DeleteRecordsTopicResult>,
    }

    /// One topic.
    pub struct DeleteRecordsTopicResult {
        /// Its name.
        pub name: String,
        /// By partition.
        pub partitions: Vec<DeleteRecordsPartitionResult>,
    }

    /// One partition.
    pub struct DeleteRecordsPartitionResult {
        /// The partition.
        pub partition_index: PartitionId,
        /// The first offset that every replica keeps; -1 with an error.
        pub low_watermark: Offset,
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
    }
}
