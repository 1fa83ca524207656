//! Which log: topic, partition, stream and generation, and the directory that a log lives in.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use millstream_model::{PartitionId, TopicId, TransformId};
use uuid::Uuid;

/// What a log of a partition holds. A partition has its records and, beside them, companion streams that share its
/// replicas, leader and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// The topic's records.
    Records,
    /// How far a transform has read the partition.
    Progress(TransformId),
    /// A transform's keyed state over the partition.
    State(TransformId),
}

/// One log of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The topic's identity: a topic created again under its old name has another.
    pub topic: TopicId,
    /// The partition within the topic.
    pub partition: PartitionId,
    /// Which of the partition's streams.
    pub stream: Stream,
    /// Counts the assignments of this replica to this broker: what an earlier assignment left is another log.
    pub generation: u32,
}

impl LogId {
    /// The first generation of a partition's records.
    #[must_use]
    pub fn records(topic: TopicId, partition: PartitionId) -> Self {
        Self { topic, partition, stream: Stream::Records, generation: 0 }
    }

    /// The log's directory below the data directory: `logs/TOPIC/PARTITION/STREAM-GENERATION`.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("logs/{}/{}/{}-{}", self.topic, self.partition, self.stream, self.generation))
    }

    /// Reads an id back from the last three components of a path; none if they are not a log's.
    pub(crate) fn from_path(path: &Path) -> Option<Self> {
        let mut names = path.components().rev().map(|part| part.as_os_str().to_str());
        let (stream, partition, topic) = (names.next()??, names.next()??, names.next()??);
        let (stream, generation) = stream.rsplit_once('-')?;
        let id = Self {
            topic: TopicId(topic.parse().ok()?),
            partition: PartitionId(partition.parse().ok()?),
            stream: Stream::from_name(stream)?,
            generation: generation.parse().ok()?,
        };
        // One directory a log: "+1" and "01" parse, but are not what we write.
        path.ends_with(id.path().strip_prefix("logs").ok()?).then_some(id)
    }
}

impl Stream {
    /// The number of the kind on disk and the id of whose it is.
    pub(crate) fn code(self) -> (u8, Uuid) {
        match self {
            Self::Records => (0, Uuid::nil()),
            Self::Progress(transform) => (1, transform.0),
            Self::State(transform) => (2, transform.0),
        }
    }

    /// The reverse of [`Stream::code`]; none for a number that this version does not know.
    pub(crate) fn from_code(kind: u8, of: Uuid) -> Option<Self> {
        match kind {
            0 => Some(Self::Records),
            1 => Some(Self::Progress(TransformId(of))),
            2 => Some(Self::State(TransformId(of))),
            _ => None,
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        if name == "records" {
            return Some(Self::Records);
        }
        let (kind, of) = name.split_once('.')?;
        let of = TransformId(of.parse().ok()?);
        match kind {
            "progress" => Some(Self::Progress(of)),
            "state" => Some(Self::State(of)),
            _ => None,
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Records => f.write_str("records"),
            Self::Progress(transform) => write!(f, "progress.{transform}"),
            Self::State(transform) => write!(f, "state.{transform}"),
        }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}-{}", self.topic, self.partition, self.stream, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_one_log_and_only_in_its_own_spelling() {
        let topic = TopicId(Uuid::from_u128(7));
        let of = TransformId(Uuid::from_u128(8));
        for stream in [Stream::Records, Stream::Progress(of), Stream::State(of)] {
            let id = LogId { topic, partition: PartitionId(3), stream, generation: 2 };
            assert_eq!(LogId::from_path(&Path::new("/data").join(id.path())), Some(id));
            let (kind, of) = stream.code();
            assert_eq!(Stream::from_code(kind, of), Some(stream));
        }
        for name in ["records", "records-", "records--1", "records-+1", "records-01", "other-1", "progress.x-0"] {
            assert_eq!(LogId::from_path(Path::new(&format!("/data/logs/{topic}/3/{name}"))), None, "{name}");
        }
        assert_eq!(LogId::from_path(Path::new(&format!("/data/logs/{topic}/03/records-0"))), None);
    }
}
