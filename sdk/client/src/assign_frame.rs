//! The frame in which records are shown to a topic's partitioner: Wasm frame v1, written here as the broker reads it.
//!
//! Little-endian, a header of 48 bytes, then the records as in a Kafka v2 batch, without a batch around them:
//!
//! ```text
//!  0 u16 version = 1      2 u16 kind = 0 (records)     4 u32 flags: 2 values elided, 4 headers elided
//!  8 u32 count           12 u32 bytes of the records  16 u32 input = 0     20 s32 partition = -1 (not chosen yet)
//! 24 s64 base offset = 0 (none yet)                   32 s64 base timestamp, the first record's
//! 40 u32 columns = 0     44 u32 bytes of the header = 48
//! 48 records: what is elided is a null value, no headers
//! ```
//!
//! Whether values and headers are needed is what the topic's routing says (`needs_values`, `needs_headers`); without them
//! a frame holds the keys only, which is what most partitioners look at.

use bytes::{BufMut, Bytes, BytesMut};
use millstream_model::{Needs, TimestampMs};
use millstream_record::{Header, raw};

/// One record, as far as a partitioner may see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) timestamp: TimestampMs,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [Header],
}

const VERSION: u16 = 1;
const KIND_RECORDS: u16 = 0;
const VALUES_ELIDED: u32 = 2;
const HEADERS_ELIDED: u32 = 4;
const HEADER_BYTES: usize = 48;

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
    let record_bytes = out.len() - HEADER_BYTES;
    let flags = if needs.values { 0 } else { VALUES_ELIDED } | if needs.headers { 0 } else { HEADERS_ELIDED };
    let mut header = &mut out[..HEADER_BYTES];
    header.put_u16_le(VERSION);
    header.put_u16_le(KIND_RECORDS);
    header.put_u32_le(flags);
    header.put_u32_le(count as u32);
    header.put_u32_le(record_bytes as u32);
    header.put_u32_le(0);
    header.put_i32_le(-1);
    header.put_i64_le(0);
    header.put_i64_le(base);
    header.put_u32_le(0);
    header.put_u32_le(HEADER_BYTES as u32);
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
    fn keys_alone_have_these_bytes() {
        let expected = [
            &[1, 0, 0, 0, 6, 0, 0, 0, 2, 0, 0, 0, 16, 0, 0, 0][..],
            &[0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0],
            &[232, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 48, 0, 0, 0],
            // length 7: attributes, time 0, offset 0, key "k", value null, no headers
            &[14, 0, 0, 0, 2, b'k', 1, 0],
            // length 6: attributes, time -10, offset 1, key null, value null, no headers
            &[12, 0, 19, 2, 1, 1, 0],
        ]
        .concat();
        let mut expected = expected;
        expected[12] = 15;
        assert_eq!(&frame(Needs::default())[..], expected);
    }

    #[test]
    fn what_is_needed_is_there_and_what_is_not_is_elided() {
        for needs in [(false, false), (true, false), (false, true), (true, true)] {
            let needs = Needs { values: needs.0, headers: needs.1 };
            let frame = frame(needs);
            let flags = u32::from_le_bytes(frame[4..8].try_into().unwrap());
            assert_eq!((flags & VALUES_ELIDED == 0, flags & HEADERS_ELIDED == 0), (needs.values, needs.headers));
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
