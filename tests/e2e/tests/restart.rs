//! What running clients notice of a broker that was killed and is back before they have missed it.

use std::time::Duration;

use millstream_client::{
    CallError, Client, ClientOptions, NewTopic, ProduceError, ProducerOptions, ProducerRecord, Security,
};
use millstream_test_support::broker::Broker;

/// Far above what any of it takes on two busy cores.
const LONG: Duration = Duration::from_secs(60);

fn record(value: &'static str) -> ProducerRecord {
    ProducerRecord { topic: "news".into(), value: Some(value.into()), ..ProducerRecord::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_broker_tells_the_clients_of_before_and_what_they_had_under_way_goes_on() {
    let mut broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "news"]).unwrap().ok().unwrap();
    let options = ClientOptions {
        brokers: vec![broker.address().to_string()],
        security: Security::ProfileFile(broker.profile()),
        ..ClientOptions::default()
    };
    let client = Client::connect(options).await.unwrap();
    let producer = client.producer(ProducerOptions { delivery_timeout: LONG, ..ProducerOptions::default() });
    producer.produce(record("before")).await.unwrap();

    broker.kill().unwrap();
    let under_way = producer.send(record("meanwhile")).await.unwrap();
    // What changes something is not asked twice, so that the reason is told. On the same connection as the record.
    let admin = client.admin();
    let topic = || NewTopic { name: "other".into(), ..NewTopic::default() };
    let asked = tokio::spawn({
        let (admin, topic) = (client.admin(), topic());
        async move { admin.create_topic(topic).await }
    });
    broker.restart_in_place().unwrap();
    let error = asked.await.unwrap().unwrap_err();
    let CallError::Disconnected { reason, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("does not know the connection (it was restarted)"), "{reason}");
    let delivered: Result<_, ProduceError> = under_way.await;
    assert_eq!(delivered.unwrap().offset.unwrap().0, 1);
    admin.create_topic(topic()).await.unwrap();
    client.close().await;
}
