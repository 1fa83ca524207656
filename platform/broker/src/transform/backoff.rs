//! How long to wait before trying again: longer each time.

use std::time::Duration;

use millstream_env::Clock;

/// Waits that double.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `first` to `last`.
    pub(super) fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, next: first }
    }

    /// For what may pass by itself: a full disk, a busy compiler, a partition without its leader.
    pub(super) fn for_faults() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(5))
    }

    /// It went well: the next wait is a short one again.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }

    /// How long to wait this time.
    pub(super) fn step(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.last);
        wait
    }

    /// Waits.
    pub(super) async fn wait(&mut self, clock: &dyn Clock) {
        clock.sleep(self.step()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_last_and_start_anew_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(35));
        let waits: Vec<u128> = (0..4).map(|_| backoff.step().as_millis()).collect();
        assert_eq!(waits, [10, 20, 35, 35]);
        backoff.reset();
        assert_eq!(backoff.step(), Duration::from_millis(10));
    }
}
