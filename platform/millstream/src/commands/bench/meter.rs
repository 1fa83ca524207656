//! What is counted: how long things took, in histograms of three digits, how many they were, and what went wrong.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

/// Longer times count as this, microseconds: an hour.
const LONGEST_US: u64 = 3_600_000_000;
/// Significant digits of a time.
const DIGITS: u8 = 3;
/// Lanes share this many tallies, so that a thousand do not have a histogram each.
const SHARDS: usize = 8;

/// Times, records and errors.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Microseconds.
    latency: Histogram<u64>,
    /// Done.
    pub(super) records: u64,
    /// Of their keys and values.
    pub(super) bytes: u64,
    /// Begun.
    pub(super) begun: u64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// When the last one was done.
    last: Option<Instant>,
}

impl Tally {
    pub(super) fn new() -> anyhow::Result<Self> {
        let latency = Histogram::new_with_bounds(1, LONGEST_US, DIGITS)?;
        Ok(Self { latency, records: 0, bytes: 0, begun: 0, errors: 0, first_error: None, last: None })
    }

    /// So many records took so long, until now.
    pub(super) fn done(&mut self, records: u64, bytes: u64, took: Duration, now: Instant) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.latency.saturating_record(micros.max(1));
        self.moved(records, bytes, now);
    }

    /// So many records were moved, of which no time is known.
    pub(super) fn moved(&mut self, records: u64, bytes: u64, now: Instant) {
        self.records += records;
        self.bytes += bytes;
        self.last = self.last.max(Some(now));
    }

    pub(super) fn failed(&mut self, records: u64, error: impl FnOnce() -> String) {
        self.errors += records;
        self.first_error.get_or_insert_with(error);
    }

    /// Records that nobody knows anything of.
    pub(super) fn unanswered(&self) -> u64 {
        self.begun.saturating_sub(self.records + self.errors)
    }

    /// When the last record was done; none: there was none.
    pub(super) fn last(&self) -> Option<Instant> {
        self.last
    }

    /// How many times were taken.
    pub(super) fn samples(&self) -> u64 {
        self.latency.len()
    }

    /// The time that this part of all took at most, milliseconds.
    pub(super) fn at_ms(&self, part: f64) -> f64 {
        self.latency.value_at_quantile(part) as f64 / 1e3
    }

    pub(super) fn max_ms(&self) -> f64 {
        self.latency.max() as f64 / 1e3
    }

    pub(super) fn mean_ms(&self) -> f64 {
        // To the microsecond, as the others are.
        self.latency.mean().round() / 1e3
    }

    pub(super) fn add(&mut self, other: &Self) {
        // Of the same bounds.
        let _ = self.latency.add(&other.latency);
        self.records += other.records;
        self.bytes += other.bytes;
        self.begun += other.begun;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or_else(|| other.first_error.clone());
        self.last = self.last.max(other.last);
    }

    fn clear(&mut self) {
        self.latency.reset();
        (self.records, self.bytes, self.begun, self.errors) = (0, 0, 0, 0);
        (self.first_error, self.last) = (None, None);
    }
}

/// Tallies that lanes write side by side, and somebody takes now and then.
#[derive(Debug)]
pub(super) struct Meter(Vec<Mutex<Tally>>);

impl Meter {
    pub(super) fn new() -> anyhow::Result<Self> {
        (0..SHARDS).map(|_| Tally::new().map(Mutex::new)).collect::<anyhow::Result<_>>().map(Self)
    }

    /// Where this lane counts.
    pub(super) fn of(&self, lane: usize) -> MutexGuard<'_, Tally> {
        self.0[lane % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what was counted since the last time into `into`.
    pub(super) fn take(&self, into: &mut Tally) {
        for lane in 0..self.0.len() {
            let mut tally = self.of(lane);
            into.add(&tally);
            tally.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lanes_count_adds_up_and_is_taken_once() {
        let meter = Meter::new().unwrap();
        let now = Instant::now();
        for lane in 0..100 {
            let mut tally = meter.of(lane);
            tally.begun += 3;
            tally.done(2, 20, Duration::from_millis(lane as u64 + 1), now);
        }
        meter.of(9).failed(1, || "no".to_owned());
        let mut sum = Tally::new().unwrap();
        meter.take(&mut sum);
        meter.take(&mut sum);
        assert_eq!((sum.records, sum.bytes, sum.begun, sum.errors, sum.samples()), (200, 2000, 300, 1, 100));
        assert_eq!((sum.unanswered(), sum.first_error.as_deref(), sum.last()), (99, Some("no"), Some(now)));
        // Within three digits.
        for (part, ms) in [(0.5, 50.0), (0.9, 90.0), (0.99, 99.0)] {
            assert!((sum.at_ms(part) - ms).abs() <= ms / 1e3 + 0.001, "{part}: {}", sum.at_ms(part));
        }
        assert!((sum.max_ms() - 100.0).abs() < 0.2 && (sum.mean_ms() - 50.5).abs() < 0.2);
    }

    #[test]
    fn times_without_bounds_are_counted_at_the_bounds() {
        let mut tally = Tally::new().unwrap();
        tally.done(1, 1, Duration::ZERO, Instant::now());
        tally.done(1, 1, Duration::MAX, Instant::now());
        assert_eq!(tally.samples(), 2);
        assert!(tally.max_ms() >= 3_599_000.0, "{}", tally.max_ms());
    }
}
