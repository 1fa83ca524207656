//! The world that the calling code runs in, for libraries that are handed none.
//!
//! Code of ours gets an [`Env`](crate::Env) and never asks here. A library with an interface for runtimes made of functions
//! without a receiver (openraft's) can only be told by the thread: in a task of a [`World`](crate::sim::World) these are
//! that machine's, anywhere else the real ones.

use std::sync::{Arc, LazyLock};

use crate::{
    Clock, Rng, Spawn,
    real::{RealClock, RealRng, RealSpawn},
    sim,
};

/// The clock. In the real world every call gives the same one, so that times compare.
#[must_use]
pub fn clock() -> Arc<dyn Clock> {
    static REAL: LazyLock<Arc<RealClock>> = LazyLock::new(Arc::default);
    sim::running().map_or_else(|| Arc::clone(&*REAL) as Arc<dyn Clock>, |env| env.clock)
}

/// Randomness.
#[must_use]
pub fn rng() -> Arc<dyn Rng> {
    sim::running().map_or_else(|| Arc::new(RealRng) as Arc<dyn Rng>, |env| env.rng)
}

/// Tasks.
///
/// # Panics
/// In the real world outside a tokio runtime.
#[must_use]
pub fn spawn() -> Arc<dyn Spawn> {
    let real = || Arc::new(RealSpawn::new(tokio::runtime::Handle::current())) as Arc<dyn Spawn>;
    sim::running().map_or_else(real, |env| env.spawn)
}
