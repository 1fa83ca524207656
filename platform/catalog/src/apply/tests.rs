//! Commands as scripts: what each does, what it refuses, and that a refusal changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millstream_model::{
    Address, BrokerId, DefaultKind, Digest, Given, LeaderEpoch, ModuleKind, ModuleRef, Needs, Offset, PartitionId,
    TimestampMs, TopicConfig, TopicDefaults, TopicId, TopicName, TopicPartition, TransformId, ViewId,
};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{
    command::{FAILURE_BYTES_MAX, Reporter},
    digest,
    state::{ClusterId, Declaration, DirectoryId, Incarnation, LastKnown, OnError, RecordAt, StartAt},
};

pub(crate) fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

pub(crate) fn cluster() -> Command {
    Command::CreateCluster { id: ClusterId(uuid(1)) }
}

pub(crate) fn register(broker: i32, incarnation: u128, directory: u128, clean: bool) -> Command {
    Command::RegisterBroker {
        id: BrokerId(broker),
        incarnation: Incarnation(uuid(incarnation)),
        directory: DirectoryId(uuid(directory)),
        addresses: vec![Address { host: "127.0.0.1".into(), port: 9092 }],
        clean,
        replicated: Vec::new(),
        holds_logs: false,
    }
}

pub(crate) fn topic_with(id: u128, name: &str, partitions: i32, factor: i32, config: &[(&str, &str)]) -> Command {
    Command::CreateTopic {
        id: TopicId(uuid(id)),
        name: name.parse().unwrap(),
        partitions,
        replication_factor: factor,
        config: TopicConfig::from_pairs(config.iter().copied()).unwrap(),
        at: TimestampMs(5),
    }
}

pub(crate) fn topic(id: u128, name: &str) -> Command {
    topic_with(id, name, 2, 1, &[])
}

pub(crate) fn module(name: &str, byte: u8, kinds: &[ModuleKind]) -> Command {
    Command::PushModule {
        module: name.parse().unwrap(),
        digest: Digest([byte; 32]),
        size_bytes: 100,
        kinds: kinds.iter().copied().collect(),
        needs: Needs { values: true, headers: false },
        declarations: vec![Declaration { kind: "param".into(), name: "field".into(), value: "required".into() }],
        at: TimestampMs(6),
    }
}

pub(crate) fn view(id: u128, name: &str, topic: &str, chain: &[&str]) -> Command {
    Command::CreateView {
        id: ViewId(uuid(id)),
        name: name.parse().unwrap(),
        topic: topic.parse().unwrap(),
        chain: chain.iter().map(|module| module.parse().unwrap()).collect(),
        params: BTreeMap::new(),
        at: TimestampMs(7),
    }
}

pub(crate) fn transform(id: u128, name: &str, module: &str, inputs: &[&str], outputs: &[&str]) -> Command {
    Command::DeployTransform {
        id: TransformId(uuid(id)),
        name: name.parse().unwrap(),
        module: module.parse().unwrap(),
        inputs: inputs.iter().map(|topic| topic.parse().unwrap()).collect(),
        outputs: outputs.iter().map(|topic| topic.parse().unwrap()).collect(),
        params: BTreeMap::new(),
        on_error: OnError::Fail,
        from: StartAt::Offset(Offset(3)),
        lanes: 1,
        at: TimestampMs(8),
    }
}

/// The state after commands that must all be taken, at indexes 1, 2, ...
pub(crate) fn built(commands: impl IntoIterator<Item = Command>) -> State {
    let mut state = State::default();
    for (index, command) in (1..).zip(commands) {
        apply(&mut state, index, command.clone()).unwrap_or_else(|refused| panic!("{command:?}: {refused}"));
    }
    state
}

/// One broker; topics a, b, c; a module of each kind.
fn small() -> State {
    built([
        cluster(),
        register(0, 10, 20, true),
        topic(101, "a"),
        topic(102, "b"),
        topic(103, "c"),
        module("p@1", 1, &[ModuleKind::Partitioner]),
        module("f@1", 2, &[ModuleKind::Filter]),
        module("m@1", 3, &[ModuleKind::Mapper]),
        module("t@1", 4, &[ModuleKind::Transform]),
    ])
}

#[track_caller]
fn refused(state: &State, command: Command) -> Refused {
    let mut after = state.clone();
    let refused = apply(&mut after, 1000, command).unwrap_err();
    assert_eq!(after, *state, "a refusal changes nothing");
    assert!(!refused.to_string().is_empty());
    refused
}

#[track_caller]
fn taken(state: &State, command: Command) -> State {
    let mut after = state.clone();
    apply(&mut after, 1000, command).unwrap();
    after
}

fn name(text: &str) -> TopicName {
    text.parse().unwrap()
}

fn module_ref(text: &str) -> ModuleRef {
    text.parse().unwrap()
}

#[test]
fn a_cluster_has_one_identity() {
    let mut state = State::default();
    assert_eq!(apply(&mut state, 1, cluster()), Ok(Outcome::Done));
    assert_eq!(apply(&mut state, 2, cluster()), Ok(Outcome::Unchanged));
    let other = Command::CreateCluster { id: ClusterId(uuid(2)) };
    assert!(matches!(refused(&state, other), Refused::OtherCluster { .. }));
}

#[test]
fn a_topic_is_placed_on_the_brokers_and_led_in_epoch_0() {
    let state = built([register(0, 1, 1, true), register(1, 2, 2, true), register(2, 3, 3, true)]);
    let state = taken(&state, topic_with(100, "t", 4, 2, &[]));
    let topic = state.topic("t").unwrap();
    let leaders: BTreeSet<_> = topic.partitions.iter().map(|partition| partition.leader.unwrap()).collect();
    assert_eq!(leaders.len(), 3, "leaders go round the brokers");
    for partition in &topic.partitions {
        assert_eq!(partition.replicas.len(), 2);
        assert_eq!(partition.isr, partition.replicas);
        assert_eq!(partition.leader, partition.replicas.first().copied());
        assert_eq!((partition.leader_epoch, partition.partition_epoch), (LeaderEpoch(0), 0));
    }
    assert_eq!(state.topic_by_id(TopicId(uuid(100))).unwrap().name, name("t"));
}

#[test]
fn topics_that_cannot_be_are_refused() {
    let state = small();
    assert_eq!(refused(&state, topic(1, "a")), Refused::TopicExists(name("a")));
    assert!(matches!(refused(&state, topic(101, "z")), Refused::IdTaken(_)));
    assert!(matches!(refused(&state, topic(0, "z")), Refused::IdTaken(_)));
    for partitions in [0, -1, 10_001] {
        let refusal = refused(&state, topic_with(1, "z", partitions, 1, &[]));
        assert_eq!(refusal, Refused::Partitions { asked: partitions, max: 10_000 });
    }
    for asked in [0, -1, 2] {
        let refusal = refused(&state, topic_with(1, "z", 1, asked, &[]));
        assert_eq!(refusal, Refused::ReplicationFactor { asked, brokers: 1 });
    }
    let nowhere = refused(&State::default(), topic(1, "z"));
    assert_eq!(nowhere, Refused::ReplicationFactor { asked: 1, brokers: 0 });
    let with = |partitioner| topic_with(1, "z", 1, 1, &[("millstream.partitioner", partitioner)]);
    assert_eq!(refused(&state, with("q@1")), Refused::UnknownModule(module_ref("q@1")));
    assert!(matches!(refused(&state, with("f@1")), Refused::WrongKind { .. }));
    taken(&state, with("p@1"));
    let long = "x".repeat(70_000);
    let params = topic_with(1, "z", 1, 1, &[("millstream.partitioner.param.p", long.as_str())]);
    assert!(matches!(refused(&state, params), Refused::Params { .. }));
}

#[test]
fn a_cluster_holds_so_many_partitions_and_no_more() {
    let mut state = small();
    let there = state.partition_count();
    for n in 0..(CLUSTER_PARTITIONS_MAX / 10_000 - 1) {
        state = taken(&state, topic_with(1000 + n as u128, &format!("big{n}"), 10_000, 1, &[]));
    }
    let there = there + CLUSTER_PARTITIONS_MAX - 10_000;
    let refusal = refused(&state, topic_with(1, "more", 10_000, 1, &[]));
    assert_eq!(refusal, Refused::TooManyPartitions { asked: 10_000, there, max: CLUSTER_PARTITIONS_MAX });
    let refusal = refused(&state, partitions(101, 10_000, None));
    assert_eq!(refusal, Refused::TooManyPartitions { asked: 9_998, there, max: CLUSTER_PARTITIONS_MAX });
}

#[test]
fn topics_and_views_share_their_names() {
    let state = taken(&small(), view(201, "v", "a", &["f@1", "m@1"]));
    assert_eq!(refused(&state, topic(1, "v")), Refused::ViewExists(name("v")));
    assert_eq!(refused(&state, view(1, "a", "b", &["f@1"])), Refused::TopicExists(name("a")));
    assert_eq!(refused(&state, view(1, "v", "b", &["f@1"])), Refused::ViewExists(name("v")));
    assert!(state.topic("v").is_none() && state.view("a").is_none());
    assert_eq!(state.view("v").unwrap().topic, TopicId(uuid(101)));
    let state = taken(&state, Command::DeleteView { id: ViewId(uuid(201)) });
    taken(&state, topic(1, "v"));
}

#[test]
fn views_that_cannot_be_are_refused() {
    let state = taken(&small(), view(201, "v", "a", &["f@1"]));
    assert_eq!(refused(&state, view(1, "w", "none", &["f@1"])), Refused::UnknownTopic(name("none")));
    assert_eq!(refused(&state, view(1, "w", "v", &["f@1"])), Refused::NotATopic(name("v")));
    assert_eq!(refused(&state, view(1, "w", "a", &[])), Refused::Chain(0));
    assert_eq!(refused(&state, view(1, "w", "a", &["f@1"; 17])), Refused::Chain(17));
    assert_eq!(refused(&state, view(1, "w", "a", &["f@2"])), Refused::UnknownModule(module_ref("f@2")));
    for wrong in ["p@1", "t@1"] {
        assert!(matches!(refused(&state, view(1, "w", "a", &[wrong])), Refused::WrongKind { .. }), "{wrong}");
    }
    assert!(matches!(refused(&state, view(201, "w", "a", &["f@1"])), Refused::IdTaken(_)));
    let gone = Command::DeleteView { id: ViewId(uuid(9)) };
    assert_eq!(refused(&state, gone), Refused::UnknownViewId(ViewId(uuid(9))));
}

#[test]
fn a_version_of_a_module_never_changes() {
    let mut state = small();
    assert_eq!(apply(&mut state, 50, module("f@1", 2, &[ModuleKind::Filter])), Ok(Outcome::Unchanged));
    let other = module("f@1", 9, &[ModuleKind::Filter]);
    let there = Digest([2; 32]);
    assert_eq!(refused(&state, other), Refused::ModuleExists { module: module_ref("f@1"), there });
    assert_eq!(refused(&state, module("n@1", 9, &[])), Refused::NoKind(module_ref("n@1")));
}

#[test]
fn what_is_used_is_not_deleted() {
    let bound = topic_with(104, "bound", 1, 1, &[("millstream.partitioner", "p@1")]);
    let state = taken(&small(), bound);
    let state = taken(&state, view(201, "v", "a", &["f@1"]));
    let state = taken(&state, transform(301, "x", "t@1", &["b"], &["c"]));
    let delete = |text| Command::DeleteModule { module: module_ref(text) };
    for (used, user) in [("p@1", "topic bound"), ("f@1", "view v"), ("t@1", "transform x")] {
        let refusal = Refused::ModuleInUse { module: module_ref(used), user: user.into() };
        assert_eq!(refused(&state, delete(used)), refusal);
    }
    let state = taken(&state, delete("m@1"));
    assert_eq!(refused(&state, delete("m@1")), Refused::UnknownModule(module_ref("m@1")));
    for (id, topic, user) in [(101, "a", "view v"), (102, "b", "transform x"), (103, "c", "transform x")] {
        let refusal = Refused::TopicInUse { topic: name(topic), users: user.into() };
        assert_eq!(refused(&state, Command::DeleteTopic { id: TopicId(uuid(id)) }), refusal);
    }
    let state = taken(&state, Command::DeleteTransform { id: TransformId(uuid(301)) });
    let state = taken(&state, Command::DeleteTopic { id: TopicId(uuid(103)) });
    assert!(state.topic("c").is_none());
    assert!(matches!(refused(&state, Command::DeleteTopic { id: TopicId(uuid(103)) }), Refused::UnknownTopicId(_)));
    assert!(matches!(
        refused(&state, Command::DeleteTransform { id: TransformId(uuid(301)) }),
        Refused::UnknownTransformId(_)
    ));
}

#[test]
fn a_topic_made_again_is_another() {
    let state = taken(&small(), Command::DeleteTopic { id: TopicId(uuid(101)) });
    let state = taken(&state, topic(111, "a"));
    assert!(state.topic_by_id(TopicId(uuid(101))).is_none());
    assert_eq!(state.topic("a").unwrap().id, TopicId(uuid(111)));
    assert!(matches!(refused(&state, Command::DeleteTopic { id: TopicId(uuid(101)) }), Refused::UnknownTopicId(_)));
}

fn defaults(kind: DefaultKind, from: &[(&str, &str)], to: &[(&str, &str)]) -> Command {
    let part = |pairs: &[(&str, &str)]| TopicDefaults::part(pairs.iter().copied()).unwrap();
    Command::AlterTopicDefaults { kind, from: part(from), to: part(to) }
}

#[test]
fn topics_follow_the_defaults_in_what_they_are_not_given() {
    let hour = [("log.retention.ms", "3600000")];
    // Nothing about it changes: its retention is the default's, but given.
    let week = [("retention.ms", "604800000"), ("segment.bytes", "2097152")];
    let state = taken(&small(), topic_with(70, "given", 1, 1, &week));
    let before = state.topic("given").unwrap().clone();
    let state = taken(&state, defaults(DefaultKind::Dynamic, &[], &hour));
    let retention = |state: &State, topic: &str| state.topic(topic).unwrap().config.retention_ms;
    assert!(Arc::ptr_eq(state.topic("given").unwrap(), &before), "it is the same one");
    assert_eq!(retention(&state, "a"), Some(3_600_000));
    // Made since, and given back since.
    let state = taken(&state, topic(71, "later"));
    assert_eq!(retention(&state, "later"), Some(3_600_000));
    let mut open = before.config.clone();
    open.reset("retention.ms").unwrap();
    let (from, to) = (Box::new(before.config.clone()), Box::new(open));
    let state = taken(&state, Command::AlterTopic { id: TopicId(uuid(70)), from, to });
    assert_eq!(retention(&state, "given"), Some(3_600_000));
    // Who is started with others has a say where nobody has changed them since.
    let state = taken(&state, defaults(DefaultKind::Static, &[], &[("log.retention.ms", "5"), ("log.roll.ms", "7")]));
    let config = &state.topic("a").unwrap().config;
    assert_eq!((config.retention_ms, config.segment_ms), (Some(3_600_000), 7));
    assert_eq!(refused(&state, defaults(DefaultKind::Dynamic, &[], &hour)), Refused::StaleDefaults);
    let mut again = state.clone();
    assert_eq!(apply(&mut again, 3000, defaults(DefaultKind::Dynamic, &hour, &hour)), Ok(Outcome::Unchanged));
    let state = taken(&state, defaults(DefaultKind::Dynamic, &hour, &[]));
    assert_eq!((retention(&state, "a"), retention(&state, "given")), (Some(5), Some(5)));
    let read: State = serde_json::from_slice(&serde_json::to_vec(&state).unwrap()).unwrap();
    assert_eq!(read, state);
    // What this version has no such setting for, or value of, is passed over.
    let newer = [("no.such", "1"), ("segment.bytes", "many")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let newer = Command::AlterTopicDefaults { kind: DefaultKind::Dynamic, from: BTreeMap::new(), to: newer.into() };
    assert_eq!(taken(&state, newer).topic("a"), state.topic("a"));
}

fn opened(id: u128, epoch: i32, markers: &[i64]) -> Command {
    let markers = markers.iter().copied().map(Offset).collect();
    Command::RoutingOpened { id: TopicId(uuid(id)), epoch: RoutingEpoch(epoch), markers }
}

fn alter_routing(id: u128, from: &TopicConfig, changes: &[(&str, &str)]) -> Command {
    match alter(id, from, changes) {
        Command::AlterTopic { id, from, to } => Command::AlterRouting { id, from, to },
        other => other,
    }
}

/// Until it is in force, all is placed as before.
#[test]
fn more_partitions_open_a_routing_epoch() {
    let state = taken(&small(), topic_with(100, "t", 2, 1, &[("millstream.partitioner", "p@1")]));
    let opening = taken(&state, partitions(100, 3, None));
    let topic = opening.topic("t").unwrap();
    assert_eq!((topic.partition_count(), topic.routed_partitions(), topic.routing_epoch), (3, 2, RoutingEpoch(0)));
    assert_eq!(topic.latest_routing_epoch(), RoutingEpoch(1));
    let in_force = &topic.routings[0];
    assert_eq!((in_force.epoch, in_force.partitions, in_force.digest), (RoutingEpoch(0), 2, Some(Digest([1; 32]))));
    let under_way = Refused::RoutingUnderWay(name("t"));
    assert_eq!(refused(&opening, partitions(100, 4, None)), under_way);
    assert_eq!(refused(&opening, alter_routing(100, &topic.config, &[("millstream.partitioner", "")])), under_way);
    // Other settings are no matter.
    taken(&opening, alter(100, &topic.config, &[("retention.ms", "5")]));
    for (epoch, markers) in [(2, &[7, 9][..]), (1, &[7]), (1, &[7, 9, 0])] {
        assert!(matches!(refused(&opening, opened(100, epoch, markers)), Refused::NotOpening { .. }));
    }
    assert!(matches!(refused(&state, opened(100, 1, &[7, 9])), Refused::NotOpening { .. }));
    let after = taken(&opening, opened(100, 1, &[7, 9]));
    let topic = after.topic("t").unwrap();
    assert_eq!((topic.routed_partitions(), topic.routing_epoch, &topic.opening), (3, RoutingEpoch(1), &None));
    let in_force = topic.routings.last().unwrap();
    assert_eq!((in_force.partitions, &*in_force.markers), (3, &[Offset(7), Offset(9)][..]));
    assert_eq!(in_force.partitioner, Some(module_ref("p@1")));
    // Said again, by whoever was not told that it is done.
    let mut again = after.clone();
    assert_eq!(apply(&mut again, 3000, opened(100, 1, &[1, 2])), Ok(Outcome::Unchanged));
    assert_eq!(again, after);
    let command = opened(100, 1, &[7, -1]);
    assert_eq!(Command::decode(&command.encode().unwrap()).unwrap(), command);
}

#[test]
fn a_partitioner_is_the_topics_once_its_epoch_is_in_force() {
    let state = taken(&small(), module("q@1", 9, &[ModuleKind::Partitioner]));
    let first = state.topic("a").unwrap().config.clone();
    let with = [("millstream.partitioner", "q@1"), ("millstream.partitioner.param.field", "x"), ("retention.ms", "5")];
    let opening = taken(&state, alter_routing(101, &first, &with));
    let topic = opening.topic("a").unwrap();
    assert_eq!((&topic.config.partitioner, topic.config.retention_ms), (&None, Some(5)));
    assert!(topic.config.partitioner_params.is_empty());
    assert!(matches!(
        refused(&opening, Command::DeleteModule { module: module_ref("q@1") }),
        Refused::ModuleInUse { .. }
    ));
    let after = taken(&opening, opened(101, 1, &[0, 0]));
    let topic = after.topic("a").unwrap();
    assert_eq!(topic.config.partitioner, Some(module_ref("q@1")));
    assert_eq!(topic.config.partitioner_params["field"], "x");
    assert_eq!(topic.routings.last().unwrap().digest, Some(Digest([9; 32])));
    assert_eq!((topic.routed_partitions(), topic.partition_count()), (2, 2));
    // The same again is no change, and what cannot place is refused.
    let mut same = after.clone();
    assert_eq!(apply(&mut same, 3000, alter_routing(101, &topic.config, &[])), Ok(Outcome::Unchanged));
    assert!(matches!(
        refused(&after, alter_routing(101, &topic.config, &[("millstream.partitioner", "f@1")])),
        Refused::WrongKind { .. }
    ));
    let unknown = alter_routing(101, &topic.config, &[("millstream.partitioner", "none@1")]);
    assert_eq!(refused(&after, unknown), Refused::UnknownModule(module_ref("none@1")));
    let long = "x".repeat(70_000);
    let long = [("millstream.partitioner.param.field", long.as_str())];
    assert!(matches!(refused(&after, alter_routing(101, &topic.config, &long)), Refused::Params { .. }));
    // There and back, many times: the first ones are forgotten.
    let mut state = after;
    for epoch in 2..20 {
        let config = state.topic("a").unwrap().config.clone();
        let partitioner = if epoch % 2 == 0 { "" } else { "q@1" };
        state = taken(&state, alter_routing(101, &config, &[("millstream.partitioner", partitioner)]));
        state = taken(&state, opened(101, epoch, &[1, 1]));
    }
    let epochs: Vec<_> = state.topic("a").unwrap().routings.iter().map(|routing| routing.epoch.0).collect();
    assert_eq!(epochs, (20 - ROUTINGS_MAX as i32..20).collect::<Vec<_>>());
}

fn partitions(id: u128, partitions: i32, replicas: Option<&[&[i32]]>) -> Command {
    let brokers = |given: &&[i32]| given.iter().copied().map(BrokerId).collect();
    let replicas = replicas.map(|replicas| replicas.iter().map(brokers).collect());
    Command::CreatePartitions { id: TopicId(uuid(id)), partitions, replicas }
}

#[test]
fn a_topic_gets_more_partitions_and_keeps_those_that_it_has() {
    let brokers = [register(0, 1, 1, true), register(1, 2, 2, true), register(2, 3, 3, true)];
    let state = taken(&built(brokers), topic_with(100, "t", 2, 2, &[]));
    let before = state.topic("t").unwrap().clone();
    let mut after = state.clone();
    apply(&mut after, 2000, partitions(100, 5, None)).unwrap();
    let topic = after.topic("t").unwrap();
    assert_eq!(topic.partitions[..2], before.partitions[..]);
    let led: Vec<_> = topic.partitions.iter().map(|partition| partition.leader.unwrap().0).collect();
    let first = led[0];
    assert_eq!(led, (0..5).map(|at| (first + at) % 3).collect::<Vec<_>>(), "the brokers go on taking turns");
    for partition in &topic.partitions[2..] {
        assert_eq!((partition.replicas.len(), partition.made_by), (2, 2000));
        assert_eq!((&partition.isr, partition.leader_epoch), (&partition.replicas, LeaderEpoch(0)));
        assert!(topic.has_grown_since(partition, 1999) && !topic.has_grown_since(partition, 2000));
    }
    assert!(!topic.has_grown_since(&topic.partitions[1], 0), "it is as old as the topic");
    // As the client wants them.
    let chosen = taken(&state, partitions(100, 4, Some(&[&[2, 0], &[1, 2]])));
    let chosen: Vec<_> = chosen.topic("t").unwrap().partitions[2..].iter().map(|at| at.replicas.clone()).collect();
    assert_eq!(chosen, [[BrokerId(2), BrokerId(0)], [BrokerId(1), BrokerId(2)]]);
    let command = partitions(100, 4, Some(&[&[2, 0], &[1, 2]]));
    assert_eq!(Command::decode(&command.encode().unwrap()).unwrap(), command);
}

#[test]
fn partitions_that_cannot_be_are_refused_in_kafkas_words() {
    let state = taken(&small(), topic_with(100, "t", 3, 1, &[]));
    let check = |count, replicas: Option<&[&[i32]]>, expected: &str| {
        let told = refused(&state, partitions(100, count, replicas)).to_string();
        assert_eq!(told, expected);
    };
    check(3, None, "Topic already has 3 partition(s).");
    for fewer in [2, 0, -1, i32::MIN] {
        let told = format!("The topic t currently has 3 partition(s); {fewer} would not be an increase.");
        check(fewer, None, &told);
    }
    check(10_001, None, "10001 partitions: a topic has from 1 to 10000");
    let few = "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified.";
    check(5, Some(&[&[0]]), few);
    check(5, Some(&[]), &few.replace("only 1", "only 0"));
    check(4, Some(&[&[]]), "The manual partition assignment includes an empty replica list.");
    let unknown = "The manual partition assignment includes broker 7, but no such broker is registered.";
    check(4, Some(&[&[7]]), unknown);
    check(4, Some(&[&[0, 0]]), "The manual partition assignment includes the broker 0 more than once.");
    assert!(matches!(refused(&state, partitions(999, 4, None)), Refused::UnknownTopicId(_)));
    let two = taken(&state, register(1, 11, 21, true));
    let told = refused(&two, partitions(100, 4, Some(&[&[0, 1]]))).to_string();
    assert!(told.contains("with 2 replica(s)") && told.contains("which have 1 replica(s)"), "{told}");
}

fn alter(id: u128, from: &TopicConfig, changes: &[(&str, &str)]) -> Command {
    let mut to = from.clone();
    for (key, value) in changes {
        to.set(key, value).unwrap();
    }
    Command::AlterTopic { id: TopicId(uuid(id)), from: Box::new(from.clone()), to: Box::new(to) }
}

#[test]
fn a_topics_settings_are_changed_only_by_who_knows_them_and_its_routing_by_nobody() {
    let state = small();
    let first = TopicConfig::default();
    let changed = taken(&state, alter(101, &first, &[("retention.ms", "5")]));
    let topic = changed.topic("a").unwrap();
    assert_eq!(topic.config.retention_ms, Some(5));
    assert_eq!((&topic.partitions, topic.routing_epoch), (&state.topic("a").unwrap().partitions, RoutingEpoch(0)));
    assert_eq!(changed.topic("b"), state.topic("b"));
    // Somebody else's change came first.
    let stale = alter(101, &first, &[("retention.bytes", "6")]);
    assert_eq!(refused(&changed, stale), Refused::StaleTopic(name("a")));
    let mut same = changed.clone();
    assert_eq!(apply(&mut same, 1000, alter(101, &topic.config, &[])), Ok(Outcome::Unchanged));
    assert_eq!(same, changed);
    assert!(matches!(refused(&state, alter(999, &first, &[])), Refused::UnknownTopicId(_)));
    for changes in [("millstream.partitioner", "p@1"), ("millstream.partitioner.param.field", "x")] {
        assert_eq!(refused(&state, alter(101, &first, &[changes])), Refused::PartitionerChanged(name("a")));
    }
    let command = alter(101, &first, &[("retention.ms", "5")]);
    assert_eq!(Command::decode(&command.encode().unwrap()).unwrap(), command);
}

#[test]
fn transforms_that_cannot_be_are_refused() {
    let state = taken(&small(), view(201, "v", "a", &["f@1"]));
    let state = taken(&state, transform(301, "x", "m@1", &["a"], &["b"]));
    let deploy = |module: &str, inputs: &[&str], outputs: &[&str]| transform(302, "y", module, inputs, outputs);
    assert_eq!(refused(&state, deploy("t@1", &["no"], &["c"])), Refused::UnknownTopic(name("no")));
    assert_eq!(refused(&state, deploy("t@1", &["b"], &["no"])), Refused::UnknownTopic(name("no")));
    assert_eq!(refused(&state, deploy("t@1", &["v"], &["c"])), Refused::NotATopic(name("v")));
    assert_eq!(refused(&state, deploy("t@2", &["b"], &["c"])), Refused::UnknownModule(module_ref("t@2")));
    for wrong in ["p@1", "f@1"] {
        assert!(matches!(refused(&state, deploy(wrong, &["b"], &["c"])), Refused::WrongKind { .. }), "{wrong}");
    }
    assert!(matches!(refused(&state, deploy("t@1", &[], &["c"])), Refused::TransformTopics { count: 0, .. }));
    assert!(matches!(refused(&state, deploy("t@1", &["b"], &[])), Refused::TransformTopics { count: 0, .. }));
    assert!(matches!(refused(&state, deploy("t@1", &["b", "b"], &["c"])), Refused::Twice { .. }));
    assert!(matches!(refused(&state, transform(302, "x", "t@1", &["b"], &["c"])), Refused::TransformExists(_)));
    assert!(matches!(refused(&state, transform(301, "y", "t@1", &["b"], &["c"])), Refused::IdTaken(_)));
    let mut no_lanes = deploy("t@1", &["b"], &["c"]);
    if let Command::DeployTransform { lanes, .. } = &mut no_lanes {
        *lanes = 0;
    }
    assert_eq!(refused(&state, no_lanes), Refused::NoLanes);
}

#[test]
fn a_transform_that_would_feed_itself_is_refused_with_the_way_round() {
    let state = small();
    let looping = |state: &State, inputs: &[&str], outputs: &[&str]| match refused(
        state,
        transform(399, "new", "t@1", inputs, outputs),
    ) {
        Refused::Loop { path, .. } => path,
        other => panic!("{other}"),
    };
    assert_eq!(looping(&state, &["a"], &["a"]), "a -> a");
    assert_eq!(looping(&state, &["a", "b"], &["c", "b"]), "b -> b");
    let state = taken(&state, transform(301, "x", "t@1", &["a"], &["b"]));
    let state = taken(&state, transform(302, "y", "t@1", &["b"], &["c"]));
    assert_eq!(looping(&state, &["c"], &["a"]), "c -> a -> b -> c");
    // Two ways to one topic are no loop.
    taken(&state, transform(303, "z", "t@1", &["a"], &["c"]));
}

#[test]
fn a_transforms_state_is_set_only_by_who_knows_it() {
    let mut state = small();
    apply(&mut state, 40, transform(301, "x", "t@1", &["a"], &["b"])).unwrap();
    let set = |revision, reporter, state| Command::SetTransformState {
        id: TransformId(uuid(301)),
        revision,
        reporter,
        state,
    };
    let failed = || TransformState::Failed { message: "é".repeat(FAILURE_BYTES_MAX), record: None };
    let reporter = |broker, epoch| Some(Reporter { broker: BrokerId(broker), epoch: BrokerEpoch(epoch) });
    assert_eq!(refused(&state, set(40, reporter(7, 2), failed())), Refused::UnknownBroker(BrokerId(7)));
    assert!(matches!(refused(&state, set(40, reporter(0, 1), failed())), Refused::StaleBroker { .. }));
    assert!(matches!(
        refused(&state, set(39, None, failed())),
        Refused::StaleTransform { revision: 39, current: 40, .. }
    ));
    assert_eq!(apply(&mut state, 41, set(40, None, TransformState::Running)), Ok(Outcome::Unchanged));
    assert_eq!(apply(&mut state, 42, set(40, reporter(0, 2), failed())), Ok(Outcome::Done));
    let x = state.transform_by_id(TransformId(uuid(301))).unwrap();
    assert_eq!(x.revision, 42);
    let TransformState::Failed { message, .. } = &x.state else { panic!("{:?}", x.state) };
    assert_eq!(message.len(), FAILURE_BYTES_MAX, "cut, between characters");
}

#[test]
fn only_the_record_that_a_transform_stands_at_can_be_left_out() {
    let mut state = small();
    apply(&mut state, 40, transform(301, "x", "t@1", &["a"], &["b"])).unwrap();
    let id = TransformId(uuid(301));
    let at = |partition, offset| RecordAt {
        topic: TopicId(uuid(101)),
        partition: PartitionId(partition),
        offset: Offset(offset),
    };
    let fails = |state: &mut State, index, revision, record| {
        let failed = TransformState::Failed { message: "no".into(), record };
        let command = Command::SetTransformState { id, revision, reporter: None, state: failed };
        apply(state, index, command).unwrap();
    };
    let skip = |revision, record| Command::SkipRecord { id, revision, record };
    let not_there = || Refused::NotAtRecord("x".parse().unwrap());
    assert_eq!(refused(&state, skip(40, at(0, 7))), not_there(), "it runs");
    fails(&mut state, 41, 40, None);
    assert_eq!(refused(&state, skip(41, at(0, 7))), not_there(), "no record is to blame");
    fails(&mut state, 42, 41, Some(at(0, 7)));
    assert_eq!(refused(&state, skip(42, at(0, 8))), not_there());
    assert_eq!(refused(&state, skip(42, at(1, 7))), not_there());
    assert!(matches!(refused(&state, skip(41, at(0, 7))), Refused::StaleTransform { .. }));
    assert_eq!(apply(&mut state, 43, skip(42, at(0, 7))), Ok(Outcome::Done));
    let x = |state: &State| state.transform_by_id(id).unwrap().clone();
    assert_eq!((&x(&state).state, x(&state).revision), (&TransformState::Running, 43));
    assert_eq!(x(&state).skips, BTreeSet::from([at(0, 7)]));

    // The newest of each partition stay.
    let mut index = 43;
    for offset in 0..=SKIPS_MAX as i64 {
        fails(&mut state, index + 1, index, Some(at(1, offset)));
        apply(&mut state, index + 2, skip(index + 1, at(1, offset))).unwrap();
        index += 2;
    }
    let kept: Vec<_> = x(&state).skips.iter().map(|at| (at.partition.0, at.offset.0)).collect();
    let expected: Vec<_> = std::iter::once((0, 7)).chain((1..=SKIPS_MAX as i64).map(|offset| (1, offset))).collect();
    assert_eq!(kept, expected);
}

/// The directories of earlier versions have neither.
#[test]
fn a_failure_without_its_record_and_a_transform_without_skips_can_be_read() {
    let state: TransformState = serde_json::from_str(r#"{"failed":{"message":"no"}}"#).unwrap();
    assert_eq!(state, TransformState::Failed { message: "no".into(), record: None });
    assert_eq!(serde_json::to_string(&state).unwrap(), r#"{"failed":{"message":"no"}}"#);
    let state = taken(&small(), transform(301, "x", "t@1", &["a"], &["b"]));
    let x = state.transform_by_id(TransformId(uuid(301))).unwrap();
    let written = serde_json::to_string(x).unwrap();
    assert!(!written.contains("skips"), "{written}");
    assert_eq!(&serde_json::from_str::<Transform>(&written).unwrap(), &**x);
}

#[test]
fn a_new_incarnation_leads_on_only_under_a_new_epoch() {
    let mut state = small();
    let a = |state: &State| state.topic("a").unwrap().partitions[1].clone();
    assert_eq!((a(&state).leader_epoch, a(&state).leader), (LeaderEpoch(0), Some(BrokerId(0))));
    // The same run again, with the proposal retried: nothing moves.
    assert_eq!(apply(&mut state, 50, register(0, 10, 20, true)), Ok(Outcome::Registered(BrokerEpoch(2))));
    assert_eq!(a(&state).leader_epoch, LeaderEpoch(0));
    assert_eq!(apply(&mut state, 51, register(0, 11, 20, false)), Ok(Outcome::Registered(BrokerEpoch(51))));
    let partition = a(&state);
    assert_eq!((partition.leader_epoch, partition.leader), (LeaderEpoch(1), Some(BrokerId(0))));
    assert_eq!((partition.partition_epoch, partition.loss_possible), (1, false), "an fsync topic loses nothing");
}

#[test]
fn an_unclean_return_shows_possible_loss_where_the_page_cache_was_trusted() {
    let start = taken(&small(), topic_with(104, "r", 1, 1, &[("millstream.durability", "replicated")]));
    for (clean, loss) in [(true, false), (false, true)] {
        let state = taken(&start, register(0, 11, 20, clean));
        let partition = &state.topic("r").unwrap().partitions[0];
        assert_eq!(partition.leader, Some(BrokerId(0)), "the sole replica is back with its directory");
        assert_eq!((partition.loss_possible, partition.leader_epoch), (loss, LeaderEpoch(1)));
        assert_eq!(partition.isr, [BrokerId(0)]);
    }
}

/// The topic was altered, and the broker ended before it had altered all of its logs.
#[test]
fn so_does_one_of_logs_that_were_not_yet_what_their_topic_asks_for() {
    let start = taken(&small(), topic_with(104, "r", 2, 1, &[("millstream.durability", "fsync")]));
    for (clean, loss) in [(true, false), (false, true)] {
        let mut command = register(0, 11, 20, clean);
        if let Command::RegisterBroker { replicated, .. } = &mut command {
            replicated.push(TopicPartition { topic: TopicId(uuid(104)), partition: PartitionId(1) });
        }
        let state = taken(&start, command);
        let losses: Vec<_> =
            state.topic("r").unwrap().partitions.iter().map(|partition| partition.loss_possible).collect();
        assert_eq!(losses, [false, loss]);
    }
}

/// Its metadata was lost, or is another directory's: what the logs hold would be taken for deleted topics' records.
#[test]
fn a_directory_with_logs_that_the_cluster_does_not_know_is_refused() {
    let holding = |broker, directory| match register(broker, 11, directory, true) {
        Command::RegisterBroker { id, incarnation, directory, addresses, clean, replicated, .. } => {
            Command::RegisterBroker { id, incarnation, directory, addresses, clean, replicated, holds_logs: true }
        }
        other => other,
    };
    let state = small();
    taken(&state, holding(0, 20));
    for (broker, directory) in [(0, 99), (7, 99)] {
        let expected = Refused::UnknownDirectory { broker: BrokerId(broker), directory: DirectoryId(uuid(directory)) };
        assert_eq!(refused(&state, holding(broker, directory)), expected);
        taken(&state, register(broker, 11, directory, true));
    }
}

#[test]
fn what_an_earlier_version_registers_is_understood() {
    let bytes = register(0, 11, 20, false).encode().unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(!text.contains("replicated") && !text.contains("holds_logs"));
    assert_eq!(Command::decode(&bytes).unwrap(), register(0, 11, 20, false));
}

#[test]
fn another_directory_leaves_the_isr_and_the_first_one_may_come_back() {
    let state = taken(&small(), register(0, 11, 99, true));
    let partition = &state.topic("a").unwrap().partitions[0];
    assert_eq!((partition.leader, partition.isr.len(), partition.leader_epoch), (None, 0, LeaderEpoch(1)));
    let known = LastKnown { broker: BrokerId(0), directory: DirectoryId(uuid(20)) };
    assert_eq!(partition.last_known, [known]);
    // Another empty directory changes nothing more.
    let state = taken(&state, register(0, 12, 98, true));
    assert_eq!(state.topic("a").unwrap().partitions[0].leader, None);
    let state = taken(&state, register(0, 13, 20, true));
    let partition = &state.topic("a").unwrap().partitions[0];
    assert_eq!((partition.leader, partition.leader_epoch), (Some(BrokerId(0)), LeaderEpoch(2)));
    assert!(partition.loss_possible);
}

#[test]
fn with_several_replicas_a_return_hands_leadership_on_only_where_it_must() {
    let state = built([
        register(0, 10, 20, true),
        register(1, 11, 21, true),
        register(2, 12, 22, true),
        topic_with(100, "t", 3, 3, &[]),
    ]);
    let led_by = |state: &State, broker| {
        let partitions = &state.topic("t").unwrap().partitions;
        partitions.iter().filter(|partition| partition.leader == Some(BrokerId(broker))).count()
    };
    let epochs = |state: &State| -> Vec<i32> {
        state.topic("t").unwrap().partitions.iter().map(|partition| partition.leader_epoch.0).collect()
    };
    let back = taken(&state, register(1, 13, 21, true));
    assert_eq!((led_by(&back, 1), epochs(&back).iter().sum::<i32>()), (1, 1), "its own partition, re-elected");
    let replaced = taken(&state, register(1, 13, 77, true));
    assert_eq!(led_by(&replaced, 1), 0);
    for partition in &replaced.topic("t").unwrap().partitions {
        assert_eq!(partition.isr.len(), 2);
        assert!(partition.isr.contains(&partition.leader.unwrap()) && !partition.loss_possible);
    }
}

#[test]
fn brokers_that_cannot_be_are_refused() {
    let state = small();
    assert!(matches!(refused(&state, register(5, 10, 20, true)), Refused::DirectoryTaken { .. }));
    assert_eq!(refused(&state, register(-1, 1, 2, true)), Refused::BrokerNumber(BrokerId(-1)));
    let mut mute = register(1, 2, 3, true);
    if let Command::RegisterBroker { addresses, .. } = &mut mute {
        addresses.clear();
    }
    assert_eq!(refused(&state, mute), Refused::NoAddress { broker: BrokerId(1) });
}

#[test]
fn a_command_survives_its_bytes_and_others_are_refused() {
    use crate::{COMMAND_BYTES_MAX, CommandError};
    for command in [cluster(), register(0, 1, 2, true), topic(1, "a"), transform(1, "x", "t@1", &["a"], &["b"])] {
        assert_eq!(Command::decode(&command.encode().unwrap()).unwrap(), command);
    }
    let check = |bytes: &[u8]| Command::decode(bytes).unwrap_err();
    assert!(matches!(check(b""), CommandError::Empty));
    assert!(matches!(check(b"\x02{}"), CommandError::Version { version: 2 }));
    assert!(matches!(check(b"\x01{}"), CommandError::Malformed(_)));
    assert!(matches!(check(&vec![1; COMMAND_BYTES_MAX + 1]), CommandError::TooLarge { .. }));
    let mut huge = module("f@9", 1, &[ModuleKind::Filter]);
    if let Command::PushModule { declarations, .. } = &mut huge {
        declarations[0].value = "x".repeat(COMMAND_BYTES_MAX);
    }
    assert!(matches!(huge.encode(), Err(CommandError::TooLarge { .. })));
}

fn allocate(broker: i32, epoch: u64) -> Command {
    Command::AllocateProducerIds { reporter: Reporter { broker: BrokerId(broker), epoch: BrokerEpoch(epoch) } }
}

#[test]
fn no_producer_id_is_given_out_twice_nor_a_reserved_one() {
    let mut state = small();
    let ids = |first| Ok(Outcome::ProducerIds(ProducerId(first)));
    assert_eq!(apply(&mut state, 50, allocate(0, 2)), ids(0));
    assert_eq!(apply(&mut state, 51, allocate(0, 2)), ids(PRODUCER_IDS_BLOCK));
    assert!(matches!(refused(&state, allocate(0, 1)), Refused::StaleBroker { .. }));
    assert_eq!(refused(&state, allocate(7, 2)), Refused::UnknownBroker(BrokerId(7)));
    // A broker that has lost its block takes the next one.
    let mut state = taken(&state, register(0, 11, 20, false));
    assert_eq!(apply(&mut state, 52, allocate(0, 1000)), ids(2 * PRODUCER_IDS_BLOCK));
    // The last whole block below what is reserved.
    state.next_producer_id = ProducerId(ProducerId::RESERVED.0 - PRODUCER_IDS_BLOCK);
    assert_eq!(apply(&mut state, 53, allocate(0, 1000)), ids(ProducerId::RESERVED.0 - PRODUCER_IDS_BLOCK));
    assert!(matches!(refused(&state, allocate(0, 1000)), Refused::ProducerIdsUsedUp(_)));
}

#[test]
fn metadata_from_before_there_were_producer_ids_is_read() {
    let mut json = serde_json::to_value(small()).unwrap();
    assert!(json.as_object_mut().unwrap().remove("next_producer_id").is_some());
    assert_eq!(serde_json::from_value::<State>(json).unwrap(), small());
}

#[test]
fn topics_from_before_there_were_all_settings_are_read() {
    let state = taken(&small(), topic(70, "old"));
    let mut json = serde_json::to_value(&state).unwrap();
    let topics = json["topics"].as_object_mut().unwrap();
    let topic = topics.values_mut().find(|topic| topic["name"] == "old").unwrap();
    let config = topic["config"].as_object_mut().unwrap();
    for since in [
        "given",
        "retention_bytes",
        "retention_ms",
        "segment_ms",
        "delete_retention_ms",
        "compaction_lag_ms_max",
        "compaction_lag_ms_min",
        "cleanable_dirty_ratio_min",
    ] {
        assert!(config.remove(since).is_some(), "{since}");
    }
    let read: State = serde_json::from_value(json).unwrap();
    let old = &read.topics.values().find(|topic| topic.name.as_str() == "old").unwrap().config;
    // It was told that all is kept; and what it was given was not noted, so that nothing changes behind its owner's back.
    let given = Given::default();
    assert_eq!(*old, TopicConfig { given, retention_ms: None, retention_bytes: None, ..TopicConfig::default() });
    let day = defaults(DefaultKind::Dynamic, &[], &[("log.retention.ms", "86400000")]);
    assert_eq!(taken(&read, day).topic("old").unwrap().config, *old);
    assert_ne!(old.retention_ms, TopicConfig::default().retention_ms);
}

fn any_command() -> impl Strategy<Value = Command> {
    let id = 1..6u128;
    let topics = proptest::collection::vec(proptest::sample::select(vec!["a", "b", "c", "d"]), 1..3);
    let modules = proptest::sample::select(vec!["m@1", "m@2", "p@1"]);
    let kinds = proptest::collection::vec(
        proptest::sample::select(vec![ModuleKind::Partitioner, ModuleKind::Filter, ModuleKind::Mapper]),
        0..3,
    );
    prop_oneof![
        (0..3i32, 1..9u128, 1..5u128, any::<bool>()).prop_map(|(b, i, d, clean)| register(b, i, d, clean)),
        (0..3i32, 1..20u64).prop_map(|(broker, epoch)| allocate(broker, epoch)),
        (id.clone(), 0..4usize, 1..4i32, 1..3i32, any::<bool>()).prop_map(|(id, n, partitions, factor, fsync)| {
            let durability = if fsync { "fsync" } else { "replicated" };
            topic_with(id, ["a", "b", "c", "d"][n], partitions, factor, &[("millstream.durability", durability)])
        }),
        (id.clone(), any::<bool>(), any::<bool>()).prop_map(|(id, from, to)| {
            let config = |fsync| if fsync { "fsync" } else { "replicated" };
            let from = TopicConfig::from_pairs([("millstream.durability", config(from))]).unwrap();
            alter(id, &from, &[("millstream.durability", config(to))])
        }),
        id.clone().prop_map(|id| Command::DeleteTopic { id: TopicId(uuid(id)) }),
        (modules.clone(), 0..3u8, kinds).prop_map(|(name, byte, kinds)| module(name, byte, &kinds)),
        modules.clone().prop_map(|name| Command::DeleteModule { module: name.parse().unwrap() }),
        (id.clone(), 0..4usize, modules.clone()).prop_map(|(id, n, m)| view(
            id,
            ["a", "b", "v", "w"][n],
            ["a", "b", "c", "d"][n],
            &[m]
        )),
        id.clone().prop_map(|id| Command::DeleteView { id: ViewId(uuid(id)) }),
        (id.clone(), modules, topics.clone(), topics).prop_map(|(id, m, inputs, outputs)| transform(
            id,
            &format!("t{id}"),
            m,
            &inputs,
            &outputs
        )),
        id.prop_map(|id| Command::DeleteTransform { id: TransformId(uuid(id)) }),
        (any::<bool>(), any::<[Option<bool>; 2]>()).prop_map(|(dynamic, parts)| {
            let kind = if dynamic { DefaultKind::Dynamic } else { DefaultKind::Static };
            let part = |known: Option<bool>| match known {
                None => &[][..],
                Some(false) => &[("log.retention.ms", "1")],
                Some(true) => &[("log.retention.ms", "2"), ("log.roll.ms", "3")],
            };
            defaults(kind, part(parts[0]), part(parts[1]))
        }),
    ]
}

/// What holds of every state, however it came to be.
fn check_whole(state: &State) {
    let names = state.topics_by_name().count() + state.views_by_name().count();
    assert_eq!(names, state.names.len());
    assert_eq!(names, state.topics.len() + state.views.len());
    for topic in state.topics.values() {
        assert_eq!(state.topic(topic.name.as_str()).unwrap().id, topic.id);
        let mut config = topic.config.clone();
        config.turn(&TopicDefaults::default(), &state.topic_defaults);
        assert_eq!(config, topic.config, "it follows the defaults");
        for partition in &topic.partitions {
            assert!(partition.isr.iter().all(|broker| partition.replicas.contains(broker)));
            assert!(partition.leader.is_none_or(|leader| partition.isr.contains(&leader)), "{partition:?}");
            assert!(partition.leader.is_some() || partition.isr.is_empty(), "{partition:?}");
        }
    }
    for view in state.views.values() {
        assert!(state.topics.contains_key(&view.topic));
        assert!(view.chain.iter().all(|module| state.modules.contains_key(module)));
    }
    for transform in state.transforms.values() {
        assert!(transform.inputs.iter().chain(&transform.outputs).all(|topic| state.topics.contains_key(topic)));
        assert!(state.modules.contains_key(&transform.module));
    }
}

proptest! {
    /// The same commands give the same state and digest, through bytes too; references hold; refusals change nothing;
    /// leader epochs never go back.
    #[test]
    fn applying_is_deterministic_and_keeps_the_state_whole(commands in proptest::collection::vec(any_command(), 0..60)) {
        let (mut one, mut two) = (State::default(), State::default());
        for (index, command) in (1..).zip(commands) {
            let before = one.clone();
            let outcome = apply(&mut one, index, command.clone());
            let again = apply(&mut two, index, Command::decode(&command.encode().unwrap()).unwrap());
            prop_assert_eq!(&outcome, &again);
            if outcome.is_err() {
                prop_assert_eq!(&one, &before);
            }
            check_whole(&one);
            if let Ok(Outcome::ProducerIds(first)) = outcome {
                prop_assert!(first >= before.next_producer_id && first < one.next_producer_id);
            }
            prop_assert!(one.next_producer_id >= before.next_producer_id);
            for (id, topic) in &before.topics {
                for (old, new) in topic.partitions.iter().zip(one.topics.get(id).iter().flat_map(|topic| &topic.partitions)) {
                    prop_assert!(new.leader_epoch >= old.leader_epoch);
                    prop_assert!(new.leader == old.leader || new.leader_epoch > old.leader_epoch);
                }
            }
        }
        prop_assert_eq!(digest(&one), digest(&two));
        let read: State = serde_json::from_slice(&serde_json::to_vec(&one).unwrap()).unwrap();
        prop_assert_eq!(digest(&read), digest(&one));
        prop_assert_eq!(read, one);
    }
}
