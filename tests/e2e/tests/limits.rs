//! A running broker that the operating system denies room or descriptors: does it refuse, go on, and take records again?

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::time::Duration;

use millstream_test_support::{
    broker::Broker,
    message::Message,
    sdk::{self, Sdk},
};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// A record that is not acknowledged within this is one that was refused: clients go on trying for longer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Sets the broker's soft limit; gives the one before.
#[track_caller]
fn limit(broker: &Broker, resource: Resource, most: Option<u64>) -> Option<u64> {
    let pid = Pid::from_raw(i32::try_from(broker.process_id()).unwrap());
    let before = prlimit(pid, resource, Rlimit { current: Some(1 << 40), maximum: None });
    // Without the right to raise the hard limit: keep it.
    let (before, maximum) = match before {
        Ok(before) => (before.current, None),
        Err(_) => {
            let maximum = rustix::process::getrlimit(resource).maximum;
            (maximum, maximum)
        }
    };
    prlimit(pid, resource, Rlimit { current: most, maximum }).unwrap();
    before
}

async fn takes(broker: &Broker, topic: &str, message: &Message) -> bool {
    // A client of its own: what an earlier one still tries to send goes with it.
    let sdk = Sdk::connect(broker).await.unwrap();
    matches!(tokio::time::timeout(PATIENCE, sdk.send(topic, message)).await, Ok(Ok(_)))
}

/// Sends until a record is refused; gives how many were taken.
async fn fill(broker: &Broker, topic: &str, message: &Message, most: usize) -> usize {
    let sdk = Sdk::connect(broker).await.unwrap();
    for taken in 0..most {
        match tokio::time::timeout(PATIENCE, sdk.send(topic, message)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return taken,
        }
    }
    panic!("{most} records were taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_files_refuses_records_and_not_the_broker() {
    let mut broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "full"]).unwrap().ok().unwrap();
    // Past a journal file, which is 128 MiB: only segments reach it.
    limit(&broker, Resource::Fsize, Some(130 << 20));
    let message = Message::new(0, None, Some(&vec![b'x'; 900_000]));
    let taken = fill(&broker, "full", &message, 200).await;
    assert!(taken > 100, "{taken}");
    assert!(broker.is_running().unwrap(), "{}", broker.log());
    let read = tokio::task::block_in_place(|| sdk::consume(&broker, "full").unwrap());
    assert_eq!(read.len(), taken, "what was refused left nothing, what was taken is there");
    limit(&broker, Resource::Fsize, None);
    assert!(takes(&broker, "full", &message).await);
    broker.kill().unwrap();
    broker.restart().unwrap();
    let read = tokio::task::block_in_place(|| sdk::consume(&broker, "full").unwrap());
    assert!(read.len() > taken, "{} of {taken}", read.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lack_of_descriptors_refuses_records_and_not_the_broker() {
    let mut broker = Broker::start().unwrap();
    for topic in ["before", "after"] {
        broker.cli(&["topic", "create", topic]).unwrap().ok().unwrap();
    }
    let message = Message::new(0, None, Some(b"x"));
    assert!(takes(&broker, "before", &message).await);
    let usual = limit(&broker, Resource::Nofile, Some(1));
    // Its segment is open already; the other's cannot be opened.
    let sent = tokio::task::block_in_place(|| sdk::produce(&broker, "before", std::slice::from_ref(&message)));
    sent.unwrap();
    assert!(!takes(&broker, "after", &message).await);
    assert!(broker.is_running().unwrap(), "{}", broker.log());
    limit(&broker, Resource::Nofile, usual);
    assert!(takes(&broker, "after", &message).await);
}
