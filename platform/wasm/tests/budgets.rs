//! Calls stopped by their budget: does each call fail as one, with its own error, and does the pool heal?

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod guests;

use std::time::Duration;

use guests::{FORWARD, Guest, World, frame, two_outputs};
use millstream_wasm::{CallError, Freshness, Phase, Pool, Refused, limits};

/// Runs hostile work if the call has one record and forwards otherwise, so that the same pool shows that it healed.
fn hostile(work: &str) -> Guest {
    let locals = "(local $count i32) (local $at i32) (local $i i32) (local $x i32)";
    let forward = FORWARD.replace("(local $count i32) (local $at i32) (local $i i32)", "");
    Guest::mapper().work(&format!(
        "{locals} (if (i32.eq (i32.load offset=8 (local.get $ptr)) (i32.const 1)) (then {work})) {forward}"
    ))
}

async fn call(pool: &Pool) -> CallError {
    match pool.process(&frame(1), &two_outputs(), Freshness::Any).await {
        Ok(emitted) => panic!("the hostile call gave {emitted:?}"),
        Err(error) => error,
    }
}

/// The hostile call fails with what `expected` accepts, twice alike, and good calls succeed before, between and after.
async fn check(guest: Guest, expected: impl Fn(&CallError) -> bool) {
    let world = World::new();
    let pool = world.pool(&guest).await;
    for _ in 0..2 {
        let good = pool.process(&frame(2), &two_outputs(), Freshness::Any).await.unwrap();
        assert_eq!(good[0].len(), 2);
        let error = call(&pool).await;
        assert!(expected(&error), "{error:?}");
    }
    assert_eq!(pool.process(&frame(3), &two_outputs(), Freshness::Any).await.unwrap()[0].len(), 3);
}

fn out_of_fuel(error: &CallError) -> bool {
    matches!(error, CallError::OutOfFuel { phase: Phase::Call, .. })
}

fn trap(error: &CallError) -> bool {
    matches!(error, CallError::Trap { phase: Phase::Call, .. })
}

fn out_of_memory(error: &CallError) -> bool {
    matches!(error, CallError::OutOfMemory { phase: Phase::Call, .. })
}

#[tokio::test]
async fn an_infinite_loop() {
    check(hostile("(loop $l (br $l))"), out_of_fuel).await;
}

#[tokio::test]
async fn a_loop_of_cheap_host_calls() {
    // An empty log line costs the guest nearly nothing.
    check(hostile("(loop $l (call $log (i32.const 0) (i32.const 0) (i32.const 0)) (br $l))"), out_of_fuel).await;
}

#[tokio::test]
async fn a_loop_of_large_log_lines() {
    let guest = hostile("(loop $l (call $log (i32.const 4) (i32.const 2048) (i32.const 60000)) (br $l))");
    check(guest, out_of_fuel).await;
}

#[tokio::test]
async fn traps_of_every_kind() {
    for (what, work) in [
        ("unreachable", "(unreachable)"),
        ("load past the end", "(drop (i32.load (i32.const -1)))"),
        ("load far past the end", "(drop (i64.load offset=4294967295 (i32.const -1)))"),
        ("store past the end", "(i32.store (i32.const -4) (i32.const 1))"),
        ("division by zero", "(drop (i32.div_u (i32.const 1) (local.get $x)))"),
        ("overflowing division", "(drop (i32.div_s (i32.const 0x80000000) (i32.sub (local.get $x) (i32.const 1))))"),
        ("conversion of NaN", "(drop (i32.trunc_f64_s (f64.const nan)))"),
        ("copy past the end", "(memory.copy (i32.const 0) (i32.const 0) (i32.const 1000000))"),
        ("fill past the end", "(memory.fill (i32.const -1) (i32.const 0) (i32.const 1000))"),
        ("a frame outside the memory", "(call $emit (i32.const 0) (i32.const -8) (i32.const 64))"),
        ("a log level that there is not", "(call $log (i32.const 99) (i32.const 0) (i32.const 1))"),
        ("a result outside the memory", "(return (i32.const -4))"),
    ] {
        println!("{what}");
        check(hostile(work), trap).await;
    }
}

#[tokio::test]
async fn null_and_wrongly_typed_indirect_calls() {
    let table = "(table 4 4 funcref) (elem (i32.const 1) $two) (func $two (param i32 i32)) (type $none (func))";
    for work in [
        "(call_indirect (type $none) (i32.const 0))",
        "(call_indirect (type $none) (i32.const 1))",
        "(call_indirect (type $none) (i32.const 4))",
        "(call_indirect (type $none) (i32.const -1))",
    ] {
        check(hostile(work).extra(table), trap).await;
    }
}

#[tokio::test]
async fn infinite_recursion() {
    check(hostile("(call $deep)").extra("(func $deep (call $deep))"), trap).await;
    let mutual = "(table 2 2 funcref) (elem (i32.const 0) $a $b) (type $none (func))
        (func $a (call_indirect (type $none) (i32.const 1))) (func $b (call_indirect (type $none) (i32.const 0)))";
    check(hostile("(call $a)").extra(mutual), trap).await;
}

#[tokio::test]
async fn huge_stack_frames() {
    // A thousand values that live across the call make a frame of 8 KB.
    let locals: String = (0..1000).map(|i| format!("(local $v{i} i64)")).collect();
    let set: String = (0..1000).map(|i| format!("(local.set $v{i} (i64.load (i32.const {})))", i * 8)).collect();
    let keep: String = (0..1000).map(|i| format!("(i64.store (i32.const {}) (local.get $v{i}))", i * 8)).collect();
    let guest = hostile("(call $deep)").extra(&format!("(func $deep {locals} {set} (call $deep) {keep})"));
    check(guest, trap).await;
}

#[tokio::test]
async fn growing_memory_and_tables_for_ever() {
    check(hostile("(loop $l (drop (memory.grow (i32.const 1))) (br $l))"), out_of_memory).await;
    check(hostile("(loop $l (drop (memory.grow (i32.const 65535))) (br $l))"), out_of_memory).await;
    let table = "(table $t 1 funcref)";
    let grow = "(loop $l (drop (table.grow $t (ref.null func) (i32.const 100))) (br $l))";
    check(hostile(grow).extra(table), out_of_memory).await;
    // Growing by nothing costs no memory, only time.
    check(hostile("(loop $l (drop (memory.grow (i32.const 0))) (br $l))"), out_of_fuel).await;
}

#[tokio::test]
async fn the_largest_copies_and_fills_in_a_loop() {
    // Each instruction moves 40 MB: the charge for it is by the byte.
    let grow = "(drop (memory.grow (i32.const 900)))";
    let copy = format!("{grow} (loop $l (memory.copy (i32.const 0) (i32.const 9000000) (i32.const 40000000)) (br $l))");
    let fill = format!("{grow} (loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 50000000)) (br $l))");
    for work in [copy, fill] {
        let started = std::time::Instant::now();
        check(hostile(&work), out_of_fuel).await;
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn an_allocator_that_loops_or_lies() {
    for (realloc, expected) in [
        ("(loop $l (br $l)) (i32.const 0)", out_of_fuel as fn(&CallError) -> bool),
        ("(i32.const -1)", trap),
        ("(i32.const 0x7fffffff)", trap),
        ("(unreachable)", trap),
    ] {
        let world = World::new();
        let pool = world.pool(&Guest { realloc: realloc.into(), ..Guest::mapper() }).await;
        // Nothing calls the allocator before the first frame: an empty list of parameters takes no memory.
        let error = call(&pool).await;
        let in_init = matches!(
            error,
            CallError::Trap { phase: Phase::Init, .. } | CallError::OutOfFuel { phase: Phase::Init, .. }
        );
        assert!(expected(&error) || in_init, "{realloc}: {error:?}");
        let good = world.pool(&Guest::mapper()).await;
        good.process(&frame(2), &two_outputs(), Freshness::Any).await.unwrap();
    }
}

#[tokio::test]
async fn hostile_init_fails_the_pool_but_no_other() {
    for (init, expected) in [
        ("(loop $l (br $l)) (i32.const 64)", "fuel"),
        ("(unreachable)", "trap"),
        ("(call $emit (i32.const 0) (i32.const 0) (i32.const 48)) (i32.const 64)", "output"),
        ("(loop $l (drop (memory.grow (i32.const 9))) (br $l)) (i32.const 64)", "memory"),
    ] {
        let world = World::new();
        let pool = world.pool(&Guest { init: init.into(), ..Guest::mapper() }).await;
        let error = pool.check().await.unwrap_err();
        let got = match &error {
            CallError::OutOfFuel { phase: Phase::Init, .. } => "fuel",
            CallError::Trap { phase: Phase::Init, .. } => "trap",
            CallError::OutOfMemory { phase: Phase::Init, .. } => "memory",
            CallError::Output(_) => "output",
            _ => "something else",
        };
        assert_eq!(got, expected, "{error:?}");
        call(&pool).await;
        assert_eq!(pool.stats().calls.started, 1, "it is not tried over and over");
        let good = world.pool(&Guest::mapper()).await;
        good.process(&frame(2), &two_outputs(), Freshness::Any).await.unwrap();
    }
}

#[tokio::test]
async fn a_module_that_hangs_at_its_start_or_in_describe_is_refused() {
    let start = "(func $start (loop $l (br $l))) (start $start)";
    let describe = Guest { describe: "(loop $l (br $l)) (i32.const 1024)".into(), ..Guest::mapper() };
    for (guest, phase) in [(Guest::mapper().extra(start), Phase::Start), (describe, Phase::Describe)] {
        let world = World::new();
        let refused = world.refused(guest.component()).await;
        let Refused::Describe(CallError::OutOfFuel { phase: got, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(got, phase);
        world.pool(&Guest::mapper()).await.check().await.unwrap();
    }
}

#[tokio::test]
async fn the_same_call_uses_the_same_fuel() {
    let world = World::new();
    let mut used = Vec::new();
    for _ in 0..3 {
        let pool = world.pool(&Guest::mapper()).await;
        pool.process(&frame(50), &two_outputs(), Freshness::Any).await.unwrap();
        used.push(pool.stats().calls.fuel);
    }
    assert!(used[0] > 0 && used.iter().all(|fuel| *fuel == used[0]), "{used:?}");
}

#[tokio::test]
async fn a_long_call_lets_others_run_and_a_dropped_one_stops() {
    let world = World::new();
    // One thread: unless the guest yields, the ticker never runs.
    let pool = world.pool_with(&hostile("(loop $l (br $l))"), |options| options.limits.fuel_factor = 1000).await;
    pool.check().await.unwrap();
    let input = frame(1);
    let rules = two_outputs();
    let mut running = Box::pin(pool.process(&input, &rules, Freshness::Any));
    let mut ticks = 0;
    while ticks < 20 {
        tokio::select! {
            biased;
            result = &mut running => panic!("ended: {result:?}"),
            () = tokio::time::sleep(Duration::from_millis(1)) => ticks += 1,
        }
    }
    drop(running);
    assert_eq!(pool.stats().idle, 0, "the instance in the middle of the call is gone");
    let started = std::time::Instant::now();
    pool.process(&frame(2), &rules, Freshness::Any).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn calls_past_the_queue_are_refused_and_those_in_it_are_served() {
    let world = World::new();
    let pool = world
        .pool_with(&hostile("(loop $l (br $l))"), |options| {
            options.limits.instances = 1;
            options.limits.waiting = 2;
            options.limits.fuel_factor = 1000;
        })
        .await;
    let (hog_frame, input, rules) = (frame(1), frame(2), two_outputs());
    let mut hog = Box::pin(pool.process(&hog_frame, &rules, Freshness::Any));
    // Takes its turn at the first poll and computes until it yields.
    assert!(futures::poll!(&mut hog).is_pending());
    let mut waiting: Vec<_> = (0..2).map(|_| Box::pin(pool.process(&input, &rules, Freshness::Any))).collect();
    for call in &mut waiting {
        assert!(futures::poll!(call).is_pending());
    }
    let refused = pool.process(&input, &rules, Freshness::Any).await;
    assert!(matches!(refused, Err(CallError::Exhausted { waiting: 2 })), "{refused:?}");
    drop(hog);
    for call in waiting {
        call.await.unwrap();
    }
}

#[test]
fn budgets_grow_with_the_input() {
    let limits = millstream_wasm::Limits::default();
    assert_eq!(limits.fuel(0, 0), limits::FUEL_PER_CALL);
    assert!(limits.fuel(1, 100) < limits.fuel(2, 100) && limits.fuel(2, 100) < limits.fuel(2, 101));
}
