//! Does an independent codec (the crate `kafka-protocol`) read what we write, field by field, and do we read what it
//! writes?

use std::{collections::BTreeMap, fmt::Debug};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages as kafka,
    protocol::{Decodable, Encodable, Message as KafkaMessage},
};

use super::debug_tree::leaves;
use crate::{
    codec::{Message, decode_body, encode_body},
    messages::{
        api_versions::*, cluster::*, configs::*, fetch::*, groups::*, log_dirs::*, metadata::*, offsets::*, produce::*,
        producers::*, records::*, topics::*,
    },
    sample::{Sample, SampleRng},
};

/// Fields of ours in tags that Kafka does not have.
const OURS: &[&str] = &[".routing_epoch", ".next_offset", ".unknown_tagged_fields"];
/// Fields of Kafka's that we skip: tagged, or of versions that are not served.
const THEIRS: &[&str] = &[
    ".zk_migration_ready",
    ".snapshot_id",
    ".replica_directory_id",
    ".unknown_tagged_fields",
    // InitProducerId from version 6 on, for transactions of two phases.
    ".enable_2_pc",
    ".keep_prepared_txn",
    ".ongoing_txn",
];

/// The leaves that both sides should agree on. Null and empty count as the same: where a version lacks a nullable field
/// our default is null and Kafka's is often empty. (That each is *written* as what it is shows in the bytes.)
fn compared(message: &str, value: &impl Debug, left_out: &[&str]) -> BTreeMap<String, String> {
    let mut leaves = leaves(value);
    leaves.retain(|path, value| {
        let empty = value == "None" || value == "\"\"" || (path.ends_with(".count") && value == "0");
        let exception = match message {
            // A follower's tag, which we skip.
            "FetchRequest" => path.ends_with(".high_watermark"),
            // Ours.
            "FetchResponse" | "ListOffsetsResponse" => {
                path.contains(".partitions[") && path.ends_with(".error_message")
            }
            _ => false,
        };
        !empty && !exception && !left_out.iter().any(|field| path.contains(field))
    });
    leaves
}

fn kafka_bytes(message: &impl Encodable, version: i16) -> Bytes {
    let mut bytes = BytesMut::new();
    message.encode(&mut bytes, version).unwrap();
    bytes.freeze()
}

/// Both directions, for every version that both codecs know.
fn check<Ours, Theirs>()
where
    Ours: Message + Sample + PartialEq + Debug,
    Theirs: KafkaMessage + Encodable + Decodable + Default + Debug,
{
    let theirs = Theirs::VERSIONS;
    let last = (*Ours::VERSIONS.end()).min(theirs.max);
    // ListOffsets 11 is younger than the other codec; a test of its own compares it with 10.
    assert!(*Ours::VERSIONS.start() >= theirs.min && last + 1 >= *Ours::VERSIONS.end(), "{}", Ours::NAME);
    for version in *Ours::VERSIONS.start()..=last {
        for seed in 0..100 {
            let at = || format!("{} version {version}, seed {seed}", Ours::NAME);
            let ours = encode_body(&Ours::sample(&mut SampleRng(seed)), version).unwrap().to_bytes();
            let mut rest = ours.clone();
            let their_value = Theirs::decode(&mut rest, version).unwrap_or_else(|e| panic!("{}: {e}", at()));
            assert!(rest.is_empty(), "{}: {} bytes left", at(), rest.len());

            let bytes = kafka_bytes(&their_value, version);
            assert_eq!(bytes, ours, "{}", at());
            let our_value: Ours = decode_body(bytes, version).unwrap_or_else(|e| panic!("{}: {e}", at()));

            let (left, right) = (compared(Ours::NAME, &our_value, OURS), compared(Ours::NAME, &their_value, THEIRS));
            assert_eq!(left, right, "{}", at());
        }
    }
    // A value that nobody touched is the same, except that ListOffsets comes from a consumer unless said otherwise.
    let (left, mut right) =
        (compared(Ours::NAME, &Ours::default(), OURS), compared(Ours::NAME, &Theirs::default(), THEIRS));
    if Ours::NAME == "ListOffsetsRequest" {
        right.insert(".replica_id".into(), "-1".into());
    }
    assert_eq!(left, right, "{} default", Ours::NAME);
}

macro_rules! messages {
    ($($test:ident: $($message:ident),*;)*) => {$(
        #[test]
        fn $test() {
            $(check::<$message, kafka::$message>();)*
        }
    )*};
}

messages! {
    api_versions: ApiVersionsRequest, ApiVersionsResponse;
    metadata: MetadataRequest, MetadataResponse;
    produce: ProduceRequest, ProduceResponse;
    init_producer_id: InitProducerIdRequest, InitProducerIdResponse;
    fetch: FetchRequest, FetchResponse;
    list_offsets: ListOffsetsRequest, ListOffsetsResponse;
    find_coordinator: FindCoordinatorRequest, FindCoordinatorResponse;
    create_topics: CreateTopicsRequest, CreateTopicsResponse;
    create_partitions: CreatePartitionsRequest, CreatePartitionsResponse;
    delete_topics: DeleteTopicsRequest, DeleteTopicsResponse;
    delete_records: DeleteRecordsRequest, DeleteRecordsResponse;
    describe_configs: DescribeConfigsRequest, DescribeConfigsResponse;
    offset_for_leader_epoch: OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse;
    describe_producers: DescribeProducersRequest, DescribeProducersResponse;
    alter_configs: AlterConfigsRequest, AlterConfigsResponse;
    incremental_alter_configs: IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse;
    describe_cluster: DescribeClusterRequest, DescribeClusterResponse;
    describe_log_dirs: DescribeLogDirsRequest, DescribeLogDirsResponse;
    describe_topic_partitions: DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse;
}

#[test]
fn what_only_followers_and_unknown_brokers_send_is_skipped() {
    let partition = kafka::fetch_request::FetchPartition::default()
        .with_replica_directory_id(uuid::Uuid::from_u128(5))
        .with_high_watermark(9)
        .with_fetch_offset(3)
        .with_unknown_tagged_field(77, Bytes::from_static(b"abc"));
    let topic = kafka::fetch_request::FetchTopic::default().with_partitions(vec![partition]);
    let request = kafka::FetchRequest::default().with_topics(vec![topic]).with_cluster_id(Some("c".to_owned().into()));
    let read: FetchRequest = decode_body(kafka_bytes(&request, 18), 18).unwrap();
    assert_eq!(read.topics[0].partitions[0].fetch_offset, millstream_model::Offset(3));
    assert_eq!(read.cluster_id.as_deref(), Some("c"));

    let snapshot = kafka::fetch_response::SnapshotId::default().with_epoch(4);
    let partition = kafka::fetch_response::PartitionData::default()
        .with_records(Some(Bytes::from_static(b"rrr")))
        .with_snapshot_id(snapshot);
    let topic = kafka::fetch_response::FetchableTopicResponse::default().with_partitions(vec![partition]);
    let response = kafka::FetchResponse::default().with_responses(vec![topic]);
    let read: FetchResponse = decode_body(kafka_bytes(&response, 18), 18).unwrap();
    assert_eq!(read.responses[0].partitions[0].records.to_bytes(), b"rrr".as_slice());
}

#[test]
fn error_codes_have_kafkas_numbers_and_its_word_on_retrying() {
    for code in crate::ErrorCode::ALL.iter().filter(|code| code.code() < 20_000 && !code.is_ok()) {
        let theirs = kafka_protocol::ResponseError::try_from_code(code.code()).unwrap();
        let (ours, name) = (format!("{code:?}"), format!("{theirs:?}"));
        assert!(name == ours || name == format!("{ours}Error") || name == format!("{ours}Exception"), "{ours} {name}");
        // Since Kafka 3.x ConcurrentTransactions may be retried (Errors.java: RetriableException); the crate lags.
        if *code != crate::ErrorCode::ConcurrentTransactions {
            assert_eq!(code.retriable(), theirs.is_retriable(), "{ours}");
        }
    }
}
