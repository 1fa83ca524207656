//! What every part of a broker may use.

use std::{net::SocketAddr, sync::Arc};

use millstream_catalog::{Catalog, Command, Outcome, Refused, State, apply};
use millstream_env::{Env, Monotonic};
use millstream_log::Storage;
use millstream_model::{Address, PartitionId, TimestampMs};
use millstream_protocol::ErrorCode;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    BrokerOptions, catch_up::CatchUp, errors::WireError, jobs::Jobs, memory::Memory, metrics::counters::Requests,
    partition::Partition, partitions::Partitions, pools::Modules, producer_ids::ProducerIds, readable::Readable,
    transform::Transforms,
};

/// What every part may use.
pub(crate) struct Shared {
    pub(crate) options: BrokerOptions,
    pub(crate) env: Env,
    pub(crate) storage: Arc<Storage>,
    pub(crate) catalog: Catalog,
    pub(crate) partitions: Partitions,
    pub(crate) modules: Modules,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) transforms: Transforms,
    /// For records at work in modules.
    pub(crate) memory: Memory,
    /// What was asked.
    pub(crate) requests: Requests,
    /// How fast old records are read.
    pub(crate) catch_up: CatchUp,
    /// Unpacking what producers send.
    pub(crate) unpacking: Jobs,
    /// Looking through logs.
    pub(crate) searching: Jobs,
    /// Looking for what topics need not keep.
    pub(crate) retaining: Jobs,
    /// Going over topics that are compacted.
    pub(crate) compacting: Jobs,
    /// Cancelled when the broker stops: nothing more is read, what was asked is answered.
    pub(crate) stop: CancellationToken,
    /// The connections that are served.
    pub(crate) connections: TaskTracker,
    /// Where it listens.
    pub(crate) bound: SocketAddr,
    /// Where clients are told to find this broker.
    pub(crate) address: Address,
    pub(crate) started_at: TimestampMs,
    pub(crate) started: Monotonic,
}

impl Shared {
    /// The partition of a topic (or of a view's topic), if this broker leads it.
    pub(crate) fn led(&self, readable: &Readable, partition: PartitionId) -> Result<Arc<Partition>, WireError> {
        let topic = readable.topic();
        if let Some(led) = self.partitions.find(topic.id, partition) {
            return Ok(led);
        }
        if let Some(damage) = self.partitions.damage(topic.id, partition) {
            return Err(WireError::new(ErrorCode::KafkaStorage, damage));
        }
        let name = readable.name();
        Err(match topic.partition(partition) {
            Some(_) => {
                let message = format!("partition {partition} of {name} is not led by this broker");
                WireError::new(ErrorCode::NotLeaderOrFollower, message)
            }
            None => {
                let count = topic.partition_count();
                let message = format!("{name} has no partition {partition}: it has {count}, numbered from 0");
                WireError::new(ErrorCode::UnknownTopicOrPartition, message)
            }
        })
    }

    /// Refuses what only wants more of a full disk: it would take what is set aside for making room. `logs`: how many it makes.
    pub(crate) fn require_room(&self, logs: u64) -> Result<(), WireError> {
        if self.storage.has_room(logs) {
            return Ok(());
        }
        let lacks = match logs {
            0 => "the disk is full".to_owned(),
            1 => "the disk has no room for another partition".to_owned(),
            _ => format!("the disk has no room for {logs} new partitions"),
        };
        let message = format!(
            "{lacks}: make some, by deleting topics, by having topics keep half or less (retention.ms or retention.bytes, and nothing else \
             with it), or otherwise; then this can be done"
        );
        Err(WireError::new(ErrorCode::KafkaStorage, message))
    }

    /// Proposes what a client wants, if the disk has room for it. Deletions are taken all the same.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, WireError> {
        if !command.makes_room() {
            self.require_room(0)?;
        }
        Ok(self.catalog.propose(command).await?)
    }

    /// Whether the catalog as it stands now would take a command, and what it would be then.
    pub(crate) fn dry_run(&self, command: &Command) -> Result<State, Refused> {
        let mut copy = State::clone(&self.catalog.state());
        apply(&mut copy, u64::MAX, command.clone()).map(|_| copy)
    }

    /// What was found wrong with what a command would make; or, if that is so because of what has changed in the catalog meanwhile, that.
    pub(crate) fn blame(&self, command: &Command, found: Result<(), WireError>) -> Result<(), WireError> {
        if found.is_err() {
            self.dry_run(command)?;
        }
        found
    }
}

#[cfg(test)]
#[path = "full_tests.rs"]
mod full_tests;
