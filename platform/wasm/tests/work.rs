//! Do well-behaved modules of each kind work, from their bytes to their answers?

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod guests;

use std::{collections::BTreeMap, time::Duration};

use guests::{FORWARD, Guest, World, data, frame, two_outputs};
use millstream_model::{Digest, ModuleKind};
use millstream_wasm::{
    CallError, EngineMode, FailureCode, Freshness, LogLevel, Refused, RuntimeOptions, StoreError,
    frame::{OutputRules, Shape},
};

#[tokio::test]
async fn a_mapper_forwards_records() {
    let world = World::new();
    let pool = world.pool(&Guest::mapper()).await;
    let input = frame(3);
    for rules in [two_outputs(), OutputRules::view()] {
        let emitted = pool.process(&input, &rules, Freshness::Any).await.unwrap();
        let [one] = emitted.as_slice() else { panic!("{emitted:?}") };
        let got: Vec<_> =
            one.records().map(|r| (r.source(), r.timestamp().0, r.key(), r.value(), r.partition())).collect();
        assert_eq!(one.output, 0);
        assert_eq!(got[2], (2, 1002, Some(&b"k2"[..]), Some(&b"v2"[..]), None));
        assert_eq!(got.len(), 3);
        for (index, record) in (0..).zip(one.records()) {
            assert_eq!(record.raw().tail, input.raw(index).unwrap().tail);
        }
    }
    assert_eq!(pool.stats().calls.started, 1, "the instance is used again");
}

#[tokio::test]
async fn a_filter_selects_and_a_partitioner_assigns() {
    let world = World::new();
    let filter = world.pool(&Guest::filter()).await;
    assert_eq!(filter.select(&frame(3)).await.unwrap(), [true, false, true]);
    assert_eq!(filter.select(&frame(9)).await.unwrap().iter().filter(|kept| **kept).count(), 5);
    let partitioner = world.pool(&Guest::partitioner()).await;
    assert_eq!(partitioner.assign(&frame(5), 3).await.unwrap(), [0, 1, 2, 0, 1]);
    assert!(matches!(partitioner.select(&frame(1)).await, Err(CallError::Host { .. })));
}

#[tokio::test]
async fn what_a_module_says_of_itself_is_known() {
    let world = World::new();
    let guest = Guest::partitioner().declaring(&[
        ("param", "field", "required"),
        ("needs", "value", ""),
        ("metric", "seen", "records seen"),
    ]);
    let factory = world.factory(&guest).await;
    assert_eq!(factory.kinds(), [ModuleKind::Partitioner]);
    assert!(factory.declarations().needs.values && !factory.declarations().needs.headers);
    assert_eq!(factory.declarations().params[0].name, "field");
    assert_eq!(factory.digest(), millstream_wasm::digest_of(&guest.component()));
    assert_eq!(world.runtime.mode(), EngineMode::Pooling, "this machine can reserve a pool");
}

#[tokio::test]
async fn a_later_number_of_the_same_contract_links() {
    let world = World::new();
    let guest = Guest { version: "0.1.7".into(), ..Guest::mapper() };
    let pool = world.pool(&guest).await;
    assert_eq!(pool.process(&frame(2), &two_outputs(), Freshness::Any).await.unwrap()[0].len(), 2);
}

#[tokio::test]
async fn a_failure_that_the_guest_reports_is_passed_on_and_harms_nothing() {
    let world = World::new();
    let guest = Guest::mapper().failing(2, Some(1), b"no \x1b[31mred\x00 here");
    let pool = world.pool(&guest).await;
    let Err(CallError::Guest(failure)) = pool.process(&frame(2), &two_outputs(), Freshness::Any).await else {
        panic!()
    };
    assert_eq!((failure.code, failure.at), (FailureCode::Record, Some(1)));
    assert_eq!(failure.message, "no \u{fffd}[31mred\u{fffd} here");
    // The index is not in this call's frame: not believed.
    let Err(CallError::Guest(failure)) = pool.process(&frame(1), &two_outputs(), Freshness::Any).await else {
        panic!()
    };
    assert_eq!(failure.at, None);
    assert_eq!(pool.stats().calls.started, 1, "the instance stayed");
    assert_eq!(pool.stats().calls.failures, 2);
}

#[tokio::test]
async fn parameters_reach_init_and_a_refusal_is_remembered() {
    let world = World::new();
    // Takes exactly one parameter: the seventh and eighth numbers are the list `host`, the fifth and sixth `params`.
    let init = format!(
        "(if (result i32) (i32.eq (local.get 5) (i32.const 1)) (then (i32.const 64)) (else {}))",
        guests::failing(1, None, 9)
    );
    let guest = Guest { init, ..Guest::mapper() }.extra(&data(49152, b"one param"));
    let pool = world.pool(&guest).await;
    for _ in 0..2 {
        let Err(CallError::Guest(failure)) = pool.check().await else { panic!() };
        assert_eq!((failure.code, failure.message.as_str()), (FailureCode::Config, "one param"));
    }
    assert_eq!(pool.stats().calls.started, 1, "a pure guest is not asked twice");
    let with =
        world.pool_with(&guest, |options| options.params.params = BTreeMap::from([("field".into(), "x".into())])).await;
    with.check().await.unwrap();
}

#[tokio::test]
async fn a_stored_module_is_loaded_from_its_image_and_without_it() {
    let mut world = World::new();
    let bytes = Guest::mapper().component();
    let digest = world.runtime.push(bytes.clone(), Some(millstream_wasm::digest_of(&bytes))).await.unwrap().digest();
    let images = || std::fs::read_dir(world.dir.path().join("images")).unwrap().count();
    assert_eq!((world.runtime.store().list().unwrap(), images()), (vec![digest], 1));
    for remove_images in [false, true] {
        if remove_images {
            std::fs::remove_dir_all(world.dir.path().join("images")).unwrap();
            std::fs::create_dir(world.dir.path().join("images")).unwrap();
        }
        let mut options = RuntimeOptions::new(world.dir.path());
        options.compiler = millstream_wasm::Compiler::InProcess;
        options.instances_max = 2;
        world.runtime = millstream_wasm::Runtime::new(options, millstream_env::real::env()).unwrap();
        assert_eq!(world.runtime.load(digest).await.unwrap().kinds(), [ModuleKind::Mapper]);
        assert_eq!(std::fs::read_dir(world.dir.path().join("images")).unwrap().count(), 1);
    }
    world.runtime.remove(digest).await.unwrap();
    assert!(world.runtime.load(digest).await.is_err());
}

#[tokio::test]
async fn a_runtime_without_files_runs_modules_and_keeps_none() {
    let world = World::with(|options| options.dir = RuntimeOptions::without_files().dir);
    let bytes = Guest::partitioner().component();
    let prepared = world.runtime.prepare(bytes.clone(), Some(millstream_wasm::digest_of(&bytes))).await.unwrap();
    let digest = prepared.factory().digest();
    let refused = world.runtime.keep(prepared).await.unwrap_err();
    assert!(matches!(refused, StoreError::Nowhere), "{refused}");
    assert!(world.runtime.load(Digest([7; 32])).await.is_err());
    let pool = world.pool(&Guest::partitioner()).await;
    assert_eq!((pool.factory().digest(), pool.assign(&frame(5), 3).await.unwrap()), (digest, vec![0, 1, 2, 0, 1]));
    assert_eq!(std::fs::read_dir(world.dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn two_that_push_the_same_module_get_the_same_factory() {
    let world = World::new();
    let bytes = Guest::mapper().component();
    let (one, two) = tokio::join!(world.runtime.push(bytes.clone(), None), world.runtime.push(bytes.clone(), None));
    assert!(std::sync::Arc::ptr_eq(&one.unwrap(), &two.unwrap()));
    let wrong = Digest([7; 32]);
    assert!(matches!(world.runtime.push(bytes, Some(wrong)).await, Err(Refused::Digest { .. })));
}

#[tokio::test]
async fn a_view_takes_no_two_records_of_one_source_but_a_transform_does() {
    let world = World::new();
    let input = frame(2);
    let twice = guests::output(&input, &[1, 1], |_| {});
    let pool = world.pool(&Guest::emitting(&[(0, twice)])).await;
    assert_eq!(pool.process(&input, &two_outputs(), Freshness::Any).await.unwrap()[0].len(), 2);
    assert!(matches!(pool.process(&input, &OutputRules::view(), Freshness::Any).await, Err(CallError::Output(_))));
    assert_eq!(OutputRules::view().shape, Shape::Mapped);
}

#[tokio::test]
async fn logs_and_metrics_are_kept_within_bounds() {
    let world = World::new();
    // Writes "hi\x1b[2J" 150 times, then reports metric 0 := 1.5.
    let work = format!(
        "(local $i i32)
         (loop $next
            (call $log (i32.const 3) (i32.const 49152) (i32.const 6))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (i32.const 150))))
         (i32.store (i32.const 256) (i32.const 0))
         (f64.store (i32.const 264) (f64.const 1.5))
         (call $report (i32.const 256) (i32.const 1))
         (i32.const 64) (drop) {}",
        FORWARD.replace("(local $count i32) (local $at i32) (local $i i32)", "(local.set $i (i32.const 0))")
    );
    let work = format!("(local $count i32) (local $at i32) {work}");
    let guest = Guest::mapper().work(&work).declaring(&[("metric", "seen", "")]).extra(&data(49152, b"hi\x1b[2J"));
    let pool = world.pool(&guest).await;
    for _ in 0..12 {
        pool.process(&frame(1), &two_outputs(), Freshness::Any).await.unwrap();
    }
    let (lines, dropped) = pool.logs();
    assert_eq!((lines.len(), dropped), (1000, 12 * 50));
    assert_eq!((lines[0].level, lines[0].message.as_str()), (LogLevel::Warn, "hi\u{fffd}[2J"));
    assert_eq!(pool.metrics(), [("seen".to_owned(), 18.0)]);
}

/// A trap says nothing of why; a module's panic is logged before it, and once stayed there.
#[tokio::test]
async fn what_a_module_logged_last_as_an_error_is_told_with_its_trap() {
    let world = World::new();
    // An error, then more lines than are kept, an error past them, and a line of another level.
    let line = |level: u32, at: u32| format!("(call $log (i32.const {level}) (i32.const {at}) (i32.const 8))");
    let many = (0..150).map(|_| line(2, 49160)).collect::<String>();
    let work = format!("{} {many} {} {} unreachable", line(4, 49168), line(4, 49152), line(3, 49160));
    let guest = Guest::mapper().work(&work).extra(&data(49152, b"ouch\x1b[2Jnotices firstone"));
    let pool = world.pool(&guest).await;
    let error = pool.process(&frame(1), &two_outputs(), Freshness::Any).await.unwrap_err();
    let CallError::Trap { reason, .. } = &error else { panic!("{error:?}") };
    assert!(
        reason.contains("unreachable") && reason.ends_with("it last logged the error: ouch\u{fffd}[2J"),
        "{reason}"
    );
    // The same in init, and what an earlier call logged is not told with another's trap.
    let init = format!("{} unreachable", line(4, 49152));
    let guest = Guest { init, ..Guest::mapper() }.extra(&data(49152, b"no start"));
    let error = world.pool(&guest).await.check().await.unwrap_err();
    assert!(error.to_string().ends_with("it last logged the error: no start"), "{error}");
    let work =
        format!("(if (global.get $again) (then unreachable)) (global.set $again (i32.const 1)) {}", line(4, 49152));
    let work = format!("{work} (i32.const 64)");
    let guest =
        Guest::mapper().work(&work).extra("(global $again (mut i32) (i32.const 0))").extra(&data(49152, b"a record"));
    let pool = world.pool(&guest).await;
    pool.process(&frame(1), &two_outputs(), Freshness::Any).await.unwrap();
    let error = pool.process(&frame(1), &two_outputs(), Freshness::Any).await.unwrap_err();
    assert!(error.to_string().contains("unreachable") && !error.to_string().contains("a record"), "{error}");
}

#[tokio::test]
async fn idle_instances_are_given_up() {
    let world = World::with(|options| options.idle = Duration::from_millis(20));
    let pool = world.pool(&Guest::mapper()).await;
    pool.check().await.unwrap();
    // The runtime looks every 20 ms.
    let given_up = async {
        while pool.stats().idle > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), given_up).await.unwrap();
    pool.process(&frame(1), &two_outputs(), Freshness::Any).await.unwrap();
    assert_eq!(pool.stats().calls.started, 2);
}

#[tokio::test]
async fn what_pools_have_done_is_counted_and_stays_counted_when_they_are_gone() {
    let world = World::new();
    let before = world.runtime.metrics();
    assert_eq!((before.calls.calls, before.compiled.count(), before.instances), (0, 0, 0));
    let good = world.pool(&Guest::mapper()).await;
    for _ in 0..3 {
        good.process(&frame(2), &two_outputs(), Freshness::Any).await.unwrap();
    }
    let traps = world.pool(&Guest::mapper().work("(unreachable)")).await;
    let fails = world.pool(&Guest::mapper().failing(2, None, b"no")).await;
    for pool in [&traps, &fails] {
        pool.process(&frame(2), &two_outputs(), Freshness::Any).await.unwrap_err();
    }
    let told = [&good, &traps, &fails].map(|pool| pool.stats().calls);
    let counts = told.map(|calls| (calls.calls, calls.failures, calls.traps, calls.started));
    assert_eq!(counts, [(3, 0, 0, 1), (0, 1, 1, 1), (0, 1, 0, 1)]);
    let mut all = millstream_wasm::CallMetrics::default();
    told.into_iter().for_each(|calls| all += calls);
    let now = world.runtime.metrics();
    assert_eq!((now.calls, now.compiled.count(), now.compile_failures), (all, 3, 0));
    // The one that trapped is gone.
    assert_eq!(now.instances, 2);
    assert!(now.memory_bytes > 0 && now.memory_bytes <= now.memory_bytes_max, "{now:?}");
    drop((good, traps, fails));
    let after = world.runtime.metrics();
    assert_eq!((after.calls, after.instances, after.memory_bytes), (all, 0, 0));
}
