//! Kafka's messages, in the versions that are served, by family.
//!
//! Names and defaults are Kafka's (`clients/src/main/resources/common/message/*.json`). A field that a version does not
//! have is left out when written and has its default when read.

pub mod api_versions;
pub mod cluster;
pub mod configs;
pub mod fetch;
pub mod groups;
pub mod log_dirs;
pub mod metadata;
pub mod offsets;
pub mod produce;
pub mod producers;
pub mod records;
pub mod topics;
