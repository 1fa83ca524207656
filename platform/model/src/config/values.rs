//! The kinds of values that settings have.

use serde::{Deserialize, Serialize};

/// What `millstream.durability` says: when an append counts as acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Flushed to disk first (the default): an acknowledged record survives a power cut.
    Fsync,
    /// In the memory of `min.insync.replicas` brokers; disks follow in the background.
    Replicated,
}

/// What `cleanup.policy` says: what becomes of old records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CleanupPolicy {
    /// Old segments are deleted whole.
    Delete,
    /// Of each key the newest record stays.
    Compact,
    /// Both.
    #[serde(rename = "compact,delete")]
    CompactDelete,
}

impl CleanupPolicy {
    /// Whether old segments are deleted.
    #[must_use]
    pub fn deletes(self) -> bool {
        self != Self::Compact
    }

    /// Whether of each key only the newest record stays. Then every record must have a key.
    #[must_use]
    pub fn compacts(self) -> bool {
        self != Self::Delete
    }
}

/// A part of a whole, in millionths: so that a setting with one can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ratio(u32);

impl Ratio {
    const WHOLE: u32 = 1_000_000;

    /// `part`: 0 to 1.
    pub(super) fn of(part: f64) -> Self {
        Self((part * f64::from(Self::WHOLE)).round() as u32)
    }

    /// The part, 0 to 1.
    #[must_use]
    pub fn get(self) -> f64 {
        f64::from(self.0) / f64::from(Self::WHOLE)
    }
}

/// A half: Kafka's default of `min.cleanable.dirty.ratio`.
impl Default for Ratio {
    fn default() -> Self {
        Self(Self::WHOLE / 2)
    }
}

/// What `message.timestamp.type` says: whose time a record has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's, of the moment when it appends the record.
    LogAppendTime,
}

/// What `millstream.partitioner.enforce` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartitionerEnforce {
    /// Clients that choose partitions themselves are believed.
    Off,
    /// What they send must lie where the topic's partitioner would have put it (without one: where Kafka's default puts keys).
    Verify,
}
