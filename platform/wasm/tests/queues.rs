//! Do uploads and stored modules get their turn, and does a refused upload leave nothing behind?

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod guests;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use futures::future::{join_all, select_all};
use guests::{Guest, World};
use millstream_model::Digest;
use millstream_wasm::{Compiler, LoadError, Refused, Runtime, RuntimeOptions};

/// Far more than any of this takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that takes a module, notes that it ran, and does `then`.
fn stand_in(world: &World, then: &str) -> Compiler {
    let notes = world.dir.path().join("compiled");
    let script = format!("cat >/dev/null; echo compiled >>{}; {then}", notes.display());
    Compiler::Child { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] }
}

fn compiled(world: &World) -> usize {
    std::fs::read_to_string(world.dir.path().join("compiled")).unwrap_or_default().lines().count()
}

/// Another runtime on the directory of `world`.
fn restarted(world: &World, change: impl FnOnce(&mut RuntimeOptions)) -> Runtime {
    let mut options = RuntimeOptions::new(world.dir.path());
    options.instances_max = 8;
    change(&mut options);
    Runtime::new(options, millstream_env::real::env()).unwrap()
}

/// As many modules as you like, no two the same.
fn modules() -> impl Iterator<Item = Bytes> {
    (0..).map(|i| Guest::mapper().extra(&format!("(global $which i32 (i32.const {i}))")).component())
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap()
}

/// One upload that the compiler is long at, and more behind it than may wait.
#[tokio::test]
async fn uploads_that_take_long_keep_no_stored_module_from_its_work() {
    let world = World::new();
    let stored = world.runtime.push(modules().next().unwrap(), None).await.unwrap().digest();
    let hanging = stand_in(&world, "exec sleep 1000");
    let runtime = restarted(&world, |options| options.compiler = hanging);
    let mut pushes: Vec<_> = modules().skip(1).take(13).map(|module| Box::pin(runtime.push(module, None))).collect();
    // One is at work and eight wait: four are told at once that there is no room.
    for _ in 0..4 {
        let (result, _, others) = in_time(select_all(pushes)).await;
        let Err(error @ Refused::Busy { waiting: 8 }) = result else { panic!("{result:?}") };
        assert!(error.is_retriable());
        pushes = others;
    }
    let pushing = async {
        let _ = select_all(pushes).await;
        panic!("the compiler hangs");
    };
    tokio::select! {
        loaded = in_time(runtime.load(stored)) => assert_eq!(loaded.unwrap().digest(), stored),
        () = pushing => {}
    }
}

#[tokio::test]
async fn no_upload_waits_for_its_turn_for_ever() {
    let world = World::new();
    let hanging = stand_in(&world, "exec sleep 1000");
    let runtime = restarted(&world, |options| {
        options.compiler = hanging;
        options.upload_wait = Duration::from_millis(20);
    });
    let pushes: Vec<_> = modules().take(2).map(|module| Box::pin(runtime.push(module, None))).collect();
    let (result, ..) = in_time(select_all(pushes)).await;
    assert!(matches!(result, Err(Refused::Busy { waiting: 1 })), "{result:?}");
}

/// A broker that starts again after an upgrade has thousands of partitions that want the same few modules. More than 64 were
/// once refused, and their transforms failed.
#[tokio::test]
async fn whoever_wants_the_same_stored_module_waits_for_the_same_load() {
    let world = World::new();
    let stored = world.runtime.push(Guest::mapper().component(), None).await.unwrap().digest();
    std::fs::remove_dir_all(world.dir.path().join("images")).unwrap();
    let failing = stand_in(&world, "exit 1");
    let runtime = restarted(&world, |options| options.compiler = failing);
    for loads in [300, 1] {
        let before = compiled(&world);
        let results = in_time(join_all((0..loads).map(|_| runtime.load(stored)))).await;
        assert_eq!(compiled(&world) - before, 1, "compiled once for all");
        for result in results {
            let error = result.unwrap_err();
            assert!(matches!(&*error, LoadError::Refused(Refused::Compile(_))), "{error:?}");
        }
    }
    // And once it can be compiled, all have it.
    let runtime = restarted(&world, |options| options.compiler = Compiler::InProcess);
    let factories = in_time(join_all((0..300).map(|_| runtime.load(stored)))).await;
    let first = factories[0].as_ref().unwrap();
    assert!(factories.iter().all(|factory| std::sync::Arc::ptr_eq(factory.as_ref().unwrap(), first)));
}

/// The one that does the work may go away: the others are served all the same.
#[tokio::test]
async fn a_load_survives_whoever_began_it() {
    let world = World::new();
    let stored = world.runtime.push(Guest::mapper().component(), None).await.unwrap().digest();
    let runtime = restarted(&world, |options| options.compiler = Compiler::InProcess);
    let mut first = Box::pin(runtime.load(stored));
    let mut second = Box::pin(runtime.load(stored));
    assert!(futures::poll!(&mut first).is_pending());
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    in_time(second).await.unwrap();
}

/// The image was once written before the module had described itself, and stayed.
#[tokio::test]
async fn nothing_is_written_of_a_module_that_is_not_kept() {
    let world = World::new();
    let before = world.files();
    let mute = Guest { describe: "unreachable".into(), ..Guest::mapper() };
    assert!(matches!(world.refused(mute.component()).await, Refused::Describe(_)));
    assert_eq!(world.files(), before);
    let prepared = world.runtime.prepare(Guest::mapper().component(), None).await.unwrap();
    assert_eq!(world.files(), before, "it is good, but nobody has asked for it to be kept");
    world.runtime.keep(prepared).await.unwrap();
    assert_eq!(world.files().len(), before.len() + 2, "the module and its image");
}

#[tokio::test]
async fn what_nobody_needs_is_removed_at_the_start() {
    let world = World::new();
    let mut digests: Vec<Digest> = Vec::new();
    for module in modules().take(3) {
        digests.push(world.runtime.push(module, None).await.unwrap().digest());
    }
    // An image whose module is gone already.
    world.runtime.store().remove(digests[2]).unwrap();
    let before = world.files();
    let runtime = restarted(&world, |options| options.compiler = Compiler::InProcess);
    assert_eq!(runtime.retain([digests[1]].into()).await.unwrap(), 1);
    let expected: Vec<_> = before.into_iter().filter(|file| file.ends_with(&digests[1].to_string())).collect();
    assert_eq!(world.files(), expected);
    runtime.load(digests[1]).await.unwrap();
}
