//! The calls of the contract, byte by byte: frames written by hand go in, and what comes out is compared with the contract.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use millstream_guest::testing::{self, BASE_OFFSET, BASE_TIMESTAMP_MS, Input};
use millstream_guest::{Failure, Filter, Mapper, Needs, Out, Param, Params, Partitioner, Record, Transform, rt};

/// Three records, 1: key "k", value "v1"; 2: null key, value "v2", a header "h" = "x"; 3: key "k", null value.
const RECORDS: &[u8] = &[
    18, 0, 0, 0, 2, b'k', 4, b'v', b'1', 0, // length 9: the zigzag of 9 is 18
    24, 0, 20, 2, 1, 4, b'v', b'2', 2, 2, b'h', 2, b'x', // timestamp delta 10, offset delta 1
    14, 0, 40, 6, 2, b'k', 1, 0, // offset delta 3: a gap
];

/// A frame of input 7, partition 5, from offset 100 and time 1000.
fn frame(flags: u32, count: u32, records: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(1u16.to_le_bytes());
    frame.extend(0u16.to_le_bytes());
    frame.extend(flags.to_le_bytes());
    frame.extend(count.to_le_bytes());
    frame.extend((records.len() as u32).to_le_bytes());
    frame.extend(7u32.to_le_bytes());
    frame.extend(5i32.to_le_bytes());
    frame.extend(100i64.to_le_bytes());
    frame.extend(1000i64.to_le_bytes());
    frame.extend(0u32.to_le_bytes());
    frame.extend(48u32.to_le_bytes());
    frame.extend(records);
    frame
}

/// The frame that should come out: as [`frame`], with columns.
fn emitted(count: u32, records: &[u8], sources: &[u32], partitions: &[i32]) -> Vec<u8> {
    let mut frame = frame(0, count, records);
    frame[40] = if partitions.is_empty() { 1 } else { 3 };
    frame.extend(sources.iter().flat_map(|source| source.to_le_bytes()));
    frame.extend(partitions.iter().flat_map(|partition| partition.to_le_bytes()));
    frame
}

/// A frame of the contract's examples.
fn golden(name: &str) -> Vec<u8> {
    let lines = include_str!("../../../wit/frame-v1.txt").lines().filter_map(|line| line.strip_prefix(name));
    lines.flat_map(str::split_whitespace).map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// A module made of a function, so that each test shows all of what it runs.
struct Run(fn(&Record, &mut Out) -> Result<(), Failure>);

impl Transform for Run {
    fn init(_: &Params) -> Result<Self, Failure> {
        Err(Failure::config("made by hand"))
    }

    fn process(&self, record: &Record, out: &mut Out) -> Result<(), Failure> {
        self.0(record, out)
    }
}

/// A failure's code, record and message.
type Told = (u32, Option<u32>, String);

fn process(frame: &[u8], run: fn(&Record, &mut Out) -> Result<(), Failure>) -> Result<Vec<(u32, Vec<u8>)>, Told> {
    let mut frames = Vec::new();
    rt::process(&Run(run), frame, &mut |output, frame: &[u8]| frames.push((output, frame.to_vec())))
        .map_err(|failure| (failure.code, failure.at, failure.message))?;
    Ok(frames)
}

#[test]
fn frames_have_the_contracts_bytes() {
    assert_eq!(frame(0, 3, RECORDS), golden("in:"));
    let out = process(&golden("in:"), |record, out| {
        match record.offset() {
            100 => out.to(0).key("k").value("w").partition(2).send(),
            101 => out.forward(record),
            _ => {}
        }
        Ok(())
    });
    assert_eq!(out.unwrap(), [(0, golden("out:"))]);
    process(&golden("keys:"), |record, _| {
        let seen = (record.key(), record.value(), record.headers().count(), record.timestamp_ms(), record.partition());
        match record.offset() {
            0 => assert_eq!(seen, (Some(&b"k"[..]), None, 0, 1000, -1)),
            _ => assert_eq!(seen, (None, None, 0, 990, -1)),
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn records_are_read_as_they_are_written() {
    process(&frame(0, 3, RECORDS), |record, _| {
        let headers: Vec<_> = record.headers().map(|header| (header.name, header.value)).collect();
        let seen = (record.key(), record.value(), record.offset(), record.timestamp_ms());
        match record.offset() {
            100 => assert_eq!(seen, (Some(&b"k"[..]), Some(&b"v1"[..]), 100, 1000)),
            101 => {
                assert_eq!(seen, (None, Some(&b"v2"[..]), 101, 1010));
                assert_eq!(headers, [(&b"h"[..], Some(&b"x"[..]))]);
                assert_eq!((record.header("h"), record.header("H")), (Some(&b"x"[..]), None));
            }
            _ => assert_eq!(seen, (Some(&b"k"[..]), None, 103, 1020)),
        }
        assert_eq!((record.input(), record.partition()), (7, 5));
        Ok(())
    })
    .unwrap();
}

#[test]
fn forwarding_copies_bytes_and_names_sources() {
    let frames = process(&frame(0, 3, RECORDS), |record, out| {
        if record.key().is_some() {
            out.forward(record);
        } else {
            out.forward_to(2, record);
        }
        Ok(())
    });
    let keyed = [&RECORDS[..10], &RECORDS[23..]].concat();
    assert_eq!(frames, Ok(vec![(0, emitted(2, &keyed, &[0, 2], &[])), (2, emitted(1, &RECORDS[10..23], &[1], &[]))]));
}

#[test]
fn a_record_built_alike_has_the_same_bytes() {
    let frames = process(&frame(0, 3, RECORDS), |record, out| {
        out.to(0).like(record).value(record.value()).send();
        Ok(())
    });
    assert_eq!(frames, Ok(vec![(0, emitted(3, RECORDS, &[0, 1, 2], &[]))]));
}

#[test]
fn a_chosen_partition_brings_the_column_for_all_records_of_the_frame() {
    let frames = process(&frame(0, 3, RECORDS), |record, out| {
        match record.offset() {
            101 => out.to(0).like(record).value("v2").partition(9).send(),
            _ => out.forward(record),
        }
        Ok(())
    });
    assert_eq!(frames, Ok(vec![(0, emitted(3, RECORDS, &[0, 1, 2], &[-1, 9, -1]))]));
}

#[test]
fn a_new_record_has_what_it_was_given_and_its_sources_time() {
    let frames = process(&frame(0, 3, RECORDS), |record, out| {
        if record.offset() == 101 {
            out.to(0).key("k").value(None::<&str>).header("a", "1").header("a", None::<&[u8]>).timestamp_ms(999).send();
            out.to(0).send();
        }
        Ok(())
    });
    let expected = [
        28, 0, 1, 2, 2, b'k', 1, 4, 2, b'a', 2, b'1', 2, b'a', 1, // 999 is one before the frame's time: delta -1
        12, 0, 20, 2, 1, 1, 0,
    ];
    assert_eq!(frames, Ok(vec![(0, emitted(2, &expected, &[1, 1], &[]))]));
}

#[test]
fn under_log_append_time_every_record_has_the_frames_time() {
    let frames = process(&frame(1, 3, RECORDS), |record, out| {
        assert_eq!(record.timestamp_ms(), 1000);
        out.forward(record);
        Ok(())
    });
    // The same records, their timestamp deltas gone.
    let mut records = RECORDS.to_vec();
    records[12] = 0;
    records[25] = 0;
    assert_eq!(frames, Ok(vec![(0, emitted(3, &records, &[0, 1, 2], &[]))]));
}

#[test]
fn long_output_is_sent_in_several_frames_in_order() {
    let value = vec![b'x'; 10_000];
    let inputs = vec![Input::new(&value).key("k"); 25];
    let forwarded = testing::transform::<Twice>(&[], &[], &inputs).unwrap();
    assert_eq!(forwarded.len(), 50);
    assert!(forwarded.is_sorted_by_key(|emitted| emitted.source));
    assert!(forwarded.iter().all(|emitted| emitted.value.as_ref() == Some(&value)));

    // Length 10,008: value and its length, and five bytes of attributes, deltas, null key and header count.
    let one = [&[0xb0, 0x9c, 0x01, 0, 0, 0, 1, 0xa0, 0x9c, 0x01][..], &value, &[0]].concat();
    let frames = process(&frame(0, 25, &one.repeat(25)), |record, out| {
        out.forward(record);
        Ok(())
    })
    .unwrap();
    assert_eq!(frames.len(), 3, "250 KB in frames of 96 KiB");
    let counts: Vec<u32> = frames.iter().map(|(_, f)| u32::from_le_bytes(f[8..12].try_into().unwrap())).collect();
    assert_eq!(counts.iter().sum::<u32>(), 25);
}

struct Twice;

impl Transform for Twice {
    fn init(_: &Params) -> Result<Self, Failure> {
        Ok(Twice)
    }

    fn process(&self, record: &Record, out: &mut Out) -> Result<(), Failure> {
        out.forward(record);
        out.to(0).like(record).value(record.value()).send();
        Ok(())
    }
}

#[test]
fn a_failure_names_its_record_and_the_next_call_starts_clean() {
    let failing = process(&frame(0, 3, RECORDS), |record, out| {
        out.forward(record);
        record.key().map(|_| ()).ok_or_else(|| Failure::new("no key"))
    });
    assert_eq!(failing, Err((2, Some(1), "no key".to_owned())));
    assert_eq!(process(&frame(0, 3, RECORDS), |_, _| Ok(())), Ok(vec![]));

    let stopped = process(&frame(0, 3, RECORDS), |_, _| Err(Failure::stop("enough")));
    assert_eq!(stopped, Err((3, Some(0), "enough".to_owned())));
}

#[test]
fn frames_that_are_not_frames_fail_without_a_panic() {
    let check = |frame: &[u8]| {
        let failure = process(frame, |_, _| Ok(())).unwrap_err();
        assert_eq!((failure.0, failure.1), (3, None), "{failure:?}");
    };
    let whole = frame(0, 3, RECORDS);
    (0..whole.len()).for_each(|end| check(&whole[..end]));
    let changed = |at: usize, byte: u8| {
        let mut frame = whole.clone();
        frame[at] = byte;
        frame
    };
    check(&changed(0, 2)); // another version
    check(&changed(2, 1)); // timers
    check(&changed(8, 4)); // more records than there are
    check(&changed(8, 2)); // fewer
    check(&changed(45, 1)); // a header that is longer than the frame
    check(&changed(48, 0x7f)); // a record of negative length
    check(&changed(52, 0x7f)); // a key of negative length that is not null
    check(&changed(54, 0x7e)); // a value longer than its record
}

#[test]
fn selections_are_bits_from_the_least_significant() {
    struct Even;
    impl Filter for Even {
        fn init(_: &Params) -> Result<Self, Failure> {
            Ok(Even)
        }
        fn keep(&self, record: &Record) -> Result<bool, Failure> {
            Ok(record.value() == Some(b"y"))
        }
    }
    let value = |yes: bool| [14, 0, 0, 0, 1, 2, if yes { b'y' } else { b'n' }, 0];
    let pattern = [true, false, true, true, false, false, false, false, false, true];
    let records: Vec<u8> = pattern.iter().flat_map(|yes| value(*yes)).collect();
    assert_eq!(rt::select(&Even, &frame(0, 10, &records)).unwrap(), [0b0000_1101, 0b0000_0010]);
    assert!(rt::select(&Even, &frame(0, 0, &[])).unwrap().is_empty());
}

#[test]
fn partitions_none_is_minus_one_and_the_impossible_stays_impossible() {
    struct ByKey;
    impl Partitioner for ByKey {
        const NEEDS: Needs = Needs::HEADERS;
        fn init(_: &Params) -> Result<Self, Failure> {
            Ok(ByKey)
        }
        fn partition(&self, record: &Record, partitions: u32) -> Result<Option<u32>, Failure> {
            Ok(match (record.key(), record.value()) {
                (None, _) => None,
                (_, None) => Some(u32::MAX),
                _ => Some(partitions - 1),
            })
        }
    }
    assert_eq!(rt::assign(&ByKey, &frame(0, 3, RECORDS), 4).unwrap(), [3, -1, i32::MAX]);
}

#[test]
fn declarations_and_the_order_of_their_kinds() {
    let said = rt::describe(&[Param::required("a"), Param::optional("b"), Param::default("c", "1")], Needs::ALL);
    let said: Vec<_> = said.iter().map(|d| (d.kind.as_str(), d.name.as_str(), d.value.as_str())).collect();
    let expected = [
        ("param", "a", "required"),
        ("param", "b", "optional"),
        ("param", "c", "default=1"),
        ("needs", "value", ""),
        ("needs", "headers", ""),
    ];
    assert_eq!(said, expected);
}

#[test]
fn an_instance_is_initialised_once_and_before_it_is_called() {
    let given = || rt::InitParams { inputs: vec![], outputs: vec![], params: vec![], host: vec![] };
    let instance = rt::Instance::<u32>::new();
    assert_eq!(instance.value().unwrap_err().message, "called before init");
    let missing = instance.init(&[Param::required("field")], given(), |_| Ok(1)).unwrap_err();
    assert_eq!((missing.code, missing.at), (1, None));
    let error = instance.init(&[], given(), |_| Ok("x".parse::<u32>()?)).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (1, "invalid digit found in string"));
    instance.init(&[], given(), |_| Ok(1)).unwrap();
    assert_eq!(instance.value().unwrap(), &1);
    assert_eq!(instance.init(&[], given(), |_| Ok(2)).unwrap_err().code, 3);
}

#[test]
fn the_test_bench_shows_offsets_and_times() {
    struct Show;
    impl Mapper for Show {
        fn init(_: &Params) -> Result<Self, Failure> {
            Ok(Show)
        }
        fn map(&self, record: &Record, out: &mut Out) -> Result<(), Failure> {
            out.to(0).value(&format!("{} {}", record.offset(), record.timestamp_ms())).send();
            Ok(())
        }
    }
    let shown = testing::mapper::<Show>(&[], &[Input::new("a"), Input::new("b")]).unwrap();
    assert_eq!(shown[1].text(), format!("{} {}", BASE_OFFSET + 1, BASE_TIMESTAMP_MS + 1));
}
