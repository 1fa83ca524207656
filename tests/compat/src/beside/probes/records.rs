//! What is asked about records: sent, read, found by time, deleted; and who sends them.

use bytes::Bytes;
use millstream_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs, TopicId};
use millstream_protocol::messages::{fetch::*, offsets::*, produce::*, producers::*, records::*};
use millstream_record::Compression;
use millstream_test_support::{message::Message, sdk};

use super::{ABSENT, COMPACTED, Known, Probe, SMALL, THERE, nobodys_id, of_version, partition, probe};
use crate::data;

/// The first version of Produce and Fetch in which topics are named by id.
const BY_ID: i16 = 13;
/// More than any epoch that there is.
const EPOCH_LATE: LeaderEpoch = LeaderEpoch(99);

pub(super) fn probes() -> Vec<Probe> {
    let mut probes = list_offsets();
    probes.extend(fetch());
    probes.extend(epochs());
    probes.extend(producers());
    probes.extend(produce());
    // The last one, as it takes records away.
    probes.extend(delete());
    probes
}

fn listing(topic: &str, number: i32, timestamp: TimestampMs, epoch: LeaderEpoch) -> ListOffsetsRequest {
    let partition = ListOffsetsPartition { partition_index: partition(number), current_leader_epoch: epoch, timestamp };
    let topics = vec![ListOffsetsTopic { name: topic.to_owned(), partitions: vec![partition] }];
    ListOffsetsRequest { topics, timeout_ms: 30_000, ..Default::default() }
}

fn list_offsets() -> Vec<Probe> {
    let at = |name, timestamp| probe(name, move |_| listing(THERE, 0, timestamp, LeaderEpoch(-1)));
    let second = |n: usize| TimestampMs(data::by_the_second(10)[n].timestamp);
    vec![
        at("the first", EARLIEST_TIMESTAMP),
        at("the end", LATEST_TIMESTAMP),
        at("the latest time", MAX_TIMESTAMP),
        at("the first on a disk here", EARLIEST_LOCAL_TIMESTAMP),
        at("the last in remote storage", LATEST_TIERED_TIMESTAMP),
        at("the first to be uploaded", EARLIEST_PENDING_UPLOAD_TIMESTAMP),
        at("an unknown special time", TimestampMs(-9)),
        at("by a time", second(4)),
        at("by the time before all", TimestampMs(0)),
        at("by a time after all", TimestampMs(second(9).0 + 1)),
        probe("of nothing, the latest time", |_| listing(THERE, 1, MAX_TIMESTAMP, LeaderEpoch(-1))),
        probe("of nothing, by a time", |_| listing(THERE, 1, TimestampMs(0), LeaderEpoch(-1))),
        probe("an unknown topic", |_| listing(ABSENT, 0, LATEST_TIMESTAMP, LeaderEpoch(-1))),
        probe("an unknown partition", |_| listing(THERE, 9, LATEST_TIMESTAMP, LeaderEpoch(-1))),
        probe("a negative partition", |_| listing(THERE, -1, LATEST_TIMESTAMP, LeaderEpoch(-1))),
        probe("a late epoch", |_| listing(THERE, 0, LATEST_TIMESTAMP, EPOCH_LATE)),
        probe("what is committed", |_| ListOffsetsRequest {
            isolation_level: 1,
            ..listing(THERE, 0, LATEST_TIMESTAMP, LeaderEpoch(-1))
        }),
        probe("one partition twice", |_| {
            let mut request = listing(THERE, 0, LATEST_TIMESTAMP, LeaderEpoch(-1));
            for topic in &mut request.topics {
                topic.partitions = [topic.partitions.clone(), topic.partitions.clone()].concat();
            }
            request
        }),
    ]
}

/// A request to read, of the topic with this name and id.
fn reading(topic: (&str, TopicId), number: i32, offset: i64) -> FetchRequest {
    let partition = FetchPartition {
        partition: partition(number),
        fetch_offset: Offset(offset),
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    let topics = vec![FetchTopic { topic: topic.0.to_owned(), topic_id: topic.1, partitions: vec![partition] }];
    FetchRequest { max_wait_ms: 100, min_bytes: 0, max_bytes: 1 << 20, topics, ..Default::default() }
}

fn fetch() -> Vec<Probe> {
    let there = |known: &Known| (THERE, known.there);
    let mut late = Vec::new();
    late.push(probe("a late epoch", move |known| {
        let mut request = reading(there(known), 0, 0);
        for topic in &mut request.topics {
            topic.partitions.iter_mut().for_each(|partition| partition.current_leader_epoch = EPOCH_LATE);
        }
        request
    }));
    let mut probes = vec![
        probe("from the first", move |known| reading(there(known), 0, 0)),
        probe("from the middle of a batch", move |known| reading(there(known), 0, 4)),
        probe("from the end", move |known| reading(there(known), 0, 10)),
        probe("from beyond the end", move |known| reading(there(known), 0, 11)),
        probe("from a negative offset", move |known| reading(there(known), 0, -5)),
        probe("of nothing", move |known| reading(there(known), 1, 0)),
        probe("what is committed", move |known| FetchRequest { isolation_level: 1, ..reading(there(known), 0, 0) }),
        probe("at most no bytes", move |known| FetchRequest { max_bytes: 0, ..reading(there(known), 0, 0) }),
        probe("an unknown topic", |_| reading((ABSENT, nobodys_id()), 0, 0)),
        probe("an unknown partition", move |known| reading(there(known), 9, 0)),
        probe("a negative partition", move |known| reading(there(known), -1, 0)),
        probe("nothing", |_| FetchRequest { max_wait_ms: 100, ..Default::default() }),
        of_version("an unknown session", move |known, version| {
            let request = FetchRequest { session_id: 4711, session_epoch: 5, ..reading(there(known), 0, 0) };
            (version >= 7).then_some(request)
        }),
        of_version("a session of a strange number", move |known, version| {
            let request = FetchRequest { session_id: 0, session_epoch: 5, ..reading(there(known), 0, 0) };
            (version >= 7).then_some(request)
        }),
        of_version("no id", |_, version| (version >= BY_ID).then(|| reading((THERE, TopicId::NIL), 0, 0))),
    ];
    probes.extend(late);
    probes
}

fn epochs() -> Vec<Probe> {
    let asking = |topic: &str, number: i32, current: i32, epoch: i32| {
        let partition = OffsetForLeaderPartition {
            partition: partition(number),
            current_leader_epoch: LeaderEpoch(current),
            leader_epoch: LeaderEpoch(epoch),
        };
        let topics = vec![OffsetForLeaderTopic { topic: topic.to_owned(), partitions: vec![partition] }];
        OffsetForLeaderEpochRequest { topics, ..Default::default() }
    };
    vec![
        probe("the first epoch", move |_| asking(THERE, 0, -1, 0)),
        probe("a late one", move |_| asking(THERE, 0, -1, 99)),
        probe("a negative one", move |_| asking(THERE, 0, -1, -1)),
        probe("of nothing", move |_| asking(THERE, 1, -1, 0)),
        probe("of a client that knows a later one", move |_| asking(THERE, 0, 99, 0)),
        probe("an unknown topic", move |_| asking(ABSENT, 0, -1, 0)),
        probe("an unknown partition", move |_| asking(THERE, 9, -1, 0)),
    ]
}

fn producers() -> Vec<Probe> {
    let described = |topic: &str, number: i32| {
        let topic = DescribeProducersTopic { name: topic.to_owned(), partition_indexes: vec![partition(number)] };
        DescribeProducersRequest { topics: vec![topic] }
    };
    vec![
        probe("a new one", |_| InitProducerIdRequest { transaction_timeout_ms: 60_000, ..Default::default() }),
        of_version("one without a transaction that has an id", |_, version| {
            (version >= 3).then(|| InitProducerIdRequest {
                transaction_timeout_ms: 60_000,
                producer_id: ProducerId(4711),
                producer_epoch: ProducerEpoch(1),
                ..Default::default()
            })
        }),
        of_version("an id without an epoch", |_, version| {
            (version >= 3).then(|| InitProducerIdRequest { producer_id: ProducerId(4711), ..Default::default() })
        }),
        probe("an empty transaction", |_| InitProducerIdRequest {
            transactional_id: Some(String::new()),
            transaction_timeout_ms: 60_000,
            ..Default::default()
        }),
        probe("of a partition", move |_| described(THERE, 0)),
        probe("of an unknown partition", move |_| described(THERE, 9)),
        probe("of an unknown topic", move |_| described(ABSENT, 0)),
        probe("of a name that is not legal", move |_| described("not legal!", 0)),
    ]
}

fn sending(topic: &str, number: i32, records: Option<Bytes>) -> ProduceRequest {
    let partition_data = vec![PartitionProduceData { index: partition(number), records, ..Default::default() }];
    let topic_data = vec![TopicProduceData { name: topic.to_owned(), partition_data, ..Default::default() }];
    ProduceRequest { acks: -1, timeout_ms: 30_000, topic_data, ..Default::default() }
}

/// A batch of one record, with some bytes written over what is at a place.
fn batch(key: Option<&[u8]>, value: &[u8], at: usize, over: &[u8]) -> Option<Bytes> {
    let mut bytes = sdk::encode(&[Message::new(0, key, Some(value))], Compression::None).ok()?.to_vec();
    bytes.get_mut(at..at + over.len())?.copy_from_slice(over);
    Some(bytes.into())
}

fn good() -> Option<Bytes> {
    batch(Some(b"k"), b"v", 0, b"")
}

/// A batch whose bytes are what they are, with the checksum that they have.
fn signed(batch: Option<Bytes>, at: usize, over: &[u8]) -> Option<Bytes> {
    const CRC: usize = 17;
    let mut bytes = batch?.to_vec();
    bytes.get_mut(at..at + over.len())?.copy_from_slice(over);
    let crc = millstream_record::crc32c(bytes.get(CRC + 4..)?);
    bytes.get_mut(CRC..CRC + 4)?.copy_from_slice(&crc.to_be_bytes());
    Some(bytes.into())
}

fn produce() -> Vec<Probe> {
    // By name only: ids are told by other requests, and what is sent is the same.
    let named = |name, make: fn() -> ProduceRequest| of_version(name, move |_, version| (version < BY_ID).then(make));
    // The second partition, of which nothing else is asked.
    const TO: i32 = 1;
    vec![
        named("a record", || sending(COMPACTED, 0, good())),
        named("one answer from the leader", || ProduceRequest { acks: 1, ..sending(COMPACTED, 0, good()) }),
        named("a record without a key, compacted", || sending(COMPACTED, 0, batch(None, b"v", 0, b""))),
        named("a strange number of answers", || ProduceRequest { acks: 2, ..sending(THERE, TO, good()) }),
        named("an unknown topic", || sending(ABSENT, 0, good())),
        named("an unknown partition", || sending(THERE, 9, good())),
        named("a negative partition", || sending(THERE, -1, good())),
        named("a name that is not legal", || sending("not legal!", 0, good())),
        named("nothing", || ProduceRequest { acks: -1, timeout_ms: 30_000, ..Default::default() }),
        named("null records", || sending(THERE, TO, None)),
        named("no records", || sending(THERE, TO, Some(Bytes::new()))),
        named("half a header", || sending(THERE, TO, good().map(|bytes| bytes.slice(..30)))),
        named("half a batch", || sending(THERE, TO, good().map(|bytes| bytes.slice(..bytes.len() - 1)))),
        named("two batches", || sending(THERE, TO, good().map(|bytes| [bytes.clone(), bytes].concat().into()))),
        named("a wrong checksum", || sending(THERE, TO, batch(Some(b"k"), b"v", 17, b"\0\0\0\0"))),
        named("an old format", || sending(THERE, TO, batch(Some(b"k"), b"v", 16, &[1]))),
        named("a format to come", || sending(THERE, TO, batch(Some(b"k"), b"v", 16, &[3]))),
        named("a codec that there is not", || sending(THERE, TO, signed(good(), 22, &[7]))),
        named("what is not compressed as it says", || sending(THERE, TO, signed(good(), 22, &[1]))),
        named("a control batch", || sending(THERE, TO, signed(good(), 22, &[0x20]))),
        named("a transaction's batch without a transaction", || sending(THERE, TO, signed(good(), 22, &[0x10]))),
        named("a wrong number of records", || sending(THERE, TO, signed(good(), 57, &[0, 0, 0, 2]))),
        named("no records in a batch", || sending(THERE, TO, signed(good(), 57, &[0, 0, 0, 0]))),
        named("a wrong last offset", || sending(THERE, TO, signed(good(), 23, &[0, 0, 0, 5]))),
        named("a record that is too large", || sending(SMALL, 0, batch(Some(b"k"), &[b'v'; 3000], 0, b""))),
        named("a producer that nobody knows, from its first record", || {
            sending(COMPACTED, 0, signed(good(), 43, &of_producer(4711, 0, 0)))
        }),
        named("the same again", || sending(COMPACTED, 0, signed(good(), 43, &of_producer(4711, 0, 0)))),
        named("a gap in a producer's numbers", || sending(COMPACTED, 0, signed(good(), 43, &of_producer(4711, 0, 9)))),
        named("a producer that nobody knows, from the middle", || {
            sending(THERE, TO, signed(good(), 43, &of_producer(4712, 0, 9)))
        }),
        // The last one: not every broker refuses it.
        named("a producer's number without its epoch", || {
            sending(THERE, TO, signed(good(), 43, &of_producer(4711, -1, 0)))
        }),
    ]
}

/// The header's producer id, epoch and sequence.
fn of_producer(id: i64, epoch: i16, sequence: i32) -> [u8; 14] {
    let mut bytes = [0; 14];
    bytes[..8].copy_from_slice(&id.to_be_bytes());
    bytes[8..10].copy_from_slice(&epoch.to_be_bytes());
    bytes[10..].copy_from_slice(&sequence.to_be_bytes());
    bytes
}

fn delete() -> Vec<Probe> {
    let deleting = |topic: &str, number: i32, offset: i64| {
        let partition = DeleteRecordsPartition { partition_index: partition(number), offset: Offset(offset) };
        let topics = vec![DeleteRecordsTopic { name: topic.to_owned(), partitions: vec![partition] }];
        DeleteRecordsRequest { topics, timeout_ms: 30_000 }
    };
    vec![
        probe("beyond the end", move |_| deleting(THERE, 0, 11)),
        probe("a negative offset", move |_| deleting(THERE, 0, -2)),
        probe("an unknown topic", move |_| deleting(ABSENT, 0, 1)),
        probe("an unknown partition", move |_| deleting(THERE, 9, 1)),
        probe("of a compacted topic", move |_| deleting(COMPACTED, 0, 1)),
        probe("some", move |_| deleting(THERE, 0, 3)),
        probe("fewer than are gone", move |_| deleting(THERE, 0, 2)),
        probe("all", move |_| deleting(THERE, 0, -1)),
        probe("one partition twice", move |_| {
            let mut request = deleting(THERE, 1, 0);
            for topic in &mut request.topics {
                topic.partitions = [topic.partitions.clone(), topic.partitions.clone()].concat();
            }
            request
        }),
    ]
}
