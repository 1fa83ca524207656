//! Topic configuration: Kafka's names and our own, parsed and checked in one table.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{ModuleRef, limits};

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

/// What `millstream.partitioner.enforce` says. Only `off` is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartitionerEnforce {
    /// Clients that choose partitions themselves are believed.
    Off,
}

/// One topic's settings, each with a value: what was not given has its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicConfig {
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

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            cleanup_policy: CleanupPolicy::Delete,
            delete_retention_ms: delete_retention_ms_default(),
            compaction_lag_ms_max: compaction_lag_ms_max_default(),
            cleanable_dirty_ratio_min: Ratio::default(),
            compaction_lag_ms_min: 0,
            message_bytes_max: limits::BATCH_BYTES_DEFAULT,
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

/// A setting that was refused. The text says what the setting takes.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// No such setting.
    #[error("{key:?} is not a topic setting; known are {known}")]
    Unknown {
        /// What was given.
        key: String,
        /// What there is, comma-separated.
        known: String,
    },
    /// The value is not one that the setting takes.
    #[error("{key} = {value:?}: takes {takes}")]
    Value {
        /// The setting.
        key: &'static str,
        /// What was given.
        value: String,
        /// What is legal.
        takes: &'static str,
    },
    /// A legal value of Kafka's whose function this version does not have.
    #[error("{key} = {value:?} is not built yet; this version takes {takes}")]
    NotBuilt {
        /// The setting.
        key: &'static str,
        /// What was given.
        value: String,
        /// What this version takes.
        takes: &'static str,
    },
    /// Something was to be added to, or taken from, a setting that is no list.
    #[error("{key} is not a list: it is set as a whole")]
    NotAList {
        /// The setting.
        key: String,
    },
}

/// A setting's name, and how it shows and takes a value.
pub struct ConfigKey {
    /// The name, as in Kafka where Kafka has it.
    pub key: &'static str,
    show: fn(&TopicConfig) -> Option<String>,
    set: fn(&mut TopicConfig, &'static str, &str) -> Result<(), ConfigError>,
}

impl fmt::Debug for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key)
    }
}

/// Kafka's largest time, milliseconds, and size, bytes.
const LIMIT_MAX: u64 = i64::MAX.cast_unsigned();
/// The setting that binds a partitioner.
pub const PARTITIONER: &str = "millstream.partitioner";
/// What the names of the partitioner's parameters begin with, as settings.
pub const PARTITIONER_PARAM: &str = "millstream.partitioner.param.";
/// The settings whose values are lists.
const LISTS: &[&str] = &["cleanup.policy"];
/// How much of a name that is not known an error repeats.
const KEY_CHARS_TOLD: usize = 80;

fn number(key: &'static str, text: &str, low: u64, high: u64, takes: &'static str) -> Result<u64, ConfigError> {
    match text.parse() {
        Ok(value) if (low..=high).contains(&value) => Ok(value),
        _ => Err(ConfigError::Value { key, value: text.into(), takes }),
    }
}

/// The words of a list, each once, in a fixed order.
fn words(text: &str) -> Vec<&str> {
    let mut words: Vec<_> = text.split(',').map(str::trim).collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// Takes the one value that is built; names the others of Kafka's as not built.
fn only(
    key: &'static str,
    text: &str,
    built: &'static str,
    not_built: &[&str],
    takes: &'static str,
) -> Result<(), ConfigError> {
    let value = || text.to_owned();
    match text {
        text if text == built => Ok(()),
        text if not_built.iter().any(|known| text.split(',').any(|part| part == *known)) => {
            Err(ConfigError::NotBuilt { key, value: value(), takes: built })
        }
        _ => Err(ConfigError::Value { key, value: value(), takes }),
    }
}

/// A limit of Kafka's, where `-1` is none.
fn limit(key: &'static str, text: &str, takes: &'static str) -> Result<Option<u64>, ConfigError> {
    match text {
        "-1" => Ok(None),
        _ => number(key, text, 0, LIMIT_MAX, takes).map(Some),
    }
}

fn show_limit(limit: Option<u64>) -> String {
    limit.map_or_else(|| "-1".into(), |limit| limit.to_string())
}

/// Every setting, in the order in which it is shown.
pub const TOPIC_SETTINGS: &[ConfigKey] = &[
    ConfigKey {
        key: "cleanup.policy",
        show: |config| {
            Some(match config.cleanup_policy {
                CleanupPolicy::Delete => "delete".into(),
                CleanupPolicy::Compact => "compact".into(),
                CleanupPolicy::CompactDelete => "compact,delete".into(),
            })
        },
        set: |config, key, text| {
            config.cleanup_policy = match words(text)[..] {
                ["delete"] => CleanupPolicy::Delete,
                ["compact"] => CleanupPolicy::Compact,
                ["compact", "delete"] => CleanupPolicy::CompactDelete,
                _ => {
                    let takes = "delete, compact, or compact,delete";
                    return Err(ConfigError::Value { key, value: text.into(), takes });
                }
            };
            Ok(())
        },
    },
    ConfigKey {
        key: "compression.type",
        show: |_| Some("producer".into()),
        set: |_, key, text| {
            only(
                key,
                text,
                "producer",
                &["uncompressed", "gzip", "snappy", "lz4", "zstd"],
                "producer, uncompressed, gzip, snappy, lz4 or zstd",
            )
        },
    },
    ConfigKey {
        key: "delete.retention.ms",
        show: |config| Some(config.delete_retention_ms.to_string()),
        set: |config, key, text| {
            config.delete_retention_ms = number(key, text, 0, LIMIT_MAX, "milliseconds, 0 or more")?;
            Ok(())
        },
    },
    ConfigKey {
        key: "max.compaction.lag.ms",
        show: |config| Some(config.compaction_lag_ms_max.to_string()),
        set: |config, key, text| {
            config.compaction_lag_ms_max = number(key, text, 1, LIMIT_MAX, "milliseconds, 1 or more")?;
            Ok(())
        },
    },
    ConfigKey {
        key: "max.message.bytes",
        show: |config| Some(config.message_bytes_max.to_string()),
        set: |config, key, text| {
            let value = number(key, text, 1024, limits::BATCH_BYTES_MAX as u64, "bytes from 1024 to 67108864")?;
            config.message_bytes_max = value as usize;
            Ok(())
        },
    },
    ConfigKey {
        key: "message.timestamp.type",
        show: |config| {
            Some(match config.timestamp_type {
                TimestampType::CreateTime => "CreateTime".into(),
                TimestampType::LogAppendTime => "LogAppendTime".into(),
            })
        },
        set: |config, key, text| {
            config.timestamp_type = match text {
                "CreateTime" => TimestampType::CreateTime,
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => return Err(ConfigError::Value { key, value: text.into(), takes: "CreateTime or LogAppendTime" }),
            };
            Ok(())
        },
    },
    ConfigKey {
        key: "min.cleanable.dirty.ratio",
        show: |config| Some(config.cleanable_dirty_ratio_min.get().to_string()),
        set: |config, key, text| {
            let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
            let ratio =
                ratio.ok_or_else(|| ConfigError::Value { key, value: text.into(), takes: "a part from 0 to 1" });
            config.cleanable_dirty_ratio_min = Ratio((ratio? * f64::from(Ratio::WHOLE)).round() as u32);
            Ok(())
        },
    },
    ConfigKey {
        key: "min.compaction.lag.ms",
        show: |config| Some(config.compaction_lag_ms_min.to_string()),
        set: |config, key, text| {
            config.compaction_lag_ms_min = number(key, text, 0, LIMIT_MAX, "milliseconds, 0 or more")?;
            Ok(())
        },
    },
    ConfigKey {
        key: "min.insync.replicas",
        show: |config| Some(config.insync_replicas_min.to_string()),
        set: |config, key, text| {
            config.insync_replicas_min = number(key, text, 1, 1000, "a count from 1 to 1000")? as u32;
            Ok(())
        },
    },
    ConfigKey {
        key: "retention.bytes",
        show: |config| Some(show_limit(config.retention_bytes)),
        set: |config, key, text| {
            config.retention_bytes = limit(key, text, "bytes of a partition, or -1 (no limit)")?;
            Ok(())
        },
    },
    ConfigKey {
        key: "retention.ms",
        show: |config| Some(show_limit(config.retention_ms)),
        set: |config, key, text| {
            config.retention_ms = limit(key, text, "milliseconds, or -1 (for ever)")?;
            Ok(())
        },
    },
    ConfigKey {
        key: "segment.bytes",
        show: |config| Some(config.segment_bytes.to_string()),
        set: |config, key, text| {
            config.segment_bytes = number(key, text, 1 << 20, i32::MAX as u64, "bytes from 1048576 to 2147483647")?;
            Ok(())
        },
    },
    ConfigKey {
        key: "segment.jitter.ms",
        show: |_| Some("0".into()),
        set: |_, key, text| match number(key, text, 0, LIMIT_MAX, "milliseconds, 0 or more")? {
            0 => Ok(()),
            _ => Err(ConfigError::NotBuilt { key, value: text.into(), takes: "0" }),
        },
    },
    ConfigKey {
        key: "segment.ms",
        show: |config| Some(config.segment_ms.to_string()),
        set: |config, key, text| {
            config.segment_ms = number(key, text, 1, LIMIT_MAX, "milliseconds, 1 or more")?;
            Ok(())
        },
    },
    ConfigKey {
        key: "millstream.durability",
        show: |config| {
            Some(match config.durability {
                Durability::Fsync => "fsync".into(),
                Durability::Replicated => "replicated".into(),
            })
        },
        set: |config, key, text| {
            config.durability = match text {
                "fsync" => Durability::Fsync,
                "replicated" => Durability::Replicated,
                _ => return Err(ConfigError::Value { key, value: text.into(), takes: "fsync or replicated" }),
            };
            Ok(())
        },
    },
    ConfigKey {
        key: PARTITIONER,
        show: |config| config.partitioner.as_ref().map(ToString::to_string),
        set: |config, key, text| {
            config.partitioner = match text {
                "" => None,
                _ => Some(text.parse().map_err(|_| ConfigError::Value {
                    key,
                    value: text.into(),
                    takes: "NAME@VERSION of a partitioner module",
                })?),
            };
            Ok(())
        },
    },
    ConfigKey {
        key: "millstream.partitioner.enforce",
        show: |_| Some("off".into()),
        set: |_, key, text| only(key, text, "off", &["verify"], "off or verify"),
    },
];

/// Whether a setting is given when its topic is created, for good: the routing of a topic's records.
#[must_use]
pub fn is_fixed(key: &str) -> bool {
    key.starts_with(PARTITIONER)
}

fn find(key: &str) -> Result<&'static ConfigKey, ConfigError> {
    TOPIC_SETTINGS.iter().find(|entry| entry.key == key).ok_or_else(|| ConfigError::Unknown {
        key: key.chars().take(KEY_CHARS_TOLD).collect(),
        known: TOPIC_SETTINGS.iter().map(|entry| entry.key).collect::<Vec<_>>().join(", "),
    })
}

impl TopicConfig {
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

    /// Changes one setting; on an error nothing changed.
    ///
    /// # Errors
    /// As [`TopicConfig::from_pairs`].
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        if let Some(param) = key.strip_prefix(PARTITIONER_PARAM).filter(|param| !param.is_empty()) {
            self.partitioner_params.insert(param.into(), value.into());
            return Ok(());
        }
        let entry = find(key)?;
        (entry.set)(self, entry.key, value)
    }

    /// Gives one setting its default again.
    ///
    /// # Errors
    /// There is no such setting. A parameter of the partitioner that was never given is none.
    pub fn reset(&mut self, key: &str) -> Result<(), ConfigError> {
        if let Some(param) = key.strip_prefix(PARTITIONER_PARAM).filter(|param| !param.is_empty()) {
            self.partitioner_params.remove(param);
            return Ok(());
        }
        let entry = find(key)?;
        let default = (entry.show)(&Self::default()).unwrap_or_default();
        (entry.set)(self, entry.key, &default)
    }

    /// Adds to one setting that is a list (`cleanup.policy`) what of `value` it does not have.
    ///
    /// # Errors
    /// As [`TopicConfig::set`]; or the setting is no list.
    pub fn add(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let (entry, current) = self.list(key)?;
        (entry.set)(self, entry.key, &format!("{current},{value}"))
    }

    /// Takes from one setting that is a list (`cleanup.policy`) what of `value` it has.
    ///
    /// # Errors
    /// As [`TopicConfig::add`]; or too little is left, which shows as the value that it would be.
    pub fn subtract(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let (entry, current) = self.list(key)?;
        let gone = words(value);
        let left: Vec<_> = words(&current).into_iter().filter(|word| !gone.contains(word)).collect();
        (entry.set)(self, entry.key, &left.join(","))
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

    /// Every setting with its value, in a fixed order, and whether the value is the default.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_set_again() {
        let config = TopicConfig::from_pairs([
            ("cleanup.policy", "delete,compact"),
            ("delete.retention.ms", "1000"),
            ("max.compaction.lag.ms", "2000"),
            ("min.cleanable.dirty.ratio", "0.01"),
            ("min.compaction.lag.ms", "3000"),
            ("segment.bytes", "1048576"),
            ("segment.ms", "60000"),
            ("retention.ms", "-1"),
            ("retention.bytes", "5000000000"),
            ("message.timestamp.type", "LogAppendTime"),
            ("millstream.durability", "replicated"),
            ("millstream.partitioner", "by-field@1"),
            ("millstream.partitioner.param.field", "tailnum"),
        ])
        .unwrap();
        let pairs: Vec<_> = config.pairs().map(|(key, value, _)| (key, value.unwrap_or_default())).collect();
        let again = TopicConfig::from_pairs(pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()))).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn every_setting_can_be_given_its_default_again() {
        let set = [
            ("cleanup.policy", "compact"),
            ("delete.retention.ms", "1"),
            ("max.compaction.lag.ms", "1"),
            ("max.message.bytes", "2048"),
            ("message.timestamp.type", "LogAppendTime"),
            ("min.cleanable.dirty.ratio", "0.25"),
            ("min.compaction.lag.ms", "1"),
            ("min.insync.replicas", "2"),
            ("retention.bytes", "1"),
            ("retention.ms", "-1"),
            ("segment.bytes", "1048576"),
            ("segment.ms", "1"),
            ("millstream.durability", "replicated"),
            ("millstream.partitioner", "by-field@1"),
            ("millstream.partitioner.param.field", "tailnum"),
        ];
        let changed = TopicConfig::from_pairs(set).unwrap();
        // What takes one value only cannot be anything else.
        let one = ["compression.type", "segment.jitter.ms", "millstream.partitioner.enforce"];
        assert_eq!(set.len() - 1 + one.len(), TOPIC_SETTINGS.len());
        for (key, _) in set {
            let mut config = changed.clone();
            config.reset(key).unwrap();
            assert_ne!(config, changed, "{key}");
        }
        let mut config = changed;
        for key in set.map(|(key, _)| key).into_iter().chain(one) {
            config.reset(key).unwrap();
        }
        assert_eq!(config, TopicConfig::default());
        config.reset("millstream.partitioner.param.never-given").unwrap();
        for unknown in ["no.such", "millstream.partitioner.param."] {
            assert!(matches!(config.reset(unknown), Err(ConfigError::Unknown { .. })), "{unknown}");
        }
    }

    #[test]
    fn lists_are_added_to_and_taken_from_and_nothing_else_is() {
        let mut config = TopicConfig::default();
        config.add("cleanup.policy", "compact").unwrap();
        assert_eq!(config.cleanup_policy, CleanupPolicy::CompactDelete);
        config.add("cleanup.policy", "delete, compact").unwrap();
        assert_eq!(config.cleanup_policy, CleanupPolicy::CompactDelete);
        config.subtract("cleanup.policy", "delete,keep").unwrap();
        assert_eq!(config.cleanup_policy, CleanupPolicy::Compact);
        let before = config.clone();
        for outcome in
            [config.clone().subtract("cleanup.policy", "compact"), config.clone().add("cleanup.policy", "keep")]
        {
            assert!(matches!(outcome, Err(ConfigError::Value { .. })), "{outcome:?}");
        }
        for key in ["retention.ms", "compression.type", "millstream.partitioner.param.field"] {
            for outcome in [config.add(key, "1"), config.subtract(key, "1")] {
                assert!(matches!(outcome, Err(ConfigError::NotAList { .. })), "{key} {outcome:?}");
            }
        }
        assert!(matches!(config.add("no.such", "1"), Err(ConfigError::Unknown { .. })));
        assert_eq!(config, before);
    }

    #[test]
    fn what_is_not_built_is_refused_as_such_and_changes_nothing() {
        let mut config = TopicConfig::default();
        for (key, value) in
            [("compression.type", "zstd"), ("segment.jitter.ms", "1"), ("millstream.partitioner.enforce", "verify")]
        {
            assert!(matches!(config.set(key, value), Err(ConfigError::NotBuilt { .. })), "{key}={value}");
        }
        assert_eq!(config, TopicConfig::default());
    }

    #[test]
    fn bad_values_and_unknown_keys_are_refused() {
        let mut config = TopicConfig::default();
        for (key, value) in [
            ("cleanup.policy", ""),
            ("cleanup.policy", "compact,keep"),
            ("min.cleanable.dirty.ratio", "1.1"),
            ("min.cleanable.dirty.ratio", "NaN"),
            ("max.compaction.lag.ms", "0"),
            ("segment.bytes", "-1"),
            ("segment.bytes", "ten"),
            ("segment.ms", "0"),
            ("retention.ms", "-2"),
            ("retention.bytes", "1.5"),
            ("message.timestamp.type", "logappendtime"),
            ("segment.ms", "9223372036854775808"),
            ("min.insync.replicas", "0"),
        ] {
            assert!(matches!(config.set(key, value), Err(ConfigError::Value { .. })), "{key}={value}");
        }
        assert!(matches!(config.set("no.such", "1"), Err(ConfigError::Unknown { .. })));
    }
}
