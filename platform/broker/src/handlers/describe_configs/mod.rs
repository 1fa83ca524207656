//! DescribeConfigs: the settings of topics and of this broker, each with where its value is from.

mod known;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use millstream_model::TopicConfig;
use millstream_protocol::{
    ErrorCode,
    codec::STRING_BYTES_MAX,
    messages::configs::{
        DescribeConfigsEntry, DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResponse,
        DescribeConfigsResult, DescribeConfigsSynonym, RESOURCE_BROKER, RESOURCE_TOPIC, SOURCE_DEFAULT, SOURCE_TOPIC,
    },
};

use self::known::{OfBroker, OfTopic, broker_settings, topic_setting};
use crate::{
    errors::{Messages, WireError},
    readable::no_topic,
    shared::Shared,
};

/// The first version whose strings may be longer than [`STRING_BYTES_MAX`].
const VERSION_LONG_STRINGS: i16 = 4;
/// Most bytes of names, values and explanations in one answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

pub(crate) fn handle(shared: &Arc<Shared>, version: i16, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let (mut messages, mut named) = (Messages::new(), HashSet::new());
    let defaults = TopicConfig::default().pairs().map(|(name, value, _)| (name, value)).collect();
    let synonyms = request.include_synonyms.then_some(&defaults);
    let asked = Asked { synonyms, documentation: request.include_documentation };
    let mut left = ANSWER_BYTES_MAX;
    let mut results = Vec::new();
    for resource in request.resources {
        // What is named again is answered once: a small request could have a topic's settings told a thousand times.
        if !named.insert((resource.resource_type, resource.resource_name.clone())) {
            continue;
        }
        let configs = entries(shared, &resource, asked).and_then(|configs| {
            let bytes: usize = configs.iter().map(bytes).sum();
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
            result.configs.iter_mut().for_each(leave_out_long_values);
        }
        results.push(result);
    }
    DescribeConfigsResponse { results, ..Default::default() }
}

/// What is asked for beside values.
#[derive(Clone, Copy)]
struct Asked<'a> {
    /// If so, what a topic has of each setting that is told nothing.
    synonyms: Option<&'a HashMap<String, Option<String>>>,
    documentation: bool,
}

fn bytes(entry: &DescribeConfigsEntry) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let synonyms: usize = entry.synonyms.iter().map(|synonym| synonym.name.len() + text(&synonym.value)).sum();
    entry.name.len() + text(&entry.value) + text(&entry.documentation) + synonyms
}

/// A value that the version has no room for is told as one that may not be told.
fn leave_out_long_values(entry: &mut DescribeConfigsEntry) {
    let is_long = |value: &Option<String>| value.as_ref().is_some_and(|value| value.len() > STRING_BYTES_MAX);
    if is_long(&entry.value) {
        entry.value = None;
        entry.is_sensitive = true;
    }
    for synonym in entry.synonyms.iter_mut().filter(|synonym| is_long(&synonym.value)) {
        synonym.value = None;
    }
}

fn entries(
    shared: &Shared,
    resource: &DescribeConfigsResource,
    asked: Asked<'_>,
) -> Result<Vec<DescribeConfigsEntry>, WireError> {
    let name = resource.resource_name.as_str();
    // To name none asks for all, as in Kafka's brokers.
    let keys = resource.configuration_keys.as_ref().filter(|keys| !keys.is_empty());
    let is_wanted = |key: &str| keys.is_none_or(|keys| keys.iter().any(|wanted| wanted == key));
    match resource.resource_type {
        RESOURCE_TOPIC => {
            let state = shared.catalog.state();
            let topic = state.topic(name).ok_or_else(|| no_topic(name))?;
            let wanted = topic.config.pairs().filter(|(key, ..)| is_wanted(key));
            Ok(wanted.map(|(key, value, is_default)| of_topic(key, value, is_default, asked)).collect())
        }
        // Of all brokers, settings that are changed while they run: there are none.
        RESOURCE_BROKER if name.is_empty() => Ok(Vec::new()),
        RESOURCE_BROKER if name == shared.options.id.to_string() => {
            let wanted = broker_settings(shared).into_iter().filter(|setting| is_wanted(setting.name));
            Ok(wanted.map(|setting| of_broker(setting, asked)).collect())
        }
        RESOURCE_BROKER => {
            let id = shared.options.id;
            Err(WireError::new(ErrorCode::InvalidRequest, format!("this is broker {id}, not {name:?}")))
        }
        other => {
            let message = format!("resources of type {other} have no settings here: 2 is a topic, 4 a broker");
            Err(WireError::new(ErrorCode::InvalidRequest, message))
        }
    }
}

/// A topic's setting: its own value, or the one that every topic has which is told nothing.
fn of_topic(key: String, value: Option<String>, is_default: bool, asked: Asked<'_>) -> DescribeConfigsEntry {
    let OfTopic { kind, broker, documentation, .. } = topic_setting(&key);
    let mut synonyms = Vec::new();
    if let Some(defaults) = asked.synonyms {
        if !is_default {
            synonyms.push(DescribeConfigsSynonym { name: key.clone(), value: value.clone(), source: SOURCE_TOPIC });
        }
        if let Some(broker) = broker {
            synonyms.push(DescribeConfigsSynonym {
                name: (*broker).to_owned(),
                value: defaults.get(&key).cloned().flatten(),
                source: SOURCE_DEFAULT,
            });
        }
    }
    DescribeConfigsEntry {
        value,
        name: key,
        config_source: if is_default { SOURCE_DEFAULT } else { SOURCE_TOPIC },
        synonyms,
        config_type: *kind as i8,
        documentation: asked.documentation.then(|| (*documentation).to_owned()),
        ..Default::default()
    }
}

/// A setting of the broker: changed where it is started, and not by clients.
fn of_broker(setting: OfBroker, asked: Asked<'_>) -> DescribeConfigsEntry {
    let source = setting.source();
    let mut synonyms = Vec::new();
    if asked.synonyms.is_some() {
        let mut add = |value: &str, source| {
            let (name, value) = (setting.name.to_owned(), Some(value.to_owned()));
            synonyms.push(DescribeConfigsSynonym { name, value, source });
        };
        if source != SOURCE_DEFAULT {
            add(&setting.value, source);
        }
        if let Some(default) = &setting.default {
            add(default, SOURCE_DEFAULT);
        }
    }
    DescribeConfigsEntry {
        name: setting.name.to_owned(),
        value: Some(setting.value),
        read_only: true,
        config_source: source,
        synonyms,
        config_type: setting.kind as i8,
        documentation: asked.documentation.then(|| setting.documentation.to_owned()),
        ..Default::default()
    }
}
