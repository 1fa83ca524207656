//! Is what is written well formed, whatever operators name things; and is METRICS.md of it?

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use millstream_broker::{
    Buckets, CallMetrics, CatalogMetrics, ConnectionMetrics, JournalMetrics, Limited, LogTotals, MemoryMetrics,
    ModuleMetrics, OffsetMetrics, RequestMetrics, RuntimeMetrics, TrafficMetrics, TransformCounts, TransformTotals,
};
use millstream_model::{BrokerId, PartitionId, TimestampMs};

use self::exposition::{Family, parse, value};
use super::*;

/// The tests' own reader, which they use on the program as well.
#[allow(dead_code, unreachable_pub, reason = "a file of another crate")]
#[path = "../../../../../../../tests/support/src/exposition.rs"]
mod exposition;

const PAGE: &str = include_str!("../../../../../METRICS.md");

fn buckets(counts: [u64; 3]) -> Buckets {
    static BOUNDS: [Duration; 2] = [Duration::from_micros(2500), Duration::from_secs(1)];
    Buckets { bounds: &BOUNDS, counts: counts.into(), sum: Duration::from_millis(1500) }
}

/// Numbers that tell where they come from.
fn metrics() -> Metrics {
    let calls = CallMetrics { calls: 41, failures: 42, traps: 43, fuel: u64::MAX, started: 45 };
    let counts = TransformCounts { records_in: 61, records_out: 62, errors: 63, left_out: 64 };
    let topic = |name: &str, number: u64| TopicMetrics {
        name: name.into(),
        traffic: TrafficMetrics {
            records_in: number,
            bytes_in: number + 1,
            records_out: number + 2,
            bytes_out: number + 3,
        },
        log_bytes: number + 4,
        offsets: OffsetMetrics { start: 1, end: 9, high_watermark: 8 },
        partitions: [0, 1].map(|at| (PartitionId(at), OffsetMetrics { start: 0, end: 4, high_watermark: 3 })).into(),
    };
    let transform = |name: &str, state, lag| TransformMetrics { name: name.into(), state, counts, lag };
    Metrics {
        broker: BrokerId(7),
        cluster: "c-1".into(),
        started_at: TimestampMs(1_700_000_000_250),
        ready: true,
        failed: false,
        disk_full: false,
        connections: vec![ConnectionMetrics { transport: "quic", open: 1, accepted: 2, refused: 3 }],
        requests: RequestMetrics {
            by_api: vec![("Produce", 11, 1), ("Fetch", 12, 0)],
            produce: buckets([1, 2, 3]),
            fetch: buckets([0, 0, 0]),
            others: buckets([4, 0, 0]),
        },
        traffic: TrafficMetrics { records_in: 21, bytes_in: 22, records_out: 23, bytes_out: 24 },
        topics: vec![topic("a", 100), topic("b\\\"\n\u{e9}", 200)],
        offsets: OffsetMetrics { start: 2, end: 18, high_watermark: 16 },
        topics_log_bytes: 25,
        logs: LogTotals { logs: 5, bytes: 31, segments: 6 },
        journal: JournalMetrics {
            used_bytes: 1,
            max_bytes: 2,
            files: 3,
            waiting: 4,
            waiting_bytes: 5,
            written_bytes: 6,
            syncs: buckets([7, 8, 9]),
        },
        segments_open: 4,
        partitions_led: 4,
        partitions_out_of_service: 1,
        catalog: CatalogMetrics {
            entry: 77,
            topics: 2,
            partitions: 5,
            modules: 1,
            views: 1,
            transforms: [("running", 1), ("paused", 1), ("failed", 0)],
        },
        memory: vec![MemoryMetrics { purpose: "frames", used: 1, max: 2 }],
        catch_up_waiting: 3,
        runtime: RuntimeMetrics {
            calls: CallMetrics { calls: 51, failures: 52, traps: 53, fuel: 54, started: 55 },
            instances: 1,
            instances_max: 2,
            memory_bytes: 3,
            memory_bytes_max: 4,
            compiled: buckets([0, 1, 0]),
            compile_failures: 1,
        },
        modules: vec![ModuleMetrics { module: "m@1".into(), calls }],
        transforms: vec![transform("one", "running", Some(5)), transform("two", "paused", None)],
        transform_totals: TransformTotals { counts: TransformCounts { records_in: 71, ..counts }, lag: 5 },
        limited: Limited::default(),
    }
}

fn process() -> Process {
    Process {
        resident_bytes: 1,
        virtual_bytes: 2,
        open_fds: 3,
        max_fds: None,
        cpu_seconds: 0.01,
        threads: 4,
        started_at: 1.5,
    }
}

fn read(metrics: Option<&Metrics>) -> Vec<Family> {
    let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let text = render(metrics, Some(ends), Some(&process()));
    parse(&text).unwrap_or_else(|error| panic!("{error:#}\n{text}"))
}

#[track_caller]
fn check(families: &[Family], name: &str, labels: &[(&str, &str)], expected: f64) {
    let found = value(families, name, labels).unwrap();
    assert!((found - expected).abs() <= expected.abs() * 1e-12, "{name}{labels:?}: {found}");
}

#[test]
fn what_is_written_is_well_formed_and_true() {
    let families = read(Some(&metrics()));
    for (name, labels, expected) in [
        ("millstream_broker_info", &[("cluster", "c-1"), ("node_id", "7")][..], 1.0),
        ("millstream_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0),
        ("millstream_start_time_seconds", &[], 1_700_000_000.25),
        ("millstream_ready", &[], 1.0),
        ("millstream_tls_certificate_end_time_seconds", &[], 1_800_000_000.0),
        ("millstream_connections_refused_total", &[("transport", "quic")], 3.0),
        ("millstream_requests_total", &[("api", "Fetch")], 12.0),
        ("millstream_request_errors_total", &[("api", "Produce")], 1.0),
        ("millstream_request_duration_seconds_bucket", &[("api", "Produce"), ("le", "0.0025")], 1.0),
        ("millstream_request_duration_seconds_bucket", &[("api", "Produce"), ("le", "1")], 3.0),
        ("millstream_request_duration_seconds_bucket", &[("api", "Produce"), ("le", "+Inf")], 6.0),
        ("millstream_request_duration_seconds_sum", &[("api", "other")], 1.5),
        ("millstream_topic_records_in_total", &[("topic", "a")], 100.0),
        ("millstream_topic_bytes_out_total", &[("topic", "b\\\"\n\u{e9}")], 203.0),
        ("millstream_topic_log_bytes", &[("topic", "a")], 104.0),
        ("millstream_partition_high_watermark", &[("topic", "a"), ("partition", "1")], 3.0),
        ("millstream_journal_sync_duration_seconds_count", &[], 24.0),
        ("millstream_catalog_applied_entry", &[], 77.0),
        ("millstream_module_fuel_total", &[("module", "m@1")], u64::MAX as f64),
        ("millstream_transform_state", &[("transform", "two"), ("state", "paused")], 1.0),
        ("millstream_transform_state", &[("transform", "two"), ("state", "running")], 0.0),
        ("millstream_transform_lag_records", &[("transform", "one")], 5.0),
        ("millstream_series_limited", &[("by", "topic")], 0.0),
        ("process_cpu_seconds_total", &[], 0.01),
        ("process_max_fds", &[], f64::INFINITY),
    ] {
        let found = value(&families, name, labels).unwrap();
        assert!(found == expected, "{name}{labels:?}: {found}");
    }
    // Of one that has stood still, nothing is known.
    assert!(value(&families, "millstream_transform_lag_records", &[("transform", "two")]).is_err());
    check(&families, "process_start_time_seconds", &[], 1.5);
}

#[test]
fn what_is_too_much_is_told_as_a_whole_under_the_same_names() {
    let all = Limited { topics: true, partitions: true, modules: true, transforms: true };
    let whole = Metrics { topics: Vec::new(), modules: Vec::new(), transforms: Vec::new(), limited: all, ..metrics() };
    let families = read(Some(&whole));
    for (name, expected) in [
        ("millstream_topic_records_in_total", 21.0),
        ("millstream_topic_bytes_out_total", 24.0),
        ("millstream_topic_log_bytes", 25.0),
        ("millstream_partition_log_end_offset", 18.0),
        ("millstream_module_calls_total", 51.0),
        ("millstream_transform_records_in_total", 71.0),
        ("millstream_transform_lag_records", 5.0),
    ] {
        check(&families, name, &[], expected);
    }
    check(&families, "millstream_transform_state", &[("state", "running")], 1.0);
    for by in ["topic", "partition", "module", "transform"] {
        check(&families, "millstream_series_limited", &[("by", by)], 1.0);
    }
    let unbounded = ["topic", "partition", "module", "transform"];
    for sample in families.iter().flat_map(|family| &family.samples) {
        assert!(!unbounded.iter().any(|label| sample.labels.contains_key(*label)), "{sample:?}");
    }
    // Partitions alone.
    let mut some = metrics();
    some.limited.partitions = true;
    some.topics.iter_mut().for_each(|topic| topic.partitions.clear());
    let families = read(Some(&some));
    check(&families, "millstream_partition_log_end_offset", &[("topic", "a")], 9.0);
    check(&families, "millstream_topic_log_bytes", &[("topic", "a")], 104.0);
}

#[test]
fn a_broker_that_starts_tells_that_it_is_not_ready() {
    let families = read(None);
    check(&families, "millstream_ready", &[], 0.0);
    check(&families, "process_threads", &[], 4.0);
    assert!(families.iter().all(|family| family.name != "millstream_requests_total"));
}

/// A row of the page's tables: name, type, labels, unit, meaning.
fn row(family: &Family, unit: &str) -> String {
    let mut labels = Vec::new();
    for label in family.samples.iter().flat_map(|sample| sample.labels.keys()).filter(|label| *label != "le") {
        if !labels.contains(&format!("`{label}`")) {
            labels.push(format!("`{label}`"));
        }
    }
    let help = family.help.replace("/ready", "`/ready`");
    format!("| `{}` | {} | {} | {unit} | {help} |", family.name, family.kind, labels.join(", "))
}

#[test]
fn the_page_lists_what_is_told_and_nothing_else() {
    let told: BTreeMap<_, _> = read(Some(&metrics())).into_iter().map(|family| (family.name.clone(), family)).collect();
    let listed: BTreeMap<String, &str> = PAGE
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| (line.split('`').nth(1).unwrap_or_default().to_owned(), line))
        .collect();
    let names = |names: BTreeSet<&String>| names.into_iter().cloned().collect::<Vec<_>>();
    let missing: Vec<_> =
        told.values().filter(|family| !listed.contains_key(&family.name)).map(|family| row(family, "?")).collect();
    assert!(missing.is_empty(), "METRICS.md lacks:\n{}", missing.join("\n"));
    let gone = names(listed.keys().filter(|name| !told.contains_key(*name)).collect());
    assert!(gone.is_empty(), "METRICS.md lists what there is not: {gone:?}");
    for (name, line) in listed {
        let unit = line.split(" | ").nth(3).unwrap_or_default();
        assert_eq!(row(&told[&name], unit), line);
        for part in ["seconds", "bytes"] {
            assert_eq!(name.contains(&format!("_{part}")), unit == part, "{name} in {unit}");
        }
        assert!(unit != "?" && !unit.is_empty(), "{name} has no unit");
    }
    // Where the bounds are told of.
    for bound in [
        millstream_broker::TOPICS_MAX,
        millstream_broker::PARTITIONS_MAX,
        millstream_broker::MODULES_MAX,
        millstream_broker::TRANSFORMS_MAX,
    ] {
        let text = format!("{bound}");
        let grouped = if bound >= 1000 { format!("{},{:03}", bound / 1000, bound % 1000) } else { text };
        assert!(PAGE.contains(&format!(" {grouped} ")), "METRICS.md does not tell the bound {grouped}");
    }
}
