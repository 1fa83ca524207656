//! What is known of settings beside their values: their types and what they do. And the broker's settings, with all that each could be.

use std::path::Path;

use millstream_model::{BrokerId, ConfigKey, ConfigSource, DefaultKind, TOPIC_SETTINGS, TopicDefaults};
use millstream_protocol::messages::configs::{
    SOURCE_DEFAULT, SOURCE_DYNAMIC_DEFAULT_BROKER, SOURCE_STATIC_BROKER, SOURCE_TOPIC,
};

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
    pub(super) documentation: &'static str,
}

const fn of_topic(name: &'static str, kind: ConfigType, documentation: &'static str) -> OfTopic {
    OfTopic { name, kind, documentation }
}

static OF_TOPICS: &[OfTopic] = &[
    of_topic(
        "cleanup.policy",
        ConfigType::List,
        "What becomes of old records: delete, compact (of each key the newest stays), or both.",
    ),
    of_topic("compression.type", ConfigType::String, "How batches are stored: producer is as they were sent."),
    of_topic("delete.retention.ms", ConfigType::Long, "How long a record without a value stays in a compacted topic."),
    of_topic("max.compaction.lag.ms", ConfigType::Long, "A record waits no longer for compaction."),
    of_topic("max.message.bytes", ConfigType::Int, "The largest batch that is taken, as sent."),
    of_topic(
        "message.timestamp.after.max.ms",
        ConfigType::Long,
        "How far ahead of the broker's clock a record's time may be.",
    ),
    of_topic(
        "message.timestamp.before.max.ms",
        ConfigType::Long,
        "How far behind the broker's clock a record's time may be.",
    ),
    of_topic(
        "message.timestamp.type",
        ConfigType::String,
        "Whose time a record has: CreateTime, the producer's, or LogAppendTime, the broker's.",
    ),
    of_topic(
        "min.cleanable.dirty.ratio",
        ConfigType::Double,
        "A partition is compacted when this part of it was not yet.",
    ),
    of_topic("min.compaction.lag.ms", ConfigType::Long, "A younger record is not compacted away."),
    of_topic(
        "min.insync.replicas",
        ConfigType::Int,
        "How many replicas must hold a record before acks=all is answered.",
    ),
    of_topic(
        "retention.bytes",
        ConfigType::Long,
        "The oldest segments of a partition go while so many bytes are left; -1: however many there are.",
    ),
    of_topic("retention.ms", ConfigType::Long, "A segment goes when all its records are older; -1: never."),
    of_topic("segment.bytes", ConfigType::Int, "A segment is closed before it would grow past this."),
    of_topic("segment.jitter.ms", ConfigType::Long, "Always 0: segments are closed in time."),
    of_topic(
        "segment.ms",
        ConfigType::Long,
        "A segment is closed before it would hold batches further apart in time than this.",
    ),
    of_topic(
        "millstream.durability",
        ConfigType::String,
        "When an append counts as acknowledged: fsync, on disk, or replicated, in memory.",
    ),
    of_topic(
        "millstream.partitioner",
        ConfigType::String,
        "The module that places records whose producer leaves the partition open.",
    ),
    of_topic(
        "millstream.partitioner.enforce",
        ConfigType::String,
        "Whether partitions that clients choose themselves must be those that the partitioner chooses: off or verify.",
    ),
];

/// What a parameter of a topic's partitioner is.
static PARAM: OfTopic =
    of_topic("millstream.partitioner.param.", ConfigType::String, "A parameter of the partitioner.");

/// What is known of a topic's setting; of one that is not in the table, that it is text.
pub(super) fn topic_setting(name: &str) -> &'static OfTopic {
    OF_TOPICS.iter().find(|known| known.name == name).unwrap_or(&PARAM)
}

/// A setting of the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OfBroker {
    pub(super) name: &'static str,
    /// Its value, and what it would be without that, and so on; each with its source. Never empty.
    pub(super) values: Vec<(String, i8)>,
    pub(super) kind: ConfigType,
    /// Whether it is given where the broker is started, and not changed by clients.
    pub(super) read_only: bool,
    pub(super) documentation: &'static str,
}

/// What a topic has that is not given a setting, and what it would have without that, and so on.
pub(super) fn default_values(defaults: &TopicDefaults, setting: &ConfigKey) -> Vec<(String, i8)> {
    let said = [DefaultKind::Dynamic, DefaultKind::Static].into_iter();
    let said = said
        .filter_map(|kind| Some((defaults.of(kind).get(setting.key)?.clone(), source(ConfigSource::Defaults(kind)))));
    said.chain([(setting.usual().unwrap_or_default(), SOURCE_DEFAULT)]).collect()
}

/// A source as Kafka's protocol has it.
pub(crate) fn source(source: ConfigSource) -> i8 {
    match source {
        ConfigSource::Topic => SOURCE_TOPIC,
        ConfigSource::Defaults(DefaultKind::Dynamic) => SOURCE_DYNAMIC_DEFAULT_BROKER,
        ConfigSource::Defaults(DefaultKind::Static) => SOURCE_STATIC_BROKER,
        ConfigSource::Nobody => SOURCE_DEFAULT,
    }
}

/// All settings of the broker, by name. Those of topics have the values that a topic has which is given nothing.
pub(super) fn broker_settings(shared: &Shared) -> Vec<OfBroker> {
    let options = &shared.options;
    let default = BrokerOptions::new(BrokerId(1), Path::new("").into());
    let (new_topics, usual) = (&options.new_topics, &default.new_topics);
    let id = options.id.to_string();
    let protocol = if options.tcp_in_tls { "SSL" } else { "PLAINTEXT" };
    let data_dir = options.data_dir.display().to_string();
    let setting = |name, value: String, default: Option<String>, kind, documentation| {
        let told = Some((value, SOURCE_STATIC_BROKER)).filter(|(value, _)| default.as_ref() != Some(value));
        let values = told.into_iter().chain(default.map(|default| (default, SOURCE_DEFAULT))).collect();
        OfBroker { name, values, kind, read_only: true, documentation }
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
    let state = shared.catalog.state();
    for of_topics in TOPIC_SETTINGS {
        let Some(name) = of_topics.broker else { continue };
        let values = default_values(&state.topic_defaults, of_topics);
        let OfTopic { kind, documentation, .. } = *topic_setting(of_topics.key);
        settings.push(OfBroker { name, values, kind, read_only: false, documentation });
    }
    settings.sort_unstable_by_key(|setting| setting.name);
    settings
}

fn millis(duration: std::time::Duration) -> String {
    duration.as_millis().to_string()
}

#[cfg(test)]
mod tests {
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
