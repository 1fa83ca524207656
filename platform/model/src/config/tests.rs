//! Is what is set shown again, and what is illegal refused?

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
        ("message.timestamp.after.max.ms", "4000"),
        ("message.timestamp.before.max.ms", "5000"),
        ("message.timestamp.type", "LogAppendTime"),
        ("millstream.durability", "replicated"),
        ("millstream.partitioner", "by-field@1"),
        ("millstream.partitioner.param.field", "tailnum"),
    ])
    .unwrap();
    let pairs: Vec<_> = config.pairs().map(|(key, value, _)| (key, value.unwrap_or_default())).collect();
    let again = TopicConfig::from_pairs(pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()))).unwrap();
    // What is set is given.
    assert_eq!(TopicConfig { given: config.given.clone(), ..again }, config);
}

#[test]
fn every_setting_can_be_given_its_default_again() {
    let set = [
        ("cleanup.policy", "compact"),
        ("delete.retention.ms", "1"),
        ("max.compaction.lag.ms", "1"),
        ("max.message.bytes", "2048"),
        ("message.timestamp.after.max.ms", "1"),
        ("message.timestamp.before.max.ms", "1"),
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
        ("millstream.partitioner.enforce", "verify"),
        ("millstream.partitioner.param.field", "tailnum"),
    ];
    let changed = TopicConfig::from_pairs(set).unwrap();
    // What takes one value only cannot be anything else.
    let one = ["compression.type", "segment.jitter.ms"];
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
    for outcome in [config.clone().subtract("cleanup.policy", "compact"), config.clone().add("cleanup.policy", "keep")]
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
    for (key, value) in [("compression.type", "zstd"), ("segment.jitter.ms", "1")] {
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

#[test]
fn less_is_kept_by_half_and_nothing_else_is_changed_with_it() {
    let config = |pairs: &[(&str, &str)]| TopicConfig::from_pairs(pairs.iter().copied()).unwrap();
    let week = "604800000";
    for (to, from, expected) in [
        (&[("retention.ms", "302400000")][..], &[("retention.ms", week)][..], true),
        (&[("retention.ms", "302400001")], &[("retention.ms", week)], false),
        (&[("retention.ms", "-1")], &[("retention.ms", week)], false),
        (&[("retention.ms", week)], &[("retention.ms", "-1")], true),
        (&[("retention.bytes", "1000")], &[], true),
        (&[("retention.bytes", "999")], &[("retention.bytes", "1000")], false),
        (&[("cleanup.policy", "compact,delete")], &[], true),
        (&[("cleanup.policy", "compact")], &[], false),
        (&[], &[("cleanup.policy", "compact")], false),
        // One less and one more.
        (&[("retention.ms", "1"), ("retention.bytes", "-1")], &[("retention.bytes", "5")], false),
        // Nothing goes by its time there.
        (&[("cleanup.policy", "compact"), ("retention.ms", "1")], &[("cleanup.policy", "compact")], false),
        // Something else rides along.
        (&[("retention.ms", "1"), ("max.message.bytes", "2048")], &[], false),
        (&[], &[], false),
    ] {
        assert_eq!(config(to).keeps_less_than(&config(from)), expected, "{from:?} to {to:?}");
    }
}

/// Tools that manage topics set them so.
#[test]
fn settings_that_change_nothing_are_taken_with_kafkas_default_and_leave_no_trace() {
    let mut config = TopicConfig::default();
    for (key, value) in [
        ("unclean.leader.election.enable", "false"),
        ("preallocate", " False "),
        ("flush.messages", "9223372036854775807"),
        ("index.interval.bytes", "4096"),
        ("file.delete.delay.ms", "60000"),
        ("leader.replication.throttled.replicas", ""),
    ] {
        config.set(key, value).unwrap();
        config.reset(key).unwrap();
        assert!(ConfigKey::named(key).is_none(), "{key} is shown");
    }
    assert_eq!(config, TopicConfig::default());
    for (key, value) in [("unclean.leader.election.enable", "true"), ("flush.messages", "1"), ("preallocate", "")] {
        let refused = config.set(key, value).unwrap_err();
        assert!(matches!(refused, ConfigError::NoEffect { .. }) && refused.to_string().contains("nothing here"));
    }
}
