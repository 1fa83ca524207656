//! Where the records of a frame are: their places, found once, so that nothing is decoded twice.

use std::ops::Range;

use millstream_record::{
    RecordError,
    raw::{self, RawHeaders},
};

use super::{FrameError, FrameHeader, HEADER_BYTES};

/// The places of one encoded record's parts, as positions in the frame. A frame's lengths are 32 bits wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordSpan {
    /// From the length prefix ...
    pub(super) start: u32,
    /// ... and from the length of the key ...
    pub(super) tail: u32,
    /// ... to the end.
    pub(super) end: u32,
    key: Field,
    value: Field,
    headers: Field,
    header_count: u32,
    pub(super) offset_delta: i32,
    pub(super) timestamp_delta: i64,
}

/// A part's place; -1 bytes long where it is null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    at: u32,
    len: i32,
}

impl Field {
    fn new(frame: &[u8], part: Option<&[u8]>) -> Self {
        match part {
            // A slice of the frame, so the distance of their addresses is its position.
            Some(part) => Self {
                at: (part.as_ptr() as usize).wrapping_sub(frame.as_ptr() as usize) as u32,
                len: part.len() as i32,
            },
            None => Self { at: 0, len: -1 },
        }
    }

    fn range(self) -> Option<Range<usize>> {
        let len = usize::try_from(self.len).ok()?;
        // An empty slice may be anywhere.
        Some(if len == 0 { 0..0 } else { self.at as usize..self.at as usize + len })
    }
}

impl RecordSpan {
    /// Takes the record at `at` of `frame`, which ends before `end`.
    pub(super) fn take(frame: &[u8], at: usize, end: usize) -> Result<Self, RecordError> {
        let mut rest = frame.get(at..end).unwrap_or_default();
        let record = raw::take_record(&mut rest)?;
        let end = at + record.bytes.len();
        Ok(Self {
            start: at as u32,
            tail: (end - record.tail.len()) as u32,
            end: end as u32,
            key: Field::new(frame, record.key),
            value: Field::new(frame, record.value),
            headers: Field::new(frame, Some(record.headers.encoded())),
            header_count: record.headers.len() as u32,
            offset_delta: record.offset_delta,
            timestamp_delta: record.timestamp_delta,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        (self.end - self.start) as usize
    }

    pub(super) fn tail(&self) -> Range<usize> {
        self.tail as usize..self.end as usize
    }

    pub(super) fn key(&self) -> Option<Range<usize>> {
        self.key.range()
    }

    pub(super) fn value(&self) -> Option<Range<usize>> {
        self.value.range()
    }

    pub(super) fn headers<'a>(&self, frame: &'a [u8]) -> RawHeaders<'a> {
        let encoded = self.headers.range().unwrap_or_default();
        // Checked when the span was made, so this does not fail.
        RawHeaders::parse(self.header_count, frame.get(encoded).unwrap_or_default()).unwrap_or_default()
    }

    /// The same record in a frame that begins `by` bytes later.
    pub(super) fn moved_back(&self, by: u32) -> Self {
        let back = |field: Field| Field { at: field.at.wrapping_sub(by), ..field };
        Self {
            start: self.start - by,
            tail: self.tail - by,
            end: self.end - by,
            key: back(self.key),
            value: back(self.value),
            headers: back(self.headers),
            ..*self
        }
    }
}

/// The places of a frame's records, which must fill the record section exactly. The header's lengths must add up.
pub(super) fn walk(frame: &[u8], header: &FrameHeader, count_max: u32) -> Result<Vec<RecordSpan>, FrameError> {
    if header.count > count_max {
        return Err(FrameError::Count { count: header.count, max: count_max });
    }
    let end = HEADER_BYTES + header.record_bytes as usize;
    // Seven bytes at least for each record: what is reserved is bounded by what is there.
    let mut spans = Vec::with_capacity((header.count as usize).min(header.record_bytes as usize / 7));
    let mut at = HEADER_BYTES;
    for index in 0..header.count {
        let span = RecordSpan::take(frame, at, end)
            .map_err(|error| FrameError::Record { index, reason: error.to_string() })?;
        at = span.end as usize;
        spans.push(span);
    }
    match end - at {
        0 => Ok(spans),
        bytes => Err(FrameError::Trailing { bytes }),
    }
}
