//! Metadata: brokers, topics and views, and who leads their partitions. Topics that are asked for and are not there are made.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use millstream_catalog::{State, Topic};
use millstream_model::{BrokerId, PartitionId, TopicId, TopicName};
use millstream_protocol::{
    ErrorCode,
    messages::{
        metadata::{
            CLUSTER_OPERATIONS, MetadataBroker, MetadataPartition, MetadataRequest, MetadataRequestTopic,
            MetadataResponse, MetadataTopic, TOPIC_OPERATIONS, operations_if,
        },
        topics::CreatableTopic,
    },
};
use tracing::{debug, info};

use super::create_topics::{self, LEFT_OPEN};
use crate::{partitions::Partitions, readable::Readable, shared::Shared};

/// Most partitions that one answer describes. A view has its topic's partitions, so that what exists has no bound of its own.
const PARTITIONS_MAX: usize = 200_000;

/// Most topics that one request makes. Clients name the few that they use, and ask again for those that are not there yet; who
/// names a hundred thousand is no such client, and each topic takes writes to the agreed log and files of its own.
const TOPICS_MADE_MAX: usize = 100;

pub(crate) async fn handle(shared: Arc<Shared>, request: MetadataRequest) -> MetadataResponse {
    let may_make = shared.options.new_topics.made_when_asked_for && request.allow_auto_topic_creation;
    let unmade = match &request.topics {
        Some(asked) if may_make => make_missing(&shared, asked).await,
        _ => HashMap::new(),
    };
    let state = shared.catalog.state();
    let operations = operations_if(request.include_topic_authorized_operations, TOPIC_OPERATIONS);
    let mut answer = Answer::of(&shared.partitions, unmade, operations);
    match request.topics {
        None => {
            state.topics_by_name().for_each(|topic| answer.describe(&Readable::Topic(topic.clone())));
            let views = state.views_by_name().filter_map(|view| Readable::by_name(&state, view.name.as_str()));
            views.for_each(|view| answer.describe(&view));
        }
        Some(asked) => asked.into_iter().for_each(|asked| answer.look_up(&state, asked)),
    }
    MetadataResponse {
        brokers: brokers(&state),
        cluster_id: Some(state.cluster_id.to_string()),
        controller_id: shared.options.id,
        topics: answer.topics,
        cluster_authorized_operations: operations_if(request.include_cluster_authorized_operations, CLUSTER_OPERATIONS),
        ..Default::default()
    }
}

/// Makes topics that are named and are not there, as CreateTopics does. Gives those that could not be made, and why.
async fn make_missing(shared: &Arc<Shared>, asked: &[MetadataRequestTopic]) -> HashMap<String, ErrorCode> {
    let state = shared.catalog.state();
    let mut seen = HashSet::new();
    let names = asked.iter().filter_map(|asked| asked.name.as_ref());
    let missing = names.filter(|name| TopicName::new(name).is_ok() && Readable::by_name(&state, name).is_none());
    let mut unmade = HashMap::new();
    for name in missing.filter(|name| seen.insert(name.as_str())).take(TOPICS_MADE_MAX) {
        let topic = CreatableTopic {
            name: name.clone(),
            num_partitions: LEFT_OPEN.into(),
            replication_factor: LEFT_OPEN,
            ..Default::default()
        };
        match create_topics::create(shared, topic, false).await {
            Ok(_) => info!("topic {name} is made: a client has asked for it"),
            // Somebody else has been faster.
            Err(error) if error.code == ErrorCode::TopicAlreadyExists => {}
            Err(error) => {
                // Clients ask again, many times a second: not for everybody's log.
                debug!("topic {name}, which a client has asked for, is not made: {}", error.message);
                unmade.insert(name.clone(), error.kafka_code());
            }
        }
    }
    unmade
}

/// What is answered: each topic and view once, however often it was asked for.
struct Answer<'a> {
    led: &'a Partitions,
    topics: Vec<MetadataTopic>,
    partitions: usize,
    described: HashSet<TopicId>,
    unknown: HashSet<(Option<String>, TopicId)>,
    /// Topics that could not be made, and why.
    unmade: HashMap<String, ErrorCode>,
    /// What is told of what the client may do to each topic that is there.
    operations: i32,
}

impl<'a> Answer<'a> {
    fn of(led: &'a Partitions, unmade: HashMap<String, ErrorCode>, operations: i32) -> Self {
        let (described, unknown) = (HashSet::new(), HashSet::new());
        Self { led, topics: Vec::new(), partitions: 0, described, unknown, unmade, operations }
    }

    /// Why there is nothing of this name.
    fn absence(&self, name: &str) -> ErrorCode {
        match self.unmade.get(name) {
            Some(code) => *code,
            None if TopicName::new(name).is_ok() => ErrorCode::UnknownTopicOrPartition,
            None => ErrorCode::InvalidTopic,
        }
    }

    fn look_up(&mut self, state: &State, asked: MetadataRequestTopic) {
        let found = match &asked.name {
            Some(name) => Readable::by_name(state, name),
            None => Readable::by_id(state, asked.topic_id),
        };
        if let Some(readable) = found {
            return self.describe(&readable);
        }
        let (topic_id, error_code) = match &asked.name {
            Some(name) => (TopicId::NIL, self.absence(name)),
            None => (asked.topic_id, ErrorCode::UnknownTopicId),
        };
        if self.unknown.insert((asked.name.clone(), topic_id)) {
            self.topics.push(MetadataTopic { error_code, name: asked.name, topic_id, ..Default::default() });
        }
    }

    fn describe(&mut self, readable: &Readable) {
        if !self.described.insert(readable.id()) {
            return;
        }
        let partitions = readable.topic().partitions.len();
        if self.partitions + partitions > PARTITIONS_MAX {
            let (name, topic_id) = (Some(readable.name().to_owned()), readable.id());
            // It exists, and can be asked for on its own.
            let error_code = ErrorCode::PolicyViolation;
            self.topics.push(MetadataTopic { error_code, name, topic_id, ..Default::default() });
            return;
        }
        self.partitions += partitions;
        let topic_authorized_operations = self.operations;
        self.topics.push(MetadataTopic { topic_authorized_operations, ..describe(self.led, readable) });
    }
}

fn brokers(state: &State) -> Vec<MetadataBroker> {
    let brokers = state.brokers.values().filter_map(|broker| {
        let address = broker.addresses.first()?;
        Some(MetadataBroker { node_id: broker.id, host: address.host.clone(), port: address.port.into(), rack: None })
    });
    brokers.collect()
}

fn describe(led: &Partitions, readable: &Readable) -> MetadataTopic {
    let topic = readable.topic();
    let partitions = (0..).zip(&topic.partitions).map(|(index, partition)| MetadataPartition {
        error_code: if partition.leader.is_some() { ErrorCode::None } else { ErrorCode::LeaderNotAvailable },
        partition_index: PartitionId(index),
        leader_id: partition.leader.unwrap_or(BrokerId(-1)),
        leader_epoch: partition.leader_epoch,
        replica_nodes: partition.replicas.clone(),
        isr_nodes: partition.isr.clone(),
        offline_replicas: offline_replicas(led, topic, PartitionId(index)),
    });
    MetadataTopic {
        name: Some(readable.name().to_owned()),
        topic_id: readable.id(),
        // Clients that look a name up among all topics (kafka-python does) must find a view; those that take whatever
        // there is (a pattern, a mirror) leave internal topics out, and should not read the same records twice.
        is_internal: matches!(readable, Readable::View { .. }),
        partitions: partitions.collect(),
        ..Default::default()
    }
}

/// Whose replica of a partition cannot be used.
pub(super) fn offline_replicas(led: &Partitions, topic: &Topic, partition: PartitionId) -> Vec<BrokerId> {
    match led.damage(topic.id, partition) {
        // It is led all the same: who asks the leader is told why.
        Some(_) => topic.partition(partition).and_then(|partition| partition.leader).into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use millstream_catalog::{Command, State};
    use millstream_env::sim::World;
    use millstream_model::{TimestampMs, ViewId};
    use millstream_protocol::messages::metadata::OPERATIONS_UNKNOWN;
    use uuid::Uuid;

    use super::*;
    use crate::{
        Broker, NewTopics,
        testing::{create, push_module, start, stop, try_start_with},
    };

    fn named(name: &str) -> MetadataRequestTopic {
        MetadataRequestTopic { name: Some(name.into()), ..Default::default() }
    }

    /// Asks as clients do that want what they name to be made.
    fn ask(world: &World, broker: &Broker, names: &[&str]) -> Vec<(String, ErrorCode, usize)> {
        let topics = Some(names.iter().map(|name| named(name)).collect());
        let request = MetadataRequest { topics, ..Default::default() };
        let answer = world.run_until(handle(broker.shared().clone(), request));
        let told = |topic: MetadataTopic| (topic.name.unwrap(), topic.error_code, topic.partitions.len());
        answer.topics.into_iter().map(told).collect()
    }

    fn state(broker: &Broker) -> Arc<State> {
        broker.shared().catalog.state()
    }

    #[test]
    fn a_topic_that_is_asked_for_is_made_as_the_broker_is_set_and_led_before_the_answer() {
        let world = World::new(1);
        let new_topics = NewTopics { partitions: 3, ..NewTopics::default() };
        let broker = try_start_with(&world, new_topics).unwrap();
        assert_eq!(ask(&world, &broker, &["new", "new"]), [("new".to_owned(), ErrorCode::None, 3)]);
        let id = state(&broker).topic("new").unwrap().id;
        for partition in 0..3 {
            assert!(broker.shared().partitions.find(id, PartitionId(partition)).is_some(), "{partition}");
        }
        assert_eq!(ask(&world, &broker, &["new"])[0].1, ErrorCode::None);
        assert_eq!(state(&broker).topic("new").unwrap().id, id, "made once");
        stop(&world, broker);
    }

    #[test]
    fn nothing_is_made_unless_the_broker_and_the_client_want_it_and_the_name_is_told() {
        let world = World::new(1);
        let off = NewTopics { made_when_asked_for: false, ..NewTopics::default() };
        let broker = try_start_with(&world, off).unwrap();
        let asked = ask(&world, &broker, &["new", "a b"]);
        let (unknown, invalid) = (ErrorCode::UnknownTopicOrPartition, ErrorCode::InvalidTopic);
        assert_eq!(asked, [("new".to_owned(), unknown, 0), ("a b".to_owned(), invalid, 0)]);
        assert_eq!(state(&broker).topics.len(), 0);
        stop(&world, broker);

        let broker = start(&world);
        let request = |topics, allow_auto_topic_creation| {
            let request = MetadataRequest { topics, allow_auto_topic_creation, ..Default::default() };
            world.run_until(handle(broker.shared().clone(), request)).topics
        };
        assert_eq!(request(Some(vec![named("new")]), false)[0].error_code, unknown);
        assert_eq!(request(None, true).len(), 0);
        let by_id = MetadataRequestTopic { topic_id: TopicId(Uuid::from_u128(5)), name: None };
        assert_eq!(request(Some(vec![by_id]), true)[0].error_code, ErrorCode::UnknownTopicId);
        assert_eq!(state(&broker).topics.len(), 0);
        stop(&world, broker);
    }

    #[test]
    fn what_is_not_made_is_told_and_costs_the_others_nothing() {
        let world = World::new(1);
        let broker = start(&world);
        let names = ["", "..", "a/b", "good", "\u{e4}"];
        let told = ask(&world, &broker, &names);
        for (name, code, _) in told {
            let expected = if name == "good" { ErrorCode::None } else { ErrorCode::InvalidTopic };
            assert_eq!(code, expected, "{name:?}");
        }
        assert_eq!(state(&broker).topics.len(), 1);
        world.disk().set_capacity(Some(world.disk().used_bytes()));
        let asked = ask(&world, &broker, &["good", "late"]);
        assert_eq!(asked[0], ("good".to_owned(), ErrorCode::None, 1));
        assert_eq!(asked[1], ("late".to_owned(), ErrorCode::KafkaStorage, 0));
        assert_eq!(state(&broker).topics.len(), 1);
        world.disk().set_capacity(None);
        stop(&world, broker);

        let replicated = NewTopics { replication_factor: 3, ..NewTopics::default() };
        let broker = try_start_with(&world, replicated).unwrap();
        let asked = ask(&world, &broker, &["replicated"]);
        assert_eq!(asked, [("replicated".to_owned(), ErrorCode::InvalidReplicationFactor, 0)]);
        stop(&world, broker);
    }

    #[test]
    fn a_view_is_found_and_no_topic_is_made_of_its_name() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 2));
        let module: millstream_model::ModuleRef = "m@1".parse().unwrap();
        let push = push_module(&module);
        let view = Command::CreateView {
            id: ViewId(Uuid::from_u128(9)),
            name: TopicName::new("v").unwrap(),
            topic: TopicName::new("t").unwrap(),
            chain: vec![module],
            params: Default::default(),
            at: TimestampMs(0),
        };
        for command in [push, view] {
            world.run_until(broker.shared().propose(command)).unwrap();
        }
        assert_eq!(ask(&world, &broker, &["v"]), [("v".to_owned(), ErrorCode::None, 2)]);
        assert_eq!(state(&broker).topics.len(), 1);
        stop(&world, broker);
    }

    #[test]
    fn operations_are_told_to_who_asks_for_them() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 1));
        let ask = |wanted| {
            let request = MetadataRequest {
                topics: Some(vec![named("t"), named("a b")]),
                include_topic_authorized_operations: wanted,
                include_cluster_authorized_operations: wanted,
                ..Default::default()
            };
            let answer = world.run_until(handle(broker.shared().clone(), request));
            let of_topics = answer.topics.iter().map(|topic| topic.topic_authorized_operations).collect::<Vec<_>>();
            (answer.cluster_authorized_operations, of_topics)
        };
        // What Kafka's brokers tell who asks one that allows everything.
        assert_eq!(ask(true), (8096, vec![3576, OPERATIONS_UNKNOWN]));
        assert_eq!(ask(false), (OPERATIONS_UNKNOWN, vec![OPERATIONS_UNKNOWN; 2]));
        stop(&world, broker);
    }

    #[test]
    fn one_request_makes_so_many_topics_and_no_more() {
        let world = World::new(1);
        let broker = start(&world);
        let names: Vec<String> = (0..TOPICS_MADE_MAX + 20).map(|number| format!("n{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let told = ask(&world, &broker, &names);
        assert_eq!(state(&broker).topics.len(), TOPICS_MADE_MAX);
        let (made, left) = told.split_at(TOPICS_MADE_MAX);
        assert!(made.iter().all(|(_, code, _)| *code == ErrorCode::None));
        assert!(left.iter().all(|(_, code, _)| *code == ErrorCode::UnknownTopicOrPartition));
        // As clients do, who ask again.
        assert!(ask(&world, &broker, &names).iter().all(|(_, code, _)| *code == ErrorCode::None));
        stop(&world, broker);
    }
}
