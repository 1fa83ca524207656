//! Values that every floor shares: ids, offsets, epochs, names, addresses, limits, topic configuration and the kinds of modules.
//!
//! Nothing here does I/O, reads a clock or is async. Every id is a newtype, so that two integers of different meaning
//! cannot be exchanged by accident.

mod address;
mod config;
mod digest;
mod ids;
pub mod limits;
mod module;
mod murmur2;
mod names;

pub use address::{Address, AddressError};
pub use config::{
    CleanupPolicy, ConfigError, ConfigKey, ConfigSource, DefaultKind, Durability, Given, PARTITIONER,
    PARTITIONER_PARAM, PartitionerEnforce, Ratio, TOPIC_SETTINGS, TimestampType, TopicConfig, TopicDefaults,
};
pub use digest::{Digest, DigestError};
pub use ids::{
    BrokerId, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, RoutingEpoch, Sequence, TimestampMs,
    TopicId, TopicPartition, TransformId, ViewId,
};
pub use module::{ModuleKind, Needs};
pub use murmur2::{key_partition, murmur2};
pub use names::{ModuleRef, ModuleVersion, Name, NameError, TopicName};
