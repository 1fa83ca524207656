//! Isolation: does anything of one deployment, one call or one upload reach another?

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod guests;

use std::sync::Arc;

use guests::{FORWARD, Guest, World, frame, two_outputs};
use millstream_wasm::{CallError, FailureCode, Freshness, Phase};

/// Fails with code 7 if the page that it grows is not clear, dirties it, then forwards.
fn scanner() -> Guest {
    let locals = "(local $count i32) (local $at i32) (local $i i32) (local $p i32) (local $end i32)";
    let forward = FORWARD.replace("(local $count i32) (local $at i32) (local $i i32)", "(local.set $i (i32.const 0))");
    let dirty = format!("(block (result i32) {})", guests::failing(7, None, 0));
    let work = format!(
        "{locals}
        (local.set $p (i32.shl (memory.grow (i32.const 64)) (i32.const 16)))
        (local.set $end (i32.add (local.get $p) (i32.const 4194304)))
        (loop $scan
            (if (i64.ne (i64.load (local.get $p)) (i64.const 0)) (then (return {dirty})))
            (i64.store (local.get $p) (i64.const 0x5ec2e75ec2e7))
            (local.set $p (i32.add (local.get $p) (i32.const 8)))
            (br_if $scan (i32.lt_u (local.get $p) (local.get $end))))
        {forward}"
    );
    Guest::mapper().work(&work)
}

#[tokio::test]
async fn fresh_memory_is_clear_whoever_had_it_before() {
    let world = World::with(|options| options.instances_max = 1);
    // One slot: each pool's instance takes the memory that the last one dirtied.
    for _ in 0..5 {
        let pool = world.pool_with(&scanner(), |options| options.limits.fuel_factor = 10).await;
        for _ in 0..3 {
            match pool.process(&frame(1), &two_outputs(), Freshness::Fresh).await {
                Ok(_) => {}
                Err(CallError::Guest(failure)) if failure.code == FailureCode::Stop(7) => panic!("another's bytes"),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[tokio::test]
async fn a_leak_ends_in_a_new_instance_and_in_no_failed_call() {
    let world = World::new();
    let leak = Guest::mapper().work(&format!(
        "(local $count i32) (local $at i32) (local $i i32) (drop (memory.grow (i32.const 32))) {}",
        FORWARD.replace("(local $count i32) (local $at i32) (local $i i32)", "")
    ));
    let pool = world.pool(&leak).await;
    for call in 0..200 {
        let result = pool.process(&frame(1), &two_outputs(), Freshness::Any).await;
        assert!(result.is_ok(), "call {call}: {result:?}");
    }
    // 2 MiB a call, replaced at three quarters of 64 MiB.
    assert!((5..20).contains(&pool.stats().calls.started), "{:?}", pool.stats());
}

#[tokio::test]
async fn a_sudden_leak_is_answered_by_a_new_instance() {
    let world = World::new();
    // The second call of an instance wants more than is left.
    let leak = Guest::mapper()
        .work(&format!(
            "(local $count i32) (local $at i32) (local $i i32)
             (if (global.get $used) (then (drop (memory.grow (i32.const 1000)))))
             (drop (memory.grow (i32.const 400))) (global.set $used (i32.const 1)) {}",
            FORWARD.replace("(local $count i32) (local $at i32) (local $i i32)", "")
        ))
        .extra("(global $used (mut i32) (i32.const 0))");
    let pool = world.pool(&leak).await;
    for _ in 0..4 {
        pool.process(&frame(1), &two_outputs(), Freshness::Any).await.unwrap();
    }
    assert_eq!((pool.stats().calls.failures, pool.stats().calls.started), (0, 4));
}

/// Answers how often this very instance was called, as the failure's code.
fn counter() -> Guest {
    Guest::mapper().extra("(global $calls (mut i32) (i32.const 100))").work(&format!(
        "(global.set $calls (i32.add (global.get $calls) (i32.const 1))) {}",
        guests::failing(0, None, 0).replace("(i32.const 0)) \n", "").replacen(
            "(i32.const 0)",
            "(global.get $calls)",
            1
        )
    ))
}

async fn count(pool: &millstream_wasm::Pool, freshness: Freshness) -> u32 {
    match pool.process(&frame(1), &two_outputs(), freshness).await {
        Err(CallError::Guest(failure)) => match failure.code {
            FailureCode::Stop(code) => code,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn globals_are_not_shared_between_pools_and_a_fresh_call_sees_none() {
    let world = World::new();
    let factory = world.factory(&counter()).await;
    let (one, two) = (world.pool(&counter()).await, world.pool(&counter()).await);
    assert!(Arc::ptr_eq(one.factory(), &factory), "one compiled module");
    assert_eq!([count(&one, Freshness::Any).await, count(&one, Freshness::Any).await], [101, 102]);
    assert_eq!(count(&two, Freshness::Any).await, 101);
    assert_eq!(count(&one, Freshness::Fresh).await, 101);
}

#[tokio::test]
async fn more_pools_than_slots_take_turns() {
    let world = World::with(|options| options.instances_max = 3);
    let guest = Guest::mapper();
    let mut pools = Vec::new();
    for _ in 0..20 {
        pools.push(world.pool(&guest).await);
    }
    for _ in 0..3 {
        let calls = pools
            .iter()
            .map(|pool| async move { pool.process(&frame(5), &two_outputs(), Freshness::Any).await.unwrap()[0].len() });
        assert_eq!(futures::future::join_all(calls).await, [5; 20]);
    }
    let idle: usize = pools.iter().map(|pool| pool.stats().idle).sum();
    assert!(idle <= 3, "{idle}");
}

#[tokio::test]
async fn a_thousand_deployments_at_once() {
    let world = World::new();
    let guest = Guest::mapper();
    let mut pools = Vec::new();
    for i in 0..1000 {
        pools.push(world.pool_with(&guest, |options| options.name = format!("d{i}")).await);
    }
    let (input, rules) = (frame(2), two_outputs());
    let calls = pools.iter().map(|pool| pool.process(&input, &rules, Freshness::Any));
    for result in futures::future::join_all(calls).await {
        assert_eq!(result.unwrap()[0].len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_neighbour_only_costs_time() {
    let world = World::new();
    let hostile = world.pool(&Guest::mapper().work("(loop $l (br $l)) unreachable")).await;
    let good = world.pool(&Guest::mapper()).await;
    let attack = tokio::spawn(async move {
        let mut outcomes = Vec::new();
        for _ in 0..4 {
            outcomes.push(hostile.process(&frame(1), &two_outputs(), Freshness::Any).await.map(drop));
        }
        outcomes
    });
    for _ in 0..100 {
        good.process(&frame(10), &two_outputs(), Freshness::Any).await.unwrap();
    }
    for outcome in attack.await.unwrap() {
        assert!(matches!(outcome, Err(CallError::OutOfFuel { phase: Phase::Call, .. })), "{outcome:?}");
    }
}
