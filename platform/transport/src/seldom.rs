//! Lines for the log that anybody outside can cause: one in a while, with the number of those that were left out.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Least time between two lines of one kind.
const PAUSE: Duration = Duration::from_secs(10);

/// One kind of line.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    /// Whether the line may be said now, and how many of its kind were left out since the last one.
    pub(crate) fn turn(&self) -> Option<u64> {
        self.turn_at(Instant::now())
    }

    fn turn_at(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            said.left_out += 1;
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_lines_one_is_said_in_a_while_and_the_others_are_counted() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let at = |after: Duration| seldom.turn_at(start + after);
        assert_eq!(at(Duration::ZERO), Some(0));
        assert_eq!(at(PAUSE / 2), None);
        assert_eq!(at(PAUSE - Duration::from_nanos(1)), None);
        assert_eq!(at(PAUSE), Some(2));
        assert_eq!(at(PAUSE * 3), Some(0));
    }
}
