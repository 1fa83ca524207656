//! Compaction: of topics that ask for it (`cleanup.policy=compact`) the newest record of each key stays.
//!
//! Every [`BrokerOptions::compaction_check`](crate::BrokerOptions) each led partition of such a topic is looked at in turn, and gone
//! over where there is enough to gain. One pass at a time: it reads and writes as fast as the disk allows, and ends where it is when the
//! broker stops.

use std::{collections::HashSet, sync::Arc};

use millstream_log::CompactError;
use tracing::{info, warn};

use crate::{jobs::Wanted, partition::Partition, shared::Shared};

/// Looks after all led partitions until the broker stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    // Whoever finds a segment damaged has told so, and would find it so again.
    let mut damaged = HashSet::new();
    loop {
        tokio::select! {
            () = shared.env.clock.sleep(shared.options.compaction_check) => {}
            () = shared.stop.cancelled() => return,
        }
        for partition in shared.partitions.all() {
            if shared.stop.is_cancelled() {
                return;
            }
            if !partition.topic().config.cleanup_policy.compacts() || damaged.contains(&partition.id) {
                continue;
            }
            let (id, stop) = (partition.id, shared.stop.clone());
            let job = move |wanted: &Wanted| pass(&partition, &|| !stop.is_cancelled() && !wanted.is_given_up());
            if shared.compacting.run("compact", job).await == Some(Found::Damage) {
                damaged.insert(id);
            }
        }
    }
}

/// Whether a pass found a segment that it cannot read.
#[derive(PartialEq, Eq)]
enum Found {
    Damage,
    None,
}

fn pass(partition: &Partition, go_on: &dyn Fn() -> bool) -> Found {
    let (topic, number) = (&partition.topic().name, partition.id.partition);
    match partition.log.compact(&partition.compaction(), go_on) {
        Ok(None) => {}
        Ok(Some(done)) => info!(
            %topic,
            partition = %number,
            below = %done.reached,
            records_removed = done.records_removed,
            bytes_before = done.bytes_before,
            bytes_after = done.bytes_after,
            "compacted"
        ),
        Err(error @ CompactError::Read(_)) => {
            warn!(%topic, partition = %number, "not compacted until the next start: {error}");
            return Found::Damage;
        }
        Err(error @ CompactError::Write { .. }) => {
            warn!(%topic, partition = %number, "not compacted for now: {error}");
        }
        // The broker stops, and says why.
        Err(CompactError::Failed(_) | CompactError::GivenUp) => {}
    }
    Found::None
}
