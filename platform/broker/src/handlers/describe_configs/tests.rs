//! Are settings told as Kafka's brokers tell them: value, source, synonyms, type, and what may be changed?

use millstream_catalog::Command;
use millstream_env::sim::World;
use millstream_model::{TOPIC_SETTINGS, TopicConfig};
use millstream_protocol::messages::configs::SOURCE_STATIC_BROKER;

use super::*;
use crate::{
    Broker, NewTopics,
    testing::{TOPIC, create, start, try_start_with},
};

/// What is told of one resource, by setting.
fn told(
    broker: &Broker,
    (resource_type, name): (i8, &str),
    keys: Option<&[&str]>,
    (include_synonyms, include_documentation): (bool, bool),
) -> Result<Vec<DescribeConfigsEntry>, ErrorCode> {
    let resource = DescribeConfigsResource {
        resource_type,
        resource_name: name.into(),
        configuration_keys: keys.map(|keys| keys.iter().map(|key| (*key).to_owned()).collect()),
    };
    let request = DescribeConfigsRequest { resources: vec![resource], include_synonyms, include_documentation };
    let result = handle(broker.shared(), 4, request).results.remove(0);
    result.error_code.ok().map(|()| result.configs)
}

/// Synonyms and explanations too.
const ALL: (bool, bool) = (true, true);
const VALUES: (bool, bool) = (false, false);

fn synonyms(entry: &DescribeConfigsEntry) -> Vec<(&str, Option<&str>, i8)> {
    let each = entry.synonyms.iter();
    each.map(|synonym| (synonym.name.as_str(), synonym.value.as_deref(), synonym.source)).collect()
}

#[test]
fn a_name_that_no_topic_can_have_is_told_as_such() {
    let world = World::new(1);
    let broker = try_start_with(&world, NewTopics::default()).unwrap();
    for (name, expected) in
        [("", ErrorCode::InvalidTopic), ("a/b", ErrorCode::InvalidTopic), ("ab", ErrorCode::UnknownTopicOrPartition)]
    {
        assert_eq!(told(&broker, (RESOURCE_TOPIC, name), None, VALUES), Err(expected), "{name:?}");
    }
}

#[test]
fn a_brokers_settings_are_told_with_their_sources() {
    let world = World::new(1);
    let new_topics = NewTopics { partitions: 3, ..NewTopics::default() };
    let broker = try_start_with(&world, new_topics).unwrap();
    let entries = told(&broker, (RESOURCE_BROKER, "1"), None, ALL).unwrap();
    assert!(entries.is_sorted_by_key(|entry| &entry.name));
    assert!(entries.iter().all(|entry| entry.documentation.is_some() && entry.config_type > 0));
    // Of topics' settings they are defaults, and can be changed.
    let fixed: Vec<_> = entries.iter().filter(|entry| entry.read_only).map(|entry| entry.name.as_str()).collect();
    assert_eq!(fixed.len() + TOPIC_SETTINGS.iter().filter(|known| known.broker.is_some()).count(), entries.len());
    assert!(fixed.contains(&"num.partitions") && !fixed.contains(&"log.retention.ms"), "{fixed:?}");
    let of = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap();
    for (name, value, source, kind) in [
        ("num.partitions", "3", SOURCE_STATIC_BROKER, 3),
        ("default.replication.factor", "1", SOURCE_DEFAULT, 3),
        ("auto.create.topics.enable", "true", SOURCE_DEFAULT, 1),
        ("log.retention.check.interval.ms", "300000", SOURCE_DEFAULT, 5),
        ("log.retention.ms", "604800000", SOURCE_DEFAULT, 5),
        ("log.retention.bytes", "-1", SOURCE_DEFAULT, 5),
        ("log.segment.bytes", "1073741824", SOURCE_DEFAULT, 3),
        ("log.cleanup.policy", "delete", SOURCE_DEFAULT, 7),
        ("log.cleaner.min.cleanable.ratio", "0.5", SOURCE_DEFAULT, 6),
        ("message.max.bytes", "1048588", SOURCE_DEFAULT, 3),
        ("min.insync.replicas", "1", SOURCE_DEFAULT, 3),
        ("compression.type", "producer", SOURCE_DEFAULT, 2),
        ("broker.id", "1", SOURCE_STATIC_BROKER, 3),
        ("node.id", "1", SOURCE_STATIC_BROKER, 3),
        ("log.dirs", "/data", SOURCE_STATIC_BROKER, 2),
        ("listeners", "PLAINTEXT://127.0.0.1:0", SOURCE_STATIC_BROKER, 2),
    ] {
        let entry = of(name);
        let expected = (Some(value), source, kind);
        assert_eq!((entry.value.as_deref(), entry.config_source, entry.config_type), expected, "{name}");
    }
    let own = ("num.partitions", Some("3"), SOURCE_STATIC_BROKER);
    assert_eq!(synonyms(of("num.partitions")), [own, ("num.partitions", Some("1"), SOURCE_DEFAULT)]);
    assert_eq!(synonyms(of("log.segment.bytes")), [("log.segment.bytes", Some("1073741824"), SOURCE_DEFAULT)]);
    assert_eq!(synonyms(of("broker.id")), [("broker.id", Some("1"), SOURCE_STATIC_BROKER)]);

    // What was not asked for is not told.
    let some = told(&broker, (RESOURCE_BROKER, "1"), Some(&["num.partitions", "no.such"]), VALUES).unwrap();
    let [one] = some.as_slice() else { panic!("{some:?}") };
    assert!(one.name == "num.partitions" && one.synonyms.is_empty() && one.documentation.is_none());
    let none = told(&broker, (RESOURCE_BROKER, "1"), Some(&[]), ALL).unwrap();
    assert_eq!(none, entries, "who names none asks for all");
    // Nothing was changed while they ran.
    assert_eq!(told(&broker, (RESOURCE_BROKER, ""), None, ALL), Ok(Vec::new()));
    for other in ["2", "01", "one", " 1"] {
        assert_eq!(told(&broker, (RESOURCE_BROKER, other), None, ALL), Err(ErrorCode::InvalidRequest), "{other:?}");
    }
    assert_eq!(told(&broker, (8, "1"), None, ALL), Err(ErrorCode::InvalidRequest));
}

#[test]
fn a_topics_settings_are_told_with_what_stands_behind_them() {
    let world = World::new(1);
    let broker = start(&world);
    world.run_until(create(&broker, 1));
    let shared = broker.shared();
    let from = shared.catalog.state().topic_by_id(TOPIC).unwrap().config.clone();
    let to = TopicConfig::from_pairs([("segment.bytes", "2097152")]).unwrap();
    let alter = Command::AlterTopic { id: TOPIC, from: Box::new(from), to: Box::new(to) };
    world.run_until(shared.catalog.propose(alter)).unwrap();
    let entries = told(&broker, (RESOURCE_TOPIC, "t"), None, ALL).unwrap();
    assert!(entries.iter().all(|entry| entry.documentation.is_some() && entry.config_type > 0), "{entries:?}");
    let of = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap();
    let segment = of("segment.bytes");
    assert_eq!((segment.config_source, segment.config_type, segment.read_only), (SOURCE_TOPIC, 3, false));
    let own = ("segment.bytes", Some("2097152"), SOURCE_TOPIC);
    assert_eq!(synonyms(segment), [own, ("log.segment.bytes", Some("1073741824"), SOURCE_DEFAULT)]);
    let retention = of("retention.ms");
    assert_eq!(retention.config_source, SOURCE_DEFAULT);
    assert_eq!(synonyms(retention), [("log.retention.ms", Some("604800000"), SOURCE_DEFAULT)]);
    // One of ours has nothing behind it.
    assert_eq!(synonyms(of("millstream.durability")), []);
    assert!(
        told(&broker, (RESOURCE_TOPIC, "t"), None, VALUES)
            .unwrap()
            .iter()
            .all(|entry| { entry.synonyms.is_empty() && entry.documentation.is_none() })
    );
    assert_eq!(told(&broker, (RESOURCE_TOPIC, "t"), Some(&[]), ALL), Ok(entries), "who names none asks for all");
    let unknown = told(&broker, (RESOURCE_TOPIC, "unknown"), None, ALL);
    assert_eq!(unknown, Err(ErrorCode::UnknownTopicOrPartition));
}

/// However much is asked for: an explanation for each setting of each topic is more than the topics have to say.
#[test]
fn what_explains_counts_in_what_an_answer_may_hold() {
    let entry = DescribeConfigsEntry {
        name: "name".into(),
        value: Some("value".into()),
        documentation: Some("documentation".into()),
        synonyms: vec![DescribeConfigsSynonym { name: "other".into(), value: None, source: SOURCE_DEFAULT }],
        ..Default::default()
    };
    assert_eq!(bytes(&entry), 4 + 5 + 13 + 5);
}
