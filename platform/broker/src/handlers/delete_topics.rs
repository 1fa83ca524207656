//! DeleteTopics: by name or by id.

use std::{collections::HashSet, sync::Arc};

use millstream_catalog::Command;
use millstream_model::TopicId;
use millstream_protocol::{
    ErrorCode,
    messages::topics::{DeletableTopicResult, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse},
};
use tracing::info;

use super::{change::in_time, wire::change_wait};
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
    let mut deadline = shared.env.clock.sleep(change_wait(request.timeout_ms));
    let mut responses = Vec::with_capacity(asked.len());
    let mut messages = Messages::new();
    // One that is asked for again is answered once, as a mistake, and stays.
    let mut seen = HashSet::new();
    let repeated: HashSet<_> = asked.iter().filter(|topic| !seen.insert(key(topic))).map(key).collect();
    let mut told = HashSet::new();
    for topic in asked {
        if repeated.contains(&key(&topic)) && !told.insert(key(&topic)) {
            continue;
        }
        let mut response =
            DeletableTopicResult { name: topic.name.clone(), topic_id: topic.topic_id, ..Default::default() };
        let deleted = match repeated.contains(&key(&topic)) {
            true => Err(WireError::new(ErrorCode::InvalidRequest, "it is named more than once")),
            false => {
                let deleted_by = shared.clone();
                let delete = async move { delete(&deleted_by, &topic).await };
                in_time(&shared, "delete topic", delete, &mut deadline, "the topic is still there: it goes").await
            }
        };
        match deleted {
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

/// What makes two of them the same.
fn key(topic: &DeleteTopicState) -> (Option<String>, TopicId) {
    (topic.name.clone(), topic.topic_id)
}

async fn delete(shared: &Shared, asked: &DeleteTopicState) -> Result<(String, TopicId), WireError> {
    let state = shared.catalog.state();
    let topic = match (&asked.name, asked.topic_id) {
        (Some(name), TopicId::NIL) => {
            topic_named(&state, name, "delete the view (`millstream view delete`), or its topic")?
        }
        (None, TopicId::NIL) => {
            return Err(WireError::new(ErrorCode::InvalidRequest, "neither a name nor an id is given"));
        }
        (None, id) => state
            .topic_by_id(id)
            .ok_or_else(|| WireError::new(ErrorCode::UnknownTopicId, format!("no topic with id {id}")))?,
        // They need not mean the same topic.
        (Some(_), _) => return Err(WireError::new(ErrorCode::InvalidRequest, "both a name and an id are given")),
    };
    shared.propose(Command::DeleteTopic { id: topic.id }).await?;
    shared.partitions.follow(&shared.catalog).await?;
    info!(topic = %topic.name, partitions = topic.partition_count(), "deleted");
    Ok((topic.name.to_string(), topic.id))
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::World;
    use uuid::Uuid;

    use super::*;
    use crate::testing::{TOPIC, create, start};

    fn state(name: Option<&str>, topic_id: TopicId) -> DeleteTopicState {
        DeleteTopicState { name: name.map(Into::into), topic_id }
    }

    /// As Kafka's: the topic of the name was deleted, whatever the id meant.
    #[test]
    fn what_does_not_say_which_topic_is_meant_deletes_none() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 1));
        let other = TopicId(Uuid::from_u128(99));
        let ask = |topics: Vec<DeleteTopicState>| {
            let request = DeleteTopicsRequest { topics, ..Default::default() };
            let response = world.run_until(handle(broker.shared().clone(), 6, request));
            response.responses.into_iter().map(|topic| topic.error_code).collect::<Vec<_>>()
        };
        let invalid = ErrorCode::InvalidRequest;
        assert_eq!(ask(vec![state(Some("t"), other)]), [invalid]);
        assert_eq!(ask(vec![state(Some("t"), TOPIC)]), [invalid]);
        assert_eq!(ask(vec![state(None, TopicId::NIL)]), [invalid]);
        assert_eq!(ask(vec![state(Some("t"), TopicId::NIL), state(Some("t"), TopicId::NIL)]), [invalid]);
        assert_eq!(ask(vec![state(None, TOPIC), state(None, other), state(None, TOPIC)]).len(), 2);
        assert!(broker.shared().catalog.state().topic_by_id(TOPIC).is_some());
        assert_eq!(ask(vec![state(None, other), state(None, TOPIC)]), [ErrorCode::UnknownTopicId, ErrorCode::None]);
        assert!(broker.shared().catalog.state().topic_by_id(TOPIC).is_none());
    }
    #[test]
    fn a_client_that_waits_no_longer_is_told_and_the_topic_goes() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 1));
        let request = DeleteTopicsRequest { topics: vec![state(None, TOPIC)], timeout_ms: 500, ..Default::default() };
        let answer = world.run_until(async {
            let mut handled = std::pin::pin!(handle(broker.shared().clone(), 6, request));
            assert!(futures::poll!(handled.as_mut()).is_pending());
            world.clock().advance(std::time::Duration::from_secs(1));
            handled.await
        });
        assert_eq!(answer.responses[0].error_code, ErrorCode::RequestTimedOut);
        world.run_for(std::time::Duration::from_secs(1));
        assert!(broker.shared().catalog.state().topic_by_id(TOPIC).is_none());
    }
}
