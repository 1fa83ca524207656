//! DescribeCluster as Kafka's admin clients know it, and ClusterInfo with what an operator wants to see at once.

use millstream_protocol::{
    ErrorCode,
    extension::{Pair, cluster::ClusterInfoResponse},
    messages::{
        cluster::{
            DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse, ENDPOINT_BROKERS,
            ENDPOINT_CONTROLLERS,
        },
        metadata::{CLUSTER_OPERATIONS, operations_if},
    },
};

use crate::shared::Shared;

pub(crate) fn describe(shared: &Shared, request: &DescribeClusterRequest) -> DescribeClusterResponse {
    let refused = |error_code, message: String| DescribeClusterResponse {
        error_code,
        error_message: Some(message),
        ..Default::default()
    };
    match request.endpoint_type {
        ENDPOINT_BROKERS => {}
        ENDPOINT_CONTROLLERS => {
            let message = "this is a broker's address, and controllers have none of their own: ask for brokers";
            return refused(ErrorCode::MismatchedEndpointType, message.into());
        }
        other => {
            let message = format!("{other} is no type of endpoint: 1 asks for brokers");
            return refused(ErrorCode::UnsupportedEndpointType, message);
        }
    }
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
        cluster_authorized_operations: operations_if(request.include_cluster_authorized_operations, CLUSTER_OPERATIONS),
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

#[cfg(test)]
mod tests {
    use millstream_env::sim::World;
    use millstream_protocol::messages::metadata::OPERATIONS_UNKNOWN;

    use super::*;
    use crate::testing::{start, stop};

    #[test]
    fn brokers_are_described_and_no_other_kind_of_endpoint() {
        let world = World::new(1);
        let broker = start(&world);
        let ask = |endpoint_type, include_cluster_authorized_operations| {
            let request =
                DescribeClusterRequest { endpoint_type, include_cluster_authorized_operations, ..Default::default() };
            let answer = describe(broker.shared(), &request);
            // As Kafka's brokers do, also who is refused is told which kind would be answered.
            assert_eq!(answer.endpoint_type, ENDPOINT_BROKERS);
            (answer.error_code, answer.brokers.len(), answer.cluster_authorized_operations)
        };
        assert_eq!(ask(ENDPOINT_BROKERS, false), (ErrorCode::None, 1, OPERATIONS_UNKNOWN));
        // What Kafka's brokers tell who asks one that allows everything.
        assert_eq!(ask(ENDPOINT_BROKERS, true), (ErrorCode::None, 1, 8096));
        assert_eq!(ask(ENDPOINT_CONTROLLERS, true), (ErrorCode::MismatchedEndpointType, 0, OPERATIONS_UNKNOWN));
        assert_eq!(ask(0, true), (ErrorCode::UnsupportedEndpointType, 0, OPERATIONS_UNKNOWN));
        stop(&world, broker);
    }
}
