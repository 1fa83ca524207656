//! How a topic passes from one way of placing records to the next.
//!
//! Two steps: what is to come is written down, while what was is in force; and it is put in force once every partition has its marker. In
//! between, partitions refuse one by one what was placed in the old way, and nobody is told the new one.

use std::sync::Arc;

use millstream_model::{ModuleRef, Offset, RoutingEpoch, TopicId};

use super::{
    Outcome, Refused,
    modules::{known_module, params_fit, wrong_kind},
};
use crate::state::{Routing, State, Topic};

/// How many ways of placing a topic's records are remembered, the present one included. Parameters may take much room.
pub const ROUTINGS_MAX: usize = 8;

/// What the next way of placing a topic's records differs in.
pub(super) struct Next {
    pub(super) partitions: i32,
    pub(super) partitioner: Option<ModuleRef>,
    pub(super) params: std::collections::BTreeMap<String, String>,
}

/// Refuses a change of routing while there is another under way.
pub(super) fn none_under_way(topic: &Topic) -> Result<(), Refused> {
    match topic.opening {
        Some(_) => Err(Refused::RoutingUnderWay(topic.name.clone())),
        None => Ok(()),
    }
}

/// What a change of routing opens: the topic's present way, and the one that is to follow.
pub(super) fn opening(state: &State, topic: &Topic, next: Next) -> Result<(Routing, Routing), Refused> {
    none_under_way(topic)?;
    let Next { partitions, partitioner, params } = next;
    let module = partitioner.as_ref().map(|module| known_module(state, module)).transpose()?;
    if let Some(found) = module.filter(|found| !found.serves_partitioning()) {
        return Err(wrong_kind(found, "partitioner"));
    }
    params_fit(&params)?;
    let digest = module.map(|module| module.digest);
    let epoch = RoutingEpoch(topic.routing_epoch.0.saturating_add(1));
    let next = Routing { epoch, partitions, partitioner, digest, params, markers: Vec::new() };
    Ok((topic.routing(&state.modules), next))
}

/// Writes down what is to come.
pub(super) fn open(topic: &mut Topic, (present, next): (Routing, Routing)) {
    if topic.routings.is_empty() {
        topic.routings.push(present);
    }
    topic.opening = Some(Box::new(next));
}

pub(super) fn routing_opened(
    state: &mut State,
    id: TopicId,
    epoch: RoutingEpoch,
    markers: Vec<Offset>,
) -> Result<Outcome, Refused> {
    let topic = state.topics.get_mut(&id).ok_or(Refused::UnknownTopicId(id))?;
    if topic.routing_epoch >= epoch {
        return Ok(Outcome::Unchanged);
    }
    let before = topic.routed_partitions();
    let fits = topic.opening.as_ref().is_some_and(|opening| opening.epoch == epoch)
        && usize::try_from(before) == Ok(markers.len());
    if !fits {
        return Err(Refused::NotOpening { topic: topic.name.clone(), epoch });
    }
    let topic = Arc::make_mut(topic);
    let Some(opening) = topic.opening.take() else { return Ok(Outcome::Unchanged) };
    topic.routing_epoch = epoch;
    topic.config.partitioner.clone_from(&opening.partitioner);
    topic.config.partitioner_params.clone_from(&opening.params);
    topic.routings.push(Routing { markers, ..*opening });
    let surplus = topic.routings.len().saturating_sub(ROUTINGS_MAX);
    topic.routings.drain(..surplus);
    Ok(Outcome::Done)
}
