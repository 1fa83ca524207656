//! The power fails under the shipping broker, on real file systems: is everything there afterwards that was acknowledged, once
//! and in order, and nothing else?
//!
//! `POWER_CUTS` cuts of each file system (10 unless told), planned from `POWER_SEED`, which is printed: `cargo xtask powercut`
//! sets both. The clock takes part, so a seed repeats the plan and not every instant.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use millstream_client::{Client, NewTopic, Producer, ProducerOptions, ProducerRecord};
use millstream_model::PartitionId;
use millstream_test_support::{
    broker::Broker,
    history::{History, Moment, Wrong},
    image::{Image, Kind, Switch},
    sdk,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{runtime::Runtime, sync::Semaphore, task::JoinHandle};

const PARTITIONS: i32 = 4;
const PRODUCERS: u64 = 4;
/// A topic sees so many cuts, then the next one is used: all of it is read after each.
const CUTS_A_TOPIC: u32 = 8;
/// How long any one thing may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Files and a journal so small that every cut finds them closed, used again and synced.
const SMALL_JOURNAL: [&str; 4] = ["--journal-file-bytes", "262144", "--journal-bytes", "1048576"];

/// In which state the power finds the broker.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Records are under way.
    Burst,
    /// So many that segments are closed and the journal goes round.
    Flood,
    /// A record was acknowledged just now, and nothing else goes on.
    Acknowledged,
    /// A topic was made, or had its first records, just now.
    Created,
    /// A topic was deleted just now, or is being deleted.
    Deleted,
    /// The broker starts, after `kill -9`.
    Start,
    /// It has just started so.
    Started,
    /// It was stopped in order.
    Stopped,
}

const STATES: [State; 8] = [
    State::Burst,
    State::Start,
    State::Acknowledged,
    State::Deleted,
    State::Flood,
    State::Started,
    State::Created,
    State::Stopped,
];

/// A topic under load, and what its producers were told.
struct Load {
    topic: String,
    history: Arc<Mutex<History>>,
    /// A producer takes one for each record.
    permits: Arc<Semaphore>,
    producers: Vec<JoinHandle<()>>,
    cuts: u32,
}

fn topic(name: &str) -> NewTopic {
    NewTopic {
        name: name.into(),
        partitions: Some(PARTITIONS),
        configs: vec![("segment.bytes".into(), (1 << 20).to_string())],
        ..NewTopic::default()
    }
}

fn record(topic: &str, partition: i32, value: &[u8]) -> ProducerRecord {
    ProducerRecord {
        topic: topic.into(),
        partition: Some(PartitionId(partition)),
        value: Some(value.to_vec().into()),
        ..ProducerRecord::default()
    }
}

/// Sends a record for each permit, in the same order to each partition, through whatever happens to the broker; ends when there
/// are no more permits and all is acknowledged.
async fn produce(
    sender: Producer,
    topic: String,
    producer: u64,
    seed: u64,
    permits: Arc<Semaphore>,
    history: Arc<Mutex<History>>,
) {
    let mut random = StdRng::seed_from_u64(seed ^ producer);
    let mut deliveries = Vec::new();
    for number in 0_u64.. {
        let Ok(permit) = permits.acquire().await else { break };
        permit.forget();
        let length = match random.random_range(0..100_u32) {
            0 => 60_000,
            1..8 => 6_000,
            _ => random.random_range(0..500),
        };
        let mut value = format!("{producer}/{number}/").into_bytes();
        value.resize(value.len() + length, b'a' + (number % 26) as u8);
        let partition = random.random_range(0..PARTITIONS);
        history.lock().unwrap().sent(producer, &value);
        let delivery = sender.send(record(&topic, partition, &value)).await.unwrap();
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

impl Load {
    async fn start(broker: &Broker, name: &str, seed: u64) -> Self {
        sdk::alert(broker).await.unwrap().admin().create_topic(topic(name)).await.unwrap();
        let (history, permits) = (Arc::new(Mutex::new(History::default())), Arc::new(Semaphore::new(0)));
        let mut producers = Vec::new();
        for producer in 0..PRODUCERS {
            // Small batches, so that several are under way when the power fails.
            let options =
                ProducerOptions { batch_bytes: 4_000, buffer_bytes_max: 200_000, ..ProducerOptions::default() };
            let sender = sdk::alert(broker).await.unwrap().producer(options);
            let (permits, history) = (Arc::clone(&permits), Arc::clone(&history));
            producers.push(tokio::spawn(produce(sender, name.into(), producer, seed, permits, history)));
        }
        Self { topic: name.into(), history, permits, producers, cuts: 0 }
    }

    fn acknowledgements(&self) -> usize {
        self.history.lock().unwrap().acknowledgements()
    }

    /// Lets the producers send so many records, and waits until so many more were acknowledged.
    async fn send(&self, records: usize, acknowledged: usize) {
        let goal = self.acknowledgements() + acknowledged;
        self.permits.add_permits(records);
        let start = Instant::now();
        while self.acknowledgements() < goal {
            assert!(start.elapsed() < PATIENCE, "{}: the load does not get on", self.topic);
            assert!(!self.producers.iter().any(JoinHandle::is_finished), "{}: a producer has given up", self.topic);
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    /// Reads the topic, and gives what is wrong with it.
    async fn check(&self, client: &Client) -> Vec<Wrong> {
        let begun = self.history.lock().unwrap().now();
        let pass = sdk::read_pass(client, &self.topic).await.unwrap();
        self.history.lock().unwrap().check(begun, &pass)
    }

    /// How many of these values the last pass did not find.
    fn lacks(&self, values: &mut Vec<Vec<u8>>) -> usize {
        let history = self.history.lock().unwrap();
        values.drain(..).filter(|value| !history.has_read(value)).count()
    }

    /// Waits until everything that was sent is acknowledged.
    async fn finish(&mut self) {
        self.permits.close();
        for producer in self.producers.drain(..) {
            tokio::time::timeout(PATIENCE, producer).await.unwrap().unwrap();
        }
    }
}

/// Topics beside the load's: what is known of each.
#[derive(Default)]
struct Others {
    made: u32,
    /// With the values that were acknowledged in partition 0.
    there: BTreeMap<String, Vec<Vec<u8>>>,
    gone: BTreeSet<String>,
}

impl Others {
    /// Makes a topic and sends it a few records, one after the other.
    async fn create(&mut self, client: &Client, records: u32) {
        let name = format!("other-{}", self.made);
        self.made += 1;
        client.admin().create_topic(topic(&name)).await.unwrap();
        let values = self.there.entry(name.clone()).or_default();
        let sender = client.producer(ProducerOptions::default());
        for number in 0..records {
            let value = number.to_string().into_bytes();
            sender.send(record(&name, 0, &value)).await.unwrap().await.unwrap();
            values.push(value);
        }
    }

    /// What was made is there with its records, what was deleted is not, and nothing else is there.
    async fn check(&self, client: &Client, load: &str) {
        let listed = client.admin().list_topics().await.unwrap();
        let listed: BTreeSet<String> = listed.into_iter().map(|topic| topic.name).collect();
        let came_back: Vec<_> = self.gone.intersection(&listed).collect();
        assert!(came_back.is_empty(), "{came_back:?} were deleted and are there again");
        for name in self.there.keys() {
            assert!(listed.contains(name), "{name} was made and is not there");
        }
        assert!(listed.contains(load), "{load} was made and is not there");
        for (name, values) in &self.there {
            let pass = sdk::read_pass(client, name).await.unwrap();
            let read: Vec<_> = pass.seen.into_iter().map(|seen| seen.value).collect();
            assert_eq!(read, *values, "{name}");
        }
    }
}

/// When the power failed: the file system takes a while for it, 2 ms as a rule.
///
/// Acknowledgements of what was sent before that is over, and that come after it began, do not count (those that are lost are
/// counted and printed). They are the kernel's word, and not the broker's: a bare program that writes to preallocated files
/// and calls `fdatasync` after each write is told 0 by the call that the shutdown overtakes, though its blocks are zeros at
/// the next mount, as they are still marked as never written. Linux 6.18, shut down at random moments: on ext4 244 such lies in
/// 1,500 cuts, in a second run 229 in 1,500; on XFS 52 in 1,000. Never of a call that returned before the shutdown began,
/// never of one made after it was over (of which none returned 0), and never where the blocks had been written before, as in a
/// journal file that is used again (0 in 1,500 cuts).
struct Cut {
    begun: Moment,
    off: Moment,
}

impl Cut {
    fn now(switch: Switch, history: &Mutex<History>) -> Self {
        let begun = history.lock().unwrap().now();
        switch.cut().unwrap();
        Self { begun, off: history.lock().unwrap().now() }
    }
}

/// One file system, one broker on it, one plan.
struct Run {
    kind: Kind,
    image: Image,
    broker: Broker,
    random: StdRng,
    others: Others,
    /// What was acknowledged while the power was off, and how much of that was lost so far.
    doubtful: Vec<Vec<u8>>,
    doubtful_lost: usize,
}

impl Run {
    fn new(kind: Kind, seed: u64) -> Self {
        let image = Image::new(kind).unwrap();
        let broker = Broker::over(image.root().join("data"), &SMALL_JOURNAL).unwrap();
        Self {
            kind,
            image,
            broker,
            random: StdRng::seed_from_u64(seed),
            others: Others::default(),
            doubtful: Vec::new(),
            doubtful_lost: 0,
        }
    }

    fn pause(&mut self, most: Duration) {
        let micros = self.random.random_range(0..=most.as_micros() as u64);
        thread::sleep(Duration::from_micros(micros));
    }

    /// The power fails now, and comes back. Every other time the broker is sent more meanwhile, and may acknowledge none of it.
    fn cut(&mut self, load: &Load) {
        let switch = self.image.switch().unwrap();
        let cut = Cut::now(switch, &load.history);
        if self.random.random() {
            load.permits.add_permits(50);
            self.pause(Duration::from_millis(50));
        }
        self.power_on(&load.history, cut);
    }

    /// Whatever became of the broker, its process is no more.
    fn power_on(&mut self, history: &Mutex<History>, cut: Cut) {
        let _ = self.broker.kill();
        self.doubtful = history.lock().unwrap().power_failed(cut.begun, cut.off);
        self.image.power_on().unwrap();
    }

    /// The power fails while the broker starts: before it has made anything, in the middle, or when it is ready.
    fn cut_start(&mut self, history: &Arc<Mutex<History>>) {
        let switch = self.image.switch().unwrap();
        let after = Duration::from_millis(self.random.random_range(0..150));
        let told = Arc::clone(history);
        let cutter = thread::spawn(move || {
            thread::sleep(after);
            Cut::now(switch, &told)
        });
        let started = self.broker.restart();
        let cut = cutter.join().unwrap();
        if let Err(error) = started {
            // It must say so and end; it may not hang.
            assert!(error.to_string().contains("before it was ready"), "{error:#}");
        }
        self.power_on(history, cut);
    }

    /// Brings the broker into a state, and cuts its power there.
    fn live(&mut self, runtime: &Runtime, load: &Load, state: State) {
        match state {
            State::Burst => {
                runtime.block_on(load.send(600, 100));
                self.pause(Duration::from_millis(20));
            }
            State::Flood => {
                let acknowledged = self.random.random_range(1_000..2_500);
                runtime.block_on(load.send(3_000, acknowledged));
            }
            State::Acknowledged => runtime.block_on(load.send(50, 50)),
            State::Created => {
                let records = self.random.random_range(0..3);
                runtime.block_on(async { self.others.create(&sdk::alert(&self.broker).await.unwrap(), records).await });
            }
            State::Deleted => {
                let client = runtime.block_on(sdk::alert(&self.broker)).unwrap();
                runtime.block_on(self.others.create(&client, 5));
                runtime.block_on(load.send(300, 20));
                while let Some((name, _)) = self.others.there.pop_first() {
                    runtime.block_on(client.admin().delete_topic(&name)).unwrap();
                    self.others.gone.insert(name);
                }
                self.pause(Duration::from_millis(20));
            }
            State::Start | State::Started => {
                runtime.block_on(load.send(600, 50));
                self.broker.kill().unwrap();
                load.history.lock().unwrap().ended();
                if matches!(state, State::Start) {
                    return self.cut_start(&load.history);
                }
                self.broker.restart().unwrap();
                self.pause(Duration::from_millis(300));
            }
            State::Stopped => {
                runtime.block_on(load.send(600, 300));
                self.broker.stop().unwrap();
                load.history.lock().unwrap().ended();
                self.pause(Duration::from_millis(5));
            }
        }
        self.cut(load);
    }

    /// Starts the broker, and asks whether it kept its word.
    fn check(&mut self, runtime: &Runtime, load: &Load, told: &str) {
        self.broker.restart().unwrap();
        let wrong = runtime.block_on(async {
            let client = sdk::alert(&self.broker).await.unwrap();
            self.others.check(&client, &load.topic).await;
            load.check(&client).await
        });
        self.doubtful_lost += load.lacks(&mut self.doubtful);
        let said: Vec<_> = wrong.iter().take(10).map(ToString::to_string).collect();
        assert!(wrong.is_empty(), "{told}: {} wrong:\n  {}", wrong.len(), said.join("\n  "));
    }
}

/// Cuts the power of a broker on a file system so many times. How many records were acknowledged.
fn cuts(kind: Kind, cuts: u32, seed: u64) -> usize {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut run = Run::new(kind, seed);
    // The first cut finds a directory that is being made.
    run.cut_start(&Arc::default());
    run.broker.restart().unwrap();
    let mut acknowledged = 0;
    let mut load: Option<Load> = None;
    for cut in 1..cuts {
        let state = STATES[(cut - 1) as usize % STATES.len()];
        let told = format!("seed {seed}, {} cut {cut}, {state:?}", run.kind.name());
        let current = load.get_or_insert_with(|| {
            runtime.block_on(Load::start(&run.broker, &format!("load-{cut}"), seed ^ (u64::from(cut) << 32)))
        });
        let start = Instant::now();
        run.live(&runtime, current, state);
        let lived = start.elapsed();
        run.check(&runtime, current, &told);
        eprintln!("{told}: {} acknowledged, {lived:?} and {:?}", current.acknowledgements(), start.elapsed() - lived);
        current.cuts += 1;
        if current.cuts == CUTS_A_TOPIC || cut + 1 == cuts {
            // All that was under way in any cut is acknowledged in the end, and there.
            runtime.block_on(current.finish());
            run.check_end(&runtime, current, &told);
            acknowledged += current.acknowledgements();
            load = None;
        }
    }
    eprintln!("{}: {} records were acknowledged without power and are lost", kind.name(), run.doubtful_lost);
    acknowledged
}

impl Run {
    /// The last look at a topic, which is then deleted.
    fn check_end(&mut self, runtime: &Runtime, load: &Load, told: &str) {
        let wrong = runtime.block_on(async {
            let client = sdk::alert(&self.broker).await.unwrap();
            let wrong = load.check(&client).await;
            client.admin().delete_topic(&load.topic).await.unwrap();
            wrong
        });
        assert_eq!(wrong, [], "{told}, at the end");
        self.others.gone.insert(load.topic.clone());
    }
}

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).map_or(or, |number| number.parse().unwrap())
}

fn keeps_its_word(kind: Kind) {
    let seed = number("POWER_SEED", rand::rng().random_range(0..1_000_000));
    let count = u32::try_from(number("POWER_CUTS", 10)).unwrap();
    eprintln!("POWER_SEED={seed}");
    let start = Instant::now();
    let acknowledged = cuts(kind, count, seed);
    eprintln!("{}: {count} cuts in {:?}, {acknowledged} records acknowledged, none lost", kind.name(), start.elapsed());
    assert!(
        acknowledged > 20 * count as usize,
        "only {acknowledged} records were acknowledged: the load proves nothing"
    );
}

#[test]
fn on_ext4_nothing_acknowledged_is_lost_when_the_power_fails() {
    keeps_its_word(Kind::Ext4);
}

#[test]
fn on_xfs_nothing_acknowledged_is_lost_when_the_power_fails() {
    keeps_its_word(Kind::Xfs);
}
