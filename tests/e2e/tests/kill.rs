//! `kill -9` under load, ten times over: nothing acknowledged is lost, and the broker comes back without help.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use millstream_test_support::{
    broker::Broker,
    history::History,
    message::Message,
    sdk::{self, Sdk},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

const ROUNDS: u64 = 10;
const PARTITIONS: i32 = 24;
const PRODUCERS: u64 = 8;
/// Sends of a producer at a time: a kill must find work in every state.
const LANES: u64 = 4;

/// The value of one send: who, when, and enough bytes to be recognised; now and then too large for the journal's frames.
fn value(round: u64, lane: u64, sequence: u64, random: &mut StdRng) -> Vec<u8> {
    let length = match random.random_range(0..200_u32) {
        0 => 300_000,
        1..10 => 20_000,
        _ => random.random_range(0..600),
    };
    let mut value = format!("{round}/{lane}/{sequence}/").into_bytes();
    value.resize(value.len() + length, b'a' + (sequence % 26) as u8);
    value
}

/// One lane's load until it fails or is told to stop: one send after the other.
async fn load(sdk: Arc<Sdk>, round: u64, lane: u64, seed: u64, stop: Arc<AtomicBool>, history: Arc<Mutex<History>>) {
    let mut random = StdRng::seed_from_u64(seed ^ (round << 32) ^ lane);
    for sequence in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let partition = random.random_range(0..PARTITIONS);
        let value = value(round, lane, sequence, &mut random);
        history.lock().unwrap().sent(round * PRODUCERS * LANES + lane, &value);
        let message = Message::new(partition, Some(b"key"), Some(&value));
        // Else the broker is gone: what was in flight may or may not be there.
        let Ok((partition, offset)) = sdk.send("load", &message).await else { return };
        history.lock().unwrap().acknowledged(&value, partition, offset);
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
        let acknowledged = || history.lock().unwrap().acknowledgements();
        let goal = acknowledged() + random.random_range(200..3_000);
        runtime.block_on(async {
            let stop = Arc::new(AtomicBool::new(false));
            let mut lanes = Vec::new();
            for producer in 0..PRODUCERS {
                let sdk = Arc::new(Sdk::connect(&broker).await.unwrap());
                for lane in producer * LANES..(producer + 1) * LANES {
                    let (stop, history) = (Arc::clone(&stop), Arc::clone(&history));
                    lanes.push(tokio::spawn(load(sdk.clone(), round, lane, seed, stop, history)));
                }
            }
            let start = Instant::now();
            while acknowledged() < goal {
                assert!(start.elapsed() < Duration::from_secs(60), "round {round}: the load does not get on");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            broker.kill().unwrap();
            stop.store(true, Ordering::Relaxed);
            for lane in lanes {
                // A send into the void ends when the client notices that nobody is there, or is given up here.
                lane.abort();
                if let Err(error) = lane.await {
                    assert!(error.is_cancelled(), "{error}");
                }
            }
        });
        history.lock().unwrap().ended();
        broker.restart().unwrap();
        let read = runtime.block_on(async { sdk::hold(&sdk::alert(&broker).await?, "load", &history).await });
        let read = read.unwrap_or_else(|wrong| panic!("seed {seed}, round {round}: {wrong}"));
        eprintln!("round {round}: {} were acknowledged, {read} are there", acknowledged());
    }
    // And the broker goes on as if nothing had been.
    let message = Message::new(0, None, Some(b"after"));
    let places = sdk::produce(&broker, "load", &[message]).unwrap();
    assert_eq!(places.len(), 1);
}
