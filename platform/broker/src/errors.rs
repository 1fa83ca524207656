//! Wire error codes: the one place where our errors become Kafka's numbers (and ours).

use millstream_catalog::{ProposeError, Refused};
use millstream_log::{AppendError, ReadError, SequenceError};
use millstream_protocol::ErrorCode;
use millstream_replica::AppendRefused;
use millstream_wasm::CallError;

use crate::{partition::PartitionAppendError, rows::RowsError};

/// An error code and the same for people.
#[derive(Clone, Debug)]
pub(crate) struct WireError {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

impl WireError {
    pub(crate) fn new(code: ErrorCode, message: impl ToString) -> Self {
        Self { code, message: message.to_string() }
    }

    pub(crate) fn not_built(what: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::NotBuilt, format!("{what} is not built yet"))
    }
}

impl From<PartitionAppendError> for WireError {
    fn from(error: PartitionAppendError) -> Self {
        let code = match &error {
            PartitionAppendError::Rules(refused) => match refused {
                AppendRefused::NotLeader { .. } => ErrorCode::NotLeaderOrFollower,
                AppendRefused::Fenced { .. } => ErrorCode::FencedLeaderEpoch,
                AppendRefused::Unknown { .. } => ErrorCode::UnknownLeaderEpoch,
                AppendRefused::NotEnoughReplicas { .. } => ErrorCode::NotEnoughReplicas,
                AppendRefused::Failed => ErrorCode::KafkaStorage,
            },
            PartitionAppendError::Log(error) => match error {
                AppendError::Malformed(_) | AppendError::Empty => ErrorCode::CorruptMessage,
                AppendError::TooLarge { .. } => ErrorCode::MessageTooLarge,
                // Never "duplicate": that is for what was appended for certain, and such a batch is answered as the first was.
                AppendError::Sequence(SequenceError::OutOfOrder { .. }) => ErrorCode::OutOfOrderSequenceNumber,
                AppendError::Sequence(SequenceError::StaleEpoch { .. }) => ErrorCode::InvalidProducerEpoch,
                AppendError::NotAlone => ErrorCode::InvalidRequest,
                AppendError::StaleEpoch { .. } => ErrorCode::NotLeaderOrFollower,
                AppendError::Overloaded { .. } => ErrorCode::RequestTimedOut,
                AppendError::Deleted => ErrorCode::UnknownTopicOrPartition,
                AppendError::StorageFull { .. }
                | AppendError::Descriptors { .. }
                | AppendError::Unreadable(_)
                | AppendError::Closed
                | AppendError::Failed(_) => ErrorCode::KafkaStorage,
            },
        };
        Self::new(code, error)
    }
}

impl From<ReadError> for WireError {
    fn from(error: ReadError) -> Self {
        let code = match &error {
            ReadError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            ReadError::Deleted => ErrorCode::UnknownTopicOrPartition,
            ReadError::Damaged { .. } | ReadError::Io { .. } => ErrorCode::KafkaStorage,
        };
        Self::new(code, error)
    }
}

impl From<RowsError> for WireError {
    fn from(error: RowsError) -> Self {
        Self::new(ErrorCode::CorruptMessage, error)
    }
}

impl From<ProposeError> for WireError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Refused(refused) => refused.into(),
            ProposeError::Command(error) => Self::new(ErrorCode::InvalidRequest, error),
            ProposeError::Stopped(_) => Self::new(ErrorCode::BrokerNotAvailable, error),
        }
    }
}

impl From<Refused> for WireError {
    fn from(refused: Refused) -> Self {
        let code = match &refused {
            Refused::TopicExists(_) | Refused::ViewExists(_) => ErrorCode::TopicAlreadyExists,
            Refused::UnknownTopic(_) => ErrorCode::UnknownTopicOrPartition,
            Refused::UnknownTopicId(_) => ErrorCode::UnknownTopicId,
            Refused::NotATopic(_) => ErrorCode::InvalidTopic,
            Refused::Partitions { .. } | Refused::TooManyPartitions { .. } => ErrorCode::InvalidPartitions,
            Refused::ReplicationFactor { .. } => ErrorCode::InvalidReplicationFactor,
            Refused::TopicInUse { .. } | Refused::ModuleInUse { .. } => ErrorCode::InUse,
            Refused::UnknownModule(_) => ErrorCode::ModuleNotFound,
            Refused::WrongKind { .. } => ErrorCode::WrongKind,
            Refused::ModuleExists { .. } | Refused::TransformExists(_) => ErrorCode::NameTaken,
            Refused::NoKind(_) => ErrorCode::ModuleRefused,
            Refused::UnknownViewId(_) => ErrorCode::ViewNotFound,
            Refused::UnknownTransformId(_) => ErrorCode::TransformNotFound,
            Refused::Chain(_)
            | Refused::TransformTopics { .. }
            | Refused::Twice { .. }
            | Refused::Loop { .. }
            | Refused::NoLanes
            | Refused::Params { .. } => ErrorCode::InvalidParameter,
            _ => ErrorCode::InvalidRequest,
        };
        Self::new(code, refused)
    }
}

impl From<millstream_wasm::Refused> for WireError {
    fn from(refused: millstream_wasm::Refused) -> Self {
        let code = if refused.is_retriable() { ErrorCode::Overloaded } else { ErrorCode::ModuleRefused };
        Self::new(code, refused)
    }
}

impl From<CallError> for WireError {
    fn from(error: CallError) -> Self {
        let code = if error.is_retriable() { ErrorCode::Overloaded } else { ErrorCode::CallFailed };
        Self::new(code, error)
    }
}
