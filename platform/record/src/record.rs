//! Decoded records: their parts are slices of the batch, their headers are decoded when asked for.

use std::str::Utf8Error;

use bytes::Bytes;
use millstream_model::{Offset, TimestampMs};

use crate::{
    BatchError, BatchHeader, RecordError,
    raw::{self, RawHeaders, RawHeadersIter},
};

/// One record of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its offset.
    pub offset: Offset,
    /// Its time: the producer's, or the broker's where the batch says so.
    pub timestamp: TimestampMs,
    /// Distance of its offset from the batch's base offset.
    pub offset_delta: i32,
    /// Distance of the producer's time from the batch's base timestamp, milliseconds.
    pub timestamp_delta: i64,
    /// What placed it, if anything.
    pub key: Option<Bytes>,
    /// What it says; none is a tombstone.
    pub value: Option<Bytes>,
    /// What travels beside the value.
    pub headers: Headers,
}

/// One header. A name may come more than once in a record: all are kept, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name: UTF-8 from a correct producer, but not everybody is one.
    pub key: Bytes,
    /// Its value.
    pub value: Option<Bytes>,
}

impl Header {
    /// A header from text and bytes.
    pub fn new(key: impl Into<Bytes>, value: Option<Bytes>) -> Self {
        Self { key: key.into(), value }
    }

    /// The name as text.
    ///
    /// # Errors
    /// Where it is not UTF-8.
    pub fn key_str(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.key)
    }

    /// The header as slices, as [`raw::put_record`] takes it.
    #[must_use]
    pub fn as_raw(&self) -> raw::RawHeader<'_> {
        (&self.key, self.value.as_deref())
    }
}

/// A record's headers, still encoded. They were checked, so iterating cannot fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    count: u32,
    bytes: Bytes,
}

impl Headers {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The headers as slices.
    #[must_use]
    pub fn as_raw(&self) -> RawHeaders<'_> {
        RawHeaders { count: self.count, bytes: &self.bytes }
    }

    /// The headers in order.
    pub fn iter(&self) -> HeadersIter<'_> {
        HeadersIter { bytes: &self.bytes, raw: self.as_raw().into_iter() }
    }
}

impl<'a> IntoIterator for &'a Headers {
    type Item = Header;
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        self.iter()
    }
}

/// The headers of a record in order.
#[derive(Clone, Debug)]
pub struct HeadersIter<'a> {
    bytes: &'a Bytes,
    raw: RawHeadersIter<'a>,
}

impl Iterator for HeadersIter<'_> {
    type Item = Header;

    fn next(&mut self) -> Option<Header> {
        let (key, value) = self.raw.next()?;
        Some(Header { key: self.bytes.slice_ref(key), value: value.map(|value| self.bytes.slice_ref(value)) })
    }
}

/// The records of one batch in order. After an error there is nothing more.
///
/// Checked as it goes: every length, that offset deltas grow and stay within the batch's last (gaps are legal: compaction and views
/// leave them), that there are as many records as the header says, and that nothing follows the last one.
#[derive(Clone, Debug)]
pub struct Records {
    section: Bytes,
    /// Where the next record begins in the section.
    at: usize,
    header: BatchHeader,
    count: u32,
    index: u32,
    /// The least offset delta that the next record may have.
    delta_min: i64,
    done: bool,
}

impl Records {
    pub(crate) fn new(header: BatchHeader, section: Bytes) -> Result<Self, BatchError> {
        let count = header.check_count(section.len())?;
        Ok(Self { section, at: 0, header, count, index: 0, delta_min: 0, done: false })
    }

    /// The unpacked record section, from its first record.
    #[must_use]
    pub fn section(&self) -> &Bytes {
        &self.section
    }

    fn take(&mut self) -> Result<Record, RecordError> {
        let mut rest = &self.section[self.at..];
        let raw = raw::take_record(&mut rest)?;
        check_delta(raw.offset_delta, self.delta_min, self.header.last_offset_delta)?;
        let created = timestamp(self.header.base_timestamp, raw.timestamp_delta)?;
        let slice = |part: &[u8]| self.section.slice_ref(part);
        let record = Record {
            offset: self.header.base_offset.plus(i64::from(raw.offset_delta)),
            timestamp: match self.header.attributes.is_log_append_time() {
                true => self.header.max_timestamp,
                false => created,
            },
            offset_delta: raw.offset_delta,
            timestamp_delta: raw.timestamp_delta,
            key: raw.key.map(slice),
            value: raw.value.map(slice),
            headers: Headers { count: raw.headers.count, bytes: slice(raw.headers.bytes) },
        };
        self.at = self.section.len() - rest.len();
        self.delta_min = i64::from(raw.offset_delta) + 1;
        Ok(record)
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        if self.index == self.count {
            self.done = true;
            let bytes = self.section.len() - self.at;
            return (bytes > 0).then_some(Err(BatchError::RecordsTrailing { bytes }));
        }
        let record = self.take().map_err(|source| BatchError::Record { index: self.index, source });
        self.index += 1;
        self.done = record.is_err();
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // One more for an error at the end.
        (0, Some((self.count - self.index) as usize + 1))
    }
}

impl std::iter::FusedIterator for Records {}

/// Checks that an offset delta is in `first..=last`.
pub(crate) fn check_delta(found: i32, first: i64, last: i32) -> Result<(), RecordError> {
    if i64::from(found) < first || found > last {
        let first = i32::try_from(first).unwrap_or(i32::MAX);
        return Err(RecordError::OffsetDelta { found, first, last });
    }
    Ok(())
}

/// A record's time.
pub(crate) fn timestamp(base: TimestampMs, delta: i64) -> Result<TimestampMs, RecordError> {
    base.0.checked_add(delta).map(TimestampMs).ok_or(RecordError::Timestamp { base: base.0, delta })
}
