//! The admin's requests: refusals in the broker's words, nothing that changes things sent twice.

use bytes::Bytes;
use millstream_client::{CallError, ErrorCode, NewTopic};
use millstream_model::Digest;
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
