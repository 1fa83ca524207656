//! The HTTP side as an operator's tools use it: health, readiness, and the log's level while the broker runs.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use millstream_test_support::{
    broker::Broker,
    http::{Answer, ask},
};
use serde_json::json;

const HTTP: [&str; 2] = ["--http", "127.0.0.1:0"];

fn asked(broker: &Broker, method: &str, path: &str, body: &str) -> Answer {
    ask(broker.http(), method, path, body).unwrap()
}

#[test]
fn health_and_readiness_are_told() {
    let broker = Broker::start_with(&HTTP).unwrap();
    let health = asked(&broker, "GET", "/health", "");
    assert_eq!((health.status, &health.json().unwrap()["status"]), (200, &json!("serving")), "{health:?}");
    assert_eq!(
        (health.header("content-type"), health.header("cache-control")),
        (Some("application/json"), Some("no-store"))
    );
    broker.cli(&["topic", "create", "t", "--partitions", "3"]).unwrap().ok().unwrap();
    let ready = asked(&broker, "GET", "/ready", "");
    let expected = json!({"ready": true, "partitions_led": 3, "partitions_out_of_service": 0});
    assert_eq!((ready.status, ready.json().unwrap()), (200, expected));
    let head = asked(&broker, "HEAD", "/ready", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""), "{head:?}");
    // What it lists is there.
    let list = asked(&broker, "GET", "/", "").json().unwrap();
    let paths: Vec<_> = list["paths"].as_array().unwrap().iter().map(|path| path["path"].as_str().unwrap()).collect();
    assert!(["/", "/health", "/ready", "/metrics", "/log-level"].iter().all(|path| paths.contains(path)), "{paths:?}");
    for path in paths {
        assert_eq!(asked(&broker, "GET", path, "").status, 200, "{path}");
    }
    assert!(broker.log().contains(&format!("curl http://{}/", broker.http())), "{}", broker.log());
}

#[test]
fn a_partition_that_is_out_of_service_is_told_and_the_broker_is_ready() {
    let mut broker = Broker::start_with(&HTTP).unwrap();
    broker.cli(&["topic", "create", "t", "--partitions", "2"]).unwrap().ok().unwrap();
    let input = "a\n".repeat(100);
    broker.cli_with(&["produce", "t", "--partition", "0"], input.as_bytes()).unwrap().ok().unwrap();
    broker.stop().unwrap();
    // A broker that has stopped is not there to be asked.
    let topics = std::fs::read_dir(broker.data_dir().join("logs")).unwrap();
    let topic = topics.map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    std::fs::write(topic.join("0/records-0/mark"), vec![0xff; 8192]).unwrap();
    broker.restart().unwrap();
    let ready = asked(&broker, "GET", "/ready", "");
    let expected = json!({"ready": true, "partitions_led": 1, "partitions_out_of_service": 1});
    assert_eq!((ready.status, ready.json().unwrap()), (200, expected), "{}", broker.log());
}

#[test]
fn what_is_logged_is_changed_while_it_runs() {
    let broker = Broker::start_with(&HTTP).unwrap();
    // A command connects; how many the broker has told of.
    let connected = || {
        broker.cli(&["topic", "list"]).unwrap().ok().unwrap();
        broker.log().lines().filter(|line| line.contains("DEBUG") && line.contains("connected")).count()
    };
    assert_eq!(connected(), 0);
    let before = asked(&broker, "GET", "/log-level", "").json().unwrap();
    assert_eq!(before["filter"], before["at_start"]);
    assert!(before["filter"].as_str().unwrap().contains("info"), "{before}");
    // A mistake is told with what would be none, and changes nothing.
    for mistake in ["inof", "", "millstream_broker=debug,", "\u{fffd}"] {
        let refused = asked(&broker, "PUT", "/log-level", mistake);
        let told = refused.json().unwrap()["error"].as_str().unwrap().to_owned();
        assert_eq!(refused.status, 400, "{mistake:?}: {told}");
        assert!(told.contains("info,millstream_log=debug"), "{mistake:?}: {told}");
    }
    assert_eq!(asked(&broker, "GET", "/log-level", "").json().unwrap(), before);
    assert_eq!(connected(), 0);
    let changed = asked(&broker, "PUT", "/log-level", "info,millstream_broker=debug");
    assert_eq!(changed.status, 200, "{changed:?}");
    assert!(changed.json().unwrap()["filter"].as_str().unwrap().contains("millstream_broker=debug"), "{changed:?}");
    let told = connected();
    assert!(told > 0, "{}", broker.log());
    let back = asked(&broker, "PUT", "/log-level", before["at_start"].as_str().unwrap());
    assert_eq!((back.status, back.json().unwrap()), (200, before));
    assert_eq!(connected(), told, "{}", broker.log());
}
