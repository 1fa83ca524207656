//! How long a start takes, from the process's birth to the first batch that is acknowledged as durable, where there is data.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use millstream_client::{Client, NewTopic, ProducerOptions};
use millstream_model::PartitionId;
use millstream_test_support::broker::Broker;

use crate::{broker::options, workload};

/// Over so many partitions the data is spread.
const PARTITIONS: i32 = 8;
const TOPIC: &str = "bench-start";
/// Batches under way while it is filled.
const AT_ONCE: u64 = 64;

/// Fills a broker with `megabytes` of batches, then starts it after an orderly stop and after `kill -9`; gives a table.
pub(crate) async fn run(megabytes: u64, rounds: u32) -> anyhow::Result<String> {
    let mut broker = Broker::start()?;
    fill(&broker, megabytes).await?;
    let mut text = String::new();
    for round in 1..=rounds {
        broker.stop()?;
        let clean = first_acknowledged(&mut broker).await?;
        broker.kill()?;
        let killed = first_acknowledged(&mut broker).await?;
        writeln!(
            text,
            "round {round}: {megabytes} MB, first batch acknowledged {:.0} ms after an orderly stop, {:.0} ms after kill -9",
            clean.as_secs_f64() * 1000.0,
            killed.as_secs_f64() * 1000.0
        )?;
    }
    Ok(text)
}

async fn fill(broker: &Broker, megabytes: u64) -> anyhow::Result<()> {
    let client = Client::connect(options(broker)).await?;
    let new = NewTopic { name: TOPIC.into(), partitions: Some(PARTITIONS), ..NewTopic::default() };
    client.admin().create_topic(new).await?;
    let producer = client.producer(ProducerOptions::default());
    let batch = workload::encode(&workload::values(1))?;
    let mut left = megabytes * 1_000_000 / batch.len() as u64;
    while left > 0 {
        let mut deliveries = Vec::new();
        for at in 0..left.min(AT_ONCE) {
            let partition = PartitionId(i32::try_from(at)? % PARTITIONS);
            deliveries.push(producer.send_batch(TOPIC, partition, batch.clone()).await?);
        }
        left -= deliveries.len() as u64;
        for delivery in deliveries {
            delivery.await?;
        }
    }
    Ok(())
}

async fn first_acknowledged(broker: &mut Broker) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    broker.restart()?;
    let client = Client::connect(options(broker)).await?;
    let batch = workload::encode(&workload::values(1))?;
    client.producer(ProducerOptions::default()).send_batch(TOPIC, PartitionId(0), batch).await?.await?;
    Ok(begun.elapsed())
}
