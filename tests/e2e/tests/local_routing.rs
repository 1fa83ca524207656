//! A producer that runs its topic's partitioner itself places records where the broker would, and asks nobody.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::collections::BTreeSet;

use bytes::Bytes;
use millstream_client::{Client, LocalRouting, ProducerOptions, ProducerRecord};
use millstream_model::PartitionId;
use millstream_test_support::{
    broker::Broker,
    exposition::{parse, value},
    guests,
    http::ask,
    sdk,
};

const RECORDS: usize = 3000;

fn good(broker: &Broker, words: &[&str]) {
    broker.cli(words).unwrap().ok().unwrap();
}

fn requests(broker: &Broker, api: &str) -> f64 {
    let answer = ask(broker.http(), "GET", "/metrics", "").unwrap();
    value(&parse(&answer.body).unwrap(), "millstream_requests_total", &[("api", api)]).unwrap()
}

fn has_key(number: usize) -> bool {
    !number.is_multiple_of(3)
}

/// Whether the partitioner finds its field.
fn has_field(number: usize) -> bool {
    !number.is_multiple_of(5)
}

fn record(topic: &str, number: usize) -> ProducerRecord {
    let id = if has_field(number) { format!(",\"id\":{}", number % 97) } else { String::new() };
    ProducerRecord {
        topic: topic.into(),
        key: has_key(number).then(|| Bytes::from(format!("k{}", number % 50))),
        value: Some(Bytes::from(format!("{{\"n\":{number}{id}}}"))),
        ..ProducerRecord::default()
    }
}

async fn places(client: &Client, topic: &str, options: ProducerOptions) -> Vec<PartitionId> {
    let producer = client.producer(options);
    let mut under_way = Vec::new();
    for number in 0..RECORDS {
        under_way.push(producer.send(record(topic, number)).await.unwrap());
    }
    let mut places = Vec::new();
    for delivery in under_way {
        places.push(delivery.await.unwrap().partition);
    }
    places
}

#[test]
fn records_are_placed_here_as_the_broker_places_them_and_nobody_is_asked() {
    let broker = Broker::start_with(&["--http", "127.0.0.1:0"]).unwrap();
    let file = guests::component("partition-by-field").unwrap();
    good(&broker, &["module", "push", file.to_str().unwrap(), "--name", "by-field", "--version", "1"]);
    for topic in ["asked", "here", "large"] {
        let create = ["topic", "create", topic, "--partitions", "7", "--partitioner", "by-field@1"];
        good(&broker, &[&create[..], &["--param", "field=id"]].concat());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let local = |local_routing| ProducerOptions { local_routing, ..ProducerOptions::default() };
    let (client, here) = runtime.block_on(async {
        let client = sdk::alert(&broker).await.unwrap();
        let here = places(&client, "here", local(Some(LocalRouting::default()))).await;
        (client, here)
    });
    assert_eq!((requests(&broker, "Assign"), requests(&broker, "ModuleRead")), (0.0, 1.0));
    let asked = runtime.block_on(places(&client, "asked", local(None)));
    let questions = requests(&broker, "Assign");
    assert!(questions > 0.0 && requests(&broker, "ModuleRead") == 1.0, "{questions}");
    for number in 0..RECORDS {
        // Without a key, and without a choice, any partition will do.
        if has_field(number) || has_key(number) {
            assert_eq!(here[number], asked[number], "record {number}");
        }
    }
    assert_eq!(here.iter().collect::<BTreeSet<_>>().len(), 7);
    let mut read: Vec<_> = sdk::consume(&broker, "here").unwrap();
    read.sort_by_key(|placed| String::from_utf8(placed.message.value.clone().unwrap()).unwrap());
    let mut expected: Vec<_> = (0..RECORDS).map(|number| record("here", number).value.unwrap().to_vec()).collect();
    expected.sort();
    assert_eq!(read.into_iter().map(|placed| placed.message.value.unwrap()).collect::<Vec<_>>(), expected);
    // A module that is larger than the program allows is run by the broker, and placed by it is where it belongs.
    let small = LocalRouting { module_bytes_max: 1000, ..LocalRouting::default() };
    let large = runtime.block_on(places(&client, "large", local(Some(small))));
    assert!(requests(&broker, "Assign") > questions);
    let fixed = (0..RECORDS).filter(|number| has_field(*number) || has_key(*number));
    assert!(fixed.into_iter().all(|number| large[number] == asked[number]));
}
