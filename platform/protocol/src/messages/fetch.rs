//! Fetch: record batches from partitions; the answer carries log bytes without a copy.

use bytes::Bytes;
use millstream_model::{BrokerId, LeaderEpoch, Offset, PartitionId, ProducerId, TopicId};

use crate::{
    ErrorCode,
    codec::{DecodeError, Field, Nullable, Reader, Writer, message},
};

/// As [`FetchRequest::isolation_level`]: only what is committed.
pub const READ_COMMITTED: i8 = 1;

/// Record batches in parts that follow each other: to be sent, as many parts as the log gave; as received, at most one,
/// a slice of the frame. No parts and null are the same.
#[derive(Clone, Debug, Default)]
pub struct RecordParts(pub Vec<Bytes>);

impl RecordParts {
    /// How many bytes all parts have.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }

    /// The bytes together: a copy only when there are several parts.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match self.0.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            parts => parts.concat().into(),
        }
    }
}

impl PartialEq for RecordParts {
    /// By the bytes, wherever they are cut.
    fn eq(&self, other: &Self) -> bool {
        self.to_bytes() == other.to_bytes()
    }
}

impl Eq for RecordParts {}

impl From<Bytes> for RecordParts {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}

impl From<Vec<Bytes>> for RecordParts {
    fn from(parts: Vec<Bytes>) -> Self {
        Self(parts)
    }
}

impl Field for RecordParts {
    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let bytes = Bytes::read_nullable(reader)?.filter(|bytes| !bytes.is_empty());
        Ok(Self(bytes.into_iter().collect()))
    }

    fn write(&self, writer: &mut Writer) {
        writer.bytes_length(Some(self.len()));
        for part in &self.0 {
            writer.put_shared(part);
        }
    }
}

message! {
    /// Asks for records from given offsets on, waiting up to `max_wait_ms` for `min_bytes` of them. What only Kafka's
    /// followers send in tagged fields (directory id, high watermark) is skipped.
    pub struct FetchRequest: 4..=18, flexible 12 {
        /// The follower that asks, up to version 14; -1 for a consumer.
        pub replica_id: BrokerId [..=14] = BrokerId(-1),
        /// How long to wait for `min_bytes`, milliseconds.
        pub max_wait_ms: i32,
        /// Fewest bytes to answer with before the wait is over.
        pub min_bytes: i32,
        /// Most bytes to answer with, except that one batch is always allowed.
        pub max_bytes: i32 = i32::MAX,
        /// 0 reads everything below the high watermark, [`READ_COMMITTED`] only what is committed.
        pub isolation_level: i8,
        /// The fetch session; 0 is none.
        pub session_id: i32 [7..],
        /// The request's number within the session; -1 is outside of any.
        pub session_epoch: i32 [7..] = -1,
        /// Where to read.
        pub topics: Vec<FetchTopic>,
        /// What to take out of the session.
        pub forgotten_topics_data: Vec<ForgottenTopic> [7..],
        /// The consumer's rack.
        pub rack_id: String [11..],
        /// The cluster that the client believes to talk to.
        pub cluster_id: Option<String> [tag 0],
        /// The follower that asks, from version 15 on.
        pub replica_state: ReplicaState [tag 1, 15..],
    }

    /// The follower that asks.
    pub struct ReplicaState {
        /// The broker; -1 for a consumer.
        pub replica_id: BrokerId = BrokerId(-1),
        /// Its registration's epoch.
        pub replica_epoch: i64 = -1,
    }

    /// Where to read in one topic.
    pub struct FetchTopic {
        /// The topic's (or view's) name, up to version 12.
        pub topic: String [..=12],
        /// The topic's (or view's) id, from version 13 on.
        pub topic_id: TopicId [13..],
        /// By partition.
        pub partitions: Vec<FetchPartition>,
    }

    /// Where to read in one partition.
    pub struct FetchPartition {
        /// The partition.
        pub partition: PartitionId,
        /// The leader epoch that the client knows; -1 is unknown.
        pub current_leader_epoch: LeaderEpoch [9..] = LeaderEpoch(-1),
        /// The first offset wanted.
        pub fetch_offset: Offset,
        /// The epoch of the last record that was read; -1 is unknown.
        pub last_fetched_epoch: LeaderEpoch [12..] = LeaderEpoch(-1),
        /// A follower's own first offset; -1 for a consumer.
        pub log_start_offset: Offset [5..] = Offset(-1),
        /// Most bytes from this partition, except that the answer's first batch is always allowed.
        pub partition_max_bytes: i32,
    }

    /// Partitions to take out of the session.
    pub struct ForgottenTopic {
        /// The topic's name, up to version 12.
        pub topic: String [..=12],
        /// The topic's id, from version 13 on.
        pub topic_id: TopicId [13..],
        /// The partitions.
        pub partitions: Vec<PartitionId>,
    }
}

message! {
    /// The records.
    pub struct FetchResponse: 4..=18, flexible 12 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32,
        /// What went wrong with the whole request, if anything did.
        pub error_code: ErrorCode [7..],
        /// The fetch session; 0 is none.
        pub session_id: i32 [7..],
        /// By topic.
        pub responses: Vec<FetchableTopicResponse>,
        /// Where the leaders named in `current_leader` are.
        pub node_endpoints: Vec<FetchNodeEndpoint> [tag 0, 16..],
    }

    /// One topic's records.
    pub struct FetchableTopicResponse {
        /// The topic's (or view's) name, up to version 12.
        pub topic: String [..=12],
        /// The topic's (or view's) id, from version 13 on.
        pub topic_id: TopicId [13..],
        /// By partition.
        pub partitions: Vec<PartitionData>,
    }

    /// One partition's records.
    pub struct PartitionData {
        /// The partition.
        pub partition_index: PartitionId,
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// The end of what consumers may read; -1 with an error.
        pub high_watermark: Offset,
        /// The end of what is decided (transactions); -1 when unknown.
        pub last_stable_offset: Offset = Offset(-1),
        /// The log's first offset; -1 when unknown.
        pub log_start_offset: Offset [5..] = Offset(-1),
        /// Aborted transactions among the records; null for readers that do not ask for committed ones only.
        pub aborted_transactions: Option<Vec<AbortedTransaction>>,
        /// The replica to read from instead; -1 is none.
        pub preferred_read_replica: BrokerId [11..] = BrokerId(-1),
        /// Whole batches; the first may begin before the offset asked for, the last may be cut off.
        pub records: RecordParts,
        /// Where the client's log leaves the leader's; epoch -1 is nowhere.
        pub diverging_epoch: EpochEndOffset [tag 0],
        /// The leader, where the error says that this broker is not.
        pub current_leader: FetchLeader [tag 1],
        /// Ours, from a view: the offset to read at next, which may lie beyond the last record given, because records are
        /// filtered; -1 is "after the last record".
        pub next_offset: Offset [tag 20000] = Offset(-1),
        /// Ours: what went wrong, for people.
        pub error_message: Option<String> [tag 20001],
    }

    /// An epoch and where it ends.
    pub struct EpochEndOffset {
        /// The epoch; -1 is none.
        pub epoch: LeaderEpoch = LeaderEpoch(-1),
        /// Its end.
        pub end_offset: Offset = Offset(-1),
    }

    /// A partition's leader, as the answering broker knows it.
    pub struct FetchLeader {
        /// The leader; -1 is unknown.
        pub leader_id: BrokerId = BrokerId(-1),
        /// Its epoch; -1 is unknown.
        pub leader_epoch: LeaderEpoch = LeaderEpoch(-1),
    }

    /// An aborted transaction.
    pub struct AbortedTransaction {
        /// Whose.
        pub producer_id: ProducerId,
        /// Its first offset in this partition.
        pub first_offset: Offset,
    }

    /// Where a broker is.
    pub struct FetchNodeEndpoint {
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
