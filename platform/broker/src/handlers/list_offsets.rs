//! ListOffsets: the first, the last, and offsets by time.
//!
//! The first and the last are known; a time is looked for in the log, which may take long: away from the runtime's threads.

use std::{collections::HashSet, sync::Arc};

use millstream_model::{Offset, PartitionId, TimestampMs, TopicId};
use millstream_protocol::{
    ErrorCode,
    messages::offsets::{
        EARLIEST_LOCAL_TIMESTAMP, EARLIEST_PENDING_UPLOAD_TIMESTAMP, EARLIEST_TIMESTAMP, LATEST_TIERED_TIMESTAMP,
        LATEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
        ListOffsetsTopicResponse, MAX_TIMESTAMP,
    },
};
use tracing::debug;

use crate::{
    errors::{Messages, WireError},
    jobs::Wanted,
    partition::Partition,
    readable::Readable,
    shared::Shared,
};

/// What is answered about one partition; none is offset -1.
type Found = Option<(Offset, TimestampMs)>;

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
    let (mut named, mut messages) = (HashSet::new(), Messages::new());
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut searches = Vec::new();
    for topic in request.topics {
        let readable = Readable::named(&state, &topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let index = asked.partition_index;
            let answer = find(&shared, readable.as_ref(), asked, &mut named);
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
        Ok(Some((offset, timestamp))) => {
            response.offset = offset;
            response.timestamp = timestamp;
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
        (place, found.map(|found| found.filter(|(offset, _)| *offset < partition.high_watermark())))
    };
    searches.into_iter().take_while(|_| !wanted.is_given_up()).map(search).collect()
}

fn find(
    shared: &Shared,
    readable: Result<&Readable, &WireError>,
    asked: &ListOffsetsPartition,
    named: &mut HashSet<(TopicId, PartitionId)>,
) -> Result<Answer, WireError> {
    let readable = readable.map_err(Clone::clone)?;
    let partition = shared.led(readable, asked.partition_index)?;
    if !named.insert((readable.id(), asked.partition_index)) {
        let message = format!("partition {} of {} is asked for twice", asked.partition_index, readable.name());
        return Err(WireError::new(ErrorCode::InvalidRequest, message));
    }
    partition.check_epoch(asked.current_leader_epoch)?;
    let none = TimestampMs(-1);
    match asked.timestamp {
        LATEST_TIMESTAMP => Ok(Answer::Known(Some((partition.high_watermark(), none)))),
        EARLIEST_TIMESTAMP => Ok(Answer::Known(Some((partition.log.start_offset(), none)))),
        // All that there is, is here: no part of a log is moved to other storage.
        EARLIEST_LOCAL_TIMESTAMP => Ok(Answer::Known(Some((partition.log.start_offset(), none)))),
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
    use millstream_protocol::messages::offsets::ListOffsetsTopic;
    use millstream_record::{BatchBuilder, BatchOptions};
    use millstream_replica::Acks;

    use super::*;
    use crate::{
        Broker,
        testing::{TOPIC, create, start, stop},
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
            let asked =
                ListOffsetsPartition { partition_index: PartitionId(partition), timestamp, ..Default::default() };
            let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![asked] };
            let request = ListOffsetsRequest { topics: vec![topic], ..Default::default() };
            let answer = world.run_until(handle(broker.shared().clone(), request));
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
}
