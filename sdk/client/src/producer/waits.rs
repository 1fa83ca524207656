//! What a producer's records wait for when their broker refuses them for long: said once, not by every partition.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use millstream_env::Monotonic;
use millstream_model::PartitionId;
use parking_lot::Mutex;

use crate::{
    CallError,
    cluster::{Cluster, SILENCE_MAX},
};

/// How many partitions wait for long, by the kind of refusal: of a full disk all say the same.
#[derive(Default)]
pub(super) struct Waits(Mutex<BTreeMap<Option<i16>, usize>>);

/// One partition's wait.
#[derive(Default)]
pub(super) struct Wait {
    since: Option<Monotonic>,
    /// The kind that it is counted under.
    counted: Option<Option<i16>>,
}

impl Wait {
    /// Records were not taken, and are tried again. Said once it takes long, unless it is for the same as another partition's. That a
    /// broker cannot be reached is said elsewhere.
    pub(super) fn goes_on(&mut self, cluster: &Cluster, waits: &Waits, error: &CallError, timeout: Duration) {
        let now = cluster.env.clock.now();
        let waited = now - *self.since.get_or_insert(now);
        let is_told = matches!(error, CallError::Disconnected { .. } | CallError::Unreachable { .. });
        if is_told || waited < SILENCE_MAX || self.counted.is_some() {
            return;
        }
        let kind = error.code().map(|code| code.code());
        self.counted = Some(kind);
        let mut waits = waits.0.lock();
        let waiting = waits.entry(kind).or_default();
        *waiting += 1;
        if *waiting == 1 {
            tracing::warn!("{error}; trying again, for {} s at most", timeout.as_secs());
        }
    }

    /// Nothing waits any more: `taken` says whether for the reason that records were taken again.
    pub(super) fn ends(&mut self, waits: &Waits, topic: &Arc<str>, partition: PartitionId, taken: bool) {
        self.since = None;
        let Some(kind) = self.counted.take() else { return };
        let mut waits = waits.0.lock();
        let Some(waiting) = waits.get_mut(&kind) else { return };
        *waiting -= 1;
        if *waiting == 0 {
            waits.remove(&kind);
            if taken {
                tracing::info!("topic {topic} partition {partition} takes records again");
            }
        }
    }
}
