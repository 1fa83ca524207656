//! OffsetForLeaderEpoch: where leaders' epochs ended, so that a client finds out whether what it read was cut off since.

use std::sync::Arc;

use millstream_model::{LeaderEpoch, Offset};
use millstream_protocol::messages::offsets::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
};
use tracing::debug;

use crate::{errors::WireError, partition::Partition, readable::Readable, shared::Shared};

pub(crate) fn handle(shared: &Arc<Shared>, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    let state = shared.catalog.state();
    let topics = request.topics.into_iter().map(|topic| {
        let readable = Readable::named(&state, &topic.topic);
        let answer = |asked: &OffsetForLeaderPartition| {
            let mut answer = EpochEndOffset { partition: asked.partition, ..Default::default() };
            match find(shared, readable.as_ref(), asked) {
                Ok(found) => (answer.leader_epoch, answer.end_offset) = found.unwrap_or((LeaderEpoch(-1), Offset(-1))),
                Err(error) => {
                    // The answer has no room for words.
                    debug!(topic = topic.topic, partition = %asked.partition, error = error.message, "OffsetForLeaderEpoch refused");
                    answer.error_code = error.kafka_code();
                }
            }
            answer
        };
        let partitions = topic.partitions.iter().map(answer).collect();
        OffsetForLeaderTopicResult { topic: topic.topic, partitions }
    });
    OffsetForLeaderEpochResponse { topics: topics.collect(), ..Default::default() }
}

fn find(
    shared: &Shared,
    readable: Result<&Readable, &WireError>,
    asked: &OffsetForLeaderPartition,
) -> Result<Option<(LeaderEpoch, Offset)>, WireError> {
    let partition = shared.led(readable.map_err(Clone::clone)?, asked.partition)?;
    partition.check_epoch(asked.current_leader_epoch)?;
    Ok(end_of(&partition, asked.leader_epoch))
}

/// As Kafka answers: of an epoch that the log does not know yet, nothing; of one that is older than all it has, that it ended where the
/// log begins.
fn end_of(partition: &Partition, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
    let log = &partition.log;
    log.latest_epoch().filter(|latest| (LeaderEpoch(0)..=*latest).contains(&epoch))?;
    Some(log.end_offset_for_epoch(epoch).unwrap_or_else(|| (epoch, log.start_offset())))
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::World;
    use millstream_model::PartitionId;
    use millstream_protocol::{ErrorCode, messages::offsets::OffsetForLeaderTopic};

    use super::*;
    use crate::{
        Broker,
        testing::{TOPIC, append, create, start, stop},
    };

    fn ask(broker: &Broker, topic: &str, partition: i32, epoch: i32, current: i32) -> (ErrorCode, i32, i64) {
        let partition = OffsetForLeaderPartition {
            partition: PartitionId(partition),
            current_leader_epoch: LeaderEpoch(current),
            leader_epoch: LeaderEpoch(epoch),
        };
        let topics = vec![OffsetForLeaderTopic { topic: topic.into(), partitions: vec![partition] }];
        let request = OffsetForLeaderEpochRequest { topics, ..Default::default() };
        let answer = handle(broker.shared(), request).topics.remove(0).partitions.remove(0);
        (answer.error_code, answer.leader_epoch.0, answer.end_offset.0)
    }

    /// A broker leads anew, with the next epoch, each time that it starts.
    #[test]
    fn an_epoch_ends_where_the_next_one_begins() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 1));
        let mut ends = Vec::new();
        let mut broker = Some(broker);
        for records in [3, 2, 4] {
            let running = broker.take().unwrap();
            for _ in 0..records {
                world.run_until(append(&running, 0).commit).unwrap();
            }
            let log = &running.shared().partitions.find(TOPIC, PartitionId(0)).unwrap().log;
            ends.push((log.latest_epoch().unwrap().0, log.end_offset().0));
            stop(&world, running);
            broker = Some(start(&world));
        }
        let broker = broker.unwrap();
        assert_eq!(ends.iter().map(|(_, end)| *end).collect::<Vec<_>>(), [3, 5, 9]);
        for (epoch, end) in &ends {
            assert_eq!(ask(&broker, "t", 0, *epoch, -1), (ErrorCode::None, *epoch, *end));
        }
        let partition = broker.shared().partitions.find(TOPIC, PartitionId(0)).unwrap();
        let latest = partition.log.latest_epoch().unwrap().0;
        assert_eq!(ask(&broker, "t", 0, latest, latest), (ErrorCode::None, latest, 9));
        // Not begun yet; and none.
        assert_eq!(ask(&broker, "t", 0, latest + 1, -1), (ErrorCode::None, -1, -1));
        assert_eq!(ask(&broker, "t", 0, -1, -1), (ErrorCode::None, -1, -1));
        // What the client knows of the leader is older or newer than this one.
        assert_eq!(ask(&broker, "t", 0, latest, latest - 1), (ErrorCode::FencedLeaderEpoch, -1, -1));
        assert_eq!(ask(&broker, "t", 0, latest, latest + 1), (ErrorCode::UnknownLeaderEpoch, -1, -1));
        assert_eq!(ask(&broker, "t", 1, latest, -1).0, ErrorCode::UnknownTopicOrPartition);
        assert_eq!(ask(&broker, "absent", 0, latest, -1).0, ErrorCode::UnknownTopicOrPartition);
        // The records of the first epoch go: it ended where the log begins now.
        world.run_until(partition.log.advance_start(Offset(5)).unwrap()).unwrap();
        assert_eq!(ask(&broker, "t", 0, ends[0].0, -1), (ErrorCode::None, ends[0].0, 5));
        assert_eq!(ask(&broker, "t", 0, ends[2].0, -1), (ErrorCode::None, ends[2].0, 9));
        stop(&world, broker);
    }
}
