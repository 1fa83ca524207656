//! Requests that are well formed and ask for too much: an error or an answer of a sane size, in a sane time, and a bystander
//! who notices nothing.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_model::{Offset, PartitionId, TimestampMs};
use millstream_protocol::{
    ErrorCode,
    extension::routing::DescribeRoutingRequest,
    messages::{
        configs::{DescribeConfigsRequest, DescribeConfigsResource, RESOURCE_TOPIC},
        fetch::{FetchPartition, FetchRequest, FetchTopic},
        groups::FindCoordinatorRequest,
        metadata::{MetadataRequest, MetadataRequestTopic},
        offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
        produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
        producers::{DescribeProducersRequest, DescribeProducersTopic},
        topics::{
            CreatableTopic, CreatableTopicConfig, CreatableTopicResult, CreateTopicsRequest, DeleteTopicState,
            DeleteTopicsRequest,
        },
    },
};
use millstream_record::{BatchBuilder, BatchOptions, Compression, Header};
use millstream_test_support::guests;
use millstream_tests_hostile::{door::Client, victim::Victim};

/// Long enough for a busy machine; nothing waits it out but a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much memory an attack may take for a moment, bytes: what one large answer costs, and not what hundreds do.
const PEAK_MAX: u64 = 160 << 20;

fn client(victim: &Victim) -> Client {
    Client::connect(victim.broker().address(), PATIENCE).unwrap()
}

fn create(victim: &Victim, topic: &str, words: &[&str]) {
    victim.broker().cli(&[&["topic", "create", topic], words].concat()).unwrap().ok().unwrap();
}

fn batch(compression: Compression, timestamp: i64, headers: &[Header], values: &[&[u8]]) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    for value in values {
        builder.push(TimestampMs(timestamp), None, Some(value), headers).unwrap();
    }
    builder.build().unwrap()
}

fn plain(value: &[u8]) -> Bytes {
    batch(Compression::None, 0, &[], &[value])
}

fn produce(topic: &str, acks: i16, batches: Vec<(i32, Bytes)>) -> ProduceRequest {
    let data = |(index, records)| PartitionProduceData {
        index: PartitionId(index),
        records: Some(records),
        ..Default::default()
    };
    let partition_data = batches.into_iter().map(data).collect();
    let topic = TopicProduceData { name: topic.into(), partition_data, ..Default::default() };
    ProduceRequest { acks, timeout_ms: 30_000, topic_data: vec![topic], ..Default::default() }
}

/// What became of one batch.
fn produce_one(client: &mut Client, version: i16, topic: &str, records: Bytes) -> (ErrorCode, String) {
    let answer = client.call(version, produce(topic, -1, vec![(0, records)])).unwrap();
    let partition = &answer.responses[0].partition_responses[0];
    (partition.error_code, partition.error_message.clone().unwrap_or_default())
}

fn fetch(topic: &str, partitions: &[i32]) -> FetchRequest {
    let partition = |index: &i32| FetchPartition {
        partition: PartitionId(*index),
        fetch_offset: Offset(0),
        partition_max_bytes: i32::MAX,
        ..Default::default()
    };
    let partitions = partitions.iter().map(partition).collect();
    let topics = vec![FetchTopic { topic: topic.into(), partitions, ..Default::default() }];
    FetchRequest { max_wait_ms: i32::MAX, min_bytes: i32::MAX, topics, ..Default::default() }
}

/// A topic whose one partition holds so many megabytes.
fn fill(victim: &Victim, topic: &str, megabytes: usize) {
    create(victim, topic, &[]);
    let mut client = client(victim);
    for _ in 0..megabytes {
        assert_eq!(produce_one(&mut client, 7, topic, plain(&[7; 1_000_000])).0, ErrorCode::None);
    }
}

/// Each names every partition of a large topic, and waits. There is room for some of them; the others have those answer at once.
#[test]
fn fetches_of_thousands_of_partitions_take_turns() {
    const PARTITIONS: i32 = 5_000;
    const CLIENTS: usize = 160;
    let mut victim = Victim::start().unwrap();
    create(&victim, "wide", &["--partitions", &PARTITIONS.to_string()]);
    let all: Vec<_> = (0..PARTITIONS).collect();
    let before = victim.forget_peak().unwrap();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = client(&victim);
        for _ in 0..2 {
            client.send(11, fetch("wide", &all)).unwrap();
        }
        clients.push(client);
    }
    // Room for about fifty: nearly all have had to give way.
    let answer = clients[0].receive::<FetchRequest>(11).unwrap().unwrap();
    assert_eq!(answer.responses[0].partitions.len(), all.len());
    let mut good = client(&victim);
    assert_eq!(produce_one(&mut good, 7, "wide", plain(b"x")).0, ErrorCode::None);
    let peak = victim.peak(before).unwrap();
    assert!(peak < 2 * PEAK_MAX, "{} MiB while they wait", peak >> 20);
    drop(clients);
    victim.serves().unwrap();
}

#[test]
fn fetches_that_wait_hold_nothing_and_end_with_their_client() {
    const FETCHES: usize = 100;
    let mut victim = Victim::start().unwrap();
    fill(&victim, "large", 12);
    let before = victim.forget_peak().unwrap();
    let mut waiting = client(&victim);
    for _ in 0..FETCHES {
        waiting.send(11, fetch("large", &[0])).unwrap();
    }
    // Each append wakes them all.
    let mut producer = client(&victim);
    for _ in 0..10 {
        assert_eq!(produce_one(&mut producer, 7, "large", plain(b"more")).0, ErrorCode::None);
    }
    let peak = victim.peak(before).unwrap();
    assert!(peak < PEAK_MAX, "{} MiB while they wait", peak >> 20);
    // They asked for more than there is, and to wait for it for weeks: once nothing more is asked for, they are answered.
    let start = Instant::now();
    waiting.finish().unwrap();
    for number in 0..FETCHES {
        let answer = waiting.receive::<FetchRequest>(11).unwrap().unwrap_or_else(|| panic!("closed after {number}"));
        let bytes = answer.responses[0].partitions[0].records.len();
        assert!(bytes > 12_000_000, "{number}: {bytes} bytes");
    }
    assert!(waiting.receive::<FetchRequest>(11).unwrap().is_none(), "the connection's place is given back");
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    let peak = victim.peak(before).unwrap();
    assert!(peak < PEAK_MAX, "{} MiB", peak >> 20);
    victim.unhurt().unwrap();
}

/// Each had asked for more than a connection may have under way, so nothing more was read from it, and that it had closed was not seen.
#[test]
fn clients_that_have_gone_hold_no_places_whatever_they_had_asked_for() {
    const CLIENTS: usize = 40;
    let mut victim = Victim::start().unwrap();
    create(&victim, "empty", &[]);
    let before = victim.sockets().unwrap();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = client(&victim);
        // Answered: it is being served.
        client.call(4, MetadataRequest::default()).unwrap();
        for _ in 0..300 {
            client.send(11, fetch("empty", &[0])).unwrap();
        }
        clients.push(client);
    }
    assert!(victim.sockets().unwrap() >= before + CLIENTS);
    drop(clients);
    let start = Instant::now();
    while victim.sockets().unwrap() > before {
        assert!(start.elapsed() < PATIENCE / 2, "{} of them have their places", victim.sockets().unwrap() - before);
        std::thread::sleep(Duration::from_millis(1));
    }
    victim.unhurt().unwrap();
}

#[test]
fn large_answers_that_nobody_reads_are_gathered_one_at_a_time() {
    let mut victim = Victim::start().unwrap();
    fill(&victim, "large", 12);
    let before = victim.forget_peak().unwrap();
    let mut greedy = client(&victim);
    for _ in 0..100 {
        greedy.send(11, FetchRequest { max_wait_ms: 2000, ..fetch("large", &[0]) }).unwrap();
    }
    // They have all waited for long enough once the first is answered.
    assert!(greedy.receive::<FetchRequest>(11).unwrap().is_some());
    victim.serves().unwrap();
    let peak = victim.peak(before).unwrap();
    assert!(peak < PEAK_MAX, "{} MiB", peak >> 20);
}

#[test]
fn a_topic_that_is_named_a_thousand_times_is_described_once() {
    let mut victim = Victim::start().unwrap();
    create(&victim, "wide", &["--partitions", "200"]);
    let before = victim.forget_peak().unwrap();
    let named = |name: &str| MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    for name in ["wide", "nowhere"] {
        let topics = Some(vec![named(name); 100_000]);
        let request = MetadataRequest { topics, allow_auto_topic_creation: false, ..Default::default() };
        let answer = client(&victim).call(9, request).unwrap();
        assert_eq!(answer.topics.len(), 1, "{name}");
        let partitions = if name == "wide" { 200 } else { 0 };
        assert_eq!(answer.topics[0].partitions.len(), partitions);
    }
    let peak = victim.peak(before).unwrap();
    assert!(peak < PEAK_MAX, "{} MiB", peak >> 20);
    victim.unhurt().unwrap();
}

/// Kafka's brokers make what a Metadata request names, and so does this one: not without end.
#[test]
fn of_a_hundred_thousand_new_names_a_hundred_become_topics() {
    let mut victim = Victim::start().unwrap();
    let before = victim.forget_peak().unwrap();
    let named = |number| MetadataRequestTopic { name: Some(format!("new-{number}")), ..Default::default() };
    let request = MetadataRequest { topics: Some((0..100_000).map(named).collect()), ..Default::default() };
    let answer = client(&victim).call(9, request).unwrap();
    assert_eq!(answer.topics.len(), 100_000);
    let (made, left): (Vec<_>, Vec<_>) = answer.topics.iter().partition(|topic| topic.error_code == ErrorCode::None);
    assert_eq!(made.len(), 100);
    assert!(made.iter().all(|topic| topic.partitions.len() == 1));
    assert!(left.iter().all(|topic| topic.error_code == ErrorCode::UnknownTopicOrPartition));
    let all = client(&victim).call(9, MetadataRequest::default()).unwrap();
    assert_eq!(all.topics.len(), 101, "and the bystander");
    let peak = victim.peak(before).unwrap();
    assert!(peak < PEAK_MAX, "{} MiB", peak >> 20);
    victim.unhurt().unwrap();
}

#[test]
fn what_is_asked_many_times_over_is_answered_in_a_sane_size_or_refused() {
    const MANY: usize = 150_000;
    let mut victim = Victim::start().unwrap();
    create(&victim, "narrow", &[]);
    let before = victim.forget_peak().unwrap();

    let keys = (0..MANY).map(|number| format!("group-{number}")).collect();
    let answer = client(&victim).call(4, FindCoordinatorRequest { coordinator_keys: keys, ..Default::default() });
    let coordinators = answer.unwrap().coordinators;
    assert_eq!(coordinators.len(), MANY);
    assert!(coordinators.iter().all(|coordinator| coordinator.error_code == ErrorCode::InvalidRequest));
    assert!(coordinators[0].error_message.as_ref().unwrap().contains("not built"));

    let keys = vec![String::new(); MANY];
    let answer = client(&victim).call(4, FindCoordinatorRequest { coordinator_keys: keys, ..Default::default() });
    assert_eq!(answer.unwrap().coordinators.len(), 1);

    let nowhere = (0..MANY as i32).map(|index| (index + 1, Bytes::new())).collect();
    let answer = client(&victim).call(9, produce("narrow", -1, nowhere)).unwrap();
    let partitions = &answer.responses[0].partition_responses;
    assert_eq!(partitions.len(), MANY);
    assert!(partitions.iter().all(|partition| partition.error_code == ErrorCode::UnknownTopicOrPartition));

    let answer = client(&victim).call(12, fetch("narrow", &(1..=MANY as i32).collect::<Vec<_>>())).unwrap();
    assert_eq!(answer.responses[0].partitions.len(), MANY);
    let request = FetchRequest { max_wait_ms: 0, ..fetch("narrow", &vec![0; MANY]) };
    let answer = client(&victim).call(12, request).unwrap();
    assert_eq!(answer.responses[0].partitions.len(), 1, "the same partition");

    let resource = DescribeConfigsResource {
        resource_type: RESOURCE_TOPIC,
        resource_name: "narrow".into(),
        configuration_keys: None,
    };
    let request = DescribeConfigsRequest { resources: vec![resource; MANY], ..Default::default() };
    let answer = client(&victim).call(4, request).unwrap();
    assert_eq!(answer.results.len(), 1);

    let peak = victim.peak(before).unwrap();
    assert!(peak < PEAK_MAX, "{} MiB", peak >> 20);

    // Beyond any sense, the connection is closed before anything is made of it.
    let keys = vec![String::new(); 2_800_000];
    let mut client = client(&victim);
    client.send(4, FindCoordinatorRequest { coordinator_keys: keys, ..Default::default() }).unwrap();
    assert!(client.receive::<FindCoordinatorRequest>(4).unwrap().is_none());
    victim.unhurt().unwrap();
}

#[test]
fn fetch_sessions_take_a_bounded_share_of_memory_and_end_with_their_clients() {
    const CLIENTS: usize = 60;
    const MANY: i32 = 10_000;
    let mut victim = Victim::start().unwrap();
    create(&victim, "narrow", &[]);
    let before = victim.forget_peak().unwrap();
    // Together they would remember twice what all sessions may.
    let wide = || FetchRequest { max_wait_ms: 0, session_epoch: 0, ..fetch("narrow", &(0..MANY).collect::<Vec<_>>()) };
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| client(&victim)).collect();
    let mut sessions = Vec::new();
    for client in &mut clients {
        let answer = client.call(12, wide()).unwrap();
        assert_eq!(answer.responses[0].partitions.len(), MANY as usize, "with a session or without one");
        sessions.push(answer.session_id);
    }
    let made = sessions.iter().filter(|id| **id != 0).count();
    assert!(made > 0 && made < CLIENTS, "{made} of {CLIENTS} clients have a session");
    let peak = victim.peak(before).unwrap();
    assert!(peak < PEAK_MAX, "{} MiB", peak >> 20);

    // They work, and nobody else's can be used: what it does not know it refuses, and changes nothing.
    let next =
        |session_id, session_epoch| FetchRequest { max_wait_ms: 0, session_id, session_epoch, ..Default::default() };
    let [first, .., last] = &mut clients[..] else { unreachable!() };
    let (id, none) = (sessions[0], (ErrorCode::FetchSessionIdNotFound, 0));
    let told = |client: &mut Client, id, epoch| {
        let answer = client.call(12, next(id, epoch)).unwrap();
        (answer.error_code, answer.responses.iter().map(|topic| topic.partitions.len()).sum::<usize>())
    };
    assert_eq!(told(last, id, 1), none);
    assert_eq!(
        told(first, id, 1),
        (ErrorCode::None, MANY as usize - 1),
        "all but one do not exist, and that is told again"
    );
    assert_eq!(told(first, id, 1), (ErrorCode::InvalidFetchSessionEpoch, 0));
    assert_eq!(told(first, id ^ 1, 2), none);
    assert_eq!(told(first, id, 2), (ErrorCode::None, MANY as usize - 1));
    assert_eq!(told(first, id, i32::MIN), (ErrorCode::InvalidFetchSessionEpoch, 0));

    drop(clients);
    let start = Instant::now();
    // Their connections are gone as soon as the broker has seen it.
    while client(&victim).call(12, wide()).unwrap().session_id == 0 {
        assert!(start.elapsed() < PATIENCE, "clients that have gone keep their sessions");
    }
    victim.unhurt().unwrap();
}

#[test]
fn producers_of_many_partitions_are_described_once_each_and_no_long_name_is_copied_for_each() {
    const MANY: i32 = 150_000;
    let mut victim = Victim::start().unwrap();
    let long = "x".repeat(200);
    create(&victim, &long, &[]);
    let before = victim.forget_peak().unwrap();
    // The second would be gigabytes if each had a copy of it.
    for name in [long.clone(), "y".repeat(30_000)] {
        let topic = DescribeProducersTopic { name, partition_indexes: (0..MANY).map(PartitionId).collect() };
        let answer = client(&victim).call(0, DescribeProducersRequest { topics: vec![topic] }).unwrap();
        assert_eq!(answer.topics[0].partitions.len(), MANY as usize);
    }
    let topic = DescribeProducersTopic { name: long, partition_indexes: vec![PartitionId(0); MANY as usize] };
    let answer = client(&victim).call(0, DescribeProducersRequest { topics: vec![topic] }).unwrap();
    assert_eq!(answer.topics[0].partitions.len(), 1, "the same partition");
    let peak = victim.peak(before).unwrap();
    assert!(peak < PEAK_MAX, "{} MiB", peak >> 20);
    victim.unhurt().unwrap();
}

#[test]
fn of_many_names_that_nobody_has_the_first_are_explained() {
    const MANY: usize = 20_000;
    const EXPLAINED_BYTES_MAX: usize = 100 << 10;
    let mut victim = Victim::start().unwrap();
    create(&victim, "narrow", &[]);
    let mut client = client(&victim);
    let names = vec!["narrow".into(); MANY];
    assert_eq!(client.call(0, DescribeRoutingRequest { topics: names }).unwrap().topics.len(), 1);
    // Quoted, each takes six times as much.
    let names: Vec<_> = (0..MANY).map(|number| format!("{number}{}", "\u{1}".repeat(100))).collect();
    let bytes = |message: &Option<String>| message.as_ref().map_or(0, String::len);
    let answer = client.call(0, DescribeRoutingRequest { topics: names.clone() }).unwrap();
    assert!(answer.topics.iter().all(|topic| topic.error_code == ErrorCode::UnknownTopicOrPartition));
    assert!(bytes(&answer.topics[0].error_message) > 0);
    assert!(answer.topics.iter().map(|topic| bytes(&topic.error_message)).sum::<usize>() < EXPLAINED_BYTES_MAX);
    let states = names.iter().map(|name| DeleteTopicState { name: Some(name.clone()), ..Default::default() });
    let request = DeleteTopicsRequest { topics: states.collect(), ..Default::default() };
    let answer = client.call(6, request).unwrap();
    assert_eq!(answer.responses.len(), MANY);
    assert!(bytes(&answer.responses[0].error_message) > 0);
    assert!(answer.responses.iter().map(|topic| bytes(&topic.error_message)).sum::<usize>() < EXPLAINED_BYTES_MAX);
    victim.unhurt().unwrap();
}

#[test]
fn bombs_cost_no_more_than_their_senders_paid_for() {
    const BOMBS: usize = 2000;
    let mut victim = Victim::start().unwrap();
    create(&victim, "bombs", &[]);
    let before = victim.forget_peak().unwrap();
    let bomb = batch(Compression::Zstd, 0, &[], &[&vec![0; 60 << 20]]);
    assert!(bomb.len() < 16 << 10, "{}", bomb.len());
    let mut attacker = client(&victim);
    let start = Instant::now();
    attacker.send(7, produce("bombs", -1, vec![(0, bomb); BOMBS])).unwrap();
    // Others are served meanwhile.
    let mut neighbour = client(&victim);
    assert_eq!(produce_one(&mut neighbour, 7, "bombs", plain(b"small")).0, ErrorCode::None);
    victim.serves().unwrap();
    let answer = attacker.receive::<ProduceRequest>(7).unwrap().unwrap();
    let partitions = &answer.responses[0].partition_responses;
    assert_eq!(partitions.len(), BOMBS);
    assert!(partitions.iter().all(|partition| partition.error_code == ErrorCode::MessageTooLarge));
    // A hundred and twenty thousand million bytes take a minute and more to unpack.
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    let peak = victim.peak(before).unwrap();
    assert!(peak < 2 * PEAK_MAX, "{} MiB", peak >> 20);
    // What packs well and is of a sane size is taken.
    let alike = batch(Compression::Zstd, 0, &[], &[&vec![0; 8 << 20]]);
    assert_eq!(produce_one(&mut neighbour, 7, "bombs", alike).0, ErrorCode::None);
    victim.unhurt().unwrap();
}

#[test]
fn records_that_would_hurt_their_readers_are_refused_with_that_reason() {
    let mut victim = Victim::start().unwrap();
    // Whatever the topic would take.
    create(&victim, "strict", &["--config", "message.timestamp.after.max.ms=9223372036854775807"]);
    let mut client = client(&victim);
    for time in [i64::MIN, -2, i64::MAX, 253_402_300_800_000] {
        for compression in [Compression::None, Compression::Lz4] {
            let (code, _) = produce_one(&mut client, 8, "strict", batch(compression, time, &[], &[b"v"]));
            assert_eq!(code, ErrorCode::InvalidTimestamp, "{time}");
        }
    }
    let last = batch(Compression::None, 253_402_300_799_999, &[], &[b"v"]);
    assert_eq!(produce_one(&mut client, 8, "strict", last).0, ErrorCode::None);
    let odd = [Header::new(Bytes::from_static(b"\xff\xfe"), None)];
    for compression in [Compression::None, Compression::Gzip] {
        let (code, message) = produce_one(&mut client, 8, "strict", batch(compression, 0, &odd, &[b"v"]));
        assert_eq!(code, ErrorCode::InvalidRecord);
        assert!(message.contains("UTF-8"), "{message}");
    }
    // A codec that readers of this version's time do not know.
    let (code, _) = produce_one(&mut client, 6, "strict", batch(Compression::Zstd, 0, &[], &[b"v"]));
    assert_eq!(code, ErrorCode::UnsupportedCompressionType);
    assert_eq!(produce_one(&mut client, 7, "strict", batch(Compression::Zstd, 0, &[], &[b"v"])).0, ErrorCode::None);
    let old = client.call(9, FetchRequest { max_wait_ms: 0, ..fetch("strict", &[0]) }).unwrap();
    assert_eq!(old.responses[0].partitions[0].error_code, ErrorCode::UnsupportedCompressionType);
    victim.unhurt().unwrap();
}

#[test]
fn a_produce_without_an_answer_that_fails_ends_the_connection() {
    let mut victim = Victim::start().unwrap();
    create(&victim, "quiet", &[]);
    let mut good = client(&victim);
    good.send(7, produce("quiet", 0, vec![(0, plain(b"v"))])).unwrap();
    good.call(4, MetadataRequest::default()).unwrap();
    let mut bad = client(&victim);
    bad.send(7, produce("quiet", 0, vec![(0, plain(b"v")), (1, plain(b"v"))])).unwrap();
    bad.send(4, MetadataRequest::default()).unwrap();
    assert!(bad.receive::<MetadataRequest>(4).unwrap().is_none());
    victim.unhurt().unwrap();
}

#[test]
fn what_is_quoted_fits_into_the_answer() {
    let mut victim = Victim::start().unwrap();
    let mut client = client(&victim);
    let odd = "\u{1}".repeat(i16::MAX as usize);
    let config = CreatableTopicConfig { name: "max.message.bytes".into(), value: Some(odd.clone()) };
    for (name, configs) in [("sane", vec![config]), (odd.as_str(), vec![])] {
        let topic = CreatableTopic {
            name: name.into(),
            num_partitions: 1,
            replication_factor: 1,
            configs,
            ..Default::default()
        };
        let answer = client.call(2, CreateTopicsRequest { topics: vec![topic], ..Default::default() }).unwrap();
        assert_ne!(answer.topics[0].error_code, ErrorCode::None);
        assert!(answer.topics[0].error_message.as_ref().unwrap().len() < 2000);
    }
    victim.unhurt().unwrap();
}

#[test]
fn of_a_partition_that_is_named_many_times_nothing_is_looked_for() {
    let mut victim = Victim::start().unwrap();
    fill(&victim, "timed", 3);
    let asked = |index| ListOffsetsPartition {
        partition_index: PartitionId(index),
        timestamp: TimestampMs(1),
        ..Default::default()
    };
    let topic =
        ListOffsetsTopic { name: "timed".into(), partitions: [vec![asked(0); 100_000], vec![asked(1)]].concat() };
    let start = Instant::now();
    let answer = client(&victim).call(5, ListOffsetsRequest { topics: vec![topic], ..Default::default() }).unwrap();
    let told: Vec<_> =
        answer.topics[0].partitions.iter().map(|told| (told.partition_index.0, told.error_code)).collect();
    assert_eq!(told, [(0, ErrorCode::InvalidRequest), (1, ErrorCode::UnknownTopicOrPartition)]);
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    victim.unhurt().unwrap();
}

#[test]
fn a_time_is_found_whatever_the_batch_says_of_its_latest_record() {
    let mut victim = Victim::start().unwrap();
    create(&victim, "timed", &[]);
    let mut client = client(&victim);
    for (number, compression) in [Compression::None, Compression::Lz4].into_iter().enumerate() {
        // As Sarama sent batches for years: without the greatest time.
        let time = 5000 + number as i64;
        let mut bytes = batch(compression, time, &[], &[b"v"]).to_vec();
        bytes[35..43].copy_from_slice(&(-1i64).to_be_bytes());
        let crc = millstream_record::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(produce_one(&mut client, 8, "timed", bytes.into()).0, ErrorCode::None);
        let asked = ListOffsetsPartition { timestamp: TimestampMs(time), ..Default::default() };
        let topic = ListOffsetsTopic { name: "timed".into(), partitions: vec![asked] };
        let answer = client.call(5, ListOffsetsRequest { topics: vec![topic], ..Default::default() }).unwrap();
        let found = &answer.topics[0].partitions[0];
        assert_eq!((found.offset, found.timestamp), (Offset(number as i64), TimestampMs(time)));
    }
    victim.unhurt().unwrap();
}

#[test]
fn an_acknowledgement_of_the_leader_alone_is_no_matter_of_the_replicas_time_out() {
    let mut victim = Victim::start().unwrap();
    create(&victim, "quick", &[]);
    let mut client = client(&victim);
    for _ in 0..50 {
        let request = ProduceRequest { timeout_ms: 0, ..produce("quick", 1, vec![(0, plain(b"v"))]) };
        let answer = client.call(7, request).unwrap();
        assert_eq!(answer.responses[0].partition_responses[0].error_code, ErrorCode::None);
    }
    victim.unhurt().unwrap();
}

#[test]
fn topics_that_are_refused_leave_no_modules_at_work() {
    let mut victim = Victim::start().unwrap();
    let file = guests::component("partition-by-field").unwrap();
    let push = ["module", "push", file.to_str().unwrap(), "--name", "by-field", "--version", "1"];
    victim.broker().cli(&push).unwrap().ok().unwrap();
    let mut client = client(&victim);
    for request in 0..40 {
        // Its parameters are refused by the module itself, and differ each time.
        let topic = |number: usize| {
            let field = format!("{request}-{number}{}", "x".repeat(30_000));
            let config =
                |name: &str, value: &str| CreatableTopicConfig { name: name.into(), value: Some(value.into()) };
            let configs = vec![
                config("millstream.partitioner", "by-field@1"),
                config("millstream.partitioner.param.field", &field),
                config("millstream.partitioner.param.strict", "perhaps"),
            ];
            CreatableTopic {
                name: format!("never-{number}"),
                num_partitions: 1,
                replication_factor: 1,
                configs,
                ..Default::default()
            }
        };
        let topics = (0..100).map(topic).collect();
        let answer = client.call(4, CreateTopicsRequest { topics, timeout_ms: 30_000, ..Default::default() }).unwrap();
        let refused = |topic: &CreatableTopicResult| topic.error_code == ErrorCode::InvalidConfig;
        assert!(answer.topics.iter().all(refused), "{:?}", answer.topics[0].error_message);
    }
    victim.unhurt().unwrap();
}

#[test]
fn requests_under_way_are_answered_when_the_broker_stops() {
    let mut victim = Victim::start().unwrap();
    create(&victim, "empty", &[]);
    let mut waiting = client(&victim);
    waiting.send(11, FetchRequest { max_wait_ms: 50_000, ..fetch("empty", &[0]) }).unwrap();
    // Answered in order: the fetch is under way once a later request of another connection is.
    client(&victim).call(4, MetadataRequest::default()).unwrap();
    let start = Instant::now();
    victim.broker_mut().stop().unwrap();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let answer = waiting.receive::<FetchRequest>(11).unwrap().expect("answered before it is closed");
    assert_eq!(answer.responses[0].partitions[0].error_code, ErrorCode::None);
    assert!(waiting.receive::<FetchRequest>(11).unwrap().is_none());
}

#[test]
fn all_connections_together_keep_to_the_budget() {
    const BUDGET: u64 = 128 << 20;
    let mut victim = Victim::start_with(&["--frame-memory", &BUDGET.to_string()]).unwrap();
    fill(&victim, "large", 12);
    let before = victim.forget_peak().unwrap();
    // Forty clients, half of which ask for what they do not read, and half of which send what they do not finish.
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut greedy = client(&victim);
        for _ in 0..10 {
            greedy.send(11, FetchRequest { max_wait_ms: 0, ..fetch("large", &[0]) }).unwrap();
        }
        held.push(greedy);
    }
    let senders: Vec<_> = (0..20).map(|_| half_a_frame(&victim, 40 << 20)).collect();
    victim.serves().unwrap();
    let peak = victim.peak(before).unwrap();
    assert!(peak < BUDGET + PEAK_MAX / 2, "{} MiB", peak >> 20);
    drop((held, senders));
    let mut client = client(&victim);
    assert_eq!(produce_one(&mut client, 7, "large", plain(&[1; 900_000])).0, ErrorCode::None);
    victim.unhurt().unwrap();
}

/// A connection that has sent as much as the broker takes of a frame that it does not finish.
fn half_a_frame(victim: &Victim, bytes: usize) -> std::net::TcpStream {
    use std::io::Write;

    let mut stream = std::net::TcpStream::connect(victim.broker().address()).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let length = i32::try_from(bytes).unwrap().to_be_bytes();
    // As far as it goes: the broker stops reading where its budget ends.
    let _ = stream.write_all(&length).and_then(|()| stream.write_all(&vec![0; bytes - 1]));
    stream
}
