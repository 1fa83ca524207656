//! Commands about the cluster and its brokers: registration, and the producer ids that brokers hand out.

use std::{collections::BTreeSet, sync::Arc};

use millstream_model::{BrokerId, Durability, PartitionId, ProducerId, TopicPartition};

use super::{Outcome, Refused};
use crate::{
    command::Reporter,
    elect,
    state::{Broker, ClusterId, State},
};

/// How many producer ids a broker is given at once.
pub const PRODUCER_IDS_BLOCK: i64 = 1000;

pub(super) fn create_cluster(state: &mut State, id: ClusterId) -> Result<Outcome, Refused> {
    if state.cluster_id == id {
        return Ok(Outcome::Unchanged);
    }
    if state.cluster_id != ClusterId::default() {
        return Err(Refused::OtherCluster { asked: id, current: state.cluster_id });
    }
    state.cluster_id = id;
    Ok(Outcome::Done)
}

pub(super) fn register_broker(
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

pub(super) fn allocate_producer_ids(state: &mut State, reporter: Reporter) -> Result<Outcome, Refused> {
    known_reporter(state, reporter)?;
    let first = state.next_producer_id;
    match ProducerId(first.0 + PRODUCER_IDS_BLOCK) {
        next if next <= ProducerId::RESERVED => state.next_producer_id = next,
        _ => return Err(Refused::ProducerIdsUsedUp(ProducerId::RESERVED.0)),
    }
    Ok(Outcome::ProducerIds(first))
}

/// Refuses what a broker says under a registration that is not in force.
pub(super) fn known_reporter(state: &State, Reporter { broker, epoch }: Reporter) -> Result<(), Refused> {
    let current = state.brokers.get(&broker).ok_or(Refused::UnknownBroker(broker))?.epoch;
    match epoch == current {
        true => Ok(()),
        false => Err(Refused::StaleBroker { broker, epoch, current }),
    }
}
