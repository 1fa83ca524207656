//! Frames into guests: built from records, or taken from a client and checked.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use millstream_model::{Offset, PartitionId, TimestampMs};
use millstream_record::{
    raw::{self, RawRecord},
    varint,
};

use super::{
    FLAG_HEADERS_ELIDED, FLAG_LOG_APPEND_TIME, FLAG_VALUES_ELIDED, FrameError, FrameHeader, HEADER_BYTES,
    span::{RecordSpan, walk},
};

/// The size at which a call's frame is full, bytes. One record may be larger than this.
pub const FRAME_BYTES_TARGET: usize = 128 << 10;

/// What a frame says about its records as a whole, and what is left out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameOptions {
    /// Which of a transform's inputs the records are from; 0 elsewhere.
    pub input: u32,
    /// The partition that the records are from; -1 where there is none yet.
    pub partition: PartitionId,
    /// Leave values out: they read as null. For partitioners that declare no need of them.
    pub elide_values: bool,
    /// Leave record headers out.
    pub elide_headers: bool,
}

impl Default for FrameOptions {
    fn default() -> Self {
        Self { input: 0, partition: PartitionId(-1), elide_values: false, elide_headers: false }
    }
}

/// A well-formed frame for a guest. Cheap to clone.
#[derive(Clone, Debug)]
pub struct InputFrame {
    bytes: Bytes,
    header: FrameHeader,
    spans: Arc<[RecordSpan]>,
}

impl InputFrame {
    /// Takes a frame that somebody else built (a client's Assign request). Shares the memory of `bytes`.
    ///
    /// # Errors
    /// [`FrameError`] when it is not well formed, has columns, has more than `count_max` records, or has offsets that
    /// do not grow.
    pub fn parse(bytes: Bytes, count_max: u32) -> Result<Self, FrameError> {
        let header = FrameHeader::parse(&bytes)?;
        if header.columns != 0 {
            return Err(FrameError::Field { field: "columns", value: header.columns.into() });
        }
        let spans = walk(&bytes, &header, count_max)?;
        let mut last = None;
        for (index, span) in (0..).zip(&spans) {
            let refuse = |reason: &str| Err(FrameError::Record { index, reason: reason.into() });
            if last.is_some_and(|last| span.offset_delta <= last) {
                return refuse("its offset does not grow");
            }
            last = Some(span.offset_delta);
            if header.base_offset.checked_add(span.offset_delta.into()).is_none() {
                return refuse("its offset overflows");
            }
            if header.base_timestamp.checked_add(span.timestamp_delta).is_none() {
                return refuse("its timestamp overflows");
            }
        }
        Ok(Self { bytes, header, spans: spans.into() })
    }

    /// The frame as it crosses.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The frame's header.
    #[must_use]
    pub fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// Number of records.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.header.count
    }

    /// The offset of record `index`; none past the end.
    #[must_use]
    pub fn offset(&self, index: u32) -> Option<Offset> {
        let span = self.spans.get(index as usize)?;
        Some(Offset(self.header.base_offset + i64::from(span.offset_delta)))
    }

    /// The timestamp of record `index`; none past the end.
    #[must_use]
    pub fn timestamp(&self, index: u32) -> Option<TimestampMs> {
        let span = self.spans.get(index as usize)?;
        let delta = if self.header.flags & FLAG_LOG_APPEND_TIME == 0 { span.timestamp_delta } else { 0 };
        Some(TimestampMs(self.header.base_timestamp + delta))
    }

    /// The key of record `index`; none where it is null and past the end.
    #[must_use]
    pub fn key(&self, index: u32) -> Option<&[u8]> {
        self.spans.get(index as usize)?.key().map(|range| &self.bytes[range])
    }

    /// The value of record `index`; none where it is null and past the end.
    #[must_use]
    pub fn value(&self, index: u32) -> Option<&[u8]> {
        self.spans.get(index as usize)?.value().map(|range| &self.bytes[range])
    }

    /// Record `index` as encoded, for [`raw::put_moved`]: how a record that a filter lets through reaches a new batch.
    /// None past the end.
    #[must_use]
    pub fn raw(&self, index: u32) -> Option<RawRecord<'_>> {
        let span = self.spans.get(index as usize)?;
        raw::take_record(&mut self.bytes.get(span.start as usize..span.end as usize)?).ok()
    }

    /// The records in groups of one call's size, in order: of [`FRAME_BYTES_TARGET`] at most, or one record. Whoever asks a partitioner asks
    /// group by group, so that it is shown the same by all.
    #[must_use]
    pub fn calls(&self) -> Vec<Range<u32>> {
        let mut calls = Vec::new();
        let (mut first, mut bytes) = (0, 0);
        for (index, span) in (0..).zip(&*self.spans) {
            let record = (span.end - span.start) as usize;
            if index > first && bytes + record > FRAME_BYTES_TARGET {
                calls.push(first..index);
                (first, bytes) = (index, 0);
            }
            bytes += record;
        }
        if first < self.count() {
            calls.push(first..self.count());
        }
        calls
    }

    /// A frame of some of this one's records: how a failing call is halved and a poison record found.
    ///
    /// # Panics
    /// When the range does not lie within the records.
    #[must_use]
    pub fn slice(&self, range: Range<u32>) -> Self {
        let spans = &self.spans[range.start as usize..range.end as usize];
        let (from, to) = match (spans.first(), spans.last()) {
            (Some(first), Some(last)) => (first.start as usize, last.end as usize),
            _ => (HEADER_BYTES, HEADER_BYTES),
        };
        let header = FrameHeader { count: range.end - range.start, record_bytes: (to - from) as u32, ..self.header };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + to - from);
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&self.bytes[from..to]);
        let by = (from - HEADER_BYTES) as u32;
        Self { bytes: bytes.into(), header, spans: spans.iter().map(|span| span.moved_back(by)).collect() }
    }
}

/// Writes a record around what does not depend on its place.
fn put_record(out: &mut Vec<u8>, timestamp_delta: i64, offset_delta: i32, tail: &[u8]) {
    let bytes = 1 + varint::len_i64(timestamp_delta) + varint::len_i32(offset_delta) + tail.len();
    varint::put_i64(out, bytes as i64);
    out.push(0);
    varint::put_i64(out, timestamp_delta);
    varint::put_i32(out, offset_delta);
    out.extend_from_slice(tail);
}

/// Puts records into frames. Full after [`FRAME_BYTES_TARGET`]; then take the frame and go on with the same builder.
#[derive(Debug)]
pub struct FrameBuilder {
    options: FrameOptions,
    bytes: Vec<u8>,
    spans: Vec<RecordSpan>,
    base_offset: i64,
    base_timestamp: i64,
}

impl FrameBuilder {
    /// An empty builder.
    #[must_use]
    pub fn new(options: FrameOptions) -> Self {
        Self { options, bytes: vec![0; HEADER_BYTES], spans: Vec::new(), base_offset: 0, base_timestamp: 0 }
    }

    /// Whether there are no records in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// How many records are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether a record of `record_bytes` no longer belongs into it: take the frame first.
    #[must_use]
    pub fn is_full(&self, record_bytes: usize) -> bool {
        !self.is_empty() && self.bytes.len() + record_bytes > FRAME_BYTES_TARGET
    }

    /// Adds a record from its parts. `headers`: names and values.
    ///
    /// # Errors
    /// [`FrameError::Record`] when the record does not fit behind those that are there: its offset does not grow, or is
    /// more than 2^31 further on, or the frame would pass 1 GiB. The builder is then unchanged.
    pub fn push(
        &mut self,
        offset: Offset,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Result<(), FrameError> {
        let value = value.filter(|_| !self.options.elide_values);
        let headers = if self.options.elide_headers { &[] } else { headers };
        let (offset_delta, timestamp_delta) = self.place(offset, timestamp)?;
        let bytes = raw::record_bytes(timestamp_delta, offset_delta, key, value, headers.iter().copied());
        self.write(offset, timestamp, bytes, |out| {
            raw::put_record(out, timestamp_delta, offset_delta, key, value, headers.iter().copied());
        })
    }

    /// Adds a record as it is encoded in a batch: a copy, unless something is to be left out.
    ///
    /// # Errors
    /// As [`FrameBuilder::push`].
    pub fn push_raw(
        &mut self,
        offset: Offset,
        timestamp: TimestampMs,
        record: &RawRecord<'_>,
    ) -> Result<(), FrameError> {
        let (offset_delta, timestamp_delta) = self.place(offset, timestamp)?;
        if self.options.elide_values || self.options.elide_headers {
            let value = record.value.filter(|_| !self.options.elide_values);
            let headers = if self.options.elide_headers { raw::RawHeaders::default() } else { record.headers };
            let bytes = raw::record_bytes(timestamp_delta, offset_delta, record.key, value, headers);
            return self.write(offset, timestamp, bytes, |out| {
                raw::put_record(out, timestamp_delta, offset_delta, record.key, value, headers);
            });
        }
        let bytes = raw::moved_bytes(record.tail, timestamp_delta, offset_delta);
        self.write(offset, timestamp, bytes, |out| raw::put_moved(out, record.tail, timestamp_delta, offset_delta))
    }

    /// Adds a record whose key, value and headers are encoded in `tail` as in a batch.
    ///
    /// # Errors
    /// As [`FrameBuilder::push`], and when the tail is malformed.
    pub fn push_encoded(&mut self, offset: Offset, timestamp: TimestampMs, tail: &[u8]) -> Result<(), FrameError> {
        if self.options.elide_values || self.options.elide_headers {
            let mut record = Vec::with_capacity(tail.len() + 8);
            put_record(&mut record, 0, 0, tail);
            let record = raw::take_record(&mut record.as_slice()).map_err(|error| self.refuse(&error.to_string()))?;
            return self.push_raw(offset, timestamp, &record);
        }
        let (offset_delta, timestamp_delta) = self.place(offset, timestamp)?;
        self.write(offset, timestamp, tail.len() + 16, |out| put_record(out, timestamp_delta, offset_delta, tail))
    }

    fn refuse(&self, reason: &str) -> FrameError {
        FrameError::Record { index: self.spans.len() as u32, reason: reason.into() }
    }

    /// The record's deltas.
    fn place(&self, offset: Offset, timestamp: TimestampMs) -> Result<(i32, i64), FrameError> {
        if self.is_empty() {
            return Ok((0, 0));
        }
        let delta = offset.0.checked_sub(self.base_offset).and_then(|delta| i32::try_from(delta).ok());
        let offset_delta = delta.ok_or_else(|| self.refuse("its offset is too far from the first"))?;
        if self.spans.last().is_some_and(|last| offset_delta <= last.offset_delta) {
            return Err(self.refuse("its offset does not grow"));
        }
        let delta = timestamp.0.checked_sub(self.base_timestamp);
        Ok((offset_delta, delta.ok_or_else(|| self.refuse("its timestamp is too far from the first"))?))
    }

    fn write(
        &mut self,
        offset: Offset,
        timestamp: TimestampMs,
        bytes: usize,
        put: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), FrameError> {
        let start = self.bytes.len();
        if start + bytes > 1 << 30 {
            return Err(self.refuse("the frame would be larger than 1 GiB"));
        }
        self.bytes.reserve(bytes);
        put(&mut self.bytes);
        match RecordSpan::take(&self.bytes, start, self.bytes.len()) {
            Ok(span) => {
                if self.is_empty() {
                    (self.base_offset, self.base_timestamp) = (offset.0, timestamp.0);
                }
                self.spans.push(span);
                Ok(())
            }
            Err(error) => {
                self.bytes.truncate(start);
                Err(self.refuse(&error.to_string()))
            }
        }
    }

    /// Takes what is there as a frame, none if that is nothing, and starts anew.
    pub fn take(&mut self) -> Option<InputFrame> {
        if self.is_empty() {
            return None;
        }
        let mut bytes = std::mem::replace(&mut self.bytes, vec![0; HEADER_BYTES]);
        let spans = std::mem::take(&mut self.spans);
        let options = &self.options;
        let header = FrameHeader {
            flags: (if options.elide_values { FLAG_VALUES_ELIDED } else { 0 })
                | (if options.elide_headers { FLAG_HEADERS_ELIDED } else { 0 }),
            count: spans.len() as u32,
            record_bytes: (bytes.len() - HEADER_BYTES) as u32,
            input: options.input,
            partition: options.partition.0,
            base_offset: self.base_offset,
            base_timestamp: self.base_timestamp,
            columns: 0,
        };
        bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
        Some(InputFrame { bytes: bytes.into(), header, spans: spans.into() })
    }
}
