//! DescribeTopicPartitions: topics and views by name, so many partitions a page (KIP-966).

use std::{collections::BTreeSet, sync::Arc};

use millstream_model::{BrokerId, PartitionId};
use millstream_protocol::{
    ErrorCode,
    messages::metadata::{
        Cursor, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, DescribedPartition, DescribedTopic,
        TOPIC_OPERATIONS,
    },
};

use super::metadata::offline_replicas;
use crate::{
    partitions::Partitions,
    readable::{Readable, no_topic},
    shared::Shared,
};

/// Most partitions of a page, whatever the client asks for (Kafka's `max.request.partition.size.limit`).
const PAGE_PARTITIONS_MAX: usize = 2000;

pub(crate) fn handle(shared: &Arc<Shared>, request: DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let state = shared.catalog.state();
    if request.cursor.as_ref().is_some_and(|cursor| cursor.partition_index.0 < 0) {
        return refuse_all(&request);
    }
    let (from, skipped) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.as_str(), usize::try_from(cursor.partition_index.0).unwrap_or(0)),
        None => ("", 0),
    };
    let names: BTreeSet<&str> = match &request.topics[..] {
        [] => {
            let topics = state.topics_by_name().map(|topic| topic.name.as_str());
            topics.chain(state.views_by_name().map(|view| view.name.as_str())).collect()
        }
        asked => asked.iter().map(|topic| topic.name.as_str()).collect(),
    };
    let limit = usize::try_from(request.response_partition_limit).unwrap_or(0);
    let mut page = Page { left: limit.clamp(1, PAGE_PARTITIONS_MAX), topics: Vec::new() };
    for name in names.range(from..) {
        let skipped = if *name == from { skipped } else { 0 };
        let next = match Readable::by_name(&state, name) {
            Some(readable) => page.describe(&shared.partitions, &readable, skipped),
            None => page.refuse(name),
        };
        if let Some(next) = next {
            let next_cursor = Cursor { topic_name: (*name).into(), partition_index: PartitionId(next) };
            let next_cursor = Some(next_cursor);
            return DescribeTopicPartitionsResponse { topics: page.topics, next_cursor, ..Default::default() };
        }
    }
    DescribeTopicPartitionsResponse { topics: page.topics, ..Default::default() }
}

/// The answer has no error of its own: as in Kafka's brokers, each topic that was asked for has it.
fn refuse_all(request: &DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let refused = |name: &str| DescribedTopic {
        error_code: ErrorCode::InvalidRequest,
        name: Some(name.to_owned()),
        ..Default::default()
    };
    let names: BTreeSet<&str> = request.topics.iter().map(|topic| topic.name.as_str()).collect();
    DescribeTopicPartitionsResponse { topics: names.into_iter().map(refused).collect(), ..Default::default() }
}

struct Page {
    /// How many partitions there is room for. A topic without any, because there is none of that name, takes the room of one.
    left: usize,
    topics: Vec<DescribedTopic>,
}

impl Page {
    /// The partition that the next page begins with, if this one ends within the topic.
    fn describe(&mut self, led: &Partitions, readable: &Readable, skipped: usize) -> Option<i32> {
        let topic = readable.topic();
        let end = topic.partitions.len().min(skipped.saturating_add(self.left));
        if self.left == 0 {
            return Some(0);
        }
        let indexes = (0..).zip(&topic.partitions).skip(skipped).take(self.left);
        let partitions: Vec<_> = indexes
            .map(|(index, partition)| DescribedPartition {
                error_code: if partition.leader.is_some() { ErrorCode::None } else { ErrorCode::LeaderNotAvailable },
                partition_index: PartitionId(index),
                leader_id: partition.leader.unwrap_or(BrokerId(-1)),
                leader_epoch: partition.leader_epoch,
                replica_nodes: partition.replicas.clone(),
                isr_nodes: partition.isr.clone(),
                eligible_leader_replicas: Some(partition.elr.clone()),
                last_known_elr: Some(partition.last_known.iter().map(|last| last.broker).collect()),
                offline_replicas: offline_replicas(led, topic, PartitionId(index)),
            })
            .collect();
        self.left -= partitions.len();
        self.topics.push(DescribedTopic {
            name: Some(readable.name().to_owned()),
            topic_id: readable.id(),
            is_internal: matches!(readable, Readable::View { .. }),
            partitions,
            topic_authorized_operations: TOPIC_OPERATIONS,
            ..Default::default()
        });
        (end < topic.partitions.len()).then(|| i32::try_from(end).unwrap_or(i32::MAX))
    }

    fn refuse(&mut self, name: &str) -> Option<i32> {
        if self.left == 0 {
            return Some(0);
        }
        self.left -= 1;
        let error_code = no_topic(name).code;
        self.topics.push(DescribedTopic { error_code, name: Some(name.to_owned()), ..Default::default() });
        None
    }
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::World;
    use millstream_protocol::messages::metadata::TopicRequest;

    use super::*;
    use crate::{
        Broker,
        testing::{create, start, stop},
    };

    type Told = (Vec<(String, ErrorCode, Vec<i32>)>, Option<(String, i32)>);

    fn ask(broker: &Broker, names: &[&str], limit: i32, cursor: Option<(&str, i32)>) -> Told {
        let request = DescribeTopicPartitionsRequest {
            topics: names.iter().map(|name| TopicRequest { name: (*name).into() }).collect(),
            response_partition_limit: limit,
            cursor: cursor
                .map(|(name, partition)| Cursor { topic_name: name.into(), partition_index: PartitionId(partition) }),
        };
        let answer = handle(broker.shared(), request);
        let topics = answer.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| partition.partition_index.0).collect();
            (topic.name.unwrap(), topic.error_code, partitions)
        });
        (topics.collect(), answer.next_cursor.map(|cursor| (cursor.topic_name, cursor.partition_index.0)))
    }

    #[test]
    fn pages_follow_each_other_and_leave_nothing_out() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 5));
        let (ok, unknown) = (ErrorCode::None, ErrorCode::UnknownTopicOrPartition);
        let t = |partitions: &[i32]| ("t".to_owned(), ok, partitions.to_vec());
        let absent = |name: &str| (name.to_owned(), unknown, vec![]);
        assert_eq!(ask(&broker, &[], 2000, None), (vec![t(&[0, 1, 2, 3, 4])], None));
        let names = ["z", "t", "a", "t"];
        assert_eq!(ask(&broker, &names, 3, None), (vec![absent("a"), t(&[0, 1])], Some(("t".into(), 2))));
        assert_eq!(ask(&broker, &names, 3, Some(("t", 2))), (vec![t(&[2, 3, 4])], Some(("z".into(), 0))));
        assert_eq!(ask(&broker, &names, 3, Some(("z", 0))), (vec![absent("z")], None));
        // One at least; and a page that ends with its topic says so.
        assert_eq!(ask(&broker, &["t"], -1, Some(("t", 4))), (vec![t(&[4])], None));
        assert_eq!(ask(&broker, &["t"], 0, Some(("t", 0))), (vec![t(&[0])], Some(("t".into(), 1))));
        // What cannot be is told of each.
        let told = |name: &str, code| (name.to_owned(), code, vec![]);
        let invalid = ErrorCode::InvalidRequest;
        assert_eq!(ask(&broker, &names, 9, Some(("t", -7))).0, ["a", "t", "z"].map(|name| told(name, invalid)));
        assert_eq!(ask(&broker, &["no/name"], 9, None), (vec![told("no/name", ErrorCode::InvalidTopic)], None));
        assert_eq!(ask(&broker, &["t"], 5, Some(("t", i32::MAX))), (vec![t(&[])], None));
        assert_eq!(ask(&broker, &["t"], i32::MAX, Some(("u", 0))), (vec![], None));
        stop(&world, broker);
    }
}
