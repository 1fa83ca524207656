//! The admin's requests: refusals in the broker's words, nothing that changes things sent twice.

use bytes::Bytes;
use millstream_client::{CallError, DeleteBefore, ErrorCode, NewTopic};
use millstream_model::{Digest, Offset, PartitionId};
use millstream_protocol::extension::modules::ModuleReadResponse;
use sha2::{Digest as _, Sha256};

use crate::{connect, setting};

fn topic(name: &str) -> NewTopic {
    NewTopic { name: name.into(), partitions: Some(3), ..NewTopic::default() }
}

#[test]
fn a_topic_is_created_listed_and_refused_the_second_time() {
    let (world, _broker, client) = setting(1);
    let admin = client.admin();
    world.run_until(async {
        let created = admin.create_topic(topic("a")).await.unwrap();
        assert_eq!(created.partitions, Some(3));
        let listed = admin.list_topics().await.unwrap();
        assert_eq!((listed.len(), listed[0].name.as_str(), listed[0].partitions), (1, "a", 3));
        assert_eq!(listed[0].topic_id, created.topic_id);
        let error = admin.create_topic(topic("a")).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::TopicAlreadyExists));
        assert!(error.to_string().contains("there is a topic \"a\" already"), "{error}");
    });
}

#[test]
fn what_changes_things_is_not_sent_twice() {
    let (world, broker, client) = setting(1);
    broker.state.lock().break_creates = true;
    let error = world.run_until(client.admin().create_topic(topic("a"))).unwrap_err();
    assert!(matches!(error, CallError::Disconnected { .. }), "{error}");
    assert!(error.to_string().contains("may or may not have been done"), "{error}");
    assert_eq!(broker.state.lock().creates, 1);
    // The connection is made again for the next request.
    assert_eq!(world.run_until(client.admin().list_topics()).unwrap().len(), 1);
}

#[test]
fn the_brokers_reason_for_refusing_a_module_is_told() {
    let (world, _broker, client) = setting(1);
    let push = async { client.admin().push_module("m", "1", Bytes::from_static(b"\0asm")).await };
    let error = world.run_until(push).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ModuleRefused));
    assert!(error.to_string().contains("m@1") && error.to_string().contains("wasi:sockets"), "{error}");
    assert!(!error.is_retriable());
}

#[test]
fn a_module_is_pulled_whole_and_only_if_it_is_the_one() {
    const MODULE: &[u8] = b"as good a module as any";
    let (world, broker, _) = setting(1);
    let digest = Digest(Sha256::digest(MODULE).into());
    {
        let mut state = broker.state.lock();
        state.described = Some(digest);
        state.hand = Some(|request| {
            let bytes = MODULE[request.offset as usize..].iter().take(5).copied().collect();
            ModuleReadResponse { size_bytes: MODULE.len() as i64, bytes, ..ModuleReadResponse::default() }
        });
    }
    // Which apis there are is asked once for a connection: by a client that comes now.
    let admin = world.run_until(connect(&world)).unwrap().admin();
    assert_eq!(world.run_until(admin.pull_module("m", "1")).unwrap(), MODULE);
    assert_eq!(broker.state.lock().module_reads, 5);
    broker.state.lock().described = Some(Digest([7; 32]));
    let error = world.run_until(admin.pull_module("m", "1")).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ModuleRefused));
    assert!(error.to_string().contains("module m@1") && error.to_string().contains("exchanged"), "{error}");
}

#[test]
fn a_list_that_finds_nothing_is_empty_and_a_description_of_nothing_is_an_error() {
    let (world, _broker, client) = setting(1);
    let admin = client.admin();
    world.run_until(async {
        for name in [None, Some("nope")] {
            assert!(admin.list_views(name).await.unwrap().is_empty());
            assert!(admin.list_modules(name).await.unwrap().is_empty());
        }
        let error = admin.describe_view("nope").await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::ViewNotFound));
        assert!(error.to_string().contains("view \"nope\""), "{error}");
    });
}

#[test]
fn a_topic_is_described_from_one_answer_and_what_it_has_no_routing_for_is_told_apart_from_a_refusal() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 3);
    let admin = client.admin();
    let before = broker.state.lock().metadata;
    let described = world.run_until(admin.describe_topic("t")).unwrap();
    assert_eq!((described.partitions.len(), described.routing.unwrap().partitions), (3, 3));
    assert_eq!(broker.state.lock().metadata, before + 1);
    // What brokers say of a view.
    broker.state.lock().refuse_routing = Some(ErrorCode::InvalidTopic);
    assert!(world.run_until(admin.describe_topic("t")).unwrap().routing.is_none());
    for code in [ErrorCode::UnknownServer, ErrorCode::UnknownTopicOrPartition, ErrorCode::InvalidRequest] {
        broker.state.lock().refuse_routing = Some(code);
        assert_eq!(world.run_until(admin.describe_topic("t")).unwrap_err().code(), Some(code));
    }
}

#[test]
fn everything_is_deleted_only_where_that_is_said() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 1);
    let admin = client.admin();
    let delete = |before| world.run_until(admin.delete_records("t", PartitionId(0), before));
    for offset in [-1, -2, i64::MIN] {
        let error = delete(DeleteBefore::Offset(Offset(offset))).unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::OffsetOutOfRange), "{error}");
    }
    delete(DeleteBefore::Offset(Offset(0))).unwrap();
    delete(DeleteBefore::Offset(Offset(7))).unwrap();
    assert_eq!(delete(DeleteBefore::End).unwrap(), Offset(1));
    assert_eq!(broker.state.lock().deletes, [0, 7, -1]);
}
