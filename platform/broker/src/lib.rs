//! The broker: dispatch, produce, route, fetch, views, transforms and partition owners.
//!
//! A request comes out of a session ([`millstream_protocol`]) in `serve`, goes through `dispatch` to its handler in
//! `handlers`, and from there to the `partition` that owns the log, or through `view` and `pools` to the user's code.
//! `transform` runs beside them. `partitions` and `transform` follow the catalog.

mod broker;
mod catch_up;
mod compaction;
mod dispatch;
mod errors;
mod handlers;
mod jobs;
mod logs;
mod memory;
mod metrics;
mod options;
mod partition;
mod partitions;
mod placement;
mod pools;
mod producer_ids;
mod readable;
mod readiness;
mod reply;
mod retention;
mod rows;
mod serve;
mod shared;
#[cfg(test)]
mod testing;
mod transform;
mod turn;
mod view;

pub use broker::{Broker, BrokerFailed, Prepared, StartError};
pub use metrics::{
    CatalogMetrics, ConnectionMetrics, Limited, LogTotals, MODULES_MAX, MemoryMetrics, Metrics, ModuleMetrics,
    OffsetMetrics, PARTITIONS_MAX, RequestMetrics, TOPICS_MAX, TRANSFORMS_MAX, TopicMetrics, TrafficMetrics,
    TransformMetrics, TransformTotals,
};
pub use millstream_env::Buckets;
pub use millstream_log::JournalMetrics;
pub use millstream_wasm::{CallMetrics, RuntimeMetrics};
pub use options::{BrokerOptions, NewTopics};
pub use readiness::{NotReady, Readiness};
pub use transform::TransformCounts;
