//! Disks that neither work nor fail at once: one that becomes read-only, one that takes half of a write, one that is slow. Does
//! the broker stop where it must, go on where it can, and is all there afterwards that it acknowledged?

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use millstream_client::{Producer, ProducerOptions, ProducerRecord};
use millstream_model::PartitionId;
use millstream_test_support::{
    broker::Broker,
    history::History,
    image::{Image, Kind},
    sdk,
    strace::Strace,
};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::runtime::Runtime;

/// What a broker says of what it has acknowledged when it must stop.
const SAFE: &str = "The broker must stop: what it acknowledged is safe";
/// What an operator is told to do about a read-only file system.
const MOUNT: &str = "have it checked (fsck), and mount it for writing";
/// How long any one thing may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Sends one value and notes what came of it. Whether it was acknowledged. `lane`: whose values go one after the other.
async fn send(sender: &Producer, history: &Mutex<History>, lane: u64, value: Vec<u8>) -> bool {
    history.lock().unwrap().sent(lane, &value);
    let record = ProducerRecord {
        topic: "t".into(),
        partition: Some(PartitionId(0)),
        value: Some(value.clone().into()),
        ..ProducerRecord::default()
    };
    let Ok(delivered) = sender.produce(record).await else { return false };
    history.lock().unwrap().acknowledged(&value, delivered.partition.0, delivered.offset.unwrap().0);
    true
}

fn value(number: usize, bytes: usize) -> Vec<u8> {
    let mut value = format!("{number}/").into_bytes();
    value.resize(bytes, b'a' + (number % 26) as u8);
    value
}

/// Sends one after the other until the broker has stopped by itself.
fn send_until_it_stops(runtime: &Runtime, broker: &mut Broker, history: &Arc<Mutex<History>>, from: usize) {
    let sender = runtime.block_on(async { sdk::alert(broker).await.unwrap().producer(ProducerOptions::default()) });
    let told = Arc::clone(history);
    let load = runtime.spawn(async move {
        for number in from.. {
            if !send(&sender, &told, 0, value(number, 10_000)).await {
                return;
            }
        }
    });
    let start = Instant::now();
    while broker.is_running().unwrap() {
        assert!(start.elapsed() < PATIENCE, "the broker goes on without a disk:\n{}", broker.log());
        thread::sleep(Duration::from_millis(1));
    }
    load.abort();
    // Given up here; what it was told, it has noted.
    let _ = runtime.block_on(load);
    let _ = broker.kill();
}

/// Checks that a broker has all that its history tells.
fn check(runtime: &Runtime, broker: &Broker, history: &Mutex<History>) {
    runtime.block_on(async { sdk::hold(&sdk::alert(broker).await?, "t", history).await }).unwrap();
}

#[test]
fn a_disk_that_becomes_read_only_stops_the_broker_which_says_so_until_it_is_mended() {
    let (runtime, mut image) = (runtime(), Image::new(Kind::Ext4).unwrap());
    let mut broker = Broker::over(image.root().join("data"), &[]).unwrap();
    broker.restart().unwrap();
    broker.cli(&["topic", "create", "t"]).unwrap().ok().unwrap();
    let history = Arc::new(Mutex::new(History::default()));
    runtime.block_on(async {
        let sender = sdk::alert(&broker).await.unwrap().producer(ProducerOptions::default());
        for number in 0..50 {
            assert!(send(&sender, &history, 0, value(number, 10_000)).await);
        }
    });
    let begun = history.lock().unwrap().now();
    image.fail_to_read_only().unwrap();
    let off = history.lock().unwrap().now();
    send_until_it_stops(&runtime, &mut broker, &history, 50);
    let said = broker.log();
    // It says what is wrong, what of, and what to do.
    for part in
        ["/mounted/data/", "Read-only file system", SAFE, "start it again, find out from the kernel's log", MOUNT]
    {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    history.lock().unwrap().power_failed(begun, off);
    // It does not start before somebody has looked after the disk, and says why.
    let refused = broker.restart().unwrap_err().to_string();
    for part in ["before it was ready", "Read-only file system", MOUNT] {
        assert!(refused.contains(part), "no {part:?} in\n{refused}");
    }
    image.power_on().unwrap();
    broker.restart().unwrap();
    check(&runtime, &broker, &history);
    let sender = runtime.block_on(async { sdk::alert(&broker).await.unwrap().producer(ProducerOptions::default()) });
    assert!(runtime.block_on(send(&sender, &history, 0, value(usize::MAX, 100))));
}

/// The operating system takes what is below the limit of a write that crosses it, and says how much that was.
#[test]
fn half_a_write_is_never_taken_for_a_whole_one() {
    let (runtime, mut broker) = (runtime(), Broker::start().unwrap());
    broker.cli(&["topic", "create", "t"]).unwrap().ok().unwrap();
    let history = Arc::new(Mutex::new(History::default()));
    let limit = Rlimit { current: Some((1 << 20) + 1234), maximum: Some(u64::MAX >> 1) };
    prlimit(Pid::from_raw(i32::try_from(broker.process_id()).unwrap()), Resource::Fsize, limit).unwrap();
    // The journal comes to it before the segment does, in the middle of a frame: its groups begin at pages.
    send_until_it_stops(&runtime, &mut broker, &history, 0);
    let said = broker.log();
    for part in ["cannot write", ".journal", SAFE, "start it again, make room", "the limit on a file's length"] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    let acknowledged = history.lock().unwrap().acknowledgements();
    assert!(acknowledged > 50, "{acknowledged}");
    history.lock().unwrap().ended();
    broker.restart().unwrap();
    check(&runtime, &broker, &history);
}

#[test]
fn a_slow_disk_delays_acknowledgements_and_nothing_else() {
    const SYNC: Duration = Duration::from_millis(400);
    /// Values that are sent at once, and the length of each: far more than becomes durable meanwhile.
    const FLOOD: usize = 300;
    const FLOOD_BYTES: usize = 500_000;
    let (runtime, mut broker) = (runtime(), Broker::start().unwrap());
    broker.cli(&["topic", "create", "t"]).unwrap().ok().unwrap();
    let history = Arc::new(Mutex::new(History::default()));
    runtime.block_on(async {
        let sender = sdk::alert(&broker).await.unwrap().producer(ProducerOptions::default());
        for number in 0..50 {
            assert!(send(&sender, &history, 0, value(number, 1000)).await);
        }
    });
    let slow = Strace::inject(broker.process_id(), "fdatasync", &format!("delay_enter={}", SYNC.as_micros())).unwrap();
    // The client would give up a connection that is silent for two syncs and a half.
    let client = runtime.block_on(sdk::alert(&broker)).unwrap();
    let sender = client.producer(ProducerOptions::default());
    for number in 50..55 {
        let start = Instant::now();
        assert!(runtime.block_on(send(&sender, &history, 0, value(number, 1000))));
        let took = start.elapsed();
        assert!(took >= SYNC, "acknowledged after {took:?}, before any sync can be done");
    }
    let flood: Vec<_> = (0..FLOOD)
        .map(|number| {
            let (sender, history) = (sender.clone(), Arc::clone(&history));
            runtime.spawn(
                async move { send(&sender, &history, 1 + number as u64, value(1000 + number, FLOOD_BYTES)).await },
            )
        })
        .collect();
    let start = Instant::now();
    while history.lock().unwrap().acknowledgements() < 60 {
        assert!(start.elapsed() < PATIENCE, "the load does not get on");
        thread::sleep(Duration::from_millis(1));
    }
    let (reads, start) = (20_u32, Instant::now());
    for _ in 0..reads {
        check(&runtime, &broker, &history);
    }
    let took = start.elapsed();
    assert!(took < SYNC * (reads - 1), "{reads} reads took {took:?}: they wait for syncs");
    drop(slow);
    // At its usual speed it takes all the rest, on the same connection.
    for send in flood {
        assert!(runtime.block_on(async { tokio::time::timeout(PATIENCE, send).await.unwrap().unwrap() }));
    }
    broker.kill().unwrap();
    history.lock().unwrap().ended();
    broker.restart().unwrap();
    check(&runtime, &broker, &history);
}
