//! CreateTopics: names and settings checked, agreed on, and led by this broker before the answer.

use std::sync::Arc;

use millstream_catalog::{Command, State};
use millstream_model::{TimestampMs, TopicConfig, TopicId, TopicName};
use millstream_protocol::{
    ErrorCode,
    messages::topics::{
        CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse,
    },
};
use uuid::Uuid;

use crate::{
    errors::{Messages, WireError},
    pools::Use,
    shared::Shared,
};

/// Partitions of a topic whose creator leaves the number open (Kafka's `num.partitions`).
const PARTITIONS_DEFAULT: i32 = 1;

pub(crate) async fn handle(shared: Arc<Shared>, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut messages = Messages::new();
    for topic in request.topics {
        let name = topic.name.clone();
        topics.push(match create(&shared, topic, request.validate_only).await {
            Ok(result) => result,
            Err(error) => CreatableTopicResult {
                name,
                error_code: error.kafka_code(),
                error_message: messages.say(&error.message),
                ..Default::default()
            },
        });
    }
    CreateTopicsResponse { topics, ..Default::default() }
}

async fn create(
    shared: &Arc<Shared>,
    topic: CreatableTopic,
    validate_only: bool,
) -> Result<CreatableTopicResult, WireError> {
    let name = TopicName::new(&topic.name).map_err(|error| WireError::new(ErrorCode::InvalidTopic, error))?;
    if !topic.assignments.is_empty() {
        return Err(WireError::not_built("choosing the replicas of each partition"));
    }
    let settings = topic.configs.iter().map(|config| (config.name.as_str(), config.value.as_deref().unwrap_or("")));
    let config = TopicConfig::from_pairs(settings)?;
    let partitions = if topic.num_partitions == -1 { PARTITIONS_DEFAULT } else { topic.num_partitions };
    let replication_factor = if topic.replication_factor == -1 { 1 } else { topic.replication_factor };
    let state = shared.catalog.state();
    if let Some(module) = &config.partitioner {
        crate::pools::find(&state, module)?;
    }
    let command = Command::CreateTopic {
        id: TopicId(Uuid::from_u128(shared.env.rng.next_u128())),
        name: name.clone(),
        partitions,
        replication_factor: replication_factor.into(),
        config: config.clone(),
        at: TimestampMs(shared.env.clock.wall_ms()),
    };
    // Refused by what the catalog knows before an instance is made; the agreed log decides in the end.
    let would_be = shared.dry_run(&command)?;
    if !validate_only {
        shared.require_room(partitions.unsigned_abs().into())?;
        check_partitioner(shared, &would_be, &name).await?;
        shared.propose(command).await?;
        shared.partitions.follow(&shared.catalog).await?;
    }
    let configs = config.pairs().map(|(name, value, is_default)| CreatableTopicConfigs {
        name,
        value,
        read_only: false,
        config_source: if is_default { 5 } else { 1 },
        is_sensitive: false,
    });
    Ok(CreatableTopicResult {
        topic_id: shared.catalog.state().topic(name.as_str()).map_or(TopicId::NIL, |topic| topic.id),
        name: topic.name,
        num_partitions: partitions,
        replication_factor,
        configs: Some(configs.collect()),
        ..Default::default()
    })
}

/// Starts the partitioner once with the topic's parameters, so that wrong ones show now and not at the first record.
async fn check_partitioner(shared: &Shared, would_be: &State, name: &TopicName) -> Result<(), WireError> {
    let Some(usage) = would_be.topic(name.as_str()).and_then(|topic| Use::routing(topic)) else { return Ok(()) };
    for (module, pool) in shared.modules.candidates(would_be, vec![usage]).await? {
        pool.check().await.map_err(|error| WireError::does_not_start(module, &error))?;
    }
    Ok(())
}
