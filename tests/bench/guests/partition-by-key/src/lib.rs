//! The partition that Kafka's clients choose for a key. Looks at nothing else, so nothing else is sent to it.

use millstream_guest::{Failure, Params, Partitioner, Record, hash};

struct ByKey;

millstream_guest::export!(ByKey as partitioner);

impl Partitioner for ByKey {
    fn init(_params: &Params) -> Result<Self, Failure> {
        Ok(ByKey)
    }

    fn partition(&self, record: &Record, partitions: u32) -> Result<Option<u32>, Failure> {
        Ok(record.key().map(|key| hash::kafka_partition(key, partitions)))
    }
}
