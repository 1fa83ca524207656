//! The disk refuses a sync: does the broker stop and say what to do, and is all that it acknowledged there at the next start?

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use millstream_test_support::{
    broker::Broker,
    message::Message,
    sdk::{self, Sdk},
    strace::Strace,
};

/// How long any one thing may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn message(number: usize) -> Message {
    Message::new(0, None, Some(format!("value {number}").as_bytes()))
}

#[test]
fn a_failed_sync_stops_the_broker_and_what_was_acknowledged_is_there_afterwards() {
    let mut broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "t"]).unwrap().ok().unwrap();
    let acknowledged: Vec<_> = (0..50).map(message).collect();
    sdk::produce(&broker, "t", &acknowledged).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let client = runtime.block_on(async { Arc::new(Sdk::connect(&broker).await.unwrap()) });
    let refusal = Strace::inject(broker.process_id(), "fdatasync", "error=EIO").unwrap();
    let sent = runtime.spawn(async move { client.send("t", &message(50)).await });
    let start = Instant::now();
    while broker.is_running().unwrap() {
        assert!(start.elapsed() < PATIENCE, "the broker goes on after a failed sync:\n{}", broker.log());
        thread::sleep(Duration::from_millis(1));
    }
    drop(refusal);
    // Nobody may have been told that it is durable.
    let told = sent.is_finished().then(|| runtime.block_on(sent).unwrap());
    assert!(!matches!(told, Some(Ok(_))), "acknowledged: {told:?}");
    let said = broker.log();
    for part in [
        "cannot sync",
        ".journal",
        "The broker must stop: what it acknowledged is safe",
        "Before you start it again, see in the kernel's log what is wrong with the disk",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    broker.kill().unwrap();
    broker.restart().unwrap();
    let read = sdk::consume(&broker, "t").unwrap();
    let read: Vec<_> = read.into_iter().map(|placed| placed.message.value.unwrap()).collect();
    let mut expected: Vec<_> = (0..=50).map(|number| message(number).value.unwrap()).collect();
    // What was not acknowledged may be there or not.
    expected.truncate(read.len().max(acknowledged.len()));
    assert_eq!(read, expected);
    sdk::produce(&broker, "t", &[message(51)]).unwrap();
}
