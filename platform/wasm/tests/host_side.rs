//! What can a guest make the host hold and do? Its memory and outputs are counted beside those of all others, its host calls
//! yield, and the wait for it has an end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod guests;

use std::{future::Future, time::Duration};

use guests::{FORWARD, Guest, World, frame, output, two_outputs};
use millstream_wasm::{
    Blame, CallError, Freshness, Phase, Pool, PoolOptions,
    frame::{FrameError, OutputError},
    limits::OUTPUT_FRAMES_MAX,
};
use parking_lot::{Mutex, MutexGuard};

/// Memory is the process's: these tests take turns.
static TURN: Mutex<()> = parking_lot::const_mutex(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock()
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let _turn = turn();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// A line of `/proc/self/status`, bytes.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// By how much the process's memory rose above what it was, at its height, while `work` ran.
async fn high_water<T>(work: impl Future<Output = T>) -> (T, u64) {
    // Sets the mark back to what there is now.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    let result = work.await;
    (result, status("VmHWM:").saturating_sub(before))
}

/// A mapper that does `work` if its call has one record, and forwards otherwise; with this many pages of memory.
fn hostile(pages: usize, work: &str) -> Guest {
    let locals = "(local $count i32) (local $at i32) (local $i i32)";
    let forward = FORWARD.replace(locals, "");
    let work =
        format!("{locals} (if (i32.eq (i32.load offset=8 (local.get $ptr)) (i32.const 1)) (then {work})) {forward}");
    Guest { memory: format!("(memory (export \"memory\") {pages})"), ..Guest::mapper() }.work(&work)
}

async fn call(pool: &Pool) -> Result<usize, CallError> {
    let emitted = pool.process(&frame(1), &two_outputs(), Freshness::Any).await?;
    Ok(emitted.len())
}

async fn forwards(pool: &Pool) {
    assert_eq!(pool.process(&frame(2), &two_outputs(), Freshness::Any).await.unwrap()[0].len(), 2);
}

/// A call's reports were once all kept until it ended: 16 bytes of the host's for 16 units of fuel.
#[test]
fn reporting_for_ever_takes_no_memory() {
    run(async {
        let world = World::new();
        let report = "(loop $l (call $report (i32.const 1048576) (i32.const 4096)) (br $l))";
        let guest = hostile(40, report).declaring(&[("metric", "seen", "")]);
        let pool = world.pool_with(&guest, |options| options.limits.fuel_factor = 20).await;
        forwards(&pool).await;
        let (error, risen) = high_water(call(&pool)).await;
        assert!(matches!(error, Err(CallError::OutOfFuel { phase: Phase::Call, .. })), "{error:?}");
        assert!(risen < 64 << 20, "{risen} bytes");
        assert_eq!(pool.metrics(), [("seen".to_owned(), 0.0)], "a call that fails reports nothing");
        forwards(&pool).await;
    });
}

#[test]
fn a_sum_of_reports_stays_a_number() {
    run(async {
        let world = World::new();
        let largest = "(f64.store (i32.const 264) (f64.const 0x1.fffffffffffffp+1023))";
        let report =
            format!("(i32.store (i32.const 256) (i32.const 0)) {largest} (call $report (i32.const 256) (i32.const 1))");
        let pool = world.pool(&hostile(2, &format!("{report} {report}")).declaring(&[("metric", "m", "")])).await;
        for _ in 0..2 {
            call(&pool).await.unwrap();
        }
        assert_eq!(pool.metrics(), [("m".to_owned(), f64::MAX)]);
    });
}

/// An emit of nothing once cost 32 bytes of the host's and next to no fuel.
#[test]
fn emitting_nothing_for_ever_is_stopped_at_once() {
    run(async {
        let world = World::new();
        for len in [0, 47] {
            let emit = format!("(loop $l (call $emit (i32.const 0) (i32.const 0) (i32.const {len})) (br $l))");
            let pool = world.pool_with(&hostile(2, &emit), |options| options.limits.fuel_factor = 20).await;
            forwards(&pool).await;
            let (error, risen) = high_water(call(&pool)).await;
            let Err(CallError::Output(OutputError::Frame { output: 0, error })) = error else { panic!("{error:?}") };
            assert_eq!(error, FrameError::Truncated { bytes: len });
            assert!(risen < 32 << 20, "{risen} bytes");
            forwards(&pool).await;
        }
    });
}

#[test]
fn emitting_empty_frames_for_ever_is_bounded_in_number() {
    run(async {
        let world = World::new();
        let empty = output(&frame(1), &[], |header| {
            header.count = 0;
            header.record_bytes = 0;
        });
        let emit = "(loop $l (call $emit (i32.const 0) (i32.const 65536) (i32.const 48)) (br $l))";
        let guest = hostile(4, emit).extra(&guests::data(65536, &empty[..48]));
        let pool = world.pool_with(&guest, |options| options.limits.fuel_factor = 20).await;
        let (error, risen) = high_water(call(&pool)).await;
        let Err(CallError::Output(OutputError::TooMuch { what, max })) = error else { panic!("{error:?}") };
        assert_eq!((what, max), ("frames", OUTPUT_FRAMES_MAX as u64));
        assert!(risen < 64 << 20, "{risen} bytes");
        // Fewer pass.
        let few = "(loop $l (call $emit (i32.const 0) (i32.const 65536) (i32.const 48))
             (local.set $i (i32.add (local.get $i) (i32.const 1)))
             (br_if $l (i32.lt_u (local.get $i) (i32.const 1000)))) (return (i32.const 64))";
        let pool = world.pool(&hostile(4, few).extra(&guests::data(65536, &empty[..48]))).await;
        assert_eq!(call(&pool).await.unwrap(), 1000);
    });
}

/// Host calls cost the guest next to no fuel of the engine's, after which it yields: a loop of large ones once kept its
/// thread for seconds.
#[test]
fn host_calls_let_others_run() {
    run(async {
        let world = World::new();
        let log = "(loop $l (call $log (i32.const 4) (i32.const 524288) (i32.const 4000000)) (br $l))";
        let report = "(loop $l (call $report (i32.const 1048576) (i32.const 65536)) (br $l))";
        for work in [log, report] {
            let guest = hostile(70, work).declaring(&[("metric", "m", "")]);
            let pool = world.pool_with(&guest, |options| options.limits.fuel_factor = 4).await;
            forwards(&pool).await;
            let (input, rules) = (frame(1), two_outputs());
            let mut running = Box::pin(pool.process(&input, &rules, Freshness::Any));
            // The thread is this one: each time the call gives it up is one poll.
            let mut turns = 0;
            let error = loop {
                match futures::poll!(&mut running) {
                    std::task::Poll::Ready(result) => break result,
                    std::task::Poll::Pending => turns += 1,
                }
                tokio::task::yield_now().await;
            };
            assert!(matches!(error, Err(CallError::OutOfFuel { .. })), "{error:?}");
            assert!(turns > 40, "{turns} turns of others in 200 million units of work");
        }
    });
}

/// 256 slots of 64 MiB are more than most machines have.
#[test]
fn idle_instances_make_room_for_those_at_work() {
    run(async {
        let world = World::with(|options| options.memory_bytes = 64 << 20);
        // 25 MiB each.
        let (one, two, three) = (
            world.pool(&hostile(400, "")).await,
            world.pool(&hostile(400, "")).await,
            world.pool(&hostile(400, "")).await,
        );
        one.check().await.unwrap();
        two.check().await.unwrap();
        assert_eq!((one.stats().idle, two.stats().idle), (1, 1));
        forwards(&three).await;
        assert_eq!((one.stats().idle, two.stats().idle, three.stats().idle), (0, 1, 1), "the oldest was given up");
        // What was given up is there again.
        for pool in [&one, &two, &three, &one] {
            forwards(pool).await;
        }
    });
}

/// What another holds is no verdict on this one: tried later, the same call passes.
#[test]
fn memory_in_use_by_others_is_the_hosts_failure() {
    run(async {
        let world = World::with(|options| options.memory_bytes = 64 << 20);
        let hog =
            world.pool_with(&hostile(400, "(loop $l (br $l))"), |options| options.limits.fuel_factor = 1000).await;
        let start = world.pool(&hostile(700, "")).await;
        let grow = world.pool(&hostile(100, "(drop (memory.grow (i32.const 600)))")).await;
        let emit = format!("(memory.fill (i32.const 0) (i32.const 0) (i32.const 48)) {}", emit_large(2_000_000));
        let emits = world.pool(&hostile(600, &emit)).await;
        forwards(&hog).await;
        let (input, rules) = (frame(1), two_outputs());
        let mut hogging = Box::pin(hog.process(&input, &rules, Freshness::Any));
        assert!(futures::poll!(&mut hogging).is_pending());
        for pool in [&start, &grow, &emits] {
            let error = call(pool).await.unwrap_err();
            assert!(matches!(error, CallError::Host { .. }), "{error:?}");
            assert_eq!((error.blame(), error.is_retriable()), (Blame::Host, true));
            assert!(error.to_string().contains("all modules together"), "{error}");
        }
        drop(hogging);
        for pool in [&start, &grow] {
            call(pool).await.unwrap();
        }
        // Its frames are no frames: now that they are taken, that is what is wrong.
        assert!(matches!(call(&emits).await, Err(CallError::Output(_))));
    });
}

/// Emits two frames of so many bytes.
fn emit_large(bytes: usize) -> String {
    format!("(call $emit (i32.const 0) (i32.const 0) (i32.const {bytes}))").repeat(2)
}

/// Growing past what 32 bits can address is the guest's own mistake, though the engine reports it as it does a lack of the
/// machine's.
#[test]
fn growing_past_the_end_of_the_address_space_is_the_guests_fault() {
    run(async {
        let world = World::new();
        let pool = world.pool(&hostile(2, "(drop (memory.grow (i32.const 65535)))")).await;
        let error = call(&pool).await.unwrap_err();
        assert!(matches!(error, CallError::OutOfMemory { phase: Phase::Call, .. }), "{error:?}");
    });
}

/// Time ends a call and judges nothing.
#[test]
fn a_call_and_a_start_that_take_too_long_are_the_hosts_failure() {
    run(async {
        let world = World::new();
        let slow = |options: &mut PoolOptions| {
            options.limits.fuel_factor = 10_000;
            options.limits.time = Duration::from_millis(1);
        };
        let pool = world.pool_with(&hostile(2, "(loop $l (br $l))"), slow).await;
        for _ in 0..2 {
            forwards(&pool).await;
            let error = call(&pool).await.unwrap_err();
            assert!(matches!(error, CallError::Host { .. }) && error.is_retriable(), "{error:?}");
        }
        let slow = Guest { init: "(loop $l (br $l)) (i32.const 64)".into(), ..Guest::mapper() };
        let pool = world.pool_with(&slow, |options| options.limits.time = Duration::from_millis(1)).await;
        for started in 1..3 {
            let error = pool.check().await.unwrap_err();
            assert!(matches!(error, CallError::Host { .. }), "{error:?}");
            assert_eq!(pool.stats().calls.started, started, "it is not believed broken");
        }
    });
}

#[test]
fn nobody_waits_for_an_instance_for_ever() {
    run(async {
        let world = World::with(|options| {
            options.instances_max = 1;
            options.instance_wait = Duration::from_millis(20);
        });
        let hog = world
            .pool_with(&hostile(2, "(loop $l (br $l))"), |options| {
                options.limits.fuel_factor = 1000;
                options.limits.instances = 1;
            })
            .await;
        let other = world.pool(&Guest::mapper()).await;
        let (input, rules) = (frame(1), two_outputs());
        let mut hogging = Box::pin(hog.process(&input, &rules, Freshness::Any));
        assert!(futures::poll!(&mut hogging).is_pending());
        // One waits for the only slot, the other for the pool's only turn.
        for pool in [&other, &hog] {
            let error = call(pool).await.unwrap_err();
            assert!(matches!(error, CallError::Exhausted { waiting: 1.. }), "{error:?}");
        }
        drop(hogging);
        forwards(&other).await;
    });
}

/// Batches are compressed: one record may be larger than its topic's limit for batches.
#[test]
fn a_large_record_is_passed_on_as_it_is() {
    use millstream_model::{Offset, TimestampMs};
    use millstream_wasm::frame::{FrameBuilder, FrameOptions};
    run(async {
        let world = World::new();
        let pool = world.pool(&Guest::mapper()).await;
        let mut builder = FrameBuilder::new(FrameOptions::default());
        builder.push(Offset(0), TimestampMs(0), None, Some(&vec![b'x'; 3 << 20]), &[]).unwrap();
        let emitted = pool.process(&builder.take().unwrap(), &two_outputs(), Freshness::Any).await.unwrap();
        assert_eq!(emitted[0].records().next().unwrap().value().unwrap().len(), 3 << 20);
    });
}
