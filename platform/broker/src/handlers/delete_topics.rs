//! DeleteTopics: by name or by id.

use std::sync::Arc;

use millstream_catalog::Command;
use millstream_model::TopicId;
use millstream_protocol::{
    ErrorCode,
    messages::topics::{DeletableTopicResult, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse},
};
use tracing::info;

use crate::{
    errors::{Messages, WireError},
    readable::topic_named,
    shared::Shared,
};

/// The first version that says name or id for each topic.
const VERSION_BY_ID: i16 = 6;

pub(crate) async fn handle(shared: Arc<Shared>, version: i16, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let asked = if version >= VERSION_BY_ID {
        request.topics
    } else {
        let by_name = |name| DeleteTopicState { name: Some(name), topic_id: TopicId::NIL };
        request.topic_names.into_iter().map(by_name).collect()
    };
    let mut responses = Vec::with_capacity(asked.len());
    let mut messages = Messages::new();
    for topic in asked {
        let mut response =
            DeletableTopicResult { name: topic.name.clone(), topic_id: topic.topic_id, ..Default::default() };
        match delete(&shared, &topic).await {
            Ok((name, id)) => {
                response.name = Some(name);
                response.topic_id = id;
            }
            Err(error) => {
                response.error_code = error.kafka_code();
                response.error_message = messages.say(&error.message);
            }
        }
        responses.push(response);
    }
    DeleteTopicsResponse { responses, ..Default::default() }
}

async fn delete(shared: &Shared, asked: &DeleteTopicState) -> Result<(String, TopicId), WireError> {
    let state = shared.catalog.state();
    let topic = match &asked.name {
        Some(name) => topic_named(&state, name, "delete the view (`millstream view delete`), or its topic")?,
        None => state
            .topic_by_id(asked.topic_id)
            .ok_or_else(|| WireError::new(ErrorCode::UnknownTopicId, format!("no topic with id {}", asked.topic_id)))?,
    };
    shared.propose(Command::DeleteTopic { id: topic.id }).await?;
    shared.partitions.follow(&shared.catalog).await?;
    info!(topic = %topic.name, partitions = topic.partition_count(), "deleted");
    Ok((topic.name.to_string(), topic.id))
}
