//! ListOffsets: the first, the last, and offsets by time.
//!
//! The first and the last are known; a time is looked for in the log, which may take long: away from the runtime's threads.

use std::{collections::HashSet, sync::Arc};

use millstream_model::{Offset, PartitionId, TimestampMs, TopicId};
use millstream_protocol::{
    ErrorCode,
    messages::offsets::{
        EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest,
        ListOffsetsResponse, ListOffsetsTopicResponse, MAX_TIMESTAMP,
    },
};
use tracing::debug;

use crate::{
    errors::{Messages, WireError},
    partition::Partition,
    readable::Readable,
    shared::Shared,
    slow::Wanted,
};

/// What is answered about one partition; none is offset -1.
type Found = Option<(Offset, TimestampMs)>;

/// What is known of one partition's answer.
enum Answer {
    Known(Found),
    /// To be looked for.
    Search(Arc<Partition>, TimestampMs),
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
                Ok(Answer::Search(partition, time)) => {
                    // Until it is found.
                    response.error_code = ErrorCode::UnknownServer;
                    searches.push(((topics.len(), partitions.len()), partition, time));
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
    searches: Vec<(Place, Arc<Partition>, TimestampMs)>,
    wanted: &Wanted,
) -> Vec<(Place, Result<Found, WireError>)> {
    let search = |(place, partition, time): (Place, Arc<Partition>, TimestampMs)| {
        let found = partition.log.offset_for_timestamp(time).map_err(WireError::from);
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
        MAX_TIMESTAMP => Err(WireError::new(ErrorCode::UnsupportedVersion, "the greatest timestamp is not built yet")),
        TimestampMs(time) if time >= 0 => Ok(Answer::Search(partition, TimestampMs(time))),
        TimestampMs(other) => {
            Err(WireError::new(ErrorCode::UnsupportedVersion, format!("timestamp {other} has no meaning here")))
        }
    }
}
