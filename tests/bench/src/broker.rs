//! The real thing: a `millstream serve` process and the SDK, producing and fetching.

use anyhow::Context;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use millstream_client::{
    Client, ClientOptions, Consumer, ConsumerOptions, NewTopic, Producer, ProducerOptions, ProducerRecord, Security,
};
use millstream_env::{FrameStream, Net};
use millstream_model::{Offset, PartitionId};
use millstream_protocol::{
    encode_request,
    messages::{
        fetch::{FetchPartition, FetchRequest, FetchTopic},
        offsets::{LATEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
    },
};
use millstream_test_support::broker::Broker;
use millstream_transport::{Limits, Profile, QuicNet};

use crate::{
    bare::{ANSWER_BYTES, TcpLane},
    closed_loop::{Lane, Moved, Reader, Sample, measure},
    suite::Plan,
    workload::{self, RECORDS, TIMESTAMP},
};

/// Partitions of the topic that is fetched, and batches in each: 64 MiB, well below what the page cache holds.
const FETCH_PARTITIONS: i32 = 4;
const FETCH_BATCHES: usize = 640;
pub(crate) const FETCH_TOPIC: &str = "bench-fetch";
/// The records are of long ago, and must not go for that.
const KEPT: (&str, &str) = ("retention.ms", "-1");
/// Batches of each of those who turn the journal over: 3 GiB together, three times what its files may grow to.
const TURNING_PRODUCERS: usize = 8;
const TURNING_BATCHES: usize = 3900;
/// As a client of today asks.
const FETCH_VERSION: i16 = 11;
const LIST_OFFSETS_VERSION: i16 = 7;
/// Whole batches that an answer over TCP has room for, and those who ask.
const ANSWER_BATCHES: usize = 10;
pub(crate) const TCP_READERS: usize = 2;

/// The topic that is produced to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) partitions: usize,
    pub(crate) configs: &'static [(&'static str, &'static str)],
}

/// Who encodes the batches that are produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoder {
    /// Nobody: the same batch is sent over and over.
    Before,
    /// Who produces, record by record.
    Each,
}

/// A broker's process and a client of it.
pub(crate) struct RealBroker {
    process: Broker,
    options: ClientOptions,
    client: Client,
    /// Topics made so far; each measurement has its own.
    topics: u32,
    is_filled: bool,
}

/// How the bench is a client of a broker.
pub(crate) fn options(process: &Broker) -> ClientOptions {
    ClientOptions {
        brokers: vec![process.address().to_string()],
        security: Security::ProfileFile(process.profile()),
        client_id: "bench".into(),
        ..ClientOptions::default()
    }
}

impl RealBroker {
    /// Starts a broker in a folder of its own and connects to it.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let process = Broker::start_with(&["--retention-check-ms", "100"])?;
        let options = options(&process);
        let client = Client::connect(options.clone()).await.context("connect to the broker")?;
        Ok(Self { process, options, client, topics: 0, is_filled: false })
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.process_id()
    }

    /// Makes a topic that nobody has used.
    async fn make_topic(&mut self, partitions: usize, configs: &[(&str, &str)]) -> anyhow::Result<String> {
        self.topics += 1;
        let name = format!("bench-{}", self.topics);
        let new = NewTopic {
            name: name.clone(),
            partitions: Some(i32::try_from(partitions)?),
            configs: [KEPT].iter().chain(configs).map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            ..NewTopic::default()
        };
        self.client.admin().create_topic(new).await?;
        Ok(name)
    }

    /// Produces until every file of the journal has been written before: what is measured then is a broker that has been running,
    /// as the bare server's files are written once before.
    pub(crate) async fn turn_journal_over(&mut self) -> anyhow::Result<()> {
        let topic = self.make_topic(TURNING_PRODUCERS, &[]).await?;
        let producer = self.client.producer(ProducerOptions::default());
        let batch = workload::encode(&workload::values(1))?;
        let mut turning = tokio::task::JoinSet::new();
        for lane in 0..TURNING_PRODUCERS {
            let partitions = vec![PartitionId(i32::try_from(lane)?)];
            let (producer, topic, batch) = (producer.clone(), topic.clone(), batch.clone());
            let mut lane = EncodedLane { producer, topic, partitions, next: 0, batch };
            turning.spawn(async move {
                for _ in 0..TURNING_BATCHES {
                    lane.step().await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(turned) = turning.join_next().await {
            turned??;
        }
        self.client.admin().delete_topic(&topic).await?;
        Ok(())
    }

    /// As many producers as partitions, one batch of each under way.
    pub(crate) async fn produce(
        &mut self,
        plan: &Plan,
        durable: bool,
        producers: usize,
        encoder: Encoder,
    ) -> anyhow::Result<Sample> {
        let durability = if durable { "fsync" } else { "replicated" };
        let topic = self.make_topic(producers, &[("millstream.durability", durability)]).await?;
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
                    let batch = workload::encode(&workload::values(lane as u8))?;
                    Ok(EncodedLane { producer, topic, partitions: vec![partition], next: 0, batch })
                };
                measure(lanes.map(lane).collect::<anyhow::Result<Vec<_>>>()?, plan.time, server).await
            }
            Encoder::Each => {
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

    /// Durable produce by `producers`, each going through its share of the topic's partitions; `reading`: while somebody reads old
    /// batches as fast as may be.
    pub(crate) async fn produce_into(
        &mut self,
        plan: &Plan,
        producers: usize,
        into: Target,
        reading: bool,
    ) -> anyhow::Result<Sample> {
        let topic = self.make_topic(into.partitions, into.configs).await?;
        let producer = self.client.producer(ProducerOptions::default());
        let lane = |lane: usize| {
            let share = (lane..into.partitions.max(producers)).step_by(producers);
            let partitions = share.map(|at| anyhow::Ok(PartitionId(i32::try_from(at % into.partitions)?)));
            let batch = workload::encode(&workload::values(lane as u8))?;
            let (partitions, producer) = (partitions.collect::<anyhow::Result<_>>()?, producer.clone());
            anyhow::Ok(EncodedLane { producer, topic: topic.clone(), partitions, next: 0, batch })
        };
        let lanes = (0..producers).map(lane).collect::<anyhow::Result<Vec<_>>>()?;
        let reader = if reading {
            self.fill().await?;
            let options = self.options.clone();
            let connect = async {
                Ok(BatchesLane(Source { client: Client::connect(options).await?, push: false, consumer: None }))
            };
            Some(Reader::start(connect)?)
        } else {
            None
        };
        let sample = measure(lanes, plan.time, Some(self.process_id())).await;
        let told = reader.map(Reader::stop).transpose()?;
        self.client.admin().delete_topic(&topic).await?;
        Ok(Sample { note: told, ..sample? })
    }

    /// As a Kafka client fetches over TCP, 1 MiB at a time.
    pub(crate) async fn fetch_tcp(&mut self, plan: &Plan) -> anyhow::Result<Sample> {
        self.fill().await?;
        let mut requests = Vec::new();
        for partition in 0..FETCH_PARTITIONS {
            for first in (0..FETCH_BATCHES - ANSWER_BATCHES).step_by(ANSWER_BATCHES) {
                requests.push(fetch_frame(PartitionId(partition), Offset(i64::try_from(first * RECORDS)?))?);
            }
        }
        let batch = workload::encode(&workload::values(1))?.len();
        let mut lanes = Vec::new();
        for _ in 0..TCP_READERS {
            lanes.push(TcpLane::connect(self.process.address(), requests.clone(), batch * (ANSWER_BATCHES - 1)).await?);
        }
        measure(lanes, plan.time, Some(self.process_id())).await
    }

    /// Small requests, one under way on each of so many streams of a connection.
    pub(crate) async fn requests(&mut self, plan: &Plan, streams: usize) -> anyhow::Result<Sample> {
        let topic = self.make_topic(1, &[]).await?;
        let partition = ListOffsetsPartition { timestamp: LATEST_TIMESTAMP, ..ListOffsetsPartition::default() };
        let topics = vec![ListOffsetsTopic { name: topic, partitions: vec![partition] }];
        let request = ListOffsetsRequest { topics, ..ListOffsetsRequest::default() };
        let frame = encode_request(LIST_OFFSETS_VERSION, 1, Some("bench"), &request.into())?.to_bytes();
        let streams = open_streams(&self.process, streams).await?;
        let lanes = streams.into_iter().map(|stream| RequestLane { stream, frame: frame.clone() }).collect();
        measure(lanes, plan.time, Some(self.process_id())).await
    }

    /// Reads what was produced before, from the beginning to the end and again: whole batches, or record by record; asked for, or pushed.
    pub(crate) async fn fetch(&mut self, plan: &Plan, records: bool, push: bool) -> anyhow::Result<Sample> {
        self.fill().await?;
        let source = Source { client: self.client.clone(), push, consumer: None };
        let server = Some(self.process_id());
        match records {
            true => {
                let bytes = workload::encode(&workload::values(1))?.len() as u64;
                measure(vec![RecordsLane { source, bytes }], plan.time, server).await
            }
            false => measure(vec![BatchesLane(source)], plan.time, server).await,
        }
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        if std::mem::replace(&mut self.is_filled, true) {
            return Ok(());
        }
        let name = FETCH_TOPIC.to_owned();
        let configs = vec![(KEPT.0.into(), KEPT.1.into())];
        let new = NewTopic { name, partitions: Some(FETCH_PARTITIONS), configs, ..NewTopic::default() };
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

/// Streams of one connection, for who speaks the protocol without the SDK.
pub(crate) async fn open_streams(process: &Broker, count: usize) -> anyhow::Result<Vec<FrameStream>> {
    let trust = Profile::load(&process.profile())?.trust(&[], "the bench")?;
    let connection = QuicNet::client(trust, Limits::default()).connect(&process.address().to_string()).await?;
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(connection.open().await?);
    }
    Ok(streams)
}

/// The frame of a request for an answer's worth of batches.
pub(crate) fn fetch_frame(partition: PartitionId, fetch_offset: Offset) -> anyhow::Result<Bytes> {
    let partition_max_bytes = i32::try_from(ANSWER_BYTES)?;
    let partition = FetchPartition { partition, fetch_offset, partition_max_bytes, ..FetchPartition::default() };
    let topics = vec![FetchTopic { topic: FETCH_TOPIC.into(), partitions: vec![partition], ..FetchTopic::default() }];
    let request = FetchRequest { max_wait_ms: 1000, min_bytes: 1, topics, ..FetchRequest::default() };
    let frame = encode_request(FETCH_VERSION, 1, Some("bench"), &request.into())?;
    let body = frame.to_bytes();
    let length = u32::try_from(body.len())?.to_be_bytes();
    Ok([&length[..], &body].concat().into())
}

/// Sends a request and waits for its answer.
struct RequestLane {
    stream: FrameStream,
    frame: Bytes,
}

impl Lane for RequestLane {
    async fn step(&mut self) -> anyhow::Result<Moved> {
        self.stream.sink.send(self.frame.clone().into()).await?;
        let answer = self.stream.source.next().await.context("the stream has ended")??;
        Ok(Moved { bytes: (self.frame.len() + answer.len()) as u64, records: 1 })
    }
}

/// Sends one encoded batch, to one partition after the other, and waits for its fate.
struct EncodedLane {
    producer: Producer,
    topic: String,
    partitions: Vec<PartitionId>,
    next: usize,
    batch: Bytes,
}

impl Lane for EncodedLane {
    async fn step(&mut self) -> anyhow::Result<Moved> {
        let partition = self.partitions[self.next];
        self.next = (self.next + 1) % self.partitions.len();
        self.producer.send_batch(&self.topic, partition, self.batch.clone()).await?.await?;
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
    push: bool,
    consumer: Option<Consumer>,
}

impl Source {
    async fn consumer(&mut self) -> anyhow::Result<&mut Consumer> {
        if self.consumer.is_none() {
            let options = ConsumerOptions { until_end: true, push: self.push, ..ConsumerOptions::default() };
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
