//! Idempotent producers that send through `kill -9` and restart, again and again: every value is there once, and in order.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use millstream_client::{Client, ProducerOptions, ProducerRecord};
use millstream_model::PartitionId;
use millstream_test_support::{broker::Broker, history::History, sdk};

const KILLS: usize = 6;
const PARTITIONS: i32 = 3;
const PRODUCERS: u64 = 4;
/// Acknowledgements between two kills.
const BETWEEN: usize = 4_000;

/// Sends numbers to the partitions in turn until so many were acknowledged; waits for the fate of each.
async fn load(client: Client, producer: u64, goal: usize, history: Arc<Mutex<History>>) {
    // Small batches, so that several are under way when the broker dies.
    let options = ProducerOptions { batch_bytes: 2_000, buffer_bytes_max: 200_000, ..ProducerOptions::default() };
    let sender = client.producer(options);
    let mut deliveries = Vec::new();
    for number in 0_u64.. {
        let value = format!("{producer}/{number}").into_bytes();
        {
            let mut history = history.lock().unwrap();
            if history.acknowledgements() >= goal {
                break;
            }
            history.sent(producer, &value);
        }
        let record = ProducerRecord {
            topic: "load".into(),
            partition: Some(PartitionId((number % PARTITIONS as u64) as i32)),
            value: Some(value.clone().into()),
            ..ProducerRecord::default()
        };
        let delivery = sender.send(record).await.unwrap();
        let history = Arc::clone(&history);
        deliveries.push(tokio::spawn(async move {
            let delivered = delivery.await.unwrap();
            history.lock().unwrap().acknowledged(&value, delivered.partition.0, delivered.offset.unwrap().0);
        }));
    }
    for delivery in deliveries {
        delivery.await.unwrap();
    }
}

#[test]
fn what_is_sent_through_kills_and_restarts_is_there_once_and_in_order() {
    let mut broker = Broker::start().unwrap();
    let partitions = PARTITIONS.to_string();
    broker.cli(&["topic", "create", "load", "--partitions", &partitions]).unwrap().ok().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let history = Arc::new(Mutex::new(History::default()));
    let mut loads = Vec::new();
    for producer in 0..PRODUCERS {
        let client = runtime.block_on(sdk::alert(&broker)).unwrap();
        loads.push(runtime.spawn(load(client, producer, BETWEEN * (KILLS + 1), Arc::clone(&history))));
    }
    for kill in 1..=KILLS {
        let start = Instant::now();
        while history.lock().unwrap().acknowledgements() < BETWEEN * kill {
            assert!(start.elapsed() < Duration::from_secs(60), "the load does not get on after kill {}", kill - 1);
            std::thread::sleep(Duration::from_millis(1));
        }
        broker.kill().unwrap();
        history.lock().unwrap().ended();
        broker.restart_in_place().unwrap();
    }
    for load in loads {
        runtime.block_on(load).unwrap();
    }
    // All that was sent was acknowledged: so all that is read was.
    let read = runtime.block_on(async { sdk::hold(&sdk::alert(&broker).await?, "load", &history).await }).unwrap();
    assert_eq!(read, history.lock().unwrap().acknowledgements());
    eprintln!("{read} values through {KILLS} kills");
}
