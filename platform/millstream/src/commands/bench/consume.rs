//! `bench consume`: how fast a topic is read, from its beginning, again and again.

use std::{sync::Arc, time::Instant};

use anyhow::{Context, bail};
use clap::Args;
use millstream_client::{Client, ConsumerOptions, ProducerOptions, ProducerRecord};
use millstream_model::PartitionId;
use tokio::task::JoinSet;

use super::{
    Shared,
    load::{Mark, Values, close},
    place::Place,
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
}

/// Records of a topic that is made.
const RECORDS_DEFAULT: u64 = 100_000;

impl Consume {
    pub(crate) async fn run(self, common: &Common) -> anyhow::Result<()> {
        let client = connect(common).await?;
        let mut signals = Signals::new()?;
        let place = Place::find(&client, &self.shared).await?;
        let measured = self.measure(common, &client, &place, &mut signals).await;
        place.leave(&client, &mut signals).await;
        close(vec![client]).await;
        measured?.tell(self.shared.form)
    }

    async fn measure(
        &self,
        common: &Common,
        client: &Client,
        place: &Place,
        signals: &mut Signals,
    ) -> anyhow::Result<Report> {
        if self.shared.topic.is_none() {
            tokio::select! {
                filled = self.fill(client, place) => filled?,
                signal = signals.next() => bail!("stopped by {signal} before anything was measured"),
            }
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
        let run = Arc::new(Run::new(self.shared.warmup(), self.shared.seconds())?);
        let mut lanes = JoinSet::new();
        let mut clients = Vec::new();
        for lane in 0..consumers {
            let client = connect(common).await?;
            let partitions = partitions.iter().copied().skip(lane).step_by(consumers).collect();
            lanes.spawn(read(Arc::clone(&run), lane, client.clone(), place.name.clone(), partitions));
            clients.push(client);
        }
        let outcome = run.watch(lanes, signals, self.shared.progress).await?;
        close(clients).await;
        let latency = vec![("waited", Latency::of(&outcome.tally))];
        let told = format!(
            "{} of {}",
            counted(self.consumers.into(), "consumer"),
            counted(partitions.len() as u64, "partition")
        );
        Ok(Report::new("consume", "closed", place, outcome, latency).told(told))
    }

    /// Writes what is to be read.
    async fn fill(&self, client: &Client, place: &Place) -> anyhow::Result<()> {
        let (partitions, _) = place.partitions(client).await?;
        let records = self.records.unwrap_or(RECORDS_DEFAULT);
        say(format_args!("writing {records} records of {} bytes", self.shared.size));
        let producer = client.producer(ProducerOptions::default());
        let values = Values::new(self.shared.size as usize, None);
        let mut last = None;
        for number in 0..records {
            let partition = Some(PartitionId((number / 100 % u64::from(partitions.unsigned_abs())) as i32));
            let (topic, value) = (place.name.clone(), Some(values.value(number, Mark::default())));
            last = Some(producer.send(ProducerRecord { topic, partition, value, ..ProducerRecord::default() }).await?);
        }
        producer.flush().await;
        // An error that holds for one holds for all of them.
        if let Some(last) = last {
            last.await.context("cannot fill the topic")?;
        }
        Ok(())
    }
}

/// One consumer: to the end, and again from the beginning.
async fn read(
    run: Arc<Run>,
    lane: usize,
    client: Client,
    name: String,
    partitions: Vec<PartitionId>,
) -> anyhow::Result<()> {
    let what = || format!("cannot read {name}");
    loop {
        let options = ConsumerOptions {
            partitions: partitions.clone(),
            until_end: true,
            pass_over_deleted: true,
            ..ConsumerOptions::default()
        };
        let mut consumer = client.consumer(&name, options).await.with_context(what)?;
        let mut is_empty = true;
        loop {
            let start = Instant::now();
            if run.is_over(start) {
                return Ok(());
            }
            let Some(mut record) = consumer.next().await.with_context(what)? else { break };
            let waited = start.elapsed();
            is_empty = false;
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
            bail!("{name} has no records to read in {}", counted(partitions.len() as u64, "partition"));
        }
    }
}
