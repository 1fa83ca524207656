//! The table of topic settings: their names, and how each shows and takes a value.

use std::fmt;

use super::{CleanupPolicy, Durability, PartitionerEnforce, Ratio, TimestampType, TopicConfig};
use crate::limits;

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
    /// A setting of Kafka's that changes nothing here, with another value than Kafka's default.
    #[error(
        "{key} = {value:?} would change nothing here: it takes {takes:?}, which is Kafka's default, and nothing else"
    )]
    NoEffect {
        /// The setting.
        key: &'static str,
        /// What was given.
        value: String,
        /// Kafka's default.
        takes: &'static str,
    },
    /// No default of topics' settings.
    #[error("{name:?} is no default of topics' settings; known are {known}")]
    NoDefault {
        /// What was given.
        name: String,
        /// What there is, comma-separated.
        known: String,
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
    /// What Kafka calls the broker's setting, whose value a topic follows that is not given one; none: there is none.
    pub broker: Option<&'static str>,
    pub(super) show: fn(&TopicConfig) -> Option<String>,
    pub(super) set: fn(&mut TopicConfig, &'static str, &str) -> Result<(), ConfigError>,
}

impl ConfigKey {
    /// The setting that topics have of this name; parameters of partitioners are in no table.
    #[must_use]
    pub fn named(key: &str) -> Option<&'static Self> {
        TOPIC_SETTINGS.iter().find(|entry| entry.key == key)
    }

    /// What a topic has of it that nobody says anything of.
    #[must_use]
    pub fn usual(&self) -> Option<String> {
        (self.show)(&TopicConfig::default())
    }
}

impl fmt::Debug for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key)
    }
}

/// Kafka's largest time, milliseconds, and size, bytes.
pub(super) const LIMIT_MAX: u64 = i64::MAX.cast_unsigned();
/// The setting that binds a partitioner.
pub const PARTITIONER: &str = "millstream.partitioner";
/// What the names of the partitioner's parameters begin with, as settings.
pub const PARTITIONER_PARAM: &str = "millstream.partitioner.param.";
/// The settings whose values are lists.
pub(super) const LISTS: &[&str] = &["cleanup.policy"];
/// Settings of Kafka's (4.3) that change nothing here, each with Kafka's default: tools that manage topics set them to that. It is taken and
/// forgotten; who means something else by them is to know that it does not come about.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("compression.gzip.level", "-1"),
    ("compression.lz4.level", "9"),
    ("compression.zstd.level", "3"),
    ("file.delete.delay.ms", "60000"),
    ("flush.messages", "9223372036854775807"),
    ("flush.ms", "9223372036854775807"),
    ("follower.replication.throttled.replicas", ""),
    ("index.interval.bytes", "4096"),
    ("leader.replication.throttled.replicas", ""),
    ("local.retention.bytes", "-2"),
    ("local.retention.ms", "-2"),
    ("preallocate", "false"),
    ("remote.log.copy.disable", "false"),
    ("remote.log.delete.on.disable", "false"),
    ("remote.storage.enable", "false"),
    ("segment.index.bytes", "10485760"),
    ("unclean.leader.election.enable", "false"),
];
/// How much of a name that is not known an error repeats.
pub(super) const KEY_CHARS_TOLD: usize = 80;

fn number(key: &'static str, text: &str, low: u64, high: u64, takes: &'static str) -> Result<u64, ConfigError> {
    match text.parse() {
        Ok(value) if (low..=high).contains(&value) => Ok(value),
        _ => Err(ConfigError::Value { key, value: text.into(), takes }),
    }
}

/// The words of a list, each once, in a fixed order.
pub(super) fn words(text: &str) -> Vec<&str> {
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
        broker: Some("log.cleanup.policy"),
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
        broker: Some("compression.type"),
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
        broker: Some("log.cleaner.delete.retention.ms"),
        show: |config| Some(config.delete_retention_ms.to_string()),
        set: |config, key, text| {
            config.delete_retention_ms = number(key, text, 0, LIMIT_MAX, "milliseconds, 0 or more")?;
            Ok(())
        },
    },
    ConfigKey {
        key: "max.compaction.lag.ms",
        broker: Some("log.cleaner.max.compaction.lag.ms"),
        show: |config| Some(config.compaction_lag_ms_max.to_string()),
        set: |config, key, text| {
            config.compaction_lag_ms_max = number(key, text, 1, LIMIT_MAX, "milliseconds, 1 or more")?;
            Ok(())
        },
    },
    ConfigKey {
        key: "max.message.bytes",
        broker: Some("message.max.bytes"),
        show: |config| Some(config.message_bytes_max.to_string()),
        set: |config, key, text| {
            let value = number(key, text, 1024, limits::BATCH_BYTES_MAX as u64, "bytes from 1024 to 67108864")?;
            config.message_bytes_max = value as usize;
            Ok(())
        },
    },
    ConfigKey {
        key: "message.timestamp.after.max.ms",
        broker: Some("log.message.timestamp.after.max.ms"),
        show: |config| Some(config.timestamp_after_ms_max.to_string()),
        set: |config, key, text| {
            config.timestamp_after_ms_max = number(key, text, 0, LIMIT_MAX, "milliseconds, 0 or more")?;
            Ok(())
        },
    },
    ConfigKey {
        key: "message.timestamp.before.max.ms",
        broker: Some("log.message.timestamp.before.max.ms"),
        show: |config| Some(config.timestamp_before_ms_max.to_string()),
        set: |config, key, text| {
            config.timestamp_before_ms_max = number(key, text, 0, LIMIT_MAX, "milliseconds, 0 or more")?;
            Ok(())
        },
    },
    ConfigKey {
        key: "message.timestamp.type",
        broker: Some("log.message.timestamp.type"),
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
        broker: Some("log.cleaner.min.cleanable.ratio"),
        show: |config| Some(config.cleanable_dirty_ratio_min.get().to_string()),
        set: |config, key, text| {
            let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
            let ratio =
                ratio.ok_or_else(|| ConfigError::Value { key, value: text.into(), takes: "a part from 0 to 1" });
            config.cleanable_dirty_ratio_min = Ratio::of(ratio?);
            Ok(())
        },
    },
    ConfigKey {
        key: "min.compaction.lag.ms",
        broker: Some("log.cleaner.min.compaction.lag.ms"),
        show: |config| Some(config.compaction_lag_ms_min.to_string()),
        set: |config, key, text| {
            config.compaction_lag_ms_min = number(key, text, 0, LIMIT_MAX, "milliseconds, 0 or more")?;
            Ok(())
        },
    },
    ConfigKey {
        key: "min.insync.replicas",
        broker: Some("min.insync.replicas"),
        show: |config| Some(config.insync_replicas_min.to_string()),
        set: |config, key, text| {
            config.insync_replicas_min = number(key, text, 1, 1000, "a count from 1 to 1000")? as u32;
            Ok(())
        },
    },
    ConfigKey {
        key: "retention.bytes",
        broker: Some("log.retention.bytes"),
        show: |config| Some(show_limit(config.retention_bytes)),
        set: |config, key, text| {
            config.retention_bytes = limit(key, text, "bytes of a partition, or -1 (no limit)")?;
            Ok(())
        },
    },
    ConfigKey {
        key: "retention.ms",
        broker: Some("log.retention.ms"),
        show: |config| Some(show_limit(config.retention_ms)),
        set: |config, key, text| {
            config.retention_ms = limit(key, text, "milliseconds, or -1 (for ever)")?;
            Ok(())
        },
    },
    ConfigKey {
        key: "segment.bytes",
        broker: Some("log.segment.bytes"),
        show: |config| Some(config.segment_bytes.to_string()),
        set: |config, key, text| {
            config.segment_bytes = number(key, text, 1 << 20, i32::MAX as u64, "bytes from 1048576 to 2147483647")?;
            Ok(())
        },
    },
    ConfigKey {
        key: "segment.jitter.ms",
        broker: Some("log.roll.jitter.ms"),
        show: |_| Some("0".into()),
        set: |_, key, text| match number(key, text, 0, LIMIT_MAX, "milliseconds, 0 or more")? {
            0 => Ok(()),
            _ => Err(ConfigError::NotBuilt { key, value: text.into(), takes: "0" }),
        },
    },
    ConfigKey {
        key: "segment.ms",
        broker: Some("log.roll.ms"),
        show: |config| Some(config.segment_ms.to_string()),
        set: |config, key, text| {
            config.segment_ms = number(key, text, 1, LIMIT_MAX, "milliseconds, 1 or more")?;
            Ok(())
        },
    },
    ConfigKey {
        key: "millstream.durability",
        broker: None,
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
        broker: None,
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
        broker: None,
        show: |config| {
            Some(match config.partitioner_enforce {
                PartitionerEnforce::Off => "off".into(),
                PartitionerEnforce::Verify => "verify".into(),
            })
        },
        set: |config, key, text| {
            config.partitioner_enforce = match text {
                "off" => PartitionerEnforce::Off,
                "verify" => PartitionerEnforce::Verify,
                _ => return Err(ConfigError::Value { key, value: text.into(), takes: "off or verify" }),
            };
            Ok(())
        },
    },
];

pub(super) fn find(key: &str) -> Result<&'static ConfigKey, ConfigError> {
    ConfigKey::named(key).ok_or_else(|| ConfigError::Unknown {
        key: key.chars().take(KEY_CHARS_TOLD).collect(),
        known: TOPIC_SETTINGS.iter().map(|entry| entry.key).collect::<Vec<_>>().join(", "),
    })
}

/// What becomes of a setting of Kafka's that changes nothing here, when it is given a value or (none) taken back; none: it is no such one.
pub(super) fn without_effect(key: &str, value: Option<&str>) -> Option<Result<(), ConfigError>> {
    let (key, takes) = *WITHOUT_EFFECT.iter().find(|(known, _)| *known == key)?;
    // As Kafka reads booleans and numbers.
    let is_default = value.is_none_or(|value| value.trim().eq_ignore_ascii_case(takes));
    let refused = || ConfigError::NoEffect { key, value: value.unwrap_or_default().into(), takes };
    Some(if is_default { Ok(()) } else { Err(refused()) })
}

/// The setting of topics behind a broker's.
pub(super) fn find_of_broker(name: &str) -> Result<&'static ConfigKey, ConfigError> {
    TOPIC_SETTINGS.iter().find(|entry| entry.broker == Some(name)).ok_or_else(|| ConfigError::NoDefault {
        name: name.chars().take(KEY_CHARS_TOLD).collect(),
        known: TOPIC_SETTINGS.iter().filter_map(|entry| entry.broker).collect::<Vec<_>>().join(", "),
    })
}
