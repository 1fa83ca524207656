//! What clients may not do on a full disk: all that makes no room.

use std::{io::IoSlice, path::Path};

use millstream_catalog::{Reporter, TransformState};
use millstream_env::{OpenMode, sim::World};
use millstream_model::{ModuleRef, ProducerEpoch, ProducerId, TransformId};
use millstream_protocol::{
    extension::{modules::ModulePushRequest, transforms::TransformDeployRequest, views::ViewCreateRequest},
    messages::{
        configs::{AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest, RESOURCE_TOPIC},
        producers::InitProducerIdRequest,
        topics::{CreatableTopic, CreatePartitionsRequest, CreatePartitionsTopic, CreateTopicsRequest},
    },
};

use super::*;
use crate::{
    handlers::{alter_configs, create_partitions, create_topics, init_producer_id, modules, transforms, views},
    testing::{TOPIC, create, push_module, start},
};

async fn create_topic(shared: &Arc<Shared>, name: &str, num_partitions: i32) -> (ErrorCode, Option<String>) {
    let topic = CreatableTopic { name: name.into(), num_partitions, replication_factor: 1, ..Default::default() };
    let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
    let answer = create_topics::handle(shared.clone(), request).await.topics.remove(0);
    (answer.error_code, answer.error_message)
}

async fn alter(shared: &Arc<Shared>, name: &str, value: &str) -> (ErrorCode, Option<String>) {
    let change = AlterableConfig { name: name.into(), value: Some(value.into()), ..Default::default() };
    let resource =
        AlterConfigsResource { resource_type: RESOURCE_TOPIC, resource_name: "t".into(), configs: vec![change] };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() };
    let answer = alter_configs::change(shared.clone(), request).await.responses.remove(0);
    (answer.error_code, answer.error_message)
}

async fn grow(shared: &Arc<Shared>, count: i32) -> (ErrorCode, Option<String>) {
    let topic = CreatePartitionsTopic { name: "t".into(), count, assignments: None };
    let request = CreatePartitionsRequest { topics: vec![topic], timeout_ms: 60_000, validate_only: false };
    let answer = create_partitions::handle(shared.clone(), request).await.results.remove(0);
    (answer.error_code, answer.error_message)
}

/// What is refused is not in the metadata, whose writes end the broker where there is no room left for them.
#[test]
fn while_what_is_set_aside_is_given_up_nothing_is_made_or_changed_but_what_makes_room_is() {
    let world = World::new(1);
    let broker = start(&world);
    world.run_until(create(&broker, 2));
    let shared = broker.shared().clone();
    let module: ModuleRef = "m@1".parse().unwrap();
    let push = push_module(&module);
    world.run_until(shared.propose(push)).unwrap();
    assert_eq!(world.run_until(create_topic(&shared, "out", 1)).0, ErrorCode::None);
    world.disk().set_capacity(Some(world.disk().used_bytes()));
    // Something else that must be written.
    let file = shared.storage.disk().open(Path::new("/data/must"), OpenMode::Create).unwrap();
    file.write_at(&[IoSlice::new(b"be written")], 0).unwrap();
    let before = shared.catalog.state();

    let view =
        ViewCreateRequest { name: "v".into(), topic: "t".into(), chain: vec!["m@1".into()], ..Default::default() };
    let view = world.run_until(views::create(shared.clone(), view));
    let transform = TransformDeployRequest {
        name: "x".into(),
        module: "m@1".into(),
        inputs: vec!["t".into()],
        outputs: vec!["out".into()],
        ..Default::default()
    };
    let transform = world.run_until(transforms::deploy(shared.clone(), transform));
    let pushed = ModulePushRequest { name: "n".into(), version: "1".into(), ..Default::default() };
    let pushed = world.run_until(modules::push(shared.clone(), pushed));
    let refused = [
        world.run_until(create_topic(&shared, "more", 1)),
        world.run_until(alter(&shared, "max.message.bytes", "5000")),
        world.run_until(alter(&shared, "retention.ms", "-1")),
        world.run_until(alter(&shared, "retention.ms", "604799999")),
        world.run_until(grow(&shared, 3)),
        (view.error_code, view.error_message),
        (transform.error_code, transform.error_message),
        (pushed.error_code, pushed.error_message),
    ];
    for (code, message) in refused {
        assert_eq!(code, ErrorCode::KafkaStorage, "{message:?}");
        assert!(message.as_ref().is_some_and(|message| message.contains("by deleting topics")), "{message:?}");
    }
    let (producer_id, producer_epoch) = (ProducerId::NONE, ProducerEpoch::NONE);
    let request = InitProducerIdRequest { producer_id, producer_epoch, ..Default::default() };
    let given = world.run_until(init_producer_id::handle(shared.clone(), request));
    assert_eq!(given.error_code, ErrorCode::KafkaStorage);
    assert!(Arc::ptr_eq(&before, &shared.catalog.state()));

    // An operator's act; what a transform has come to is recorded.
    let reporter = Reporter { broker: shared.options.id, epoch: before.brokers[&shared.options.id].epoch };
    for (reporter, code) in [(None, ErrorCode::KafkaStorage), (Some(reporter), ErrorCode::TransformNotFound)] {
        let id = TransformId(uuid::Uuid::from_u128(1));
        let state = Command::SetTransformState { id, revision: 1, reporter, state: TransformState::Paused };
        assert_eq!(world.run_until(shared.propose(state)).unwrap_err().code, code);
    }
    // What lets go of records makes room.
    for (name, value) in [("retention.ms", "1000"), ("retention.bytes", "1000"), ("cleanup.policy", "compact,delete")] {
        assert_eq!(world.run_until(alter(&shared, name, value)), (ErrorCode::None, None), "{name}");
    }
    for deletion in [Command::DeleteModule { module }, Command::DeleteTopic { id: TOPIC }] {
        world.run_until(shared.propose(deletion)).unwrap();
    }
    world.disk().set_capacity(None);
    world.run_for(std::time::Duration::from_secs(10));
    assert_eq!(world.run_until(create_topic(&shared, "t", 1)).0, ErrorCode::None);
    assert_eq!(world.run_until(alter(&shared, "max.message.bytes", "5000")).0, ErrorCode::None);
}

#[test]
fn a_topic_is_not_made_where_there_is_no_room_for_its_partitions() {
    let world = World::new(1);
    let broker = start(&world);
    let shared = broker.shared();
    world.disk().set_capacity(Some(world.disk().used_bytes() + (1 << 20)));
    let (code, message) = world.run_until(create_topic(shared, "many", 1000));
    assert_eq!(code, ErrorCode::KafkaStorage);
    assert!(message.unwrap().contains("for 1000 new partitions"));
    assert!(shared.storage.has_room(0) && shared.catalog.state().topic("many").is_none());
    assert_eq!(world.run_until(create_topic(shared, "few", 3)).0, ErrorCode::None);
}
