//! The producer ids that this broker hands out, from the blocks that the catalog gives it.

use millstream_catalog::{Command, Outcome, PRODUCER_IDS_BLOCK, Reporter};
use millstream_model::{BrokerId, ProducerId};
use tokio::sync::Mutex;

use crate::{errors::WireError, shared::Shared};

/// Hands out producer ids, each once. What is left of a block when the broker stops is never used.
pub(crate) struct ProducerIds {
    broker: BrokerId,
    /// What is left of the block. Whoever finds it empty asks for the next one, and the others wait for that.
    left: Mutex<std::ops::Range<i64>>,
}

impl ProducerIds {
    pub(crate) fn new(broker: BrokerId) -> Self {
        Self { broker, left: Mutex::new(0..0) }
    }

    /// An id that nobody has.
    pub(crate) async fn next(&self, shared: &Shared) -> Result<ProducerId, WireError> {
        let mut left = self.left.lock().await;
        if left.is_empty() {
            let epoch = shared.catalog.state().brokers.get(&self.broker).map(|broker| broker.epoch).unwrap_or_default();
            let reporter = Reporter { broker: self.broker, epoch };
            if let Outcome::ProducerIds(first) = shared.propose(Command::AllocateProducerIds { reporter }).await? {
                *left = first.0..first.0 + PRODUCER_IDS_BLOCK;
            }
        }
        // The catalog answers that command with a block or a refusal.
        Ok(left.next().map_or(ProducerId::NONE, ProducerId))
    }
}
