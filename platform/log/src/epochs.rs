//! Which leader epochs a log has seen and where each began (KIP-101, KIP-279).
//!
//! ```text
//! epochs file, replaced as a whole:  "MSepoc" 0 1, u32 CRC-32C of what follows, u32 count, count x (i32 epoch, i64 start)
//! ```

use std::{io, ops::Deref, path::Path};

use millstream_env::Disk;
use millstream_model::{LeaderEpoch, Offset};
use millstream_record::crc32c;

use crate::bytes_io::{read_file, replace_file};

const MAGIC: [u8; 8] = *b"MSepoc\0\x01";
const ENTRY_BYTES: usize = 12;
/// A damaged length must not cost memory: no log sees more leaders than this many bytes hold.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Epochs in ascending order; their start offsets ascend too, strictly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epochs {
    entries: Vec<(LeaderEpoch, Offset)>,
}

impl Epochs {
    /// The newest.
    pub(crate) fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|(epoch, _)| *epoch)
    }

    /// Notes that `epoch` begins at `start`, the log's end. An epoch that is not newer than the latest (or is unknown) is no
    /// change; one that has nothing in it is replaced. Returns whether anything changed.
    pub(crate) fn begin(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        if epoch <= LeaderEpoch::UNKNOWN || self.latest().is_some_and(|latest| latest >= epoch) {
            return false;
        }
        while self.entries.last().is_some_and(|(_, last)| *last >= start) {
            self.entries.pop();
        }
        self.entries.push((epoch, start));
        true
    }

    /// Forgets epochs that begin after `end`: what they held was cut off. Whether there were any.
    pub(crate) fn cut(&mut self, end: Offset) -> bool {
        let before = self.entries.len();
        self.entries.retain(|(_, start)| *start <= end);
        self.entries.len() < before
    }

    /// Forgets epochs that begin at or after `end`, where the log was cut. Whether there were any.
    pub(crate) fn truncate(&mut self, end: Offset) -> bool {
        let before = self.entries.len();
        self.entries.retain(|(_, start)| *start < end);
        self.entries.len() < before
    }

    /// The newest of those that begin before `end`.
    pub(crate) fn before(&self, end: Offset) -> Option<LeaderEpoch> {
        let before = self.entries.partition_point(|(_, start)| *start < end);
        before.checked_sub(1).map(|newest| self.entries[newest].0)
    }

    /// Forgets epochs that are newer than `epoch`. Whether there were any.
    pub(crate) fn cut_after(&mut self, epoch: LeaderEpoch) -> bool {
        let before = self.entries.len();
        self.entries.retain(|(known, _)| *known <= epoch);
        self.entries.len() < before
    }

    /// Whether one begins at or after `end`.
    pub(crate) fn reach(&self, end: Offset) -> bool {
        self.entries.last().is_some_and(|(_, start)| *start >= end)
    }

    /// Forgets what lies below `start`, the log's: the epoch that `start` is in begins there then, as in Kafka's cache. Whether
    /// anything changed.
    pub(crate) fn cut_below(&mut self, start: Offset) -> bool {
        let after = self.entries.partition_point(|(_, first)| *first <= start);
        let Some(within) = after.checked_sub(1) else { return false };
        let changed = within > 0 || self.entries[within].1 < start;
        self.entries[within].1 = start;
        self.entries.drain(..within);
        changed
    }

    /// Lets the first epoch begin at `end`, the log's, where it begins past that. Whether anything changed.
    pub(crate) fn begin_by(&mut self, end: Offset) -> bool {
        match self.entries.first_mut() {
            Some((_, start)) if *start > end => {
                *start = end;
                true
            }
            _ => false,
        }
    }

    /// Adds those of `later`, each where it begins there.
    pub(crate) fn extend(&mut self, later: &Self) {
        for (epoch, start) in &later.entries {
            self.begin(*epoch, *start);
        }
    }

    /// The newest, if it begins at `end`.
    pub(crate) fn begun_at(&self, end: Offset) -> Option<LeaderEpoch> {
        self.entries.last().filter(|(_, start)| *start == end).map(|(epoch, _)| *epoch)
    }

    /// Where the oldest one begins.
    pub(crate) fn first_start(&self) -> Option<Offset> {
        self.entries.first().map(|(_, start)| *start)
    }

    /// The greatest epoch at or below `epoch`, and where the next one begins (`end`: the log's, if there is none).
    pub(crate) fn end_of(&self, epoch: LeaderEpoch, end: Offset) -> Option<(LeaderEpoch, Offset)> {
        let after = self.entries.partition_point(|(known, _)| *known <= epoch);
        let (found, _) = *self.entries.get(after.checked_sub(1)?)?;
        Some((found, self.entries.get(after).map_or(end, |(_, start)| *start)))
    }

    /// The epoch that offset `at` was appended in (none before the first that is known), and where the next one begins, if one
    /// does.
    pub(crate) fn of(&self, at: Offset) -> (Option<LeaderEpoch>, Option<Offset>) {
        let after = self.entries.partition_point(|(_, start)| *start <= at);
        let epoch = after.checked_sub(1).map(|within| self.entries[within].0);
        (epoch, self.entries.get(after).map(|(_, start)| *start))
    }

    /// Replaces the file; synced, its name once the directory is.
    pub(crate) fn store(&self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        let mut body = Vec::with_capacity(4 + self.entries.len() * ENTRY_BYTES);
        body.extend_from_slice(&u32::try_from(self.entries.len()).unwrap_or(u32::MAX).to_be_bytes());
        for (epoch, start) in &self.entries {
            body.extend_from_slice(&epoch.0.to_be_bytes());
            body.extend_from_slice(&start.0.to_be_bytes());
        }
        replace_file(disk, path, &[&MAGIC, &crc32c(&body).to_be_bytes(), &body], true)
    }

    /// Reads the file; none if it is missing or not sound (the batches' headers then tell).
    pub(crate) fn load(disk: &dyn Disk, path: &Path) -> io::Result<Option<Self>> {
        let Some(bytes) = read_file(disk, path, FILE_BYTES_MAX)? else { return Ok(None) };
        Ok(Self::decode(&bytes))
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (crc, body) = rest.split_first_chunk::<4>()?;
        if *magic != MAGIC || u32::from_be_bytes(*crc) != crc32c(body) {
            return None;
        }
        let (count, body) = body.split_first_chunk::<4>()?;
        if u64::from(u32::from_be_bytes(*count)) * ENTRY_BYTES as u64 != body.len() as u64 {
            return None;
        }
        let mut epochs = Self::default();
        let mut rest = body;
        while let Some((epoch, tail)) = rest.split_first_chunk::<4>() {
            let (start, tail) = tail.split_first_chunk::<8>()?;
            epochs.begin(LeaderEpoch(i32::from_be_bytes(*epoch)), Offset(i64::from_be_bytes(*start)));
            rest = tail;
        }
        Some(epochs)
    }
}

/// A log's epochs, and whether their file says otherwise.
#[derive(Debug, Default)]
pub(crate) struct LiveEpochs {
    epochs: Epochs,
    changed: bool,
}

impl LiveEpochs {
    pub(crate) fn new(epochs: Epochs, changed: bool) -> Self {
        Self { epochs, changed }
    }

    /// See [`Epochs::begin`].
    pub(crate) fn begin(&mut self, epoch: LeaderEpoch, start: Offset) {
        self.changed |= self.epochs.begin(epoch, start);
    }

    /// See [`Epochs::truncate`].
    pub(crate) fn truncate(&mut self, end: Offset) {
        self.changed |= self.epochs.truncate(end);
    }

    /// See [`Epochs::cut_after`].
    pub(crate) fn cut_after(&mut self, epoch: LeaderEpoch) {
        self.changed |= self.epochs.cut_after(epoch);
    }

    /// See [`Epochs::cut_below`].
    pub(crate) fn cut_below(&mut self, start: Offset) {
        self.changed |= self.epochs.cut_below(start);
    }

    /// What is to be written, if the file says otherwise: it counts as written.
    pub(crate) fn take_changed(&mut self) -> Option<Epochs> {
        std::mem::take(&mut self.changed).then(|| self.epochs.clone())
    }

    /// Whether the file says otherwise.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed
    }

    /// What was taken has not been written.
    pub(crate) fn put_back(&mut self) {
        self.changed = true;
    }
}

impl Deref for LiveEpochs {
    type Target = Epochs;

    fn deref(&self) -> &Epochs {
        &self.epochs
    }
}

#[cfg(test)]
mod tests {
    use millstream_env::real::RealDisk;

    use super::*;

    fn epochs(entries: &[(i32, i64)]) -> Epochs {
        let mut epochs = Epochs::default();
        for (epoch, start) in entries {
            epochs.begin(LeaderEpoch(*epoch), Offset(*start));
        }
        epochs
    }

    #[test]
    fn an_epoch_ends_where_the_next_begins() {
        let epochs = epochs(&[(1, 0), (3, 10), (7, 25)]);
        let end_of = |epoch| epochs.end_of(LeaderEpoch(epoch), Offset(40)).map(|(epoch, end)| (epoch.0, end.0));
        assert_eq!(end_of(0), None);
        assert_eq!(end_of(1), Some((1, 10)));
        assert_eq!(end_of(2), Some((1, 10)));
        assert_eq!(end_of(3), Some((3, 25)));
        assert_eq!(end_of(7), Some((7, 40)));
        assert_eq!(end_of(9), Some((7, 40)));
    }

    #[test]
    fn an_epoch_without_records_leaves_no_trace_and_an_old_one_changes_nothing() {
        let mut known = epochs(&[(1, 0), (2, 10), (3, 10)]);
        assert_eq!(known, epochs(&[(1, 0), (3, 10)]));
        assert!(!known.begin(LeaderEpoch(2), Offset(20)));
        assert!(known.cut(Offset(5)) && !known.cut(Offset(5)));
        assert_eq!(known, epochs(&[(1, 0)]));
    }

    #[test]
    fn the_epoch_that_the_start_is_in_begins_there() {
        let whole = epochs(&[(1, 0), (3, 10), (7, 25)]);
        let expected: [(i64, &[(i32, i64)]); 6] = [
            (0, &[(1, 0), (3, 10), (7, 25)]),
            (4, &[(1, 4), (3, 10), (7, 25)]),
            (10, &[(3, 10), (7, 25)]),
            (24, &[(3, 24), (7, 25)]),
            (25, &[(7, 25)]),
            (40, &[(7, 40)]),
        ];
        for (start, expected) in expected {
            let mut cut = whole.clone();
            assert_eq!(cut.cut_below(Offset(start)), cut != whole, "{start}");
            assert_eq!(cut, epochs(expected), "{start}");
        }
        assert!(!Epochs::default().cut_below(Offset(3)));
        assert!(!epochs(&[(1, 5)]).cut_below(Offset(3)));
    }

    #[test]
    fn the_first_epoch_begins_by_the_end_and_later_ones_are_left() {
        for (end, expected) in [(30, [(3, 10), (7, 25)]), (10, [(3, 10), (7, 25)]), (4, [(3, 4), (7, 25)])] {
            let mut moved = epochs(&[(3, 10), (7, 25)]);
            assert_eq!(moved.begin_by(Offset(end)), end < 10, "{end}");
            assert_eq!(moved, epochs(&expected), "{end}");
        }
        assert!(!Epochs::default().begin_by(Offset(0)));
    }

    #[test]
    fn a_damaged_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("epochs");
        let known = epochs(&[(1, 0), (3, 10)]);
        known.store(&RealDisk, &path).unwrap();
        assert_eq!(Epochs::load(&RealDisk, &path).unwrap(), Some(known));
        let sound = std::fs::read(&path).unwrap();
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            assert_eq!(Epochs::decode(&bytes), None, "byte {at}");
            assert_eq!(Epochs::decode(&sound[..at]), None, "cut at {at}");
        }
    }
}
