//! `millstream bench`: load on a broker, and how it bears it.
//!
//! Load is of two kinds. In a *closed loop* each producer has one batch under way and sends the next once it is acknowledged: that shows
//! the time of one batch, and how much so many producers get through. In an *open loop* (`--rate`) records come due by the clock, whatever
//! became of those before, as they do where the world makes them; latency is counted from when a record was due. A broker that stands
//! still for a second is then seen by all the records that came due in it, and not by the one that was under way alone ("coordinated
//! omission", as Gil Tene calls it).
//!
//! [`place`] is the topic, [`run`] the times of a run and whoever watches over it, [`pace`] when records are due, [`load`] the producers,
//! [`meter`] what is counted, [`report`] what is told.

mod consume;
mod e2e;
mod load;
mod meter;
mod pace;
mod place;
mod produce;
mod report;
mod run;

use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use millstream_client::Client;

use self::{place::Place, report::Report};
use super::connect::connect;
use crate::{
    flags::{Common, Form},
    signals::Signals,
};

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Produce, and measure acknowledgements.
    Produce(produce::Produce),
    /// Read a topic from its beginning, again and again.
    Consume(consume::Consume),
    /// Produce and read at the same time, and measure the way from producer to consumer.
    E2e(e2e::E2e),
}

impl Bench {
    pub(crate) async fn run(self, common: &Common) -> anyhow::Result<()> {
        match self {
            Self::Produce(produce) => produce.run(common).await,
            Self::Consume(consume) => consume.run(common).await,
            Self::E2e(e2e) => e2e.run(common).await,
        }
    }
}

/// What all of them take.
#[derive(Clone, Debug, Args)]
struct Shared {
    /// Use this topic, which stays; otherwise one is made, and deleted in the end.
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    /// Partitions of the topic that is made; the default is 6.
    #[arg(long, value_name = "N", conflicts_with = "topic", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// When the topic that is made acknowledges; the default is fsync.
    #[arg(long, value_enum, conflicts_with = "topic")]
    durability: Option<Durability>,
    /// Bytes of a record's value; they cannot be compressed.
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    size: u32,
    /// How long to measure.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// How long the same goes on before that, without being counted.
    #[arg(long, value_name = "S", default_value_t = 1)]
    warmup: u32,
    /// Tell once a second how it goes, on standard error; on a terminal it is told anyway.
    #[arg(long)]
    progress: bool,
    #[command(flatten)]
    form: Form,
}

/// Measures with a topic: the user's, or one that is made before and deleted afterwards, whatever comes of it. Then tells the report.
async fn measured(
    common: &Common,
    shared: &Shared,
    measure: impl AsyncFnOnce(&Client, &Place, &mut Signals) -> anyhow::Result<Report>,
) -> anyhow::Result<()> {
    let client = connect(common).await?;
    let mut signals = Signals::new()?;
    let place = prepared(&mut signals, Place::find(&client, shared)).await?;
    let measured = measure(&client, &place, &mut signals).await;
    place.leave(&client, &mut signals).await;
    load::close(vec![client]).await;
    measured?.tell(shared.form)
}

/// What comes before the clock runs. A signal ends it: a topic that is being made then may be there afterwards.
async fn prepared<T>(signals: &mut Signals, preparing: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        prepared = preparing => prepared,
        signal = signals.next() => bail!("stopped by {signal} before anything was measured"),
    }
}

impl Shared {
    fn seconds(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    fn warmup(&self) -> Duration {
        Duration::from_secs(self.warmup.into())
    }
}

/// When the topic that is made acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Durability {
    /// When it is on disk.
    Fsync,
    /// When enough replicas have it in memory.
    Replicated,
}

impl Durability {
    fn word(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::Replicated => "replicated",
        }
    }
}
