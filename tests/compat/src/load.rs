//! Kafka's own load program, `kafka-producer-perf-test`, against ours and against Apache Kafka: beside each other, in turns.
//!
//! What counts as written must be the same to be compared: Apache Kafka acknowledges what is in the page cache, unless a topic's
//! `flush.messages` is 1; ours acknowledges what is on disk, unless a topic's `millstream.durability` is `replicated`. Its consumers' load
//! program needs consumer groups, which ours does not have yet.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context, ensure};
use millstream_test_support::tree;

use crate::server::{Server, java};

/// How often each is measured, in turns.
const ROUNDS: usize = 3;
const RECORDS: usize = 300_000;
const RECORD_BYTES: usize = 1024;
const PARTITIONS: i32 = 8;
const TOOL: &str = "org.apache.kafka.tools.ProducerPerformance";
/// What producers are told, and in words.
const PRODUCERS: [(&str, &[&str]); 2] =
    [("as they come", &[]), ("batches of 256 KiB", &["batch.size=262144", "linger.ms=10", "buffer.memory=67108864"])];

/// Which broker, and which of its topics' settings.
struct Kind {
    name: &'static str,
    of_ours: bool,
    configs: &'static [(&'static str, &'static str)],
}

const KINDS: [Kind; 4] = [
    Kind { name: "Millstream, on disk (its default)", of_ours: true, configs: &[] },
    Kind { name: "Apache Kafka, flush.messages=1", of_ours: false, configs: &[("flush.messages", "1")] },
    Kind {
        name: "Millstream, page cache (durability=replicated)",
        of_ours: true,
        configs: &[("millstream.durability", "replicated")],
    },
    Kind { name: "Apache Kafka, page cache (its default)", of_ours: false, configs: &[] },
];

/// What the program has told at its end.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Told {
    records: f64,
    megabytes: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
}

/// Measures all; gives a table of medians.
///
/// # Errors
/// A broker or the program does not start, or fails.
pub fn run(jars: &Path) -> anyhow::Result<String> {
    let (ours, theirs) = (Server::millstream()?, Server::apache_for_load(jars)?);
    let mut told = vec![Vec::new(); PRODUCERS.len() * KINDS.len()];
    for round in 1..=ROUNDS {
        for (at, (words, settings)) in PRODUCERS.iter().enumerate() {
            for (nth, kind) in KINDS.iter().enumerate() {
                eprintln!("round {round}: {words}: {}", kind.name);
                let server = if kind.of_ours { &ours } else { &theirs };
                let topic = format!("load-{round}-{at}-{nth}");
                server.wire()?.create(&topic, PARTITIONS, kind.configs)?;
                let measured = measure(jars, server, &topic, settings).with_context(|| kind.name)?;
                told[at * KINDS.len() + nth].push(measured);
                server.wire()?.delete(&topic)?;
            }
        }
    }
    let mut text = String::new();
    for (at, (words, _)) in PRODUCERS.iter().enumerate() {
        writeln!(text, "{RECORDS} records of {RECORD_BYTES} bytes, {PARTITIONS} partitions, producers {words}:\n")?;
        writeln!(
            text,
            "{:<48} {:>10} {:>7} {:>8} {:>8} {:>9}",
            "", "records/s", "MB/s", "p50 ms", "p99 ms", "p99.9 ms"
        )?;
        for (nth, kind) in KINDS.iter().enumerate() {
            let told = &told[at * KINDS.len() + nth];
            let median = |of: fn(&Told) -> f64| median(told.iter().map(of).collect());
            writeln!(
                text,
                "{:<48} {:>10.0} {:>7.1} {:>8.0} {:>8.0} {:>9.0}",
                kind.name,
                median(|told| told.records),
                median(|told| told.megabytes),
                median(|told| told.p50_ms),
                median(|told| told.p99_ms),
                median(|told| told.p999_ms)
            )?;
        }
        writeln!(text)?;
    }
    Ok(text)
}

fn measure(jars: &Path, server: &Server, topic: &str, settings: &[&str]) -> anyhow::Result<Told> {
    let mut tool = java(jars, TOOL, &["-Xmx512m"]);
    tool.args(["--bootstrap-server", &server.address().to_string(), "--topic", topic, "--throughput", "-1"]);
    tool.args(["--num-records", &RECORDS.to_string(), "--record-size", &RECORD_BYTES.to_string()]);
    if !settings.is_empty() {
        tool.arg("--command-property").args(settings);
    }
    let done = tool.current_dir(tree::root()).output().context("starting Java")?;
    let said = String::from_utf8_lossy(&done.stdout);
    ensure!(
        done.status.success(),
        "{TOOL} ended with {}: {said}{}",
        done.status,
        String::from_utf8_lossy(&done.stderr)
    );
    let last = said.lines().rfind(|line| line.contains("99.9th")).context("it told no percentiles")?;
    parse(last).with_context(|| format!("it told {last:?}"))
}

/// `300000 records sent, 123.4 records/sec (0.12 MB/sec), 1.2 ms avg latency, 5.0 ms max latency, 1 ms 50th, 2 ms 95th, 3 ms 99th, 4 ms 99.9th.`
fn parse(line: &str) -> Option<Told> {
    let before = |what: &str| -> Option<f64> {
        let head = line.split(what).next()?.trim_end();
        head.rsplit([' ', '(']).next()?.parse().ok()
    };
    line.contains("records/sec").then_some(())?;
    Some(Told {
        records: before("records/sec")?,
        megabytes: before("MB/sec")?,
        p50_ms: before("ms 50th")?,
        p99_ms: before("ms 99th")?,
        p999_ms: before("ms 99.9th")?,
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_tells_is_read() {
        let line = "300000 records sent, 61349.7 records/sec (59.91 MB/sec), 412.51 ms avg latency, 900.00 ms max latency, \
                    399 ms 50th, 720 ms 95th, 810 ms 99th, 880 ms 99.9th.";
        let told = Told { records: 61349.7, megabytes: 59.91, p50_ms: 399.0, p99_ms: 810.0, p999_ms: 880.0 };
        assert_eq!(parse(line), Some(told));
        assert_eq!(parse("300000 records sent"), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
