//! What topics need not keep goes, and only that: by time, by size, and not again after `kill -9`.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use millstream_client::DeleteBefore;
use millstream_model::{Offset, PartitionId};
use millstream_test_support::{broker::Broker, cli, message::Message, sdk};
use serde_json::Value;

/// How long what is due may take, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
/// The least that a segment may have.
const SEGMENT_BYTES: u64 = 1 << 20;

fn broker() -> Broker {
    Broker::start_with(&["--retention-check-ms", "20"]).unwrap()
}

fn create(broker: &Broker, topic: &str, settings: &[&str]) {
    let mut words = vec!["topic", "create", topic, "--config", "segment.bytes=1048576"];
    words.extend(settings.iter().flat_map(|setting| ["--config", *setting]));
    broker.cli(&words).unwrap().ok().unwrap();
}

/// Writes four and a half segments of records that are of 2013.
fn fill(broker: &Broker, topic: &str) -> i64 {
    let value = vec![b'x'; 9_000];
    let messages = vec![Message::new(0, None, Some(&value)); 500];
    sdk::produce(broker, topic, &messages).unwrap();
    messages.len() as i64
}

/// The first offset of a topic's only partition, and its end.
fn bounds(broker: &Broker, topic: &str) -> (i64, i64) {
    let told = broker.json(&["topic", "describe", topic, "--output", "json"]).unwrap();
    let partition = &told[0]["partitions"][0];
    let number = |name: &str| partition[name].as_i64().unwrap();
    (number("start_offset"), number("end_offset"))
}

fn bytes_below(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let bytes = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        Some(if path.is_dir() { bytes_below(&path) } else { path.metadata().map_or(0, |meta| meta.len()) })
    };
    entries.filter_map(bytes).sum()
}

/// What segments and indexes take: of this broker's only topic, and what is on its way out.
fn logs_bytes(broker: &Broker) -> u64 {
    bytes_below(&broker.data_dir().join("logs")) + bytes_below(&broker.data_dir().join("trash"))
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what} does not come");
        thread::sleep(Duration::from_millis(10));
    }
}

fn values(broker: &Broker, topic: &str) -> Vec<Value> {
    let words = ["consume", topic, "--from", "beginning", "--until", "end", "--format", "json"];
    broker.json(&words).unwrap()
}

#[test]
fn what_is_old_goes_for_good_down_to_the_last_segment() {
    let mut broker = broker();
    create(&broker, "brief", &["retention.ms=60000"]);
    let count = fill(&broker, "brief");
    wait_until("the end of retention", || bounds(&broker, "brief").0 == count);
    broker.kill().unwrap();
    broker.restart().unwrap();
    assert_eq!(bounds(&broker, "brief"), (count, count), "what has gone does not come back");
    wait_until("room", || logs_bytes(&broker) < SEGMENT_BYTES);
    assert!(values(&broker, "brief").is_empty());
    // What comes now is of now, and stays.
    broker.cli_with(&["produce", "brief"], b"fresh\n").unwrap().ok().unwrap();
    create(&broker, "sentinel", &["retention.ms=60000"]);
    let sentinel = fill(&broker, "sentinel");
    wait_until("another round", || bounds(&broker, "sentinel").0 == sentinel);
    let read = values(&broker, "brief");
    assert_eq!(read.len(), 1);
    assert_eq!((&read[0]["offset"], &read[0]["value"]), (&count.into(), &"fresh".into()));
}

#[test]
fn a_topic_keeps_the_newest_bytes_that_it_is_told_to() {
    let mut broker = broker();
    create(&broker, "small", &["retention.ms=-1", "retention.bytes=2000000"]);
    let count = fill(&broker, "small");
    // Whole segments go, as long as so much is left.
    wait_until("room", || (2_000_000..2_000_000 + SEGMENT_BYTES).contains(&logs_bytes(&broker)));
    let before = bounds(&broker, "small");
    broker.kill().unwrap();
    broker.restart().unwrap();
    let (start, end) = bounds(&broker, "small");
    assert_eq!((start, end), before);
    assert_eq!(end, count);
    assert!(start > 0 && end - start >= 2_000_000 / 9_100, "{start}..{end}");
    assert_eq!(sdk::consume(&broker, "small").unwrap().len() as i64, end - start);
}

#[test]
fn a_topic_keeps_all_where_it_is_told_to() {
    let broker = broker();
    create(&broker, "for-ever", &["retention.ms=-1"]);
    create(&broker, "sentinel", &["retention.ms=60000"]);
    let count = fill(&broker, "for-ever");
    fill(&broker, "sentinel");
    // Several rounds have come by then.
    for _ in 0..3 {
        let end = bounds(&broker, "sentinel").1;
        wait_until("the end of retention", || bounds(&broker, "sentinel").0 == end);
        fill(&broker, "sentinel");
    }
    assert_eq!(bounds(&broker, "for-ever"), (0, count));
}

#[test]
fn a_transform_goes_on_where_its_input_now_begins() {
    let broker = broker();
    create(&broker, "input", &["retention.ms=60000"]);
    create(&broker, "output", &[]);
    let module = millstream_test_support::guests::component("view-redact").unwrap();
    let push = ["module", "push", module.to_str().unwrap(), "--name", "redact", "--version", "1"];
    broker.cli(&push).unwrap().ok().unwrap();
    let deploy = ["transform", "deploy", "copy", "--module", "redact@1", "--input", "input", "--output", "output"];
    broker.cli(&[&deploy[..], &["--param", "fields=none"]].concat()).unwrap().ok().unwrap();
    broker.cli(&["transform", "pause", "copy"]).unwrap().ok().unwrap();
    let count = fill(&broker, "input");
    wait_until("the end of retention", || bounds(&broker, "input").0 == count);
    broker.cli(&["transform", "resume", "copy"]).unwrap().ok().unwrap();
    broker.cli_with(&["produce", "input"], b"{\"fresh\":1}\n").unwrap().ok().unwrap();
    wait_until("the output", || bounds(&broker, "output").1 == 1);
}

#[test]
fn a_retention_that_is_given_later_counts_for_what_is_there() {
    let mut broker = broker();
    create(&broker, "kept", &["retention.ms=-1"]);
    create(&broker, "sentinel", &["retention.ms=60000"]);
    let (count, sentinel) = (fill(&broker, "kept"), fill(&broker, "sentinel"));
    wait_until("a round", || bounds(&broker, "sentinel").0 == sentinel);
    assert_eq!(bounds(&broker, "kept"), (0, count));
    broker.cli(&["topic", "alter", "kept", "--config", "retention.ms=60000"]).unwrap().ok().unwrap();
    wait_until("the end of retention", || bounds(&broker, "kept").0 == count);
    // Given back, and after a kill, nothing more goes.
    broker.cli(&["topic", "alter", "kept", "--config", "retention.ms=-1"]).unwrap().ok().unwrap();
    broker.kill().unwrap();
    broker.restart().unwrap();
    let more = fill(&broker, "kept");
    let sentinel = sentinel + fill(&broker, "sentinel");
    wait_until("another round", || bounds(&broker, "sentinel").0 == sentinel);
    assert_eq!(bounds(&broker, "kept"), (count, count + more));
}

/// A reader that is slower than retention goes on at what there is, and says so.
#[test]
fn a_reader_that_retention_overtakes_goes_on_with_a_word() {
    const RECORDS: usize = 300;
    let broker = Broker::start().unwrap();
    create(&broker, "t", &[]);
    let value = vec![b'x'; 100_000];
    sdk::produce(&broker, "t", &vec![Message::new(0, None, Some(&value)); RECORDS]).unwrap();
    let mut command = Command::new(cli::millstream().unwrap());
    command
        .args(["consume", "t", "--until", "end", "--format", "json"])
        .env("MILLSTREAM_PROFILE", broker.profile())
        .env("MILLSTREAM_BROKER", broker.address().to_string())
        .env_remove("RUST_LOG");
    let mut reader = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    // It stands still with what a pipe and its own memory hold: far less than all.
    let mut read = vec![lines.next().unwrap().unwrap()];
    let kept = RECORDS - 10;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let admin = sdk::alert(&broker).await.unwrap().admin();
        admin.delete_records("t", PartitionId(0), DeleteBefore::Offset(Offset(kept as i64))).await.unwrap();
    });
    read.extend(lines.map(Result::unwrap));
    let ended = reader.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success(), "{said}");
    let offsets: Vec<_> = read
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["offset"].as_u64().unwrap() as usize)
        .collect();
    let first = offsets.len() - 10;
    assert!(first < kept, "it has read all before it was deleted");
    let expected: Vec<_> = (0..first).chain(kept..RECORDS).collect();
    assert_eq!(offsets, expected, "{said}");
    let told = format!(
        "t partition 0: what begins at offset {first} was deleted before it was read (retention); reading goes on at {kept}\n"
    );
    assert_eq!(said, told);
}
