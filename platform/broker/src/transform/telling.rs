//! How often records that are left out are told one by one: a million bad ones must not be a million lines of the log.

use std::time::Duration;

use millstream_env::Monotonic;

/// At most one line of a task's in this time; the others are counted.
const APART: Duration = Duration::from_secs(1);

/// Whose turn it is to be told.
#[derive(Debug, Default)]
pub(super) struct Telling {
    last: Option<Monotonic>,
    untold: u64,
}

impl Telling {
    /// Whether a record may be told now, and then how many were not since the last one that was.
    pub(super) fn turn(&mut self, now: Monotonic) -> Option<u64> {
        if self.last.is_some_and(|last| now - last < APART) {
            self.untold += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_is_told_and_the_others_are_counted() {
        let mut telling = Telling::default();
        let at = |ms| Monotonic(Duration::from_millis(ms));
        for (ms, expected) in [(5, Some(0)), (5, None), (1004, None), (1005, Some(2)), (1006, None), (9000, Some(1))] {
            assert_eq!(telling.turn(at(ms)), expected, "at {ms} ms");
        }
        assert_eq!(telling.turn(at(99_000)), Some(0));
    }
}
