//! The logs that there are and those that the metadata asks for, where they differ: what may be deleted, what is kept, what is missed.

use millstream_catalog::{Catalog, State};
use millstream_log::{LogId, OpenError, OpenLogError, Storage, Stream};
use millstream_model::{BrokerId, LeaderEpoch, PartitionId};
use tracing::{error, warn};

/// What becomes of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The metadata knows it.
    Known,
    /// Its topic or transform was deleted, or it never was anything: it can go.
    Deleted,
    /// The metadata does not know it, and nothing proves that it ever did: it stays.
    Kept,
}

/// What becomes of a log by the metadata as of an entry. Who asks has seen the log before the metadata.
///
/// An older copy of the metadata than the logs is refused before this is asked; but logs of earlier versions do not tell which one they
/// need.
pub(crate) fn standing(storage: &Storage, (applied, state): (u64, &State), id: LogId) -> Standing {
    let known = state.topic_by_id(id.topic).is_some()
        && match id.stream {
            Stream::Records => true,
            Stream::Progress(transform) | Stream::State(transform) => state.transform_by_id(transform).is_some(),
        };
    // The metadata has reached the entry that made the log, so it has reached the one that deleted it, too.
    let was_known = || storage.made_by(id).is_some_and(|entry| entry <= applied);
    match known {
        true => Standing::Known,
        false if was_known() || storage.is_void(id) => Standing::Deleted,
        false => Standing::Kept,
    }
}

/// Whether a log has seen a later leader epoch than the metadata has given out: then that is an older copy. (To be asked before the
/// broker is registered, which gives out more.)
pub(crate) fn are_ahead(storage: &Storage, state: &State) -> bool {
    storage.logs().into_iter().filter(|id| id.stream == Stream::Records).any(|id| {
        let partition = state.topic_by_id(id.topic).and_then(|topic| topic.partition(id.partition));
        let seen = storage.log(id).and_then(|log| log.latest_epoch());
        partition.is_some_and(|partition| seen > Some(partition.leader_epoch))
    })
}

/// Looks at all logs as the broker starts, before it leads any: notes which ones the metadata knows, puts those out of service that have
/// gone, and tells the operator, by the names that they know, of all that is not as it should be.
pub(crate) fn settle(storage: &Storage, catalog: &Catalog, broker: BrokerId) {
    let logs = storage.logs();
    let (applied, state) = catalog.state_at();
    for id in logs {
        match standing(storage, (applied, &state), id) {
            Standing::Known => storage.note_made(id, applied),
            Standing::Deleted => {}
            Standing::Kept => warn!(
                log = %id,
                "kept, and not served: it belongs to no topic or transform that the metadata knows, and an earlier version made it, so nobody \
                 can tell whether that is for being deleted. If it was deleted, stop the broker and remove its directory below logs/. If \
                 catalog/ is an older copy, stop the broker before topics are created, put the newest one back, and remove METADATA"
            ),
        }
    }
    miss(storage, &state, broker);
    for (id, error) in storage.out_of_service() {
        let is_of_place = matches!(&*error, OpenError::Misplaced { .. } | OpenError::Moved { .. });
        let error = OpenLogError::OutOfService { id, source: error };
        match (state.topic_by_id(id.topic), standing(storage, (applied, &state), id)) {
            (Some(topic), _) => {
                error!(topic = %topic.name, partition = %id.partition, stream = %id.stream, "out of service: {error}");
            }
            (None, Standing::Deleted) => warn!("{error}. Its topic was deleted, and so is the log now"),
            (None, _) if is_of_place => warn!("{error}"),
            (None, _) => {}
        }
    }
}

/// Puts logs out of service that are not there and had been made: they do not begin empty.
///
/// The others do. Most of them are of topics that were created in the moment of a crash, and had nothing yet; of one that this broker
/// has led before, that is told.
fn miss(storage: &Storage, state: &State, broker: BrokerId) {
    let (there, made_through) = (storage.logs(), storage.made_through());
    for topic in state.topics.values() {
        for (index, partition) in (0..).zip(&topic.partitions) {
            let log = LogId::records(topic.id, PartitionId(index));
            if !partition.replicas.contains(&broker) || there.binary_search(&log).is_ok() {
                continue;
            }
            if made_through > 0 && partition.made_by <= made_through {
                // A partition that an earlier version made is older than the note.
                storage.miss(log, partition.made_by.max(1));
            } else if partition.leader == Some(broker) && partition.leader_epoch > LeaderEpoch(0) {
                error!(
                    topic = %topic.name, partition = index, log = %log,
                    "the log is not there and begins empty. Had it records, they are lost: stop the broker and put its directory back from a copy"
                );
            }
        }
    }
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
