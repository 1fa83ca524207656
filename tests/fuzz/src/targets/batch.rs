//! Record batches as any bytes: what is taken off, checked, unpacked and walked stays within its length and its bound, and what can be
//! read can be built again.
//!
//! An input is tried three times: as it is; with a length, a version and a checksum that are right, so that what is behind them is
//! reached; and with its records packed by the codec that its attributes name, so that what is in there is.

use bytes::Bytes;
use millstream_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, RoutingEpoch, Sequence, TimestampMs, limits};
use millstream_protocol::sample::SampleRng;
use millstream_record::{
    Attributes, Batch, BatchBuilder, BatchHeader, BatchOptions, BuildError, Compression, HEADER_BYTES, Header, MAGIC,
    PATCH_BYTES, PREFIX_BYTES, Record, RoutingMarker, batches, compression, count_records, crc32c, frame::FrameHeader,
    patch, raw, set_log_append_time, set_producer,
};

use crate::memory;

/// What records may unpack to: little, so that a short input can be of more.
const UNPACKED_BYTES_MAX: usize = 20_000;
/// What a bomb unpacks to.
const BOMB_BYTES: usize = 60_000;
/// What a codec may hold besides: lz4's blocks, if the frame asks for the largest.
const CODEC_BYTES_MAX: usize = 14 << 20;

pub(crate) fn run(input: &[u8]) {
    walk(input);
    if let Ok(header) = FrameHeader::parse(input) {
        assert_eq!(header.encode(), input[..header.encode().len()], "a frame for modules");
    }
    if input.len() < HEADER_BYTES {
        return;
    }
    walk(&right(input));
    let packed = Attributes(u16::from_be_bytes([input[21], input[22]])).compression();
    if let Ok(codec @ (Compression::Gzip | Compression::Snappy | Compression::Lz4 | Compression::Zstd)) = packed {
        let section = compression::pack(codec, &input[HEADER_BYTES..]).expect("any bytes can be packed");
        walk(&right(&[&input[..HEADER_BYTES], &section].concat()));
    }
}

/// The same bytes with a length, a version and a checksum that are right. `bytes`: a header at least.
fn right(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let length = (bytes.len() - PREFIX_BYTES) as i32;
    bytes[8..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    bytes[16] = MAGIC.cast_unsigned();
    let crc = crc32c(&bytes[PATCH_BYTES..]);
    bytes[PATCH_BYTES - 4..PATCH_BYTES].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Takes one batch after the other, as a client does from an answer.
fn walk(bytes: &[u8]) {
    let whole = Bytes::copy_from_slice(bytes);
    let mut rest = batches(whole.clone());
    let (mut taken, mut records) = (0, 0);
    while let Some(next) = rest.next() {
        match next {
            Ok(batch) => {
                assert_eq!(batch.bytes(), &whole[taken..taken + batch.bytes().len()]);
                taken += batch.bytes().len();
                if !batch.header().attributes.is_control() {
                    records += batch.header().count as u64;
                }
                check(&batch);
            }
            Err(error) => {
                let _ = error.to_string();
                assert!(rest.next().is_none(), "an error is the end");
                break;
            }
        }
    }
    // One that is cut off still has a header.
    assert!(count_records(bytes) >= records);
}

fn check(batch: &Batch) {
    let header = *batch.header();
    assert_eq!(batch.bytes().len(), header.batch_bytes());
    assert_eq!(batch.stored_section().len(), header.section_bytes());
    let mut written = Vec::new();
    header.put(&mut written);
    assert_eq!(written, batch.bytes()[..HEADER_BYTES]);
    assert_eq!(batch.verify_crc().is_ok(), header.crc_matches(batch.bytes()));
    assert!(header.end_offset() > header.base_offset && header.last_offset() >= header.base_offset);
    let _ = RoutingMarker::of(batch);

    let records = readable(batch);
    may_be_appended(batch, records.as_deref());
    changes(batch, records.as_deref());
    if let Some(records) = records {
        is_built_again(batch, &records);
    }
}

/// All records, if none of them is malformed.
fn readable(batch: &Batch) -> Option<Vec<Record>> {
    let held = match batch.header().attributes.compression() {
        Err(_) | Ok(Compression::None) => 1 << 10,
        Ok(Compression::Lz4) => 3 * UNPACKED_BYTES_MAX + CODEC_BYTES_MAX,
        Ok(_) => 3 * UNPACKED_BYTES_MAX + (256 << 10),
    };
    let section = memory::bounded("unpacking", held, || batch.section(UNPACKED_BYTES_MAX)).ok()?;
    if batch.header().attributes.compression() != Ok(Compression::None) {
        assert!(section.len() <= UNPACKED_BYTES_MAX, "{} bytes were unpacked", section.len());
    }
    let header = batch.header();
    let mut records = Vec::new();
    let mut next = header.base_offset;
    for record in batch.records(UNPACKED_BYTES_MAX).ok()? {
        let record = record.map_err(|error| error.to_string()).ok()?;
        assert!(record.offset >= next && record.offset <= header.last_offset(), "{record:?} after {next}");
        assert_eq!(record.headers.iter().count(), record.headers.len());
        next = record.offset.plus(1);
        records.push(record);
    }
    assert_eq!(records.len(), header.count as usize);
    let raw: Result<Vec<_>, _> = raw::records(&section).collect();
    let raw = raw.expect("records that were just read");
    assert_eq!(raw.len(), records.len());
    for (raw, record) in raw.iter().zip(&records) {
        assert_eq!((raw.key, raw.value), (record.key.as_deref(), record.value.as_deref()));
        assert_eq!(
            raw.headers.into_iter().collect::<Vec<_>>(),
            record.headers.as_raw().into_iter().collect::<Vec<_>>()
        );
        assert_eq!((raw.offset_delta, raw.timestamp_delta), (record.offset_delta, record.timestamp_delta));
    }
    Some(records)
}

/// What a broker takes from a client keeps every rule of one, and can be read.
fn may_be_appended(batch: &Batch, records: Option<&[Record]>) {
    let mut checked = batch.clone();
    let unpacked = match checked.validate_for_append().and_then(|()| checked.validate_packed(UNPACKED_BYTES_MAX)) {
        Ok(unpacked) => unpacked,
        Err(error) => return drop(error.to_string()),
    };
    let header = *checked.header();
    checked.verify_crc().expect("a checksum that is still right");
    assert_eq!(checked.bytes().len(), batch.bytes().len());
    assert_eq!(Batch::parse_one(checked.bytes().clone()).as_ref(), Ok(&checked));
    assert!(unpacked <= UNPACKED_BYTES_MAX);
    assert_eq!((header.base_offset, header.count - 1), (Offset(0), header.last_offset_delta));
    assert!(!header.attributes.is_control() && !header.attributes.is_log_append_time());
    let records = records.expect("what is appended can be read");
    for (index, record) in (0..).zip(records) {
        assert_eq!(record.offset_delta, index);
        assert!((-1..=limits::TIMESTAMP_MS_MAX).contains(&record.timestamp.0), "{record:?}");
        assert!(record.headers.iter().all(|header| header.key_str().is_ok()), "{record:?}");
    }
    let times = || records.iter().map(|record| record.timestamp);
    assert_eq!(times().max(), Some(header.max_timestamp));
    assert_eq!(checked.earliest_timestamp(UNPACKED_BYTES_MAX), Ok(times().filter(|time| time.0 >= 0).min()));
    let keyed = records.iter().all(|record| record.key.is_some());
    assert_eq!(checked.require_keys(UNPACKED_BYTES_MAX).is_ok(), keyed);
}

/// What a broker and a client change in place leaves the rest as it was.
fn changes(batch: &Batch, records: Option<&[Record]>) {
    let (offset, epoch, now) = (Offset(1000), LeaderEpoch(7), TimestampMs(1_700_000_000_000));
    let mut bytes = batch.bytes().to_vec();
    patch(&mut bytes, offset, epoch).expect("a whole batch");
    assert_eq!(batch.patched(offset, epoch), bytes);
    set_producer(&mut bytes, ProducerId(1), ProducerEpoch(2), Sequence(3)).expect("a whole batch");
    set_log_append_time(&mut bytes, now).expect("a whole batch");
    let changed = Batch::parse_one(bytes.into()).expect("a batch as before");
    changed.verify_crc().expect("a checksum that was set");
    let before = batch.header();
    let expected = BatchHeader {
        base_offset: offset,
        partition_leader_epoch: epoch,
        crc: changed.header().crc,
        attributes: Attributes(before.attributes.0 | Attributes::LOG_APPEND_TIME),
        max_timestamp: now,
        producer_id: ProducerId(1),
        producer_epoch: ProducerEpoch(2),
        base_sequence: Sequence(3),
        ..*before
    };
    assert_eq!(*changed.header(), expected);
    for (record, old) in changed.records(UNPACKED_BYTES_MAX).into_iter().flatten().zip(records.unwrap_or_default()) {
        let record = record.expect("a record as before");
        assert_eq!((record.offset, record.timestamp), (offset.plus(old.offset_delta.into()), now));
        assert_eq!((&record.key, &record.value, &record.headers), (&old.key, &old.value, &old.headers));
    }
}

/// A view builds what it gives out of what it read.
fn is_built_again(batch: &Batch, records: &[Record]) {
    let header = batch.header();
    let options = BatchOptions::like(header).expect("records that were unpacked");
    let mut builder = BatchBuilder::new(options);
    for record in records {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let pushed = builder.push_at(record.offset_delta, record.timestamp, key, value, record.headers.as_raw());
        match pushed {
            Ok(()) => {}
            // Two times can be further apart than a delta can say; and the last delta of all is the builder's bound.
            Err(BuildError::Timestamp { .. }) => return,
            Err(BuildError::OffsetDelta { found: i32::MAX, .. }) => return,
            Err(error) => panic!("{record:?}: {error}"),
        }
    }
    builder.cover(header.last_offset_delta).expect("the last record is within the batch");
    let estimate = builder.size_estimate();
    let built = Batch::parse_one(builder.build().expect("a batch that was read")).expect("a batch that was built");
    built.verify_crc().expect("a checksum that was made");
    assert_eq!(built.header().end_offset(), header.end_offset());
    let section = built.section(UNPACKED_BYTES_MAX).expect("no longer than what it was made of");
    assert_eq!(section.len(), estimate - HEADER_BYTES);
    let again: Result<Vec<_>, _> = built.records(UNPACKED_BYTES_MAX).expect("records that were pushed").collect();
    let again = again.expect("records that were pushed");
    assert_eq!(again.len(), records.len());
    for (again, record) in again.iter().zip(records) {
        assert_eq!((again.offset, again.timestamp), (record.offset, record.timestamp));
        assert_eq!((&again.key, &again.value), (&record.key, &record.value));
        assert_eq!(again.headers.iter().collect::<Vec<_>>(), record.headers.iter().collect::<Vec<_>>());
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut rng = SampleRng(0);
    let mut seeds = Vec::new();
    for codec in Compression::ALL {
        for count in [1, 2, 5, 40] {
            for (base_offset, gap, producer) in [(0, 1, -1), (0, 1, 9), (77, 3, -1)] {
                let mut options =
                    BatchOptions { compression: codec, base_offset: Offset(base_offset), ..Default::default() };
                if producer >= 0 {
                    options.producer_id = ProducerId(producer);
                    options.producer_epoch = ProducerEpoch(0);
                    options.base_sequence = Sequence(5);
                }
                seeds.push(sample(options, count, gap, &mut rng));
            }
        }
    }
    // As they are read from a log: several, the last one cut off.
    let several = seeds[..4].concat();
    seeds.push(several[..several.len() - 5].to_vec());
    seeds.push(RoutingMarker { epoch: RoutingEpoch(3), partitions: 7 }.to_batch().expect("a marker").to_vec());
    let header = FrameHeader {
        flags: 0,
        count: 1,
        record_bytes: 8,
        input: 0,
        partition: -1,
        base_offset: 0,
        base_timestamp: 0,
        columns: 0,
    };
    seeds.push([&header.encode()[..], b"\x0e\0\0\0\x01\x02x\0"].concat());
    for codec in Compression::ALL.into_iter().filter(|codec| *codec != Compression::None) {
        let options = BatchOptions { compression: codec, ..Default::default() };
        let mut bomb = BatchBuilder::new(options);
        bomb.push(TimestampMs(0), None, Some(&[0; BOMB_BYTES]), &[]).expect("one record");
        seeds.push(bomb.build().expect("a batch of one record").to_vec());
    }
    // A packed batch is tried with what it unpacks to in its place, too.
    let unpacked: Vec<_> = seeds.iter().filter_map(|seed| unpacked(seed)).collect();
    seeds.extend(unpacked);
    seeds
}

fn sample(options: BatchOptions, count: i32, gap: i32, rng: &mut SampleRng) -> Vec<u8> {
    let mut builder = BatchBuilder::new(options);
    for index in 0..count {
        let mut part = |null: bool| (!null).then(|| vec![b'a' + rng.below(4) as u8; rng.below(20)]);
        let (key, value) = (part(index % 3 == 1), part(index % 5 == 4));
        let headers: Vec<_> = (0..index % 3).map(|n| Header::new("name", part(n == 1).map(Bytes::from))).collect();
        let headers = headers.iter().map(Header::as_raw);
        let time = TimestampMs(1_700_000_000_000 + i64::from(index * 10));
        builder.push_at(index * gap, time, key.as_deref(), value.as_deref(), headers).expect("a small record");
    }
    builder.build().expect("a small batch").to_vec()
}

/// The header of a packed batch, with its records as they are.
fn unpacked(seed: &[u8]) -> Option<Vec<u8>> {
    let (batch, _) = Batch::parse(Bytes::copy_from_slice(seed)).ok()?;
    let section = batch.section(UNPACKED_BYTES_MAX).ok()?;
    (section != batch.stored_section()).then(|| [&seed[..HEADER_BYTES], &section].concat())
}
