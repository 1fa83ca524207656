//! The module host: engine, store of modules, compilation, pools, budgets and worlds.
//!
//! Three nouns, as in Redpanda's Wasm engine: a [`Runtime`] (one per process) turns a module's bytes into a [`Factory`]
//! (compiled, linked, described), which makes [`Pool`]s of instances for deployments. A call takes a frame of records
//! ([`frame`]) and gives partitions, a selection or checked output, or a [`CallError`] that says whose fault it was.
//!
//! No module can stop or slow the broker: bytes are inspected ([`inspect`]), compiled in a limited child process
//! ([`Compiler`]), run under fuel, memory and output budgets ([`limits`]), and discarded after a trap. Guests reach a log,
//! metrics and a sink, nothing else, so their output is a function of their input and parameters.
//!
//! This is the only crate that knows wasmtime.

mod call;
mod compile;
mod declare;
mod engine;
mod factory;
pub mod frame;
mod ground;
mod host;
mod images;
pub mod inspect;
mod instance;
mod limiter;
pub mod limits;
mod logs;
mod metrics;
mod options;
mod pool;
mod prepare;
mod refused;
mod runtime;
mod slots;
mod store;
mod text;
mod worlds;

pub use call::{Blame, CallError, Failure, FailureCode, Phase};
pub use compile::{COMPILE_ARGUMENT, COMPILE_CPU_SECONDS, COMPILE_MEMORY_BYTES, CompileError, Compiler, compile_main};
pub use declare::{Declarations, Declared};
pub use engine::EngineMode;
pub use factory::{Factory, InitParams, PoolOptions, WrongKind};
pub use limits::Limits;
pub use logs::{LogLevel, LogLine};
pub use metrics::{CallMetrics, RuntimeMetrics};
pub use options::RuntimeOptions;
pub use pool::{Freshness, Pool, PoolStats};
pub use prepare::{LoadError, Prepared};
pub use refused::Refused;
pub use runtime::{Runtime, RuntimeError};
pub use store::{ModuleStore, StoreError, digest_of};

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

/// Runs work that blocks (disk, computing) on one of the threads for that. None when it was abandoned because the process
/// ends. Whoever calls this bounds how many do: the threads are everybody's.
async fn blocking<T: Send + 'static>(
    env: &millstream_env::Env,
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done_tx, done) = tokio::sync::oneshot::channel();
    let run = move || {
        // Whoever asked may have gone away.
        let _ = done_tx.send(work());
    };
    env.spawn.blocking(name, Box::new(run));
    done.await.ok()
}

/// Waits for work, but no longer than `limit`: none, and the work dropped, if it takes longer. Work that is done at once
/// costs no timer.
async fn within<T>(clock: &dyn millstream_env::Clock, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        return Some(done);
    }
    let mut end = clock.sleep(limit);
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => end.as_mut().poll(context).map(|()| None),
    })
    .await
}
