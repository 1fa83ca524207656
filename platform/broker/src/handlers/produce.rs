//! Produce: batches from clients into the logs of their partitions.
//!
//! The plain path: a batch is checked where it lies in the request's frame (checksum, counts, lengths) and goes to the log
//! as it is; nothing is decoded or encoded again.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::{Either, select};
use millstream_catalog::Topic;
use millstream_model::{Offset, ProducerId, limits};
use millstream_protocol::{
    ErrorCode, RequestHeader,
    messages::produce::{
        PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceData,
        TopicProduceResponse,
    },
};
use millstream_record::{Batch, BatchError, BatchHeader};
use millstream_replica::Acks;

use crate::{
    errors::WireError,
    partition::{Partition, PendingAppend},
    readable::Readable,
    shared::Shared,
};

/// The first version whose topics are named by id.
const VERSION_BY_ID: i16 = 13;

/// Appends now, in the order of the request; the future waits for the disk and answers. No answer for acks=0.
pub(crate) fn handle(
    shared: &Arc<Shared>,
    header: &RequestHeader,
    request: ProduceRequest,
) -> impl Future<Output = Option<ProduceResponse>> + Send + use<> {
    let (acks, refusal) = match (Acks::try_from(request.acks), &request.transactional_id) {
        (Ok(acks), None) => (acks, None),
        (Ok(acks), Some(_)) => {
            (acks, Some(WireError::new(ErrorCode::InvalidRequest, "transactional ids are not built yet")))
        }
        (Err(error), _) => (Acks::All, Some(WireError::new(ErrorCode::InvalidRequiredAcks, error))),
    };
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for topic in request.topic_data {
        let begun: Vec<_> = match &refusal {
            Some(refusal) => topic.partition_data.iter().map(|data| (data.index, Err(refusal.clone()))).collect(),
            None => begin_topic(shared, header.version, acks, &topic),
        };
        topics.push((topic.name, topic.topic_id, begun));
    }

    let shared = shared.clone();
    async move {
        if acks == Acks::None {
            return None;
        }
        let mut deadline = shared.env.clock.sleep(timeout);
        let mut responses = Vec::with_capacity(topics.len());
        for (name, topic_id, begun) in topics {
            let mut partition_responses = Vec::with_capacity(begun.len());
            for (index, pending) in begun {
                let outcome = match pending {
                    Err(error) => Err(error),
                    Ok((partition, pending)) => settle(&partition, pending, acks, &mut deadline).await,
                };
                let mut response = PartitionProduceResponse { index, base_offset: Offset(-1), ..Default::default() };
                match outcome {
                    Ok((base_offset, log_start_offset)) => {
                        response.base_offset = base_offset;
                        response.log_start_offset = log_start_offset;
                    }
                    Err(error) => {
                        response.error_code = error.code;
                        response.error_message = Some(error.message);
                    }
                }
                partition_responses.push(response);
            }
            responses.push(TopicProduceResponse { name, topic_id, partition_responses });
        }
        Some(ProduceResponse { responses, ..Default::default() })
    }
}

type Begun = (millstream_model::PartitionId, Result<(Arc<Partition>, PendingAppend), WireError>);

fn begin_topic(shared: &Arc<Shared>, version: i16, acks: Acks, data: &TopicProduceData) -> Vec<Begun> {
    let state = shared.catalog.state();
    let readable = if version >= VERSION_BY_ID {
        Readable::by_id(&state, data.topic_id).ok_or(ErrorCode::UnknownTopicId)
    } else {
        Readable::by_name(&state, &data.name).ok_or(ErrorCode::UnknownTopicOrPartition)
    };
    let topic = match readable {
        Ok(Readable::Topic(topic)) => Ok(topic),
        Ok(Readable::View { view, topic }) => Err(WireError::new(
            ErrorCode::InvalidTopic,
            format!("{} is a view of {}: produce to the topic", view.name, topic.name),
        )),
        Err(code) => Err(WireError::new(code, code.text())),
    };
    data.partition_data
        .iter()
        .map(|data| {
            let begun = match &topic {
                Ok(topic) => begin_partition(shared, topic, acks, data),
                Err(error) => Err(error.clone()),
            };
            (data.index, begun)
        })
        .collect()
}

fn begin_partition(
    shared: &Shared,
    topic: &Topic,
    acks: Acks,
    data: &PartitionProduceData,
) -> Result<(Arc<Partition>, PendingAppend), WireError> {
    let Some(partition) = shared.partitions.find(topic.id, data.index) else {
        let code = if topic.partition(data.index).is_some() {
            ErrorCode::NotLeaderOrFollower
        } else {
            ErrorCode::UnknownTopicOrPartition
        };
        let (name, count) = (&topic.name, topic.partition_count());
        return Err(WireError::new(
            code,
            format!("{name} has no partition {}: it has {count}, numbered from 0", data.index),
        ));
    };
    let batch = check_batch(data.records.clone(), partition.batch_bytes_max)?;
    if data.routing_epoch.0 >= 0 && data.routing_epoch != topic.routing_epoch {
        // What was appended before the change stays where it is: told that it is stale, its producer would send it elsewhere too.
        if let Some(pending) = partition.find_duplicate(batch.header()) {
            return Ok((partition, pending));
        }
        return Err(WireError::new(
            ErrorCode::StaleRouting,
            format!("routed in epoch {}; {} is in epoch {}", data.routing_epoch, topic.name, topic.routing_epoch),
        ));
    }
    let pending = partition.append(vec![batch.into_bytes()], acks)?;
    Ok((partition, pending))
}

/// Exactly one batch, of this broker's making (version 2), whole, within the topic's limit, and what it says of itself.
fn check_batch(records: Option<Bytes>, bytes_max: usize) -> Result<Batch, WireError> {
    let records = records.filter(|records| !records.is_empty());
    let records = records.ok_or_else(|| WireError::new(ErrorCode::InvalidRecord, "no records"))?;
    if records.len() > bytes_max {
        let message = format!("a batch of {} bytes; max.message.bytes is {bytes_max}", records.len());
        return Err(WireError::new(ErrorCode::MessageTooLarge, message));
    }
    let (mut batch, rest) = Batch::parse(records).map_err(refuse_batch)?;
    if !rest.is_empty() {
        return Err(WireError::new(ErrorCode::InvalidRecord, "more than one batch for a partition in one request"));
    }
    batch.validate_for_append().map_err(refuse_batch)?;
    // A compressed batch is unpacked once to be checked, and stored as it came.
    batch.validate_packed(limits::BATCH_BYTES_MAX).map_err(refuse_batch)?;
    check_producer(batch.header())?;
    if batch.header().attributes.is_transactional() {
        return Err(WireError::new(ErrorCode::InvalidRequest, "transactions are not built yet"));
    }
    Ok(batch)
}

/// An idempotent producer's batch names an id that a client may have, an epoch and a sequence.
fn check_producer(header: &BatchHeader) -> Result<(), WireError> {
    let BatchHeader { producer_id: id, producer_epoch: epoch, base_sequence: sequence, .. } = header;
    if *id == ProducerId::NONE || (id.is_clients() && epoch.0 >= 0 && sequence.0 >= 0) {
        return Ok(());
    }
    let message = match *id >= ProducerId::RESERVED {
        true => format!("producer id {id} is the broker's own"),
        false => format!("producer id {id} with epoch {epoch} and sequence {sequence}: none of them may be negative"),
    };
    Err(WireError::new(ErrorCode::InvalidRecord, message))
}

fn refuse_batch(error: BatchError) -> WireError {
    let code = match &error {
        BatchError::Crc { .. } | BatchError::Truncated { .. } | BatchError::Length { .. } => ErrorCode::CorruptMessage,
        BatchError::Magic { .. } => ErrorCode::UnsupportedForMessageFormat,
        BatchError::Codec { .. } => ErrorCode::UnsupportedCompressionType,
        _ => ErrorCode::InvalidRecord,
    };
    WireError::new(code, error)
}

/// Waits until the append is what `acks` promises, at most until the deadline.
async fn settle(
    partition: &Partition,
    pending: PendingAppend,
    acks: Acks,
    deadline: &mut (impl Future<Output = ()> + Unpin),
) -> Result<(Offset, Offset), WireError> {
    let base_offset = pending.base_offset;
    let done = async {
        pending.commit.await.map_err(|error| WireError::new(ErrorCode::KafkaStorage, error))?;
        if acks == Acks::All {
            partition.committed(pending.end_offset).await;
        }
        Ok(())
    };
    match select(std::pin::pin!(done), deadline).await {
        Either::Left((done, _)) => done.map(|()| (base_offset, partition.log.start_offset())),
        Either::Right(_) => Err(WireError::new(
            ErrorCode::RequestTimedOut,
            format!(
                "appended at offset {base_offset}, but not durable within the request's timeout: it may or may not stay"
            ),
        )),
    }
}
