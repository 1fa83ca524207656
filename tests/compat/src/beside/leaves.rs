//! Answers as their leaves: a path and a value each, so that two brokers' can be compared field by field.

use std::{collections::BTreeMap, fmt::Debug};

use millstream_protocol::ErrorCode;
use serde_json::Value;

/// By path, such as `topics[0].error_code`.
pub type Leaves = BTreeMap<String, String>;

/// Fields that are a broker's own: only whether they are told is compared.
const OWN: &[&str] = &[
    "topic_id",
    "cluster_id",
    "host",
    "port",
    "producer_id",
    "log_append_time_ms",
    "last_timestamp",
    "log_dir",
    "total_bytes",
    "usable_bytes",
    "partition_size",
    "error_message",
    "documentation",
    "batch_index_error_message",
    "bytes",
];

/// What these fields hold where nothing is told.
const NOTHING: &[&str] = &["None", "-1", "\"\"", "00000000-0000-0000-0000-000000000000", "null"];
/// The leaf that says what became of a request, before all of its answer's.
pub const CONNECTION: &str = "connection";
/// Lists whose items have names, and an order that is each broker's own.
const BY_NAME: &str = ".configs[";

/// The leaves of a message by what its `Debug` says, without the names of types.
#[must_use]
pub fn of_message(message: &impl Debug) -> Leaves {
    let text = format!("{message:?}");
    let mut reader = Reader { rest: &text, leaves: Leaves::new() };
    reader.value(String::new());
    masked(by_name(reader.leaves))
}

/// The leaves of a line of JSON.
#[must_use]
pub fn of_json(value: &Value) -> Leaves {
    let mut leaves = Leaves::new();
    walk(value, String::new(), &mut leaves);
    masked(leaves)
}

fn walk(value: &Value, path: String, leaves: &mut Leaves) {
    match value {
        Value::Array(items) => {
            leaves.insert(format!("{path}.count"), items.len().to_string());
            for (at, item) in items.iter().enumerate() {
                walk(item, format!("{path}[{at}]"), leaves);
            }
        }
        Value::Object(fields) => {
            let of_names = format!("{path}[").ends_with(BY_NAME);
            for (name, item) in fields {
                let path = if of_names { format!("{path}[{name}]") } else { format!("{path}.{name}") };
                walk(item, path, leaves);
            }
        }
        other => drop(leaves.insert(path, other.to_string())),
    }
}

fn masked(mut leaves: Leaves) -> Leaves {
    for (path, value) in &mut leaves {
        let field = path.rsplit('.').next().unwrap_or_default();
        if OWN.contains(&field) || field.starts_with("records[") || field.ends_with("leader_epoch") {
            *value = if NOTHING.contains(&value.as_str()) { "not told" } else { "told" }.to_owned();
        }
    }
    leaves
}

/// Items of lists [`BY_NAME`], by their names: `configs[retention.ms].value`.
fn by_name(leaves: Leaves) -> Leaves {
    let named = leaves.iter().filter_map(|(path, name)| {
        let item = path.strip_suffix(".name").filter(|item| item_of(path) == Some(*item))?;
        let (list, _) = item.rsplit_once('[')?;
        Some((item.to_owned(), format!("{list}[{}]", name.trim_matches('"'))))
    });
    let named: BTreeMap<_, _> = named.collect();
    let renamed = leaves.into_iter().filter_map(|(path, value)| {
        // Which are there says how many.
        if path.strip_suffix(".count").is_some_and(|list| format!("{list}[").ends_with(BY_NAME)) {
            return None;
        }
        match item_of(&path).and_then(|item| Some((named.get(item)?, &path[item.len()..]))) {
            Some((_, ".name")) => None,
            Some((item, field)) => Some((format!("{item}{field}"), value)),
            None => Some((path, value)),
        }
    });
    renamed.collect()
}

/// The item of a list [`BY_NAME`] that a path leads through.
fn item_of(path: &str) -> Option<&str> {
    let start = path.find(BY_NAME)?;
    let end = start + path[start..].find(']')?;
    Some(&path[..=end])
}

/// Reads what `#[derive(Debug)]` writes on one line.
struct Reader<'a> {
    rest: &'a str,
    leaves: Leaves,
}

impl<'a> Reader<'a> {
    fn eat(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn until(&mut self, end: usize) -> &'a str {
        let (word, rest) = self.rest.split_at(end.min(self.rest.len()));
        self.rest = rest;
        word
    }

    fn word(&mut self) -> &'a str {
        let end = self.rest.find([' ', '{', '}', '[', ']', '(', ')', ':', ',', '"']);
        self.until(end.unwrap_or(self.rest.len()))
    }

    fn text(&mut self) -> &'a str {
        let mut escaped = false;
        let closes = |c: char| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        };
        let end = self.rest[1..].find(closes).unwrap_or(self.rest.len());
        self.until(end + 2)
    }

    fn value(&mut self, path: String) {
        let word = self.word();
        if self.rest.starts_with('"') {
            // With what is before it: the prefix of bytes.
            let text = self.text().to_owned();
            self.leaves.insert(path, text);
        } else if self.eat(" { ") || self.eat("{") {
            while !(self.eat(" }") || self.eat("}") || self.rest.is_empty()) {
                let name = self.word();
                self.eat(": ");
                self.value(format!("{path}.{name}"));
                self.eat(", ");
            }
        } else if self.eat("(") {
            // Newtypes and `Some` are what they hold.
            self.value(path);
            self.eat(")");
        } else if self.eat("[") {
            let mut count = 0;
            while !(self.eat("]") || self.rest.is_empty()) {
                self.value(format!("{path}[{count}]"));
                count += 1;
                self.eat(", ");
            }
            self.leaves.insert(format!("{path}.count"), count.to_string());
        } else {
            let code = ErrorCode::ALL.iter().find(|code| path.ends_with("error_code") && format!("{code:?}") == word);
            let value = code.map_or_else(|| word.to_owned(), |code| format!("{} {word}", code.code()));
            self.leaves.insert(path, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_model::{BrokerId, PartitionId};
    use millstream_protocol::messages::{metadata::*, topics::*};
    use serde_json::json;

    use super::*;

    fn check(leaves: &Leaves, expected: &[(&str, &str)]) {
        for (path, value) in expected {
            assert_eq!(leaves.get(*path).map(String::as_str), Some(*value), "{path} of {leaves:#?}");
        }
    }

    #[test]
    fn a_messages_fields_are_found_and_what_is_a_brokers_own_is_masked() {
        let partition = MetadataPartition {
            error_code: ErrorCode::LeaderNotAvailable,
            partition_index: PartitionId(3),
            replica_nodes: vec![BrokerId(1), BrokerId(2)],
            ..Default::default()
        };
        let topic =
            MetadataTopic { name: Some("a \"b\", {c}".into()), partitions: vec![partition], ..Default::default() };
        let message = MetadataResponse { topics: vec![topic], cluster_id: Some("mine".into()), ..Default::default() };
        check(
            &of_message(&message),
            &[
                (".topics.count", "1"),
                (".topics[0].name", r#""a \"b\", {c}""#),
                (".topics[0].topic_id", "not told"),
                (".topics[0].partitions[0].error_code", "5 LeaderNotAvailable"),
                (".topics[0].partitions[0].partition_index", "3"),
                (".topics[0].partitions[0].replica_nodes[1]", "2"),
                (".cluster_id", "told"),
                (".error_code", "0 None"),
            ],
        );
    }

    #[test]
    fn settings_are_found_by_their_names_in_whatever_order_they_are_told() {
        let setting = |name: &str, value: &str| CreatableTopicConfigs {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            ..Default::default()
        };
        let told = |settings| {
            let topic = CreatableTopicResult { configs: Some(settings), ..Default::default() };
            of_message(&CreateTopicsResponse { topics: vec![topic], ..Default::default() })
        };
        let leaves = told(vec![setting("retention.ms", "1"), setting("segment.ms", "2")]);
        check(&leaves, &[(".topics[0].configs[retention.ms].value", "\"1\""), (".topics[0].error_code", "0 None")]);
        assert_eq!(leaves, told(vec![setting("segment.ms", "2"), setting("retention.ms", "1")]));
        assert!(
            !leaves.keys().any(|path| path.ends_with("configs.count") || path.ends_with(".ms].name")),
            "{leaves:?}"
        );
    }

    #[test]
    fn lines_of_json_are_taken_apart() {
        let leaves = of_json(&json!({"a": [1, null], "b": {"c": "d"}, "bytes": 7, "configs": {"segment.ms": "1"}}));
        check(&leaves, &[(".a.count", "2"), (".a[1]", "null"), (".b.c", "\"d\""), (".bytes", "told")]);
        check(&leaves, &[(".configs[segment.ms]", "\"1\"")]);
    }
}
