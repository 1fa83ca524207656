//! Subscriptions: records that a broker sends as they come, without being asked for each answer.
//!
//! A [`SubscribeRequest`] has many answers, each as soon as there is something to tell, until one says that it is the last
//! ([`SubscribeResponse::is_last`]). As answers leave in the order of the requests, what is asked behind it on its stream is answered after
//! that; so it has a stream of its own. A second one while the first goes on ends the stream.
//!
//! **Credit.** The broker sends as many bytes of answers as it was given credit for, and no more but to finish an answer: one is begun
//! while there is any credit left, takes no more records than that, and exceeds it by one batch and what describes the partitions at most. A
//! frame counts as long as it is, without what says how long. Credit is told as a total since the beginning ([`SubscriptionCreditRequest::credit_bytes`]), as QUIC's is (RFC 9000, 4.1): what is told twice, or late, does no harm.
//! So a reader takes everything off the connection that comes, and what it has not looked at yet takes no more memory than it allows;
//! nothing else on the connection waits for it.
//!
//! **Ends.** A partition that cannot be read is told of with an error, once, and is then not part of the subscription any more; so is one
//! that is led anew, or whose end was reached. The subscription ends with its last partition, when the client ends its side of the stream, and
//! when the broker stops.

use millstream_model::{LeaderEpoch, Offset, PartitionId, TopicId};

use crate::{ErrorCode, RecordParts, codec::message};

message! {
    /// Asks for the records of partitions, from given offsets on, as they come.
    pub struct SubscribeRequest: 0..=0, flexible 0 {
        /// Names it to [`SubscriptionCreditRequest`]; the client's choice.
        pub subscription_id: i32,
        /// So many bytes of answers may be sent, until more are allowed; less than zero is zero.
        pub credit_bytes: i64,
        /// Fewest bytes of records that are worth an answer before `max_wait_ms` have passed since the last one.
        pub min_bytes: i32 = 1,
        /// After so many milliseconds there is an answer, if there is credit, whatever is in it: it says that the broker is there.
        pub max_wait_ms: i32,
        /// Most bytes of records in an answer, except that one batch is always allowed; 1 MiB if more.
        pub max_bytes: i32,
        /// Most bytes of one partition in an answer, except that one batch is always allowed.
        pub partition_max_bytes: i32,
        /// Where to read.
        pub topics: Vec<SubscribedTopic>,
    }

    /// A topic or view, and its partitions.
    pub struct SubscribedTopic {
        /// Its id.
        pub topic_id: TopicId,
        /// Its partitions, each once.
        pub partitions: Vec<SubscribedPartition>,
    }

    /// Where to read a partition.
    pub struct SubscribedPartition {
        /// Which one.
        pub partition: PartitionId,
        /// The epoch of the leader that the client knows; -1 is none.
        pub current_leader_epoch: LeaderEpoch = LeaderEpoch(-1),
        /// Where to begin.
        pub offset: Offset,
        /// Where to end: nothing is sent that begins there or later. -1 is nowhere.
        pub end_offset: Offset = Offset(-1),
    }
}

message! {
    /// One of the answers.
    pub struct SubscribeResponse: 0..=0, flexible 0 {
        /// What went wrong with all of it; then it is the last. [`ErrorCode::ThrottlingQuotaExceeded`]: there are too many subscriptions, Fetch
        /// reads the same.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// Nothing follows: the subscription has ended.
        pub is_last: bool,
        /// The partitions that there is something to tell of.
        pub topics: Vec<PushedTopic>,
    }

    /// A topic or view of which there is something to tell.
    pub struct PushedTopic {
        /// Its id.
        pub topic_id: TopicId,
        /// Its partitions.
        pub partitions: Vec<PushedPartition>,
    }

    /// What there is to tell of a partition.
    pub struct PushedPartition {
        /// Which one.
        pub partition: PartitionId,
        /// Why nothing more is sent of it; as in the answer to Fetch.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// Where this begins: where it was asked to, or where the answer before had come to.
        pub offset: Offset,
        /// Where the next answer begins: what lies between is in the records, or was left out by a view.
        pub next_offset: Offset,
        /// The end of what can be read; -1 is not known.
        pub high_watermark: Offset = Offset(-1),
        /// The first offset that is there; -1 is not known.
        pub log_start_offset: Offset = Offset(-1),
        /// The batches; the first may begin before `offset`.
        pub records: RecordParts,
    }
}

message! {
    /// Lets a subscription of the stream go on. It has no answer. For one that is not, or not any more, it is ignored.
    pub struct SubscriptionCreditRequest: 0..=0, flexible 0 {
        /// Which one.
        pub subscription_id: i32,
        /// So many bytes of answers may be sent, counted from the subscription's beginning. Less than was allowed before is ignored.
        pub credit_bytes: i64,
    }
}

message! {
    /// Is never sent.
    pub struct SubscriptionCreditResponse: 0..=0, flexible 0 {}
}
