//! A histogram of durations with fixed buckets, which many threads count in at the same time without waiting for each other.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Counts durations by buckets. Counting takes no lock and allocates nothing.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [Duration],
    /// One for each bound, and one for what is longer than all.
    counts: Box<[AtomicU64]>,
    /// Of all durations, microseconds: of so many at a time, nanoseconds would not be enough for long.
    micros: AtomicU64,
}

/// What a [`Histogram`] has counted up to some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// The longest duration of each bucket but the last, which has none; ascending.
    pub bounds: &'static [Duration],
    /// How many durations fell into each bucket, and into no one before it: one more than there are bounds.
    pub counts: Vec<u64>,
    /// All durations together, to the microsecond. What is counted meanwhile may be missing here and there.
    pub sum: Duration,
}

impl Histogram {
    /// Nothing is counted yet. `bounds`: the longest duration of each bucket, ascending; there is one more bucket behind the last.
    #[must_use]
    pub fn new(bounds: &'static [Duration]) -> Self {
        debug_assert!(bounds.is_sorted(), "bounds ascend");
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, micros: AtomicU64::new(0) }
    }

    /// Counts one.
    pub fn record(&self, duration: Duration) {
        let bucket = self.bounds.partition_point(|bound| *bound < duration);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        // Rounded: short ones would add up to nothing.
        let micros = duration.saturating_add(Duration::from_nanos(500)).as_micros();
        self.micros.fetch_add(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn buckets(&self) -> Buckets {
        Buckets {
            bounds: self.bounds,
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: Duration::from_micros(self.micros.load(Ordering::Relaxed)),
        }
    }
}

impl Buckets {
    /// How many durations there are in all buckets.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_in_the_first_bucket_that_takes_it() {
        static BOUNDS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(10)];
        let histogram = Histogram::new(&BOUNDS);
        for micros in [0, 999, 1000, 1001, 10_000, 10_001, 5_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        // What is shorter than a microsecond counts on the average.
        (0..10).for_each(|_| histogram.record(Duration::from_nanos(700)));
        let buckets = histogram.buckets();
        assert_eq!((buckets.counts.as_slice(), buckets.count()), (&[13, 2, 2][..], 17));
        assert_eq!(buckets.sum, Duration::from_micros(999 + 1000 + 1001 + 10_000 + 10_001 + 5_000_000 + 10));
    }
}
