//! A segment's offset index: sparse, from offsets to positions, rebuilt from the segment where it is missing or damaged.
//!
//! ```text
//! index file, replaced as a whole, not synced:
//!  0  8 "MSindx" 0 1     8  4 CRC-32C of what follows     12  4 number of entries
//! 16  8 segment's base offset                            24  8 how far into the segment it reaches, bytes
//! 32  entries: u32 offset - base, u32 position of the batch; both ascend
//! ```

use std::{io, path::Path};

use millstream_env::Disk;
use millstream_model::Offset;
use millstream_record::crc32c;

use crate::bytes_io::{read_file, replace_file};

const MAGIC: [u8; 8] = *b"MSindx\0\x01";
const HEADER_BYTES: usize = 32;
const ENTRY_BYTES: usize = 8;
/// A batch gets an entry when it begins at least this far after the last one that has.
pub(crate) const INTERVAL_BYTES: u64 = 32 << 10;
/// No index is longer: a segment's positions are 32 bits.
const FILE_BYTES_MAX: u64 = HEADER_BYTES as u64 + ((1 << 32) / INTERVAL_BYTES + 1) * ENTRY_BYTES as u64;

/// Entries for the batches from a segment's start up to `reach`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    entries: Vec<(u32, u32)>,
    /// How far into the segment it looks, bytes: a position where a batch ends.
    reach: u64,
}

impl Index {
    /// Bytes of the segment that it covers.
    pub(crate) fn reach(&self) -> u64 {
        self.reach
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds the next batch: `delta` is its base offset less the segment's.
    pub(crate) fn add(&mut self, delta: u32, batch_bytes: u64) {
        let last = self.entries.last().map_or(0, |(_, position)| u64::from(*position));
        if self.reach - last >= INTERVAL_BYTES
            && let Ok(position) = u32::try_from(self.reach)
        {
            self.entries.push((delta, position));
        }
        self.reach += batch_bytes;
    }

    /// The position of a batch at or before the one that holds the offset; to be scanned from.
    pub(crate) fn position(&self, delta: u64) -> u64 {
        let after = self.entries.partition_point(|(entry, _)| u64::from(*entry) <= delta);
        after.checked_sub(1).map_or(0, |at| u64::from(self.entries[at].1))
    }

    /// As [`Index::position`], with the delta of the batch there.
    pub(crate) fn place(&self, delta: u64) -> (u64, u64) {
        let after = self.entries.partition_point(|(entry, _)| u64::from(*entry) <= delta);
        after.checked_sub(1).map_or((0, 0), |at| (u64::from(self.entries[at].0), u64::from(self.entries[at].1)))
    }

    /// The delta and the position of the first batch after `position` that it knows.
    pub(crate) fn after(&self, position: u64) -> Option<(u64, u64)> {
        let after = self.entries.partition_point(|(_, at)| u64::from(*at) <= position);
        self.entries.get(after).map(|(delta, at)| (u64::from(*delta), u64::from(*at)))
    }

    /// Forgets what lies beyond `len` bytes of the segment. What is kept may reach less far, to the last entry's batch.
    pub(crate) fn cut(&mut self, len: u64) {
        if self.reach > len {
            self.entries.retain(|(_, position)| u64::from(*position) < len);
            self.reach = self.entries.last().map_or(0, |(_, position)| u64::from(*position));
            // The entry that is scanned from is found again by the scan.
            self.entries.pop();
        }
    }

    /// Takes back the latest [`Index::add`]s.
    pub(crate) fn restore(&mut self, len: usize, reach: u64) {
        self.entries.truncate(len);
        self.reach = reach;
    }

    /// Replaces the file.
    pub(crate) fn store(&self, disk: &dyn Disk, path: &Path, base: Offset) -> io::Result<()> {
        let mut body = Vec::with_capacity(HEADER_BYTES - 12 + self.entries.len() * ENTRY_BYTES);
        body.extend_from_slice(&u32::try_from(self.entries.len()).unwrap_or(u32::MAX).to_be_bytes());
        body.extend_from_slice(&base.0.to_be_bytes());
        body.extend_from_slice(&self.reach.to_be_bytes());
        for (delta, position) in &self.entries {
            body.extend_from_slice(&delta.to_be_bytes());
            body.extend_from_slice(&position.to_be_bytes());
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
        let (reach, body) = body.split_first_chunk::<8>()?;
        let count = u64::from(u32::from_be_bytes(*count));
        if count * ENTRY_BYTES as u64 != body.len() as u64 || i64::from_be_bytes(*own_base) != base.0 {
            return None;
        }
        let mut index =
            Self { entries: Vec::with_capacity(body.len() / ENTRY_BYTES), reach: u64::from_be_bytes(*reach) };
        for entry in body.as_chunks::<ENTRY_BYTES>().0 {
            let [a, b, c, d, e, f, g, h] = *entry;
            index.entries.push((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])));
        }
        let ascending = index.entries.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        let inside = index.entries.last().is_none_or(|(_, position)| u64::from(*position) < index.reach);
        (ascending && inside).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use millstream_env::real::RealDisk;

    use super::*;

    fn index(batches: u32, bytes: u64) -> Index {
        let mut index = Index::default();
        for batch in 0..batches {
            index.add(batch * 10, bytes);
        }
        index
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
                cut.add(batch * 10, 1000);
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
