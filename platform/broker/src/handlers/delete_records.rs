//! DeleteRecords: moves where partitions begin. Answered once that is durable; the files go in the background.

use std::sync::Arc;

use futures::future::{Either, select};
use millstream_log::Ticket;
use millstream_model::{Offset, PartitionId};
use millstream_protocol::{
    ErrorCode,
    messages::records::{
        DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse,
        DeleteRecordsTopicResult, HIGH_WATERMARK,
    },
};
use tracing::{debug, info};

use super::wire::client_wait;
use crate::{
    errors::WireError,
    readable::{Readable, topic_named},
    shared::Shared,
};

/// A start that was moved and may not be durable yet.
struct Moved {
    start: Offset,
    ticket: Ticket,
}

pub(crate) async fn handle(shared: Arc<Shared>, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let state = shared.catalog.state();
    // All first, so that one sync serves all.
    let moved: Vec<_> = request
        .topics
        .into_iter()
        .map(|topic| {
            let readable = topic_named(&state, &topic.name, "delete the topic's records");
            let readable = readable.map(|topic| Readable::Topic(topic.clone()));
            let advance =
                |asked: &DeleteRecordsPartition| (asked.partition_index, advance(&shared, readable.as_ref(), asked));
            let partitions: Vec<_> = topic.partitions.iter().map(advance).collect();
            (topic.name, partitions)
        })
        .collect();
    let timeout = client_wait(request.timeout_ms);
    let mut deadline = shared.env.clock.sleep(timeout);
    let mut topics = Vec::with_capacity(moved.len());
    for (name, moved) in moved {
        let mut partitions = Vec::with_capacity(moved.len());
        for (index, moved) in moved {
            let outcome = match moved {
                Ok(Moved { start, ticket }) => match select(ticket, &mut deadline).await {
                    Either::Left((Ok(()), _)) => Ok(start),
                    Either::Left((Err(error), _)) => Err(error.into()),
                    Either::Right(_) => Err(WireError::new(ErrorCode::RequestTimedOut, "deleted, but not durable yet")),
                },
                Err(error) => Err(error),
            };
            partitions.push(result(&name, index, outcome));
        }
        topics.push(DeleteRecordsTopicResult { name, partitions });
    }
    DeleteRecordsResponse { topics, ..Default::default() }
}

fn result(name: &str, index: PartitionId, outcome: Result<Offset, WireError>) -> DeleteRecordsPartitionResult {
    let (low_watermark, error_code) = match outcome {
        Ok(start) => (start, ErrorCode::None),
        Err(error) => {
            debug!(topic = name, partition = %index, error = error.message, "DeleteRecords refused");
            (Offset(-1), error.kafka_code())
        }
    };
    DeleteRecordsPartitionResult { partition_index: index, low_watermark, error_code }
}

fn advance(
    shared: &Shared,
    readable: Result<&Readable, &WireError>,
    asked: &DeleteRecordsPartition,
) -> Result<Moved, WireError> {
    let readable = readable.map_err(Clone::clone)?;
    if !readable.topic().config.cleanup_policy.deletes() {
        let message = "the topic is compacted: its records go when their keys are written anew, or with tombstones";
        return Err(WireError::new(ErrorCode::PolicyViolation, message));
    }
    let partition = shared.led(readable, asked.partition_index)?;
    let end = partition.high_watermark();
    let start = if asked.offset == HIGH_WATERMARK { end } else { asked.offset };
    if start.0 < 0 || start > end {
        let message = format!("offset {start} is not in 0..={end}");
        return Err(WireError::new(ErrorCode::OffsetOutOfRange, message));
    }
    let before = partition.log.start_offset();
    let ticket = partition.log.advance_start(start)?;
    if start > before {
        info!(topic = readable.name(), partition = %asked.partition_index, from = %before, to = %start, "records deleted as asked");
    }
    Ok(Moved { start: start.max(before), ticket })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use millstream_catalog::Command;
    use millstream_env::sim::World;
    use millstream_model::{CleanupPolicy, TopicConfig};
    use millstream_protocol::messages::records::DeleteRecordsTopic;

    use super::*;
    use crate::{
        Broker,
        partition::Partition,
        testing::{TOPIC, append, create, start},
    };

    fn partition(broker: &Broker) -> Arc<Partition> {
        broker.shared().partitions.find(TOPIC, PartitionId(0)).unwrap()
    }

    /// A broker whose topic has so many records.
    fn with_records(world: &World, count: usize) -> Broker {
        let broker = start(world);
        world.run_until(create(&broker, 1));
        for _ in 0..count {
            world.run_until(append(&broker, 0).commit).unwrap();
        }
        broker
    }

    fn request(offset: i64, timeout_ms: i32) -> DeleteRecordsRequest {
        let partition = DeleteRecordsPartition { partition_index: PartitionId(0), offset: Offset(offset) };
        let topic = DeleteRecordsTopic { name: "t".into(), partitions: vec![partition] };
        DeleteRecordsRequest { topics: vec![topic], timeout_ms }
    }

    fn told(mut response: DeleteRecordsResponse) -> (Offset, ErrorCode) {
        let partition = response.topics.remove(0).partitions.remove(0);
        (partition.low_watermark, partition.error_code)
    }

    #[test]
    fn what_is_answered_is_durable() {
        let world = World::new(1);
        let broker = with_records(&world, 10);
        let mut answer = Box::pin(handle(broker.shared().clone(), request(6, 30_000)));
        assert!((&mut answer).now_or_never().is_none(), "it is answered before the disk was asked");
        assert_eq!(told(world.run_until(answer)), (Offset(6), ErrorCode::None));
        world.first().crash();
        drop(broker);
        let broker = start(&world);
        assert_eq!(partition(&broker).log.start_offset(), Offset(6));
        // What is not in time is told so, and done all the same.
        let late = world.run_until(handle(broker.shared().clone(), request(HIGH_WATERMARK.0, 0)));
        assert_eq!(told(late), (Offset(-1), ErrorCode::RequestTimedOut));
        assert_eq!(partition(&broker).log.start_offset(), Offset(10));
        world.run_until(broker.shutdown()).unwrap();
    }

    #[test]
    fn a_topic_that_is_only_compacted_keeps_its_records() {
        let world = World::new(1);
        let broker = with_records(&world, 3);
        let alter = |from: CleanupPolicy, to: CleanupPolicy| {
            let config = |cleanup_policy| Box::new(TopicConfig { cleanup_policy, ..TopicConfig::default() });
            let command = Command::AlterTopic { id: TOPIC, from: config(from), to: config(to) };
            world.run_until(broker.shared().propose(command)).unwrap();
        };
        let ask = |offset| told(world.run_until(handle(broker.shared().clone(), request(offset, 30_000))));
        alter(CleanupPolicy::Delete, CleanupPolicy::Compact);
        assert_eq!(ask(2), (Offset(-1), ErrorCode::PolicyViolation));
        assert_eq!(partition(&broker).log.start_offset(), Offset(0));
        alter(CleanupPolicy::Compact, CleanupPolicy::CompactDelete);
        assert_eq!(ask(2), (Offset(2), ErrorCode::None));
        world.run_until(broker.shutdown()).unwrap();
    }

    #[test]
    fn what_cannot_be_read_yet_is_not_deleted() {
        let world = World::new(1);
        let broker = with_records(&world, 3);
        let uncommitted = append(&broker, 0);
        let end = partition(&broker).log.end_offset();
        let refused = world.run_until(handle(broker.shared().clone(), request(end.0, 30_000)));
        world.run_until(uncommitted.commit).unwrap();
        let deleted = world.run_until(handle(broker.shared().clone(), request(end.0, 30_000)));
        world.run_until(broker.shutdown()).unwrap();
        assert_eq!(end, Offset(4));
        assert_eq!(told(refused), (Offset(-1), ErrorCode::OffsetOutOfRange));
        assert_eq!(told(deleted), (Offset(4), ErrorCode::None));
    }
}
