//! Assign and DescribeRouting: which partition a topic's partitioner chooses.
//!
//! Routing is a read: nothing is appended here. The client freezes the answer and produces to the partitions it names.

use std::{collections::HashSet, sync::Arc};

use millstream_catalog::{Routing, State, Topic};
use millstream_model::{PartitionId, limits::PARAMS_BYTES_MAX};
use millstream_protocol::{
    ErrorCode,
    extension::routing::{
        AssignRequest, AssignResponse, DescribeRoutingRequest, DescribeRoutingResponse, EpochOfRouting, TopicRouting,
    },
};
use millstream_record::crc32c;
use millstream_wasm::frame::{FLAG_HEADERS_ELIDED, FLAG_VALUES_ELIDED, InputFrame};

use super::wire::pairs;
use crate::{
    errors::{Messages, WireError},
    placement::Placement,
    readable::topic_named,
    shared::Shared,
};

/// Most records in one Assign request.
const RECORDS_MAX: u32 = 100_000;
/// Most bytes in one Assign request; as much as one batch of the topic where that is more. Clients ask about 128 KiB at a
/// time, or one record.
const BYTES_MAX: usize = 1 << 20;

/// Most bytes of partitioners' parameters in one answer, which a request costs little that names many topics.
const PARAMS_TOLD_BYTES_MAX: usize = 256 << 10;
// Those of any one topic are told.
const _: () = assert!(PARAMS_TOLD_BYTES_MAX >= PARAMS_BYTES_MAX);

pub(crate) async fn assign(shared: Arc<Shared>, request: AssignRequest) -> AssignResponse {
    let state = shared.catalog.state();
    let topic = match find_topic(&state, &request.topic) {
        Ok(topic) => topic,
        Err(error) => return refuse(error),
    };
    let mut response = match place(&shared, &state, topic, &request).await {
        Ok(partitions) => AssignResponse { partitions, ..Default::default() },
        Err(error) => refuse(error),
    };
    response.routing_epoch = topic.routing_epoch;
    response
}

fn refuse(error: WireError) -> AssignResponse {
    let error_record = error.record.and_then(|record| i32::try_from(record).ok()).unwrap_or(-1);
    AssignResponse { error_code: error.code, error_message: Some(error.message), error_record, ..Default::default() }
}

async fn place(
    shared: &Shared,
    state: &State,
    topic: &Topic,
    request: &AssignRequest,
) -> Result<Vec<PartitionId>, WireError> {
    if request.routing_epoch.is_known() && request.routing_epoch != topic.routing_epoch {
        let (asked, current) = (request.routing_epoch, topic.routing_epoch);
        let message = format!("routing epoch {asked}; {} is in epoch {current}", topic.name);
        return Err(WireError::new(ErrorCode::StaleRouting, message));
    }
    let bytes_max = BYTES_MAX.max(topic.config.message_bytes_max);
    if request.frame.len() > bytes_max {
        let message = format!("{} bytes to be placed at once; at most {bytes_max}: ask in parts", request.frame.len());
        return Err(WireError::new(ErrorCode::MessageTooLarge, message));
    }
    let frame = InputFrame::parse(request.frame.clone(), RECORDS_MAX)
        .map_err(|error| WireError::new(ErrorCode::InvalidRequest, format!("the records to be placed: {error}")))?;
    if i64::from(frame.count()) != i64::from(request.count) {
        let message = format!("the frame has {} records, the request says {}", frame.count(), request.count);
        return Err(WireError::new(ErrorCode::InvalidRequest, message));
    }
    let placement = Placement::of(shared, state, topic).await?;
    let (needs, flags) = (placement.needs(), frame.header().flags);
    if (needs.values && flags & FLAG_VALUES_ELIDED != 0) || (needs.headers && flags & FLAG_HEADERS_ELIDED != 0) {
        let message = "the frame leaves out what the partitioner needs: ask DescribeRouting";
        return Err(WireError::new(ErrorCode::InvalidRequest, message));
    }
    let keyless = keyless(&frame, topic.routed_partitions());
    let mut placed = Vec::with_capacity(frame.count() as usize);
    for range in frame.calls() {
        let first = range.start;
        let chosen = placement.choose(&frame.slice(range)).await.map_err(|error| error.behind(first))?;
        placed.extend(chosen.into_iter().map(|chosen| chosen.unwrap_or(keyless)));
    }
    Ok(placed)
}

/// Where records without a key go that have no order among each other to keep: all of one request to one partition, so that they make
/// one batch there, and other requests' to others. The request's bytes decide, so that the same question has the same answer.
fn keyless(frame: &InputFrame, partitions: i32) -> PartitionId {
    let partition = crc32c(frame.bytes()) % partitions.max(1).cast_unsigned();
    PartitionId(partition.cast_signed())
}

pub(crate) fn describe(shared: &Shared, request: &DescribeRoutingRequest) -> DescribeRoutingResponse {
    let state = shared.catalog.state();
    let (mut messages, mut named) = (Messages::new(), HashSet::new());
    let mut params_left = PARAMS_TOLD_BYTES_MAX;
    // What is named again is answered once.
    let topics = request.topics.iter().filter(|name| named.insert(*name));
    let topics = topics.map(|name| match find_topic(&state, name) {
        Ok(topic) => {
            let module = topic.config.partitioner.as_ref();
            let known = module.and_then(|module| state.modules.get(module));
            let needs = known.map(|module| module.needs).unwrap_or_default();
            let params = &topic.config.partitioner_params;
            let params_bytes: usize = params.iter().map(|(name, value)| name.len() + value.len()).sum();
            let to_run = known.filter(|_| take(&mut params_left, params_bytes));
            TopicRouting {
                topic: name.clone(),
                topic_id: topic.id,
                partitions: topic.routed_partitions(),
                routing_epoch: topic.routing_epoch,
                partitioner: module.map(ToString::to_string),
                needs_values: needs.values,
                needs_headers: needs.headers,
                epochs: topic.routings.iter().map(epoch).collect(),
                partitioner_digest: to_run.map(|module| module.digest),
                partitioner_params: to_run.map(|_| pairs(params)).unwrap_or_default(),
                message_bytes_max: i32::try_from(topic.config.message_bytes_max).unwrap_or(i32::MAX),
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

/// Takes from what is left, if there is so much.
fn take(left: &mut usize, bytes: usize) -> bool {
    let after = left.checked_sub(bytes);
    *left = after.unwrap_or(*left);
    after.is_some()
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
    fn records_without_a_key_stay_together_and_requests_spread() {
        let records = [(None, 1), (Some(&b"k"[..]), 1), (None, 1)];
        let mut seen = std::collections::BTreeSet::new();
        for request in 0..100 {
            let frame = frame(request, &records);
            let partition = keyless(&frame, 6);
            assert_eq!(partition, keyless(&frame, 6));
            seen.insert(partition.0);
        }
        assert_eq!(seen, (0..6).collect());
    }
}
