//! Does a topic keep its records for as long as it says, by the broker's clock, and no longer? A virtual hour takes no time.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::time::Duration;

use millstream_client::{NewTopic, ProducerOptions, ProducerRecord};
use millstream_env::sim::World;
use millstream_tests_sim::{SimBroker, client};

const RECORDS: i64 = 5;

async fn create(world: &World, name: &str, configs: &[(&str, &str)]) {
    let client = client(world).await.unwrap();
    let configs = configs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    client.admin().create_topic(NewTopic { name: name.into(), configs, ..NewTopic::default() }).await.unwrap();
    let producer = client.producer(ProducerOptions::default());
    for _ in 0..RECORDS {
        let record = ProducerRecord { topic: name.into(), value: Some("v".into()), ..ProducerRecord::default() };
        producer.send(record).await.unwrap().await.unwrap();
    }
    client.close().await;
}

/// Where the topic's only partition begins.
fn start(world: &World, name: &str) -> i64 {
    world.run_until(async {
        let client = client(world).await.unwrap();
        let topic = client.admin().describe_topic(name).await.unwrap();
        client.close().await;
        topic.partitions[0].start_offset.unwrap().0
    })
}

#[test]
fn records_stay_for_as_long_as_their_topic_says() {
    const MINUTE: Duration = Duration::from_secs(60);
    let mut world = World::new(7);
    let mut broker = SimBroker::new(&mut world);
    broker.start(&world).unwrap();
    world.run_until(create(&world, "hour", &[("retention.ms", "3600000")]));
    world.run_until(create(&world, "for-ever", &[("retention.ms", "-1")]));
    world.run_until(create(&world, "week", &[]));
    world.run_for(59 * MINUTE);
    assert_eq!(start(&world, "hour"), 0, "it is not an hour yet");
    // It is looked at every five minutes.
    world.run_for(6 * MINUTE);
    assert_eq!(start(&world, "hour"), RECORDS);
    broker.cut_power();
    broker.start(&world).unwrap();
    assert_eq!(start(&world, "hour"), RECORDS, "what has gone does not come back");
    assert_eq!((start(&world, "week"), start(&world, "for-ever")), (0, 0));
    // Days, as the first start after a week's holidays sees them.
    world.clock().jump_wall(7 * 24 * 60 * 60 * 1000);
    world.run_for(6 * MINUTE);
    assert_eq!((start(&world, "week"), start(&world, "for-ever")), (RECORDS, 0));
}
