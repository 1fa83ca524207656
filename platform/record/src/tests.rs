//! What a batch is, byte by byte; that what is built is read back; and that no lie is believed.

use bytes::{Bytes, BytesMut};
use millstream_model::{
    LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs, limits::TIMESTAMP_MS_MAX,
};
use proptest::{collection::vec, option, prelude::*};

use super::*;

const LIMIT: usize = 1 << 20;

/// Two records, written down by hand from the format's description; its CRC from a bitwise CRC-32C.
const GOLDEN: &[u8] = &[
    0, 0, 0, 0, 0, 0, 0, 0, // base offset
    0, 0, 0, 75, // length: 49 and the records' 26
    0xff, 0xff, 0xff, 0xff, // leader epoch -1
    2,    // magic
    0x71, 0x8a, 0x83, 0xf8, // CRC-32C
    0, 0, // attributes
    0, 0, 0, 1, // last offset delta
    0, 0, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0x00, // base timestamp 1700000000000
    0, 0, 0x01, 0x8b, 0xcf, 0xe5, 0x69, 0x2c, // max timestamp, 300 later
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // producer id -1
    0xff, 0xff, // producer epoch -1
    0xff, 0xff, 0xff, 0xff, // base sequence -1
    0, 0, 0, 2, // count
    // length 10: attributes, deltas 0 and 0, key "k", value "val", no headers
    20, 0, 0, 0, 2, b'k', 6, b'v', b'a', b'l', 0, //
    // length 14: attributes, deltas 300 and 1, null key, empty value, headers h=x and h=null
    28, 0, 0xd8, 0x04, 2, 1, 0, 4, 2, b'h', 2, b'x', 2, b'h', 1,
];

type Content = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<Header>);

fn header(name: &str, value: Option<&str>) -> Header {
    Header::new(name.to_owned(), value.map(|value| Bytes::copy_from_slice(value.as_bytes())))
}

fn build(options: BatchOptions, records: &[Content]) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    for (timestamp, key, value, headers) in records {
        let size = builder.size_with(TimestampMs(*timestamp), key.as_deref(), value.as_deref(), headers);
        builder.push(TimestampMs(*timestamp), key.as_deref(), value.as_deref(), headers).unwrap();
        assert_eq!(builder.size_estimate(), size);
    }
    builder.build().unwrap()
}

fn small() -> Bytes {
    build(
        BatchOptions::default(),
        &[
            (1_700_000_000_000, Some(b"k".into()), Some(b"val".into()), vec![]),
            (1_700_000_000_300, None, Some(vec![]), vec![header("h", Some("x")), header("h", None)]),
        ],
    )
}

#[test]
fn a_crc_covers_all_of_its_batch_but_what_brokers_set_and_nothing_behind() {
    let batch = small();
    let header = BatchHeader::parse(&batch).unwrap();
    assert!(header.crc_matches(&batch) && header.crc_matches(&[&batch[..], b"the next"].concat()));
    for at in 0..batch.len() {
        assert!(!header.crc_matches(&batch[..at]), "cut at {at}");
        let mut changed = batch.to_vec();
        changed[at] ^= 1;
        assert_eq!(header.crc_matches(&changed), at < PATCH_BYTES, "byte {at}");
    }
}

/// Changes an encoded batch and sets its CRC right again, so that only the lie itself can be found.
fn lie(batch: &Bytes, change: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut bytes = batch.to_vec();
    change(&mut bytes);
    let crc = crc32c(&bytes[PATCH_BYTES..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// A batch whose record section is `section`, its length and CRC right, its count and deltas as given.
fn with_section(section: &[u8], count: i32, attributes: u16) -> Bytes {
    let mut bytes = small()[..HEADER_BYTES].to_vec();
    bytes.extend_from_slice(section);
    let length = (bytes.len() - PREFIX_BYTES) as i32;
    lie(&bytes.into(), |bytes| {
        put(bytes, 8, &length.to_be_bytes());
        put(bytes, 21, &attributes.to_be_bytes());
        put(bytes, 23, &(count - 1).max(0).to_be_bytes());
        // The latest record's time is the base's, as in all sections that are sound.
        let base: [u8; 8] = bytes[27..35].try_into().unwrap();
        put(bytes, 35, &base);
        put(bytes, 57, &count.to_be_bytes());
    })
}

/// What an append says of the bytes.
fn append(bytes: &Bytes) -> Result<(), BatchError> {
    Batch::parse_one(bytes.clone())?.validate_for_append()
}

fn read(bytes: &Bytes) -> Result<Vec<Record>, BatchError> {
    Batch::parse_one(bytes.clone())?.records(LIMIT)?.collect()
}

fn contents(records: &[Record]) -> Vec<Content> {
    let bytes = |part: &Option<Bytes>| part.as_ref().map(|part| part.to_vec());
    records.iter().map(|r| (r.timestamp.0, bytes(&r.key), bytes(&r.value), r.headers.iter().collect())).collect()
}

#[test]
fn golden_bytes() {
    assert_eq!(small(), GOLDEN);
    assert_eq!(append(&Bytes::from_static(GOLDEN)), Ok(()));
}

#[test]
fn a_batch_is_taken_off_a_buffer_without_a_copy() {
    let both = Bytes::from([&small()[..], &small()[..]].concat());
    let (batch, rest) = Batch::parse(both.clone()).unwrap();
    assert_eq!((batch.bytes(), &rest), (&small(), &small()));
    assert_eq!(batch.bytes().as_ptr(), both.as_ptr());
    let records: Vec<_> = batch.records(0).unwrap().map(Result::unwrap).collect();
    assert_eq!(records[0].key.as_ref().unwrap(), "k");
    let range = both.as_ptr_range();
    assert!(range.contains(&records[0].value.as_ref().unwrap().as_ptr()));
    assert_eq!(records[1].timestamp, TimestampMs(1_700_000_000_300));
    assert_eq!(records[1].value.as_ref().unwrap().len(), 0);
    let headers: Vec<_> = records[1].headers.iter().collect();
    assert_eq!(headers, [header("h", Some("x")), header("h", None)]);
    assert_eq!((headers[0].key_str(), records[1].headers.len()), (Ok("h"), 2));
}

#[test]
fn records_are_counted_by_headers_and_the_brokers_own_are_none() {
    let control = build(BatchOptions { control: true, ..BatchOptions::default() }, &[(0, None, None, vec![])]);
    let check = |batches: &[&[u8]], expected: u64| assert_eq!(count_records(&batches.concat()), expected);
    check(&[], 0);
    check(&[&small()], 2);
    check(&[&small(), &control, &small(), &small()], 6);
    // What is cut off, or no batch, ends the count.
    check(&[&small(), &small()[..HEADER_BYTES]], 4);
    check(&[&small(), &small()[..HEADER_BYTES - 1]], 2);
    check(&[&small(), &[0; 100], &small()], 2);
}

#[test]
fn a_patch_changes_offset_and_epoch_only_and_keeps_the_crc() {
    let mut bytes = small().to_vec();
    patch(&mut bytes, Offset(1 << 40), LeaderEpoch(7)).unwrap();
    let batch = Batch::parse_one(bytes.clone().into()).unwrap();
    batch.verify_crc().unwrap();
    assert_eq!(batch.header().last_offset(), Offset((1 << 40) + 1));
    assert_eq!(batch.header().end_offset(), Offset((1 << 40) + 2));
    assert_eq!(batch.header().partition_leader_epoch, LeaderEpoch(7));
    assert_eq!(batch.records(0).unwrap().last().unwrap().unwrap().offset, Offset((1 << 40) + 1));
    assert_eq!(bytes[8..12], small()[8..12]);
    assert_eq!(bytes[16..], small()[16..]);
    assert_eq!(bytes, Batch::parse_one(small()).unwrap().patched(Offset(1 << 40), LeaderEpoch(7)));
    assert!(patch(&mut bytes[..20], Offset(0), LeaderEpoch(0)).is_err());
}

#[test]
fn a_producer_set_later_is_as_one_set_at_first() {
    let with = |options| {
        let mut builder = BatchBuilder::new(options);
        builder.push(TimestampMs(5), Some(b"k"), Some(b"v"), &[]).unwrap();
        builder.build().unwrap()
    };
    let producer = (ProducerId(0x0102_0304_0506), ProducerEpoch(0x0708), Sequence(0x090a_0b0c));
    let first = with(BatchOptions {
        producer_id: producer.0,
        producer_epoch: producer.1,
        base_sequence: producer.2,
        ..BatchOptions::default()
    });
    let mut later = with(BatchOptions::default()).to_vec();
    set_producer(&mut later, producer.0, producer.1, producer.2).unwrap();
    assert_eq!(later, first);
    assert!(set_producer(&mut later[..60], producer.0, producer.1, producer.2).is_err());
}

#[test]
fn batches_end_quietly_at_one_that_is_cut_off_and_loudly_at_one_that_lies() {
    let whole = [&small()[..], &small()[..], &small()[..]].concat();
    for cut in [1, 30, small().len() - 1] {
        let mut walk = batches(Bytes::copy_from_slice(&whole[..whole.len() - cut]));
        assert_eq!(walk.by_ref().map(Result::unwrap).count(), 2, "{cut} cut off");
        assert_eq!(walk.rest().len(), small().len() - cut);
    }
    let mut bytes = whole;
    put(&mut bytes, small().len() + 8, &48i32.to_be_bytes());
    let items: Vec<_> = batches(bytes.into()).collect();
    assert_eq!(items.len(), 2);
    assert_eq!(items[1], Err(BatchError::Length { length: 48 }));
}

#[test]
fn lies_in_the_header_are_refused_at_parse() {
    let check = |at: usize, field: &[u8], expected: fn(&BatchError) -> bool| {
        let error = append(&lie(&small(), |bytes| put(bytes, at, field))).unwrap_err();
        assert!(expected(&error), "{field:?} at {at}: {error}");
    };
    for length in [0, 1, 48, -1, i32::MIN] {
        check(8, &i32::to_be_bytes(length), |e| matches!(e, BatchError::Length { .. }));
    }
    for length in [80, i32::MAX] {
        check(8, &i32::to_be_bytes(length), |e| matches!(e, BatchError::Truncated { .. }));
    }
    check(8, &60i32.to_be_bytes(), |e| matches!(e, BatchError::Trailing { .. }));
    for magic in [0, 1, 3, 255] {
        check(16, &[magic], |e| matches!(e, BatchError::Magic { .. }));
    }
    for delta in [-1, i32::MIN] {
        check(23, &i32::to_be_bytes(delta), |e| matches!(e, BatchError::Offsets { .. }));
    }
    for base in [-1, i64::MIN, i64::MAX, i64::MAX - 1] {
        check(0, &i64::to_be_bytes(base), |e| matches!(e, BatchError::Offsets { .. }));
    }
    for count in [-1, 3, i32::MIN, i32::MAX] {
        check(57, &i32::to_be_bytes(count), |e| matches!(e, BatchError::Count { .. }));
    }
    for length in 0..small().len() {
        assert!(matches!(append(&small().slice(..length)), Err(BatchError::Truncated { .. })), "{length} bytes");
    }
}

#[test]
fn what_a_client_may_not_send_is_refused_at_append() {
    append(&small()).unwrap();
    let check = |change: fn(&mut Vec<u8>), expected: fn(&BatchError) -> bool| {
        let error = append(&lie(&small(), change)).unwrap_err();
        assert!(expected(&error), "{error}");
    };
    check(|b| put(b, 57, &0i32.to_be_bytes()), |e| matches!(e, BatchError::Count { count: 0, .. }));
    check(|b| put(b, 57, &1i32.to_be_bytes()), |e| matches!(e, BatchError::Count { count: 1, .. }));
    check(|b| put(b, 23, &9i32.to_be_bytes()), |e| matches!(e, BatchError::Count { count: 2, .. }));
    check(|b| put(b, 0, &5i64.to_be_bytes()), |e| matches!(e, BatchError::Offsets { .. }));
    check(|b| put(b, 22, &[0x20]), |e| matches!(e, BatchError::Attributes { bits: 0x20 }));
    check(|b| put(b, 22, &[0x08]), |e| matches!(e, BatchError::Attributes { bits: 0x08 }));
    check(|b| put(b, 21, &[0x80]), |e| matches!(e, BatchError::Attributes { bits: 0x8000 }));
    check(|b| put(b, 22, &[5]), |e| matches!(e, BatchError::Codec { codec: 5 }));
    check(|b| put(b, 43, &0i64.to_be_bytes()), |e| matches!(e, BatchError::Producer { .. }));
    check(|b| put(b, 43, &(-2i64).to_be_bytes()), |e| matches!(e, BatchError::Producer { .. }));
    let mut damaged = small().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(matches!(append(&damaged.into()), Err(BatchError::Crc { .. })));
}

#[test]
fn a_lying_record_section_is_refused_at_append_and_when_read() {
    let first = &GOLDEN[61..72];
    let check = |section: &[u8], count: i32, text: &str| {
        let bytes = with_section(section, count, 0);
        for error in [append(&bytes).unwrap_err(), read(&bytes).unwrap_err()] {
            assert!(error.to_string().contains(text), "{section:?}: {error} (expected {text:?})");
        }
    };
    append(&with_section(first, 1, 0)).unwrap();
    check(&[first, first].concat(), 1, "11 bytes follow the last record");
    check(&[first, first].concat(), 2, "offset delta is 0, legal are 1 to 1");
    check(&[first, &[0]].concat(), 1, "1 bytes follow the last record");
    check(first, 2, "2 records in 11 bytes");
    check(first, i32::MAX, "2147483647 records in 11 bytes");
    check(&[0; 7], 1, "record length is 0");
    check(&[1, 0, 0, 0, 0, 0, 0], 1, "record length is -1");
    check(&[40, 0, 0, 0, 1, 1, 0], 1, "record length is 20, 6 bytes remain");
    check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 1, "too many bits");
    check(&[12, 0, 0, 1, 1, 1, 0], 1, "offset delta is -1, legal are 0 to 0");
    check(&[12, 0, 0, 2, 1, 1, 0], 1, "offset delta is 1, legal are 0 to 0");
    check(&[12, 0, 0, 0, 3, 1, 0], 1, "key length is -2");
    check(&[12, 0, 0, 0, 4, 1, 0], 1, "value length"); // the key swallows what follows
    check(&[12, 0, 0, 0, 1, 8, 0], 1, "value length is 4, 1 bytes remain");
    check(&[12, 0, 0, 0, 1, 1, 1], 1, "number of headers is -1");
    check(&[12, 0, 0, 0, 1, 1, 2], 1, "number of headers is 1, 0 bytes remain");
    check(&[16, 0, 0, 0, 1, 1, 2, 1, 1], 1, "header name length is -1");
    check(&[14, 0, 0, 0, 1, 1, 0, 0], 1, "1 bytes follow the last header");
    // i64::MAX after a base timestamp that is positive
    let mut record = BytesMut::new();
    raw::put_record(&mut record, i64::MAX, 0, None, None, []);
    check(&record, 1, "is out of range");
}

#[test]
fn times_that_no_calendar_has_are_refused_at_append() {
    let at = |times: &[i64]| {
        let records: Vec<Content> = times.iter().map(|time| (*time, None, Some(b"v".to_vec()), vec![])).collect();
        append(&build(BatchOptions::default(), &records))
    };
    for legal in [&[-1][..], &[0], &[TIMESTAMP_MS_MAX], &[TIMESTAMP_MS_MAX, -1, 5]] {
        at(legal).unwrap();
    }
    for alone in [i64::MIN, -2, TIMESTAMP_MS_MAX + 1, i64::MAX] {
        let error = at(&[alone]).unwrap_err();
        assert!(matches!(error, BatchError::BaseTimestamp { .. }), "{alone}: {error}");
    }
    // Between others the header does not show it.
    let error = at(&[0, -2, 5]).unwrap_err();
    let expected = RecordError::TimestampRange { timestamp: -2 };
    assert_eq!(error, BatchError::Record { index: 1, source: expected });
}

#[test]
fn the_earliest_time_is_the_least_and_not_the_first_records() {
    let earliest = |times: &[i64]| {
        let records: Vec<Content> = times.iter().map(|time| (*time, None, Some(b"v".to_vec()), vec![])).collect();
        Batch::parse_one(build(BatchOptions::default(), &records)).unwrap().earliest_timestamp(LIMIT).unwrap()
    };
    assert_eq!(earliest(&[7, 5, 9]), Some(TimestampMs(5)));
    // One that its producer did not know counts for none.
    assert_eq!(earliest(&[7, -1, 9]), Some(TimestampMs(7)));
    assert_eq!(earliest(&[-1]), None);
}

/// Looking for a time skips batches whose greatest is before it: one that is too low hides its records. Sarama left it out for
/// years, and Kafka's brokers set it.
fn the_latest_time_is_set(options: BatchOptions) {
    let records: Vec<Content> = [5, 9, 7].map(|time| (time, None, Some(b"v".to_vec()), vec![])).into();
    let good = build(options, &records);
    for stated in [-1, 0, 8, 10, i64::MIN, i64::MAX] {
        let lying = lie(&good, |bytes| put(bytes, 35, &i64::to_be_bytes(stated)));
        let mut batch = Batch::parse_one(lying).unwrap();
        batch.validate_for_append().unwrap();
        batch.validate_packed(LIMIT).unwrap();
        assert_eq!(batch, Batch::parse_one(good.clone()).unwrap(), "{stated}");
    }
    let mut batch = Batch::parse_one(good.clone()).unwrap();
    batch.validate_for_append().unwrap();
    batch.validate_packed(LIMIT).unwrap();
    assert_eq!(batch.bytes().as_ptr(), good.as_ptr(), "what is right is not copied");
}

#[test]
fn the_time_of_the_latest_record_is_set_where_a_client_did_not() {
    for compression in codecs() {
        the_latest_time_is_set(BatchOptions { compression: *compression, ..BatchOptions::default() });
    }
}

#[test]
fn a_header_name_that_is_no_text_is_read_but_not_appended() {
    let headers = vec![header("fine", None), Header::new(Bytes::from_static(b"\xff\xfe"), None)];
    let bytes = build(BatchOptions::default(), &[(0, None, None, vec![]), (0, None, None, headers)]);
    let expected = RecordError::HeaderName { index: 1 };
    assert_eq!(append(&bytes), Err(BatchError::Record { index: 1, source: expected }));
    assert_eq!(read(&bytes).unwrap()[1].headers.iter().last().unwrap().key, &b"\xff\xfe"[..]);
}

#[test]
fn a_batch_with_gaps_is_read_but_not_appended() {
    let mut builder = BatchBuilder::new(BatchOptions { base_offset: Offset(100), ..BatchOptions::default() });
    for delta in [3, 7] {
        builder.push_at(delta, TimestampMs(5), None, Some(b"v"), []).unwrap();
    }
    assert!(builder.push_at(7, TimestampMs(5), None, None, []).is_err());
    assert!(builder.cover(6).is_err());
    builder.cover(20).unwrap();
    let bytes = builder.build().unwrap();
    let offsets: Vec<_> = read(&bytes).unwrap().iter().map(|record| record.offset).collect();
    assert_eq!(offsets, [Offset(103), Offset(107)]);
    let mut batch = Batch::parse_one(bytes).unwrap();
    assert_eq!((batch.header().count, batch.header().end_offset()), (2, Offset(121)));
    assert!(batch.validate_for_append().is_err());
}

#[test]
fn a_batch_may_cover_offsets_without_a_record() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    assert_eq!(builder.clone().build(), Err(BuildError::Empty));
    builder.cover(9).unwrap();
    let bytes = builder.build().unwrap();
    assert_eq!(read(&bytes), Ok(vec![]));
    assert_eq!(Batch::parse_one(bytes).unwrap().header().end_offset(), Offset(10));
}

#[test]
fn log_append_time_is_every_records_time() {
    let bytes = lie(&small(), |bytes| {
        put(bytes, 22, &[0x08]);
        put(bytes, 35, &42i64.to_be_bytes());
    });
    assert!(read(&bytes).unwrap().iter().all(|record| record.timestamp == TimestampMs(42)));
}

#[test]
fn the_builder_refuses_what_does_not_fit_and_stays_as_it_was() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(TimestampMs(i64::MIN), None, Some(b"v"), &[]).unwrap();
    let before = builder.size_estimate();
    assert!(matches!(builder.push(TimestampMs(1), None, None, &[]), Err(BuildError::Timestamp { .. })));
    let large = vec![0; millstream_model::limits::BATCH_BYTES_MAX];
    let refused = builder.push(TimestampMs(i64::MIN), None, Some(&large), &[]);
    assert!(matches!(refused, Err(BuildError::TooLarge { .. })));
    assert_eq!((builder.size_estimate(), builder.len()), (before, 1));
    assert_eq!(read(&builder.build().unwrap()).unwrap()[0].timestamp, TimestampMs(i64::MIN));
    let past = BatchOptions { base_offset: Offset(i64::MAX), ..BatchOptions::default() };
    let mut builder = BatchBuilder::new(past);
    builder.push(TimestampMs(0), None, None, &[]).unwrap();
    assert!(matches!(builder.build(), Err(BuildError::Offsets { .. })));
}

#[test]
fn a_record_moves_to_another_place_as_it_is() {
    let batch = Batch::parse_one(small()).unwrap();
    let section = batch.section(0).unwrap();
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for (index, record) in raw::records(&section).enumerate() {
        let record = record.unwrap();
        let delta = index as i32 * 1000;
        let mut moved = BytesMut::new();
        raw::put_moved(&mut moved, record.tail, -5, delta);
        assert_eq!(moved.len(), raw::moved_bytes(record.tail, -5, delta));
        let mut written = BytesMut::new();
        raw::put_record(&mut written, -5, delta, record.key, record.value, record.headers);
        assert_eq!(moved, written);
        builder.push_raw(delta, TimestampMs(record.timestamp_delta), &record).unwrap();
    }
    let moved = read(&builder.build().unwrap()).unwrap();
    let original = read(&small()).unwrap();
    assert_eq!(moved[1].offset_delta, 1000);
    for (moved, original) in moved.iter().zip(&original) {
        assert_eq!((&moved.key, &moved.value), (&original.key, &original.value));
        assert_eq!((&moved.headers, moved.timestamp_delta), (&original.headers, original.timestamp_delta));
    }
}

#[cfg(not(feature = "compression"))]
#[test]
fn without_the_codecs_packing_and_unpacking_are_refused_as_such() {
    let packed = with_section(b"whatever", 1, 1);
    let expected = BatchError::CompressionNotBuilt { compression: Compression::Gzip };
    assert_eq!(read(&packed), Err(expected.clone()));
    append(&packed).unwrap();
    let mut builder = BatchBuilder::new(BatchOptions { compression: Compression::Gzip, ..BatchOptions::default() });
    builder.push(TimestampMs(0), None, None, &[]).unwrap();
    assert_eq!(builder.build(), Err(BuildError::Pack(expected)));
}

#[cfg(feature = "compression")]
#[test]
fn a_packed_batch_is_checked_inside_only_when_asked() {
    for compression in &Compression::ALL[1..] {
        let first = &GOLDEN[61..72];
        let good = compression::pack(*compression, first).unwrap();
        let lies = compression::pack(*compression, &[first, first].concat()).unwrap();
        let attributes = u16::from(compression.codec());
        let batch = |section: &[u8], count| Batch::parse_one(with_section(section, count, attributes)).unwrap();
        batch(&good, 1).validate_packed(LIMIT).unwrap();
        for (section, count) in [(&good, 2), (&good, i32::MAX), (&lies, 1), (&lies, 2)] {
            batch(section, count).validate_for_append().unwrap();
            batch(section, count).validate_packed(LIMIT).unwrap_err();
        }
    }
}

fn codecs() -> &'static [Compression] {
    if cfg!(feature = "compression") { &Compression::ALL } else { &Compression::ALL[..1] }
}

fn content() -> impl Strategy<Value = Content> {
    let part = || vec(any::<u8>(), 0..40);
    let header = (".{0,12}", option::of(part())).prop_map(|(key, value)| Header::new(key, value.map(Bytes::from)));
    (-1..=TIMESTAMP_MS_MAX, option::of(part()), option::of(part()), vec(header, 0..4))
}

proptest! {
    #[test]
    fn what_is_built_is_read_back(
        records in vec(content(), 1..30),
        codec in 0..codecs().len(),
        base in 0..i64::from(i32::MAX),
        producer: u32,
        epoch in 0..i16::MAX,
        sequence in 0..i32::MAX,
        transactional: bool,
    ) {
        let options = BatchOptions {
            compression: codecs()[codec],
            base_offset: Offset(base),
            partition_leader_epoch: LeaderEpoch(3),
            producer_id: ProducerId(producer.into()),
            producer_epoch: ProducerEpoch(epoch),
            base_sequence: Sequence(sequence),
            transactional,
            control: false,
        };
        let bytes = build(options, &records);
        let batch = Batch::parse_one(bytes.clone()).unwrap();
        batch.verify_crc().unwrap();
        let read: Vec<_> = batch.records(LIMIT).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(contents(&read), records.clone());
        prop_assert!(read.iter().zip(base..).all(|(record, offset)| record.offset == Offset(offset)));
        let header = batch.header();
        prop_assert_eq!(header.max_timestamp.0, records.iter().map(|r| r.0).max().unwrap());
        prop_assert_eq!((header.producer_id, header.producer_epoch), (options.producer_id, options.producer_epoch));
        prop_assert_eq!((header.base_sequence, header.attributes.is_transactional()), (Sequence(sequence), transactional));
        let mut client = bytes.to_vec();
        patch(&mut client, Offset(0), LeaderEpoch::UNKNOWN).unwrap();
        let mut client = Batch::parse_one(client.into()).unwrap();
        prop_assert_eq!(client.validate_for_append(), Ok(()));
        prop_assert!(client.validate_packed(LIMIT).is_ok());
    }

    /// Any bytes changed, CRC set right or not, cut or extended: an error or records, never a panic; and what append accepts
    /// can be read.
    #[test]
    fn no_mutation_is_believed(
        records in vec(content(), 1..8),
        codec in 0..codecs().len(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in option::of(any::<prop::sample::Index>()),
        extra in vec(any::<u8>(), 0..20),
        fix_length: bool,
        fix_crc: bool,
    ) {
        let options = BatchOptions { compression: codecs()[codec], ..BatchOptions::default() };
        let mut bytes = build(options, &records).to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes.extend(extra);
        if fix_length && bytes.len() >= HEADER_BYTES {
            let length = (bytes.len() - PREFIX_BYTES) as i32;
            put(&mut bytes, 8, &length.to_be_bytes());
        }
        let bytes = if fix_crc && bytes.len() >= PATCH_BYTES { lie(&bytes.into(), |_| {}) } else { bytes.into() };
        let accepted = append(&bytes);
        for batch in batches(bytes.clone()).filter_map(Result::ok) {
            let _ = batch.clone().validate_packed(LIMIT);
            if let Ok(records) = batch.records(LIMIT) {
                prop_assert!(records.size_hint().1.unwrap() <= LIMIT);
                records.for_each(drop);
            }
        }
        if accepted.is_ok() && Batch::parse_one(bytes.clone()).unwrap().validate_packed(LIMIT).is_ok() {
            let count = Batch::parse_one(bytes.clone()).unwrap().header().count;
            prop_assert_eq!(read(&bytes).unwrap().len(), count as usize);
        }
    }

    #[test]
    fn raw_records_take_any_bytes(section in vec(any::<u8>(), 0..200)) {
        let mut taken = 0;
        for record in raw::records(&section).map_while(Result::ok) {
            taken += record.bytes.len();
            prop_assert_eq!(record.headers.into_iter().count(), record.headers.len());
        }
        prop_assert!(taken <= section.len());
    }
}

#[test]
fn the_brokers_time_is_given_to_every_record_and_nothing_else_changes() {
    let now = TimestampMs(1_800_000_000_000);
    let plain = small();
    // Said to be packed: nothing is unpacked, so it need not be true.
    for packed in [plain.clone(), lie(&plain, |bytes| put(bytes, 21, &4_u16.to_be_bytes()))] {
        let mut bytes = packed.to_vec();
        set_log_append_time(&mut bytes, now).unwrap();
        // Attributes, greatest time, and the CRC, are all that differs.
        let differs: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != packed[*at]).collect();
        assert!(differs.iter().all(|at| matches!(at, 17..=20 | 22 | 35..=42)), "{differs:?}");
        let batch = Batch::parse_one(bytes.into()).unwrap();
        batch.verify_crc().unwrap();
        let attributes = batch.header().attributes;
        assert!(attributes.is_log_append_time());
        assert_eq!(attributes.0 & 0b111, u16::from(packed[22]));
        if packed == plain {
            let records: Vec<_> = batch.records(LIMIT).unwrap().map(Result::unwrap).collect();
            assert_eq!(records.len(), 2);
            assert!(records.iter().all(|record| record.timestamp == now));
        }
    }
    let mut short = small()[..HEADER_BYTES - 1].to_vec();
    assert!(matches!(set_log_append_time(&mut short, now), Err(BatchError::Truncated { .. })));
    assert_eq!(short, small()[..HEADER_BYTES - 1]);
}
