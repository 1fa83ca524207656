//! `/metrics` of the program: what it tells is what was produced and consumed, and any scraper takes it.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use millstream_test_support::{
    broker::Broker,
    exposition::{Family, parse, value},
    http::ask,
};

const HTTP: [&str; 2] = ["--http", "127.0.0.1:0"];

/// What labels there may be: none whose values clients choose without end.
const LABELS: [&str; 12] = [
    "api",
    "by",
    "cluster",
    "le",
    "module",
    "node_id",
    "partition",
    "state",
    "topic",
    "transform",
    "transport",
    "version",
];

fn scrape(broker: &Broker) -> Vec<Family> {
    let answer = ask(broker.http(), "GET", "/metrics", "").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let families = parse(&answer.body).unwrap_or_else(|error| panic!("{error:#}\n{}", answer.body));
    for sample in families.iter().flat_map(|family| &family.samples) {
        assert!(sample.labels.keys().all(|label| LABELS.contains(&label.as_str()) || label == "use"), "{sample:?}");
    }
    families
}

/// Records in, bytes in, records out and bytes out of a topic.
fn traffic(families: &[Family], topic: &str) -> [f64; 4] {
    ["records_in", "bytes_in", "records_out", "bytes_out"]
        .map(|what| value(families, &format!("millstream_topic_{what}_total"), &[("topic", topic)]).unwrap())
}

fn produce(broker: &Broker, topic: &str, records: usize) {
    let input: String = (0..records).map(|at| format!("record {at}\n")).collect();
    broker.cli_with(&["produce", topic], input.as_bytes()).unwrap().ok().unwrap();
}

fn consume(broker: &Broker, topic: &str) -> usize {
    let words = ["consume", topic, "--from", "beginning", "--until", "end"];
    broker.cli(&words).unwrap().ok().unwrap().text().lines().count()
}

#[test]
fn counters_go_up_by_what_was_produced_and_consumed() {
    let mut broker = Broker::start_with(&HTTP).unwrap();
    let fresh = scrape(&broker);
    let of = |families: &[Family], name: &str, labels: &[(&str, &str)]| value(families, name, labels).unwrap();
    assert_eq!(of(&fresh, "millstream_ready", &[]), 1.0);
    assert_eq!(of(&fresh, "millstream_requests_total", &[("api", "Produce")]), 0.0);
    for topic in ["t", "other"] {
        broker.cli(&["topic", "create", topic, "--partitions", "3"]).unwrap().ok().unwrap();
    }
    assert_eq!(traffic(&scrape(&broker), "t"), [0.0; 4]);

    produce(&broker, "t", 1234);
    let produced = scrape(&broker);
    let [records_in, bytes_in, ..] = traffic(&produced, "t");
    assert_eq!(records_in, 1234.0);
    assert_eq!(of(&produced, "millstream_topic_log_bytes", &[("topic", "t")]), bytes_in);
    let ends = ["0", "1", "2"].map(|partition| {
        let labels = [("topic", "t"), ("partition", partition)];
        let [end, high_watermark] = ["log_end_offset", "high_watermark"]
            .map(|what| of(&produced, &format!("millstream_partition_{what}"), &labels));
        assert_eq!((end, of(&produced, "millstream_partition_log_start_offset", &labels)), (high_watermark, 0.0));
        end
    });
    assert_eq!(ends.iter().sum::<f64>(), 1234.0);
    assert!(of(&produced, "millstream_requests_total", &[("api", "Produce")]) >= 1.0);
    let syncs = "millstream_journal_sync_duration_seconds_count";
    assert!(of(&produced, syncs, &[]) > of(&fresh, syncs, &[]));

    // Each is sent to each reader once.
    for readers in 1..=2 {
        assert_eq!(consume(&broker, "t"), 1234);
        let expected = f64::from(readers);
        assert_eq!(traffic(&scrape(&broker), "t"), [1234.0, bytes_in, expected * 1234.0, expected * bytes_in]);
    }
    let now = scrape(&broker);
    assert_eq!(traffic(&now, "other"), [0.0; 4]);
    assert_eq!(of(&now, "millstream_request_errors_total", &[("api", "Produce")]), 0.0);
    // All that has come and gone is told, and nobody stays.
    assert!(of(&now, "millstream_connections_accepted_total", &[("transport", "quic")]) >= 5.0);
    assert_eq!(of(&now, "millstream_series_limited", &[("by", "topic")]), 0.0);
    let refused = "millstream_request_errors_total";
    let before = of(&now, refused, &[("api", "CreateTopics")]);
    assert_eq!(broker.cli(&["topic", "create", "t"]).unwrap().code, Some(1));
    assert_eq!(of(&scrape(&broker), refused, &[("api", "CreateTopics")]), before + 1.0);

    // What is counted begins anew with the process; what is on disk is there.
    broker.stop().unwrap();
    broker.restart().unwrap();
    let again = scrape(&broker);
    assert_eq!(traffic(&again, "t"), [0.0; 4]);
    assert_eq!(of(&again, "millstream_topic_log_bytes", &[("topic", "t")]), bytes_in);
    assert_eq!(of(&again, "millstream_partition_log_end_offset", &[("topic", "t"), ("partition", "0")]), ends[0]);
    broker.cli(&["topic", "delete", "t"]).unwrap().ok().unwrap();
    assert!(value(&scrape(&broker), "millstream_topic_log_bytes", &[("topic", "t")]).is_err());
}

/// Each page is whole, whatever goes on meanwhile, and at the end none is missing.
#[test]
fn scrapers_beside_producers_miss_nothing_and_lose_nobody_a_record() {
    let broker = Broker::start_with(&HTTP).unwrap();
    broker.cli(&["topic", "create", "t", "--partitions", "50"]).unwrap().ok().unwrap();
    let ended = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                // However it ends: nobody waits for it in vain.
                let produced = std::panic::catch_unwind(AssertUnwindSafe(|| produce(&broker, "t", 5000)));
                ended.fetch_add(1, Ordering::SeqCst);
                produced.unwrap();
            });
            scope.spawn(|| {
                let mut before = 0.0;
                while ended.load(Ordering::SeqCst) < 3 {
                    let [now, ..] = traffic(&scrape(&broker), "t");
                    assert!(now >= before, "{now} after {before}");
                    before = now;
                }
            });
        }
    });
    assert_eq!(traffic(&scrape(&broker), "t")[0], 15_000.0);
    assert_eq!(consume(&broker, "t"), 15_000);
}
