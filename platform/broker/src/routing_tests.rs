//! A topic that is routed anew: what partitions take and refuse on the way, wherever the broker is killed.

use std::time::Duration;

use bytes::Bytes;
use millstream_env::sim::World;
use millstream_model::{Durability, ProducerEpoch, ProducerId, Sequence};
use millstream_protocol::{
    ErrorCode, Response,
    messages::topics::{CreatePartitionsRequest, CreatePartitionsTopic},
};
use millstream_record::{BatchBuilder, BatchOptions, batches};

use super::*;
use crate::{
    Broker,
    handlers::{create_partitions, produce},
    reply::Reply,
    testing::{TOPIC, append, create, produce_request, start, stop},
};

fn batch(sequence: i32) -> Bytes {
    let options = BatchOptions {
        producer_id: ProducerId(7),
        producer_epoch: ProducerEpoch(0),
        base_sequence: Sequence(sequence),
        ..BatchOptions::default()
    };
    let mut builder = BatchBuilder::new(options);
    builder.push(TimestampMs(5), Some(b"k"), Some(b"v"), &[]).unwrap();
    builder.build().unwrap()
}

/// Sends a batch that was placed in a routing epoch, as its only one in a request; gives what it is answered.
fn send(world: &World, broker: &Broker, partition: i32, sequence: i32, epoch: i32) -> (ErrorCode, i64) {
    let request = produce_request(PartitionId(partition), batch(sequence), RoutingEpoch(epoch));
    let answered = world.run_until(produce::check(broker.shared(), 9, request).append(broker.shared()));
    let Reply::Answer(Response::Produce(answer)) = answered else { panic!("no answer") };
    let partition = &answer.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset.0)
}

fn grow(world: &World, broker: &Broker, count: i32) -> ErrorCode {
    let topic = CreatePartitionsTopic { name: "t".into(), count, assignments: None };
    let request = CreatePartitionsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false };
    world.run_until(create_partitions::handle(broker.shared().clone(), request)).results[0].error_code
}

fn led(broker: &Broker, partition: i32) -> Arc<Partition> {
    broker.shared().partitions.find(TOPIC, PartitionId(partition)).unwrap()
}

/// The markers in a partition's log: where, of which epoch, and how many partitions they say there are.
fn markers(broker: &Broker, partition: i32) -> Vec<(i64, i32, i32)> {
    let log = led(broker, partition).log.clone();
    let read = log.read(log.start_offset(), log.end_offset(), 1 << 20).unwrap();
    let told = batches(read.batches).map(Result::unwrap).filter_map(|batch| {
        let marker = RoutingMarker::of(&batch)?;
        Some((batch.header().base_offset.0, marker.epoch.0, marker.partitions))
    });
    told.collect()
}

fn topic(broker: &Broker) -> Arc<Topic> {
    broker.shared().catalog.state().topic_by_id(TOPIC).unwrap().clone()
}

/// Begins to open an epoch, and lets nobody go on with it.
fn begin(world: &World, broker: &Broker, count: i32) {
    broker.shared().stop.cancel();
    world.run_for(Duration::from_secs(1));
    let command = Command::CreatePartitions { id: TOPIC, partitions: count, replicas: None };
    world.run_until(broker.shared().catalog.propose(command)).unwrap();
}

fn crash_and_start(world: &World, broker: Broker) -> Broker {
    world.first().crash();
    drop(broker);
    start(world)
}

#[test]
fn what_was_placed_earlier_is_refused_and_what_was_taken_is_told_so() {
    let world = World::new(1);
    let broker = start(&world);
    world.run_until(create(&broker, 2));
    assert_eq!(send(&world, &broker, 0, 0, 0), (ErrorCode::None, 0));
    assert_eq!(grow(&world, &broker, 3), ErrorCode::None);
    assert_eq!((markers(&broker, 0), markers(&broker, 1)), (vec![(1, 1, 3)], vec![(0, 1, 3)]));
    assert_eq!(markers(&broker, 2), [], "it has nothing of an earlier epoch");
    let routed = topic(&broker);
    assert_eq!((routed.routing_epoch, &routed.opening), (RoutingEpoch(1), &None));
    assert_eq!(routed.routings.last().unwrap().markers, [Offset(1), Offset(0)]);
    // Its answer was lost.
    assert_eq!(send(&world, &broker, 0, 0, 0), (ErrorCode::None, 0));
    assert_eq!(send(&world, &broker, 0, 1, 0), (ErrorCode::StaleRouting, -1));
    assert_eq!(send(&world, &broker, 0, 1, 2), (ErrorCode::StaleRouting, -1), "of an epoch that is not there");
    assert_eq!(send(&world, &broker, 2, 0, 0), (ErrorCode::StaleRouting, -1), "there was no such partition");
    assert_eq!(send(&world, &broker, 0, 1, 1), (ErrorCode::None, 2));
    // Who places records himself does not say in which epoch.
    assert_eq!(send(&world, &broker, 1, 0, -1), (ErrorCode::None, 1));
    let broker = crash_and_start(&world, broker);
    assert_eq!(send(&world, &broker, 0, 0, 0), (ErrorCode::None, 0));
    assert_eq!(send(&world, &broker, 0, 2, 0), (ErrorCode::StaleRouting, -1));
    assert_eq!(send(&world, &broker, 0, 2, 1), (ErrorCode::None, 3));
    world.run_for(Duration::from_secs(1));
    assert_eq!((markers(&broker, 0), markers(&broker, 1)), (vec![(1, 1, 3)], vec![(0, 1, 3)]), "written once");
    assert_eq!(grow(&world, &broker, 4), ErrorCode::None);
    assert_eq!(markers(&broker, 0), [(1, 1, 3), (4, 2, 4)]);
    assert_eq!(markers(&broker, 2), [(0, 2, 4)]);
    stop(&world, broker);
}

#[test]
fn an_epoch_that_a_crash_has_interrupted_is_opened_at_the_next_start_and_nothing_slips_through() {
    for crash in ["before a marker", "after one", "after one and a record", "after all"] {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 2));
        assert_eq!(send(&world, &broker, 0, 0, 0), (ErrorCode::None, 0));
        begin(&world, &broker, 3);
        let marker = RoutingMarker { epoch: RoutingEpoch(1), partitions: 3 };
        let mut expected = [vec![(1, 1, 3)], vec![(0, 1, 3)]];
        if crash != "before a marker" {
            assert_eq!(led(&broker, 0).enter(marker).unwrap(), Offset(1), "{crash}");
            assert_eq!(led(&broker, 0).enter(marker).unwrap(), Offset(1), "{crash}: again");
            world.run_until(led(&broker, 0).committed(Offset(2)));
        }
        match crash {
            "after one and a record" => {
                world.run_until(append(&broker, 0).commit).unwrap();
                // That it is there cannot be told from the log's end: the first one counts.
                expected[0].push((3, 1, 3));
            }
            "after all" => {
                led(&broker, 1).enter(marker).unwrap();
                world.run_until(led(&broker, 1).committed(Offset(1)));
            }
            _ => {}
        }
        assert_eq!(topic(&broker).routing_epoch, RoutingEpoch(0), "{crash}");
        let broker = crash_and_start(&world, broker);
        // Before anybody has gone on with it.
        assert_eq!(send(&world, &broker, 0, 1, 0), (ErrorCode::StaleRouting, -1), "{crash}");
        assert_eq!(send(&world, &broker, 0, 0, 0), (ErrorCode::None, 0), "{crash}");
        world.run_for(Duration::from_secs(1));
        assert_eq!([markers(&broker, 0), markers(&broker, 1)], expected, "{crash}");
        let routed = topic(&broker);
        assert_eq!((routed.routing_epoch, routed.routed_partitions()), (RoutingEpoch(1), 3), "{crash}");
        assert_eq!(send(&world, &broker, 2, 0, 1), (ErrorCode::None, 0), "{crash}");
        assert_eq!(grow(&world, &broker, 4), ErrorCode::None, "{crash}");
        stop(&world, broker);
    }
}

/// Acknowledged in memory: a power cut may take a marker that the metadata knows of.
#[test]
fn a_marker_that_a_power_cut_took_is_written_again() {
    let world = World::new(1);
    let broker = start(&world);
    world.run_until(create(&broker, 1));
    let shared = broker.shared();
    let from = Box::new(topic(&broker).config.clone());
    let to = Box::new(TopicConfig { durability: Durability::Replicated, ..(*from).clone() });
    world.run_until(shared.catalog.propose(Command::AlterTopic { id: TOPIC, from, to })).unwrap();
    world.run_until(shared.partitions.follow(&shared.catalog)).unwrap();
    world.run_until(shared.partitions.change(&shared.catalog)).unwrap();
    assert_eq!(grow(&world, &broker, 2), ErrorCode::None);
    assert_eq!(markers(&broker, 0), [(0, 1, 2)]);
    let broker = crash_and_start(&world, broker);
    assert!(led(&broker, 0).log.end_offset() <= Offset(1));
    world.run_for(Duration::from_secs(1));
    assert_eq!(markers(&broker, 0), [(0, 1, 2)]);
    stop(&world, broker);
}

/// A change of routing waits for another one; what comes of both is as if one had come after the other.
#[test]
fn changes_of_routing_come_one_after_the_other() {
    let world = World::new(1);
    let broker = start(&world);
    world.run_until(create(&broker, 1));
    let one = |count| {
        let topic = CreatePartitionsTopic { name: "t".into(), count, assignments: None };
        let request = CreatePartitionsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false };
        create_partitions::handle(broker.shared().clone(), request)
    };
    let (first, second, third) = world.run_until(async { futures::join!(one(2), one(3), one(4)) });
    for told in [&first, &second] {
        let told = &told.results[0];
        assert!(matches!(told.error_code, ErrorCode::None | ErrorCode::InvalidPartitions), "{told:?}");
    }
    assert_eq!(third.results[0].error_code, ErrorCode::None, "{third:?}");
    let routed = topic(&broker);
    assert_eq!((routed.partition_count(), routed.routed_partitions(), &routed.opening), (4, 4, &None));
    let epochs: Vec<_> = markers(&broker, 0).into_iter().map(|(_, epoch, _)| epoch).collect();
    assert_eq!(epochs, (1..=routed.routing_epoch.0).collect::<Vec<_>>());
    stop(&world, broker);
}
