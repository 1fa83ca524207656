//! Metadata: brokers, topics and views, and who leads their partitions.

use std::sync::Arc;

use millstream_catalog::State;
use millstream_model::{BrokerId, PartitionId, TopicId};
use millstream_protocol::{
    ErrorCode,
    messages::metadata::{
        MetadataBroker, MetadataPartition, MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataTopic,
    },
};

use crate::{readable::Readable, shared::Shared};

pub(crate) fn handle(shared: &Arc<Shared>, request: MetadataRequest) -> MetadataResponse {
    let state = shared.catalog.state();
    let topics = match request.topics {
        None => {
            let topics = state.topics_by_name().map(|topic| Readable::Topic(topic.clone()));
            let views = state.views_by_name().filter_map(|view| Readable::by_name(&state, view.name.as_str()));
            topics.chain(views).map(|readable| describe(&readable)).collect()
        }
        Some(asked) => asked.into_iter().map(|asked| look_up(&state, asked)).collect(),
    };
    MetadataResponse {
        brokers: brokers(&state),
        cluster_id: Some(state.cluster_id.to_string()),
        controller_id: shared.options.id,
        topics,
        ..Default::default()
    }
}

fn brokers(state: &State) -> Vec<MetadataBroker> {
    let brokers = state.brokers.values().filter_map(|broker| {
        let address = broker.addresses.first()?;
        Some(MetadataBroker { node_id: broker.id, host: address.host.clone(), port: address.port.into(), rack: None })
    });
    brokers.collect()
}

fn look_up(state: &State, asked: MetadataRequestTopic) -> MetadataTopic {
    let (found, code) = match &asked.name {
        Some(name) => (Readable::by_name(state, name), ErrorCode::UnknownTopicOrPartition),
        None => (Readable::by_id(state, asked.topic_id), ErrorCode::UnknownTopicId),
    };
    match found {
        Some(readable) => describe(&readable),
        None => {
            let topic_id = if asked.name.is_some() { TopicId::NIL } else { asked.topic_id };
            MetadataTopic { error_code: code, name: asked.name, topic_id, ..Default::default() }
        }
    }
}

fn describe(readable: &Readable) -> MetadataTopic {
    let partitions = (0..).zip(&readable.topic().partitions).map(|(index, partition)| MetadataPartition {
        error_code: if partition.leader.is_some() { ErrorCode::None } else { ErrorCode::LeaderNotAvailable },
        partition_index: PartitionId(index),
        leader_id: partition.leader.unwrap_or(BrokerId(-1)),
        leader_epoch: partition.leader_epoch,
        replica_nodes: partition.replicas.clone(),
        isr_nodes: partition.isr.clone(),
        offline_replicas: Vec::new(),
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
