//! Asking leaders for offsets by time.

use std::{collections::BTreeMap, sync::Arc};

use millstream_model::{BrokerId, Offset, PartitionId, TimestampMs};
use millstream_protocol::{
    ErrorCode,
    messages::offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
};

use crate::{
    CallError,
    cluster::{Cluster, Target, Topic},
};

/// What is known of an offset: none where no record is as late; an error where the partition's storage has failed or is damaged.
pub(crate) type Found = Result<Option<Offset>, CallError>;

/// Asks the leaders for an offset by time. What is wrong with a partition's storage may stay so for long: that is told at once, and
/// holds up no other.
pub(crate) async fn list_offsets(
    cluster: &Cluster,
    topic: &Arc<Topic>,
    partitions: &[PartitionId],
    timestamp: TimestampMs,
) -> Result<BTreeMap<PartitionId, Found>, CallError> {
    let mut topic = Arc::clone(topic);
    let mut found = BTreeMap::new();
    let deadline = cluster.deadline();
    let mut retry = cluster.retry_by(deadline);
    loop {
        let missing: Vec<_> = partitions.iter().filter(|at| !found.contains_key(*at)).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        let mut by_leader: BTreeMap<BrokerId, Vec<ListOffsetsPartition>> = BTreeMap::new();
        let mut failed = None;
        for partition in missing {
            match topic.leader(*partition) {
                Ok((leader, epoch)) => by_leader.entry(leader).or_default().push(ListOffsetsPartition {
                    partition_index: *partition,
                    current_leader_epoch: epoch,
                    timestamp,
                }),
                Err(error) => failed = Some(error),
            }
        }
        for (leader, asked) in by_leader {
            let topics = vec![ListOffsetsTopic { name: topic.name.as_ref().into(), partitions: asked }];
            let request = ListOffsetsRequest {
                topics,
                timeout_ms: i32::try_from(deadline.left(&*cluster.env.clock).as_millis()).unwrap_or(i32::MAX),
                ..ListOffsetsRequest::default()
            };
            let response = match cluster.ask_by(deadline, Target::Broker(leader), request).await {
                Ok(response) => response,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            for answer in response.topics.into_iter().flat_map(|topic| topic.partitions) {
                let what = || format!("{} partition {}", topic.name, answer.partition_index);
                match CallError::check(&what(), answer.error_code, answer.error_message.as_deref()) {
                    Ok(()) => {
                        let offset = Some(answer.offset).filter(|offset| offset.0 >= 0);
                        found.insert(answer.partition_index, Ok(offset));
                    }
                    Err(error) if is_of_storage(&error) => {
                        found.insert(answer.partition_index, Err(error));
                    }
                    Err(error) => failed = Some(error),
                }
            }
        }
        if let Some(error) = failed {
            if !error.is_retriable() || !retry.wait().await {
                return Err(error);
            }
            topic = cluster.refresh_topic_by(deadline, &topic.name).await?;
        } else if partitions.iter().any(|at| !found.contains_key(at)) {
            let what = format!("the offsets of {}", topic.name);
            return Err(CallError::refused(
                what,
                ErrorCode::UnknownServer,
                Some("the broker's answer leaves partitions out"),
            ));
        }
    }
}

/// Whether a partition's storage is to blame, which may stay so for long.
pub(crate) fn is_of_storage(error: &CallError) -> bool {
    matches!(error.code(), Some(ErrorCode::KafkaStorage | ErrorCode::CorruptMessage))
}
