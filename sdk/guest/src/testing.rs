//! Runs a module's methods in a plain `cargo test`: the same frames as in the broker, without Wasm.
//!
//! ```
//! use millstream_guest::testing::{self, Input};
//! # use millstream_guest::{Failure, Filter, Params, Record};
//! # struct Keyed;
//! # impl Filter for Keyed {
//! #     fn init(_: &Params) -> Result<Self, Failure> { Ok(Keyed) }
//! #     fn keep(&self, record: &Record) -> Result<bool, Failure> { Ok(record.key().is_some()) }
//! # }
//! let kept = testing::filter::<Keyed>(&[], &[Input::new("value"), Input::new("value").key("k")]);
//! assert_eq!(kept, Ok(vec![false, true]));
//! ```

use crate::failure::Failure;
use crate::frame::{COLUMN_PARTITION, COLUMN_SOURCE, FrameHeader, HEADER_BYTES};
use crate::module::{Filter, Mapper, Partitioner, Transform};
use crate::out::Out;
use crate::params::{Param, Params};
use crate::record::{Record, for_each_record};
use crate::rt;

/// Offset and time of the first record of every frame here; the records that follow count up from them.
pub const BASE_OFFSET: i64 = 1_000;
/// See [`BASE_OFFSET`]; milliseconds.
pub const BASE_TIMESTAMP_MS: i64 = 1_357_000_000_000;

/// A record for a module to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Input {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Input {
    /// A record with a value, and neither key nor headers.
    pub fn new(value: impl AsRef<[u8]>) -> Self {
        Input { value: Some(value.as_ref().to_owned()), ..Input::default() }
    }

    /// A record without a value.
    pub fn tombstone() -> Self {
        Input::default()
    }

    /// Sets the key.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(key.as_ref().to_owned());
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.as_bytes().to_owned(), Some(value.as_ref().to_owned())));
        self
    }
}

/// A record that a module has emitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// The output's number.
    pub output: u32,
    /// The position of the input record that it came from.
    pub source: usize,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// Names and values of the headers.
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// The time, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The partition that the module has chosen.
    pub partition: Option<u32>,
}

impl Emitted {
    /// The value as text, for comparing with one; empty if there is none or it is no text.
    pub fn text(&self) -> &str {
        self.value.as_deref().and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default()
    }
}

/// What [`Filter::keep`] says about each record.
///
/// # Errors
/// The failure of `init` or of the first record that is refused.
pub fn filter<T: Filter>(params: &[(&str, &str)], records: &[Input]) -> Result<Vec<bool>, Failure> {
    let module = T::init(&given(params, &[], T::PARAMS)?)?;
    let bits = rt::select(&module, &frame(records)).map_err(failure)?;
    Ok((0..records.len()).map(|index| bits[index / 8] & (1 << (index % 8)) != 0).collect())
}

/// What [`Partitioner::partition`] says about each record. As in a broker, it sees only what it asked for.
///
/// # Errors
/// The failure of `init` or of the first record that is refused.
pub fn partitioner<T: Partitioner>(
    params: &[(&str, &str)],
    records: &[Input],
    partitions: u32,
) -> Result<Vec<Option<u32>>, Failure> {
    let module = T::init(&given(params, &[], T::PARAMS)?)?;
    let seen: Vec<Input> = records
        .iter()
        .map(|record| Input {
            key: record.key.clone(),
            value: record.value.clone().filter(|_| T::NEEDS.value),
            headers: if T::NEEDS.headers { record.headers.clone() } else { Vec::new() },
        })
        .collect();
    let chosen = rt::assign(&module, &frame(&seen), partitions).map_err(failure)?;
    Ok(chosen.into_iter().map(|partition| u32::try_from(partition).ok()).collect())
}

/// What [`Mapper::map`] emits.
///
/// # Errors
/// The failure of `init` or of the first record that is refused.
pub fn mapper<T: Mapper>(params: &[(&str, &str)], records: &[Input]) -> Result<Vec<Emitted>, Failure> {
    let module = T::init(&given(params, &[], T::PARAMS)?)?;
    let mut emitted = Vec::new();
    rt::map(&module, &frame(records), &mut |output, frame| emitted.extend(emitted_records(output, frame)))
        .map_err(failure)?;
    Ok(emitted)
}

/// What [`Transform::process`] emits, with as many outputs as `outputs` names.
///
/// # Errors
/// The failure of `init` or of the first record that is refused.
pub fn transform<T: Transform>(
    params: &[(&str, &str)],
    outputs: &[&str],
    records: &[Input],
) -> Result<Vec<Emitted>, Failure> {
    let module = T::init(&given(params, outputs, T::PARAMS)?)?;
    let mut emitted = Vec::new();
    rt::process(&module, &frame(records), &mut |output, frame| emitted.extend(emitted_records(output, frame)))
        .map_err(failure)?;
    Ok(emitted)
}

fn given(params: &[(&str, &str)], outputs: &[&str], declared: &[Param]) -> Result<Params, Failure> {
    let values = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let outputs = outputs.iter().map(|name| (*name).to_owned()).collect();
    Params { inputs: vec!["input".to_owned()], outputs, values, host: Vec::new() }.complete(declared)
}

fn failure(wire: rt::WireFailure) -> Failure {
    match wire.code {
        1 => Failure::config(wire.message),
        2 => Failure::record(wire.message),
        _ => Failure::stop(wire.message),
    }
}

/// An input frame. An input frame differs from an output frame in its columns, so the writer of the one makes the other.
fn frame(records: &[Input]) -> Vec<u8> {
    let base = FrameHeader {
        log_append_time: false,
        count: 0,
        record_bytes: 0,
        input: 0,
        partition: 0,
        base_offset: BASE_OFFSET,
        base_timestamp: BASE_TIMESTAMP_MS,
        columns: 0,
    };
    let mut encoded = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let mut one = Vec::new();
        let mut emit = |_: u32, frame: &[u8]| one.extend_from_slice(records_of(frame));
        let mut out = Out::new(&base, Vec::new(), &mut emit);
        out.start(&Record {
            frame: &base,
            index: index as u32,
            raw: &[],
            timestamp_delta: index as i64,
            offset_delta: index as i64,
            key: None,
            value: None,
            header_count: 0,
            headers: &[],
        });
        let mut draft = out.to(0).key(record.key.as_ref()).value(record.value.as_ref());
        for (name, value) in &record.headers {
            draft = draft.header(std::str::from_utf8(name).unwrap_or_default(), value.as_ref());
        }
        draft.send();
        drop(out.finish());
        encoded.append(&mut one);
    }
    let mut frame = vec![0; HEADER_BYTES];
    frame.append(&mut encoded);
    let header = FrameHeader { count: records.len() as u32, record_bytes: (frame.len() - HEADER_BYTES) as u32, ..base };
    header.write(&mut frame);
    frame
}

/// The records of a frame that this library has written.
fn records_of(frame: &[u8]) -> &[u8] {
    FrameHeader::parse(frame).map(|(header, body)| &body[..header.record_bytes as usize]).unwrap_or_default()
}

/// Reads back a frame that this library has written, without trusting it: tests are to find out if it wrote nonsense.
#[expect(clippy::panic, reason = "a frame that does not parse is a bug of this library, and this runs in tests alone")]
fn emitted_records(output: u32, frame: &[u8]) -> Vec<Emitted> {
    let parsed = FrameHeader::parse(frame).and_then(|(header, body)| {
        let (columns, rest) = body[header.record_bytes as usize..].as_chunks::<4>();
        let count = header.count as usize;
        let columns_expected = if header.columns & COLUMN_PARTITION == 0 { count } else { 2 * count };
        if header.columns & COLUMN_SOURCE == 0 || columns.len() != columns_expected || !rest.is_empty() {
            return Err(Failure::stop("the columns do not match the records"));
        }
        let mut emitted = Vec::new();
        for_each_record(&header, body, |record| {
            let at = record.index as usize;
            emitted.push(Emitted {
                output,
                source: u32::from_le_bytes(columns[at]) as usize,
                key: record.key().map(<[u8]>::to_owned),
                value: record.value().map(<[u8]>::to_owned),
                headers: record.headers().map(|h| (h.name.to_owned(), h.value.map(<[u8]>::to_owned))).collect(),
                timestamp_ms: record.timestamp_ms(),
                partition: columns.get(count + at).and_then(|bytes| u32::try_from(i32::from_le_bytes(*bytes)).ok()),
            });
            Ok(())
        })
        .map_err(|(_, failure)| failure)?;
        Ok(emitted)
    });
    parsed.unwrap_or_else(|failure| panic!("an emitted frame does not parse: {failure}"))
}
