//! Producing: how long a record waits for its fate, and a flush for everybody's; topics that come and go meanwhile.

use std::time::Duration;

use bytes::Bytes;
use futures::future::{join, join_all, select};
use millstream_client::{Delivery, ErrorCode, ProduceError, ProducerOptions, ProducerRecord};
use millstream_env::sim::World;
use millstream_model::{Offset, PartitionId};

use crate::{fake::FakeBroker, setting};

/// A record that leaves its partition open.
fn open(value: impl Into<Bytes>) -> ProducerRecord {
    let value = Some(value.into());
    ProducerRecord { topic: "t".into(), key: Some("a".into()), value, ..ProducerRecord::default() }
}

fn record(value: impl Into<Bytes>) -> ProducerRecord {
    ProducerRecord { partition: Some(PartitionId(0)), ..open(value) }
}

fn values(broker: &FakeBroker) -> Vec<Bytes> {
    let records = broker.state.lock().topics["t"].records(0);
    records.into_iter().map(|record| record.value.unwrap()).collect()
}

fn seconds(world: &World) -> f64 {
    world.env().clock.now().0.as_secs_f64()
}

/// All must be given up by then, for the time that it took.
fn assert_expired(world: &World, deliveries: Vec<Delivery>, by: f64) {
    for fate in world.run_until(join_all(deliveries)) {
        let error = fate.unwrap_err();
        assert!(matches!(error, ProduceError::Expired { .. }), "{error}");
    }
    assert!(seconds(world) < by, "{}", seconds(world));
}

/// Two that ask for the same topic first make one of it, although the first is told that there is none: two would each number their batches
/// from 0, and the broker would take one's record for the other's, which it has.
#[test]
fn a_topic_that_comes_while_it_is_asked_for_is_one() {
    for seed in 0..20 {
        let (world, broker, client) = setting(seed);
        let producer = client.producer(ProducerOptions::default());
        let (second, third) = world.run_until(async {
            let first = async {
                let error = producer.send(record("1")).await.unwrap_err();
                assert_eq!(error.code(), Some(ErrorCode::UnknownTopicOrPartition));
                broker.topic("t", 1);
                producer.produce(record("3")).await.unwrap()
            };
            let second = async { producer.produce(record("2")).await.unwrap() };
            let (third, second) = join(first, second).await;
            (second, third)
        });
        let mut there = values(&broker);
        assert_eq!(there[second.offset.unwrap().0 as usize], "2", "seed {seed}: {second:?}, {there:?}");
        assert_eq!(there[third.offset.unwrap().0 as usize], "3", "seed {seed}: {third:?}, {there:?}");
        there.sort();
        assert_eq!(there, ["2", "3"], "seed {seed}");
    }
}

#[test]
fn what_queues_behind_what_is_refused_waits_no_longer() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    broker.state.lock().refuse = Some(ErrorCode::NotEnoughReplicas);
    let options = ProducerOptions {
        delivery_timeout: Duration::from_secs(2),
        batch_bytes: 200,
        linger: Duration::ZERO,
        ..ProducerOptions::default()
    };
    let producer = client.producer(options);
    let deliveries = world.run_until(async {
        let mut deliveries = Vec::new();
        for _ in 0..100 {
            deliveries.push(producer.send(record(vec![b'x'; 150])).await.unwrap());
        }
        deliveries
    });
    assert_expired(&world, deliveries, 2.5);
    broker.state.lock().refuse = None;
    world.run_until(producer.produce(record("well again"))).unwrap();
    assert_eq!(values(&broker), ["well again"]);
}

/// Who joins a batch that gathers behind one that is not answered waits as long as everybody.
#[test]
fn who_joins_what_has_waited_may_wait_too() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    broker.state.lock().hold = true;
    let options = ProducerOptions { delivery_timeout: Duration::from_secs(2), ..ProducerOptions::default() };
    let producer = client.producer(options);
    let sleep = |ms| world.env().clock.sleep(Duration::from_millis(ms));
    let (earlier, later) = world.run_until(async {
        let first = producer.send(record("1")).await.unwrap();
        sleep(100).await;
        let second = producer.send(record("2")).await.unwrap();
        sleep(1500).await;
        let third = producer.send(record("3")).await.unwrap();
        (vec![first, second], third)
    });
    assert_expired(&world, earlier, 2.4);
    broker.state.lock().hold = false;
    assert_eq!(world.run_until(later).unwrap().offset, Some(Offset(1)));
    assert_eq!(values(&broker), ["1", "3"]);
}

/// The broker has the batch and says nothing. Its senders are told in time; what it does with the batch in the end does no harm.
#[test]
fn an_answer_that_does_not_come_is_not_waited_for_longer() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    let options = ProducerOptions { delivery_timeout: Duration::from_secs(1), ..ProducerOptions::default() };
    let producer = client.producer(options);
    world.run_until(producer.produce(record("1"))).unwrap();
    broker.state.lock().hold = true;
    let start = seconds(&world);
    let (held, behind) = world
        .run_until(async { (producer.send(record("2")).await.unwrap(), producer.send(record("3")).await.unwrap()) });
    assert_expired(&world, vec![held, behind], start + 1.2);
    broker.state.lock().hold = false;
    assert_eq!(world.run_until(producer.produce(record("4"))).unwrap().partition, PartitionId(0));
    let there = values(&broker);
    assert_eq!((&there[0], there.last().unwrap()), (&"1".into(), &"4".into()));
    assert!(there.is_sorted(), "{there:?}");
}

#[test]
fn a_flush_ends_what_lingers() {
    for (pause, seed) in [(0, 1), (0, 2), (3, 3)] {
        let (world, broker, client) = setting(seed);
        broker.topic("t", 1);
        let options = ProducerOptions { linger: Duration::from_secs(20), ..ProducerOptions::default() };
        let producer = client.producer(options);
        world.run_until(async {
            let sent = producer.send(record("1")).await.unwrap();
            world.env().clock.sleep(Duration::from_millis(pause)).await;
            producer.flush().await;
            sent.await.unwrap();
        });
        assert!(seconds(&world) < 1.0, "{}", seconds(&world));
    }
}

#[test]
fn a_flush_does_not_wait_for_what_others_send_meanwhile() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    broker.state.lock().produce_time = Duration::from_millis(5);
    let producer = client.producer(ProducerOptions::default());
    let sends = async {
        loop {
            let sent = producer.send(record("x")).await.unwrap();
            world.env().clock.sleep(Duration::from_millis(1)).await;
            drop(sent);
        }
    };
    let flushes = async {
        world.env().clock.sleep(Duration::from_millis(50)).await;
        let mine = producer.send(record("mine")).await.unwrap();
        producer.flush().await;
        mine.await.unwrap()
    };
    world.run_until(async {
        select(std::pin::pin!(sends), std::pin::pin!(flushes)).await;
    });
    assert!(seconds(&world) < 1.0, "{}", seconds(&world));
}

fn partitioned(broker: &FakeBroker) {
    broker.topic("t", 1);
    let mut state = broker.state.lock();
    let topic = state.topics.get_mut("t").unwrap();
    topic.partitioner = Some(|_| Some(0));
    topic.needs_values = true;
}

/// Brokers place so many bytes at once. What is too much with its neighbours is asked in parts, whatever the bound.
#[test]
fn records_that_are_too_many_for_one_question_are_placed_in_several() {
    for bytes_max in [1 << 20, 100 << 10] {
        let (world, broker, client) = setting(1);
        partitioned(&broker);
        broker.state.lock().assign_bytes_max = bytes_max;
        let producer = client.producer(ProducerOptions::default());
        let large = bytes_max - 200;
        let fates = world.run_until(async {
            let mut deliveries = Vec::new();
            for size in std::iter::repeat_n(1000, 120).chain([large]) {
                deliveries.push(producer.send(open(vec![b'x'; size])).await.unwrap());
            }
            join_all(deliveries).await
        });
        for (at, fate) in (0..).zip(fates) {
            assert_eq!(fate.unwrap().offset, Some(Offset(at)));
        }
    }
}

#[test]
fn a_topic_that_is_gone_is_not_waited_for_by_what_is_to_be_placed() {
    let (world, broker, client) = setting(1);
    partitioned(&broker);
    let producer = client.producer(ProducerOptions::default());
    world.run_until(producer.produce(open("1"))).unwrap();
    broker.state.lock().topics.remove("t");
    let start = seconds(&world);
    let error = world.run_until(producer.produce(open("2"))).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UnknownTopicOrPartition));
    assert!(seconds(&world) < start + 5.0, "{}", seconds(&world));
}

/// A record waits for its place as long as for anything else, however many questions there are before it.
#[test]
fn what_waits_to_be_placed_is_given_up_in_time() {
    let (world, broker, client) = setting(1);
    partitioned(&broker);
    let options = ProducerOptions { delivery_timeout: Duration::from_secs(2), ..ProducerOptions::default() };
    let producer = client.producer(options);
    world.run_until(producer.produce(open("1"))).unwrap();
    broker.state.lock().assign_refuse = Some(ErrorCode::NotController);
    let start = seconds(&world);
    let deliveries = world.run_until(async {
        let mut deliveries = Vec::new();
        for _ in 0..20 {
            deliveries.push(producer.send(open(vec![b'x'; 60 << 10])).await.unwrap());
        }
        deliveries
    });
    assert_expired(&world, deliveries, start + 2.6);
    broker.state.lock().assign_refuse = None;
    world.run_until(producer.produce(open("2"))).unwrap();
}

#[test]
fn a_wait_that_saw_no_error_is_told_so() {
    let error = ProduceError::Expired { after: Duration::from_secs(2), last: None };
    assert!(error.to_string().contains("nothing has failed") && error.code().is_none(), "{error}");
}
