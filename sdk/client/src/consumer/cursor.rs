//! An answer's records, handed out one by one.

use std::sync::Arc;

use millstream_model::{Offset, PartitionId, limits::BATCH_BYTES_MAX};
use millstream_record::{Batch, Records};

use super::{ConsumedRecord, FetchedBatches};

/// Most bytes that one compressed batch may unpack to.
const UNPACKED_BYTES_MAX: usize = BATCH_BYTES_MAX;

/// The answer that is being handed out record by record.
pub(super) struct Cursor {
    partition: PartitionId,
    /// Records before this were handed out.
    next: Offset,
    /// The batches still to come, then the one at hand: where it begins, and its records.
    batches: std::vec::IntoIter<Batch>,
    records: Option<(Offset, Records)>,
}

impl Cursor {
    pub(super) fn over(fetched: FetchedBatches) -> Self {
        let FetchedBatches { partition, batches, from: next, .. } = fetched;
        Self { partition, next, batches: batches.into_iter(), records: None }
    }

    pub(super) fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The offset after the last record that was handed out.
    pub(super) fn next(&self) -> Offset {
        self.next
    }

    /// The next record that was not read before and lies before `end`; none when the answer is used up.
    pub(super) fn step(&mut self, end: Option<Offset>) -> Option<Result<ConsumedRecord, (Offset, Arc<str>)>> {
        loop {
            let Some((base, records)) = &mut self.records else {
                let batch = self.batches.next()?;
                let base = batch.header().base_offset;
                match batch.records(UNPACKED_BYTES_MAX) {
                    Ok(records) => self.records = Some((base, records)),
                    Err(error) => return Some(Err((base, error.to_string().into()))),
                }
                continue;
            };
            match records.next() {
                None => self.records = None,
                Some(Err(error)) => return Some(Err((*base, error.to_string().into()))),
                Some(Ok(record)) if record.offset < self.next => {}
                Some(Ok(record)) if end.is_some_and(|end| record.offset >= end) => {}
                Some(Ok(record)) => {
                    self.next = Offset(record.offset.0 + 1);
                    return Some(Ok(ConsumedRecord {
                        partition: self.partition,
                        offset: record.offset,
                        timestamp: record.timestamp,
                        headers: record.headers.iter().collect(),
                        key: record.key,
                        value: record.value,
                    }));
                }
            }
        }
    }
}
