//! What topics have of settings that they are not given: the cluster's defaults, as Kafka's brokers have them (`log.retention.ms` is what
//! a topic has as `retention.ms` that is not given one).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{ConfigError, ConfigKey, TOPIC_SETTINGS, TopicConfig, settings::find_of_broker};

/// Which settings a topic was given itself. The others follow the [`TopicDefaults`].
///
/// A topic of a version that did not note it counts as given all: otherwise a retention that its owner has chosen, and that happened to be
/// the default, would change with that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Given(Option<BTreeSet<String>>);

impl Given {
    /// Nothing was.
    #[must_use]
    pub fn nothing() -> Self {
        Self(Some(BTreeSet::new()))
    }

    /// Whether all of them were.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the setting was. Of those that follow nothing this says nothing.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.0.as_ref().is_none_or(|given| given.contains(key))
    }

    pub(super) fn add(&mut self, setting: &ConfigKey) {
        if let Some(given) = &mut self.0
            && setting.broker.is_some()
        {
            given.insert(setting.key.to_owned());
        }
    }

    pub(super) fn remove(&mut self, setting: &ConfigKey) {
        if setting.broker.is_none() {
            return;
        }
        let all = || TOPIC_SETTINGS.iter().filter(|setting| setting.broker.is_some()).map(|it| it.key.to_owned());
        self.0.get_or_insert_with(|| all().collect()).remove(setting.key);
    }
}

/// Where a default is from. The later wins over the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DefaultKind {
    /// A broker was started with it.
    Static,
    /// It was changed while brokers ran.
    Dynamic,
}

/// Where the value of a topic's setting is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// The topic was given it.
    Topic,
    /// The cluster's defaults.
    Defaults(DefaultKind),
    /// Nobody has said anything.
    Nobody,
}

/// The cluster's defaults of topics' settings, by the topics' names for them. What is in neither of its parts is as in Kafka.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDefaults {
    /// Each with its value, as it is shown.
    #[serde(default, rename = "static", skip_serializing_if = "BTreeMap::is_empty")]
    fixed: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    dynamic: BTreeMap<String, String>,
}

impl TopicDefaults {
    /// Whether nobody has said anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fixed.is_empty() && self.dynamic.is_empty()
    }

    /// The part from there.
    #[must_use]
    pub fn of(&self, kind: DefaultKind) -> &BTreeMap<String, String> {
        match kind {
            DefaultKind::Static => &self.fixed,
            DefaultKind::Dynamic => &self.dynamic,
        }
    }

    /// The same with another part from there.
    #[must_use]
    pub fn with(&self, kind: DefaultKind, part: BTreeMap<String, String>) -> Self {
        match kind {
            DefaultKind::Static => Self { fixed: part, dynamic: self.dynamic.clone() },
            DefaultKind::Dynamic => Self { fixed: self.fixed.clone(), dynamic: part },
        }
    }

    /// The topics' name of a setting, from the broker's.
    ///
    /// # Errors
    /// Topics have none behind it.
    pub fn topics_name(broker: &str) -> Result<&'static str, ConfigError> {
        find_of_broker(broker).map(|setting| setting.key)
    }

    /// What a topic has that is given nothing.
    #[must_use]
    pub fn config(&self) -> TopicConfig {
        let mut config = TopicConfig::default();
        config.follow(self);
        config
    }

    /// Each default that somebody has said, as it is in force.
    fn in_force(&self) -> impl Iterator<Item = (&str, &str)> {
        let fixed = self.fixed.iter().filter(|(key, _)| !self.dynamic.contains_key(*key));
        fixed.chain(&self.dynamic).map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The part from one place, of pairs under the broker's names (`log.retention.ms`); the last of two wins.
    ///
    /// # Errors
    /// As [`TopicConfig::from_pairs`]; a name of a topic's is unknown here.
    pub fn part<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<BTreeMap<String, String>, ConfigError> {
        let of_pair = |(name, value)| -> Result<_, ConfigError> {
            let setting = find_of_broker(name)?;
            let mut config = TopicConfig::default();
            (setting.set)(&mut config, setting.broker.unwrap_or(setting.key), value)?;
            Ok((setting.key.to_owned(), (setting.show)(&config).unwrap_or_default()))
        };
        pairs.into_iter().map(of_pair).collect()
    }
}

impl TopicConfig {
    /// Takes the default of each setting that was not given.
    pub fn follow(&mut self, defaults: &TopicDefaults) {
        for (key, value) in defaults.in_force() {
            self.take_default(key, Some(value));
        }
    }

    /// The same, where it has followed others before.
    pub fn turn(&mut self, from: &TopicDefaults, to: &TopicDefaults) {
        for (key, _) in from.in_force() {
            self.take_default(key, None);
        }
        self.follow(to);
    }

    /// `value`: none is the one that Kafka has.
    fn take_default(&mut self, key: &str, value: Option<&str>) {
        // What a newer version has written is passed over.
        let Some(setting) = ConfigKey::named(key) else { return };
        if setting.broker.is_none() || self.given.has(key) {
            return;
        }
        let usual = setting.usual().unwrap_or_default();
        let _ = (setting.set)(self, setting.key, value.unwrap_or(&usual));
    }

    /// Where the value of one of its settings is from. `is_default`: whether that is the value of a topic that nobody says anything of.
    #[must_use]
    pub fn source(&self, key: &str, is_default: bool, defaults: &TopicDefaults) -> ConfigSource {
        let follows = ConfigKey::named(key).is_some_and(|setting| setting.broker.is_some());
        match (follows, self.given.is_all()) {
            // It was not noted.
            (false, _) | (true, true) if is_default => ConfigSource::Nobody,
            (false, _) | (true, true) => ConfigSource::Topic,
            (true, false) if self.given.has(key) => ConfigSource::Topic,
            (true, false) => {
                let mut kinds = [DefaultKind::Dynamic, DefaultKind::Static].into_iter();
                let kind = kinds.find(|kind| defaults.of(*kind).contains_key(key));
                kind.map_or(ConfigSource::Nobody, ConfigSource::Defaults)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CleanupPolicy;

    fn defaults(kind: DefaultKind, pairs: &[(&str, &str)]) -> TopicDefaults {
        TopicDefaults::default().with(kind, TopicDefaults::part(pairs.iter().copied()).unwrap())
    }

    #[test]
    fn what_is_not_given_follows_and_what_is_given_does_not_whatever_its_value() {
        let hour = defaults(DefaultKind::Static, &[("log.retention.ms", "3600000"), ("log.cleanup.policy", "compact")]);
        let week = "604800000";
        let mut config = TopicConfig::from_pairs([("retention.ms", week)]).unwrap();
        let mut open = TopicConfig::default();
        assert_eq!(config.retention_ms, open.retention_ms, "the value is the default's");
        config.follow(&hour);
        open.follow(&hour);
        assert_eq!((config.retention_ms, config.cleanup_policy), (Some(604_800_000), CleanupPolicy::Compact));
        assert_eq!((open.retention_ms, open.cleanup_policy), (Some(3_600_000), CleanupPolicy::Compact));
        assert_eq!(open, hour.config());

        // What was changed while brokers ran wins, and goes again.
        let day = hour.with(DefaultKind::Dynamic, TopicDefaults::part([("log.retention.ms", "86400000")]).unwrap());
        open.turn(&hour, &day);
        config.turn(&hour, &day);
        assert_eq!((open.retention_ms, open.cleanup_policy), (Some(86_400_000), CleanupPolicy::Compact));
        assert_eq!(config.retention_ms, Some(604_800_000));
        open.turn(&day, &TopicDefaults::default());
        assert_eq!(open, TopicConfig::default());

        // One that is no longer given follows; one that is given stays.
        config.reset("retention.ms").unwrap();
        config.follow(&day);
        assert_eq!(config.retention_ms, Some(86_400_000));
        config.add("cleanup.policy", "delete").unwrap();
        config.turn(&day, &TopicDefaults::default());
        assert_eq!(config.cleanup_policy, CleanupPolicy::CompactDelete);
    }

    #[test]
    fn a_topic_of_a_version_that_did_not_note_it_follows_only_what_is_taken_back_from_it() {
        let day = defaults(DefaultKind::Dynamic, &[("log.retention.ms", "86400000"), ("log.segment.bytes", "2097152")]);
        let old = TopicConfig { given: Given::default(), ..TopicConfig::default() };
        let mut config = old.clone();
        config.follow(&day);
        assert_eq!(config, old);
        config.reset("retention.ms").unwrap();
        config.follow(&day);
        assert_eq!((config.retention_ms, config.segment_bytes), (Some(86_400_000), old.segment_bytes));
    }

    #[test]
    fn where_a_value_is_from_is_told() {
        let both = defaults(DefaultKind::Static, &[("log.retention.ms", "1"), ("log.roll.ms", "1")])
            .with(DefaultKind::Dynamic, TopicDefaults::part([("log.retention.ms", "2")]).unwrap());
        let mut config = TopicConfig::from_pairs([("retention.bytes", "-1"), ("millstream.durability", "replicated")]);
        let config = config.as_mut().unwrap();
        config.follow(&both);
        let told = |key: &str| {
            let (_, _, is_default) = config.pairs().find(|(name, ..)| name == key).unwrap();
            config.source(key, is_default, &both)
        };
        assert_eq!(told("retention.bytes"), ConfigSource::Topic, "the default's value, but given");
        assert_eq!(told("retention.ms"), ConfigSource::Defaults(DefaultKind::Dynamic));
        assert_eq!(told("segment.ms"), ConfigSource::Defaults(DefaultKind::Static));
        assert_eq!(told("segment.bytes"), ConfigSource::Nobody);
        assert_eq!(told("millstream.durability"), ConfigSource::Topic);
        assert_eq!(told("millstream.partitioner"), ConfigSource::Nobody);
    }

    #[test]
    fn defaults_are_checked_as_topics_settings_are_and_kept_as_they_are_shown() {
        let part =
            TopicDefaults::part([("log.retention.ms", "+007"), ("log.cleanup.policy", "delete, compact")]).unwrap();
        let expected = [("cleanup.policy", "compact,delete"), ("retention.ms", "7")];
        assert_eq!(part, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        let refused = |name, value| TopicDefaults::part([(name, value)]).unwrap_err().to_string();
        assert!(refused("log.segment.bytes", "1").starts_with("log.segment.bytes = \"1\""));
        for unknown in ["retention.ms", "log.no.such", "millstream.durability"] {
            assert!(refused(unknown, "1").contains("no default"), "{}", refused(unknown, "1"));
        }
    }
}
