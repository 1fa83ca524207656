//! A topic that is routed anew under load: each record is there once, and each key's in the order sent for who reads all of one routing
//! epoch, in every partition, before the next.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_client::{Client, ConsumerOptions, LocalRouting, ProducerOptions, ProducerRecord};
use millstream_model::{PartitionId, RoutingEpoch};
use millstream_test_support::{
    broker::Broker,
    exposition::{parse, value},
    guests,
    http::ask,
    sdk,
};

const KEYS: i64 = 50;
/// Long enough for a busy machine; nothing waits it out but a failure.
const PATIENCE: Duration = Duration::from_secs(60);

fn good(broker: &Broker, words: &[&str]) -> String {
    broker.cli(words).unwrap().ok().unwrap().text()
}

/// Sends numbered records over all keys until told to stop; gives how many, all of them acknowledged.
async fn produce(client: &Client, options: ProducerOptions, stop: &AtomicBool, sent: &AtomicI64) -> i64 {
    let producer = client.producer(ProducerOptions { batch_bytes: 4 << 10, ..options });
    let mut under_way = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = sent.fetch_add(1, Ordering::Relaxed);
        let record = ProducerRecord {
            topic: "t".into(),
            key: Some(Bytes::from(format!("k{}", number % KEYS))),
            value: Some(Bytes::from(format!(
                "{{\"n\":{number},\"id\":{},\"tens\":{}}}",
                number % KEYS,
                number % KEYS / 10
            ))),
            ..ProducerRecord::default()
        };
        under_way.push(producer.send(record).await.unwrap());
        if number % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let count = under_way.len() as i64;
    for delivery in under_way {
        delivery.await.unwrap();
    }
    count
}

/// Reads all, and holds it against the order sent.
async fn check(client: &Client, count: i64) {
    let epochs = client.admin().describe_routing("t").await.unwrap().epochs;
    assert!(!epochs.is_empty());
    let options = ConsumerOptions { until_end: true, ..ConsumerOptions::default() };
    let mut consumer = client.consumer("t", options).await.unwrap();
    let mut read: BTreeMap<Bytes, Vec<(RoutingEpoch, i32, i64)>> = BTreeMap::new();
    let mut there = 0;
    while let Some(record) = consumer.next().await.unwrap() {
        let partition = record.partition.0;
        let passed = epochs.iter().filter(|epoch| match epoch.markers.get(partition as usize) {
            Some(marker) => record.offset > *marker,
            // It was made in this epoch or later, or this is the first one.
            None => true,
        });
        let epoch = passed.map(|epoch| epoch.routing_epoch).max().unwrap();
        let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
        let number = value.trim_start_matches("{\"n\":").split(',').next().unwrap().parse().unwrap();
        read.entry(record.key.unwrap()).or_default().push((epoch, partition, number));
        there += 1;
    }
    assert_eq!(there, count, "each record is there once");
    for (key, mut records) in read {
        // A partition's records keep their order.
        records.sort_by_key(|(epoch, ..)| *epoch);
        let numbers: Vec<_> = records.iter().map(|(_, _, number)| *number).collect();
        assert!(numbers.is_sorted(), "{key:?}: {records:?}");
        let places: BTreeSet<_> = records.iter().map(|(epoch, partition, _)| (epoch, partition)).collect();
        let in_epochs: BTreeSet<_> = records.iter().map(|(epoch, ..)| epoch).collect();
        assert_eq!(places.len(), in_epochs.len(), "{key:?} is in one partition of each epoch");
    }
}

/// Ends the producer, also where the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn until(sent: &AtomicI64, more: i64) {
    let from = sent.load(Ordering::Relaxed);
    while sent.load(Ordering::Relaxed) < from + more {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn keys_keep_their_order_and_nothing_is_lost_or_there_twice_while_a_topic_is_routed_anew() {
    let mut broker = Broker::start().unwrap();
    let file = guests::component("partition-by-field").unwrap();
    let push = ["module", "push", file.to_str().unwrap(), "--name", "by-field", "--version", "1"];
    good(&broker, &push);
    good(&broker, &["topic", "create", "t", "--partitions", "3"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (stop, sent) = (AtomicBool::new(false), AtomicI64::new(0));
    let (count, client) = std::thread::scope(|scope| {
        let client = runtime.block_on(sdk::alert(&broker)).unwrap();
        let of_producer = client.clone();
        let (runtime, stop, sent) = (&runtime, &stop, &sent);
        let stopping = Stop(stop);
        let producing =
            scope.spawn(move || runtime.block_on(produce(&of_producer, ProducerOptions::default(), stop, sent)));
        until(sent, 1000);
        for change in [
            &["--partitions", "5"][..],
            &["--partitioner", "by-field@1", "--param", "field=id"],
            &["--partitions", "8", "--config", "retention.ms=-1"],
            &["--no-partitioner"],
        ] {
            good(&broker, &[&["topic", "alter", "t"], change].concat());
            until(sent, 1000);
        }
        // In the middle of a change, or just after it.
        for partitions in ["9", "10", "11"] {
            scope.spawn(|| {
                // Whether it was told that it is done is no matter.
                let _ = broker.cli(&["topic", "alter", "t", "--partitions", partitions]);
            });
            until(sent, 500);
        }
        let described = broker.json(&["topic", "describe", "t", "--output", "json"]).unwrap().remove(0);
        assert!(described["routing_epoch"].as_i64().unwrap() >= 4, "{described}");
        drop(stopping);
        (producing.join().unwrap(), client)
    });
    runtime.block_on(check(&client, count));
    // And so it is after a crash.
    broker.kill().unwrap();
    broker.restart().unwrap();
    let client = runtime.block_on(sdk::alert(&broker)).unwrap();
    runtime.block_on(check(&client, count));
}

/// As above, where the producer runs the partitioner itself: it goes over to other modules with the routing epochs.
#[test]
fn keys_keep_their_order_where_the_producer_runs_one_partitioner_after_the_other_itself() {
    let broker = Broker::start_with(&["--http", "127.0.0.1:0"]).unwrap();
    let file = guests::component("partition-by-field").unwrap();
    good(&broker, &["module", "push", file.to_str().unwrap(), "--name", "by-field", "--version", "1"]);
    // The same, with a section that says nothing: other bytes, another digest.
    let other = broker.scratch().join("other.wasm");
    std::fs::write(&other, [&std::fs::read(file).unwrap()[..], b"\0\x06\x04more!"].concat()).unwrap();
    good(&broker, &["module", "push", other.to_str().unwrap(), "--name", "by-field", "--version", "2"]);
    good(&broker, &["topic", "create", "t", "--partitions", "3", "--partitioner", "by-field@1", "--param", "field=id"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (stop, sent) = (AtomicBool::new(false), AtomicI64::new(0));
    let client = runtime.block_on(sdk::alert(&broker)).unwrap();
    let requests = |api: &str| {
        let answer = ask(broker.http(), "GET", "/metrics", "").unwrap();
        value(&parse(&answer.body).unwrap(), "millstream_requests_total", &[("api", api)]).unwrap()
    };
    let count = std::thread::scope(|scope| {
        let (runtime, stop, sent, client) = (&runtime, &stop, &sent, &client);
        let options = ProducerOptions { local_routing: Some(LocalRouting::default()), ..ProducerOptions::default() };
        let stopping = Stop(stop);
        let producing = scope.spawn(move || runtime.block_on(produce(client, options, stop, sent)));
        until(sent, 1000);
        for change in [
            &["--partitioner", "by-field@2", "--param", "field=tens"][..],
            &["--partitions", "5"],
            &["--partitioner", "by-field@2", "--param", "field=id"],
            &["--no-partitioner"],
            &["--partitioner", "by-field@1", "--param", "field=tens"],
        ] {
            good(&broker, &[&["topic", "alter", "t"], change].concat());
            until(sent, 1000);
            // What is sent waits to be placed, so that an epoch may be over before the producer has heard of it: not the one of the other
            // module.
            let start = Instant::now();
            while requests("ModuleRead") < 2.0 {
                assert!(start.elapsed() < PATIENCE, "the producer does not go over to the other module");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        drop(stopping);
        producing.join().unwrap()
    });
    assert_eq!(requests("Assign"), 0.0, "the broker was asked");
    assert_eq!(requests("ModuleRead"), 2.0, "each in one part, and once");
    runtime.block_on(check(&client, count));
}

#[test]
fn an_epoch_is_opened_over_kill_9_and_producers_go_over_to_it() {
    let mut broker = Broker::start().unwrap();
    good(&broker, &["topic", "create", "t", "--partitions", "2"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (stop, sent) = (AtomicBool::new(false), AtomicI64::new(0));
    let client = runtime.block_on(sdk::alert(&broker)).unwrap();
    let count = std::thread::scope(|scope| {
        let (runtime, stop, sent, of_producer) = (&runtime, &stop, &sent, client.clone());
        let stopping = Stop(stop);
        let producing =
            scope.spawn(move || runtime.block_on(produce(&of_producer, ProducerOptions::default(), stop, sent)));
        for partitions in 3..8_i32 {
            until(sent, 500);
            let admin = client.admin();
            // Whether it is told that it is done is no matter.
            runtime.spawn(async move { admin.create_partitions("t", partitions).await });
            // Somewhere in it.
            std::thread::sleep(Duration::from_millis(7 * u64::from(partitions.unsigned_abs())));
            broker.kill().unwrap();
            broker.restart_in_place().unwrap();
        }
        until(sent, 500);
        drop(stopping);
        producing.join().unwrap()
    });
    runtime.block_on(check(&client, count));
}

/// Who chooses partitions himself, as every Kafka client does, must choose as the partitioner would.
#[test]
fn a_topic_that_verifies_takes_only_what_lies_where_its_partitioner_puts_it() {
    let broker = Broker::start().unwrap();
    let file = guests::component("partition-by-field").unwrap();
    good(&broker, &["module", "push", file.to_str().unwrap(), "--name", "by-field", "--version", "1"]);
    let by_field = ["--partitioner", "by-field@1", "--param", "field=id", "--param", "strict=true"];
    good(&broker, &[&["topic", "create", "t", "--partitions", "4"], &by_field[..]].concat());
    good(&broker, &["topic", "alter", "t", "--config", "millstream.partitioner.enforce=verify"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = sdk::alert(&broker).await.unwrap();
        let producer = client.producer(ProducerOptions::default());
        let send = async |partition, value: String| {
            let record =
                ProducerRecord { topic: "t".into(), partition, value: Some(value.into()), ..Default::default() };
            producer.send(record).await.unwrap().await
        };
        let mut places = BTreeSet::new();
        for id in 0..12 {
            let value = format!("{{\"id\":{id}}}");
            let chosen = send(None, value.clone()).await.unwrap().partition;
            assert_eq!(send(Some(chosen), value.clone()).await.unwrap().partition, chosen, "{id}");
            let refused = send(Some(PartitionId((chosen.0 + 1) % 4)), value).await.unwrap_err().to_string();
            let told = format!("by partitioner by-field@1 of t it belongs to {chosen}, and");
            assert!(refused.contains(&told), "{refused}");
            places.insert(chosen);
        }
        assert!(places.len() > 1, "{places:?}");
        let refused = send(Some(PartitionId(0)), "{}".into()).await.unwrap_err().to_string();
        assert!(refused.contains("field missing"), "{refused}");
        let mut consumer =
            client.consumer("t", ConsumerOptions { until_end: true, ..Default::default() }).await.unwrap();
        let mut there = 0;
        while consumer.next().await.unwrap().is_some() {
            there += 1;
        }
        assert_eq!(there, 24, "what was refused is not there");
    });
}
