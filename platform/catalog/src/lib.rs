//! Cluster metadata: commands, apply, the agreed log and its projection.
//!
//! - [`State`] is what is agreed on: pure data.
//! - [`Command`] is a change of it; [`apply`] makes the change, or refuses it ([`Refused`]). Pure and deterministic.
//! - [`Catalog`] is the shell: it puts commands through the agreed log and publishes the state that results.
//!
//! The rules of registration, epochs and election are those of KIP-966.

mod apply;
mod catalog;
mod command;
mod disk;
mod elect;
mod projection;
mod raft;
mod refused;
mod state;

pub use apply::{
    CHAIN_MAX, CLUSTER_PARTITIONS_MAX, Outcome, PRODUCER_IDS_BLOCK, ROUTINGS_MAX, SKIPS_MAX, TRANSFORM_TOPICS_MAX,
    apply, check_assignment,
};
pub use catalog::{Catalog, CatalogOptions, FoundCatalog, OpenError, ProposeError};
pub use command::{COMMAND_BYTES_MAX, COMMAND_VERSION, Command, CommandError, FAILURE_BYTES_MAX, Reporter};
pub use disk::FileError;
pub use projection::digest;
pub use refused::Refused;
pub use state::{
    Broker, BrokerEpoch, ClusterId, Declaration, DirectoryId, Incarnation, LastKnown, Module, Named, OnError,
    Partition, RecordAt, Routing, StartAt, State, Topic, Transform, TransformState, View,
};
