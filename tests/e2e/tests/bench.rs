//! `millstream bench`: its figures fit together, what it makes is gone after it, and a broker that stands still is seen by all that came due
//! meanwhile.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStderr, Command, Stdio},
    thread,
    time::Duration,
};

use millstream_test_support::{broker::Broker, cli};
use serde_json::Value;

/// Far above what any of it takes on two busy cores.
const LONG: Duration = Duration::from_secs(60);

/// The report of a run that ended well.
fn report(broker: &Broker, words: &[&str]) -> Value {
    let mut lines = broker.json(&[&["bench"], words, &["--output", "json"]].concat()).unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path} in {report}"))
}

/// What holds of every report.
fn check(report: &Value, latencies: &[&str]) {
    let (seconds, records) = (number(report, "/seconds"), number(report, "/records"));
    assert!(seconds > 0.0 && records > 0.0, "{report}");
    // Of rounded figures.
    let close = |one: f64, other: f64| (one - other).abs() <= 0.01 * other + 1.0;
    assert!(close(number(report, "/records_per_second"), records / seconds), "{report}");
    assert!(close(number(report, "/megabytes_per_second"), number(report, "/bytes") / seconds / 1e6), "{report}");
    for name in ["/errors", "/unanswered", "/not_received"] {
        assert_eq!(number(report, name), 0.0, "{name}: {report}");
    }
    assert!(number(report, "/cpu_seconds") > 0.0 && report["interrupted"] == false, "{report}");
    assert_eq!(report["latency"].as_object().unwrap().len(), latencies.len(), "{report}");
    for name in latencies {
        let at = |part: &str| number(report, &format!("/latency/{name}/{part}"));
        assert!(at("samples") > 0.0, "{report}");
        let order = ["p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms"].map(at);
        assert!(order[0] > 0.0 && order.is_sorted(), "{order:?} in {report}");
    }
}

fn topics(broker: &Broker) -> usize {
    broker.json(&["topic", "list", "--output", "json"]).unwrap().len()
}

#[test]
fn each_measures_with_a_topic_of_its_own_that_is_gone_afterwards() {
    let mut broker = Broker::start().unwrap();
    let brief = ["--seconds", "1", "--warmup", "0", "--size", "100"];
    let closed = report(&broker, &[&["produce", "--producers", "3", "--batch", "10"], &brief[..]].concat());
    check(&closed, &["acknowledged"]);
    assert_eq!((&closed["loop"], &closed["bench"]), (&"closed".into(), &"produce".into()), "{closed}");
    assert_eq!(number(&closed, "/bytes"), number(&closed, "/records") * 100.0);
    assert_eq!(
        number(&closed, "/latency/acknowledged/samples") * 10.0,
        number(&closed, "/records"),
        "a batch is a sample"
    );

    let open = report(&broker, &[&["produce", "--rate", "500", "--keys", "7"], &brief[..]].concat());
    check(&open, &["acknowledged"]);
    assert_eq!(open["loop"], "open");
    assert_eq!((number(&open, "/records"), number(&open, "/unsent")), (500.0, 0.0), "as many as were due: {open}");

    let way = ["e2e", "--rate", "500", "--batch", "5", "--durability", "replicated", "--producers", "2"];
    let e2e = report(&broker, &[&way, &brief[..]].concat());
    check(&e2e, &["acknowledged", "received"]);
    assert_eq!(number(&e2e, "/latency/received/samples"), number(&e2e, "/records"), "{e2e}");

    let read = ["consume", "--records", "2000", "--consumers", "2", "--partitions", "3"];
    let read = report(&broker, &[&read, &brief[..]].concat());
    check(&read, &["waited"]);
    assert_eq!(number(&read, "/bytes"), number(&read, "/records") * 100.0);
    // Fewer records than fill a batch for each, and a partition of the user's without any.
    let few = ["consume", "--records", "60", "--consumers", "6"];
    check(&report(&broker, &[&few, &brief[..]].concat()), &["waited"]);
    assert_eq!(topics(&broker), 0);

    // One of the user's stays, and is read again; a page for people names what it tells.
    broker.cli(&["topic", "create", "mine"]).unwrap().ok().unwrap();
    let told = broker.cli(&[&["bench", "e2e", "--topic", "mine"], &brief[..]].concat()).unwrap().ok().unwrap().text();
    for words in
        ["closed loop: 1 producer, each with 100 records of 100 bytes", "records/s", "MB/s", "LATENCY, MS", "P99.9"]
    {
        assert!(told.contains(words), "no {words:?} in {told}");
    }
    let again = report(&broker, &[&["consume", "--topic", "mine"], &brief[..]].concat());
    check(&again, &["waited"]);
    broker.cli(&["topic", "create", "uneven", "--partitions", "3"]).unwrap().ok().unwrap();
    broker.cli_with(&["produce", "uneven", "--partition", "1"], b"one\n").unwrap().ok().unwrap();
    check(&report(&broker, &[&["consume", "--topic", "uneven", "--consumers", "3"], &brief[..]].concat()), &["waited"]);
    assert_eq!(topics(&broker), 2);
    broker.stop().unwrap();
}

/// More is due than anybody gets through: what was sent is measured, the rest is told.
#[test]
fn a_load_that_cannot_be_kept_is_told() {
    let mut broker = Broker::start().unwrap();
    let words = ["bench", "produce", "--rate", "10000000", "--size", "10", "--seconds", "1", "--warmup", "0"];
    let finished = broker.cli(&[&words[..], &["--output", "json"]].concat()).unwrap().ok().unwrap();
    let report = &finished.json().unwrap()[0];
    check(report, &["acknowledged"]);
    assert!(number(report, "/unsent") > 0.0, "{report}");
    assert_eq!(number(report, "/records") + number(report, "/unsent"), 10_000_000.0, "{report}");
    assert!(finished.stderr.contains("the load was not kept"), "{}", finished.stderr);
    broker.stop().unwrap();
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let mut broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "empty"]).unwrap().ok().unwrap();
    for (words, told) in [
        (&["produce", "--topic", "absent"][..], "absent"),
        (&["e2e", "--topic", "absent"], "absent"),
        (&["consume", "--topic", "absent"], "absent"),
        (&["consume", "--topic", "empty"], "empty has no records"),
        (&["consume", "--topic", "empty", "--consumers", "2"], "--consumers"),
    ] {
        let finished = broker.cli(&[&["bench"], words].concat()).unwrap();
        assert_eq!(finished.code, Some(1), "{words:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(told), "{words:?}: no {told:?} in {}", finished.stderr);
    }
    assert_eq!(topics(&broker), 1);
    broker.stop().unwrap();
}

/// A run that is under way.
struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Running {
    /// Starts it, and waits until it counts.
    fn start(broker: &Broker, words: &[&str]) -> Self {
        let mut command = Command::new(cli::millstream().unwrap());
        command.args(["--broker", &broker.address().to_string(), "bench"]).args(words);
        command.args(["--progress", "--output", "json", "--warmup", "1"]).env("MILLSTREAM_PROFILE", broker.profile());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut told = String::new();
        let counts = |line: &str| line.contains(" records/s") && !line.contains(" 0 records/s");
        while !told.lines().any(counts) {
            assert!(stderr.read_line(&mut told).unwrap() > 0, "it ended: {told}");
        }
        Self { child, stderr }
    }

    /// Its exit code and its report.
    fn end(mut self) -> (Option<i32>, Value) {
        let status = cli::wait(&mut self.child, LONG).unwrap();
        let (mut told, mut errors) = (String::new(), String::new());
        self.child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
        self.stderr.read_to_string(&mut errors).unwrap();
        (status.code(), serde_json::from_str(&told).unwrap_or_else(|_| panic!("{told:?}, {errors}")))
    }
}

fn signal(name: &str, process: u32) {
    assert!(Command::new("kill").args([name, &process.to_string()]).status().unwrap().success());
}

/// The broker stands still for a second of four. A load that waited for it would see that once: what came due meanwhile sees it each.
#[test]
fn a_broker_that_stands_still_is_seen_by_all_that_came_due_meanwhile() {
    let mut broker = Broker::start().unwrap();
    let running = Running::start(&broker, &["produce", "--rate", "200", "--seconds", "4", "--size", "10"]);
    signal("-STOP", broker.process_id());
    thread::sleep(Duration::from_secs(1));
    signal("-CONT", broker.process_id());
    let (code, report) = running.end();
    assert_eq!(code, Some(0), "{report}");
    // And perhaps the last of the warm-up.
    assert!(number(&report, "/records") >= 800.0 && number(&report, "/unsent") == 0.0, "{report}");
    // 200 of 800 records came due in that second, 150 of them more than a quarter of a second before its end.
    assert!(number(&report, "/latency/acknowledged/p90_ms") >= 250.0, "{report}");
    assert!(number(&report, "/latency/acknowledged/max_ms") >= 900.0, "{report}");
    broker.stop().unwrap();
}

#[test]
fn whoever_ends_it_early_is_told_what_was_measured_and_nothing_is_left() {
    let mut broker = Broker::start().unwrap();
    for words in [
        &["produce", "--seconds", "3600"][..],
        &["e2e", "--rate", "100", "--seconds", "3600"],
        &["consume", "--seconds", "3600"],
    ] {
        let running = Running::start(&broker, words);
        signal("-INT", running.child.id());
        let (code, report) = running.end();
        assert_eq!(code, Some(0), "{report}");
        assert!(report["interrupted"] == true && number(&report, "/records") > 0.0, "{report}");
        assert!(number(&report, "/seconds") < 3600.0, "{report}");
        assert_eq!(topics(&broker), 0, "{words:?}");
    }
    broker.stop().unwrap();
}
