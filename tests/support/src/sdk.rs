//! Our own client, driven from plain tests: sending and reading whole lists of messages over QUIC.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use millstream_client::{
    Client, ClientOptions, Compression, ConsumedRecord, ConsumerOptions, Header, Producer, ProducerOptions,
    ProducerRecord, Security, StartFrom,
};
use millstream_model::{PartitionId, TimestampMs, limits::BATCH_BYTES_MAX};
use millstream_record::{BatchBuilder, BatchOptions};

use crate::{
    broker::Broker,
    history::{History, Pass, Seen},
    message::{Message, Placed},
};

/// How long a whole list may take before the test counts as hung.
const WHOLE_MAX: Duration = Duration::from_secs(180);

/// A connected client with a producer.
#[derive(Debug)]
pub struct Sdk {
    client: Client,
    producer: Producer,
}

impl Sdk {
    /// Connects to a broker, believing the CA in the profile that it wrote.
    ///
    /// # Errors
    /// When the broker is not reached.
    pub async fn connect(broker: &Broker) -> anyhow::Result<Self> {
        let options = ClientOptions {
            brokers: vec![broker.address().to_string()],
            security: Security::ProfileFile(broker.profile()),
            client_id: "test".into(),
            ..ClientOptions::default()
        };
        let client = Client::connect(options).await?;
        let producer =
            client.producer(ProducerOptions { linger: Duration::from_millis(1), ..ProducerOptions::default() });
        Ok(Self { client, producer })
    }

    /// Sends one message and waits for its acknowledgement by all replicas; returns its partition and offset.
    ///
    /// # Errors
    /// When it is refused, or nothing is known of its fate.
    pub async fn send(&self, topic: &str, message: &Message) -> anyhow::Result<(i32, i64)> {
        let delivered = self.producer.produce(record(topic, message)).await?;
        Ok((delivered.partition.0, delivered.offset.context("acknowledged without an offset")?.0))
    }

    /// Sends messages, pipelined, and waits for all acknowledgements; returns partition and offset of each.
    ///
    /// # Errors
    /// As [`Sdk::send`].
    pub async fn send_all(&self, topic: &str, messages: &[Message]) -> anyhow::Result<Vec<(i32, i64)>> {
        let mut under_way = Vec::with_capacity(messages.len());
        for message in messages {
            under_way.push(self.producer.send(record(topic, message)).await?);
        }
        let mut places = Vec::with_capacity(messages.len());
        for delivery in under_way {
            let delivered = delivery.await?;
            places.push((delivered.partition.0, delivered.offset.context("acknowledged without an offset")?.0));
        }
        Ok(places)
    }

    /// Sends batches as they are encoded, one after another, each acknowledged.
    ///
    /// # Errors
    /// As [`Sdk::send`].
    pub async fn send_batches(&self, topic: &str, partition: i32, batches: Vec<Vec<u8>>) -> anyhow::Result<()> {
        for batch in batches {
            self.producer.send_batch(topic, PartitionId(partition), batch.into()).await?.await?;
        }
        Ok(())
    }

    /// Reads a topic or a view from its beginning to where its end is now.
    ///
    /// # Errors
    /// When it cannot be read, or a header's name is no text.
    pub async fn read_all(&self, name: &str) -> anyhow::Result<Vec<Placed>> {
        let options = ConsumerOptions { until_end: true, ..ConsumerOptions::default() };
        let mut consumer = self.client.consumer(name, options).await?;
        let mut read = Vec::new();
        while let Some(record) = consumer.next().await? {
            read.push(placed(record)?);
        }
        Ok(read)
    }
}

/// Connects a client that notices within a second that a broker is gone.
///
/// # Errors
/// When the broker is not reached.
pub async fn alert(broker: &Broker) -> anyhow::Result<Client> {
    let mut options = ClientOptions {
        brokers: vec![broker.address().to_string()],
        security: Security::ProfileFile(broker.profile()),
        ..ClientOptions::default()
    };
    options.transport.idle_timeout = Duration::from_millis(1000);
    options.transport.keep_alive = Duration::from_millis(250);
    Ok(Client::connect(options).await?)
}

/// Reads a topic and holds it against what is known of it. How many records it has.
///
/// # Errors
/// When it cannot be read, or is not as it must be: with what is wrong.
pub async fn hold(client: &Client, topic: &str, history: &Mutex<History>) -> anyhow::Result<usize> {
    // A test that has panicked has failed already.
    let known = || history.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = known().now();
    let pass = read_pass(client, topic).await?;
    let wrong = known().check(begun, &pass);
    let said: Vec<_> = wrong.iter().take(10).map(ToString::to_string).collect();
    ensure!(wrong.is_empty(), "{} wrong:\n  {}", wrong.len(), said.join("\n  "));
    Ok(pass.seen.len())
}

/// Reads a topic from its beginning to where its end is now, with all that a history is held against.
///
/// # Errors
/// When it cannot be read, or a batch is not sound.
pub async fn read_pass(client: &Client, topic: &str) -> anyhow::Result<Pass> {
    let options = ConsumerOptions { until_end: true, ..ConsumerOptions::default() };
    let mut consumer = client.consumer(topic, options).await?;
    let mut pass = Pass::default();
    while let Some(fetched) = consumer.next_batches().await? {
        for batch in &fetched.batches {
            for record in batch.records(BATCH_BYTES_MAX)? {
                let record = record?;
                if record.offset >= fetched.from {
                    pass.seen.push(Seen {
                        partition: fetched.partition.0,
                        offset: record.offset.0,
                        epoch: Some(batch.header().partition_leader_epoch.0),
                        value: record.value.unwrap_or_default().to_vec(),
                    });
                }
            }
        }
    }
    let told = consumer.positions().filter_map(|at| Some((at.partition.0, at.high_watermark?.0)));
    pass.high_watermarks = told.collect();
    Ok(pass)
}

/// [`Sdk::send_all`] for a test without a runtime of its own.
///
/// # Errors
/// As [`Sdk::send_all`], or when it takes longer than three minutes.
pub fn produce(broker: &Broker, topic: &str, messages: &[Message]) -> anyhow::Result<Vec<(i32, i64)>> {
    whole(async { Sdk::connect(broker).await?.send_all(topic, messages).await })
}

/// [`Sdk::send_batches`] for a test without a runtime of its own.
///
/// # Errors
/// As [`Sdk::send_batches`], or when it takes longer than three minutes.
pub fn produce_batches(broker: &Broker, topic: &str, partition: i32, batches: Vec<Vec<u8>>) -> anyhow::Result<()> {
    whole(async { Sdk::connect(broker).await?.send_batches(topic, partition, batches).await })
}

/// [`Sdk::read_all`] for a test without a runtime of its own.
///
/// # Errors
/// As [`Sdk::read_all`], or when it takes longer than three minutes.
pub fn consume(broker: &Broker, name: &str) -> anyhow::Result<Vec<Placed>> {
    whole(async { Sdk::connect(broker).await?.read_all(name).await })
}

/// Every codec, and none.
pub const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// One record batch of these messages, as a producer would send it.
///
/// # Errors
/// When a message is too large for a batch.
pub fn encode(messages: &[Message], compression: Compression) -> anyhow::Result<Bytes> {
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    for message in messages {
        let ProducerRecord { key, value, headers, .. } = record("", message);
        builder.push(TimestampMs(message.timestamp), key.as_deref(), value.as_deref(), &headers)?;
    }
    Ok(builder.build()?)
}

/// Sends a batch as it is, and reads it as it is: its offset, and the bytes that the broker handed out for it.
///
/// # Errors
/// When it is refused, or something else is read there.
pub fn send_and_read_batch(
    broker: &Broker,
    topic: &str,
    partition: i32,
    batch: &Bytes,
) -> anyhow::Result<(i64, Bytes)> {
    whole(async {
        let Sdk { client, producer } = Sdk::connect(broker).await?;
        let partition = PartitionId(partition);
        let delivered = producer.send_batch(topic, partition, batch.clone()).await?.await?;
        let offset = delivered.offset.context("acknowledged without an offset")?;
        let options = ConsumerOptions {
            partitions: vec![partition],
            start: StartFrom::Offset(offset),
            until_end: true,
            ..ConsumerOptions::default()
        };
        let read = client.consumer(topic, options).await?.next_batches().await?.context("nothing was read")?;
        let [read] = read.batches.as_slice() else { bail!("{} batches were read", read.batches.len()) };
        Ok((offset.0, read.bytes().clone()))
    })
}

fn whole<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(WHOLE_MAX, work).await.context("hung")? })
}

fn record(topic: &str, message: &Message) -> ProducerRecord {
    ProducerRecord {
        topic: topic.to_owned(),
        partition: Some(PartitionId(message.partition)),
        key: message.key.clone().map(Into::into),
        value: message.value.clone().map(Into::into),
        headers: message
            .headers
            .iter()
            .map(|(name, value)| Header::new(name.clone(), value.clone().map(Into::into)))
            .collect(),
        timestamp: Some(TimestampMs(message.timestamp)),
    }
}

fn placed(record: ConsumedRecord) -> anyhow::Result<Placed> {
    let headers = record
        .headers
        .into_iter()
        .map(|header| Ok((String::from_utf8(header.key.to_vec())?, header.value.map(|value| value.to_vec()))));
    Ok(Placed {
        offset: record.offset.0,
        message: Message {
            partition: record.partition.0,
            timestamp: record.timestamp.0,
            key: record.key.map(|key| key.to_vec()),
            value: record.value.map(|value| value.to_vec()),
            headers: headers.collect::<anyhow::Result<_>>()?,
        },
    })
}
