//! What becomes of a broker that is offered more than it can do: batches that come due by the clock, at parts and multiples of its
//! capacity, beside consumers that ask and do not take.
//!
//! Each client offers an eighth of the capacity, so that ten times of it are eighty clients, on connections of their own. A client sends
//! what is due as fast as it is taken from it, without waiting for answers; what it has to wait for counts in its latencies.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use millstream_client::{Client, Consumer, ConsumerOptions, NewTopic, ProducerOptions};
use millstream_env::{FrameSink, FrameSource, FrameStream};
use millstream_model::{Offset, PartitionId};
use millstream_protocol::{
    ApiKey, Response, decode_response, encode_request,
    messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
};
use millstream_test_support::broker::Broker;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::mpsc::unbounded_channel, task::JoinSet};

use crate::{
    broker::{FETCH_TOPIC, fetch_frame, open_streams, options},
    meter::resident_peak_kb,
    workload,
};

/// What large requests and answers may take together here, bytes (`--frame-memory`).
const FRAMES_BYTES: u64 = 256 << 20;
/// Records of a batch, of 1 KiB each: little, so that requests cost something beside their bytes.
const RECORDS: usize = 10;
const PARTITIONS: i32 = 8;
const PRODUCE_VERSION: i16 = 9;
const TOPIC: &str = "load";
/// Clients that offer the capacity together.
const CLIENTS: u32 = 8;
/// Batches of each of them under way while the capacity is looked for.
const AT_ONCE: usize = 8;
/// Parts of the capacity that are offered, percent.
const OFFERED: [u32; 5] = [50, 100, 200, 500, 1000];
/// Consumers that stall, on QUIC and on TCP each, and what one on TCP asks for before it takes nothing any more.
const STALLED: usize = 8;
const STALLED_REQUESTS: usize = 50;
const STALLED_BATCHES: usize = 400;
/// A recovery is looked at in pieces of this, and is there when so many in a row together are as good as before.
const PIECE: Duration = Duration::from_millis(100);
const PIECES: usize = 10;
const RECOVERY_MAX: Duration = Duration::from_secs(15);

/// What clients were told.
struct Tally {
    acknowledged: AtomicU64,
    failed: AtomicU64,
    /// From when a batch was due, microseconds.
    latency: Mutex<Histogram<u64>>,
}

impl Tally {
    fn new() -> anyhow::Result<Arc<Self>> {
        let latency = Mutex::new(Histogram::new_with_bounds(1, 600_000_000, 3)?);
        Ok(Arc::new(Self { acknowledged: AtomicU64::new(0), failed: AtomicU64::new(0), latency }))
    }

    fn add(&self, due: Instant, outcome: Result<(), ()>) {
        match outcome {
            Ok(()) => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                let waited = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.latency.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(waited.max(1));
            }
            Err(()) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Measures each load for so long; gives a table.
pub(crate) async fn run(time: Duration) -> anyhow::Result<String> {
    let broker = Broker::start_with(&["--frame-memory", &FRAMES_BYTES.to_string(), "--retention-check-ms", "100"])?;
    let stand = Stand { batch: workload::encode(&workload::values(1)[..RECORDS])?, broker, time };
    let mut text = String::new();
    let empty = resident_peak_kb(stand.broker.process_id(), true)?;
    writeln!(
        text,
        "an empty broker is resident with {} MB; --frame-memory is {} MB",
        empty / 1000,
        FRAMES_BYTES / 1_000_000
    )?;
    // The journal's files and the memory of what lives are there then.
    stand.closed_loop().await?;
    let capacity = stand.closed_loop().await?;
    writeln!(
        text,
        "capacity, {CLIENTS} clients with {AT_ONCE} batches of {RECORDS} KiB under way each: {capacity:.0} batches/s\n\n\
         {:>8} {:>10} {:>10} {:>8} {:>8} {:>9} {:>9} {:>9}",
        "offered", "offered/s", "good/s", "of peak", "failed", "p50 ms", "p99 ms", "peak MB"
    )?;
    let stalled = stand.stall().await?;
    let mut rows = Vec::new();
    for percent in OFFERED {
        rows.push((percent, stand.open_loop(capacity, percent).await?));
    }
    let recovered = stand.recovery(capacity).await?;
    drop(stalled);
    let peak = rows.iter().map(|(_, told)| told.good).fold(capacity, f64::max);
    for (percent, told) in &rows {
        let multiple = f64::from(*percent) / 100.0;
        writeln!(
            text,
            "{:>7.1}x {:>10.0} {:>10.0} {:>8.2} {:>8} {:>9.1} {:>9.1} {:>9}",
            multiple,
            capacity * multiple,
            told.good,
            told.good / peak,
            told.failed,
            told.p50_ms,
            told.p99_ms,
            told.resident_kb / 1000
        )?;
    }
    match recovered {
        Some(after) => writeln!(text, "\n95 % of the capacity {} ms after the last of them ended", after.as_millis())?,
        None => writeln!(text, "\n95 % of the capacity were not reached within {} s", RECOVERY_MAX.as_secs())?,
    }
    Ok(text)
}

struct Stand {
    broker: Broker,
    batch: Bytes,
    time: Duration,
}

/// What a load came to.
struct Told {
    /// Batches acknowledged within the time, a second.
    good: f64,
    failed: u64,
    p50_ms: f64,
    p99_ms: f64,
    resident_kb: u64,
}

/// Those who ask and do not take.
struct Stalled {
    _quic: Vec<Consumer>,
    _tcp: Vec<TcpStream>,
}

impl Stand {
    async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(options(&self.broker)).await.context("connect to the broker")
    }

    async fn make_topic(&self, name: &str) -> anyhow::Result<()> {
        let configs = vec![("retention.ms".into(), "-1".into())];
        let new = NewTopic { name: name.into(), partitions: Some(PARTITIONS), configs, ..NewTopic::default() };
        self.client().await?.admin().create_topic(new).await?;
        Ok(())
    }

    /// What clients that wait for their answers get done, batches a second.
    async fn closed_loop(&self) -> anyhow::Result<f64> {
        self.make_topic(TOPIC).await?;
        let tally = Tally::new()?;
        let lanes = self.closed_lanes(&tally).await?;
        tokio::time::sleep(self.time / 4).await;
        let (before, begun) = (tally.acknowledged.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(self.time).await;
        let done = tally.acknowledged.load(Ordering::Relaxed) - before;
        let good = done as f64 / begun.elapsed().as_secs_f64();
        drop(lanes);
        self.client().await?.admin().delete_topic(TOPIC).await?;
        Ok(good)
    }

    /// They run until they are dropped.
    async fn closed_lanes(&self, tally: &Arc<Tally>) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
        let mut lanes = JoinSet::new();
        for client in 0..CLIENTS {
            lanes.spawn(one_after_the_other(self.stream().await?, self.frame(client)?, tally.clone()));
        }
        Ok(lanes)
    }

    /// A client's connection, with the stream that it produces on.
    async fn stream(&self) -> anyhow::Result<FrameStream> {
        open_streams(&self.broker, 1).await?.pop().context("one stream was opened")
    }

    /// What a client sends: a batch for one partition.
    fn frame(&self, client: u32) -> anyhow::Result<Bytes> {
        let index = PartitionId((client % PARTITIONS.unsigned_abs()).cast_signed());
        let data = PartitionProduceData { index, records: Some(self.batch.clone()), ..Default::default() };
        let topic = TopicProduceData { name: TOPIC.into(), partition_data: vec![data], ..Default::default() };
        let request = ProduceRequest { acks: -1, timeout_ms: 30_000, topic_data: vec![topic], ..Default::default() };
        Ok(encode_request(PRODUCE_VERSION, 1, Some("bench"), &request.into())?.to_bytes())
    }

    /// Offers a part of the capacity, by the clock.
    async fn open_loop(&self, capacity: f64, percent: u32) -> anyhow::Result<Told> {
        self.make_topic(TOPIC).await?;
        let clients = CLIENTS * percent / 100;
        let each = Duration::from_secs_f64(f64::from(CLIENTS) / capacity);
        let tally = Tally::new()?;
        let mut streams = Vec::new();
        for client in 0..clients {
            streams.push((client, self.stream().await?, self.frame(client)?));
        }
        resident_peak_kb(self.broker.process_id(), true)?;
        let begun = Instant::now();
        let mut offering = JoinSet::new();
        for (client, stream, frame) in streams {
            // Not all at the same moment.
            let first = begun + each.mul_f64(f64::from(client) / f64::from(clients));
            offering.spawn(offer(stream, frame, first, each, tally.clone()));
        }
        tokio::time::sleep(self.time).await;
        let took = begun.elapsed().as_secs_f64();
        let good = tally.acknowledged.load(Ordering::Relaxed) as f64 / took;
        let resident_kb = resident_peak_kb(self.broker.process_id(), false)?;
        // With all that they still have under way.
        offering.shutdown().await;
        let latency = tally.latency.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ms = |quantile| latency.value_at_quantile(quantile) as f64 / 1000.0;
        let failed = tally.failed.load(Ordering::Relaxed);
        if percent != OFFERED[OFFERED.len() - 1] {
            self.client().await?.admin().delete_topic(TOPIC).await?;
        }
        Ok(Told { good, failed, p50_ms: ms(0.5), p99_ms: ms(0.99), resident_kb })
    }

    /// How long it takes after an overload until those who come then are served as before; none: too long.
    async fn recovery(&self, capacity: f64) -> anyhow::Result<Option<Duration>> {
        let tally = Tally::new()?;
        let begun = Instant::now();
        let _lanes = self.closed_lanes(&tally).await?;
        let mut seen = vec![(Instant::now(), 0)];
        while begun.elapsed() < RECOVERY_MAX {
            tokio::time::sleep(PIECE).await;
            seen.push((Instant::now(), tally.acknowledged.load(Ordering::Relaxed)));
            let before = seen.len().checked_sub(PIECES + 1).map(|at| seen[at]);
            if let (Some((from, before)), Some((to, now))) = (before, seen.last().copied()) {
                let good = (now - before) as f64 / (to - from).as_secs_f64();
                if good >= 0.95 * capacity {
                    return Ok(Some(from - begun));
                }
            }
        }
        Ok(None)
    }

    async fn stall(&self) -> anyhow::Result<Stalled> {
        self.make_topic(FETCH_TOPIC).await?;
        let client = self.client().await?;
        let producer = client.producer(ProducerOptions::default());
        let batch = workload::encode(&workload::values(1))?;
        for _ in 0..STALLED_BATCHES {
            let mut under_way = Vec::new();
            for partition in 0..PARTITIONS {
                under_way.push(producer.send_batch(FETCH_TOPIC, PartitionId(partition), batch.clone()).await?);
            }
            for delivery in under_way {
                delivery.await?;
            }
        }
        let mut stalled = Stalled { _quic: Vec::new(), _tcp: Vec::new() };
        for _ in 0..STALLED {
            let mut consumer = self.client().await?.consumer(FETCH_TOPIC, ConsumerOptions::default()).await?;
            consumer.next_batches().await?;
            stalled._quic.push(consumer);
            let mut stream = TcpStream::connect(self.broker.address()).await?;
            for at in 0..STALLED_REQUESTS {
                let partition = PartitionId(i32::try_from(at)? % PARTITIONS);
                stream.write_all(&fetch_frame(partition, Offset(0))?).await?;
            }
            stalled._tcp.push(stream);
        }
        Ok(stalled)
    }
}

/// Sends what is due by the clock, as fast as it is taken. Ends by being dropped, or with its connection.
async fn offer(
    stream: FrameStream,
    frame: Bytes,
    first: Instant,
    each: Duration,
    tally: Arc<Tally>,
) -> anyhow::Result<()> {
    let FrameStream { mut source, mut sink, finished: _finished, gone: _gone } = stream;
    let (sent, mut under_way) = unbounded_channel();
    let sending = async {
        let mut due = first;
        loop {
            tokio::time::sleep_until(due.into()).await;
            // Before it is sent, as its answer may be there at once.
            sent.send(due).context("nobody waits for answers")?;
            sink.send(frame.clone().into()).await?;
            due += each;
        }
    };
    let answers = async {
        while let Some(due) = under_way.recv().await {
            tally.add(due, answered(&mut source).await?);
        }
        anyhow::Ok(())
    };
    tokio::select! {
        ended = sending => ended,
        ended = answers => ended,
    }
}

/// Keeps [`AT_ONCE`] batches under way.
async fn one_after_the_other(stream: FrameStream, frame: Bytes, tally: Arc<Tally>) -> anyhow::Result<()> {
    let FrameStream { mut source, mut sink, finished: _finished, gone: _gone } = stream;
    let mut sent = VecDeque::new();
    loop {
        while sent.len() < AT_ONCE {
            sent.push_back(send(&mut sink, &frame).await?);
        }
        let outcome = answered(&mut source).await?;
        tally.add(sent.pop_front().context("an answer to nothing")?, outcome);
    }
}

async fn send(sink: &mut FrameSink, frame: &Bytes) -> anyhow::Result<Instant> {
    let now = Instant::now();
    sink.send(frame.clone().into()).await?;
    Ok(now)
}

/// Whether the next batch was taken.
async fn answered(source: &mut FrameSource) -> anyhow::Result<Result<(), ()>> {
    let answer = source.next().await.context("the connection has ended")??;
    let (_, answer) = decode_response(ApiKey::Produce, PRODUCE_VERSION, answer)?;
    let Response::Produce(answer) = answer else { anyhow::bail!("another answer") };
    let mut partitions = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
    ensure!(partitions.clone().next().is_some(), "an answer about nothing");
    Ok(if partitions.all(|partition| partition.error_code.is_ok()) { Ok(()) } else { Err(()) })
}
