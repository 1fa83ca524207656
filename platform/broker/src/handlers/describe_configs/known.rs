//! What is known of settings beside their values: their types, what they do, and which of the broker's stands behind one of a topic.

use std::path::Path;

use millstream_model::{BrokerId, TopicConfig};
use millstream_protocol::messages::configs::{SOURCE_DEFAULT, SOURCE_STATIC_BROKER};

use crate::{BrokerOptions, shared::Shared};

/// A setting's type, as Kafka's clients know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConfigType {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// A setting of topics.
pub(super) struct OfTopic {
    pub(super) name: &'static str,
    pub(super) kind: ConfigType,
    /// What Kafka calls the broker's setting, whose value is in force where the topic has none; none: there is none.
    pub(super) broker: Option<&'static str>,
    pub(super) documentation: &'static str,
}

const fn of_topic(
    name: &'static str,
    kind: ConfigType,
    broker: Option<&'static str>,
    documentation: &'static str,
) -> OfTopic {
    OfTopic { name, kind, broker, documentation }
}

static OF_TOPICS: &[OfTopic] = &[
    of_topic(
        "cleanup.policy",
        ConfigType::List,
        Some("log.cleanup.policy"),
        "What becomes of old records: delete, compact (of each key the newest stays), or both.",
    ),
    of_topic(
        "compression.type",
        ConfigType::String,
        Some("compression.type"),
        "How batches are stored: producer is as they were sent.",
    ),
    of_topic(
        "delete.retention.ms",
        ConfigType::Long,
        Some("log.cleaner.delete.retention.ms"),
        "How long a record without a value stays in a compacted topic.",
    ),
    of_topic(
        "max.compaction.lag.ms",
        ConfigType::Long,
        Some("log.cleaner.max.compaction.lag.ms"),
        "A record waits no longer for compaction.",
    ),
    of_topic(
        "max.message.bytes",
        ConfigType::Int,
        Some("message.max.bytes"),
        "The largest batch that is taken, as sent.",
    ),
    of_topic(
        "message.timestamp.after.max.ms",
        ConfigType::Long,
        Some("log.message.timestamp.after.max.ms"),
        "How far ahead of the broker's clock a record's time may be.",
    ),
    of_topic(
        "message.timestamp.before.max.ms",
        ConfigType::Long,
        Some("log.message.timestamp.before.max.ms"),
        "How far behind the broker's clock a record's time may be.",
    ),
    of_topic(
        "message.timestamp.type",
        ConfigType::String,
        Some("log.message.timestamp.type"),
        "Whose time a record has: CreateTime, the producer's, or LogAppendTime, the broker's.",
    ),
    of_topic(
        "min.cleanable.dirty.ratio",
        ConfigType::Double,
        Some("log.cleaner.min.cleanable.ratio"),
        "A partition is compacted when this part of it was not yet.",
    ),
    of_topic(
        "min.compaction.lag.ms",
        ConfigType::Long,
        Some("log.cleaner.min.compaction.lag.ms"),
        "A younger record is not compacted away.",
    ),
    of_topic(
        "min.insync.replicas",
        ConfigType::Int,
        Some("min.insync.replicas"),
        "How many replicas must hold a record before acks=all is answered.",
    ),
    of_topic(
        "retention.bytes",
        ConfigType::Long,
        Some("log.retention.bytes"),
        "The oldest segments of a partition go while so many bytes are left; -1: however many there are.",
    ),
    of_topic(
        "retention.ms",
        ConfigType::Long,
        Some("log.retention.ms"),
        "A segment goes when all its records are older; -1: never.",
    ),
    of_topic(
        "segment.bytes",
        ConfigType::Int,
        Some("log.segment.bytes"),
        "A segment is closed before it would grow past this.",
    ),
    of_topic(
        "segment.jitter.ms",
        ConfigType::Long,
        Some("log.roll.jitter.ms"),
        "Always 0: segments are closed in time.",
    ),
    of_topic(
        "segment.ms",
        ConfigType::Long,
        Some("log.roll.ms"),
        "A segment is closed before it would hold batches further apart in time than this.",
    ),
    of_topic(
        "millstream.durability",
        ConfigType::String,
        None,
        "When an append counts as acknowledged: fsync, on disk, or replicated, in memory.",
    ),
    of_topic(
        "millstream.partitioner",
        ConfigType::String,
        None,
        "The module that places records whose producer leaves the partition open.",
    ),
    of_topic(
        "millstream.partitioner.enforce",
        ConfigType::String,
        None,
        "Whether partitions that clients choose themselves must be those that the partitioner chooses: off or verify.",
    ),
];

/// What a parameter of a topic's partitioner is.
static PARAM: OfTopic =
    of_topic("millstream.partitioner.param.", ConfigType::String, None, "A parameter of the partitioner.");

/// What is known of a topic's setting; of one that is not in the table, that it is text.
pub(super) fn topic_setting(name: &str) -> &'static OfTopic {
    OF_TOPICS.iter().find(|known| known.name == name).unwrap_or(&PARAM)
}

/// A setting of the broker, with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OfBroker {
    pub(super) name: &'static str,
    pub(super) value: String,
    /// What it is where nobody says; none: there is no such value.
    pub(super) default: Option<String>,
    pub(super) kind: ConfigType,
    pub(super) documentation: &'static str,
}

impl OfBroker {
    /// Where the value is from.
    pub(super) fn source(&self) -> i8 {
        if self.default.as_ref() == Some(&self.value) { SOURCE_DEFAULT } else { SOURCE_STATIC_BROKER }
    }
}

/// All settings of the broker, by name. Those of topics have the values that a topic has which is told nothing.
pub(super) fn broker_settings(shared: &Shared) -> Vec<OfBroker> {
    let options = &shared.options;
    let default = BrokerOptions::new(BrokerId(1), Path::new("").into());
    let (new_topics, usual) = (&options.new_topics, &default.new_topics);
    let id = options.id.to_string();
    let protocol = if options.tcp_in_tls { "SSL" } else { "PLAINTEXT" };
    let data_dir = options.data_dir.display().to_string();
    let setting = |name, value: String, default: Option<String>, kind, documentation| OfBroker {
        name,
        value,
        default,
        kind,
        documentation,
    };
    let mut settings = vec![
        setting(
            "advertised.listeners",
            format!("{protocol}://{}", shared.address),
            None,
            ConfigType::String,
            "Where clients are told to connect to.",
        ),
        setting(
            "auto.create.topics.enable",
            new_topics.made_when_asked_for.to_string(),
            Some(usual.made_when_asked_for.to_string()),
            ConfigType::Boolean,
            "Whether a topic is made when a Kafka client asks for one that is not there.",
        ),
        setting("broker.id", id.clone(), None, ConfigType::Int, "The broker's number in its cluster."),
        setting(
            "default.replication.factor",
            new_topics.replication_factor.to_string(),
            Some(usual.replication_factor.to_string()),
            ConfigType::Int,
            "Replicas of each partition of a topic whose creator leaves the number open.",
        ),
        setting(
            "listeners",
            format!("{protocol}://{}", shared.bound),
            None,
            ConfigType::String,
            "Where the broker listens: Kafka's protocol on TCP, and QUIC on UDP, on one port.",
        ),
        setting(
            "log.cleaner.backoff.ms",
            millis(options.compaction_check),
            Some(millis(default.compaction_check)),
            ConfigType::Long,
            "How often topics to be compacted are looked for.",
        ),
        setting("log.dir", data_dir.clone(), None, ConfigType::String, "Everything that the broker keeps is below it."),
        setting("log.dirs", data_dir, None, ConfigType::String, "As log.dir: there is one."),
        setting(
            "log.retention.check.interval.ms",
            millis(options.retention_check),
            Some(millis(default.retention_check)),
            ConfigType::Long,
            "How often records are looked for that topics need not keep.",
        ),
        setting(
            "millstream.catch-up-share",
            options.catch_up_share.to_string(),
            Some(default.catch_up_share.to_string()),
            ConfigType::Int,
            "The least part of their speed that readers of old records keep beside producers, percent.",
        ),
        setting(
            "millstream.frame-memory",
            options.frames.total_bytes().to_string(),
            None,
            ConfigType::Long,
            "Most memory that large requests and answers may take together, bytes.",
        ),
        setting("node.id", id, None, ConfigType::Int, "The broker's number in its cluster."),
        setting(
            "num.partitions",
            new_topics.partitions.to_string(),
            Some(usual.partitions.to_string()),
            ConfigType::Int,
            "Partitions of a topic whose creator leaves the number open.",
        ),
    ];
    // What a topic has that is told nothing: the same on every broker.
    for (name, value, _) in TopicConfig::default().pairs() {
        let OfTopic { broker: Some(broker), kind, documentation, .. } = topic_setting(&name) else { continue };
        let value = value.unwrap_or_default();
        settings.push(setting(broker, value.clone(), Some(value), *kind, documentation));
    }
    settings.sort_unstable_by_key(|setting| setting.name);
    settings
}

fn millis(duration: std::time::Duration) -> String {
    duration.as_millis().to_string()
}

#[cfg(test)]
mod tests {
    use millstream_model::TOPIC_SETTINGS;

    use super::*;

    #[test]
    fn each_setting_of_topics_is_known() {
        for setting in TOPIC_SETTINGS {
            assert_eq!(topic_setting(setting.key).name, setting.key);
        }
        assert_eq!(OF_TOPICS.len(), TOPIC_SETTINGS.len(), "one is known that there is not");
        assert_eq!(topic_setting("millstream.partitioner.param.field").kind, ConfigType::String);
    }
}
