//! Applying a command to the state: the only way in which it changes.
//!
//! Pure and deterministic: the same commands at the same indexes give the same state on every broker, for ever. All checks
//! of names, kinds, epochs and references are made here, not where a command is proposed, because only here is the order
//! of commands known. A refused command leaves the state untouched. What is refused is a part of that, too: a rule that came later (such as
//! `min.insync.replicas` being no more than there are replicas) is the proposer's, since earlier logs have commands that break it.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use millstream_model::{
    BrokerId, Digest, Durability, LeaderEpoch, ModuleRef, Name, PartitionId, ProducerId, RoutingEpoch, TopicConfig,
    TopicId, TopicName, TopicPartition, TransformId, ViewId, limits,
};

use serde::{Deserialize, Serialize};

use crate::{
    command::{Command, FAILURE_BYTES_MAX, Reporter},
    elect,
    state::{
        Broker, BrokerEpoch, ClusterId, DirectoryId, Module, Named, Partition, RecordAt, State, Topic, Transform,
        TransformState, View,
    },
};

/// Most users of a topic that a refusal names.
const USERS_TOLD_MAX: usize = 10;

/// Most modules in a view's chain.
pub const CHAIN_MAX: usize = 16;
/// Most input topics, and most output topics, of a transform.
pub const TRANSFORM_TOPICS_MAX: usize = 64;
/// Most partitions in the whole cluster, so that a snapshot of the metadata stays within bounds.
pub const CLUSTER_PARTITIONS_MAX: usize = 200_000;

/// Of how many records of an input partition a transform remembers that it is to leave them out: the newest. One that it has
/// long passed need not be remembered, and what operators do again and again must not fill the metadata.
pub const SKIPS_MAX: usize = 16;

/// How many producer ids a broker is given at once.
pub const PRODUCER_IDS_BLOCK: i64 = 1000;

/// What an applied command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The state changed as asked.
    Done,
    /// It already was as asked.
    Unchanged,
    /// The broker is registered; its commands carry this epoch.
    Registered(BrokerEpoch),
    /// The broker may hand out this producer id and the [`PRODUCER_IDS_BLOCK`] - 1 that follow it.
    ProducerIds(ProducerId),
}

/// Why a command was refused. The state is as it was. The text is for the person who asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant's text says what happened; the fields are what it names")]
pub enum Refused {
    #[error("this is cluster {current}, not {asked}: the data directory belongs to another cluster")]
    OtherCluster { asked: ClusterId, current: ClusterId },
    #[error("broker {broker} gives no address under which clients reach it")]
    NoAddress { broker: BrokerId },
    #[error("broker number {0} is not legal: numbers start at 0")]
    BrokerNumber(BrokerId),
    #[error(
        "data directory {directory} is registered as broker {owner}'s: start it with --node-id {owner}, or give broker {broker} a directory of its own"
    )]
    DirectoryTaken { broker: BrokerId, directory: DirectoryId, owner: BrokerId },
    #[error(
        "data directory {directory} holds records, and the cluster's metadata knows of no such directory of broker {broker}: put back the metadata that belongs to it"
    )]
    UnknownDirectory { broker: BrokerId, directory: DirectoryId },
    #[error("broker {0} is not registered")]
    UnknownBroker(BrokerId),
    #[error(
        "broker {broker} speaks with registration {epoch}, but {current} is in force: it has been started again since"
    )]
    StaleBroker { broker: BrokerId, epoch: BrokerEpoch, current: BrokerEpoch },

    #[error("all {0} producer ids have been given out")]
    ProducerIdsUsedUp(i64),

    #[error("a topic named {0} exists already: choose another name, or delete it first")]
    TopicExists(TopicName),
    #[error(
        "a view named {0} exists already, and views and topics share their names: choose another name, or delete it first"
    )]
    ViewExists(TopicName),
    #[error("there is no topic named {0}: see `millstream topic list`")]
    UnknownTopic(TopicName),
    #[error("there is no topic with id {0}: it has been deleted")]
    UnknownTopicId(TopicId),
    #[error("{0} is a view: name the topic that it shows")]
    NotATopic(TopicName),
    #[error("{asked} partitions: a topic has from 1 to {max}")]
    Partitions { asked: i32, max: i32 },
    #[error("{asked} more partitions: the cluster has {there} and may have at most {max}")]
    TooManyPartitions { asked: i32, there: usize, max: usize },
    #[error(
        "{asked} replicas of each partition: there must be from 1 to as many as there are brokers, which is {brokers}"
    )]
    ReplicationFactor { asked: i32, brokers: usize },
    #[error("topic {0} has been given other settings at the same time: look again, then retry")]
    StaleTopic(TopicName),
    #[error(
        "the partitioner of topic {0} cannot be changed, nor its parameters: routing a topic anew is not built yet"
    )]
    PartitionerChanged(TopicName),
    #[error("topic {topic} is used by {users}: delete what uses it first")]
    TopicInUse { topic: TopicName, users: String },

    #[error("there is no module {0}: push it first (`millstream module list` shows what there is)")]
    UnknownModule(ModuleRef),
    #[error("module {module} is a {is}; here a {wants} is needed")]
    WrongKind { module: ModuleRef, is: String, wants: String },
    #[error("module {module} is there already with other contents ({there}): versions never change, push a new one")]
    ModuleExists { module: ModuleRef, there: Digest },
    #[error("module {0} has no kind: it exports nothing that can be used")]
    NoKind(ModuleRef),
    #[error("module {module} is used by {user}: change or delete that first")]
    ModuleInUse { module: ModuleRef, user: String },

    #[error("a view's chain has from 1 to {CHAIN_MAX} modules, not {0}")]
    Chain(usize),
    #[error("there is no view with id {0}: it has been deleted")]
    UnknownViewId(ViewId),

    #[error("a transform named {0} exists already: delete it first, or use another name")]
    TransformExists(Name),
    #[error("there is no transform with id {0}: it has been deleted")]
    UnknownTransformId(TransformId),
    #[error("a transform has from 1 to {TRANSFORM_TOPICS_MAX} {what} topics, not {count}")]
    TransformTopics { what: String, count: usize },
    #[error("topic {topic} is named twice as {what}: name each once")]
    Twice { topic: TopicName, what: String },
    #[error("transform {name} would feed itself ({path}): let it write to another topic")]
    Loop { name: Name, path: String },
    #[error("0 lanes: a transform has at least 1")]
    NoLanes,
    #[error("transform {name} has changed since (revision {revision}, now {current}): look again, then retry")]
    StaleTransform { name: Name, revision: u64, current: u64 },
    #[error("transform {0} does not stand at that record: look again with `millstream transform describe {0}`")]
    NotAtRecord(Name),

    #[error("parameters take {bytes} bytes; at most {max} are allowed: shorten them")]
    Params { bytes: usize, max: usize },
    #[error("id {0} is taken: choose a new one for every proposal")]
    IdTaken(String),
}

/// Applies one command, the entry at `index` of the agreed log.
///
/// # Errors
/// [`Refused`], with the state untouched.
pub fn apply(state: &mut State, index: u64, command: Command) -> Result<Outcome, Refused> {
    match command {
        Command::CreateCluster { id } => create_cluster(state, id),
        Command::RegisterBroker { id, incarnation, directory, addresses, clean, replicated, holds_logs } => {
            let broker = Broker { id, incarnation, directory, epoch: BrokerEpoch(index), addresses };
            if holds_logs && state.brokers.get(&id).is_none_or(|known| known.directory != directory) {
                return Err(Refused::UnknownDirectory { broker: id, directory });
            }
            register_broker(state, broker, clean, &replicated.into_iter().collect())
        }
        Command::CreateTopic { id, name, partitions, replication_factor, config, at } => {
            let topic =
                Topic { id, name, config, partitions: Vec::new(), routing_epoch: RoutingEpoch(0), created_at: at };
            create_topic(state, index, topic, partitions, replication_factor)
        }
        Command::AllocateProducerIds { reporter } => allocate_producer_ids(state, reporter),
        Command::AlterTopic { id, from, to } => alter_topic(state, id, &from, *to),
        Command::DeleteTopic { id } => delete_topic(state, id),
        Command::PushModule { module, digest, size_bytes, kinds, needs, declarations, at } => {
            push_module(state, Module { module, digest, size_bytes, kinds, needs, declarations, pushed_at: at })
        }
        Command::DeleteModule { module } => delete_module(state, &module),
        Command::CreateView { id, name, topic, chain, params, at } => {
            let topic = readable_topic(state, &topic)?.id;
            create_view(state, View { id, name, topic, chain, params, created_at: at })
        }
        Command::DeleteView { id } => delete_view(state, id),
        Command::DeployTransform { id, name, module, inputs, outputs, params, on_error, from, lanes, at } => {
            let transform = Transform {
                id,
                name,
                module,
                inputs: transform_topics(state, "input", &inputs)?,
                outputs: transform_topics(state, "output", &outputs)?,
                params,
                on_error,
                from,
                lanes,
                state: TransformState::Running,
                revision: index,
                deployed_at: at,
                skips: BTreeSet::new(),
            };
            deploy_transform(state, transform)
        }
        Command::DeleteTransform { id } => delete_transform(state, id),
        Command::SetTransformState { id, revision, reporter, state: to } => {
            set_transform_state(state, index, id, revision, reporter, to)
        }
        Command::SkipRecord { id, revision, record } => skip_record(state, index, id, revision, record),
    }
}

fn create_cluster(state: &mut State, id: ClusterId) -> Result<Outcome, Refused> {
    if state.cluster_id == id {
        return Ok(Outcome::Unchanged);
    }
    if state.cluster_id != ClusterId::default() {
        return Err(Refused::OtherCluster { asked: id, current: state.cluster_id });
    }
    state.cluster_id = id;
    Ok(Outcome::Done)
}

fn register_broker(
    state: &mut State,
    broker: Broker,
    clean: bool,
    replicated: &BTreeSet<TopicPartition>,
) -> Result<Outcome, Refused> {
    if broker.id.0 < 0 {
        return Err(Refused::BrokerNumber(broker.id));
    }
    if broker.addresses.is_empty() {
        return Err(Refused::NoAddress { broker: broker.id });
    }
    let other = state.brokers.values().find(|other| other.directory == broker.directory && other.id != broker.id);
    if let Some(other) = other {
        return Err(Refused::DirectoryTaken { broker: broker.id, directory: broker.directory, owner: other.id });
    }
    let before = state.brokers.get(&broker.id).cloned();
    // A proposal that was retried, or new addresses: the same run keeps its epoch and its leaderships.
    if let Some(before) = before.as_ref().filter(|before| before.incarnation == broker.incarnation) {
        let epoch = before.epoch;
        state.brokers.insert(broker.id, Arc::new(Broker { epoch, ..broker }));
        return Ok(Outcome::Registered(epoch));
    }
    let (id, epoch) = (broker.id, broker.epoch);
    let returned = elect::Returned {
        broker: id,
        directory: broker.directory,
        directory_before: before.map(|before| before.directory),
        clean,
    };
    state.brokers.insert(id, Arc::new(broker));
    let registered: BTreeSet<BrokerId> = state.brokers.keys().copied().collect();
    for topic in state.topics.values_mut() {
        if topic.partitions.iter().any(|partition| partition.replicas.contains(&id)) {
            let topic = Arc::make_mut(topic);
            for (index, partition) in (0..).zip(&mut topic.partitions) {
                let partition_id = TopicPartition { topic: topic.id, partition: PartitionId(index) };
                let durability = match replicated.contains(&partition_id) {
                    true => Durability::Replicated,
                    false => topic.config.durability,
                };
                elect::broker_returned(partition, durability, &returned, &registered);
            }
        }
    }
    Ok(Outcome::Registered(epoch))
}

fn create_topic(
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

fn allocate_producer_ids(state: &mut State, reporter: Reporter) -> Result<Outcome, Refused> {
    known_reporter(state, reporter)?;
    let first = state.next_producer_id;
    match ProducerId(first.0 + PRODUCER_IDS_BLOCK) {
        next if next <= ProducerId::RESERVED => state.next_producer_id = next,
        _ => return Err(Refused::ProducerIdsUsedUp(ProducerId::RESERVED.0)),
    }
    Ok(Outcome::ProducerIds(first))
}

fn alter_topic(state: &mut State, id: TopicId, from: &TopicConfig, to: TopicConfig) -> Result<Outcome, Refused> {
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

fn delete_topic(state: &mut State, id: TopicId) -> Result<Outcome, Refused> {
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

fn push_module(state: &mut State, module: Module) -> Result<Outcome, Refused> {
    if module.kinds.is_empty() {
        return Err(Refused::NoKind(module.module));
    }
    match state.modules.entry(module.module.clone()) {
        Entry::Vacant(place) => {
            place.insert(Arc::new(module));
            Ok(Outcome::Done)
        }
        Entry::Occupied(there) if there.get().digest == module.digest => Ok(Outcome::Unchanged),
        Entry::Occupied(there) => Err(Refused::ModuleExists { module: module.module, there: there.get().digest }),
    }
}

fn delete_module(state: &mut State, module: &ModuleRef) -> Result<Outcome, Refused> {
    known_module(state, module)?;
    let topic = || {
        let topics = state.topics_by_name();
        let mut users = topics.filter(|topic| topic.config.partitioner.as_ref() == Some(module));
        users.next().map(|topic| format!("topic {}", topic.name))
    };
    let view = || {
        let mut users = state.views_by_name().filter(|view| view.chain.contains(module));
        users.next().map(|view| format!("view {}", view.name))
    };
    let transform = || {
        let mut users = state.transforms.values().filter(|transform| transform.module == *module);
        users.next().map(|transform| format!("transform {}", transform.name))
    };
    if let Some(user) = topic().or_else(view).or_else(transform) {
        return Err(Refused::ModuleInUse { module: module.clone(), user });
    }
    state.modules.remove(module);
    Ok(Outcome::Done)
}

fn create_view(state: &mut State, view: View) -> Result<Outcome, Refused> {
    name_is_free(state, &view.name)?;
    if state.views.contains_key(&view.id) || view.id == ViewId::NIL {
        return Err(Refused::IdTaken(view.id.to_string()));
    }
    if !(1..=CHAIN_MAX).contains(&view.chain.len()) {
        return Err(Refused::Chain(view.chain.len()));
    }
    for module in &view.chain {
        let found = known_module(state, module)?;
        if !found.serves_views() {
            return Err(wrong_kind(found, "filter or mapper"));
        }
    }
    params_fit(&view.params)?;
    state.names.insert(view.name.clone(), Named::View(view.id));
    state.views.insert(view.id, Arc::new(view));
    Ok(Outcome::Done)
}

fn delete_view(state: &mut State, id: ViewId) -> Result<Outcome, Refused> {
    let view = state.views.remove(&id).ok_or(Refused::UnknownViewId(id))?;
    state.names.remove(&view.name);
    Ok(Outcome::Done)
}

fn deploy_transform(state: &mut State, transform: Transform) -> Result<Outcome, Refused> {
    if state.transforms.contains_key(&transform.name) {
        return Err(Refused::TransformExists(transform.name));
    }
    if state.transform_by_id(transform.id).is_some() || transform.id == TransformId::NIL {
        return Err(Refused::IdTaken(transform.id.to_string()));
    }
    let found = known_module(state, &transform.module)?;
    if !found.serves_transforms() {
        return Err(wrong_kind(found, "transform or mapper"));
    }
    if transform.lanes == 0 {
        return Err(Refused::NoLanes);
    }
    params_fit(&transform.params)?;
    if let Some(path) = loop_through(state, &transform) {
        return Err(Refused::Loop { name: transform.name, path });
    }
    state.transforms.insert(transform.name.clone(), Arc::new(transform));
    Ok(Outcome::Done)
}

fn delete_transform(state: &mut State, id: TransformId) -> Result<Outcome, Refused> {
    let transform = state.transform_by_id(id).ok_or(Refused::UnknownTransformId(id))?;
    let name = transform.name.clone();
    state.transforms.remove(&name);
    Ok(Outcome::Done)
}

fn set_transform_state(
    state: &mut State,
    index: u64,
    id: TransformId,
    revision: u64,
    reporter: Option<Reporter>,
    to: TransformState,
) -> Result<Outcome, Refused> {
    if let Some(reporter) = reporter {
        known_reporter(state, reporter)?;
    }
    let transform = transform_at(state, id, revision)?;
    let to = match to {
        TransformState::Failed { mut message, record } => {
            if message.len() > FAILURE_BYTES_MAX {
                message.truncate(message.floor_char_boundary(FAILURE_BYTES_MAX));
            }
            TransformState::Failed { message, record }
        }
        other => other,
    };
    if transform.state == to {
        return Ok(Outcome::Unchanged);
    }
    let transform = Arc::make_mut(transform);
    transform.state = to;
    transform.revision = index;
    Ok(Outcome::Done)
}

fn skip_record(
    state: &mut State,
    index: u64,
    id: TransformId,
    revision: u64,
    record: RecordAt,
) -> Result<Outcome, Refused> {
    let transform = transform_at(state, id, revision)?;
    if !matches!(&transform.state, TransformState::Failed { record: Some(at), .. } if *at == record) {
        return Err(Refused::NotAtRecord(transform.name.clone()));
    }
    let transform = Arc::make_mut(transform);
    transform.state = TransformState::Running;
    transform.revision = index;
    transform.skips.insert(record);
    let in_partition = |at: &&RecordAt| (at.topic, at.partition) == (record.topic, record.partition);
    // Offsets of a partition stand in their order: the first is the oldest.
    while transform.skips.iter().filter(in_partition).count() > SKIPS_MAX {
        let Some(oldest) = transform.skips.iter().find(in_partition).copied() else { break };
        transform.skips.remove(&oldest);
    }
    Ok(Outcome::Done)
}

/// The transform, if it has not changed since `revision`.
fn transform_at(state: &mut State, id: TransformId, revision: u64) -> Result<&mut Arc<Transform>, Refused> {
    let name = state.transform_by_id(id).ok_or(Refused::UnknownTransformId(id))?.name.clone();
    let transform = state.transforms.get_mut(&name).ok_or(Refused::UnknownTransformId(id))?;
    match transform.revision {
        current if current == revision => Ok(transform),
        current => Err(Refused::StaleTransform { name, revision, current }),
    }
}

fn known_reporter(state: &State, Reporter { broker, epoch }: Reporter) -> Result<(), Refused> {
    let current = state.brokers.get(&broker).ok_or(Refused::UnknownBroker(broker))?.epoch;
    match epoch == current {
        true => Ok(()),
        false => Err(Refused::StaleBroker { broker, epoch, current }),
    }
}

fn name_is_free(state: &State, name: &TopicName) -> Result<(), Refused> {
    match state.names.get(name) {
        None => Ok(()),
        Some(Named::Topic(_)) => Err(Refused::TopicExists(name.clone())),
        Some(Named::View(_)) => Err(Refused::ViewExists(name.clone())),
    }
}

fn readable_topic<'a>(state: &'a State, name: &TopicName) -> Result<&'a Arc<Topic>, Refused> {
    match state.names.get(name) {
        Some(Named::View(_)) => Err(Refused::NotATopic(name.clone())),
        Some(Named::Topic(id)) => state.topics.get(id).ok_or(Refused::UnknownTopicId(*id)),
        None => Err(Refused::UnknownTopic(name.clone())),
    }
}

fn transform_topics(state: &State, what: &'static str, names: &[TopicName]) -> Result<Vec<TopicId>, Refused> {
    if !(1..=TRANSFORM_TOPICS_MAX).contains(&names.len()) {
        return Err(Refused::TransformTopics { what: what.into(), count: names.len() });
    }
    let mut ids = Vec::with_capacity(names.len());
    for name in names {
        let id = readable_topic(state, name)?.id;
        if ids.contains(&id) {
            return Err(Refused::Twice { topic: name.clone(), what: what.into() });
        }
        ids.push(id);
    }
    Ok(ids)
}

fn known_module<'a>(state: &'a State, module: &ModuleRef) -> Result<&'a Arc<Module>, Refused> {
    state.modules.get(module).ok_or_else(|| Refused::UnknownModule(module.clone()))
}

fn wrong_kind(module: &Module, wants: &'static str) -> Refused {
    Refused::WrongKind { module: module.module.clone(), is: module.kinds_text(), wants: wants.into() }
}

fn params_fit(params: &BTreeMap<String, String>) -> Result<(), Refused> {
    let bytes = params.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > limits::PARAMS_BYTES_MAX {
        return Err(Refused::Params { bytes, max: limits::PARAMS_BYTES_MAX });
    }
    Ok(())
}

/// How records would come back to an input of `new` through what is deployed, written `a -> b -> a`; none if they cannot.
fn loop_through(state: &State, new: &Transform) -> Option<String> {
    // Breadth first from the outputs; `from` remembers how each topic was reached, which also bounds the walk.
    let mut from: BTreeMap<TopicId, Option<TopicId>> = new.outputs.iter().map(|&output| (output, None)).collect();
    let mut frontier: Vec<TopicId> = new.outputs.clone();
    let mut at = 0;
    while let Some(&topic) = frontier.get(at) {
        at += 1;
        if new.inputs.contains(&topic) {
            let mut path = vec![topic];
            let mut step = topic;
            while let Some(&Some(before)) = from.get(&step) {
                path.push(before);
                step = before;
            }
            // Records enter at the input that they come back to.
            path.push(topic);
            path.reverse();
            let shown =
                path.iter().map(|id| state.topics.get(id).map_or_else(|| id.to_string(), |t| t.name.to_string()));
            return Some(shown.collect::<Vec<_>>().join(" -> "));
        }
        for transform in state.transforms.values().filter(|transform| transform.inputs.contains(&topic)) {
            for &output in &transform.outputs {
                if let Entry::Vacant(place) = from.entry(output) {
                    place.insert(Some(topic));
                    frontier.push(output);
                }
            }
        }
    }
    None
}

#[cfg(test)]
#[path = "apply_tests.rs"]
pub(crate) mod tests;
