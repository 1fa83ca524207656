//! The producers of a load, in a closed or an open loop.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use clap::Args;
use millstream_client::{Acks as ClientAcks, Client, Delivery, Producer, ProducerOptions, ProducerRecord};
use millstream_model::PartitionId;
use tokio::{sync::mpsc, task::JoinSet};

use super::{pace::Pace, place::Place, run::Run};
use crate::{
    commands::{
        connect::connect,
        produce::{Acks, Compression},
    },
    failure::explain,
    flags::Common,
};

/// Connections that producers share.
const CONNECTIONS_MAX: usize = 16;
/// Bytes that all producers together may have under way, but for a MiB each.
const UNDER_WAY_BYTES: usize = 256 << 20;
/// What values are cut out of.
const NOISE_BYTES: usize = 1 << 20;
/// How far apart they are cut: no divisor of it.
const NOISE_STEP: usize = 4099;
/// Records of a batch in a closed loop, unless it is said.
const BATCH_CLOSED: u32 = 100;
/// How long connections may take to end.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// After an error: a broker that refuses everything should not be asked as fast as may be.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// What the producers do.
#[derive(Clone, Debug, Args)]
pub(super) struct Sending {
    /// Producers side by side.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) producers: u16,
    /// Records that are sent together. In a closed loop a producer waits for them before it sends the next, and the default is 100; in an
    /// open loop they are due together, and the default is 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) batch: Option<u32>,
    /// Open loop: so many records a second are due, of all producers together, however long those before take, and latency is counted from
    /// when they are due. Otherwise closed: each producer has one batch under way.
    #[arg(long, value_name = "RECORDS", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) rate: Option<u32>,
    /// Give records keys, so many different ones, which choose their partitions. Otherwise each producer has one partition, unless the topic
    /// has a partitioner.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) keys: Option<u64>,
    /// Who must have a record before it counts: all replicas in sync (also -1), their leader, or nobody.
    #[arg(long, value_enum, default_value_t = Acks::All, allow_hyphen_values = true)]
    pub(super) acks: Acks,
    /// How batches are packed.
    #[arg(long, value_enum, default_value_t = Compression::None)]
    pub(super) compression: Compression,
}

impl Sending {
    pub(super) fn batch(&self) -> u32 {
        self.batch.unwrap_or(if self.rate.is_some() { 1 } else { BATCH_CLOSED })
    }

    /// `open` or `closed`.
    pub(super) fn kind(&self) -> &'static str {
        if self.rate.is_some() { "open" } else { "closed" }
    }

    /// The load in words, for people.
    pub(super) fn told(&self, size: u32) -> String {
        let (producers, batch) = (crate::output::counted(self.producers.into(), "producer"), self.batch());
        match self.rate {
            Some(rate) => {
                format!("open loop: {rate} records/s of {size} bytes are due, {batch} at a time, by {producers}")
            }
            None => format!("closed loop: {producers}, each with {batch} records of {size} bytes under way"),
        }
    }

    /// Starts the producers: each is a lane, some more tasks of which are waited for. `stamp`: what values begin with.
    pub(super) async fn start(
        &self,
        common: &Common,
        place: &Place,
        size: u32,
        run: impl FnOnce() -> anyhow::Result<Arc<Run>>,
        stamp: Option<[u8; 8]>,
    ) -> anyhow::Result<(Arc<Run>, JoinSet<anyhow::Result<()>>, Vec<Client>)> {
        let count = usize::from(self.producers);
        let mut clients = Vec::new();
        for _ in 0..count.min(CONNECTIONS_MAX) {
            clients.push(connect(common).await?);
        }
        let (partitions, is_routed) = place.partitions(&clients[0]).await?;
        let values = Values::new(size as usize, stamp);
        let options = self.options(size as usize);
        let mut producers = Vec::new();
        for lane in 0..count {
            let producer = clients[lane % clients.len()].producer(options.clone());
            // Before the clock runs.
            producer.partitions(&place.name).await?;
            let is_open = is_routed || self.keys.is_some();
            let partition = (!is_open).then(|| PartitionId(i32::try_from(lane).unwrap_or_default() % partitions));
            let template = ProducerRecord { topic: place.name.clone(), partition, ..ProducerRecord::default() };
            producers.push(Lane {
                lane,
                producer,
                template,
                values: values.clone(),
                batch: self.batch(),
                keys: self.keys,
                // Lanes begin at different places of the noise.
                sent: lane as u64 * 7919,
            });
        }
        let run = run()?;
        let mut lanes = JoinSet::new();
        match self.rate {
            None => {
                for producer in producers {
                    lanes.spawn(producer.closed(Arc::clone(&run)));
                }
            }
            Some(rate) => {
                let pace = Pace::new(run.start, f64::from(rate) / f64::from(self.batch()));
                run.goes_at(pace, self.batch().into());
                for (producer, due) in producers.into_iter().zip(pace.start(&run, count)) {
                    lanes.spawn(producer.open(Arc::clone(&run), due));
                }
            }
        }
        Ok((run, lanes, clients))
    }

    fn options(&self, size: usize) -> ProducerOptions {
        let default = ProducerOptions::default();
        let batch_bytes = match self.rate {
            Some(_) => default.batch_bytes,
            // All of a batch in one, as far as brokers take it.
            None => (self.batch() as usize * (size + 64)).clamp(16 << 10, 900 << 10),
        };
        ProducerOptions {
            acks: ClientAcks::from(self.acks),
            compression: self.compression.into(),
            batch_bytes,
            buffer_bytes_max: (UNDER_WAY_BYTES / usize::from(self.producers)).clamp(1 << 20, default.buffer_bytes_max),
            ..default
        }
    }
}

/// Ends connections in order, as far as that does not take long: a broker that does not answer any more is not waited for.
pub(super) async fn close(clients: Vec<Client>) {
    let close = async {
        for client in clients {
            client.close().await;
        }
    };
    let _ = tokio::time::timeout(CLOSE_MAX, close).await;
}

/// Values that cannot be compressed, made without work.
#[derive(Clone, Debug)]
pub(super) struct Values {
    noise: Bytes,
    size: usize,
    stamp: Option<[u8; 8]>,
}

impl Values {
    pub(super) fn new(size: usize, stamp: Option<[u8; 8]>) -> Self {
        let mut noise = BytesMut::with_capacity(NOISE_BYTES + size);
        // Steele and others' splitmix64: noise, the same every time.
        let mut state = 0u64;
        while noise.len() < NOISE_BYTES + size {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            noise.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
        }
        Self { noise: noise.freeze(), size, stamp }
    }

    /// The value of this number; the mark is written behind the stamp, if there is one.
    pub(super) fn value(&self, number: u64, mark: Mark) -> Bytes {
        let from = (number as usize).wrapping_mul(NOISE_STEP) % NOISE_BYTES;
        let noise = self.noise.slice(from..from + self.size);
        let Some(stamp) = self.stamp else { return noise };
        let mut value = BytesMut::with_capacity(self.size.max(STAMP_BYTES));
        value.extend_from_slice(&stamp);
        value.extend_from_slice(&mark.encode().to_be_bytes());
        value.extend_from_slice(noise.get(STAMP_BYTES..).unwrap_or_default());
        value.freeze()
    }
}

/// Bytes of a stamp and the mark behind it.
pub(super) const STAMP_BYTES: usize = 16;

/// What a record says of itself to whoever receives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// When it was sent or due, from the run's start; to the microsecond.
    pub(super) since: Duration,
    /// It was sent when counting had begun.
    pub(super) is_counted: bool,
}

impl Mark {
    fn encode(self) -> u64 {
        let micros = u64::try_from(self.since.as_micros()).unwrap_or(u64::MAX);
        micros << 1 | u64::from(self.is_counted)
    }

    fn decode(word: u64) -> Self {
        Self { since: Duration::from_micros(word >> 1), is_counted: word & 1 == 1 }
    }

    /// Of a value with this stamp; none: it has another, or none.
    pub(super) fn of(value: &[u8], stamp: [u8; 8]) -> Option<Self> {
        let (head, rest) = value.split_first_chunk::<8>()?;
        let (mark, _) = rest.split_first_chunk::<8>()?;
        (*head == stamp).then(|| Self::decode(u64::from_be_bytes(*mark)))
    }
}

/// One producer.
struct Lane {
    lane: usize,
    producer: Producer,
    template: ProducerRecord,
    values: Values,
    batch: u32,
    keys: Option<u64>,
    sent: u64,
}

impl Lane {
    /// One batch after the other.
    async fn closed(mut self, run: Arc<Run>) -> anyhow::Result<()> {
        loop {
            let start = Instant::now();
            if run.is_over(start) {
                return Ok(());
            }
            let batch = self.send(&run, start).await?;
            // It need not wait for more.
            self.producer.flush().await;
            if !batch.settle(&run, self.lane).await {
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }

    /// Whatever is due.
    async fn open(mut self, run: Arc<Run>, mut due: mpsc::Receiver<Instant>) -> anyhow::Result<()> {
        let mut under_way = JoinSet::new();
        while let Some(at) = due.recv().await {
            if run.is_too_late(Instant::now()) {
                continue;
            }
            let batch = self.send(&run, at).await?;
            let (run, lane) = (Arc::clone(&run), self.lane);
            under_way.spawn(async move { batch.settle(&run, lane).await });
            while under_way.try_join_next().is_some() {}
        }
        self.producer.flush().await;
        while under_way.join_next().await.is_some() {}
        Ok(())
    }

    /// Sends a batch that is due at `at`. It counts by when it is sent: a load that cannot be kept is late from its first second on.
    async fn send(&mut self, run: &Run, at: Instant) -> anyhow::Result<UnderWay> {
        let is_counted = Instant::now() >= run.counted_from;
        run.sends(self.batch.into());
        if is_counted {
            run.meter.of(self.lane).begun += u64::from(self.batch);
        }
        let mark = Mark { since: at.saturating_duration_since(run.start), is_counted };
        let mut batch = UnderWay { at, is_counted, bytes: 0, deliveries: Vec::with_capacity(self.batch as usize) };
        for _ in 0..self.batch {
            let key = self.keys.map(|keys| Bytes::from(format!("key-{}", self.sent % keys)));
            let value = self.values.value(self.sent, mark);
            self.sent += 1;
            batch.bytes += (key.as_ref().map_or(0, Bytes::len) + value.len()) as u64;
            let record = ProducerRecord { key, value: Some(value), ..self.template.clone() };
            batch.deliveries.push(self.producer.send(record).await?);
        }
        Ok(batch)
    }
}

/// Records that were sent together.
struct UnderWay {
    at: Instant,
    is_counted: bool,
    bytes: u64,
    deliveries: Vec<Delivery>,
}

impl UnderWay {
    /// Waits for the last of them, and counts; false: some have failed.
    async fn settle(self, run: &Run, lane: usize) -> bool {
        let (mut failed, mut first) = (0, None);
        let count = self.deliveries.len() as u64;
        for delivery in self.deliveries {
            if let Err(error) = delivery.await {
                failed += 1;
                first.get_or_insert(error);
            }
        }
        let now = Instant::now();
        if self.is_counted {
            let mut tally = run.meter.of(lane);
            if failed < count {
                let bytes = self.bytes * (count - failed) / count;
                tally.done(count - failed, bytes, now.saturating_duration_since(self.at), now);
            }
            if let Some(error) = &first {
                tally.failed(failed, || explain(error));
            }
        }
        failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_cannot_be_compressed() {
        for size in [0, 1, 7, 8, 1024, 1 << 20] {
            let values = Values::new(size, None);
            assert_eq!(
                (values.value(0, Mark::default()).len(), values.value(u64::MAX, Mark::default()).len()),
                (size, size)
            );
        }
        let values = Values::new(1024, None);
        let [one, other] = [0, 1].map(|number| values.value(number, Mark::default()));
        assert_ne!(one, other);
        let mut counts = [0u32; 256];
        for byte in (0..64).flat_map(|number| values.value(number, Mark::default())) {
            counts[usize::from(byte)] += 1;
        }
        // 256 of each are to be expected.
        assert!(counts.iter().all(|count| (128..512).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_mark_is_found_again_behind_its_stamp_and_no_other() {
        for is_counted in [false, true] {
            let mark = Mark { since: Duration::from_micros(0x5a5a_5a5a), is_counted };
            for size in [0, STAMP_BYTES, 1024] {
                let value = Values::new(size, Some(*b"12345678")).value(3, mark);
                assert_eq!(value.len(), size.max(STAMP_BYTES));
                assert_eq!(Mark::of(&value, *b"12345678"), Some(mark));
                assert_eq!(Mark::of(&value, *b"12345679"), None);
            }
        }
        for short in [&b""[..], b"12345678", b"12345678\0\0\0"] {
            assert_eq!(Mark::of(short, *b"12345678"), None);
        }
    }
}
