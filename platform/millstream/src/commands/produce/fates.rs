//! What became of the lines that were sent: which are written, which are not, and of which nobody knows.

use std::{collections::BTreeMap, fmt};

use millstream_client::{Delivered, ProduceError};
use millstream_model::{Offset, PartitionId};

use crate::{failure::explain, output::counted};

/// Most stretches of lines that are told one by one.
const STRETCHES_TOLD_MAX: usize = 20;

/// What became of a line that is not known to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    NotWritten,
    Unknown,
}

/// What became of the lines.
#[derive(Debug, Default)]
pub(super) struct Fates {
    written: u64,
    /// How many records each partition took, and the first's and last's offset.
    partitions: BTreeMap<PartitionId, Taken>,
    not_written: Stretches,
    unknown: Stretches,
    /// The first line that something is wrong with, and what.
    first: Option<(u64, anyhow::Error)>,
}

/// What a partition took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) records: u64,
    pub(super) offsets: Option<(Offset, Offset)>,
}

impl Fates {
    /// Notes what became of a line that was sent.
    pub(super) fn settle(&mut self, line: u64, told: Result<Delivered, ProduceError>) {
        match told {
            Ok(delivered) => self.delivered(delivered),
            Err(error) => {
                let fate = if error.is_refusal() { Fate::NotWritten } else { Fate::Unknown };
                self.failed(line, fate, error.into());
            }
        }
    }

    fn delivered(&mut self, delivered: Delivered) {
        self.written += 1;
        let taken = self.partitions.entry(delivered.partition).or_default();
        taken.records += 1;
        if let Some(offset) = delivered.offset {
            let (first, last) = taken.offsets.unwrap_or((offset, offset));
            taken.offsets = Some((first.min(offset), last.max(offset)));
        }
    }

    /// Notes that a line is not written, or perhaps not.
    pub(super) fn failed(&mut self, line: u64, fate: Fate, error: anyhow::Error) {
        match fate {
            Fate::NotWritten => self.not_written.add(line),
            Fate::Unknown => self.unknown.add(line),
        }
        self.blame(line, error.context(format!("line {line}")));
    }

    /// Notes why `line` could not even be read.
    pub(super) fn stop(&mut self, line: u64, error: anyhow::Error) {
        self.blame(line, error);
    }

    /// The first line's error is the one to tell; the others are counted.
    fn blame(&mut self, line: u64, error: anyhow::Error) {
        if self.first.as_ref().is_none_or(|(first, _)| line < *first) {
            self.first = Some((line, error));
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.first.is_some()
    }

    /// How many lines are written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn partitions(&self) -> &BTreeMap<PartitionId, Taken> {
        &self.partitions
    }

    /// What went wrong, and where to go on; none if nothing did. `last` is the last line read, `verb` what the written
    /// records are for certain.
    pub(super) fn error(&self, last: u64, verb: &str) -> Option<anyhow::Error> {
        let (_, first) = self.first.as_ref()?;
        let mut told = format!("{}; {} {verb}", explain(first.as_ref()), counted(self.written, "record"));
        if !self.not_written.is_empty() {
            told += &format!("; not written: {}", self.not_written);
        }
        if !self.unknown.is_empty() {
            told += &format!("; perhaps written: {}", self.unknown);
        }
        Some(anyhow::anyhow!("{told}; nothing after line {last} was sent"))
    }
}

/// Numbers of lines, as stretches from first to last.
#[derive(Debug, Default)]
struct Stretches {
    /// The last line of each by its first.
    by_first: BTreeMap<u64, u64>,
}

impl Stretches {
    fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    /// Lines are settled nearly in order: most only make the last stretch longer.
    fn add(&mut self, line: u64) {
        let end = self.by_first.remove(&(line + 1)).unwrap_or(line);
        match self.by_first.range_mut(..line).next_back() {
            Some((_, last)) if last.checked_add(1) == Some(line) => *last = end,
            _ => drop(self.by_first.insert(line, end)),
        }
    }
}

impl fmt::Display for Stretches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = self.by_first.len() == 1 && self.by_first.iter().all(|(first, last)| first == last);
        f.write_str(if one { "line " } else { "lines " })?;
        for (place, (first, last)) in self.by_first.iter().take(STRETCHES_TOLD_MAX).enumerate() {
            f.write_str(if place == 0 { "" } else { ", " })?;
            match first == last {
                true => write!(f, "{first}")?,
                false => write!(f, "{first}-{last}")?,
            }
        }
        let left = self.by_first.iter().skip(STRETCHES_TOLD_MAX).map(|(first, last)| last - first + 1).sum::<u64>();
        if left > 0 {
            write!(f, " and {left} more")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn each_partitions_records_and_offsets_are_known() {
        let mut fates = Fates::default();
        for (partition, offset) in [(1, Some(7)), (0, Some(3)), (1, Some(8)), (2, None)] {
            fates.settle(1, Ok(Delivered { partition: PartitionId(partition), offset: offset.map(Offset) }));
        }
        assert_eq!(fates.written(), 4);
        let one = Taken { records: 2, offsets: Some((Offset(7), Offset(8))) };
        assert_eq!(fates.partitions()[&PartitionId(1)], one);
        assert_eq!(fates.partitions()[&PartitionId(2)], Taken { records: 1, offsets: None });
        assert!(!fates.has_failed() && fates.error(4, "acknowledged").is_none());
    }

    #[test]
    fn the_first_line_is_blamed_and_every_line_accounted_for() {
        let mut fates = Fates::default();
        fates.settle(1, Ok(Delivered { partition: PartitionId(0), offset: None }));
        fates.failed(9, Fate::NotWritten, anyhow!("no JSON"));
        fates.failed(2, Fate::NotWritten, anyhow!("too large"));
        fates.failed(3, Fate::NotWritten, anyhow!("too large"));
        fates.settle(5, Err(ProduceError::Stopped));
        let told = fates.error(9, "acknowledged").unwrap().to_string();
        assert_eq!(
            told,
            "line 2: too large; 1 record acknowledged; not written: lines 2-3, 9; perhaps written: line 5; nothing after line 9 \
             was sent"
        );
    }

    #[test]
    fn lines_are_told_as_stretches() {
        let check = |lines: &[u64], expected: &str| {
            let mut stretches = Stretches::default();
            lines.iter().for_each(|line| stretches.add(*line));
            assert_eq!(stretches.to_string(), expected, "{lines:?}");
        };
        check(&[7], "line 7");
        check(&[7, 8, 9], "lines 7-9");
        check(&[9, 7, 8, 1], "lines 1, 7-9");
        let scattered: Vec<_> = (1..=30).map(|number| number * 2).collect();
        let told: Vec<_> = scattered[..20].iter().map(ToString::to_string).collect();
        check(&scattered, &format!("lines {} and 10 more", told.join(", ")));
    }
}
