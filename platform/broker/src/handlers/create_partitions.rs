//! CreatePartitions: more partitions for topics, agreed on, and led by this broker before the answer.
//!
//! That opens a routing epoch, which is in force before the answer, too: see `platform/catalog/src/apply/routing.rs`.
//!
//! Views of the topic show them at once. Transforms that read it begin at the first record of each: that is written down before anybody
//! can append to one.

use std::sync::Arc;

use millstream_catalog::{Command, ProposeError, Refused};
use millstream_model::{BrokerId, TopicId};
use millstream_protocol::{
    ErrorCode,
    messages::topics::{
        CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic, CreatePartitionsTopicResult,
    },
};
use tracing::info;

use super::{
    change::in_time,
    wire::{client_wait, times_named},
};
use crate::{
    errors::{Messages, WireError},
    readable::topic_named,
    shared::Shared,
};

/// How often a change is made anew because somebody else's came first. Each time one of them went ahead.
const ATTEMPTS: usize = 10;

pub(crate) async fn handle(shared: Arc<Shared>, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let mut named = times_named(request.topics.iter().map(|topic| topic.name.clone()));
    let mut deadline = shared.env.clock.sleep(client_wait(request.timeout_ms));
    let (mut results, mut messages) = (Vec::new(), Messages::new());
    for topic in request.topics {
        let Some(times) = named.remove(&topic.name) else { continue };
        let mut result = CreatePartitionsTopicResult { name: topic.name.clone(), ..Default::default() };
        let outcome = match times {
            1 => create(&shared, topic, request.validate_only, &mut deadline).await,
            _ => Err(WireError::new(ErrorCode::InvalidRequest, "Duplicate topic name.")),
        };
        if let Err(error) = outcome {
            result.error_code = error.kafka_code();
            result.error_message = messages.say(&error.message);
        }
        results.push(result);
    }
    CreatePartitionsResponse { results, ..Default::default() }
}

async fn create(
    shared: &Arc<Shared>,
    asked: CreatePartitionsTopic,
    validate_only: bool,
    deadline: &mut (impl Future<Output = ()> + Unpin),
) -> Result<(), WireError> {
    let CreatePartitionsTopic { name, count, assignments } = asked;
    let replicas: Option<Vec<_>> = assignments.map(|given| given.into_iter().map(|given| given.broker_ids).collect());
    let made = {
        let shared = shared.clone();
        async move {
            let mut attempts = ATTEMPTS;
            loop {
                attempts -= 1;
                match create_once(&shared, &name, count, replicas.clone(), validate_only).await {
                    // One change of its routing at a time: that one first.
                    Err(Failed { under_way: Some(topic), .. }) if attempts > 0 => {
                        shared.partitions.open_routings(&shared.catalog, Some(topic)).await?;
                    }
                    outcome => return outcome.map_err(|failed| failed.error),
                }
            }
        }
    };
    let late = "the partitions are not there yet: they come, unless the topic's description says otherwise";
    in_time(shared, "create partitions", made, deadline, late).await
}

/// Why there are no more partitions.
struct Failed {
    error: WireError,
    /// The topic, where it is for another change of its routing.
    under_way: Option<TopicId>,
}

impl<E: Into<WireError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { error: error.into(), under_way: None }
    }
}

async fn create_once(
    shared: &Shared,
    name: &str,
    count: i32,
    replicas: Option<Vec<Vec<BrokerId>>>,
    validate_only: bool,
) -> Result<(), Failed> {
    let state = shared.catalog.state();
    let topic = topic_named(&state, name, "add partitions to the topic")?;
    let (id, there) = (topic.id, topic.partition_count());
    let command = Command::CreatePartitions { id, partitions: count, replicas };
    // Refused by what the catalog knows before anything is written; the agreed log decides in the end.
    let failed = |refused: Refused| Failed {
        under_way: matches!(refused, Refused::RoutingUnderWay(_)).then_some(id),
        error: refused.into(),
    };
    shared.dry_run(&command).map_err(failed)?;
    if validate_only {
        return Ok(());
    }
    shared.require_room(count.abs_diff(there).into())?;
    shared.catalog.propose(command).await.map_err(|error| match error {
        ProposeError::Refused(refused) => failed(refused),
        other => other.into(),
    })?;
    shared.partitions.put_in_force(&shared.catalog, id).await?;
    info!(topic = name, before = there, partitions = count, "has more partitions");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millstream_catalog::{OnError, StartAt};
    use millstream_env::sim::World;
    use millstream_model::{ModuleRef, Offset, PartitionId, TimestampMs, TransformId};
    use millstream_protocol::messages::topics::CreatePartitionsAssignment;
    use uuid::Uuid;

    use super::*;
    use crate::{
        Broker,
        testing::{TOPIC, append, create, push_module, start, stop},
        transform::stored,
    };

    fn topic(name: &str, count: i32) -> CreatePartitionsTopic {
        CreatePartitionsTopic { name: name.into(), count, assignments: None }
    }

    async fn ask(
        broker: &Broker,
        topics: Vec<CreatePartitionsTopic>,
        validate_only: bool,
    ) -> Vec<(String, ErrorCode, String)> {
        let request = CreatePartitionsRequest { topics, timeout_ms: 10_000, validate_only };
        let told =
            |told: CreatePartitionsTopicResult| (told.name, told.error_code, told.error_message.unwrap_or_default());
        handle(broker.shared().clone(), request).await.results.into_iter().map(told).collect()
    }

    fn count(broker: &Broker) -> i32 {
        broker.shared().catalog.state().topic("t").unwrap().partition_count()
    }

    #[test]
    fn new_partitions_take_records_when_it_is_answered_and_after_a_crash() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 2));
        world.run_until(append(&broker, 1).commit).unwrap();
        let told = world.run_until(ask(&broker, vec![topic("t", 5)], false));
        assert_eq!(told, [("t".into(), ErrorCode::None, String::new())]);
        for partition in 2..5 {
            let appended = append(&broker, partition);
            assert_eq!(appended.base_offset, Offset(0));
            world.run_until(appended.commit).unwrap();
        }
        // Behind the marker of the routing epoch that was opened.
        assert_eq!(append(&broker, 1).base_offset, Offset(2));
        world.first().crash();
        drop(broker);
        let broker = start(&world);
        assert_eq!(count(&broker), 5);
        assert_eq!(append(&broker, 4).base_offset, Offset(1));
        stop(&world, broker);
    }

    #[test]
    fn what_cannot_be_is_told_with_kafkas_codes_and_changes_nothing() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 2));
        let by_hand = |brokers: &[i32]| {
            let broker_ids = brokers.iter().copied().map(BrokerId).collect();
            CreatePartitionsTopic {
                assignments: Some(vec![CreatePartitionsAssignment { broker_ids }]),
                ..topic("t", 3)
            }
        };
        for (asked, code, said) in [
            (topic("t", 2), ErrorCode::InvalidPartitions, "already has 2"),
            (topic("t", 1), ErrorCode::InvalidPartitions, "would not be an increase"),
            (topic("t", -1), ErrorCode::InvalidPartitions, "would not be an increase"),
            (topic("t", 10_001), ErrorCode::InvalidPartitions, "from 1 to 10000"),
            (topic("t", i32::MAX), ErrorCode::InvalidPartitions, "from 1 to 10000"),
            (topic("absent", 3), ErrorCode::UnknownTopicOrPartition, "absent"),
            (by_hand(&[2]), ErrorCode::InvalidReplicaAssignment, "no such broker"),
            (by_hand(&[]), ErrorCode::InvalidReplicaAssignment, "empty replica list"),
            (by_hand(&[1, 1]), ErrorCode::InvalidReplicaAssignment, "more than once"),
            (
                CreatePartitionsTopic { count: 4, ..by_hand(&[1]) },
                ErrorCode::InvalidReplicaAssignment,
                "only 1 assignment",
            ),
        ] {
            for validate_only in [true, false] {
                let told = world.run_until(ask(&broker, vec![asked.clone()], validate_only));
                assert!(told.len() == 1 && told[0].1 == code && told[0].2.contains(said), "{asked:?}: {told:?}");
            }
        }
        // Named twice: answered once, and neither counts. Others of the request are no matter.
        let asked = vec![topic("t", 3), topic("absent", 3), topic("t", 4)];
        let told = world.run_until(ask(&broker, asked, false));
        assert_eq!(told[0], ("t".into(), ErrorCode::InvalidRequest, "Duplicate topic name.".into()));
        assert_eq!((told.len(), told[1].1), (2, ErrorCode::UnknownTopicOrPartition));
        assert_eq!(world.run_until(ask(&broker, vec![topic("t", 3)], true))[0].1, ErrorCode::None);
        assert_eq!(count(&broker), 2, "who asks whether it may be changes nothing");
        // Whoever waits no longer is told so; it comes all the same.
        let request = CreatePartitionsRequest { topics: vec![topic("t", 3)], timeout_ms: 0, validate_only: false };
        let told = world.run_until(handle(broker.shared().clone(), request));
        assert_eq!(told.results[0].error_code, ErrorCode::RequestTimedOut);
        world.run_for(std::time::Duration::from_secs(1));
        assert_eq!(append(&broker, 2).base_offset, Offset(0));
        assert_eq!(world.run_until(ask(&broker, vec![by_hand(&[1])], false))[0].1, ErrorCode::InvalidPartitions);
        let by_hand = CreatePartitionsTopic { count: 4, ..by_hand(&[1]) };
        assert_eq!(world.run_until(ask(&broker, vec![by_hand], false))[0].1, ErrorCode::None);
        stop(&world, broker);
    }

    /// The catalog knows a transform, which nobody can run: its module is not there.
    fn deploy(world: &World, broker: &Broker, id: TransformId) {
        let module: ModuleRef = "m@1".parse().unwrap();
        let push = push_module(&module);
        let out = Command::CreateTopic {
            id: TopicId(Uuid::from_u128(8)),
            name: "out".parse().unwrap(),
            partitions: 1,
            replication_factor: 1,
            config: Default::default(),
            at: TimestampMs(0),
        };
        let transform = Command::DeployTransform {
            id,
            name: "x".parse().unwrap(),
            module,
            inputs: vec!["t".parse().unwrap()],
            outputs: vec!["out".parse().unwrap()],
            params: BTreeMap::new(),
            on_error: OnError::Fail,
            from: StartAt::End,
            lanes: 1,
            at: TimestampMs(0),
        };
        for command in [push, out, transform] {
            world.run_until(broker.shared().catalog.propose(command)).unwrap();
        }
    }

    /// Wherever the broker is killed: a transform, also one that stands still and was to begin at the end, has nothing of a new
    /// partition behind it.
    #[test]
    fn transforms_begin_at_the_first_record_of_a_new_partition_whatever_happens() {
        for crash in ["before it is led", "once it has records"] {
            let world = World::new(1);
            let broker = start(&world);
            world.run_until(create(&broker, 1));
            let id = TransformId(Uuid::from_u128(9));
            deploy(&world, &broker, id);
            match crash {
                "before it is led" => {
                    // Nobody follows the catalog any more.
                    broker.shared().stop.cancel();
                    world.run_for(std::time::Duration::from_secs(1));
                    let command = Command::CreatePartitions { id: TOPIC, partitions: 2, replicas: None };
                    world.run_until(broker.shared().catalog.propose(command)).unwrap();
                    assert!(broker.shared().partitions.find(TOPIC, PartitionId(1)).is_none());
                }
                _ => {
                    assert_eq!(world.run_until(ask(&broker, vec![topic("t", 2)], false))[0].1, ErrorCode::None);
                    for _ in 0..3 {
                        world.run_until(append(&broker, 1).commit).unwrap();
                    }
                }
            }
            world.first().crash();
            drop(broker);
            let broker = start(&world);
            let next = stored(broker.shared(), id, TOPIC, PartitionId(1));
            assert_eq!(next, Some(Offset(0)), "{crash}");
            stop(&world, broker);
        }
    }
}
