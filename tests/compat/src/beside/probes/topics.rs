//! What is asked about the cluster and its topics: told, created, deleted.

use millstream_model::BrokerId;
use millstream_protocol::messages::{api_versions::*, cluster::*, groups::*, log_dirs::*, metadata::*, topics::*};

use super::{ABSENT, Probe, THERE, nobodys_id, of_version, partition, probe};

/// The first version of Metadata in which topics are named by id.
const METADATA_BY_ID: i16 = 12;
/// The first version of DeleteTopics in which topics are named by id.
const DELETE_BY_ID: i16 = 6;

pub(super) fn probes() -> Vec<Probe> {
    let mut probes = vec![probe("asked", |_| ApiVersionsRequest {
        client_software_name: "compat".to_owned(),
        client_software_version: "1".to_owned(),
    })];
    // Earlier versions do not name it.
    probes.push(of_version("nameless software", |_, version| (version >= 3).then(ApiVersionsRequest::default)));
    probes.extend(metadata());
    probes.extend(create());
    probes.extend(delete());
    probes.extend(others());
    probes
}

fn named(name: &str) -> MetadataRequest {
    let topic = MetadataRequestTopic { name: Some(name.to_owned()), ..Default::default() };
    MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: true, ..Default::default() }
}

fn metadata() -> Vec<Probe> {
    vec![
        probe("a topic", |_| named(THERE)),
        probe("an unknown topic", |_| named(ABSENT)),
        probe("a name that is not legal", |_| named("not legal!")),
        probe("an empty name", |_| named("")),
        probe("a name that is too long", |_| named(&"x".repeat(250))),
        // An empty list is all of them in version 0, and those are not the same.
        of_version("no topics", |_, version| {
            (version > 0).then(|| MetadataRequest { topics: Some(Vec::new()), ..Default::default() })
        }),
        probe("the same topic twice", |_| {
            let mut request = named(THERE);
            request.topics = request.topics.map(|topics| [topics.clone(), topics].concat());
            request
        }),
        probe("with what may be done", |_| MetadataRequest {
            include_cluster_authorized_operations: true,
            include_topic_authorized_operations: true,
            ..named(THERE)
        }),
        of_version("by id", |known, version| (version >= METADATA_BY_ID).then(|| by_id(known.there))),
        of_version("by an unknown id", |_, version| (version >= METADATA_BY_ID).then(|| by_id(nobodys_id()))),
    ]
}

fn by_id(id: millstream_model::TopicId) -> MetadataRequest {
    let topic = MetadataRequestTopic { topic_id: id, name: None };
    MetadataRequest { topics: Some(vec![topic]), ..Default::default() }
}

fn wanted(name: &str) -> CreatableTopic {
    CreatableTopic { name: name.to_owned(), num_partitions: 1, replication_factor: 1, ..Default::default() }
}

fn creating(topics: Vec<CreatableTopic>) -> CreateTopicsRequest {
    CreateTopicsRequest { topics, timeout_ms: 30_000, validate_only: false }
}

fn config(name: &str, value: Option<&str>) -> Vec<CreatableTopicConfig> {
    vec![CreatableTopicConfig { name: name.to_owned(), value: value.map(str::to_owned) }]
}

/// A request to create one topic, which is refused or only checked: nothing is made.
fn checking(name: &'static str, topic: impl Fn() -> CreatableTopic + 'static) -> Probe {
    probe(name, move |_| CreateTopicsRequest { validate_only: true, ..creating(vec![topic()]) })
}

fn assigned(brokers: &[&[i32]]) -> Vec<CreatableReplicaAssignment> {
    let assignment = |(number, brokers): (usize, &&[i32])| CreatableReplicaAssignment {
        partition_index: partition(number as i32),
        broker_ids: brokers.iter().map(|id| BrokerId(*id)).collect(),
    };
    brokers.iter().enumerate().map(assignment).collect()
}

fn create() -> Vec<Probe> {
    let unset = || CreatableTopic { num_partitions: -1, replication_factor: -1, ..wanted("x") };
    vec![
        of_version("a topic", |_, version| Some(creating(vec![wanted(&format!("new-{version}"))]))),
        of_version("with settings", |_, version| {
            let configs = config("retention.ms", Some("1000"));
            Some(creating(vec![CreatableTopic { configs, ..wanted(&format!("set-{version}")) }]))
        }),
        probe("no topics", |_| creating(Vec::new())),
        probe("one that is there", |_| creating(vec![wanted(THERE)])),
        probe("one name twice", |_| creating(vec![wanted("twice"), wanted("twice")])),
        checking("checked only", || wanted("checked")),
        checking("one that is there, checked only", || wanted(THERE)),
        checking("a name that is not legal", || wanted("not legal!")),
        checking("an empty name", || wanted("")),
        checking("a dot for a name", || wanted(".")),
        checking("a name that is too long", || wanted(&"x".repeat(250))),
        checking("no partitions", || CreatableTopic { num_partitions: 0, ..wanted("x") }),
        checking("minus two partitions", || CreatableTopic { num_partitions: -2, ..wanted("x") }),
        checking("no replicas", || CreatableTopic { replication_factor: 0, ..wanted("x") }),
        checking("three replicas", || CreatableTopic { replication_factor: 3, ..wanted("x") }),
        of_version("the broker's own numbers", move |_, version| {
            (version >= 4).then(|| CreateTopicsRequest { validate_only: true, ..creating(vec![unset()]) })
        }),
        checking("an unknown setting", || CreatableTopic { configs: config("no.such", Some("1")), ..wanted("x") }),
        checking("a value that is none", || CreatableTopic {
            configs: config("retention.ms", Some("soon")),
            ..wanted("x")
        }),
        checking("a value out of bounds", || CreatableTopic {
            configs: config("retention.ms", Some("-2")),
            ..wanted("x")
        }),
        checking("a null value", || CreatableTopic { configs: config("retention.ms", None), ..wanted("x") }),
        checking("one setting twice", || CreatableTopic {
            configs: [config("retention.ms", Some("1")), config("retention.ms", Some("2"))].concat(),
            ..wanted("x")
        }),
        checking("places", move || CreatableTopic { assignments: assigned(&[&[1], &[1]]), ..unset() }),
        checking("places and numbers", || CreatableTopic { assignments: assigned(&[&[1]]), ..wanted("x") }),
        checking("places on no broker", move || CreatableTopic { assignments: assigned(&[&[99]]), ..unset() }),
        checking("places twice on a broker", move || CreatableTopic { assignments: assigned(&[&[1, 1]]), ..unset() }),
        checking("places of no replica", move || CreatableTopic { assignments: assigned(&[&[]]), ..unset() }),
    ]
}

fn deleting(names: &[&str]) -> DeleteTopicsRequest {
    let state = |name: &&str| DeleteTopicState { name: Some((*name).to_owned()), ..Default::default() };
    DeleteTopicsRequest {
        topics: names.iter().map(state).collect(),
        topic_names: names.iter().map(|name| (*name).to_owned()).collect(),
        timeout_ms: 30_000,
    }
}

fn delete() -> Vec<Probe> {
    let states = |topics: Vec<DeleteTopicState>, version: i16| {
        (version >= DELETE_BY_ID).then(|| DeleteTopicsRequest { topics, timeout_ms: 30_000, ..Default::default() })
    };
    vec![
        // That of the first request to create.
        of_version("a topic", |_, version| (2..=6).contains(&version).then(|| deleting(&[&format!("new-{version}")]))),
        probe("an unknown topic", |_| deleting(&[ABSENT])),
        probe("an unknown topic twice", |_| deleting(&[ABSENT, ABSENT])),
        probe("no topics", |_| deleting(&[])),
        of_version("by an unknown id", move |_, version| {
            states(vec![DeleteTopicState { name: None, topic_id: nobodys_id() }], version)
        }),
        // Of an unknown topic: a broker that takes one of the two would delete what the other requests are about.
        of_version("by name and id", move |_, version| {
            states(vec![DeleteTopicState { name: Some(ABSENT.to_owned()), topic_id: nobodys_id() }], version)
        }),
        of_version("by neither", move |_, version| states(vec![DeleteTopicState::default()], version)),
    ]
}

fn others() -> Vec<Probe> {
    let described = |name: &str| DescribeTopicPartitionsRequest {
        topics: vec![TopicRequest { name: name.to_owned() }],
        response_partition_limit: 2000,
        cursor: None,
    };
    let dirs = |topic: &str, numbers: &[i32]| DescribeLogDirsRequest {
        topics: Some(vec![DescribableLogDirTopic {
            topic: topic.to_owned(),
            partitions: numbers.iter().map(|number| partition(*number)).collect(),
        }]),
    };
    let cursor =
        |topic: &str, number| Some(Cursor { topic_name: topic.to_owned(), partition_index: partition(number) });
    vec![
        probe("a topic", move |_| described(THERE)),
        probe("an unknown topic", move |_| described(ABSENT)),
        probe("a name that is not legal", move |_| described("not legal!")),
        probe("one partition a page", move |_| DescribeTopicPartitionsRequest {
            response_partition_limit: 1,
            ..described(THERE)
        }),
        probe("no partitions a page", move |_| DescribeTopicPartitionsRequest {
            response_partition_limit: 0,
            ..described(THERE)
        }),
        probe("the second page", move |_| DescribeTopicPartitionsRequest {
            cursor: cursor(THERE, 1),
            ..described(THERE)
        }),
        probe("a page before the first", move |_| DescribeTopicPartitionsRequest {
            cursor: cursor(THERE, -1),
            ..described(THERE)
        }),
        probe("a page after the last", move |_| DescribeTopicPartitionsRequest {
            cursor: cursor(THERE, 9),
            ..described(THERE)
        }),
        probe("asked", |_| DescribeClusterRequest { endpoint_type: 1, ..Default::default() }),
        probe("with what may be done", |_| DescribeClusterRequest {
            endpoint_type: 1,
            include_cluster_authorized_operations: true,
            ..Default::default()
        }),
        of_version("controllers", |_, version| {
            (version >= 1).then(|| DescribeClusterRequest { endpoint_type: 2, ..Default::default() })
        }),
        of_version("an unknown kind of endpoint", |_, version| {
            (version >= 1).then(|| DescribeClusterRequest { endpoint_type: 9, ..Default::default() })
        }),
        probe("a topic", move |_| dirs(THERE, &[0, 1])),
        probe("an unknown partition", move |_| dirs(THERE, &[7])),
        probe("an unknown topic", move |_| dirs(ABSENT, &[0])),
        probe("no topics", |_| DescribeLogDirsRequest { topics: Some(Vec::new()) }),
        of_version("an unknown kind of key", |_, version| {
            let keys = vec!["k".to_owned()];
            let key = "k".to_owned();
            (version >= 1).then_some(FindCoordinatorRequest { key, key_type: 9, coordinator_keys: keys })
        }),
    ]
}
