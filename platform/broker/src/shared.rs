//! What every part of a broker may use.

use std::sync::Arc;

use millstream_catalog::{Address, Catalog, Command, Refused, State, apply};
use millstream_env::{Env, Monotonic};
use millstream_log::Storage;
use millstream_model::TimestampMs;

use crate::{
    BrokerOptions, memory::Memory, partitions::Partitions, pools::Modules, producer_ids::ProducerIds,
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
    /// Where clients are told to find this broker.
    pub(crate) address: Address,
    pub(crate) started_at: TimestampMs,
    pub(crate) started: Monotonic,
}

impl Shared {
    /// Whether the catalog as it stands now would take a command.
    pub(crate) fn dry_run(&self, command: &Command) -> Result<(), Refused> {
        let mut copy = State::clone(&self.catalog.state());
        apply(&mut copy, u64::MAX, command.clone()).map(|_| ())
    }
}
