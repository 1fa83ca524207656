//! One handler per request, one file per family.

pub(crate) mod alter_configs;
pub(crate) mod alter_defaults;
mod change;
pub(crate) mod cluster;
pub(crate) mod create_partitions;
pub(crate) mod create_topics;
pub(crate) mod delete_records;
pub(crate) mod delete_topics;
pub(crate) mod describe_configs;
pub(crate) mod describe_log_dirs;
pub(crate) mod describe_producers;
pub(crate) mod describe_topic_partitions;
pub(crate) mod fetch;
pub(crate) mod find_coordinator;
pub(crate) mod init_producer_id;
pub(crate) mod list_offsets;
pub(crate) mod metadata;
pub(crate) mod modules;
pub(crate) mod offset_for_leader_epoch;
pub(crate) mod produce;
pub(crate) mod routing;
pub(crate) mod transforms;
pub(crate) mod views;
mod wire;
