//! Properties of frames: what is built is read back, and no bytes at all make the parser panic or believe a lie.

use bytes::Bytes;
use millstream_model::{Offset, PartitionId, TimestampMs};
use proptest::prelude::*;

use super::*;

type Parts = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

fn records() -> impl Strategy<Value = Vec<Parts>> {
    let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    let headers = prop::collection::vec(("[a-z]{0,5}", bytes()), 0..3);
    prop::collection::vec((1i64..5, -1000i64..1000, bytes(), bytes(), headers), 1..20)
}

fn build(records: &[Parts], options: FrameOptions) -> InputFrame {
    let mut builder = FrameBuilder::new(options);
    let mut offset = 1 << 40;
    for (gap, timestamp, key, value, headers) in records {
        offset += gap;
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_deref())).collect();
        let (key, value) = (key.as_deref(), value.as_deref());
        builder.push(Offset(offset), TimestampMs(1_700_000_000_000 + timestamp), key, value, &headers).unwrap();
    }
    builder.take().unwrap()
}

fn check_same(frame: &InputFrame, records: &[Parts]) {
    let mut offset = 1 << 40;
    assert_eq!(frame.count() as usize, records.len());
    for (index, (gap, timestamp, key, value, headers)) in (0..).zip(records) {
        offset += gap;
        assert_eq!(frame.offset(index), Some(Offset(offset)));
        assert_eq!(frame.timestamp(index), Some(TimestampMs(1_700_000_000_000 + timestamp)));
        assert_eq!(frame.key(index), key.as_deref());
        assert_eq!(frame.value(index), value.as_deref());
        let got: Vec<_> = frame.raw(index).unwrap().headers.into_iter().collect();
        let want: Vec<_> = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_deref())).collect();
        assert_eq!(got, want);
    }
    assert_eq!(frame.offset(frame.count()), None);
}

#[test]
fn calls_are_of_a_size_and_hold_every_record_once() {
    let frame = |records: &[usize]| {
        let parts = |bytes: &usize| (1, 0, None, Some(vec![0; *bytes]), Vec::new());
        build(&records.iter().map(parts).collect::<Vec<_>>(), FrameOptions::default())
    };
    let half = FRAME_BYTES_TARGET / 2;
    let records = [1, 1, half, half, 3 * half, 1, 1];
    assert_eq!(frame(&records).calls(), [0..3, 3..4, 4..5, 5..7]);
    assert_eq!(frame(&records[..1]).calls(), [std::ops::Range { start: 0, end: 1 }]);
}

/// A frame of the contract's examples.
fn golden(name: &str) -> Vec<u8> {
    let lines = include_str!("../../../../wit/frame-v1.txt").lines().filter_map(|line| line.strip_prefix(name));
    lines.flat_map(str::split_whitespace).map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

#[test]
fn frames_have_the_contracts_bytes() {
    let mut builder =
        FrameBuilder::new(FrameOptions { input: 7, partition: PartitionId(5), ..FrameOptions::default() });
    builder.push(Offset(100), TimestampMs(1000), Some(b"k"), Some(b"v1"), &[]).unwrap();
    builder.push(Offset(101), TimestampMs(1010), None, Some(b"v2"), &[(b"h", Some(b"x"))]).unwrap();
    builder.push(Offset(103), TimestampMs(1020), Some(b"k"), None, &[]).unwrap();
    let input = builder.take().unwrap();
    assert_eq!(input.bytes()[..], golden("in:"));

    let rules = OutputRules::transform(vec![4]);
    let emitted = Checker::new(&input, &rules, 100).check(0, golden("out:").into()).unwrap();
    let records: Vec<_> =
        emitted.records().map(|r| (r.source(), r.partition(), r.timestamp().0, r.key(), r.value())).collect();
    let made = (0, Some(PartitionId(2)), 1000, Some(&b"k"[..]), Some(&b"w"[..]));
    assert_eq!(records, [made, (1, None, 1010, None, Some(&b"v2"[..]))]);

    let keys = InputFrame::parse(golden("keys:").into(), 2).unwrap();
    assert_eq!(keys.header().flags, FLAG_VALUES_ELIDED | FLAG_HEADERS_ELIDED);
    let shown = |at| (keys.key(at), keys.value(at), keys.timestamp(at));
    assert_eq!(shown(0), (Some(&b"k"[..]), None, Some(TimestampMs(1000))));
    assert_eq!(shown(1), (None, None, Some(TimestampMs(990))));
}

proptest! {
    #[test]
    fn what_is_built_is_parsed_back(records in records()) {
        let frame = build(&records, FrameOptions { input: 3, partition: PartitionId(7), ..FrameOptions::default() });
        let parsed = InputFrame::parse(frame.bytes().clone(), 100).unwrap();
        prop_assert_eq!(parsed.header(), frame.header());
        prop_assert_eq!(parsed.header().input, 3);
        check_same(&frame, &records);
        check_same(&parsed, &records);
    }

    #[test]
    fn a_slice_is_the_frame_of_its_records(records in records(), from in 0usize..20, to in 0usize..20) {
        let (from, to) = (from.min(to).min(records.len()), to.max(from).min(records.len()));
        let frame = build(&records, FrameOptions::default());
        let slice = frame.slice(from as u32..to as u32);
        let parsed = InputFrame::parse(slice.bytes().clone(), 100).unwrap();
        for (index, at) in (from as u32..to as u32).enumerate() {
            let want = frame.raw(at).unwrap();
            for sliced in [&slice, &parsed] {
                prop_assert_eq!(sliced.offset(index as u32), frame.offset(at));
                prop_assert_eq!(sliced.timestamp(index as u32), frame.timestamp(at));
                prop_assert_eq!(sliced.value(index as u32), frame.value(at));
                let got = sliced.raw(index as u32).unwrap();
                prop_assert_eq!(got.tail, want.tail);
            }
        }
        prop_assert_eq!(slice.count() as usize, to - from);
    }

    #[test]
    fn three_ways_to_push_a_record_are_one(records in records(), elide_values: bool, elide_headers: bool) {
        let whole = build(&records, FrameOptions::default());
        let options = FrameOptions { elide_values, elide_headers, ..FrameOptions::default() };
        let want = build(&records, options);
        let (mut raw, mut encoded) = (FrameBuilder::new(options), FrameBuilder::new(options));
        for index in 0..whole.count() {
            let (offset, timestamp) = (whole.offset(index).unwrap(), whole.timestamp(index).unwrap());
            let record = whole.raw(index).unwrap();
            raw.push_raw(offset, timestamp, &record).unwrap();
            encoded.push_encoded(offset, timestamp, record.tail).unwrap();
        }
        prop_assert_eq!(raw.take().unwrap().bytes().clone(), want.bytes().clone());
        prop_assert_eq!(encoded.take().unwrap().bytes().clone(), want.bytes().clone());
        let flags = want.header().flags;
        prop_assert_eq!(flags & FLAG_VALUES_ELIDED != 0, elide_values);
        prop_assert_eq!(flags & FLAG_HEADERS_ELIDED != 0, elide_headers);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(records in records(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), cut: prop::sample::Index) {
        let mut bytes = build(&records, FrameOptions::default()).bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Ok(frame) = InputFrame::parse(bytes.into(), 100) {
            for index in 0..frame.count() {
                let _ = (frame.offset(index), frame.timestamp(index), frame.key(index), frame.raw(index));
            }
            let input = build(&records, FrameOptions::default());
            let rules = OutputRules::view();
            let _ = Checker::new(&input, &rules, 1000).check(0, frame.bytes().clone());
        }
    }

    #[test]
    fn no_output_makes_the_checker_panic(records in records(), noise in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index) {
        let input = build(&records, FrameOptions::default());
        let header = FrameHeader { columns: COLUMN_SOURCE, ..*input.header() };
        let mut bytes = [&header.encode(), &input.bytes()[HEADER_BYTES..]].concat();
        bytes.extend((0..input.count()).flat_map(u32::to_le_bytes));
        let at = at.index(bytes.len());
        let end = (at + noise.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&noise[..end - at]);
        for rules in [OutputRules::view(), OutputRules::transform(vec![3])] {
            if let Ok(emitted) = Checker::new(&input, &rules, 1000).check(0, Bytes::from(bytes.clone())) {
                for record in emitted.records() {
                    assert!(record.source() < input.count() && record.raw().tail == &*record.tail());
                    let _ = (record.key(), record.value(), record.headers().count(), record.timestamp());
                }
            }
        }
    }
}

/// The layout at the top of `frame`, byte for byte: a guest of any language relies on it.
#[test]
fn the_bytes_of_a_frame_are_these() {
    let options = FrameOptions { input: 2, partition: PartitionId(5), elide_headers: true, ..FrameOptions::default() };
    let mut builder = FrameBuilder::new(options);
    builder.push(Offset(0x0102), TimestampMs(0x0304), Some(b"k"), None, &[(b"h", None)]).unwrap();
    builder.push(Offset(0x0105), TimestampMs(0x0300), None, Some(b"vv"), &[]).unwrap();
    let want: &[u8] = &[
        1, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 19, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, // to partition
        2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 48, 0, 0, 0, // to header bytes
        14, 0, 0, 0, 2, b'k', 1, 0, // length 7
        16, 0, 7, 6, 1, 4, b'v', b'v', 0, // length 8
    ];
    let frame = builder.take().unwrap();
    let length = (want.len() - HEADER_BYTES) as u8;
    let mut want = want.to_vec();
    want[12] = length;
    assert_eq!(frame.bytes(), &want);
    assert!(builder.take().is_none());
}

#[test]
fn offsets_must_grow_and_stay_near() {
    let mut builder = FrameBuilder::new(FrameOptions::default());
    let mut push = |offset, timestamp| builder.push(Offset(offset), TimestampMs(timestamp), None, None, &[]);
    push(10, 0).unwrap();
    for (offset, timestamp) in [(10, 0), (9, 0), (10 + (1 << 31), 0), (i64::MIN, 0)] {
        assert!(matches!(push(offset, timestamp), Err(FrameError::Record { index: 1, .. })), "{offset}");
    }
    push(11, i64::MAX).unwrap();
    assert!(push(12, i64::MIN).is_ok(), "the distance to 0 fits");
    assert_eq!(builder.take().unwrap().timestamp(2), Some(TimestampMs(i64::MIN)));
}

#[test]
fn log_append_time_is_the_base_timestamp() {
    let mut builder = FrameBuilder::new(FrameOptions::default());
    builder.push(Offset(1), TimestampMs(100), None, None, &[]).unwrap();
    builder.push(Offset(2), TimestampMs(200), None, None, &[]).unwrap();
    let frame = builder.take().unwrap();
    let header = FrameHeader { flags: FLAG_LOG_APPEND_TIME, ..*frame.header() };
    let bytes = [&header.encode(), &frame.bytes()[HEADER_BYTES..]].concat();
    let frame = InputFrame::parse(bytes.into(), 10).unwrap();
    assert_eq!(frame.timestamp(1), Some(TimestampMs(100)));
}

#[test]
fn a_client_may_not_send_columns_or_too_many_records() {
    let mut builder = FrameBuilder::new(FrameOptions::default());
    for offset in 0..3 {
        builder.push(Offset(offset), TimestampMs(0), None, None, &[]).unwrap();
    }
    let frame = builder.take().unwrap();
    assert_eq!(InputFrame::parse(frame.bytes().clone(), 2).err(), Some(FrameError::Count { count: 3, max: 2 }));
    let header = FrameHeader { columns: COLUMN_SOURCE, ..*frame.header() };
    let bytes = [&header.encode(), &frame.bytes()[HEADER_BYTES..], &[0; 12]].concat();
    let refused = InputFrame::parse(bytes.into(), 10).err();
    assert_eq!(refused, Some(FrameError::Field { field: "columns", value: 1 }));
}
