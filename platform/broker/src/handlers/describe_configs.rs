//! DescribeConfigs: the settings of topics; of brokers, the ones that clients ask about.

use std::{collections::HashSet, sync::Arc};

use millstream_protocol::{
    ErrorCode,
    codec::STRING_BYTES_MAX,
    messages::configs::{
        DescribeConfigsEntry, DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResponse,
        DescribeConfigsResult, RESOURCE_BROKER, RESOURCE_TOPIC, SOURCE_DEFAULT, SOURCE_STATIC_BROKER, SOURCE_TOPIC,
    },
};

use crate::{
    errors::{Messages, WireError},
    readable::unknown_topic,
    shared::Shared,
};

/// The first version whose strings may be longer than [`STRING_BYTES_MAX`].
const VERSION_LONG_STRINGS: i16 = 4;
/// Most bytes of names and values in one answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

pub(crate) fn handle(shared: &Arc<Shared>, version: i16, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let (mut messages, mut named) = (Messages::new(), HashSet::new());
    let mut left = ANSWER_BYTES_MAX;
    let mut results = Vec::new();
    for resource in request.resources {
        // As in Kafka's brokers, what is named again is answered once.
        if !named.insert((resource.resource_type, resource.resource_name.clone())) {
            continue;
        }
        let configs = entries(shared, &resource).and_then(|configs| {
            let bytes: usize =
                configs.iter().map(|entry| entry.name.len() + entry.value.as_ref().map_or(0, String::len)).sum();
            let full = || WireError::new(ErrorCode::PolicyViolation, "the answer is full: ask for less at a time");
            left = left.checked_sub(bytes).ok_or_else(full)?;
            Ok(configs)
        });
        let mut result = DescribeConfigsResult {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
            ..Default::default()
        };
        match configs {
            Ok(configs) => result.configs = configs,
            Err(error) => {
                result.error_code = error.kafka_code();
                result.error_message = messages.say(&error.message);
            }
        }
        if version < VERSION_LONG_STRINGS {
            result.configs.iter_mut().for_each(leave_out_long_value);
        }
        results.push(result);
    }
    DescribeConfigsResponse { results, ..Default::default() }
}

/// A value that the version has no room for is told as one that may not be told.
fn leave_out_long_value(entry: &mut DescribeConfigsEntry) {
    if entry.value.as_ref().is_some_and(|value| value.len() > STRING_BYTES_MAX) {
        entry.value = None;
        entry.is_sensitive = true;
    }
}

fn entries(shared: &Shared, resource: &DescribeConfigsResource) -> Result<Vec<DescribeConfigsEntry>, WireError> {
    let name = resource.resource_name.as_str();
    let all: Vec<_> = match resource.resource_type {
        RESOURCE_TOPIC => {
            let state = shared.catalog.state();
            let topic = state.topic(name).ok_or_else(|| unknown_topic(name))?;
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
        value,
        read_only: resource.resource_type != RESOURCE_TOPIC,
        name,
        config_source,
        ..Default::default()
    };
    Ok(all.into_iter().filter(|(key, ..)| wanted(key)).map(entry).collect())
}
