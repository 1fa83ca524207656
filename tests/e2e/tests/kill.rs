//! `kill -9` under load, ten times over: nothing acknowledged is lost, and the broker comes back without help.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use millstream_test_support::{
    broker::Broker,
    message::{Message, Placed},
    sdk::{self, Sdk},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

const ROUNDS: u64 = 10;
const PARTITIONS: i32 = 24;
const PRODUCERS: u64 = 8;

/// Acknowledged: where a value is. A value is sent once, so it has one place.
#[derive(Default)]
struct History {
    /// (partition, offset) of every acknowledged record.
    acknowledged: BTreeMap<(i32, i64), Vec<u8>>,
    /// Everything that was ever tried.
    tried: BTreeSet<Vec<u8>>,
}

/// The value of one send: who, when, and enough bytes to be recognised; now and then too large for the journal's frames.
fn value(round: u64, producer: u64, sequence: u64, random: &mut StdRng) -> Vec<u8> {
    let length = match random.random_range(0..200_u32) {
        0 => 300_000,
        1..10 => 20_000,
        _ => random.random_range(0..600),
    };
    let mut value = format!("{round}/{producer}/{sequence}/").into_bytes();
    value.resize(value.len() + length, b'a' + (sequence % 26) as u8);
    value
}

/// One producer's load until it fails or is told to stop: as many in flight as the client takes.
async fn load(
    sdk: Arc<Sdk>,
    round: u64,
    producer: u64,
    seed: u64,
    stop: Arc<AtomicBool>,
    history: Arc<Mutex<History>>,
) {
    let mut random = StdRng::seed_from_u64(seed ^ (round << 32) ^ producer);
    for sequence in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let partition = random.random_range(0..PARTITIONS);
        let value = value(round, producer, sequence, &mut random);
        history.lock().unwrap().tried.insert(value.clone());
        let message = Message::new(partition, Some(b"key"), Some(&value));
        match sdk.send("load", &message).await {
            Ok((partition, offset)) => {
                let before = history.lock().unwrap().acknowledged.insert((partition, offset), value);
                assert!(before.is_none(), "two records were acknowledged at {partition}/{offset}");
            }
            // The broker is gone: what was in flight may or may not be there.
            Err(_) => return,
        }
    }
}

/// Everything acknowledged is read, at its place, with its value; everything read was tried, once, at dense offsets.
fn check(round: u64, history: &History, read: &[Placed]) {
    let mut places = BTreeMap::new();
    let mut next = BTreeMap::new();
    for placed in read {
        let (partition, value) = (placed.message.partition, placed.message.value.clone().unwrap());
        let expected = next.entry(partition).or_insert(0_i64);
        assert_eq!(placed.offset, *expected, "round {round}: partition {partition} has a hole");
        *expected += 1;
        assert!(history.tried.contains(&value), "round {round}: {partition}/{} was never sent", placed.offset);
        places.insert((partition, placed.offset), value);
    }
    let shown = |value: &[u8]| String::from_utf8_lossy(&value[..value.len().min(20)]).into_owned();
    for (place, value) in &history.acknowledged {
        match places.get(place) {
            None => panic!("round {round}: {place:?} was acknowledged and is lost: {}", shown(value)),
            Some(found) => assert!(found == value, "round {round}: {place:?} holds {}", shown(found)),
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let seed: u64 = rand::rng().random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut broker = Broker::start().unwrap();
    let partitions = PARTITIONS.to_string();
    let create = ["topic", "create", "load", "--partitions", &partitions, "--config", "segment.bytes=1048576"];
    broker.cli(&create).unwrap().ok().unwrap();
    let history = Arc::new(Mutex::new(History::default()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for round in 0..ROUNDS {
        let goal = history.lock().unwrap().acknowledged.len() + random.random_range(200..3_000);
        let killed_at = runtime.block_on(async {
            let stop = Arc::new(AtomicBool::new(false));
            let mut producers = Vec::new();
            for producer in 0..PRODUCERS {
                let sdk = Arc::new(Sdk::connect(&broker).await.unwrap());
                // Several sends of a producer at a time: a kill must find work in every state.
                for lane in 0..4 {
                    let (stop, history) = (Arc::clone(&stop), Arc::clone(&history));
                    producers.push(tokio::spawn(load(sdk.clone(), round, producer * 4 + lane, seed, stop, history)));
                }
            }
            let start = Instant::now();
            while history.lock().unwrap().acknowledged.len() < goal {
                assert!(start.elapsed() < Duration::from_secs(60), "round {round}: the load does not get on");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            broker.kill().unwrap();
            stop.store(true, Ordering::Relaxed);
            let acknowledged = history.lock().unwrap().acknowledged.len();
            for producer in producers {
                // A send into the void ends when the client notices that nobody is there, or is given up here.
                producer.abort();
                if let Err(error) = producer.await {
                    assert!(error.is_cancelled(), "{error}");
                }
            }
            acknowledged
        });
        broker.restart().unwrap();
        let read = sdk::consume(&broker, "load").unwrap();
        eprintln!("round {round}: killed after {killed_at} acknowledged, {} are there", read.len());
        check(round, &history.lock().unwrap(), &read);
    }
    // And the broker goes on as if nothing had been.
    let message = Message::new(0, None, Some(b"after"));
    let places = sdk::produce(&broker, "load", &[message]).unwrap();
    assert_eq!(places.len(), 1);
}

#[test]
fn the_checker_finds_what_it_looks_for() {
    let mut history = History::default();
    for offset in 0..3_i64 {
        let value = vec![b'0' + offset as u8];
        history.tried.insert(value.clone());
        history.acknowledged.insert((0, offset), value);
    }
    let good: Vec<Placed> = (0..3_i64)
        .map(|offset| Placed { offset, message: Message::new(0, None, Some(&[b'0' + offset as u8])) })
        .collect();
    check(0, &history, &good);
    let broken: [fn(&mut Vec<Placed>); 4] = [
        |read| drop(read.pop()),
        |read| drop(read.remove(1)),
        |read| read[2].message.value = Some(b"9".to_vec()),
        |read| read[2].message.value = Some(b"1".to_vec()),
    ];
    for damage in broken {
        let mut read = good.clone();
        damage(&mut read);
        assert!(std::panic::catch_unwind(|| check(0, &history, &read)).is_err());
    }
}
