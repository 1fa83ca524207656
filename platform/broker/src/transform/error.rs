//! Why an input partition's task cannot go on, and whether it may later.

use millstream_catalog::RecordAt;
use millstream_log::{AppendError, CommitError, Ended, OpenLogError, ReadError};
use millstream_model::{ModuleRef, Offset, TopicName};

use millstream_record::{BatchError, BuildError, RecordError};
use millstream_wasm::{CallError, frame::FrameError};

use super::pace::FAILURES_IN_A_ROW_MAX;
use crate::{errors::WireError, partition::PartitionAppendError, rows::RowsError};

/// Why a task stands still.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransformError {
    #[error("its progress: {0}")]
    Progress(#[from] ProgressError),
    #[error("the input: {0}")]
    Read(#[from] ReadError),
    #[error("the input: {0}")]
    Damaged(#[from] RowsError),
    #[error("an output topic has been deleted")]
    OutputDeleted,
    #[error("{module}: {}", .error.message)]
    Module { module: ModuleRef, error: WireError },
    #[error("{0}")]
    Call(#[source] CallError),
    #[error("the partitioner of output {topic}: {}", .error.message)]
    NoPartitioner { topic: TopicName, error: WireError },
    #[error("the partitioner of output {topic}: {source}")]
    Partitioner {
        topic: TopicName,
        #[source]
        source: CallError,
    },
    #[error("output {topic}: {source}")]
    Build {
        topic: TopicName,
        #[source]
        source: BuildError,
    },
    #[error("output {topic}: {source}")]
    Frame {
        topic: TopicName,
        #[source]
        source: FrameError,
    },
    #[error("output {topic}: {source}")]
    Append {
        topic: TopicName,
        #[source]
        source: PartitionAppendError,
    },
    #[error("output {topic} is routed anew, and records that were to go there are not placed: {reason}")]
    Rerouted { topic: TopicName, reason: String },
    #[error("an output is not committed: {0}")]
    Commit(#[from] CommitError),
    #[error("the record at offset {}: {reason}", .at.offset)]
    Record { at: RecordAt, reason: String },
    #[error("{FAILURES_IN_A_ROW_MAX} records in a row failed; the last one, at offset {offset}: {reason}")]
    AllRecords { offset: Offset, reason: String },
}

/// Why progress could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgressError {
    #[error(transparent)]
    Open(#[from] OpenLogError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("its last entry cannot be read: {0}")]
    Batch(#[from] BatchError),
    #[error("its last entry cannot be read: {0}")]
    Record(#[from] RecordError),
    #[error("its last entry cannot be read: {0}")]
    Entry(#[from] serde_json::Error),
    #[error("its last entry is empty")]
    Empty,
    #[error(
        "it is not there, though the transform was to run before the broker was started: the partition's directory was removed or made \
         anew, or the broker ended before the transform had begun. Put the directory back from a copy, or have it begin at offset {first} \
         again (`millstream transform resume`), which repeats what it had done; to begin elsewhere, delete it and deploy it again"
    )]
    Gone {
        /// Where it would begin.
        first: Offset,
    },
    #[error("version {0} was written by a newer millstream: run that")]
    Newer(u32),
}

impl TransformError {
    /// The record that the task stands at, where that record is to blame.
    pub(super) fn record(&self) -> Option<RecordAt> {
        match self {
            Self::Record { at, .. } => Some(*at),
            _ => None,
        }
    }

    /// Whether it may pass by itself, so that the task tries again instead of stopping the transform for good.
    pub(super) fn is_retriable(&self) -> bool {
        match self {
            Self::Progress(error) => error.is_retriable(),
            Self::Read(error) => read_again(error),
            Self::Module { error, .. } | Self::NoPartitioner { error, .. } => error.code.retriable(),
            Self::Call(error) | Self::Partitioner { source: error, .. } => error.is_retriable(),
            Self::Append { source, .. } => append_again(source),
            // The records are processed again, which tells what becomes of each.
            Self::Rerouted { .. } => true,
            // The storage has failed and the broker is about to stop: the next start goes on.
            Self::Commit(_) => true,
            Self::Damaged(_)
            | Self::OutputDeleted
            | Self::Build { .. }
            | Self::Frame { .. }
            | Self::Record { .. }
            | Self::AllRecords { .. } => false,
        }
    }
}

impl ProgressError {
    pub(crate) fn is_retriable(&self) -> bool {
        match self {
            Self::Open(error) => matches!(error, OpenLogError::Io { .. } | OpenLogError::Failed(_)),
            Self::Append(error) => log_append_again(error),
            Self::Read(error) => read_again(error),
            Self::Commit(_) => true,
            Self::Build(_)
            | Self::Batch(_)
            | Self::Record(_)
            | Self::Entry(_)
            | Self::Empty
            | Self::Gone { .. }
            | Self::Newer(_) => false,
        }
    }
}

fn read_again(error: &ReadError) -> bool {
    match error {
        ReadError::Io { .. } => true,
        // Deleted just now: the input begins later.
        ReadError::OutOfRange { offset, start, .. } => offset < start,
        _ => false,
    }
}

/// Whether the same append may succeed later: a full disk, a full journal, too few replicas, another leader.
pub(super) fn append_again(error: &PartitionAppendError) -> bool {
    match error {
        PartitionAppendError::Rules(_) => true,
        // What is stale is placed anew first.
        PartitionAppendError::Compacted(_)
        | PartitionAppendError::StaleRouting { .. }
        | PartitionAppendError::Marker(_) => false,
        PartitionAppendError::Log(error) => log_append_again(error),
    }
}

fn log_append_again(error: &AppendError) -> bool {
    !matches!(
        error,
        AppendError::Malformed(_)
            | AppendError::Empty
            | AppendError::TooLarge { .. }
            | AppendError::Ended(Ended::Deleted)
    )
}

/// Whether a failed call is not about its records: wrong parameters, or an instance that does not start.
pub(super) fn is_about_the_module(error: &CallError) -> bool {
    use millstream_wasm::{FailureCode, Phase};
    match error {
        CallError::Guest(failure) => failure.code != FailureCode::Record,
        CallError::Trap { phase, .. } | CallError::OutOfFuel { phase, .. } | CallError::OutOfMemory { phase, .. } => {
            *phase != Phase::Call
        }
        CallError::Output(_) | CallError::Exhausted { .. } | CallError::Host { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use std::{io, path::PathBuf, sync::Arc};

    use millstream_log::StorageFailed;
    use millstream_model::PartitionId;
    use millstream_protocol::ErrorCode;

    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_what_will_not_is_shown() {
        let module: ModuleRef = "m@1".parse().unwrap();
        let topic = TopicName::new("t").unwrap();
        let failed = || StorageFailed {
            action: "write",
            path: PathBuf::from("journal"),
            source: Arc::new(io::Error::other("no")),
        };
        let busy = WireError::new(ErrorCode::Overloaded, "the compiler is busy");
        let io = |kind: io::ErrorKind| OpenLogError::Io {
            action: "open",
            path: PathBuf::from("log"),
            source: io::Error::from(kind),
        };
        let again = [
            TransformError::Module { module: module.clone(), error: busy.clone() },
            TransformError::NoPartitioner { topic: topic.clone(), error: busy },
            TransformError::Partitioner { topic: topic.clone(), source: CallError::Exhausted { waiting: 9 } },
            TransformError::Call(CallError::Host { reason: "no memory".into() }),
            TransformError::Progress(io(io::ErrorKind::StorageFull).into()),
            TransformError::Progress(AppendError::from(failed()).into()),
            TransformError::Append { topic: topic.clone(), source: AppendError::from(failed()).into() },
        ];
        for error in again {
            assert!(error.is_retriable(), "{error}");
        }
        let gone = WireError::new(ErrorCode::ModuleNotFound, "no module m@1");
        let at = RecordAt { topic: crate::testing::TOPIC, partition: PartitionId(0), offset: Offset(1) };
        let for_good = [
            TransformError::Module { module, error: gone },
            TransformError::Call(CallError::Trap {
                phase: millstream_wasm::Phase::Start,
                reason: "unreachable".into(),
            }),
            TransformError::Progress(ProgressError::Newer(2)),
            TransformError::Append { topic, source: AppendError::Empty.into() },
            TransformError::Record { at, reason: "bad".into() },
        ];
        for error in for_good {
            assert!(!error.is_retriable(), "{error}");
        }
    }
}
