//! A compacted topic that Kafka's clients wrote in each codec: after a pass, do all readers find the same newest of each key,
//! past batches of which nothing is left?

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    collections::BTreeMap,
    ffi::OsString,
    thread,
    time::{Duration, Instant},
};

use millstream_test_support::{
    broker::Broker,
    message::{Message, Placed},
    peers,
};

/// How long a pass may be waited for, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
/// Keys of which each batch has a newer value.
const KEYS: usize = 40;
/// The first one of none but such keys: nothing of it is left.
const FIRST: i64 = KEYS as i64;
const SEGMENT_BYTES: usize = 1 << 20;

type Newest = BTreeMap<String, Option<String>>;

/// Text that no codec makes less than half of.
fn noise(seed: usize) -> String {
    let mut state = seed as u64 + 1;
    let mut text = String::new();
    while text.len() < 6_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text += &format!("{:08x}", state >> 32);
    }
    text
}

/// Has kcat send records in one codec; a value that is empty is none.
fn kcat(broker: &Broker, topic: &str, codec: &str, records: &[(String, String)]) {
    let address = broker.address().to_string();
    let words = ["-P", "-b", &address, "-t", topic, "-p", "0", "-K", ":", "-Z", "-z", codec];
    let lines: String = records.iter().map(|(key, value)| format!("{key}:{value}\n")).collect();
    peers::kcat(&words.map(OsString::from), lines.as_bytes()).unwrap().ok().unwrap();
}

/// Sends rounds of newer values in each codec, until closed segments hold all but the last. Of each codec, there are a key that
/// is written once, in the middle of others, and one whose newest is a tombstone.
fn fill(broker: &Broker, topic: &str, codecs: &[&str]) -> (Newest, usize) {
    let (mut newest, mut count, mut bytes) = (Newest::new(), 0, 0);
    let common = |round: usize| (0..KEYS).map(move |at| (format!("key-{at}"), noise(round * KEYS + at)));
    let mut send = |codec: &str, records: Vec<(String, String)>| {
        kcat(broker, topic, codec, &records);
        count += records.len();
        bytes += records.iter().map(|(_, value)| value.len()).sum::<usize>();
        newest.extend(records.into_iter().map(|(key, value)| (key, (!value.is_empty()).then_some(value))));
        bytes
    };
    send("none", common(0).collect());
    for (round, codec) in (1..).zip(codecs) {
        let mut records: Vec<_> = common(round).collect();
        records.insert(KEYS / 2, (format!("once-{codec}"), noise(1000 + round)));
        records.insert(KEYS / 4, (format!("gone-{codec}"), noise(2000 + round)));
        send(codec, records);
        send(codec, vec![(format!("gone-{codec}"), String::new())]);
    }
    // Twice the size, as half is the most that a codec makes of it, and once more for the segment that stays open.
    for round in 100.. {
        if send(codecs[round % codecs.len()], common(round).collect()) > 6 * SEGMENT_BYTES {
            break;
        }
    }
    // And one from another client.
    let last: Vec<_> = common(999).collect();
    let messages: Vec<_> =
        last.iter().map(|(key, value)| Message::new(0, Some(key.as_bytes()), Some(value.as_bytes()))).collect();
    peers::kafka_python_produce(broker.address(), topic, &messages).unwrap();
    count += last.len();
    newest.extend(last.into_iter().map(|(key, value)| (key, Some(value))));
    (newest, count)
}

fn text(bytes: Option<&[u8]>) -> Option<String> {
    bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

fn told(placed: &[Placed]) -> Vec<(i64, String, Option<String>)> {
    let told = placed.iter().map(|Placed { offset, message }| {
        (*offset, text(message.key.as_deref()).unwrap(), text(message.value.as_deref()))
    });
    told.collect()
}

/// As our program tells it.
fn ours(broker: &Broker, topic: &str) -> Vec<(i64, String, Option<String>)> {
    let read = broker.json(&["consume", topic, "--until", "end", "--format", "json"]).unwrap();
    let told = read.iter().map(|record| {
        let text = |name: &str| record[name].as_str().map(String::from);
        (record["offset"].as_i64().unwrap(), text("key").unwrap(), text("value"))
    });
    told.collect()
}

fn check(codecs: &[&str], python_reads: bool) {
    let broker = Broker::start_with(&["--compaction-check-ms", "20"]).unwrap();
    let segment_bytes = format!("segment.bytes={SEGMENT_BYTES}");
    let create = ["topic", "create", "state", "--config", "cleanup.policy=compact", "--config", &segment_bytes];
    broker.cli(&create).unwrap().ok().unwrap();
    let (newest, count) = fill(&broker, "state", codecs);
    let start = Instant::now();
    loop {
        let read = ours(&broker, "state");
        let found: Newest = read.iter().map(|(_, key, value)| (key.clone(), value.clone())).collect();
        assert!(found == newest, "of a key another record than the newest is left");
        // Nothing of the first batch, and of what the codecs' own batches hold only their own keys.
        let early =
            read.iter().filter(|(offset, key, _)| *offset < FIRST || (key.starts_with("key-") && *offset < 3 * FIRST));
        if read.len() < count / 2 && early.count() == 0 {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{} of {count} records are left: no pass comes", read.len());
        thread::sleep(Duration::from_millis(20));
    }
    // The offsets still begin with those that hold nothing: every reader has to pass over them.
    let described = broker.json(&["topic", "describe", "state", "--output", "json"]).unwrap();
    assert_eq!(described[0]["partitions"][0]["start_offset"], 0);
    let mut reads = vec![("kcat", told(&peers::kcat_consume(broker.address(), "state").unwrap()))];
    if python_reads {
        reads.push(("kafka-python", told(&peers::kafka_python_consume(broker.address(), "state").unwrap())));
    }
    reads.push(("millstream", ours(&broker, "state")));
    for (reader, read) in reads {
        assert!(read.is_sorted_by_key(|(offset, ..)| *offset), "{reader}");
        assert!(read[0].0 >= FIRST, "{reader} reads what is gone at {}", read[0].0);
        for codec in codecs {
            assert_eq!(read.iter().filter(|(_, key, _)| *key == format!("once-{codec}")).count(), 1, "{reader}");
        }
        let found: Newest = read.into_iter().map(|(_, key, value)| (key, value)).collect();
        assert_eq!(found.len(), newest.len(), "{reader}");
        let wrong: Vec<_> =
            newest.iter().filter(|(key, value)| found.get(*key) != Some(*value)).map(|(key, _)| key).collect();
        assert!(wrong.is_empty(), "{reader} finds another record than the newest of {wrong:?}");
    }
}

#[test]
fn every_reader_finds_the_newest_of_each_key_in_every_codec() {
    check(&["none", "gzip", "snappy", "lz4", "zstd"], false);
}

/// kafka-python knows only gzip without other libraries.
#[test]
fn kafka_python_finds_it_in_the_codecs_that_it_knows() {
    check(&["none", "gzip"], true);
}
