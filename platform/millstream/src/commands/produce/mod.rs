//! `millstream produce`: lines in, records out, each acknowledged or accounted for.

mod fates;
mod input;
mod line;

use std::{
    collections::VecDeque,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use millstream_client::{
    Acks as ClientAcks, Compression as ClientCompression, Delivered, Delivery, Header, ProduceError, Producer,
    ProducerOptions, ProducerRecord,
};
use millstream_model::PartitionId;
use serde::Serialize;

use self::{
    fates::{Fate, Fates},
    line::{Entry, Lines},
};
use super::connect::connect;
use crate::{
    failure::Usage,
    flags::{Common, Form},
    output::counted,
    signals::Signals,
    values::Pair,
};

/// How long an interrupted run waits for what is under way.
const INTERRUPTED_MAX: Duration = Duration::from_secs(3);
/// Records under way, before the oldest's acknowledgement is waited for.
const UNDER_WAY_MAX: usize = 100_000;

/// Records to write.
#[derive(Debug, Args)]
#[command(
    after_help = "A line ends with a line feed, which is not part of the record. A carriage return before it is (files from Windows: \
send them through `tr -d '\\r'`, unless they are ndjson, where it is a blank). Blank lines are records with an empty value, \
except in ndjson, where they are skipped.

Interrupted (Ctrl-C), it says how many records are acknowledged and which lines are perhaps written, and the exit code is 1.

When a line is refused, no more lines are sent, and the exit code is 1. Lines after it may be on their way already, and are written: \
the error names the lines that were not written, and the last line that was sent. To go on, mend the former, and send them and what \
comes after the latter.

Examples:
  echo 'hello, stream' | millstream produce greetings
  millstream produce flights --input flights.ndjson --format ndjson --key tailnum
  printf 'k1\\tone\\nk2\\ttwo\\n' | millstream produce pairs --key-separator '\\t'"
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
    /// What stands between key and value in a line. \t is a tab, \0 a zero byte, \\ a backslash.
    #[arg(long, value_name = "S", value_parser = separator, allow_hyphen_values = true)]
    key_separator: Option<String>,
    /// Write into this partition; otherwise the topic's partitioner or the key's hash chooses.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// How batches are packed.
    #[arg(long, value_enum, default_value_t = Compression::None)]
    compression: Compression,
    /// Who must have a record before it counts: all replicas in sync (also -1), their leader, or nobody.
    #[arg(long, value_enum, default_value_t = Acks::All, allow_hyphen_values = true)]
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
pub(crate) enum Compression {
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
pub(crate) enum Acks {
    /// Every replica in sync, as durable as the topic says.
    #[value(alias = "-1")]
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
        // A topic or a partition that is not there is told before anything is typed.
        let what = || format!("cannot produce to {}", template.topic);
        let partitions = producer.partitions(&template.topic).await.with_context(what)?;
        if let Some(partition) = template.partition.filter(|partition| partition.0 >= partitions) {
            let topic = template.topic.as_str().into();
            return Err(ProduceError::NoSuchPartition { topic, partition, partitions }).with_context(what);
        }
        let mut sending = Sending::new(producer, template, lines);
        // From here on there is something to tell.
        let mut signals = Signals::new().context("cannot listen for signals")?;
        let interrupted = tokio::select! {
            () = sending.send_all(chunks) => None,
            signal = signals.next() => Some(signal),
        };
        // Also after a failure: what nobody acknowledges must have arrived before the process ends.
        match interrupted {
            None => client.close().await,
            Some(signal) => {
                let end = async {
                    sending.settle_all().await;
                    client.close().await;
                };
                tokio::select! {
                    () = end => {}
                    () = tokio::time::sleep(INTERRUPTED_MAX) => {}
                    _ = signals.next() => {}
                }
                sending.interrupt(signal);
            }
        }
        sending.finish(self.acks != Acks::None, self.form)
    }
}

/// A separator as it is typed, with the escapes that shells leave alone.
fn separator(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    let mut separator = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(found) = chars.next() {
        separator.push(match found {
            '\\' => match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('0') => '\0',
                Some('\\') => '\\',
                _ => return Err("after a backslash comes t, n, r, 0 or a second backslash".into()),
            },
            other => other,
        });
    }
    Ok(separator)
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
    fates: Fates,
    /// Bytes of the keys and values sent.
    bytes: u64,
    started: Instant,
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

impl Sending {
    fn new(producer: Producer, template: ProducerRecord, lines: Lines) -> Self {
        Self {
            producer,
            template,
            lines,
            line: 0,
            under_way: VecDeque::new(),
            fates: Fates::default(),
            bytes: 0,
            started: Instant::now(),
        }
    }

    /// Sends every line, until the first that is known to have failed; then waits for the fate of all that were sent.
    async fn send_all(&mut self, mut chunks: tokio::sync::mpsc::Receiver<input::Chunk>) {
        self.send_chunks(&mut chunks).await;
        drop(chunks);
        self.settle_all().await;
    }

    /// Waits for the fate of all that were sent.
    async fn settle_all(&mut self) {
        self.producer.flush().await;
        while let Some((line, told)) = next_fate(&mut self.under_way).await {
            self.fates.settle(line, told);
        }
    }

    /// Tells of a run that `signal` has ended, and of the lines whose fate is not known.
    fn interrupt(&mut self, signal: &str) {
        let mut now = Context::from_waker(Waker::noop());
        while let Some((line, mut delivery)) = self.under_way.pop_front() {
            match Pin::new(&mut delivery).poll(&mut now) {
                Poll::Ready(told) => self.fates.settle(line, told),
                Poll::Pending => self.fates.failed(
                    line,
                    Fate::Unknown,
                    anyhow!("interrupted by {signal} before it was acknowledged"),
                ),
            }
        }
        self.fates.stop(self.line + 1, anyhow!("interrupted by {signal}"));
    }

    async fn send_chunks(&mut self, chunks: &mut tokio::sync::mpsc::Receiver<input::Chunk>) {
        while !self.fates.has_failed() {
            let chunk = tokio::select! {
                biased;
                // Acknowledgements are looked at while the input is silent, so that a refusal is told at once.
                told = next_fate(&mut self.under_way), if !self.under_way.is_empty() => {
                    if let Some((line, told)) = told {
                        self.fates.settle(line, told);
                    }
                    continue;
                }
                chunk = chunks.recv() => chunk,
            };
            let chunk = match chunk {
                None => return,
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => return self.fates.stop(self.line + 1, error),
            };
            for line in input::lines(&chunk) {
                self.send_line(line).await;
                if self.fates.has_failed() {
                    return;
                }
            }
        }
    }

    async fn send_line(&mut self, text: Bytes) {
        let line = self.line + 1;
        let entry = self.lines.entry(text);
        if !matches!(entry, Ok(Some(_))) {
            self.line = line;
        }
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return self.fates.failed(line, Fate::NotWritten, error.into()),
        };
        let Some(Entry { key, value }) = entry else { return };
        self.bytes += (key.as_ref().map_or(0, Bytes::len) + value.len()) as u64;
        let record = ProducerRecord { key, value: Some(value), ..self.template.clone() };
        let sent = self.producer.send(record).await;
        // Not before: a run that is interrupted meanwhile has not sent it.
        self.line = line;
        match sent {
            Ok(delivery) => self.under_way.push_back((line, delivery)),
            // It was not even taken.
            Err(error) => return self.fates.failed(line, Fate::NotWritten, error.into()),
        }
        if self.under_way.len() > UNDER_WAY_MAX
            && let Some((line, told)) = next_fate(&mut self.under_way).await
        {
            self.fates.settle(line, told);
        }
    }

    /// Tells how it went.
    fn finish(self, acknowledged: bool, form: Form) -> anyhow::Result<()> {
        let Self { fates, template, line, bytes, started, .. } = self;
        let elapsed = started.elapsed();
        let topic = &template.topic;
        let written = fates.written();
        if let Some(error) = fates.error(line, if acknowledged { "acknowledged" } else { "sent" }) {
            return Err(error.context(format!("cannot produce to {topic}")));
        }
        let partitions = fates.partitions().iter().map(|(partition, taken)| SummaryPartition {
            partition: partition.0,
            records: taken.records,
            first_offset: taken.offsets.map(|(first, _)| first.0),
            last_offset: taken.offsets.map(|(_, last)| last.0),
        });
        let summary = Summary {
            topic,
            records: written,
            bytes,
            seconds: elapsed.as_secs_f64(),
            partitions: partitions.collect(),
        };
        let records = counted(written, "record");
        let verb = if acknowledged { "acknowledged by" } else { "sent to" };
        let sentence = format!("{records} {verb} {topic}{}", rate(written, bytes, elapsed));
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
fn rate(records: u64, bytes: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    if records < 1000 || seconds <= 0.0 {
        return String::new();
    }
    let (records, bytes) = (records as f64 / seconds, bytes as f64 / seconds);
    let bytes = if bytes < 1e6 { format!("{:.1} kB/s", bytes / 1e3) } else { format!("{:.1} MB/s", bytes / 1e6) };
    format!(" in {seconds:.2} s: {records:.0} a second, {bytes}")
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
    fn a_rate_is_told_in_a_unit_that_shows_it() {
        assert_eq!(rate(999, 1, Duration::from_secs(1)), "");
        assert_eq!(rate(1000, 2890, Duration::from_secs(1)), " in 1.00 s: 1000 a second, 2.9 kB/s");
        assert_eq!(rate(1000, 3_000_000, Duration::from_secs(2)), " in 2.00 s: 500 a second, 1.5 MB/s");
    }

    #[test]
    fn separators_may_be_written_as_escapes() {
        let check = |text: &str, expected: &str| assert_eq!(separator(text).as_deref(), Ok(expected), "{text:?}");
        check(":", ":");
        check("\\t", "\t");
        check("\\n\\0\\\\", "\n\0\\");
        check("a\tb", "a\tb");
        for text in ["", "\\", "\\q"] {
            assert!(separator(text).is_err(), "{text:?}");
        }
    }
}
