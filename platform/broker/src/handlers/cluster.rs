//! DescribeCluster as Kafka's admin clients know it, and ClusterInfo with what an operator wants to see at once.

use millstream_protocol::{
    ErrorCode,
    extension::{Pair, cluster::ClusterInfoResponse},
    messages::cluster::{DescribeClusterBroker, DescribeClusterResponse},
};

use crate::shared::Shared;

pub(crate) fn describe(shared: &Shared) -> DescribeClusterResponse {
    let state = shared.catalog.state();
    let brokers = state.brokers.values().filter_map(|broker| {
        let address = broker.addresses.first()?;
        Some(DescribeClusterBroker {
            broker_id: broker.id,
            host: address.host.clone(),
            port: address.port.into(),
            ..Default::default()
        })
    });
    DescribeClusterResponse {
        cluster_id: state.cluster_id.to_string(),
        controller_id: shared.options.id,
        brokers: brokers.collect(),
        ..Default::default()
    }
}

pub(crate) fn info(shared: &Shared) -> ClusterInfoResponse {
    let state = shared.catalog.state();
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let pair = |name: &str, value: String| Pair { name: name.into(), value };
    ClusterInfoResponse {
        error_code: ErrorCode::None,
        error_message: None,
        cluster_id: state.cluster_id.to_string(),
        broker_id: shared.options.id,
        version: env!("CARGO_PKG_VERSION").into(),
        started_at: shared.started_at,
        topics: count(state.topics.len()),
        partitions: count(state.partition_count()),
        modules: count(state.modules.len()),
        views: count(state.views.len()),
        transforms: count(state.transforms.len()),
        details: vec![
            pair("address", shared.address.to_string()),
            pair("data directory", shared.options.data_dir.display().to_string()),
            pair("up for", format!("{} s", (shared.env.clock.now() - shared.started).as_secs())),
        ],
    }
}
