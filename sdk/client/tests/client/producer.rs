//! Producing: order over failures, the partitioner's choice, bounds, and what is told when it fails.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use millstream_client::{Acks, Client, Compression, ErrorCode, ProduceError, ProducerOptions, ProducerRecord};
use millstream_env::sim::World;
use millstream_model::{Offset, PartitionId, TimestampMs, key_partition};
use millstream_record::{BatchBuilder, BatchOptions};

use crate::{
    fake::{FakeBroker, Fault, Partitioner, Topic},
    setting,
};

fn record(key: &str, value: impl ToString) -> ProducerRecord {
    ProducerRecord {
        topic: "t".into(),
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: Some(value.to_string().into()),
        ..ProducerRecord::default()
    }
}

fn to_partition(partition: i32, value: impl ToString) -> ProducerRecord {
    ProducerRecord { partition: Some(PartitionId(partition)), ..record("k", value) }
}

fn text(bytes: Option<&Bytes>) -> String {
    String::from_utf8(bytes.unwrap().to_vec()).unwrap()
}

/// Numbers in the order in which a key's records first appear in a partition.
fn firsts(topic: &Topic, partition: usize) -> BTreeMap<String, Vec<u32>> {
    let mut seen: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for record in topic.records(partition) {
        let numbers = seen.entry(text(record.key.as_ref())).or_default();
        let number = text(record.value.as_ref()).parse().unwrap();
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    seen
}

/// Sends `count` records over ten keys with pauses here and there; all must be acknowledged, be where they were said to be, and
/// first appear in the order sent; of an idempotent producer once only.
fn keys_keep_their_order(world: &World, broker: &FakeBroker, options: ProducerOptions, client: &Client, count: u32) {
    let idempotent = options.idempotent;
    let producer = client.producer(options);
    let run = async {
        let mut deliveries = Vec::new();
        for number in 0..count {
            let key = format!("key-{}", number % 10);
            deliveries.push((key.clone(), number, producer.send(record(&key, number)).await.unwrap()));
            if world.rng().below(20) == 0 {
                world.env().clock.sleep(Duration::from_millis(world.rng().below(5))).await;
            }
        }
        producer.flush().await;
        let mut told = Vec::new();
        for (key, number, delivery) in deliveries {
            told.push((key, number, delivery.await.unwrap()));
        }
        told
    };
    let told = world.run_until(run);
    let state = broker.state.lock();
    assert!(!state.overlapped, "seed {}: a partition had two requests under way", world.seed());
    let topic = &state.topics["t"];
    let logs: Vec<_> = (0..topic.logs.len()).map(|at| topic.records(at)).collect();
    if idempotent {
        let there: usize = logs.iter().map(Vec::len).sum();
        assert_eq!(there, count as usize, "seed {}: each is there once", world.seed());
    }
    for (key, number, delivered) in told {
        let found = &logs[delivered.partition.0 as usize][delivered.offset.unwrap().0 as usize];
        assert_eq!((text(found.key.as_ref()), text(found.value.as_ref())), (key, number.to_string()));
    }
    for partition in 0..logs.len() {
        for (key, numbers) in firsts(topic, partition) {
            assert!(numbers.is_sorted(), "seed {}: {key} in partition {partition}: {numbers:?}", world.seed());
            let expected = (0..count).filter(|number| format!("key-{}", number % 10) == key).count();
            assert_eq!(numbers.len(), expected, "seed {}: all of {key} is in one partition", world.seed());
        }
    }
}

/// Up to thirty failures of every kind, in any order.
fn faults(world: &World) -> std::collections::VecDeque<Fault> {
    let fault = |_| match world.rng().below(6) {
        0 => Fault::BreakBefore,
        1 => Fault::BreakAfter,
        2 => Fault::Refuse(ErrorCode::NotLeaderOrFollower),
        _ => Fault::Refuse(ErrorCode::NotEnoughReplicas),
    };
    (0..world.rng().below(30)).map(fault).collect()
}

#[test]
fn keys_keep_their_order_over_failures_of_every_kind() {
    for seed in 0..40 {
        let (world, broker, client) = setting(seed);
        broker.topic("t", 3);
        {
            let mut state = broker.state.lock();
            state.produce_time = Duration::from_micros(world.rng().below(3000));
            state.faults = faults(&world);
        }
        let options = ProducerOptions {
            idempotent: seed % 4 > 0,
            linger: Duration::from_micros(world.rng().below(2000)),
            batch_bytes: 200 + world.rng().below(2000) as usize,
            ..ProducerOptions::default()
        };
        keys_keep_their_order(&world, &broker, options, &client, 300);
    }
}

#[test]
fn what_is_refused_for_good_takes_nothing_along_and_is_not_there() {
    for seed in 0..60 {
        let (world, broker, client) = setting(seed);
        broker.topic("t", 1);
        {
            let mut state = broker.state.lock();
            state.produce_time = Duration::from_micros(world.rng().below(2000));
            state.faults = faults(&world);
            for _ in 0..world.rng().below(6) {
                let at = world.rng().below(1 + state.faults.len() as u64) as usize;
                state.faults.insert(at, Fault::Refuse(ErrorCode::MessageTooLarge));
            }
        }
        let options = ProducerOptions { linger: Duration::ZERO, batch_bytes: 200, ..ProducerOptions::default() };
        let producer = client.producer(options);
        let fates = world.run_until(async {
            let mut deliveries = Vec::new();
            for number in 0..200 {
                deliveries.push(producer.send(to_partition(0, number)).await.unwrap());
            }
            futures::future::join_all(deliveries).await
        });
        let records = broker.state.lock().topics["t"].records(0);
        let there: Vec<usize> = records.iter().map(|record| text(record.value.as_ref()).parse().unwrap()).collect();
        assert!(there.is_sorted_by(|one, other| one < other), "seed {seed}: once each and in order: {there:?}");
        for (number, fate) in fates.iter().enumerate() {
            match fate {
                Ok(delivered) => assert_eq!(there[delivered.offset.unwrap().0 as usize], number, "seed {seed}"),
                Err(error) => {
                    assert_eq!(error.code(), Some(ErrorCode::MessageTooLarge), "seed {seed}: {number}: {error}");
                    assert!(!there.contains(&number), "seed {seed}: {number} was refused for good");
                }
            }
        }
    }
}

/// How long a hundred full batches take over a slow network, one by one in a partition.
fn slow_network(idempotent: bool) -> Duration {
    let mut world = World::new(3);
    let broker = FakeBroker::start(&mut world);
    broker.topic("t", 1);
    let client = world.run_until(crate::connect(&world)).unwrap();
    world.set_latency(Duration::from_millis(50), Duration::ZERO);
    let options = ProducerOptions { idempotent, batch_bytes: 300, ..ProducerOptions::default() };
    let producer = client.producer(options);
    let start = world.env().clock.now().0;
    world.run_until(async {
        let mut deliveries = Vec::new();
        for number in 0..100 {
            let value = format!("{number}-{}", "x".repeat(300));
            deliveries.push(producer.send(to_partition(0, value)).await.unwrap());
        }
        for delivery in deliveries {
            delivery.await.unwrap();
        }
    });
    assert_eq!(broker.state.lock().produced.len(), 100);
    world.env().clock.now().0 - start
}

#[test]
fn five_numbered_batches_are_under_way_at_a_time() {
    let (one, five) = (slow_network(false), slow_network(true));
    assert!(one > Duration::from_secs(10), "{one:?}: a way there and back for each");
    assert!(five < one / 4, "{five:?} against {one:?}");
}

#[test]
fn a_producer_id_is_asked_for_once_and_only_when_needed() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 3);
    let producer = client.producer(ProducerOptions::default());
    assert_eq!(world.run_until(producer.partitions("t")).unwrap(), 3);
    assert_eq!(broker.state.lock().producer_ids, 0);
    for partition in 0..3 {
        world.run_until(producer.produce(to_partition(partition, 1))).unwrap();
    }
    assert_eq!(broker.state.lock().producer_ids, 1, "its partitions share it");
    for options in [
        ProducerOptions { idempotent: false, ..ProducerOptions::default() },
        ProducerOptions { acks: Acks::Leader, ..ProducerOptions::default() },
    ] {
        world.run_until(client.producer(options).produce(to_partition(0, 1))).unwrap();
    }
    let state = broker.state.lock();
    assert_eq!(state.producer_ids, 1);
    for batch in &state.topics["t"].logs[0][1..] {
        assert!(!batch.header().has_producer_id());
    }
}

#[test]
fn without_a_producer_id_nothing_is_sent_and_the_reason_is_told() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    broker.state.lock().refuse_ids = Some(ErrorCode::ClusterAuthorizationFailed);
    let producer = client.producer(ProducerOptions::default());
    let error = world.run_until(producer.produce(to_partition(0, "1"))).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ClusterAuthorizationFailed));
    assert!(error.to_string().contains("producer id"), "{error}");
    // What passes is waited for.
    broker.state.lock().refuse_ids = Some(ErrorCode::CoordinatorLoadInProgress);
    world.run_until(async {
        let delivery = producer.send(to_partition(0, "2")).await.unwrap();
        world.env().clock.sleep(Duration::from_secs(3)).await;
        broker.state.lock().refuse_ids = None;
        assert_eq!(delivery.await.unwrap().offset, Some(Offset(0)));
    });
}

#[test]
fn keys_go_where_every_kafka_client_sends_them() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 7);
    let producer = client.producer(ProducerOptions::default());
    for key in ["a", "b", "N14228", ""] {
        let delivered = world.run_until(producer.produce(record(key, 1))).unwrap();
        assert_eq!(delivered.partition, key_partition(key.as_bytes(), 7));
    }
    assert!(broker.state.lock().asked.is_empty(), "there is no partitioner to ask");
}

#[test]
fn new_partitions_are_noticed_and_produced_to() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 2);
    let producer = client.producer(ProducerOptions::default());
    let keys = || (0..50).map(|at| record(&format!("key{at}"), at));
    let places = |producer: &millstream_client::Producer| {
        world.run_until(async {
            let mut places = std::collections::BTreeSet::new();
            for record in keys() {
                places.insert(producer.produce(record).await.unwrap().partition.0);
            }
            places.len()
        })
    };
    assert_eq!(places(&producer), 2);
    broker.state.lock().topics.get_mut("t").unwrap().logs.extend([Vec::new(), Vec::new(), Vec::new()]);
    // Who names a new partition does not wait.
    let delivered = world.run_until(producer.produce(to_partition(4, "x"))).unwrap();
    assert_eq!(delivered.partition, PartitionId(4));
    let error = world.run_until(producer.produce(to_partition(5, "x"))).unwrap_err();
    assert!(error.to_string().contains("5"), "{error}");
    let (other, late) = (client.producer(ProducerOptions::default()), client.producer(ProducerOptions::default()));
    assert_eq!((places(&producer), places(&other)), (5, 5));
    world.run_until(late.produce(record("k", 0))).unwrap();
    broker.state.lock().topics.get_mut("t").unwrap().logs.push(Vec::new());
    world.run_for(Duration::from_secs(60));
    // The first record after that has them looked for.
    world.run_until(late.produce(record("k", 0))).unwrap();
    world.run_for(Duration::from_secs(1));
    assert_eq!(places(&late), 6);
}

#[test]
fn keyless_records_spread_batch_by_batch() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 4);
    let producer = client.producer(ProducerOptions::default());
    let mut used = std::collections::BTreeSet::new();
    for number in 0..8 {
        let record = ProducerRecord { key: None, ..record("", number) };
        used.insert(world.run_until(producer.produce(record)).unwrap().partition);
    }
    assert_eq!(used.len(), 4);
}

/// What has no place of its own is not put where it would have to wait: one batch finds out, or the metadata says it.
#[test]
fn keyless_records_avoid_partitions_whose_storage_has_failed() {
    for in_metadata in [false, true] {
        let (world, broker, client) = setting(1);
        broker.topic("t", 3);
        broker.state.lock().failing.insert(1, ErrorCode::KafkaStorage);
        if in_metadata {
            broker.state.lock().offline.insert(1);
        }
        let producer = client.producer(ProducerOptions::default());
        let keyless = |number: u32| ProducerRecord { key: None, ..record("", number) };
        let mut waiting = world.run_until(async {
            let mut waiting = Vec::new();
            for number in 0..60 {
                let mut delivery = producer.send(keyless(number)).await.unwrap();
                // Long enough for any that need not wait.
                let pause = world.env().clock.sleep(Duration::from_millis(100));
                match futures::future::select(&mut delivery, pause).await {
                    futures::future::Either::Left((delivered, _)) => {
                        assert_ne!(delivered.unwrap().partition, PartitionId(1));
                    }
                    futures::future::Either::Right(_) => waiting.push(delivery),
                }
            }
            waiting
        });
        assert_eq!(waiting.len(), usize::from(!in_metadata), "those that found out");
        // A key has its place, whatever happens there.
        let keyed = (0..).map(|number| format!("key-{number}")).find(|key| key_partition(key.as_bytes(), 3).0 == 1);
        let sent = producer.send(record(&keyed.unwrap(), "keyed"));
        waiting.push(world.run_until(sent).unwrap());
        world.run_until(world.env().clock.sleep(Duration::from_secs(10)));
        assert!(broker.state.lock().topics["t"].logs[1].is_empty());
        {
            let mut state = broker.state.lock();
            state.failing.clear();
            state.offline.clear();
        }
        for delivery in waiting {
            assert_eq!(world.run_until(delivery).unwrap().partition, PartitionId(1));
        }
        // Once it works it is used again.
        let used = (0..6).map(|number| world.run_until(producer.produce(keyless(number))).unwrap().partition);
        assert!(used.collect::<Vec<_>>().contains(&PartitionId(1)), "in metadata: {in_metadata}");
    }
}

/// Where no partition is well, there is none to avoid.
#[test]
fn keyless_records_wait_where_every_partition_has_failed() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 2);
    broker.state.lock().offline.extend([0, 1]);
    broker.state.lock().refuse = Some(ErrorCode::KafkaStorage);
    let producer = client.producer(ProducerOptions::default());
    world.run_until(async {
        let sent = producer.send(ProducerRecord { key: None, ..record("", 1) }).await.unwrap();
        world.env().clock.sleep(Duration::from_secs(3)).await;
        broker.state.lock().refuse = None;
        sent.await.unwrap();
    });
}

/// By the key's first byte; keys that begin with `!` are refused.
fn by_first_byte(key: Option<&[u8]>) -> Option<i32> {
    match key.and_then(<[u8]>::first) {
        Some(b'!') => None,
        Some(byte) => Some(i32::from(byte % 3)),
        None => Some(-1),
    }
}

fn partitioned(broker: &FakeBroker) {
    broker.topic("t", 3);
    broker.state.lock().topics.get_mut("t").unwrap().partitioner = Some(by_first_byte);
}

#[test]
fn the_topics_partitioner_places_what_is_left_open() {
    let (world, broker, client) = setting(1);
    partitioned(&broker);
    let producer = client.producer(ProducerOptions::default());
    for key in ["a", "b", "c", "apple"] {
        let delivered = world.run_until(producer.produce(record(key, 1))).unwrap();
        assert_eq!(delivered.partition, PartitionId(by_first_byte(Some(key.as_bytes())).unwrap()));
    }
    // What the partitioner leaves to its host, and what the sender decides.
    world.run_until(producer.produce(ProducerRecord { key: None, ..record("", 1) })).unwrap();
    let given = world.run_until(producer.produce(to_partition(2, 1))).unwrap();
    assert_eq!(given.partition, PartitionId(2));

    let state = broker.state.lock();
    assert_eq!(state.asked.iter().flatten().count(), 5, "the given partition is not asked about");
    let epochs: Vec<_> = state.produced.iter().map(|(_, epoch)| *epoch).collect();
    assert_eq!(epochs, [7, 7, 7, 7, 7, -1]);
}

#[test]
fn many_records_share_a_question() {
    let (world, broker, client) = setting(1);
    partitioned(&broker);
    let producer = client.producer(ProducerOptions::default());
    world.run_until(async {
        let mut deliveries = Vec::new();
        for number in 0..500 {
            deliveries.push(producer.send(record("a", number)).await.unwrap());
        }
        for delivery in deliveries {
            delivery.await.unwrap();
        }
    });
    let state = broker.state.lock();
    assert_eq!(state.asked.iter().flatten().count(), 500);
    assert!(state.asked.len() < 20, "{} questions", state.asked.len());
}

#[test]
fn partitioned_keys_keep_their_order_over_failures() {
    for seed in 0..20 {
        let (world, broker, client) = setting(seed);
        partitioned(&broker);
        {
            let mut state = broker.state.lock();
            state.topics.get_mut("t").unwrap().needs_values = true;
            state.stale_answers = world.rng().below(3) as usize;
            state.faults = faults(&world);
        }
        keys_keep_their_order(&world, &broker, ProducerOptions::default(), &client, 200);
    }
}

/// By the key's last digit.
fn by_last_byte(key: Option<&[u8]>) -> Option<i32> {
    key.and_then(<[u8]>::last).map(|byte| i32::from(byte % 2))
}

/// The same otherwise.
fn by_last_byte_of_three(key: Option<&[u8]>) -> Option<i32> {
    key.and_then(<[u8]>::last).map(|byte| i32::from(byte % 3))
}

/// Partitions are added and partitioners come, change and go, under load and failures. A reader that reads what every partition has of
/// one routing epoch before it goes on to the next sees each key's records in the order sent, and each once.
#[test]
fn keys_keep_their_order_over_changes_of_routing() {
    for seed in 0..60 {
        let (world, broker, client) = setting(seed);
        broker.topic("t", 2);
        let changes = 1 + world.rng().below(3);
        {
            let mut state = broker.state.lock();
            state.produce_time = Duration::from_micros(world.rng().below(3000));
            state.faults = faults(&world);
            let topic = state.topics.get_mut("t").unwrap();
            topic.partitioner = (seed % 3 == 0).then_some(by_last_byte as Partitioner);
        }
        let options = ProducerOptions {
            linger: Duration::from_micros(world.rng().below(2000)),
            batch_bytes: 200 + world.rng().below(2000) as usize,
            compression: if seed % 2 == 0 { Compression::None } else { Compression::Lz4 },
            ..ProducerOptions::default()
        };
        let pause = |ms: u64| world.env().clock.sleep(Duration::from_millis(world.rng().below(ms)));
        let producer = client.producer(options);
        let count = 600;
        let produce = async {
            let mut deliveries = Vec::new();
            for number in 0..count {
                deliveries.push(producer.send(record(&format!("key-{}", number % 10), number)).await.unwrap());
                if world.rng().below(10) == 0 {
                    pause(8).await;
                }
            }
            producer.flush().await;
            for delivery in deliveries {
                delivery.await.unwrap();
            }
        };
        let change = async {
            for change in 0..changes {
                pause(150).await;
                let partitioners: [Option<Partitioner>; 3] = [Some(by_last_byte_of_three), None, Some(by_last_byte)];
                let partitioner = partitioners[change as usize];
                broker.route_anew("t", 1 + change as usize, partitioner, || pause(20)).await;
            }
        };
        world.run_until(async { futures::join!(produce, change) });
        let state = broker.state.lock();
        let topic = &state.topics["t"];
        let mut read: BTreeMap<String, Vec<(usize, usize, u32)>> = BTreeMap::new();
        let mut there = 0;
        for partition in 0..topic.logs.len() {
            for found in topic.records(partition) {
                let fences = topic.fences.get(&partition).map_or(&[][..], Vec::as_slice);
                let epoch = fences.iter().filter(|fence| **fence <= found.offset.0).count();
                let number = text(found.value.as_ref()).parse().unwrap();
                read.entry(text(found.key.as_ref())).or_default().push((epoch, partition, number));
                there += 1;
            }
        }
        assert_eq!(there, count, "seed {seed}: each is there once");
        for (key, mut records) in read {
            // Of one epoch a key is in one partition, in which the sort leaves the order as it is.
            records.sort_by_key(|(epoch, ..)| *epoch);
            let numbers: Vec<_> = records.iter().map(|(_, _, number)| *number).collect();
            assert!(numbers.is_sorted(), "seed {seed}: {key}: {records:?}");
            let places: std::collections::BTreeSet<_> =
                records.iter().map(|(epoch, place, _)| (epoch, place)).collect();
            let epochs: std::collections::BTreeSet<_> = records.iter().map(|(epoch, ..)| epoch).collect();
            assert_eq!(places.len(), epochs.len(), "seed {seed}: {key} is in one partition of an epoch: {records:?}");
        }
    }
}

/// The next epoch may never come into force. What cannot be placed is told so, and the producer is well once it has.
#[test]
fn patience_with_a_change_of_routing_ends() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    let options = ProducerOptions { delivery_timeout: Duration::from_secs(3), ..ProducerOptions::default() };
    let producer = client.producer(options);
    world.run_until(producer.produce(record("k", 0))).unwrap();
    broker.state.lock().topics.get_mut("t").unwrap().fences.insert(0, vec![1]);
    let error = world.run_until(producer.produce(record("k", 1))).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::StaleRouting));
    assert!(error.to_string().contains("not in force yet"), "{error}");
    broker.state.lock().topics.get_mut("t").unwrap().turns = 1;
    world.run_until(producer.produce(record("k", 2))).unwrap();
    let there: Vec<_> = broker.state.lock().topics["t"].records(0).iter().map(|r| text(r.value.as_ref())).collect();
    assert_eq!(there, ["0", "2"]);
}

/// Nobody tells it that an epoch is over: it asks now and then.
#[test]
fn without_acknowledgements_new_partitions_are_used_too() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    let producer = client.producer(ProducerOptions { acks: Acks::None, ..ProducerOptions::default() });
    let send_all = || {
        world.run_until(async {
            for at in 0..30 {
                producer.produce(record(&format!("key{at}"), at)).await.unwrap();
            }
        });
        world.run_for(Duration::from_secs(1));
    };
    send_all();
    world.run_until(broker.route_anew("t", 3, None, || std::future::ready(())));
    send_all();
    world.run_for(Duration::from_secs(60));
    send_all();
    send_all();
    let state = broker.state.lock();
    let ends: Vec<_> = (0..4).map(|at| state.topics["t"].end(at)).collect();
    assert_eq!(ends.iter().sum::<i64>(), 120);
    assert!(ends.iter().all(|end| *end > 0), "{ends:?}");
}

#[test]
fn a_record_that_the_partitioner_refuses_fails_alone() {
    let (world, broker, client) = setting(1);
    partitioned(&broker);
    let producer = client.producer(ProducerOptions::default());
    let fates: Vec<_> = world.run_until(async {
        let mut deliveries = Vec::new();
        for number in 0..50 {
            let key = if number % 20 == 7 { "!bad" } else { "a" };
            deliveries.push(producer.send(record(key, number)).await.unwrap());
        }
        futures::future::join_all(deliveries).await
    });
    for (number, fate) in fates.iter().enumerate() {
        match fate {
            Ok(_) => assert_ne!(number % 20, 7),
            Err(error) => {
                assert_eq!(number % 20, 7);
                assert_eq!(error.code(), Some(ErrorCode::CallFailed));
                assert!(error.to_string().contains("no such field"), "{error}");
                assert!(!error.is_retriable());
            }
        }
    }
    let state = broker.state.lock();
    let numbers: Vec<u32> =
        state.topics["t"].records(1).iter().map(|record| text(record.value.as_ref()).parse().unwrap()).collect();
    assert_eq!(numbers, (0..50).filter(|number| number % 20 != 7).collect::<Vec<_>>());
}

#[test]
fn memory_is_bounded_and_given_back() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    broker.state.lock().hold = true;
    let options = ProducerOptions { buffer_bytes_max: 10_000, ..ProducerOptions::default() };
    let producer = client.producer(options);
    let value = "x".repeat(1000);
    let mut deliveries = Vec::new();
    world.run_until(async {
        loop {
            let send = std::pin::pin!(producer.send(to_partition(0, &value)));
            match futures::future::select(send, world.env().clock.sleep(Duration::from_secs(1))).await {
                futures::future::Either::Left((sent, _)) => deliveries.push(sent.unwrap()),
                futures::future::Either::Right(_) => break,
            }
        }
    });
    assert_eq!(deliveries.len(), 8, "each counts its bytes and 128 more");
    broker.state.lock().hold = false;
    world.run_until(async {
        for delivery in deliveries {
            delivery.await.unwrap();
        }
        // And a record larger than the whole bound still goes through, alone.
        producer.produce(to_partition(0, "x".repeat(50_000))).await.unwrap();
    });
}

#[test]
fn a_refusal_for_good_is_told_in_the_brokers_words_and_the_next_record_goes_on() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    broker.state.lock().faults = [Fault::Refuse(ErrorCode::MessageTooLarge)].into();
    let producer = client.producer(ProducerOptions::default());
    let error = world.run_until(producer.produce(to_partition(0, "1"))).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::MessageTooLarge));
    assert!(error.to_string().contains("scripted") && error.to_string().contains('t'), "{error}");
    assert_eq!(world.run_until(producer.produce(to_partition(0, "2"))).unwrap().offset, Some(Offset(0)));
    assert_eq!(broker.state.lock().produced.len(), 2, "a final refusal is not tried again");
}

#[test]
fn a_record_whose_topic_was_routed_anew_meanwhile_is_named_so() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 3);
    broker.state.lock().faults = [Fault::Refuse(ErrorCode::StaleRouting)].into();
    let producer = client.producer(ProducerOptions::default());
    let error = world.run_until(producer.produce(to_partition(2, 1))).unwrap_err();
    assert!(matches!(error, ProduceError::StaleRouting { partition: PartitionId(2), .. }), "{error}");
    assert!(error.is_retriable() && error.to_string().contains("send it again"), "{error}");
    world.run_until(producer.produce(to_partition(2, 2))).unwrap();
    assert_eq!(broker.state.lock().topics["t"].end(2), 1);
}

#[test]
fn a_broker_that_counts_partitions_below_one_is_not_believed() {
    for claims in [0, -1, i32::MIN] {
        let (world, broker, client) = setting(1);
        broker.topic("t", 1);
        broker.state.lock().topics.get_mut("t").unwrap().claims = Some(claims);
        let producer = client.producer(ProducerOptions::default());
        let error = world.run_until(producer.produce(to_partition(0, 1))).unwrap_err();
        assert!(error.to_string().contains(&claims.to_string()), "{error}");
    }
    let error = ProduceError::NoSuchPartition { topic: "t".into(), partition: PartitionId(0), partitions: i32::MIN };
    assert!(error.to_string().contains("no partition 0"), "{error}");
}

#[test]
fn patience_ends() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    broker.state.lock().refuse = Some(ErrorCode::NotEnoughReplicas);
    let options = ProducerOptions { delivery_timeout: Duration::from_secs(20), ..ProducerOptions::default() };
    let error = world.run_until(client.producer(options).produce(to_partition(0, "1"))).unwrap_err();
    assert!(matches!(error, ProduceError::Expired { .. }), "{error}");
    assert_eq!(error.code(), Some(ErrorCode::NotEnoughReplicas));
    let took = world.env().clock.now().0;
    assert!((20..25).contains(&took.as_secs()), "{took:?}");
    assert!(broker.state.lock().produced.len() < 100, "pauses grow");
}

/// A simulated broker that lost its power found this: what had gathered behind the batch that was given up was neither sent nor
/// given up, and whoever waited for it waited for ever.
#[test]
fn patience_ends_for_what_has_gathered_meanwhile_too() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    broker.state.lock().refuse = Some(ErrorCode::NotEnoughReplicas);
    let options = ProducerOptions { delivery_timeout: Duration::from_secs(1), ..ProducerOptions::default() };
    let producer = client.producer(options);
    world.run_until(async {
        let first = producer.send(to_partition(0, "1")).await.unwrap();
        world.env().clock.sleep(Duration::from_millis(500)).await;
        let second = producer.send(to_partition(0, "2")).await.unwrap();
        for delivery in [first, second] {
            let error = delivery.await.unwrap_err();
            assert!(matches!(error, ProduceError::Expired { .. }), "{error}");
        }
    });
    let took = world.env().clock.now().0;
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn what_does_not_exist_is_said_at_once() {
    let (world, broker, client) = setting(1);
    let producer = client.producer(ProducerOptions::default());
    let error = world.run_until(producer.produce(to_partition(0, "1"))).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UnknownTopicOrPartition));
    assert!(error.to_string().contains("\"t\""), "{error}");
    broker.topic("t", 2);
    for partition in [-1, 2] {
        let error = world.run_until(producer.produce(to_partition(partition, "1"))).unwrap_err();
        assert!(matches!(error, ProduceError::NoSuchPartition { partitions: 2, .. }), "{error}");
    }
    world.run_until(producer.produce(to_partition(1, "1"))).unwrap();
    assert!(world.env().clock.now().0 < Duration::from_secs(1));
}

#[test]
fn without_acknowledgements_there_is_no_offset_and_the_order_stays() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    let producer = client.producer(ProducerOptions { acks: Acks::None, ..ProducerOptions::default() });
    world.run_until(async {
        for number in 0..50 {
            let delivered = producer.produce(to_partition(0, number)).await.unwrap();
            assert_eq!(delivered.offset, None);
        }
    });
    world.run_for(Duration::from_secs(1));
    let numbers = firsts(&broker.state.lock().topics["t"], 0);
    assert_eq!(numbers["k"], (0..50).collect::<Vec<_>>());
}

#[test]
fn headers_times_and_compression_arrive() {
    for compression in [Compression::None, Compression::Gzip, Compression::Lz4, Compression::Snappy, Compression::Zstd]
    {
        let (world, broker, client) = setting(1);
        broker.topic("t", 1);
        let producer = client.producer(ProducerOptions { compression, ..ProducerOptions::default() });
        let headers =
            vec![millstream_client::Header::new("h", Some("1".into())), millstream_client::Header::new("h", None)];
        let record =
            ProducerRecord { headers: headers.clone(), timestamp: Some(TimestampMs(5)), ..to_partition(0, "v") };
        world.run_until(producer.produce(record)).unwrap();
        world.run_until(producer.produce(ProducerRecord { value: None, ..to_partition(0, "") })).unwrap();
        let records = broker.state.lock().topics["t"].records(0);
        assert_eq!(records[0].headers.iter().collect::<Vec<_>>(), headers);
        assert_eq!(records[0].timestamp, TimestampMs(5));
        assert_eq!(records[1].value, None);
    }
}

#[test]
fn an_encoded_batch_goes_as_it_is_between_its_neighbours() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    let producer = client.producer(ProducerOptions::default());
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for number in [1, 2] {
        builder.push(TimestampMs(1), Some(b"k"), Some(format!("{number}").as_bytes()), &[]).unwrap();
    }
    let batch = builder.build().unwrap();
    world.run_until(async {
        let before = producer.send(to_partition(0, "0")).await.unwrap();
        let encoded = producer.send_batch("t", PartitionId(0), batch.clone()).await.unwrap();
        let after = producer.send(to_partition(0, "3")).await.unwrap();
        assert_eq!(before.await.unwrap().offset, Some(Offset(0)));
        assert_eq!(encoded.await.unwrap().offset, Some(Offset(1)));
        assert_eq!(after.await.unwrap().offset, Some(Offset(3)));
        let error = producer.send_batch("t", PartitionId(0), batch.slice(1..)).await.unwrap_err();
        assert!(matches!(error, ProduceError::Record { .. }), "{error}");
    });
    assert_eq!(firsts(&broker.state.lock().topics["t"], 0)["k"], [0, 1, 2, 3]);
}

#[test]
fn what_was_sent_is_delivered_although_the_producer_is_dropped() {
    let (world, broker, client) = setting(1);
    partitioned(&broker);
    let producer = client.producer(ProducerOptions::default());
    world.run_until(async {
        for number in 0..100 {
            drop(producer.send(record("a", number)).await.unwrap());
        }
        drop(producer);
    });
    world.run_for(Duration::from_secs(5));
    assert_eq!(firsts(&broker.state.lock().topics["t"], 1)["a"].len(), 100);
}
