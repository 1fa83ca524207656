//! The Kafka protocol spoken plainly, over one TCP connection: to make topics and look into them without a client's help.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use millstream_model::{Offset, PartitionId, TimestampMs};
use millstream_protocol::{
    Call, ErrorCode, decode_response, encode_request,
    messages::{configs::*, fetch::*, metadata::*, offsets::*, produce::*, topics::*},
};
use millstream_record::{Batch, batches};

/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// How long a new topic's partitions may be without a leader.
const LEADERS_MAX: Duration = Duration::from_secs(60);
/// Most bytes of one answer.
const FRAME_MAX: usize = 64 << 20;

/// What a broker did with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchanged {
    /// It answered: the frame without its length.
    Answer(Bytes),
    /// It closed the connection.
    Closed,
    /// Neither, for as long as it was waited for.
    Silence,
}

/// A connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    sent: i32,
}

impl Wire {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(broker: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(broker)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        Ok(Self { stream, sent: 0 })
    }

    /// Waits for answers at most so long from now on.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn wait_at_most(&self, patience: Duration) -> anyhow::Result<()> {
        Ok(self.stream.set_read_timeout(Some(patience))?)
    }

    /// Sends a request's frame, without its length, and reads what comes.
    ///
    /// # Errors
    /// When the connection fails in another way than by being closed.
    pub fn exchange(&mut self, frame: &[u8]) -> anyhow::Result<Exchanged> {
        self.stream.write_all(&i32::try_from(frame.len())?.to_be_bytes())?;
        self.stream.write_all(frame)?;
        let mut length = [0; 4];
        if let Err(error) = self.stream.read_exact(&mut length) {
            use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
            return match error.kind() {
                UnexpectedEof | ConnectionReset | ConnectionAborted => Ok(Exchanged::Closed),
                WouldBlock | TimedOut => Ok(Exchanged::Silence),
                _ => Err(error).context("waiting for an answer"),
            };
        }
        let length = usize::try_from(i32::from_be_bytes(length))?;
        ensure!(length <= FRAME_MAX, "an answer of {length} bytes");
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        Ok(Exchanged::Answer(answer.into()))
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// When it cannot be encoded or sent, or there is no answer that can be understood.
    pub fn call<C: Call>(&mut self, version: i16, request: C) -> anyhow::Result<C::Response> {
        self.sent += 1;
        let frame = encode_request(version, self.sent, Some("compat"), &request.into())?;
        let answer = match self.exchange(&frame.to_bytes())? {
            Exchanged::Answer(answer) => answer,
            Exchanged::Closed => bail!("{}: the connection was closed", C::API),
            Exchanged::Silence => bail!("{}: no answer", C::API),
        };
        let (_, response) = decode_response(C::API, version, answer)?;
        C::Response::try_from(response).ok().context("an answer to something else")
    }

    /// Creates a topic, and waits until all of its partitions are led.
    ///
    /// # Errors
    /// When it is refused.
    pub fn create(&mut self, topic: &str, partitions: i32, configs: &[(&str, &str)]) -> anyhow::Result<()> {
        let configs = configs
            .iter()
            .map(|(name, value)| CreatableTopicConfig { name: (*name).to_owned(), value: Some((*value).to_owned()) });
        let wanted = CreatableTopic {
            name: topic.to_owned(),
            num_partitions: partitions,
            replication_factor: 1,
            configs: configs.collect(),
            ..Default::default()
        };
        let answer = self.call(5, CreateTopicsRequest { topics: vec![wanted], ..Default::default() })?;
        let told = answer.topics.first().context("no answer about the topic")?;
        ensure!(told.error_code.is_ok(), "{topic}: {:?} {:?}", told.error_code, told.error_message);
        self.wait_for_leaders(topic, usize::try_from(partitions)?)
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// When it is refused.
    pub fn delete(&mut self, topic: &str) -> anyhow::Result<()> {
        let request =
            DeleteTopicsRequest { topic_names: vec![topic.to_owned()], timeout_ms: 30_000, ..Default::default() };
        let answer = self.call(5, request)?;
        let told = answer.responses.first().context("no answer about the topic")?;
        ensure!(told.error_code.is_ok(), "{topic}: {:?} {:?}", told.error_code, told.error_message);
        Ok(())
    }

    /// Waits until a topic has this many partitions, all are led, and the broker that leads them has made them: brokers learn of new topics
    /// a little later, and Apache Kafka tells of a leader that does not know it yet.
    ///
    /// # Errors
    /// When it takes longer than a minute.
    pub fn wait_for_leaders(&mut self, topic: &str, partitions: usize) -> anyhow::Result<()> {
        let start = Instant::now();
        while self.led(topic)? != Some(partitions) || !self.has_made(topic, partitions)? {
            ensure!(start.elapsed() < LEADERS_MAX, "{topic} has no leaders");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether so many partitions of a topic can be asked about.
    fn has_made(&mut self, topic: &str, partitions: usize) -> anyhow::Result<bool> {
        let partition = |index| ListOffsetsPartition {
            partition_index: PartitionId(index),
            timestamp: LATEST_TIMESTAMP,
            ..Default::default()
        };
        let asked = (0..i32::try_from(partitions)?).map(partition).collect();
        let asked = ListOffsetsTopic { name: topic.to_owned(), partitions: asked };
        let answer = self.call(5, ListOffsetsRequest { topics: vec![asked], ..Default::default() })?;
        let told = answer.topics.iter().flat_map(|topic| &topic.partitions);
        Ok(told.filter(|partition| partition.error_code.is_ok()).count() == partitions)
    }

    /// How many partitions of a topic are led; none when there is no such topic.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn led(&mut self, topic: &str) -> anyhow::Result<Option<usize>> {
        let asked = MetadataRequestTopic { name: Some(topic.to_owned()), ..Default::default() };
        let request =
            MetadataRequest { topics: Some(vec![asked]), allow_auto_topic_creation: false, ..Default::default() };
        let answer = self.call(9, request)?;
        let told = answer.topics.first().context("no answer about the topic")?;
        if told.error_code == ErrorCode::UnknownTopicOrPartition {
            return Ok(None);
        }
        Ok(Some(told.partitions.iter().filter(|partition| partition.error_code.is_ok()).count()))
    }

    /// A topic's settings.
    ///
    /// # Errors
    /// When it is refused.
    pub fn configs(&mut self, topic: &str) -> anyhow::Result<BTreeMap<String, Option<String>>> {
        let resource = DescribeConfigsResource {
            resource_type: RESOURCE_TOPIC,
            resource_name: topic.to_owned(),
            configuration_keys: None,
        };
        let answer = self.call(3, DescribeConfigsRequest { resources: vec![resource], ..Default::default() })?;
        let told = answer.results.into_iter().next().context("no answer about the topic")?;
        ensure!(told.error_code.is_ok(), "{topic}: {:?} {:?}", told.error_code, told.error_message);
        Ok(told.configs.into_iter().map(|entry| (entry.name, entry.value)).collect())
    }

    /// An offset by time: `millstream_protocol::messages::offsets` has the special ones.
    ///
    /// # Errors
    /// When it is refused.
    pub fn offset(&mut self, topic: &str, partition: i32, timestamp: TimestampMs) -> anyhow::Result<i64> {
        let partition =
            ListOffsetsPartition { partition_index: PartitionId(partition), timestamp, ..Default::default() };
        let asked = ListOffsetsTopic { name: topic.to_owned(), partitions: vec![partition] };
        let answer = self.call(5, ListOffsetsRequest { topics: vec![asked], ..Default::default() })?;
        let told = answer.topics.first().and_then(|topic| topic.partitions.first()).context("no answer")?;
        ensure!(told.error_code.is_ok(), "{topic}: {:?}", told.error_code);
        Ok(told.offset.0)
    }

    /// Appends a batch as it is.
    ///
    /// # Errors
    /// When it is refused.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: Bytes) -> anyhow::Result<i64> {
        let data = PartitionProduceData { index: PartitionId(partition), records: Some(batch), ..Default::default() };
        let topic_data =
            vec![TopicProduceData { name: topic.to_owned(), partition_data: vec![data], ..Default::default() }];
        let answer = self.call(9, ProduceRequest { acks: -1, timeout_ms: 30_000, topic_data, ..Default::default() })?;
        let told = answer.responses.first().and_then(|topic| topic.partition_responses.first()).context("no answer")?;
        ensure!(told.error_code.is_ok(), "{topic}: {:?} {:?}", told.error_code, told.error_message);
        Ok(told.base_offset.0)
    }

    /// All batches of a partition.
    ///
    /// # Errors
    /// When they cannot be read, or are not sound.
    pub fn batches(&mut self, topic: &str, partition: i32) -> anyhow::Result<Vec<Batch>> {
        let end = self.offset(topic, partition, LATEST_TIMESTAMP)?;
        let mut at = self.offset(topic, partition, EARLIEST_TIMESTAMP)?;
        let mut found = Vec::new();
        while at < end {
            let asked = FetchPartition {
                partition: PartitionId(partition),
                fetch_offset: Offset(at),
                partition_max_bytes: 8 << 20,
                ..Default::default()
            };
            let topics = vec![FetchTopic { topic: topic.to_owned(), partitions: vec![asked], ..Default::default() }];
            let request = FetchRequest { max_wait_ms: 1000, min_bytes: 1, topics, ..Default::default() };
            let answer = self.call(11, request)?;
            let told = answer.responses.first().and_then(|topic| topic.partitions.first()).context("no answer")?;
            ensure!(told.error_code.is_ok(), "{topic}: {:?}", told.error_code);
            let before = at;
            for batch in batches(told.records.to_bytes()) {
                let batch = batch?;
                batch.verify_crc()?;
                at = batch.header().end_offset().0;
                found.push(batch);
            }
            if at == before {
                bail!("{topic}/{partition}: nothing is read at {at}, and the end is {end}");
            }
        }
        Ok(found)
    }
}
