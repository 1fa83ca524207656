//! Commands about topics, and the names that topics and views share.

use std::sync::Arc;

use millstream_model::{BrokerId, LeaderEpoch, TopicConfig, TopicId, TopicName, limits};

use super::{
    Outcome, Refused,
    modules::{known_module, params_fit, wrong_kind},
};
use crate::state::{Named, Partition, State, Topic, Transform};

/// Most partitions in the whole cluster, so that a snapshot of the metadata stays within bounds.
pub const CLUSTER_PARTITIONS_MAX: usize = 200_000;

/// Most users of a topic that a refusal names.
const USERS_TOLD_MAX: usize = 10;

pub(super) fn create_topic(
    state: &mut State,
    index: u64,
    mut topic: Topic,
    partitions: i32,
    replication_factor: i32,
) -> Result<Outcome, Refused> {
    name_is_free(state, &topic.name)?;
    if state.topics.contains_key(&topic.id) || topic.id == TopicId::NIL {
        return Err(Refused::IdTaken(topic.id.to_string()));
    }
    if !(1..=limits::PARTITIONS_MAX).contains(&partitions) {
        return Err(Refused::Partitions { asked: partitions, max: limits::PARTITIONS_MAX });
    }
    let there = state.partition_count();
    if there + partitions as usize > CLUSTER_PARTITIONS_MAX {
        return Err(Refused::TooManyPartitions { asked: partitions, there, max: CLUSTER_PARTITIONS_MAX });
    }
    let brokers: Vec<BrokerId> = state.brokers.keys().copied().collect();
    let factor = usize::try_from(replication_factor).unwrap_or(0);
    if factor == 0 || factor > brokers.len() {
        return Err(Refused::ReplicationFactor { asked: replication_factor, brokers: brokers.len() });
    }
    if let Some(module) = &topic.config.partitioner {
        let found = known_module(state, module)?;
        if !found.serves_partitioning() {
            return Err(wrong_kind(found, "partitioner"));
        }
    }
    params_fit(&topic.config.partitioner_params)?;
    // Leaders go round the brokers, from a place that differs from topic to topic.
    let first = (index % brokers.len() as u64) as usize;
    topic.partitions = (0..partitions as usize)
        .map(|partition| {
            let replicas: Vec<BrokerId> =
                (0..factor).map(|replica| brokers[(first + partition + replica) % brokers.len()]).collect();
            Partition {
                isr: replicas.clone(),
                elr: Vec::new(),
                last_known: Vec::new(),
                leader: replicas.first().copied(),
                leader_epoch: LeaderEpoch(0),
                partition_epoch: 0,
                loss_possible: false,
                made_by: index,
                replicas,
            }
        })
        .collect();
    state.names.insert(topic.name.clone(), Named::Topic(topic.id));
    state.topics.insert(topic.id, Arc::new(topic));
    Ok(Outcome::Done)
}

pub(super) fn alter_topic(
    state: &mut State,
    id: TopicId,
    from: &TopicConfig,
    to: TopicConfig,
) -> Result<Outcome, Refused> {
    let topic = state.topics.get_mut(&id).ok_or(Refused::UnknownTopicId(id))?;
    if topic.config != *from {
        return Err(Refused::StaleTopic(topic.name.clone()));
    }
    let routing = |config: &TopicConfig| {
        let TopicConfig { partitioner, partitioner_enforce, partitioner_params, .. } = config.clone();
        (partitioner, partitioner_enforce, partitioner_params)
    };
    if routing(from) != routing(&to) {
        return Err(Refused::PartitionerChanged(topic.name.clone()));
    }
    if topic.config == to {
        return Ok(Outcome::Unchanged);
    }
    Arc::make_mut(topic).config = to;
    Ok(Outcome::Done)
}

pub(super) fn delete_topic(state: &mut State, id: TopicId) -> Result<Outcome, Refused> {
    let topic = state.topics.get(&id).ok_or(Refused::UnknownTopicId(id))?;
    let views = state.views_by_name().filter(|view| view.topic == id).map(|view| format!("view {}", view.name));
    let uses = |transform: &&Arc<Transform>| transform.inputs.contains(&id) || transform.outputs.contains(&id);
    let transforms = state.transforms.values().filter(uses).map(|transform| format!("transform {}", transform.name));
    let mut users = views.chain(transforms);
    let told: Vec<_> = users.by_ref().take(USERS_TOLD_MAX).collect();
    let left = users.count();
    let name = topic.name.clone();
    if !told.is_empty() {
        let more = if left > 0 { format!(" and {left} more") } else { String::new() };
        return Err(Refused::TopicInUse { topic: name, users: told.join(", ") + &more });
    }
    state.names.remove(&name);
    state.topics.remove(&id);
    Ok(Outcome::Done)
}

pub(super) fn name_is_free(state: &State, name: &TopicName) -> Result<(), Refused> {
    match state.names.get(name) {
        None => Ok(()),
        Some(Named::Topic(_)) => Err(Refused::TopicExists(name.clone())),
        Some(Named::View(_)) => Err(Refused::ViewExists(name.clone())),
    }
}

pub(super) fn readable_topic<'a>(state: &'a State, name: &TopicName) -> Result<&'a Arc<Topic>, Refused> {
    match state.names.get(name) {
        Some(Named::View(_)) => Err(Refused::NotATopic(name.clone())),
        Some(Named::Topic(id)) => state.topics.get(id).ok_or(Refused::UnknownTopicId(*id)),
        None => Err(Refused::UnknownTopic(name.clone())),
    }
}
