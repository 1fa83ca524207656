//! Which segments a log need not keep any longer: by time and by size, as in Kafka.

use millstream_model::{Offset, TimestampMs};

use crate::ClosedSegment;

/// How long, and how much of, a log is kept (`retention.ms`, `retention.bytes`). Only whole segments go, and never the one
/// that is appended to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// A segment goes when its newest record is older than this, milliseconds. None: never for its age.
    pub ms: Option<i64>,
    /// The oldest segment goes while at least this many bytes would be left. None: however much there is.
    pub bytes: Option<u64>,
}

impl Retention {
    /// Where the log may start now; none if there is nothing to go.
    ///
    /// `closed`: the log's segments but for the last, oldest first. `size_bytes`: of all segments together. `below`: nothing
    /// past this goes, the high watermark. A segment none of whose records has a timestamp does not go for its age, and keeps
    /// those after it.
    #[must_use]
    pub fn start(&self, closed: &[ClosedSegment], size_bytes: u64, below: Offset, now: TimestampMs) -> Option<Offset> {
        let within = closed.iter().take_while(|segment| segment.end_offset <= below);
        let old = |segment: &ClosedSegment| match (self.ms, segment.newest) {
            (Some(ms), Some(newest)) => now.0.saturating_sub(newest.0) > ms,
            _ => false,
        };
        let mut left = size_bytes;
        let mut start = None;
        let mut by_age = true;
        for segment in within {
            by_age &= old(segment);
            let rest = left.saturating_sub(segment.bytes);
            let by_size = self.bytes.is_some_and(|bytes| rest >= bytes && left >= segment.bytes);
            if !by_age && !by_size {
                break;
            }
            left = rest;
            start = Some(segment.end_offset);
        }
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments of ten records and 100 bytes, with these greatest timestamps.
    fn segments(newest: &[Option<i64>]) -> Vec<ClosedSegment> {
        let segment = |(at, newest): (usize, &Option<i64>)| ClosedSegment {
            base_offset: Offset(10 * at as i64),
            end_offset: Offset(10 * at as i64 + 10),
            bytes: 100,
            newest: newest.map(TimestampMs),
        };
        newest.iter().enumerate().map(segment).collect()
    }

    /// With 50 bytes in the active segment, at time 1000, everything below the high watermark.
    fn check(retention: Retention, newest: &[Option<i64>], expected: Option<i64>) {
        let size = 50 + 100 * newest.len() as u64;
        let start = retention.start(&segments(newest), size, Offset(1 << 40), TimestampMs(1000));
        assert_eq!(start, expected.map(Offset), "{retention:?} {newest:?}");
    }

    #[test]
    fn what_is_older_goes_up_to_the_first_that_is_not() {
        let by_age = |ms| Retention { ms: Some(ms), bytes: None };
        check(Retention::default(), &[Some(0)], None);
        check(by_age(500), &[], None);
        // Exactly as old is not older.
        check(by_age(500), &[Some(500)], None);
        check(by_age(500), &[Some(499)], Some(10));
        check(by_age(500), &[Some(1), Some(499), Some(900), Some(2)], Some(20));
        check(by_age(500), &[Some(900), Some(2)], None);
        // From the future, or of no time.
        check(by_age(0), &[Some(2000)], None);
        check(by_age(0), &[None, Some(1)], None);
        check(by_age(i64::MAX), &[Some(0)], None);
    }

    #[test]
    fn the_oldest_goes_while_enough_is_left() {
        let by_size = |bytes| Retention { ms: None, bytes: Some(bytes) };
        let three = [Some(900); 3];
        check(by_size(0), &three, Some(30));
        check(by_size(50), &three, Some(30));
        check(by_size(51), &three, Some(20));
        check(by_size(250), &three, Some(10));
        check(by_size(251), &three, None);
        check(by_size(u64::MAX), &three, None);
        check(by_size(100), &[], None);
    }

    #[test]
    fn either_reason_is_enough_and_nothing_goes_past_the_high_watermark() {
        let both = Retention { ms: Some(500), bytes: Some(250) };
        check(both, &[Some(1), Some(2), Some(900)], Some(20));
        check(both, &[Some(900), Some(900), Some(900)], Some(10));
        // What goes for its age counts towards the size.
        check(both, &[Some(1), Some(900), Some(900)], Some(10));
        let all = Retention { ms: Some(0), bytes: Some(0) };
        for (below, expected) in [(9, None), (10, Some(10)), (19, Some(10)), (20, Some(20))] {
            let found = all.start(&segments(&[Some(1); 2]), 250, Offset(below), TimestampMs(1000));
            assert_eq!(found, expected.map(Offset), "{below}");
        }
    }
}
