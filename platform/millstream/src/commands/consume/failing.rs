//! Partitions that cannot be read while others can: said when it begins and when it is over, and which were not read in the end.

use std::collections::BTreeSet;

use millstream_client::{ConsumeError, ConsumerEvent, ErrorCode};
use millstream_model::PartitionId;

use crate::{
    failure::explain,
    output::{joined, say},
};

/// The partitions that fail at the moment.
#[derive(Debug)]
pub(super) struct Failing {
    partitions: BTreeSet<PartitionId>,
    /// One partition is read, as was asked for.
    alone: bool,
}

impl Failing {
    /// `asked`: the partitions that were named; none is all.
    pub(super) fn new(asked: &[i32]) -> Self {
        let alone = asked.first().is_some_and(|first| asked.iter().all(|other| other == first));
        Self { partitions: BTreeSet::new(), alone }
    }

    /// Says what has changed. `name`: of the topic or view.
    pub(super) fn note(&mut self, name: &str, event: ConsumerEvent) {
        match event {
            // That ends the reading, which is told then.
            ConsumerEvent::Failing { error, .. } if self.alone && !error.is_retriable() => {}
            ConsumerEvent::Failing { partition, error } => {
                self.partitions.insert(partition);
                say(told(name, partition, &error, self.alone));
            }
            ConsumerEvent::Recovered { partition } => {
                self.partitions.remove(&partition);
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
        let which: Vec<_> = self.partitions.iter().collect();
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
fn told(name: &str, partition: PartitionId, error: &ConsumeError, alone: bool) -> String {
    let others = if alone { "" } else { ", and other partitions are read" };
    match error.code() {
        Some(ErrorCode::KafkaStorage) => format!(
            "{name} partition {partition} is out of service ({}): `millstream topic describe {name}` and the broker's log say more. \
             It is tried again{others}",
            explain(error)
        ),
        _ if error.is_retriable() => format!("{}; it is tried again{others}", explain(error)),
        _ => format!("{}{}", explain(error), if alone { "" } else { "; other partitions are read" }),
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
            let mut failing = Failing::new(&[1, 4, 9]);
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
        let mut alone = Failing::new(&[1, 1]);
        alone.note("t", ConsumerEvent::Failing { partition: PartitionId(1), error: error() });
        assert!(explain(alone.explain(error()).as_ref()).starts_with("the records of t partition 1"), "told once");
    }

    #[test]
    fn one_partition_is_alone_only_where_it_was_asked_for() {
        let alone = |asked: &[i32]| Failing::new(asked).alone;
        assert!(alone(&[3]) && alone(&[3, 3]) && !alone(&[3, 4]));
        // Of all, some may not be placed yet: what is told of one of them is not told by the end of the reading.
        assert!(!alone(&[]));
    }

    #[test]
    fn other_partitions_are_spoken_of_where_there_are_any() {
        let error = ConsumeError::Damaged {
            topic: "t".into(),
            partition: PartitionId(1),
            offset: millstream_model::Offset(7),
            detail: "rot".into(),
        };
        assert!(told("t", PartitionId(1), &error, false).contains("other partitions"));
        assert!(!told("t", PartitionId(1), &error, true).contains("other partitions"));
    }
}
