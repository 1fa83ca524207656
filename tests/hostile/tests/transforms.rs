//! Transforms and views of records and modules that mean harm: bounded memory, the error policy and nothing but it, and no
//! transform that stops for good because of what passes.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::time::{Duration, Instant};

use millstream_model::TimestampMs;
use millstream_record::{BatchBuilder, BatchOptions, Compression};
use millstream_test_support::{
    broker::Broker,
    guests,
    message::{Message, Placed},
    sdk,
};
use millstream_tests_hostile::{
    text_guests::{self, MARKER},
    victim,
};
use serde_json::Value;

/// How long a transform may take to come to where a test waits for it.
const PATIENCE: Duration = Duration::from_secs(120);

fn good(broker: &Broker, words: &[&str]) {
    broker.cli(words).unwrap().ok().unwrap();
}

fn push(broker: &Broker, name: &str, bytes: &[u8]) {
    let file = broker.scratch().join(format!("{name}.wasm"));
    std::fs::write(&file, bytes).unwrap();
    good(broker, &["module", "push", file.to_str().unwrap(), "--name", name, "--version", "1"]);
}

fn broker_with(topics: &[&[&str]], modules: &[(&str, Vec<u8>)]) -> Broker {
    let broker = Broker::start().unwrap();
    for (name, bytes) in modules {
        push(&broker, name, bytes);
    }
    for topic in topics {
        good(&broker, &[&["topic", "create"], *topic].concat());
    }
    broker
}

fn deploy(broker: &Broker, module: &str, words: &[&str]) {
    good(
        broker,
        &[&["transform", "deploy", "t", "--module", module, "--input", "in", "--output", "out"], words].concat(),
    );
}

fn describe(broker: &Broker) -> Value {
    broker.json(&["transform", "describe", "t", "--output", "json"]).unwrap().remove(0)
}

/// Waits until what `describe` says is as wanted.
fn wait_until(broker: &Broker, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let told = describe(broker);
        if wanted(&told) {
            return told;
        }
        assert!(start.elapsed() < PATIENCE, "waited for {what}: {told}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn caught_up(broker: &Broker) -> Value {
    wait_until(broker, "no lag", |told| {
        assert_eq!(told["state"], "running", "{told}");
        told["lag"] == 0
    })
}

fn message(value: &str) -> Message {
    Message::new(0, Some(value.as_bytes()), Some(value.as_bytes()))
}

fn values(read: &[Placed]) -> Vec<String> {
    read.iter().map(|placed| String::from_utf8(placed.message.value.clone().unwrap()).unwrap()).collect()
}

/// Batches of a few kilobytes that unpack to about 60 MiB each.
fn bombs(count: usize) -> Vec<Vec<u8>> {
    let options = BatchOptions { compression: Compression::Zstd, ..BatchOptions::default() };
    let mut builder = BatchBuilder::new(options);
    for _ in 0..240 {
        builder.push(TimestampMs(1_373_241_600_000), None, Some(&vec![0; 250 << 10]), &[]).unwrap();
    }
    let bomb = builder.build().unwrap().to_vec();
    assert!(bomb.len() < 64 << 10, "{} bytes is no bomb", bomb.len());
    vec![bomb; count]
}

/// The most memory that the broker has had resident so far, bytes.
fn memory_peak(broker: &Broker) -> u64 {
    victim::memory_peak(broker.process_id()).unwrap()
}

const LARGE: [&str; 2] = ["--config", "max.message.bytes=67108864"];

#[test]
fn bombs_are_unpacked_one_at_a_time() {
    let modules = [
        ("swallow", text_guests::swallowing_mapper().unwrap()),
        ("filter", std::fs::read(guests::component("view-filter").unwrap()).unwrap()),
    ];
    let input = [&["in"], &LARGE[..]].concat();
    let broker = broker_with(&[&input, &["out"]], &modules);
    let view = ["view", "create", "none", "--topic", "in", "--chain", "filter@1"];
    good(&broker, &[&view[..], &["--param", "field=a", "--param", "op=exists"]].concat());
    // Two and a half gigabytes in one read's worth of batches.
    sdk::produce_batches(&broker, "in", 0, bombs(40)).unwrap();
    deploy(&broker, "swallow@1", &[]);
    assert_eq!(caught_up(&broker)["partitions"][0]["records_in"], 40 * 240);
    assert_eq!(sdk::consume(&broker, "none").unwrap(), []);
    let peak = memory_peak(&broker);
    assert!(peak < 800 << 20, "the broker had {} MiB resident", peak >> 20);
}

#[test]
fn outputs_are_committed_before_they_fill_the_memory() {
    let modules = [("plain", text_guests::forwarding_mapper().unwrap())];
    let input = [&["in"], &LARGE[..]].concat();
    let broker = broker_with(&[&input, &["out"]], &modules);
    sdk::produce_batches(&broker, "in", 0, bombs(4)).unwrap();
    let before = memory_peak(&broker);
    deploy(&broker, "plain@1", &[]);
    assert_eq!(caught_up(&broker)["partitions"][0]["records_out"], 4 * 240);
    let grown = memory_peak(&broker).saturating_sub(before);
    assert!(grown < 300 << 20, "the broker has grown by {} MiB", grown >> 20);
    let read = sdk::consume(&broker, "out").unwrap();
    assert_eq!(read.len(), 4 * 240);
}

#[test]
fn fail_stops_at_the_record_and_resuming_repeats_nothing_else() {
    let broker = broker_with(&[&["in"], &["out"]], &[("trap", text_guests::trapping_mapper().unwrap())]);
    let mut sent: Vec<Message> = (0..500).map(|n| message(&format!("v{n}"))).collect();
    sent[321] = message(MARKER);
    sdk::produce(&broker, "in", &sent).unwrap();
    deploy(&broker, "trap@1", &["--on-error", "fail"]);
    let expected: Vec<String> = (0..321).map(|n| format!("v{n}")).collect();
    for attempt in 0..3 {
        let told = wait_until(&broker, "its failure", |told| told["state"] == "failed");
        let error = told["error"].as_str().unwrap();
        assert!(error.contains("in/0") && error.contains("offset 321"), "{error}");
        assert_eq!(values(&sdk::consume(&broker, "out").unwrap()), expected, "attempt {attempt}");
        let refused = broker.cli(&["transform", "pause", "t"]).unwrap();
        assert_eq!(refused.code, Some(1));
        assert!(refused.stderr.contains("has failed"), "{}", refused.stderr);
        good(&broker, &["transform", "resume", "t"]);
    }
}

#[test]
fn the_record_that_a_transform_has_failed_at_can_be_left_out_and_no_other() {
    let mut broker = broker_with(&[&["in"], &["out"]], &[("trap", text_guests::trapping_mapper().unwrap())]);
    let resume = |broker: &Broker, flags: &[&str]| {
        let words = [&["transform", "resume", "t"], flags].concat();
        let finished = broker.cli(&words).unwrap();
        (finished.code, finished.stderr + &String::from_utf8_lossy(&finished.stdout))
    };
    let stands_at = |broker: &Broker, record: &str| {
        let told = wait_until(broker, record, |told| told["state"] == "failed");
        assert_eq!(told["failed_at"], record, "{told}");
    };
    let bad = [100, 101, 321];
    let sent: Vec<Message> =
        (0..500).map(|n| if bad.contains(&n) { message(MARKER) } else { message(&format!("v{n}")) }).collect();
    sdk::produce(&broker, "in", &sent).unwrap();
    deploy(&broker, "trap@1", &[]);
    stands_at(&broker, "in/0@100");
    let (code, said) = resume(&broker, &[]);
    assert!(code == Some(0) && said.contains("in/0@100") && said.contains("--skip"), "{said}");
    stands_at(&broker, "in/0@100");
    let (code, said) = resume(&broker, &["--skip"]);
    assert!(code == Some(0) && said.contains("goes on after the record in/0@100"), "{said}");
    // The next one has to be left out by itself.
    stands_at(&broker, "in/0@101");
    assert_eq!(resume(&broker, &["--skip"]).0, Some(0));
    stands_at(&broker, "in/0@321");
    assert_eq!(describe(&broker)["left_out"], 2);
    // What it stands at and what it is to leave out is known after a restart.
    broker.stop().unwrap();
    broker.restart().unwrap();
    stands_at(&broker, "in/0@321");
    assert_eq!(resume(&broker, &["--skip"]).0, Some(0));
    broker.kill().unwrap();
    broker.restart().unwrap();
    assert_eq!(caught_up(&broker)["failed_at"], Value::Null);
    let expected: Vec<String> = (0..500).filter(|n| !bad.contains(n)).map(|n| format!("v{n}")).collect();
    let mut read = values(&sdk::consume(&broker, "out").unwrap());
    // At least once: a crash may have what was appended last come again.
    read.sort_by_key(|value| value[1..].parse::<u32>().unwrap());
    read.dedup();
    assert_eq!(read, expected);
    let (code, said) = resume(&broker, &["--skip"]);
    assert!(code == Some(1) && said.contains("no record to leave out"), "{said}");
    let (code, said) = resume(&broker, &[]);
    assert!(code == Some(0) && said.contains("was running already"), "{said}");
}

#[test]
fn a_start_beyond_the_end_of_all_that_it_reads_is_refused_and_of_some_is_told() {
    let modules = [("plain", text_guests::forwarding_mapper().unwrap())];
    let broker = broker_with(&[&["in", "--partitions", "2"], &["out"]], &modules);
    let placed = |partition: &str, input: &str| {
        broker.cli_with(&["produce", "in", "--partition", partition], input.as_bytes()).unwrap().ok().unwrap();
    };
    placed("0", "a\nb\nc\n");
    placed("1", "d\n");
    let deploy = |from: &str| {
        let words =
            ["transform", "deploy", "t", "--module", "plain@1", "--input", "in", "--output", "out", "--from", from];
        broker.cli(&words).unwrap()
    };
    let refused = deploy("4");
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("in/0 at 3, in/1 at 1") && refused.stderr.contains("`end`"), "{}", refused.stderr);
    let told = deploy("3").ok().unwrap();
    assert!(told.stderr.contains("in partition 1 ends at 1"), "{}", told.stderr);
    assert!(!told.stderr.contains("in partition 0"), "{}", told.stderr);
}

#[test]
fn skip_leaves_out_exactly_the_records_at_fault() {
    let broker = broker_with(&[&["in"], &["out"]], &[("trap", text_guests::trapping_mapper().unwrap())]);
    let bad = |n: &i32| n % 97 == 5 || (200..204).contains(n);
    let sent: Vec<Message> =
        (0..1000).map(|n| if bad(&n) { message(MARKER) } else { message(&format!("v{n}")) }).collect();
    sdk::produce(&broker, "in", &sent).unwrap();
    deploy(&broker, "trap@1", &["--on-error", "skip"]);
    let told = caught_up(&broker);
    let expected: Vec<String> = (0..1000).filter(|n| !bad(n)).map(|n| format!("v{n}")).collect();
    assert_eq!(values(&sdk::consume(&broker, "out").unwrap()), expected);
    let at = &told["partitions"][0];
    assert_eq!((at["records_in"].as_i64(), at["records_out"].as_i64()), (Some(1000), Some(expected.len() as i64)));
    assert_eq!(at["errors"].as_u64(), Some(1000 - expected.len() as u64));
    let listed = broker.json(&["transform", "list", "--output", "json"]).unwrap().remove(0);
    assert_eq!((&listed["left_out"], &at["left_out"]), (&at["errors"], &at["errors"]), "{listed}");
    assert!(at["error"].as_str().unwrap().contains("offset 975"), "the last record left out is named: {at}");
}

#[test]
fn what_a_module_did_to_its_memory_is_no_verdict_on_a_record() {
    let broker = broker_with(&[&["in"], &["out"]], &[("worn", text_guests::worn_out_mapper().unwrap())]);
    let sent: Vec<Message> = (0..20).map(|n| message(&format!("v{n}"))).collect();
    deploy(&broker, "worn@1", &["--on-error", "skip"]);
    for message in &sent {
        sdk::produce(&broker, "in", std::slice::from_ref(message)).unwrap();
        caught_up(&broker);
    }
    let expected: Vec<String> = (0..20).map(|n| format!("v{n}")).collect();
    assert_eq!(values(&sdk::consume(&broker, "out").unwrap()), expected);
}

#[test]
fn outputs_that_cannot_be_written_are_the_records_fault() {
    let modules =
        [("plain", text_guests::forwarding_mapper().unwrap()), ("liar", text_guests::lying_partitioner().unwrap())];
    let out = ["out", "--partitions", "3", "--partitioner", "liar@1", "--config", "max.message.bytes=1024"];
    let broker = broker_with(&[&["in"], &out], &modules);
    let mut sent: Vec<Message> = (0..300).map(|n| message(&format!("v{n}"))).collect();
    // Within the input's limit; with the header that names its source, past the output's.
    sent[17] = Message::new(0, None, Some(&[b'x'; 930]));
    // The output's partitioner sends it, and all that it is asked about with it, to a partition that there is not.
    sent[42] = Message::new(0, Some(MARKER.as_bytes()), Some(b"lie"));
    sdk::produce(&broker, "in", &sent).unwrap();
    deploy(&broker, "plain@1", &["--on-error", "skip"]);
    let told = caught_up(&broker);
    assert_eq!(told["partitions"][0]["errors"], 2, "{told}");
    let mut read = values(&sdk::consume(&broker, "out").unwrap());
    let mut expected: Vec<String> = (0..300).filter(|n| ![17, 42].contains(n)).map(|n| format!("v{n}")).collect();
    read.sort_unstable();
    expected.sort_unstable();
    assert_eq!(read, expected);
}

#[test]
fn a_view_shows_what_lies_before_a_record_that_fails() {
    let broker = broker_with(&[&["in"]], &[("trap", text_guests::trapping_mapper().unwrap())]);
    good(&broker, &["view", "create", "seen", "--topic", "in", "--chain", "trap@1"]);
    // Three batches, the last of which holds the record.
    for batch in [["a", "b"], ["c", "d"], ["e", MARKER]] {
        sdk::produce(&broker, "in", &batch.map(message)).unwrap();
    }
    let consume = |count: &str| broker.cli(&["consume", "seen", "--from", "beginning", "--count", count]).unwrap();
    assert_eq!(consume("4").ok().unwrap().stdout, b"a\nb\nc\nd\n");
    let failed = consume("5");
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("view seen, module trap@1: the module trapped"), "{}", failed.stderr);
}

#[test]
fn a_lying_partitioner_appends_nothing_and_hurts_nobody_else() {
    let modules = [("liar", text_guests::lying_partitioner().unwrap())];
    let broker = broker_with(&[&["placed", "--partitions", "3", "--partitioner", "liar@1"]], &modules);
    let ends = || broker.json(&["topic", "describe", "placed", "--output", "json"]).unwrap();
    let produce =
        |input: &str| broker.cli_with(&["produce", "placed", "--key-separator", ":"], input.as_bytes()).unwrap();
    produce("a:1\n").ok().unwrap();
    let before = ends();
    let refused = produce(&format!("{MARKER}:2\n"));
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("liar@1") && refused.stderr.contains("partition 3"), "{}", refused.stderr);
    assert_eq!(ends(), before, "something was appended");
    produce("b:3\n").ok().unwrap();
    assert_eq!(sdk::consume(&broker, "placed").unwrap().len(), 2);
}

#[test]
fn a_forged_source_is_replaced_by_the_true_one() {
    let broker = broker_with(&[&["in"], &["out"]], &[("plain", text_guests::forwarding_mapper().unwrap())]);
    let forged = message("v").with_header("millstream.src", Some(b"t/in/0/777/0")).with_header("kept", Some(b"1"));
    sdk::produce(&broker, "in", &[message("first"), forged]).unwrap();
    deploy(&broker, "plain@1", &[]);
    caught_up(&broker);
    let read = sdk::consume(&broker, "out").unwrap();
    let header = |name: &str, value: &[u8]| (name.to_owned(), Some(value.to_vec()));
    let expected = [header("kept", b"1"), header("millstream.src", b"t/in/0/1/0")];
    assert_eq!(read[1].message.headers, expected);
}

#[test]
fn what_is_produced_after_a_deployment_from_the_end_is_transformed() {
    for round in 0..5 {
        let broker = broker_with(&[&["in"], &["out"]], &[("plain", text_guests::forwarding_mapper().unwrap())]);
        sdk::produce(&broker, "in", &[message("before")]).unwrap();
        deploy(&broker, "plain@1", &["--from", "end"]);
        sdk::produce(&broker, "in", &[message("after")]).unwrap();
        caught_up(&broker);
        assert_eq!(values(&sdk::consume(&broker, "out").unwrap()), ["after"], "round {round}");
    }
}

#[test]
fn what_is_paused_or_deleted_appends_nothing_more_and_goes_on_where_it_stood() {
    let broker = broker_with(&[&["in"], &["out"]], &[("plain", text_guests::forwarding_mapper().unwrap())]);
    let sent: Vec<Message> = (0..40_000).map(|n| message(&format!("{n:0200}"))).collect();
    sdk::produce(&broker, "in", &sent).unwrap();
    deploy(&broker, "plain@1", &[]);
    let wait = |past: i64| {
        wait_until(&broker, "some progress", |told| told["partitions"][0]["next_offset"].as_i64() > Some(past))
    };
    wait(0);
    let still = |word: &str| {
        let at_once = sdk::consume(&broker, "out").unwrap();
        // Whatever were still under way would be there before this record is: they share a journal.
        sdk::produce(&broker, "in", &[message("later")]).unwrap();
        assert_eq!(sdk::consume(&broker, "out").unwrap().len(), at_once.len(), "{word} and more can be read");
        values(&at_once).iter().filter_map(|value| value.parse().ok()).collect::<Vec<usize>>()
    };
    good(&broker, &["transform", "pause", "t"]);
    assert_eq!(describe(&broker)["state"], "paused");
    let stood = still("paused");
    good(&broker, &["transform", "resume", "t"]);
    wait(stood.len() as i64);
    good(&broker, &["transform", "delete", "t"]);
    let read = still("deleted");
    // At least once: what was committed without its progress comes again, in order. Nothing is missing.
    let mut next = 0;
    for number in read {
        assert!(number <= next, "{next} is missing before {number}");
        next = next.max(number + 1);
    }
    assert!(stood.iter().all(|number| number + 1 < next), "it did not go on");
}
