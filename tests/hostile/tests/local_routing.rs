//! Producers that run their topics' partitioners themselves, and partitioners that fail on a record: it has the verdict that the broker
//! gives, its neighbours are none the worse, and nothing of the module stays when the producer goes.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_client::{Client, Delivered, LocalRouting, ProduceError, ProducerOptions, ProducerRecord};
use millstream_model::PartitionId;
use millstream_test_support::{broker::Broker, sdk};
use millstream_tests_hostile::text_guests::{self, MARKER};

/// Long enough for a busy machine; nothing waits it out but a failure.
const PATIENCE: Duration = Duration::from_secs(60);
const RECORDS: usize = 300;
const POISON: usize = 123;

/// Sends records, one of which no partitioner here takes, all at once.
async fn produce(
    client: &Client,
    topic: &str,
    local_routing: Option<LocalRouting>,
) -> Vec<Result<Delivered, ProduceError>> {
    let producer = client.producer(ProducerOptions { local_routing, ..ProducerOptions::default() });
    let mut under_way = Vec::new();
    for number in 0..RECORDS {
        let key = if number == POISON { MARKER.into() } else { format!("k{number}") };
        let record = ProducerRecord {
            topic: topic.into(),
            key: Some(key.into()),
            value: Some(number.to_string().into()),
            ..ProducerRecord::default()
        };
        under_way.push(producer.send(record).await.unwrap());
    }
    let mut fates = Vec::new();
    for delivery in under_way {
        fates.push(delivery.await);
    }
    fates
}

/// What this process has reserved, bytes: a module host has gigabytes of it.
fn reserved() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}

#[test]
fn a_record_on_which_the_module_fails_has_the_brokers_verdict_and_its_neighbours_their_places() {
    let broker = Broker::start().unwrap();
    for (name, module) in
        [("trap", text_guests::trapping_partitioner().unwrap()), ("liar", text_guests::lying_partitioner().unwrap())]
    {
        let path = broker.scratch().join(format!("{name}.wasm"));
        std::fs::write(&path, module).unwrap();
        let push = ["module", "push", path.to_str().unwrap(), "--name", name, "--version", "1"];
        broker.cli(&push).unwrap().ok().unwrap();
        let create = ["topic", "create", name, "--partitions", "3", "--partitioner", &format!("{name}@1")];
        broker.cli(&create).unwrap().ok().unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = sdk::alert(&broker).await.unwrap();
        for topic in ["trap", "liar"] {
            let mut verdicts = Vec::new();
            for local_routing in [None, Some(LocalRouting::default())] {
                let fates = produce(&client, topic, local_routing).await;
                for (number, fate) in fates.into_iter().enumerate() {
                    match fate {
                        Err(error) if number == POISON => verdicts.push(error.to_string()),
                        Ok(delivered) if number != POISON => {
                            assert!(topic != "trap" || delivered.partition == PartitionId(1), "{number}");
                        }
                        fate => panic!("{topic} {number}: {fate:?}"),
                    }
                }
            }
            assert_eq!(verdicts[0], verdicts[1], "there is one source of verdicts");
            let why = if topic == "trap" { "trapped" } else { "partition 3" };
            assert!(verdicts[0].contains(&format!("partitioner {topic}@1 of {topic}: ")), "{verdicts:?}");
            assert!(verdicts[0].contains(why), "{verdicts:?}");
        }
    });
    let read = sdk::consume(&broker, "trap").unwrap();
    let values: Vec<_> = read.into_iter().map(|placed| Bytes::from(placed.message.value.unwrap())).collect();
    let expected = (0..RECORDS).filter(|number| *number != POISON).map(|number| Bytes::from(number.to_string()));
    let expected: Vec<_> = expected.collect();
    assert_eq!(values, [&expected[..], &expected].concat(), "each is there once, in the order sent");
    // The producers are gone, and their clients' tasks end: so do the modules' hosts, which had reserved room for memories.
    let start = Instant::now();
    while reserved() > 12 << 30 {
        assert!(start.elapsed() < PATIENCE, "{} MiB are reserved still", reserved() >> 20);
        std::thread::sleep(Duration::from_millis(10));
    }
}
