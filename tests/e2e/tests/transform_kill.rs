//! A transform with two outputs under `kill -9`: every input record comes out, on the right output, and each key keeps its
//! order. At least once: what was written twice names the same input.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use millstream_test_support::{
    broker::Broker,
    guests,
    message::{Message, Placed},
    sdk,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

const PARTITIONS: i32 = 4;
const KEYS: i64 = 500;
const KILLS: i64 = 5;
/// Records that are produced between two kills.
const PART: i64 = 20_000;
const RECORDS: i64 = KILLS * PART;

/// Rows of flights, all delayed; every tenth is broken, on purpose of two kinds.
fn rows() -> Vec<Message> {
    (0..RECORDS)
        .map(|n| {
            let key = n % KEYS;
            let partition = (key % i64::from(PARTITIONS)) as i32;
            let value = match n % 20 {
                7 => format!("{n},UA,517,11"),
                17 => format!("{{\"n\":{n},\"carrier\":\"UA\",\"dep_delay\":\"soon\",\"arr_delay\":1}}"),
                _ => format!("{{\"n\":{n},\"carrier\":\"UA\",\"dep_delay\":30,\"arr_delay\":40}}"),
            };
            Message::new(partition, Some(format!("N{key}").as_bytes()), Some(value.as_bytes()))
        })
        .collect()
}

fn is_broken(n: i64) -> bool {
    n % 10 == 7
}

fn number(message: &Message) -> i64 {
    let text = std::str::from_utf8(message.value.as_ref().unwrap()).unwrap();
    let digits = text.trim_start_matches("{\"n\":");
    digits.split(',').next().unwrap().parse().unwrap()
}

/// The input partition and offset that an output record names.
fn source(placed: &Placed) -> (i32, i64) {
    let header = placed.message.headers.iter().find(|(name, _)| name == "millstream.src").unwrap();
    let text = std::str::from_utf8(header.1.as_ref().unwrap()).unwrap();
    let [transform, topic, partition, offset, index] = text.split('/').collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    assert_eq!((transform, topic, index), ("late", "flights", "0"));
    (partition.parse().unwrap(), offset.parse().unwrap())
}

/// Every input record that belongs on this output is there, as its source says, and nothing else; within an output partition
/// the first copies of a key's records come in the input's order.
fn check(output: &str, places: &BTreeMap<(i32, i64), i64>, read: &[Placed], belongs: impl Fn(i64) -> bool) {
    let mut seen = BTreeSet::new();
    let mut last = BTreeMap::new();
    for placed in read {
        let source = source(placed);
        let n = places[&source];
        assert_eq!(number(&placed.message), n, "{output}: {source:?} came out as another record");
        assert!(belongs(n), "{output}: {n} does not belong here");
        if seen.insert(source) {
            let key = (placed.message.partition, placed.message.key.clone().unwrap());
            let before = last.insert(key, source.1);
            assert!(
                before.is_none_or(|before| before < source.1),
                "{output}: {source:?} comes after {before:?} of its key"
            );
        }
    }
    let missing: Vec<_> = places.iter().filter(|(place, n)| belongs(**n) && !seen.contains(place)).take(5).collect();
    assert!(missing.is_empty(), "{output}: {missing:?} and maybe more are missing");
}

/// How many input records are done, by the transform's own account; none while the broker does not know.
fn done(broker: &Broker) -> i64 {
    let told = broker.json(&["transform", "describe", "late", "--output", "json"]).unwrap().remove(0);
    assert_eq!(told["state"], "running", "{told}");
    let partitions = told["partitions"].as_array().unwrap();
    partitions.iter().map(|partition| partition["next_offset"].as_i64().unwrap()).sum()
}

fn wait_for(broker: &Broker, count: i64) {
    let start = Instant::now();
    while done(broker) < count {
        assert!(start.elapsed() < Duration::from_secs(120), "the transform does not get on");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn every_record_comes_out_where_it_belongs_and_keys_keep_their_order_over_kill_9() {
    let seed: u64 = rand::rng().random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut broker = Broker::start().unwrap();
    let partitions = PARTITIONS.to_string();
    for topic in ["flights", "delayed", "unparsed"] {
        broker.cli(&["topic", "create", topic, "--partitions", &partitions]).unwrap().ok().unwrap();
    }
    let module = guests::component("transform-flights").unwrap();
    let push = ["module", "push", module.to_str().unwrap(), "--name", "transform-flights", "--version", "1"];
    broker.cli(&push).unwrap().ok().unwrap();
    let deploy = ["transform", "deploy", "late", "--module", "transform-flights@1", "--input", "flights"];
    broker.cli(&[&deploy[..], &["--output", "delayed", "--output", "unparsed"]].concat()).unwrap().ok().unwrap();
    let mut places = BTreeMap::new();
    for (done_before, part) in (0..).step_by(PART as usize).zip(rows().chunks(PART as usize)) {
        places.extend(sdk::produce(&broker, "flights", part).unwrap().into_iter().zip(part.iter().map(number)));
        // Somewhere on the way through this part.
        let goal = done_before + random.random_range(1..PART / 2);
        wait_for(&broker, goal);
        broker.kill().unwrap();
        broker.restart().unwrap();
        eprintln!("killed past {goal}, goes on from {}", done(&broker));
    }
    wait_for(&broker, RECORDS);
    let delayed = sdk::consume(&broker, "delayed").unwrap();
    let unparsed = sdk::consume(&broker, "unparsed").unwrap();
    eprintln!("{RECORDS} records came out as {} and {}", delayed.len(), unparsed.len());
    check("delayed", &places, &delayed, |n| !is_broken(n));
    check("unparsed", &places, &unparsed, is_broken);
}

#[test]
fn the_checker_finds_what_it_looks_for() {
    let places: BTreeMap<(i32, i64), i64> = (0..4).map(|n| ((0, n), n)).collect();
    let record = |n: i64| {
        let value = format!("{{\"n\":{n},\"x\":1}}");
        let source = format!("late/flights/0/{n}/0");
        let message = Message::new(0, Some(b"k"), Some(value.as_bytes()));
        Placed { offset: n, message: message.with_header("millstream.src", Some(source.as_bytes())) }
    };
    let good: Vec<Placed> = [0, 1, 0, 1, 2, 3].map(record).into();
    check("good", &places, &good, |_| true);
    let broken: [fn(&mut Vec<Placed>); 4] = [
        |read| drop(read.pop()),
        |read| read.swap(4, 5),
        |read| read[5].message.value = Some(b"{\"n\":2,\"x\":1}".to_vec()),
        |read| read[0].message.headers[0].1 = Some(b"late/flights/0/3/0".to_vec()),
    ];
    for damage in broken {
        let mut read = good.clone();
        damage(&mut read);
        assert!(std::panic::catch_unwind(|| check("broken", &places, &read, |_| true)).is_err());
    }
    assert!(std::panic::catch_unwind(|| check("other", &places, &good, |n| n < 3)).is_err());
}
