//! What can go wrong, an enum per kind of operation, each saying whether trying again can help.

use std::{io, sync::Arc, time::Duration};

use millstream_model::{Offset, PartitionId};
use millstream_protocol::{ApiKey, ErrorCode};
use millstream_transport::{ConnectError as TransportError, TrustError, own::OwnError, profile::ProfileError};

/// Why there is no [`crate::Client`].
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No broker's address is known: neither given, nor in the profile.
    #[error("no broker to connect to: give HOST:PORT")]
    NoBroker,
    /// The client profile is missing or unreadable.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The CA certificate is malformed.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The client's certificate or its key cannot be used.
    #[error("the client's certificate: {0}")]
    Certificate(#[from] OwnError),
    /// No broker was reached, or the one reached is of no use.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Why a request was not answered as hoped. Cheap to clone: many records may share one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// No broker could be connected to.
    #[error("{source}")]
    Unreachable {
        /// The last one tried.
        broker: Arc<str>,
        /// The transport's reason, with what to do.
        source: Arc<io::Error>,
    },
    /// The connection ended before the answer: what was asked may or may not have been done.
    #[error(
        "the connection to {broker} ended before the answer ({reason}): what was asked may or may not have been done"
    )]
    Disconnected {
        /// The broker.
        broker: Arc<str>,
        /// What is known of the cause.
        reason: Arc<str>,
    },
    /// No answer came in time: what was asked may or may not have been done.
    #[error("{broker} did not answer {api} within {after:?}: what was asked may or may not have been done")]
    TimedOut {
        /// The broker.
        broker: Arc<str>,
        /// What was asked.
        api: ApiKey,
        /// How long was waited.
        after: Duration,
    },
    /// [`crate::Client::close`] was called: the client connects to nobody any more. What had no answer then may or may not have been
    /// done; what was asked later was not.
    #[error("the client was closed: what was not answered before that may or may not have been done")]
    Closed,
    /// The broker and this client do not understand each other.
    #[error("{broker}: {detail}")]
    Protocol {
        /// The broker.
        broker: Arc<str>,
        /// What does not fit.
        detail: Arc<str>,
    },
    /// The broker does not have the function, or only in versions that this client does not speak.
    #[error("{broker}: {detail}")]
    NotServed {
        /// The broker.
        broker: Arc<str>,
        /// What it does not serve.
        detail: Arc<str>,
    },
    /// The broker refused, and said why.
    #[error("{}", refusal(.what, *.code, .message.as_deref()))]
    Refused {
        /// What was asked, e.g. `topic flights`.
        what: Arc<str>,
        /// The wire's code.
        code: ErrorCode,
        /// The broker's own words, where it has any.
        message: Option<Arc<str>>,
    },
}

/// The broker's words, with what was asked if they do not name it; without words the code's, which have its number.
fn refusal(what: &str, code: ErrorCode, message: Option<&str>) -> String {
    match message {
        Some(message) if names(message, what) => message.to_owned(),
        Some(message) if !message.is_empty() => format!("{what}: {message}"),
        _ => format!("{what}: {code}"),
    }
}

/// Whether a message says by itself what was asked: `topic flights`, or the name in quotes or as a word. A short name may be a
/// word by chance.
fn names(message: &str, what: &str) -> bool {
    const CHANCE_MAX: usize = 3;
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    let holds = |phrase: &str| {
        message.match_indices(phrase).any(|(at, _)| {
            let after = &message[at + phrase.len()..];
            !message[..at].ends_with(is_part) && !after.starts_with(is_part)
        })
    };
    let name = what.split('"').nth(1).filter(|name| !name.is_empty());
    let by_name = |name: &str| {
        holds(&format!("{name:?}")) || holds(&format!("named {name}")) || (name.len() > CHANCE_MAX && holds(name))
    };
    holds(&what.replace('"', "")) || name.is_some_and(by_name)
}

impl CallError {
    pub(crate) fn refused(what: impl Into<Arc<str>>, code: ErrorCode, message: Option<&str>) -> Self {
        Self::Refused { what: what.into(), code, message: message.map(Arc::from) }
    }

    /// Turns a code from the wire into a result.
    pub(crate) fn check(what: &str, code: ErrorCode, message: Option<&str>) -> Result<(), Self> {
        if code.is_ok() { Ok(()) } else { Err(Self::refused(what, code, message)) }
    }

    /// The broker's code, if it was the broker that refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the same request may succeed later without anybody changing anything. For requests that change something
    /// and ended [`CallError::Disconnected`] or [`CallError::TimedOut`], look first whether it was done.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => source
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<TransportError>())
                .is_none_or(TransportError::is_retriable),
            Self::Disconnected { .. } | Self::TimedOut { .. } => true,
            Self::Closed | Self::Protocol { .. } | Self::NotServed { .. } => false,
            Self::Refused { code, .. } => code.retriable(),
        }
    }
}

/// Why a record was not produced.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProduceError {
    /// The partition that was asked for does not exist.
    #[error("topic {topic} has no partition {partition}: it has {partitions} (0 to {})", .partitions.saturating_sub(1))]
    NoSuchPartition {
        /// The topic.
        topic: Arc<str>,
        /// What was asked for.
        partition: PartitionId,
        /// How many there are.
        partitions: i32,
    },
    /// The record cannot be put into a batch.
    #[error("a record for topic {topic} cannot be encoded: {detail}")]
    Record {
        /// The topic.
        topic: Arc<str>,
        /// What is wrong with it.
        detail: Arc<str>,
    },
    /// The broker says that the topic is routed anew, of a record whose partition its sender has chosen: it was not appended. (What leaves
    /// its partition open is placed anew by the producer, in order.)
    #[error(
        "topic {topic} is routed anew since partition {partition} was chosen for the record, which was not appended: \
         send it again"
    )]
    StaleRouting {
        /// The topic.
        topic: Arc<str>,
        /// The partition that was chosen.
        partition: PartitionId,
    },
    /// The broker refused it, or could not be asked.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It was not acknowledged in time; the last attempt's error says why. It may or may not have been appended.
    #[error("not acknowledged within {after:?}; {}", last_words(last.as_ref()))]
    Expired {
        /// How long was tried.
        after: Duration,
        /// What the last attempt said; none where nothing has failed: it was not its turn yet, or nobody has answered yet.
        last: Option<CallError>,
    },
    /// The producer's tasks are gone, because the runtime is shutting down.
    #[error("the producer was stopped before the record was acknowledged")]
    Stopped,
}

impl ProduceError {
    /// What a refused batch means for its records.
    pub(crate) fn refused(topic: &Arc<str>, partition: PartitionId, error: CallError) -> Self {
        match error.code() {
            Some(ErrorCode::StaleRouting) => Self::StaleRouting { topic: Arc::clone(topic), partition },
            _ => Self::Call(error),
        }
    }

    /// The broker's code, if it was the broker that refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::StaleRouting { .. } => Some(ErrorCode::StaleRouting),
            Self::Call(error) | Self::Expired { last: Some(error), .. } => error.code(),
            _ => None,
        }
    }

    /// Whether it is certain that the record was not appended: it was refused, rather than lost sight of.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::NoSuchPartition { .. } | Self::Record { .. } | Self::StaleRouting { .. } => true,
            // What may pass was tried again until it did; of these codes Kafka says that the record may be there.
            Self::Call(CallError::Refused { code, .. }) => !matches!(
                code,
                ErrorCode::UnknownServer
                    | ErrorCode::RequestTimedOut
                    | ErrorCode::NetworkException
                    | ErrorCode::NotEnoughReplicasAfterAppend
                    | ErrorCode::KafkaStorage
                    | ErrorCode::OutOfOrderSequenceNumber
                    | ErrorCode::UnknownProducerId
            ),
            Self::Call(CallError::NotServed { .. }) => true,
            Self::Call(_) | Self::Expired { .. } | Self::Stopped => false,
        }
    }

    /// Whether sending the record again may succeed. The producer has already tried for its delivery time-out, so this is
    /// for callers with more patience than that. After a stop or an expiry the record may have been appended already.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::NoSuchPartition { .. } | Self::Record { .. } => false,
            Self::Call(error) => error.is_retriable(),
            Self::StaleRouting { .. } | Self::Expired { .. } | Self::Stopped => true,
        }
    }
}

fn last_words(last: Option<&CallError>) -> String {
    last.map_or_else(|| "nothing has failed, it takes longer than that".into(), |last| format!("last: {last}"))
}

/// Why nothing could be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConsumeError {
    /// The partition that was asked for does not exist.
    #[error("{topic} has no partition {partition}: it has {partitions} (0 to {})", .partitions.saturating_sub(1))]
    NoSuchPartition {
        /// The topic or view.
        topic: Arc<str>,
        /// What was asked for.
        partition: PartitionId,
        /// How many there are.
        partitions: i32,
    },
    /// The consumer does not read the partition, so that it cannot be moved there.
    #[error("partition {partition} of {topic} is not read by this consumer")]
    NotRead {
        /// The topic or view.
        topic: Arc<str>,
        /// What was asked for.
        partition: PartitionId,
    },
    /// The offset is not in the log (any more, or yet).
    #[error("offset {offset} of {topic} partition {partition} is outside of what the log holds{}", range(*.start, *.end))]
    OutOfRange {
        /// The topic or view.
        topic: Arc<str>,
        /// The partition.
        partition: PartitionId,
        /// What was asked for.
        offset: Offset,
        /// The first offset there is, if the broker said so.
        start: Option<Offset>,
        /// The end of what may be read, if the broker said so.
        end: Option<Offset>,
    },
    /// A batch is damaged, as the broker found or as it came. It was not handed out, and nothing after it. Asking again helps
    /// only where it was damaged on the way; a reader can go on after it, from where the broker's words say.
    #[error("the records of {topic} partition {partition} from offset {offset} on are damaged: {detail}")]
    Damaged {
        /// The topic or view.
        topic: Arc<str>,
        /// The partition.
        partition: PartitionId,
        /// Where the batch begins; where the broker refused it, or not even that can be read, the offset that was asked for.
        offset: Offset,
        /// What is wrong.
        detail: Arc<str>,
    },
    /// One partition could not be read: its broker refused, or nobody leads it. Others may be readable all the same.
    #[error("{source}")]
    Partition {
        /// The partition.
        partition: PartitionId,
        /// What the broker said.
        source: CallError,
    },
    /// The broker refused, or could not be asked.
    #[error(transparent)]
    Call(#[from] CallError),
}

fn range(start: Option<Offset>, end: Option<Offset>) -> String {
    match (start, end) {
        (Some(start), Some(end)) if start < end => {
            format!(" ({start} to {}): read from one of these on, or from {end} for what comes next", end.0 - 1)
        }
        (Some(_), Some(end)) => format!(" (nothing at present): read from {end} on for what comes next"),
        _ => ": read from the beginning or the end".into(),
    }
}

impl ConsumeError {
    /// The broker's code, if it was the broker that refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::OutOfRange { .. } => Some(ErrorCode::OffsetOutOfRange),
            _ => self.call().and_then(CallError::code),
        }
    }

    /// Which partition it is about, if it is about one: others may be readable all the same.
    #[must_use]
    pub fn partition(&self) -> Option<PartitionId> {
        match self {
            Self::NoSuchPartition { partition, .. }
            | Self::NotRead { partition, .. }
            | Self::OutOfRange { partition, .. }
            | Self::Damaged { partition, .. }
            | Self::Partition { partition, .. } => Some(*partition),
            Self::Call(_) => None,
        }
    }

    /// Whether polling again may succeed. The consumer has already tried for its patience.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        self.call().is_some_and(CallError::is_retriable)
    }

    pub(crate) fn call(&self) -> Option<&CallError> {
        match self {
            Self::Partition { source: error, .. } | Self::Call(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_that_is_not_there_is_told_with_those_that_are() {
        let check = |start: i64, end: i64, expected: &str| {
            let told = range(Some(Offset(start)), Some(Offset(end)));
            assert_eq!(told, expected);
        };
        check(3, 10, " (3 to 9): read from one of these on, or from 10 for what comes next");
        check(3, 3, " (nothing at present): read from 3 on for what comes next");
        assert!(range(None, Some(Offset(1))).contains("beginning"));
    }

    #[test]
    fn a_refusal_names_what_was_asked_once() {
        let check = |what: &str, message: Option<&str>, expected: &str| {
            let error = CallError::refused(what, ErrorCode::UnknownTopicOrPartition, message);
            assert_eq!(error.to_string(), expected);
        };
        check("topic \"nope\"", Some("no topic \"nope\""), "no topic \"nope\"");
        check("topic \"nope\"", Some("there is no topic named nope"), "there is no topic named nope");
        check("topic \"nope\"", Some("nopes are refused"), "topic \"nope\": nopes are refused");
        check("topic \"a\"", Some("a topic named a exists"), "a topic named a exists");
        check("topic \"a\"", Some("topic a is used"), "topic a is used");
        check("topic \"a\"", Some("topic ab is used"), "topic \"a\": topic ab is used");
        check("topic \"a\"", Some("a topic has from 1"), "topic \"a\": a topic has from 1");
        check("module m@1", Some("module m@1 does not start"), "module m@1 does not start");
        check("module m@1", Some(""), "module m@1: no such topic or partition here (error 3)");
    }
}
