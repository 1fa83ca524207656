//! The frame in which records are shown to a topic's partitioner: Wasm frame v1.
//!
//! Nothing has been chosen yet, so that its input is 0, its partition -1 and its offsets count from 0; what is elided is a null value, or
//! no headers. `millstream_record::frame` says the rest.
//!
//! Whether values and headers are needed is what the topic's routing says (`needs_values`, `needs_headers`); without them
//! a frame holds the keys only, which is what most partitioners look at.

use bytes::{BufMut, Bytes, BytesMut};
use millstream_model::{Needs, TimestampMs};
use millstream_record::{
    Header,
    frame::{FLAG_HEADERS_ELIDED, FLAG_VALUES_ELIDED, FrameHeader, HEADER_BYTES},
    raw,
};

/// One record, as far as a partitioner may see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) timestamp: TimestampMs,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [Header],
}

/// Writes the frame. The caller bounds how many records and bytes there are, far below `u32::MAX`.
pub(crate) fn encode<'a>(records: impl ExactSizeIterator<Item = Shown<'a>> + Clone, needs: Needs) -> Bytes {
    let base = records.clone().next().map_or(0, |first| first.timestamp.0);
    let shown = |record: Shown<'a>| {
        let value = record.value.filter(|_| needs.values);
        let headers: &[Header] = if needs.headers { record.headers } else { &[] };
        (record.timestamp.0.wrapping_sub(base), record.key, value, headers)
    };
    let size = |(delta, key, value, headers): (i64, _, _, &'a [Header])| {
        raw::record_bytes(delta, i32::MAX, key, value, headers.iter().map(Header::as_raw))
    };
    let count = records.len();
    let room: usize = records.clone().map(|record| size(shown(record))).sum();
    let mut out = BytesMut::with_capacity(HEADER_BYTES + room);
    out.put_bytes(0, HEADER_BYTES);
    for (index, record) in records.enumerate() {
        let (delta, key, value, headers) = shown(record);
        raw::put_record(&mut out, delta, index as i32, key, value, headers.iter().map(Header::as_raw));
    }
    let header = FrameHeader {
        flags: if needs.values { 0 } else { FLAG_VALUES_ELIDED } | if needs.headers { 0 } else { FLAG_HEADERS_ELIDED },
        count: count as u32,
        record_bytes: (out.len() - HEADER_BYTES) as u32,
        input: 0,
        partition: -1,
        base_offset: 0,
        base_timestamp: base,
        columns: 0,
    };
    out[..HEADER_BYTES].copy_from_slice(&header.encode());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers() -> Vec<Header> {
        vec![Header::new("h", Some(Bytes::from_static(b"1"))), Header::new("h", None)]
    }

    fn frame(needs: Needs) -> Bytes {
        let headers = headers();
        let records = [
            Shown { timestamp: TimestampMs(1000), key: Some(b"k"), value: Some(b"value"), headers: &headers },
            Shown { timestamp: TimestampMs(990), key: None, value: None, headers: &[] },
        ];
        encode(records.into_iter(), needs)
    }

    #[test]
    fn keys_alone_have_the_contracts_bytes() {
        let lines = include_str!("../../../wit/frame-v1.txt").lines().filter_map(|line| line.strip_prefix("keys:"));
        let bytes = lines.flat_map(str::split_whitespace).map(|byte| u8::from_str_radix(byte, 16).unwrap());
        assert_eq!(&frame(Needs::default())[..], bytes.collect::<Vec<_>>());
    }

    #[test]
    fn what_is_needed_is_there_and_what_is_not_is_elided() {
        for needs in [(false, false), (true, false), (false, true), (true, true)] {
            let needs = Needs { values: needs.0, headers: needs.1 };
            let frame = frame(needs);
            let flags = u32::from_le_bytes(frame[4..8].try_into().unwrap());
            assert_eq!(
                (flags & FLAG_VALUES_ELIDED == 0, flags & FLAG_HEADERS_ELIDED == 0),
                (needs.values, needs.headers)
            );
            assert_eq!(u32::from_le_bytes(frame[12..16].try_into().unwrap()) as usize, frame.len() - HEADER_BYTES);
            let records: Vec<_> = raw::records(&frame[HEADER_BYTES..]).collect::<Result<_, _>>().unwrap();
            assert_eq!(records.len(), 2);
            assert_eq!(records[0].key, Some(&b"k"[..]));
            assert_eq!(records[0].value.is_some(), needs.values);
            assert_eq!(records[0].headers.len(), if needs.headers { 2 } else { 0 });
            assert_eq!((records[1].timestamp_delta, records[1].offset_delta), (-10, 1));
        }
    }
}
