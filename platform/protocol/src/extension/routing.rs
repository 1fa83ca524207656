//! Routing: which partition a topic's partitioner chooses.
//!
//! A client that leaves the partition open asks [`AssignRequest`] ahead of its Produce, freezes the answer, and sends the
//! routing epoch along (`PartitionProduceData::routing_epoch`); retries go where the first attempt went.
//!
//! Or it runs the very same module itself: [`TopicRouting`] tells which bytes it is, and what it is told, and `ModuleRead` gives the bytes.

use bytes::Bytes;
use millstream_model::{Digest, Offset, PartitionId, RoutingEpoch, TopicId};

use super::Pair;
use crate::{ErrorCode, codec::message};

message! {
    /// Asks which partitions records go to. Appends nothing.
    pub struct AssignRequest: 0..=0, flexible 0 {
        /// The topic.
        pub topic: String,
        /// The routing epoch that the client knows; -1 is none. Another one than the topic's is
        /// [`ErrorCode::StaleRouting`], because then what the frame must hold may have changed too.
        pub routing_epoch: RoutingEpoch = RoutingEpoch::UNKNOWN,
        /// How many records the frame has.
        pub count: i32,
        /// The records as a Wasm frame, version 1; values and headers elided unless [`TopicRouting`] says that they are
        /// needed.
        pub frame: Bytes,
    }
}

message! {
    /// The partitions.
    pub struct AssignResponse: 0..=0, flexible 0 {
        /// What went wrong; then no record has a partition.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// Which record of the frame it is about; -1 is none in particular.
        pub error_record: i32 = -1,
        /// The routing epoch of the choice; with [`ErrorCode::StaleRouting`] the topic's.
        pub routing_epoch: RoutingEpoch = RoutingEpoch::UNKNOWN,
        /// One for each record, in the frame's order.
        pub partitions: Vec<PartitionId>,
    }
}

message! {
    /// Asks how topics are routed.
    pub struct DescribeRoutingRequest: 0..=0, flexible 0 {
        /// The topics' names.
        pub topics: Vec<String>,
    }
}

message! {
    /// How the topics are routed.
    pub struct DescribeRoutingResponse: 0..=0, flexible 0 {
        /// What went wrong with the whole request.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// In the order asked.
        pub topics: Vec<TopicRouting>,
    }

    /// How one topic is routed.
    pub struct TopicRouting {
        /// What went wrong, e.g. [`ErrorCode::UnknownTopicOrPartition`].
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// The topic's name.
        pub topic: String,
        /// The topic's id.
        pub topic_id: TopicId,
        /// How many partitions it has.
        pub partitions: i32,
        /// Counts the changes of partitioner and number of partitions.
        pub routing_epoch: RoutingEpoch = RoutingEpoch::UNKNOWN,
        /// The partitioner, `name@version`; null when clients choose by the key's hash.
        pub partitioner: Option<String>,
        /// Whether the partitioner sees values.
        pub needs_values: bool,
        /// Whether the partitioner sees headers.
        pub needs_headers: bool,
        /// The present way of placing records and those before it that are remembered, oldest first; none where there was never another.
        pub epochs: Vec<EpochOfRouting> [tag 0],
        /// The digest of the partitioner's bytes, for those who run it themselves; null when there is none. Left out with what follows where
        /// the request names topics whose parameters together pass 256 KiB: ask about one at a time.
        pub partitioner_digest: Option<Digest> [tag 1],
        /// What the partitioner is told beside the topic's name, which is its one input.
        pub partitioner_params: Vec<Pair> [tag 2],
        /// The largest batch that the topic takes, bytes (`max.message.bytes`): what memory the partitioner has in the broker depends on it.
        pub message_bytes_max: i32 [tag 3],
    }

    /// One way of placing a topic's records.
    pub struct EpochOfRouting {
        /// Its number.
        pub routing_epoch: RoutingEpoch,
        /// How many partitions records went to.
        pub partitions: i32,
        /// The partitioner, `name@version`; null: the key's hash.
        pub partitioner: Option<String>,
        /// For each partition that there was before, where its marker is: what lies before that was placed earlier, by those who name
        /// their epoch. -1 where that is not known.
        pub markers: Vec<Offset>,
    }
}
