//! What is asked about settings: told and changed.

use millstream_protocol::messages::configs::*;

use super::{ABSENT, Probe, SMALL, THERE, probe};

/// A kind of thing that neither broker knows.
const RESOURCE_UNKNOWN: i8 = 99;

pub(super) fn probes() -> Vec<Probe> {
    let mut probes = describe();
    probes.extend(incremental());
    probes.extend(replacing());
    probes.extend(defaults());
    probes
}

fn described(kind: i8, name: &str, keys: Option<&[&str]>) -> DescribeConfigsRequest {
    let resource = DescribeConfigsResource {
        resource_type: kind,
        resource_name: name.to_owned(),
        configuration_keys: keys.map(|keys| keys.iter().map(|key| (*key).to_owned()).collect()),
    };
    DescribeConfigsRequest { resources: vec![resource], ..Default::default() }
}

fn describe() -> Vec<Probe> {
    // Each broker has settings of its own: only some are asked for.
    const KEYS: &[&str] = &[
        "cleanup.policy",
        "compression.type",
        "delete.retention.ms",
        "max.compaction.lag.ms",
        "max.message.bytes",
        "message.timestamp.type",
        "min.insync.replicas",
        "retention.bytes",
        "retention.ms",
        "segment.bytes",
        "segment.ms",
    ];
    let sorted = |keys: &'static [&'static str]| -> Vec<Probe> {
        // One at a time: the order is each broker's own.
        keys.iter().map(|key| probe(key, move |_| described(RESOURCE_TOPIC, THERE, Some(&[key])))).collect()
    };
    let mut probes = sorted(KEYS);
    probes.extend([
        probe("with synonyms and words", |_| DescribeConfigsRequest {
            include_synonyms: true,
            include_documentation: true,
            ..described(RESOURCE_TOPIC, SMALL, Some(&["max.message.bytes"]))
        }),
        probe("a default, with synonyms", |_| DescribeConfigsRequest {
            include_synonyms: true,
            ..described(RESOURCE_TOPIC, SMALL, Some(&["retention.ms"]))
        }),
        probe("an unknown setting", |_| described(RESOURCE_TOPIC, THERE, Some(&["no.such"]))),
        probe("no settings", |_| described(RESOURCE_TOPIC, THERE, Some(&[]))),
        probe("an unknown topic", |_| described(RESOURCE_TOPIC, ABSENT, Some(&["retention.ms"]))),
        probe("an empty name", |_| described(RESOURCE_TOPIC, "", Some(&["retention.ms"]))),
        probe("a name that is not legal", |_| described(RESOURCE_TOPIC, "not legal!", Some(&["retention.ms"]))),
        probe("the broker", |_| described(RESOURCE_BROKER, "1", Some(&["num.partitions"]))),
        probe("another broker", |_| described(RESOURCE_BROKER, "99", Some(&["num.partitions"]))),
        probe("a broker that is no number", |_| described(RESOURCE_BROKER, "one", Some(&["num.partitions"]))),
        probe("an unknown kind of thing", |_| described(RESOURCE_UNKNOWN, THERE, None)),
        probe("the same topic twice", |_| {
            let mut request = described(RESOURCE_TOPIC, THERE, Some(&["retention.ms"]));
            request.resources = [request.resources.clone(), request.resources].concat();
            request
        }),
    ]);
    probes
}

fn changing(kind: i8, name: &str, changes: &[(&str, i8, Option<&str>)]) -> IncrementalAlterConfigsRequest {
    let change = |(name, operation, value): &(&str, i8, Option<&str>)| AlterableConfig {
        name: (*name).to_owned(),
        config_operation: *operation,
        value: value.map(str::to_owned),
    };
    let resource = AlterConfigsResource {
        resource_type: kind,
        resource_name: name.to_owned(),
        configs: changes.iter().map(change).collect(),
    };
    IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false }
}

fn incremental() -> Vec<Probe> {
    let topic = |name: &'static str, changes: &'static [(&'static str, i8, Option<&'static str>)]| {
        probe(name, move |_| changing(RESOURCE_TOPIC, SMALL, changes))
    };
    vec![
        topic("a setting", &[("retention.ms", OPERATION_SET, Some("5000"))]),
        topic("back to its default", &[("retention.ms", OPERATION_DELETE, None)]),
        topic("one that is not set, back to its default", &[("retention.ms", OPERATION_DELETE, None)]),
        topic("add to a list", &[("cleanup.policy", OPERATION_APPEND, Some("compact"))]),
        topic("add what is in a list", &[("cleanup.policy", OPERATION_APPEND, Some("compact"))]),
        topic("take from a list", &[("cleanup.policy", OPERATION_SUBTRACT, Some("compact"))]),
        topic("take what is not in a list", &[("cleanup.policy", OPERATION_SUBTRACT, Some("compact"))]),
        topic("no changes", &[]),
        topic("an unknown setting", &[("no.such", OPERATION_SET, Some("1"))]),
        topic("back to no default", &[("no.such", OPERATION_DELETE, None)]),
        topic("a value that is none", &[("retention.ms", OPERATION_SET, Some("soon"))]),
        topic("a value out of bounds", &[("retention.ms", OPERATION_SET, Some("-2"))]),
        topic("an empty value", &[("retention.ms", OPERATION_SET, Some(""))]),
        topic("a null value", &[("retention.ms", OPERATION_SET, None)]),
        topic("add to what is no list", &[("retention.ms", OPERATION_APPEND, Some("1"))]),
        topic("an unknown operation", &[("retention.ms", 9, Some("1"))]),
        topic(
            "one setting twice",
            &[("retention.ms", OPERATION_SET, Some("1")), ("retention.ms", OPERATION_SET, Some("2"))],
        ),
        topic(
            "one good and one bad",
            &[("retention.ms", OPERATION_SET, Some("1")), ("segment.ms", OPERATION_SET, Some("soon"))],
        ),
        probe("checked only", |_| IncrementalAlterConfigsRequest {
            validate_only: true,
            ..changing(RESOURCE_TOPIC, SMALL, &[("retention.ms", OPERATION_SET, Some("7000"))])
        }),
        probe("an unknown topic", |_| {
            changing(RESOURCE_TOPIC, ABSENT, &[("retention.ms", OPERATION_SET, Some("5000"))])
        }),
        probe("an empty name", |_| changing(RESOURCE_TOPIC, "", &[("retention.ms", OPERATION_SET, Some("5000"))])),
        probe("an unknown kind of thing", |_| {
            changing(RESOURCE_UNKNOWN, SMALL, &[("retention.ms", OPERATION_SET, Some("5000"))])
        }),
        probe("the same topic twice", |_| {
            let mut request = changing(RESOURCE_TOPIC, SMALL, &[("retention.ms", OPERATION_SET, Some("5000"))]);
            request.resources = [request.resources.clone(), request.resources].concat();
            request
        }),
        probe("nothing", |_| IncrementalAlterConfigsRequest::default()),
    ]
}

fn replaced(name: &str, configs: &[(&str, Option<&str>)]) -> AlterConfigsRequest {
    let config = |(name, value): &(&str, Option<&str>)| ReplacedConfig {
        name: (*name).to_owned(),
        value: value.map(str::to_owned),
    };
    let resource = ReplacedConfigs {
        resource_type: RESOURCE_TOPIC,
        resource_name: name.to_owned(),
        configs: configs.iter().map(config).collect(),
    };
    AlterConfigsRequest { resources: vec![resource], validate_only: false }
}

fn replacing() -> Vec<Probe> {
    vec![
        probe("settings", |_| replaced(SMALL, &[("max.message.bytes", Some("2000"))])),
        probe("an unknown setting", |_| replaced(SMALL, &[("no.such", Some("1"))])),
        probe("a value that is none", |_| replaced(SMALL, &[("retention.ms", Some("soon"))])),
        probe("a null value", |_| replaced(SMALL, &[("retention.ms", None)])),
        probe("one setting twice", |_| replaced(SMALL, &[("retention.ms", Some("1")), ("retention.ms", Some("2"))])),
        probe("an unknown topic", |_| replaced(ABSENT, &[("retention.ms", Some("1"))])),
    ]
}

/// Defaults of topics' settings, changed and asked about, and taken back in the end.
fn defaults() -> Vec<Probe> {
    const ALL: &str = "";
    let change =
        |name: &'static str, of: &'static str, changes: &'static [(&'static str, i8, Option<&'static str>)]| {
            probe(name, move |_| changing(RESOURCE_BROKER, of, changes))
        };
    let told = |name: &'static str, kind: i8, of: &'static str, key: &'static str| {
        probe(name, move |_| DescribeConfigsRequest { include_synonyms: true, ..described(kind, of, Some(&[key])) })
    };
    vec![
        change("a topic's default", ALL, &[("log.retention.ms", OPERATION_SET, Some("5000"))]),
        told("of a topic with another default", RESOURCE_TOPIC, SMALL, "retention.ms"),
        told("of a topic with its own", RESOURCE_TOPIC, THERE, "retention.ms"),
        told("of all brokers, a changed default", RESOURCE_BROKER, ALL, "log.retention.ms"),
        told("of a broker, a changed default", RESOURCE_BROKER, "1", "log.retention.ms"),
        change("a topic's default, to no value", ALL, &[("log.retention.ms", OPERATION_SET, Some("soon"))]),
        change("a broker's setting that is fixed", ALL, &[("num.partitions", OPERATION_SET, Some("2"))]),
        change("add to a topic's default", ALL, &[("log.cleanup.policy", OPERATION_APPEND, Some("compact"))]),
        told("of a topic with another list", RESOURCE_TOPIC, SMALL, "cleanup.policy"),
        change(
            "topics' defaults, taken back",
            ALL,
            &[("log.cleanup.policy", OPERATION_DELETE, None), ("log.retention.ms", OPERATION_DELETE, None)],
        ),
        told("of a topic with its default again", RESOURCE_TOPIC, SMALL, "retention.ms"),
        told("of all brokers, with nothing changed", RESOURCE_BROKER, ALL, "log.retention.ms"),
    ]
}
