//! Virtual time.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;

use crate::{BoxFuture, Clock, Monotonic};

/// The wall time at which simulations begin: a moment in November 2023.
const WALL_START_MS: i64 = 1_700_000_000_000;

/// A clock that stands still until it is moved: by hand with [`SimClock::advance`], or by a [`super::World`] that has nothing
/// else to do. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub struct SimClock {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    now: Duration,
    /// How far the wall clock was set wrong.
    wall_jump_ms: i64,
    /// By deadline, then in the order in which they were set.
    timers: BTreeMap<(Duration, u64), Waker>,
    next: u64,
}

impl SimClock {
    /// A clock at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves time, and wakes those whose time has come.
    pub fn advance(&self, duration: Duration) {
        let target = self.state.lock().now.saturating_add(duration);
        self.move_to(target);
    }

    /// Moves time to the next deadline that somebody waits for; false if nobody does.
    pub fn advance_to_next(&self) -> bool {
        let next = self.state.lock().timers.first_key_value().map(|((deadline, _), _)| *deadline);
        if let Some(deadline) = next {
            self.move_to(deadline);
        }
        next.is_some()
    }

    /// Sets the wall clock forward or back; monotonic time and timers are not touched.
    pub fn jump_wall(&self, ms: i64) {
        let mut state = self.state.lock();
        state.wall_jump_ms = state.wall_jump_ms.saturating_add(ms);
    }

    fn move_to(&self, target: Duration) {
        let due = {
            let mut state = self.state.lock();
            state.now = state.now.max(target);
            let first_later = (state.now.saturating_add(Duration::from_nanos(1)), 0);
            let later = state.timers.split_off(&first_later);
            std::mem::replace(&mut state.timers, later)
        };
        // Not under the lock: wakers are not ours.
        due.into_values().for_each(Waker::wake);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Monotonic {
        Monotonic(self.state.lock().now)
    }

    fn wall_ms(&self) -> i64 {
        let state = self.state.lock();
        let passed = i64::try_from(state.now.as_millis()).unwrap_or(i64::MAX);
        WALL_START_MS.saturating_add(passed).saturating_add(state.wall_jump_ms)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let deadline = self.state.lock().now.saturating_add(duration);
        Box::pin(Sleep { clock: self.clone(), deadline, timer: None })
    }
}

struct Sleep {
    clock: SimClock,
    deadline: Duration,
    timer: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut state = this.clock.state.lock();
        if state.now >= this.deadline {
            return Poll::Ready(());
        }
        let timer = *this.timer.get_or_insert_with(|| {
            state.next += 1;
            state.next
        });
        state.timers.insert((this.deadline, timer), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            let waker = self.clock.state.lock().timers.remove(&(self.deadline, timer));
            drop(waker);
        }
    }
}
