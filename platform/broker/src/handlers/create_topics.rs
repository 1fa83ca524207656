//! CreateTopics: names and settings checked, agreed on, and led by this broker before the answer.

use std::sync::Arc;

use millstream_catalog::{Command, State, Topic};
use millstream_model::{TimestampMs, TopicConfig, TopicId, TopicName};
use millstream_protocol::{
    ErrorCode,
    messages::{
        configs::{SOURCE_DEFAULT, SOURCE_TOPIC},
        topics::{
            CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse,
        },
    },
};
use uuid::Uuid;

use crate::{
    errors::{Messages, WireError},
    pools::Use,
    shared::Shared,
};

/// "As many as the broker is set to make", of partitions and of replicas.
pub(super) const LEFT_OPEN: i16 = -1;

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

/// Makes one topic, led by this broker once this returns.
pub(super) async fn create(
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
    let defaults = &shared.options.new_topics;
    let partitions =
        if topic.num_partitions == i32::from(LEFT_OPEN) { defaults.partitions } else { topic.num_partitions };
    let replication_factor =
        if topic.replication_factor == LEFT_OPEN { defaults.replication_factor } else { topic.replication_factor };
    // The catalog refuses a number below 1, in its own words.
    check_insync_replicas_min(&config, usize::try_from(replication_factor).unwrap_or(0).max(1))?;
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
        if let Some(topic) = would_be.topic(name.as_str()) {
            shared.blame(&command, check_partitioner(shared, &would_be, topic).await)?;
        }
        shared.propose(command).await?;
        shared.partitions.follow(&shared.catalog).await?;
    }
    let configs = config.pairs().map(|(name, value, is_default)| CreatableTopicConfigs {
        read_only: false,
        name,
        value,
        config_source: if is_default { SOURCE_DEFAULT } else { SOURCE_TOPIC },
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

/// Whether so many replicas can be in sync as a topic asks for. Kafka takes more, and refuses acks=all for ever then; here the high
/// watermark stands still, too, while fewer are in sync (KIP-966), so that nothing of the topic could be read.
pub(super) fn check_insync_replicas_min(config: &TopicConfig, replicas: usize) -> Result<(), WireError> {
    let min = config.insync_replicas_min;
    if min as usize <= replicas {
        return Ok(());
    }
    let message = format!(
        "min.insync.replicas={min} asks for more replicas than a partition has, which is {replicas}: nothing that is produced \
         could be read. Set it to {replicas} at most"
    );
    Err(WireError::new(ErrorCode::InvalidConfig, message))
}

/// Starts the partitioner once with the topic's parameters, so that wrong ones show now and not at the first record.
pub(super) async fn check_partitioner(shared: &Shared, state: &State, would_be: &Topic) -> Result<(), WireError> {
    let Some(usage) = Use::routing(would_be) else { return Ok(()) };
    for (module, pool) in shared.modules.candidates(state, vec![usage]).await? {
        pool.check().await.map_err(|error| WireError::does_not_start(module, &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::World;
    use millstream_protocol::messages::topics::CreatableTopicConfig;

    use super::*;
    use crate::testing::{start, stop};

    #[test]
    fn the_answer_tells_of_each_setting_where_it_comes_from_and_whether_it_can_be_changed() {
        let world = World::new(1);
        let broker = start(&world);
        let config = |name: &str, value: &str| CreatableTopicConfig { name: name.into(), value: Some(value.into()) };
        let configs = vec![config("retention.ms", "1"), config("millstream.partitioner.param.field", "tailnum")];
        let topic = CreatableTopic {
            name: "t".into(),
            num_partitions: 1,
            replication_factor: 1,
            configs,
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
        let mut answer = world.run_until(handle(broker.shared().clone(), request));
        let configs = answer.topics.remove(0).configs.unwrap();
        let told = |name: &str| {
            let config = configs.iter().find(|config| config.name == name).unwrap();
            (config.read_only, config.config_source)
        };
        assert_eq!(told("retention.ms"), (false, SOURCE_TOPIC));
        assert_eq!(told("segment.ms"), (false, SOURCE_DEFAULT));
        assert_eq!(told("millstream.partitioner"), (false, SOURCE_DEFAULT));
        assert_eq!(told("millstream.partitioner.param.field"), (false, SOURCE_TOPIC));
        stop(&world, broker);
    }

    #[test]
    fn more_replicas_in_sync_than_there_are_are_refused() {
        let check = |min: u32, replicas: usize, expected: Option<&str>| {
            let config = TopicConfig { insync_replicas_min: min, ..TopicConfig::default() };
            let told = check_insync_replicas_min(&config, replicas).err();
            assert_eq!(told.as_ref().map(|error| error.code), expected.map(|_| ErrorCode::InvalidConfig));
            assert!(told.zip(expected).is_none_or(|(error, part)| error.message.contains(part)), "{min} {replicas}");
        };
        check(1, 1, None);
        check(2, 3, None);
        check(3, 3, None);
        check(2, 1, Some("min.insync.replicas=2 asks for more replicas than a partition has, which is 1"));
        check(1000, 3, Some("Set it to 3 at most"));
    }
}
