//! What a module emits: records collected per output, sent to the broker a frame at a time.

use std::fmt;

use crate::frame::{COLUMN_PARTITION, COLUMN_SOURCE, FrameHeader, HEADER_BYTES};
use crate::record::{Header, Record};
use crate::varint;

/// A frame is sent once its records reach this size: inside a call's target of 128 KiB, far above what sending one costs.
const EMIT_BYTES: usize = 96 << 10;
/// A buffer that a large record has blown up past this is not kept for the next call.
const KEEP_BYTES: usize = 1 << 20;

/// Where a [`crate::Mapper`] or [`crate::Transform`] puts its records. Each remembers the record it came from.
///
/// Outputs are numbered as the deployment lists them, from 0; a view has output 0 alone. A record for an output that does not
/// exist is refused by the broker, and with it the call.
pub struct Out<'a> {
    frame: &'a FrameHeader,
    /// Of the record that is being processed: its position, and what a new record takes over from it.
    source: u32,
    offset_delta: i64,
    timestamp_ms: i64,
    buffers: Vec<Buffer>,
    emit: &'a mut dyn FnMut(u32, &[u8]),
}

/// The frame that is being collected for one output.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    output: u32,
    /// Room for the header, then records; the columns join them when the frame is sent.
    bytes: Vec<u8>,
    sources: Vec<u32>,
    partitions: Vec<i32>,
}

impl<'a> Out<'a> {
    /// `buffers` are those of an earlier call, kept for their memory; what they hold is dropped.
    pub(crate) fn new(frame: &'a FrameHeader, mut buffers: Vec<Buffer>, emit: &'a mut dyn FnMut(u32, &[u8])) -> Self {
        buffers.iter_mut().for_each(Buffer::clear);
        Out { frame, source: 0, offset_delta: 0, timestamp_ms: 0, buffers, emit }
    }

    /// Everything emitted from here on comes from `record`.
    #[inline]
    pub(crate) fn start(&mut self, record: &Record) {
        self.source = record.index;
        self.offset_delta = record.offset_delta;
        self.timestamp_ms = record.timestamp_ms();
    }

    /// Sends what has not been sent, and gives the buffers back for the next call.
    pub(crate) fn finish(mut self) -> Vec<Buffer> {
        for buffer in &mut self.buffers {
            buffer.send(self.frame, self.emit);
            if buffer.bytes.capacity() > KEEP_BYTES {
                buffer.bytes = Vec::new();
            }
        }
        self.buffers
    }

    /// Emits `record` as it is to output 0. Cheaper than building an equal one: its bytes are copied as they stand.
    pub fn forward(&mut self, record: &Record) {
        self.forward_to(0, record);
    }

    /// Emits `record` as it is to an output.
    pub fn forward_to(&mut self, output: u32, record: &Record) {
        if self.frame.log_append_time {
            // The encoded deltas are not what the record's time is made of, so the bytes cannot be reused.
            return self.to(output).like(record).value(record.value).send();
        }
        let buffer = buffer(&mut self.buffers, output);
        buffer.bytes.extend_from_slice(record.raw);
        buffer.push(self.source, -1);
        if buffer.bytes.len() >= EMIT_BYTES {
            buffer.send(self.frame, self.emit);
        }
    }

    /// Begins a new record for an output: without key, value or headers, at the time of the record that is being processed.
    /// Nothing is emitted before [`Draft::send`].
    pub fn to(&mut self, output: u32) -> Draft<'_, 'a> {
        let timestamp_ms = self.timestamp_ms;
        Draft {
            out: self,
            output,
            key: None,
            value: None,
            copied_count: 0,
            copied: &[],
            headers: Vec::new(),
            partition: -1,
            timestamp_ms,
        }
    }
}

impl fmt::Debug for Out<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Out").field("source", &self.source).finish_non_exhaustive()
    }
}

/// A record in the making; see [`Out::to`].
#[must_use = "a record is emitted by `send`"]
#[derive(Debug)]
pub struct Draft<'d, 'a> {
    out: &'d mut Out<'a>,
    output: u32,
    key: Option<&'d [u8]>,
    value: Option<&'d [u8]>,
    /// Encoded headers taken over from another record, in front of `headers`.
    copied_count: u32,
    copied: &'d [u8],
    headers: Vec<Header<'d>>,
    partition: i32,
    timestamp_ms: i64,
}

impl<'d> Draft<'d, '_> {
    /// Takes over key, headers and time of `record`; the value is left open.
    pub fn like(mut self, record: &Record<'d>) -> Self {
        self.key = record.key;
        self.copied_count = record.header_count;
        self.copied = record.headers;
        self.timestamp_ms = record.timestamp_ms();
        self
    }

    /// Sets the key. `None` is a record without one.
    pub fn key(mut self, key: impl Payload<'d>) -> Self {
        self.key = key.bytes();
        self
    }

    /// Sets the value. `None` is a tombstone.
    pub fn value(mut self, value: impl Payload<'d>) -> Self {
        self.value = value.bytes();
        self
    }

    /// Adds a header behind those that are there; names may repeat.
    pub fn header(mut self, name: &'d str, value: impl Payload<'d>) -> Self {
        self.headers.push(Header { name: name.as_bytes(), value: value.bytes() });
        self
    }

    /// Chooses the partition of the output topic, which otherwise follows from its partitioner or the key.
    pub fn partition(mut self, partition: u32) -> Self {
        // One that cannot exist stays one that cannot exist, for the broker to refuse.
        self.partition = i32::try_from(partition).unwrap_or(i32::MAX);
        self
    }

    /// Sets the record's time, in milliseconds since 1970. In a view it stays the source's whatever is set here.
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = timestamp_ms;
        self
    }

    /// Emits the record.
    pub fn send(self) {
        let frame = self.out.frame;
        let timestamp_delta = self.timestamp_ms.wrapping_sub(frame.base_timestamp);
        let offset_delta = self.out.offset_delta;
        let header_count = i64::from(self.copied_count) + self.headers.len() as i64;
        let headers: usize = self.headers.iter().map(|h| field_size(Some(h.name)) + field_size(h.value)).sum();
        let body = 1
            + varint::size(timestamp_delta)
            + varint::size(offset_delta)
            + field_size(self.key)
            + field_size(self.value)
            + varint::size(header_count)
            + self.copied.len()
            + headers;

        let buffer = buffer(&mut self.out.buffers, self.output);
        let bytes = &mut buffer.bytes;
        bytes.reserve(body + varint::size(body as i64));
        varint::write(bytes, body as i64);
        bytes.push(0);
        varint::write(bytes, timestamp_delta);
        varint::write(bytes, offset_delta);
        write_field(bytes, self.key);
        write_field(bytes, self.value);
        varint::write(bytes, header_count);
        bytes.extend_from_slice(self.copied);
        for header in &self.headers {
            write_field(bytes, Some(header.name));
            write_field(bytes, header.value);
        }
        buffer.push(self.out.source, self.partition);
        if buffer.bytes.len() >= EMIT_BYTES {
            buffer.send(frame, self.out.emit);
        }
    }
}

/// What can stand for a key or a value: bytes, text, or an option of either.
pub trait Payload<'d> {
    /// The bytes; `None` is null.
    fn bytes(self) -> Option<&'d [u8]>;
}

impl<'d> Payload<'d> for &'d [u8] {
    fn bytes(self) -> Option<&'d [u8]> {
        Some(self)
    }
}

impl<'d, const N: usize> Payload<'d> for &'d [u8; N] {
    fn bytes(self) -> Option<&'d [u8]> {
        Some(self)
    }
}

impl<'d> Payload<'d> for &'d Vec<u8> {
    fn bytes(self) -> Option<&'d [u8]> {
        Some(self)
    }
}

impl<'d> Payload<'d> for &'d str {
    fn bytes(self) -> Option<&'d [u8]> {
        Some(self.as_bytes())
    }
}

impl<'d> Payload<'d> for &'d String {
    fn bytes(self) -> Option<&'d [u8]> {
        Some(self.as_bytes())
    }
}

impl<'d, P: Payload<'d>> Payload<'d> for Option<P> {
    fn bytes(self) -> Option<&'d [u8]> {
        self.and_then(P::bytes)
    }
}

impl Buffer {
    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(HEADER_BYTES, 0);
        self.sources.clear();
        self.partitions.clear();
    }

    #[inline]
    fn push(&mut self, source: u32, partition: i32) {
        self.sources.push(source);
        // The column is only there once somebody has chosen a partition; the records before that have not.
        if partition != -1 || !self.partitions.is_empty() {
            self.partitions.resize(self.sources.len() - 1, -1);
            self.partitions.push(partition);
        }
    }

    /// Completes the frame, sends it and starts an empty one. An empty frame is not sent.
    fn send(&mut self, frame: &FrameHeader, emit: &mut dyn FnMut(u32, &[u8])) {
        if self.sources.is_empty() {
            return;
        }
        let columns = COLUMN_SOURCE | if self.partitions.is_empty() { 0 } else { COLUMN_PARTITION };
        // What is built here has its times as deltas, wherever its source's time came from.
        let header = FrameHeader {
            log_append_time: false,
            count: self.sources.len() as u32,
            record_bytes: (self.bytes.len() - HEADER_BYTES) as u32,
            columns,
            ..frame.clone()
        };
        header.write(&mut self.bytes);
        self.bytes.extend(self.sources.iter().flat_map(|source| source.to_le_bytes()));
        self.bytes.extend(self.partitions.iter().flat_map(|partition| partition.to_le_bytes()));
        emit(self.output, &self.bytes);
        self.clear();
    }
}

/// The buffer of an output, made on first use. Deployments have a handful of outputs.
#[inline]
fn buffer(buffers: &mut Vec<Buffer>, output: u32) -> &mut Buffer {
    let at = match buffers.iter().position(|buffer| buffer.output == output) {
        Some(at) => at,
        None => {
            let mut buffer = Buffer { output, ..Buffer::default() };
            buffer.clear();
            buffers.push(buffer);
            buffers.len() - 1
        }
    };
    &mut buffers[at]
}

fn field_size(field: Option<&[u8]>) -> usize {
    match field {
        Some(bytes) => varint::size(bytes.len() as i64) + bytes.len(),
        None => varint::size(-1),
    }
}

fn write_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        Some(bytes) => {
            varint::write(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
        None => varint::write(out, -1),
    }
}
