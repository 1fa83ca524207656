//! The errors of the log: one enum per operation, and the failure that ends a storage.

use std::{io, path::PathBuf, sync::Arc};

use millstream_env::{advised, is_of_wrong_type, is_taken_away, remedy};
use millstream_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};
use millstream_record::BatchError;

use crate::{LogId, place::is_exchanged};

/// A write or sync failed, and nothing that was not durable before may be believed: the storage takes no more appends
/// and the process must stop. (Recovery at the next start does not depend on what the page cache says.)
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}. The broker must stop: {}", path.display(), consequence(source))]
pub struct StorageFailed {
    /// What was being done: "write", "sync", ...
    pub action: &'static str,
    /// To which file.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: Arc<io::Error>,
}

/// What a failure means for what was acknowledged, and what is to be done.
fn consequence(source: &io::Error) -> String {
    if is_taken_away(source) {
        return "what it has written since then is not where it will look for it. Stop whatever did that, and put back the data directory \
                that was there; what was acknowledged since then may be lost"
            .into();
    }
    let remedy = match is_exchanged(source) {
        true => PUT_BACK,
        false => remedy(source).unwrap_or("find out why, and mend that"),
    };
    format!(
        "what it acknowledged is safe, but for what topics in durability replicated had not synced. Before you start it again, {remedy}"
    )
}

/// What is to be done where directories were exchanged.
const PUT_BACK: &str = "put each directory back in the place that its log has below logs/";

/// Why a file could not be read, and what is to be done about it where nothing else helps.
fn unread(source: &io::Error) -> String {
    match is_exchanged(source) {
        true => format!("{source}. Stop it, and {PUT_BACK}"),
        false => source.to_string(),
    }
}

/// Why a data directory was not opened. Nothing in it was changed that a later start would miss.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data directory {} is in use by another process; stop that one, or choose another directory", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A newer version of Millstream wrote it.
    #[error("{} was written by a newer Millstream (format {found}; this one knows up to {known}): run the newer one", path.display())]
    Newer {
        /// The file that says so.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest known here.
        known: u32,
    },
    /// The journal holds a change that this version cannot apply.
    #[error("{} holds a change of kind {kind} at byte {at}, which a newer Millstream wrote: run the newer one", path.display())]
    NewerFrame {
        /// The journal file.
        path: PathBuf,
        /// Where in it.
        at: u64,
        /// The kind's number.
        kind: u8,
    },
    /// A journal file is not there, and the last run was not closed in order.
    #[error(
        "{} is missing, and the broker was not stopped in order: acknowledged records may be nowhere else. Put the file back, \
         or restore the whole data directory from one copy",
        path.display()
    )]
    JournalMissing {
        /// The file.
        path: PathBuf,
    },
    /// A log has records, and nothing tells how many of them are durable.
    #[error("{} is missing, though records lie beside it: put it back, or restore the whole data directory from one copy", path.display())]
    MarkMissing {
        /// The file.
        path: PathBuf,
    },
    /// A log is not there that had been made, and is not deleted.
    #[error("{} is missing, and the log had been made: its records are where that is. Put it back, or restore the whole data directory from one copy", path.display())]
    LogMissing {
        /// Its directory.
        path: PathBuf,
    },
    /// In the place of a log's directory is that of another log.
    #[error(
        "{} holds the log {of}, as its mark says: directories were exchanged, or put back in the wrong place. Stop the broker and put \
         each in the place that its log has below logs/",
        path.display()
    )]
    Misplaced {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        of: LogId,
    },
    /// A log's directory is in the place of another log's.
    #[error("{} is not in its place: it is at {}. Stop the broker and put it back", path.display(), at.display())]
    Moved {
        /// Its place.
        path: PathBuf,
        /// Where it is.
        at: PathBuf,
    },
    /// The directory is not empty and is not ours.
    #[error("{} is not a Millstream data directory: {reason}", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// A file that must be sound is not: its medium lost what was durable.
    #[error("{} is damaged: {reason}; restore it from a copy", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The options do not fit together.
    #[error("{0}")]
    Options(&'static str),
    /// The operating system refused.
    #[error("cannot {action} {}: {}", path.display(), advised(source))]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// Whether it is about one log's own files, so that all others can serve. (Only meant for what was met in them.)
    pub(crate) fn is_of_one_log(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::MarkMissing { .. } | Self::LogMissing { .. } => true,
            Self::Misplaced { .. } | Self::Moved { .. } => true,
            Self::Io { source, .. } => is_of_wrong_type(source),
            _ => false,
        }
    }

    /// Whether what is in the place of a log's directory may be another's: nothing is written there.
    pub(crate) fn is_of_place(&self) -> bool {
        matches!(self, Self::Misplaced { .. } | Self::Moved { .. })
    }
}

/// Why a log was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    /// It was deleted; its id is never used again.
    #[error("the log {id} has been deleted")]
    Deleted {
        /// Which.
        id: LogId,
    },
    /// What is on disk of it does not say what it holds. Nothing of it was changed; what the journal had of it is kept beside it. All
    /// other logs serve.
    #[error(
        "the log {id} is out of service, and no other: {source}. When its files are whole, start the broker again; or delete \
         the topic"
    )]
    OutOfService {
        /// Which.
        id: LogId,
        /// What is wrong.
        source: Arc<OpenError>,
    },
    /// As [`OpenError::MarkMissing`].
    #[error("{} is missing, though records lie beside it: put it back, or restore the whole data directory from one copy", path.display())]
    MarkMissing {
        /// The file.
        path: PathBuf,
    },
    /// The storage has failed.
    #[error(transparent)]
    Failed(#[from] StorageFailed),
    /// The operating system refused.
    #[error("cannot {action} {}: {}", path.display(), advised(source))]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Why a log takes nothing any more, neither appends nor changes: what every operation that writes may be refused for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Ended {
    /// The log is being deleted.
    #[error("the log is being deleted")]
    Deleted,
    /// The storage has been closed.
    #[error("the storage is closed")]
    Closed,
    /// The storage has failed.
    #[error(transparent)]
    Failed(#[from] StorageFailed),
}

/// Why an idempotent producer's batch has no place in its sequence. Nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// A batch before it is missing, or it is older than what is remembered.
    #[error("out of order: producer {id} in epoch {epoch} sent sequence {found}, and {expected} comes next")]
    OutOfOrder {
        /// The producer.
        id: ProducerId,
        /// Its epoch.
        epoch: ProducerEpoch,
        /// The first sequence of the batch.
        found: Sequence,
        /// What the log would take.
        expected: Sequence,
    },
    /// The producer has gone on in a later epoch.
    #[error("epoch {epoch} of producer {id} is over: it has appended in epoch {current}")]
    StaleEpoch {
        /// The producer.
        id: ProducerId,
        /// The batch's epoch.
        epoch: ProducerEpoch,
        /// The producer's.
        current: ProducerEpoch,
    },
}

/// Why nothing was appended. The log is unchanged; only after [`Ended::Failed`] a log in durability `replicated` may
/// turn out to hold it when the broker is started again.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The bytes are not one whole batch of version 2.
    #[error("not a record batch: {0}")]
    Malformed(#[from] BatchError),
    /// The batch has no place in its producer's sequence.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// An idempotent producer's batch came together with others.
    #[error("a batch of an idempotent producer is appended alone: its offsets must be known when it is sent again")]
    NotAlone,
    /// No batch was given.
    #[error("there is no batch to append")]
    Empty,
    /// More than the journal can take in one piece.
    #[error("a batch of {bytes} bytes; the journal takes at most {max} (journal file size)")]
    TooLarge {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        max: usize,
    },
    /// The epoch is over: a later leader has appended or started.
    #[error("leader epoch {epoch} is over: the log is in epoch {current}")]
    StaleEpoch {
        /// The appender's.
        epoch: LeaderEpoch,
        /// The log's.
        current: LeaderEpoch,
    },
    /// More is waiting for the disk than the storage holds: await [`crate::Storage::writable`] and try again.
    #[error("the journal is behind: {queued} bytes wait to be written")]
    Overloaded {
        /// How much waits.
        queued: usize,
    },
    /// The disk is full. Appends work again once it has room.
    #[error(
        "no space left for {}: make room, by deleting topics or otherwise; then records are taken again", path.display()
    )]
    StorageFull {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// No descriptor is left for a file. Appends work again once there is one.
    #[error("too many open files for {}: raise the limit (ulimit -n), or wait", path.display())]
    Descriptors {
        /// The file that could not be opened.
        path: PathBuf,
    },
    /// What is on disk already cannot be read. (Where that is damage, records follow it in a segment of their own.)
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    /// The log's end is being cut back: appends work again when that is done.
    #[error("the log is being cut: wait until that is done")]
    Truncating,
    /// The log changes its durability: appends work again when that is done.
    #[error("the log changes its durability: wait until that is done")]
    Changing,
    /// It never will.
    #[error(transparent)]
    Ended(#[from] Ended),
}

impl From<StorageFailed> for AppendError {
    fn from(failure: StorageFailed) -> Self {
        Ended::Failed(failure).into()
    }
}

/// Why a log's start was not moved. The log is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum MoveStartError {
    /// The log does not reach that far.
    #[error("a log cannot start at {start}: it ends at {end}")]
    BeyondEnd {
        /// What was asked for.
        start: Offset,
        /// The log's end.
        end: Offset,
    },
    /// It never will.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// Why a log was not cut. It is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum TruncateError {
    /// The log starts later: what is to be left of it is gone already.
    #[error("a log cannot end at {end}: it starts at {start}")]
    BelowStart {
        /// What was asked for.
        end: Offset,
        /// The log's first offset.
        start: Offset,
    },
    /// An earlier truncation is not durable yet.
    #[error("the log is being cut already: wait until that is done")]
    UnderWay,
    /// The log changes its durability.
    #[error("the log changes its durability: wait until that is done")]
    Changing,
    /// Where the batch begins cannot be found.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    /// It never will.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// Why a log's durability was not changed. It is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// An earlier change is not done yet.
    #[error("the log changes its durability already: wait until that is done")]
    UnderWay,
    /// The log's end is being cut back.
    #[error("the log is being cut: wait until that is done")]
    Truncating,
    /// It never will.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// Why what was appended is not durable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The storage failed before: the append may or may not be found after recovery.
    #[error(transparent)]
    Failed(#[from] StorageFailed),
    /// The log was cut before it. (A batch that was waited for a second time may be there still: send it again, and see.)
    #[error("the log was cut where this was appended")]
    Truncated,
    /// The log was deleted before it was cut, or its durability changed, for good.
    #[error("the log was deleted")]
    Deleted,
    /// The storage was dropped before: as for a failure.
    #[error("the storage went away before the append was durable")]
    Stopped,
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log does not hold that offset and will not hold it next.
    #[error("offset {offset} is outside of {start}..={end}")]
    OutOfRange {
        /// What was asked for.
        offset: Offset,
        /// The log's first offset.
        start: Offset,
        /// The log's end.
        end: Offset,
    },
    /// What is on disk is not what was written.
    #[error("{} is damaged at byte {at}: {reason}{}", path.display(), Hole::told(hole.as_ref()))]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        at: u64,
        /// What is wrong.
        reason: &'static str,
        /// The offsets that cannot be served for it, where a reader asked for one of them.
        hole: Option<Hole>,
    },
    /// The log is being deleted.
    #[error("the log is being deleted")]
    Deleted,
    /// The operating system refused.
    #[error("cannot read {}: {}", path.display(), unread(source))]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Offsets that cannot be served, because what is on disk of them is not what was written. All others can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The first.
    pub base: Offset,
    /// The first sound one after them: where a reader can go on.
    pub next: Offset,
    /// There may be sound batches among them: the damage hides where they begin, up to the next place that the index knows.
    pub hides: bool,
}

impl Hole {
    /// Its part of a message.
    fn told(hole: Option<&Self>) -> String {
        let Some(Self { base, next, hides }) = hole else { return String::new() };
        let among = if *hides { " (some of them for want of knowing where they begin)" } else { "" };
        format!(
            "; offsets {base} to {} cannot be served{among}: read on from {next}, and restore the file from a copy if there is one",
            next.0 - 1
        )
    }
}

/// Why a log was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// There is no such log.
    #[error("there is no log {id}")]
    Unknown {
        /// What was asked for.
        id: LogId,
    },
    /// It cannot be any more.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// Why a pass of compaction ended early. The log holds what it held, or part of it is compacted.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// A segment could not be read, or is damaged.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The new segment could not be written. (A disk without room is no danger: the old one stays.)
    #[error("cannot {action} {}: {source}", path.display())]
    Write {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A sync failed, here or elsewhere: the process must stop.
    #[error(transparent)]
    Failed(#[from] StorageFailed),
    /// Whoever asked for it wants it no more.
    #[error("the pass was given up")]
    GivenUp,
}
