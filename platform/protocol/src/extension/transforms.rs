//! Transforms: deploy, list, describe, pause, resume, delete.

use millstream_model::{Offset, PartitionId, TransformId};

use super::Pair;
use crate::{ErrorCode, codec::message};

message! {
    /// Deploys a module as a transform, which starts at once.
    pub struct TransformDeployRequest: 0..=0, flexible 0 {
        /// The deployment's name.
        pub name: String,
        /// The module, `name@version`.
        pub module: String,
        /// The topics that it reads.
        pub inputs: Vec<String>,
        /// The topics that it writes, in the order of the module's output numbers.
        pub outputs: Vec<String>,
        /// Parameters.
        pub params: Vec<Pair>,
        /// `fail`, `skip`, `retry`, `dlq` or `park-key`.
        pub on_error: String = "fail".into(),
        /// Where it starts: `beginning`, `end` or an offset.
        pub from: String = "beginning".into(),
        /// How many lanes a partition has.
        pub lanes: i32 = 1,
    }
}

message! {
    /// What became of it.
    pub struct TransformDeployResponse: 0..=0, flexible 0 {
        /// What went wrong.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// The deployment's id; nil with an error.
        pub transform_id: TransformId,
    }
}

message! {
    /// Asks for transforms.
    pub struct TransformListRequest: 0..=0, flexible 0 {}
}

message! {
    /// The transforms.
    pub struct TransformListResponse: 0..=0, flexible 0 {
        /// What went wrong.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// The transforms, by name.
        pub transforms: Vec<TransformInfo>,
    }
}

message! { @structs
    /// One transform.
    pub struct TransformInfo {
        /// Its name.
        pub name: String,
        /// Its id.
        pub transform_id: TransformId,
        /// The module, `name@version`.
        pub module: String,
        /// The topics that it reads.
        pub inputs: Vec<String>,
        /// The topics that it writes.
        pub outputs: Vec<String>,
        /// Parameters.
        pub params: Vec<Pair>,
        /// What happens to a record that fails.
        pub on_error: String,
        /// Where it started.
        pub from: String,
        /// How many lanes a partition has.
        pub lanes: i32 = 1,
        /// `running`, `paused` or `failed`.
        pub state: String,
        /// Why it failed, for people.
        pub error: Option<String>,
        /// How many input records are not transformed yet, over all partitions; -1 is unknown.
        pub lag: i64 = -1,
        /// How many input records were left out, over all partitions, since the broker's start.
        pub left_out: i64 [tag 0],
        /// Where one record has made it fail, which: `TOPIC/PARTITION@OFFSET`.
        pub failed_at: Option<String> [tag 1],
    }
}

message! {
    /// Asks about one transform.
    pub struct TransformDescribeRequest: 0..=0, flexible 0 {
        /// Its name.
        pub name: String,
    }
}

message! {
    /// The transform.
    pub struct TransformDescribeResponse: 0..=0, flexible 0 {
        /// What went wrong: [`ErrorCode::TransformNotFound`].
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// The transform; all empty with an error.
        pub transform: TransformInfo,
        /// How far it is, by input partition.
        pub partitions: Vec<TransformPartition>,
    }

    /// How far a transform is in one input partition. Counts are since the broker's start.
    pub struct TransformPartition {
        /// The input topic.
        pub input: String,
        /// The partition.
        pub partition: PartitionId,
        /// The first offset that is not transformed yet.
        pub next_offset: Offset,
        /// The end of what it may read.
        pub end_offset: Offset,
        /// How many records lie between them.
        pub lag: i64,
        /// How many records it has read.
        pub records_in: i64,
        /// How many records it has written.
        pub records_out: i64,
        /// How many records have failed.
        pub errors: i64,
        /// Why this partition stands still, else which record failed last, for people; null when neither is so.
        pub error: Option<String>,
        /// How many records were left out, of those that have failed.
        pub left_out: i64 [tag 0],
    }
}

message! {
    /// Stops a transform until it is resumed: once answered, it appends nothing more.
    pub struct TransformPauseRequest: 0..=0, flexible 0 {
        /// Its name.
        pub name: String,
    }
}

message! {
    /// What became of it.
    pub struct TransformPauseResponse: 0..=0, flexible 0 {
        /// What went wrong: [`ErrorCode::TransformNotFound`].
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// It was paused before.
        pub unchanged: bool [tag 0],
    }
}

message! {
    /// Has a transform that was paused or has failed go on where it stood.
    pub struct TransformResumeRequest: 0..=0, flexible 0 {
        /// Its name.
        pub name: String,
        /// Leave the record out that it has failed at. Refused where it has not failed, or not at one record. A broker that does
        /// not know this field tries the record again: the answer's `skipped` tells.
        pub skip: bool [tag 0],
    }
}

message! {
    /// What became of it.
    pub struct TransformResumeResponse: 0..=0, flexible 0 {
        /// What went wrong: [`ErrorCode::TransformNotFound`].
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// It ran before.
        pub unchanged: bool [tag 0],
        /// The record that it has failed at, `TOPIC/PARTITION@OFFSET`, if one record was to blame.
        pub failed_at: Option<String> [tag 1],
        /// That record is left out, and not tried until it passes.
        pub skipped: bool [tag 2],
    }
}

message! {
    /// Deletes a transform; its topics stay.
    pub struct TransformDeleteRequest: 0..=0, flexible 0 {
        /// Its name.
        pub name: String,
    }
}

message! {
    /// What became of it.
    pub struct TransformDeleteResponse: 0..=0, flexible 0 {
        /// What went wrong: [`ErrorCode::TransformNotFound`].
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
    }
}
