//! `millstream.partitioner.enforce=verify`: what clients have placed themselves must lie where the topic's partitioner puts it.
//!
//! Who has asked the broker (Assign), or has run the same module, says so by the routing epoch, and is not looked at again. The partitioner is asked about
//! each record by itself: one that decides by anything else, such as a counter of its own, cannot be verified.

use millstream_model::{Offset, RoutingEpoch};
use millstream_protocol::ErrorCode;
use millstream_record::{Batch, Compression};
use millstream_wasm::frame::FrameOptions;

use super::AT_ONCE_UNPACKED_MAX;
use crate::{
    errors::WireError,
    partition::Partition,
    placement::Placement,
    rows::{self, RowsError, Unpacked},
    shared::Shared,
};

/// Looks at every record of a batch that was looked into before; gives the routing epoch that it belongs to this partition in.
/// `records_bytes`: what its records take, unpacked.
///
/// Waits for the partitioner's turn, as long as that may take; dropping the future gives it up.
///
/// # Errors
/// `InvalidRecord` with the first record that lies elsewhere; what keeps the partitioner from choosing.
pub(super) async fn verify(
    shared: &Shared,
    partition: &Partition,
    batch: &Batch,
    records_bytes: usize,
) -> Result<RoutingEpoch, WireError> {
    let state = shared.catalog.state();
    let topic = state
        .topic_by_id(partition.id.topic)
        .ok_or_else(|| WireError::new(ErrorCode::UnknownTopicOrPartition, "the topic is gone"))?;
    let placement = Placement::of(shared, &state, topic).await?;
    // What is unpacked takes twice its room while it grows.
    let _held = shared.memory.unpack(2 * records_bytes).await;
    let mut records = unpack(shared, batch, records_bytes).await?;
    let needs = placement.needs();
    let options =
        FrameOptions { elide_values: !needs.values, elide_headers: !needs.headers, ..FrameOptions::default() };
    let mut first = 0;
    loop {
        let rows = records.next_rows()?;
        if rows.is_empty() {
            return Ok(topic.routing_epoch);
        }
        let mut rest = &rows[..];
        while !rest.is_empty() {
            let (count, frame) = rows::frame(rest, options).map_err(RowsError::from)?;
            let chosen = placement.choose(&frame).await.map_err(|error| error.behind(first))?;
            let here = partition.id.partition;
            let elsewhere =
                (first..).zip(chosen).find_map(|(record, chosen)| Some((record, chosen.filter(|it| *it != here)?)));
            if let Some((record, chosen)) = elsewhere {
                let message = format!(
                    "record {record} of the batch was sent to partition {here}; by {} it belongs to {chosen}, and the topic's \
                     millstream.partitioner.enforce is verify: leave the choice to the broker, or choose alike",
                    placement.who()
                );
                return Err(WireError::new(ErrorCode::InvalidRecord, message).about(Some(record)));
            }
            first += frame.count();
            rest = &rest[count..];
        }
    }
}

async fn unpack(shared: &Shared, batch: &Batch, records_bytes: usize) -> Result<Unpacked, WireError> {
    let is_packed = batch.header().attributes.compression()? != Compression::None;
    if !is_packed || records_bytes <= AT_ONCE_UNPACKED_MAX {
        return Ok(Unpacked::open(batch, Offset(0), records_bytes)?);
    }
    let batch = batch.clone();
    let unpacked = shared.unpacking.run("unpack", move |_| Unpacked::open(&batch, Offset(0), records_bytes)).await;
    let unpacked =
        unpacked.ok_or_else(|| WireError::new(ErrorCode::UnknownServer, "the batch could not be unpacked"))?;
    Ok(unpacked?)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millstream_catalog::Command;
    use millstream_env::sim::World;
    use millstream_model::{PartitionId, ProducerEpoch, ProducerId, Sequence, TimestampMs, TopicConfig, key_partition};
    use millstream_protocol::{Response, messages::produce::PartitionProduceResponse};
    use millstream_record::{BatchBuilder, BatchOptions};

    use super::*;
    use crate::{
        Broker,
        handlers::produce::{Checked, check},
        reply::Reply,
        testing::{TOPIC, create, produce_request, start},
    };

    const PARTITIONS: i32 = 3;

    /// A topic that believes nobody, without a partitioner.
    fn verifying(world: &World) -> Broker {
        let broker = start(world);
        world.run_until(create(&broker, PARTITIONS));
        enforce(world, &broker, "verify");
        broker
    }

    fn enforce(world: &World, broker: &Broker, value: &'static str) {
        let shared = broker.shared();
        let from = shared.catalog.state().topic_by_id(TOPIC).unwrap().config.clone();
        let to = TopicConfig::from_pairs([("millstream.partitioner.enforce", value)]).unwrap();
        let command = Command::AlterRouting { id: TOPIC, from: Box::new(from), to: Box::new(to) };
        world.run_until(shared.catalog.propose(command)).unwrap();
        world.run_until(shared.partitions.follow(&shared.catalog)).unwrap();
    }

    fn batch(compression: Compression, sequence: i32, records: &[(Option<&str>, usize)]) -> Bytes {
        let options = BatchOptions {
            compression,
            producer_id: ProducerId(7),
            producer_epoch: ProducerEpoch(0),
            base_sequence: Sequence(sequence),
            ..BatchOptions::default()
        };
        let mut builder = BatchBuilder::new(options);
        for (key, bytes) in records {
            let time = TimestampMs(if key.is_some() { 5 } else { -1 });
            builder.push(time, key.map(str::as_bytes), Some(&vec![0; *bytes]), &[]).unwrap();
        }
        builder.build().unwrap()
    }

    fn checked(broker: &Broker, partition: PartitionId, batch: Bytes, epoch: i32) -> Checked {
        check(broker.shared(), 9, produce_request(partition, batch, RoutingEpoch(epoch)))
    }

    async fn prepared(broker: &Broker, mut checked: Checked) -> Checked {
        if checked.unpack_small() {
            checked = checked.unpack(broker.shared()).await.unwrap();
        }
        checked.verify(broker.shared()).await;
        checked
    }

    async fn append(broker: &Broker, checked: Checked) -> PartitionProduceResponse {
        let Reply::Answer(Response::Produce(mut answer)) = checked.append(broker.shared()).await else {
            panic!("no answer")
        };
        answer.responses.remove(0).partition_responses.remove(0)
    }

    /// What a batch is answered with that says it was placed in a routing epoch; -1: it does not.
    fn send(
        world: &World,
        broker: &Broker,
        partition: PartitionId,
        batch: Bytes,
        epoch: i32,
    ) -> PartitionProduceResponse {
        let checked = checked(broker, partition, batch, epoch);
        world.run_until(async { append(broker, prepared(broker, checked).await).await })
    }

    fn record_errors(answer: &PartitionProduceResponse) -> Vec<i32> {
        answer.record_errors.iter().map(|error| error.batch_index).collect()
    }

    #[test]
    fn what_lies_elsewhere_is_refused_with_the_first_record_that_does() {
        // One that is unpacked at once, and one that is not, whose records take more than one call.
        for (compression, bytes) in [(Compression::None, 10), (Compression::Lz4, 10), (Compression::Zstd, 200 << 10)] {
            let world = World::new(1);
            let broker = verifying(&world);
            let (here, there) = (key_partition(b"a", PARTITIONS), key_partition(b"b", PARTITIONS));
            assert_ne!(here, there);
            let good = batch(compression, 0, &[(Some("a"), bytes), (None, bytes), (Some("a"), bytes)]);
            let answer = send(&world, &broker, here, good, -1);
            assert_eq!(
                (answer.error_code, answer.base_offset),
                (ErrorCode::None, Offset(0)),
                "{compression} {answer:?}"
            );
            let bad = batch(compression, 3, &[(Some("a"), bytes), (None, bytes), (Some("b"), bytes), (Some("b"), 1)]);
            let answer = send(&world, &broker, here, bad.clone(), -1);
            assert_eq!(
                (answer.error_code, record_errors(&answer)),
                (ErrorCode::InvalidRecord, vec![2]),
                "{compression}"
            );
            let message = answer.error_message.unwrap();
            let told = format!(
                "record 2 of the batch was sent to partition {here}; by the hash of keys in t it belongs to {there}"
            );
            assert!(message.starts_with(&told), "{message}");
            // It has taken no sequence number.
            let good = batch(compression, 3, &[(Some("a"), bytes)]);
            assert_eq!(send(&world, &broker, here, good, -1).base_offset, Offset(3), "{compression}");
            // Who has asked is believed, and so is everybody where the topic does not verify.
            let asked = batch(compression, 4, &[(Some("b"), bytes)]);
            assert_eq!(send(&world, &broker, here, asked, 0).base_offset, Offset(4), "{compression}");
            enforce(&world, &broker, "off");
            assert_eq!(
                send(&world, &broker, here, batch(compression, 5, &[(Some("b"), 1)]), -1).base_offset,
                Offset(5),
                "{compression}"
            );
            // Its answer was lost, and now it would be refused.
            enforce(&world, &broker, "verify");
            let again = batch(compression, 5, &[(Some("b"), 1)]);
            assert_eq!(send(&world, &broker, here, again, -1).base_offset, Offset(5), "{compression}: it was taken");
            let shared = broker.shared();
            assert_eq!(shared.memory.metrics(&shared.options.frames)[1].used, 0, "{compression}");
        }
    }

    /// Between the partitioner's answer and the append, the topic gets another partition.
    #[test]
    fn what_was_verified_in_an_earlier_epoch_is_to_be_sent_again() {
        let world = World::new(1);
        let broker = verifying(&world);
        let here = key_partition(b"a", PARTITIONS);
        let verified = checked(&broker, here, batch(Compression::None, 0, &[(Some("a"), 1)]), -1);
        let verified = world.run_until(prepared(&broker, verified));
        let shared = broker.shared();
        let more = Command::CreatePartitions { id: TOPIC, partitions: PARTITIONS + 1, replicas: None };
        world.run_until(shared.catalog.propose(more)).unwrap();
        world.run_until(shared.partitions.follow(&shared.catalog)).unwrap();
        world.run_until(shared.partitions.open_routings(&shared.catalog, Some(TOPIC))).unwrap();
        let answer = world.run_until(append(&broker, verified));
        assert_eq!((answer.error_code, answer.base_offset), (ErrorCode::RequestTimedOut, Offset(-1)));
        let here = key_partition(b"a", PARTITIONS + 1);
        let answer = send(&world, &broker, here, batch(Compression::None, 0, &[(Some("a"), 1)]), -1);
        assert_eq!(answer.error_code, ErrorCode::None, "{answer:?}");
    }
}
