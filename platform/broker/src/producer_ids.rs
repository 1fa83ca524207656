//! The producer ids that this broker hands out, from the blocks that the catalog gives it.
//!
//! No block is used that has an id which a log knew at the start, though the metadata has not given it out: metadata and METADATA were
//! put back from one older copy, or a client chose its id itself. (So it is no reason to refuse the start.) Two producers with one id are
//! taken for one, and batches of the second for repetitions. What a log that is out of service knows is not known here.

use std::collections::BTreeSet;

use millstream_catalog::{Command, Outcome, PRODUCER_IDS_BLOCK, Reporter, State};
use millstream_log::Storage;
use millstream_model::{BrokerId, ProducerId};
use millstream_protocol::ErrorCode;
use tokio::sync::Mutex;
use tracing::warn;

use crate::{errors::WireError, shared::Shared};

/// Hands out producer ids, each once. What is left of a block when the broker stops is never used.
pub(crate) struct ProducerIds {
    broker: BrokerId,
    /// What is left of the block. Whoever finds it empty asks for the next one, and the others wait for that.
    left: Mutex<std::ops::Range<i64>>,
    /// Ids that logs know and the metadata had not given out.
    ahead: BTreeSet<ProducerId>,
}

impl ProducerIds {
    /// By what the logs know, and the metadata, as the broker starts.
    pub(crate) fn new(broker: BrokerId, storage: &Storage, state: &State) -> Self {
        let (mut ahead, next) = (BTreeSet::new(), state.next_producer_id);
        storage.each_producer(|id| {
            if id >= next {
                ahead.insert(id);
            }
        });
        if let (Some(first), Some(last)) = (ahead.first(), ahead.last()) {
            warn!(
                "logs know producer ids from {first} to {last}, and the metadata has given out none from {next} on: catalog/ and METADATA are \
                 an older copy, or clients chose their ids themselves. Those are not given out. If it is an older copy, stop the broker and \
                 put the newest one back"
            );
        }
        Self { broker, left: Mutex::new(0..0), ahead }
    }

    /// An id that nobody has.
    pub(crate) async fn next(&self, shared: &Shared) -> Result<ProducerId, WireError> {
        let mut left = self.left.lock().await;
        while left.is_empty() {
            let epoch = shared.catalog.state().brokers.get(&self.broker).map(|broker| broker.epoch).unwrap_or_default();
            let reporter = Reporter { broker: self.broker, epoch };
            // The catalog answers that command with a block or a refusal.
            let Outcome::ProducerIds(first) = shared.propose(Command::AllocateProducerIds { reporter }).await? else {
                return Ok(ProducerId::NONE);
            };
            if self.ahead.range(first..ProducerId(first.0 + PRODUCER_IDS_BLOCK)).next().is_none() {
                // Before one is used: an older copy of the metadata would give them out again, and is known by this.
                let noted = shared.storage.follow(shared.catalog.state_at().0);
                noted.map_err(|error| WireError::new(ErrorCode::KafkaStorage, error))?;
                *left = first.0..first.0 + PRODUCER_IDS_BLOCK;
            }
        }
        Ok(left.next().map_or(ProducerId::NONE, ProducerId))
    }
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::World;

    use crate::testing::{start, stop};

    #[test]
    fn metadata_from_before_ids_were_given_out_is_known_for_an_older_copy() {
        let world = World::new(1);
        let broker = start(&world);
        let shared = broker.shared();
        let before = shared.catalog.state_at().0;
        let id = world.run_until(shared.producer_ids.next(shared)).unwrap();
        let noted = shared.storage.followed();
        assert!(noted > before && noted == shared.catalog.state_at().0, "{noted}, {before} before");
        // The rest of the block is of the same entry.
        let next = world.run_until(shared.producer_ids.next(shared)).unwrap();
        assert_eq!((next.0 - id.0, shared.storage.followed()), (1, noted));
        stop(&world, broker);
    }
}
