//! Consuming what brokers push: the same records as with Fetch, within the credit, over everything that may go wrong.

use std::{collections::BTreeMap, time::Duration};

use futures::future::{Either, select};
use millstream_client::{Client, ConsumeError, Consumer, ConsumerOptions, StartFrom};
use millstream_env::sim::World;
use millstream_model::{Offset, PartitionId};

use crate::{
    consumer::{batch, consumer, filled, read_all, until_end},
    fake::{FakeBroker, Pushes},
    setting_with,
};

fn pushing(how: Pushes, seed: u64) -> (World, FakeBroker, Client) {
    setting_with(seed, Some(how))
}

fn push() -> ConsumerOptions {
    ConsumerOptions { push: true, ..ConsumerOptions::default() }
}

/// Offsets by partition of the next records, as many as there are within a while.
fn read_on(world: &World, consumer: &mut Consumer) -> BTreeMap<i32, Vec<i64>> {
    let mut read: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    world.run_until(async {
        loop {
            let next = std::pin::pin!(consumer.next());
            match select(next, world.env().clock.sleep(Duration::from_secs(20))).await {
                Either::Left((record, _)) => {
                    let record = record.unwrap().unwrap();
                    read.entry(record.partition.0).or_default().push(record.offset.0);
                }
                Either::Right(_) => return,
            }
        }
    });
    read
}

fn all(partitions: i32, to: i64) -> BTreeMap<i32, Vec<i64>> {
    (0..partitions).map(|at| (at, (0..to).collect())).collect()
}

#[test]
fn what_is_pushed_is_read_once_and_in_order_and_what_comes_later_too() {
    for seed in 0..20 {
        let (world, broker, client) = pushing(Pushes::Well, seed);
        filled(&broker, 5);
        let partition_bytes_max = [1, 500, 1 << 20][seed as usize % 3];
        let mut consumer = consumer(&world, &client, ConsumerOptions { partition_bytes_max, ..push() });
        assert_eq!(read_on(&world, &mut consumer), all(5, 100), "seed {seed}");
        for partition in 0..5 {
            broker.append("t", partition, batch(100..110));
        }
        let rest: BTreeMap<_, _> = (0..5).map(|at| (at, (100..110).collect::<Vec<_>>())).collect();
        assert_eq!(read_on(&world, &mut consumer), rest, "seed {seed}");
        let state = broker.state.lock();
        assert_eq!((state.fetches, state.subscriptions), (0, 2), "one for each stream, and nothing is asked again");
    }
}

#[test]
fn an_end_is_an_end() {
    let (world, broker, client) = pushing(Pushes::Well, 1);
    filled(&broker, 3);
    let mut consumer = consumer(&world, &client, ConsumerOptions { push: true, ..until_end(StartFrom::Beginning) });
    broker.append("t", 0, batch(100..110));
    assert_eq!(read_all(&world, &mut consumer).unwrap(), all(3, 100));
    assert!(consumer.positions().all(|at| at.next == Offset(100)));
}

/// Nobody reads, and the broker may send no more than it was allowed; then everything is read.
#[test]
fn a_reader_that_stops_is_sent_no_more_than_it_allows() {
    let (world, broker, client) = pushing(Pushes::Well, 1);
    filled(&broker, 1);
    let fetch_bytes_max = 1_000;
    let options = ConsumerOptions { fetch_bytes_max, partition_bytes_max: 1, ..push() };
    let mut consumer = consumer(&world, &client, options);
    world.run_until(consumer.next()).unwrap().unwrap();
    world.run_until(world.env().clock.sleep(Duration::from_secs(60)));
    let sent = broker.state.lock().pushed[0];
    let longest = 600;
    assert!((1_000..1_000 + longest).contains(&sent), "{sent}");
    let rest = read_on(&world, &mut consumer);
    assert_eq!(rest, BTreeMap::from([(0, (1..100).collect::<Vec<_>>())]));
    assert_eq!(broker.state.lock().subscriptions, 1);
}

/// Moved, paused and resumed anywhere: as with Fetch, nothing is lost, doubled, or taken for another place.
#[test]
fn partitions_are_moved_and_paused_while_others_are_pushed() {
    for seed in 0..40 {
        let (world, broker, client) = pushing(Pushes::Well, seed);
        filled(&broker, 2);
        let options = ConsumerOptions { partition_bytes_max: [1, 300][seed as usize % 2], fetch_streams: 1, ..push() };
        let mut consumer = consumer(&world, &client, options);
        let mut expected = [0_i64; 2];
        for _ in 0..300 {
            let at = PartitionId(world.rng().below(2) as i32);
            match world.rng().below(12) {
                0 => {
                    let offset = world.rng().below(100) as i64;
                    consumer.seek(at, Offset(offset)).unwrap();
                    expected[at.0 as usize] = offset;
                }
                1 => consumer.pause(at).unwrap(),
                2 => consumer.resume(at).unwrap(),
                _ => {}
            }
            let moment = world.env().clock.sleep(Duration::from_millis(world.rng().below(20)));
            let next = world.run_until(async {
                match select(std::pin::pin!(consumer.next()), moment).await {
                    Either::Left((record, _)) => record.unwrap(),
                    Either::Right(_) => None,
                }
            });
            if let Some(record) = next {
                assert!(consumer.paused().all(|paused| paused != record.partition), "seed {seed}");
                let expected = &mut expected[record.partition.0 as usize];
                assert_eq!(record.offset.0, *expected, "seed {seed}");
                *expected += 1;
            }
        }
        for partition in [0, 1] {
            consumer.resume(PartitionId(partition)).unwrap();
        }
        let rest = read_on(&world, &mut consumer);
        for (partition, from) in (0..).zip(expected) {
            let expected: Vec<_> = (from..100).collect();
            assert_eq!(rest.get(&partition).cloned().unwrap_or_default(), expected, "seed {seed}");
        }
        assert_eq!(broker.state.lock().fetches, 0);
    }
}

#[test]
fn subscriptions_that_break_or_end_are_made_again() {
    for how in [Pushes::Well, Pushes::Briefly] {
        let (world, broker, client) = pushing(how, 3);
        filled(&broker, 2);
        let mut consumer = consumer(&world, &client, push());
        broker.state.lock().break_fetches = 3;
        assert_eq!(read_on(&world, &mut consumer), all(2, 100), "{how:?}");
        assert!(broker.state.lock().subscriptions > 3, "{how:?}");
    }
}

#[test]
fn a_partition_that_fails_holds_up_no_other_that_is_pushed() {
    let (world, broker, client) = pushing(Pushes::Well, 1);
    filled(&broker, 2);
    broker.state.lock().failing.insert(1, millstream_client::ErrorCode::KafkaStorage);
    let mut consumer = consumer(&world, &client, ConsumerOptions { start: StartFrom::Offset(Offset(0)), ..push() });
    assert_eq!(read_on(&world, &mut consumer), BTreeMap::from([(0, (0..100).collect::<Vec<_>>())]));
    broker.state.lock().failing.clear();
    assert_eq!(read_on(&world, &mut consumer), BTreeMap::from([(1, (0..100).collect::<Vec<_>>())]));
}

#[test]
fn a_view_that_keeps_little_is_pushed() {
    let (world, broker, client) = pushing(Pushes::Well, 1);
    filled(&broker, 1);
    broker.state.lock().topics.get_mut("t").unwrap().filter = Some((7, 30));
    let mut consumer = consumer(&world, &client, push());
    let read = read_on(&world, &mut consumer);
    assert!(read[&0].iter().all(|offset| offset / 10 % 3 == 0) && read[&0].len() >= 10, "{read:?}");
    assert_eq!(consumer.positions().next().unwrap().next, Offset(100));
}

#[test]
fn without_subscriptions_records_are_fetched() {
    for how in [None, Some(Pushes::Refused)] {
        let (world, broker, client) = setting_with(1, how);
        filled(&broker, 3);
        let mut consumer = consumer(&world, &client, push());
        assert_eq!(read_on(&world, &mut consumer), all(3, 100), "{how:?}");
        assert!(broker.state.lock().fetches > 0);
    }
}

#[test]
fn a_broker_that_breaks_the_rules_is_told_of_and_one_that_is_silent_left() {
    for (how, expected) in
        [(Pushes::TooMuch, "more than the"), (Pushes::Astray, "was due"), (Pushes::Silent, "did not answer")]
    {
        let (world, broker, client) = pushing(how, 1);
        filled(&broker, 1);
        let patience = Duration::from_secs(1);
        let options = ConsumerOptions { patience, fetch_bytes_max: 500, partition_bytes_max: 1, ..push() };
        let mut consumer = consumer(&world, &client, options);
        let error = world.run_until(async {
            loop {
                match consumer.next().await {
                    Ok(record) => drop(record.unwrap()),
                    Err(error) => return error,
                }
            }
        });
        assert!(matches!(&error, ConsumeError::Call(_)) && error.to_string().contains(expected), "{how:?}: {error}");
        broker.state.lock().pushes = Some(Pushes::Well);
        assert!(!read_on(&world, &mut consumer).is_empty(), "{how:?}");
    }
}
