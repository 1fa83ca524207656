//! Time on a stream: when it was last heard of, and until when it must be heard of again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use millstream_env::{BoxFuture, Clock, Monotonic, real::RealClock};

/// What transports measure by: they are the real world. Tests put a simulated clock in its place.
pub(super) fn real_clock() -> Arc<dyn Clock> {
    Arc::new(RealClock::default())
}

/// When something last went either way, for transports whose connections do not time out by themselves.
pub(crate) struct Activity {
    pub(super) clock: Arc<dyn Clock>,
    start: Monotonic,
    last_ms: AtomicU64,
    pub(super) idle_timeout: Duration,
}

impl Activity {
    pub(crate) fn new(idle_timeout: Duration) -> Arc<Self> {
        Self::by(real_clock(), idle_timeout)
    }

    pub(super) fn by(clock: Arc<dyn Clock>, idle_timeout: Duration) -> Arc<Self> {
        Arc::new(Self { start: clock.now(), clock, last_ms: AtomicU64::new(0), idle_timeout })
    }

    pub(super) fn touch(&self) {
        let since = u64::try_from((self.clock.now() - self.start).as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(since, Ordering::Relaxed);
    }

    pub(super) fn deadline(&self) -> Monotonic {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        Monotonic(self.start.0 + last + self.idle_timeout)
    }
}

/// Fires at or before the deadline that counts; put off lazily, so that most frames never touch it.
pub(super) struct Timer {
    fires: Monotonic,
    sleep: BoxFuture<'static, ()>,
}

/// Ready at or before the deadline, which must then be looked at again.
pub(super) fn poll_until(
    timer: &mut Option<Timer>,
    clock: &Arc<dyn Clock>,
    deadline: Monotonic,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let kept = timer.take().filter(|timer| timer.fires <= deadline);
    let kept = kept.unwrap_or_else(|| Timer { fires: deadline, sleep: clock.sleep(deadline - clock.now()) });
    ready!(timer.insert(kept).sleep.as_mut().poll(cx));
    *timer = None;
    Poll::Ready(())
}

/// A deadline after `bytes` more have passed, at `rate_min` bytes a second or faster: never further away than `timeout`.
pub(super) fn later(deadline: Monotonic, bytes: usize, rate_min: u64, now: Monotonic, timeout: Duration) -> Monotonic {
    let bought = Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / rate_min);
    Monotonic((deadline.0 + bought).min(now.0 + timeout))
}
