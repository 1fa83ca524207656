//! `bench consume`: how fast a topic is read, from its beginning, again and again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, bail};
use clap::Args;
use millstream_client::{Client, ConsumerOptions, ProducerOptions, ProducerRecord};
use millstream_model::PartitionId;
use tokio::task::JoinSet;

use super::{
    Shared,
    load::{Mark, Values, close},
    measured,
    place::Place,
    prepared,
    report::{Latency, Report},
    run::Run,
};
use crate::{
    commands::connect::connect,
    flags::Common,
    output::{counted, say},
    signals::Signals,
};

/// A topic to read.
#[derive(Debug, Args)]
#[command(after_help = "\
Latency is what a consumer waits for the next records once it has gone through those it has. MB are millions of bytes of keys and values. \
Ctrl-C ends it early and tells what was measured.

Examples:
  millstream bench consume --records 1000000 --size 200
  millstream bench consume --topic flights --consumers 3")]
pub(crate) struct Consume {
    #[command(flatten)]
    shared: Shared,
    /// Consumers side by side; they divide the partitions among them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    consumers: u16,
    /// Records that are written into the topic that is made; the default is 100000.
    #[arg(long, value_name = "N", conflicts_with = "topic", value_parser = clap::value_parser!(u64).range(1..))]
    records: Option<u64>,
    /// Have the broker send records as they come, instead of asking it for each answer.
    #[arg(long)]
    push: bool,
}

/// Records of a topic that is made.
const RECORDS_DEFAULT: u64 = 100_000;

impl Consume {
    pub(crate) async fn run(self, common: &Common) -> anyhow::Result<()> {
        measured(common, &self.shared, async |client, place, signals| {
            self.measure(common, client, place, signals).await
        })
        .await
    }

    async fn measure(
        &self,
        common: &Common,
        client: &Client,
        place: &Place,
        signals: &mut Signals,
    ) -> anyhow::Result<Report> {
        let (partitions, clients) = prepared(signals, self.prepare(common, client, place)).await?;
        // Once all are connected.
        let run = Arc::new(Run::new(self.shared.warmup(), self.shared.seconds())?);
        let (mut lanes, has_records) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        for (lane, client) in clients.iter().enumerate() {
            let partitions = partitions.iter().copied().skip(lane).step_by(clients.len()).collect();
            let (run, client, name) = (Arc::clone(&run), client.clone(), place.name.clone());
            let options = ConsumerOptions {
                partitions,
                until_end: true,
                pass_over_deleted: true,
                push: self.push,
                ..ConsumerOptions::default()
            };
            lanes.spawn(read(run, lane, client, name, options, Arc::clone(&has_records)));
        }
        let outcome = run.watch(lanes, signals, self.shared.progress).await?;
        close(clients).await;
        if outcome.failed.is_none() && !outcome.interrupted && !has_records.load(Ordering::Relaxed) {
            bail!("{} has no records to read in {}", place.name, counted(partitions.len() as u64, "partition"));
        }
        let latency = vec![("waited", Latency::of(&outcome.tally))];
        let told = format!(
            "{} of {}",
            counted(self.consumers.into(), "consumer"),
            counted(partitions.len() as u64, "partition")
        );
        Ok(Report::new("consume", "closed", place, outcome, latency).told(told))
    }

    /// The topic's partitions, with something to read, and a connection for each consumer.
    async fn prepare(
        &self,
        common: &Common,
        client: &Client,
        place: &Place,
    ) -> anyhow::Result<(Vec<PartitionId>, Vec<Client>)> {
        if self.shared.topic.is_none() {
            self.fill(client, place).await?;
        }
        let all = client.consumer(&place.name, ConsumerOptions::default()).await;
        let all = all.with_context(|| format!("cannot read {}", place.name))?;
        let partitions: Vec<_> = all.positions().map(|at| at.partition).collect();
        drop(all);
        let consumers = usize::from(self.consumers);
        if consumers > partitions.len() {
            let has = counted(partitions.len() as u64, "partition");
            bail!("{} has {has}: it can be divided among no more consumers than that (--consumers)", place.name);
        }
        let mut clients = Vec::with_capacity(consumers);
        for _ in 0..consumers {
            clients.push(connect(common).await?);
        }
        Ok((partitions, clients))
    }

    /// Writes what is to be read.
    async fn fill(&self, client: &Client, place: &Place) -> anyhow::Result<()> {
        let (partitions, _) = place.partitions(client).await?;
        let records = self.records.unwrap_or(RECORDS_DEFAULT);
        say(format_args!("writing {records} records of {} bytes", self.shared.size));
        let producer = client.producer(ProducerOptions::default());
        let values = Values::new(self.shared.size as usize, None);
        let partitions = u64::from(partitions.unsigned_abs());
        // Batches of a hundred, or a few for each partition.
        let together = (records / partitions).clamp(1, 100);
        let mut last = BTreeMap::new();
        for number in 0..records {
            let partition = PartitionId((number / together % partitions) as i32);
            let (topic, value) = (place.name.clone(), Some(values.value(number, Mark::default())));
            let record = ProducerRecord { topic, partition: Some(partition), value, ..ProducerRecord::default() };
            last.insert(partition, producer.send(record).await?);
        }
        producer.flush().await;
        // An error that holds for the last of a partition holds for those before.
        for delivery in last.into_values() {
            delivery.await.context("cannot fill the topic")?;
        }
        Ok(())
    }
}

/// One consumer: to the end, and again from the beginning; not where there is nothing. `has_records`: set once there is something.
async fn read(
    run: Arc<Run>,
    lane: usize,
    client: Client,
    name: String,
    options: ConsumerOptions,
    has_records: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let what = || format!("cannot read {name}");
    loop {
        let mut consumer = client.consumer(&name, options.clone()).await.with_context(what)?;
        let mut is_empty = true;
        loop {
            let start = Instant::now();
            if run.is_over(start) {
                return Ok(());
            }
            let Some(mut record) = consumer.next().await.with_context(what)? else { break };
            let waited = start.elapsed();
            is_empty = false;
            has_records.store(true, Ordering::Relaxed);
            let (mut records, mut bytes) = (0, 0);
            loop {
                records += 1;
                bytes += [&record.key, &record.value].into_iter().flatten().map(|part| part.len() as u64).sum::<u64>();
                match consumer.next_ready() {
                    Some(next) => record = next,
                    None => break,
                }
            }
            if start >= run.counted_from {
                let mut tally = run.meter.of(lane);
                tally.begun += records;
                tally.done(records, bytes, waited, Instant::now());
            }
        }
        if is_empty {
            return Ok(());
        }
    }
}
