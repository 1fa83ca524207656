//! A segment's index: sparse, from offsets and times to positions, rebuilt from the segment where it is missing, damaged or of
//! an older version.
//!
//! ```text
//! index file, replaced as a whole, not synced:
//!  0  8 "MSindx" 0 2     8  4 CRC-32C of what follows     12  4 number of entries
//! 16  8 segment's base offset                            24  8 how far into the segment it reaches, bytes
//! 32  8 greatest timestamp up to there
//! 40  entries: u32 offset - base, u32 position of the batch, i64 greatest timestamp before it; the first two ascend, the
//!     third does not descend
//! ```
//!
//! A time is looked for among the greatest timestamps *before* each entry: the first entry that has seen so late a time lies past
//! the batch that is wanted, and the entry before it does not. So one short stretch is scanned, however times jump about.

use std::{io, path::Path};

use millstream_env::Disk;
use millstream_model::{Offset, TimestampMs};
use millstream_record::crc32c;

use crate::bytes_io::{read_file, replace_file};

const MAGIC: [u8; 8] = *b"MSindx\0\x02";
const HEADER_BYTES: usize = 40;
const ENTRY_BYTES: usize = 16;
/// Before every time that there is.
const NO_TIME: TimestampMs = TimestampMs(i64::MIN);
/// A batch gets an entry when it begins at least this far after the last one that has.
pub(crate) const INTERVAL_BYTES: u64 = 32 << 10;
/// No index is longer: a segment's positions are 32 bits.
const FILE_BYTES_MAX: u64 = HEADER_BYTES as u64 + ((1 << 32) / INTERVAL_BYTES + 1) * ENTRY_BYTES as u64;

/// Entries for the batches from a segment's start up to `reach`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    entries: Vec<Entry>,
    reach: Reach,
}

/// One batch's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Its base offset less the segment's.
    delta: u32,
    position: u32,
    /// The greatest timestamp before it.
    latest: TimestampMs,
}

/// How far an index has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Bytes of the segment: a position where a batch ends.
    bytes: u64,
    /// The greatest timestamp up to there.
    newest: TimestampMs,
}

/// How much an index holds, and how far it has seen.
pub(crate) type Known = (usize, Reach);

impl Default for Index {
    fn default() -> Self {
        Self { entries: Vec::new(), reach: Reach { bytes: 0, newest: NO_TIME } }
    }
}

impl Index {
    /// Bytes of the segment that it covers.
    pub(crate) fn reach(&self) -> u64 {
        self.reach.bytes
    }

    /// The greatest timestamp that it has seen; before every time if there is no batch.
    pub(crate) fn newest(&self) -> TimestampMs {
        self.reach.newest
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds the next batch: `delta` is its base offset less the segment's, `latest` its greatest timestamp.
    pub(crate) fn add(&mut self, delta: u32, batch_bytes: u64, latest: TimestampMs) {
        let last = self.entries.last().map_or(0, |entry| u64::from(entry.position));
        let Reach { bytes, newest } = self.reach;
        if bytes - last >= INTERVAL_BYTES
            && let Ok(position) = u32::try_from(bytes)
        {
            self.entries.push(Entry { delta, position, latest: newest });
        }
        self.reach = Reach { bytes: bytes + batch_bytes, newest: newest.max(latest) };
    }

    /// The position of a batch at or before the one that holds the offset; to be scanned from.
    pub(crate) fn position(&self, delta: u64) -> u64 {
        self.place(delta).1
    }

    /// Where to look from for the first record at or past `delta` with a timestamp at or after `target`; none if no batch has
    /// one so late.
    pub(crate) fn position_of_time(&self, target: TimestampMs, delta: u64) -> Option<u64> {
        if self.reach.newest < target {
            return None;
        }
        let past = self.entries.partition_point(|entry| entry.latest < target);
        let position = past.checked_sub(1).map_or(0, |at| u64::from(self.entries[at].position));
        Some(position.max(self.position(delta)))
    }

    /// As [`Index::position`], with the delta of the batch there.
    pub(crate) fn place(&self, delta: u64) -> (u64, u64) {
        let after = self.entries.partition_point(|entry| u64::from(entry.delta) <= delta);
        after.checked_sub(1).map_or((0, 0), |at| self.entries[at].place())
    }

    /// The delta of the batch at `position`, which is 0 or one that it has given.
    pub(crate) fn delta_at(&self, position: u64) -> u64 {
        let found = self.entries.binary_search_by_key(&position, |entry| u64::from(entry.position));
        found.map_or(0, |at| self.entries[at].delta.into())
    }

    /// The delta and the position of the first batch after `position` that it knows.
    pub(crate) fn after(&self, position: u64) -> Option<(u64, u64)> {
        let after = self.entries.partition_point(|entry| u64::from(entry.position) <= position);
        self.entries.get(after).map(Entry::place)
    }

    /// Forgets what lies beyond `len` bytes of the segment. What is kept may reach less far, to the last entry's batch.
    pub(crate) fn cut(&mut self, len: u64) {
        if self.reach.bytes > len {
            self.entries.retain(|entry| u64::from(entry.position) < len);
            // The entry that is scanned from is found again by the scan.
            self.reach = match self.entries.pop() {
                Some(entry) => Reach { bytes: entry.position.into(), newest: entry.latest },
                None => Self::default().reach,
            };
        }
    }

    /// What [`Index::restore`] goes back to.
    pub(crate) fn known(&self) -> Known {
        (self.entries.len(), self.reach)
    }

    /// Takes back the latest [`Index::add`]s.
    pub(crate) fn restore(&mut self, (len, reach): Known) {
        self.entries.truncate(len);
        self.reach = reach;
    }

    /// Replaces the file.
    pub(crate) fn store(&self, disk: &dyn Disk, path: &Path, base: Offset) -> io::Result<()> {
        let mut body = Vec::with_capacity(HEADER_BYTES - 12 + self.entries.len() * ENTRY_BYTES);
        body.extend_from_slice(&u32::try_from(self.entries.len()).unwrap_or(u32::MAX).to_be_bytes());
        body.extend_from_slice(&base.0.to_be_bytes());
        body.extend_from_slice(&self.reach.bytes.to_be_bytes());
        body.extend_from_slice(&self.reach.newest.0.to_be_bytes());
        for entry in &self.entries {
            body.extend_from_slice(&entry.delta.to_be_bytes());
            body.extend_from_slice(&entry.position.to_be_bytes());
            body.extend_from_slice(&entry.latest.0.to_be_bytes());
        }
        replace_file(disk, path, &[&MAGIC, &crc32c(&body).to_be_bytes(), &body], false)
    }

    /// Reads the file; none if it is missing, damaged, or another segment's.
    pub(crate) fn load(disk: &dyn Disk, path: &Path, base: Offset) -> Option<Self> {
        // Whatever is wrong with it, it is rebuilt.
        let bytes = read_file(disk, path, FILE_BYTES_MAX).ok()??;
        Self::decode(&bytes, base)
    }

    fn decode(bytes: &[u8], base: Offset) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (crc, body) = rest.split_first_chunk::<4>()?;
        if *magic != MAGIC || u32::from_be_bytes(*crc) != crc32c(body) {
            return None;
        }
        let (count, body) = body.split_first_chunk::<4>()?;
        let (own_base, body) = body.split_first_chunk::<8>()?;
        let (bytes, body) = body.split_first_chunk::<8>()?;
        let (newest, body) = body.split_first_chunk::<8>()?;
        let reach = Reach { bytes: u64::from_be_bytes(*bytes), newest: TimestampMs(i64::from_be_bytes(*newest)) };
        let count = u64::from(u32::from_be_bytes(*count));
        if count * ENTRY_BYTES as u64 != body.len() as u64 || i64::from_be_bytes(*own_base) != base.0 {
            return None;
        }
        let entries: Vec<_> = body.as_chunks::<ENTRY_BYTES>().0.iter().map(Entry::decode).collect();
        let ascending = entries.windows(2).all(|pair| {
            pair[0].delta < pair[1].delta && pair[0].position < pair[1].position && pair[0].latest <= pair[1].latest
        });
        let inside =
            entries.last().is_none_or(|last| u64::from(last.position) < reach.bytes && last.latest <= reach.newest);
        (ascending && inside).then_some(Self { entries, reach })
    }
}

impl Entry {
    /// Delta and position.
    fn place(&self) -> (u64, u64) {
        (self.delta.into(), self.position.into())
    }

    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, latest @ ..] = *bytes;
        Self {
            delta: u32::from_be_bytes([a, b, c, d]),
            position: u32::from_be_bytes([e, f, g, h]),
            latest: TimestampMs(i64::from_be_bytes(latest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_env::real::RealDisk;

    use super::*;

    /// Times go up and down.
    fn time(batch: u32) -> TimestampMs {
        TimestampMs(i64::from(batch * 7919 % 1000 + batch / 4))
    }

    fn index(batches: u32, bytes: u64) -> Index {
        let mut index = Index::default();
        for batch in 0..batches {
            index.add(batch * 10, bytes, time(batch));
        }
        index
    }

    #[test]
    fn a_time_is_found_within_one_interval_from_where_to_look() {
        let index = index(1000, 1000);
        assert_eq!(index.newest(), (0..1000).map(time).max().unwrap());
        for target in (-5..=1300).map(TimestampMs) {
            let first = (0..1000).find(|batch| time(*batch) >= target).map(|batch| u64::from(batch) * 1000);
            let from = index.position_of_time(target, 0);
            assert_eq!(first.is_some(), from.is_some(), "{target:?}");
            if let (Some(first), Some(from)) = (first, from) {
                assert!(from <= first && first - from < INTERVAL_BYTES + 1000, "{target:?}: {first} from {from}");
            }
            // What is before an offset is passed over.
            assert!(
                from.is_none_or(|from| index.position_of_time(target, 5000) >= Some(from.max(index.position(5000))))
            );
        }
    }

    #[test]
    fn a_position_is_at_or_before_the_offset_and_no_further_than_the_interval() {
        let index = index(1000, 1000);
        for delta in 0..10_000u64 {
            let batch = delta / 10 * 1000;
            let position = index.position(delta);
            assert!(position <= batch && batch - position < INTERVAL_BYTES + 1000, "{delta}: {position}");
        }
    }

    #[test]
    fn cutting_and_adding_again_gives_the_same() {
        let whole = index(1000, 1000);
        for len in [0, 1, 33_000, 500_000, 999_000, 1_000_000] {
            let mut cut = whole.clone();
            cut.cut(len);
            assert!(cut.reach() <= len);
            for batch in (cut.reach() / 1000) as u32..1000 {
                cut.add(batch * 10, 1000, time(batch));
            }
            assert_eq!(cut, whole, "cut to {len}");
        }
    }

    #[test]
    fn a_damaged_or_foreign_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.index");
        let index = index(200, 1000);
        index.store(&RealDisk, &path, Offset(7)).unwrap();
        assert_eq!(Index::load(&RealDisk, &path, Offset(7)), Some(index));
        assert_eq!(Index::load(&RealDisk, &path, Offset(8)), None);
        let sound = std::fs::read(&path).unwrap();
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            assert_eq!(Index::decode(&bytes, Offset(7)), None, "byte {at}");
        }
    }
}
