//! `millstream produce`: lines in, records out, each acknowledged or accounted for.

mod input;
mod line;

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use millstream_client::{
    Acks as ClientAcks, Compression as ClientCompression, Delivered, Delivery, Header, ProduceError, Producer,
    ProducerOptions, ProducerRecord,
};
use millstream_model::{Offset, PartitionId};
use serde::Serialize;

use self::line::{Entry, Lines};
use super::connect::connect;
use crate::{
    failure::{Usage, explain},
    flags::{Common, Form},
    output::counted,
    values::Pair,
};

/// Records under way, before the oldest's acknowledgement is waited for.
const UNDER_WAY_MAX: usize = 100_000;

/// Records to write.
#[derive(Debug, Args)]
#[command(
    after_help = "A line ends with a line feed, which is not part of the record. Blank lines are records with an empty value, \
except in ndjson, where they are skipped. When a line is refused, the lines before it are sent and acknowledged, and nothing after it is."
)]
pub(crate) struct Produce {
    /// The topic to write into.
    topic: String,
    /// Read this file instead of standard input.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// What a line is: a value of any bytes, or JSON.
    #[arg(long, value_enum, default_value_t = Format::Lines)]
    format: Format,
    /// The field of an ndjson object that is the record's key; null is no key.
    #[arg(long, value_name = "FIELD", conflicts_with = "key_separator")]
    key: Option<String>,
    /// What stands between key and value in a line.
    #[arg(long, value_name = "S", value_parser = clap::builder::NonEmptyStringValueParser::new(), allow_hyphen_values = true)]
    key_separator: Option<String>,
    /// Write into this partition; otherwise the topic's partitioner or the key's hash chooses.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// How batches are packed.
    #[arg(long, value_enum, default_value_t = Compression::None)]
    compression: Compression,
    /// Who must have a record before it counts: all replicas in sync, their leader, or nobody.
    #[arg(long, value_enum, default_value_t = Acks::All)]
    acks: Acks,
    /// A header of every record; may be repeated.
    #[arg(long, value_name = "K=V")]
    header: Vec<Pair>,
    #[command(flatten)]
    form: Form,
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A value, of any bytes.
    Lines,
    /// A JSON value (newline-delimited JSON).
    Ndjson,
}

/// How batches are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl From<Compression> for ClientCompression {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Gzip => Self::Gzip,
            Compression::Snappy => Self::Snappy,
            Compression::Lz4 => Self::Lz4,
            Compression::Zstd => Self::Zstd,
        }
    }
}

/// Who must have a record before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Acks {
    /// Every replica in sync, as durable as the topic says.
    All,
    /// The leader, as durable as the topic says.
    #[value(name = "1")]
    Leader,
    /// Nobody: what is lost is not noticed.
    #[value(name = "0")]
    None,
}

impl From<Acks> for ClientAcks {
    fn from(acks: Acks) -> Self {
        match acks {
            Acks::All => Self::All,
            Acks::Leader => Self::Leader,
            Acks::None => Self::None,
        }
    }
}

impl Produce {
    pub(crate) async fn run(self, common: &Common) -> anyhow::Result<()> {
        let lines = lines(self.format, self.key, self.key_separator)?;
        let chunks = input::start(self.input.as_deref())?;
        let client = connect(common).await?;
        let options = ProducerOptions {
            acks: self.acks.into(),
            compression: self.compression.into(),
            ..ProducerOptions::default()
        };
        let headers = self.header.into_iter().map(|pair| Header::new(pair.name, Some(Bytes::from(pair.value))));
        let template = ProducerRecord {
            topic: self.topic,
            partition: self.partition.map(PartitionId),
            headers: headers.collect(),
            ..ProducerRecord::default()
        };
        let producer = client.producer(options);
        // A topic that is not there is told before anything is typed.
        producer.partitions(&template.topic).await.with_context(|| format!("cannot produce to {}", template.topic))?;
        let mut sending = Sending::new(producer, template, lines);
        let sent = sending.send_all(chunks).await;
        // Also after a failure: what nobody acknowledges must have arrived before the process ends.
        client.close().await;
        sending.finish(sent, self.acks != Acks::None, self.form)
    }
}

/// What the flags say about lines.
fn lines(format: Format, key: Option<String>, separator: Option<String>) -> Result<Lines, Usage> {
    match (format, key, separator) {
        (Format::Lines, None, None) => Ok(Lines::Plain),
        (Format::Lines, None, Some(separator)) => Ok(Lines::Split(separator)),
        (Format::Lines, Some(_), _) => {
            Err(Usage("--key FIELD needs --format ndjson: plain lines have no fields".into()))
        }
        (Format::Ndjson, None, None) => Ok(Lines::Json),
        (Format::Ndjson, Some(key), _) => Ok(Lines::JsonKey(key)),
        (Format::Ndjson, None, Some(_)) => {
            Err(Usage("--key-separator needs --format lines: the key of ndjson is a field, --key FIELD".into()))
        }
    }
}

/// The work of one run.
struct Sending {
    producer: Producer,
    template: ProducerRecord,
    lines: Lines,
    /// Lines read.
    line: u64,
    under_way: VecDeque<(u64, Delivery)>,
    tally: Tally,
    started: Instant,
}

/// What became of the records.
#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    acknowledged: u64,
    bytes: u64,
    /// How many records each partition took, and the first's and last's offset.
    partitions: BTreeMap<PartitionId, Taken>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Taken {
    records: u64,
    offsets: Option<(Offset, Offset)>,
}

/// The summary for programs.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    topic: &'a str,
    records: u64,
    bytes: u64,
    seconds: f64,
    partitions: Vec<SummaryPartition>,
}

#[derive(Debug, Serialize)]
struct SummaryPartition {
    partition: i32,
    records: u64,
    /// Null with `--acks 0`.
    first_offset: Option<i64>,
    last_offset: Option<i64>,
}

impl Tally {
    fn delivered(&mut self, delivered: Delivered) {
        self.acknowledged += 1;
        let taken = self.partitions.entry(delivered.partition).or_default();
        taken.records += 1;
        if let Some(offset) = delivered.offset {
            let (first, last) = taken.offsets.unwrap_or((offset, offset));
            taken.offsets = Some((first.min(offset), last.max(offset)));
        }
    }
}

impl Sending {
    fn new(producer: Producer, template: ProducerRecord, lines: Lines) -> Self {
        Self {
            producer,
            template,
            lines,
            line: 0,
            under_way: VecDeque::new(),
            tally: Tally::default(),
            started: Instant::now(),
        }
    }

    /// Sends every line, until the first that is refused; then waits for the fate of all that were sent.
    async fn send_all(&mut self, mut chunks: tokio::sync::mpsc::Receiver<input::Chunk>) -> anyhow::Result<()> {
        let sent = self.send_chunks(&mut chunks).await;
        drop(chunks);
        self.producer.flush().await;
        let mut settled = Ok(());
        while let Some((line, delivery)) = self.under_way.pop_front() {
            let told = self.settle(line, delivery.await);
            // The first failure is the one to tell; the others are counted.
            settled = settled.and(told);
        }
        sent.and(settled)
    }

    async fn send_chunks(&mut self, chunks: &mut tokio::sync::mpsc::Receiver<input::Chunk>) -> anyhow::Result<()> {
        loop {
            let chunk = tokio::select! {
                biased;
                // Acknowledgements are looked at while the input is silent, so that a refusal is told at once.
                told = next_fate(&mut self.under_way), if !self.under_way.is_empty() => {
                    if let Some((line, told)) = told {
                        self.settle(line, told)?;
                    }
                    continue;
                }
                chunk = chunks.recv() => chunk,
            };
            let Some(chunk) = chunk else { return Ok(()) };
            let chunk = chunk?;
            for line in input::lines(&chunk) {
                self.send_line(line).await?;
            }
        }
    }

    async fn send_line(&mut self, text: Bytes) -> anyhow::Result<()> {
        self.line += 1;
        let line = self.line;
        let entry = self.lines.entry(text).with_context(|| format!("line {line}"))?;
        let Some(Entry { key, value }) = entry else { return Ok(()) };
        self.tally.bytes += (key.as_ref().map_or(0, Bytes::len) + value.len()) as u64;
        let record = ProducerRecord { key, value: Some(value), ..self.template.clone() };
        let delivery = self.producer.send(record).await.with_context(|| format!("line {line}"))?;
        self.tally.sent += 1;
        self.under_way.push_back((line, delivery));
        if self.under_way.len() > UNDER_WAY_MAX
            && let Some((line, delivery)) = self.under_way.pop_front()
        {
            let told = delivery.await;
            self.settle(line, told)?;
        }
        Ok(())
    }

    fn settle(&mut self, line: u64, told: Result<Delivered, ProduceError>) -> anyhow::Result<()> {
        let delivered = told.with_context(|| format!("line {line}"))?;
        self.tally.delivered(delivered);
        Ok(())
    }

    /// Tells how it went.
    fn finish(&self, sent: anyhow::Result<()>, acknowledged: bool, form: Form) -> anyhow::Result<()> {
        let Self { tally, template, .. } = self;
        let elapsed = self.started.elapsed();
        if let Err(error) = sent {
            let unknown = tally.sent - tally.acknowledged;
            let (told, verb) =
                (counted(tally.acknowledged, "record"), if acknowledged { "acknowledged" } else { "sent" });
            let fate = match unknown {
                0 => format!("{told} before it {verb}, nothing after it sent"),
                _ => format!("{told} {verb}, of {unknown} nothing is known, nothing more sent"),
            };
            anyhow::bail!("cannot produce to {}: {}; {fate}", template.topic, explain(error.as_ref()));
        }
        let partitions = tally.partitions.iter().map(|(partition, taken)| SummaryPartition {
            partition: partition.0,
            records: taken.records,
            first_offset: taken.offsets.map(|(first, _)| first.0),
            last_offset: taken.offsets.map(|(_, last)| last.0),
        });
        let summary = Summary {
            topic: &template.topic,
            records: tally.acknowledged,
            bytes: tally.bytes,
            seconds: elapsed.as_secs_f64(),
            partitions: partitions.collect(),
        };
        let records = counted(tally.acknowledged, "record");
        let verb = if acknowledged { "acknowledged by" } else { "sent to" };
        let sentence = format!("{records} {verb} {}{}", template.topic, rate(tally, elapsed));
        form.output.done(&summary, &sentence)
    }
}

/// Waits for the fate of the record that was sent first. Dropping the future loses nothing.
async fn next_fate(under_way: &mut VecDeque<(u64, Delivery)>) -> Option<(u64, Result<Delivered, ProduceError>)> {
    let (line, delivery) = under_way.front_mut()?;
    let told = (*line, delivery.await);
    under_way.pop_front();
    Some(told)
}

/// How fast it was, when that says something.
fn rate(tally: &Tally, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    if tally.acknowledged < 1000 || seconds <= 0.0 {
        return String::new();
    }
    let (records, megabytes) = (tally.acknowledged as f64 / seconds, tally.bytes as f64 / seconds / 1e6);
    format!(" in {seconds:.2} s: {records:.0} a second, {megabytes:.1} MB/s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_do_not_go_together_are_usage() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(lines(Format::Lines, None, None).unwrap(), Lines::Plain);
        assert_eq!(lines(Format::Lines, None, some(":")).unwrap(), Lines::Split(":".into()));
        assert_eq!(lines(Format::Ndjson, None, None).unwrap(), Lines::Json);
        assert_eq!(lines(Format::Ndjson, some("id"), None).unwrap(), Lines::JsonKey("id".into()));
        assert!(lines(Format::Lines, some("id"), None).unwrap_err().to_string().contains("--format ndjson"));
        assert!(lines(Format::Ndjson, None, some(":")).unwrap_err().to_string().contains("--key FIELD"));
    }

    #[test]
    fn a_tally_knows_each_partitions_offsets() {
        let mut tally = Tally::default();
        for (partition, offset) in [(1, Some(7)), (0, Some(3)), (1, Some(8)), (2, None)] {
            tally.delivered(Delivered { partition: PartitionId(partition), offset: offset.map(Offset) });
        }
        assert_eq!(tally.acknowledged, 4);
        let one = Taken { records: 2, offsets: Some((Offset(7), Offset(8))) };
        assert_eq!(tally.partitions[&PartitionId(1)], one);
        assert_eq!(tally.partitions[&PartitionId(2)], Taken { records: 1, offsets: None });
    }
}
