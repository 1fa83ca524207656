//! Records on their way through modules: taken from stored batches, put into frames.

use bytes::Bytes;
use millstream_model::{Offset, TimestampMs, limits};
use millstream_protocol::ErrorCode;
use millstream_record::{Batch, raw};
use millstream_wasm::frame::{FrameBuilder, FrameOptions, InputFrame};

use crate::errors::WireError;

/// A record with its place, outside of any batch.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) offset: Offset,
    pub(crate) timestamp: TimestampMs,
    /// Key, value and headers, as encoded in a batch.
    pub(crate) tail: Bytes,
}

/// The batch's records from `from` on; none of a control batch.
pub(crate) fn from_batch(batch: &Batch, from: Offset) -> Result<Vec<Row>, WireError> {
    let header = batch.header();
    if header.attributes.is_control() {
        return Ok(Vec::new());
    }
    let section = batch.section(limits::BATCH_BYTES_MAX).map_err(damaged)?;
    // A record takes seven bytes at least.
    let mut rows = Vec::with_capacity(usize::try_from(header.count).unwrap_or(0).min(section.len() / 7));
    for record in raw::records(&section) {
        let record = record.map_err(damaged)?;
        let offset = header.base_offset.plus(record.offset_delta.into());
        if offset >= from {
            let timestamp = TimestampMs(header.base_timestamp.0.saturating_add(record.timestamp_delta));
            rows.push(Row { offset, timestamp, tail: section.slice_ref(record.tail) });
        }
    }
    Ok(rows)
}

/// Puts rows into frames of the size that calls should have; each frame with the index of its first row.
pub(crate) fn frames(rows: &[Row], options: FrameOptions) -> Result<Vec<(usize, InputFrame)>, WireError> {
    let mut frames = Vec::new();
    let mut builder = FrameBuilder::new(options);
    let mut first = 0;
    for (index, row) in rows.iter().enumerate() {
        if builder.is_full(row.tail.len())
            && let Some(frame) = builder.take()
        {
            frames.push((first, frame));
            first = index;
        }
        builder.push_encoded(row.offset, row.timestamp, &row.tail).map_err(damaged)?;
    }
    frames.extend(builder.take().map(|frame| (first, frame)));
    Ok(frames)
}

pub(crate) fn damaged(error: impl std::fmt::Display) -> WireError {
    WireError::new(ErrorCode::CorruptMessage, format!("a stored batch cannot be read: {error}"))
}
