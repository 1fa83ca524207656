//! Assign and DescribeRouting: which partition a topic's partitioner chooses.
//!
//! Routing is a read: nothing is appended here. The client freezes the answer and produces to the partitions it names.

use std::{collections::HashSet, ops::Range, sync::Arc};

use millstream_catalog::{Routing, State, Topic};
use millstream_model::{PartitionId, key_partition};
use millstream_protocol::{
    ErrorCode,
    extension::routing::{
        AssignRequest, AssignResponse, DescribeRoutingRequest, DescribeRoutingResponse, EpochOfRouting, TopicRouting,
    },
};
use millstream_record::crc32c;
use millstream_wasm::{
    CallError,
    frame::{FLAG_HEADERS_ELIDED, FLAG_VALUES_ELIDED, FRAME_BYTES_TARGET, InputFrame, OutputError},
};

use crate::{
    errors::{Messages, WireError},
    readable::topic_named,
    shared::Shared,
};

/// Most records in one Assign request.
const RECORDS_MAX: u32 = 100_000;
/// Most bytes in one Assign request; as much as one batch of the topic where that is more. Clients ask about 128 KiB at a
/// time, or one record.
const BYTES_MAX: usize = 1 << 20;

pub(crate) async fn assign(shared: Arc<Shared>, request: AssignRequest) -> AssignResponse {
    let state = shared.catalog.state();
    let topic = match find_topic(&state, &request.topic) {
        Ok(topic) => topic,
        Err(error) => return refuse(error, -1),
    };
    let mut response = match place(&shared, &state, topic, &request).await {
        Ok(partitions) => AssignResponse { partitions, ..Default::default() },
        Err(Unplaced { error, record }) => refuse(error, record),
    };
    response.routing_epoch = topic.routing_epoch;
    response
}

fn refuse(error: WireError, error_record: i32) -> AssignResponse {
    AssignResponse { error_code: error.code, error_message: Some(error.message), error_record, ..Default::default() }
}

/// Why no record has a partition, and the record that it is about (-1: none in particular).
struct Unplaced {
    error: WireError,
    record: i32,
}

impl From<WireError> for Unplaced {
    fn from(error: WireError) -> Self {
        Self { error, record: -1 }
    }
}

async fn place(
    shared: &Shared,
    state: &State,
    topic: &Topic,
    request: &AssignRequest,
) -> Result<Vec<PartitionId>, Unplaced> {
    if request.routing_epoch.0 >= 0 && request.routing_epoch != topic.routing_epoch {
        let (asked, current) = (request.routing_epoch, topic.routing_epoch);
        let message = format!("routing epoch {asked}; {} is in epoch {current}", topic.name);
        return Err(WireError::new(ErrorCode::StaleRouting, message).into());
    }
    let bytes_max = BYTES_MAX.max(topic.config.message_bytes_max);
    if request.frame.len() > bytes_max {
        let message = format!("{} bytes to be placed at once; at most {bytes_max}: ask in parts", request.frame.len());
        return Err(WireError::new(ErrorCode::MessageTooLarge, message).into());
    }
    let frame = InputFrame::parse(request.frame.clone(), RECORDS_MAX)
        .map_err(|error| WireError::new(ErrorCode::InvalidRequest, format!("the records to be placed: {error}")))?;
    if i64::from(frame.count()) != i64::from(request.count) {
        let message = format!("the frame has {} records, the request says {}", frame.count(), request.count);
        return Err(WireError::new(ErrorCode::InvalidRequest, message).into());
    }
    let partitions = topic.routed_partitions();
    let defaults = Defaults::new(&frame, partitions);
    let Some(pool) = shared.modules.partitioner(state, topic).await? else {
        return Ok((0..frame.count()).map(|index| defaults.partition(index)).collect());
    };
    let needs = pool.factory().declarations().needs;
    let flags = frame.header().flags;
    if (needs.values && flags & FLAG_VALUES_ELIDED != 0) || (needs.headers && flags & FLAG_HEADERS_ELIDED != 0) {
        let message = "the frame leaves out what the partitioner needs: ask DescribeRouting";
        return Err(WireError::new(ErrorCode::InvalidRequest, message).into());
    }
    let mut placed = Vec::with_capacity(frame.count() as usize);
    for range in calls(&frame) {
        let first = range.start;
        let part = frame.slice(range);
        let assigned = pool.assign(&part, partitions.cast_unsigned()).await;
        let assigned = assigned.map_err(|error| unplaced(topic, error, first))?;
        placed.extend(
            (first..).zip(assigned).map(
                |(index, partition)| {
                    if partition < 0 { defaults.partition(index) } else { PartitionId(partition) }
                },
            ),
        );
    }
    Ok(placed)
}

/// The records in groups of a call's size, in order.
fn calls(frame: &InputFrame) -> Vec<Range<u32>> {
    let mut calls = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for index in 0..frame.count() {
        let record = frame.raw(index).map_or(0, |record| record.bytes.len());
        if index > first && bytes + record > FRAME_BYTES_TARGET {
            calls.push(first..index);
            (first, bytes) = (index, 0);
        }
        bytes += record;
    }
    if first < frame.count() {
        calls.push(first..frame.count());
    }
    calls
}

/// Where Kafka's default puts records. Those without a key have no order among each other to keep: all of one request go to one
/// partition, so that they make one batch there, and other requests' to others. The request's bytes decide, so that the
/// same question has the same answer.
struct Defaults<'a> {
    frame: &'a InputFrame,
    partitions: i32,
    keyless: PartitionId,
}

impl<'a> Defaults<'a> {
    fn new(frame: &'a InputFrame, partitions: i32) -> Self {
        let keyless = crc32c(frame.bytes()) % partitions.max(1).cast_unsigned();
        Self { frame, partitions, keyless: PartitionId(keyless.cast_signed()) }
    }

    fn partition(&self, index: u32) -> PartitionId {
        self.frame.key(index).map_or(self.keyless, |key| key_partition(key, self.partitions))
    }
}

/// `first`: the index of the call's first record within the request.
fn unplaced(topic: &Topic, error: CallError, first: u32) -> Unplaced {
    let record = |at: u32| i32::try_from(first.saturating_add(at)).unwrap_or(-1);
    let record = match &error {
        CallError::Output(OutputError::Assigned { index, .. }) => record(*index),
        CallError::Guest(failure) => failure.at.map_or(-1, record),
        _ => -1,
    };
    let partitioner = topic.config.partitioner.as_ref().map(ToString::to_string).unwrap_or_default();
    let what = format!("partitioner {partitioner} of {}", topic.name);
    Unplaced { error: WireError::unplaced(&what, &error), record }
}

pub(crate) fn describe(shared: &Shared, request: &DescribeRoutingRequest) -> DescribeRoutingResponse {
    let state = shared.catalog.state();
    let (mut messages, mut named) = (Messages::new(), HashSet::new());
    // What is named again is answered once.
    let topics = request.topics.iter().filter(|name| named.insert(*name));
    let topics = topics.map(|name| match find_topic(&state, name) {
        Ok(topic) => {
            let module = topic.config.partitioner.as_ref();
            let needs = module.and_then(|module| state.modules.get(module)).map(|module| module.needs);
            let needs = needs.unwrap_or_default();
            TopicRouting {
                topic: name.clone(),
                topic_id: topic.id,
                partitions: topic.routed_partitions(),
                routing_epoch: topic.routing_epoch,
                partitioner: module.map(ToString::to_string),
                needs_values: needs.values,
                needs_headers: needs.headers,
                epochs: topic.routings.iter().map(epoch).collect(),
                ..Default::default()
            }
        }
        Err(error) => TopicRouting {
            error_code: error.code,
            error_message: messages.say(&error.message),
            topic: name.clone(),
            ..Default::default()
        },
    });
    DescribeRoutingResponse { topics: topics.collect(), ..Default::default() }
}

fn epoch(routing: &Routing) -> EpochOfRouting {
    EpochOfRouting {
        routing_epoch: routing.epoch,
        partitions: routing.partitions,
        partitioner: routing.partitioner.as_ref().map(ToString::to_string),
        markers: routing.markers.clone(),
    }
}

fn find_topic<'a>(state: &'a State, name: &str) -> Result<&'a Arc<Topic>, WireError> {
    topic_named(state, name, "produce to the topic")
}

#[cfg(test)]
mod tests {
    use millstream_model::{Offset, TimestampMs};
    use millstream_wasm::frame::{FrameBuilder, FrameOptions};

    use super::*;

    fn frame(base: i64, records: &[(Option<&[u8]>, usize)]) -> InputFrame {
        let mut builder = FrameBuilder::new(FrameOptions::default());
        for (offset, (key, bytes)) in (0..).zip(records) {
            builder.push(Offset(offset), TimestampMs(base), *key, Some(&vec![0; *bytes]), &[]).unwrap();
        }
        builder.take().unwrap()
    }

    #[test]
    fn calls_are_of_a_size_and_hold_every_record_once() {
        let half = FRAME_BYTES_TARGET / 2;
        let records = [1, 1, half, half, 3 * half, 1, 1].map(|bytes| (None, bytes));
        assert_eq!(calls(&frame(0, &records)), [0..3, 3..4, 4..5, 5..7]);
        assert_eq!(calls(&frame(0, &records[..1])), [Range { start: 0, end: 1 }]);
    }

    #[test]
    fn records_without_a_key_stay_together_and_requests_spread() {
        let records = [(None, 1), (Some(&b"k"[..]), 1), (None, 1)];
        let mut seen = std::collections::BTreeSet::new();
        for request in 0..100 {
            let frame = frame(request, &records);
            let (defaults, again) = (Defaults::new(&frame, 6), Defaults::new(&frame, 6));
            let placed: Vec<_> = (0..3).map(|index| defaults.partition(index)).collect();
            assert_eq!(placed, (0..3).map(|index| again.partition(index)).collect::<Vec<_>>());
            assert_eq!((placed[0], placed[1]), (placed[2], key_partition(b"k", 6)));
            seen.insert(placed[0].0);
        }
        assert_eq!(seen, (0..6).collect());
    }
}
