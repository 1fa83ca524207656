//! How many records the next call gets: fewer after a failure, until the record at fault is alone; and when to give up.
//!
//! A call of one record that fails is a verdict on that record. Verdicts in a row slow the task down, so that a module that
//! fails on everything does not burn its whole budget again and again, and in the end they stop the transform.

use std::time::Duration;

use super::backoff::Backoff;

/// So many records in a row that fail are a module that does not work, whatever the policy for single ones says.
pub(crate) const FAILURES_IN_A_ROW_MAX: u32 = 1000;
/// So many may fail in a row before the task slows down.
const FAILURES_AT_FULL_SPEED: u32 = 10;

/// See the file's head.
#[derive(Debug)]
pub(super) struct Pace {
    /// Most records of the next call.
    window: usize,
    /// So many records from here on are known to hold one that fails.
    suspects: usize,
    failures: u32,
    backoff: Backoff,
    wait: Option<Duration>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            window: usize::MAX,
            suspects: 0,
            failures: 0,
            backoff: Backoff::new(Duration::from_millis(10), Duration::from_millis(250)),
            wait: None,
        }
    }

    /// How many of `available` records the next call gets: at least 1 if there is any.
    pub(super) fn records(&self, available: usize) -> usize {
        self.window.min(available)
    }

    /// A call of so many records went well.
    pub(super) fn succeeded(&mut self, records: usize) {
        self.failures = 0;
        self.backoff.reset();
        self.passed(records);
        if self.suspects == 0 {
            self.window = self.window.saturating_mul(2);
        }
    }

    /// A call of so many records failed, more than one: one of them is at fault.
    pub(super) fn failed(&mut self, records: usize) {
        self.suspects = records;
        self.window = (records / 2).max(1);
    }

    /// One record alone failed and is left behind. Whether there may be more of that.
    pub(super) fn left_out(&mut self) -> bool {
        self.passed(1);
        self.window = 1;
        self.failures += 1;
        if self.failures > FAILURES_AT_FULL_SPEED {
            self.wait = Some(self.backoff.step());
        }
        self.failures < FAILURES_IN_A_ROW_MAX
    }

    fn passed(&mut self, records: usize) {
        self.suspects = self.suspects.saturating_sub(records);
    }

    /// Whether there is a wait to be done before the next call.
    pub(super) fn must_wait(&self) -> bool {
        self.wait.is_some()
    }

    /// The wait to be done now.
    pub(super) fn take_wait(&mut self) -> Option<Duration> {
        self.wait.take()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Works through records of which some fail, `at_once` of them at hand at a time: those left out, and the calls it took.
    fn check(count: usize, at_once: usize, bad: &[usize]) -> (Vec<usize>, usize) {
        let bad: BTreeSet<usize> = bad.iter().copied().collect();
        let (mut pace, mut next, mut calls, mut left_out) = (Pace::new(), 0, 0, Vec::new());
        while next < count {
            let records = pace.records((count - next).min(at_once));
            assert!(records > 0);
            calls += 1;
            if bad.range(next..next + records).next().is_none() {
                pace.succeeded(records);
                next += records;
            } else if records > 1 {
                pace.failed(records);
            } else {
                assert!(pace.left_out());
                left_out.push(next);
                next += 1;
            }
        }
        (left_out, calls)
    }

    #[test]
    fn exactly_the_records_at_fault_are_left_out_in_few_calls() {
        assert_eq!(check(1000, 100, &[]), (vec![], 10));
        for bad in [0, 1, 499, 998, 999] {
            let (left_out, calls) = check(1000, 1000, &[bad]);
            assert_eq!(left_out, [bad]);
            assert!(calls < 40, "{calls} calls to find {bad}");
        }
        let bad: Vec<usize> = (0..1000).filter(|at| at % 97 == 0 || (300..305).contains(at)).collect();
        assert_eq!(check(1000, 300, &bad).0, bad);
    }

    #[test]
    fn failures_in_a_row_slow_the_task_down_and_end_it() {
        let mut pace = Pace::new();
        let mut waited = Duration::ZERO;
        for failure in 1..=FAILURES_IN_A_ROW_MAX {
            assert_eq!(pace.left_out(), failure < FAILURES_IN_A_ROW_MAX, "after {failure}");
            assert_eq!(pace.must_wait(), failure > FAILURES_AT_FULL_SPEED, "after {failure}");
            waited += pace.take_wait().unwrap_or_default();
        }
        assert!(waited > Duration::from_secs(60), "{waited:?}");
        let mut pace = Pace::new();
        for _ in 0..10 * FAILURES_IN_A_ROW_MAX {
            assert!(pace.left_out(), "a record that passes in between counts from the start");
            pace.succeeded(1);
            assert!(!pace.must_wait());
        }
    }
}
