//! The real thing: a `millstream serve` process and the SDK, producing and fetching.

use anyhow::Context;
use bytes::Bytes;
use millstream_client::{
    Client, ClientOptions, Consumer, ConsumerOptions, NewTopic, Producer, ProducerOptions, ProducerRecord, Security,
};
use millstream_model::PartitionId;
use millstream_test_support::broker::Broker;

use crate::{
    closed_loop::{Lane, Moved, Sample, measure},
    suite::Plan,
    workload::{self, RECORDS, TIMESTAMP},
};

/// Partitions of the topic that is fetched, and batches in each: 64 MiB, well below what the page cache holds.
const FETCH_PARTITIONS: i32 = 4;
const FETCH_BATCHES: usize = 640;
const FETCH_TOPIC: &str = "bench-fetch";

/// Who encodes the batches that are produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoder {
    /// Nobody: the same batch is sent over and over.
    Before,
    /// The SDK, record by record.
    Sdk,
}

/// A broker's process and a client of it.
pub(crate) struct RealBroker {
    process: Broker,
    client: Client,
    /// Topics made so far; each measurement has its own.
    topics: u32,
    is_filled: bool,
}

impl RealBroker {
    /// Starts a broker in a folder of its own and connects to it.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let process = Broker::start()?;
        let options = ClientOptions {
            brokers: vec![process.address().to_string()],
            security: Security::ProfileFile(process.profile()),
            client_id: "bench".into(),
            ..ClientOptions::default()
        };
        let client = Client::connect(options).await.context("connect to the broker")?;
        Ok(Self { process, client, topics: 0, is_filled: false })
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.process_id()
    }

    /// As many producers as partitions, one batch of each under way.
    pub(crate) async fn produce(
        &mut self,
        plan: &Plan,
        durable: bool,
        producers: usize,
        encoder: Encoder,
    ) -> anyhow::Result<Sample> {
        self.topics += 1;
        let topic = format!("bench-{}", self.topics);
        let durability = if durable { "fsync" } else { "replicated" };
        let new = NewTopic {
            name: topic.clone(),
            partitions: Some(i32::try_from(producers)?),
            configs: vec![("millstream.durability".into(), durability.into())],
            ..NewTopic::default()
        };
        self.client.admin().create_topic(new).await?;
        let batch = workload::encode(&workload::values(1))?;
        // A batch is full after exactly as many records as the encoded ones have, so that nobody lingers.
        let options = ProducerOptions { batch_bytes: batch.len(), ..ProducerOptions::default() };
        let producer = self.client.producer(options);
        let lanes = 0..producers;
        let place = |lane: usize| anyhow::Ok((producer.clone(), topic.clone(), PartitionId(i32::try_from(lane)?)));
        let server = Some(self.process_id());
        let sample = match encoder {
            Encoder::Before => {
                let lane = |lane| {
                    let (producer, topic, partition) = place(lane)?;
                    Ok(EncodedLane {
                        producer,
                        topic,
                        partition,
                        batch: workload::encode(&workload::values(lane as u8))?,
                    })
                };
                measure(lanes.map(lane).collect::<anyhow::Result<Vec<_>>>()?, plan.time, server).await
            }
            Encoder::Sdk => {
                let lane = |lane| {
                    let (producer, topic, partition) = place(lane)?;
                    let (values, bytes) = (workload::values(lane as u8), batch.len() as u64);
                    Ok(SdkLane { producer, topic, partition, values, bytes })
                };
                measure(lanes.map(lane).collect::<anyhow::Result<Vec<_>>>()?, plan.time, server).await
            }
        };
        // A run produces more than a small disk holds.
        self.client.admin().delete_topic(&topic).await?;
        sample
    }

    /// Reads what was produced before, from the beginning to the end and again: whole batches, or record by record.
    pub(crate) async fn fetch(&mut self, plan: &Plan, records: bool) -> anyhow::Result<Sample> {
        if !self.is_filled {
            self.fill().await?;
            self.is_filled = true;
        }
        let source = Source { client: self.client.clone(), consumer: None };
        let server = Some(self.process_id());
        match records {
            true => {
                let bytes = workload::encode(&workload::values(1))?.len() as u64;
                measure(vec![RecordsLane { source, bytes }], plan.time, server).await
            }
            false => measure(vec![BatchesLane(source)], plan.time, server).await,
        }
    }

    async fn fill(&self) -> anyhow::Result<()> {
        let name = FETCH_TOPIC.to_owned();
        let new = NewTopic { name, partitions: Some(FETCH_PARTITIONS), ..NewTopic::default() };
        self.client.admin().create_topic(new).await?;
        let producer = self.client.producer(ProducerOptions::default());
        let batch = workload::encode(&workload::values(1))?;
        let mut deliveries = Vec::new();
        for _ in 0..FETCH_BATCHES {
            for partition in 0..FETCH_PARTITIONS {
                deliveries.push(producer.send_batch(FETCH_TOPIC, PartitionId(partition), batch.clone()).await?);
            }
        }
        for delivery in deliveries {
            delivery.await?;
        }
        Ok(())
    }
}

/// Sends one encoded batch and waits for its fate.
struct EncodedLane {
    producer: Producer,
    topic: String,
    partition: PartitionId,
    batch: Bytes,
}

impl Lane for EncodedLane {
    async fn step(&mut self) -> anyhow::Result<Moved> {
        self.producer.send_batch(&self.topic, self.partition, self.batch.clone()).await?.await?;
        Ok(Moved { bytes: self.batch.len() as u64, records: RECORDS as u64 })
    }
}

/// Sends one batch's records one by one and waits for all their fates.
struct SdkLane {
    producer: Producer,
    topic: String,
    partition: PartitionId,
    values: Vec<Bytes>,
    /// Of the batch that the values end up in: counted as for those who send it encoded.
    bytes: u64,
}

impl Lane for SdkLane {
    async fn step(&mut self) -> anyhow::Result<Moved> {
        let mut deliveries = Vec::with_capacity(self.values.len());
        for value in &self.values {
            let record = ProducerRecord {
                topic: self.topic.clone(),
                partition: Some(self.partition),
                value: Some(value.clone()),
                timestamp: Some(TIMESTAMP),
                ..ProducerRecord::default()
            };
            deliveries.push(self.producer.send(record).await?);
        }
        for delivery in deliveries {
            delivery.await?;
        }
        Ok(Moved { bytes: self.bytes, records: self.values.len() as u64 })
    }
}

/// The topic from its beginning to its end, over and over.
struct Source {
    client: Client,
    consumer: Option<Consumer>,
}

impl Source {
    async fn consumer(&mut self) -> anyhow::Result<&mut Consumer> {
        if self.consumer.is_none() {
            let options = ConsumerOptions { until_end: true, ..ConsumerOptions::default() };
            self.consumer = Some(self.client.consumer(FETCH_TOPIC, options).await?);
        }
        self.consumer.as_mut().context("there is a consumer")
    }
}

/// Takes the next batches of a partition.
struct BatchesLane(Source);

impl Lane for BatchesLane {
    async fn step(&mut self) -> anyhow::Result<Moved> {
        loop {
            if let Some(fetched) = self.0.consumer().await?.next_batches().await? {
                let bytes = fetched.batches.iter().map(|batch| batch.bytes().len() as u64).sum();
                let records =
                    fetched.batches.iter().map(|batch| u64::try_from(batch.header().count).unwrap_or(0)).sum();
                return Ok(Moved { bytes, records });
            }
            self.0.consumer = None;
        }
    }
}

/// Takes as many records as a batch has.
struct RecordsLane {
    source: Source,
    /// Of a batch: counted as for those who take whole ones.
    bytes: u64,
}

impl Lane for RecordsLane {
    async fn step(&mut self) -> anyhow::Result<Moved> {
        let mut records = 0;
        while records < RECORDS as u64 {
            match self.source.consumer().await?.next().await? {
                Some(_) => records += 1,
                None => self.source.consumer = None,
            }
        }
        Ok(Moved { bytes: self.bytes, records })
    }
}
