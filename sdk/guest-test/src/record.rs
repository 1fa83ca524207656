//! Records as a test writes and reads them.

use bytes::Bytes;
use millstream_model::{Offset, TimestampMs};
use millstream_wasm::frame::{Emitted, FrameBuilder, FrameError, FrameOptions, InputFrame};

/// A record for a guest. Offsets are given by its place among its fellows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Its timestamp, milliseconds since 1970-01-01 UTC.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value.
    pub value: Option<Bytes>,
    /// Its headers, in order; names may repeat.
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl Record {
    /// A record with this value, no key, no headers and timestamp 0.
    #[must_use]
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// The same with this key.
    #[must_use]
    pub fn key(self, key: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// The same with one header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }

    /// The same with this timestamp, milliseconds.
    #[must_use]
    pub fn timestamp(self, timestamp: i64) -> Self {
        Self { timestamp, ..self }
    }
}

/// A record that a guest emitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Which output it is for, from 0.
    pub output: u32,
    /// The index of the record that it came from.
    pub source: usize,
    /// The partition that the guest chose, if it chose.
    pub partition: Option<i32>,
    /// The record.
    pub record: Record,
}

/// Puts records into one frame, with the offsets `first..`. None for no records.
pub(crate) fn frame(records: &[Record], first: usize, options: FrameOptions) -> Result<Option<InputFrame>, FrameError> {
    let mut builder = FrameBuilder::new(options);
    for (offset, record) in (first as i64..).zip(records) {
        let headers: Vec<_> = record.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_deref())).collect();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        builder.push(Offset(offset), TimestampMs(record.timestamp), key, value, &headers)?;
    }
    Ok(builder.take())
}

/// The records of what a call emitted, whose frame began with record `first`.
pub(crate) fn outputs(emitted: &[Emitted], first: usize) -> impl Iterator<Item = Output> {
    emitted.iter().flat_map(move |frame| {
        frame.records().map(move |record| Output {
            output: frame.output,
            source: first + record.source() as usize,
            partition: record.partition().map(|partition| partition.0),
            record: Record {
                timestamp: record.timestamp().0,
                key: record.key().map(Bytes::copy_from_slice),
                value: record.value().map(Bytes::copy_from_slice),
                headers: record
                    .headers()
                    .map(|(name, value)| (name.to_owned(), value.map(Bytes::copy_from_slice)))
                    .collect(),
            },
        })
    })
}
