//! Wire error codes: the one place where our errors become Kafka's numbers (and ours).

use millstream_catalog::{ProposeError, Refused};
use millstream_log::{AppendError, CommitError, Ended, MoveStartError, ReadError, SequenceError};
use millstream_model::{ConfigError, ModuleRef};
use millstream_protocol::ErrorCode;
use millstream_record::{BatchError, RecordError};
use millstream_replica::{AcksError, AppendRefused};
use millstream_wasm::{CallError, LoadError, StoreError, frame::OutputError};

use crate::{partition::PartitionAppendError, partitions::FollowError, rows::RowsError};

/// Longest message, bytes: what a client sent is quoted in some, and older versions' answers have no room for much.
const MESSAGE_BYTES_MAX: usize = 1000;
/// Most bytes of messages in one answer.
const MESSAGES_BYTES_MAX: usize = 64 << 10;

/// An error code and the same for people.
#[derive(Clone, Debug)]
pub(crate) struct WireError {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    /// The record that it is about, by its place among those that were sent together; none: about no single one.
    pub(crate) record: Option<u32>,
}

impl WireError {
    pub(crate) fn new(code: ErrorCode, message: impl ToString) -> Self {
        let mut message = message.to_string();
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            message.push_str(" ...");
        }
        Self { code, message, record: None }
    }

    /// The same of records of which so many others stand before those that it tells of.
    #[must_use]
    pub(crate) fn behind(self, others: u32) -> Self {
        let record = self.record.map(|record| others.saturating_add(record));
        self.about(record)
    }

    /// The same, about a single record.
    #[must_use]
    pub(crate) fn about(self, record: Option<u32>) -> Self {
        Self { record, ..self }
    }

    /// The code for an answer in Kafka's own protocol, whose clients know none of ours: the nearest that they show in words, and
    /// try again upon if that may help.
    pub(crate) fn kafka_code(&self) -> ErrorCode {
        match self.code {
            ErrorCode::CallFailed => ErrorCode::UnknownServer,
            ErrorCode::InUse => ErrorCode::PolicyViolation,
            ErrorCode::Overloaded => ErrorCode::RequestTimedOut,
            ErrorCode::NotBuilt => ErrorCode::InvalidRequest,
            ErrorCode::NameTaken => ErrorCode::TopicAlreadyExists,
            ErrorCode::InvalidName => ErrorCode::InvalidTopic,
            ErrorCode::ModuleRefused
            | ErrorCode::ModuleNotFound
            | ErrorCode::WrongKind
            | ErrorCode::InvalidParameter
            | ErrorCode::PartitionOutOfRange => ErrorCode::InvalidConfig,
            ErrorCode::ViewNotFound | ErrorCode::TransformNotFound => ErrorCode::UnknownTopicOrPartition,
            code => code,
        }
    }

    pub(crate) fn not_built(what: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::NotBuilt, format!("{what} is not built yet"))
    }

    /// Why a module is not at hand.
    pub(crate) fn unloadable(module: &ModuleRef, error: &LoadError) -> Self {
        let code = match error {
            LoadError::Refused(refused) if refused.is_retriable() => ErrorCode::Overloaded,
            LoadError::Store(StoreError::Io { .. } | StoreError::Stopped) => ErrorCode::KafkaStorage,
            LoadError::Refused(_) | LoadError::Store(_) => ErrorCode::CallFailed,
        };
        Self::new(code, format!("module {module} cannot be loaded: {error}"))
    }

    /// Why a module was not taken into use: its first instance could not be made.
    pub(crate) fn does_not_start(module: &ModuleRef, error: &CallError) -> Self {
        let code = if error.is_retriable() { ErrorCode::Overloaded } else { ErrorCode::InvalidParameter };
        Self::new(code, format!("module {module} does not start: {error}"))
    }

    /// Why `partitioner` has chosen no partitions, and at which of the call's records.
    pub(crate) fn unplaced(partitioner: &str, error: &CallError) -> Self {
        let record = match error {
            CallError::Output(OutputError::Assigned { index, .. }) => Some(*index),
            CallError::Guest(failure) => failure.at,
            _ => None,
        };
        let code = match error {
            CallError::Output(OutputError::Assigned { .. }) => ErrorCode::PartitionOutOfRange,
            error if error.is_retriable() => ErrorCode::Overloaded,
            _ => ErrorCode::CallFailed,
        };
        Self::new(code, format!("{partitioner}: {error}")).about(record)
    }
}

/// The messages of one answer. A request may be wrong in a hundred thousand places: the first ones are explained, of the
/// others the code alone is told.
pub(crate) struct Messages {
    left: usize,
}

impl Messages {
    pub(crate) fn new() -> Self {
        Self { left: MESSAGES_BYTES_MAX }
    }

    /// The message, while there is room.
    pub(crate) fn say(&mut self, message: &str) -> Option<String> {
        self.left = self.left.checked_sub(message.len())?;
        Some(message.to_owned())
    }
}

/// The record that a batch is refused for.
fn record_of(refused: &BatchError) -> Option<u32> {
    match refused {
        BatchError::Record { index, .. } | BatchError::Keyless { index } => Some(*index),
        _ => None,
    }
}

impl From<PartitionAppendError> for WireError {
    fn from(error: PartitionAppendError) -> Self {
        let code = match &error {
            PartitionAppendError::Rules(refused) => return (*refused).into(),
            PartitionAppendError::StaleRouting { .. } => ErrorCode::StaleRouting,
            PartitionAppendError::Marker(_) => ErrorCode::UnknownServer,
            PartitionAppendError::Compacted(refused) => {
                return Self::new(ErrorCode::InvalidRecord, &error).about(record_of(refused));
            }
            PartitionAppendError::Log(error) => match error {
                AppendError::Malformed(_) | AppendError::Empty => ErrorCode::CorruptMessage,
                AppendError::TooLarge { .. } => ErrorCode::MessageTooLarge,
                // Never "duplicate": that is for what was appended for certain, and such a batch is answered as the first was.
                AppendError::Sequence(SequenceError::OutOfOrder { .. }) => ErrorCode::OutOfOrderSequenceNumber,
                AppendError::Sequence(SequenceError::StaleEpoch { .. }) => ErrorCode::InvalidProducerEpoch,
                AppendError::NotAlone => ErrorCode::InvalidRequest,
                // Only a follower's log is cut.
                AppendError::StaleEpoch { .. } | AppendError::Truncating => ErrorCode::NotLeaderOrFollower,
                AppendError::Overloaded { .. } | AppendError::Changing => ErrorCode::RequestTimedOut,
                AppendError::Ended(ended) => code_of(ended),
                AppendError::StorageFull { .. } | AppendError::Descriptors { .. } | AppendError::Unreadable(_) => {
                    ErrorCode::KafkaStorage
                }
            },
        };
        Self::new(code, error)
    }
}

impl From<AppendRefused> for WireError {
    fn from(error: AppendRefused) -> Self {
        let code = match &error {
            AppendRefused::NotLeader { .. } => ErrorCode::NotLeaderOrFollower,
            AppendRefused::Fenced { .. } => ErrorCode::FencedLeaderEpoch,
            AppendRefused::Unknown { .. } => ErrorCode::UnknownLeaderEpoch,
            AppendRefused::NotEnoughReplicas { .. } => ErrorCode::NotEnoughReplicas,
            AppendRefused::Failed => ErrorCode::KafkaStorage,
        };
        Self::new(code, error)
    }
}

impl From<BatchError> for WireError {
    fn from(error: BatchError) -> Self {
        let code = match &error {
            BatchError::Crc { .. } | BatchError::Truncated { .. } | BatchError::Length { .. } => {
                ErrorCode::CorruptMessage
            }
            BatchError::Magic { .. } => ErrorCode::UnsupportedForMessageFormat,
            BatchError::Codec { .. } => ErrorCode::UnsupportedCompressionType,
            // Clients that can split a batch do so, and try again.
            BatchError::UnpackedTooLarge { .. } => ErrorCode::MessageTooLarge,
            BatchError::BaseTimestamp { .. } => ErrorCode::InvalidTimestamp,
            BatchError::Record {
                source: RecordError::TimestampRange { .. } | RecordError::Timestamp { .. }, ..
            } => ErrorCode::InvalidTimestamp,
            _ => ErrorCode::InvalidRecord,
        };
        let record = record_of(&error);
        Self::new(code, error).about(record)
    }
}

impl From<CommitError> for WireError {
    fn from(error: CommitError) -> Self {
        Self::new(ErrorCode::KafkaStorage, error)
    }
}

impl From<MoveStartError> for WireError {
    fn from(error: MoveStartError) -> Self {
        let code = match &error {
            MoveStartError::BeyondEnd { .. } => ErrorCode::OffsetOutOfRange,
            MoveStartError::Ended(ended) => code_of(ended),
        };
        Self::new(code, error)
    }
}

impl From<FollowError> for WireError {
    fn from(error: FollowError) -> Self {
        let code = match &error {
            FollowError::Slow | FollowError::SlowRouting { .. } => ErrorCode::RequestTimedOut,
            _ => ErrorCode::KafkaStorage,
        };
        Self::new(code, error)
    }
}

impl From<ConfigError> for WireError {
    fn from(error: ConfigError) -> Self {
        Self::new(ErrorCode::InvalidConfig, error)
    }
}

impl From<AcksError> for WireError {
    fn from(error: AcksError) -> Self {
        Self::new(ErrorCode::InvalidRequiredAcks, error)
    }
}

impl From<ReadError> for WireError {
    fn from(error: ReadError) -> Self {
        let code = match &error {
            ReadError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            ReadError::Deleted => ErrorCode::UnknownTopicOrPartition,
            // Kafka's consumers stop with it; "storage error" would have them ask for ever.
            ReadError::Damaged { .. } => ErrorCode::CorruptMessage,
            ReadError::Io { .. } => ErrorCode::KafkaStorage,
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
            // Retriable: the broker is about to stop, and there is one again later.
            ProposeError::Stopped(_) => Self::new(ErrorCode::NotController, error),
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
            Refused::Partitions { .. }
            | Refused::TooManyPartitions { .. }
            | Refused::SamePartitions { .. }
            | Refused::FewerPartitions { .. } => ErrorCode::InvalidPartitions,
            Refused::Assignments { .. }
            | Refused::NoReplicas
            | Refused::AssignedUnknown(_)
            | Refused::AssignedTwice(_)
            | Refused::AssignedOthers { .. } => ErrorCode::InvalidReplicaAssignment,
            Refused::ReplicationFactor { .. } => ErrorCode::InvalidReplicationFactor,
            // Retriable: a repeated request reads the new settings first, or waits.
            Refused::StaleTopic(_) | Refused::StaleDefaults | Refused::RoutingUnderWay(_) => ErrorCode::RequestTimedOut,
            Refused::PartitionerChanged(_) => ErrorCode::InvalidConfig,
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
        let code = match &refused {
            refused if refused.is_retriable() => ErrorCode::Overloaded,
            millstream_wasm::Refused::NotBuilt { .. } => ErrorCode::NotBuilt,
            _ => ErrorCode::ModuleRefused,
        };
        Self::new(code, refused)
    }
}

impl From<CallError> for WireError {
    fn from(error: CallError) -> Self {
        let code = if error.is_retriable() { ErrorCode::Overloaded } else { ErrorCode::CallFailed };
        Self::new(code, error)
    }
}

/// What a client is told of a log that takes nothing any more.
fn code_of(ended: &Ended) -> ErrorCode {
    match ended {
        Ended::Deleted => ErrorCode::UnknownTopicOrPartition,
        Ended::Closed | Ended::Failed(_) => ErrorCode::KafkaStorage,
    }
}

#[cfg(test)]
mod tests {
    use millstream_model::TopicName;

    use super::*;

    #[test]
    fn a_message_that_quotes_its_sender_stays_short() {
        // A name of control characters grows sixfold when it is quoted, and an answer's string has 32,767 bytes at most.
        let name = "\u{1}".repeat(32_767);
        let error = WireError::new(ErrorCode::InvalidTopic, format!("no topic {name:?}"));
        assert!(error.message.len() <= MESSAGE_BYTES_MAX + 4, "{} bytes", error.message.len());
        let error = WireError::new(ErrorCode::InvalidTopic, "\u{20ac}".repeat(1000));
        assert!(error.message.starts_with("\u{20ac}") && error.message.ends_with(" ..."));
    }

    /// All but one: only our own clients say in which routing epoch they chose, and only they are told that it is over.
    #[test]
    fn kafkas_clients_are_told_codes_that_they_know() {
        for code in ErrorCode::ALL.iter().copied().filter(|code| *code != ErrorCode::StaleRouting) {
            let told = WireError::new(code, "").kafka_code();
            assert!(told.code() < ErrorCode::NotBuilt.code(), "{code:?} is told as {told:?}");
            assert_eq!(code.is_ok(), told.is_ok(), "{code:?} is told as {told:?}");
            if code.code() >= ErrorCode::NotBuilt.code()
                && code != ErrorCode::ViewNotFound
                && code != ErrorCode::TransformNotFound
            {
                assert_eq!(code.retriable(), told.retriable(), "{code:?} is told as {told:?}");
            }
        }
    }

    #[test]
    fn who_may_try_again_is_told_so() {
        let module: ModuleRef = "m@1".parse().unwrap();
        let code = |error: &CallError| WireError::does_not_start(&module, error).code;
        assert_eq!(code(&CallError::Exhausted { waiting: 9 }), ErrorCode::Overloaded);
        let trap = CallError::Trap { phase: millstream_wasm::Phase::Start, reason: "unreachable".into() };
        assert_eq!(code(&trap), ErrorCode::InvalidParameter);
        assert_eq!(WireError::unplaced("p", &CallError::Exhausted { waiting: 9 }).code, ErrorCode::Overloaded);
        assert_eq!(WireError::unplaced("p", &trap).code, ErrorCode::CallFailed);
        // Others were first, again and again.
        let others_first = Refused::StaleTopic(TopicName::new("t").unwrap());
        for refused in [others_first, Refused::StaleDefaults] {
            assert_eq!(WireError::from(refused).code, ErrorCode::RequestTimedOut);
        }
    }

    #[test]
    fn an_answer_explains_the_first_of_its_errors() {
        let mut messages = Messages::new();
        let message = "x".repeat(100);
        let said = (0..100_000).map_while(|_| messages.say(&message)).map(|message| message.len()).sum::<usize>();
        assert!((MESSAGES_BYTES_MAX - 100..=MESSAGES_BYTES_MAX).contains(&said), "{said}");
    }
}
