//! Settings under Kafka's names: in the table `[kafka]` of the configuration file, in the environment, and as `--set NAME=VALUE`.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt::Display,
    str::FromStr,
};

use millstream_broker::NewTopics;
use millstream_model::{ConfigError, TOPIC_SETTINGS, TopicDefaults, limits::PARTITIONS_MAX};
use serde_json::Value;

use super::settings::{Entry, Form, Origin, Reader, of_text, suggest, variable};
use crate::values::Pair;

/// What they say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kafka {
    pub(crate) new_topics: NewTopics,
    /// What topics have that they are not given, by their names for it.
    pub(crate) topic_defaults: BTreeMap<String, String>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
enum Setting {
    /// Of the broker itself.
    Own(&'static Own),
    /// A default of topics' settings, by the broker's name for it.
    Default(&'static str),
    /// Another name for one of the latter, which takes another unit, and is in force where that is not given.
    InUnits(&'static InUnits),
}

#[derive(Debug)]
struct Own {
    name: &'static str,
    /// Takes a value, or says what is expected.
    set: fn(&mut NewTopics, &str) -> Result<(), String>,
    show: fn(&NewTopics) -> Value,
}

#[derive(Debug)]
struct InUnits {
    name: &'static str,
    millis: i64,
    of: &'static str,
    /// What a person is to give.
    takes: &'static str,
}

static OWN: [Own; 3] = [
    Own {
        name: "num.partitions",
        set: |to, text| number(text, PARTITIONS_MAX).map(|partitions| to.partitions = partitions),
        show: |of| of.partitions.into(),
    },
    Own {
        name: "default.replication.factor",
        set: |to, text| number(text, i16::MAX).map(|replicas| to.replication_factor = replicas),
        show: |of| of.replication_factor.into(),
    },
    Own {
        name: "auto.create.topics.enable",
        set: |to, text| truth(text).map(|enabled| to.made_when_asked_for = enabled),
        show: |of| of.made_when_asked_for.into(),
    },
];

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// The stronger of two for the same comes first.
static IN_UNITS: [InUnits; 3] = [
    InUnits {
        name: "log.retention.minutes",
        millis: MINUTE_MS,
        of: "log.retention.ms",
        takes: "minutes, or -1 (for ever)",
    },
    InUnits { name: "log.retention.hours", millis: HOUR_MS, of: "log.retention.ms", takes: "hours, or -1 (for ever)" },
    InUnits { name: "log.roll.hours", millis: HOUR_MS, of: "log.roll.ms", takes: "hours, 1 or more" },
];

/// All of them. What is in other units comes behind what it is another name for.
fn settings() -> impl Iterator<Item = Setting> {
    let defaults = TOPIC_SETTINGS.iter().filter_map(|setting| setting.broker).map(Setting::Default);
    OWN.iter().map(Setting::Own).chain(defaults).chain(IN_UNITS.iter().map(Setting::InUnits))
}

impl Setting {
    fn name(self) -> &'static str {
        match self {
            Self::Own(own) => own.name,
            Self::Default(name) => name,
            Self::InUnits(units) => units.name,
        }
    }

    /// Takes a value, or says what is expected.
    fn set(self, to: &mut Kafka, text: &str) -> Result<(), String> {
        match self {
            Self::Own(own) => (own.set)(&mut to.new_topics, text),
            Self::Default(name) => {
                to.topic_defaults.extend(default(name, text)?);
                Ok(())
            }
            Self::InUnits(units) => {
                let expected = || format!("expected {}", units.takes);
                let millis = match text.parse::<i64>().map_err(|_| expected())? {
                    -1 => -1,
                    count => count.checked_mul(units.millis).filter(|_| count >= 0).ok_or_else(expected)?,
                };
                let given = default(units.of, &millis.to_string()).map_err(|_| expected())?;
                for (key, value) in given {
                    to.topic_defaults.entry(key).or_insert(value);
                }
                Ok(())
            }
        }
    }

    /// Its value, where it is not as in Kafka; of the broker's own always.
    fn show(self, of: &Kafka, given: Option<&str>) -> Option<Value> {
        match self {
            Self::Own(own) => Some((own.show)(&of.new_topics)),
            Self::Default(_) | Self::InUnits(_) => given.map(Into::into),
        }
    }
}

/// One default of topics' settings, by its name there.
fn default(name: &'static str, text: &str) -> Result<BTreeMap<String, String>, String> {
    TopicDefaults::part([(name, text)]).map_err(|error| match error {
        ConfigError::Value { takes, .. } => format!("expected {takes}"),
        ConfigError::NotBuilt { takes, .. } => format!("this version takes {takes}"),
        other => other.to_string(),
    })
}

fn number<N: FromStr + PartialOrd + From<u8> + Display>(text: &str, max: N) -> Result<N, String> {
    let number = text.parse().ok().filter(|number| N::from(1) <= *number && *number <= max);
    number.ok_or_else(|| format!("expected a number from 1 to {max}"))
}

fn truth(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "expected true or false".to_owned())
}

/// All names.
pub(super) fn names() -> Vec<&'static str> {
    settings().map(Setting::name).collect()
}

/// Settings of Kafka's that have names of their own here.
static ELSEWHERE: [(&str, &str); 9] = [
    ("log.dirs", "data-dir"),
    ("log.dir", "data-dir"),
    ("listeners", "listen"),
    ("advertised.listeners", "advertise"),
    ("broker.id", "node-id"),
    ("node.id", "node-id"),
    ("log.retention.check.interval.ms", "retention-check-ms"),
    ("log.cleaner.backoff.ms", "compaction-check-ms"),
    ("ssl.client.auth", "tls-client-auth"),
];

/// Why there is no such name.
fn unknown(name: &str) -> String {
    if let Some((_, ours)) = ELSEWHERE.iter().find(|(kafkas, _)| *kafkas == name) {
        return format!("there is no {name} here: it is the setting {ours} (`millstream serve --help`)");
    }
    match suggest(name, names().into_iter()) {
        Some(known) => format!("there is no {name} here; did you mean {known}?"),
        None => format!("there is no {name} here; of Kafka's settings there are {}", names().join(", ")),
    }
}

/// What is in force: `set`, the last of a name, before the environment before the file before the defaults.
pub(super) fn resolve(reader: &mut Reader<'_>, set: &[OsString]) -> Kafka {
    let of_file = std::mem::take(&mut reader.file.kafka);
    for Entry { name, key_at, .. } in of_file.iter().filter(|entry| !names().contains(&entry.name.as_str())) {
        reader.mistakes.add(Some(Origin::File(key_at.clone())), unknown(name));
    }
    let set: Vec<Pair> = set.iter().filter_map(|given| pair(reader, given)).collect();
    let mut resolved = Kafka::default();
    for setting in settings() {
        let name = setting.name();
        let parse = of_text(|text: &str| setting.set(&mut Kafka::default(), text).map(|()| text.to_owned()));
        let mut taken: Option<(String, Origin)> = None;
        for entry in of_file.iter().filter(|entry| entry.name == name) {
            reader.offer_entry(&mut taken, entry, Form::Any, &parse);
        }
        let variable = variable(name);
        if let Some(value) = (reader.environment)(&variable) {
            reader.offer(&mut taken, Origin::Environment(variable), &value, &parse);
        }
        for Pair { value, .. } in set.iter().filter(|pair| pair.name == name) {
            reader.offer(&mut taken, Origin::Flag(format!("--set {name}")), OsStr::new(value), &parse);
        }
        let (given, origin) = taken.map_or((None, Origin::Default), |(value, origin)| (Some(value), origin));
        if let Some(value) = &given {
            // It was taken just before.
            let _ = setting.set(&mut resolved, value);
        }
        if let Some(shown) = setting.show(&resolved, given.as_deref()) {
            reader.note(name, shown, &origin);
        }
    }
    resolved
}

/// `NAME=VALUE` of a name that there is.
fn pair(reader: &mut Reader<'_>, given: &OsStr) -> Option<Pair> {
    let at = || Some(Origin::Flag("--set".into()));
    match given.to_str().and_then(|text| text.parse::<Pair>().ok()) {
        Some(pair) if names().contains(&pair.name.as_str()) => Some(pair),
        Some(Pair { name, .. }) => {
            reader.mistakes.add(at(), unknown(&name));
            None
        }
        None => {
            reader.mistakes.add(at(), format!("{given:?}: expected NAME=VALUE"));
            None
        }
    }
}
