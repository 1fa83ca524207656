//! Who waits for what, and what is told of it.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use futures::FutureExt;
use millstream_catalog::Command;
use millstream_env::{Budget, sim::World};
use millstream_model::{BrokerId, Offset, TimestampMs, TopicConfig, TopicName, ViewId};
use millstream_protocol::{
    ErrorCode,
    messages::fetch::{FetchableTopicResponse, PartitionData},
};
use millstream_record::{BatchBuilder, BatchOptions};
use millstream_replica::Acks;
use uuid::Uuid;

use super::{
    answer::{AnswerRoom, headers, read_source},
    *,
};
use crate::{Broker, BrokerOptions, catch_up::LIVE_FOR, testing};

/// Who reads what is old waits where producers suffer from it: not if it has something new to be told, no longer than until
/// it has, and nobody else.
#[test]
fn only_reading_what_is_old_waits_and_nothing_new_waits_with_it() {
    const SOON: Duration = Duration::from_millis(100);
    let world = World::new(7);
    let broker = testing::start(&world);
    world.run_until(testing::create(&broker, 3));
    let (shared, clock) = (broker.shared(), world.env().clock);
    let append = |partition| testing::append(&broker, partition).commit;
    for partition in [0, 1, 2, 0, 1, 2] {
        world.run_until(append(partition)).unwrap();
    }
    // Somebody waits at the end of the first two.
    for partition in [0, 1] {
        let led = shared.partitions.find(testing::TOPIC, PartitionId(partition)).unwrap();
        led.log.watch_tail();
        world.run_until(append(partition)).unwrap();
    }
    let old = |partition| (partition, 0);
    let (kept, unknown) = ((0, 2), old(7));
    let check = |asked: &[(i32, i64)], is_hurried: bool, expected: Duration, full: bool| {
        let ask = |(partition, from): &(i32, i64)| FetchPartition {
            partition: PartitionId(*partition),
            fetch_offset: Offset(*from),
            partition_max_bytes: 1 << 20,
            ..Default::default()
        };
        let topic = FetchTopic { topic: "t".into(), partitions: asked.iter().map(ask).collect(), ..Default::default() };
        let mut topics = [resolve_topic(shared, 12, topic, &mut HashSet::new())];
        // Somebody is before it.
        shared.catch_up.hold(1.0);
        let [first, own] = [(); 2].map(|()| shared.catch_up.connection(Ipv4Addr::LOCALHOST.into()));
        let before = first.ask(1 << 20);
        let begun = clock.now();
        let hurried = async move {
            if !is_hurried {
                std::future::pending::<()>().await;
            }
        };
        let waits = async {
            give_way(&own, &mut topics, 1 << 20, hurried).await;
            clock.now() - begun
        };
        let news = async {
            clock.sleep(SOON).await;
            append(1).await.unwrap();
        };
        let (waited, ()) = world.run_until(async { futures::join!(waits, news) });
        drop(before);
        assert!(waited.abs_diff(expected) < SOON / 2, "{asked:?}: {waited:?}");
        let first = &topics[0].2[0].request;
        assert_eq!(first.partition_max_bytes == 1 << 20, full, "{asked:?}");
    };
    check(&[old(0)], false, LIVE_FOR, true);
    check(&[old(0), old(2)], false, LIVE_FOR, true);
    check(&[kept], false, Duration::ZERO, true);
    check(&[old(0), old(1)], false, LIVE_FOR, true);
    check(&[old(0)], true, Duration::ZERO, false);
    check(&[old(2), kept], false, Duration::ZERO, false);
    check(&[old(2), unknown], false, Duration::ZERO, false);
    let end = shared.partitions.find(testing::TOPIC, PartitionId(1)).unwrap().high_watermark();
    check(&[old(0), (1, end.0)], false, SOON, false);
    testing::stop(&world, broker);
}

/// Two partitions, each with more than a small answer.
async fn two_partitions(broker: &Broker) -> [Arc<Partition>; 2] {
    let shared = broker.shared();
    let command = Command::CreateTopic {
        id: TopicId(Uuid::from_u128(7)),
        name: TopicName::new("t").unwrap(),
        partitions: 2,
        replication_factor: 1,
        config: TopicConfig::default(),
        at: TimestampMs(0),
    };
    shared.catalog.propose(command).await.unwrap();
    shared.partitions.follow(&shared.catalog).await.unwrap();
    let partitions = [0, 1].map(|index| shared.partitions.find(TopicId(Uuid::from_u128(7)), PartitionId(index)));
    let partitions = partitions.map(Option::unwrap);
    for partition in &partitions {
        append(partition, 3 * SMALL_BYTES).await;
    }
    partitions
}

/// Appends one record of so many bytes.
async fn append(partition: &Arc<Partition>, bytes: usize) {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(TimestampMs(5), None, Some(&vec![b'x'; bytes]), &[]).unwrap();
    partition.append(vec![builder.build().unwrap()], Acks::All).unwrap().commit.await.unwrap();
}

fn targets(partition: &Arc<Partition>, view: Option<&Arc<View>>) -> Vec<Targets> {
    let (partition, view) = (partition.clone(), view.cloned());
    let index = partition.id.partition;
    let request = FetchPartition { partition: index, partition_max_bytes: 1 << 20, ..Default::default() };
    vec![("t".into(), TopicId::NIL, vec![Target { request, source: Ok(Source { partition, view }) }])]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_what_cannot_be_read_no_offset_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let options = BrokerOptions::new(BrokerId(1), dir.path().into());
    let (broker, _) = Broker::start(options, millstream_env::real::env(), Vec::new()).await.unwrap();
    let refused = || WireError::new(ErrorCode::UnknownTopicOrPartition, "no topic");
    let request = FetchPartition { partition: PartitionId(3), ..Default::default() };
    let targets = vec![("t".into(), TopicId::NIL, vec![Target { request, source: Err(refused().into()) }])];
    let answer = gather(broker.shared(), 12, &targets, 1 << 20).await;
    let [partition] = &answer.responses[0].partitions[..] else { panic!("{answer:?}") };
    assert_eq!((partition.partition_index, partition.error_code), (PartitionId(3), refused().code));
    assert_eq!((partition.high_watermark, partition.log_start_offset), (Offset(-1), Offset(-1)));
    broker.shutdown().await.unwrap();
}

/// As Kafka's brokers answer, whose readers of committed records look for the list.
#[test]
fn who_asks_for_committed_records_is_told_that_nothing_was_aborted() {
    let partitions = vec![PartitionData::default(), PartitionData::default()];
    let mut answer = FetchResponse {
        responses: vec![FetchableTopicResponse { partitions, ..Default::default() }],
        ..Default::default()
    };
    let mut told = |isolation_level| -> Vec<_> {
        tell_aborted(&mut answer, isolation_level);
        answer.responses[0].partitions.iter().map(|partition| partition.aborted_transactions.clone()).collect()
    };
    assert_eq!(told(READ_COMMITTED), [Some(Vec::new()), Some(Vec::new())]);
    assert_eq!(told(0), [None, None]);
}

/// A view that waits for its modules, or for the memory that all modules share, holds up no reader of a topic and nobody
/// who produces: they need a share of the frames.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_holds_no_share_of_the_frames_before_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    // So little that one answer takes it all.
    let frames = Budget::new(1 << 20);
    let options = BrokerOptions { frames: frames.clone(), ..BrokerOptions::new(BrokerId(1), dir.path().into()) };
    let (broker, _) = Broker::start(options, millstream_env::real::env(), Vec::new()).await.unwrap();
    let [first, second] = two_partitions(&broker).await;
    let shared = broker.shared();
    let view = Arc::new(View {
        id: ViewId(Uuid::from_u128(8)),
        name: TopicName::new("v").unwrap(),
        topic: TopicId(Uuid::from_u128(7)),
        // Records pass as they are.
        chain: Vec::new(),
        params: BTreeMap::new(),
        created_at: TimestampMs(0),
    });
    let (of_view, of_topic) = (targets(&first, Some(&view)), targets(&second, None));
    let others_unpack = shared.memory.unpack(usize::MAX).await;
    let mut viewed = Box::pin(gather(shared, 12, &of_view, 1 << 20));
    assert!((&mut viewed).now_or_never().is_none(), "it had room to unpack");
    let read = gather(shared, 12, &of_topic, 1 << 20).now_or_never().expect("a reader of a topic waits for a view");
    assert!(records_bytes(&read) > SMALL_BYTES && frames.free_bytes() < 1 << 20);
    drop(read);
    let all = frames.take(1 << 20).await;
    drop(others_unpack);
    assert!((&mut viewed).now_or_never().is_none(), "it had no share");
    assert!(shared.memory.unpack(usize::MAX).now_or_never().is_some(), "others wait for a share to unpack");
    drop(all);
    assert!(records_bytes(&viewed.await) > SMALL_BYTES);
    broker.shutdown().await.unwrap();
}

/// Records become durable while a partition is read: the high watermark that is told lies past those that are in the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_record_is_at_or_past_the_high_watermark_of_its_answer() {
    const APPENDS: usize = 400;
    let dir = tempfile::tempdir().unwrap();
    let options = BrokerOptions::new(BrokerId(1), dir.path().into());
    let (broker, _) = Broker::start(options, millstream_env::real::env(), Vec::new()).await.unwrap();
    let [partition, _] = two_partitions(&broker).await;
    let appender = partition.clone();
    let appends = tokio::spawn(async move {
        for _ in 0..APPENDS {
            append(&appender, 10).await;
        }
    });
    let source = Source { partition: partition.clone(), view: None };
    let mut wrong = None;
    while !appends.is_finished() {
        let from = Offset(partition.high_watermark().0 - 1);
        let request = FetchPartition { fetch_offset: from, partition_max_bytes: 1 << 20, ..Default::default() };
        let mut answer = PartitionData::default();
        read_source(&source, None, &request, &mut AnswerRoom::new(1 << 20), &mut answer).await.unwrap();
        let end = answer.records.0.iter().flat_map(|part| headers(part)).map(|header| header.end_offset()).max();
        let told = answer.high_watermark;
        if !end.is_some_and(|end| from < end && end <= told) {
            wrong = Some(format!("read {from}..{end:?}, told {told}"));
        }
    }
    appends.await.unwrap();
    broker.shutdown().await.unwrap();
    assert_eq!(wrong, None);
}
