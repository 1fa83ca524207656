//! Views: what a topic's records look like through a chain of modules.
//!
//! Offsets and timestamps stay the source's; records may be changed or left out, never added. A reader always gets on:
//! where the tail of what was scanned was left out whole, the answer ends in a control batch that covers those offsets.
//! Every Kafka client steps over control batches (an empty batch stalls several).

use bytes::Bytes;
use millstream_catalog::View;
use millstream_model::{ModuleKind, Offset, PartitionId, TimestampMs};
use millstream_protocol::ErrorCode;
use millstream_record::{Batch, BatchBuilder, BatchHeader, BatchOptions, batches};
use millstream_wasm::{
    Freshness, Pool,
    frame::{FrameOptions, InputFrame, OutputRules},
};

use crate::{
    errors::WireError,
    partition::Partition,
    rows::{self, Row},
    shared::Shared,
};

/// Most bytes of the source that one fetch scans: a view that leaves nearly everything out answers all the same.
const SCAN_BYTES_MAX: usize = 4 << 20;
/// How much of the source is read at a time.
const READ_BYTES: usize = 1 << 20;

/// What a view shows of a stretch of its source.
pub(crate) struct Seen {
    /// Batches to send, one after the other.
    pub(crate) batches: Vec<Bytes>,
    /// Where to read on: past all that was scanned.
    pub(crate) next: Offset,
}

/// Reads the view from `from` on: about `bytes_max` bytes of what it shows, at least one record if one is found within
/// the scan's bound.
pub(crate) async fn read(
    shared: &Shared,
    view: &View,
    partition: &Partition,
    from: Offset,
    bytes_max: usize,
) -> Result<Seen, WireError> {
    let state = shared.catalog.state();
    let topic = state
        .topic_by_id(view.topic)
        .ok_or_else(|| WireError::new(ErrorCode::UnknownTopicOrPartition, "the view's topic is gone"))?;
    let chain = shared.modules.chain(&state, view, topic).await?;
    let mut seen = Seen { batches: Vec::new(), next: from };
    let (mut scanned, mut given, mut shown) = (0, 0, from);
    while scanned < SCAN_BYTES_MAX && (given == 0 || given < bytes_max) {
        let read = partition.read(seen.next, READ_BYTES.min(SCAN_BYTES_MAX - scanned))?;
        if read.batches.is_empty() {
            break;
        }
        scanned += read.batches.len();
        for batch in batches(read.batches) {
            let batch = batch.map_err(rows::damaged)?;
            let next = batch.header().end_offset();
            if let Some(batch) = through_chain(&chain, partition.id.partition, &batch, from).await? {
                given += batch.len();
                seen.batches.push(batch);
                shown = next;
            }
            seen.next = next;
            if given >= bytes_max && given > 0 {
                break;
            }
        }
    }
    if shown < seen.next {
        seen.batches.extend(cover(shown.max(from), seen.next, partition.epoch));
    }
    Ok(seen)
}

/// One batch of the source as the chain shows it; none if nothing of it is shown.
async fn through_chain(
    chain: &[Pool],
    partition: PartitionId,
    batch: &Batch,
    from: Offset,
) -> Result<Option<Bytes>, WireError> {
    let options = FrameOptions { partition, ..FrameOptions::default() };
    let mut rows = rows::from_batch(batch, from)?;
    for pool in chain {
        rows = through_module(pool, options, rows).await?;
    }
    if rows.is_empty() {
        return Ok(None);
    }
    rebuild(batch.header(), &rows).map(Some)
}

async fn through_module(pool: &Pool, options: FrameOptions, rows: Vec<Row>) -> Result<Vec<Row>, WireError> {
    let mut shown = Vec::with_capacity(rows.len());
    for (first, frame) in rows::frames(&rows, options)? {
        call(pool, &frame, &rows[first..], &mut shown).await?;
    }
    Ok(shown)
}

/// One call: `rows` begins with the records of `frame`.
async fn call(pool: &Pool, frame: &InputFrame, rows: &[Row], shown: &mut Vec<Row>) -> Result<(), WireError> {
    if pool.options().kind == ModuleKind::Filter {
        let kept = pool.select(frame).await?;
        shown.extend(rows.iter().zip(kept).filter(|(_, kept)| *kept).map(|(row, _)| row.clone()));
        return Ok(());
    }
    for emitted in pool.process(frame, &OutputRules::view(), Freshness::Any).await? {
        for record in emitted.records() {
            // Sources were checked to be records of the frame, growing.
            let Some(row) = rows.get(record.source() as usize) else { continue };
            shown.push(Row { offset: row.offset, timestamp: row.timestamp, tail: record.tail() });
        }
    }
    Ok(())
}

/// A batch of the rows at their old offsets, which ends where the source's ends.
fn rebuild(source: &BatchHeader, rows: &[Row]) -> Result<Bytes, WireError> {
    let base_offset = rows.first().map_or(source.base_offset, |row| row.offset);
    let bytes = rows.iter().map(|row| row.tail.len() + 24).sum();
    let options =
        BatchOptions { base_offset, partition_leader_epoch: source.partition_leader_epoch, ..BatchOptions::default() };
    let mut builder = BatchBuilder::with_capacity(options, bytes);
    // Both offsets lie within one source batch, whose length is an i32.
    let delta = |offset: Offset| (offset.0 - base_offset.0) as i32;
    for row in rows {
        builder.push_tail(delta(row.offset), row.timestamp, &row.tail).map_err(too_much)?;
    }
    builder.cover(delta(source.last_offset())).map_err(too_much)?;
    builder.build().map_err(too_much)
}

/// A control batch over the offsets from `from` to before `end`, which says nothing: a commit marker of nobody's.
fn cover(from: Offset, end: Offset, epoch: millstream_model::LeaderEpoch) -> Vec<Bytes> {
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

fn too_much(error: impl std::fmt::Display) -> WireError {
    WireError::new(ErrorCode::CallFailed, format!("what the view shows does not fit into a batch: {error}"))
}
