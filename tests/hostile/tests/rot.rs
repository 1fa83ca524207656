//! A bit that flips in a segment's file: is it found when it is read, told to whoever reads and to the operator, and all else
//! served?

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use millstream_model::{Offset, PartitionId};
use millstream_protocol::{
    ErrorCode,
    messages::fetch::{FetchPartition, FetchRequest, FetchTopic, PartitionData},
};
use millstream_tests_hostile::{door::Client, victim::Victim};

/// Long enough for a busy machine; nothing waits it out but a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// The segment that holds these bytes, and where in it.
fn find(dir: &Path, value: &[u8]) -> Option<(PathBuf, u64)> {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if let Some(found) = find(&path, value) {
                return Some(found);
            }
        } else if path.extension().is_some_and(|ending| ending == "log") {
            let bytes = std::fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(value.len()).position(|window| window == value) {
                return Some((path, at as u64));
            }
        }
    }
    None
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// As Kafka's clients ask.
fn fetch(victim: &Victim, from: i64) -> PartitionData {
    let mut client = Client::connect(victim.broker().address(), PATIENCE).unwrap();
    let partition = FetchPartition {
        partition: PartitionId(0),
        fetch_offset: Offset(from),
        partition_max_bytes: i32::MAX,
        ..Default::default()
    };
    let topics = vec![FetchTopic { topic: "rotten".into(), partitions: vec![partition], ..Default::default() }];
    let request = FetchRequest { max_wait_ms: 1000, min_bytes: 1, topics, ..Default::default() };
    client.call(11, request).unwrap().responses.remove(0).partitions.remove(0)
}

#[test]
fn rot_is_told_to_readers_and_to_the_operator_and_all_else_is_served() {
    let mut victim = Victim::start().unwrap();
    victim.broker().cli(&["topic", "create", "rotten"]).unwrap().ok().unwrap();
    for line in ["the first\n", "the second\n", "the third\n", "the fourth\n"] {
        victim.broker().cli_with(&["produce", "rotten"], line.as_bytes()).unwrap().ok().unwrap();
    }
    // A clean stop and a start: what is read now comes from the disk.
    victim.broker_mut().stop().unwrap();
    let logs = victim.broker().data_dir().join("logs");
    let (path, second) = find(&logs, b"the second").unwrap();
    flip(&path, second + 4);
    victim.broker_mut().restart().unwrap();
    // And one while it runs.
    let (_, fourth) = find(&logs, b"the fourth").unwrap();
    flip(&path, fourth);

    let read = |from: &str| victim.broker().cli(&["consume", "rotten", "--from", from, "--until", "end"]).unwrap();
    for _ in 0..3 {
        let read = read("beginning");
        assert_eq!((read.code, read.text().as_str()), (Some(1), "the first\n"));
        let told = &read.stderr;
        assert!(told.contains(&path.display().to_string()) && !told.contains("trying again"), "{told}");
        assert!(told.contains("offsets 1 to 1 cannot be served") && told.contains("read on from 2"), "{told}");
    }
    let read = read("2");
    assert_eq!((read.code, read.text().as_str()), (Some(1), "the third\n"));

    for (from, code) in [(0, ErrorCode::None), (1, ErrorCode::CorruptMessage), (2, ErrorCode::None)] {
        let answer = fetch(&victim, from);
        assert_eq!((answer.error_code, answer.records.is_empty()), (code, !code.is_ok()), "{from}");
    }
    assert_eq!(fetch(&victim, 3).error_code, ErrorCode::CorruptMessage);

    let warned = |offsets: &str| victim.broker().log().matches(&format!("offsets {offsets} cannot be served")).count();
    assert_eq!((warned("1 to 1"), warned("3 to 3")), (1, 1), "{}", victim.broker().log());
    victim.serves().unwrap();
}
