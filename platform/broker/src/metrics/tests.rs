//! Does the snapshot tell what has happened, no more and no less, and does it stay small?

use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use millstream_env::{Connection, FrameSink, FrameSource, Net, sim::World};
use millstream_model::{TopicConfig, TopicName};
use millstream_protocol::{
    ApiKey, Call, ErrorCode, decode_response, encode_request,
    messages::{
        api_versions::ApiVersionsRequest,
        fetch::{FetchPartition, FetchRequest, FetchTopic},
        metadata::{MetadataRequest, MetadataRequestTopic},
        produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
    },
};
use millstream_record::{BatchBuilder, BatchOptions};
use millstream_wasm::Compiler;
use uuid::Uuid;

use super::*;
use crate::{BrokerOptions, testing};

/// A client with one stream.
struct Client {
    connection: Arc<dyn Connection>,
    source: FrameSource,
    sink: FrameSink,
}

impl Client {
    async fn connect(net: &dyn Net, address: std::net::SocketAddr) -> Self {
        let connection = net.connect(&address.to_string()).await.unwrap();
        let stream = connection.open().await.unwrap();
        Self { connection, source: stream.source, sink: stream.sink }
    }

    async fn send(&mut self, version: i16, request: impl Call) {
        let frame = encode_request(version, 1, Some("client"), &request.into()).unwrap();
        self.sink.send(frame).await.unwrap();
    }

    async fn call<R: Call>(&mut self, version: i16, request: R) -> R::Response {
        self.send(version, request).await;
        let frame = self.source.next().await.unwrap().unwrap();
        let (_, response) = decode_response(R::API, version, frame).unwrap();
        match R::Response::try_from(response) {
            Ok(response) => response,
            Err(other) => panic!("{other:?}"),
        }
    }
}

fn batch(records: usize) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for _ in 0..records {
        builder.push(TimestampMs(0), None, Some(b"value"), &[]).unwrap();
    }
    builder.build().unwrap()
}

fn produce(partition: i32, records: usize) -> ProduceRequest {
    let data =
        PartitionProduceData { index: PartitionId(partition), records: Some(batch(records)), ..Default::default() };
    let topic = TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks: -1, timeout_ms: 1000, topic_data: vec![topic], ..Default::default() }
}

fn fetch(partition: i32, from: i64) -> FetchRequest {
    let partition = FetchPartition {
        partition: PartitionId(partition),
        fetch_offset: millstream_model::Offset(from),
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    let topics = vec![FetchTopic { topic: "t".into(), partitions: vec![partition], ..Default::default() }];
    FetchRequest { max_wait_ms: 0, min_bytes: 1, max_bytes: 1 << 20, topics, ..Default::default() }
}

/// How often it was asked, and how many answers told of an error.
fn asked(metrics: &Metrics, api: ApiKey) -> (u64, u64) {
    let (_, taken, errors) = metrics.requests.by_api.iter().find(|(name, ..)| *name == api.name()).unwrap();
    (*taken, *errors)
}

#[test]
fn what_clients_did_is_counted_exactly() {
    let world = World::new(3);
    let net = world.net();
    let listener = world.run_until(net.listen("0.0.0.0:9092".parse().unwrap())).unwrap();
    let address = listener.local_address();
    let options = BrokerOptions {
        compiler: Compiler::InProcess,
        projection_dir: None,
        advertise: Some("host:1".parse().unwrap()),
        ..BrokerOptions::new(BrokerId(1), "/data".into())
    };
    let (broker, _) = world.run_until(Broker::start(options, world.env(), vec![listener])).unwrap();
    world.run_until(testing::create(&broker, 2));
    let fresh = broker.metrics();
    assert!(fresh.ready && !fresh.failed && !fresh.disk_full);
    assert_eq!((fresh.traffic, fresh.partitions_led), (TrafficMetrics::default(), 2));
    assert!(fresh.requests.by_api.iter().all(|(_, taken, errors)| (*taken, *errors) == (0, 0)));
    let (three, five) = (batch(3).len() as u64, batch(5).len() as u64);

    let mut client = world.run_until(Client::connect(&*net, address));
    let refused = world.run_until(async {
        client.call(9, produce(0, 3)).await;
        client.call(9, produce(1, 5)).await;
        let refused = client.call(9, produce(7, 1)).await;
        client.call(11, fetch(0, 0)).await;
        // The end of a batch comes with all of it.
        client.call(11, fetch(1, 4)).await;
        client.call(11, fetch(0, 3)).await;
        client.call(11, fetch(0, 9)).await;
        let unknown = MetadataRequestTopic { name: Some("unknown".into()), ..Default::default() };
        client
            .call(
                9,
                MetadataRequest { topics: Some(vec![unknown]), allow_auto_topic_creation: false, ..Default::default() },
            )
            .await;
        client.call(9, MetadataRequest::default()).await;
        refused.responses[0].partition_responses[0].error_code
    });
    assert_eq!(refused, ErrorCode::UnknownTopicOrPartition);
    let now = broker.metrics();
    assert_eq!(asked(&now, ApiKey::Produce), (3, 1));
    assert_eq!(asked(&now, ApiKey::Fetch), (4, 1));
    assert_eq!(asked(&now, ApiKey::Metadata), (2, 1));
    assert_eq!(asked(&now, ApiKey::CreateTopics), (0, 0));
    let times = [&now.requests.produce, &now.requests.fetch, &now.requests.others].map(Buckets::count);
    assert_eq!(times, [3, 4, 2]);
    let traffic = TrafficMetrics { records_in: 8, bytes_in: three + five, records_out: 8, bytes_out: three + five };
    assert_eq!((now.traffic, now.topics.len()), (traffic, 1));
    let TopicMetrics { name, traffic: of_topic, log_bytes, offsets, partitions } = &now.topics[0];
    assert_eq!((name.as_str(), *of_topic, *log_bytes), ("t", traffic, three + five));
    assert_eq!(*offsets, OffsetMetrics { start: 0, end: 8, high_watermark: 8 });
    let ends: Vec<_> = partitions.iter().map(|(partition, at)| (partition.0, at.end, at.high_watermark)).collect();
    assert_eq!((ends, now.offsets), (vec![(0, 3, 3), (1, 5, 5)], *offsets));
    assert_eq!(now.logs, LogTotals { logs: 2, bytes: three + five, segments: 2 });
    assert_eq!(now.topics_log_bytes, three + five);
    assert!(now.journal.syncs.count() > fresh.journal.syncs.count());
    assert_eq!((now.journal.waiting, now.segments_open), (0, 2));
    let standing = ConnectionMetrics { transport: "sim", open: 1, accepted: 1, refused: 0 };
    assert_eq!(now.connections, [standing]);

    // What asks for no answer is counted when it is known to need none; what is refused so ends the stream.
    world.run_until(async {
        client.send(9, ProduceRequest { acks: 0, ..produce(0, 3) }).await;
        client.call(0, ApiVersionsRequest::default()).await;
        client.send(9, ProduceRequest { acks: 0, ..produce(7, 3) }).await;
        assert!(client.source.next().await.is_none_or(|end| end.is_err()));
    });
    client.connection.close("done");
    drop(client);
    world.run_for(std::time::Duration::from_secs(1));
    let now = broker.metrics();
    assert_eq!(asked(&now, ApiKey::Produce), (5, 2));
    assert_eq!(asked(&now, ApiKey::ApiVersions), (1, 0));
    assert_eq!(now.requests.produce.count(), 5);
    assert_eq!((now.traffic.records_in, now.topics[0].traffic.records_in), (11, 11));
    assert_eq!(now.connections, [ConnectionMetrics { open: 0, ..standing }]);

    // A topic that is gone is told no more, and what it had counts on in the whole.
    let entry = now.catalog.entry;
    assert_eq!(world.run_until(testing::delete(&broker)), ErrorCode::None);
    let now = broker.metrics();
    assert!(now.topics.is_empty() && now.catalog.entry > entry);
    assert_eq!((now.traffic.records_in, now.traffic.records_out), (11, 8));
    assert_eq!((now.logs, now.offsets, now.partitions_led), (LogTotals::default(), OffsetMetrics::default(), 0));
    world.run_until(broker.shutdown()).unwrap();
    assert!(!broker.metrics().ready);
}

/// A request that waits counts when it is answered, with the time that it has waited.
#[test]
fn requests_take_as_long_as_they_wait() {
    let world = World::new(4);
    let net = world.net();
    let listener = world.run_until(net.listen("10.0.0.1:9092".parse().unwrap())).unwrap();
    let address = listener.local_address();
    let options = BrokerOptions {
        compiler: Compiler::InProcess,
        projection_dir: None,
        ..BrokerOptions::new(BrokerId(1), "/data".into())
    };
    let (broker, _) = world.run_until(Broker::start(options, world.env(), vec![listener])).unwrap();
    world.run_until(testing::create(&broker, 1));
    let mut client = world.run_until(Client::connect(&*net, address));
    world.run_until(client.call(11, FetchRequest { max_wait_ms: 2000, ..fetch(0, 0) }));
    let fetch = broker.metrics().requests.fetch;
    assert_eq!(fetch.count(), 1);
    assert!(fetch.sum >= std::time::Duration::from_secs(2), "{fetch:?}");
    let bucket = fetch.counts.iter().position(|count| *count == 1).unwrap();
    assert_eq!(fetch.bounds[bucket], std::time::Duration::from_millis(2500));
    testing::stop(&world, broker);
}

async fn create(broker: &Broker, number: usize) {
    let name = format!("topic-{number}");
    let command = millstream_catalog::Command::CreateTopic {
        id: TopicId(Uuid::from_u128(1000 + number as u128)),
        name: TopicName::new(&name).unwrap(),
        partitions: 1,
        replication_factor: 1,
        config: TopicConfig::default(),
        at: TimestampMs(0),
    };
    broker.shared().catalog.propose(command).await.unwrap();
}

#[test]
fn too_many_topics_and_partitions_are_told_as_a_whole() {
    let world = World::new(5);
    let broker = testing::start(&world);
    let shared = broker.shared();
    let now = || broker.metrics_within(&Bounds { topics: 3, partitions: 5, ..Bounds::default() });
    let follow = || world.run_until(shared.partitions.follow(&shared.catalog)).unwrap();
    world.run_until(testing::create(&broker, 5));
    world.run_until(testing::append(&broker, 0).commit).unwrap();
    let told = now();
    assert_eq!((told.limited, told.topics[0].partitions.len()), (Limited::default(), 5));
    world.run_until(create(&broker, 1));
    follow();
    let told = now();
    assert_eq!(told.limited, Limited { partitions: true, ..Limited::default() });
    assert!(told.topics.iter().all(|topic| topic.partitions.is_empty()));
    let end = |topic: &TopicMetrics| (topic.name.clone(), topic.offsets.end, topic.traffic.records_in);
    assert_eq!(told.topics.iter().map(end).collect::<Vec<_>>(), [("t".into(), 1, 1), ("topic-1".into(), 0, 0)]);
    for number in 2..=3 {
        world.run_until(create(&broker, number));
    }
    follow();
    let told = now();
    assert_eq!(told.limited, Limited { topics: true, partitions: true, ..Limited::default() });
    assert_eq!((told.topics.len(), told.catalog.topics, told.partitions_led), (0, 4, 8));
    assert_eq!((told.traffic.records_in, told.offsets.end, told.logs.logs), (1, 1, 8));
    assert!(told.topics_log_bytes > 0 && told.topics_log_bytes == told.logs.bytes);
    testing::stop(&world, broker);
}
