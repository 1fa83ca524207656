//! Subscriptions that ask for too much, or for nonsense: bounded memory, an error or an end, and a bystander who notices nothing.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::time::Duration;

use millstream_model::{LeaderEpoch, Offset, PartitionId, TimestampMs, TopicId};
use millstream_protocol::{
    ErrorCode,
    extension::subscriptions::*,
    messages::{
        metadata::{MetadataRequest, MetadataRequestTopic},
        produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
    },
};
use millstream_record::{BatchBuilder, BatchOptions, Compression};
use millstream_tests_hostile::{door::Client, victim::Victim};

/// Long enough for a busy machine; nothing waits it out but a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much memory an attack may take for a moment, bytes.
const PEAK_MAX: u64 = 160 << 20;

fn client(victim: &Victim) -> Client {
    Client::connect(victim.broker().address(), PATIENCE).unwrap()
}

/// Makes a topic with so many batches of a megabyte, and says its id.
fn filled(victim: &Victim, name: &str, batches: usize) -> TopicId {
    victim.broker().cli(&["topic", "create", name]).unwrap().ok().unwrap();
    let mut client = client(victim);
    for _ in 0..batches {
        let mut builder = BatchBuilder::new(BatchOptions { compression: Compression::None, ..BatchOptions::default() });
        builder.push(TimestampMs(0), None, Some(&[7; 1_000_000]), &[]).unwrap();
        let records = Some(builder.build().unwrap());
        let partition_data = vec![PartitionProduceData { records, ..Default::default() }];
        let topic_data = vec![TopicProduceData { name: name.into(), partition_data, ..Default::default() }];
        let request = ProduceRequest { acks: -1, timeout_ms: 60_000, topic_data, ..Default::default() };
        let answer = client.call(7, request).unwrap();
        assert_eq!(answer.responses[0].partition_responses[0].error_code, ErrorCode::None);
    }
    let topics = Some(vec![MetadataRequestTopic { name: Some(name.into()), ..Default::default() }]);
    client.call(12, MetadataRequest { topics, ..Default::default() }).unwrap().topics[0].topic_id
}

fn subscribe(topic_id: TopicId, partitions: Vec<SubscribedPartition>) -> SubscribeRequest {
    SubscribeRequest {
        credit_bytes: i64::MAX,
        max_wait_ms: i32::MAX,
        max_bytes: i32::MAX,
        partition_max_bytes: i32::MAX,
        topics: vec![SubscribedTopic { topic_id, partitions }],
        ..Default::default()
    }
}

/// Each allows all that there is, and takes nothing of it.
#[test]
fn subscribers_who_take_nothing_cost_no_more_than_an_answer_each() {
    let mut victim = Victim::start().unwrap();
    let topic = filled(&victim, "large", 40);
    let before = victim.forget_peak().unwrap();
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = client(&victim);
        client.send(0, subscribe(topic, vec![SubscribedPartition::default()])).unwrap();
        clients.push(client);
    }
    // They are at work: the first is answered, and others go on.
    assert!(
        clients[0].receive::<SubscribeRequest>(0).unwrap().unwrap().topics[0].partitions[0].records.len() > 1_000_000
    );
    victim.serves().unwrap();
    let peak = victim.peak(before).unwrap();
    assert!(peak < 2 * PEAK_MAX, "{} MiB", peak >> 20);
    drop(clients);
    victim.serves().unwrap();
}

/// One that is not taken at once takes no more than it was allowed, and holds up nothing else.
#[test]
fn a_subscription_is_held_to_its_credit() {
    let mut victim = Victim::start().unwrap();
    let topic = filled(&victim, "large", 4);
    let mut client = client(&victim);
    let asked = subscribe(topic, vec![SubscribedPartition::default()]);
    client.send(0, SubscribeRequest { credit_bytes: 1, max_wait_ms: 100, ..asked }).unwrap();
    let first = client.receive::<SubscribeRequest>(0).unwrap().unwrap();
    assert_eq!(first.topics[0].partitions[0].next_offset, Offset(1), "one batch, whatever the credit");
    // For others, and too little: nothing comes of it, and it takes no memory.
    let before = victim.forget_peak().unwrap();
    for number in 0..200_000 {
        let (subscription_id, credit_bytes) = if number % 2 == 0 { (7, i64::MAX) } else { (0, 1_000_000 - number) };
        client.send(0, SubscriptionCreditRequest { subscription_id, credit_bytes }).unwrap();
    }
    victim.serves().unwrap();
    let peak = victim.peak(before).unwrap();
    assert!(peak < PEAK_MAX, "{} MiB", peak >> 20);
    client.send(0, SubscriptionCreditRequest { subscription_id: 0, credit_bytes: 1_001_000 }).unwrap();
    let second = client.receive::<SubscribeRequest>(0).unwrap().unwrap();
    assert_eq!(
        (second.topics[0].partitions[0].offset, second.topics[0].partitions[0].next_offset),
        (Offset(1), Offset(2))
    );
    // A second one on the same stream is one too many.
    client.send(0, subscribe(topic, vec![SubscribedPartition::default()])).unwrap();
    assert!(client.receive::<SubscribeRequest>(0).unwrap_or(None).is_none());
    victim.unhurt().unwrap();
}

#[test]
fn what_cannot_be_subscribed_to_is_refused_or_told_of() {
    let mut victim = Victim::start().unwrap();
    let topic = filled(&victim, "small", 1);
    let at = |partition, offset, epoch| SubscribedPartition {
        partition: PartitionId(partition),
        offset: Offset(offset),
        current_leader_epoch: LeaderEpoch(epoch),
        ..Default::default()
    };
    let told = |request: SubscribeRequest| -> Vec<ErrorCode> {
        let mut client = client(&victim);
        let answer = client.call(0, request).unwrap();
        assert!(answer.is_last, "{answer:?}");
        match answer.error_code {
            ErrorCode::None => {
                let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
                partitions.map(|partition| partition.error_code).collect()
            }
            code => vec![code],
        }
    };
    assert_eq!(told(subscribe(topic, vec![at(0, -7, -1)])), [ErrorCode::OffsetOutOfRange]);
    assert_eq!(told(subscribe(topic, vec![at(0, 2, -1)])), [ErrorCode::OffsetOutOfRange]);
    assert_eq!(told(subscribe(topic, vec![at(-1, 0, -1)])), [ErrorCode::UnknownTopicOrPartition]);
    assert_eq!(told(subscribe(topic, vec![at(0, 0, 1_000)])), [ErrorCode::UnknownLeaderEpoch]);
    assert_eq!(told(subscribe(TopicId::NIL, vec![at(0, 0, -1)])), [ErrorCode::UnknownTopicId]);
    assert_eq!(told(subscribe(topic, Vec::new())), [], "nothing to wait for");
    let many = |count| (0..count).map(|partition| at(partition, 0, -1)).collect();
    assert_eq!(told(subscribe(topic, many(199_000))), [ErrorCode::ThrottlingQuotaExceeded]);
    // What it can be, in numbers that make no sense: the least.
    let odd = SubscribeRequest {
        max_wait_ms: i32::MIN,
        min_bytes: i32::MIN,
        max_bytes: i32::MIN,
        partition_max_bytes: i32::MIN,
        ..subscribe(topic, vec![at(0, 0, -1)])
    };
    let answer = client(&victim).call(0, odd).unwrap();
    assert_eq!(answer.topics[0].partitions[0].next_offset, Offset(1));
    victim.serves().unwrap();
    victim.unhurt().unwrap();
}
