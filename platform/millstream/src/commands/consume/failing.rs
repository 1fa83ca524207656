//! Partitions that cannot be read while others can: said when it begins and when it is over, and which were not read in the end.

use std::collections::BTreeSet;

use millstream_client::{ConsumeError, ConsumerEvent, ErrorCode};
use millstream_model::PartitionId;

use crate::{
    failure::explain,
    output::{joined, say},
};

/// The partitions that fail at the moment.
#[derive(Debug, Default)]
pub(super) struct Failing(BTreeSet<PartitionId>);

impl Failing {
    /// Says what has changed. `name`: of the topic or view.
    pub(super) fn note(&mut self, name: &str, event: ConsumerEvent) {
        match event {
            ConsumerEvent::Failing { partition, error } => {
                self.0.insert(partition);
                say(told(name, partition, &error));
            }
            ConsumerEvent::Recovered { partition } => {
                self.0.remove(&partition);
                say(format_args!("{name} partition {partition} is read again"));
            }
            ConsumerEvent::PassedOver { partition, from, to } => say(format_args!(
                "{name} partition {partition}: what begins at offset {from} was deleted before it was read (retention); reading goes \
                 on at {to}"
            )),
            _ => {}
        }
    }

    /// What ended the reading: `error` is one partition's, where there are others of which it was told.
    pub(super) fn explain(&self, error: ConsumeError) -> anyhow::Error {
        let which: Vec<_> = self.0.iter().collect();
        match which.as_slice() {
            [] => error.into(),
            [one] => anyhow::Error::new(error).context(format!("partition {one} was not read to its end")),
            some => {
                anyhow::Error::new(error).context(format!("partitions {} were not read to their end", joined(some)))
            }
        }
    }
}

/// What to say of a partition that cannot be read, and what to do about it.
fn told(name: &str, partition: PartitionId, error: &ConsumeError) -> String {
    match error.code() {
        Some(ErrorCode::KafkaStorage) => format!(
            "{name} partition {partition} is out of service ({}): `millstream topic describe {name}` and the broker's log say more. \
             It is tried again, and other partitions are read",
            explain(error)
        ),
        _ if error.is_retriable() => format!("{}; it is tried again, and other partitions are read", explain(error)),
        _ => format!("{}; other partitions are read", explain(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_the_reading_names_every_partition_that_fails() {
        let error = || ConsumeError::Damaged {
            topic: "t".into(),
            partition: PartitionId(1),
            offset: millstream_model::Offset(7),
            detail: "rot".into(),
        };
        let check = |partitions: &[i32], expected: &str| {
            let mut failing = Failing::default();
            for partition in partitions {
                failing.note("t", ConsumerEvent::Failing { partition: PartitionId(*partition), error: error() });
            }
            // One that came back is not named.
            failing.note("t", ConsumerEvent::Failing { partition: PartitionId(9), error: error() });
            failing.note("t", ConsumerEvent::Recovered { partition: PartitionId(9) });
            let told = explain(failing.explain(error()).as_ref());
            let damage = "the records of t partition 1 from offset 7 on are damaged: rot";
            assert_eq!(told, format!("{expected}{damage}"), "{partitions:?}");
        };
        check(&[], "");
        check(&[1], "partition 1 was not read to its end: ");
        check(&[4, 1], "partitions 1, 4 were not read to their end: ");
    }
}
