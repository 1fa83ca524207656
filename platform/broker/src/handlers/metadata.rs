//! Metadata: brokers, topics and views, and who leads their partitions.

use std::{collections::HashSet, sync::Arc};

use millstream_catalog::{State, Topic};
use millstream_model::{BrokerId, PartitionId, TopicId};
use millstream_protocol::{
    ErrorCode,
    messages::metadata::{
        MetadataBroker, MetadataPartition, MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataTopic,
    },
};

use crate::{partitions::Partitions, readable::Readable, shared::Shared};

/// Most partitions that one answer describes. A view has its topic's partitions, so that what exists has no bound of its own.
const PARTITIONS_MAX: usize = 200_000;

pub(crate) fn handle(shared: &Arc<Shared>, request: MetadataRequest) -> MetadataResponse {
    let state = shared.catalog.state();
    let mut answer = Answer::of(&shared.partitions);
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
        ..Default::default()
    }
}

/// What is answered: each topic and view once, however often it was asked for.
struct Answer<'a> {
    led: &'a Partitions,
    topics: Vec<MetadataTopic>,
    partitions: usize,
    described: HashSet<TopicId>,
    unknown: HashSet<(Option<String>, TopicId)>,
}

impl<'a> Answer<'a> {
    fn of(led: &'a Partitions) -> Self {
        Self { led, topics: Vec::new(), partitions: 0, described: HashSet::new(), unknown: HashSet::new() }
    }

    fn look_up(&mut self, state: &State, asked: MetadataRequestTopic) {
        let (found, error_code) = match &asked.name {
            Some(name) => (Readable::by_name(state, name), ErrorCode::UnknownTopicOrPartition),
            None => (Readable::by_id(state, asked.topic_id), ErrorCode::UnknownTopicId),
        };
        if let Some(readable) = found {
            return self.describe(&readable);
        }
        let topic_id = if asked.name.is_some() { TopicId::NIL } else { asked.topic_id };
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
        self.topics.push(describe(self.led, readable));
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
