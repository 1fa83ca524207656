//! Outputs not believed: is every lie in a guest's answer found, with an error that names it?

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod guests;

use guests::{Guest, World, data, frame, output, two_outputs};
use millstream_wasm::{
    CallError, Freshness, Pool,
    frame::{FrameError, FrameHeader, OutputError, OutputRules},
};

/// What a call of two records gives when the guest answers with these frames; the pool must serve a good call before and
/// after (another pool shows that neighbours live).
async fn emitted(frames: &[(u32, Vec<u8>)]) -> OutputError {
    let world = World::new();
    let pool = world.pool(&Guest::emitting(frames)).await;
    let error = refused(&pool, &two_outputs()).await;
    let good = world.pool(&Guest::mapper()).await;
    good.process(&frame(2), &two_outputs(), Freshness::Any).await.unwrap();
    error
}

async fn refused(pool: &Pool, rules: &OutputRules) -> OutputError {
    match pool.process(&frame(2), rules, Freshness::Any).await {
        Err(CallError::Output(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// An output frame for the two records of the call, with this change in its header.
fn changed(change: impl FnOnce(&mut FrameHeader)) -> Vec<u8> {
    output(&frame(2), &[0, 1], change)
}

/// With these bytes overwritten.
fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = changed(|_| {});
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// A frame with one record of these bytes.
fn with_record(record: &[u8]) -> Vec<u8> {
    let header = FrameHeader { count: 1, record_bytes: record.len() as u32, columns: 1, ..*frame(1).header() };
    [&header.encode(), record, &0u32.to_le_bytes()].concat()
}

#[tokio::test]
async fn headers_that_lie() {
    let cases = [
        ("no bytes", Vec::new()),
        ("half a header", changed(|_| {})[..30].to_vec()),
        ("version 2", patched(0, &[2])),
        ("kind timers", patched(2, &[1])),
        ("unknown flag", patched(4, &[8])),
        ("elided", patched(4, &[2])),
        ("unknown column", patched(40, &[5])),
        ("long header", patched(44, &[52])),
        ("short header", patched(44, &[0])),
        ("more records than there are", changed(|header| header.count = 3)),
        ("2^32-1 records", changed(|header| header.count = u32::MAX)),
        ("fewer records than there are", changed(|header| header.count = 1)),
        ("no records but bytes", changed(|header| header.count = 0)),
        ("2^32-1 record bytes", changed(|header| header.record_bytes = u32::MAX)),
        ("one record byte too few", changed(|header| header.record_bytes -= 1)),
        ("bytes at the end", [changed(|_| {}), vec![0]].concat()),
        ("a partition column that is not there", changed(|header| header.columns = 3)),
    ];
    for (what, bytes) in cases {
        let error = emitted(&[(0, bytes)]).await;
        assert!(matches!(error, OutputError::Frame { output: 0, .. }), "{what}: {error:?}");
    }
}

#[tokio::test]
async fn records_that_lie() {
    let cases: [(&str, &[u8]); 11] = [
        ("length -1", &[1, 0, 0, 0, 1, 1, 0]),
        ("length past the end", &[14, 0, 0, 0, 1, 1, 0]),
        ("length 2^31-1", &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 1, 1, 0]),
        ("a number without end", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("key past the end", &[12, 0, 0, 0, 10, 1, 0]),
        ("key length -2", &[12, 0, 0, 0, 3, 1, 0]),
        ("value past the end", &[12, 0, 0, 0, 1, 10, 0]),
        ("headers -1", &[12, 0, 0, 0, 1, 1, 1]),
        ("headers past the end", &[12, 0, 0, 0, 1, 1, 100]),
        ("a header without a name", &[16, 0, 0, 0, 1, 1, 2, 1, 1]),
        ("bytes after the headers", &[14, 0, 0, 0, 1, 1, 0, 0]),
    ];
    for (what, record) in cases {
        let error = emitted(&[(0, with_record(record))]).await;
        assert!(
            matches!(error, OutputError::Frame { error: FrameError::Record { index: 0, .. }, .. }),
            "{what}: {error:?}"
        );
    }
    let name = [20, 0, 0, 0, 1, 1, 2, 4, 0xff, 0xfe, 1];
    let error = emitted(&[(0, with_record(&name))]).await;
    assert!(matches!(error, OutputError::HeaderName { index: 0, .. }), "{error:?}");
}

#[tokio::test]
async fn sources_that_there_are_not_or_out_of_order() {
    let frame_of = |sources: &[u32]| output(&frame(2), sources, |_| {});
    for sources in [[0, 2], [u32::MAX, 0], [1, 0]] {
        let error = emitted(&[(0, frame_of(&sources))]).await;
        assert!(matches!(error, OutputError::Source { .. }), "{sources:?}: {error:?}");
    }
    // The order holds over all emits of one output ...
    let error = emitted(&[(0, frame_of(&[1, 1])), (0, frame_of(&[0, 1]))]).await;
    assert!(matches!(error, OutputError::Source { index: 0, value: 0, .. }), "{error:?}");
    // ... but each output has its own.
    let world = World::new();
    let pool = world.pool(&Guest::emitting(&[(0, frame_of(&[1, 1])), (1, frame_of(&[0, 1]))])).await;
    assert_eq!(pool.process(&frame(2), &two_outputs(), Freshness::Any).await.unwrap().len(), 2);
    let error = emitted(&[(0, changed(|header| header.columns = 0)[..].to_vec())]).await;
    assert!(matches!(error, OutputError::Frame { error: FrameError::Length { .. }, .. }), "{error:?}");
    let bare = frame(2).bytes().to_vec();
    assert_eq!(emitted(&[(0, bare)]).await, OutputError::NoSource { output: 0 });
}

#[tokio::test]
async fn partitions_and_outputs_that_there_are_not() {
    let with_partition = |partition: i32| {
        let mut bytes = output(&frame(2), &[0, 1], |header| header.columns = 3);
        bytes.extend((-1i32).to_le_bytes());
        bytes.extend(partition.to_le_bytes());
        bytes
    };
    for partition in [4, i32::MAX, -2, i32::MIN] {
        let error = emitted(&[(0, with_partition(partition))]).await;
        assert!(matches!(error, OutputError::Partition { index: 1, partitions: 4, .. }), "{error:?}");
    }
    for output in [2, u32::MAX] {
        let error = emitted(&[(output, changed(|_| {}))]).await;
        assert_eq!(error, OutputError::Output { output, outputs: 2 });
    }
    let world = World::new();
    let pool = world.pool(&Guest::emitting(&[(1, with_partition(3))])).await;
    let good = pool.process(&frame(2), &two_outputs(), Freshness::Any).await.unwrap();
    let partitions: Vec<_> = good[0].records().map(|record| record.partition().map(|p| p.0)).collect();
    assert_eq!(partitions, [None, Some(3)]);
}

#[tokio::test]
async fn timestamps_at_the_ends_of_time() {
    for base in [i64::MIN, -2, i64::MAX, i64::MAX - 1, 253_402_300_800_000] {
        let error = emitted(&[(0, changed(|header| header.base_timestamp = base))]).await;
        assert!(matches!(error, OutputError::Timestamp { .. }), "{base}: {error:?}");
    }
    // Offsets are the source's, whatever the frame says: a forged identity has no effect.
    let forged = changed(|header| {
        header.base_offset = i64::MIN;
        header.partition = 77;
        header.input = 9;
    });
    let world = World::new();
    let pool = world.pool(&Guest::emitting(&[(0, forged)])).await;
    assert_eq!(pool.process(&frame(2), &two_outputs(), Freshness::Any).await.unwrap()[0].len(), 2);
}

#[tokio::test]
async fn too_much_and_too_large() {
    // One record in, frames without end out.
    let world = World::new();
    let pour = "(loop $l (call $emit (i32.const 0) (i32.const 0) (i32.const 65536)) (br $l)) unreachable";
    let pool = world.pool(&Guest::mapper().work(pour)).await;
    assert!(matches!(refused(&pool, &two_outputs()).await, OutputError::TooMuch { what: "bytes", .. }));
    // In one emit.
    let grow = "(drop (memory.grow (i32.const 800))) (call $emit (i32.const 0) (i32.const 0) (i32.const 50000000)) unreachable";
    let pool = world.pool(&Guest::mapper().work(grow)).await;
    assert!(matches!(refused(&pool, &two_outputs()).await, OutputError::TooMuch { .. }));
    // A record of more than 1 MiB.
    let value = vec![b'x'; (1 << 20) + 1];
    let mut record = Vec::new();
    millstream_record::raw::put_record(&mut record, 0, 0, None, Some(&value), []);
    let error = emitted(&[(0, with_record(&record))]).await;
    assert!(matches!(error, OutputError::RecordSize { max: 1_048_576, .. }), "{error:?}");
}

#[tokio::test]
async fn one_record_in_and_a_million_out() {
    let count = 1_000_001u32;
    let records: Vec<u8> = [12, 0, 0, 0, 1, 1, 0].repeat(count as usize);
    let header = FrameHeader { count, record_bytes: records.len() as u32, columns: 1, ..*frame(1).header() };
    let mut bytes = [header.encode().as_slice(), &records].concat();
    bytes.resize(bytes.len() + count as usize * 4, 0);
    let world = World::new();
    let pool = world.pool_with(&Guest::emitting(&[(0, bytes)]), |o| o.limits.record_bytes = 32 << 20).await;
    let error = refused(&pool, &two_outputs()).await;
    assert!(matches!(error, OutputError::TooMuch { what: "records", .. }), "{error:?}");
}

#[tokio::test]
async fn selections_of_the_wrong_length() {
    let answer = |len: u32, bits: u8| {
        Guest::filter()
            .work(&format!("(i32.store (i32.const 132) (i32.const 2048)) (i32.store (i32.const 136) (i32.const {len})) (i32.const 128)"))
            .extra(&data(2048, &[bits; 16]))
    };
    let world = World::new();
    for (len, bits) in [(0, 0), (2, 0), (u32::MAX >> 8, 0), (1, 0b1000_0000), (1, 0b100)] {
        let pool = world.pool(&answer(len, bits)).await;
        let error = pool.select(&frame(2)).await.unwrap_err();
        let legal = matches!(error, CallError::Output(OutputError::Selection { .. }));
        // A length past the memory is found by the engine.
        assert!(legal || (len > 2 && matches!(error, CallError::Trap { .. } | CallError::Output(_))), "{error:?}");
    }
    assert_eq!(world.pool(&answer(1, 0b10)).await.select(&frame(2)).await.unwrap(), [false, true]);
}

#[tokio::test]
async fn assignments_that_there_are_not() {
    let answer = |numbers: &[i32]| {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let len = numbers.len();
        Guest::partitioner()
            .work(&format!("(i32.store (i32.const 132) (i32.const 2048)) (i32.store (i32.const 136) (i32.const {len})) (i32.const 128)"))
            .extra(&data(2048, &bytes))
    };
    let world = World::new();
    for numbers in [[0, 3], [i32::MAX, 0], [-2, 0], [0, i32::MIN]] {
        let error = world.pool(&answer(&numbers)).await.assign(&frame(2), 3).await.unwrap_err();
        assert!(
            matches!(error, CallError::Output(OutputError::Assigned { partitions: 3, .. })),
            "{numbers:?}: {error:?}"
        );
    }
    for numbers in [&[][..], &[0], &[0, 1, 2]] {
        let error = world.pool(&answer(numbers)).await.assign(&frame(2), 3).await.unwrap_err();
        assert!(
            matches!(error, CallError::Output(OutputError::Assignment { records: 2, .. })),
            "{numbers:?}: {error:?}"
        );
    }
    let pool = world.pool(&answer(&[-1, 2])).await;
    assert_eq!(pool.assign(&frame(2), 3).await.unwrap(), [-1, 2]);
}

#[tokio::test]
async fn metrics_that_were_not_declared() {
    let report =
        "(i32.store (i32.const 256) (i32.const 1)) (call $report (i32.const 256) (i32.const 1)) (i32.const 64)";
    let world = World::new();
    let pool = world.pool(&Guest::mapper().work(report).declaring(&[("metric", "only", "")])).await;
    assert_eq!(refused(&pool, &two_outputs()).await, OutputError::Metric { id: 1, declared: 1 });
    assert_eq!(pool.metrics(), [("only".to_owned(), 0.0)]);
}

#[tokio::test]
async fn what_a_failing_call_emitted_is_dropped() {
    let world = World::new();
    let work = format!(
        "(call $emit (i32.const 0) (i32.const 1048576) (i32.const {})) {}",
        changed(|_| {}).len(),
        guests::failing(2, Some(0), 0)
    );
    let guest = Guest { memory: "(memory (export \"memory\") 18)".into(), ..Guest::mapper() };
    let pool = world.pool(&guest.work(&work).extra(&data(1 << 20, &changed(|_| {})))).await;
    let error = pool.process(&frame(2), &two_outputs(), Freshness::Any).await.unwrap_err();
    assert!(matches!(error, CallError::Guest(_)), "{error:?}");
}
