//! Applying a command to the state: the only way in which it changes.
//!
//! Pure and deterministic: the same commands at the same indexes give the same state on every broker, for ever. All checks
//! of names, kinds, epochs and references are made here, not where a command is proposed, because only here is the order
//! of commands known. A refused command leaves the state untouched. What is refused is a part of that, too: a rule that came later (such as
//! `min.insync.replicas` being no more than there are replicas) is the proposer's, since earlier logs have commands that break it.

mod brokers;
mod modules;
mod routing;
#[cfg(test)]
pub(crate) mod tests;
mod topics;
mod transforms;
mod views;

use std::collections::BTreeSet;

use millstream_model::{ProducerId, RoutingEpoch};
use serde::{Deserialize, Serialize};

pub use self::{
    brokers::PRODUCER_IDS_BLOCK,
    routing::ROUTINGS_MAX,
    topics::{CLUSTER_PARTITIONS_MAX, check_assignment},
    transforms::{SKIPS_MAX, TRANSFORM_TOPICS_MAX},
    views::CHAIN_MAX,
};
use self::{
    brokers::{allocate_producer_ids, create_cluster, register_broker},
    modules::{delete_module, push_module},
    routing::routing_opened,
    topics::{
        alter_routing, alter_topic, alter_topic_defaults, create_partitions, create_topic, delete_topic, readable_topic,
    },
    transforms::{delete_transform, deploy_transform, set_transform_state, skip_record, transform_topics},
    views::{create_view, delete_view},
};
use crate::{
    command::Command,
    refused::Refused,
    state::{Broker, BrokerEpoch, Module, State, Topic, Transform, TransformState, View},
};

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
            let topic = Topic {
                id,
                name,
                config,
                partitions: Vec::new(),
                routing_epoch: RoutingEpoch(0),
                routings: Vec::new(),
                opening: None,
                created_at: at,
            };
            create_topic(state, index, topic, partitions, replication_factor)
        }
        Command::CreatePartitions { id, partitions, replicas } => {
            create_partitions(state, index, id, partitions, replicas)
        }
        Command::AllocateProducerIds { reporter } => allocate_producer_ids(state, reporter),
        Command::AlterTopic { id, from, to } => alter_topic(state, id, &from, *to),
        Command::AlterRouting { id, from, to } => alter_routing(state, id, &from, *to),
        Command::AlterTopicDefaults { kind, from, to } => alter_topic_defaults(state, kind, &from, to),
        Command::RoutingOpened { id, epoch, markers } => routing_opened(state, id, epoch, markers),
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
                deployed_by: index,
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
