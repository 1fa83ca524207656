//! ListOffsets: the first, the last, and offsets by time.
//!
//! The first and the last are known; a time is looked for in the log, which may take long: away from the runtime's threads.

use std::sync::Arc;

use millstream_model::{LeaderEpoch, Offset, TimestampMs};
use millstream_protocol::{
    ErrorCode,
    messages::offsets::{
        EARLIEST_LOCAL_TIMESTAMP, EARLIEST_PENDING_UPLOAD_TIMESTAMP, EARLIEST_TIMESTAMP, LATEST_TIERED_TIMESTAMP,
        LATEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
        ListOffsetsTopic, ListOffsetsTopicResponse, MAX_TIMESTAMP,
    },
};
use tracing::debug;

use super::wire::times_named;
use crate::{
    errors::{Messages, WireError},
    jobs::Wanted,
    partition::Partition,
    readable::Readable,
    shared::Shared,
};

/// What is answered about one partition; none is offset -1.
type Found = Option<At>;

/// A place in a log.
struct At {
    offset: Offset,
    /// The record's; -1 where no record was looked for.
    timestamp: TimestampMs,
    /// The leader's under which what is there was written, or will be: with it a client sees that it was cut off since (KIP-320).
    leader_epoch: LeaderEpoch,
}

impl At {
    fn new(partition: &Partition, offset: Offset, timestamp: TimestampMs) -> Self {
        Self { offset, timestamp, leader_epoch: partition.log.epoch_of(offset).unwrap_or(LeaderEpoch::UNKNOWN) }
    }
}

/// What is looked for in a log.
#[derive(Clone, Copy)]
enum Sought {
    /// The first record at or after a time.
    From(TimestampMs),
    /// The record with the greatest timestamp.
    Newest,
}

/// What is known of one partition's answer.
enum Answer {
    Known(Found),
    /// To be looked for.
    Search(Arc<Partition>, Sought),
}

pub(crate) async fn handle(shared: Arc<Shared>, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let state = shared.catalog.state();
    let resolve = |topic: ListOffsetsTopic| (Readable::named(&state, &topic.name), topic);
    let asked: Vec<_> = request.topics.into_iter().map(resolve).collect();
    let found = asked.iter().filter_map(|(readable, topic)| Some((readable.as_ref().ok()?.id(), topic)));
    let mut named = times_named(
        found.flat_map(|(id, topic)| topic.partitions.iter().map(move |partition| (id, partition.partition_index))),
    );
    let mut messages = Messages::new();
    let mut topics = Vec::with_capacity(asked.len());
    let mut searches = Vec::new();
    for (readable, topic) in asked {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let index = asked.partition_index;
            let answer = match &readable {
                Err(error) => Err(error.clone()),
                Ok(readable) => match named.remove(&(readable.id(), index)) {
                    None => continue,
                    Some(1) => find(&shared, readable, asked),
                    Some(_) => {
                        let message = format!("partition {index} of {} is asked for twice", readable.name());
                        Err(WireError::new(ErrorCode::InvalidRequest, message))
                    }
                },
            };
            let mut response = ListOffsetsPartitionResponse { partition_index: index, ..Default::default() };
            match answer {
                Ok(Answer::Known(found)) => set(&mut response, Ok(found), &mut messages),
                Ok(Answer::Search(partition, sought)) => {
                    // Until it is found.
                    response.error_code = ErrorCode::UnknownServer;
                    searches.push(((topics.len(), partitions.len()), partition, sought));
                }
                Err(error) => set(&mut response, Err(error), &mut messages),
            }
            partitions.push(response);
        }
        topics.push(ListOffsetsTopicResponse { name: topic.name, partitions });
    }
    if !searches.is_empty() {
        // Dropped with the request: whoever has left is not searched for any longer.
        let found = shared.searching.run("search", move |wanted| search_all(searches, wanted)).await;
        for ((topic, partition), found) in found.unwrap_or_default() {
            set(&mut topics[topic].partitions[partition], found, &mut messages);
        }
    }
    ListOffsetsResponse { topics, ..Default::default() }
}

fn set(response: &mut ListOffsetsPartitionResponse, found: Result<Found, WireError>, messages: &mut Messages) {
    response.error_code = ErrorCode::None;
    match found {
        Ok(Some(At { offset, timestamp, leader_epoch })) => {
            response.offset = offset;
            response.timestamp = timestamp;
            response.leader_epoch = leader_epoch;
        }
        // Nothing at or after that time: offset -1, and no error.
        Ok(None) => {}
        Err(error) => {
            debug!(partition = response.partition_index.0, error = error.message, "ListOffsets refused");
            response.error_code = error.kafka_code();
            response.error_message = messages.say(&error.message);
        }
    }
}

type Place = (usize, usize);

fn search_all(
    searches: Vec<(Place, Arc<Partition>, Sought)>,
    wanted: &Wanted,
) -> Vec<(Place, Result<Found, WireError>)> {
    let search = |(place, partition, sought): (Place, Arc<Partition>, Sought)| {
        let found = match sought {
            Sought::From(time) => partition.log.offset_for_timestamp(time),
            Sought::Newest => partition.log.newest_record(partition.high_watermark()),
        };
        let found = found.map_err(WireError::from);
        // What is not committed yet is not there yet.
        let found = found.map(|found| found.filter(|(offset, _)| *offset < partition.high_watermark()));
        (place, found.map(|found| found.map(|(offset, timestamp)| At::new(&partition, offset, timestamp))))
    };
    searches.into_iter().take_while(|_| !wanted.is_given_up()).map(search).collect()
}

fn find(shared: &Shared, readable: &Readable, asked: &ListOffsetsPartition) -> Result<Answer, WireError> {
    let partition = shared.led(readable, asked.partition_index)?;
    partition.check_epoch(asked.current_leader_epoch)?;
    let at = |offset| Ok(Answer::Known(Some(At::new(&partition, offset, TimestampMs(-1)))));
    match asked.timestamp {
        LATEST_TIMESTAMP => at(partition.high_watermark()),
        // All that there is, is here: no part of a log is moved to other storage.
        EARLIEST_TIMESTAMP | EARLIEST_LOCAL_TIMESTAMP => at(partition.log.start_offset()),
        LATEST_TIERED_TIMESTAMP | EARLIEST_PENDING_UPLOAD_TIMESTAMP => Ok(Answer::Known(None)),
        MAX_TIMESTAMP => Ok(Answer::Search(partition, Sought::Newest)),
        TimestampMs(time) if time >= 0 => Ok(Answer::Search(partition, Sought::From(TimestampMs(time)))),
        TimestampMs(other) => {
            Err(WireError::new(ErrorCode::UnsupportedVersion, format!("timestamp {other} has no meaning here")))
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::World;
    use millstream_model::PartitionId;
    use millstream_record::{BatchBuilder, BatchOptions};
    use millstream_replica::Acks;

    use super::*;
    use crate::{
        Broker,
        testing::{TOPIC, append, create, start, stop},
    };

    #[test]
    fn each_kind_of_question_has_its_answer() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 2));
        let shared = broker.shared();
        let led = shared.partitions.find(TOPIC, PartitionId(1)).unwrap();
        for time in [50, 90, 70] {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            builder.push(TimestampMs(time), None, Some(b"value"), &[]).unwrap();
            world.run_until(led.append(vec![builder.build().unwrap()], Acks::All).unwrap().commit).unwrap();
        }
        world.run_until(led.log.advance_start(Offset(1)).unwrap()).unwrap();
        let ask = |broker: &Broker, partition: i32, timestamp: TimestampMs| {
            let answer = world.run_until(handle(broker.shared().clone(), request(&[partition], timestamp)));
            let told = &answer.topics[0].partitions[0];
            (told.error_code, told.offset.0, told.timestamp.0)
        };
        let ok = ErrorCode::None;
        for (timestamp, expected) in [
            (EARLIEST_TIMESTAMP, (ok, 1, -1)),
            (EARLIEST_LOCAL_TIMESTAMP, (ok, 1, -1)),
            (LATEST_TIMESTAMP, (ok, 3, -1)),
            (MAX_TIMESTAMP, (ok, 1, 90)),
            (LATEST_TIERED_TIMESTAMP, (ok, -1, -1)),
            (EARLIEST_PENDING_UPLOAD_TIMESTAMP, (ok, -1, -1)),
            (TimestampMs(0), (ok, 1, 90)),
            (TimestampMs(91), (ok, -1, -1)),
            (TimestampMs(-7), (ErrorCode::UnsupportedVersion, -1, -1)),
        ] {
            assert_eq!(ask(&broker, 1, timestamp), expected, "{timestamp}");
        }
        assert_eq!(ask(&broker, 0, MAX_TIMESTAMP), (ok, -1, -1), "no record");
        stop(&world, broker);
    }

    /// Told no epoch, a consumer that begins here cannot find out later that what it read was cut off.
    #[test]
    fn each_offset_comes_with_its_leaders_epoch() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 1));
        world.run_until(append(&broker, 0).commit).unwrap();
        let log = &broker.shared().partitions.find(TOPIC, PartitionId(0)).unwrap().log;
        let first = log.latest_epoch().unwrap();
        let second = LeaderEpoch(first.0 + 3);
        world.run_until(log.start_epoch(second).unwrap()).unwrap();
        let ask = |timestamp| {
            let answer = world.run_until(handle(broker.shared().clone(), request(&[0], timestamp)));
            let told = &answer.topics[0].partitions[0];
            (told.offset, told.leader_epoch)
        };
        assert_eq!(ask(EARLIEST_TIMESTAMP), (Offset(0), first));
        assert_eq!(ask(MAX_TIMESTAMP), (Offset(0), first));
        assert_eq!(ask(TimestampMs(0)), (Offset(0), first));
        assert_eq!(ask(LATEST_TIMESTAMP), (Offset(1), second));
        assert_eq!(ask(TimestampMs(1)), (Offset(-1), LeaderEpoch(-1)), "no record");
        stop(&world, broker);
    }

    /// As Kafka's brokers answer: neither time counts, as the two might be asked for different ones.
    #[test]
    fn what_is_asked_for_twice_is_answered_once_as_a_mistake() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 2));
        let answer = world.run_until(handle(broker.shared().clone(), request(&[1, 0, 1, 1, 9], LATEST_TIMESTAMP)));
        let told =
            answer.topics[0].partitions.iter().map(|told| (told.partition_index.0, told.error_code, told.offset.0));
        let expected =
            [(1, ErrorCode::InvalidRequest, -1), (0, ErrorCode::None, 0), (9, ErrorCode::UnknownTopicOrPartition, -1)];
        assert_eq!(told.collect::<Vec<_>>(), expected);
        stop(&world, broker);
    }

    fn request(partitions: &[i32], timestamp: TimestampMs) -> ListOffsetsRequest {
        let partition = |index: &i32| ListOffsetsPartition {
            partition_index: PartitionId(*index),
            timestamp,
            ..Default::default()
        };
        let topic = ListOffsetsTopic { name: "t".into(), partitions: partitions.iter().map(partition).collect() };
        ListOffsetsRequest { topics: vec![topic], ..Default::default() }
    }
}
