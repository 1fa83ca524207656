//! What can be asked of produce and consume, by the program's own flags, against a real broker.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use millstream_test_support::{broker::Broker, guests, message::Message, peers, sdk};
use serde_json::{Value, json};

/// A broker with a topic of three partitions.
fn broker_with(topic: &str) -> Broker {
    let broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", topic, "--partitions", "3"]).unwrap().ok().unwrap();
    broker
}

/// What was printed of a command that must succeed.
fn good(broker: &Broker, words: &[&str], input: &[u8]) -> String {
    broker.cli_with(words, input).unwrap().ok().unwrap().text()
}

/// Every record of a topic, as `consume --format json` prints it.
fn records(broker: &Broker, topic: &str, more: &[&str]) -> Vec<Value> {
    let words = ["consume", topic, "--from", "beginning", "--until", "end", "--format", "json"];
    broker.json(&[&words[..], more].concat()).unwrap()
}

/// Ten megabytes in lines that all differ.
fn ten_megabytes() -> (Vec<u8>, usize) {
    let line = |number: usize| format!("{number:07} {}\n", "x".repeat(991));
    let count = 10_000;
    ((0..count).flat_map(|number| line(number).into_bytes()).collect(), count)
}

#[test]
fn what_nobody_acknowledges_has_arrived_all_the_same_when_the_command_ends() {
    let broker = broker_with("metrics");
    let (lines, count) = ten_megabytes();
    let told = broker.cli_with(&["produce", "metrics", "--acks", "0"], &lines).unwrap().ok().unwrap();
    assert!(told.stderr.contains(&format!("{count} records sent to metrics")), "{}", told.stderr);
    let read = good(&broker, &["consume", "metrics", "--from", "beginning", "--until", "end"], b"");
    let mut read: Vec<_> = read.lines().map(|line| &line[..7]).collect();
    read.sort_unstable();
    let expected: Vec<_> = (0..count).map(|number| format!("{number:07}")).collect();
    assert_eq!(read.len(), count);
    assert!(read == expected);
}

#[test]
fn lines_before_one_that_is_refused_have_arrived_without_acknowledgements_too() {
    let broker = broker_with("metrics");
    let mut input: Vec<u8> = (0..2000).flat_map(|number| format!("{{\"id\":{number}}}\n").into_bytes()).collect();
    input.extend_from_slice(b"{\"no\":1}\n");
    let words = ["produce", "metrics", "--acks", "0", "--format", "ndjson", "--key", "id"];
    let refused = broker.cli_with(&words, &input).unwrap();
    assert_eq!(refused.code, Some(1));
    for said in ["line 2001", "2000 records sent", "not written: line 2001", "nothing after line 2001"] {
        assert!(refused.stderr.contains(said), "no {said:?} in {}", refused.stderr);
    }
    assert_eq!(records(&broker, "metrics", &[]).len(), 2000);
}

/// Lines that are under way when an earlier one is refused are written: whoever goes on from the refused line must know.
#[test]
fn a_refusal_among_lines_says_which_of_them_are_written() {
    let broker = broker_with("plain");
    let module = guests::component("partition-by-field").unwrap();
    good(&broker, &["module", "push", module.to_str().unwrap(), "--name", "by-field", "--version", "1"], b"");
    let placed = ["--partitioner", "by-field@1", "--param", "field=id", "--param", "strict=true"];
    good(&broker, &[&["topic", "create", "placed"], &placed[..]].concat(), b"");
    let check = |topic: &str, input: &[u8], said: &[&str], written: usize| {
        let refused = broker.cli_with(&["produce", topic], input).unwrap();
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        for said in said {
            assert!(refused.stderr.contains(said), "no {said:?} in {}", refused.stderr);
        }
        assert_eq!(records(&broker, topic, &[]).len(), written, "{}", refused.stderr);
    };
    let said = [": line 2: ", "; 2 records acknowledged; not written: line 2; nothing after line 3 was sent"];
    check("placed", b"{\"id\":1}\n{\"other\":2}\n{\"id\":3}\n", &said, 2);
    let large = [b"one\n".to_vec(), vec![b'x'; 2 << 20], b"\nthree\n".to_vec()].concat();
    check("plain", &large, &[": line 2: ", "max.message.bytes", "not written: line 2;"], 2);
}

/// The offsets of records, whatever their partitions.
fn offsets(records: &[Value]) -> Vec<i64> {
    let mut offsets: Vec<_> = records.iter().map(|record| record["offset"].as_i64().unwrap()).collect();
    offsets.sort_unstable();
    offsets
}

#[test]
fn every_codec_packs_and_is_unpacked_again() {
    let broker = broker_with("packed");
    let line = |codec: &str| format!("{codec} {}\n", "again and ".repeat(200));
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    for codec in codecs {
        let input = line(codec).repeat(50);
        good(&broker, &["produce", "packed", "--partition", "0", "--compression", codec], input.as_bytes());
    }
    let read = good(&broker, &["consume", "packed", "--until", "end"], b"");
    assert_eq!(read, codecs.map(|codec| line(codec).repeat(50)).concat());
    // And by somebody else's client, which brings codecs of its own.
    let theirs = peers::kcat_consume(broker.address(), "packed").unwrap();
    let values: Vec<_> = theirs.into_iter().map(|placed| placed.message.value.unwrap()).collect();
    let lines: Vec<_> = read.lines().map(|line| line.as_bytes().to_vec()).collect();
    assert!(values == lines, "{} and {} records", values.len(), lines.len());
    // Packed indeed: fifty repeated lines of two kilobytes each, four times of five.
    let size: u64 = walk(&broker.data_dir().join("logs"));
    assert!(size < 200_000, "the log has {size} bytes");
}

/// The bytes of all files below a folder that hold something: segments are made larger than they are full.
fn walk(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let size = |path: std::path::PathBuf| match path.is_dir() {
        true => walk(&path),
        false => std::fs::read(&path).unwrap().iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1),
    };
    entries.map(size).sum()
}

#[test]
fn headers_go_with_every_record_in_their_order() {
    let broker = broker_with("headed");
    let headers = ["--header", "source=cli", "--header", "twice=1", "--header", "twice=", "--header", "equals=a=b"];
    good(&broker, &[&["produce", "headed"], &headers[..]].concat(), b"one\ntwo\n");
    let expected = json!([["source", "cli"], ["twice", "1"], ["twice", ""], ["equals", "a=b"]]);
    let read = records(&broker, "headed", &[]);
    assert_eq!(read.len(), 2);
    assert!(read.iter().all(|record| record["headers"] == expected), "{read:?}");
}

#[test]
fn a_line_is_split_into_key_and_value() {
    let broker = broker_with("keyed");
    good(&broker, &["produce", "keyed", "--key-separator", "::", "--partition", "1"], b"k::v::w\n::no key\nk::\n");
    good(&broker, &["produce", "keyed", "--key-separator", "\\t", "--partition", "2", "--acks", "-1"], b"k\tv\n");
    let tabbed = records(&broker, "keyed", &["--partition", "2"]);
    assert_eq!((&tabbed[0]["key"], &tabbed[0]["value"]), (&"k".into(), &"v".into()), "{tabbed:?}");
    assert_eq!(records(&broker, "keyed", &["--partition", "1", "--partition", "2"]).len(), 4);
    let read = records(&broker, "keyed", &["--partition", "1"]);
    let told: Vec<_> = read.iter().map(|record| (&record["key"], &record["value"])).collect();
    let text = |text: &str| Value::from(text);
    let expected = [(text("k"), text("v::w")), (text(""), text("no key")), (text("k"), text(""))];
    assert!(told.iter().zip(&expected).all(|(told, (key, value))| *told == (key, value)), "{told:?}");
    assert_eq!(told.len(), 3);
}

#[test]
fn a_json_field_becomes_the_key() {
    let broker = broker_with("keyed");
    let lines = b"{\"id\":\"a\",\"n\":1}\n\n{\"id\":7}\n{\"id\":null}\n";
    let words = ["produce", "keyed", "--format", "ndjson", "--key", "id", "--partition", "0"];
    good(&broker, &words, lines);
    let read = records(&broker, "keyed", &[]);
    let keys: Vec<_> = read.iter().map(|record| record["key"].clone()).collect();
    assert_eq!(keys, [Value::from("a"), "7".into(), Value::Null]);
    assert_eq!(read[0]["value"], "{\"id\":\"a\",\"n\":1}", "the value is the line as it was");
}

#[test]
fn reading_starts_and_stops_where_it_is_told() {
    let broker = broker_with("numbers");
    for (partition, count) in [("0", 10), ("1", 5)] {
        let lines: String = (0..count).map(|n| format!("{partition}-{n}\n")).collect();
        good(&broker, &["produce", "numbers", "--partition", partition], lines.as_bytes());
    }
    let read = |more: &[&str]| -> Vec<Value> {
        broker.json(&[&["consume", "numbers", "--format", "json"], more].concat()).unwrap()
    };
    assert_eq!(read(&["--until", "end"]).len(), 15);
    assert_eq!(offsets(&read(&["--partition", "1", "--until", "end"])), [0, 1, 2, 3, 4]);
    assert_eq!(offsets(&read(&["--partition", "0", "--from", "7", "--until", "end"])), [7, 8, 9]);
    assert_eq!(read(&["--partition", "0", "--from", "end", "--until", "end"]), Vec::<Value>::new());
    // A count stops reading that would go on for ever, in the middle of a batch.
    assert_eq!(offsets(&read(&["--partition", "0", "--count", "3"])), [0, 1, 2]);
    assert_eq!(offsets(&read(&["--partition", "0", "--from", "4", "--count", "2"])), [4, 5]);
    assert_eq!(read(&["--count", "0"]), Vec::<Value>::new());
    // Without --format, values.
    assert_eq!(good(&broker, &["consume", "numbers", "--partition", "1", "--count", "2"], b""), "1-0\n1-1\n");
}

#[test]
fn reading_starts_at_a_time() {
    let broker = broker_with("timed");
    // Times of the sender's choice come from a client; the command stamps with now.
    let message = |n: i64| {
        let value = format!("{n}");
        Message { timestamp: 1_357_034_400_000 + n * 1000, ..Message::new(0, None, Some(value.as_bytes())) }
    };
    sdk::produce(&broker, "timed", &(0..20).map(message).collect::<Vec<_>>()).unwrap();
    let check = |from: &str, expected: std::ops::Range<i64>| {
        let read = broker.json(&["consume", "timed", "--from", from, "--until", "end", "--format", "json"]).unwrap();
        assert_eq!(offsets(&read), expected.collect::<Vec<_>>(), "{from}");
    };
    check("2013-01-01T10:00:00Z", 0..20);
    check("2013-01-01T10:00:05Z", 5..20);
    check("2013-01-01T11:00:05+01:00", 5..20);
    check("1357034405001", 6..20);
    check("2013-01-01T10:00:19Z", 19..20);
    check("2014-01-01T00:00:00Z", 20..20);
}

#[test]
fn a_file_is_read_as_standard_input_is() {
    let broker = broker_with("filed");
    let file = broker.scratch().join("lines.txt");
    std::fs::write(&file, "one\ntwo\nwithout a line end").unwrap();
    good(&broker, &["produce", "filed", "--input", file.to_str().unwrap(), "--acks", "1", "--partition", "2"], b"no");
    assert_eq!(good(&broker, &["consume", "filed", "--until", "end"], b""), "one\ntwo\nwithout a line end\n");
}

/// Partitions are of different lengths: one that ends before the offset is no reason not to read the others.
#[test]
fn partitions_that_end_before_the_offset_are_named_and_the_others_read() {
    let broker = broker_with("uneven");
    good(&broker, &["produce", "uneven", "--partition", "1"], b"a\nb\nc\n");
    let words = ["consume", "uneven", "--from", "2", "--until", "end"];
    let read = broker.cli(&words).unwrap().ok().unwrap();
    assert_eq!(read.text(), "c\n");
    for short in ["partition 0", "partition 2"] {
        assert!(read.stderr.contains(short), "no {short} in {}", read.stderr);
    }
    assert!(!read.stderr.contains("partition 1"), "{}", read.stderr);
}
