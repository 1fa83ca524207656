//! Consuming with partitions that are not read for a while, and as a stream.

use std::{collections::BTreeMap, time::Duration};

use futures::{
    StreamExt,
    future::{Either, select},
};
use millstream_client::{ConsumeError, ConsumedRecord, Consumer, ConsumerOptions, StartFrom};
use millstream_env::sim::World;
use millstream_model::{Offset, PartitionId};

use crate::{
    consumer::{batch, consumer, filled, read_all, until_end},
    setting,
};

const ZERO: PartitionId = PartitionId(0);
const ONE: PartitionId = PartitionId(1);

/// The next record; none if there is none within a minute.
fn next_in_time(world: &World, consumer: &mut Consumer) -> Option<ConsumedRecord> {
    world.run_until(async {
        let next = std::pin::pin!(consumer.next());
        match select(next, world.env().clock.sleep(Duration::from_secs(60))).await {
            Either::Left((record, _)) => record.unwrap(),
            Either::Right(_) => None,
        }
    })
}

/// Wherever it is paused, in the middle of a batch or of an answer: nothing is lost, doubled, or handed out meanwhile.
#[test]
fn a_partition_is_paused_and_goes_on_where_it_was() {
    for seed in 0..40 {
        let (world, broker, client) = setting(seed);
        filled(&broker, 2);
        let partition_bytes_max = [1, 300, 1 << 20][seed as usize % 3];
        let options = ConsumerOptions { partition_bytes_max, ..until_end(StartFrom::Beginning) };
        let mut consumer = consumer(&world, &client, options);
        let mut read: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        let mut paused = None;
        while let Some(record) = next_in_time(&world, &mut consumer) {
            assert_ne!(paused, Some(record.partition), "seed {seed}: {}", record.offset);
            read.entry(record.partition.0).or_default().push(record.offset.0);
            if world.rng().below(15) == 0 {
                let which = PartitionId(world.rng().below(2) as i32);
                if let Some(before) = paused.replace(which) {
                    consumer.resume(before).unwrap();
                }
                consumer.pause(which).unwrap();
                assert_eq!(consumer.paused().collect::<Vec<_>>(), [which]);
            }
        }
        let next = |consumer: &Consumer, which| consumer.positions().find(|at| at.partition == which).unwrap().next;
        if let Some(paused) = paused {
            let at = next(&consumer, paused);
            assert_eq!(at.0, read.get(&paused.0).map_or(0, |read| read.len() as i64), "seed {seed}");
            consumer.resume(paused).unwrap();
            read.entry(paused.0).or_default().extend(at.0..100);
            if at < Offset(100) {
                let rest = read_all(&world, &mut consumer).unwrap();
                assert_eq!(rest, BTreeMap::from([(paused.0, (at.0..100).collect::<Vec<_>>())]), "seed {seed}");
            }
        }
        let all: Vec<i64> = (0..100).collect();
        assert_eq!(read, BTreeMap::from([(0, all.clone()), (1, all)]), "seed {seed}");
    }
}

#[test]
fn a_reader_of_which_all_is_paused_waits_and_asks_for_nothing() {
    let (world, broker, client) = setting(1);
    filled(&broker, 2);
    let mut consumer = consumer(&world, &client, ConsumerOptions::default());
    consumer.pause(ZERO).unwrap();
    consumer.pause(ONE).unwrap();
    assert_eq!(next_in_time(&world, &mut consumer), None);
    assert_eq!(broker.state.lock().fetches, 0);
    consumer.resume(ONE).unwrap();
    for _ in 0..100 {
        assert_eq!(next_in_time(&world, &mut consumer).unwrap().partition, ONE);
    }
    // Moved while it is paused, it goes on there; and what is new is read.
    consumer.seek(ZERO, Offset(97)).unwrap();
    broker.append("t", 0, batch(100..101));
    consumer.resume(ZERO).unwrap();
    let rest: Vec<_> = (0..4).map(|_| next_in_time(&world, &mut consumer).unwrap().offset.0).collect();
    assert_eq!(rest, [97, 98, 99, 100]);
    for partition in [PartitionId(2), PartitionId(-1)] {
        assert!(matches!(consumer.pause(partition), Err(ConsumeError::NotRead { .. })));
        assert!(matches!(consumer.resume(partition), Err(ConsumeError::NotRead { .. })));
    }
}

/// An answer that is under way when its partition is paused is not handed out, whenever it comes.
#[test]
fn what_is_under_way_when_a_partition_is_paused_is_not_handed_out() {
    for seed in 0..20 {
        let (world, broker, client) = setting(seed);
        filled(&broker, 1);
        let mut consumer = consumer(&world, &client, ConsumerOptions::default());
        world.run_until(async {
            let next = std::pin::pin!(consumer.next());
            // Long enough to ask, and to be answered in some of the worlds.
            let moment = world.env().clock.sleep(Duration::from_micros(world.rng().below(3_000)));
            drop(select(moment, next).await);
        });
        let first = consumer.positions().next().unwrap().next;
        consumer.pause(ZERO).unwrap();
        assert_eq!(next_in_time(&world, &mut consumer), None, "seed {seed}");
        consumer.resume(ZERO).unwrap();
        assert_eq!(next_in_time(&world, &mut consumer).unwrap().offset, first, "seed {seed}");
    }
}

#[test]
fn records_come_as_a_stream_that_may_be_left_and_taken_up_again() {
    let (world, broker, client) = setting(1);
    filled(&broker, 1);
    let mut consumer = consumer(&world, &client, until_end(StartFrom::Beginning));
    let offsets = |records: Vec<Result<ConsumedRecord, ConsumeError>>| -> Vec<i64> {
        records.into_iter().map(|record| record.unwrap().offset.0).collect()
    };
    let some = world.run_until(async { consumer.stream().take(33).collect().await });
    assert_eq!(offsets(some), (0..33).collect::<Vec<_>>());
    assert_eq!(consumer.positions().next().unwrap().next, Offset(33));
    let rest = world.run_until(async { consumer.stream().collect().await });
    assert_eq!(offsets(rest), (33..100).collect::<Vec<_>>());
}
