//! What tests of the broker share: one on a simulated disk, with a topic.

use bytes::Bytes;
use millstream_catalog::Command;
use millstream_env::sim::World;
use millstream_model::{
    BrokerId, Digest, ModuleKind, ModuleRef, PartitionId, RoutingEpoch, TimestampMs, TopicConfig, TopicId, TopicName,
};
use millstream_protocol::{
    ErrorCode,
    messages::{
        produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
        topics::{DeleteTopicState, DeleteTopicsRequest},
    },
};
use millstream_record::{BatchBuilder, BatchOptions};
use millstream_replica::Acks;
use millstream_wasm::Compiler;
use uuid::Uuid;

use crate::{Broker, BrokerOptions, NewTopics, StartError, handlers::delete_topics, partition::PendingAppend};

/// The topic `t`.
pub(crate) const TOPIC: TopicId = TopicId(Uuid::from_u128(7));

/// Starts a broker over the world's `/data`.
pub(crate) fn try_start(world: &World) -> Result<Broker, StartError> {
    try_start_with(world, NewTopics::default())
}

/// As [`try_start`], with these settings of topics.
pub(crate) fn try_start_with(world: &World, new_topics: NewTopics) -> Result<Broker, StartError> {
    try_start_as(world, |options| options.new_topics = new_topics)
}

/// As [`try_start`], with changes to its options.
pub(crate) fn try_start_as(world: &World, change: impl FnOnce(&mut BrokerOptions)) -> Result<Broker, StartError> {
    let mut options = BrokerOptions {
        compiler: Compiler::InProcess,
        projection_dir: None,
        ..BrokerOptions::new(BrokerId(1), "/data".into())
    };
    change(&mut options);
    Ok(world.run_until(Broker::start(options, world.env(), Vec::new()))?.0)
}

pub(crate) fn start(world: &World) -> Broker {
    try_start(world).unwrap()
}

/// Ends a broker in order, and its process.
pub(crate) fn stop(world: &World, broker: Broker) {
    world.run_until(broker.shutdown()).unwrap();
    drop(broker);
    world.first().kill();
}

/// Makes the topic.
pub(crate) async fn create(broker: &Broker, partitions: i32) {
    let command = Command::CreateTopic {
        id: TOPIC,
        name: TopicName::new("t").unwrap(),
        partitions,
        replication_factor: 1,
        config: TopicConfig::default(),
        at: TimestampMs(0),
    };
    let shared = broker.shared();
    shared.catalog.propose(command).await.unwrap();
    shared.partitions.follow(&shared.catalog).await.unwrap();
}

/// A request of one batch for the topic, placed in a routing epoch if one is known.
pub(crate) fn produce_request(partition: PartitionId, batch: Bytes, routing_epoch: RoutingEpoch) -> ProduceRequest {
    let data = PartitionProduceData { index: partition, records: Some(batch), routing_epoch };
    let topic = TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks: -1, timeout_ms: 1_000, topic_data: vec![topic], ..Default::default() }
}

/// What has the catalog know of a mapper. Nobody can run it: there are no bytes of it.
pub(crate) fn push_module(module: &ModuleRef) -> Command {
    Command::PushModule {
        module: module.clone(),
        digest: Digest([1; 32]),
        size_bytes: 1,
        kinds: [ModuleKind::Mapper].into(),
        needs: Default::default(),
        declarations: Vec::new(),
        at: TimestampMs(0),
    }
}

/// Deletes the topic.
pub(crate) async fn delete(broker: &Broker) -> ErrorCode {
    let asked = DeleteTopicState { name: Some("t".into()), topic_id: TopicId::NIL };
    let request = DeleteTopicsRequest { topics: vec![asked], ..Default::default() };
    delete_topics::handle(broker.shared().clone(), 6, request).await.responses[0].error_code
}

/// Appends one record to a partition of it.
pub(crate) fn append(broker: &Broker, partition: i32) -> PendingAppend {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(TimestampMs(0), None, Some(b"value"), &[]).unwrap();
    let led = broker.shared().partitions.find(TOPIC, PartitionId(partition)).unwrap();
    led.append(vec![builder.build().unwrap()], Acks::All).unwrap()
}
