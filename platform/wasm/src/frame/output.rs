//! What guests answer: emitted frames, selections and assignments, none of it believed before it is checked.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use millstream_model::{PartitionId, TimestampMs, limits::TIMESTAMP_MS_MAX};
use millstream_record::raw::{self, RawRecord};

use super::{
    COLUMN_PARTITION, COLUMN_SOURCE, FLAG_LOG_APPEND_TIME, FrameError, FrameHeader, HEADER_BYTES, InputFrame,
    span::{RecordSpan, walk},
};
use crate::limits::OUTPUT_RECORDS_MAX;

/// Why an answer is not believed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum OutputError {
    /// It is not a frame.
    #[error("output {output}: {error}")]
    Frame {
        /// Which output it was emitted to.
        output: u32,
        /// What is wrong.
        error: FrameError,
    },
    /// There is no such output.
    #[error("record emitted to output {output}, but there are {outputs} outputs (numbered from 0)")]
    Output {
        /// Which one.
        output: u32,
        /// How many there are.
        outputs: u32,
    },
    /// The frame does not say which input records its records came from.
    #[error("output {output}: the frame has no source column")]
    NoSource {
        /// Which output.
        output: u32,
    },
    /// A source that is no record of the call, or out of order.
    #[error("output {output}, record {index}: source {value} {reason}")]
    Source {
        /// Which output.
        output: u32,
        /// Which record of the frame.
        index: u32,
        /// The source.
        value: u32,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A partition that the output does not have.
    #[error("output {output}, record {index}: partition {value} is not one of the output's {partitions}")]
    Partition {
        /// Which output.
        output: u32,
        /// Which record of the frame.
        index: u32,
        /// The partition.
        value: i32,
        /// How many there are.
        partitions: u32,
    },
    /// A timestamp before "none" (-1) or after the year 9999.
    #[error("output {output}, record {index}: timestamp {value} is out of range")]
    Timestamp {
        /// Which output.
        output: u32,
        /// Which record of the frame.
        index: u32,
        /// The timestamp; the nearest representable where it overflows.
        value: i64,
    },
    /// A record larger than it may be.
    #[error("output {output}, record {index}: {bytes} bytes, but a record may have {max}")]
    RecordSize {
        /// Which output.
        output: u32,
        /// Which record of the frame.
        index: u32,
        /// Its size, bytes as encoded.
        bytes: usize,
        /// The largest size.
        max: usize,
    },
    /// A header's name is not UTF-8.
    #[error("output {output}, record {index}: a header's name is not UTF-8")]
    HeaderName {
        /// Which output.
        output: u32,
        /// Which record of the frame.
        index: u32,
    },
    /// The call emitted more than it may.
    #[error("the call emitted more than {max} {what}")]
    TooMuch {
        /// Bytes or records.
        what: &'static str,
        /// How many it may.
        max: u64,
    },
    /// `emit` outside `process`.
    #[error("the module emitted while {phase}; only process may")]
    Phase {
        /// What it was doing.
        phase: crate::Phase,
    },
    /// A metric that it did not declare.
    #[error("metric {id} was reported, but {declared} are declared (numbered from 0)")]
    Metric {
        /// Which one.
        id: u32,
        /// How many there are.
        declared: u32,
    },
    /// A selection of the wrong length, or with bits set past its end.
    #[error("a selection of {records} records is {expected} bytes with no bit set past the last; got {actual} bytes")]
    Selection {
        /// The records of the call.
        records: u32,
        /// How many bytes that makes.
        expected: usize,
        /// How many there were.
        actual: usize,
    },
    /// An assignment of the wrong length.
    #[error("an assignment of {records} records has as many numbers; got {actual}")]
    Assignment {
        /// The records of the call.
        records: u32,
        /// How many numbers there were.
        actual: usize,
    },
    /// A partition that the topic does not have.
    #[error("record {index} was assigned partition {value}, but the topic has {partitions} (numbered from 0)")]
    Assigned {
        /// Which record.
        index: u32,
        /// The partition.
        value: i32,
        /// How many there are.
        partitions: u32,
    },
}

/// How output records relate to input records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Any number of output records for one input record; sources do not decrease. For transforms.
    Many,
    /// At most one output record for one input record; sources grow strictly. For views, where the record keeps its
    /// source's offset, and two records of one offset would break commits.
    Mapped,
}

/// What a call's output is checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRules {
    /// How many partitions each output has; as many outputs as entries.
    pub partitions: Vec<u32>,
    /// How output relates to input.
    pub shape: Shape,
}

impl OutputRules {
    /// A view: one output, at most one record for each input record.
    #[must_use]
    pub fn view() -> Self {
        Self { partitions: vec![i32::MAX as u32], shape: Shape::Mapped }
    }

    /// A transform whose outputs have that many partitions each.
    #[must_use]
    pub fn transform(partitions: Vec<u32>) -> Self {
        Self { partitions, shape: Shape::Many }
    }
}

/// A frame that a guest emitted and that was found to be legal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Emitted {
    /// Which output it is for, from 0.
    pub output: u32,
    bytes: Bytes,
    records: Arc<[Parsed]>,
}

#[derive(Clone, Debug)]
struct Parsed {
    source: u32,
    partition: i32,
    timestamp: i64,
    span: RecordSpan,
}

/// One emitted record.
#[derive(Clone, Copy, Debug)]
pub struct OutputRecord<'a> {
    emitted: &'a Emitted,
    parsed: &'a Parsed,
}

impl Emitted {
    /// Number of records; may be 0.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The frame as it was emitted.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The records in the order in which they were emitted.
    pub fn records(&self) -> impl ExactSizeIterator<Item = OutputRecord<'_>> {
        self.records.iter().map(|parsed| OutputRecord { emitted: self, parsed })
    }
}

impl<'a> OutputRecord<'a> {
    fn at(&self, range: Range<usize>) -> &'a [u8] {
        &self.emitted.bytes[range]
    }

    /// The index of the input record that it came from: within the call's frame.
    #[must_use]
    pub fn source(&self) -> u32 {
        self.parsed.source
    }

    /// The partition that the guest chose, which the output has; none where it leaves that to the output.
    #[must_use]
    pub fn partition(&self) -> Option<PartitionId> {
        (self.parsed.partition >= 0).then_some(PartitionId(self.parsed.partition))
    }

    /// Its timestamp: -1 for none, at most the end of the year 9999.
    #[must_use]
    pub fn timestamp(&self) -> TimestampMs {
        TimestampMs(self.parsed.timestamp)
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.parsed.span.key().map(|range| self.at(range))
    }

    /// Its value.
    #[must_use]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.parsed.span.value().map(|range| self.at(range))
    }

    /// Its headers, in order; names may repeat.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> {
        let headers = self.parsed.span.headers(&self.emitted.bytes);
        // Names were checked when the frame was.
        headers.into_iter().map(|(name, value)| (std::str::from_utf8(name).unwrap_or_default(), value))
    }

    /// The record as encoded, for [`raw::put_moved`]: a new batch needs other deltas, but not the rest encoded again.
    ///
    /// # Panics
    /// Never: the record was parsed before.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the same bytes were parsed when the frame was checked")]
    pub fn raw(&self) -> RawRecord<'a> {
        let span = &self.parsed.span;
        raw::take_record(&mut self.at(span.start as usize..span.end as usize)).expect("a checked record")
    }

    /// Key, value and headers as encoded in a record batch v2, sharing the frame's memory.
    #[must_use]
    pub fn tail(&self) -> Bytes {
        self.emitted.bytes.slice(self.parsed.span.tail())
    }
}

/// Checks the frames of one call, in the order in which they were emitted.
pub(crate) struct Checker<'a> {
    input: &'a InputFrame,
    rules: &'a OutputRules,
    record_bytes_max: usize,
    /// The last source of each output.
    last: Vec<Option<u32>>,
    records: u64,
}

impl<'a> Checker<'a> {
    pub(crate) fn new(input: &'a InputFrame, rules: &'a OutputRules, record_bytes_max: usize) -> Self {
        Self { input, rules, record_bytes_max, last: vec![None; rules.partitions.len()], records: 0 }
    }

    pub(crate) fn check(&mut self, output: u32, bytes: Bytes) -> Result<Emitted, OutputError> {
        let Some(&partitions) = self.rules.partitions.get(output as usize) else {
            return Err(OutputError::Output { output, outputs: self.rules.partitions.len() as u32 });
        };
        let frame = |error| OutputError::Frame { output, error };
        let header = FrameHeader::parse(&bytes).map_err(frame)?;
        if header.flags & !FLAG_LOG_APPEND_TIME != 0 {
            return Err(frame(FrameError::Field { field: "flags", value: header.flags.into() }));
        }
        if header.columns & COLUMN_SOURCE == 0 {
            return Err(OutputError::NoSource { output });
        }
        self.records += u64::from(header.count);
        if self.records > u64::from(OUTPUT_RECORDS_MAX) {
            return Err(OutputError::TooMuch { what: "records", max: OUTPUT_RECORDS_MAX.into() });
        }
        let spans = walk(&bytes, &header, OUTPUT_RECORDS_MAX).map_err(frame)?;
        let columns = HEADER_BYTES + header.record_bytes as usize;
        // The header's lengths add up, so the columns are there.
        let column = |nth: usize, index: usize| {
            let at = columns + (nth * header.count as usize + index) * 4;
            [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
        };
        let mut records = Vec::with_capacity(spans.len());
        for (index, span) in spans.into_iter().enumerate() {
            let source = u32::from_le_bytes(column(0, index));
            let partition =
                if header.columns & COLUMN_PARTITION == 0 { -1 } else { i32::from_le_bytes(column(1, index)) };
            let at = index as u32;
            self.check_source(output, at, source)?;
            if partition < -1 || i64::from(partition) >= i64::from(partitions) {
                return Err(OutputError::Partition { output, index: at, value: partition, partitions });
            }
            // Where the broker's time applies, all records have the one.
            let delta = if header.flags & FLAG_LOG_APPEND_TIME == 0 { span.timestamp_delta } else { 0 };
            let timestamp = header.base_timestamp.saturating_add(delta);
            if !(-1..=TIMESTAMP_MS_MAX).contains(&timestamp) {
                return Err(OutputError::Timestamp { output, index: at, value: timestamp });
            }
            if span.bytes() > self.record_bytes_max {
                let (bytes, max) = (span.bytes(), self.record_bytes_max);
                return Err(OutputError::RecordSize { output, index: at, bytes, max });
            }
            if span.headers(&bytes).into_iter().any(|(name, _)| std::str::from_utf8(name).is_err()) {
                return Err(OutputError::HeaderName { output, index: at });
            }
            records.push(Parsed { source, partition, timestamp, span });
        }
        Ok(Emitted { output, bytes, records: records.into() })
    }

    fn check_source(&mut self, output: u32, index: u32, value: u32) -> Result<(), OutputError> {
        let refuse = |reason| Err(OutputError::Source { output, index, value, reason });
        if value >= self.input.count() {
            return refuse("is not a record of the call");
        }
        let last = self.last[output as usize].replace(value);
        match (self.rules.shape, last) {
            (_, Some(last)) if value < last => refuse("is before that of the record emitted earlier"),
            (Shape::Mapped, Some(last)) if value == last => {
                refuse("was emitted already: a view has at most one record for each of its source")
            }
            _ => Ok(()),
        }
    }
}

/// One bit a record, the lowest of the first byte first.
pub(crate) fn check_selection(bits: &[u8], records: u32) -> Result<Vec<bool>, OutputError> {
    let expected = (records as usize).div_ceil(8);
    let refuse = OutputError::Selection { records, expected, actual: bits.len() };
    if bits.len() != expected {
        return Err(refuse);
    }
    if let (Some(last), used @ 1..) = (bits.last(), records % 8)
        && last >> used != 0
    {
        return Err(refuse);
    }
    Ok((0..records as usize).map(|at| bits[at / 8] >> (at % 8) & 1 == 1).collect())
}

/// One number a record: a partition, or -1 for the default.
pub(crate) fn check_assignment(assigned: &[i32], records: u32, partitions: u32) -> Result<(), OutputError> {
    if assigned.len() != records as usize {
        return Err(OutputError::Assignment { records, actual: assigned.len() });
    }
    for (index, &value) in (0..).zip(assigned) {
        if value < -1 || i64::from(value) >= i64::from(partitions) {
            return Err(OutputError::Assigned { index, value, partitions });
        }
    }
    Ok(())
}
