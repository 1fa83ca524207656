//! Views: what a topic's records look like through a chain of modules.
//!
//! Offsets and timestamps stay the source's; records may be changed or left out, never added. A reader always gets on:
//! where the tail of what was scanned was left out whole, the answer ends in a batch that covers those offsets: the last one
//! that shows something, or a control batch. Every Kafka client steps over control batches (an empty batch stalls several).
//!
//! A scan is bounded in what it reads, unpacks, shows and in time, and may end in the middle of a batch: the reader goes on
//! there. So no view, however little it shows and however slow its modules are, keeps a request for long.

use std::time::Duration;

use bytes::Bytes;
use millstream_catalog::View;
use millstream_env::{Clock, Monotonic};
use millstream_model::{LeaderEpoch, ModuleKind, ModuleRef, Offset, TimestampMs};
use millstream_protocol::ErrorCode;
use millstream_record::{BatchBuilder, BatchOptions, BuildError, batches};
use millstream_wasm::{
    CallError, Freshness, Pool,
    frame::{FrameOptions, OutputRules},
};

use crate::{
    errors::WireError,
    partition::Partition,
    rows::{self, Room, Row, RowsError},
    shared::Shared,
};

/// Most bytes of the source, as stored, that one request scans: a view that leaves nearly everything out answers all the same.
const SCAN_BYTES_MAX: usize = 4 << 20;
/// Most bytes that one request unpacks.
const SCAN_UNPACKED_BYTES_MAX: usize = 32 << 20;
/// Most bytes that one request is shown, whatever it allows.
pub(crate) const SHOWN_BYTES_MAX: usize = 8 << 20;
/// For how long one request scans; the call under way is finished. Modules are stopped by fuel, which does not know the time,
/// but where a scan ends is no module's output: an answer may hold more or less of a view, never anything else.
const SCAN_TIME_MAX: Duration = Duration::from_millis(500);
/// How much of the source is read at a time.
const READ_BYTES: usize = 1 << 20;
/// The size from which a batch that is shown takes no more records. One record may be larger.
const SHOWN_BATCH_BYTES: usize = 1 << 20;

/// What one request may still scan, over all views and partitions that it names.
pub(crate) struct Scan {
    stored: usize,
    unpacked: usize,
    shown: usize,
    until: Monotonic,
}

/// What a view shows of a stretch of its source.
pub(crate) struct Seen {
    /// Batches to send, one after the other.
    pub(crate) batches: Vec<Bytes>,
    /// Where to read on: past all that was scanned.
    pub(crate) next: Offset,
}

impl Scan {
    pub(crate) fn new(clock: &dyn Clock) -> Self {
        Self {
            stored: SCAN_BYTES_MAX,
            unpacked: SCAN_UNPACKED_BYTES_MAX,
            shown: SHOWN_BYTES_MAX,
            until: Monotonic(clock.now().0 + SCAN_TIME_MAX),
        }
    }

    fn is_over(&self, clock: &dyn Clock) -> bool {
        self.stored == 0 || self.unpacked == 0 || self.shown == 0 || clock.now() > self.until
    }
}

impl Seen {
    /// What it takes in an answer.
    pub(crate) fn bytes(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }
}

/// A view's modules, first to last, each with its instances.
pub(crate) type Chain = Vec<(ModuleRef, Pool)>;

/// The view's modules, loaded. May wait for long, as modules are compiled: hold nothing that others wait for.
pub(crate) async fn open(shared: &Shared, view: &View) -> Result<Chain, WireError> {
    let state = shared.catalog.state();
    let topic = state
        .topic_by_id(view.topic)
        .ok_or_else(|| WireError::new(ErrorCode::UnknownTopicOrPartition, "the view's topic is gone"))?;
    let pools = shared.modules.chain(&state, view, topic).await?;
    Ok(view.chain.iter().cloned().zip(pools).collect())
}

/// Reads a view, whose modules are `chain`, from `from` on: about `bytes_max` bytes of what it shows, at least one record if one
/// is found within the scan's bounds. Nothing at all once the scan is over.
///
/// # Errors
/// What keeps the first record from being shown. What was shown before a record that cannot be is an answer.
pub(crate) async fn read(
    shared: &Shared,
    chain: Chain,
    partition: &Partition,
    from: Offset,
    bytes_max: usize,
    scan: &mut Scan,
) -> Result<Seen, WireError> {
    let options = FrameOptions { partition: partition.id.partition, ..FrameOptions::default() };
    let mut reader =
        Reader { shared, partition, chain, options, next: from, shown: Shown::new(from), room: Room::FIRST };
    let read = reader.read(bytes_max, scan).await;
    let Reader { next, shown, .. } = reader;
    match read {
        Err(error) if next == from => Err(error),
        _ => {
            scan.shown = scan.shown.saturating_sub(shown.bytes);
            Ok(Seen { batches: shown.finish(next, partition.epoch), next })
        }
    }
}

struct Reader<'a> {
    shared: &'a Shared,
    partition: &'a Partition,
    chain: Chain,
    options: FrameOptions,
    /// Everything below was scanned.
    next: Offset,
    shown: Shown,
    room: Room,
}

impl Reader<'_> {
    async fn read(&mut self, bytes_max: usize, scan: &mut Scan) -> Result<(), WireError> {
        let clock = &*self.shared.env.clock;
        let enough = |shown: &Shown, scan: &Scan| shown.bytes > 0 && shown.bytes >= bytes_max.min(scan.shown);
        while !scan.is_over(clock) && !enough(&self.shown, scan) {
            let read_max = READ_BYTES.min(scan.stored);
            let bytes = self.room.bytes(read_max, self.partition.batch_bytes_max());
            let _held = self.shared.memory.unpack(bytes).await;
            let read = self.partition.read(self.next, read_max)?;
            if read.parts.is_empty() {
                return Ok(());
            }
            for batch in read.parts.into_iter().flat_map(batches) {
                let batch = batch.map_err(RowsError::from)?;
                let header = *batch.header();
                let Some(mut unpacked) = self.room.unpack(&batch, self.next)? else { break };
                scan.stored = scan.stored.saturating_sub(batch.bytes().len());
                scan.unpacked = scan.unpacked.saturating_sub(unpacked.bytes());
                loop {
                    let rows = unpacked.next_rows()?;
                    let Some(last) = rows.last() else { break };
                    let end = last.offset.plus(1);
                    for row in self.through_chain(rows).await? {
                        self.shown.push(header.partition_leader_epoch, &row).map_err(too_much)?;
                    }
                    self.next = end;
                    if enough(&self.shown, scan) || clock.now() > scan.until {
                        return Ok(());
                    }
                }
                self.next = header.end_offset();
            }
        }
        Ok(())
    }

    async fn through_chain(&self, mut rows: Vec<Row>) -> Result<Vec<Row>, WireError> {
        for (module, pool) in &self.chain {
            rows = through_module(pool, self.options, &rows).await.map_err(|error| {
                let message = format!("{}, module {module}: {}", pool.options().name, error.message);
                WireError::new(error.code, message)
            })?;
        }
        Ok(rows)
    }
}

async fn through_module(pool: &Pool, options: FrameOptions, mut rest: &[Row]) -> Result<Vec<Row>, WireError> {
    let mut shown = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let (count, frame) = rows::frame(rest, options).map_err(RowsError::from)?;
        let rows = &rest[..count];
        rest = &rest[count..];
        if pool.options().kind == ModuleKind::Filter {
            let kept = pool.select(&frame).await.map_err(|error| unshown(rows, error))?;
            shown.extend(rows.iter().zip(kept).filter(|(_, kept)| *kept).map(|(row, _)| row.clone()));
            continue;
        }
        let emitted = pool.process(&frame, &OutputRules::view(), Freshness::Any).await;
        for emitted in emitted.map_err(|error| unshown(rows, error))? {
            for record in emitted.records() {
                // Sources were checked to be records of the frame, growing.
                let Some(row) = rows.get(record.source() as usize) else { continue };
                shown.push(Row { offset: row.offset, timestamp: row.timestamp, tail: record.tail() });
            }
        }
    }
    Ok(shown)
}

/// Why a module shows nothing of these records, and where whoever reads can go on.
fn unshown(rows: &[Row], error: CallError) -> WireError {
    let at = match &error {
        CallError::Guest(failure) => failure.at.and_then(|at| rows.get(at as usize)),
        _ => None,
    };
    let place = match (at, rows.first()) {
        (Some(row), _) => {
            format!("; it is the record at offset {}: reading can go on from {}", row.offset, row.offset.plus(1))
        }
        (None, Some(first)) => format!("; it was shown the records from offset {} on", first.offset),
        (None, None) => String::new(),
    };
    let refused = WireError::from(error);
    WireError::new(refused.code, refused.message + &place)
}

/// What is shown, in batches.
struct Shown {
    batches: Vec<Bytes>,
    open: Option<Open>,
    /// Where the batches end: what lies behind is not covered yet.
    end: Offset,
    /// What all of it takes, about.
    bytes: usize,
}

struct Open {
    epoch: LeaderEpoch,
    base: Offset,
    last: Offset,
    builder: BatchBuilder,
}

impl Shown {
    fn new(from: Offset) -> Self {
        Self { batches: Vec::new(), open: None, end: from, bytes: 0 }
    }

    /// Adds a record behind the others, at its own offset and in a batch of its own leader's epoch.
    fn push(&mut self, epoch: LeaderEpoch, row: &Row) -> Result<(), BuildError> {
        if let Some(open) = &mut self.open {
            let has_room = open.epoch == epoch && open.builder.size_estimate() + row.tail.len() <= SHOWN_BATCH_BYTES;
            // A batch that says no (times too far apart, offsets too far apart) is complete, too.
            if has_room && open.push(row).is_ok() {
                self.bytes += row.tail.len();
                return Ok(());
            }
            self.close()?;
        }
        let options =
            BatchOptions { base_offset: row.offset, partition_leader_epoch: epoch, ..BatchOptions::default() };
        let mut open = Open { epoch, base: row.offset, last: row.offset, builder: BatchBuilder::new(options) };
        open.push(row)?;
        self.bytes += row.tail.len() + open.builder.size_estimate();
        self.open = Some(open);
        Ok(())
    }

    fn close(&mut self) -> Result<(), BuildError> {
        if let Some(open) = self.open.take() {
            self.batches.push(open.builder.build()?);
            self.end = open.last.plus(1);
        }
        Ok(())
    }

    /// All batches, which cover the offsets up to before `end`.
    fn finish(mut self, end: Offset, epoch: LeaderEpoch) -> Vec<Bytes> {
        if let Some(open) = &mut self.open
            && let Ok(delta) = i32::try_from(end.0 - 1 - open.base.0)
            && open.builder.cover(delta).is_ok()
        {
            open.last = Offset(end.0 - 1);
        }
        // A batch that took records can be built: they are within its limits, and it is not packed.
        let _ = self.close();
        if self.end < end {
            self.batches.extend(cover(self.end, end, epoch));
        }
        self.batches
    }
}

impl Open {
    fn push(&mut self, row: &Row) -> Result<(), BuildError> {
        let delta = i32::try_from(row.offset.0 - self.base.0).unwrap_or(i32::MAX);
        self.builder.push_tail(delta, row.timestamp, &row.tail)?;
        self.last = row.offset;
        Ok(())
    }
}

/// Control batches over the offsets from `from` to before `end`, which say nothing: commit markers of nobody's.
fn cover(from: Offset, end: Offset, epoch: LeaderEpoch) -> Vec<Bytes> {
    // Version 0, type 1 (commit); version 0, coordinator epoch 0.
    const KEY: [u8; 4] = [0, 0, 0, 1];
    const VALUE: [u8; 6] = [0; 6];
    let mut covered = Vec::new();
    let mut base_offset = from;
    while base_offset < end {
        let last_offset_delta = (end.0 - base_offset.0 - 1).min(i64::from(i32::MAX) - 1) as i32;
        let options =
            BatchOptions { base_offset, partition_leader_epoch: epoch, control: true, ..BatchOptions::default() };
        let mut builder = BatchBuilder::new(options);
        let built = builder
            .push_at(0, TimestampMs(0), Some(&KEY), Some(&VALUE), [])
            .and_then(|()| builder.cover(last_offset_delta))
            .and_then(|()| builder.build());
        let Ok(batch) = built else { return covered };
        covered.push(batch);
        base_offset = base_offset.plus(i64::from(last_offset_delta) + 1);
    }
    covered
}

fn too_much(error: BuildError) -> WireError {
    WireError::new(ErrorCode::CallFailed, format!("what the view shows does not fit into a batch: {error}"))
}

#[cfg(test)]
mod tests {
    use millstream_record::Batch;

    use super::*;

    fn row(offset: i64, timestamp: i64, bytes: usize) -> Row {
        // A null key, a value of zeros, no headers.
        let mut tail = vec![1];
        millstream_record::varint::put_i32(&mut tail, bytes as i32);
        tail.resize(tail.len() + bytes, 0);
        tail.push(0);
        Row { offset: Offset(offset), timestamp: TimestampMs(timestamp), tail: tail.into() }
    }

    #[test]
    fn a_record_that_a_module_refuses_is_told_with_its_offset_and_the_way_on() {
        use millstream_wasm::{Failure, FailureCode};
        let rows = [row(733, 0, 1), row(800, 0, 1)];
        let failure = |at| Failure { code: FailureCode::Record, at, message: "no".into() };
        let told = |at| unshown(&rows, CallError::Guest(failure(at)));
        assert_eq!(told(Some(1)).code, ErrorCode::CallFailed);
        let message = told(Some(1)).message;
        assert!(message.contains("offset 800") && message.contains("from 801"), "{message}");
        for unknown in [told(None), told(Some(9))] {
            assert!(unknown.message.contains("from offset 733 on"), "{}", unknown.message);
        }
    }

    /// A batch's offsets, whether it is a control batch, and the offsets and times of its records.
    type Told = (i64, i64, bool, Vec<(i64, i64)>);

    /// What a reader of `rows` over a scan up to `end` gets.
    fn shown(from: i64, rows: &[Row], epoch: impl Fn(i64) -> i32, end: i64) -> Vec<Told> {
        let mut shown = Shown::new(Offset(from));
        for row in rows {
            shown.push(LeaderEpoch(epoch(row.offset.0)), row).unwrap();
        }
        let told = |batch: Bytes| {
            let batch = Batch::parse_one(batch).unwrap();
            batch.verify_crc().unwrap();
            let header = *batch.header();
            let records = batch.records(64 << 20).unwrap().map(|record| record.unwrap());
            let records = match header.attributes.is_control() {
                true => Vec::new(),
                false => records.map(|record| (record.offset.0, record.timestamp.0)).collect(),
            };
            (header.base_offset.0, header.end_offset().0, header.attributes.is_control(), records)
        };
        shown.finish(Offset(end), LeaderEpoch(9)).into_iter().map(told).collect()
    }

    #[test]
    fn what_is_left_out_at_the_end_is_covered_by_the_last_batch() {
        let rows = [row(12, 5, 1), row(15, 6, 1)];
        assert_eq!(shown(10, &rows, |_| 0, 40), [(12, 40, false, vec![(12, 5), (15, 6)])]);
    }

    #[test]
    fn where_nothing_is_shown_a_control_batch_covers_it() {
        assert_eq!(shown(10, &[], |_| 0, 40), [(10, 40, true, vec![])]);
        assert_eq!(shown(10, &[], |_| 0, 10), []);
        let end = 10 + 2 * i64::from(i32::MAX);
        let wide = shown(10, &[], |_| 0, end);
        assert_eq!((wide.first().map(|batch| batch.0), wide.last().map(|batch| batch.1)), (Some(10), Some(end)));
        assert!(wide.windows(2).all(|two| two[0].1 == two[1].0), "{wide:?}");
    }

    #[test]
    fn records_of_times_that_one_batch_cannot_hold_are_shown_in_two() {
        let rows = [row(1, i64::MIN, 1), row(2, i64::MAX, 1), row(3, 7, 1)];
        let expected = [(1, 2, false, vec![(1, i64::MIN)]), (2, 4, false, vec![(2, i64::MAX), (3, 7)])];
        assert_eq!(shown(0, &rows, |_| 0, 4), expected);
    }

    #[test]
    fn leader_epochs_and_sizes_end_a_batch() {
        let rows: Vec<Row> = (0..4).map(|offset| row(offset, 1, 10)).collect();
        let batches = shown(0, &rows, |offset| i32::from(offset > 1), 4);
        assert_eq!(batches.iter().map(|batch| (batch.0, batch.1)).collect::<Vec<_>>(), [(0, 2), (2, 4)]);
        // Far more than one batch may hold in all.
        let rows: Vec<Row> = (0..100).map(|offset| row(offset, 1, 900 << 10)).collect();
        let batches = shown(0, &rows, |_| 0, 100);
        assert_eq!(batches.len(), 100);
    }
}
