//! What is produced: batches of 100 records of 1 KiB, the same for everybody.

use anyhow::Context;
use bytes::Bytes;
use millstream_model::TimestampMs;
use millstream_record::{BatchBuilder, BatchOptions};

/// Records of a batch.
pub(crate) const RECORDS: usize = 100;
/// Bytes of a record's value.
pub(crate) const VALUE_BYTES: usize = 1024;
/// The records' time: fixed, so that a batch encoded twice is the same twice.
pub(crate) const TIMESTAMP: TimestampMs = TimestampMs(1_577_836_800_000);

/// The values of one batch's records.
pub(crate) fn values(seed: u8) -> Vec<Bytes> {
    let value = |record: usize| {
        let byte = |at: usize| ((at * 31 + record * 7) as u8).wrapping_mul(seed | 1);
        (0..VALUE_BYTES).map(byte).collect::<Vec<_>>().into()
    };
    (0..RECORDS).map(value).collect()
}

/// A batch of them, encoded as a client does it.
pub(crate) fn encode(values: &[Bytes]) -> anyhow::Result<Bytes> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for value in values {
        builder.push(TIMESTAMP, None, Some(value), &[])?;
    }
    builder.build().context("encode the batch")
}

#[cfg(test)]
mod tests {
    use millstream_record::Batch;

    use super::*;

    #[test]
    fn a_broker_takes_the_batch() {
        let mut batch = Batch::parse_one(encode(&values(3)).unwrap()).unwrap();
        batch.validate_for_append().unwrap();
        assert_eq!(batch.header().count as usize, RECORDS);
    }
}
