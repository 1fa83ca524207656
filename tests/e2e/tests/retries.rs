//! Idempotent producers that send through `kill -9` and restart, again and again: every value is there once, and in order.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use millstream_client::{Client, ClientOptions, Delivered, ProducerOptions, ProducerRecord, Security};
use millstream_model::PartitionId;
use millstream_test_support::{
    broker::Broker,
    message::{Message, Placed},
    sdk,
};

const KILLS: u64 = 6;
const PARTITIONS: i32 = 3;
const PRODUCERS: u64 = 4;
/// Acknowledgements between two kills.
const BETWEEN: u64 = 4_000;

/// Where each acknowledged value is, by (producer, number).
type Acknowledged = BTreeMap<(u64, u64), (i32, i64)>;

/// A client that notices soon that a broker is gone.
async fn connect(broker: &Broker) -> Client {
    let mut options = ClientOptions {
        brokers: vec![broker.address().to_string()],
        security: Security::ProfileFile(broker.profile()),
        ..ClientOptions::default()
    };
    options.limits.idle_timeout = Duration::from_millis(1500);
    options.limits.keep_alive = Duration::from_millis(400);
    Client::connect(options).await.unwrap()
}

/// Sends numbers to the partitions in turn until `acknowledged` has come to the goal; waits for the fate of each.
async fn load(client: Client, producer: u64, goal: u64, acknowledged: Arc<AtomicU64>) -> Vec<Delivered> {
    // Small batches, so that several are under way when the broker dies.
    let options = ProducerOptions { batch_bytes: 2_000, buffer_bytes_max: 200_000, ..ProducerOptions::default() };
    let sender = client.producer(options);
    let mut deliveries = Vec::new();
    for number in 0_u64.. {
        if acknowledged.load(Ordering::Relaxed) >= goal {
            break;
        }
        let record = ProducerRecord {
            topic: "load".into(),
            partition: Some(PartitionId((number % PARTITIONS as u64) as i32)),
            value: Some(format!("{producer}/{number}").into()),
            ..ProducerRecord::default()
        };
        let delivery = sender.send(record).await.unwrap();
        let acknowledged = Arc::clone(&acknowledged);
        deliveries.push(tokio::spawn(async move {
            let delivered = delivery.await.unwrap();
            acknowledged.fetch_add(1, Ordering::Relaxed);
            delivered
        }));
    }
    let mut delivered = Vec::new();
    for delivery in deliveries {
        delivered.push(delivery.await.unwrap());
    }
    delivered
}

/// Every value is there once, at the place that was acknowledged; a producer's are in the order sent.
fn check(acknowledged: &Acknowledged, read: &[Placed]) {
    let mut found = BTreeMap::new();
    let mut last = BTreeMap::new();
    for placed in read {
        let value = String::from_utf8(placed.message.value.clone().unwrap()).unwrap();
        let (producer, number) = value.split_once('/').unwrap();
        let (producer, number): (u64, u64) = (producer.parse().unwrap(), number.parse().unwrap());
        let place = (placed.message.partition, placed.offset);
        let before = found.insert((producer, number), place);
        assert!(before.is_none(), "{value} is at {before:?} and again at {place:?}");
        let before = last.insert((producer, place.0), number);
        assert!(before < Some(number), "{value} comes after {before:?} in partition {}", place.0);
    }
    assert_eq!(found.len(), acknowledged.len());
    for (value, place) in acknowledged {
        assert_eq!(found.get(value), Some(place), "{value:?} is not where it was acknowledged");
    }
}

#[test]
fn what_is_sent_through_kills_and_restarts_is_there_once_and_in_order() {
    let mut broker = Broker::start().unwrap();
    let partitions = PARTITIONS.to_string();
    broker.cli(&["topic", "create", "load", "--partitions", &partitions]).unwrap().ok().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let goal = BETWEEN * (KILLS + 1);
    let mut loads = Vec::new();
    for producer in 0..PRODUCERS {
        let client = runtime.block_on(connect(&broker));
        loads.push(runtime.spawn(load(client, producer, goal, Arc::clone(&acknowledged))));
    }
    for kill in 1..=KILLS {
        let start = Instant::now();
        while acknowledged.load(Ordering::Relaxed) < BETWEEN * kill {
            assert!(start.elapsed() < Duration::from_secs(60), "the load does not get on after kill {}", kill - 1);
            std::thread::sleep(Duration::from_millis(1));
        }
        broker.kill().unwrap();
        broker.restart_in_place().unwrap();
    }
    let mut all = Acknowledged::new();
    for (producer, load) in (0..).zip(loads) {
        let delivered = runtime.block_on(load).unwrap();
        all.extend(
            (0..)
                .zip(delivered)
                .map(|(number, delivered)| ((producer, number), (delivered.partition.0, delivered.offset.unwrap().0))),
        );
    }
    eprintln!("{} values through {KILLS} kills", all.len());
    check(&all, &sdk::consume(&broker, "load").unwrap());
}

#[test]
fn the_checker_finds_what_it_looks_for() {
    let placed = |value: &str, offset| Placed { offset, message: Message::new(0, None, Some(value.as_bytes())) };
    let good = vec![placed("0/0", 0), placed("1/0", 1), placed("0/1", 2)];
    let acknowledged = Acknowledged::from([((0, 0), (0, 0)), ((1, 0), (0, 1)), ((0, 1), (0, 2))]);
    check(&acknowledged, &good);
    let broken: [fn(&mut Vec<Placed>); 4] = [
        |read| drop(read.pop()),
        // Twice.
        |read| read.push(Placed { offset: 3, ..read[1].clone() }),
        // Out of order.
        |read| (read[0].message, read[2].message) = (read[2].message.clone(), read[0].message.clone()),
        |read| read[2].offset = 3,
    ];
    for damage in broken {
        let mut read = good.clone();
        damage(&mut read);
        assert!(std::panic::catch_unwind(|| check(&acknowledged, &read)).is_err());
    }
}
