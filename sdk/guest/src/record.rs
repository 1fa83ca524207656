//! The records of the frame at hand, borrowed from it.

use crate::failure::Failure;
use crate::frame::FrameHeader;
use crate::varint;

/// A record as the topic holds it; nothing of it is copied.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub(crate) frame: &'a FrameHeader,
    /// Position in the frame.
    pub(crate) index: u32,
    /// All its bytes, the length in front included.
    pub(crate) raw: &'a [u8],
    pub(crate) timestamp_delta: i64,
    pub(crate) offset_delta: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) header_count: u32,
    /// The encoded headers, without their count.
    pub(crate) headers: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads the record at the start of `bytes`; also returns what follows it. `None` if it is malformed.
    #[inline]
    pub(crate) fn parse(frame: &'a FrameHeader, index: u32, bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (length, body) = varint::read(bytes)?;
        let (body, rest) = body.split_at_checked(usize::try_from(length).ok()?)?;
        let raw = &bytes[..bytes.len() - rest.len()];
        let (_attributes, body) = body.split_first()?;
        let (timestamp_delta, body) = varint::read(body)?;
        let (offset_delta, body) = varint::read(body)?;
        let (key, body) = nullable(body)?;
        let (value, body) = nullable(body)?;
        let (header_count, headers) = varint::read(body)?;
        let header_count = u32::try_from(header_count).ok()?;
        Some((Record { frame, index, raw, timestamp_delta, offset_delta, key, value, header_count, headers }, rest))
    }

    /// The key; `None` for a record without one.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The value; `None` for a record without one (a tombstone), and in a [`crate::Partitioner`] that did not ask for values.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// The headers in their order, repeated names included. None in a [`crate::Partitioner`] that did not ask for them.
    pub fn headers(&self) -> Headers<'a> {
        Headers { left: self.header_count, bytes: self.headers }
    }

    /// The value of the first header called `name`: `None` if there is no such header or its value is null.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|header| header.name == name.as_bytes())?.value
    }

    /// The record's time in milliseconds since 1970: the producer's, or the broker's if the topic says so.
    pub fn timestamp_ms(&self) -> i64 {
        if self.frame.log_append_time {
            self.frame.base_timestamp
        } else {
            self.frame.base_timestamp.wrapping_add(self.timestamp_delta)
        }
    }

    /// Its offset in its partition. A record that is being routed has none yet, and shows its position in the call.
    pub fn offset(&self) -> i64 {
        self.frame.base_offset.wrapping_add(self.offset_delta)
    }

    /// The partition that it was read from; -1 while it is being routed.
    pub fn partition(&self) -> i32 {
        self.frame.partition
    }

    /// Which of [`crate::Params::inputs`] it was read from.
    pub fn input(&self) -> u32 {
        self.frame.input
    }
}

/// Hands each record of a frame to `each`, in order.
///
/// # Errors
/// What `each` returns, with the position of its record; a malformed frame, without one.
#[inline]
pub(crate) fn for_each_record<'a>(
    header: &'a FrameHeader,
    body: &'a [u8],
    mut each: impl FnMut(&Record<'a>) -> Result<(), Failure>,
) -> Result<(), (Option<u32>, Failure)> {
    let mut rest = &body[..header.record_bytes as usize];
    for index in 0..header.count {
        let Some((record, after)) = Record::parse(header, index, rest) else {
            let message = format_args!("record {index} of {} in the frame is malformed", header.count);
            return Err((None, Failure::stop(message)));
        };
        each(&record).map_err(|failure| (Some(index), failure))?;
        rest = after;
    }
    if rest.is_empty() { Ok(()) } else { Err((None, Failure::stop("bytes follow the last record of the frame"))) }
}

/// A header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name. Kafka says UTF-8; nobody has checked.
    pub name: &'a [u8],
    /// The value, which may be null.
    pub value: Option<&'a [u8]>,
}

/// Iterates over a record's headers.
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    left: u32,
    bytes: &'a [u8],
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (name, rest) = nullable(self.bytes)?;
        let (value, rest) = nullable(rest)?;
        self.bytes = rest;
        Some(Header { name: name?, value })
    }
}

/// A length, -1 for null, and that many bytes; also returns what follows.
#[inline]
fn nullable(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, rest) = varint::read(bytes)?;
    if length == -1 {
        return Some((None, rest));
    }
    let (field, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((Some(field), rest))
}
