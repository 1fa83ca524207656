//! Does the tester run modules of each kind, and does it find those that are not pure?

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../../../platform/wasm/tests/guests/mod.rs"]
mod guests;

use std::path::Path;

use guests::{FORWARD, Guest};
use millstream_guest_test::{CallError, Error, FailureCode, Module, ModuleKind, PurityError, Record};

async fn load(guest: &Guest) -> Module {
    Module::from_bytes(Path::new("guest.wasm"), guest.component()).await.unwrap()
}

fn records(count: usize) -> Vec<Record> {
    (0..count)
        .map(|i| Record::new(format!("value {i}")).key(format!("k{i}")).timestamp(i as i64).header("h", "x"))
        .collect()
}

#[tokio::test]
async fn each_kind_answers_and_is_found_pure() {
    let mapper = load(&Guest::mapper()).await.open(ModuleKind::Mapper).outputs(["a", "b"]).start().await.unwrap();
    let outputs = mapper.process(&records(5)).await.unwrap();
    assert_eq!((outputs.len(), outputs[3].source, outputs[3].output), (5, 3, 0));
    assert_eq!(outputs[3].record, records(5)[3]);
    assert_eq!(mapper.view(&records(2)).await.unwrap().len(), 2);
    mapper.check_purity(&records(120), 7).await.unwrap();

    // Every second record of a batch is not pure: it depends on where batches are cut.
    let filter = load(&Guest::filter()).await.open(ModuleKind::Filter).start().await.unwrap();
    assert_eq!(filter.select(&records(3)).await.unwrap(), [true, false, true]);
    assert!(filter.select(&[]).await.unwrap().is_empty());
    assert!(
        matches!(filter.check_purity(&records(10), 7).await, Err(PurityError::Impure(impure)) if impure.record == 1)
    );

    let partitioner = load(&Guest::partitioner()).await.open(ModuleKind::Partitioner).start().await.unwrap();
    assert_eq!(partitioner.assign(&records(4), 3).await.unwrap(), [0, 1, 2, 0]);
}

#[tokio::test]
async fn an_instance_that_remembers_is_found_out() {
    // Drops everything from its third call on.
    let forward = FORWARD.replace("(local $count i32) (local $at i32) (local $i i32)", "");
    let guest = Guest::mapper().extra("(global $calls (mut i32) (i32.const 0))").work(&format!(
        "(local $count i32) (local $at i32) (local $i i32)
         (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
         (if (i32.gt_u (global.get $calls) (i32.const 2)) (then (return (i32.const 64)))) {forward}"
    ));
    let opened = load(&guest).await.open(ModuleKind::Mapper).start().await.unwrap();
    assert!(matches!(opened.check_purity(&records(10), 1).await, Err(PurityError::Impure(_))));
}

#[tokio::test]
async fn what_a_broker_would_refuse_is_refused_here() {
    let refused = Module::from_bytes(Path::new("x.wasm"), bytes::Bytes::from_static(b"no module")).await;
    assert!(matches!(refused, Err(Error::Refused { .. })));
    assert!(matches!(Module::load("/no/such/file.wasm").await, Err(Error::File { .. })));
    let module = load(&Guest::filter()).await;
    assert!(matches!(module.open(ModuleKind::Partitioner).start().await, Err(Error::Kind(_))));
    let picky = Guest { init: guests::failing(1, None, 0), ..Guest::mapper() };
    let Err(Error::Call(CallError::Guest(failure))) =
        load(&picky).await.open(ModuleKind::Mapper).param("a", "b").start().await
    else {
        panic!()
    };
    assert_eq!(failure.code, FailureCode::Config);
}
