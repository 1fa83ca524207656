//! DescribeLogDirs: what the partitions that this broker leads take in its data directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millstream_catalog::Topic;
use millstream_model::PartitionId;
use millstream_protocol::{
    ErrorCode,
    messages::log_dirs::{
        DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeLogDirsResult,
        DescribeLogDirsTopic,
    },
};

use crate::shared::Shared;

/// What is not here is left out, as Kafka's brokers do: the answer has no place for an error of a partition.
pub(crate) fn handle(shared: &Arc<Shared>, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    let state = shared.catalog.state();
    let topics = match request.topics {
        None => {
            state.topics_by_name().filter_map(|topic| describe(shared, topic, 0..topic.partition_count())).collect()
        }
        Some(asked) => {
            let describe = |(name, partitions): (String, BTreeSet<PartitionId>)| {
                describe(shared, state.topic(&name)?, partitions.iter().map(|partition| partition.0))
            };
            // What is named again is answered once.
            let mut named = BTreeMap::<String, BTreeSet<PartitionId>>::new();
            for topic in asked {
                named.entry(topic.topic).or_default().extend(topic.partitions);
            }
            named.into_iter().filter_map(describe).collect()
        }
    };
    let data_dir = &shared.options.data_dir;
    let room = shared.env.disk.room(data_dir).ok();
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let result = DescribeLogDirsResult {
        error_code: ErrorCode::None,
        log_dir: data_dir.display().to_string(),
        topics,
        total_bytes: room.map_or(-1, |room| bytes(room.total_bytes)),
        usable_bytes: room.map_or(-1, |room| bytes(room.bytes)),
    };
    DescribeLogDirsResponse { results: vec![result], ..Default::default() }
}

fn describe(shared: &Shared, topic: &Topic, partitions: impl Iterator<Item = i32>) -> Option<DescribeLogDirsTopic> {
    let describe = |index| {
        let partition_index = PartitionId(index);
        let led = shared.partitions.find(topic.id, partition_index)?;
        let partition_size = i64::try_from(led.log.size_bytes()).unwrap_or(i64::MAX);
        Some(DescribeLogDirsPartition { partition_index, partition_size, ..Default::default() })
    };
    let partitions: Vec<_> = partitions.filter_map(describe).collect();
    (!partitions.is_empty()).then(|| DescribeLogDirsTopic { name: topic.name.to_string(), partitions })
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::World;
    use millstream_protocol::messages::log_dirs::DescribableLogDirTopic;

    use super::*;
    use crate::{
        Broker,
        testing::{append, create, start, stop},
    };

    fn ask(broker: &Broker, asked: Option<&[(&str, &[i32])]>) -> Vec<(String, i32, bool)> {
        let topic = |(name, partitions): &(&str, &[i32])| DescribableLogDirTopic {
            topic: (*name).into(),
            partitions: partitions.iter().copied().map(PartitionId).collect(),
        };
        let request = DescribeLogDirsRequest { topics: asked.map(|asked| asked.iter().map(topic).collect()) };
        let mut answer = handle(broker.shared(), request);
        let [result] = &mut answer.results[..] else { panic!("{answer:?}") };
        assert_eq!((&*result.log_dir, result.error_code), ("/data", ErrorCode::None));
        assert!(result.total_bytes >= result.usable_bytes && result.usable_bytes > 0, "{result:?}");
        let of_topic = |topic: &DescribeLogDirsTopic| {
            let name = topic.name.clone();
            let told = topic
                .partitions
                .iter()
                .map(move |partition| (name.clone(), partition.partition_index.0, partition.partition_size > 0));
            told.collect::<Vec<_>>()
        };
        result.topics.iter().flat_map(of_topic).collect()
    }

    #[test]
    fn what_is_here_is_told_once_and_nothing_else() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 3));
        world.run_until(append(&broker, 1).commit).unwrap();
        let t = |partition, filled| ("t".to_owned(), partition, filled);
        assert_eq!(ask(&broker, None), [t(0, false), t(1, true), t(2, false)]);
        let asked: &[(&str, &[i32])] = &[("t", &[1, 7, -1, 1]), ("absent", &[0]), ("t", &[0, 1])];
        assert_eq!(ask(&broker, Some(asked)), [t(0, false), t(1, true)]);
        assert_eq!(ask(&broker, Some(&[])), []);
        stop(&world, broker);
    }
}
