//! Encoded records: walked, measured and written without decoding them into anything.
//!
//! A record section is the records of a batch, unpacked, one after the other. The Wasm frame holds the same bytes.
//!
//! ```text
//! | length | attributes | timestamp delta | offset delta | key | value | headers |
//! |        |<----------------------- length bytes --------------------------->|
//!                                                       |<------- tail ------->|
//! ```
//! The tail does not depend on the record's place, so a record moves to another batch by a copy of its tail.

use bytes::BufMut;

use crate::{RecordError, varint, varint::VarintError};

/// One encoded record, its parts slices of the section. Its structure was checked to the last header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// The whole record, its length prefix included.
    pub bytes: &'a [u8],
    /// Key, value and headers as encoded.
    pub tail: &'a [u8],
    /// Distance from the batch's base timestamp, milliseconds.
    pub timestamp_delta: i64,
    /// Distance from the batch's base offset. Not checked against the neighbours here.
    pub offset_delta: i32,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: RawHeaders<'a>,
}

/// A record's headers as encoded, without their count. Checked, so iterating cannot fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawHeaders<'a> {
    pub(crate) count: u32,
    pub(crate) bytes: &'a [u8],
}

/// One header: a name, which is UTF-8 from a correct producer but need not be, and a value that may be null.
pub type RawHeader<'a> = (&'a [u8], Option<&'a [u8]>);

impl<'a> RawHeaders<'a> {
    /// Checks that `bytes` are exactly `count` encoded headers.
    ///
    /// # Errors
    /// The first length that lies, or `Trailing`.
    pub fn parse(count: u32, bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut rest = bytes;
        for _ in 0..count {
            take_header(&mut rest)?;
        }
        if !rest.is_empty() {
            return Err(RecordError::Trailing { bytes: rest.len() });
        }
        Ok(Self { count, bytes })
    }

    /// How many there are; a name may come more than once.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The encoded headers, without their count.
    #[must_use]
    pub fn encoded(&self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a> IntoIterator for RawHeaders<'a> {
    type Item = RawHeader<'a>;
    type IntoIter = RawHeadersIter<'a>;

    fn into_iter(self) -> RawHeadersIter<'a> {
        RawHeadersIter { rest: self.bytes }
    }
}

/// The headers in order.
#[derive(Clone, Debug)]
pub struct RawHeadersIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for RawHeadersIter<'a> {
    type Item = RawHeader<'a>;

    fn next(&mut self) -> Option<RawHeader<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        // Checked when the headers were taken, so this does not fail.
        take_header(&mut self.rest).ok()
    }
}

/// Takes one record off the front of `section`. Allocates nothing.
///
/// # Errors
/// The first length or number that lies; `section` is then unchanged.
pub fn take_record<'a>(section: &mut &'a [u8]) -> Result<RawRecord<'a>, RecordError> {
    let whole = *section;
    let mut rest = whole;
    let body = take_counted(&mut rest, "record length", false)?.unwrap_or_default();
    let bytes = &whole[..whole.len() - rest.len()];
    let Some((_attributes, mut body)) = body.split_first() else {
        return Err(RecordError::Length { field: "record length", length: 0, remaining: rest.len() });
    };
    let timestamp_delta = varint::take_i64(&mut body).map_err(named("timestamp delta"))?;
    let offset_delta = varint::take_i32(&mut body).map_err(named("offset delta"))?;
    let tail = body;
    let key = take_counted(&mut body, "key length", true)?;
    let value = take_counted(&mut body, "value length", true)?;
    let count = varint::take_i32(&mut body).map_err(named("number of headers"))?;
    // A header takes at least the two bytes of its lengths.
    let count = u32::try_from(count)
        .ok()
        .filter(|count| *count as usize <= body.len() / 2)
        .ok_or(RecordError::Length { field: "number of headers", length: count, remaining: body.len() })?;
    let headers = RawHeaders::parse(count, body)?;
    *section = rest;
    Ok(RawRecord { bytes, tail, timestamp_delta, offset_delta, key, value, headers })
}

/// Walks over the records of a section until it ends or a record is malformed (which is the last item then).
/// Neither the number of records nor the order of offsets is checked.
pub fn records(section: &[u8]) -> RawRecords<'_> {
    RawRecords { rest: section }
}

/// See [`records`].
#[derive(Clone, Debug)]
pub struct RawRecords<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for RawRecords<'a> {
    type Item = Result<RawRecord<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = take_record(&mut self.rest);
        if record.is_err() {
            self.rest = &[];
        }
        Some(record)
    }
}

impl std::iter::FusedIterator for RawRecords<'_> {}

fn named(field: &'static str) -> impl FnOnce(VarintError) -> RecordError {
    move |source| RecordError::Varint { field, source }
}

/// Takes a length and as many bytes; a length of -1 is null where `nullable`.
fn take_counted<'a>(
    bytes: &mut &'a [u8],
    field: &'static str,
    nullable: bool,
) -> Result<Option<&'a [u8]>, RecordError> {
    let length = varint::take_i32(bytes).map_err(named(field))?;
    if length == -1 && nullable {
        return Ok(None);
    }
    let counted = usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length));
    let Some((taken, rest)) = counted else {
        return Err(RecordError::Length { field, length, remaining: bytes.len() });
    };
    *bytes = rest;
    Ok(Some(taken))
}

fn take_header<'a>(bytes: &mut &'a [u8]) -> Result<RawHeader<'a>, RecordError> {
    let name = take_counted(bytes, "header name length", false)?.unwrap_or_default();
    let value = take_counted(bytes, "header value length", true)?;
    Ok((name, value))
}

/// Bytes that [`put_record`] writes, its length prefix included.
///
/// More than `i32::MAX` cannot be encoded: the builder refuses long before.
#[must_use]
pub fn record_bytes<'h>(
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl IntoIterator<Item = RawHeader<'h>>,
) -> usize {
    let body = body_bytes(timestamp_delta, offset_delta, tail_bytes(key, value, headers));
    varint::len_u64(body as u64 * 2) + body
}

/// Writes one record.
///
/// `headers` is walked twice. The lengths must fit: [`record_bytes`] at most `i32::MAX`, which callers with a limit on a batch
/// always keep to.
pub fn put_record<'h, H>(
    out: &mut impl BufMut,
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: H,
) where
    H: IntoIterator<Item = RawHeader<'h>> + Clone,
{
    let tail = tail_bytes(key, value, headers.clone());
    put_front(out, timestamp_delta, offset_delta, tail);
    put_counted(out, key);
    put_counted(out, value);
    varint::put_i32(out, headers.clone().into_iter().count() as i32);
    for (name, value) in headers {
        put_counted(out, Some(name));
        put_counted(out, value);
    }
}

/// Bytes that [`put_moved`] writes.
#[must_use]
pub fn moved_bytes(tail: &[u8], timestamp_delta: i64, offset_delta: i32) -> usize {
    let body = body_bytes(timestamp_delta, offset_delta, tail.len());
    varint::len_u64(body as u64 * 2) + body
}

/// Writes a record at another place: its `tail` (key, value and headers) is copied as it is encoded.
pub fn put_moved(out: &mut impl BufMut, tail: &[u8], timestamp_delta: i64, offset_delta: i32) {
    put_front(out, timestamp_delta, offset_delta, tail.len());
    out.put_slice(tail);
}

fn put_front(out: &mut impl BufMut, timestamp_delta: i64, offset_delta: i32, tail: usize) {
    varint::put_u64(out, body_bytes(timestamp_delta, offset_delta, tail) as u64 * 2);
    out.put_u8(0);
    varint::put_i64(out, timestamp_delta);
    varint::put_i32(out, offset_delta);
}

fn put_counted(out: &mut impl BufMut, bytes: Option<&[u8]>) {
    match bytes {
        // Zig-zag of a length is its double, of -1 it is 1.
        Some(bytes) => {
            varint::put_u64(out, bytes.len() as u64 * 2);
            out.put_slice(bytes);
        }
        None => out.put_u8(1),
    }
}

fn body_bytes(timestamp_delta: i64, offset_delta: i32, tail: usize) -> usize {
    1 + varint::len_i64(timestamp_delta) + varint::len_i32(offset_delta) + tail
}

fn counted_bytes(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varint::len_u64(bytes.len() as u64 * 2) + bytes.len())
}

fn tail_bytes<'h>(key: Option<&[u8]>, value: Option<&[u8]>, headers: impl IntoIterator<Item = RawHeader<'h>>) -> usize {
    let (mut count, mut bytes) = (0, 0);
    for (name, value) in headers {
        count += 1;
        bytes += counted_bytes(Some(name)) + counted_bytes(value);
    }
    counted_bytes(key) + counted_bytes(value) + varint::len_u64(count * 2) + bytes
}
