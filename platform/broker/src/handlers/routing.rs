//! Assign and DescribeRouting: which partition a topic's partitioner chooses.
//!
//! Routing is a read: nothing is appended here. The client freezes the answer and produces to the partitions it names.

use std::sync::Arc;

use millstream_catalog::{State, Topic};
use millstream_model::{PartitionId, key_partition};
use millstream_protocol::{
    ErrorCode,
    extension::routing::{
        AssignRequest, AssignResponse, DescribeRoutingRequest, DescribeRoutingResponse, TopicRouting,
    },
};
use millstream_wasm::{
    CallError,
    frame::{FLAG_HEADERS_ELIDED, FLAG_VALUES_ELIDED, InputFrame, OutputError},
};

use crate::{errors::WireError, shared::Shared};

/// Most records in one Assign request.
const RECORDS_MAX: u32 = 100_000;

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
    let frame = InputFrame::parse(request.frame.clone(), RECORDS_MAX)
        .map_err(|error| WireError::new(ErrorCode::InvalidRequest, format!("the records to be placed: {error}")))?;
    if i64::from(frame.count()) != i64::from(request.count) {
        let message = format!("the frame has {} records, the request says {}", frame.count(), request.count);
        return Err(WireError::new(ErrorCode::InvalidRequest, message).into());
    }
    let partitions = topic.partition_count();
    let Some(pool) = shared.modules.partitioner(state, topic).await? else {
        let defaults = (0..frame.count()).map(|index| default_partition(&frame, index, partitions));
        return Ok(defaults.collect());
    };
    let needs = pool.factory().declarations().needs;
    let flags = frame.header().flags;
    if (needs.values && flags & FLAG_VALUES_ELIDED != 0) || (needs.headers && flags & FLAG_HEADERS_ELIDED != 0) {
        let message = "the frame leaves out what the partitioner needs: ask DescribeRouting";
        return Err(WireError::new(ErrorCode::InvalidRequest, message).into());
    }
    if frame.count() == 0 {
        return Ok(Vec::new());
    }
    let assigned = pool.assign(&frame, partitions.cast_unsigned()).await.map_err(|error| unplaced(topic, error))?;
    let placed = (0..).zip(assigned).map(|(index, partition)| {
        if partition < 0 { default_partition(&frame, index, partitions) } else { PartitionId(partition) }
    });
    Ok(placed.collect())
}

/// Where Kafka's default would put it. A record without a key has no key order to keep: partition 0 is as good as any,
/// and the same every time.
fn default_partition(frame: &InputFrame, index: u32, partitions: i32) -> PartitionId {
    frame.key(index).map_or(PartitionId(0), |key| key_partition(key, partitions))
}

fn unplaced(topic: &Topic, error: CallError) -> Unplaced {
    let (code, record) = match &error {
        CallError::Output(OutputError::Assigned { index, .. }) => {
            (ErrorCode::PartitionOutOfRange, i32::try_from(*index).unwrap_or(-1))
        }
        CallError::Guest(failure) => {
            (ErrorCode::CallFailed, failure.at.and_then(|at| i32::try_from(at).ok()).unwrap_or(-1))
        }
        CallError::Exhausted { .. } => (ErrorCode::Overloaded, -1),
        _ => (ErrorCode::CallFailed, -1),
    };
    let partitioner = topic.config.partitioner.as_ref().map(ToString::to_string).unwrap_or_default();
    Unplaced { error: WireError::new(code, format!("partitioner {partitioner} of {}: {error}", topic.name)), record }
}

pub(crate) fn describe(shared: &Shared, request: &DescribeRoutingRequest) -> DescribeRoutingResponse {
    let state = shared.catalog.state();
    let topics = request.topics.iter().map(|name| match find_topic(&state, name) {
        Ok(topic) => {
            let module = topic.config.partitioner.as_ref();
            let needs = module.and_then(|module| state.modules.get(module)).map(|module| module.needs);
            let needs = needs.unwrap_or_default();
            TopicRouting {
                topic: name.clone(),
                topic_id: topic.id,
                partitions: topic.partition_count(),
                routing_epoch: topic.routing_epoch,
                partitioner: module.map(ToString::to_string),
                needs_values: needs.values,
                needs_headers: needs.headers,
                ..Default::default()
            }
        }
        Err(error) => TopicRouting {
            error_code: error.code,
            error_message: Some(error.message),
            topic: name.clone(),
            ..Default::default()
        },
    });
    DescribeRoutingResponse { topics: topics.collect(), ..Default::default() }
}

fn find_topic<'a>(state: &'a State, name: &str) -> Result<&'a Arc<Topic>, WireError> {
    if let Some(view) = state.view(name) {
        return Err(WireError::new(ErrorCode::InvalidTopic, format!("{} is a view: produce to its topic", view.name)));
    }
    let unknown = || WireError::new(ErrorCode::UnknownTopicOrPartition, format!("no topic {name:?}"));
    state.topic(name).ok_or_else(unknown)
}
