//! Does one broker keep its word when its power fails, its process is killed and its start is cut short? From many seeds.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::time::Duration;

use millstream_client::{NewTopic, ProducerOptions, ProducerRecord};
use millstream_env::{Clock, sim::World};
use millstream_test_support::{
    history::{History, Invariant, Wrong},
    sdk,
};
use millstream_tests_sim::{SimBroker, client};

const TOPIC: &str = "t";
const PARTITIONS: i32 = 3;
const RECORDS: u64 = 400;

/// How the broker's run ends.
#[derive(Clone, Copy, Debug)]
enum End {
    PowerCut,
    Kill,
    Stop,
}

fn world(seed: u64) -> (World, SimBroker) {
    let mut world = World::new(seed);
    world.set_latency(Duration::from_micros(50), Duration::from_micros(500));
    let broker = SimBroker::new(&mut world);
    (world, broker)
}

async fn create(world: &World, durability: &str) {
    let client = client(world).await.unwrap();
    let topic = NewTopic {
        name: TOPIC.into(),
        partitions: Some(PARTITIONS),
        configs: vec![("millstream.durability".into(), durability.into())],
        ..NewTopic::default()
    };
    client.admin().create_topic(topic).await.unwrap();
    client.close().await;
}

/// Sends numbered values over a few keys until `until`; notes what was said of each.
async fn produce(world: &World, history: &mut History, first: u64, until: Duration) {
    let Ok(client) = client(world).await else { return };
    let options = ProducerOptions { delivery_timeout: Duration::from_millis(300), ..ProducerOptions::default() };
    let producer = client.producer(options);
    let clock = world.clock();
    let mut deliveries = Vec::new();
    for number in first..first + RECORDS {
        if clock.now().0 >= until {
            break;
        }
        let value = number.to_string();
        // A producer of its own in each run.
        history.sent(first, value.as_bytes());
        let record = ProducerRecord {
            topic: TOPIC.into(),
            key: Some(format!("key-{}", number % 7).into()),
            value: Some(value.clone().into()),
            ..ProducerRecord::default()
        };
        if let Ok(delivery) = producer.send(record).await {
            deliveries.push((value, delivery));
        }
        if world.rng().one_in(8) {
            clock.sleep(Duration::from_micros(world.rng().below(3_000))).await;
        }
    }
    for (value, delivery) in deliveries {
        // What failed may be there or not; what was acknowledged must.
        if let Ok(delivered) = delivery.await {
            history.acknowledged(value.as_bytes(), delivered.partition.0, delivered.offset.unwrap().0);
        }
    }
}

/// Reads everything, and gives what is wrong with it.
async fn check_all(world: &World, history: &mut History) -> Vec<Wrong> {
    let client = client(world).await.unwrap();
    let begun = history.now();
    let pass = sdk::read_pass(&client, TOPIC).await.unwrap();
    client.close().await;
    history.check(begun, &pass)
}

/// Four runs of a broker on one disk, each ended as told under load; then it starts again, and everything is read. The world's fingerprint, how
/// much was acknowledged, and what was wrong.
fn life(seed: u64, durability: &str, ends: &[End]) -> (u64, usize, Vec<Wrong>) {
    let (world, mut broker) = world(seed);
    let mut history = History::default();
    let mut wrong = Vec::new();
    broker.start(&world).unwrap();
    world.run_until(create(&world, durability));
    for (run, end) in (0..).zip(ends) {
        let left = Duration::from_micros(500 + world.rng().below(60_000));
        let until = world.clock().now().0 + left;
        // The end comes in the middle of it, from outside of all tasks.
        let work = produce(&world, &mut history, run * RECORDS, until);
        let mut work = Box::pin(work);
        let early = world.run_until(async {
            tokio::select! {
                biased;
                () = &mut work => true,
                () = world.clock().sleep(left) => false,
            }
        });
        match end {
            End::PowerCut => broker.cut_power(),
            End::Kill => broker.kill(),
            End::Stop => broker.stop(&world),
        }
        match early {
            true => drop(work),
            false => world.run_until(work),
        }
        history.ended();
        broker.start(&world).unwrap();
        wrong.extend(world.run_until(check_all(&world, &mut history)));
    }
    (world.fingerprint(), history.acknowledgements(), wrong)
}

fn check(seed: u64, ends: &[End]) -> usize {
    let (_, acknowledged, wrong) = life(seed, "fsync", ends);
    let said: Vec<_> = wrong.iter().take(5).map(ToString::to_string).collect();
    assert!(wrong.is_empty(), "seed {seed}, {ends:?}: {} wrong:\n  {}", wrong.len(), said.join("\n  "));
    acknowledged
}

/// `SIM_SEEDS` (30 unless told) seeds from `SIM_SEED` (0) on.
fn seeds() -> std::ops::Range<u64> {
    let number = |name, or| std::env::var(name).map_or(or, |number| number.parse().unwrap());
    let first = number("SIM_SEED", 0);
    first..first + number("SIM_SEEDS", 30)
}

#[test]
fn what_was_acknowledged_survives_whatever_ends_the_broker() {
    let mut acknowledged = 0;
    for seed in seeds() {
        acknowledged += check(seed, &[End::PowerCut; 4]);
        acknowledged += check(seed, &[End::Kill, End::PowerCut, End::Stop, End::PowerCut]);
    }
    let enough = 60 * seeds().count();
    assert!(acknowledged > enough, "only {acknowledged} records were acknowledged: the load proves nothing");
}

/// Without the journal a power cut takes what was acknowledged: if it did not here, the power cuts would prove nothing.
#[test]
fn the_check_finds_what_a_topic_without_the_journal_loses() {
    let mut wrong = (0..20).flat_map(|seed| life(seed, "replicated", &[End::PowerCut; 4]).2);
    assert!(
        wrong.any(|wrong| wrong.invariant == Invariant::AcknowledgedIsRead),
        "no acknowledged record was lost by any power cut"
    );
}

#[test]
fn a_seed_is_a_run() {
    let ends = [End::PowerCut, End::Kill, End::Stop, End::PowerCut];
    for seed in [1, 2] {
        assert_eq!(life(seed, "fsync", &ends), life(seed, "fsync", &ends), "seed {seed}");
    }
    assert_ne!(life(1, "fsync", &ends).0, life(2, "fsync", &ends).0);
}

/// A promise that can be broken in a build for it is missed, and by its name. (The log's own model asks for those that one log
/// can break.)
#[cfg(feature = "faults")]
#[test]
fn a_broken_promise_is_found_by_its_name() {
    use millstream_log::fault::{self, Fault};
    fault::switch(Some(Fault::ReusedEpoch));
    let wrong = life(0, "fsync", &[End::PowerCut; 4]).2;
    fault::switch(None);
    assert!(wrong.iter().any(|wrong| wrong.invariant == Invariant::EpochIsOneLeaders), "{wrong:?}");
}
