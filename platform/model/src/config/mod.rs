//! Topic configuration: Kafka's names and our own, parsed and checked in one table.

mod defaults;
mod settings;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::settings::{KEY_CHARS_TOLD, LIMIT_MAX, LISTS, find, without_effect, words};
pub use self::{
    defaults::{ConfigSource, DefaultKind, Given, TopicDefaults},
    settings::{ConfigError, ConfigKey, PARTITIONER, PARTITIONER_PARAM, TOPIC_SETTINGS},
    values::{CleanupPolicy, Durability, PartitionerEnforce, Ratio, TimestampType},
};
use crate::{ModuleRef, limits};

/// One topic's settings, each with the value that is in force: what was not given has its default (see [`TopicDefaults`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicConfig {
    /// Which of them the topic was given itself.
    #[serde(default, skip_serializing_if = "Given::is_all")]
    pub given: Given,
    /// `cleanup.policy`.
    pub cleanup_policy: CleanupPolicy,
    /// `delete.retention.ms`: how long a record without a value stays in a compacted topic once nothing older of its key does,
    /// milliseconds.
    #[serde(default = "delete_retention_ms_default")]
    pub delete_retention_ms: u64,
    /// `max.compaction.lag.ms`: a record waits no longer for compaction, milliseconds.
    #[serde(default = "compaction_lag_ms_max_default")]
    pub compaction_lag_ms_max: u64,
    /// `max.message.bytes`: the largest record batch accepted, bytes as encoded.
    pub message_bytes_max: usize,
    /// `message.timestamp.after.max.ms`: so far ahead of the broker's clock a producer's time may be, milliseconds. A topic of a version
    /// that took any has no limit.
    #[serde(default = "timestamp_ms_unbounded")]
    pub timestamp_after_ms_max: u64,
    /// `message.timestamp.before.max.ms`: so far behind it a producer's time may be, milliseconds.
    #[serde(default = "timestamp_ms_unbounded")]
    pub timestamp_before_ms_max: u64,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `millstream.durability`.
    pub durability: Durability,
    /// `millstream.partitioner`: the module that places records whose producer leaves the partition open.
    pub partitioner: Option<ModuleRef>,
    /// `millstream.partitioner.enforce`.
    pub partitioner_enforce: PartitionerEnforce,
    /// `millstream.partitioner.param.NAME`: the partitioner's parameters.
    pub partitioner_params: BTreeMap<String, String>,
    /// `min.cleanable.dirty.ratio`: a partition is compacted when this part of it was not yet.
    #[serde(default)]
    pub cleanable_dirty_ratio_min: Ratio,
    /// `min.compaction.lag.ms`: a younger record is not compacted away, milliseconds.
    #[serde(default)]
    pub compaction_lag_ms_min: u64,
    /// `min.insync.replicas`: how many replicas must hold a record before acks=all is answered.
    pub insync_replicas_min: u32,
    /// `retention.bytes`: the oldest segments of a partition go while so many bytes are left; none: however many there are.
    /// A topic of a version that kept all has none.
    #[serde(default)]
    pub retention_bytes: Option<u64>,
    /// `retention.ms`: a segment goes when all its records are older, milliseconds; none: never. A topic of a version that kept
    /// all has none, whatever the default: an update deletes nothing.
    #[serde(default)]
    pub retention_ms: Option<u64>,
    /// `segment.bytes`: a segment is closed before it would grow past this.
    pub segment_bytes: u64,
    /// `segment.ms`: a segment is closed before it would hold batches further apart in time than this, milliseconds.
    #[serde(default = "segment_ms_default")]
    pub segment_ms: u64,
}

const WEEK_MS: u64 = 7 * 24 * 60 * 60 * 1000;

fn segment_ms_default() -> u64 {
    WEEK_MS
}

fn delete_retention_ms_default() -> u64 {
    WEEK_MS / 7
}

fn compaction_lag_ms_max_default() -> u64 {
    LIMIT_MAX
}

fn timestamp_ms_unbounded() -> u64 {
    LIMIT_MAX
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            given: Given::nothing(),
            cleanup_policy: CleanupPolicy::Delete,
            delete_retention_ms: delete_retention_ms_default(),
            compaction_lag_ms_max: compaction_lag_ms_max_default(),
            cleanable_dirty_ratio_min: Ratio::default(),
            compaction_lag_ms_min: 0,
            message_bytes_max: limits::BATCH_BYTES_DEFAULT,
            timestamp_after_ms_max: 60 * 60 * 1000,
            timestamp_before_ms_max: LIMIT_MAX,
            timestamp_type: TimestampType::CreateTime,
            durability: Durability::Fsync,
            partitioner: None,
            partitioner_enforce: PartitionerEnforce::Off,
            partitioner_params: BTreeMap::new(),
            insync_replicas_min: 1,
            retention_bytes: None,
            retention_ms: Some(WEEK_MS),
            segment_bytes: 1 << 30,
            segment_ms: segment_ms_default(),
        }
    }
}

impl TopicConfig {
    /// Whether both place records alike: by the same partitioner, or none, with the same parameters.
    #[must_use]
    pub fn routes_as(&self, other: &Self) -> bool {
        (&self.partitioner, &self.partitioner_params) == (&other.partitioner, &other.partitioner_params)
    }

    /// Whether a change to the `other` settings is about routing: how records are placed, or whether clients are believed that place them.
    #[must_use]
    pub fn alters_routing(&self, other: &Self) -> bool {
        !self.routes_as(other) || self.partitioner_enforce != other.partitioner_enforce
    }

    /// Whether a topic with these settings keeps no record that it would not keep with the `other` ones, and notably fewer: half the time or
    /// bytes at most, or less by one more policy. Nothing else may differ.
    #[must_use]
    pub fn keeps_less_than(&self, other: &Self) -> bool {
        let (retention_bytes, retention_ms, cleanup_policy) =
            (other.retention_bytes, other.retention_ms, other.cleanup_policy);
        let given = other.given.clone();
        if (Self { given, retention_bytes, retention_ms, cleanup_policy, ..self.clone() }) != *other {
            return false;
        }
        // None keeps all.
        let is_less = |own: Option<u64>, other: Option<u64>| own.unwrap_or(u64::MAX) < other.unwrap_or(u64::MAX);
        let (time, bytes) = ((self.retention_ms, other.retention_ms), (self.retention_bytes, other.retention_bytes));
        let (own, others) = (self.cleanup_policy, other.cleanup_policy);
        let keeps_more = is_less(time.1, time.0)
            || is_less(bytes.1, bytes.0)
            || (others.deletes() && !own.deletes())
            || (others.compacts() && !own.compacts());
        // By halves: else it could be had again and again of a topic, on a disk that is full.
        let is_half =
            |own: Option<u64>, other: Option<u64>| own.is_some_and(|own| own <= other.unwrap_or(u64::MAX) / 2);
        let keeps_less = own.deletes() && (is_half(time.0, time.1) || is_half(bytes.0, bytes.1))
            || (own.deletes() && !others.deletes())
            || (own.compacts() && !others.compacts());
        keeps_less && !keeps_more
    }

    /// Builds a configuration from pairs of Kafka's form; what is not named keeps its default, the last of two wins.
    ///
    /// # Errors
    /// The first pair that is unknown, illegal, or legal in Kafka but not built here.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for (key, value) in pairs {
            config.set(key, value)?;
        }
        Ok(config)
    }

    /// Changes one setting; on an error nothing changed. One of Kafka's that changes nothing here is taken with Kafka's default, and leaves
    /// no trace.
    ///
    /// # Errors
    /// As [`TopicConfig::from_pairs`].
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        if let Some(param) = key.strip_prefix(PARTITIONER_PARAM).filter(|param| !param.is_empty()) {
            self.partitioner_params.insert(param.into(), value.into());
            return Ok(());
        }
        match without_effect(key, Some(value)) {
            Some(outcome) => outcome,
            None => self.give(find(key)?, value),
        }
    }

    fn give(&mut self, setting: &'static ConfigKey, value: &str) -> Result<(), ConfigError> {
        (setting.set)(self, setting.key, value)?;
        self.given.add(setting);
        Ok(())
    }

    /// Takes one setting back: it has Kafka's default then, and the cluster's once it [follows](Self::follow) that.
    ///
    /// # Errors
    /// There is no such setting. A parameter of the partitioner that was never given is none.
    pub fn reset(&mut self, key: &str) -> Result<(), ConfigError> {
        if let Some(param) = key.strip_prefix(PARTITIONER_PARAM).filter(|param| !param.is_empty()) {
            self.partitioner_params.remove(param);
            return Ok(());
        }
        if let Some(outcome) = without_effect(key, None) {
            return outcome;
        }
        let entry = find(key)?;
        (entry.set)(self, entry.key, &entry.usual().unwrap_or_default())?;
        self.given.remove(entry);
        Ok(())
    }

    /// Adds to one setting that is a list (`cleanup.policy`) what of `value` it does not have.
    ///
    /// # Errors
    /// As [`TopicConfig::set`]; or the setting is no list.
    pub fn add(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let (entry, current) = self.list(key)?;
        self.give(entry, &format!("{current},{value}"))
    }

    /// Takes from one setting that is a list (`cleanup.policy`) what of `value` it has.
    ///
    /// # Errors
    /// As [`TopicConfig::add`]; or too little is left, which shows as the value that it would be.
    pub fn subtract(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let (entry, current) = self.list(key)?;
        let gone = words(value);
        let left: Vec<_> = words(&current).into_iter().filter(|word| !gone.contains(word)).collect();
        self.give(entry, &left.join(","))
    }

    /// A setting that is a list, and its value.
    fn list(&self, key: &str) -> Result<(&'static ConfigKey, String), ConfigError> {
        if key.starts_with(PARTITIONER_PARAM) {
            return Err(ConfigError::NotAList { key: key.chars().take(KEY_CHARS_TOLD).collect() });
        }
        match find(key)? {
            entry if LISTS.contains(&entry.key) => Ok((entry, (entry.show)(self).unwrap_or_default())),
            entry => Err(ConfigError::NotAList { key: entry.key.into() }),
        }
    }

    /// Every setting with its value, in a fixed order, and whether that is the one that Kafka has by default.
    pub fn pairs(&self) -> impl Iterator<Item = (String, Option<String>, bool)> {
        let default = Self::default();
        TOPIC_SETTINGS
            .iter()
            .map(move |entry| {
                let value = (entry.show)(self);
                let is_default = value == (entry.show)(&default);
                (entry.key.to_owned(), value, is_default)
            })
            .chain(
                self.partitioner_params
                    .iter()
                    .map(|(name, value)| (format!("{PARTITIONER_PARAM}{name}"), Some(value.clone()), false)),
            )
    }
}
