//! DescribeLogDirs: what partitions take on the disks.

use millstream_model::PartitionId;

use crate::{ErrorCode, codec::message};

message! {
    /// Asks what partitions take on the disks.
    pub struct DescribeLogDirsRequest: 1..=4, flexible 2 {
        /// The topics; null is all of them.
        pub topics: Option<Vec<DescribableLogDirTopic>>,
    }

    /// One topic.
    pub struct DescribableLogDirTopic {
        /// Its name.
        pub topic: String,
        /// Its partitions.
        pub partitions: Vec<PartitionId>,
    }
}

message! {
    /// What they take.
    pub struct DescribeLogDirsResponse: 1..=4, flexible 2 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32,
        /// What went wrong with the whole request, if anything did.
        pub error_code: ErrorCode [3..],
        /// By data directory.
        pub results: Vec<DescribeLogDirsResult>,
    }

    /// One data directory.
    pub struct DescribeLogDirsResult {
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// Its path.
        pub log_dir: String,
        /// By topic.
        pub topics: Vec<DescribeLogDirsTopic>,
        /// How much its file system holds, bytes; -1 is unknown.
        pub total_bytes: i64 [4..] = -1,
        /// How much of that is free, bytes; -1 is unknown.
        pub usable_bytes: i64 [4..] = -1,
    }

    /// One topic.
    pub struct DescribeLogDirsTopic {
        /// Its name.
        pub name: String,
        /// By partition.
        pub partitions: Vec<DescribeLogDirsPartition>,
    }

    /// One partition.
    pub struct DescribeLogDirsPartition {
        /// The partition.
        pub partition_index: PartitionId,
        /// What its batches take, bytes.
        pub partition_size: i64,
        /// How far it lies behind the high watermark, records.
        pub offset_lag: i64,
        /// Whether it is a copy that is to replace another.
        pub is_future_key: bool,
    }
}
