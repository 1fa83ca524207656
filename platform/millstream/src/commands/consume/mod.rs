//! `millstream consume`: records of a topic or a view to standard output.

mod failing;
mod format;
mod start;

use std::{io::Write, time::Duration};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use millstream_client::{ConsumedRecord, Consumer, ConsumerEvent, ConsumerOptions, Position};
use millstream_model::PartitionId;

use self::{failing::Failing, format::Format, start::From};
use super::connect::connect;
use crate::{
    failure::{NotBuilt, output_error},
    flags::{Common, Form},
    output::{Output, say},
};

/// Written out at the latest when so many bytes have gathered.
const BUFFER_BYTES: usize = 128 << 10;

/// Records to read.
#[derive(Debug, Args)]
#[command(
    after_help = "With --format json a record is one line: {\"partition\":0,\"offset\":7,\"timestamp\":1357034400000,\
\"key\":\"N14228\",\"value\":\"...\",\"headers\":[[\"name\",\"value\"]]}. Keys, values and headers' values that are not UTF-8 are \
{\"base64\":\"...\"}; absent ones are null. With --format value the values follow each other, a line feed after each; a record without a \
value (a tombstone) is left out.

Without --until and --count it goes on until it is stopped, also when the broker is away for a while.

A partition that cannot be read (its files are damaged, say) is told of at once and tried again while there are others to read. With --until \
end the exit code is 1 if one was not read to its end. Records that retention deletes before they are read are passed over, and told.

Examples:
  millstream consume greetings --from beginning --until end
  millstream consume flights --from 2013-01-01T10:00:00Z --count 3 --format json
  millstream consume flights --from end --partition 0 --partition 3"
)]
pub(crate) struct Consume {
    /// The topic or the view to read.
    #[arg(value_name = "TOPIC-OR-VIEW")]
    name: String,
    /// Read as a member of a group: not built yet.
    #[arg(long, value_name = "G", hide = true)]
    group: Option<String>,
    /// Where to start: beginning (also earliest), end (also latest), an offset, or the first record of a time (2013-01-01T10:00:00Z,
    /// 2013-01-01T10:00 or 2013-01-01, in UTC unless it says otherwise; or milliseconds since 1970 from 1000000000000 on).
    #[arg(long, value_name = "WHERE", default_value = "beginning", allow_negative_numbers = true)]
    from: From,
    /// Read only this partition; may be repeated.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,
    /// Stop after so many records.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Stop where the partitions ended when reading began, instead of waiting for more.
    #[arg(long, value_enum, value_name = "WHAT")]
    until: Option<Until>,
    /// Have the broker send records as they come, instead of asking it for each answer.
    #[arg(long)]
    push: bool,
    /// What is printed of a record.
    #[arg(long, value_enum)]
    format: Option<Format>,
    #[command(flatten)]
    form: Form,
}

/// Where reading stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Until {
    /// Where the partitions ended when reading began.
    End,
}

impl Consume {
    pub(crate) async fn run(self, common: &Common) -> anyhow::Result<()> {
        if self.group.is_some() {
            let instead = "leave it out: `--from` and `--partition` say what is read";
            return Err(NotBuilt::new("--group (consumer groups)", instead).into());
        }
        let format = self.format.unwrap_or(match self.form.output {
            Output::Table => Format::Value,
            Output::Json => Format::Json,
        });
        let client = connect(common).await?;
        let until_end = self.until == Some(Until::End);
        let patience = ConsumerOptions::default().patience;
        let options = ConsumerOptions {
            partitions: self.partition.iter().copied().map(PartitionId).collect(),
            start: self.from.0,
            until_end,
            pass_over_deleted: true,
            push: self.push,
            // Whoever follows a topic wants to go on once the broker is there again.
            patience: if until_end { patience } else { Duration::MAX },
            ..ConsumerOptions::default()
        };
        let what = || format!("cannot read {}", self.name);
        let mut consumer = client.consumer(&self.name, options).await.with_context(what)?;
        refuse_beyond_the_end(&consumer)?;
        let mut printer = Printer { format, bytes: Vec::with_capacity(2 * BUFFER_BYTES) };
        let from: u64 = offsets(&consumer);
        let read = print_records(&mut consumer, &mut printer, &self.partition, self.count).await;
        // What came before an error is good.
        printer.flush()?;
        if read.with_context(what)? == 0 && until_end {
            say(nothing_shown(&self.name, offsets(&consumer) - from));
        }
        client.close().await;
        Ok(())
    }
}

/// An offset beyond the end would look like an empty topic, when reading stops at the end. Partitions are of different lengths:
/// those that are too short are named, and refused if all are.
fn refuse_beyond_the_end(consumer: &Consumer) -> anyhow::Result<()> {
    let too_short = |at: &Position| at.end.is_some_and(|end| at.next > end);
    let is_some_long_enough = consumer.positions().any(|at| !too_short(&at));
    for at in consumer.positions().filter(too_short) {
        let (name, next, partition, end) = (consumer.name(), at.next, at.partition, at.end.unwrap_or_default());
        let beyond = format!("offset {next} is beyond the end of partition {partition}, which is {end}");
        if !is_some_long_enough {
            bail!(
                "cannot read {name}: {beyond}. Start at a lower offset (`millstream topic describe {name}` shows where partitions \
                 start and end) or at the beginning"
            );
        }
        say(format_args!("nothing is read of partition {partition}: {beyond}"));
    }
    Ok(())
}

/// The sum of all partitions' positions: what it grows by was read.
fn offsets(consumer: &Consumer) -> u64 {
    consumer.positions().map(|at| at.next.0.unsigned_abs()).sum()
}

/// What to say where reading to the end has brought no record: an empty topic is not a view that leaves everything out.
fn nothing_shown(name: &str, offsets: u64) -> String {
    match offsets {
        0 => format!("{name} has no records from there on"),
        1 => format!(
            "no record of {name} is shown: 1 offset was read, whose record is left out by the view or was deleted"
        ),
        _ => {
            format!(
                "no record of {name} is shown: {offsets} offsets were read, whose records are left out by the view or were deleted"
            )
        }
    }
}

/// How many were printed.
async fn print_records(
    consumer: &mut Consumer,
    printer: &mut Printer,
    asked: &[i32],
    count: Option<u64>,
) -> anyhow::Result<u64> {
    let mut failing = Failing::new(asked);
    let wanted = count.unwrap_or(u64::MAX);
    let mut left = wanted;
    while left > 0 {
        let event = match consumer.next_ready() {
            Some(record) => ConsumerEvent::Record(record),
            None => {
                // Nothing more is here: whoever waits for it gets what there is.
                printer.flush()?;
                match consumer.next_event().await {
                    Ok(Some(event)) => event,
                    Ok(None) => return Ok(wanted - left),
                    Err(error) => return Err(failing.explain(error)),
                }
            }
        };
        match event {
            ConsumerEvent::Record(record) => {
                printer.print(&record)?;
                left -= 1;
            }
            other => failing.note(consumer.name(), other),
        }
    }
    Ok(wanted - left)
}

/// Gathers output and writes it in large pieces.
struct Printer {
    format: Format,
    bytes: Vec<u8>,
}

impl Printer {
    fn print(&mut self, record: &ConsumedRecord) -> anyhow::Result<()> {
        self.format.write(record, &mut self.bytes)?;
        if self.bytes.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let mut stdout = std::io::stdout().lock();
        let written = stdout.write_all(&self.bytes).and_then(|()| stdout.flush());
        self.bytes.clear();
        written.map_err(output_error)
    }
}
