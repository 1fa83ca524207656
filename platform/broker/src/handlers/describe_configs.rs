//! DescribeConfigs: the settings of topics; of brokers, the ones that clients ask about.

use std::sync::Arc;

use millstream_protocol::{
    ErrorCode,
    messages::configs::{
        DescribeConfigsEntry, DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResponse,
        DescribeConfigsResult, RESOURCE_BROKER, RESOURCE_TOPIC, SOURCE_DEFAULT, SOURCE_STATIC_BROKER, SOURCE_TOPIC,
    },
};

use crate::{errors::WireError, shared::Shared};

pub(crate) fn handle(shared: &Arc<Shared>, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let results = request.resources.into_iter().map(|resource| {
        let mut result = DescribeConfigsResult {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            ..Default::default()
        };
        match entries(shared, &resource) {
            Ok(configs) => result.configs = configs,
            Err(error) => {
                result.error_code = error.code;
                result.error_message = Some(error.message);
            }
        }
        result
    });
    DescribeConfigsResponse { results: results.collect(), ..Default::default() }
}

fn entries(shared: &Shared, resource: &DescribeConfigsResource) -> Result<Vec<DescribeConfigsEntry>, WireError> {
    let name = resource.resource_name.as_str();
    let all: Vec<_> = match resource.resource_type {
        RESOURCE_TOPIC => {
            let state = shared.catalog.state();
            let topic = state
                .topic(name)
                .ok_or_else(|| WireError::new(ErrorCode::UnknownTopicOrPartition, format!("no topic {name:?}")))?;
            let source = |is_default| if is_default { SOURCE_DEFAULT } else { SOURCE_TOPIC };
            topic.config.pairs().map(|(key, value, is_default)| (key, value, source(is_default))).collect()
        }
        RESOURCE_BROKER => {
            let id = shared.options.id;
            if !name.is_empty() && name != id.to_string() {
                return Err(WireError::new(ErrorCode::InvalidRequest, format!("this is broker {id}, not {name:?}")));
            }
            let listen = format!("PLAINTEXT://{}", shared.address);
            vec![
                ("broker.id".to_owned(), Some(id.to_string()), SOURCE_STATIC_BROKER),
                ("advertised.listeners".to_owned(), Some(listen), SOURCE_STATIC_BROKER),
            ]
        }
        other => {
            let message = format!("resources of type {other} have no settings here: 2 is a topic, 4 a broker");
            return Err(WireError::new(ErrorCode::InvalidRequest, message));
        }
    };
    let wanted = |key: &String| resource.configuration_keys.as_ref().is_none_or(|keys| keys.contains(key));
    let entry = |(name, value, config_source): (String, Option<String>, i8)| DescribeConfigsEntry {
        name,
        value,
        read_only: true,
        config_source,
        ..Default::default()
    };
    Ok(all.into_iter().filter(|(key, ..)| wanted(key)).map(entry).collect())
}
