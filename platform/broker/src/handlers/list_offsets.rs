//! ListOffsets: the first, the last, and offsets by time.

use std::sync::Arc;

use millstream_model::{Offset, TimestampMs};
use millstream_protocol::{
    ErrorCode,
    messages::offsets::{
        EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest,
        ListOffsetsResponse, ListOffsetsTopicResponse, MAX_TIMESTAMP,
    },
};
use tracing::debug;

use crate::{errors::WireError, handlers::fetch::check_epoch, readable::Readable, shared::Shared};

pub(crate) fn handle(shared: &Arc<Shared>, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let state = shared.catalog.state();
    let topics = request.topics.into_iter().map(|topic| {
        let readable = Readable::by_name(&state, &topic.name);
        let partitions = topic.partitions.iter().map(|asked| answer(shared, readable.as_ref(), asked)).collect();
        ListOffsetsTopicResponse { name: topic.name, partitions }
    });
    ListOffsetsResponse { topics: topics.collect(), ..Default::default() }
}

fn answer(shared: &Shared, readable: Option<&Readable>, asked: &ListOffsetsPartition) -> ListOffsetsPartitionResponse {
    let mut response = ListOffsetsPartitionResponse { partition_index: asked.partition_index, ..Default::default() };
    match find(shared, readable, asked) {
        Ok(Some((offset, timestamp))) => {
            response.offset = offset;
            response.timestamp = timestamp;
        }
        // Nothing at or after that time: offset -1, and no error.
        Ok(None) => {}
        Err(error) => {
            debug!(partition = asked.partition_index.0, error = error.message, "ListOffsets refused");
            response.error_code = error.code;
        }
    }
    response
}

fn find(
    shared: &Shared,
    readable: Option<&Readable>,
    asked: &ListOffsetsPartition,
) -> Result<Option<(Offset, TimestampMs)>, WireError> {
    let unknown = || WireError::new(ErrorCode::UnknownTopicOrPartition, "no such topic or partition");
    let topic = readable.ok_or_else(unknown)?.topic();
    let partition = shared.partitions.find(topic.id, asked.partition_index).ok_or_else(unknown)?;
    check_epoch(asked.current_leader_epoch, partition.epoch)?;
    let none = TimestampMs(-1);
    let high_watermark = partition.high_watermark();
    match asked.timestamp {
        LATEST_TIMESTAMP => Ok(Some((high_watermark, none))),
        EARLIEST_TIMESTAMP => Ok(Some((partition.log.start_offset(), none))),
        MAX_TIMESTAMP => Err(WireError::new(ErrorCode::UnsupportedVersion, "the greatest timestamp is not built yet")),
        TimestampMs(time) if time >= 0 => {
            let found = partition.log.offset_for_timestamp(TimestampMs(time))?;
            // What is not committed yet is not there yet.
            Ok(found.filter(|(offset, _)| *offset < high_watermark))
        }
        TimestampMs(other) => {
            Err(WireError::new(ErrorCode::UnsupportedVersion, format!("timestamp {other} has no meaning here")))
        }
    }
}
