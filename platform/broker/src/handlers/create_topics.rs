//! CreateTopics: names and settings checked, agreed on, and led by this broker before the answer.

use std::sync::Arc;

use millstream_catalog::{Command, State, Topic, check_assignment};
use millstream_model::{BrokerId, PartitionId, TimestampMs, TopicConfig, TopicId, TopicName};
use millstream_protocol::{
    ErrorCode,
    messages::topics::{
        CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest,
        CreateTopicsResponse,
    },
};
use uuid::Uuid;

use super::{
    change::in_time,
    describe_configs::source,
    wire::{change_wait, times_named},
};
use crate::{
    errors::{Messages, WireError},
    pools::Use,
    shared::Shared,
};

/// "As many as the broker is set to make", of partitions and of replicas.
pub(super) const LEFT_OPEN: i16 = -1;

pub(crate) async fn handle(shared: Arc<Shared>, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let mut named = times_named(request.topics.iter().map(|topic| topic.name.clone()));
    let mut topics = Vec::with_capacity(named.len());
    let mut deadline = shared.env.clock.sleep(change_wait(request.timeout_ms));
    let late = "the topic is not there yet: it comes, unless it is refused";
    let mut messages = Messages::new();
    for topic in request.topics {
        let Some((name, times)) = named.remove_entry(&topic.name) else { continue };
        let outcome = match times {
            1 => {
                let (made_by, validate_only) = (shared.clone(), request.validate_only);
                let make = async move { create(&made_by, topic, validate_only).await };
                in_time(&shared, "create topic", make, &mut deadline, late).await
            }
            _ => Err(WireError::new(ErrorCode::InvalidRequest, "Duplicate topic name.")),
        };
        topics.push(match outcome {
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
    let assigned = assigned(&topic)?;
    let settings = topic.configs.iter().map(|config| (config.name.as_str(), config.value.as_deref().unwrap_or("")));
    let mut config = TopicConfig::from_pairs(settings)?;
    let state = shared.catalog.state();
    config.follow(&state.topic_defaults);
    let (partitions, replication_factor) = counts(shared, &topic, assigned.as_deref());
    // The catalog refuses a number below 1, in its own words.
    check_insync_replicas_min(&config, usize::try_from(replication_factor).unwrap_or(0).max(1))?;
    if let Some(assigned) = &assigned {
        assigned.iter().try_for_each(|given| check_assignment(&state, given, assigned[0].len()))?;
    }
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
    let made = would_be.topic(name.as_str());
    if let (Some(assigned), Some(made)) = (&assigned, made) {
        check_assigned(made, assigned)?;
    }
    if !validate_only {
        shared.require_room(partitions.unsigned_abs().into())?;
        if let Some(topic) = made {
            shared.blame(&command, check_partitioner(shared, &would_be, topic).await)?;
        }
        shared.propose(command).await?;
        shared.partitions.follow(&shared.catalog).await?;
    }
    let configs = config.pairs().map(|(name, value, is_default)| CreatableTopicConfigs {
        read_only: false,
        config_source: source(config.source(&name, is_default, &state.topic_defaults)),
        name,
        value,
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

/// The replicas that a client chooses for each partition, if it does: then it leaves both numbers open.
fn assigned(topic: &CreatableTopic) -> Result<Option<Vec<&[BrokerId]>>, WireError> {
    if topic.assignments.is_empty() {
        return Ok(None);
    }
    let both = |what| {
        let message = format!("A manual partition assignment was specified, but {what} was not set to -1.");
        Err(WireError::new(ErrorCode::InvalidRequest, message))
    };
    if topic.replication_factor != LEFT_OPEN {
        return both("replication factor");
    }
    if topic.num_partitions != i32::from(LEFT_OPEN) {
        return both("numPartitions");
    }
    let mut given: Vec<&CreatableReplicaAssignment> = topic.assignments.iter().collect();
    given.sort_by_key(|given| given.partition_index);
    if let Some([_, twice]) = given.array_windows().find(|[one, two]| one.partition_index == two.partition_index) {
        let message = format!("Found multiple manual partition assignments for partition {}", twice.partition_index);
        return Err(WireError::new(ErrorCode::InvalidReplicaAssignment, message));
    }
    if (0..).map(PartitionId).zip(&given).any(|(index, given)| given.partition_index != index) {
        let message = "partitions should be a consecutive 0-based integer sequence";
        return Err(WireError::new(ErrorCode::InvalidReplicaAssignment, message));
    }
    Ok(Some(given.into_iter().map(|given| &given.broker_ids[..]).collect()))
}

/// How many partitions a topic is to have, and replicas of each: what is asked for, else what was chosen, else the broker's defaults.
fn counts(shared: &Shared, topic: &CreatableTopic, assigned: Option<&[&[BrokerId]]>) -> (i32, i16) {
    let defaults = &shared.options.new_topics;
    if let Some(assigned) = assigned {
        let replicas = assigned.first().map_or(0, |brokers| brokers.len());
        // One without replicas is refused by its rule, and not for their number.
        let replicas = i16::try_from(replicas.max(1)).unwrap_or(i16::MAX);
        return (i32::try_from(assigned.len()).unwrap_or(i32::MAX), replicas);
    }
    let partitions =
        if topic.num_partitions == i32::from(LEFT_OPEN) { defaults.partitions } else { topic.num_partitions };
    let replication_factor =
        if topic.replication_factor == LEFT_OPEN { defaults.replication_factor } else { topic.replication_factor };
    (partitions, replication_factor)
}

/// Whether a client's choice of replicas is what the topic `made` would get: a choice among several brokers is not built.
fn check_assigned(made: &Topic, assigned: &[&[BrokerId]]) -> Result<(), WireError> {
    match made.partitions.iter().zip(assigned).all(|(made, given)| made.replicas == *given) {
        true => Ok(()),
        false => Err(WireError::not_built("choosing among several brokers for each partition")),
    }
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
    use millstream_protocol::messages::{
        configs::{SOURCE_DEFAULT, SOURCE_TOPIC},
        topics::CreatableTopicConfig,
    };

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
    fn a_client_that_waits_no_longer_is_told_and_the_topic_comes() {
        let world = World::new(1);
        let broker = start(&world);
        let topic = CreatableTopic { name: "t".into(), num_partitions: 3, replication_factor: 1, ..Default::default() };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 500, ..Default::default() };
        let answer = world.run_until(async {
            let mut handled = std::pin::pin!(handle(broker.shared().clone(), request));
            assert!(futures::poll!(handled.as_mut()).is_pending());
            world.clock().advance(std::time::Duration::from_secs(1));
            handled.await
        });
        let told = &answer.topics[0];
        assert_eq!(told.error_code, ErrorCode::RequestTimedOut);
        assert!(told.error_message.as_deref().unwrap().contains("it comes"), "{told:?}");
        world.run_for(std::time::Duration::from_secs(10));
        assert!(broker.shared().catalog.state().topic("t").is_some());
        stop(&world, broker);
    }

    #[test]
    fn replicas_can_be_chosen_as_kafkas_brokers_have_it() {
        let world = World::new(1);
        let broker = start(&world);
        let chosen = |given: &[(i32, &[i32])]| CreatableTopic {
            name: "t".into(),
            num_partitions: -1,
            replication_factor: -1,
            assignments: given
                .iter()
                .map(|(index, brokers)| CreatableReplicaAssignment {
                    partition_index: PartitionId(*index),
                    broker_ids: brokers.iter().copied().map(BrokerId).collect(),
                })
                .collect(),
            ..Default::default()
        };
        let create = |topics: Vec<CreatableTopic>| {
            let request = CreateTopicsRequest { topics, ..Default::default() };
            let answer = world.run_until(handle(broker.shared().clone(), request));
            let told =
                |result: CreatableTopicResult| (result.error_code, result.num_partitions, result.replication_factor);
            answer.topics.into_iter().map(told).collect::<Vec<_>>()
        };
        let (bad, unclear) = (ErrorCode::InvalidReplicaAssignment, ErrorCode::InvalidRequest);
        let refused: [&[(i32, &[i32])]; 6] = [
            &[(0, &[])],
            &[(0, &[7])],
            &[(0, &[1, 1])],
            &[(0, &[1]), (0, &[1])],
            &[(0, &[1]), (2, &[1])],
            &[(1, &[1])],
        ];
        for given in refused {
            assert_eq!(create(vec![chosen(given)])[0].0, bad, "{given:?}");
        }
        let sound: &[(i32, &[i32])] = &[(1, &[1]), (0, &[1])];
        assert_eq!(create(vec![CreatableTopic { num_partitions: 2, ..chosen(sound) }])[0].0, unclear);
        assert_eq!(create(vec![CreatableTopic { replication_factor: 1, ..chosen(sound) }])[0].0, unclear);
        // Named twice: answered once, and not made.
        let twice = create(vec![chosen(sound), chosen(sound)]);
        assert_eq!((twice.len(), twice[0].0), (1, unclear));
        assert!(broker.shared().catalog.state().topic("t").is_none());
        assert_eq!(create(vec![chosen(sound)]), [(ErrorCode::None, 2, 1)]);
        assert_eq!(broker.shared().catalog.state().topic("t").unwrap().partitions.len(), 2);
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
