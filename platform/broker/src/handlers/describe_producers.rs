//! DescribeProducers: the producers that partitions would know again.

use std::{collections::HashSet, sync::Arc};

use millstream_log::KnownProducer;
use millstream_model::{Offset, PartitionId};
use millstream_protocol::{
    ErrorCode,
    messages::producers::{
        DescribeProducersPartition, DescribeProducersRequest, DescribeProducersResponse,
        DescribeProducersTopicResponse, ProducerState,
    },
};

use crate::{
    errors::{Messages, WireError},
    readable::{Readable, no_topic},
    shared::Shared,
};

/// Most producers of one answer. What is left out is told by its partition's error.
const PRODUCERS_MAX: usize = 200_000;

pub(crate) fn handle(shared: &Arc<Shared>, request: DescribeProducersRequest) -> DescribeProducersResponse {
    let state = shared.catalog.state();
    let (mut messages, mut left, mut named) = (Messages::new(), PRODUCERS_MAX, HashSet::new());
    let topics = request.topics.into_iter().map(|topic| {
        let readable = Readable::by_name(&state, &topic.name).ok_or_else(|| no_topic(&topic.name));
        // As in Kafka's brokers, what is named again is answered once. (Of a topic that is not there, each answer costs nothing.)
        let is_new =
            |index: &PartitionId| readable.as_ref().map_or(true, |readable| named.insert((readable.id(), *index)));
        let partitions = topic.partition_indexes.into_iter().filter(is_new).map(|index| {
            let mut answer = DescribeProducersPartition { partition_index: index, ..Default::default() };
            match find(shared, readable.as_ref(), index, &mut left) {
                Ok(producers) => answer.active_producers = producers.into_iter().map(shown).collect(),
                Err(error) => {
                    answer.error_code = error.kafka_code();
                    answer.error_message = messages.say(&error.message);
                }
            }
            answer
        });
        DescribeProducersTopicResponse { partitions: partitions.collect(), name: topic.name }
    });
    DescribeProducersResponse { topics: topics.collect(), ..Default::default() }
}

fn find(
    shared: &Shared,
    readable: Result<&Readable, &WireError>,
    partition: PartitionId,
    left: &mut usize,
) -> Result<Vec<KnownProducer>, WireError> {
    let led = shared.led(readable.map_err(Clone::clone)?, partition)?;
    let full = || WireError::new(ErrorCode::PolicyViolation, "the answer is full: ask for less at a time");
    if *left == 0 {
        return Err(full());
    }
    let producers = led.log.producers();
    match left.checked_sub(producers.len()) {
        Some(rest) => *left = rest,
        None => {
            // One that does not fit costs as much as one that does: there is no other after it.
            *left = 0;
            return Err(full());
        }
    }
    Ok(producers)
}

fn shown(producer: KnownProducer) -> ProducerState {
    ProducerState {
        producer_id: producer.id,
        producer_epoch: producer.epoch.0.into(),
        last_sequence: producer.last_sequence.0,
        last_timestamp: producer.heard,
        coordinator_epoch: -1,
        current_txn_start_offset: Offset(-1),
    }
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::World;
    use millstream_model::{ProducerEpoch, ProducerId, Sequence, TimestampMs};
    use millstream_protocol::messages::producers::DescribeProducersTopic;
    use millstream_record::{BatchBuilder, BatchOptions};
    use millstream_replica::Acks;

    use super::*;
    use crate::testing::{TOPIC, append, create, start, stop};

    #[test]
    fn a_partitions_producers_are_shown_and_no_others() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 2));
        let options = BatchOptions {
            producer_id: ProducerId(7),
            producer_epoch: ProducerEpoch(3),
            base_sequence: Sequence(0),
            ..BatchOptions::default()
        };
        let mut builder = BatchBuilder::new(options);
        for _ in 0..4 {
            builder.push(TimestampMs(0), None, Some(b"value"), &[]).unwrap();
        }
        let led = broker.shared().partitions.find(TOPIC, PartitionId(1)).unwrap();
        world.run_until(led.append(vec![builder.build().unwrap()], Acks::All).unwrap().commit).unwrap();
        // Without a number there is nobody to know again.
        world.run_until(append(&broker, 0).commit).unwrap();
        let topic = |name: &str, partitions: &[i32]| DescribeProducersTopic {
            name: name.into(),
            partition_indexes: partitions.iter().copied().map(PartitionId).collect(),
        };
        let request = DescribeProducersRequest {
            topics: vec![topic("t", &[0, 1, 2, 1]), topic("absent", &[0]), topic("a/b", &[0])],
        };
        let answer = handle(broker.shared(), request);
        let [t, absent, illegal] = &answer.topics[..] else { panic!("{answer:?}") };
        assert_eq!((&*t.name, &*absent.name), ("t", "absent"));
        let codes: Vec<_> = [t, absent, illegal]
            .into_iter()
            .flat_map(|topic| &topic.partitions)
            .map(|answer| answer.error_code)
            .collect();
        let unknown = ErrorCode::UnknownTopicOrPartition;
        assert_eq!(codes, [ErrorCode::None, ErrorCode::None, unknown, unknown, ErrorCode::InvalidTopic]);
        assert!(t.partitions[2].error_message.as_ref().is_some_and(|message| message.contains("it has 2")));
        assert_eq!(t.partitions[0].active_producers, []);
        let [known] = &t.partitions[1].active_producers[..] else { panic!("{t:?}") };
        assert_eq!((known.producer_id, known.producer_epoch, known.last_sequence), (ProducerId(7), 3, 3));
        assert_eq!((known.coordinator_epoch, known.current_txn_start_offset), (-1, Offset(-1)));
        stop(&world, broker);
    }
}
