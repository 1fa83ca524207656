//! What a name or an id on the wire stands for: a topic, or a view of one.

use std::sync::Arc;

use millstream_catalog::{State, Topic, View};
use millstream_model::{TopicId, TopicName, ViewId};
use millstream_protocol::ErrorCode;

use crate::errors::WireError;

/// The first version of Produce and of Fetch whose topics are named by id.
pub(crate) const VERSION_BY_ID: i16 = 13;

/// Something that can be read.
#[derive(Clone)]
pub(crate) enum Readable {
    Topic(Arc<Topic>),
    View { view: Arc<View>, topic: Arc<Topic> },
}

impl Readable {
    /// What a Produce or Fetch request of this version names.
    pub(crate) fn resolve(state: &State, version: i16, name: &str, id: TopicId) -> Result<Self, WireError> {
        let (found, code) = if version >= VERSION_BY_ID {
            (Self::by_id(state, id), ErrorCode::UnknownTopicId)
        } else {
            (Self::by_name(state, name), ErrorCode::UnknownTopicOrPartition)
        };
        found.ok_or_else(|| WireError::new(code, code.text()))
    }

    pub(crate) fn by_name(state: &State, name: &str) -> Option<Self> {
        if let Some(topic) = state.topic(name) {
            return Some(Self::Topic(topic.clone()));
        }
        Self::view(state, state.view(name)?)
    }

    /// As [`Readable::by_name`], or why not.
    pub(crate) fn named(state: &State, name: &str) -> Result<Self, WireError> {
        Self::by_name(state, name).ok_or_else(|| unknown_topic(name))
    }

    /// Clients that read by id (Fetch from version 13 on) use a view's id as they use a topic's.
    pub(crate) fn by_id(state: &State, id: TopicId) -> Option<Self> {
        if let Some(topic) = state.topic_by_id(id) {
            return Some(Self::Topic(topic.clone()));
        }
        Self::view(state, state.view_by_id(ViewId(id.0))?)
    }

    fn view(state: &State, view: &Arc<View>) -> Option<Self> {
        let topic = state.topic_by_id(view.topic)?;
        Some(Self::View { view: view.clone(), topic: topic.clone() })
    }

    /// The topic whose partitions, leaders and offsets these are.
    pub(crate) fn topic(&self) -> &Arc<Topic> {
        match self {
            Self::Topic(topic) | Self::View { topic, .. } => topic,
        }
    }

    /// Whether nothing has changed about it.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let view = |of: &Self| match of {
            Self::Topic(_) => None,
            Self::View { view, .. } => Some(Arc::as_ptr(view)),
        };
        Arc::ptr_eq(self.topic(), other.topic()) && view(self) == view(other)
    }

    /// The name that clients know it by.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Topic(topic) => topic.name.as_str(),
            Self::View { view, .. } => view.name.as_str(),
        }
    }

    /// The id that clients know it by.
    pub(crate) fn id(&self) -> TopicId {
        match self {
            Self::Topic(topic) => topic.id,
            Self::View { view, .. } => TopicId(view.id.0),
        }
    }
}

/// The topic of a name, for what cannot be asked of a view. `instead`: what whoever names one is to do.
pub(crate) fn topic_named<'a>(state: &'a State, name: &str, instead: &str) -> Result<&'a Arc<Topic>, WireError> {
    match Readable::by_name(state, name) {
        Some(Readable::View { view, topic }) => {
            let message = format!("{} is a view of {}: {instead}", view.name, topic.name);
            Err(WireError::new(ErrorCode::InvalidTopic, message))
        }
        _ => state.topic(name).ok_or_else(|| unknown_topic(name)),
    }
}

/// As [`unknown_topic`], or that nothing can be named so. Kafka's brokers tell these two apart where something is described.
pub(crate) fn no_topic(name: &str) -> WireError {
    TopicName::new(name).map_or_else(|error| WireError::new(ErrorCode::InvalidTopic, error), |_| unknown_topic(name))
}

pub(crate) fn unknown_topic(name: &str) -> WireError {
    let message = format!("no topic {name:?}: see `millstream topic list`");
    WireError::new(ErrorCode::UnknownTopicOrPartition, message)
}
