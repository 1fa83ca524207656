//! Commands about transforms; none may feed itself.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use millstream_model::{TopicId, TopicName, TransformId};

use super::{
    Outcome, Refused,
    brokers::known_reporter,
    modules::{known_module, params_fit, wrong_kind},
    topics::readable_topic,
};
use crate::{
    command::{FAILURE_BYTES_MAX, Reporter},
    state::{RecordAt, State, Transform, TransformState},
};

/// Most input topics, and most output topics, of a transform.
pub const TRANSFORM_TOPICS_MAX: usize = 64;

/// Of how many records of an input partition a transform remembers that it is to leave them out: the newest. One that it has
/// long passed need not be remembered, and what operators do again and again must not fill the metadata.
pub const SKIPS_MAX: usize = 16;

pub(super) fn deploy_transform(state: &mut State, transform: Transform) -> Result<Outcome, Refused> {
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

pub(super) fn delete_transform(state: &mut State, id: TransformId) -> Result<Outcome, Refused> {
    let transform = state.transform_by_id(id).ok_or(Refused::UnknownTransformId(id))?;
    let name = transform.name.clone();
    state.transforms.remove(&name);
    Ok(Outcome::Done)
}

pub(super) fn set_transform_state(
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

pub(super) fn skip_record(
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

pub(super) fn transform_topics(
    state: &State,
    what: &'static str,
    names: &[TopicName],
) -> Result<Vec<TopicId>, Refused> {
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
