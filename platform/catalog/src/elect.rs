//! Who leads a partition: what a broker's return does to its replicas (as in KIP-966).

use std::collections::BTreeSet;

use millstream_model::{BrokerId, Durability, LeaderEpoch};

use crate::state::{DirectoryId, LastKnown, Partition};

/// A broker that registers a new incarnation.
pub(crate) struct Returned {
    pub(crate) broker: BrokerId,
    /// The data directory that it brings.
    pub(crate) directory: DirectoryId,
    /// The one that it had when it registered before; none if it never did.
    pub(crate) directory_before: Option<DirectoryId>,
    /// Whether its last run ended with everything flushed.
    pub(crate) clean: bool,
}

/// Takes the broker out of what it may no longer claim, takes its leadership, and elects again.
///
/// A leader that lost an unsynced tail in a power cut would write other records at the same (epoch, offset), which no
/// epoch cache can see. So even the same broker leads on only under a new epoch.
pub(crate) fn broker_returned(
    partition: &mut Partition,
    durability: Durability,
    returned: &Returned,
    registered: &BTreeSet<BrokerId>,
) {
    if !partition.replicas.contains(&returned.broker) {
        return;
    }
    let before = partition.clone();
    let same_directory = returned.directory_before.is_none_or(|directory| directory == returned.directory);
    // A tail that only the page cache had may be gone.
    let lost_tail = !returned.clean && durability == Durability::Replicated;
    if !same_directory || lost_tail {
        let directory = returned.directory_before.unwrap_or(returned.directory);
        leave(partition, LastKnown { broker: returned.broker, directory });
    }
    if partition.leader == Some(returned.broker) {
        partition.leader = None;
    }
    if partition.leader.is_none() {
        elect(partition, returned, registered);
    }
    if partition.leader != before.leader || before.leader == Some(returned.broker) {
        partition.leader_epoch = LeaderEpoch(before.leader_epoch.0 + 1);
    }
    if *partition != before {
        partition.partition_epoch = before.partition_epoch + 1;
    }
}

/// Takes a replica out of the ISR and, since it cannot be believed to have all that was committed, the ELR.
fn leave(partition: &mut Partition, who: LastKnown) {
    let was_in = partition.isr.contains(&who.broker) || partition.elr.contains(&who.broker);
    partition.isr.retain(|broker| *broker != who.broker);
    partition.elr.retain(|broker| *broker != who.broker);
    if was_in && partition.isr.is_empty() && partition.elr.is_empty() {
        partition.last_known = vec![who];
    }
}

/// Elects a registered ISR member, else a registered ELR member, else the sole last-known one that returned with its data
/// directory; else nobody.
fn elect(partition: &mut Partition, returned: &Returned, registered: &BTreeSet<BrokerId>) {
    let first_of = |group: &[BrokerId]| {
        partition.replicas.iter().copied().find(|broker| group.contains(broker) && registered.contains(broker))
    };
    if let Some(leader) = first_of(&partition.isr) {
        partition.leader = Some(leader);
    } else if let Some(leader) = first_of(&partition.elr) {
        partition.leader = Some(leader);
        partition.elr.retain(|broker| *broker != leader);
        partition.isr = vec![leader];
    } else if partition.isr.is_empty() && partition.elr.is_empty() {
        let back = LastKnown { broker: returned.broker, directory: returned.directory };
        if partition.last_known == [back] {
            partition.leader = Some(returned.broker);
            partition.isr = vec![returned.broker];
            partition.last_known.clear();
            partition.loss_possible = true;
        }
    }
}
