//! Produce: batches from clients into the logs of their partitions.
//!
//! The plain path: a batch is checked where it lies in the request's frame (checksum, counts, lengths) and goes to the log
//! as it is; nothing is decoded or encoded again.
//!
//! A request is worked on in four steps, so that what is cheap to refuse costs nothing more, and appends keep the order
//! of the requests:
//!
//! 1. [`check`]: all that can be told without unpacking anything.
//! 2. [`Checked::unpack`]: packed batches are unpacked to be checked, away from the runtime's threads.
//! 3. [`Checked::verify`]: where a topic asks for it, partitioners are asked whether clients have chosen as they would.
//! 4. [`Checked::append`]: appends now; the future waits for the disk and answers.

mod verify;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::{Either, select};
use millstream_model::{
    Offset, PartitionId, PartitionerEnforce, ProducerId, RoutingEpoch, TimestampMs, TimestampType, TopicConfig,
    TopicId, limits,
};
use millstream_protocol::{
    ErrorCode,
    messages::produce::{
        BatchIndexAndErrorMessage, PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse,
        TopicProduceData, TopicProduceResponse,
    },
};
use millstream_record::{Batch, BatchError, BatchHeader, Compression};
use millstream_replica::Acks;

use super::wire::{CLIENT_WAIT_MAX, client_wait};
use crate::{
    errors::{Messages, WireError},
    jobs::Wanted,
    partition::{Partition, PartitionAppendError, PendingAppend},
    readable::Readable,
    reply::Reply,
    shared::Shared,
};

/// The first version whose batches may be packed with zstd.
const VERSION_ZSTD: i16 = 7;

/// A batch may unpack to so many times the topic's `max.message.bytes`...
const UNPACKED_TIMES_MAX: usize = 32;
/// ... and to this in any case, bytes: what is much alike packs well.
const UNPACKED_BYTES_LEAST: usize = 16 << 20;
/// All batches of a request together may unpack to so many times what they are packed to, and [`limits::BATCH_BYTES_MAX`].
const REQUEST_TIMES_MAX: usize = 32;
/// What is packed to no more than this, and unpacks to no more than the next, is unpacked at once: another thread costs more.
const AT_ONCE_PACKED_MAX: usize = 64 << 10;
const AT_ONCE_UNPACKED_MAX: usize = 256 << 10;

// Whatever a topic takes, a batch of its largest size can be unpacked again by who reads it.
const _: () = assert!(UNPACKED_BYTES_LEAST <= limits::BATCH_BYTES_MAX);

/// A request whose batches were looked at.
pub(crate) struct Checked {
    acks: Acks,
    timeout: Duration,
    topics: Vec<CheckedTopic>,
    /// Bytes that unpacking may still make.
    allowance: usize,
    /// The broker's clock when it came.
    now: TimestampMs,
}

struct CheckedTopic {
    name: String,
    id: TopicId,
    partitions: Vec<(PartitionId, Result<CheckedBatch, Arc<WireError>>)>,
}

struct CheckedBatch {
    partition: Arc<Partition>,
    batch: Batch,
    /// Who has placed its records.
    placed: Placed,
    /// What its records take, unpacked, bytes; what they take packed until they were looked into.
    records_bytes: usize,
    /// What it may unpack to, bytes; none once its records were looked at, or need not be.
    packed: Option<usize>,
    /// Why it is not appended, by what may have changed since it was sent first: routing, settings, time. An idempotent producer's that
    /// was appended before is answered as that all the same: told that it failed, its producer would believe so, or send it elsewhere.
    refused: Option<Arc<WireError>>,
}

/// Who has placed a batch's records, and in which routing epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placed {
    /// Its sender, who says in which epoch it has asked (Assign).
    Asked(RoutingEpoch),
    /// Its sender by himself.
    Alone,
    /// Its sender by himself, and the partitioner has agreed.
    Verified(RoutingEpoch),
}

impl Placed {
    fn epoch(self) -> RoutingEpoch {
        match self {
            Self::Asked(epoch) | Self::Verified(epoch) => epoch,
            Self::Alone => RoutingEpoch::UNKNOWN,
        }
    }
}

/// What becomes of a batch that there is no room to unpack.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WhenFull {
    Leave,
    Refuse,
}

/// Looks at all that can be told without unpacking.
pub(crate) fn check(shared: &Shared, version: i16, request: ProduceRequest) -> Checked {
    let (acks, refusal) = match (Acks::try_from(request.acks), &request.transactional_id) {
        (Ok(acks), None) => (acks, None),
        (Ok(acks), Some(_)) => {
            (acks, Some(WireError::new(ErrorCode::InvalidRequest, "transactional ids are not built yet")))
        }
        (Err(error), _) => (Acks::All, Some(error.into())),
    };
    let refusal = refusal.map(Arc::new);
    // The leader's own disk is waited for in any case: a client's timeout is about the replicas.
    let timeout = match acks {
        Acks::All => client_wait(request.timeout_ms),
        _ => CLIENT_WAIT_MAX,
    };
    let now = TimestampMs(shared.env.clock.wall_ms());
    let topics = request.topic_data.into_iter().map(|topic| {
        let partitions = match &refusal {
            Some(refusal) => topic.partition_data.iter().map(|data| (data.index, Err(refusal.clone()))).collect(),
            None => check_topic(shared, version, now, &topic),
        };
        CheckedTopic { name: topic.name, id: topic.topic_id, partitions }
    });
    let mut checked = Checked { acks, timeout, topics: topics.collect(), allowance: limits::BATCH_BYTES_MAX, now };
    let packed: usize = checked.packed().map(|batch| batch.batch.bytes().len()).sum();
    checked.allowance += packed.saturating_mul(REQUEST_TIMES_MAX);
    checked
}

fn check_topic(
    shared: &Shared,
    version: i16,
    now: TimestampMs,
    data: &TopicProduceData,
) -> Vec<(PartitionId, Result<CheckedBatch, Arc<WireError>>)> {
    let state = shared.catalog.state();
    let topic = Readable::resolve(&state, version, &data.name, data.topic_id).and_then(|readable| match &readable {
        Readable::Topic(_) => Ok(readable),
        Readable::View { view, topic } => Err(WireError::new(
            ErrorCode::InvalidTopic,
            format!("{} is a view of {}: produce to the topic", view.name, topic.name),
        )),
    });
    let topic = topic.map_err(Arc::new);
    let partitions = data.partition_data.iter().map(|data| {
        let checked = match &topic {
            Ok(topic) => check_partition(shared, version, now, topic, data).map_err(Arc::new),
            Err(error) => Err(error.clone()),
        };
        (data.index, checked)
    });
    partitions.collect()
}

fn check_partition(
    shared: &Shared,
    version: i16,
    now: TimestampMs,
    readable: &Readable,
    data: &PartitionProduceData,
) -> Result<CheckedBatch, WireError> {
    let partition = shared.led(readable, data.index)?;
    let oversized = check_size(&partition, data.records.as_deref().unwrap_or_default())?;
    let routed = || partition.check_routing(data.routing_epoch).map_err(WireError::from);
    let admitted = oversized.map_or_else(routed, Err);
    let batch = check_batch(data.records.clone(), version)?;
    let compression = batch.header().attributes.compression()?;
    let admitted = admitted.and_then(|()| match compression {
        Compression::None => check_times(&partition.topic().config, now, &batch, limits::BATCH_BYTES_MAX),
        _ => Ok(()),
    });
    // What is refused is not looked into.
    let looks_into = admitted.is_ok() && compression != Compression::None;
    let packed = looks_into.then(|| unpacked_bytes_max(partition.batch_bytes_max()));
    let placed = if data.routing_epoch.is_known() { Placed::Asked(data.routing_epoch) } else { Placed::Alone };
    let (records_bytes, refused) = (batch.header().section_bytes(), admitted.err().map(Arc::new));
    Ok(CheckedBatch { partition, batch, placed, records_bytes, packed, refused })
}

/// Why a batch is not to be appended that is larger than the topic takes, but was taken before: then it is answered as that.
///
/// # Errors
/// It was not. It is looked at no further.
fn check_size(partition: &Arc<Partition>, records: &[u8]) -> Result<Option<WireError>, WireError> {
    let (bytes, bytes_max) = (records.len(), partition.batch_bytes_max());
    if bytes <= bytes_max {
        return Ok(None);
    }
    let message = format!(
        "a batch of {bytes} bytes; the topic's max.message.bytes is {bytes_max}: send less at a time, or let it take more with \
         `millstream topic alter TOPIC --config max.message.bytes=BYTES`"
    );
    let refused = WireError::new(ErrorCode::MessageTooLarge, message);
    let repeats = BatchHeader::parse(records).is_ok_and(|header| partition.find_duplicate(&header).is_some());
    if repeats { Ok(Some(refused)) } else { Err(refused) }
}

/// Whether the records' times are as near to the broker's as their topic asks. What the broker stamps itself is not looked at; nor are
/// times that producers did not know. `unpacked_bytes_max`: as for [`Batch::earliest_timestamp`]; the header tells the latest time.
fn check_times(
    config: &TopicConfig,
    now: TimestampMs,
    batch: &Batch,
    unpacked_bytes_max: usize,
) -> Result<(), WireError> {
    let TopicConfig { timestamp_after_ms_max: after, timestamp_before_ms_max: before, .. } = *config;
    if config.timestamp_type == TimestampType::LogAppendTime {
        return Ok(());
    }
    let refused = |time: TimestampMs, setting, max| {
        let message = format!("a record's time is {time}; the broker's is {now}, and {setting} is {max}");
        Err(WireError::new(ErrorCode::InvalidTimestamp, message))
    };
    let latest = batch.header().max_timestamp;
    if latest.0.saturating_sub(now.0) > after.cast_signed() {
        return refused(latest, "message.timestamp.after.max.ms", after);
    }
    // Looking for the earliest takes a walk over the records: not where any will do.
    let oldest = now.0.saturating_sub(before.cast_signed());
    if oldest > 0
        && let Some(earliest) = batch.earliest_timestamp(unpacked_bytes_max)?
        && earliest.0 < oldest
    {
        return refused(earliest, "message.timestamp.before.max.ms", before);
    }
    Ok(())
}

/// What a batch of a topic may unpack to.
fn unpacked_bytes_max(batch_bytes_max: usize) -> usize {
    batch_bytes_max.saturating_mul(UNPACKED_TIMES_MAX).clamp(UNPACKED_BYTES_LEAST, limits::BATCH_BYTES_MAX)
}

/// Exactly one batch, of this broker's making (version 2), whole, and what it says of itself.
fn check_batch(records: Option<Bytes>, version: i16) -> Result<Batch, WireError> {
    let records = records.filter(|records| !records.is_empty());
    let records = records.ok_or_else(|| WireError::new(ErrorCode::InvalidRecord, "no records"))?;
    let (mut batch, rest) = Batch::parse(records)?;
    if !rest.is_empty() {
        return Err(WireError::new(ErrorCode::InvalidRecord, "more than one batch for a partition in one request"));
    }
    let header = batch.header();
    check_producer(header)?;
    if header.attributes.is_transactional() {
        return Err(WireError::new(ErrorCode::InvalidRequest, "transactions are not built yet"));
    }
    if header.attributes.compression()? == Compression::Zstd && version < VERSION_ZSTD {
        let message = format!("zstd needs version {VERSION_ZSTD} of Produce at least");
        return Err(WireError::new(ErrorCode::UnsupportedCompressionType, message));
    }
    batch.validate_for_append()?;
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

impl Checked {
    fn packed(&mut self) -> impl Iterator<Item = &mut CheckedBatch> {
        let partitions = self.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        partitions.filter_map(|(_, checked)| checked.as_mut().ok()).filter(|batch| batch.packed.is_some())
    }

    /// Unpacks what is small at once. Whether there is more to be unpacked, away from this thread.
    pub(crate) fn unpack_small(&mut self) -> bool {
        let packed: usize = self.packed().map(|batch| batch.batch.bytes().len()).sum();
        packed > AT_ONCE_PACKED_MAX || (packed > 0 && self.look_into(AT_ONCE_UNPACKED_MAX, WhenFull::Leave, || false))
    }

    /// Unpacks what is packed, within what the request is allowed; the rest is refused. None if a codec panicked on it.
    pub(crate) async fn unpack(mut self, shared: &Shared) -> Option<Self> {
        let job = move |wanted: &Wanted| {
            self.look_into(self.allowance, WhenFull::Refuse, || wanted.is_given_up());
            self
        };
        shared.unpacking.run("unpack", job).await
    }

    /// Looks into packed batches, which may unpack to `room` bytes together. Whether some are left.
    fn look_into(&mut self, mut room: usize, full: WhenFull, given_up: impl Fn() -> bool) -> bool {
        let (before, mut left, now) = (room, false, self.now);
        for (_, checked) in self.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            let Ok(CheckedBatch { partition, batch, records_bytes, packed, refused, .. }) = checked else { continue };
            let Some(unpacked_max) = *packed else { continue };
            if given_up() {
                return true;
            }
            let limit = unpacked_max.min(room);
            let topic = partition.topic();
            let keys = match topic.config.cleanup_policy.compacts() {
                true => Batch::require_keys,
                false => |_: &Batch, _| Ok(()),
            };
            match batch.validate_packed(limit).and_then(|unpacked| keys(batch, limit).map(|()| unpacked)) {
                Ok(unpacked) => {
                    room -= unpacked;
                    (*packed, *records_bytes) = (None, unpacked);
                    *refused = check_times(&topic.config, now, batch, limit).err().map(Arc::new);
                }
                Err(BatchError::UnpackedTooLarge { .. }) if full == WhenFull::Leave => {
                    left = true;
                    break;
                }
                Err(error) => {
                    // Wherever it stopped, it has cost that much at most.
                    room -= limit;
                    (*packed, *refused) = (None, Some(Arc::new(error.into())));
                }
            }
        }
        self.allowance = self.allowance.saturating_sub(before - room);
        left
    }

    /// Batches that partitioners are to be asked about: those that would be appended, where the topic's clients are not believed.
    fn unverified(&mut self) -> impl Iterator<Item = &mut CheckedBatch> {
        let partitions = self.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        partitions.filter_map(|(_, checked)| checked.as_mut().ok()).filter(|batch| {
            batch.placed == Placed::Alone
                && batch.refused.is_none()
                && batch.partition.topic().config.partitioner_enforce == PartitionerEnforce::Verify
        })
    }

    /// Whether [`Checked::verify`] has anything to do.
    pub(crate) fn is_to_be_verified(&mut self) -> bool {
        self.unverified().next().is_some()
    }

    /// Asks partitioners whether they would have chosen as the clients did, one batch after the other.
    pub(crate) async fn verify(&mut self, shared: &Shared) {
        for CheckedBatch { partition, batch, placed, records_bytes, refused, .. } in self.unverified() {
            match verify::verify(shared, partition, batch, *records_bytes).await {
                Ok(epoch) => *placed = Placed::Verified(epoch),
                Err(error) => *refused = Some(Arc::new(error)),
            }
        }
    }

    /// Appends now, in the order of the request; the future waits for the disk and answers. No answer for acks=0.
    pub(crate) fn append(self, shared: &Arc<Shared>) -> impl Future<Output = Reply> + Send + use<> {
        let Self { acks, timeout, topics, .. } = self;
        let begun_at = shared.env.clock.now();
        let begun: Vec<_> = topics
            .into_iter()
            .map(|topic| {
                let begin =
                    |(index, checked): (_, Result<CheckedBatch, _>)| (index, checked.and_then(|b| begin(b, acks)));
                (topic.name, topic.id, topic.partitions.into_iter().map(begin).collect::<Vec<_>>())
            })
            .collect();
        // Who has all of it refused tells nothing of the disk.
        let is_append = begun.iter().flat_map(|(_, _, begun)| begun).any(|(_, begun)| begun.is_ok());
        let shared = shared.clone();
        async move {
            if acks == Acks::None {
                let mut begun = begun.into_iter().flat_map(|(_, _, begun)| begun);
                return match begun.find_map(|(index, begun)| Some((index, begun.err()?))) {
                    None => Reply::Nothing,
                    Some((index, error)) => Reply::Close(format!("partition {index}: {}", error.message)),
                };
            }
            let mut deadline = shared.env.clock.sleep(timeout);
            let mut messages = Messages::new();
            let mut responses = Vec::with_capacity(begun.len());
            for (name, topic_id, begun) in begun {
                let mut partition_responses = Vec::with_capacity(begun.len());
                for (index, begun) in begun {
                    let outcome = match begun {
                        Err(error) => Err(error),
                        Ok((partition, pending)) => {
                            settle(&partition, pending, acks, &mut deadline).await.map_err(Arc::new)
                        }
                    };
                    let mut response =
                        PartitionProduceResponse { index, base_offset: Offset(-1), ..Default::default() };
                    match outcome {
                        Ok(settled) => {
                            response.base_offset = settled.base_offset;
                            response.log_start_offset = settled.log_start_offset;
                            response.log_append_time_ms =
                                settled.log_append_time.unwrap_or(response.log_append_time_ms);
                        }
                        Err(error) => {
                            response.error_code = error.kafka_code();
                            response.error_message = messages.say(&error.message);
                            response.record_errors.extend(record_error(&error, &mut messages));
                        }
                    }
                    partition_responses.push(response);
                }
                responses.push(TopicProduceResponse { name, topic_id, partition_responses });
            }
            if is_append {
                shared.catch_up.acknowledged(begun_at);
            }
            Reply::Answer(ProduceResponse { responses, ..Default::default() }.into())
        }
    }
}

fn begin(checked: CheckedBatch, acks: Acks) -> Result<(Arc<Partition>, PendingAppend), Arc<WireError>> {
    let CheckedBatch { partition, batch, placed, packed, refused, .. } = checked;
    if packed.is_some() {
        // Its stream has ended while it was being looked into.
        return Err(Arc::new(WireError::new(ErrorCode::RequestTimedOut, "the batch was not unpacked")));
    }
    if let Some(refused) = refused {
        let pending = partition.find_duplicate(batch.header()).ok_or(refused)?;
        return Ok((partition, pending));
    }
    let pending = partition.append_routed(vec![batch.into_bytes()], acks, placed.epoch());
    let pending = pending.map_err(|error| match (error, placed) {
        // Its sender knows of no epochs: it may belong here all the same.
        (PartitionAppendError::StaleRouting { .. }, Placed::Verified(_)) => WireError::new(
            ErrorCode::Overloaded,
            "the topic's routing was changed while the partitioner was asked about the batch: send it again",
        ),
        (error, _) => error.into(),
    });
    Ok((partition, pending.map_err(Arc::new)?))
}

/// The record that an error is about, with the batch's message again, as Kafka's brokers have one here: some clients show no other.
fn record_error(error: &WireError, messages: &mut Messages) -> Option<BatchIndexAndErrorMessage> {
    let batch_index = i32::try_from(error.record?).ok()?;
    Some(BatchIndexAndErrorMessage { batch_index, batch_index_error_message: messages.say(&error.message) })
}

/// What an append is answered with.
struct Settled {
    base_offset: Offset,
    log_start_offset: Offset,
    log_append_time: Option<TimestampMs>,
}

/// Waits until the append is what `acks` promises, at most until the deadline.
async fn settle(
    partition: &Partition,
    pending: PendingAppend,
    acks: Acks,
    deadline: &mut (impl Future<Output = ()> + Unpin),
) -> Result<Settled, WireError> {
    let (base_offset, log_append_time) = (pending.base_offset, pending.log_append_time);
    let done = async {
        pending.commit.await?;
        if acks == Acks::All {
            partition.committed(pending.end_offset).await;
        }
        Ok(())
    };
    match select(std::pin::pin!(done), deadline).await {
        Either::Left((done, _)) => {
            done.map(|()| Settled { base_offset, log_start_offset: partition.log.start_offset(), log_append_time })
        }
        Either::Right(_) => Err(WireError::new(
            ErrorCode::RequestTimedOut,
            format!(
                "appended at offset {base_offset}, but not durable within the request's timeout: it may or may not stay"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use millstream_catalog::Command;
    use millstream_env::sim::World;
    use millstream_model::{ProducerEpoch, Sequence};
    use millstream_record::{BatchBuilder, BatchOptions};

    use super::*;
    use crate::{
        Broker,
        testing::{TOPIC, create, produce_request, start},
    };

    /// Sends one batch of an idempotent producer, as its only one in a request; gives what it is answered.
    async fn send(broker: &Broker, batch: Bytes) -> (ErrorCode, Offset) {
        let told = answer(broker, batch).await;
        (told.error_code, told.base_offset)
    }

    /// Sends one batch, as the only one in a request.
    async fn answer(broker: &Broker, batch: Bytes) -> PartitionProduceResponse {
        let request = produce_request(PartitionId(0), batch, RoutingEpoch::UNKNOWN);
        let mut checked = check(broker.shared(), 9, request);
        if checked.unpack_small() {
            checked = checked.unpack(broker.shared()).await.unwrap();
        }
        let Reply::Answer(answer) = checked.append(broker.shared()).await else { panic!("no answer") };
        let millstream_protocol::Response::Produce(mut answer) = answer else { panic!("another answer") };
        answer.responses.remove(0).partition_responses.remove(0)
    }

    async fn alter(broker: &Broker, settings: &[(&'static str, &'static str)]) {
        let shared = broker.shared();
        let from = shared.catalog.state().topic_by_id(TOPIC).unwrap().config.clone();
        let to = TopicConfig::from_pairs(settings.iter().copied()).unwrap();
        let command = Command::AlterTopic { id: TOPIC, from: Box::new(from), to: Box::new(to) };
        shared.catalog.propose(command).await.unwrap();
        shared.partitions.follow(&shared.catalog).await.unwrap();
    }

    /// Its answer was lost, and meanwhile it has become too old, or the topic's settings are others. Told that it failed, its producer would
    /// believe so, and everybody can read it.
    #[test]
    fn a_batch_that_was_taken_is_answered_as_that_whatever_it_would_be_refused_for_now() {
        for compression in [Compression::None, Compression::Lz4] {
            let world = World::new(1);
            let broker = start(&world);
            world.run_until(create(&broker, 1));
            let now = world.env().clock.wall_ms();
            // Larger than the least that a topic can be told to take, packed, too.
            let value: Vec<u8> = (0..2_000u32).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 11) as u8).collect();
            let batch = |sequence: i32| {
                let options = BatchOptions {
                    compression,
                    producer_id: ProducerId(7),
                    producer_epoch: ProducerEpoch(0),
                    base_sequence: Sequence(sequence),
                    ..BatchOptions::default()
                };
                let mut builder = BatchBuilder::new(options);
                for _ in 0..3 {
                    builder.push(TimestampMs(now), None, Some(&value), &[]).unwrap();
                }
                builder.build().unwrap()
            };
            let send = |sequence| world.run_until(send(&broker, batch(sequence)));
            world.run_until(alter(&broker, &[("message.timestamp.before.max.ms", "1000")]));
            assert_eq!(send(0), (ErrorCode::None, Offset(0)));
            let check = |refusal, what: &str| {
                assert_eq!(send(0), (ErrorCode::None, Offset(0)), "{compression:?}, {what}: it was taken");
                assert_eq!(send(3), (refusal, Offset(-1)), "{compression:?}, {what}: it was not");
            };
            world.clock().jump_wall(60_000);
            check(ErrorCode::InvalidTimestamp, "too old");
            world.clock().jump_wall(-120_000);
            world.run_until(alter(&broker, &[("message.timestamp.after.max.ms", "1000")]));
            check(ErrorCode::InvalidTimestamp, "too far ahead");
            world.run_until(alter(&broker, &[("max.message.bytes", "1024")]));
            check(ErrorCode::MessageTooLarge, "too large");
            world.run_until(alter(&broker, &[("cleanup.policy", "compact")]));
            check(ErrorCode::InvalidRecord, "without keys");
            world.run_until(alter(&broker, &[]));
            assert_eq!(send(3), (ErrorCode::None, Offset(3)), "the sequence goes on");
        }
    }

    /// Kafka's producers tell their callers which of a batch's records it was (KIP-467).
    #[test]
    fn the_record_without_a_key_is_named_that_a_compacted_topic_does_not_take() {
        for compression in [Compression::None, Compression::Lz4] {
            let world = World::new(1);
            let broker = start(&world);
            world.run_until(create(&broker, 1));
            world.run_until(alter(&broker, &[("cleanup.policy", "compact")]));
            let refused = |keys: &[Option<&[u8]>]| {
                let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
                for key in keys {
                    builder.push(TimestampMs(0), *key, Some(b"value"), &[]).unwrap();
                }
                let told = world.run_until(answer(&broker, builder.build().unwrap()));
                let records = told.record_errors.iter().map(|record| record.batch_index).collect::<Vec<_>>();
                (told.error_code, records)
            };
            let key = Some(b"key".as_slice());
            assert_eq!(refused(&[key, key, None, None]), (ErrorCode::InvalidRecord, vec![2]), "{compression:?}");
            assert_eq!(refused(&[key, key]), (ErrorCode::None, vec![]), "{compression:?}");
        }
    }

    #[test]
    fn times_too_far_from_the_brokers_are_refused_where_producers_give_them() {
        let now = TimestampMs(1_000_000);
        let told = |times: &[i64], compression, settings: &[(&'static str, &'static str)]| {
            let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
            for time in times {
                builder.push(TimestampMs(*time), None, Some(b"value"), &[]).unwrap();
            }
            let config = TopicConfig::from_pairs(settings.iter().copied()).unwrap();
            let batch = Batch::parse_one(builder.build().unwrap()).unwrap();
            check_times(&config, now, &batch, limits::BATCH_BYTES_MAX).map_err(|refused| {
                assert_eq!(refused.code, ErrorCode::InvalidTimestamp);
                refused.message
            })
        };
        let (before, after) = (("message.timestamp.before.max.ms", "1000"), ("message.timestamp.after.max.ms", "1000"));
        let stamped = ("message.timestamp.type", "LogAppendTime");
        for compression in [Compression::None, Compression::Lz4] {
            let told = |times: &[i64], settings: &[_]| told(times, compression, settings);
            // Any time in the past, and an hour ahead, as in Kafka.
            assert_eq!(told(&[0, -1, 1_000_000 + 3_600_000], &[]), Ok(()));
            assert!(told(&[0, 1_000_001 + 3_600_000], &[]).unwrap_err().contains("after.max.ms is 3600000"));
            assert_eq!(told(&[999_000, 1_001_000, -1], &[before, after]), Ok(()));
            let early = told(&[1_000_000, 998_999, 1_000_000], &[before]).unwrap_err();
            assert!(early.contains("time is 998999") && early.contains("before.max.ms is 1000"), "{early}");
            assert!(told(&[1_001_001, 1_000_000], &[after]).unwrap_err().contains("time is 1001001"));
            assert_eq!(told(&[0, 9_000_000], &[before, after, stamped]), Ok(()));
        }
    }
}
