//! Commands about topics, and the names that topics and views share.

use std::{collections::BTreeMap, sync::Arc};

use millstream_model::{BrokerId, DefaultKind, LeaderEpoch, TopicConfig, TopicId, TopicName, limits};

use super::{
    Outcome, Refused,
    modules::{known_module, params_fit, wrong_kind},
    routing::{self, Next},
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
    topic.config.follow(&state.topic_defaults);
    // Leaders go round the brokers, from a place that differs from topic to topic.
    let first = (index % brokers.len() as u64) as usize;
    topic.partitions = (0..partitions as usize)
        .map(|partition| new_partition(index, in_turn(&brokers, first + partition, factor).collect()))
        .collect();
    state.names.insert(topic.name.clone(), Named::Topic(topic.id));
    state.topics.insert(topic.id, Arc::new(topic));
    Ok(Outcome::Done)
}

/// So many brokers from a place on, round and round.
fn in_turn(brokers: &[BrokerId], from: usize, count: usize) -> impl Iterator<Item = BrokerId> {
    (from..from + count).map(|at| brokers[at % brokers.len()])
}

/// A partition that nobody has led yet. `replicas`: at least one.
fn new_partition(index: u64, replicas: Vec<BrokerId>) -> Partition {
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
}

pub(super) fn create_partitions(
    state: &mut State,
    index: u64,
    id: TopicId,
    partitions: i32,
    replicas: Option<Vec<Vec<BrokerId>>>,
) -> Result<Outcome, Refused> {
    let topic = state.topics.get(&id).ok_or(Refused::UnknownTopicId(id))?;
    let (there, asked) = (topic.partitions.len(), usize::try_from(partitions).unwrap_or(0));
    if asked == there {
        return Err(Refused::SamePartitions { there });
    }
    if asked < there {
        return Err(Refused::FewerPartitions { topic: topic.name.clone(), there, asked: partitions });
    }
    if partitions > limits::PARTITIONS_MAX {
        return Err(Refused::Partitions { asked: partitions, max: limits::PARTITIONS_MAX });
    }
    routing::none_under_way(topic)?;
    let (more, in_cluster) = (asked - there, state.partition_count());
    if in_cluster + more > CLUSTER_PARTITIONS_MAX {
        let asked = i32::try_from(more).unwrap_or(i32::MAX);
        return Err(Refused::TooManyPartitions { asked, there: in_cluster, max: CLUSTER_PARTITIONS_MAX });
    }
    let before = topic.partitions.first().map_or(&[][..], |first| &first.replicas);
    let replicas = match replicas {
        Some(replicas) => {
            if replicas.len() != more {
                return Err(Refused::Assignments { more, given: replicas.len() });
            }
            replicas.iter().try_for_each(|given| check_assignment(state, given, before.len()))?;
            replicas
        }
        None => {
            let brokers: Vec<BrokerId> = state.brokers.keys().copied().collect();
            let factor = before.len();
            if factor == 0 || factor > brokers.len() {
                let asked = i32::try_from(factor).unwrap_or(i32::MAX);
                return Err(Refused::ReplicationFactor { asked, brokers: brokers.len() });
            }
            // They go on where the topic's first ones began.
            let first = brokers.iter().position(|broker| before.first() == Some(broker)).unwrap_or(0);
            (there..asked).map(|partition| in_turn(&brokers, first + partition, factor).collect()).collect()
        }
    };
    let (partitioner, params) = (topic.config.partitioner.clone(), topic.config.partitioner_params.clone());
    let opened = routing::opening(state, topic, Next { partitions, partitioner, params })?;
    let Some(topic) = state.topics.get_mut(&id) else { return Err(Refused::UnknownTopicId(id)) };
    let topic = Arc::make_mut(topic);
    // The present way is written down before there are more.
    routing::open(topic, opened);
    topic.partitions.extend(replicas.into_iter().map(|replicas| new_partition(index, replicas)));
    Ok(Outcome::Done)
}

/// Whether a client's choice of a partition's replicas can be: brokers that there are, each once, as many as the topic's others have.
///
/// # Errors
/// With the first rule that it breaks.
pub fn check_assignment(state: &State, given: &[BrokerId], replicas: usize) -> Result<(), Refused> {
    if given.is_empty() {
        return Err(Refused::NoReplicas);
    }
    for (at, broker) in given.iter().enumerate() {
        if !state.brokers.contains_key(broker) {
            return Err(Refused::AssignedUnknown(*broker));
        }
        if given[..at].contains(broker) {
            return Err(Refused::AssignedTwice(*broker));
        }
    }
    match given.len() {
        count if count == replicas => Ok(()),
        given => Err(Refused::AssignedOthers { given, there: replicas }),
    }
}

pub(super) fn alter_topic(
    state: &mut State,
    id: TopicId,
    from: &TopicConfig,
    to: TopicConfig,
) -> Result<Outcome, Refused> {
    let topic = state.topics.get(&id).ok_or(Refused::UnknownTopicId(id))?;
    if from.alters_routing(&to) && topic.config == *from {
        return Err(Refused::PartitionerChanged(topic.name.clone()));
    }
    alter_routing(state, id, from, to)
}

pub(super) fn alter_routing(
    state: &mut State,
    id: TopicId,
    from: &TopicConfig,
    mut to: TopicConfig,
) -> Result<Outcome, Refused> {
    let topic = state.topics.get(&id).ok_or(Refused::UnknownTopicId(id))?;
    to.follow(&state.topic_defaults);
    if topic.config != *from {
        return Err(Refused::StaleTopic(topic.name.clone()));
    }
    if topic.config == to {
        return Ok(Outcome::Unchanged);
    }
    let mut opened = None;
    if !from.routes_as(&to) {
        let (partitioner, params) = (to.partitioner.clone(), to.partitioner_params.clone());
        let next = Next { partitions: topic.routed_partitions(), partitioner, params };
        opened = Some(routing::opening(state, topic, next)?);
    }
    let Some(topic) = state.topics.get_mut(&id) else { return Err(Refused::UnknownTopicId(id)) };
    let topic = Arc::make_mut(topic);
    topic.config = to;
    if let Some(opened) = opened {
        // They are the topic's once they are in force.
        topic.config.partitioner.clone_from(&from.partitioner);
        topic.config.partitioner_params.clone_from(&from.partitioner_params);
        routing::open(topic, opened);
    }
    Ok(Outcome::Done)
}

pub(super) fn alter_topic_defaults(
    state: &mut State,
    kind: DefaultKind,
    from: &BTreeMap<String, String>,
    to: BTreeMap<String, String>,
) -> Result<Outcome, Refused> {
    let before = state.topic_defaults.clone();
    if before.of(kind) != from {
        return Err(Refused::StaleDefaults);
    }
    if *from == to {
        return Ok(Outcome::Unchanged);
    }
    state.topic_defaults = before.with(kind, to);
    for topic in state.topics.values_mut() {
        let mut config = topic.config.clone();
        config.turn(&before, &state.topic_defaults);
        // Those that nothing changes of stay the same ones: who follows the state tells by that.
        if config != topic.config {
            Arc::make_mut(topic).config = config;
        }
    }
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
