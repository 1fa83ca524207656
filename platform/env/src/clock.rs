//! The clock: monotonic time for durations, wall time for timestamps.

use std::{ops::Sub, time::Duration};

use crate::BoxFuture;

/// A moment on the monotonic clock: comparable within one run of one process only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monotonic(
    /// Since the clock's own start.
    pub Duration,
);

impl Sub for Monotonic {
    type Output = Duration;

    /// How long after `earlier` this is; zero when it is not after.
    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Tells and waits for time.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time: never goes back.
    fn now(&self) -> Monotonic;

    /// Wall time, milliseconds since 1970-01-01 UTC. May jump either way.
    fn wall_ms(&self) -> i64;

    /// Resolves once `duration` has passed. Dropping it forgets the wait.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}
