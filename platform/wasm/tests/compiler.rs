//! Does the compiler's child process compile, say no, keep to its limits and end with its caller?
//!
//! This test has a main of its own because the child is this very executable.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod guests;

use std::{ffi::OsString, process::ExitCode, time::Duration};

use bytes::Bytes;
use guests::{Guest, World, frame, two_outputs};
use millstream_wasm::{COMPILE_ARGUMENT, CompileError, Compiler, Freshness, Refused, compile_main};

/// Says of a child what it did, so that the test can ask for other ends than compiling.
const STAND_IN: &str = "stand-in";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == COMPILE_ARGUMENT => return compile_main(arguments),
        Some(first) if first == STAND_IN => return stand_in(&arguments.next().unwrap_or_default()),
        // What a test runner is told to filter by, or nothing.
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        a_child_compiles().await;
        what_the_compiler_rejects_is_said().await;
        a_child_of_another_build_is_not_believed().await;
        ends_of_a_child_are_told_apart().await;
        a_compiler_that_is_not_there_is_the_hosts_fault().await;
        a_child_ends_with_its_caller().await;
        much_code_keeps_to_the_memory_limit().await;
    });
    println!("compiler: ok");
    ExitCode::SUCCESS
}

fn child(arguments: &[&str]) -> Compiler {
    Compiler::Child { program: "/proc/self/exe".into(), arguments: arguments.iter().map(OsString::from).collect() }
}

fn world(compiler: Compiler) -> World {
    World::with(|options| options.compiler = compiler)
}

async fn a_child_compiles() {
    let world = world(Compiler::this_executable());
    let _factory = world.runtime.push(Guest::mapper().component(), None).await.unwrap();
    let pool = world.pool(&Guest::mapper()).await;
    assert_eq!(pool.process(&frame(3), &two_outputs(), Freshness::Any).await.unwrap()[0].len(), 3);
    // What the compiler made in its own process is what this process would have made.
    let here = World::new();
    here.runtime.push(Guest::mapper().component(), None).await.unwrap();
    let image = |world: &World| {
        let path = std::fs::read_dir(world.dir.path().join("images")).unwrap().next().unwrap().unwrap().path();
        (path.file_name().unwrap().to_owned(), std::fs::read(path).unwrap())
    };
    assert_eq!(image(&world), image(&here));
}

/// What a push that fails in the compiler fails with.
async fn failure(compiler: Compiler) -> CompileError {
    let world = world(compiler);
    match world.refused(Guest::mapper().component()).await {
        Refused::Compile(error) => error,
        other => panic!("{other:?}"),
    }
}

async fn what_the_compiler_rejects_is_said() {
    let error = failure(child(&[STAND_IN, "reject"])).await;
    let CompileError::Rejected { reason } = &error else { panic!("{error:?}") };
    assert_eq!(reason, "no \u{fffd}[31mway");
}

async fn a_child_of_another_build_is_not_believed() {
    let error = failure(child(&[STAND_IN, "rubbish"])).await;
    assert!(matches!(error, CompileError::Host { .. }), "{error:?}");
    let error = failure(child(&[STAND_IN, "exchanged"])).await;
    let CompileError::Host { reason } = &error else { panic!("{error:?}") };
    assert!(reason.contains("exchanged"), "{reason}");
    let error = failure(child(&[COMPILE_ARGUMENT, "one argument too many"])).await;
    assert!(matches!(error, CompileError::Host { .. }), "{error:?}");
}

async fn ends_of_a_child_are_told_apart() {
    assert!(matches!(failure(child(&[STAND_IN, "cpu"])).await, CompileError::Time));
    assert!(matches!(failure(child(&[STAND_IN, "abort"])).await, CompileError::Memory { .. }));
    // The kernel's way when the machine has no memory left: that says nothing of the module.
    let killed = failure(child(&[STAND_IN, "killed"])).await;
    assert!(matches!(killed, CompileError::Host { .. }), "{killed:?}");
    assert!(matches!(failure(child(&[STAND_IN, "fail"])).await, CompileError::Host { .. }));
}

async fn a_compiler_that_is_not_there_is_the_hosts_fault() {
    let error = failure(Compiler::Child { program: "/nowhere/at/all".into(), arguments: Vec::new() }).await;
    assert!(matches!(error, CompileError::Host { .. }), "{error:?}");
    assert!(Refused::Compile(error).is_retriable());
}

async fn a_child_ends_with_its_caller() {
    let world = world(child(&[STAND_IN, "hang"]));
    let push = world.runtime.push(Guest::mapper().component(), None);
    tokio::select! {
        result = push => panic!("ended: {result:?}"),
        () = until("a child hangs", has_child_that_hangs) => {}
    }
    // It is killed when the future is dropped.
    until("no child is left", || !has_child_that_hangs()).await;
}

/// Whether this process has a child that was asked to hang. Any thread of it may have started the child.
fn has_child_that_hangs() -> bool {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
    // A thread may end while it is looked at.
    let children = threads.map(|thread| std::fs::read_to_string(thread.join("children")).unwrap_or_default());
    children.collect::<String>().split_whitespace().any(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"hang")
    })
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// As much code as inspection lets through in one function compiles, or is refused: either way the broker goes on.
async fn much_code_keeps_to_the_memory_limit() {
    let world = world(Compiler::this_executable());
    let body: String =
        (0..20_000).map(|i| format!("(global.set $g (i32.add (global.get $g) (i32.const {i})))")).collect();
    let guest = Guest::mapper()
        .extra(&format!("(global $g (mut i32) (i32.const 0)) (func $long {body}) (export \"long\" (func $long))"));
    let result = world.runtime.prepare(guest.component(), None).await.map(drop);
    assert!(result.is_ok(), "{result:?}");
    let bytes: Bytes = Guest::filter().component();
    world.runtime.prepare(bytes, None).await.unwrap();
}

fn stand_in(what: &OsString) -> ExitCode {
    use std::io::Read;
    if what == "exchanged" {
        return compile_main(["pooling".into(), "0".repeat(64).into()]);
    }
    // Takes its input first, as the compiler does.
    let mut module = Vec::new();
    std::io::stdin().read_to_end(&mut module).unwrap();
    match what.to_str() {
        Some("reject") => {
            eprintln!("no \x1b[31mway");
            ExitCode::from(3)
        }
        Some("rubbish") => {
            println!("this is no image");
            ExitCode::SUCCESS
        }
        Some("cpu") => {
            use rustix::process::{Resource, Rlimit, setrlimit};
            setrlimit(Resource::Cpu, Rlimit { current: Some(1), maximum: Some(2) }).unwrap();
            let mut x = 1u64;
            loop {
                x = std::hint::black_box(x.wrapping_mul(3));
            }
        }
        Some("abort") => std::process::abort(),
        Some("killed") => {
            use rustix::process::{Signal, getpid, kill_process};
            kill_process(getpid(), Signal::KILL).unwrap();
            ExitCode::FAILURE
        }
        Some("hang") => loop {
            std::thread::park();
        },
        _ => ExitCode::FAILURE,
    }
}
