//! Consuming: from where, to where, over failures, and through views that keep little.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use millstream_client::{Client, ConsumeError, Consumer, ConsumerEvent, ConsumerOptions, ErrorCode, StartFrom};
use millstream_env::sim::World;
use millstream_model::{Offset, PartitionId, TimestampMs};
use millstream_record::{BatchBuilder, BatchOptions, Compression, crc32c};

use crate::{fake::FakeBroker, setting};

/// A batch whose values are `numbers` as text, a second apart.
pub(crate) fn batch(numbers: std::ops::Range<i64>) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { compression: Compression::None, ..BatchOptions::default() });
    for number in numbers {
        builder.push(TimestampMs(number * 1000), Some(b"k"), Some(number.to_string().as_bytes()), &[]).unwrap();
    }
    builder.build().unwrap()
}

/// A topic whose partitions hold the numbers from 0 to (not including) 100, in batches of ten.
pub(crate) fn filled(broker: &FakeBroker, partitions: usize) {
    broker.topic("t", partitions);
    for partition in 0..partitions {
        for first in (0..100).step_by(10) {
            broker.append("t", partition, batch(first..first + 10));
        }
    }
}

pub(crate) fn consumer(world: &World, client: &Client, options: ConsumerOptions) -> Consumer {
    world.run_until(client.consumer("t", options)).unwrap()
}

/// Reads to the end: the values of each partition, whose offsets must be those given.
pub(crate) fn read_all(world: &World, consumer: &mut Consumer) -> Result<BTreeMap<i32, Vec<i64>>, ConsumeError> {
    world.run_until(async {
        let mut read: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        while let Some(record) = consumer.next().await? {
            let number = String::from_utf8(record.value.unwrap().to_vec()).unwrap().parse().unwrap();
            assert_eq!(record.offset, Offset(number));
            assert_eq!(record.timestamp, TimestampMs(number * 1000));
            read.entry(record.partition.0).or_default().push(number);
        }
        Ok(read)
    })
}

pub(crate) fn until_end(start: StartFrom) -> ConsumerOptions {
    ConsumerOptions { start, until_end: true, ..ConsumerOptions::default() }
}

#[test]
fn everything_is_read_once_and_in_order_and_then_it_ends() {
    for partition_bytes_max in [1, 500, 1 << 20] {
        let (world, broker, client) = setting(1);
        filled(&broker, 5);
        let options = ConsumerOptions { partition_bytes_max, ..until_end(StartFrom::Beginning) };
        let mut consumer = consumer(&world, &client, options);
        let expected: BTreeMap<_, _> = (0..5).map(|at| (at, (0..100).collect::<Vec<_>>())).collect();
        assert_eq!(read_all(&world, &mut consumer).unwrap(), expected);
        assert!(consumer.positions().all(|at| at.next == Offset(100) && at.end == Some(Offset(100))));
    }
}

#[test]
fn reading_starts_where_it_is_told() {
    let check = |start, expected: std::ops::Range<i64>| {
        let (world, broker, client) = setting(1);
        filled(&broker, 1);
        let read = read_all(&world, &mut consumer(&world, &client, until_end(start))).unwrap();
        assert_eq!(read.get(&0).cloned().unwrap_or_default(), expected.collect::<Vec<_>>());
    };
    check(StartFrom::Beginning, 0..100);
    check(StartFrom::End, 100..100);
    check(StartFrom::Offset(Offset(37)), 37..100);
    check(StartFrom::Offset(Offset(100)), 100..100);
    check(StartFrom::Timestamp(TimestampMs(36_500)), 37..100);
    check(StartFrom::Timestamp(TimestampMs(1_000_000)), 100..100);
}

#[test]
fn an_end_within_a_batch_is_kept() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    broker.append("t", 0, batch(0..10));
    let mut consumer = consumer(&world, &client, until_end(StartFrom::Beginning));
    // Appended after the end was asked for.
    broker.append("t", 0, batch(10..20));
    assert_eq!(read_all(&world, &mut consumer).unwrap()[&0], (0..10).collect::<Vec<_>>());
}

#[test]
fn an_empty_topic_ends_at_once() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 3);
    assert!(read_all(&world, &mut consumer(&world, &client, until_end(StartFrom::Beginning))).unwrap().is_empty());
    assert_eq!(broker.state.lock().fetches, 0);
}

#[test]
fn one_partition_can_be_read_alone() {
    let (world, broker, client) = setting(1);
    filled(&broker, 3);
    let options = ConsumerOptions { partitions: vec![PartitionId(1)], ..until_end(StartFrom::Beginning) };
    let read = read_all(&world, &mut consumer(&world, &client, options)).unwrap();
    assert_eq!(read.into_keys().collect::<Vec<_>>(), [1]);
    // Named twice, it is one all the same.
    let options = ConsumerOptions { partitions: vec![PartitionId(1); 2], ..until_end(StartFrom::Beginning) };
    let read = read_all(&world, &mut consumer(&world, &client, options)).unwrap();
    assert_eq!(read, BTreeMap::from([(1, (0..100).collect())]));
    let options = ConsumerOptions { partitions: vec![PartitionId(3)], ..ConsumerOptions::default() };
    let error = world.run_until(client.consumer("t", options)).unwrap_err();
    assert!(matches!(error, ConsumeError::NoSuchPartition { partitions: 3, .. }), "{error}");
}

/// As [`batch`], for a reader that knows partitions by what they hold.
fn values(world: &World, consumer: &mut Consumer, count: usize) -> Vec<(i32, String)> {
    world.run_until(async {
        let mut read = Vec::new();
        while read.len() < count {
            let record = consumer.next().await.unwrap().unwrap();
            read.push((record.partition.0, String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
        }
        read
    })
}

/// What was in a new partition before it was noticed came after the reader's start, whatever that was.
#[test]
fn new_partitions_are_noticed_and_read_from_their_beginning_by_who_reads_all() {
    for start in [StartFrom::Beginning, StartFrom::End, StartFrom::Offset(Offset(100))] {
        let (world, broker, client) = setting(1);
        filled(&broker, 2);
        let options = ConsumerOptions { start: start.clone(), ..ConsumerOptions::default() };
        let mut all = consumer(&world, &client, options.clone());
        let mut one = consumer(&world, &client, ConsumerOptions { partitions: vec![PartitionId(1)], ..options });
        if start == StartFrom::Beginning {
            values(&world, &mut all, 200);
            values(&world, &mut one, 100);
        }
        broker.state.lock().topics.get_mut("t").unwrap().logs.extend([Vec::new(), Vec::new()]);
        broker.append("t", 2, batch(0..3));
        let read = values(&world, &mut all, 3);
        assert_eq!(read, [(2, "0".into()), (2, "1".into()), (2, "2".into())], "{start:?}");
        assert_eq!(all.positions().count(), 4);
        broker.append("t", 3, batch(0..1));
        broker.append("t", 1, batch(100..101));
        let mut read = values(&world, &mut all, 2);
        read.sort();
        assert_eq!(read, [(1, "100".into()), (3, "0".into())], "{start:?}");
        assert_eq!(values(&world, &mut one, 1), [(1, "100".into())]);
        assert_eq!(one.positions().count(), 1);
    }
}

#[test]
fn who_reads_to_an_end_has_the_partitions_that_there_were() {
    let (world, broker, client) = setting(1);
    filled(&broker, 1);
    let mut reader = consumer(&world, &client, until_end(StartFrom::Beginning));
    broker.state.lock().topics.get_mut("t").unwrap().logs.push(Vec::new());
    broker.append("t", 1, batch(0..3));
    world.run_for(Duration::from_secs(100));
    assert_eq!(read_all(&world, &mut reader).unwrap().into_keys().collect::<Vec<_>>(), [0]);
}

#[test]
fn new_records_wake_a_reader_that_waits() {
    let (world, broker, client) = setting(1);
    filled(&broker, 2);
    let mut consumer =
        consumer(&world, &client, ConsumerOptions { start: StartFrom::End, ..ConsumerOptions::default() });
    let arrival = async {
        world.env().clock.sleep(Duration::from_secs(3)).await;
        broker.append("t", 1, batch(100..101));
    };
    let (record, ()) = world.run_until(async { futures::join!(consumer.next(), arrival) });
    let record = record.unwrap().unwrap();
    assert_eq!((record.partition, record.offset), (PartitionId(1), Offset(100)));
    let waited = world.env().clock.now().0;
    assert!(waited < Duration::from_millis(3200), "{waited:?}");
    // The waiting was long polls, not a loop.
    assert!(broker.state.lock().fetches < 20, "{}", broker.state.lock().fetches);
}

/// The next answer is fetched while the last one is handed out, but not when much of that waits.
#[test]
fn the_next_fetch_starts_once_little_waits_to_be_handed_out() {
    let check = |fetch_bytes_max: usize, expected: &[usize]| {
        let (world, broker, client) = setting(1);
        filled(&broker, 3);
        let fetch_bytes_max = i32::try_from(fetch_bytes_max).unwrap();
        // An answer has a batch of each partition.
        let options = ConsumerOptions {
            fetch_streams: 1,
            partition_bytes_max: 1,
            fetch_bytes_max,
            ..until_end(StartFrom::Beginning)
        };
        let mut consumer = consumer(&world, &client, options);
        let mut fetches = Vec::new();
        for _ in expected {
            world.run_until(async {
                assert_eq!(consumer.next_batches().await.unwrap().unwrap().batches.len(), 1);
                world.env().clock.sleep(Duration::from_secs(1)).await;
            });
            fetches.push(broker.state.lock().fetches);
        }
        assert_eq!(fetches, expected, "with {fetch_bytes_max} bytes");
    };
    let bytes = batch(10..20).len();
    check(6 * bytes, &[2, 2, 2, 3, 3, 3]);
    check(2 * bytes, &[1, 2, 2, 2, 3, 3]);
    check(bytes, &[1, 1, 2, 2, 2, 3]);
}

#[test]
fn reading_goes_on_after_connections_break() {
    for seed in 0..20 {
        let (world, broker, client) = setting(seed);
        filled(&broker, 3);
        broker.state.lock().break_fetches = 5;
        let options = ConsumerOptions { partition_bytes_max: 500, ..until_end(StartFrom::Beginning) };
        let expected: BTreeMap<_, _> = (0..3).map(|at| (at, (0..100).collect::<Vec<_>>())).collect();
        assert_eq!(read_all(&world, &mut consumer(&world, &client, options)).unwrap(), expected);
        assert!(broker.state.lock().connections > 1);
    }
}

#[test]
fn patience_ends_and_the_reader_can_be_asked_again() {
    let (world, broker, client) = setting(1);
    filled(&broker, 1);
    broker.state.lock().break_fetches = usize::MAX;
    let options = ConsumerOptions { patience: Duration::from_secs(5), ..until_end(StartFrom::Beginning) };
    let mut consumer = consumer(&world, &client, options);
    let error = read_all(&world, &mut consumer).unwrap_err();
    assert!(error.is_retriable(), "{error}");
    broker.state.lock().break_fetches = 0;
    assert_eq!(read_all(&world, &mut consumer).unwrap()[&0].len(), 100);
}

#[test]
fn a_view_that_keeps_little_or_nothing_is_read_to_its_end() {
    for (span, keep) in [(10, 30), (1, 1000), (7, 1_000_000), (1000, 1)] {
        let (world, broker, client) = setting(1);
        broker.topic("t", 2);
        for partition in 0..2 {
            for number in 0..50 {
                broker.append("t", partition, batch(number..number + 1));
            }
        }
        broker.state.lock().topics.get_mut("t").unwrap().filter = Some((span, keep));
        let read = read_all(&world, &mut consumer(&world, &client, until_end(StartFrom::Offset(Offset(1))))).unwrap();
        let expected: Vec<_> = (1..50).filter(|number| number % keep == 0).collect();
        for partition in 0..2 {
            assert_eq!(read.get(&partition).cloned().unwrap_or_default(), expected, "{span} {keep}");
        }
        let took = world.env().clock.now().0;
        assert!(took < Duration::from_secs(1), "no waiting where there is something to scan: {took:?}");
    }
}

#[test]
fn an_offset_that_is_not_there_is_said_with_what_there_is() {
    let (world, broker, client) = setting(1);
    filled(&broker, 1);
    for offset in [-5, 101, i64::MAX] {
        let options = ConsumerOptions { start: StartFrom::Offset(Offset(offset)), ..ConsumerOptions::default() };
        let mut consumer = consumer(&world, &client, options);
        let error = world.run_until(consumer.next()).unwrap_err();
        let ConsumeError::OutOfRange { start: Some(Offset(0)), end: Some(Offset(100)), .. } = error else {
            panic!("{error}");
        };
        assert!(error.to_string().contains("(0 to 99)") && error.to_string().contains("from 100"), "{error}");
    }
}

#[test]
fn damaged_records_are_refused() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    broker.append("t", 0, batch(0..10));
    let mut bytes = batch(10..20).to_vec();
    let last = bytes.len() - 1;
    bytes[last - 3] ^= 1;
    // Behind the back of the fake's own checks.
    bytes[..8].copy_from_slice(&10i64.to_be_bytes());
    let damaged = millstream_record::Batch::parse_one(bytes.into()).unwrap();
    broker.state.lock().topics.get_mut("t").unwrap().logs[0].push(damaged);
    // In an answer of its own, and behind a good one in the same answer.
    for partition_bytes_max in [1, 1 << 20] {
        let options = ConsumerOptions { partition_bytes_max, ..until_end(StartFrom::Beginning) };
        let mut consumer = consumer(&world, &client, options);
        let mut read = 0;
        let error = world.run_until(async {
            loop {
                match consumer.next().await {
                    Ok(Some(_)) => read += 1,
                    Ok(None) => panic!("the damage was not seen"),
                    Err(error) => break error,
                }
            }
        });
        assert!(matches!(error, ConsumeError::Damaged { offset: Offset(10), .. }), "{error}");
        assert_eq!(read, 10);
    }
}

/// A batch as a log has it.
fn appended(numbers: std::ops::Range<i64>) -> Vec<u8> {
    let mut bytes = batch(numbers.clone()).to_vec();
    bytes[..8].copy_from_slice(&numbers.start.to_be_bytes());
    bytes
}

/// A batch with something wrong among its records and a checksum that fits all the same.
fn spoilt(numbers: std::ops::Range<i64>) -> Bytes {
    let mut bytes = appended(numbers);
    let last = bytes.len() - 1;
    // The last record now claims a header that is not there.
    bytes[last] = 2;
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

#[test]
fn damage_among_records_is_said_with_the_batch_that_it_is_in() {
    // Not with the place where reading stood when the answer was asked for: that is before two good batches.
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    broker.append("t", 0, batch(0..10));
    broker.append("t", 0, batch(10..20));
    let damaged = millstream_record::Batch::parse_one(spoilt(20..30)).unwrap();
    broker.state.lock().topics.get_mut("t").unwrap().logs[0].push(damaged);
    let mut consumer = consumer(&world, &client, until_end(StartFrom::Beginning));
    let error = read_all(&world, &mut consumer).unwrap_err();
    assert!(matches!(error, ConsumeError::Damaged { offset: Offset(20), .. }), "{error}");
}

#[test]
fn damage_among_records_ends_reading_of_its_partition_alone_and_loses_no_record() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 2);
    let damaged = millstream_record::Batch::parse_one(spoilt(10..20)).unwrap();
    broker.append("t", 0, batch(0..10));
    broker.state.lock().topics.get_mut("t").unwrap().logs[0].push(damaged);
    for numbers in [0..10, 10..20, 20..30] {
        broker.append("t", 1, batch(numbers));
    }
    let mut consumer = consumer(&world, &client, until_end(StartFrom::Beginning));
    let damage = "0: the records of t partition 0 from offset 10 on are damaged";
    // Of the spoilt batch, those before the damage; and asked again, none twice and none passed over.
    for expected in [BTreeMap::from([(0, 19), (1, 30)]), BTreeMap::new()] {
        let (read, told, ended) = read_events(&world, &mut consumer);
        assert_eq!(read, expected);
        assert!(told.iter().all(|told| told.starts_with(damage)) && told.len() <= 1, "{told:?}");
        assert!(matches!(ended, Err(ConsumeError::Damaged { offset: Offset(10), .. })), "{ended:?}");
        assert_eq!(consumer.positions().next().unwrap().next, Offset(19));
    }
    let sound = millstream_record::Batch::parse_one(appended(10..20).into()).unwrap();
    broker.state.lock().topics.get_mut("t").unwrap().logs[0][1] = sound;
    let (read, told, ended) = read_events(&world, &mut consumer);
    assert_eq!((read, told), (BTreeMap::from([(0, 1)]), vec!["0 recovered".to_owned()]));
    ended.unwrap();
}

#[test]
fn an_answer_that_is_cut_within_its_first_batch_is_an_error_and_not_asked_for_for_ever() {
    for cut in [1, 11, 60, 100] {
        let (world, broker, client) = setting(1);
        filled(&broker, 1);
        broker.state.lock().topics.get_mut("t").unwrap().cut = Some(cut);
        let mut consumer = consumer(&world, &client, until_end(StartFrom::Offset(Offset(20))));
        let error = read_all(&world, &mut consumer).unwrap_err();
        assert!(matches!(error, ConsumeError::Damaged { offset: Offset(20), .. }), "{error}");
        assert!(error.to_string().contains("ends within"), "{error}");
        assert_eq!(broker.state.lock().fetches, 1);
    }
}

/// Reads until nothing is left: how many records each partition gave, what was told of partitions, and how it ended.
fn read_events(
    world: &World,
    consumer: &mut Consumer,
) -> (BTreeMap<i32, usize>, Vec<String>, Result<(), ConsumeError>) {
    let (mut read, mut told) = (BTreeMap::new(), Vec::new());
    let ended = world.run_until(async {
        loop {
            match consumer.next_event().await {
                Ok(Some(ConsumerEvent::Record(record))) => *read.entry(record.partition.0).or_default() += 1,
                Ok(Some(ConsumerEvent::Failing { partition, error })) => told.push(format!("{partition}: {error}")),
                Ok(Some(ConsumerEvent::Recovered { partition })) => told.push(format!("{partition} recovered")),
                Ok(Some(ConsumerEvent::PassedOver { partition, from, to })) => {
                    told.push(format!("{partition}: {from} to {to}"));
                }
                Ok(Some(other)) => panic!("{other:?}"),
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    });
    (read, told, ended)
}

#[test]
fn a_partition_out_of_service_holds_up_no_other_and_is_read_once_it_is_back() {
    for start in [StartFrom::Beginning, StartFrom::Offset(Offset(0)), StartFrom::Timestamp(TimestampMs(0))] {
        let (world, broker, client) = setting(1);
        filled(&broker, 5);
        broker.state.lock().failing.insert(1, ErrorCode::KafkaStorage);
        // From the start on: not even its offsets are known.
        let mut consumer = consumer(&world, &client, until_end(start.clone()));
        assert!(world.env().clock.now().0 < Duration::from_secs(1), "it is waited for");
        let (read, told, ended) = read_events(&world, &mut consumer);
        assert_eq!(read, BTreeMap::from([0, 2, 3, 4].map(|at| (at, 100))), "{start:?}");
        assert_eq!(told, ["1: t partition 1: scripted"]);
        let error = ended.unwrap_err();
        assert_eq!((error.code(), error.partition()), (Some(ErrorCode::KafkaStorage), Some(PartitionId(1))));
        // It was tried again, with pauses.
        let (took, refusals) = (world.env().clock.now().0, broker.state.lock().refusals);
        assert!(Duration::from_secs(5) <= took && took < Duration::from_secs(7), "{took:?}");
        assert!((5..40).contains(&refusals), "{refusals}");
        broker.state.lock().failing.clear();
        let (read, told, ended) = read_events(&world, &mut consumer);
        assert_eq!((read, told), (BTreeMap::from([(1, 100)]), vec!["1 recovered".to_owned()]));
        ended.unwrap();
        assert_eq!(consumer.positions().filter(|at| at.next == Offset(100)).count(), 5);
    }
}

#[test]
fn a_partition_that_fails_later_delays_no_record_of_the_others() {
    for (code, told_at_once) in [(ErrorCode::KafkaStorage, true), (ErrorCode::NotLeaderOrFollower, false)] {
        let (world, broker, client) = setting(1);
        // Partition 0 shares a fetch with the one that fails, 1 does not.
        filled(&broker, 3);
        let options = ConsumerOptions { start: StartFrom::End, patience: Duration::MAX, ..ConsumerOptions::default() };
        let mut consumer = consumer(&world, &client, options);
        broker.state.lock().failing.insert(2, code);
        world.run_until(async {
            if told_at_once {
                let event = consumer.next_event().await.unwrap();
                assert!(matches!(event, Some(ConsumerEvent::Failing { partition: PartitionId(2), .. })), "{event:?}");
            }
            for (number, partition) in (100..140).zip([0, 1].into_iter().cycle()) {
                let at = number - 100;
                broker.append("t", partition, batch(at..at + 1));
                let sent = world.env().clock.now();
                let record = consumer.next_event().await.unwrap();
                let Some(ConsumerEvent::Record(record)) = record else { panic!("{record:?}") };
                assert_eq!(record.partition, PartitionId(partition as i32));
                let took = world.env().clock.now() - sent;
                assert!(took < Duration::from_millis(100), "{took:?}");
                world.env().clock.sleep(Duration::from_millis(50)).await;
            }
            // What does not pass within seconds is told.
            if !told_at_once {
                let event = consumer.next_event().await.unwrap();
                assert!(matches!(event, Some(ConsumerEvent::Failing { partition: PartitionId(2), .. })), "{event:?}");
            }
            broker.append("t", 2, batch(0..1));
            broker.state.lock().failing.clear();
            let event = consumer.next_event().await.unwrap();
            let Some(ConsumerEvent::Record(record)) = event else { panic!("{event:?}") };
            assert_eq!((record.partition, record.offset), (PartitionId(2), Offset(100)));
        });
        let told = world.run_until(consumer.next_event()).unwrap();
        assert!(matches!(told, Some(ConsumerEvent::Recovered { partition: PartitionId(2) })), "{told:?}");
    }
}

#[test]
fn records_that_were_deleted_before_they_were_read_are_passed_over_where_that_is_wanted() {
    for (start, pass_over_deleted, passes) in [
        (StartFrom::Beginning, true, true),
        (StartFrom::Timestamp(TimestampMs(0)), true, true),
        (StartFrom::Beginning, false, false),
        // Asked for by number.
        (StartFrom::Offset(Offset(0)), true, false),
    ] {
        let (world, broker, client) = setting(1);
        filled(&broker, 2);
        let options = ConsumerOptions { pass_over_deleted, ..until_end(start) };
        let mut consumer = consumer(&world, &client, options);
        broker.state.lock().topics.get_mut("t").unwrap().start = 30;
        let (read, told, ended) = read_events(&world, &mut consumer);
        if passes {
            assert_eq!(read, BTreeMap::from([(0, 70), (1, 70)]));
            assert_eq!(told, ["0: 0 to 30", "1: 0 to 30"]);
            ended.unwrap();
        } else {
            assert!(matches!(ended, Err(ConsumeError::OutOfRange { start: Some(Offset(30)), .. })), "{ended:?}");
        }
    }
}

#[test]
fn damage_in_one_partition_is_told_and_the_others_are_read_to_their_end() {
    let (world, broker, client) = setting(1);
    filled(&broker, 3);
    let mut consumer = consumer(&world, &client, until_end(StartFrom::Beginning));
    broker.state.lock().failing.insert(0, ErrorCode::CorruptMessage);
    let (read, told, ended) = read_events(&world, &mut consumer);
    assert_eq!(read, BTreeMap::from([(1, 100), (2, 100)]));
    assert_eq!(told, ["0: the records of t partition 0 from offset 0 on are damaged: scripted"]);
    let error = ended.unwrap_err();
    assert!(matches!(error, ConsumeError::Damaged { partition: PartitionId(0), .. }), "{error}");
    // Nothing is waited for that cannot pass.
    assert!(world.env().clock.now().0 < Duration::from_secs(1));
}

#[test]
fn more_consumers_than_a_connection_has_streams_read_side_by_side() {
    let (world, broker, client) = setting(1);
    filled(&broker, 1);
    let mut consumers: Vec<_> =
        (0..80).map(|_| consumer(&world, &client, until_end(StartFrom::Offset(Offset(99))))).collect();
    for consumer in &mut consumers {
        assert_eq!(read_all(&world, consumer).unwrap()[&0], [99]);
    }
    let connections = broker.state.lock().connections;
    // Most streams of the shared connection stay free for producing.
    assert!((40..80).contains(&connections), "{connections}");
    assert!(broker.state.lock().streams_max < 32, "{}", broker.state.lock().streams_max);
}

#[test]
fn what_does_not_exist_is_said_at_once() {
    let (world, _broker, client) = setting(1);
    let error = world.run_until(client.consumer("nowhere", ConsumerOptions::default())).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UnknownTopicOrPartition));
    assert!(error.to_string().contains("nowhere"), "{error}");
    assert!(world.env().clock.now().0 < Duration::from_secs(1));
}

/// Where a consumer that goes on after this one starts.
fn stored(consumer: &Consumer) -> StartFrom {
    StartFrom::Offsets(consumer.positions().map(|at| (at.partition, at.next)).collect())
}

/// Reads so many records: (partition, offset).
fn read_some(world: &World, consumer: &mut Consumer, count: usize) -> Vec<(i32, i64)> {
    world.run_until(async {
        let mut read = Vec::new();
        while read.len() < count {
            let Some(record) = consumer.next().await.unwrap() else { break };
            read.push((record.partition.0, record.offset.0));
        }
        read
    })
}

#[test]
fn a_reader_that_is_restarted_anywhere_loses_nothing_and_doubles_nothing() {
    let expected: Vec<_> = (0..3).flat_map(|at| (0..100).map(move |number| (at, number))).collect();
    for step in [1, 3, 7, 10, 64, 299] {
        for partition_bytes_max in [1, 1 << 20] {
            let (world, broker, client) = setting(1);
            filled(&broker, 3);
            let (mut read, mut start) = (Vec::<(i32, i64)>::new(), StartFrom::Beginning);
            loop {
                broker.state.lock().break_fetches = 1;
                let options = ConsumerOptions { partition_bytes_max, ..until_end(start.clone()) };
                let mut consumer = consumer(&world, &client, options);
                let some = read_some(&world, &mut consumer, step);
                start = stored(&consumer);
                let fetched: i64 = consumer.positions().map(|at| at.fetched.0).sum();
                read.extend(&some);
                assert!(fetched >= read.len() as i64);
                if some.len() < step {
                    break;
                }
            }
            read.sort();
            assert_eq!(read, expected, "{step} {partition_bytes_max}");
        }
    }
}

#[test]
fn a_reader_of_batches_and_one_of_a_view_are_restarted_likewise() {
    let (world, broker, client) = setting(1);
    filled(&broker, 2);
    let (mut read, mut start) = (Vec::new(), StartFrom::Beginning);
    loop {
        let options = ConsumerOptions { partition_bytes_max: 1, ..until_end(start) };
        let mut consumer = consumer(&world, &client, options);
        let Some(fetched) = world.run_until(consumer.next_batches()).unwrap() else { break };
        read.extend(fetched.batches.iter().map(|batch| (fetched.partition.0, batch.header().base_offset.0)));
        start = stored(&consumer);
    }
    read.sort();
    let expected: Vec<_> = (0..2).flat_map(|at| (0..100).step_by(10).map(move |base| (at, base))).collect();
    assert_eq!(read, expected);

    broker.state.lock().topics.get_mut("t").unwrap().filter = Some((7, 20));
    let (mut read, mut start) = (Vec::<(i32, i64)>::new(), StartFrom::Beginning);
    loop {
        let mut consumer = consumer(&world, &client, until_end(start));
        let some = read_some(&world, &mut consumer, 7);
        start = stored(&consumer);
        read.extend(&some);
        if some.is_empty() {
            break;
        }
    }
    read.sort();
    let kept = |at: i32| (0..100).filter(|number| number / 10 * 10 % 20 == 0).map(move |number| (at, number));
    assert_eq!(read, (0..2).flat_map(kept).collect::<Vec<_>>());
}

/// What was appended behind the end, to the batch that has it, is the next reader's.
#[test]
fn who_goes_on_after_an_end_within_a_batch_gets_the_rest_of_the_batch() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    broker.append("t", 0, batch(0..5));
    let mut first = consumer(&world, &client, until_end(StartFrom::Beginning));
    // The same offsets in a longer batch, as after another leader.
    broker.state.lock().topics.get_mut("t").unwrap().logs[0].clear();
    broker.append("t", 0, batch(0..10));
    assert_eq!(read_all(&world, &mut first).unwrap()[&0], (0..5).collect::<Vec<_>>());
    let mut second = consumer(&world, &client, until_end(stored(&first)));
    assert_eq!(read_all(&world, &mut second).unwrap()[&0], (5..10).collect::<Vec<_>>());
}

#[test]
fn partitions_that_are_not_named_are_read_from_their_beginning_and_deleted_offsets_are_passed_over_where_wanted() {
    let (world, broker, client) = setting(1);
    filled(&broker, 3);
    let start = StartFrom::Offsets([(PartitionId(1), Offset(95)), (PartitionId(7), Offset(3))].into());
    let read = read_all(&world, &mut consumer(&world, &client, until_end(start.clone()))).unwrap();
    assert_eq!(read.into_iter().map(|(at, read)| (at, read[0])).collect::<Vec<_>>(), [(0, 0), (1, 95), (2, 0)]);
    broker.state.lock().topics.get_mut("t").unwrap().start = 98;
    let partitions = vec![PartitionId(1)];
    let options = ConsumerOptions { partitions, pass_over_deleted: true, ..until_end(start) };
    let (read, told, ended) = read_events(&world, &mut consumer(&world, &client, options.clone()));
    assert_eq!((read, told), (BTreeMap::from([(1, 2)]), vec!["1: 95 to 98".to_owned()]));
    ended.unwrap();
    let start = StartFrom::Offsets([(PartitionId(1), Offset(101))].into());
    let (_, _, ended) = read_events(&world, &mut consumer(&world, &client, ConsumerOptions { start, ..options }));
    ended.unwrap();
}

#[test]
fn a_partition_is_moved_while_the_others_stay() {
    for seed in 0..20 {
        let (world, broker, client) = setting(seed);
        filled(&broker, 2);
        let mut consumer = consumer(&world, &client, until_end(StartFrom::Beginning));
        let before = read_some(&world, &mut consumer, 15 + seed as usize);
        // Within the batch at hand, within one that waits, back, and where what is under way was asked from.
        for to in [3, 77, 2, 100, 40] {
            consumer.seek(PartitionId(0), Offset(to)).unwrap();
            let at = consumer.positions().next().unwrap();
            assert_eq!((at.next, at.fetched), (Offset(to), Offset(to)));
        }
        let mut after = read_some(&world, &mut consumer, usize::MAX);
        after.sort();
        let first = before.iter().filter(|(at, _)| *at == 1).count() as i64;
        let expected: Vec<_> =
            (40..100).map(|number| (0, number)).chain((first..100).map(|number| (1, number))).collect();
        assert_eq!(after, expected, "seed {seed}");
        // Back from the end, by time.
        let found = world.run_until(consumer.seek_to_time(PartitionId(1), TimestampMs(97_500))).unwrap();
        assert_eq!(found, Offset(98));
        assert_eq!(read_some(&world, &mut consumer, usize::MAX), [(1, 98), (1, 99)]);
        let found = world.run_until(consumer.seek_to_time(PartitionId(1), TimestampMs(1_000_000))).unwrap();
        assert_eq!(found, Offset(100));
        assert!(read_some(&world, &mut consumer, usize::MAX).is_empty());
    }
}

#[test]
fn a_partition_is_moved_away_from_what_cannot_be_read_and_to_what_is_not_there() {
    let (world, broker, client) = setting(1);
    filled(&broker, 2);
    let options = ConsumerOptions { partitions: vec![PartitionId(1)], ..until_end(StartFrom::Offset(Offset(-5))) };
    let mut consumer = consumer(&world, &client, options);
    let error = world.run_until(consumer.next()).unwrap_err();
    assert!(matches!(error, ConsumeError::OutOfRange { offset: Offset(-5), .. }), "{error}");
    let error = consumer.seek(PartitionId(0), Offset(0)).unwrap_err();
    assert!(matches!(error, ConsumeError::NotRead { partition: PartitionId(0), .. }), "{error}");
    consumer.seek(PartitionId(1), Offset(90)).unwrap();
    assert_eq!(read_all(&world, &mut consumer).unwrap()[&1], (90..100).collect::<Vec<_>>());
    consumer.seek(PartitionId(1), Offset(-7)).unwrap();
    let error = world.run_until(consumer.next()).unwrap_err();
    assert!(matches!(error, ConsumeError::OutOfRange { offset: Offset(-7), .. }), "{error}");
    // Moved on while the broker is asked for what is not there.
    consumer.seek(PartitionId(1), Offset(-7)).unwrap();
    let fetches = broker.state.lock().fetches;
    world.run_until(async { assert!(consumer.next().now_or_never().is_none()) });
    consumer.seek(PartitionId(1), Offset(95)).unwrap();
    let (read, told, ended) = read_events(&world, &mut consumer);
    assert_eq!((read, told), (BTreeMap::from([(1, 5)]), Vec::new()));
    ended.unwrap();
    assert_eq!(broker.state.lock().fetches, fetches + 2);
}

#[test]
fn a_partition_whose_broker_cannot_say_where_it_ends_is_moved_all_the_same() {
    let (world, broker, client) = setting(1);
    filled(&broker, 2);
    broker.state.lock().failing.insert(1, ErrorCode::KafkaStorage);
    let mut consumer = consumer(&world, &client, until_end(StartFrom::Beginning));
    consumer.seek(PartitionId(1), Offset(90)).unwrap();
    broker.state.lock().failing.clear();
    assert_eq!(read_all(&world, &mut consumer).unwrap()[&1], (90..100).collect::<Vec<_>>());
}
